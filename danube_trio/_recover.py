"""Recovery: from what a directory holds to the exact state of its log.

Synchronous code over the `Disk` interface; the lock is held meanwhile. The steps, in an order that
allows a crash anywhere (running it again gives the same state):

1. *Look*: listing, meta, trim, mark, checkpoint. Refuse what is not ours or newer, untouched.
2. *Scan* the last segment, in bounded memory.
3. *Judge* the first thing in it that is no frame: zeros to the end are the end of data; at or above
   the mark it is a torn tail; below the mark it is corruption, and the policy decides.
4. *Cut*: copy the cut bytes aside, lower the mark if the cut goes below it, truncate.
5. *Sync* segment, mark and directory. Only now may anything be served: otherwise a kill, a restart,
   a read and a power cut would take back a record that somebody has seen.
6. *Clean*: unfinished replacements, and segments below the start offset.
"""

from __future__ import annotations

import logging
from typing import TypeVar

import attrs

from danube_trio._core.crc import crc32
from danube_trio._core.disk import Disk, File, read_file, replace_file
from danube_trio._core.files import (
    MARK_FILE_BYTES,
    Checkpoint,
    Mark,
    Meta,
    NewerFormatError,
    Trim,
    decode_document,
    decode_marks,
    encode_document,
)
from danube_trio._core.index import SparseIndex
from danube_trio._core.segment import LogNames, Segment, SegmentList
from danube_trio._segment_io import CHUNK_BYTES, SegmentWalk, build_index, find_after
from danube_trio._tail import MarkFile, Tail
from danube_trio.config import WalConfig
from danube_trio.errors import CorruptDataError, UnsupportedFormatError

__all__ = ["Directory", "Recovered", "look", "read_mark", "recover", "refuse_foreign"]

log = logging.getLogger("danube_trio.recover")

T = TypeVar("T")

DOCUMENT_LIMIT_BYTES = 64 << 20


@attrs.frozen
class Directory:
    """What the small files and the listing of a log's directory say.

    Attributes:
        bases: base offsets of the segments from the one that holds `start_offset` on.
        leftover_bases: segments wholly below `start_offset`, still to be removed.
        leftovers: names of unfinished replacements.
    """

    names: LogNames
    meta: Meta
    start_offset: int
    bases: list[int]
    leftover_bases: list[int]
    leftovers: list[str]
    mark: Mark | None
    checkpoint: dict[int, Segment]

    @property
    def trailer(self) -> bool:
        """Whether the frames carry our trailer."""
        return self.meta.trailer > 0

    @property
    def directory_crc(self) -> int:
        """Ties the mark to this directory."""
        return _directory_crc(self.meta)


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


def refuse_foreign(disk: Disk, names: LogNames) -> tuple[list[str], Meta | None]:
    """Listing and meta of a directory that is ours or empty.

    Changes nothing. Raises UnsupportedFormatError or ValueError for any other directory.
    """
    listing = disk.list_dir(names.directory)
    if theirs := names.danube_files(listing):
        raise UnsupportedFormatError(
            f"{names.directory}/{theirs[0]}",
            "this file was written by Danube itself",
            "Choose another directory for the log; danube-trio never writes to Danube's own",
        )
    if others := names.other_logs(listing):
        raise ValueError(
            f"dir={names.directory!r} already holds the log of {others[0]!r}: "
            f"file_name={names.file_name!r} does not match, and a directory holds one log"
        )
    return listing, _read_document(disk, names.meta, Meta)


def look(disk: Disk, names: LogNames) -> Directory | None:
    """Read the small files; None if there is no log yet.

    Changes nothing. Raises UnsupportedFormatError, CorruptDataError or OSError.
    """
    listing, meta = refuse_foreign(disk, names)
    bases = names.segment_bases(listing)
    if meta is None:
        if bases:
            raise CorruptDataError(
                "the file is missing although there are segments",
                path=names.meta,
                advice="Restore it from a copy: it says how the messages are encoded",
            )
        return None
    trim = _read_document(disk, names.trim, Trim)
    start = trim.start_offset if trim is not None else 0
    mark = read_mark(disk, names, _directory_crc(meta))
    kept = [b for i, b in enumerate(bases) if i + 1 == len(bases) or bases[i + 1] > start]
    checkpoint = _read_checkpoint(disk, names)
    _check_bases(names, kept, start, mark, checkpoint)
    return Directory(
        names,
        meta,
        start,
        kept,
        [b for b in bases if b not in kept],
        names.leftovers(listing),
        mark,
        checkpoint,
    )


def _directory_crc(meta: Meta) -> int:
    return crc32(meta.directory_id.encode())


def _check_bases(
    names: LogNames,
    bases: list[int],
    start: int,
    mark: Mark | None,
    checkpoint: dict[int, Segment],
) -> None:
    """A segment that must exist and does not is corruption, never a shorter log."""
    expected = {s.base for s in checkpoint.values() if s.end > start}
    if mark is not None and mark.durable_end > start:
        expected.add(mark.base)
    if not bases and not expected and not start:
        return  # a crash between creating meta and the first segment
    if not bases or bases[0] > start:
        expected.add(start)
    for base in sorted(expected.difference(bases)):
        raise CorruptDataError(
            "the segment is missing", path=names.segment(base), offset=max(base, start)
        )


def _read_document(disk: Disk, path: str, kind: type[T]) -> T | None:
    try:
        data = read_file(disk, path, DOCUMENT_LIMIT_BYTES)
    except FileNotFoundError:
        return None
    try:
        return decode_document(data, kind)
    except NewerFormatError as error:
        raise UnsupportedFormatError(
            path, str(error), "Open it with the version that wrote it, or a later one"
        ) from error
    except (ValueError, KeyError) as error:
        raise CorruptDataError(
            str(error), path=path, advice="Restore the file from a copy of the directory"
        ) from error


def _read_checkpoint(disk: Disk, names: LogNames) -> dict[int, Segment]:
    """A hint: damaged or missing is the same as empty."""
    try:
        checkpoint = _read_document(disk, names.checkpoint, Checkpoint)
    except CorruptDataError as error:
        log.warning("ignoring the checkpoint: %s", error.reason)
        return {}
    return checkpoint.by_base() if checkpoint is not None else {}


def read_mark(disk: Disk, names: LogNames, directory_crc: int) -> Mark | None:
    """The durability mark, or None if it is missing or damaged."""
    try:
        return decode_marks(read_file(disk, names.mark, MARK_FILE_BYTES), directory_crc)
    except FileNotFoundError:
        return None


def recover(disk: Disk, config: WalConfig, directory_id: str) -> Recovered:
    """Open the log in `config.dir`, or make a new one with `directory_id`.

    Raises CorruptDataError (by policy), UnsupportedFormatError, ValueError, OSError.
    """
    assert config.dir is not None
    names = LogNames.of(config.dir, config.file_name)
    directory = look(disk, names)
    if directory is None:
        meta = Meta(directory_id=directory_id, codec=config.codec)
        replace_file(disk, names.meta, encode_document(meta))
        directory = look(disk, names)
        assert directory is not None
    notes: list[str] = []
    recovered = _recover_tail(disk, config, directory, notes)
    for name in directory.leftovers:
        disk.unlink(f"{names.directory}/{name}")
    for base in directory.leftover_bases:
        disk.unlink(names.segment(base))
        _unlink_if_there(disk, names.index(base))
    if directory.leftovers or directory.leftover_bases:
        disk.sync_dir(names.directory)
    for note in notes:
        log.warning("%s", note)
    return recovered


def _recover_tail(
    disk: Disk, config: WalConfig, directory: Directory, notes: list[str]
) -> Recovered:
    names = directory.names
    base = directory.bases[-1] if directory.bases else directory.start_offset
    file = disk.open(names.segment(base), "rw" if directory.bases else "create")
    try:
        size = file.size()
        index, walk = build_index(file, base, size=size, trailer=directory.trailer)
        next_offset = _settle(disk, config, directory, file, size, index, walk, notes)
        file.sync_data()
        segments = _sealed_segments(disk, directory, base)
        mark_file = _open_mark(disk, directory)
        # Before the mark speaks of a segment, its directory entry must be durable.
        disk.sync_dir(names.directory)
        tail = Tail(
            disk,
            names,
            file,
            mark_file,
            base=base,
            position=index.size_bytes,
            preallocate_bytes=config.preallocate_bytes,
            segment_bytes=config.segment_bytes,
        )
        if next_offset != index.end:
            # Damage stays where it is (policy "skip"): the log goes on in a new segment behind it.
            segments.seal(Segment(base, next_offset, size, index.first_time, index.last_time))
            tail.position = size
            tail.roll(next_offset)
            active = SparseIndex(next_offset)
        else:
            active = index
            mark_file.put(next_offset, base, index.size_bytes)
            mark_file.sync()
    except BaseException:
        file.close()
        raise
    return Recovered(directory, segments, active, tail, next_offset, index.last_time, notes)


def _sealed_segments(disk: Disk, directory: Directory, active_base: int) -> SegmentList:
    sealed: list[Segment] = []
    ends = [*directory.bases[1:], active_base]
    for base, end in zip(directory.bases[:-1], ends, strict=False):
        size = disk.file_size(directory.names.segment(base))
        known = directory.checkpoint.get(base)
        if known is not None and (known.end, known.size_bytes) == (end, size):
            sealed.append(known)
        else:
            sealed.append(Segment(base, end, size))
    return SegmentList(sealed, active_base)


def _open_mark(disk: Disk, directory: Directory) -> MarkFile:
    try:
        file = disk.open(directory.names.mark, "rw")
    except FileNotFoundError:
        file = disk.open(directory.names.mark, "create")
    newest = read_mark(disk, directory.names, directory.directory_crc)
    return MarkFile(file, directory.directory_crc, newest.sequence if newest is not None else 0)


def _settle(
    disk: Disk,
    config: WalConfig,
    directory: Directory,
    file: File,
    size: int,
    index: SparseIndex,
    walk: SegmentWalk,
    notes: list[str],
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
        if config.on_corruption == "refuse":
            raise problem
        notes.append(str(problem))
        if config.on_corruption == "skip":
            return _last_readable(file, size, walk, here, trailer=directory.trailer)
        _save_cut_bytes(disk, names, file, index.base, cut, size, "corrupt", notes)
        _lower_mark(disk, directory, index)
    elif fault is None and walk.left < 0:
        return index.end
    elif fault is None or not fault.only_zeros or walk.left >= 0:
        _save_cut_bytes(disk, names, file, index.base, cut, size, "torn", notes)
    file.truncate(cut)
    return index.end


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


def _save_cut_bytes(
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
    number = 0
    listing = set(disk.list_dir(names.directory))
    while (target := names.cut_bytes(base, position, kind, number)).rpartition("/")[2] in listing:
        number += 1
    copy = disk.open(target, "create")
    try:
        done = kept = position
        while done < size:
            data = file.read_at(min(CHUNK_BYTES, size - done), done)
            if not data:
                break
            copy.write_at(data, done - position)
            done += len(data)
            if stripped := data.rstrip(b"\0"):
                kept = done - len(data) + len(stripped)
        copy.truncate(kept - position)
        copy.sync_data()
    finally:
        copy.close()
    disk.sync_dir(names.directory)
    notes.append(
        f"{names.segment(base)}: cut {kept - position} bytes at byte {position} "
        f"({'never acknowledged as durable' if kind == 'torn' else 'damaged'}); "
        f"they are kept in {target}"
    )


def _lower_mark(disk: Disk, directory: Directory, index: SparseIndex) -> None:
    """Before a cut below the mark: lower it, durably, so that a crash in between is harmless."""
    mark_file = _open_mark(disk, directory)
    try:
        for _ in range(2):  # both slots, so that no old mark can win later
            mark_file.put(index.end, index.base, index.size_bytes)
        mark_file.sync()
    finally:
        mark_file.close()


def _unlink_if_there(disk: Disk, path: str) -> None:
    try:
        disk.unlink(path)
    except FileNotFoundError:
        log.debug("%s was gone already", path)
