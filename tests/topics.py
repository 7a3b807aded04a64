"""What the tests of dispatch share: topics with a WAL or segments behind, in memory."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio

from danube_trio import StreamMessage, Wal, WalConfig, WalStorage, open_wal
from danube_trio.dispatch import (
    InMemoryStorage,
    ReliableDispatch,
    ReliableOptions,
    RetentionPolicy,
    Subscription,
    TopicCache,
)
from danube_trio.errors import StoreUnavailableError
from danube_trio.metadata import MemoryMetadata, MetadataStore

TOPIC = "/default/orders"
CURSOR = "/topics/default/orders/subscriptions/billing/danube-trio"
DANUBE_CURSOR = "/topics/default/orders/subscriptions/billing/cursor"
UNTIL_ACK = ReliableOptions(1, RetentionPolicy.RETAIN_UNTIL_ACK)
BODY = bytes(100_000)  # eleven of them fill a segment of 1 MiB


class Metadata(MemoryMetadata):
    """A store that can be out of reach, lose an answer, and be left behind by a dead process.

    Attributes:
        down: no write is done any more.
        lost_answers: how many writes are still done whose answer is lost.
        writes: how many transactions were tried.
        gate: what writes wait for.
    """

    def __init__(self) -> None:
        super().__init__()
        self.down = False
        self.lost_answers = 0
        self.writes = 0
        self.gate: trio.Event | None = None

    async def transact(
        self, expect: Mapping[str, int], *, put: Any = None, delete: Any = ()
    ) -> int | None:
        """As the real one, unless it is told otherwise."""
        self.writes += 1
        if self.gate is not None:
            await self.gate.wait()
        if self.down:
            await trio.lowlevel.checkpoint()
            raise StoreUnavailableError("the metadata store is out of reach")
        revision = await super().transact(expect, put=put, delete=delete)
        if self.lost_answers:
            self.lost_answers -= 1
            raise StoreUnavailableError("the answer was lost")
        return revision

    def left_behind(self) -> Metadata:
        """What a process that is killed now leaves; the old one reaches nothing any more."""
        after = Metadata()
        after._table = self._table
        self.down = True
        return after


@attrs.define(eq=False)
class Backing:
    """Where the topic's messages are; outlives a `ReliableDispatch`."""

    kind: str
    segments: InMemoryStorage
    wal: Wal | None = None

    def dispatch(
        self, metadata: MetadataStore, options: ReliableOptions | None = None, **settings: Any
    ) -> ReliableDispatch:
        """A dispatch of the topic, to be entered."""
        options = options or ReliableOptions()
        cache = TopicCache(self.segments)
        if self.wal is None:
            return ReliableDispatch(TOPIC, options, cache, metadata=metadata, **settings)
        storage = WalStorage.from_wal(self.wal, TOPIC)
        return ReliableDispatch.new_with_persistent(
            TOPIC, options, cache, storage, metadata=metadata, **settings
        )


@asynccontextmanager
async def open_backing(kind: str) -> AsyncGenerator[Backing]:
    """A WAL in memory (``wal``), or segments in memory (``segments``)."""
    if kind == "segments":
        yield Backing(kind, InMemoryStorage())
    else:
        async with open_wal(WalConfig(cache_capacity=1_000_000)) as wal:
            yield Backing(kind, InMemoryStorage(), wal)


def keyed(key: str, payload: bytes = b"") -> StreamMessage:
    """A message with a routing key."""
    return StreamMessage(payload or key.encode(), routing_key=key)


async def store(dispatch: ReliableDispatch, count: int) -> range:
    """Store messages whose payloads are their numbers."""
    first = await dispatch.topic_store.current_offset()
    return await dispatch.store_batch([b"%d" % (first + i) for i in range(count)])


async def settle(subscription: Subscription, count: int) -> list[int]:
    """Acknowledge so many messages; their offsets."""
    offsets: list[int] = []
    for _ in range(count):
        async with subscription.take() as message:
            offsets.append(message.offset)
    return offsets


async def fill(dispatch: ReliableDispatch, count: int) -> None:
    """Store so many large messages."""
    for _ in range(count):
        await dispatch.store_message(BODY)


async def settle_and_save(dispatch: ReliableDispatch, name: str, count: int) -> Subscription:
    """A subscription that acknowledged so many, and said so to the metadata store."""
    subscription = await dispatch.add_subscription(name)
    await settle(subscription, count)
    await subscription.flush()
    return subscription


async def nothing_comes(subscription: Subscription) -> bool:
    """Whether no message can be had, now that everybody else waits."""
    with trio.move_on_after(0) as scope:
        await trio.testing.wait_all_tasks_blocked()
        async with subscription.take() as message:
            message.release()
    return scope.cancelled_caught
