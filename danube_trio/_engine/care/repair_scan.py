"""Looking through the segments of a log for a repair: what is damaged, missing, or too much.

A record counts as there if its frame is whole. In the last segment only what is below the
durability mark can be damage: the rest is a torn tail, for opening to cut. Memory is bounded by a
chunk and the index of one segment.
"""

from __future__ import annotations

from contextlib import closing
from itertools import pairwise

import attrs

from danube_trio._core.disk import Disk, File
from danube_trio._core.files import Mark
from danube_trio._core.index import SparseIndex
from danube_trio._engine.files.directory import Directory
from danube_trio._engine.files.segments import SegmentWalk, build_index, find_after

__all__ = ["Damage", "SegmentScan"]


@attrs.frozen
class Damage:
    """The first place at which a log is not whole.

    Attributes:
        base: the segment in which it is; if it is missing, the last one before.
        end, position: offset and position of the end of the last whole batch before it.
        gaps: all ranges of offsets that cannot be read, from here to the end of the log.
        log_end: where the log ends, as far as known.
    """

    base: int
    end: int
    position: int
    gaps: tuple[tuple[int, int], ...]
    log_end: int


class SegmentScan:
    """Looks through all segments once.

    Attributes:
        whole: bases of the sealed segments that have all their records.
        cuts: `(base, position)` of those of them with something behind their last record.
        tails: path and size of that.
        mark_lies: the durability mark does not fit the segment that it speaks of.
    """

    def __init__(self, disk: Disk, directory: Directory) -> None:
        self._disk = disk
        self._directory = directory
        self._names = directory.names
        self.whole: list[int] = []
        self.cuts: list[tuple[int, int]] = []
        self.tails: dict[str, int] = {}
        self.mark_lies = False

    def run(self) -> Damage | None:
        """The first place where a segment or a record that must be there is not."""
        directory = self._directory
        bases, start = directory.bases, directory.local_start
        gaps: list[tuple[int, int]] = []
        first: tuple[int, int, int] | None = None
        end = start
        for base, after in pairwise([*bases, None]):
            assert base is not None
            if base > end:  # a segment is missing
                gaps.append((end, base))
                first = first or (-1, end, 0)
            place, found, end = self._segment(base, after)
            gaps += found
            first = first or (place if found else None)
        mark = directory.mark
        if mark is not None and mark.durable_end > end:  # the last segments are missing
            gaps.append((end, mark.durable_end))
            first = first or (bases[-1] if bases else -1, end, self._size_of_last())
            end = mark.durable_end
        if first is None:
            return None
        if first[0] < 0:
            first = self._before(first[1])
        return Damage(first[0], first[1], first[2], tuple(gaps), end)

    def _size_of_last(self) -> int:
        bases = self._directory.bases
        return self._disk.file_size(self._names.segment(bases[-1])) if bases else 0

    def _before(self, end: int) -> tuple[int, int, int]:
        """The place at which the log ends when the segment at offset `end` is missing."""
        bases = [base for base in self._directory.bases if base < end]
        if not bases:
            return -1, end, 0
        return bases[-1], end, self._disk.file_size(self._names.segment(bases[-1]))

    def _segment(
        self, base: int, after: int | None
    ) -> tuple[tuple[int, int, int], list[tuple[int, int]], int]:
        """One segment: where its whole batches end, its gaps, and where it ends.

        In the last one, only what is below the mark is damage: the rest is a torn tail.
        """
        path, mark = self._names.segment(base), self._directory.mark
        with closing(self._disk.open(path, "r")) as file:
            size = file.size()
            index, walk = build_index(file, base, size=size)
            place = (base, index.end, index.size_bytes)
            here = mark if mark is not None and mark.base == base else None
            if after is not None:
                whole = index.end == after and walk.left < 0
            else:
                whole = here is None or (
                    index.end >= here.durable_end and index.size_bytes >= here.position
                )
            if whole:
                self._check_whole(file, size, index, after, here)
                return place, [], index.end
            end = after if after is not None else max(walk.offset, here.durable_end if here else 0)
            return place, _gaps(file, size, walk, end), end

    def _check_whole(
        self, file: File, size: int, index: SparseIndex, after: int | None, mark: Mark | None
    ) -> None:
        """All records are there: what is behind them, and does the mark know this segment?"""
        if after is not None:
            self.whole.append(index.base)
            if size > index.size_bytes:
                self.cuts.append((index.base, index.size_bytes))
                self.tails[file.path] = size - index.size_bytes
            self.mark_lies |= mark is not None and mark.durable_end > after
        elif mark is not None:
            walk = SegmentWalk(file, 0, index.base, size=size, stop_offset=mark.durable_end)
            for _ in walk:
                pass
            self.mark_lies |= walk.position != mark.position


def _gaps(file: File, size: int, walk: SegmentWalk, end: int) -> list[tuple[int, int]]:
    """From where the walk stopped to offset `end`: the ranges of offsets that cannot be read."""
    gaps: list[tuple[int, int]] = []
    position, offset = walk.position, walk.offset
    while (found := find_after(file, position + 1, offset, size=size)) and found[1] < end:
        gaps.append((offset, found[1]))
        onward = SegmentWalk(file, found[0], found[1], size=size)
        for _ in onward:
            pass
        position, offset = onward.position, onward.offset
    if offset < end or not gaps:
        gaps.append((offset, max(end, offset)))
    return gaps
