"""What an answer of etcd's gateway means: its objects, and the errors behind status codes.

Whatever answers at an endpoint may be something else: a proxy's page, another program's JSON. Two
rules keep nonsense from being read as an answer, above all as "there is nothing":

1. Every answer of etcd's has a header. What has none is not one, with status 200 too.
2. Fields may be missing (the gateway leaves out zeros), but what is there has the right form: it is
   taken apart by `number`, `binary`, `flag`, `objects` and `header_of`, within `understood`.
"""

from __future__ import annotations

import base64
import contextlib
import ssl
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, cast

from danube_trio._core.numbers import number_in
from danube_trio._core.plain import from_json
from danube_trio.errors import AccessDeniedError, StoreError, StoreUnavailableError

if TYPE_CHECKING:
    import httpx2

Json = dict[str, Any]

# gRPC status codes that are not simply "not now".
_INVALID_ARGUMENT, _NOT_FOUND, PERMISSION_DENIED = 3, 5, 7
_OUT_OF_RANGE, _UNAUTHENTICATED = 11, 16
# Refusals of a token, simple or JWT: it ran out, or the users were changed since it was given.
_TOKEN_WORDS = (
    "invalid auth token",
    "revision of auth store is old",
    "revision in header is old",
    "token is expired",
)
# Refusals with "invalid argument" that are about who is asking.
_LOGIN_WORDS = ("user name is empty", "authentication failed", "auth:")


class CompactedError(StoreError):
    """The revision is not kept any more."""


class LeaseGoneError(StoreError):
    """There is no such lease; nothing was done."""


class SilentError(StoreUnavailableError):
    """Nothing was heard for `watch_silence`: no failure, but perhaps the connection is dead."""


class TokenError(StoreError):
    """The token has run out; nothing was done."""


class NotSentError(StoreUnavailableError):
    """There was no connection; nothing was done."""


@contextlib.contextmanager
def understood(where: str) -> Generator[None]:
    """For taking an answer apart: what is not as etcd answers is StoreUnavailableError."""
    try:
        yield
    except (LookupError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise StoreUnavailableError(
            f"{where} does not answer like etcd's gateway: {error!r:.200}"
        ) from error


def number(value: object) -> int:
    """A 64-bit number from 0 on, which JSON has as a string. Raises ValueError."""
    if isinstance(value, str):
        value = number_in(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 63:
        raise ValueError(f"{value!r:.50} is no number")
    return value


def binary(value: object) -> bytes:
    """Bytes, which JSON has in base64. Raises ValueError."""
    if not isinstance(value, str):
        raise ValueError(f"{value!r:.50} is no base64")
    return base64.b64decode(value, validate=True)


def flag(value: object) -> bool:
    """True or False. Raises ValueError."""
    if not isinstance(value, bool):
        raise ValueError(f"{value!r:.50} is neither true nor false")
    return value


def objects(value: object) -> list[Json]:
    """A list of objects. Raises ValueError."""
    if not isinstance(value, list) or not all(isinstance(v, dict) for v in cast("Any", value)):
        raise ValueError(f"{value!r:.50} is no list of objects")
    return cast("list[Json]", value)


def header_of(answer: Json) -> Json:
    """The header that every answer has. Raises ValueError."""
    header = answer.get("header")
    if not isinstance(header, dict):
        raise ValueError("the answer has no header")
    return cast("Json", header)


def refusal(where: str, code: int, message: str) -> Exception:
    """The exception for an answer with this gRPC status code."""
    text = f"etcd at {where}: {message}"
    if any(words in message for words in _TOKEN_WORDS):
        return TokenError(text)
    if "CommonName of client" in message:
        return AccessDeniedError(
            f"{text}. The certificate of this client names a user (CommonName), which etcd does "
            f"not take at its JSON gateway while users are enabled: use one without a CommonName, "
            f"and a username and password"
        )
    if code in (PERMISSION_DENIED, _UNAUTHENTICATED):
        return AccessDeniedError(text)
    if code == _INVALID_ARGUMENT and any(word in message for word in _LOGIN_WORDS):
        return AccessDeniedError(text)
    if code == _INVALID_ARGUMENT and "too large" in message:
        return ValueError(text)
    if code == _OUT_OF_RANGE and "compacted" in message:
        return CompactedError(text)
    if code == _NOT_FOUND and "lease not found" in message:
        return LeaseGoneError(text)
    return StoreUnavailableError(text)


def answer_of(endpoint: str, response: httpx2.Response) -> Json:
    """The object of an answer; raises what it says is wrong."""
    if response.status_code == 200:
        answer = parse(endpoint, response.content)
        with understood(endpoint):
            header_of(answer)
        return answer
    try:
        body = parse(endpoint, response.content)
        with understood(endpoint):
            code = number(body.get("code", 0))
            message = str(body.get("message") or body.get("error"))[:1000]
    except StoreUnavailableError:
        code, message = 0, response.text[:200]
    if code == 0 and response.status_code in (401, 403):  # of a proxy
        code = PERMISSION_DENIED
    raise refusal(endpoint, code, f"{message} (status {response.status_code})")


def parse(endpoint: str, data: bytes) -> Json:
    """The object in these bytes of JSON."""
    try:
        value = from_json(data)
    except ValueError as error:
        raise _not_etcd(endpoint, data) from error
    if not isinstance(value, dict):
        raise _not_etcd(endpoint, data)
    return cast("Json", value)


def _not_etcd(endpoint: str, data: bytes) -> StoreUnavailableError:
    return StoreUnavailableError(f"{endpoint} does not answer like etcd's gateway: {data[:100]!r}")


def certificate_error(error: BaseException | None) -> str | None:
    """What TLS says against one of the two certificates, if that is why."""
    while error is not None:
        if isinstance(error, ssl.SSLError) and (
            isinstance(error, ssl.SSLCertVerificationError) or "ALERT" in (error.reason or "")
        ):
            return error.reason or str(error)
        error = error.__cause__ or error.__context__
    return None
