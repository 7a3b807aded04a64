"""Tokens and signatures of subscriptions, and the keys for both.

**Tokens.** Who works on a wake has a token: it says which subscription, generation and wake it is
for, for what it may be used, and until when, and it is signed (HMAC-SHA256). Nobody keeps a list of
them: whether the wake is still theirs is in the subscription's state. So a token that is too old
only says that somebody slept for a day; a worker that goes on for longer gets a new one with each
heartbeat.

**Signatures.** A webhook is signed with Ed25519, over ``<seconds since 1970>.<body>``, and
everybody may have the public key, as a JWK. Its ``kid`` is the key's own thumbprint (RFC 7638), so
it names that key for ever. The document has a list: the last one signs, all are published, so a key
may be replaced while what it has signed is still on the way.

Both are made when they are needed first, and kept in the metadata store: who can read that can
sign.
"""

from __future__ import annotations

import base64
import hmac
import json
import re
import secrets
import time
from collections.abc import Callable
from hashlib import sha256
from typing import Any, TypeVar

import attrs

from danube_trio._core.documents import compact, parse
from danube_trio.http._request import Refusal
from danube_trio.metadata import MetadataStore

FORMAT = 1
T = TypeVar("T")
# Longer than any lease, which is ten minutes at most, whatever two clocks think.
TOKEN_SECONDS = 86_400
MAX_TOKEN_CHARACTERS = 1024
_BASE64 = re.compile(r"[A-Za-z0-9_-]*", re.ASCII)
INSTALL = "pip install 'danube-trio[webhooks]'"


@attrs.frozen
class Grant:
    """What a token is for.

    Attributes:
        uid: of the subscription.
        use: ``callback`` or ``claim``.
        generation, wake: of the wake.
        until: seconds since 1970.
    """

    uid: str
    use: str
    generation: int
    wake: str
    until: int


@attrs.frozen
class Secret:
    """The document of the key that signs tokens, in base64url."""

    key: str
    format: int = FORMAT


@attrs.frozen
class SigningKey:
    """A key that signs webhooks: Ed25519, in base64url without padding.

    Attributes:
        created_at: seconds since 1970.
    """

    kid: str
    private: str
    public: str
    created_at: float


@attrs.frozen
class SigningKeys:
    """The document of them, the one in use last."""

    keys: tuple[SigningKey, ...]
    format: int = FORMAT


class Keys:
    """Of one service.

    Args:
        metadata: where they are kept.
        root: what their names begin with.
        clock: seconds since 1970.
    """

    def __init__(
        self, metadata: MetadataStore, root: str, clock: Callable[[], float] = time.time
    ) -> None:
        self._metadata = metadata
        self._root = root
        self._clock = clock
        self._secret: bytes | None = None
        self._signing: SigningKeys | None = None

    async def load(self) -> None:
        """Read what there is. ValueError for a document that cannot be read."""
        found = await self._metadata.get(f"{self._root}/secret")
        if found is not None:
            self._secret = from_base64(parse(found.value, Secret, newest=FORMAT).key)
        found = await self._metadata.get(f"{self._root}/keys")
        if found is not None:
            self._signing = parse(found.value, SigningKeys, newest=FORMAT)

    async def _made(self, name: str, document: T, kind: type[T]) -> T:
        """Write a document that is not there; or read the one that is."""
        key = f"{self._root}/{name}"
        if await self._metadata.transact({key: 0}, put={key: compact(document)}) is not None:
            return document
        found = await self._metadata.get(key)
        if found is None:
            raise Refusal(503, "another process changes the keys", {"retry-after": "1"})
        return parse(found.value, kind, newest=FORMAT)

    # ---- tokens

    async def prepare(self) -> None:
        """Have a key for tokens."""
        if self._secret is None:
            made = Secret(to_base64(secrets.token_bytes(32)))
            self._secret = from_base64((await self._made("secret", made, Secret)).key)

    def token(self, uid: str, use: str, generation: int, wake: str) -> str:
        """A token for a wake. `prepare` was called before."""
        assert self._secret is not None
        until = int(self._clock()) + TOKEN_SECONDS
        said = to_base64(compact(Grant(uid, use, generation, wake, until)))
        return f"{said}.{to_base64(self._mac(said))}"

    def grant(self, token: str) -> Grant | None:
        """What a token is for; None if it is none of ours, or too old."""
        said, _, mac = token.partition(".")
        if self._secret is None or len(token) > MAX_TOKEN_CHARACTERS:
            return None
        try:
            if not hmac.compare_digest(self._mac(said), from_base64(mac)):
                return None
        except ValueError:
            return None  # not base64: not ours
        grant = parse(from_base64(said), Grant)
        return grant if self._clock() < grant.until else None

    def _mac(self, said: str) -> bytes:
        assert self._secret is not None
        return hmac.digest(self._secret, said.encode("utf-8", "surrogatepass"), "sha256")

    # ---- signatures

    async def signer(self) -> SigningKey:
        """The key in use.

        Raises:
            Refusal: 501 if that needs a package that is not installed.
        """
        if self._signing is None:
            made = SigningKeys((new_key(self._clock()),))
            self._signing = await self._made("keys", made, SigningKeys)
        return self._signing.keys[-1]

    def published(self) -> list[dict[str, str]]:
        """The public keys, as JWKs."""
        keys = self._signing.keys if self._signing is not None else ()
        more = {"use": "sig", "alg": "EdDSA"}
        return [{**_jwk(key.public), "kid": key.kid, **more} for key in keys]


def new_key(now: float) -> SigningKey:
    """A new key. Raises Refusal (501) without the package for it."""
    private: Any = _ed25519().Ed25519PrivateKey.generate()
    public = to_base64(private.public_key().public_bytes_raw())
    return SigningKey(kid_of(public), to_base64(private.private_bytes_raw()), public, now)


def kid_of(public: str) -> str:
    """The name of a public key."""
    said = json.dumps(_jwk(public), sort_keys=True, separators=(",", ":"))
    return f"ds_{to_base64(sha256(said.encode()).digest())}"


def signature(key: SigningKey, body: bytes, now: float) -> str:
    """The header of a webhook with this body."""
    at = int(now)
    private: Any = _ed25519().Ed25519PrivateKey.from_private_bytes(from_base64(key.private))
    signed = to_base64(private.sign(b"%d.%b" % (at, body)))
    return f"t={at},kid={key.kid},ed25519={signed}"


def _jwk(public: str) -> dict[str, str]:
    """The members that the thumbprint is of."""
    return {"crv": "Ed25519", "kty": "OKP", "x": public}


def _ed25519() -> Any:
    try:
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError:
        raise Refusal(501, f"webhooks need the package cryptography: {INSTALL}") from None
    return ed25519


def to_base64(data: bytes) -> str:
    """base64url, without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def from_base64(text: str) -> bytes:
    """The bytes in it; ValueError for what it is not."""
    if not _BASE64.fullmatch(text):
        raise ValueError("it is no base64url without padding")
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_")
