"""The shelf of files: the segments of one directory, as far as they are known here.

An open log's own (`log.local_files`) is always right. A follower's is what its last look found, and
so may name a file that is gone; its disk looks again before it says so (`read_only`).

A file is open only while a block of it is read, so a slow reader costs no descriptor. Each frame is
verified. Where a block ended is kept by its reader, as a `Place`: the next one is read from there,
without looking into the index.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import attrs

from danube_trio._core.clocks import Run
from danube_trio._core.disk import Disk
from danube_trio._core.index import KeptIndexes, SparseIndex
from danube_trio._core.segment import LogNames, Segment, SegmentList
from danube_trio._engine.files.segments import fetch_block, load_index
from danube_trio._engine.read.shelf import Passed, Piece
from danube_trio.errors import CorruptDataError
from danube_trio.message import Gap


@attrs.define(eq=False)
class Place:
    """Where the frame after the last one that a reader fetched from a file begins."""

    base: int = -1
    offset: int = 0
    position: int = 0


class FileShelf:
    """Segments, sealed ones and the active one.

    Attributes:
        disk, names: where they are.
        segments: the sealed ones, and where the active one begins.
        active: the index of the active one.
        indexes: of sealed ones, those that are in memory.
        damaged: sealed segments that are not what was written, by base, and why: their records come
            from the store.

    Args:
        fetch_bytes: about as much is read at a time.
    """

    def __init__(
        self,
        disk: Disk,
        names: LogNames,
        segments: SegmentList,
        active: SparseIndex,
        *,
        fetch_bytes: int,
    ) -> None:
        self.disk = disk
        self.names = names
        self.segments = segments
        self.active = active
        self.indexes = KeptIndexes()
        self.damaged: dict[int, str] = {}
        self._fetch_bytes = fetch_bytes

    @property
    def start(self) -> int:
        """The first offset in a file."""
        return self.segments.first_base

    @property
    def end(self) -> int:
        """Behind the last record of the active segment."""
        return self.active.end

    @property
    def size_bytes(self) -> int:
        """Bytes of the frames in all files."""
        return self.segments.size_bytes + self.active.size_bytes

    def runs(self) -> Iterator[Run]:
        """See `Shelf`."""
        for segment in self.segments:
            yield segment.base, segment.first_time, segment.last_time
        if len(self.active):
            yield self.active.base, self.active.first_time, self.active.last_time

    @property
    def latest_time(self) -> int:
        """The latest time (us) of a record in a sealed segment that is known, 0 if none is."""
        return self.segments.latest_time

    def base_for_time(self, time: int) -> int:
        """Base of the first segment that may hold a record at or after `time` (us)."""
        active = self.active
        return self.segments.base_for_time(time, active.first_time if len(active) else 0)

    def is_damaged(self, cursor: int) -> bool:
        """Whether the segment that holds the cursor is not to be read."""
        return bool(self.damaged) and self.segments.base_of(cursor) in self.damaged

    def check_ours(self) -> None:
        """Raise if the files may be another writer's by now: nothing read from them counts."""

    async def heal(self, base: int, reason: str) -> None:
        """This sealed segment is damaged, and its records are in the object store."""
        self.damaged[base] = reason

    async def fetch(
        self, cursor: int, stop: int, time: int, place: Place | None = None, *, skip: bool = False
    ) -> Sequence[Piece]:
        """See `Shelf`. With `skip` bytes that are no frames are a `Gap`, else CorruptDataError."""
        place = place if place is not None else Place()
        segment = self.segments.find(cursor)
        base = segment.base if segment is not None else self.segments.active_base
        path = self.names.segment(base)
        stop = min(stop, segment.end) if segment is not None else stop
        try:
            offset, position = await self._locate(cursor, time, segment, base, stop, place)
            while True:
                where = path, position, offset, stop
                fetched = await self.disk.run(
                    fetch_block, self.disk, *where, self._fetch_bytes, skip
                )
                found, offset, position = fetched.found, fetched.next_offset, fetched.next_position
                if found.end > cursor:
                    break
        except FileNotFoundError as error:
            if cursor < self.start:
                return ()  # retention overtook us: route will say so
            raise CorruptDataError(
                "the segment is missing",
                path=path,
                offset=cursor,
                advice="Restore the file from a copy of the directory",
            ) from error
        finally:
            # After the read, and also if it failed: damage in another's file is not ours.
            self.check_ours()
        if not isinstance(found, Gap):  # what comes behind one is known only as of now
            place.base, place.offset, place.position = base, offset, position
        if time and found.start > cursor:
            return [Passed(cursor, found.start), found]  # all before is older, says the index
        return [found]

    async def _locate(
        self, cursor: int, time: int, segment: Segment | None, base: int, stop: int, place: Place
    ) -> tuple[int, int]:
        """`(offset, position)` of a frame at or before the cursor to read from."""
        if place.base == base and place.offset == cursor:
            return cursor, place.position
        index = await self._index(segment)
        if time and cursor == base:
            offset, position = index.before_time(time)
            if offset < stop:
                return offset, position
        return index.before_offset(cursor)

    async def _index(self, segment: Segment | None) -> SparseIndex:
        if segment is None:
            return self.active
        index = self.indexes.get(segment.base)
        if index is None:
            index = await self.load_index(segment)
            self.indexes.keep(index)
        return index

    async def load_index(self, segment: Segment) -> SparseIndex:
        """The index of a sealed segment, from its file, or else built."""
        load = partial(load_index, trailer=True)
        index: SparseIndex = await self.disk.run(load, self.disk, self.names, segment)
        return index
