"""Reading: one cursor, four tiers, one loop.

::

    while True: tier = route(cursor, marks); block = fetch(tier); hand out its records

A reader owns nothing but its cursor. For every block it asks anew where the cursor is served from,
so falling behind (the cache moved on), retention, rolls and sealing in between need no special
case. It holds one block at a time and opens a file only while it fetches one, so a slow reader
costs a bounded amount of memory, no file descriptor, and never holds the writer up.

Each block must begin exactly at the cursor, and each frame in it is verified unless it comes from
memory: a hole is an error that names what is missing.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable
from functools import partial
from typing import Generic, TypeVar, cast

import trio

from danube_trio._core.frame import Block, frame_time
from danube_trio._core.index import SparseIndex
from danube_trio._core.route import Tier, route
from danube_trio._core.segment import Segment
from danube_trio._core.stats import ReaderStatistics
from danube_trio._engine.files.fetch import fetch_block
from danube_trio._engine.files.segments import load_index
from danube_trio._engine.read.source import ReaderSource, StartPosition, resolve
from danube_trio.errors import (
    CorruptDataError,
    LogClosedError,
    ObjectNotFoundError,
    OffsetTrimmedError,
    StoreUnavailableError,
)
from danube_trio.message import Gap, Record

__all__ = ["BatchIterator", "Reader"]

T_co = TypeVar("T_co", covariant=True)


class Reader(trio.abc.ReceiveChannel[T_co]):
    """An async iterator over a log, from a start position on; made by `wal.reader()`.

    Waits for new records at the end of the log unless it was given an end. Only one task may use
    it at a time (trio.BusyResourceError). Cancelling loses nothing: the cursor moves only when
    records are handed out. Keeps nothing open between blocks; closing it is good manners, no must.

    Raises, from the iteration: OffsetTrimmedError when retention overtook it, CorruptDataError,
    LogBrokenError, FencedError or LogClosedError when it waits for records that will never come,
    and what the object store raises: after StoreUnavailableError it may be asked again.
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
        self._decode = decode
        self._end = end if end is not None else 1 << 63
        self._count = count if count is not None else 1 << 63
        self._cursor, self._time = resolve(source, start)
        self._items: list[object] = []
        self._next = 0
        self._tier = Tier.LIVE
        # (segment base, offset, position): where the frame after the last fetched one begins.
        self._place: tuple[int, int, int] = (-1, 0, 0)
        self._busy = False
        self.closed = False
        self._waiting = trio.CancelScope()

    def __repr__(self) -> str:
        return f"<Reader at {self.cursor}, {'closed' if self.closed else self._tier.value}>"

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
        return ReaderStatistics(self.cursor, self._tier.value, lag)

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
        """Close it: who waits in it, or asks later, gets LogClosedError. Idempotent."""
        self.close_now()
        await trio.lowlevel.checkpoint()

    def close_now(self) -> None:
        """The same, in this step."""
        self.closed = True
        self._items, self._next = [], 0
        self._waiting.cancel()

    # ---- blocks

    async def _refill(self) -> None:
        """Get the next items. Always a checkpoint; raises StopAsyncIteration at the end."""
        if self._busy:
            raise trio.BusyResourceError("another task is reading from this reader")
        self._busy = True
        try:
            while True:
                if self.closed:
                    raise LogClosedError("the reader is closed: make another one with reader()")
                if self._cursor >= self._end or self._count <= 0:
                    raise StopAsyncIteration
                if await self._fetch():
                    return
        finally:
            self._busy = False

    async def _fetch(self) -> bool:
        """One step; True if there are items now."""
        source = self._source
        if self._next >= len(self._items):
            self._items, self._next = [], 0  # handed out: never again
        self._tier = tier = route(
            self._cursor,
            start_offset=source.marks.start_offset,
            local_start=source.local_start,
            cache_start=source.cache.start,
            visible_end=source.visible_end,
        )
        if tier is Tier.TRIMMED:
            if self._time:
                self._cursor = source.marks.start_offset
                return False
            raise OffsetTrimmedError(self._cursor, source.marks.start_offset)
        if tier is Tier.LIVE:
            with trio.CancelScope() as self._waiting:
                await source.wait_visible(self._cursor + 1)
            return False
        if tier is Tier.CACHE:
            await trio.lowlevel.checkpoint()
            limit = source.config.read_block_bytes
            for block in source.cache.blocks_from(self._cursor, limit):
                if limit > 0 and self._cursor < self._end and self._count > 0:
                    limit -= self._take(block, limit)
            return bool(self._items)
        with source.pins.hold(self._cursor, stored=tier is Tier.CLOUD):
            if tier is Tier.CLOUD:
                await self._fetch_cloud()
            else:
                await self._fetch_file()
        return bool(self._items)

    def _take(self, block: Block, limit_bytes: int) -> int:
        """Hand out what the reader wants of `block`, which must hold the cursor.

        Takes about `limit_bytes` at the most (a batch in the cache may be much larger), at least
        one record. Returns how many bytes it took.
        """
        if not block.start <= self._cursor < block.end:
            raise CorruptDataError(
                f"records {self._cursor} to {block.start} are missing", offset=self._cursor
            )
        first = self._cursor - block.start
        if self._time:
            first = self._skip_to_time(block, first)
            self._cursor = block.start + first
            if self._cursor == block.end:
                return 0
        positions = block.positions
        fits = bisect_right(positions, positions[first] + limit_bytes) - 1
        last = min(max(fits, first + 1), min(block.end, self._end) - block.start)
        last = min(last, first + self._count)
        if last <= first:
            return 0
        items = self._decode(block, first, last)
        if self._items:
            self._items.extend(items)
        else:
            self._items = items
        self._cursor = block.start + last
        self._count -= last - first
        return positions[last] - positions[first]

    def _skip_to_time(self, block: Block, first: int) -> int:
        """Index of the first record at or after the wanted time; times never fall."""
        if block.last_time and block.last_time < self._time:
            return block.end - block.start
        ends = block.positions[first + 1 :]
        found = first + bisect_left(ends, self._time, key=lambda end: frame_time(block.data, end))
        if found < block.end - block.start:
            self._time = 0
        return found

    # ---- objects

    async def _fetch_cloud(self) -> None:
        source = self._source
        if source.tier is None:
            raise StoreUnavailableError(
                f"records {self._cursor} to {source.local_start} are in the object store only: "
                f"open the log with its store to read them"
            )
        try:
            block = await source.tier.fetch(self._cursor)
        except (LookupError, ObjectNotFoundError) as error:
            await source.look_again()
            if self._cursor < source.marks.start_offset:
                return  # retention overtook us: route will say so
            raise CorruptDataError(
                f"no object holds the record ({error})",
                offset=self._cursor,
                advice="Restore it from a copy or an older version of the store",
            ) from error
        self._take(block, block.size_bytes)

    # ---- files

    async def _fetch_file(self) -> None:
        source = self._source
        disk, names = source.disk, source.names
        assert disk is not None
        assert names is not None
        segment = source.segments.find(self._cursor)
        if segment is not None and segment.base in source.damaged:
            await self._fetch_cloud()
            return
        base = segment.base if segment is not None else source.segments.active_base
        stop = min(segment.end if segment is not None else source.visible_end, source.visible_end)
        try:
            offset, position = await self._locate(segment, base, stop)
            fetched = await disk.run(
                fetch_block,
                disk,
                names.segment(base),
                position,
                offset,
                stop,
                source.config.read_block_bytes,
                source.config.on_corruption == "skip" and not self._stored(),
            )
        except (CorruptDataError, FileNotFoundError) as error:
            gone = isinstance(error, FileNotFoundError)
            if gone and self._cursor < max(source.marks.start_offset, source.local_start):
                return  # retention overtook us: route will say so
            if segment is not None and self._stored():
                return source.heal(segment.base, str(error))  # the next try asks the store
            if not gone:
                raise
            raise CorruptDataError(
                "the segment is missing",
                path=names.segment(base),
                offset=self._cursor,
                advice="Restore the file from a copy of the directory",
            ) from error
        self._place = (base, fetched.next_offset, fetched.next_position)
        if fetched.gap is not None:
            self._take_gap(fetched.gap)
        elif fetched.block is not None and fetched.block.end > self._cursor:
            if self._time and fetched.block.start > self._cursor:
                self._cursor = fetched.block.start  # all before is older, says the index
            self._take(fetched.block, max(source.config.read_block_bytes, fetched.block.size_bytes))
        # else: only records before the cursor; the place moved on, and so does the loop

    def _stored(self) -> bool:
        """Whether a verified object holds the record at the cursor."""
        tier = self._source.tier
        return tier is not None and tier.state.find(self._cursor) is not None

    async def _locate(self, segment: Segment | None, base: int, stop: int) -> tuple[int, int]:
        """`(offset, position)` of a frame at or before the cursor to read from."""
        place_base, place_offset, place_position = self._place
        if place_base == base and place_offset == self._cursor:
            return place_offset, place_position
        index = await self._index(segment)
        if self._time and self._cursor == base:
            offset, position = index.before_time(self._time)
            if offset < stop:
                return offset, position
        offset, position = index.before_offset(self._cursor)
        if place_base == base and offset < place_offset <= self._cursor:
            return place_offset, place_position
        return offset, position

    def _take_gap(self, gap: Gap) -> None:
        if gap.end <= self._cursor:
            return
        start, end = max(gap.start, self._cursor), min(gap.end, self._end)
        self._items = [Gap(start, end, gap.reason)]
        self._next = 0
        self._cursor = end

    async def _index(self, segment: Segment | None) -> SparseIndex:
        source = self._source
        if segment is None:
            return source.active
        index = source.indexes.get(segment.base)
        if index is None:
            disk, names = source.disk, source.names
            assert disk is not None
            assert names is not None
            index = await disk.run(partial(load_index, trailer=True), disk, names, segment)
            source.indexes.keep(index)
        return index


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
