"""Mending append times that a wrong clock left: a step of a repair, with the lock held.

A record whose time is ahead of the clock (`clocks`) gets that of the last one before it whose time
is not, or, at the begin of the log, of the first such one. Nothing else of it changes, so neither
does the size of anything: a segment is written anew beside, durably, and renamed. Whatever is read
meanwhile is whole, with the old times or the new ones. The hints that know them go before.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from itertools import pairwise

from danube_trio._core.disk import TMP_SUFFIX, Disk, File, parent_of
from danube_trio._core.frame import frame_time, with_time
from danube_trio._core.segment import LogNames
from danube_trio._engine.files.segments import SegmentWalk
from danube_trio._engine.files.space import remove_each

__all__ = ["retime"]


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
    for base, following in pairwise([*bases, None]):
        assert base is not None
        if base not in late and following not in late:
            continue  # its last time is not needed either
        path = names.segment(base)
        with closing(disk.open(path, "r")) as file:
            if base in late:
                count, first = _rewrite(disk, file, base, latest, first)
                notes.append(f"{path}: {count} records have another append time now")
            else:
                _, first = _copy(file, None, base, latest, first)
    return notes


def _rewrite(disk: Disk, file: File, base: int, latest: int, first: int) -> tuple[int, int]:
    temporary = file.path + TMP_SUFFIX
    for error in remove_each(disk, [temporary]).values():
        raise error
    with closing(disk.open(temporary, "create")) as copy:
        done = _copy(file, copy, base, latest, first)
        copy.sync_data()
    disk.rename(temporary, file.path)
    disk.sync_dir(parent_of(file.path))
    return done


def _copy(file: File, copy: File | None, base: int, latest: int, first: int) -> tuple[int, int]:
    """Returns how many times were too late, and the last one that was not."""
    count = 0
    walk = SegmentWalk(file, 0, base, size=file.size())
    for stretch in walk:
        positions = stretch.scan.positions
        data = bytearray(stretch.data[: positions[-1]])
        for begin, end in pairwise(positions):
            time = frame_time(stretch.data, end)
            if time <= latest:
                first = time
            else:
                count += 1
                data[begin:end] = with_time(stretch.data[begin:end], first)
        if copy is not None:
            copy.write_at(data, stretch.position)
    assert walk.position == file.size(), walk.position
    return count, first
