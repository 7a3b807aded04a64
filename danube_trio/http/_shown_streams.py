"""The page beside the streams: these and their subscriptions, as it lists them."""

from __future__ import annotations

from typing import Any

from danube_trio.http._app import Streams, registry_of
from danube_trio.http._asgi import Authenticate
from danube_trio.http._page import Page, ShownStream, ShownSubscription
from danube_trio.http._registry import Registry
from danube_trio.http._stream import Stream
from danube_trio.http._subscription import SubscriptionStatistics
from danube_trio.storage import Storage


def page_of(
    storage: Storage, streams: Streams, authenticate: Authenticate | None, **more: Any
) -> Page:
    """The page of a storage, on trio: ``open_site(storage, page=partial(page_of, storage))``.

    Args:
        more: see `Page`.
    """
    return Page(
        storage,
        ShownStreams(registry_of(streams), streams.config.namespace),
        authenticate=authenticate,
        subscriptions=lambda: map(shown_subscription, streams.subscriptions()),
        **more,
    )


class ShownStreams:
    """A `StreamList` of those that live. Belongs to the trio run that the storage is in."""

    def __init__(self, registry: Registry, namespace: str) -> None:
        self._registry = registry
        self.namespace = namespace

    def shown(self) -> list[ShownStream]:
        """All of them."""
        return [_shown(stream) for stream in self._registry.all() if stream.live]

    def of_topic(self, topic: str) -> ShownStream | None:
        """The one whose data this topic has; None if there is none, or not any more."""
        stream = self._registry.of_topic(topic)
        return _shown(stream) if stream is not None and stream.live else None


def _shown(stream: Stream) -> ShownStream:
    entry = stream.entry
    notes: list[str] = []
    if entry.origin is not None:
        notes.append(f"a fork of /{entry.origin.path}")
    if entry.expires_at is not None:
        notes.append(f"expires {entry.expires_at}")
    elif entry.ttl is not None:
        notes.append(f"expires {entry.ttl} s after its last use")
    return ShownStream(
        path=stream.path,
        topic=stream.topic,
        content_type=entry.content_type,
        closed=stream.seen is not None and stream.seen[1],
        note=", ".join(notes),
    )


def shown_subscription(found: SubscriptionStatistics) -> ShownSubscription:
    """A subscription, as the page shows it."""
    return ShownSubscription(
        name=found.id,
        paths=(found.path, found.streams),
        kind=found.kind,
        pattern=f"/{found.streams}",
        streams=found.links,
        phase=found.phase if found.status == "active" else found.status,
        lag=found.behind,
        failures=found.failures,
        last_error=found.error or "",
    )
