"""Recovery: from what a directory holds to the exact state of its log.

Synchronous code over the `Disk` interface; the lock is held meanwhile. The steps, in an order that
allows a crash anywhere (running it again gives the same state):

1. *Look*: listing, meta, trim, mark, checkpoint. Refuse what is not ours or newer, untouched; and,
   as the policy says, segments that do not tile the log (`tiling`).
2. *Scan* the last segment, in bounded memory.
3. *Judge* the first thing in it that is no frame: zeros to the end are the end of data; at or above
   the mark it is a torn tail; below the mark it is corruption, and the policy decides.
4. *Cut*: copy the cut bytes aside, lower the mark if the cut goes below it, truncate.
5. *Sync* segment, mark and directory. Only now may anything be served: otherwise a kill, a restart,
   a read and a power cut would take back a record that somebody has seen.
6. *Clean*: unfinished replacements, and segments below the start offset. What cannot be removed
   stays until the next opening.

A full disk must not keep a log from being opened, since opening it is how it is freed: `space` has
what is given back for the few bytes and names that are needed here.
"""

from __future__ import annotations

import logging
from contextlib import ExitStack, closing, suppress
from functools import partial

import attrs

from danube_trio._core.disk import (
    Disk,
    File,
    FileStat,
    OpenDirectory,
    free_path,
    parent_of,
    pieces_of,
    put_in_place,
    replace_file,
)
from danube_trio._core.files import (
    Mark,
    Meta,
    Trim,
    encode_document,
)
from danube_trio._core.identity import check_topic, named
from danube_trio._core.index import SparseIndex
from danube_trio._core.segment import LogNames, Segment, SegmentList
from danube_trio._engine.files.directory import Directory, look
from danube_trio._engine.files.presence import Presence
from danube_trio._engine.files.segments import (
    SegmentWalk,
    build_index,
    describe,
    find_after,
    load_index,
)
from danube_trio._engine.files.space import (
    no_space,
    put_trim,
    remove_each,
    renew_trim,
    unshare,
    with_room,
)
from danube_trio._engine.files.tail import MarkFile, Tail, put_mark
from danube_trio._engine.files.tiling import check_tiling
from danube_trio.config import WalConfig
from danube_trio.errors import CorruptDataError

__all__ = ["Cover", "Recovered", "recover", "save_cut_bytes"]

log = logging.getLogger("danube_trio.recover")


@attrs.define(eq=False)
class Recovered:
    """An opened log, ready to be written: its directory, tail and marks."""

    directory: Directory
    segments: SegmentList
    active: SparseIndex
    tail: Tail
    next_offset: int
    last_time: int
    notes: list[str]
    unindexed: list[SparseIndex] = attrs.Factory(list[SparseIndex])


@attrs.frozen
class Cover:
    """What an object store says of the log that a directory belongs to.

    Attributes:
        end: verified objects hold everything below it that still exists; the log goes on there
            if the directory knows less.
        start_offset: where the log begins.
        codec: the message layout of the log, for a new directory; "" to take the settings'.
        log: its id; "" if the catalog does not know it yet.
    """

    end: int = 0
    start_offset: int = 0
    codec: str = ""
    log: str = ""


def recover(
    disk: OpenDirectory, config: WalConfig, directory_id: str, cover: Cover | None = None
) -> Recovered:
    """Open the log in `config.dir`, or make a new one with `directory_id`.

    The directory is held, and locked, by the caller.
    With a `cover` the log's active segment is empty afterwards, for a new epoch to begin in.

    Raises CorruptDataError (by policy), UnsupportedFormatError, ValueError, OSError.
    """
    assert config.dir is not None
    names = LogNames.of(config.dir, config.file_name)
    skip = config.on_corruption == "skip"
    covered_end, log_id = (cover.end, cover.log) if cover is not None else (0, "")
    directory = look(disk, names, skip=skip, covered_end=covered_end)
    fresh = directory is None
    if directory is None:
        codec = (cover.codec if cover is not None else "") or config.codec
        meta = named(Meta(directory_id=directory_id, codec=codec), log_id, config.topic_name)
        replace_file(disk, names.meta, encode_document(meta))
        directory = look(disk, names, covered_end=covered_end)
        assert directory is not None
    else:
        check_topic(config.topic_name, directory.meta.topic, names.directory)
        meta = named(directory.meta, log_id, config.topic_name)
        directory = attrs.evolve(directory, meta=meta)
    if cover is not None:
        directory = _under_cover(directory, cover)
    if not fresh and not directory.bases:
        # Whoever made it was killed, or its sync failed: its name may not be durable, and must be
        # before that of the first segment is.
        replace_file(disk, names.meta, encode_document(directory.meta))
    notes: list[str] = []
    directory, found = check_tiling(disk, directory, covered_end, notes, skip=skip)
    with ExitStack() as undo:
        recovered = _recover_tail(disk, config, directory, found, undo, cover)
        if recovered.next_offset < covered_end:
            recovered.tail.abandon()
            directory = _continue_at(disk, directory, covered_end)
            recovered = _recover_tail(disk, config, directory, {}, undo, cover)
        recovered.notes[:0] = notes
        if not fresh:
            _renew(disk, names.meta, directory.meta, recovered.notes)
        if _renew_trim(disk, directory, recovered.notes):
            _remove_leftovers(disk, directory, recovered.notes)
        undo.pop_all()
    for note in recovered.notes:
        log.warning("%s", note)
    return recovered


def _under_cover(directory: Directory, cover: Cover) -> Directory:
    start = max(directory.start_offset, cover.start_offset)
    local_start = directory.local_start
    if not directory.bases:
        local_start = max(local_start, start, cover.end)
    return attrs.evolve(directory, start_offset=start, local_start=local_start)


def _continue_at(disk: Disk, directory: Directory, end: int) -> Directory:
    """Objects hold more of the log than the directory does: its files may go, all of them."""
    names = directory.names
    gone = [*directory.leftover_bases, *directory.bases]
    directory = attrs.evolve(directory, local_start=end, bases=[], leftover_bases=gone)
    renew_trim(disk, names, _trim_of(directory))
    log.info("%s: the log continues at %d, as the catalog says", names.directory, end)
    return directory


def _trim_of(directory: Directory) -> Trim:
    local = directory.local_start
    return Trim(directory.start_offset, local if local > directory.start_offset else 0)


def _renew_trim(disk: Disk, directory: Directory, notes: list[str]) -> bool:
    """Make the start durable again, in a file that has the room to move it. False: it is not."""
    names = directory.names
    try:
        put_trim(disk, names, _trim_of(directory))
    except OSError as error:
        if not no_space(error):
            raise
        notes.append(f"{names.trim}: no space to write it again")
        return False
    disk.sync_dir(names.directory)
    return True


def _remove_leftovers(disk: Disk, directory: Directory, notes: list[str]) -> None:
    names = directory.names
    gone = [f"{names.directory}/{name}" for name in directory.leftovers]
    for base in directory.leftover_bases:
        gone += names.segment(base), names.index(base)
    for path, error in remove_each(disk, gone).items():
        notes.append(f"{path}: nothing needs it any more, and it cannot be removed: {error}")
    if gone:
        disk.sync_dir(names.directory)


def _recover_tail(
    disk: OpenDirectory,
    config: WalConfig,
    directory: Directory,
    found: dict[int, FileStat],
    undo: ExitStack,
    cover: Cover | None,
) -> Recovered:
    """Scan, judge, cut and sync the last segment. `undo` closes the files if opening fails."""
    names = directory.names
    notes: list[str] = []
    base = directory.bases[-1] if directory.bases else directory.local_start
    file = _open_last(disk, names, base, exists=bool(directory.bases))
    with ExitStack() as files:
        files.callback(file.close)
        size = file.size()
        index, walk = build_index(file, base, size=size, trailer=directory.trailer)
        covered_end = cover.end if cover is not None else 0
        next_offset = _settle(disk, config, directory, file, size, index, walk, notes, covered_end)
        _write_again(file, directory, index)
        file.sync_data()
        presence = Presence(disk, names.directory)
        segments = _sealed_segments(directory, found, base, disk, presence)
        last_time = index.last_time or _last_sealed_time(disk, directory, segments)
        mark_file = MarkFile.open(disk, names, directory.directory_crc)
        files.callback(mark_file.close)
        # Before the mark speaks of a segment, its directory entry must be durable.
        disk.sync_dir(names.directory)
        tail = Tail(
            disk,
            names,
            file,
            mark_file,
            presence,
            base=base,
            position=index.size_bytes,
            preallocate_bytes=config.preallocate_bytes,
            segment_bytes=config.segment_bytes,
            checksum=cover is not None,
        )
        unindexed: list[SparseIndex] = []
        if next_offset != index.end:
            # Damage stays where it is (policy "skip"): the log goes on in a new segment behind it.
            segments.seal(Segment(base, next_offset, size, index.first_time, index.last_time))
            tail.position = size
            tail.roll_with_room(next_offset)
            active = SparseIndex(next_offset)
        elif cover is not None and index.size_bytes:
            segments.seal(index.segment())
            tail.roll_with_room(next_offset)
            active = SparseIndex(next_offset)
            unindexed.append(index)
        else:
            active = index
            mark_file.put(next_offset, base, index.size_bytes)
            mark_file.sync()
        files.pop_all()
        undo.callback(tail.abandon)
    return Recovered(directory, segments, active, tail, next_offset, last_time, notes, unindexed)


def _open_last(disk: Disk, names: LogNames, base: int, *, exists: bool) -> File:
    """Open the last segment. An empty one is made anew, since its name may not be durable.

    After a sync of the directory that failed at the roll, one that succeeds later proves nothing.
    """
    path = names.segment(base)
    if not exists:
        return with_room(disk, names, partial(disk.open, path, "create"))
    if not disk.file_size(path):
        # By renaming: the name must never be gone in between.
        with_room(disk, names, partial(put_in_place, disk, path, b""))
    unshare(disk, path)
    return disk.open(path, "rw")


def _write_again(file: File, directory: Directory, index: SparseIndex) -> None:
    """Write what the mark does not vouch for once more, in place, before the sync.

    After a failed sync the kernel takes the pages for clean: they can be read, they are not on
    disk, and the next sync succeeds without writing them. Written again, they are dirty again.
    """
    mark = directory.mark
    begin = mark.position if mark is not None and mark.base == index.base else 0
    for position, data in pieces_of(file, begin, index.size_bytes):
        file.write_at(data, position)


def _renew(disk: Disk, path: str, document: object, notes: list[str]) -> None:
    """Replace a small file by itself: its name may not be durable either."""
    try:
        put_in_place(disk, path, encode_document(document))
    except OSError as error:
        if not no_space(error):
            raise
        notes.append(f"{path}: no space to write it again")
    else:  # if this fails, for whatever reason, nobody knows what is durable
        disk.sync_dir(parent_of(path))


def _last_sealed_time(disk: Disk, directory: Directory, segments: SegmentList) -> int:
    """Time of the newest record when the active segment has none: append times never fall."""
    if not len(segments):
        return 0
    newest = segments.sealed()[-1]
    if newest.last_time:
        return newest.last_time
    return load_index(disk, directory.names, newest, trailer=directory.trailer).last_time


def _sealed_segments(
    directory: Directory,
    stats: dict[int, FileStat],
    active_base: int,
    disk: Disk,
    presence: Presence,
) -> SegmentList:
    sealed: list[Segment] = []
    ends = [*directory.bases[1:], active_base]
    for base, end in zip(directory.bases[:-1], ends, strict=False):
        path = directory.names.segment(base)
        found = stats[base]
        presence.know(path, found)
        size = found.size_bytes
        known = directory.checkpoint.get(base)
        if directory.exact and known is not None and (known.end, known.size_bytes) == (end, size):
            sealed.append(known)
        else:
            segment = Segment(base, end, size)
            segment = describe(disk, directory.names, segment, trailer=directory.trailer)
            if segment.size_bytes != size:
                presence.know(path)  # zeros were cut off
            sealed.append(segment)
    return SegmentList(sealed, active_base)


def _settle(
    disk: Disk,
    config: WalConfig,
    directory: Directory,
    file: File,
    size: int,
    index: SparseIndex,
    walk: SegmentWalk,
    notes: list[str],
    covered_end: int,
) -> int:
    """Judge what follows the last whole batch, and cut it if that is right. Returns next_offset."""
    names, mark = directory.names, directory.mark
    path = names.segment(index.base)
    cut = index.size_bytes
    here = mark if mark is not None and mark.base == index.base else None
    fault = walk.fault
    lost_below_mark = here is not None and (cut < here.position or index.end < here.durable_end)
    if lost_below_mark:
        assert here is not None
        reason = (
            fault.reason if fault is not None else "the file is shorter than the durability mark"
        )
        if fault is None and walk.left >= 0:
            reason = "a batch is not whole"
        problem = CorruptDataError(
            f"{reason} (below the durability mark at byte {here.position})",
            path=path,
            position=walk.position,
            offset=walk.offset,
        )
        covered = here.durable_end <= covered_end
        if config.on_corruption == "refuse" and not covered:
            raise problem
        notes.append(f"{problem}{' (healed from the object store)' if covered else ''}")
        if config.on_corruption == "skip" and not covered:
            return _last_readable(file, size, walk, here, trailer=directory.trailer)
        save_cut_bytes(disk, names, file, index.base, cut, size, "corrupt", notes)
        place = (index.end, index.base, index.size_bytes)
        # Before the cut, so that a crash in between leaves a torn tail and not damage.
        put_mark(disk, names, directory.directory_crc, *place, taken_back=not covered)
    elif mark is not None and mark.base < index.base and index.end < mark.durable_end:
        _miss_before_mark(config, mark, path, index, notes, covered_end)
        return max(index.end, mark.durable_end) if config.on_corruption == "skip" else index.end
    elif fault is None and walk.left < 0:
        return index.end
    elif fault is None or not fault.only_zeros or walk.left >= 0:
        save_cut_bytes(disk, names, file, index.base, cut, size, "torn", notes)
    file.truncate(cut)
    return index.end


def _miss_before_mark(
    config: WalConfig,
    mark: Mark,
    path: str,
    index: SparseIndex,
    notes: list[str],
    covered_end: int,
) -> None:
    """The log ends below the mark, and in another segment than that says: nothing may be cut."""
    problem = CorruptDataError(
        f"records {index.end} to {mark.durable_end} are in no segment, and were durable",
        path=path,
        position=index.size_bytes,
        offset=index.end,
        advice="Restore the directory from a copy, all of its files from the same one",
    )
    if config.on_corruption != "skip" and mark.durable_end > covered_end:
        raise problem
    notes.append(str(problem))


def _last_readable(file: File, size: int, walk: SegmentWalk, mark: Mark, *, trailer: bool) -> int:
    """Where the log ends when damage is stepped over: after the last valid frame, or the mark."""
    end = max(walk.offset, mark.durable_end)
    position, offset = walk.position, walk.offset
    while (found := find_after(file, position + 1, offset, size=size, trailer=trailer)) is not None:
        onward = SegmentWalk(file, found[0], found[1], size=size, trailer=trailer)
        for _ in onward:
            end = max(end, onward.offset)
        position, offset = onward.position, onward.offset
    return end


def save_cut_bytes(
    disk: Disk,
    names: LogNames,
    file: File,
    base: int,
    position: int,
    size: int,
    kind: str,
    notes: list[str],
) -> None:
    """Copy what is cut to a file beside, durably, in bounded memory; without zeros at the end."""
    path_of = partial(names.cut_bytes, base, position, kind)
    target = free_path(disk.list_dir(names.directory), path_of)
    what = f"{names.segment(base)}: cut at byte {position}"
    try:
        kept = _copy_to(disk, file, position, size, target)
    except OSError as error:
        with suppress(FileNotFoundError):
            disk.unlink(target)
        # What was never acknowledged must not keep a full disk from being opened, and trimmed.
        if kind != "torn" or not no_space(error):
            raise
        notes.append(f"{what} (never acknowledged as durable); no space to keep the bytes")
        return
    disk.sync_dir(names.directory)
    why = "never acknowledged as durable" if kind == "torn" else "damaged"
    notes.append(f"{what} ({why}); the {kept} bytes are kept in {target}")


def _copy_to(disk: Disk, file: File, position: int, size: int, target: str) -> int:
    with closing(disk.open(target, "create")) as copy:
        kept = 0
        for at, data in pieces_of(file, position, size):
            copy.write_at(data, at - position)
            if stripped := data.rstrip(b"\0"):
                kept = at - position + len(stripped)
        copy.truncate(kept)
        copy.sync_data()
    return kept
