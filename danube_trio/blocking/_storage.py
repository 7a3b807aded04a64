"""Many topics, and one log behind the same interface, without async.

What each call promises stands at its namesake in `danube_trio`.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Literal, cast

from danube_trio import storage
from danube_trio._doors.surface import at_once, method_arguments_of
from danube_trio._doors.topics import FarStorage, FarTopic
from danube_trio._engine.log.encode import Appendable, as_it_is_now, listed
from danube_trio._engine.read.source import StartPosition
from danube_trio._engine.thread.append_job import Appender
from danube_trio._engine.topics import storage as _topics
from danube_trio.blocking._borrow import Borrower
from danube_trio.blocking._log import Wal
from danube_trio.blocking._read import Reader
from danube_trio.blocking._thread import ThreadDoor
from danube_trio.blocking._words import makes, waits
from danube_trio.config import Durability
from danube_trio.message import StreamMessage


class Storage(FarStorage[ThreadDoor]):
    """Many topics. Made by `open_storage`; any thread may call it. See `danube_trio.Storage`."""

    def topic(self, topic: str) -> AbstractContextManager[Wal]:
        """Use a topic's log: ``with storage.topic(name) as wal:``. It stays open inside."""
        return _TopicBlock(cast("_topics.Use", self.inner.topic(topic)), self.door, self)

    # What is handed in is taken as it is now, and iterated over here.

    @method_arguments_of(_topics.Storage.append_message)
    def append_message(self, topic: str, message: Appendable, **more: Any) -> int:
        """Append one message; see `danube_trio.Storage.append_message`."""
        now = as_it_is_now(message)
        return self.door.call(partial(self.inner.append_message, topic, now, **more))

    @method_arguments_of(_topics.Storage.append_batch)
    def append_batch(self, topic: str, messages: Iterable[Appendable], **more: Any) -> range:
        """Append messages as one atomic batch; see `danube_trio.Storage.append_batch`."""
        now = [as_it_is_now(message) for message in listed(messages)]
        return self.door.call(partial(self.inner.append_batch, topic, now, **more))

    create_reader = makes(_topics.Storage.create_reader, lambda self, made: Reader(made, self.door))
    ack_checkpoint = waits(_topics.Storage.ack_checkpoint)
    flush = waits(_topics.Storage.flush)
    start_offset = waits(_topics.Storage.start_offset)
    current_offset = waits(_topics.Storage.current_offset)
    seal = waits(_topics.Storage.seal)
    take_over = waits(_topics.Storage.take_over)
    delete = waits(_topics.Storage.delete)
    list_topics = waits(_topics.Storage.list_topics)

    def close(self) -> None:
        """Drain and close every topic, as leaving the block does. Any thread. Idempotent."""
        self._keep.close()


class _TopicBlock(Borrower[Wal], FarTopic[ThreadDoor]):
    """The block in which a topic stays open."""

    def _given(self, lent: Appender) -> Wal:
        return TopicWal(lent.wal, self.door, self, lent)


class TopicWal(Wal):
    """A topic's log; the storage closes it."""

    def close(self) -> None:
        """Refused: it is the storage's."""
        raise RuntimeError("a topic's log is closed by its storage: leave the topic's block")


class WalStorage:
    """One open log, behind the interface of many. See `danube_trio.WalStorage`."""

    def __init__(self, wal: Wal, topic: str | None) -> None:
        self._wal = wal
        self.inner: storage.WalStorage = storage.WalStorage(wal.inner, topic)
        self.door: ThreadDoor = wal.door

    @classmethod
    def from_wal(cls, wal: Wal, topic: str | None = None) -> WalStorage:
        """Wrap an open log; see `danube_trio.WalStorage.from_wal`."""
        return cls(wal, topic)

    def __repr__(self) -> str:
        return f"<WalStorage of {self._wal!r}>"

    @property
    def wal(self) -> Wal:
        """The log."""
        return self._wal

    @property
    def topic(self) -> str | None:
        """The topic that it answers to; None: any."""
        return self.inner.topic

    def check(self, topic: str) -> None:
        """Raise ValueError if it does not answer to this topic."""
        self.inner.check(topic)

    # Through the log of this door, whose calls cost less than those of a storage.

    # A log takes more than a storage does, so what a storage takes is written out.

    def append_message(
        self,
        topic: str,
        message: Appendable,
        *,
        durability: Durability | None = None,
        expected_offset: int | None = None,
    ) -> int:
        """Append one message; see `danube_trio.Wal.append`."""
        self.inner.check(topic)
        return self._wal.append(message, durability=durability, expected_offset=expected_offset)

    @method_arguments_of(storage.WalStorage.append_batch)
    def append_batch(self, topic: str, messages: Iterable[Appendable], **more: Any) -> range:
        """Append messages as one atomic batch; see `danube_trio.Wal.append_batch`."""
        self.inner.check(topic)
        return self._wal.append_batch(messages, **more)

    def create_reader(
        self,
        topic: str,
        start: StartPosition,
        *,
        end: int | Literal["current"] | None = None,
        count: int | None = None,
    ) -> Reader[StreamMessage]:
        """A new reader; see `danube_trio.Wal.reader`."""
        self.inner.check(topic)
        return self._wal.reader(start, end=end, count=count)

    claim = at_once(storage.WalStorage.claim)
    ack_checkpoint = waits(storage.WalStorage.ack_checkpoint)
    flush = waits(storage.WalStorage.flush)
    start_offset = waits(storage.WalStorage.start_offset)
    current_offset = waits(storage.WalStorage.current_offset)


def engine_storage(
    found: Storage | WalStorage | storage.PersistentStorage,
) -> storage.PersistentStorage:
    """What the engine's thread uses for a storage of this door, or for any other."""
    return found.inner if isinstance(found, Storage | WalStorage) else found
