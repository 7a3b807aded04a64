"""Many topics, and one log behind the same interface, as an asyncio program sees them."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, Literal, cast

from anyio.lowlevel import checkpoint

from danube_trio import storage as _engine
from danube_trio._doors.surface import arguments_of
from danube_trio._doors.topics import FarStorage, FarTopic
from danube_trio._engine.log.encode import Appendable, as_it_is_now, listed
from danube_trio._engine.log.wal import Wal
from danube_trio._engine.read.reader import Reader
from danube_trio._engine.read.source import StartPosition
from danube_trio._engine.thread.append_job import Appender
from danube_trio._engine.topics.storage import Storage, Use
from danube_trio.anyio._borrow import LoopBorrower
from danube_trio.anyio._loop import LoopDoor
from danube_trio.anyio._views import ReaderView, WalView, engine_wal
from danube_trio.anyio._words import makes, waits
from danube_trio.message import StreamMessage


class StorageView(FarStorage[LoopDoor], Storage):
    """The view of a storage. The topics' logs and readers are views, too."""

    def topic(self, topic: str) -> AbstractAsyncContextManager[Wal]:
        """See `Storage.topic`."""
        use = cast("Use", self.inner.topic(topic))
        return _TopicBlock(use, self.door, self)

    # What is handed in is taken as it is now, and iterated over here.

    @arguments_of(Storage.append_message)
    async def append_message(self, topic: str, message: Appendable, **more: Any) -> int:
        """See `Storage.append_message`."""
        now = as_it_is_now(message)
        return await self.door.call(partial(self.inner.append_message, topic, now, **more))

    @arguments_of(Storage.append_batch)
    async def append_batch(self, topic: str, messages: Iterable[Appendable], **more: Any) -> range:
        """See `Storage.append_batch`. The messages are iterated over here."""
        now = [as_it_is_now(message) for message in listed(messages)]
        return await self.door.call(partial(self.inner.append_batch, topic, now, **more))

    create_reader = makes(Storage.create_reader, lambda self, made: ReaderView(made, self.door))
    ack_checkpoint = waits(Storage.ack_checkpoint)
    flush = waits(Storage.flush)
    start_offset = waits(Storage.start_offset)
    current_offset = waits(Storage.current_offset)
    seal = waits(Storage.seal)
    take_over = waits(Storage.take_over)
    delete = waits(Storage.delete)
    list_topics = waits(Storage.list_topics)


class _TopicBlock(LoopBorrower[Wal], FarTopic[LoopDoor]):
    """The block in which a topic stays open."""

    def _given(self, lent: Appender) -> Wal:
        return WalView(lent.wal, self.door, self, lent)


class WalStorage(_engine.WalStorage):
    """A `danube_trio.WalStorage`, also of a log that was opened on asyncio. Made by `from_wal`."""

    @classmethod
    def from_wal(cls, wal: Wal, topic: str | None = None) -> _engine.WalStorage:
        """See `danube_trio.WalStorage.from_wal`, whose result it is on trio."""
        make = _engine.WalStorage if engine_wal(wal) is None else cls
        return make(wal, topic)

    # The engine's own methods, but for the checkpoint, which is of the loop that is here.

    async def create_reader(
        self,
        topic: str,
        start: StartPosition,
        *,
        end: int | Literal["current"] | None = None,
        count: int | None = None,
    ) -> Reader[StreamMessage]:
        """See `PersistentStorage`."""
        self.check(topic)
        await checkpoint()
        return self._wal.reader(start, end=end, count=count)

    async def start_offset(self, topic: str) -> int:
        """See `PersistentStorage`."""
        self.check(topic)
        await checkpoint()
        return self._wal.start_offset

    async def current_offset(self, topic: str) -> int:
        """See `PersistentStorage`."""
        self.check(topic)
        await checkpoint()
        return self._wal.next_offset


def engine_storage(storage: _engine.PersistentStorage) -> _engine.PersistentStorage:
    """What the engine's thread uses for a storage of this door, or for any other."""
    if isinstance(storage, StorageView):
        return storage.inner
    if isinstance(storage, _engine.WalStorage):
        inner = engine_wal(storage.wal)
        if inner is not None:
            return _engine.WalStorage(inner, storage.topic)
    return storage
