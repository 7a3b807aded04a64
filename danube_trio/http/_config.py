"""The settings of the HTTP room."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Literal

import attrs

from danube_trio._core.settings import between, whole
from danube_trio.http._targets import Allowed

KIB = 1 << 10
MIB = 1 << 20


def _namespace(_: Any, field: attrs.Attribute[Any], value: Any) -> None:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9_-]{1,100}", value):
        raise ValueError(f"{field.name}={value!r} must be a namespace: letters, digits, _ and -")


def _texts(value: Iterable[str]) -> tuple[str, ...]:
    if isinstance(value, str):
        raise ValueError(f"{value!r} must be a list of texts, not one")
    return tuple(value)


def _origins(_: Any, field: attrs.Attribute[Any], value: tuple[str, ...]) -> None:
    for origin in value:
        if origin != "*" and ("://" not in origin or origin.endswith("/")):
            raise ValueError(
                f"{field.name}: {origin!r} must be an origin, such as https://example.org, or '*'"
            )


def _webhooks(_: Any, field: attrs.Attribute[Any], value: tuple[str, ...]) -> None:
    for pattern in value:
        try:
            Allowed.of(pattern)
        except ValueError as error:
            raise ValueError(f"{field.name}: {error}") from None


def _cache(_: Any, field: attrs.Attribute[Any], value: Any) -> None:
    if value not in ("public", "private", "no-store"):
        raise ValueError(f"{field.name}={value!r} must be public, private or no-store")


@attrs.frozen(kw_only=True)
class HttpConfig:
    """The settings of `open_streams`.

    Attributes:
        namespace: of the topics that hold the streams.
        max_body_bytes: largest body of a request; more is 413. A byte stream's append is one
            message, so it may not be more than the storage's ``max_message_bytes`` either.
        max_bodies_bytes: how much the bodies of all requests under way may take together; then one
            more is 503.
        body_seconds: how long a client may take to send a body; then it is 408.
        max_path_bytes: longest path of a stream, percent-encoded; more is 414.
        max_streams: how many streams there may be; then creating one is 429.
        max_read_bytes: about how many bytes an answer to a read, or one event, has at most.
        max_waiting: how many long-polls and SSE readers there may be together; then one more is
            429.
        long_poll_seconds: how long a long-poll waits for data.
        sse_seconds: after so long an SSE answer ends, and its reader comes again.
        origins: whose pages in a browser may use the streams (CORS); ``"*"`` is anybody's. Requests
            of other pages are 403.
        cache: whether answers to reads may be kept by shared caches (``public``), by the reader's
            own (``private``), or by none.
        webhooks: where webhooks may go: patterns of URLs as ``https://worker.example/*``. A star
            is any text in the host, the port or the path; a pattern without a path has any.
            ``http`` is for this machine only, as ``http://localhost:8000/*``. None by default.
        webhook_seconds: how long a webhook's answer is waited for.
        max_subscriptions: how many subscriptions there may be; then making one is 429.
        max_links: how many links to streams all of them may have together; then making one, or
            naming a stream, is 429. A new stream that a pattern matches is linked in any case.
    """

    namespace: str = attrs.field(default="streams", validator=_namespace)
    max_body_bytes: int = attrs.field(default=8 * MIB, validator=whole(1, 60 * MIB))
    max_bodies_bytes: int = attrs.field(default=256 * MIB, validator=whole(1, 1 << 40))
    body_seconds: float = attrs.field(default=30.0, validator=between(0.01, 86_400))
    max_path_bytes: int = attrs.field(default=1024, validator=whole(1, 3072))
    max_streams: int = attrs.field(default=100_000, validator=whole(1, 10_000_000))
    max_read_bytes: int = attrs.field(default=1 * MIB, validator=whole(1, 64 * MIB))
    max_waiting: int = attrs.field(default=10_000, validator=whole(1, 1_000_000))
    long_poll_seconds: float = attrs.field(default=30.0, validator=between(0.01, 3600))
    sse_seconds: float = attrs.field(default=60.0, validator=between(0.01, 86_400))
    origins: tuple[str, ...] = attrs.field(default=(), converter=_texts, validator=_origins)
    cache: Literal["public", "private", "no-store"] = attrs.field(
        default="private", validator=_cache
    )
    webhooks: tuple[str, ...] = attrs.field(default=(), converter=_texts, validator=_webhooks)
    webhook_seconds: float = attrs.field(default=10.0, validator=between(0.01, 600))
    max_subscriptions: int = attrs.field(default=1000, validator=whole(0, 100_000))
    max_links: int = attrs.field(default=200_000, validator=whole(0, 100_000_000))

    def __attrs_post_init__(self) -> None:
        if self.max_bodies_bytes < self.max_body_bytes:
            raise ValueError(
                f"max_bodies_bytes={self.max_bodies_bytes} must be at least max_body_bytes, which "
                f"is {self.max_body_bytes}"
            )
