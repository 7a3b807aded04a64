"""Reading: one cursor, one loop.

::

    while not take(pieces): pieces = fetch(cursor)

A reader owns nothing but its cursor. `Shelves` fetches what there is at it, from wherever it is;
that may take long, fail, be cancelled, or end after the reader was closed, so it changes nothing of
the reader. What it found are *pieces* of the axis of offsets, and what they mean for the cursor is
decided in one step afterwards, by `_take`, the only place that moves it:

=====================  ===================================================================
piece                  the cursor
=====================  ===================================================================
`Block`                goes on to the end of the records that are handed out
`Gap`                  goes on to its end, and the gap is handed out
`Passed`               goes on to its end: a search by time needs nothing of what is passed
`Block` with a time    goes on behind it, if what follows is older: see `source.pass_by`
that is not believed
none                   stays: ask again
=====================  ===================================================================

Each piece must hold the cursor, whatever tier it comes from and whatever came before it: a hole is
an error that names what is missing.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar, cast

import trio

from danube_trio._core.frame import Block, frame_time
from danube_trio._core.route import Tier
from danube_trio._core.stats import ReaderStatistics
from danube_trio._engine.read.shelf import Piece
from danube_trio._engine.read.shelves import Shelves
from danube_trio._engine.read.source import ReaderSource, StartPosition, pass_by, resolve
from danube_trio._engine.wait.running import OwnRun
from danube_trio.errors import CorruptDataError, LogClosedError, StoreUnavailableError
from danube_trio.message import Gap, Record

T_co = TypeVar("T_co", covariant=True)

NO_LIMIT = 1 << 63


def reader_closed() -> LogClosedError:
    """What somebody gets who waits in a closed reader, or asks it for something."""
    return LogClosedError("the reader is closed: make another one with reader()")


class Reader(trio.abc.ReceiveChannel[T_co]):
    """An async iterator over a log, from a start position on; made by `wal.reader()`.

    Waits for new records at the end of the log unless it was given an end. Only one task may use
    it at a time (trio.BusyResourceError). Cancelling loses nothing: the cursor moves only when
    records are handed out. Keeps nothing open between blocks; closing it is good manners, no must.

    Raises, from the iteration: OffsetTrimmedError when retention overtook it, CorruptDataError,
    LogBrokenError, FencedError or LogClosedError when it waits for records that will never come,
    and what the object store raises: after StoreUnavailableError it may be asked again. A reader
    without an end of a replica or a follower rides such an outage out instead.
    """

    def __init__(
        self,
        source: ReaderSource,
        start: StartPosition,
        *,
        end: int | None,
        count: int | None,
        decode: Callable[[Block, int, int], list[object]],
    ) -> None:
        self._source = source
        self._shelves = Shelves(source)
        self._decode = decode
        self._end = end if end is not None else NO_LIMIT
        self._count = count if count is not None else NO_LIMIT
        self._cursor, self._time = resolve(source, start)
        self._onward = 0  # where a search by time goes on, if not behind a block
        self._items: list[object] = []
        self._next = 0
        self._busy = False
        self.closed = False
        self._fetching = trio.CancelScope()
        self._run = OwnRun()

    def __repr__(self) -> str:
        return f"<Reader at {self.cursor}, {'closed' if self.closed else self._shelves.tier.value}>"

    @property
    def cursor(self) -> int:
        """The offset of the next record that it will hand out."""
        if self._next >= len(self._items):
            return self._cursor
        item = cast("Record | Gap", self._items[self._next])
        return item.start if isinstance(item, Gap) else item.offset

    @property
    def finished(self) -> bool:
        """Whether it will hand out nothing more: it is closed, or at its end."""
        at_end = self._cursor >= self._end or self._count <= 0
        return self.closed or (at_end and self._next >= len(self._items))

    def statistics(self) -> ReaderStatistics:
        """Cursor, last tier and lag."""
        lag = max(0, self._source.visible_end - self.cursor)
        return ReaderStatistics(self.cursor, self._shelves.tier.value, lag)

    def __aiter__(self) -> Reader[T_co]:
        return self

    async def __anext__(self) -> T_co:
        i = self._next
        if i >= len(self._items):
            await self._refill()
            i = 0
        self._next = i + 1
        return cast("T_co", self._items[i])

    async def receive(self) -> T_co:
        """The next record, as any trio channel gives it: raises trio.EndOfChannel at the end."""
        try:
            return await self.__anext__()
        except StopAsyncIteration:
            raise trio.EndOfChannel from None

    async def next_batch(self) -> list[T_co]:
        """The next records, as many as are at hand, at least one; empty at the reader's end."""
        if self._next >= len(self._items):
            try:
                await self._refill()
            except StopAsyncIteration:
                return []
        items = self._items[self._next :] if self._next else self._items
        self._items = []
        self._next = 0
        return cast("list[T_co]", items)

    def batches(self) -> BatchIterator[T_co]:
        """The same records, as an async iterator over lists."""
        return BatchIterator(self)

    async def aclose(self) -> None:
        """Close it, also while another task waits in it. Idempotent.

        It hands out nothing after this call: who waits in it, or asks later, gets LogClosedError.
        """
        self.close_now()
        await trio.lowlevel.checkpoint()

    def close_now(self) -> None:
        """The same, in this step."""
        self.closed = True
        self._items, self._next = [], 0
        self._fetching.cancel()

    # ---- blocks

    async def _refill(self) -> None:
        """Get the next items. Always a checkpoint; raises StopAsyncIteration at the end."""
        if self._busy:
            raise trio.BusyResourceError("another task is reading from this reader")
        self._run.check()
        self._busy = True
        pieces: Sequence[Piece] = ()
        try:
            while not self._take(pieces):
                # Closing ends the fetch; one that has just ended by itself comes to nothing, too.
                pieces = ()
                with trio.CancelScope() as self._fetching:
                    pieces = await self._fetch()
        finally:
            self._busy = False

    async def _fetch(self) -> Sequence[Piece]:
        tier = self._source.tier
        outage = tier.outage if tier is not None else None
        if outage is None or self._end != NO_LIMIT:
            return await self._shelves.fetch(self._cursor, self._time)
        while True:
            try:
                pieces = await self._shelves.fetch(self._cursor, self._time)
            except StoreUnavailableError as error:
                await trio.sleep(outage.failed(error))
            else:
                outage.over()
                return pieces

    def _take(self, pieces: Sequence[Piece]) -> bool:
        """Hand out what is wanted of `pieces`, which begin at the cursor; False: fetch more.

        Nothing else moves the cursor. Raises LogClosedError if the reader was closed, and
        StopAsyncIteration at its end.
        """
        if self.closed:
            raise reader_closed()
        if self._next >= len(self._items):
            self._items, self._next = [], 0  # handed out: never again
        # A batch in the cache may be much larger than what is to be decoded at once.
        cached = self._shelves.tier is Tier.CACHE
        limit = self._source.config.read_block_bytes if cached else NO_LIMIT
        for piece in pieces:
            if limit <= 0 or self._cursor >= self._end or self._count <= 0:
                break
            cursor = self._cursor
            if not piece.start <= cursor < piece.end:
                if self._items:
                    break  # they come first; the next fetch meets it again
                raise self._hole(piece)
            if isinstance(piece, Block):
                first, last = self._wanted(piece, limit)
                end = piece.start + last
                if first < last:
                    self._hand_out(self._decode(piece, first, last), last - first)
                    limit -= piece.positions[last] - piece.positions[first]
            elif isinstance(piece, Gap):
                end = min(piece.end, self._end)
                self._items.append(Gap(cursor, end, piece.reason))
            else:
                end = piece.end
            assert cursor <= end <= piece.end, (cursor, end, piece)
            self._cursor = end
            if self._onward > end:
                self._cursor, self._onward = self._onward, 0
                break
        if self._items:
            return True
        if self._cursor >= self._end or self._count <= 0:
            raise StopAsyncIteration
        return False

    def _hole(self, piece: Piece) -> CorruptDataError:
        cursor = self._cursor
        reason = f"records {cursor} to {piece.start} are missing"
        if piece.start <= cursor:
            reason = f"records {piece.start} to {piece.end} came where record {cursor} must come"
        return CorruptDataError(f"{reason} ({self._shelves.tier.value} tier)", offset=cursor)

    def _hand_out(self, items: list[object], records: int) -> None:
        assert len(items) == records, (len(items), records)
        if self._items:
            self._items.extend(items)
        else:
            self._items = items
        self._count -= records

    def _wanted(self, block: Block, limit_bytes: int) -> tuple[int, int]:
        """Which records of `block`, `[first, last)`; none if all are older than the wanted time.

        They are about `limit_bytes` at the most, but at least one record.
        """
        first = self._cursor - block.start
        if self._time:
            first = self._skip_to_time(block, first)
            if block.start + first >= min(block.end, self._end):
                return first, first
        positions = block.positions
        fits = bisect_right(positions, positions[first] + limit_bytes) - 1
        last = min(max(fits, first + 1), min(block.end, self._end) - block.start)
        return first, min(last, first + self._count)

    def _skip_to_time(self, block: Block, first: int) -> int:
        """Index of the first record at or after the wanted time; in a block times never fall."""
        count = block.end - block.start
        if block.last_time and block.last_time < self._time:
            return count
        ends = block.positions[first + 1 :]
        found = first + bisect_left(ends, self._time, key=lambda end: frame_time(block.data, end))
        if found == count:
            return count
        offset, time = block.start + found, frame_time(block.data, block.positions[found + 1])
        onward = pass_by(self._source, offset, time, self._time)
        if onward > offset:
            self._onward = onward
            return count
        self._time = 0
        return found


class BatchIterator(Generic[T_co]):
    """Iterates over a reader's records in lists."""

    def __init__(self, reader: Reader[T_co]) -> None:
        self._reader = reader

    def __aiter__(self) -> BatchIterator[T_co]:
        return self

    async def __anext__(self) -> list[T_co]:
        batch = await self._reader.next_batch()
        if not batch:
            raise StopAsyncIteration
        return batch

    async def aclose(self) -> None:
        """Close the reader."""
        await self._reader.aclose()
