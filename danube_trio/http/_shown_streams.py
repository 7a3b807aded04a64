"""The streams and their subscriptions as the page lists them."""

from __future__ import annotations

from collections.abc import Iterable

from danube_trio.http._page import ShownStream, ShownSubscription
from danube_trio.http._registry import Registry
from danube_trio.http._stream import Stream
from danube_trio.http._subscription import SubscriptionStatistics


class ShownStreams:
    """A `StreamList` of those that live. Belongs to the trio run that the storage is in."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def shown(self) -> list[ShownStream]:
        """All of them."""
        return [_shown(stream) for stream in self._registry.all() if stream.live]

    def of_topic(self, topic: str) -> ShownStream | None:
        """The one whose data this topic has; None if there is none, or not any more."""
        stream = self._registry.of_topic(topic)
        return _shown(stream) if stream is not None and stream.live else None


def _shown(stream: Stream) -> ShownStream:
    entry = stream.entry
    return ShownStream(
        path=f"/{stream.path}",
        topic=stream.topic,
        content_type=entry.content_type,
        closed=stream.seen is not None and stream.seen[1],
        note=f"a fork of /{entry.origin.path}" if entry.origin is not None else "",
    )


def shown_subscriptions(found: Iterable[SubscriptionStatistics]) -> list[ShownSubscription]:
    """Subscriptions for the page, of which `Streams.subscriptions` has told."""
    return [
        ShownSubscription(
            name=each.id,
            kind=each.type,
            streams=f"/{each.streams}",
            phase=each.phase if each.status == "active" else each.status,
            lag=each.behind,
            failures=each.failures,
            last_error=each.error or "",
        )
        for each in found
    ]
