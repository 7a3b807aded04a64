"""Whether the sealed segments tile the log: each ends where the next one begins.

A segment's name says where it begins, and the next one's where it ends: nothing in the listing says
whether these are the records that are in it. To read them all would take as long as the log is. So
recovery asks what it has at hand, and reads the segments of which any of it says something else:

- *a size of nothing*: a sealed segment has records;
- *the checkpoint, an index*: hints, written when the segment was sealed;
- *the mark*: a roll makes it durable before the next segment exists. So it ends the segment before
  the last one, at least, exactly where that ends; if it does not, it was put here from an older
  copy, or the last segment was. Without a mark only the segment before the last one is read.

What is damaged inside a segment is for whoever reads it. Here it is asked only whether the records
are in some segment at all, and in no more than one.
"""

from __future__ import annotations

import attrs

from danube_trio._core.disk import Disk, FileStat
from danube_trio._engine.files.directory import Directory, stray_error
from danube_trio._engine.files.segments import read_index, scan_segment
from danube_trio.errors import CorruptDataError


def check_tiling(
    disk: Disk, directory: Directory, covered_end: int, notes: list[str], *, skip: bool
) -> tuple[Directory, dict[int, FileStat]]:
    """Returns the directory and the sealed files as they are. Changes nothing on disk.

    Raises CorruptDataError if records are missing, or a file is no segment of this log. With `skip`
    the first are a gap for readers, and the second is left out, with a note; below `covered_end`
    objects have it all.
    """
    names = directory.names
    notes += [str(stray_error(names, b, *_of_mark(directory))) for b in directory.strays]
    found = {base: disk.stat(names.segment(base)) for base in directory.bases[:-1]}
    kept, strays = directory.bases[:1], list(directory.strays)
    for base in directory.bases[1:]:
        before, end = kept[-1], base
        stat = found[before]
        problem = None
        if end > covered_end and _is_doubtful(disk, directory, before, end, stat):
            problem = _read(disk, directory, before, end, stat)
        if problem is not None and not skip:
            raise problem
        if problem is not None:
            notes.append(str(problem))
        is_stray = problem is not None and problem.offset == end
        (strays if is_stray else kept).append(base)
    return attrs.evolve(directory, bases=kept, strays=strays), found


def _of_mark(directory: Directory) -> tuple[int, int]:
    assert directory.mark is not None
    return directory.mark.base, directory.mark.durable_end


def _is_doubtful(disk: Disk, directory: Directory, base: int, end: int, stat: FileStat) -> bool:
    mark, known = directory.mark, directory.checkpoint.get(base)
    if not stat.size_bytes:
        return True
    if known is None:
        index = read_index(disk, directory.names, base, stat.size_bytes)
        if index is not None and index.end != end:
            return True
    elif known.end != end:
        return True
    if mark is None:
        return end == directory.bases[-1]
    if base < mark.base:
        return False
    return (base, end, stat.size_bytes) != (mark.base, mark.durable_end, mark.position)


def _read(
    disk: Disk, directory: Directory, base: int, end: int, stat: FileStat
) -> CorruptDataError | None:
    """What is wrong with a segment that must end at `end`; None if it is only damaged, or right."""
    names = directory.names
    path = names.segment(base)
    index, walk = scan_segment(disk, path, base, size=stat.size_bytes, trailer=directory.trailer)
    if index.end > end:
        return stray_error(names, end, base, index.end)
    if index.end == end or (walk.fault is not None and not walk.fault.only_zeros):
        return None
    return CorruptDataError(
        f"records {index.end} to {end} are in no segment",
        path=path,
        position=index.size_bytes,
        offset=index.end,
        advice=f"Restore the file from a copy of the directory; or, if {names.segment(end)} is not "
        "of this log, move it out of the directory",
    )
