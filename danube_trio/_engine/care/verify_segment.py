"""Checking one segment: every frame, every message, and its index against what is there.

Where a frame is bad, the check says so, looks for the next valid one and goes on behind it, so one
pass names everything that is wrong. Memory is bounded by one chunk (or one frame, if larger) and
the sparse index.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Literal

import attrs

from danube_trio._core.bincode import DecodeError
from danube_trio._core.clocks import UNKNOWN
from danube_trio._core.codec import Codec
from danube_trio._core.disk import Disk, Readable
from danube_trio._core.frame import HEADER_BYTES, TRAILER_BYTES, batch_boundaries, frame_time
from danube_trio._core.index import SparseIndex
from danube_trio._core.times import moment
from danube_trio._engine.files.directory import Directory
from danube_trio._engine.files.segments import Fault, SegmentWalk, Stretch, find_after

Severity = Literal["problem", "warning", "note"]

# A segment whose every record is bad (a wrong codec in `wal.meta`) says so this often.
MOST_PER_SEGMENT = 100


@attrs.frozen
class Finding:
    """Something that the check found.

    Attributes:
        severity: ``problem``: data is damaged, missing or contradicts itself. ``warning``: nothing
            is lost, but something that protects or speeds up is damaged. ``note``: as it may be.
        reason: what it is.
        path: the file.
        position: the byte position in the file, or None.
        offset: the first offset concerned, or None.
    """

    severity: Severity
    reason: str
    path: str
    position: int | None = None
    offset: int | None = None

    def __str__(self) -> str:
        at = f" at byte {self.position}" if self.position is not None else ""
        of = f", offset {self.offset}" if self.offset is not None else ""
        return f"{self.path}: {self.reason}{at}{of}"


def ignore(size_bytes: int) -> None:
    """What is told of progress where nobody wants to know."""


class Limit:
    """Lets so many findings through, the last of them with the word that there are more."""

    def __init__(self, most: int) -> None:
        self._left = most

    def __call__(self, finding: Finding) -> Iterator[Finding]:
        self._left -= 1
        if self._left > 0:
            yield finding
        elif not self._left:
            yield attrs.evolve(finding, reason=f"{finding.reason} (and so on: no more are listed)")


class SegmentCheck:
    """Checks a stretch of one segment's file; afterwards knows where its good frames end.

    Attributes:
        offset, position: after the last good frame.
        batch_offset, batch_position: after the last whole batch.
        records: how many frames were good, of records from `start_offset` on.
        first_time, last_time: append times (us) of the first and last of them.
        late: how many have a time that is not believed.
        believed_time: the first one that is, 0 if none is.
        fault: what is there instead of a frame where the check ended, or None.
        damaged: it found, and stepped over, frames that are bad.
    """

    def __init__(
        self,
        path: str,
        base: int,
        codec: Codec | None,
        *,
        index: SparseIndex | None = None,
        index_path: str = "",
        earliest_time: int = 0,
        start_offset: int = 0,
        latest_time: int = UNKNOWN,
        progress: Callable[[int], object] = ignore,
    ) -> None:
        self.offset: int = base
        self.position: int = 0
        self.batch_offset: int = base
        self.batch_position: int = 0
        self.records = 0
        self.first_time = 0
        self.last_time = earliest_time
        self.late = 0
        self.believed_time = 0
        self._latest_time = latest_time
        self.fault: Fault | None = None
        self.damaged = False
        self._start_offset = start_offset
        self._path = path
        self._codec = codec
        self._entries = list(index.entries()) if index is not None else []
        self._next_entry = 0
        self._index_path = index_path
        self._progress = progress
        self._limit = Limit(MOST_PER_SEGMENT)

    @property
    def whole(self) -> bool:
        """No batch is unfinished where the check ended."""
        return self.batch_offset == self.offset

    @property
    def zeros(self) -> bool:
        """Nothing but zeros follows the last good frame."""
        return self.fault is not None and self.fault.only_zeros

    def run(
        self, file: Readable, size: int, *, stop_offset: int | None = None, tolerant: bool = False
    ) -> Iterator[Finding]:
        """Check `[position, size)`. A bad frame is a problem, or, if `tolerant`, just the end."""
        while True:
            walk = SegmentWalk(file, self.position, self.offset, size=size, stop_offset=stop_offset)
            for stretch in walk:
                for finding in self._frames(stretch):
                    yield from self._limit(finding)
                self._progress(stretch.scan.positions[-1])
            self.position, self.offset, self.fault = walk.position, walk.offset, walk.fault
            if walk.fault is None or walk.fault.only_zeros or tolerant:
                return
            self.damaged = True
            found = find_after(file, walk.position + 1, walk.offset, size=size)
            again = "nothing" if found is None else f"offset {found[1]} on"
            reason = f"{walk.fault.reason} (readable behind it: {again})"
            yield self._problem(reason, walk.position, walk.offset)
            if found is None:
                return
            self._progress(found[0] - walk.position)
            self.position, self.offset = found
            self.batch_position, self.batch_offset = found

    def _problem(self, reason: str, position: int, offset: int) -> Finding:
        return Finding("problem", reason, self._path, position, offset)

    def _frames(self, stretch: Stretch) -> Iterator[Finding]:
        """The frames of a stretch are whole and in order; look into them."""
        data, positions = stretch.data, stretch.scan.positions
        ends_batch = {i for i, _ in batch_boundaries(data, positions)}
        for i in range(len(positions) - 1):
            offset, begin, end = stretch.offset + i, positions[i], positions[i + 1]
            time = frame_time(data, end)
            at = stretch.position + begin
            if time < self.last_time:
                reason = "the append time is lower than that of the record before"
                yield Finding("warning", reason, self._path, at, offset)
            if time > self._latest_time:
                self.late += 1
                if self.late == 1:
                    reason = (
                        f"the append time is ahead of the clock, {moment(time / 1e6)}: readers by "
                        f"time and retention take it for unknown"
                    )
                    yield Finding("note", reason, self._path, at, offset)
            else:
                self.believed_time = self.believed_time or time
            self.first_time = self.first_time or time
            self.last_time = time
            if offset == self.batch_offset:
                yield from self._entry(offset, at, time)
            if i + 1 in ends_batch:
                self.batch_offset, self.batch_position = offset + 1, at + end - begin
            fault = self._fault_of(data[begin + HEADER_BYTES : end - TRAILER_BYTES], offset)
            if fault is not None:
                yield self._problem(fault, at, offset)
        first = max(stretch.offset, self._start_offset)
        self.records += max(0, stretch.offset + len(positions) - 1 - first)

    def _fault_of(self, body: bytes, offset: int) -> str | None:
        """What is wrong with a message, or None."""
        if self._codec is None:
            return None
        try:
            message = self._codec.decode(body, strict=True)
        except DecodeError as error:
            return f"the message is not what {self._codec.name} says: {error}"
        if message.msg_id.topic_offset != offset:
            return f"the message says that its offset is {message.msg_id.topic_offset}"
        return None

    def _entry(self, offset: int, position: int, time: int) -> Iterator[Finding]:
        """A batch begins here: the index may point at it."""
        entries = self._entries
        while self._next_entry < len(entries) and entries[self._next_entry][0] <= offset:
            entry = entries[self._next_entry]
            self._next_entry += 1
            if entry != (offset, position, time) and not self.damaged:
                yield self._bad_entry(entry)

    def rest_of_index(self) -> Iterator[Finding]:
        """Entries behind the last batch: there can be none."""
        if not self.damaged:
            for entry in self._entries[self._next_entry :]:
                yield self._bad_entry(entry)

    def _bad_entry(self, entry: tuple[int, int, int]) -> Finding:
        reason = f"an entry points at byte {entry[1]} and time {entry[2]}: no batch is there"
        return Finding("problem", reason, self._index_path, offset=entry[0])


def torn_reason(check: SegmentCheck) -> str | None:
    """Why what follows the last whole batch is no data; None if nothing or only zeros do."""
    if check.fault is not None and not check.fault.only_zeros:
        return check.fault.reason
    return None if check.whole else "the last batch is not whole"


@attrs.frozen
class Preview:
    """What opening the log would make of its last segment. Positions and sizes in bytes.

    Attributes:
        base: the segment.
        next_offset: where the log would go on.
        kept_records: whole batches above the durability mark that would stay.
        cut_position, cut_bytes, cut_reason: the torn tail that would be cut, if any.
        damage: why the open would be refused: what is below the mark is not whole; None if it is.
        first_time, last_time: append times (us) of the records that stay, 0 if there are none.
        size_bytes: frames that stay.
    """

    base: int
    next_offset: int
    kept_records: int
    cut_position: int
    cut_bytes: int
    cut_reason: str | None
    damage: str | None
    first_time: int
    last_time: int
    size_bytes: int


def preview(disk: Disk, directory: Directory) -> Preview | None:
    """Scan the last segment and say what an open would do; None if there is no segment.

    For a log that nobody writes. Changes nothing. Raises OSError.
    """
    if not directory.bases:
        return None
    base, mark = directory.bases[-1], directory.mark
    path = directory.names.segment(base)
    check = SegmentCheck(path, base, None)
    with closing(disk.open(path, "r")) as file:
        size = file.size()
        for _ in check.run(file, size, tolerant=True):
            pass
    here = mark if mark is not None and mark.base == base else None
    reason, damage, kept = torn_reason(check), None, 0
    if mark is not None:
        kept = max(0, check.batch_offset - max(base, mark.durable_end))
    if here is not None and (
        check.batch_position < here.position or check.batch_offset < here.durable_end
    ):
        why = reason or "the file is shorter than the durability mark says"
        damage = f"{why} (below the durability mark at byte {here.position})"
    return Preview(
        base=base,
        next_offset=check.batch_offset,
        kept_records=kept,
        cut_position=check.batch_position,
        cut_bytes=size - check.batch_position if reason is not None else 0,
        cut_reason=reason,
        damage=damage,
        first_time=check.first_time,
        last_time=check.last_time,
        size_bytes=check.batch_position,
    )
