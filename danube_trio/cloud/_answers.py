"""What the errors of obstore mean, in the errors of this package, and without secrets.

The library reports nearly everything as one class with a long text: the request, the server's
answer, and a dump of its own structures with the URL in it, which for Azure can carry a signature.
The texts are cut and cleaned here, those of the chained causes too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from obstore import exceptions

from danube_trio.errors import (
    AccessDeniedError,
    DanubeError,
    ObjectNotFoundError,
    PreconditionFailedError,
    StoreUnavailableError,
)

LIBRARY_ERRORS = (exceptions.BaseError, OSError, ValueError)
MAX_TEXT = 600
_SIGNATURE = re.compile(r"(?i)\b(sig|signature|x-amz-[\w-]*|token)=[^&\s\"')]+")
_STATUS = re.compile(r"status code: ([0-9]{3})")
_NO_BUCKET = re.compile(r"NoSuchBucket|ContainerNotFound|bucket does not exist", re.IGNORECASE)
# The answer to a completion was lost, and the library asked again; or somebody cleaned up.
_NO_UPLOAD = re.compile(r"NoSuchUpload|upload does not exist", re.IGNORECASE)
# What is wrong with who asks, in answers that do not say so by their status.
_WHO_ASKS = re.compile(
    r"ExpiredToken|InvalidToken|TokenRefreshRequired|AuthorizationHeaderMalformed|PermanentRedirect"
)
# For any other call "not found" can only be the bucket.
_OF_AN_OBJECT = frozenset({"get", "head", "delete"})


def _status(error: BaseException) -> str:
    """The server's answer, where the library has no class for it: lists, and parts of uploads."""
    found = _STATUS.search(str(error)) if isinstance(error, exceptions.GenericError) else None
    return found[1] if found is not None else ""


def scrub(error: BaseException, secrets: Iterable[str]) -> str:
    """Cut the error's own text to what people need, without secrets, and return it."""
    text = " ".join(str(error).split("Debug source:")[0].split())
    for secret in secrets:
        text = text.replace(secret, "***")
    text = _SIGNATURE.sub(r"\1=***", text)[:MAX_TEXT]
    error.args = (text,)
    return text


def is_range_error(error: BaseException) -> bool:
    """Whether it may say that a range begins at or beyond the end of the object."""
    # Some servers ignore the range and send everything, which the library finds out.
    return _status(error) == "416" or re.search(r"\brange\b", str(error)) is not None


def names_no_bucket(error: BaseException) -> bool:
    """Whether what was not found is the bucket."""
    return _NO_BUCKET.search(str(error)) is not None


def meaning(
    error: Exception, *, call: str, url: str, key: str, secrets: Iterable[str]
) -> DanubeError | ValueError:
    """Return what the library's error means for this call."""
    # Before the text is cut.
    status, no_bucket = _status(error), names_no_bucket(error)
    denied = status in ("401", "403") or _WHO_ASKS.search(str(error)) is not None
    no_upload = _NO_UPLOAD.search(str(error)) is not None
    text = f"{url}: {call} of {key!r}: {scrub(error, secrets)}"
    if isinstance(error, FileNotFoundError) or status == "404":
        if no_upload:
            return StoreUnavailableError(text)
        if call in _OF_AN_OBJECT and not no_bucket:
            return ObjectNotFoundError(text)
        return AccessDeniedError(f"{text} (is there such a bucket?)")
    if denied:
        return AccessDeniedError(text)
    match error:
        case exceptions.AlreadyExistsError() | exceptions.PreconditionError():
            return PreconditionFailedError(text)
        case exceptions.PermissionDeniedError() | exceptions.UnauthenticatedError():
            return AccessDeniedError(text)
        case exceptions.InvalidPathError() | ValueError():
            return ValueError(text)
        case _:
            return StoreUnavailableError(text)
