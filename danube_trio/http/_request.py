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


_UNKNOWN = "what became of this request is not known"
# What the log says, in words of HTTP: the status, when to try again in seconds, and a text. The
# first that fits.
_SAID: tuple[tuple[type[DanubeError], int, int, str], ...] = (
    (MessageTooLargeError, 413, 0, "the body is larger than the log takes"),
    (OffsetTrimmedError, 410, 0, "what is before this offset's data is not kept any more"),
    (CorruptDataError, 500, 0, "stored data is damaged: see the server's own log"),
    (StoreUnavailableError, 503, 5, f"a store does not answer: {_UNKNOWN}"),
    (FencedError, 503, 5, "another process has this stream now"),
    (LogLockedError, 503, 5, "another process has this stream open"),
    (LogBrokenError, 503, 1, f"a write failed: {_UNKNOWN}"),
    (LogClosedError, 503, 1, "the stream is being closed"),
    (DanubeError, 500, 0, "the log has an error: see its own log"),
)


def refusal_of(error: DanubeError) -> Refusal:
    """What a client is told of an error of the log. Where it happened stays here."""
    _, status, seconds, text = next(said for said in _SAID if isinstance(error, said[0]))
    return Refusal(status, text, {"retry-after": str(seconds)} if seconds else {})
