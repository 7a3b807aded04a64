"""What an answer of etcd's gateway means: its objects, and the errors behind status codes."""

from __future__ import annotations

import contextlib
import json
import ssl
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, cast

from danube_trio.errors import AccessDeniedError, StoreError, StoreUnavailableError

if TYPE_CHECKING:
    import httpx2

__all__ = [
    "PERMISSION_DENIED",
    "CompactedError",
    "Json",
    "LeaseGoneError",
    "NotSentError",
    "SilentError",
    "TokenError",
    "answer_of",
    "certificate_error",
    "parse",
    "refusal",
    "understood",
]

Json = dict[str, Any]

# gRPC status codes that are not simply "not now".
_INVALID_ARGUMENT, _NOT_FOUND, PERMISSION_DENIED = 3, 5, 7
_OUT_OF_RANGE, _UNAUTHENTICATED = 11, 16
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
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise StoreUnavailableError(
            f"{where} does not answer like etcd's gateway: {error!r}"
        ) from error


def refusal(where: str, code: int, message: str) -> Exception:
    """The exception for an answer with this gRPC status code."""
    text = f"etcd at {where}: {message}"
    if "invalid auth token" in message or "revision of auth store is old" in message:
        return TokenError(text)
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
        return parse(endpoint, response.content)
    try:
        body = parse(endpoint, response.content)
        with understood(endpoint):
            code = int(body.get("code", 0))
        message = str(body.get("message") or body.get("error"))
    except StoreUnavailableError:
        code, message = 0, response.text[:200]
    if code == 0 and response.status_code in (401, 403):  # of a proxy
        code = PERMISSION_DENIED
    raise refusal(endpoint, code, f"{message} (status {response.status_code})")


def parse(endpoint: str, data: bytes) -> Json:
    try:
        value = json.loads(data)
    except ValueError as error:
        raise StoreUnavailableError(
            f"{endpoint} does not answer like etcd's gateway: {data[:100]!r}"
        ) from error
    if not isinstance(value, dict):
        raise StoreUnavailableError(f"{endpoint} does not answer like etcd's gateway: {value!r}")
    return cast("Json", value)


def certificate_error(error: BaseException | None) -> str | None:
    """What TLS says against one of the two certificates, if that is why."""
    while error is not None:
        if isinstance(error, ssl.SSLError) and (
            isinstance(error, ssl.SSLCertVerificationError) or "ALERT" in (error.reason or "")
        ):
            return error.reason or str(error)
        error = error.__cause__ or error.__context__
    return None
