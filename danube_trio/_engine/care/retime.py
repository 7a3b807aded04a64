"""Mending append times that a wrong clock left: a step of a repair, with the lock held.

A record whose time is ahead of the clock (`clocks`) gets that of the last one before it whose time
is not, or, at the begin of the log, of the first such one. Nothing else of it changes, so neither
does the size of anything: a segment is written anew beside, durably, and renamed. Whatever is read
meanwhile is whole, with the old times or the new ones. The hints that know them go before.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import pairwise

from danube_trio._core.disk import Disk, File, put_parts_in_place
from danube_trio._core.frame import frame_time, with_time
from danube_trio._core.segment import LogNames
from danube_trio._engine.files.segments import SegmentWalk
from danube_trio._engine.files.space import remove_each


def retime(
    disk: Disk, names: LogNames, bases: Sequence[int], late: Sequence[int], latest: int, first: int
) -> list[str]:
    """Write those of the segments `bases` anew that are in `late`. Returns what was done.

    Args:
        bases: all segments, in order.
        late: those with records whose time (us) is above `latest`.
        first: the time of those that no believed one comes before.
    """
    notes: list[str] = []
    hints = [names.checkpoint, *map(names.index, late)]
    for error in remove_each(disk, hints).values():
        raise error
    disk.sync_dir(names.directory)
    times = _Times(latest, first)
    for base, following in pairwise([*bases, None]):
        assert base is not None
        if base not in late and following not in late:
            continue  # its last time is not needed either
        path = names.segment(base)
        with closing(disk.open(path, "r")) as file:
            parts = times.believed(file, base)
            if base not in late:
                deque(parts, maxlen=0)  # for its last time
                continue
            put_parts_in_place(disk, path, parts)
            disk.sync_dir(names.directory)
        notes.append(f"{path}: {times.replaced} records have another append time now")
    return notes


class _Times:
    """Replaces the append times above `latest` by the last one before that is not."""

    def __init__(self, latest: int, first: int) -> None:
        self._latest = latest
        self._last = first
        self.replaced = 0  # in the segment that was read last

    def believed(self, file: File, base: int) -> Iterator[memoryview]:
        """The bytes of a segment with such times."""
        self.replaced = 0
        walk = SegmentWalk(file, 0, base, size=file.size())
        for stretch in walk:
            positions = stretch.scan.positions
            data = bytearray(stretch.data[: positions[-1]])
            for begin, end in pairwise(positions):
                time = frame_time(stretch.data, end)
                if time <= self._latest:
                    self._last = time
                else:
                    self.replaced += 1
                    data[begin:end] = with_time(stretch.data[begin:end], self._last)
            yield memoryview(data)
        assert walk.position == file.size(), walk.position  # before the new file gets its name
