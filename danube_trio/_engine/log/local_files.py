"""The files of an open log: the shelf that its flusher fills, and its janitor empties.

Every method here is one synchronous step. A segment goes one way::

    active --rolled--> sealed --described--> ... --dropped--> its file is removed

*Sealed* it never changes again; its index is written as a file (`unindexed`), and the checkpoint
lists it (`undescribed`), sooner or later: both are hints, made anew where they are missing.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable

from danube_trio._core.disk import Disk
from danube_trio._core.frame import Block
from danube_trio._core.index import SparseIndex
from danube_trio._core.log import LogState
from danube_trio._core.segment import LogNames, Segment, SegmentList
from danube_trio._core.times import moment
from danube_trio._engine.read.file_shelf import FileShelf
from danube_trio._engine.wait.waiters import Doorbell

log = logging.getLogger("danube_trio.engine")

# A guess: as many as fit into what is kept for readers.
MOST_UNINDEXED = 64


class LocalFiles(FileShelf):
    """The directory's part of an engine.

    Attributes:
        active_since: when the active segment got its first record, by the loop's clock.
        unindexed: indexes of sealed segments that are not written yet. If none can be written they
            do not pile up in memory: whoever needs a file that is missing does without.
        undescribed: sealed segments that the checkpoint does not describe.
        unlocked: the directory is anybody's again.
        notes: what recovery did.
    """

    def __init__(
        self,
        disk: Disk,
        names: LogNames,
        segments: SegmentList,
        active: SparseIndex,
        *,
        fetch_bytes: int,
        state: LogState,
        janitor_bell: Doorbell,
        unindexed: Iterable[SparseIndex] = (),
        undescribed: int = 0,
        notes: Iterable[str] = (),
    ) -> None:
        super().__init__(disk, names, segments, active, fetch_bytes=fetch_bytes)
        self.active_since = 0.0
        self.unindexed: deque[SparseIndex] = deque(maxlen=MOST_UNINDEXED)
        self.undescribed = undescribed
        self.unlocked = False
        self.notes = tuple(notes)
        self._times_fell = False
        self._state = state
        self._janitor_bell = janitor_bell
        for index in unindexed:
            self.unindexed.append(index)
            self.indexes.keep(index)

    def add(self, block: Block, now: float) -> None:
        """Write returned for the next block of the active segment."""
        assert block.start == self.active.end, (block.start, self.active.end)
        if block.start == self.active.base:
            self.active_since = now
        self.active.add_block(block)

    def rolled(self) -> Segment:
        """The active segment was sealed, and the next one begun. Returns the sealed one."""
        index = self.active
        segment = index.segment()
        self.segments.seal(segment)
        self.unindexed.append(index)
        self.undescribed += 1
        self.indexes.keep(index)  # readers need not wait for the file
        self.active = SparseIndex(index.end)
        return segment

    def times_fall(self, time: int) -> None:
        """The next segment begins with an append time that is lower than what is before."""
        if not self._times_fell:
            log.warning(
                "%s: append times go on from %s, and were %s before: the clock was ahead, or is "
                "behind",
                *(self.names.directory, moment(time / 1e6), moment(self.active.last_time / 1e6)),
            )
        self._times_fell = True

    def drop_before(self, offset: int) -> list[Segment]:
        """Local files begin at `offset` now, durably; returns the segments to unlink."""
        gone = self.segments.drop_before(offset)
        for segment in gone:
            self.indexes.drop(segment.base)
            self.damaged.pop(segment.base, None)
        while self.unindexed and self.unindexed[0].end <= offset:
            self.unindexed.popleft()
        return gone

    def check_ours(self) -> None:
        """Without the lock somebody else may have set our records aside, and written others."""
        if self.unlocked:
            raise self._state.refusal()

    async def heal(self, base: int, reason: str) -> None:
        """A segment is damaged, but stored: it is read from there from now on, and goes."""
        if base not in self.damaged:
            log.warning(
                "%s: the segment from %d on is damaged (%s); its records come from the object "
                "store now",
                *(self.names.directory, base, reason),
            )
            await super().heal(base, reason)
            self._janitor_bell.ring()
