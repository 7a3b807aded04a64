"""What dispatch asks of the log behind a topic, and a `PersistentStorage` seen that way.

There are two kinds of logs: one that is handed in (a `PersistentStorage`, which is usually a WAL),
and segments in a `SegmentStorage`. Everything else in dispatch sees a `TopicLog` and does not know
which, so acknowledgements, redelivery and retention are the same with both.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Literal, Protocol, runtime_checkable

import attrs

from danube_trio import PersistentStorage, StartPosition, WalStorage
from danube_trio.config import Durability
from danube_trio.dispatch._options import ReliableOptions
from danube_trio.message import StreamMessage
from danube_trio.storage import Storage

Message = bytes | bytearray | memoryview | StreamMessage
End = int | Literal["current"] | None


class MessageReader(Protocol):
    """An async iterator over messages with its own cursor, such as `danube_trio.Reader`."""

    @property
    def cursor(self) -> int:
        """The offset of the next message that it will hand out."""
        ...

    def __aiter__(self) -> MessageReader: ...
    async def __anext__(self) -> StreamMessage: ...
    async def next_batch(self) -> list[StreamMessage]:
        """The next messages, at least one; empty at the reader's end."""
        ...

    async def aclose(self) -> None:
        """Close it; idempotent."""


@runtime_checkable
class KnowsFinish(Protocol):
    """A `MessageReader` that can say whether it is at its end. Not every storage's can."""

    @property
    def finished(self) -> bool:
        """Whether it will hand out nothing more: it is closed, or at its end."""
        ...


class TopicLog(Protocol):
    """The log of one topic."""

    async def append(
        self,
        messages: Sequence[Message],
        *,
        durability: Durability | None = None,
        expected_offset: int | None = None,
    ) -> range:
        """Append messages as one atomic batch; see `danube_trio.Wal.append_batch`."""
        ...

    async def reader(
        self, start: StartPosition, *, end: End = None, count: int | None = None
    ) -> MessageReader:
        """A new reader; see `danube_trio.Wal.reader`."""
        ...

    async def start_offset(self) -> int:
        """The first offset that still exists."""
        ...

    async def current_offset(self) -> int:
        """The offset that the next message will get."""
        ...

    @property
    def reads_durable(self) -> bool:
        """Whether readers give only what is durable."""
        ...

    async def make_durable(self, end: int) -> None:
        """Wait until every message below `end` is durable.

        Raises LogBrokenError, LogClosedError or FencedError when it will not be, or that is not
        known.
        """

    async def free(self, up_to: int) -> None:
        """Messages below `up_to` may go, in whole segments."""


@attrs.frozen
class CacheLimits:
    """How much of a topic a `SegmentStorage` that is not of memory keeps in memory for readers."""

    messages: int
    bytes: int


class SegmentStorage(Protocol):
    """Keeps the segments of topics."""

    def open_topic(
        self, topic: str, options: ReliableOptions, cache: CacheLimits
    ) -> AbstractAsyncContextManager[TopicLog]:
        """The log of a topic, made if it is new. One block at a time for each topic."""
        ...


@runtime_checkable
class KnowsEnd(Protocol):
    """A `TopicLog` that can say where it ends without waiting. Not every storage can."""

    def end_now(self) -> int | None:
        """The offset that the next message will get; None if it is not known at the moment."""
        ...


@runtime_checkable
class KnowsLog(Protocol):
    """A `TopicLog` that can say which log it is. Not every storage can."""

    @property
    def log_id(self) -> str:
        """The same as long as the log exists, and another one for every other log."""
        ...


class PersistentLog:
    """One topic of a `PersistentStorage`, as a `TopicLog`."""

    def __init__(self, storage: PersistentStorage, topic: str) -> None:
        self.storage = storage
        self.topic = topic
        self.log_id = ""  # see `KnowsLog`; "": a storage of another kind
        self._durable_end = 0  # what a storage of another kind has flushed

    @property
    def owner(self) -> object:
        """Who has the messages, whatever stands in front of it."""
        return self.storage.wal if isinstance(self.storage, WalStorage) else self.storage

    @classmethod
    async def opened(cls, storage: PersistentStorage, topic: str) -> PersistentLog:
        """The log of a topic; a topic that the storage refuses is told now. As `start_offset`."""
        log = cls(storage, topic)
        if isinstance(storage, WalStorage):
            storage.claim(topic)
            log.log_id = storage.wal.log_id
        elif isinstance(storage, Storage):
            async with storage.topic(topic) as wal:
                log.log_id = wal.log_id
        await log.start_offset()
        return log

    async def append(
        self,
        messages: Sequence[Message],
        *,
        durability: Durability | None = None,
        expected_offset: int | None = None,
    ) -> range:
        if len(messages) == 1:
            offset = await self.storage.append_message(
                self.topic, messages[0], durability=durability, expected_offset=expected_offset
            )
            return range(offset, offset + 1)
        return await self.storage.append_batch(
            self.topic, messages, durability=durability, expected_offset=expected_offset
        )

    async def reader(
        self, start: StartPosition, *, end: End = None, count: int | None = None
    ) -> MessageReader:
        return await self.storage.create_reader(self.topic, start, end=end, count=count)

    async def start_offset(self) -> int:
        return await self.storage.start_offset(self.topic)

    async def current_offset(self) -> int:
        return await self.storage.current_offset(self.topic)

    def end_now(self) -> int | None:
        """See `KnowsEnd`. A topic of a `Storage` that is not open is not opened for that."""
        if isinstance(self.storage, WalStorage):
            return self.storage.wal.next_offset
        if isinstance(self.storage, Storage):
            found = self.storage.topic_statistics(self.topic)
            return found.next_offset if found is not None else None
        return None

    @property
    def reads_durable(self) -> bool:
        """See `TopicLog`. Of a storage of another kind it is not known."""
        return isinstance(self.storage, Storage) and self.storage.config.wal.visibility == "durable"

    async def make_durable(self, end: int) -> None:
        if isinstance(self.storage, WalStorage):
            await self.storage.wal.wait_durable(end)  # at once, if it is
        elif isinstance(self.storage, Storage):
            async with self.storage.topic(self.topic) as wal:
                await wal.wait_durable(end)
        elif end > self._durable_end:
            # Asked first: a flush says nothing of what was accepted while it ran.
            accepted = await self.storage.current_offset(self.topic)
            await self.storage.flush(self.topic)
            self._durable_end = max(self._durable_end, accepted)

    async def free(self, up_to: int) -> None:
        await self.storage.ack_checkpoint(self.topic, up_to)
