"""A log as an asyncio program sees it: the engine's own classes, whose calls cross to its thread.

A view shares all state with the object that the engine made, so marks and `repr` are simply there.
Every call that would touch more than a mark is overridden here (a test compares the two lists).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from typing import Any, Generic, Literal, TypeVar, cast

import trio
from anyio.lowlevel import checkpoint

from danube_trio._core.frame import Records
from danube_trio._core.stats import ReaderStatistics, WalStatistics
from danube_trio._engine.log.encode import Appendable
from danube_trio._engine.log.wal import Receipt, Wal
from danube_trio._engine.read.follow import Follower, FollowerStatistics
from danube_trio._engine.read.readable import Readable
from danube_trio._engine.read.reader import Reader, reader_closed
from danube_trio._engine.read.replica import Replica, ReplicaStatistics
from danube_trio._engine.read.source import StartPosition
from danube_trio._engine.thread.append_job import Appender, AppendJob
from danube_trio.anyio._loop import LoopDoor
from danube_trio.config import Durability
from danube_trio.message import Gap, Record

__all__ = ["engine_wal", "reader_view", "view_of", "wal_view"]

T_co = TypeVar("T_co", covariant=True)
Inner = TypeVar("Inner", bound=Readable)


class _ReadableView(Readable, Generic[Inner]):
    """What all views have in common.

    Attributes:
        keep: the block, which would warn and close the log if it were collected before this.
    """

    def __init__(self, inner: Inner, door: LoopDoor, keep: object) -> None:
        vars(self).update(vars(inner))  # the same state, seen through other methods
        # The engine's own methods call each other: they need the object that knows no thread.
        self._inner = inner
        self._door = door
        self.keep = keep

    @property
    def open_readers(self) -> int:
        """See `Wal.open_readers`. Blocks for a hop to the engine's thread and back."""
        return self._door.call_now(lambda: self._inner.open_readers)

    @property
    def inner(self) -> Inner:
        """The engine's own object."""
        return self._inner

    def _new_reader(
        self,
        start: StartPosition,
        end: int | Literal["current"] | None,
        count: int | None,
        raw: bool,
    ) -> Reader[Any]:
        make: Any = self._inner.reader
        call = partial(make, start, end=end, count=count, raw=raw)
        return _ReaderView(self._door.call_now(call), self._door)


class _WalView(_ReadableView[Wal], Wal):
    def __init__(self, inner: Wal, door: LoopDoor, keep: object, appender: Appender) -> None:
        super().__init__(inner, door, keep)
        self._appender = appender

    async def append(
        self,
        message: Appendable,
        *,
        attributes: Mapping[str, str] | None = None,
        routing_key: str | None = None,
        schema_id: int | None = None,
        schema_version: int | None = None,
        durability: Durability | None = None,
        expected_offset: int | None = None,
    ) -> int:
        """See `Wal.append`."""
        door, appender = self._door, self._appender
        dress = (attributes, routing_key, schema_id, schema_version)
        records, size = appender.encode(message, dress)
        job = AppendJob(door.reply, appender, records, size, False, durability, expected_offset)
        offset: int = await door.run(job)
        return offset

    async def append_batch(
        self,
        messages: Iterable[Appendable],
        *,
        durability: Durability | None = None,
        expected_offset: int | None = None,
    ) -> range:
        """See `Wal.append_batch`."""
        door, appender = self._door, self._appender
        records, size = appender.encode_batch(messages)
        job = AppendJob(door.reply, appender, records, size, True, durability, expected_offset)
        offsets: range = await door.run(job)
        return offsets

    def append_nowait(
        self,
        message: Appendable,
        *,
        attributes: Mapping[str, str] | None = None,
        routing_key: str | None = None,
        schema_id: int | None = None,
        schema_version: int | None = None,
        expected_offset: int | None = None,
    ) -> Receipt:
        """See `Wal.append_nowait`. Blocks for a hop to the engine's thread and back."""
        dress = (attributes, routing_key, schema_id, schema_version)
        return self._accept(*self._appender.encode(message, dress), expected_offset)

    def append_batch_nowait(
        self, messages: Iterable[Appendable], *, expected_offset: int | None = None
    ) -> Receipt:
        """See `Wal.append_batch_nowait`. Blocks for a hop to the engine's thread and back."""
        records, size = self._appender.encode_batch(messages)
        if not len(records):
            raise ValueError("messages is empty: a receipt needs at least one record")
        return self._accept(records, size, expected_offset)

    def _accept(self, records: Records, size_bytes: int, expected_offset: int | None) -> Receipt:
        accept = partial(self._appender.append_nowait, records, size_bytes, expected_offset)
        return _ReceiptView(self._door.call_now(accept, late=False), self._door)

    async def flush(self) -> None:
        """See `Wal.flush`."""
        await self._door.call(self._inner.flush)

    async def wait_durable(self, end: int) -> None:
        """See `Wal.wait_durable`."""
        await self._door.call(partial(self._inner.wait_durable, end))

    async def wait_uploaded(self, end: int) -> None:
        """See `Wal.wait_uploaded`."""
        await self._door.call(partial(self._inner.wait_uploaded, end))

    async def seal(self) -> int:
        """See `Wal.seal`."""
        return await self._door.call(self._inner.seal)

    async def trim(self, before: int, *, whole_segments: bool = False) -> int:
        """See `Wal.trim`."""
        trim = partial(self._inner.trim, before, whole_segments=whole_segments)
        return await self._door.call(trim)

    def statistics(self) -> WalStatistics:
        """See `Wal.statistics`. Blocks for a hop to the engine's thread and back."""
        return self._door.call_now(self._inner.statistics)


class _FollowerView(_ReadableView[Follower], Follower):
    async def refresh(self) -> None:
        """See `Follower.refresh`."""
        await self._door.call(self._inner.refresh)

    async def wait_durable(self, end: int) -> None:
        """See `Follower.wait_durable`."""
        await self._door.call(partial(self._inner.wait_durable, end))

    def statistics(self) -> FollowerStatistics:
        """See `Follower.statistics`. Blocks for a hop to the engine's thread and back."""
        return self._door.call_now(self._inner.statistics)


class _ReplicaView(_ReadableView[Replica], Replica):
    async def refresh(self) -> None:
        """See `Replica.refresh`."""
        await self._door.call(self._inner.refresh)

    async def wait_durable(self, end: int) -> None:
        """See `Replica.wait_durable`."""
        await self._door.call(partial(self._inner.wait_durable, end))

    def statistics(self) -> ReplicaStatistics:
        """See `Replica.statistics`. Blocks for a hop to the engine's thread and back."""
        return self._door.call_now(self._inner.statistics)


class _ReceiptView(Receipt):
    __slots__ = ("_door", "_inner")

    def __init__(self, inner: Receipt, door: LoopDoor) -> None:
        super().__init__(inner._engine, inner.offsets)
        self._inner = inner
        self._door = door

    async def accepted(self) -> range:
        """See `Receipt.accepted`."""
        await checkpoint()
        return self.offsets

    async def written(self) -> range:
        """See `Receipt.written`."""
        return await self._call(self._engine.marks.written_end, self._inner.written)

    async def durable(self) -> range:
        """See `Receipt.durable`."""
        return await self._call(self._engine.marks.durable_end, self._inner.durable)

    async def uploaded(self) -> range:
        """See `Receipt.uploaded`."""
        return await self._door.call(self._inner.uploaded)

    async def _call(self, mark: int, wait: Callable[[], Awaitable[range]]) -> range:
        """Wait, unless there is nothing to wait for: also when the log was left meanwhile."""
        if mark >= self.offsets.stop:
            await checkpoint()
            return self.offsets
        return await self._door.call(wait)


class _ReaderView(Reader[T_co]):
    """A hop for each batch, none for a record.

    What the engine's reader gave is put aside in its thread, so that nothing is lost when nobody
    waits for the hop's end any more.
    """

    def __init__(self, inner: Reader[T_co], door: LoopDoor) -> None:
        self._inner = inner
        self._door = door
        self._items: list[object] = []
        self._next = 0
        self._cursor = inner.cursor
        self._fetched: list[T_co] | None = None
        self._busy = False
        self.closed = False

    def __del__(self) -> None:
        inner = [vars(self).pop("_inner", None)]
        if "_door" in vars(self):
            self._door.engine_thread.bury(inner)

    def __repr__(self) -> str:
        return f"<Reader at {self.cursor}, {'closed' if self.closed else 'open'}>"

    @property
    def finished(self) -> bool:
        """See `Reader.finished`."""
        at_hand = self._busy or self._fetched is not None or self._next < len(self._items)
        return self.closed or (not at_hand and self._inner.finished)

    def statistics(self) -> ReaderStatistics:
        """See `Reader.statistics`. Blocks for a hop to the engine's thread and back."""
        found = self._door.call_now(self._inner.statistics)
        ahead = found.cursor - self.cursor
        return ReaderStatistics(self.cursor, found.tier, found.lag + ahead)

    async def aclose(self) -> None:
        """See `Reader.aclose`."""
        self._forget()
        await self._door.call(self._inner.aclose)

    def close_now(self) -> None:
        """See `Reader.close_now`."""
        self._forget()
        self._door.call_now(self._inner.close_now)

    def _forget(self) -> None:
        self.closed = True
        self._items, self._next = [], 0

    async def _fetch_batch(self) -> None:
        """In the engine's thread. What a call that was ended put aside comes first."""
        if self._fetched is None:
            self._fetched = await self._inner.next_batch()

    async def _refill(self) -> None:
        if self._busy:
            raise trio.BusyResourceError("another task is reading from this reader")
        self._busy = True
        try:
            if self.closed:
                raise reader_closed()
            if self._fetched is None:
                await self._door.call(self._fetch_batch)
                if self.closed:  # while the batch was on its way
                    raise reader_closed()
            batch, self._fetched = self._fetched, None
            if not batch:
                raise StopAsyncIteration
            self._items, self._next = cast("list[object]", batch), 0
            last = cast("Record | Gap", batch[-1])
            self._cursor = last.end if isinstance(last, Gap) else last.offset + 1
        finally:
            self._busy = False


def wal_view(wal: Wal, door: LoopDoor, keep: object, appender: Appender) -> Wal:
    """The view of a log."""
    return _WalView(wal, door, keep, appender)


def engine_wal(wal: Wal) -> Wal | None:
    """The engine's own log behind a view; None if it is no view."""
    return wal.inner if isinstance(wal, _WalView) else None


def reader_view(reader: Reader[T_co], door: LoopDoor) -> Reader[T_co]:
    """The view of a reader."""
    return _ReaderView(reader, door)


def view_of(thing: object, appender: Appender | None, door: LoopDoor, keep: object) -> object:
    """The view of what a block of the engine gave; a store, which the engine uses, as it is."""
    if isinstance(thing, Wal):
        assert appender is not None
        return _WalView(thing, door, keep, appender)
    if isinstance(thing, Follower):
        return _FollowerView(thing, door, keep)
    if isinstance(thing, Replica):
        return _ReplicaView(thing, door, keep)
    return thing
