"""A log as an asyncio program sees it: the engine's own classes, whose calls cross to its thread.

A view is of the engine's class, so that it is what its type says; what it does comes from its own
class and from `_doors.afar`, and nothing of the engine's (a test compares the two lists).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Literal, TypeVar

import trio
from anyio.lowlevel import checkpoint

from danube_trio._doors.afar import FarLog, FarReader, FarWal
from danube_trio._doors.surface import arguments_of
from danube_trio._engine.log.wal import Receipt, Wal, inside
from danube_trio._engine.read.follow import Follower
from danube_trio._engine.read.readable import Observed, Readable
from danube_trio._engine.read.reader import Reader, reader_closed
from danube_trio._engine.read.replica import Replica
from danube_trio._engine.read.source import StartPosition
from danube_trio._engine.thread.append_job import Appender
from danube_trio.anyio._loop import LoopDoor
from danube_trio.anyio._words import at_once, waits

T_co = TypeVar("T_co", covariant=True)


class ReadableView(Readable):
    """What the views of logs have in common. Its subclasses are `FarLog` first."""

    inner: Any
    door: LoopDoor

    def _new_reader(
        self,
        start: StartPosition,
        end: int | Literal["current"] | None,
        count: int | None,
        raw: bool,
    ) -> Reader[Any]:
        make = partial(self.inner.reader, start, end=end, count=count, raw=raw)
        return ReaderView(self.door.call_now(make), self.door)


class WalView(FarWal[LoopDoor], ReadableView, Wal):
    """The view of a log."""

    def __init__(self, inner: Wal, door: LoopDoor, keep: object, appender: Appender) -> None:
        super().__init__(inner, door, keep, appender)
        # What a view consists of is what its log does: a `danube_trio.WalStorage` of it asks.
        self._engine, self._acceptor, self._encoder = inside(inner)

    @arguments_of(Wal.append)
    async def append(self, *args: Any, **more: Any) -> int:
        """See `Wal.append`."""
        offset: int = await self.door.run(self._job(*args, **more))
        return offset

    @arguments_of(Wal.append_batch)
    async def append_batch(self, *args: Any, **more: Any) -> range:
        """See `Wal.append_batch`."""
        offsets: range = await self.door.run(self._batch_job(*args, **more))
        return offsets

    @arguments_of(Wal.append_nowait)
    def append_nowait(self, *args: Any, **more: Any) -> Receipt:
        """See `Wal.append_nowait`. Blocks for a hop to the engine's thread and back."""
        accept = self._accepting(*args, **more)
        return ReceiptView(self.door.call_now(accept, late=False), self.door)

    @arguments_of(Wal.append_batch_nowait)
    def append_batch_nowait(self, *args: Any, **more: Any) -> Receipt:
        """See `Wal.append_batch_nowait`. Blocks for a hop to the engine's thread and back."""
        accept = self._accepting_batch(*args, **more)
        return ReceiptView(self.door.call_now(accept, late=False), self.door)

    flush = waits(Wal.flush)
    wait_durable = waits(Wal.wait_durable)
    wait_uploaded = waits(Wal.wait_uploaded)
    seal = waits(Wal.seal)
    trim = waits(Wal.trim)


class ObservedView(ReadableView, Observed):
    """The view of a log that somebody else writes."""

    refresh = waits(Observed.refresh)
    wait_durable = waits(Observed.wait_durable)


class FollowerView(FarLog[Follower, LoopDoor], ObservedView, Follower):
    """The view of a follower."""

    statistics = at_once(Follower.statistics, late=True)


class ReplicaView(FarLog[Replica, LoopDoor], ObservedView, Replica):
    """The view of a replica."""

    statistics = at_once(Replica.statistics, late=True)


class ReceiptView(Receipt):
    """The view of a receipt."""

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


class ReaderView(FarReader[T_co, LoopDoor], Reader[T_co]):
    """The view of a reader. Its iteration is the engine's own, over what `_refill` has fetched."""

    async def aclose(self) -> None:
        """See `Reader.aclose`."""
        self._close()
        await self._door.call(self._inner.aclose)

    def close_now(self) -> None:
        """See `Reader.close_now`."""
        self._close()
        self._door.call_now(self._inner.close_now)

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
            if not self._take_fetched():
                raise StopAsyncIteration
        finally:
            self._busy = False


def engine_wal(wal: Wal) -> Wal | None:
    """The engine's own log behind a view; None if it is no view."""
    return wal.inner if isinstance(wal, WalView) else None


def view_of(thing: object, door: LoopDoor, keep: object, *appender: Appender) -> object:
    """The view of what a block of the engine gave; a store, which the engine uses, as it is."""
    if isinstance(thing, Wal):
        return WalView(thing, door, keep, *appender)
    if isinstance(thing, Follower):
        return FollowerView(thing, door, keep)
    if isinstance(thing, Replica):
        return ReplicaView(thing, door, keep)
    return thing
