"""Acceptance: the step after which a record is the log's.

With room at hand (``max_pending_bytes``) the offsets are taken and the records queued in one
synchronous step, at the call. Before it, `Cancelled` means that nothing was accepted. After it
nothing is interruptible: an append waits for its durability, which is bounded by the block in
flight and its own, or, for the level "uploaded", by ``upload_timeout``. Without room, appends queue
strictly in the order of their calls: see `AppendQueue`. Nothing is awaited between the call and
its place there, or its offsets, so the order of the offsets is that of the calls, whatever the
levels.
"""

from __future__ import annotations

from _thread import get_ident

import trio
from trio.lowlevel import (
    Abort,
    cancel_shielded_checkpoint,
    checkpoint_if_cancelled,
    current_task,
    current_trio_token,
    enable_ki_protection,
    wait_task_rescheduled,
)

from danube_trio._core.frame import Records
from danube_trio._engine.log.engine import Engine
from danube_trio._engine.wait.running import BELONGS
from danube_trio._engine.wait.waiters import Waiter, wake
from danube_trio.config import Durability
from danube_trio.errors import FencedError, LogBrokenError, LogClosedError, StoreUnavailableError

LEVELS = ("accepted", "written", "fsync", "uploaded")


def check_level(level: Durability, *, store: bool) -> None:
    """Raise ValueError for a level that a log does not have, which has an object store, or not."""
    if level not in LEVELS:
        raise ValueError(f"durability={level!r} must be one of {', '.join(LEVELS)}")
    if level == "uploaded" and not store:
        raise ValueError("durability='uploaded' needs an object store: open_wal(store=...)")


class Acceptor:
    """Accepts records for one log."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._log = engine.log
        self._marks = engine.marks
        self._thread = get_ident()
        self.queue = engine.queue
        self._in_memory = engine.files is None
        self._levels = LEVELS if engine.cloud is not None else LEVELS[:-1]
        self._token = current_trio_token()

    def check(self, level: Durability) -> None:
        """Raise ValueError for a level that this log does not have."""
        if level not in self._levels:
            check_level(level, store=False)

    @enable_ki_protection
    async def append(
        self, records: Records, size_bytes: int, level: Durability, expected_offset: int | None
    ) -> int:
        """Accept, and wait for the level. Returns the first offset."""
        if get_ident() != self._thread:  # what `OwnRun.check` does; a call less for each append
            raise RuntimeError(BELONGS)
        if level not in self._levels:
            self.check(level)
        await checkpoint_if_cancelled()
        if self.queue.must_wait(size_bytes):
            first = await self._wait_for_room(records, size_bytes, level, expected_offset)
        else:
            first = end = -1
            try:
                first = self.queue.accept(records, size_bytes, expected_offset)
                end = first + len(records)
                # From here on no Cancelled may be raised: the record is there.
                if level == "accepted" or self._in_memory or not len(records):
                    await cancel_shielded_checkpoint()
                    return first
                if level == "written":
                    await self._marks.on_written.wait_shielded(end)
                else:
                    self._log.want_durable(end)
                    await self._marks.on_durable.wait_shielded(end)
            except (LogBrokenError, FencedError) as error:
                self._engine.told(error, range(first, end))
                raise
        if level == "uploaded" and len(records):
            await self.wait_uploaded(range(first, first + len(records)))
        return first

    def wake_when(self, level: Durability, offsets: range, waiter: Waiter) -> None:
        """Have a waiter told when these records are as durable as this directory makes them.

        In the step in which they were accepted. Level "uploaded" has to wait for the store besides.
        """
        end = offsets.stop
        if level == "accepted" or self._in_memory or not offsets:
            wake(waiter)
        elif level == "written":
            self._marks.on_written.add(end, waiter)
        else:
            self._log.want_durable(end)
            self._marks.on_durable.add(end, waiter)

    async def wait_uploaded(self, offsets: range) -> None:
        """Wait for the store, not to be interrupted, but no longer than the settings say."""
        engine = self._engine
        cloud = engine.cloud
        assert cloud is not None
        timeout = engine.config.cloud.upload_timeout
        why = f"has not got them after {timeout} s"
        try:
            with trio.move_on_after(timeout, shield=True):
                await cloud.wait_uploaded(offsets.stop)
                return
        except (LogBrokenError, FencedError) as error:
            engine.told(error, offsets)
            raise
        except LogClosedError:
            why = "had not got them when the log was left"
        last = f": {cloud.upload_error}" if cloud.upload_error else ""
        raise StoreUnavailableError(
            f"records {offsets.start} to {offsets.stop} are durable in {engine.config.dir}, and "
            f"will be uploaded, but the store {why}{last}"
        )

    @enable_ki_protection
    def append_nowait(self, records: Records, size_bytes: int, expected_offset: int | None) -> int:
        """Accept now or raise trio.WouldBlock. Returns the first offset."""
        self._check_run()
        if self.queue.must_wait(size_bytes):
            raise trio.WouldBlock
        try:
            return self.queue.accept(records, size_bytes, expected_offset)
        except (LogBrokenError, FencedError) as error:
            self._engine.told(error)
            raise

    def _check_run(self) -> None:
        """Before anything is accepted: from elsewhere the tasks could not be woken."""
        try:
            here = current_trio_token()
        except RuntimeError:
            here = None
        if here is not self._token:
            raise RuntimeError(BELONGS)

    async def _wait_for_room(
        self, records: Records, size_bytes: int, level: Durability, expected_offset: int | None
    ) -> int:
        """The same without room: one wait, which can be cancelled until the records are accepted.

        So that tasks wait for their marks in the order of the offsets, in whatever order they wake.
        """
        waiting = _Waiting(self, records, size_bytes, level, expected_offset)
        self.queue.enter(waiting)

        def abort(_: object) -> Abort:
            return Abort.SUCCEEDED if self.queue.leave(waiting) else Abort.FAILED

        try:
            await wait_task_rescheduled(abort)
        except (LogBrokenError, FencedError) as error:
            self._engine.told(error, waiting.offsets or range(0))  # none: it was refused
            raise
        assert waiting.offsets is not None
        return waiting.offsets.start


class _Waiting:
    """A task that waits for room, and then, without waking, for its level."""

    __slots__ = (
        "_acceptor",
        "_level",
        "_task",
        "expected_offset",
        "offsets",
        "records",
        "size_bytes",
    )

    def __init__(
        self,
        acceptor: Acceptor,
        records: Records,
        size_bytes: int,
        level: Durability,
        expected_offset: int | None,
    ) -> None:
        self._acceptor = acceptor
        self._level: Durability = level
        self._task = current_task()
        self.records = records
        self.size_bytes = size_bytes
        self.expected_offset = expected_offset
        self.offsets: range | None = None

    def accepted(self, first: int) -> None:
        """See `Newcomer`."""
        self.offsets = range(first, first + len(self.records))
        self._acceptor.wake_when(self._level, self.offsets, self._task)

    def refused(self, error: BaseException) -> None:
        """See `Newcomer`."""
        wake(self._task, error)
