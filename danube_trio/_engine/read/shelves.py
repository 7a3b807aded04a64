"""The shelves that a reader's records come from: memory, files, objects; or they are yet to come.

`route` says which one holds the cursor, for every block anew, so falling behind (the cache moved
on), retention, rolls and sealing in between need no special case: whoever finds that the world has
moved while it looked gives nothing, and is asked again.

======================================  ==========================================================
what a fetch meets                      what it gives
======================================  ==========================================================
records                                 the block that holds the cursor, or begins before it
bytes that may be stepped over          a `Gap`
a search by time, and older records     `Passed`, and then the block
the start moved beyond the cursor       `OffsetTrimmedError`; to a search by time, `Passed`
nothing yet, and then something         nothing
only what comes before the cursor       nothing; the place in the file moved on
a file that retention or pruning took   nothing
a damaged file whose records are        nothing: it is not read any more
stored
files that may be another writer's      an error, see `ReaderSource.check_ours`
======================================  ==========================================================

A file is open only while a block of it is read, so a slow reader costs no descriptor. Each frame is
verified unless it comes from memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import attrs
import trio

from danube_trio._core.frame import Block
from danube_trio._core.index import SparseIndex
from danube_trio._core.route import Tier, route
from danube_trio._core.segment import Segment
from danube_trio._engine.files.fetch import fetch_block
from danube_trio._engine.files.segments import load_index
from danube_trio._engine.read.source import ReaderSource
from danube_trio.errors import (
    Advice,
    CorruptDataError,
    ObjectNotFoundError,
    OffsetTrimmedError,
    StoreUnavailableError,
    Worded,
)
from danube_trio.message import Gap

__all__ = ["Passed", "Piece", "Shelves"]


@attrs.frozen
class Passed:
    """A search by time needs nothing of `[start, end)`: all of it is older, or was trimmed."""

    start: int
    end: int


Piece = Block | Gap | Passed


class Shelves:
    """Fetches what there is at a cursor.

    Attributes:
        tier: where it looked last.
    """

    def __init__(self, source: ReaderSource) -> None:
        self._source = source
        self.tier = Tier.LIVE
        # (segment base, offset, position): where the frame after the last fetched one begins.
        self._place: tuple[int, int, int] = (-1, 0, 0)

    async def fetch(self, cursor: int, time: int) -> Sequence[Piece]:
        """What there is at the cursor; nothing if it must be asked again.

        Args:
            cursor: the offset that is wanted.
            time: what is older (us) need not be given; 0: all is wanted.

        Raises what `Reader` does.
        """
        source = self._source
        self.tier = tier = self._route(cursor)
        if tier is Tier.TRIMMED:
            start = source.marks.start_offset
            if not time:
                raise OffsetTrimmedError(cursor, start)
            return [Passed(cursor, start)]
        if tier is Tier.LIVE:
            await source.wait_visible(cursor + 1)
            return ()
        if tier is Tier.CACHE:
            await trio.lowlevel.checkpoint()
            return self._cached(cursor)
        with source.pins.pin(cursor, stored=tier is Tier.CLOUD):
            if tier is Tier.CLOUD:
                return await self._fetch_cloud(cursor, time)
            try:
                return await self._fetch_file(cursor, time)
            finally:
                source.check_ours()

    def _route(self, cursor: int) -> Tier:
        source = self._source
        return route(
            cursor,
            start_offset=source.marks.start_offset,
            local_start=source.local_start,
            cache_start=source.cache.start,
            visible_end=source.visible_end,
            damaged=bool(source.damaged) and source.segments.base_of(cursor) in source.damaged,
        )

    def _cached(self, cursor: int) -> list[Block]:
        cache = self._source.cache
        # The cache may have moved on in the checkpoint: then `route` says where to ask.
        blocks = cache.blocks_from(cursor, self._source.config.read_block_bytes)
        if not blocks and cursor >= cache.start:
            raise CorruptDataError(
                f"records {cursor} to {self._source.visible_end} are missing (cache tier)",
                offset=cursor,
            )
        return blocks

    # ---- objects

    async def _fetch_cloud(self, cursor: int, time: int) -> Sequence[Piece]:
        source = self._source
        if source.tier is None:
            what = f"records {cursor} to {source.local_start} are in the object store only: "
            raise StoreUnavailableError(Worded(what, Advice.WITH_STORE))
        known = source.tier.objects.find(cursor)
        try:
            return [await source.tier.fetch(cursor)]
        except (LookupError, ObjectNotFoundError) as error:
            await source.look_again()
            if cursor < source.marks.start_offset:
                return ()  # retention overtook us: route will say so
            if source.tier.objects.find(cursor) not in (None, known):
                return ()  # a follower had not heard of this object yet
            start = source.tier.objects.state.start_offset
            if cursor < start:  # a follower's directory does not know who trimmed the log
                if not time:
                    raise OffsetTrimmedError(cursor, start) from error
                return [Passed(cursor, start)]
            raise CorruptDataError(
                f"no object holds the record ({error})",
                offset=cursor,
                advice="Restore it from a copy or an older version of the store",
            ) from error

    # ---- files

    async def _fetch_file(self, cursor: int, time: int) -> Sequence[Piece]:
        source = self._source
        disk, names = source.disk, source.names
        assert disk is not None
        assert names is not None
        segment = source.segments.find(cursor)
        base = segment.base if segment is not None else source.segments.active_base
        stop = min(segment.end if segment is not None else source.visible_end, source.visible_end)
        try:
            offset, position = await self._locate(cursor, time, segment, base, stop)
            fetched = await disk.run(
                fetch_block,
                disk,
                names.segment(base),
                position,
                offset,
                stop,
                source.config.read_block_bytes,
                source.config.on_corruption == "skip" and not self._stored(cursor),
            )
        except (CorruptDataError, FileNotFoundError) as error:
            gone = isinstance(error, FileNotFoundError)
            if gone and cursor < max(source.marks.start_offset, source.local_start):
                return ()  # retention overtook us: route will say so
            if segment is not None and self._stored(cursor):
                await source.heal(segment.base, str(error))
                return ()  # route will say: the store
            if not gone:
                raise
            raise CorruptDataError(
                "the segment is missing",
                path=names.segment(base),
                offset=cursor,
                advice="Restore the file from a copy of the directory",
            ) from error
        self._place = (base, fetched.next_offset, fetched.next_position)
        found = fetched.found
        if found.end <= cursor:
            return ()  # still before the cursor; the place moved on, and so does the loop
        if time and found.start > cursor:
            return [Passed(cursor, found.start), found]  # all before is older, says the index
        return [found]

    def _stored(self, cursor: int) -> bool:
        """Whether a verified object holds the record at the cursor."""
        tier = self._source.tier
        return tier is not None and tier.objects.find(cursor) is not None

    async def _locate(
        self, cursor: int, time: int, segment: Segment | None, base: int, stop: int
    ) -> tuple[int, int]:
        """`(offset, position)` of a frame at or before the cursor to read from."""
        place_base, place_offset, place_position = self._place
        if place_base == base and place_offset == cursor:
            return place_offset, place_position
        index = await self._index(segment)
        if time and cursor == base:
            offset, position = index.before_time(time)
            if offset < stop:
                return offset, position
        offset, position = index.before_offset(cursor)
        if place_base == base and offset < place_offset <= cursor:
            return place_offset, place_position
        return offset, position

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
