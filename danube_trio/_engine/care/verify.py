"""Verification: does everything in a log's directory fit together? Changes nothing, takes no lock.

What is checked: the small files against their CRCs, the listing against trim, mark and checkpoint,
every frame of every segment (length, order, CRC, trailer, batches), every message by decoding it
strictly, where each segment ends, and every index entry against the frame that it points at.

While a program holds the log (`live`), the small files and the listing are read in the order that
`read.observe` explains, and the last segment is checked up to the durability mark: beyond it bytes
come and go. Otherwise it is looked at to its end, and what follows the mark is described as the
next open will treat it: whole batches stay, anything else was never acknowledged and is cut.

Synchronous code over the `Disk` interface, in bounded memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from itertools import pairwise
from operator import itemgetter
from time import time as wall_clock
from typing import TypeVar

import attrs

from danube_trio._core.clocks import MAX_AHEAD
from danube_trio._core.codec import CODECS
from danube_trio._core.disk import Disk, File, name_of, read_file, read_if_there
from danube_trio._core.files import (
    MARK_BYTES,
    MARK_FILE_BYTES,
    TRIM_COPIES,
    Checkpoint,
    Mark,
    Meta,
    Trim,
    decode_document,
    decode_marks,
    decode_trim_copies,
    mark_position,
)
from danube_trio._core.index import SparseIndex, index_limit_bytes
from danube_trio._core.segment import LogNames, Segment
from danube_trio._engine.care.verify_segment import (
    Finding,
    SegmentCheck,
    Severity,
    ignore,
    torn_reason,
)
from danube_trio._engine.files.directory import (
    DOCUMENT_LIMIT_BYTES,
    directory_crc,
    refuse_foreign,
    stray_error,
)
from danube_trio._engine.files.segments import reach
from danube_trio.errors import CorruptDataError

T = TypeVar("T")
# A slot of the mark may be read in the middle of being written; then the next look finds it whole.
MARK_LOOKS = 5
_GRAVEST_FIRST: tuple[Severity, ...] = ("problem", "warning", "note")


class Verification:
    """Iterate over it to check a log; it yields what it finds.

    Args:
        live: a program may be writing to the log meanwhile.
        progress: called with how many bytes more were checked.
        expect: called with how many there are, before that.

    Attributes:
        records, segments: how many were checked so far.
        total_bytes: size of all segments to check.
        start_offset, end_offset: the range of offsets that was found.
        latest_time: append times (us) above it are not believed.
        late: bases of the segments that have some.
        first_time: the first one that is believed, 0 if none is.

    Iterating raises FileNotFoundError if there is no log, UnsupportedFormatError if it is Danube's
    own or newer than this version, ValueError if it goes by another name, and OSError.
    """

    def __init__(
        self,
        disk: Disk,
        names: LogNames,
        *,
        live: bool = False,
        progress: Callable[[int], object] = ignore,
        expect: Callable[[int], object] = ignore,
    ) -> None:
        self._disk = disk
        self._names = names
        self._live = live
        self._progress = progress
        self._expect = expect
        # What the small files say, as far as they are whole.
        self._meta: Meta | None = None
        self._mark: Mark | None = None
        self._hints: dict[int, Segment] = {}
        self._bases: list[int] = []
        self._start = 0
        self.records = 0
        self.segments = 0
        self.total_bytes = 0
        self.start_offset = 0
        self.end_offset = 0
        self.latest_time = int((wall_clock() + MAX_AHEAD) * 1e6)
        self.late: list[int] = []
        self.first_time = 0

    def __iter__(self) -> Iterator[Finding]:
        yield from self._small_files()
        kept = yield from self._listing()
        self.start_offset = self.end_offset = self._start
        self.total_bytes = sum(map(self._size, kept))
        self._expect(self.total_bytes)
        time, check = 0, None
        for base, end in pairwise([*kept, None]):
            assert base is not None
            check = yield from self._segment(base, end, time)
            if check is not None:
                time = check.last_time
                self.first_time = self.first_time or check.believed_time
                if check.late:
                    self.late.append(base)
        if not self._live and check is not None and check.offset < self._start:
            reason = f"the log was trimmed up to {self._start}, but its records end before"
            yield Finding("problem", reason, self._names.trim, offset=check.offset)

    def _size(self, base: int) -> int:
        try:
            return self._disk.file_size(self._names.segment(base))
        except FileNotFoundError:
            return 0  # trimmed, or missing: that comes later

    # ---- small files

    def _small_files(self) -> Iterator[Finding]:
        """The order matters when the log is live; see `read.observe`."""
        disk, names = self._disk, self._names
        try:
            _, self._meta = refuse_foreign(disk, names)
        except CorruptDataError as error:
            yield _from_error(error, names.meta)
        if self._meta is not None:
            yield from self._check_mark(directory_crc(self._meta))
        checkpoint = yield from self._document(names.checkpoint, Checkpoint, "warning")
        self._hints = checkpoint.by_base() if checkpoint is not None else {}
        listing = disk.list_dir(names.directory)
        self._bases = names.segment_bases(listing)
        trim = yield from self._document(names.trim, Trim, "problem")
        if trim is not None:
            yield from self._trim_copies()
        self._start = trim.first_local if trim is not None else 0
        if self._meta is None and name_of(names.meta) not in listing:
            if not self._bases:
                raise names.no_log()
            yield Finding("problem", "the file is missing although there are segments", names.meta)
        yield from self._strangers(listing)

    def _document(
        self, path: str, kind: type[T], severity: Severity
    ) -> Generator[Finding, None, T | None]:
        try:
            data = read_if_there(self._disk, path, DOCUMENT_LIMIT_BYTES)
            return None if data is None else decode_document(data, kind)
        except CorruptDataError as error:
            yield _from_error(error, path, severity)
        except (ValueError, KeyError, TypeError) as error:
            yield Finding(severity, str(error), path)
        return None

    def _trim_copies(self) -> Iterator[Finding]:
        """One good copy is enough; the next open writes both. An earlier version wrote one only."""
        damaged: list[int] = []
        for _ in range(MARK_LOOKS if self._live else 1):
            data = read_file(self._disk, self._names.trim, DOCUMENT_LIMIT_BYTES)
            copies = zip(TRIM_COPIES, decode_trim_copies(data), strict=True)
            damaged = [at for at, copy in copies if isinstance(copy, str)]
            if not damaged or len(data) <= TRIM_COPIES[1]:
                return
        for at in damaged:
            yield Finding("warning", "a copy of the start is damaged", self._names.trim, at)

    def _check_mark(self, ours: int) -> Iterator[Finding]:
        path = self._names.mark
        damaged: list[int] = []
        for _ in range(MARK_LOOKS if self._live else 1):
            try:
                data = read_if_there(self._disk, path, MARK_FILE_BYTES) or b""
            except CorruptDataError as error:
                yield _from_error(error, path)
                return
            self._mark = decode_marks(data, ours)
            slots = {at: data[at : at + MARK_BYTES] for at in map(mark_position, range(2))}
            damaged = [
                at for at, slot in slots.items() if any(slot) and decode_marks(slot, ours) is None
            ]
            if not damaged:
                break
        for at in damaged:
            reason = "a slot of the durability mark is damaged, or that of another log"
            yield Finding("warning", reason, path, position=at)
        if self._mark is None:
            reason = "there is no durability mark: lost data at the end would look like a torn tail"
            yield Finding("warning", reason, path)

    def _strangers(self, listing: list[str]) -> Iterator[Finding]:
        """Files that are no part of the log."""
        names, bases = self._names, self._bases
        expected = {names.segment(base) for base in bases} | {names.index(base) for base in bases}
        expected |= {names.meta, names.trim, names.mark, names.checkpoint, names.lock}
        unfinished = names.leftovers(listing)
        for name in listing:
            path = f"{names.directory}/{name}"
            if path in expected or (self._live and name in unfinished):
                continue
            if path == names.watch:
                reason = "a socket that a program left behind; the next open removes it"
            elif name in unfinished:
                reason = "a replacement that was never finished; the next open removes it"
            elif name.startswith(f"{names.stem}.") and name.endswith(
                (".torn", ".corrupt", ".fenced")
            ):
                reason = "bytes that an open cut off; nothing depends on them"
            elif name.startswith(f"{names.stem}.") and name.endswith(".idx"):
                reason = "an index without its segment; nothing depends on it"
            else:
                reason = "no file of this log"
            yield Finding("note", reason, path)

    def _listing(self) -> Generator[Finding, None, list[int]]:
        """Find what is missing; returns the bases of the segments to check."""
        names, bases, start, mark = (self._names, self._bases, self._start, self._mark)
        if self._live and mark is not None:
            bases = [base for base in bases if base <= mark.durable_end]
        bases = yield from self._without_strays(bases)
        kept = [b for i, b in enumerate(bases) if i + 1 == len(bases) or bases[i + 1] > start]
        for base in bases[: len(bases) - len(kept)]:
            reason = "everything in it was trimmed; the next open removes it"
            yield Finding("note", reason, names.segment(base))
        expected = {hint.base for hint in self._hints.values() if hint.end > start}
        if mark is not None and mark.durable_end > start:
            expected.add(mark.base)
        if (kept and kept[0] > start) or (not kept and (expected or start)):
            expected.add(start)
        for base in sorted(expected.difference(kept)):
            yield Finding(
                "problem", "the segment is missing", names.segment(base), offset=max(base, start)
            )
        return kept

    def _without_strays(self, bases: list[int]) -> Generator[Finding, None, list[int]]:
        """Leave out what begins inside the segment of the mark, or one that the checkpoint has."""
        names, there = self._names, set(bases)
        reaches = [(hint.base, hint.end) for hint in self._hints.values() if hint.base in there]
        if self._mark is not None and self._mark.base in there:
            reaches.append((self._mark.base, self._mark.durable_end))
        kept: list[int] = []
        inside, before = deque(sorted(reaches)), (0, 0)
        for base in bases:
            while inside and inside[0][0] < base:
                before = max(before, inside.popleft(), key=itemgetter(1))
            # What says so may be of another state: whether it is so, the records tell.
            if base < before[1] and base < reach(self._disk, names, before[0]):
                error = stray_error(names, base, *before)
                yield _from_error(error, names.segment(base))
            else:
                kept.append(base)
        return kept

    # ---- segments

    def _segment(
        self, base: int, end: int | None, time: int
    ) -> Generator[Finding, None, SegmentCheck | None]:
        """Check one segment; `end` is where the next one begins, None for the last."""
        path = self._names.segment(base)
        try:
            file = self._disk.open(path, "r")
        except FileNotFoundError:
            trim = yield from self._document(self._names.trim, Trim, "problem")
            if trim is None or end is None or trim.first_local < end:
                yield Finding("problem", "the segment is missing", path, offset=base)
            return None
        with closing(file):
            index = None
            if end is not None:
                index = yield from self._index(base, end, file.size())
            check = SegmentCheck(
                path,
                base,
                CODECS[self._meta.codec] if self._meta is not None else None,
                index=index,
                index_path=self._names.index(base),
                earliest_time=time,
                start_offset=self._start,
                latest_time=self.latest_time,
                progress=self._progress,
            )
            if end is not None:
                found = self._sealed(check, file, end, index)
            else:
                found = self._last(check, file)
            yield from _each_position_once(found)
        self.segments += 1
        self.records += check.records
        self.end_offset = max(self.end_offset, check.offset)
        promised = self._mark.durable_end if self._mark is not None else 0
        if end is not None or self._live:
            return check
        if check.batch_offset < promised:  # damage, which a reader may step over
            self.end_offset = max(self.end_offset, promised)
        elif not check.whole:  # the next open cuts it
            self.records -= check.offset - max(self._start, check.batch_offset)
            self.end_offset = check.batch_offset
        return check

    def _sealed(
        self, check: SegmentCheck, file: File, end: int, index: SparseIndex | None
    ) -> Iterator[Finding]:
        """A segment that never changes again, and ends where the next one begins."""
        base, size = check.offset, file.size()
        yield from check.run(file, size)
        yield from check.rest_of_index()
        if not check.whole:
            reason = "the last batch is not whole"
            yield Finding("problem", reason, file.path, check.position, check.offset)
        if check.offset != end:
            reason = f"the segment ends at offset {check.offset}, but the next one begins at {end}"
            yield Finding("problem", reason, file.path, check.position, min(check.offset, end))
        if check.zeros:
            reason = f"{size - check.position} zero bytes follow the last record"
            yield Finding("warning", reason, file.path, check.position)
        if index is not None and not check.damaged and index.last_time != check.last_time:
            reason = "the time of the last record is another one in the segment"
            yield Finding("problem", reason, self._names.index(base))
        mark = self._mark
        if mark is not None and mark.base == base and mark.durable_end > end:
            reason = f"the durability mark says that the segment goes on to {mark.durable_end}"
            yield Finding("problem", reason, file.path, size, end)
        hint = self._hints.get(base)
        found = Segment(base, end, size, check.first_time, check.last_time)
        if hint is not None and not check.damaged and not _agrees(hint, found):
            reason = f"the checkpoint, a hint, says {hint} where {found} is"
            yield Finding("warning", reason, self._names.checkpoint)

    def _last(self, check: SegmentCheck, file: File) -> Iterator[Finding]:
        """The segment at the end: strict below the mark, tolerant above it."""
        base, mark, size = check.offset, self._mark, file.size()
        if mark is not None and mark.base == base:
            yield from check.run(file, min(size, mark.position), stop_offset=mark.durable_end)
            if (check.offset, check.position) != (mark.durable_end, mark.position):
                ends = f"the records end at offset {check.offset}, but"
                if size < mark.position:
                    ends = f"the file has {size} bytes;"
                reason = (
                    f"{ends} the durability mark is at byte {mark.position}, offset "
                    f"{mark.durable_end}"
                )
                yield Finding("problem", reason, file.path, check.position, check.offset)
                return
            if not check.whole:
                reason = "the durability mark is inside a batch, which is not whole"
                yield Finding(
                    "problem", reason, file.path, check.batch_position, check.batch_offset
                )
                return
        if not self._live:
            yield from self._above_the_mark(check, file, size, marked=mark is not None)

    def _above_the_mark(
        self, check: SegmentCheck, file: File, size: int, *, marked: bool
    ) -> Iterator[Finding]:
        """What the next open will make of the bytes that nobody was promised."""
        start = check.offset
        yield from check.run(file, size, tolerant=True)
        if marked and check.batch_offset > start:
            reason = (
                f"records {start} to {check.batch_offset} are above the durability mark; the next "
                "open keeps them"
            )
            yield Finding("note", reason, file.path, check.batch_position, start)
        if (torn := torn_reason(check)) is not None:
            reason = f"a torn tail: {torn}; the next open cuts {size - check.batch_position} bytes"
            if not marked:
                reason += " (without a mark nobody can tell whether they were durable)"
            severity: Severity = "note" if marked else "warning"
            yield Finding(severity, reason, file.path, check.batch_position, check.batch_offset)

    def _index(
        self, base: int, end: int, size: int
    ) -> Generator[Finding, None, SparseIndex | None]:
        """The index of a sealed segment, if it is one that readers would use."""
        path = self._names.index(base)
        try:
            data = read_if_there(self._disk, path, index_limit_bytes(size))
        except CorruptDataError as error:
            yield _from_error(error, path)
            return None
        if data is None:
            if not self._live:
                yield Finding("note", "there is no index; it is rebuilt when it is needed", path)
            return None
        index = SparseIndex.decode(data, base)
        if index is None:
            reason = "the index is damaged; it is rebuilt when it is needed"
            yield Finding("warning", reason, path)
        elif (index.end, index.size_bytes) != (end, size):
            reason = "the index is that of another state of the segment; it is not used"
            yield Finding("warning", reason, path)
            index = None
        return index


def _each_position_once(findings: Iterable[Finding]) -> Iterator[Finding]:
    """Those that follow each other at one position as one, as grave as the gravest."""
    held: Finding | None = None
    for finding in findings:
        if held is None:
            held = finding
        elif finding.position is not None and _place(finding) == _place(held):
            graver = min(held, finding, key=lambda one: _GRAVEST_FIRST.index(one.severity))
            held = attrs.evolve(graver, reason=f"{held.reason}; {finding.reason}")
        else:
            yield held
            held = finding
    if held is not None:
        yield held


def _place(finding: Finding) -> tuple[str, int | None]:
    return finding.path, finding.position


def _agrees(hint: Segment, found: Segment) -> bool:
    """Whether a hint is right. One written by a log that did not look for the times has none."""
    return hint == found or hint == attrs.evolve(found, first_time=0, last_time=0)


def _from_error(error: CorruptDataError, path: str, severity: Severity = "problem") -> Finding:
    return Finding(severity, error.reason, error.path or path, error.position, error.offset)
