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
from danube_trio._engine.files.segments import SegmentWalk, build_index, readable_after


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
        sound: bases of the segments with nothing wrong in them; what follows may be missing.
        tails: those of them with something behind their last record: base, position and size.
        mark_lies: the durability mark does not fit the segment that it speaks of.
    """

    def __init__(self, disk: Disk, directory: Directory) -> None:
        self._disk = disk
        self._directory = directory
        self._names = directory.names
        self.whole: list[int] = []
        self.sound: set[int] = set()
        self.tails: list[tuple[int, int, int]] = []
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
            first = first or self._end_of(bases, end)
            end = mark.durable_end
        if first is None:
            return None
        if first[0] < 0:
            first = self._end_of([base for base in bases if base < first[1]], first[1])
        return Damage(*first, tuple(gaps), end)

    def _end_of(self, bases: list[int], end: int) -> tuple[int, int, int]:
        """The place at which the log ends, at offset `end`, when only these segments are there."""
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
            ended = walk.fault is None or walk.fault.only_zeros
            if ended and walk.left < 0 and index.end > base:
                self.sound.add(base)
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
            if size > (end := index.size_bytes):
                self.tails.append((index.base, end, size - end))
            self.mark_lies |= mark is not None and mark.durable_end > after
        elif mark is not None:
            walk = SegmentWalk(file, 0, index.base, size=size, stop_offset=mark.durable_end)
            walk.to_end()
            self.mark_lies |= walk.position != mark.position


def _gaps(file: File, size: int, walk: SegmentWalk, end: int) -> list[tuple[int, int]]:
    """From where the walk stopped to offset `end`: the ranges of offsets that cannot be read."""
    gaps: list[tuple[int, int]] = []
    offset = walk.offset
    for first, after in readable_after(file, walk, size=size):
        if first >= end:
            break
        gaps.append((offset, first))
        offset = after
    if offset < end or not gaps:
        gaps.append((offset, max(end, offset)))
    return gaps
