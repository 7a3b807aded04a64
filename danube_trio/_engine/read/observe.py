"""Looking at a log that another process writes, without its lock and without changing anything.

What a look finds is a prefix of the log that is durable: up to the durability mark, or, where there
is no mark, up to the base of the last segment (a segment is synced before the next one exists).
Everything below that point never changes again, whoever dies and comes back: recovery cuts at or
above the mark only. So a reader needs no agreement with the writer, just a consistent look at where
the point is now.

Unless somebody takes back what was visible: a take-over after which the tail here is no part of the
log any more, damage that a policy or a repair cuts off. Then other records may get these offsets,
however far the log has grown since. It is what the mark's *generation* is for: the next one begins,
durably, before anything is touched. So what was read is of the followed history if the generation
is still the same *after* the read: `check` is asked after each look, and after each fetch. A mark
that goes back while the log grows is another one: of a copy of the directory that was put back, or
made anew. Of these, too, nobody knows what they have in common with what was seen.

That is said of one directory. A follower holds the one that it found open, reads through it, and
`check` also asks whether its path still leads there: a copy that was put in its place has the same
ids, and may have gone on apart.

A look reads files that the writer changes in between, so it reads them in an order in which the
later one may be newer but never older:

1. the mark: it names a segment that exists, or was trimmed since;
2. the listing, which therefore has that segment, and maybe newer ones: those are ignored;
3. the trim: it is durable before a segment is unlinked, so whatever the listing lacks lies below;
   and it never goes beyond what is durable, so the visible end is the later of mark and trim.

What can still be crossed is a segment that goes after it was listed: then the look is taken again,
as it is after any other contradiction. Only one that stays is believed.

The mark moves with every sync, everything else only with a roll: as long as the mark stays in the
segment that is known as the active one, a look reads two small files and lists nothing.

The index of the active segment grows with the looks. Each walks over what became durable since the
one before, up to the mark, and returns hints, which the owner of the index adds to it in one step.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from itertools import pairwise

import attrs

from danube_trio._core.codec import CODECS
from danube_trio._core.disk import Disk, File, Stray, read_file
from danube_trio._core.files import Mark, Meta, Trim, decode_document
from danube_trio._core.frame import HINT_BYTES, batch_boundaries
from danube_trio._core.index import SparseIndex
from danube_trio._core.segment import LogNames, Segment
from danube_trio._engine.files.directory import Directory, find_strays, look, read_mark, stray_error
from danube_trio._engine.files.segments import SegmentWalk
from danube_trio.errors import Advice, CorruptDataError, UnsupportedFormatError

log = logging.getLogger("danube_trio.observe")

# A look that contradicts itself is taken again at once; damage costs this many looks, which are
# milliseconds. A guess: only a segment that goes within the microseconds of a look is crossed.
ATTEMPTS = 20
# `recover.look` reads in the order that suits the holder of the lock, so a writer that rolls
# without a pause crosses it often.
FIND_ATTEMPTS = 50
# What one look indexes of the active segment; the rest follows with the next ones. At the default
# segment size this is all of it, and takes about as long as opening the log does.
INDEX_STEP_BYTES = 64 << 20
DOCUMENT_LIMIT_BYTES = 64 << 20

# Batches in the active segment: (start, end, bytes, first time, last time).
Run = tuple[int, int, int, int, int]


@attrs.frozen
class View:
    """What one look found.

    Attributes:
        mark: the newest mark seen so far, or None.
        start: where the local files begin.
        log_start: everything before it was trimmed; up to `start` records are in a store only.
        end: the first offset that readers may not see.
        active_base: the segment that holds `end`, or begins there.
        sealed: the segments before it.
        runs: what this look indexed of the active segment.
    """

    mark: Mark | None
    start: int
    log_start: int
    end: int
    active_base: int
    sealed: tuple[Segment, ...] = ()
    runs: tuple[Run, ...] = ()


NOTHING_SEEN = View(None, 0, 0, 0, -1)


class Observer:
    """Looks at one directory. Synchronous, for use off the event loop, and without any state.

    Args:
        directory: what it was found to be; only what never changes is taken from there, and the
            checkpoint as a hint.
        strayed: says what became of the directory, where it is held.
    """

    def __init__(
        self, disk: Disk, directory: Directory, strayed: Callable[[], Stray | None] = lambda: None
    ) -> None:
        self._disk = disk
        self._strayed = strayed
        self._names = directory.names
        self._directory_id = directory.meta.directory_id
        self._directory_crc = directory.directory_crc
        self._hints = directory.checkpoint

    def look(self, before: View, index: SparseIndex) -> View:
        """The newest consistent view, given the one before and the index of its active segment.

        Raises CorruptDataError or OSError if there is none.
        """
        for left in reversed(range(ATTEMPTS)):
            self._check_directory()
            try:
                return self._look(before, index)
            except (CorruptDataError, FileNotFoundError) as error:
                if not left:
                    raise
                log.debug("looking again: %s", error)
        raise AssertionError

    def _look(self, before: View, index: SparseIndex) -> View:
        found = read_mark(self._disk, self._names, self._directory_crc)
        mark = self._newest(found, before)
        if found is not None and (mark == before.mark or found.base == before.active_base):
            assert mark is not None
            start, log_start = self._starts(before)
            if start <= before.active_base:
                end = max(before.end, mark.durable_end)
                sealed = before.sealed
                if start != before.start:
                    sealed = tuple(segment for segment in sealed if segment.end > start)
                runs = self._index(mark, before.active_base, index)
                if start != before.start:
                    self.check(before)
                return View(mark, start, log_start, end, before.active_base, sealed, runs)
        self._check_identity()
        bases = self._names.segment_bases(self._disk.list_dir(self._names.directory))
        start, log_start = self._starts(before)
        known = mark.durable_end if mark is not None else bases[-1] if bases else 0
        end = max(before.end, start, known)
        kept = self._kept(bases, start, end, mark)
        active_base = kept[-1] if kept else 0
        sealed = self._sealed(kept, before, index)
        runs = self._index(mark, active_base, index)
        self.check(before)
        return View(mark, start, log_start, end, active_base, sealed, runs)

    def check(self, before: View) -> None:
        """Raise CorruptDataError if what this view shows was taken back since."""
        self._check_directory()
        self._newest(read_mark(self._disk, self._names, self._directory_crc), before)

    def _check_directory(self) -> None:
        stray = self._strayed()
        if stray is None:
            return
        path = self._names.directory
        if not stray.replaced:
            raise FileNotFoundError(errno.ENOENT, f"the directory of the log {stray}", path)
        raise CorruptDataError(
            f"the directory holds another log now, or another copy of it: it {stray}",
            path=path,
            advice=Advice.FOLLOW_AGAIN,
        )

    def _newest(self, mark: Mark | None, before: View) -> Mark | None:
        """The mark, or the one before if this one is older, as it is while a slot is written.

        Raises CorruptDataError if it is not of the history that was followed.
        """
        old = before.mark
        if mark is None or before is NOTHING_SEEN:
            return mark if mark is not None else old
        newer = old is None or mark.sequence > old.sequence
        grown = mark.durable_end > before.end
        reason = None
        if mark.generation > (old.generation if old is not None else 0):
            reason = "the log was cut back"
        elif old is not None and newer and mark.durable_end < before.end:
            reason = "the log was cut back"  # by a version that knows of no generations
        elif not newer and grown:
            reason = "the mark was lost, or a copy of the directory was put back,"
        if reason is not None:
            raise CorruptDataError(
                f"{reason} while it was followed up to offset {before.end}",
                path=self._names.mark,
                offset=min(mark.durable_end, before.end),
                advice=Advice.COMPARE,
            )
        return mark if newer else old

    def _starts(self, before: View) -> tuple[int, int]:
        """Where the local files begin, and where the log does."""
        trim = self._trim()
        return max(before.start, trim.first_local), max(before.log_start, trim.start_offset)

    def _trim(self) -> Trim:
        try:
            data = read_file(self._disk, self._names.trim, DOCUMENT_LIMIT_BYTES)
        except FileNotFoundError:
            return Trim(0)
        try:
            return decode_document(data, Trim)
        except (ValueError, KeyError) as error:
            raise CorruptDataError(str(error), path=self._names.trim) from error

    def _check_identity(self) -> None:
        path = self._names.meta
        try:
            meta = decode_document(read_file(self._disk, path, DOCUMENT_LIMIT_BYTES), Meta)
        except (ValueError, KeyError) as error:
            raise CorruptDataError(str(error), path=path) from error
        if meta.directory_id != self._directory_id:
            raise CorruptDataError(
                "the directory holds another log now", path=path, advice=Advice.FOLLOW_AGAIN
            )

    def _kept(self, bases: list[int], start: int, end: int, mark: Mark | None) -> list[int]:
        """The segments that matter, the active one last; raises if one is missing."""
        bases = [base for base in bases if base <= end]
        if mark is not None and (strays := find_strays(self._disk, self._names, bases, mark)):
            raise stray_error(self._names, strays[0], mark.base, mark.durable_end)
        if not bases and not end:
            return []  # made, and not written yet
        kept = [b for i, b in enumerate(bases) if i + 1 == len(bases) or bases[i + 1] > start]
        missing = None
        if not kept or kept[0] > start:
            missing = start
        elif mark is not None and mark.durable_end > start and mark.base not in kept:
            missing = mark.base
        if missing is not None:
            raise CorruptDataError(
                "the segment is missing", path=self._names.segment(missing), offset=missing
            )
        return kept

    def _sealed(self, kept: list[int], before: View, index: SparseIndex) -> tuple[Segment, ...]:
        """Describe all but the last of these segments; only new ones cost a call."""
        known = {segment.base: segment for segment in before.sealed}
        sealed: list[Segment] = []
        for base, end in pairwise(kept):
            segment = known.get(base)
            if segment is None or segment.end != end:
                path = self._names.segment(base)
                size = self._disk.file_size(path)
                if not size:
                    raise CorruptDataError(
                        f"records {base} to {end} are in no segment", path=path, offset=base
                    )
                segment = self._hints.get(base)
                if segment is None or (segment.end, segment.size_bytes) != (end, size):
                    first_time = index.first_time if index.base == base else 0
                    segment = Segment(base, end, size, first_time)
            sealed.append(segment)
        return tuple(sealed)

    def _index(self, mark: Mark | None, active_base: int, index: SparseIndex) -> tuple[Run, ...]:
        """Walk over what became durable in the active segment since it was indexed last."""
        if index.base != active_base:
            index = SparseIndex(active_base)
        if mark is None or mark.base != active_base or mark.position <= index.size_bytes:
            return ()
        file = self._disk.open(self._names.segment(active_base), "r")
        try:
            return tuple(_walk_on(file, index.size_bytes, index.end, mark))
        finally:
            file.close()


def _walk_on(file: File, position: int, offset: int, mark: Mark) -> list[Run]:
    """Index whole batches from `position`, about a hint apart, up to the mark or the step's limit.

    A bad frame just ends it: to say so is for the reader who wants that frame.
    """
    size = min(file.size(), mark.position)
    limit = position + INDEX_STEP_BYTES
    runs: list[Run] = []
    start, begin, end, at = offset, position, offset, position
    first_time = last_time = 0
    for stretch in SegmentWalk(file, position, offset, size=size, stop_offset=mark.durable_end):
        ends = stretch.scan.positions
        for i, last_time in batch_boundaries(stretch.data, ends):
            if at == begin:
                first_time = last_time  # the records of a batch have one time
            end, at = stretch.offset + i, stretch.position + ends[i]
            if at - begin >= HINT_BYTES:
                runs.append((start, end, at - begin, first_time, last_time))
                start, begin = end, at
        if at >= limit:
            break
    if at > begin:
        runs.append((start, end, at - begin, first_time, last_time))
    return runs


def find_log(disk: Disk, names: LogNames) -> Directory:
    """What the directory holds; damage is believed only when it stays.

    Raises FileNotFoundError if there is no log, and as `look` does.
    """
    for left in reversed(range(FIND_ATTEMPTS)):
        try:
            directory = look(disk, names)
        except CorruptDataError:
            if not left:
                raise
            continue
        if directory is None:
            raise names.no_log(" (yet)")
        if directory.meta.codec not in CODECS:
            raise UnsupportedFormatError(
                names.meta,
                f"the codec {directory.meta.codec!r} is unknown",
                "Open it with the version that wrote it, or a later one",
            )
        return directory
    raise AssertionError
