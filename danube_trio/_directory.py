"""Looking at a log's directory: the listing and the small files, nothing changed.

The writer looks while it holds the lock; followers and tools look while somebody else writes, and
must expect files to be replaced between two reads.
"""

from __future__ import annotations

import logging
from typing import TypeVar

import attrs

from danube_trio._core.codec import CODECS
from danube_trio._core.crc import crc32
from danube_trio._core.disk import Disk, read_file
from danube_trio._core.files import (
    MARK_FILE_BYTES,
    Checkpoint,
    Mark,
    Meta,
    NewerFormatError,
    Trim,
    decode_document,
    decode_marks,
)
from danube_trio._core.segment import LogNames, Segment
from danube_trio.errors import CorruptDataError, UnsupportedFormatError

__all__ = ["Directory", "look", "read_mark", "refuse_foreign"]

log = logging.getLogger("danube_trio.directory")

T = TypeVar("T")

DOCUMENT_LIMIT_BYTES = 64 << 20


@attrs.frozen
class Directory:
    """What the small files and the listing of a log's directory say.

    Attributes:
        bases: base offsets of the segments from the one that holds `start_offset` on.
        leftover_bases: segments wholly below `start_offset`, still to be removed.
        leftovers: names of unfinished replacements, and of indexes without a segment.
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
    meta = _read_document(disk, names.meta, Meta)
    if meta is not None and meta.codec not in CODECS:
        raise UnsupportedFormatError(
            names.meta,
            f"the codec {meta.codec!r} is unknown to this version",
            "Open it with the version that wrote it, or a later one",
        )
    return listing, meta


def look(
    disk: Disk, names: LogNames, *, skip: bool = False, complete: bool = True
) -> Directory | None:
    """Read the small files; None if there is no log yet.

    With `skip` a segment that is missing between others is no error: readers get a gap there.
    Without `complete` no missing segment is one, which is for repairs only.
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
    existing = set(bases)
    orphans = [
        names.index(base).rpartition("/")[2]
        for base in names.index_bases(listing)
        if base not in existing
    ]
    checkpoint = _read_checkpoint(disk, names)
    if complete:
        _check_bases(names, kept, start, mark, checkpoint, skip=skip)
    return Directory(
        names,
        meta,
        start,
        kept,
        bases[: len(bases) - len(kept)],
        names.leftovers(listing) + orphans,
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
    *,
    skip: bool,
) -> None:
    """A segment that must exist and does not is corruption, never a shorter log."""
    expected = {s.base for s in checkpoint.values() if s.end > start}
    # Where the sealed segments end another one begins, the active one of then.
    expected |= {max(s.end for s in checkpoint.values())} if expected else set()
    if mark is not None and mark.durable_end > start:
        expected.add(mark.base)
    if not bases and not expected and not start:
        return  # a crash between creating meta and the first segment
    # The segment of the start, or, if the start is past the last segment, one that is missing too.
    if not bases or bases[0] > start or bases[-1] < start:
        expected.add(start)
    for base in sorted(expected.difference(bases)):
        if skip and bases and bases[0] <= start and base < bases[-1]:
            continue
        raise CorruptDataError(
            "the segment is missing",
            path=names.segment(base),
            offset=max(base, start),
            advice="Restore the file from a copy of the directory",
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
        file = disk.open(names.mark, "r")
    except FileNotFoundError:
        return None
    try:
        return decode_marks(file.read_at(MARK_FILE_BYTES, 0), directory_crc)
    finally:
        file.close()
