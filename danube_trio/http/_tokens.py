"""Bearer tokens: who may do what, as a file says it.

One token a line; what follows ``#`` at a line's beginning or after a blank is a comment::

    # name      rights       token                                          streams
    ingest      write        9f0c...                                        orders/eu orders/us
    dashboard   read         sha256:5feceb66ffc86f38d952786c6d696c79...
    operator    admin        4b1d...

- **Rights** are ``read``, ``write`` and ``admin``, joined by commas. ``admin`` is all three, and
  ``write`` alone is not ``read``: who only brings data need not see any.
- **A token** stands there as it is, or as the SHA-256 of it in hexadecimal digits, so that whoever
  reads the file has none.
- **Streams** are paths; with some, the token is for these and for what is below them. Without, it
  is for all, and for what is about the server and not about one stream.

A token is a secret. In memory there are digests only, so no ``repr``, traceback or log has one, and
no error speaks of a line but by its number and its name. What is presented is hashed and compared
with every digest, each time with all of them, and each in constant time: how long it takes says
nothing of which was near.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from hashlib import sha256
from hmac import compare_digest
from typing import Any, Final

import attrs

from danube_trio.http._names import canonical
from danube_trio.http._request import Refusal

RIGHTS: Final = ("read", "write", "admin")
# Shorter ones can be guessed; 16 characters at random are about 96 bits.
MIN_TOKEN_CHARACTERS = 16
# Longest header that is looked at: what is longer is no token, and hashing is not for free.
MAX_TOKEN_CHARACTERS = 512
# Each request is compared with all of them, which takes about a microsecond for each.
MAX_TOKENS = 1000
MAX_PATH_BYTES = 3072

# What a header can carry as a bearer token (RFC 6750).
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")
_NAME = re.compile(r"[A-Za-z0-9._@-]{1,64}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_COMMENT = re.compile(r"(^|\s)#.*")
_BEARER = re.compile(r"bearer +(\S+) *", re.IGNORECASE)


@attrs.frozen
class Token:
    """What a token allows.

    Attributes:
        name: of who has it; in the access log.
        rights: some of `RIGHTS`.
        paths: canonical paths of streams; none: all.
    """

    name: str
    rights: frozenset[str]
    paths: tuple[str, ...]

    def may(self, action: str, path: str) -> bool:
        """Whether it allows this: ``read``, ``write`` or ``admin``.

        `path` is a stream's canonical path; "" is the server itself. What else there may be, as a
        topic that is no stream, only a token for all allows.
        """
        if action not in self.rights:
            return False
        return not self.paths or any(
            path == allowed or path.startswith(f"{allowed}/") for allowed in self.paths
        )


class Tokens:
    """The tokens of a file. An `authenticate` for `open_site` and `open_streams`.

    Args:
        text: what is in the file.

    Raises:
        ValueError: a line is not as it should be; it is named, and its token is not.
    """

    def __init__(self, text: str) -> None:
        self._tokens = _parse(text)

    def __repr__(self) -> str:
        return f"<Tokens, {len(self._tokens)}>"

    def read(self, text: str) -> None:
        """Take these instead of the tokens before, from the next request on.

        Raises:
            ValueError: as on making one; the tokens before stay.
        """
        self._tokens = _parse(text)

    def __call__(self, scope: Any) -> Token | None:
        """What the token of a request allows; None: it has none, or not one of these."""
        presented = _presented(scope["headers"])
        if presented is None:
            return None
        digest = sha256(presented.encode()).hexdigest()
        found: Token | None = None
        for known, token in self._tokens:
            if compare_digest(known, digest):
                found = token
        return found


def _presented(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """The bearer token of a request; None also for several, which nobody sends on purpose."""
    values = [value for name, value in headers if name.lower() == b"authorization"]
    if len(values) != 1 or len(values[0]) > MAX_TOKEN_CHARACTERS:
        return None
    match = _BEARER.fullmatch(values[0].decode("latin-1"))
    return match[1] if match else None


# ---- the file


def _parse(text: str) -> tuple[tuple[str, Token], ...]:
    """The tokens by their digests."""
    found: dict[str, Token] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = _COMMENT.sub("", line).split()
        if not words:
            continue
        digest, token = _line(words, _Fault(number))
        if digest in found:
            other = found[digest].name
            raise _Fault(number)(f"the token of {token.name!r} is that of {other!r}, too")
        if any(token.name == other.name for other in found.values()):
            raise _Fault(number)(f"there is a {token.name!r} already")
        found[digest] = token
    if not found:
        raise ValueError("there is no token in it: write lines of NAME RIGHTS TOKEN [STREAM ...]")
    if len(found) > MAX_TOKENS:
        raise ValueError(f"there are {len(found)} tokens in it, and at most {MAX_TOKENS} may be")
    return tuple(found.items())


@attrs.frozen
class _Fault:
    """Makes errors about a line. They are raised ``from None``: a cause could show the line."""

    number: int

    def __call__(self, what: str) -> ValueError:
        return ValueError(f"line {self.number}: {what}")


def _line(words: list[str], fault: Callable[[str], ValueError]) -> tuple[str, Token]:
    # No word is shown that may be the token: it may stand where another one should.
    if len(words) < 3:
        raise fault("it must be NAME RIGHTS TOKEN, and the streams, if it is not for all")
    name, rights, secret, *paths = words
    if not _NAME.fullmatch(name) or len(name) >= 64:
        raise fault("the name must be of letters, digits and ._@-, fewer than 64")
    found = frozenset(rights.split(","))
    if not found <= set(RIGHTS):
        raise fault(f"the rights of {name!r} must be of read, write and admin, joined by commas")
    if "admin" in found:
        found = frozenset(RIGHTS)
    return _digest(name, secret, fault), Token(name, found, _paths(name, paths, fault))


def _digest(name: str, secret: str, fault: Callable[[str], ValueError]) -> str:
    scheme, colon, digits = secret.partition(":")
    if colon:
        if scheme.lower() != "sha256" or not _DIGEST.fullmatch(digits.lower()):
            raise fault(f"the token of {name!r} must be as it is, or sha256: and 64 digits")
        return digits.lower()
    if not _TOKEN.fullmatch(secret) or len(secret) >= MAX_TOKEN_CHARACTERS:
        raise fault(f"the token of {name!r} has characters that none may have, or too many")
    if len(secret) < MIN_TOKEN_CHARACTERS:
        raise fault(
            f"the token of {name!r} is too short: it must have {MIN_TOKEN_CHARACTERS} characters "
            f"or more, at random, as `openssl rand -hex 24` prints them"
        )
    return sha256(secret.encode()).hexdigest()


def _paths(name: str, paths: list[str], fault: Callable[[str], ValueError]) -> tuple[str, ...]:
    try:
        return tuple(canonical(path.strip("/").encode(), MAX_PATH_BYTES) for path in paths)
    except Refusal as refusal:
        reason = refusal.text
    raise fault(f"a stream of {name!r} cannot be: {reason}")
