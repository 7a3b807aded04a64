"""What the tasks of one log share: its state, and the steps that change it.

Every method here is synchronous, so each is one indivisible step between two checkpoints: between
deciding on state and recording it there is no await. The tasks (`writer`, `flusher`, `janitor`)
and the readers hold no state of the log of their own.

::

    append --accept--> intake --writer--> block --flusher--> written --> durable --> cache, readers
                                            sealed segment --uploader--> uploaded --> CLOUD readers

With an object store a segment is in two places for a while. What the store holds is said by
`StoredObjects` (see `cloud_side`), what the directory holds by `LocalFiles`: everything from its
start on.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import trio

from danube_trio._core.codec import Codec
from danube_trio._core.frame import Block, Records
from danube_trio._core.framing import encode_block
from danube_trio._core.life import Phase
from danube_trio._core.log import AppendQueue, Intake, LogState
from danube_trio._core.meters import Meters
from danube_trio._core.segment import Segment
from danube_trio._core.times import LATEST_US, microseconds
from danube_trio._engine.files.presence import LostFileError
from danube_trio._engine.files.space import no_space
from danube_trio._engine.log.cloud_side import CloudSide
from danube_trio._engine.log.local_files import LocalFiles
from danube_trio._engine.read.objects import CloudTier
from danube_trio._engine.read.shelf import MemoryShelf
from danube_trio._engine.wait.housekeeping import keeping_house
from danube_trio._engine.wait.pins import Pins
from danube_trio._engine.wait.running import OwnRun
from danube_trio._engine.wait.waiters import Bells, WatchedMarks
from danube_trio.config import WalConfig
from danube_trio.errors import DanubeError, FencedError, LogBrokenError

if TYPE_CHECKING:
    from danube_trio._engine.read.reader import Reader

log = logging.getLogger("danube_trio.engine")

# From writer to flusher: a block and the accepted bytes that it stands for. None only wakes the
# flusher, to look at what is due.
Work = tuple[Block, int] | None


class Engine:
    """The shared state of one open log.

    Attributes:
        run: whose it is.
        log: the phase, and what is asked of flusher and uploader; `marks` with who waits for them.
        intake, queue: the way in.
        memory, files, cloud: the shelves that it has, with what their tasks share. Without files
            the log is in memory only.
        bells: wake the tasks.
        pins, readers: who reads.
    """

    def __init__(
        self,
        config: WalConfig,
        codec: Codec,
        marks: WatchedMarks,
        *,
        clock: Callable[[], float],
        last_time: int = 0,
    ) -> None:
        self.run = OwnRun()
        self.config = config
        self.codec = codec
        self.clock = clock
        self.log = LogState(marks)
        self.marks = marks
        self.intake = Intake(
            config.max_pending_bytes, last_time, round(config.max_clock_ahead * 1e6)
        )
        self.queue = AppendQueue(self.log, self.intake, self.accept)
        self.memory = MemoryShelf(
            config.cache_capacity,
            config.cache_bytes,
            marks.next_offset,
            fetch_bytes=config.read_block_bytes,
        )
        self.files: LocalFiles | None = None
        self.cloud: CloudSide | None = None
        self.bells = Bells()
        self.pins = Pins()
        self.readers: weakref.WeakSet[Reader[Any]] = weakref.WeakSet()
        self.meters = Meters(trio.lowlevel.current_clock().current_time)

    # ---- what readers ask

    @property
    def tier(self) -> CloudTier | None:
        """The shelf of objects."""
        return self.cloud.tier if self.cloud is not None else None

    @property
    def visible_end(self) -> int:
        """Readers may see records below it."""
        return self.marks.visible_end

    async def wait_visible(self, end: int) -> None:
        """Wait until readers may see the record before `end`.

        Raises LogBrokenError, FencedError or LogClosedError when that will never be.
        """
        try:
            self.refuse_to_wait(end)
            await self.marks.on_visible.wait(end)
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
        # Nothing below may fail: from here on the offsets are taken.
        first = self.marks.accept(len(records))
        self.intake.put(records, size_bytes, now)
        if self.files is None:
            self._settle_in_memory(first)
        else:
            self.meters.ages.accepted(self.marks.next_offset)
            self.bells.writer.ring()
        return first

    def _settle_in_memory(self, first: int) -> None:
        batches, size = self.intake.take(0)
        block = encode_block(batches, first, self.codec.encode_uint)
        self.intake.release(size)
        self.memory.add(block)
        self.meters.wrote(block)
        self.marks.settle_in_memory(self.memory.start)

    # ---- what the flusher reports

    def block_written(self, block: Block, accepted_bytes: int) -> None:
        """Write returned for `block`."""
        if self.log.broken:
            return
        files = self.files
        assert files is not None
        files.add(block, self.meters.now())
        self.intake.release(accepted_bytes)
        if self.marks.early_visible:
            self.memory.add(block)
        else:
            self.memory.hold(block)
        self.meters.wrote(block)
        self.marks.written(block.end)
        if self.cloud is not None:
            self.cloud.look_at_room()
        # Last: whoever is accepted now finds everything as it is after this write.
        self.queue.look()

    def synced(self) -> None:
        """Sync returned for everything written."""
        if self.log.broken:
            return
        end = self.marks.written_end
        self.memory.show()  # before the mark: who is woken by it finds the records in memory
        self.meters.ages.durable(end)
        self.marks.durable(end)

    def rolled(self, crc: int | None) -> None:
        """The active segment was sealed, and the next one begun; `crc` of its bytes, if known."""
        if self.log.broken:
            return
        assert self.files is not None
        assert self.marks.durable_end == self.files.end, "it was synced before it is sealed"
        segment = self.files.rolled()
        if crc is not None and self.cloud is not None:
            self.cloud.checksums[segment.base] = crc
        self.marks.sealed(segment.end)
        self.log.roll_wanted = False
        self.meters.rolls += 1
        self.bells.janitor.ring()
        self.bells.uploader.ring()

    # ---- the object store

    def ask_for_roll(self) -> None:
        """Ask the flusher to seal the active segment."""
        self.log.roll_wanted = True
        self.bells.writer.ring()

    def fenced(self, error: FencedError) -> None:
        """Another writer took the log over: nothing is accepted or uploaded any more."""
        if not self.log.fenced(error):
            return
        log.error("the log %s is fenced: %s", self.config.dir, error)
        self._nothing_is_uploaded()
        self.tell_who_waits_in_vain()

    def seal(self) -> None:
        """The log accepts nothing more; what it has goes to the object store, all of it."""
        assert self.cloud is not None
        if not self.log.seal():
            return
        self.log.want_durable(self.marks.next_offset)
        self.cloud.want_uploaded(self.marks.next_offset)
        self.tell_who_waits_in_vain()

    def _nothing_is_uploaded(self) -> None:
        """From now on."""
        self.marks.on_uploaded.fail(self.log.refusal)
        if self.cloud is not None:
            self.cloud.over.set()

    def tell_who_waits_in_vain(self) -> None:
        """The log accepts nothing more: it has an end, and nobody must wait behind it.

        A trim that is under way when the log is sealed comes to its end, unless it is left before.
        """
        marks = self.marks
        for waiters in (marks.on_visible, marks.on_durable, marks.on_uploaded):
            waiters.fail(self.log.refusal, beyond=marks.next_offset)
        if self.cloud is not None and self.log.phase is not Phase.SEALED:
            self.cloud.stop_asking()
        self.bells.ring_all()
        self.queue.look()

    @property
    def untold_fence(self) -> FencedError | None:
        """The fence, if it cut accepted records off, and no caller was told."""
        cut_off = self.marks.next_offset > self.marks.uploaded_end
        return self.log.untold_fence if cut_off else None

    # ---- the janitor

    def segment_start(self, offset: int) -> int:
        """Where the segment begins that holds `offset`; without a directory, `offset` itself."""
        if self.files is None:
            return min(offset, self.marks.durable_end)
        if self.cloud is not None:
            return self.cloud.segment_start(offset)
        base = self.files.segments.base_of(offset)
        return base if base >= 0 else self.marks.start_offset

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
        # With a store the catalog begins there already, and has moved that mark.
        assert self.cloud is None or start <= self.marks.uploaded_end, (start, self.marks)
        self.marks.trimmed(start)
        self.memory.trim(start)
        return self.files.drop_before(start) if self.files is not None else []

    # ---- the end

    def break_(self, failure: BaseException) -> None:
        """A write or sync failed: everyone who waits is told, nothing is retried."""
        # What failed is what had no sync, at the first failure; later ones change nothing of it.
        failed = range(self.marks.durable_end, self.marks.next_offset)
        vanished, explained = self._vanished(failure), isinstance(failure, LostFileError)
        if self.log.break_(failure, failed, vanished=vanished, explained=explained):
            log.error("the log %s is broken: %r", self.config.dir, failure)
        self.intake.discard()
        self.meters.ages.discard()
        self.memory.discard_held()
        self._fail_waiters()

    def _vanished(self, failure: BaseException) -> int:
        """How many acknowledged records went with the files that somebody took away."""
        if isinstance(failure, LostFileError) and failure.everything:
            return self.marks.durable_end - self.marks.uploaded_end
        if self.files is None or not isinstance(failure, LostFileError) or failure.base is None:
            return 0
        sealed = self.files.segments.find(failure.base)
        end = sealed.end if sealed is not None else self.marks.durable_end
        return end - max(failure.base, self.marks.start_offset)

    def close_acceptance(self) -> None:
        """Nothing more is accepted; what was accepted drains."""
        # First the phase: who is woken below must not find a log that takes appends.
        self.log.leave()
        self.log.want_durable(self.marks.next_offset)
        self.tell_who_waits_in_vain()

    def closed(self) -> None:
        """All tasks are done."""
        self.log.end()
        self._fail_waiters()

    def _fail_waiters(self) -> None:
        for waiters in (self.marks.on_written, self.marks.on_durable, self.marks.on_visible):
            waiters.fail(self.log.refusal)
        self._nothing_is_uploaded()
        self.tell_who_waits_in_vain()
