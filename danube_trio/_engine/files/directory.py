"""Looking at a log's directory: the listing and the small files, nothing changed.

The writer looks while it holds the lock; followers and tools look while somebody else writes, and
must expect files to be replaced between two reads.

**The segments tile the log**: each ends where the next one begins, from where the local files begin
to at least where the mark says that all is durable. Whatever else stands in the directory, a
record below the mark that is in no segment is corruption, never a shorter log. So a file with a
segment's name that begins inside another one, a *stray*, does not end that one. The listing and the
mark tell of strays among the newest records, here; recovery tells of all others (`recover`).
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from contextlib import closing
from typing import TypeVar

import attrs

from danube_trio._core.codec import CODECS
from danube_trio._core.crc import crc32
from danube_trio._core.disk import Disk, name_of, read_if_there
from danube_trio._core.documents import NewerFormatError
from danube_trio._core.files import (
    MARK_FILE_BYTES,
    Checkpoint,
    Mark,
    Meta,
    Trim,
    decode_document,
    decode_marks,
    is_foreign_mark,
)
from danube_trio._core.segment import LogNames, Segment, SegmentList
from danube_trio._engine.files.foreign import danube_files, listed
from danube_trio._engine.files.segments import reach
from danube_trio.errors import Argument, CorruptDataError, UnsupportedFormatError, bad_argument

log = logging.getLogger("danube_trio.directory")

T = TypeVar("T")

DOCUMENT_LIMIT_BYTES = 64 << 20


@attrs.frozen
class Directory:
    """What the small files and the listing of a log's directory say.

    Attributes:
        start_offset: where the log begins.
        local_start: where its local files begin; what lies before is in the object store only.
        bases: base offsets of the segments from the one that holds `local_start` on.
        leftover_bases: segments wholly below `local_start`, still to be removed.
        strays: files with the names of segments that begin inside another one, as far as known.
        leftovers: names of unfinished replacements, and of indexes without a segment.
        checkpoint: what the checkpoint, a hint, says of sealed segments, by base.
        exact: whether it vouches for their sizes.
    """

    names: LogNames
    meta: Meta
    start_offset: int
    local_start: int
    bases: list[int]
    leftover_bases: list[int]
    strays: list[int]
    leftovers: list[str]
    mark: Mark | None
    checkpoint: dict[int, Segment]
    exact: bool

    @property
    def trailer(self) -> bool:
        """Whether the frames carry our trailer."""
        return self.meta.trailer > 0

    def undescribed(self, segments: SegmentList) -> int:
        """How many of these the checkpoint does not describe as they are."""
        if not self.exact:
            return len(segments)
        return sum(self.checkpoint.get(segment.base) != segment for segment in segments)

    @property
    def directory_crc(self) -> int:
        """Ties the mark to this directory."""
        return directory_crc(self.meta)


def refuse_foreign(disk: Disk, names: LogNames) -> tuple[list[str], Meta | None]:
    """Listing and meta of a directory that is ours or empty.

    Changes nothing. Raises UnsupportedFormatError or ValueError for any other directory.
    """
    listing = disk.list_dir(names.directory)
    if theirs := danube_files(disk, names, listing):
        raise _of_danube(names, listing, theirs)
    if others := names.other_logs(listing):
        raise bad_argument(
            "dir",
            names.directory,
            f" already holds the log of {others[0]!r}: ",
            Argument("file_name", repr(names.file_name)),
            " does not match, and a directory holds one log",
        )
    meta = read_document(disk, names.meta, Meta)
    if meta is not None and meta.codec not in CODECS:
        raise UnsupportedFormatError(
            names.meta,
            f"the codec {meta.codec!r} is unknown to this version",
            "Open it with the version that wrote it, or a later one",
        )
    return listing, meta


def _of_danube(names: LogNames, listing: list[str], theirs: list[str]) -> UnsupportedFormatError:
    """What to do about Danube's own files, which are alone, or beside ours."""
    directory, path = names.directory, f"{names.directory}/{theirs[0]}"
    if name_of(names.meta) in listing or names.segment_bases(listing):
        return UnsupportedFormatError(
            path,
            "this file was written by Danube itself, beside the log",
            f"No broker of Danube's may use this directory. Move its files to a directory of their "
            f"own, from which `danube-trio import-danube` makes a log, and the log here opens "
            f"again: {listed(theirs)}",
        )
    return UnsupportedFormatError(
        path,
        "this file was written by Danube itself",
        f"Choose another directory for the log; danube-trio never writes to Danube's own. "
        f"`danube-trio import-danube {directory} NEW` makes a log of what is there",
    )


def look(
    disk: Disk,
    names: LogNames,
    *,
    skip: bool = False,
    covered_end: int = 0,
    complete: bool = True,
    without: Collection[int] | None = None,
) -> Directory | None:
    """Read the small files; None if there is no log yet.

    With `skip` a segment that is missing between others is no error: readers get a gap there.
    Below `covered_end` no segment is missed, because verified objects hold the same records: what
    comes before a hole there is a leftover.
    Without `complete` no missing segment is one, and no stray, which is for repairs only; `without`
    are strays that one will take out of the way, as it will the mark of another directory.
    Changes nothing. Raises UnsupportedFormatError, CorruptDataError or OSError.
    """
    listing, meta = refuse_foreign(disk, names)
    bases = names.segment_bases(listing)
    if meta is None:
        if bases:
            raise CorruptDataError(
                "the file is missing although there are segments",
                path=names.meta,
                advice=f"Restore it from a copy: it says how the messages are encoded. If that is "
                f"known, `danube-trio repair {names.directory} --codec NAME` writes it anew",
            )
        return None
    trim = read_document(disk, names.trim, Trim)
    trim = trim if trim is not None else Trim(0)
    first = trim.first_local
    mark = read_mark(disk, names, directory_crc(meta))
    if mark is None and complete and without is None and not skip:
        _refuse_foreign_mark(disk, names, bases, directory_crc(meta))
    strays = find_strays(disk, names, bases, mark, trailer=meta.trailer > 0)
    covered = mark is not None and mark.durable_end <= covered_end
    for stray in strays:
        if complete and without is None and not skip and not covered:
            assert mark is not None
            raise stray_error(names, stray, mark.base, mark.durable_end)
    existing = set(bases)
    bases = [base for base in bases if base not in strays and base not in (without or ())]
    kept = [b for i, b in enumerate(bases) if i + 1 == len(bases) or bases[i + 1] > first]
    orphans = [
        name_of(names.index(base)) for base in names.index_bases(listing) if base not in existing
    ]
    checkpoint, exact = _read_checkpoint(disk, names)
    missing = _missing_bases(kept, first, mark, checkpoint) if complete else []
    hole_end = _covered_hole(kept, first, mark, checkpoint, missing, covered_end)
    if hole_end is not None:
        first = max(first, hole_end)
        kept = [base for base in kept if base >= hole_end]
    else:
        _refuse_missing(names, kept, first, missing, skip=skip)
    return Directory(
        names,
        meta,
        trim.start_offset,
        first,
        kept,
        bases[: len(bases) - len(kept)],
        strays,
        names.leftovers(listing) + orphans,
        mark,
        checkpoint,
        exact,
    )


def directory_crc(meta: Meta) -> int:
    """What ties the mark of a log to its directory."""
    return crc32(meta.directory_id.encode())


def _refuse_foreign_mark(disk: Disk, names: LogNames, bases: list[int], ours: int) -> None:
    """Files of two directories are mixed: without its mark, durable records look like torn ones.

    Where nothing was written yet the mark is one that somebody left when he removed the rest.
    """
    if not bases or not any(disk.file_size(names.segment(base)) for base in bases):
        return
    data = read_if_there(disk, names.mark, DOCUMENT_LIMIT_BYTES)
    if data is not None and is_foreign_mark(data, ours):
        raise CorruptDataError(
            f"the mark is that of another directory than {names.meta}: files of two are mixed",
            path=names.mark,
            advice="Restore the directory from a copy, all of its files from the same one; or, if "
            "segments and meta are right, let 'danube-trio repair' write the mark anew",
        )


def find_strays(
    disk: Disk, names: LogNames, bases: list[int], mark: Mark | None, *, trailer: bool = True
) -> list[int]:
    """Those that begin inside the segment of the mark.

    If the mark says so, that segment is read: whether its records do go on, or the mark lies.
    """
    if mark is None or mark.base not in bases:
        return []
    inside = [base for base in bases if mark.base < base < mark.durable_end]
    end = reach(disk, names, mark.base, trailer=trailer) if inside else 0
    return [base for base in inside if base < end]


def stray_error(names: LogNames, stray: int, base: int, end: int) -> CorruptDataError:
    """For a file with a segment's name whose records are in the segment before."""
    return CorruptDataError(
        f"it is no segment of this log: records {base} to {end} are in {names.segment(base)}",
        path=names.segment(stray),
        offset=stray,
        advice="Somebody put it there. Nothing was changed: move it out of the directory",
    )


def _missing_bases(
    bases: list[int], start: int, mark: Mark | None, checkpoint: dict[int, Segment]
) -> list[int]:
    """Base offsets of segments that must exist and do not, ascending."""
    expected = {s.base for s in checkpoint.values() if s.end > start}
    # Where the sealed segments end another one begins, the active one of then.
    expected |= {max(s.end for s in checkpoint.values())} if expected else set()
    if mark is not None and mark.durable_end > start:
        expected.add(mark.base)
    if not bases and not expected and not start:
        return []  # a crash between creating meta and the first segment
    # The segment of the start, or, if the start is past the last segment, one that is missing too.
    if not bases or bases[0] > start or bases[-1] < start:
        expected.add(start)
    return sorted(expected.difference(bases))


def _covered_hole(
    bases: list[int],
    start: int,
    mark: Mark | None,
    checkpoint: dict[int, Segment],
    missing: list[int],
    covered_end: int,
) -> int | None:
    """Where the last hole ends, if all holes lie below `covered_end`; else None."""
    if not missing or not covered_end:
        return None
    after = [base for base in bases if base > missing[-1]]
    known = [s.end for s in checkpoint.values()]
    if mark is not None:
        known.append(mark.durable_end)
    end = after[0] if after else max([start, *known])
    return end if end <= covered_end else None


def _refuse_missing(
    names: LogNames, bases: list[int], start: int, missing: list[int], *, skip: bool
) -> None:
    """A segment that must exist and does not is corruption, never a shorter log."""
    for base in missing:
        if skip and bases and bases[0] <= start and base < bases[-1]:
            continue
        raise CorruptDataError(
            "the segment is missing",
            path=names.segment(base),
            offset=max(base, start),
            advice="Restore the file from a copy of the directory",
        )


def read_document(disk: Disk, path: str, kind: type[T]) -> T | None:
    """A meta, trim or checkpoint; None if there is none.

    Raises UnsupportedFormatError, CorruptDataError, OSError.
    """
    data = read_if_there(disk, path, DOCUMENT_LIMIT_BYTES)
    if data is None:
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


def _read_checkpoint(disk: Disk, names: LogNames) -> tuple[dict[int, Segment], bool]:
    """A hint: damaged or missing is the same as empty."""
    try:
        checkpoint = read_document(disk, names.checkpoint, Checkpoint)
    except CorruptDataError as error:
        log.warning("ignoring the checkpoint: %s", error.reason)
        checkpoint = None
    return (checkpoint.by_base(), checkpoint.exact) if checkpoint is not None else ({}, False)


def read_mark(disk: Disk, names: LogNames, directory_crc: int) -> Mark | None:
    """The durability mark, or None if it is missing or damaged."""
    try:
        file = disk.open(names.mark, "r")
    except FileNotFoundError:
        return None
    with closing(file):
        return decode_marks(file.read_at(MARK_FILE_BYTES, 0), directory_crc)
