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

**Apart.** Both of that compare what was said about records, not the records. A copy of a directory
knows all epochs up to where it was copied; used without its store, it gives offsets that the
original gave too, and uploaded. So bytes are compared as well: `went_on_apart` says whether the
last local segment that objects cover is another one than they are, each time before anything local
goes. Histories that parted never meet again, so one segment tells about all before it. Such a
directory is made a stranger first (`disown`), durably, and is set aside then as any other.

It may crash anywhere: as long as the directory does not own the log it begins again, and finds the
rest. Nothing is renamed or removed before the catalog was read, nor, if followers may have seen
what goes, before the mark says so, durably.
"""

from __future__ import annotations

import logging
from contextlib import closing, suppress
from functools import partial
from itertools import zip_longest

import attrs

from danube_trio._core.catalog import CatalogState, Descriptor
from danube_trio._core.disk import Disk, free_path, name_of, replace_file
from danube_trio._core.files import Mark, Meta, Trim, encode_document, encode_trim
from danube_trio._core.segment import LogNames
from danube_trio._engine.files.directory import directory_crc, read_document, read_mark
from danube_trio._engine.files.segments import build_index, file_crc, only_zeros, reach
from danube_trio._engine.files.space import replace_with_room
from danube_trio._engine.files.tail import put_mark

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


def went_on_apart(disk: Disk, names: LogNames, meta: Meta, state: CatalogState) -> bool:
    """Whether the files have another history than the objects. Reads one segment, as a rule."""
    trim = read_document(disk, names.trim, Trim) or Trim(0)
    mark = read_mark(disk, names, directory_crc(meta))
    bases = names.segment_bases(disk.list_dir(names.directory))
    pairs = zip_longest(bases, bases[1:], fillvalue=_LAST)
    for base, following in reversed(list(pairs)):
        covering = state.find(base)
        if following <= trim.first_local or covering is None:
            continue  # a leftover; not uploaded, or trimmed
        known = mark.durable_end if mark is not None and mark.base == base else base + 1
        end = following if following != _LAST else max(known, base + 1)
        verdict = same_records(disk, names.segment(base), base, end, covering)
        if verdict is not None:
            return not verdict
    return False


def same_records(disk: Disk, path: str, base: int, end: int, covering: Descriptor) -> bool | None:
    """Whether a segment is the object that covers its base, or begins with it.

    None if it has no records, or fewer than `end` says that it must have: then it is damaged, and
    tells nothing.
    """
    with closing(disk.open(path, "r")) as file:
        size = file.size()
        begins_alike = covering.base == base and size >= covering.size_bytes
        if begins_alike and file_crc(file, covering.size_bytes) == covering.crc32:
            return True
        index = build_index(file, base, size=size)[0]
    return None if index.end < end else False


def disown(disk: Disk, names: LogNames, meta: Meta) -> Meta:
    """Make a directory one that knows of no epoch which the catalog names."""
    meta = attrs.evolve(meta, writers=())
    replace_file(disk, names.meta, encode_document(meta))
    return meta


def set_aside(disk: Disk, names: LogNames, meta: Meta, state: CatalogState) -> list[str]:
    """Take everything out of the way that the catalog does not hold. Returns what to tell."""
    mark = read_mark(disk, names, directory_crc(meta))
    trim = read_document(disk, names.trim, Trim) or Trim(0)
    listing = disk.list_dir(names.directory)
    bases = names.segment_bases(listing)
    moved: list[tuple[int, int]] = []
    targets: list[str] = []
    spare: list[int] = []  # trimmed here, or empty, or a copy of an object
    own: list[tuple[int, int]] = []
    for base, following in zip_longest(bases, bases[1:], fillvalue=_LAST):
        path, copied = names.segment(base), state.find(base)
        if (
            following <= trim.first_local
            or not disk.file_size(path)
            or (copied is not None and _same(disk, path, copied))
        ):
            spare.append(base)
        else:
            own.append((base, following))
    if own:  # before anything that they may have seen goes
        _tell_followers(disk, names, meta, mark, own[0][0], bases[-1])
    for base in spare:
        disk.unlink(names.segment(base))
    for base, following in own:
        path = names.segment(base)
        known = mark.durable_end if mark is not None else 0
        end = following if following != _LAST else max(reach(disk, names, base), known)
        targets.append(free_path(listing, partial(names.cut_bytes, base, 0, "fenced")))
        if following == _LAST:
            _sync(disk, path)
        disk.rename(path, targets[-1])
        moved.append((base, end))
    disk.sync_dir(names.directory)  # the old names are gone before the log begins elsewhere
    _begin_at(disk, names, meta, state)
    assert not names.segment_bases(disk.list_dir(names.directory)), names.directory
    if not moved:
        return []
    if state.owner == meta.directory_id and not meta.writers:  # see `disown`
        why = (
            f"are not those that the store has at these offsets (of {state.writer}, epoch "
            f"{state.epoch}): this directory and a copy of it went on apart, or it was restored "
            f"from a copy"
        )
    else:
        why = f"were kept here only when {state.writer} took the log over (epoch {state.epoch})"
    note = (
        f"{names.directory}: records {_ranges(moved)} {why}, so they are not part of the log; "
        f"they are in {', '.join(targets)}"
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
    with closing(disk.open(path, "r")) as file:
        size, end = file.size(), descriptor.size_bytes
        return (
            size >= end
            and file_crc(file, end) == descriptor.crc32
            and only_zeros(file, end, size)  # space that was reserved, and never filled
        )


def _sync(disk: Disk, path: str) -> None:
    """What a killed process wrote last may never have been synced, and is said to be kept."""
    with closing(disk.open(path, "rw")) as file:
        file.sync_data()


def _tell_followers(
    disk: Disk, names: LogNames, meta: Meta, mark: Mark | None, start: int, last_base: int
) -> None:
    """Records from `start` on go: begin a generation of the mark if some of them were visible."""
    # Without a mark what is sealed is visible.
    seen = mark if mark is not None else Mark(0, last_base, last_base, 0)
    if start >= seen.durable_end:
        return
    place = (seen.durable_end, seen.base, seen.position)
    put_mark(disk, names, directory_crc(meta), *place, taken_back=True)
    disk.sync_dir(names.directory)  # without a mark there was no such file


def _begin_at(disk: Disk, names: LogNames, meta: Meta, state: CatalogState) -> None:
    """Make trim, checkpoint and mark agree with a directory that begins at the catalog's end."""
    trim = Trim(state.start_offset, state.end if state.end > state.start_offset else 0)
    # As a whole, not in place: the catalog may begin before what was trimmed here.
    replace_with_room(disk, names, names.trim, encode_trim(trim))
    if name_of(names.mark) in disk.list_dir(names.directory):
        put_mark(disk, names, directory_crc(meta), state.end, state.end, 0)
    with suppress(FileNotFoundError):
        disk.unlink(names.checkpoint)
    disk.sync_dir(names.directory)
