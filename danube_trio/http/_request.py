"""What is asked and what is answered, without the server around it.

A `Request` is whole: its body was read before anything is decided. A `Response` has a body, or a
feed that gives it piece by piece. A `Refusal` is a response that is raised, for people; a `Fault`
is one for programs, with a code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Protocol

import attrs

from danube_trio.errors import (
    AccessDeniedError,
    CorruptDataError,
    DanubeError,
    FencedError,
    LogBrokenError,
    LogClosedError,
    LogLockedError,
    MessageTooLargeError,
    OffsetTrimmedError,
    StoreUnavailableError,
)

TEXT = "text/plain; charset=utf-8"


class Rights(Protocol):
    """What somebody may do. Given by the program's `authenticate`."""

    def may(self, action: str, path: str) -> bool:
        """Whether they may do this: ``read``, ``write`` or ``admin``.

        `path` is the canonical path of a stream, or begins with ``__ds/``. For a pattern of
        streams that are yet to come it is the path that they have in common, maybe "".
        """
        ...


@attrs.frozen(eq=False)
class Request:
    """A request.

    Attributes:
        method: in upper case.
        path: canonical, relative to the place where the streams are mounted.
        query: the values of each parameter, in their order.
        headers: by name in lower case; several of one name are joined by a comma.
        body: all of it.
        base_url: of the place where the streams are mounted, with a slash at the end.
        root: the path of that place, with a slash at both ends.
        rights: of who asks; None when nobody needs any.
    """

    method: str
    path: str
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]
    body: bytes
    base_url: str
    root: str
    rights: Rights | None = None

    def may(self, action: str, path: str) -> bool:
        """Whether who asks may do this."""
        return self.rights is None or self.rights.may(action, path)


class Feed(Protocol):
    """A body that comes piece by piece."""

    async def next(self) -> bytes:
        """The next piece; empty at the end."""
        ...

    def close(self) -> None:
        """Nobody wants the rest. Idempotent."""
        ...


@attrs.frozen(eq=False)
class Response:
    """An answer.

    Attributes:
        status: the HTTP status.
        headers: names in lower case.
        body: all of it, unless there is a `feed`.
    """

    status: int
    headers: Mapping[str, str] = attrs.Factory(dict[str, str])
    body: bytes = b""
    feed: Feed | None = None


class Refusal(Exception):
    """An answer that says no: raised by whoever finds out."""

    def __init__(
        self, status: int, text: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.headers = dict(headers or {})

    def response(self) -> Response:
        """The same as an answer."""
        if not self.text:
            return Response(self.status, self.headers)
        body = f"{self.text}\n".encode()
        return Response(self.status, {"content-type": TEXT, **self.headers}, body)


class Fault(Refusal):
    """A refusal whose body is ``{"error": {"code": ...}}``, as the protocol's own paths have it."""

    def __init__(self, status: int, code: str, text: str = "", **more: object) -> None:
        super().__init__(status, text)
        self.code = code
        self.more = more

    def response(self) -> Response:
        """The same as an answer."""
        said = {"code": self.code, **({"message": self.text} if self.text else {}), **self.more}
        return json_response(self.status, {"error": said}, self.headers)


CODES = {
    403: "FORBIDDEN",
    404: "NOT_FOUND",
    405: "METHOD_NOT_ALLOWED",
    500: "INTERNAL",
    501: "NOT_AVAILABLE",
    503: "UNAVAILABLE",
}


def fault_of(refusal: Refusal) -> Fault:
    """The same for programs."""
    if isinstance(refusal, Fault):
        return refusal
    fault = Fault(refusal.status, CODES.get(refusal.status, "INVALID_REQUEST"), refusal.text)
    fault.headers.update(refusal.headers)
    return fault


def json_response(status: int, value: object, headers: Mapping[str, str] | None = None) -> Response:
    """An answer for programs. Nobody may keep it."""
    body = json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
    said = {"content-type": "application/json", "cache-control": "no-store", **(headers or {})}
    return Response(status, said, body)


# What the log says, in words of HTTP. The first that fits; the seconds are when to try again.
_STATUSES: tuple[tuple[type[DanubeError], int, int], ...] = (
    (MessageTooLargeError, 413, 0),
    (OffsetTrimmedError, 410, 0),
    (CorruptDataError, 500, 0),
    (AccessDeniedError, 500, 0),
    (StoreUnavailableError, 503, 5),
    (FencedError, 503, 5),
    (LogLockedError, 503, 5),
    (LogBrokenError, 503, 1),
    (LogClosedError, 503, 1),
)


def refusal_of(error: DanubeError) -> Refusal:
    """What a client is told of an error of the log. Where it happened stays here."""
    for kind, status, seconds in _STATUSES:
        if isinstance(error, kind):
            again = {"retry-after": str(seconds)} if seconds else {}
            return Refusal(status, _SAID.get(kind, "the log has an error: see its own log"), again)
    return Refusal(500, "the log has an error: see its own log")


_SAID: dict[type[DanubeError], str] = {
    MessageTooLargeError: "the body is larger than the log takes",
    OffsetTrimmedError: "what is before this offset's data is not kept any more",
    CorruptDataError: "stored data is damaged: see the server's own log",
    StoreUnavailableError: "a store does not answer: what became of this request is not known",
    FencedError: "another process has this stream now",
    LogLockedError: "another process has this stream open",
    LogBrokenError: "a write failed: what became of this request is not known",
    LogClosedError: "the stream is being closed",
}
