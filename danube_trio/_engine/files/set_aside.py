"""Whose is the local tail? What a directory does when it meets the catalog of its log.

Records that are acknowledged in a directory and not uploaded yet, its *tail*, are part of the log
as long as nobody else took the log over. `belongs` decides it, from what is durable on both sides:

- the catalog names the *owner*, a directory id, and since which epoch it is the owner;
- ``wal.meta`` has the epochs that this directory took, each saved before it was published, with the
  first offset that was written under it.

A directory that is not the owner any more, or whose id took an epoch that its meta knows nothing
of, or says that another opening took (somebody copied the directory, and opened the copy), must
not bring its tail back: other records have these offsets now. `set_aside` moves it to ``*.fenced``,
says which offsets, and leaves a directory that begins where the catalog ends. Segments that the
catalog holds byte for byte are just local copies, and go. What was trimmed meanwhile cannot be
compared any more, and is set aside too.

It may crash anywhere: as long as the directory does not own the log it begins again, and finds the
rest. Nothing is renamed or removed before the catalog was read.
"""

from __future__ import annotations

import logging
from functools import partial
from itertools import zip_longest

from danube_trio._core.catalog import CatalogState, Descriptor
from danube_trio._core.disk import Disk, replace_file
from danube_trio._core.files import Mark, Meta, Trim, encode_trim, mark_position
from danube_trio._core.segment import LogNames
from danube_trio._engine.files.directory import directory_crc, read_document, read_mark
from danube_trio._engine.files.room import with_room
from danube_trio._engine.files.segments import build_index, file_crc

__all__ = ["belongs", "set_aside"]

log = logging.getLogger("danube_trio.fencing")

_LAST = 1 << 64  # no segment follows


def belongs(meta: Meta, state: CatalogState) -> bool:
    """Whether the tail of this directory still is part of the log."""
    if not state.owner:
        return True
    if state.owner != meta.directory_id or (state.epoch, state.writer) not in meta.writers:
        return False
    tail_epoch = max((epoch for epoch, first in meta.epochs if first <= state.end), default=0)
    return state.owner_since_epoch <= tail_epoch


def set_aside(disk: Disk, names: LogNames, meta: Meta, state: CatalogState) -> list[str]:
    """Take everything out of the way that the catalog does not hold. Returns what to tell."""
    mark = read_mark(disk, names, directory_crc(meta))
    trim = read_document(disk, names.trim, Trim) or Trim(0)
    listing = set(disk.list_dir(names.directory))
    bases = names.segment_bases(sorted(listing))
    moved: list[tuple[int, int]] = []
    targets: list[str] = []
    for base, following in zip_longest(bases, bases[1:], fillvalue=_LAST):
        path = names.segment(base)
        copied = state.find(base)
        if (
            following <= trim.first_local
            or not disk.file_size(path)
            or (copied is not None and _same(disk, path, copied))
        ):
            disk.unlink(path)  # trimmed here, or empty, or a copy of an object
            continue
        known = mark.durable_end if mark is not None else 0
        end = following if following != _LAST else max(_end_of(disk, path, base), known)
        targets.append(_free_name(names, base, listing))
        if following == _LAST:
            _sync(disk, path)
        disk.rename(path, targets[-1])
        moved.append((base, end))
    disk.sync_dir(names.directory)
    _begin_at(disk, names, meta, state, mark)
    if not moved:
        return []
    note = (
        f"{names.directory}: records {_ranges(moved)} were kept here only when {state.writer} took "
        f"the log over (epoch {state.epoch}), so they are not part of it; they are in "
        f"{', '.join(targets)}"
    )
    log.warning("%s", note)
    return [note]


def _ranges(pieces: list[tuple[int, int]]) -> str:
    joined: list[tuple[int, int]] = []
    for base, end in pieces:
        if joined and joined[-1][1] == base:
            base = joined.pop()[0]
        joined.append((base, end))
    return ", ".join(f"{base} to {end}" for base, end in joined)


def _same(disk: Disk, path: str, descriptor: Descriptor) -> bool:
    file = disk.open(path, "r")
    try:
        return file.size() == descriptor.size_bytes and file_crc(file) == descriptor.crc32
    finally:
        file.close()


def _end_of(disk: Disk, path: str, base: int) -> int:
    """The offset after the last whole batch; for the report."""
    file = disk.open(path, "r")
    try:
        return build_index(file, base, size=file.size())[0].end
    finally:
        file.close()


def _sync(disk: Disk, path: str) -> None:
    """What a killed process wrote last may never have been synced, and is said to be kept."""
    file = disk.open(path, "rw")
    try:
        file.sync_data()
    finally:
        file.close()


def _free_name(names: LogNames, base: int, listing: set[str]) -> str:
    number = 0
    while (target := names.cut_bytes(base, 0, "fenced", number)).rpartition("/")[2] in listing:
        number += 1
    return target


def _begin_at(
    disk: Disk, names: LogNames, meta: Meta, state: CatalogState, mark: Mark | None
) -> None:
    """Make trim, checkpoint and mark agree with a directory that begins at the catalog's end."""
    trim = Trim(state.start_offset, state.end if state.end > state.start_offset else 0)
    # As a whole, not in place: the catalog may begin before what was trimmed here.
    with_room(disk, names, partial(replace_file, disk, names.trim, encode_trim(trim)))
    if mark is not None:
        file = disk.open(names.mark, "rw")
        try:
            for sequence in (mark.sequence + 1, mark.sequence + 2):  # both slots
                slot = Mark(sequence, state.end, state.end, 0).encode(directory_crc(meta))
                file.write_at(slot, mark_position(sequence))
            file.sync_data()
        finally:
            file.close()
    if names.checkpoint.rpartition("/")[2] in disk.list_dir(names.directory):
        disk.unlink(names.checkpoint)
    disk.sync_dir(names.directory)
