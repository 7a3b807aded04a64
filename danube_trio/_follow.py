"""Following: a read-only view of a log that another process writes, or nobody any more.

A follower takes no lock and changes nothing. What it shows is a prefix of the log that is durable:
up to the durability mark, or, where there is no mark, up to the base of the last segment (a segment
is synced before the next one exists). Everything below that point never changes again, whoever dies
and comes back: recovery cuts at or above the mark only. So a reader needs no agreement with the
writer, just a consistent look at where the point is now.

**A look** reads files that the writer changes in between, so it reads them in an order in which the
later one may be newer but never older:

1. the mark: it names a segment that exists (or was trimmed since);
2. the listing, which therefore has that segment, and maybe newer ones: those are ignored;
3. the trim: it is durable before a segment is unlinked, so whatever the listing lacks lies below it.

What may still be crossed is a trim that goes beyond a mark that is older by a few microseconds, and
a segment that vanishes after it was listed: then the look is taken again. Only a contradiction that
stays is believed. Between a look and a reader's fetch a segment may go too: the fetch fails, the
follower looks again, and the reader finds itself below the start.

The mark moves with every sync, everything else only with a roll: as long as the mark stays in the
segment that is known as the active one, a look reads two small files and lists nothing.

**Polling.** There is nobody to wake a follower: the writer is another process that knows nothing of
it, may be on another machine (a network file system), or dead, and change notifications of the
system exist neither everywhere nor for all file systems. So whoever waits for new records sleeps
between looks. Among all readers of a follower one polls, the others wait for it; when nobody waits
nothing is read.

The index of the active segment grows with the looks: each walks over what became durable since the
one before, stops at the mark, and hands its hints over to be added in one step on the event loop.
"""

from __future__ import annotations

import errno
import logging
import os
import weakref
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Literal, TypeVar, overload

import attrs
import trio
from zlib_ng.zlib_ng import crc32

from danube_trio._core.cache import BlockCache
from danube_trio._core.codec import CODECS, get_codec
from danube_trio._core.disk import Disk, File, Lane, Lock, OpenMode, read_file
from danube_trio._core.files import Mark, Meta, Trim, decode_document
from danube_trio._core.frame import HINT_BYTES, batch_boundaries, frame_time
from danube_trio._core.index import SparseIndex
from danube_trio._core.log import Marks
from danube_trio._core.segment import LogNames, Segment, SegmentList
from danube_trio._core.stats import ReaderStatistics
from danube_trio._disk import RealDisk
from danube_trio._reader import Reader, make_reader
from danube_trio._recover import look, read_mark
from danube_trio._segment_io import SegmentWalk
from danube_trio._source import StartPosition
from danube_trio.config import WalConfig
from danube_trio.errors import CorruptDataError, LogClosedError, UnsupportedFormatError
from danube_trio.message import Record, StreamMessage

__all__ = ["Follower", "FollowerStatistics", "open_follower"]

log = logging.getLogger("danube_trio.follow")

T = TypeVar("T")

# A look that contradicts itself is taken again, at once. A writer that rolls and trims without a
# pause was seen to cross one look in ten at most; damage costs this many looks, some milliseconds.
ATTEMPTS = 50
# What one look indexes of the active segment; the rest follows with the next ones. At the default
# segment size this is all of it, and takes about as long as opening the log does.
INDEX_STEP_BYTES = 64 << 20
DOCUMENT_LIMIT_BYTES = 64 << 20

# A run of batches in the active segment: (start, end, bytes, first time, last time).
Run = tuple[int, int, int, int, int]


@attrs.frozen
class _View:
    """What one look found.

    Attributes:
        mark: the newest mark seen so far, or None.
        start: everything before it was trimmed.
        end: what readers may see ends here.
        active_base: the segment that holds `end`, or begins there.
        sealed: the segments before it.
        runs: what the look indexed of the active segment.
    """

    mark: Mark | None
    start: int
    end: int
    active_base: int
    sealed: tuple[Segment, ...] = ()
    runs: tuple[Run, ...] = ()


class _Observer:
    """Looks at a directory. Synchronous; used off the event loop, one call at a time."""

    def __init__(
        self, disk: Disk, names: LogNames, meta: Meta, known: dict[int, Segment], view: _View
    ) -> None:
        self._disk = disk
        self._names = names
        self._meta = meta
        self._directory_crc = crc32(meta.directory_id.encode())
        self._known = known
        self._indexed = SparseIndex(-1)  # how far the active segment is indexed; not its hints
        self.view = view

    def look(self) -> _View:
        """The newest consistent view. Raises CorruptDataError or OSError if there is none."""
        for attempt in range(ATTEMPTS):
            try:
                self.view = self._look()
                return self.view
            except (CorruptDataError, FileNotFoundError) as error:
                if attempt == ATTEMPTS - 1:
                    raise
                log.debug("looking again: %s", error)
        raise AssertionError("unreachable")

    def _look(self) -> _View:
        before = self.view
        mark = self._mark(before)
        near = mark is not None and (mark == before.mark or mark.base == before.active_base)
        if near:
            start = max(before.start, self._start())
            if start <= before.active_base:
                assert mark is not None
                sealed = tuple(segment for segment in before.sealed if segment.end > start)
                end = max(before.end, mark.durable_end)
                view = _View(mark, start, end, before.active_base, sealed)
                return attrs.evolve(view, runs=self._index(view))
        self._check_identity()
        bases = self._names.segment_bases(self._disk.list_dir(self._names.directory))
        start = max(before.start, self._start())
        if mark is not None:
            end = max(before.end, mark.durable_end)
        else:
            end = max(before.end, bases[-1] if bases else start)
        kept = self._kept(bases, start, end, mark)
        active_base = kept[-1] if kept else start
        sealed = tuple(map(self._segment, kept[:-1], kept[1:]))
        view = _View(mark, start, end, active_base, sealed)
        return attrs.evolve(view, runs=self._index(view))

    def _mark(self, before: _View) -> Mark | None:
        """The mark; the one before if this one is older, which a torn slot is."""
        mark, old = read_mark(self._disk, self._names, self._directory_crc), before.mark
        if mark is None or mark.durable_end >= before.end or old is None:
            return mark if mark is not None else old
        if mark.sequence > old.sequence:
            raise CorruptDataError(
                f"the log was cut back while it was followed up to offset {before.end}",
                path=self._names.mark,
                offset=mark.durable_end,
                advice="What was read from there on is gone, and other records may have these "
                "offsets now: open a new follower",
            )
        return old

    def _start(self) -> int:
        try:
            data = read_file(self._disk, self._names.trim, DOCUMENT_LIMIT_BYTES)
        except FileNotFoundError:
            return 0
        try:
            return decode_document(data, Trim).start_offset
        except (ValueError, KeyError) as error:
            raise CorruptDataError(str(error), path=self._names.trim) from error

    def _check_identity(self) -> None:
        path = self._names.meta
        try:
            meta = decode_document(read_file(self._disk, path, DOCUMENT_LIMIT_BYTES), Meta)
        except (ValueError, KeyError) as error:
            raise CorruptDataError(str(error), path=path) from error
        if meta.directory_id != self._meta.directory_id:
            raise CorruptDataError(
                "the directory holds another log now", path=path, advice="Open a new follower"
            )

    def _kept(self, bases: list[int], start: int, end: int, mark: Mark | None) -> list[int]:
        """The segments that matter, `[.., active]`; raises if one is missing."""
        bases = [base for base in bases if base <= end]
        if not bases and not end:
            return []  # made, and not written yet
        kept = [b for i, b in enumerate(bases) if i + 1 == len(bases) or bases[i + 1] > start]
        missing = None
        if not kept or kept[0] > start:
            missing = start
        elif mark is not None and end > start and mark.base not in kept:
            missing = mark.base
        if missing is not None:
            raise CorruptDataError(
                "the segment is missing", path=self._names.segment(missing), offset=missing
            )
        if start > kept[-1]:
            raise CorruptDataError("trimmed beyond the last segment", path=self._names.trim)
        return kept

    def _segment(self, base: int, end: int) -> Segment:
        known = self._known.get(base)
        if known is None or known.end != end or base not in map(_base_of, self.view.sealed):
            size = self._disk.file_size(self._names.segment(base))
            if known is None or (known.end, known.size_bytes) != (end, size):
                known = Segment(base, end, size)
            self._known[base] = known
        return known

    def _index(self, view: _View) -> tuple[Run, ...]:
        """Walk over what became durable in the active segment since the last look."""
        mark, done = view.mark, self._indexed
        if done.base != view.active_base:
            done = SparseIndex(view.active_base)
        if mark is None or mark.base != done.base or mark.position <= done.size_bytes:
            self._indexed = done
            return ()
        file = self._disk.open(self._names.segment(done.base), "r")
        try:
            runs = _walk_on(file, done.size_bytes, done.end, mark)
        finally:
            file.close()
        for run in runs:
            done.add_batch(*run)
        self._indexed = done
        return tuple(runs)


def _base_of(segment: Segment) -> int:
    return segment.base


def _walk_on(file: File, position: int, offset: int, mark: Mark) -> list[Run]:
    """Index whole batches from `position`, about a hint apart, up to the mark or the step's limit.

    A bad frame just ends it: to say so is for the reader who wants that frame.
    """
    size = min(file.size(), mark.position)
    limit = position + INDEX_STEP_BYTES
    runs: list[Run] = []
    first_time = last_time = 0
    start, begin, end, at = offset, position, offset, position
    for stretch in SegmentWalk(file, position, offset, size=size, stop_offset=mark.durable_end):
        ends = stretch.scan.positions
        for i, last_time in batch_boundaries(stretch.data, ends):
            if at == begin:  # the first batch of a run
                first_time = last_time
            end, at = stretch.offset + i, stretch.position + ends[i]
            if at - begin >= HINT_BYTES:
                runs.append((start, end, at - begin, first_time, last_time))
                start, begin = end, at
        if at >= limit:
            break
    if at > begin:
        runs.append((start, end, at - begin, first_time, last_time))
    return runs
