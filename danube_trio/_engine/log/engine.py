"""What the tasks of one log share: its state, and the steps that change it.

Every method here is synchronous, so each is one indivisible step between two checkpoints: between
deciding on state and recording it there is no await. The tasks (`writer`, `flusher`, `janitor`)
and the readers hold no state of the log of their own.

::

    append --accept--> intake --writer--> block --flusher--> written --> durable --> cache, readers
                                            sealed segment --uploader--> uploaded --> CLOUD readers

With an object store a segment is in two places for a while. What the store holds is said by
`StoredObjects` (see `cloud_side`), what the directory holds by `segments`: everything from
`local_start` on.
"""

from __future__ import annotations

import logging
import weakref
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import trio

from danube_trio._core.cache import BlockCache
from danube_trio._core.clocks import too_far_ahead
from danube_trio._core.codec import Codec
from danube_trio._core.disk import Disk
from danube_trio._core.frame import Block, Records
from danube_trio._core.framing import encode_block
from danube_trio._core.index import KeptIndexes, SparseIndex
from danube_trio._core.life import Phase
from danube_trio._core.log import Intake, LogState, Marks
from danube_trio._core.meters import Meters
from danube_trio._core.segment import LogNames, Segment, SegmentList
from danube_trio._core.stats import WalStatistics
from danube_trio._core.times import LATEST_US, microseconds, moment
from danube_trio._engine.files.presence import LostFileError
from danube_trio._engine.files.space import no_space
from danube_trio._engine.log.append_queue import AppendQueue
from danube_trio._engine.log.cloud_side import CloudSide
from danube_trio._engine.log.statistics import statistics_of
from danube_trio._engine.read.objects import CloudTier
from danube_trio._engine.wait.housekeeping import keeping_house
from danube_trio._engine.wait.pins import Pins
from danube_trio._engine.wait.running import OwnRun
from danube_trio._engine.wait.waiters import Doorbell, OffsetWaiters
from danube_trio.catalog import Outage
from danube_trio.config import WalConfig
from danube_trio.errors import DanubeError, FencedError, LogBrokenError

if TYPE_CHECKING:
    from danube_trio._engine.read.reader import Reader

__all__ = ["Engine", "Work"]

log = logging.getLogger("danube_trio.engine")


# A guess: as many as fit into what is kept for readers.
MOST_UNINDEXED = 64

# From writer to flusher: a block and the accepted bytes that it stands for. None only wakes the
# flusher, to look at what is due.
Work = tuple[Block, int] | None


class Engine:
    """The shared state of one open log."""

    def __init__(
        self,
        config: WalConfig,
        codec: Codec,
        marks: Marks,
        *,
        clock: Callable[[], float],
        disk: Disk | None = None,
        names: LogNames | None = None,
        segments: SegmentList | None = None,
        active: SparseIndex | None = None,
        times: Sequence[int] = (),
        notes: Sequence[str] = (),
        tier: CloudTier | None = None,
        log_id: str = "",
    ) -> None:
        self.run = OwnRun()
        self.config = config
        self.log_id = log_id  # "" for an older log whose catalog was not asked
        self.codec = codec
        self.clock = clock
        self.disk = disk
        self.names = names
        self.log = LogState(marks)
        self.marks = marks
        last_time = self._believed(times)
        self.intake = Intake(
            config.max_pending_bytes, last_time, round(config.max_clock_ahead * 1e6)
        )
        self.cache = BlockCache(config.cache_capacity, config.cache_bytes, marks.next_offset)
        end = marks.next_offset
        self.segments = segments if segments is not None else SegmentList([], end)
        self.active = active if active is not None else SparseIndex(end)
        self.active_since = 0.0  # its first record was written, by the loop's clock
        self.indexes = KeptIndexes()
        # Sealed, index file not written yet. If none can be written they do not pile up in memory:
        # whoever needs a file that is missing does without.
        self.unindexed: deque[SparseIndex] = deque(maxlen=MOST_UNINDEXED)
        self.undescribed = 0  # sealed segments that the checkpoint does not describe
        self.early_visible = config.visibility == "written"
        self._unsynced: list[Block] = []  # written, not yet visible
        self.tier = tier
        self.pins = Pins()
        self.outage: Outage | None = None  # our readers are told what the store says
        self.damaged: dict[int, str] = {}  # local segments that are not what was written, and why
        self.written = OffsetWaiters()
        self.durable = OffsetWaiters()
        self.visible = OffsetWaiters()
        self.uploaded = OffsetWaiters()
        self.writer_bell = Doorbell()
        self.janitor_bell = Doorbell()
        self.uploader_bell = Doorbell()
        self.sweeper_bell = Doorbell()
        self.cloud = CloudSide(self, tier) if tier is not None else None
        self.append_queue = AppendQueue(self)
        self.readers: weakref.WeakSet[Reader[Any]] = weakref.WeakSet()
        self.notes = tuple(notes)
        self.unlocked = False  # the directory is anybody's again
        self.times_fell = False
        self.meters = Meters(trio.lowlevel.current_clock().current_time)

    # ---- what readers ask

    @property
    def visible_end(self) -> int:
        """Readers may see records below it."""
        return self.marks.written_end if self.early_visible else self.marks.durable_end

    @property
    def local_start(self) -> int:
        """First offset in a local file (or, without a directory, in memory)."""
        return self.cache.start if self.disk is None else self.segments.first_base

    async def wait_visible(self, end: int) -> None:
        """Wait until readers may see the record before `end`.

        Raises LogBrokenError, FencedError or LogClosedError when that will never be.
        """
        try:
            self.refuse_to_wait(end)
            await self.visible.wait(end)
        except FencedError as error:
            self.told(error)
            raise

    def refuse_to_wait(self, end: int) -> None:
        """Raise if no record will ever come before `end` that is not there already."""
        phase = self.log.phase
        if phase in (Phase.BROKEN, Phase.CLOSED) or (
            phase is not Phase.OPEN and end > self.marks.next_offset
        ):
            raise self.log.refusal()

    async def look_again(self) -> None:
        """Nobody but this process changes the log, unless it is fenced."""
        await trio.lowlevel.checkpoint()
        if self.log.phase is Phase.FENCED:
            error = self.log.refusal()
            self.told(error)
            raise error

    def check_ours(self) -> None:
        """Without the lock somebody else may have set our records aside, and written others."""
        if self.unlocked:
            raise self.log.refusal()

    async def heal(self, base: int, reason: str) -> None:
        """A local segment is damaged, but stored: it is read from there from now on, and goes."""
        if base not in self.damaged:
            log.warning(
                "%s: the segment from %d on is damaged (%s); its records come from the object "
                "store now",
                self.config.dir,
                base,
                reason,
            )
            self.damaged[base] = reason
            self.janitor_bell.ring()

    # ---- acceptance

    def told(self, error: DanubeError, offsets: range = range(0)) -> None:
        """A call raises `error`, which is about these records: whoever made it is told.

        Unless the call is one of housekeeping, which swallows what it gets.
        """
        if not keeping_house():
            self.log.told(error, offsets)

    @contextmanager
    def telling(self, offsets: range = range(0)) -> Generator[None, None, None]:
        """The block of a call: what it raises, it tells."""
        try:
            yield
        except (LogBrokenError, FencedError) as error:
            self.told(error, offsets)
            raise

    def accept(self, records: Records, size_bytes: int) -> int:
        """Take the next offsets and queue the records, in one step. Returns the first offset."""
        now = int(self.clock() * 1e6)
        if not 0 <= now < LATEST_US:
            microseconds(now / 1e6, "the clock's time")
        first = self.marks.accept(len(records))
        self.intake.put(records, size_bytes, now)
        if self.disk is None:
            self._settle_in_memory(first)
        else:
            self.meters.ages.accepted(self.marks.next_offset)
            self.writer_bell.ring()
        return first

    def _believed(self, times: Sequence[int]) -> int:
        """The newest of these append times (us) that the log can go on from."""
        if not times:
            return 0
        now, ahead = self.clock(), self.config.max_clock_ahead
        if not 0 <= now < LATEST_US / 1e6:
            return max(times)  # no time at all: appends will be refused
        now_us, ahead_us = round(now * 1e6), round(ahead * 1e6)
        believed = [time for time in times if not too_far_ahead(time, now_us, ahead_us)]
        if len(believed) < len(times):
            log.warning(
                "%s: records have append times up to %s, and the clock says %s: those further "
                "ahead of it than max_clock_ahead=%s s are taken for unknown. If it is the clock "
                "that is wrong, set it; if it was, `danube-trio repair` mends what is only here",
                *(self.config.dir, moment(max(times) / 1e6), moment(now), ahead),
            )
        return max(believed, default=0)

    def times_fall(self, time: int) -> None:
        """The next segment begins with an append time that is lower than what is before."""
        if not self.times_fell:
            log.warning(
                "%s: append times go on from %s, and were %s before: the clock was ahead, or is "
                "behind",
                *(self.config.dir, moment(time / 1e6), moment(self.active.last_time / 1e6)),
            )
        self.times_fell = True

    def _settle_in_memory(self, first: int) -> None:
        batches, size = self.intake.take(0)
        block = encode_block(batches, first, self.codec.encode_uint)
        self.intake.release(size)
        self.cache.add(block)
        self.marks.settle_in_memory(self.cache.start)
        self.meters.wrote(block)
        for waiters in (self.written, self.durable, self.visible):
            waiters.release(block.end)

    # ---- what the flusher reports

    def block_written(self, block: Block, accepted_bytes: int) -> None:
        """Write returned for `block`."""
        if self.log.broken:
            return
        self.marks.written(block.end)
        if block.start == self.active.base:
            self.active_since = self.meters.now()
        self.active.add_block(block)
        self.intake.release(accepted_bytes)
        if self.cloud is not None:
            self.cloud.look_at_room()
        self.append_queue.look()
        self.meters.wrote(block)
        self.written.release(block.end)
        if self.early_visible:
            self._show(block)
        else:
            self._unsynced.append(block)

    def synced(self) -> None:
        """Sync returned for everything written."""
        if self.log.broken:
            return
        end = self.marks.written_end
        self.marks.durable(end)
        for block in self._unsynced:
            self.cache.add(block)
        if self._unsynced:
            self._unsynced.clear()
            self.visible.release(end)
        self.meters.ages.durable(end)
        self.durable.release(end)

    def _show(self, block: Block) -> None:
        self.cache.add(block)
        self.visible.release(block.end)

    def rolled(self, crc: int | None) -> None:
        """The active segment was sealed, and the next one begun; `crc` of its bytes, if known."""
        if self.log.broken:
            return
        index = self.active
        if crc is not None and self.cloud is not None:
            self.cloud.checksums[index.base] = crc
        self.segments.seal(index.segment())
        self.unindexed.append(index)
        self.undescribed += 1
        self.indexes.keep(index)  # readers need not wait for the file
        self.active = SparseIndex(index.end)
        self.marks.sealed(index.end)
        self.log.roll_wanted = False
        self.meters.rolls += 1
        self.janitor_bell.ring()
        self.uploader_bell.ring()

    # ---- the object store

    def ask_for_roll(self) -> None:
        """Ask the flusher to seal the active segment."""
        self.log.roll_wanted = True
        self.writer_bell.ring()

    def fenced(self, error: FencedError) -> None:
        """Another writer took the log over: nothing is accepted or uploaded any more."""
        if not self.log.fenced(error):
            return
        log.error("the log %s is fenced: %s", self.config.dir, error)
        self._nothing_is_uploaded()
        self.tell_who_waits_in_vain()

    def _nothing_is_uploaded(self) -> None:
        """From now on."""
        self.uploaded.fail(self.log.refusal)
        if self.cloud is not None:
            self.cloud.over.set()

    def tell_who_waits_in_vain(self) -> None:
        """The log accepts nothing more: it has an end, and nobody must wait behind it.

        A trim that is under way when the log is sealed comes to its end, unless it is left before.
        """
        for waiters in (self.visible, self.durable, self.uploaded):
            waiters.fail(self.log.refusal, beyond=self.marks.next_offset)
        if self.cloud is not None and self.log.phase is not Phase.SEALED:
            self.cloud.stop_asking()
        self.ring_all()

    @property
    def untold_fence(self) -> FencedError | None:
        """The fence, if it cut accepted records off, and no caller was told."""
        cut_off = self.marks.next_offset > self.marks.uploaded_end
        return self.log.untold_fence if cut_off else None

    def pruned(self, local_start: int) -> list[Segment]:
        """Local files begin at `local_start` now, durably; returns the segments to unlink."""
        assert local_start <= self.marks.uploaded_end, (local_start, self.marks)
        return self._drop_segments(local_start)

    def _drop_segments(self, before: int) -> list[Segment]:
        gone = self.segments.drop_before(before)
        for segment in gone:
            self.indexes.drop(segment.base)
            self.damaged.pop(segment.base, None)
        while self.unindexed and self.unindexed[0].end <= before:
            self.unindexed.popleft()
        return gone

    # ---- the janitor

    def segment_start(self, offset: int) -> int:
        """Where the segment begins that holds `offset`; without a directory, `offset` itself."""
        if self.disk is None:
            return min(offset, self.marks.durable_end)
        if offset < self.segments.first_base:  # it is in an object, or nowhere
            found = self.tier.objects.find(offset) if self.tier is not None else None
            return found.base if found is not None else self.marks.start_offset
        segment = self.segments.find(offset)
        return segment.base if segment is not None else self.segments.active_base

    def may_trim(self, before: int) -> bool:
        """Whether the start may move: also in a log that broke for want of space, to free some."""
        log = self.log
        return log.phase is Phase.OPEN or (
            log.broken
            and no_space(log.failure)
            and min(before, self.marks.sealed_end) > self.marks.start_offset
        )

    def trimmed(self, start: int) -> list[Segment]:
        """`start` is durable as the new start offset; returns the segments to unlink."""
        self.marks.trimmed(start)
        self.cache.trim(start)
        return self._drop_segments(start)

    # ---- the end

    def statistics(self) -> WalStatistics:
        """Everything that can be counted, now."""
        return statistics_of(self)

    def break_(self, failure: BaseException) -> None:
        """A write or sync failed: everyone who waits is told, nothing is retried."""
        failed = range(self.marks.durable_end, self.marks.next_offset)
        vanished, explained = self._vanished(failure), isinstance(failure, LostFileError)
        if self.log.break_(failure, failed, vanished=vanished, explained=explained):
            log.error("the log %s is broken: %r", self.config.dir, failure)
        self.intake.discard()
        self.meters.ages.discard()
        self._unsynced.clear()
        self._fail_waiters()

    def _vanished(self, failure: BaseException) -> int:
        """How many acknowledged records went with the files that somebody took away."""
        if isinstance(failure, LostFileError) and failure.everything:
            return self.marks.durable_end - self.marks.uploaded_end
        if not isinstance(failure, LostFileError) or failure.base is None:
            return 0
        sealed = self.segments.find(failure.base)
        end = sealed.end if sealed is not None else self.marks.durable_end
        return end - max(failure.base, self.marks.start_offset)

    def close_acceptance(self) -> None:
        """Nothing more is accepted; what was accepted drains."""
        self.log.leave()
        self.log.want_durable(self.marks.next_offset)
        self.tell_who_waits_in_vain()

    def closed(self) -> None:
        """All tasks are done."""
        self.log.end()
        self._fail_waiters()

    def _fail_waiters(self) -> None:
        for waiters in (self.written, self.durable, self.visible):
            waiters.fail(self.log.refusal)
        self._nothing_is_uploaded()
        self.tell_who_waits_in_vain()

    def ring_all(self) -> None:
        """Wake every task, to look at what changed, and decide about who waits for room."""
        bells = (self.writer_bell, self.janitor_bell, self.uploader_bell, self.sweeper_bell)
        for bell in bells:
            bell.ring()
        self.append_queue.look()
