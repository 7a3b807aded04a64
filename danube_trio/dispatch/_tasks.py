"""The tasks of one subscription: one reads the log, one watches the clock, one saves the cursor,
one takes poison to the dead letters.

They share an `Engine` and nothing else; each waits for its bell. What cannot be repaired by waiting
(a damaged log, a cursor that somebody else took over) makes the subscription fail: consumers get
that error. What can be (a store or a dead letter log that does not answer, no file descriptors) is
tried again, counted, and told in the statistics; messages stay where they are meanwhile.
"""

from __future__ import annotations

import errno
import logging
import sys
from collections.abc import Callable

import trio

from danube_trio import StartPosition
from danube_trio.dispatch._dead_letters import DeadLetters
from danube_trio.dispatch._engine import Engine, Phase
from danube_trio.dispatch._keeper import CursorKeeper
from danube_trio.dispatch._log import MessageReader, TopicLog
from danube_trio.errors import (
    DanubeError,
    LogClosedError,
    MessageTooLargeError,
    OffsetTrimmedError,
    StoreError,
    StoreUnavailableError,
)
from danube_trio.message import Gap, StreamMessage

__all__ = ["Reading", "Saving", "bury", "watch_clock"]

log = logging.getLogger("danube_trio.dispatch")

# Settled messages that are read over rather than skipped with a new reader (a guess).
SKIP = 4096
# Seconds before a failed save or burial is tried again; doubled up to the maximum (guesses).
RETRY_INITIAL, RETRY_MAX = 0.1, 5.0
# Errors of the system that say nothing about the log: no file descriptors, no memory, for now.
PASSING = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN)


class Reading:
    """Feeds the core from the log, when it wants more."""

    def __init__(self, engine: Engine, topic_log: TopicLog) -> None:
        self._engine = engine
        self._log = topic_log
        self._reader: MessageReader | None = None
        self._scope = trio.CancelScope()
        self._moved = False
        self._pause = RETRY_INITIAL

    async def run(self) -> None:
        """Read until the subscription is not open any more."""
        engine = self._engine
        try:
            while engine.phase is Phase.OPEN:
                if self._moved:
                    self._moved = False
                    await self._drop_reader()
                elif not engine.core.wants_more():
                    engine.nothing_to_read()
                    await engine.read_bell.wait()
                else:
                    with trio.CancelScope() as self._scope:
                        await self._try_step()
        except (DanubeError, OSError, ValueError) as error:
            engine.fail(error)
        finally:
            await self._drop_reader()

    def moved(self) -> None:
        """The core was moved: read on from where it is now."""
        self._moved = True
        self._scope.cancel()

    async def _try_step(self) -> None:
        """One step; after a failure that may pass, wait, so that the next one begins anew."""
        engine = self._engine
        try:
            await self._step()
        except (StoreUnavailableError, OSError) as error:
            if isinstance(error, OSError) and error.errno not in PASSING:
                raise
            engine.read_failures += 1
            engine.last_error = str(error)
            if self._pause == RETRY_INITIAL:
                log.warning(
                    "subscription %s: reading failed, and is tried again: %s", engine.name, error
                )
            await self._drop_reader()
            pause, self._pause = self._pause, min(2 * self._pause, RETRY_MAX)
            await trio.sleep(pause)

    async def _step(self) -> None:
        core = self._engine.core
        wanted = core.next_wanted()
        if self._reader is not None and wanted - core.fed_end > SKIP:
            await self._drop_reader()
        try:
            if self._reader is None:
                await self._open(wanted)
                return
            batch = await self._reader.next_batch()
        except OffsetTrimmedError as error:
            if not self._moved:
                self._lose(error.start_offset)
                await self._drop_reader()
            return
        self._pause = RETRY_INITIAL
        if not batch:
            raise LogClosedError("the log has ended: nothing more can be delivered")
        if not self._moved:
            self._feed(batch)

    async def _open(self, wanted: int) -> None:
        self._reader = await self._log.reader(StartPosition.offset(wanted))
        if not self._moved:
            self._engine.core.pass_by(wanted)
            self._engine.changed()

    def _feed(self, batch: list[StreamMessage]) -> None:
        core = self._engine.core
        start = 0
        for i, item in enumerate(batch):
            if isinstance(item, Gap):  # of a log that was opened with on_corruption="skip"
                if i > start:
                    core.feed(batch[start:i], batch[i - 1].offset + 1)
                self._lose(item.end)
                start = i + 1
        if start < len(batch):
            core.feed(batch[start:] if start else batch, batch[-1].offset + 1)
        self._engine.changed()

    def _lose(self, end: int) -> None:
        engine = self._engine
        start, lost = engine.core.fed_end, engine.core.lose(end)
        if lost:
            log.warning(
                "subscription %s: %d messages between %d and %d are not in the log any more",
                engine.name,
                lost,
                start,
                end,
            )
        engine.changed()

    async def _drop_reader(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            with trio.CancelScope(shield=True):
                await reader.aclose()


async def watch_clock(engine: Engine) -> None:
    """Let deliveries time out and redeliveries become due.

    A delivery that begins later times out later, so while there are some it is enough to look again
    after one timeout at the latest; whoever takes a message need not wake this task.
    """
    core = engine.core
    timeout = core.options.ack_timeout
    seen = -1
    while engine.phase is not Phase.CLOSED:
        now = trio.current_time()
        core.tick(now)
        engine.changed()
        until = min(core.next_due(), core.next_deadline())
        if timeout is not None and core.counts.delivered != seen:
            until = min(until, now + timeout)
            seen = core.counts.delivered
        engine.timer_until = until
        with trio.CancelScope(deadline=until):
            await engine.time_bell.wait()


class Saving:
    """Saves the cursor: at most once in ``save_interval``, unless it is urgent."""

    def __init__(
        self, engine: Engine, keeper: CursorKeeper, topic_log: TopicLog, told: Callable[[], None]
    ) -> None:
        self._engine = engine
        self._keeper = keeper
        self._log = topic_log
        self._told = told
        self._lock = trio.Lock()

    async def run(self) -> None:
        """Save until the subscription is closed, or somebody else has the cursor."""
        engine, core = self._engine, self._engine.core
        pause = RETRY_INITIAL
        while engine.phase is not Phase.CLOSED and not engine.fenced:
            await self._wait(1)
            with trio.move_on_after(core.options.save_interval):
                await self._wait((core.options.max_unsaved_acks or sys.maxsize) // 2)
            try:
                await self.save()
            except StoreError as error:
                if pause == RETRY_INITIAL:
                    log.warning(
                        "subscription %s: its cursor could not be saved: %s", engine.name, error
                    )
                await trio.sleep(pause)
                pause = min(2 * pause, RETRY_MAX)
            except (DanubeError, OSError, ValueError):
                return  # the subscription has failed
            else:
                pause = RETRY_INITIAL

    async def _wait(self, unsaved: int) -> None:
        """Wait until so many changes are not saved."""
        engine, core = self._engine, self._engine.core
        while core.changes - core.saved_changes < unsaved:
            engine.save_at = core.saved_changes + unsaved
            await engine.save_bell.wait()

    async def save(self) -> None:
        """Save everything that is settled at the call.

        Where readers see what is not durable yet, it is made durable first: see `_opening`.

        Raises StoreError (it will be tried again), FencedError, CorruptDataError, or LogBrokenError
        and others of the log (the subscription has failed).
        """
        engine, core = self._engine, self._engine.core
        wanted = core.changes
        async with self._lock:
            if core.saved_changes >= wanted and engine.saves:
                return
            total, state = core.changes, core.snapshot()
            try:
                if not self._log.reads_durable:
                    await self._log.make_durable(state.edge)
                saved = await self._keeper.save(state, core.options.max_cursor_bytes)
            except (DanubeError, OSError, ValueError) as error:
                engine.save_failures += 1
                engine.last_error = str(error)
                if not isinstance(error, StoreError):
                    engine.fail(error)
                raise
            core.saved_changes = max(core.saved_changes, total)
            core.unsaved_from = saved.edge if saved.edge < state.edge else None
            self._note_failures(len(state.attempts) - len(saved.attempts))
            engine.saved_end = saved.end
            engine.saves += 1
        engine.changed()
        self._told()

    def _note_failures(self, unsaved: int) -> None:
        """So many messages have failed, and that did not fit into the saved cursor."""
        engine = self._engine
        if unsaved and not engine.unsaved_failures:
            log.warning(
                "subscription %s: how often %d messages have failed does not fit into "
                "max_cursor_bytes=%d: after a crash they begin at the first attempt again",
                engine.name,
                unsaved,
                engine.core.options.max_cursor_bytes,
            )
        engine.unsaved_failures = unsaved


async def bury(engine: Engine, letters: DeadLetters) -> None:
    """Take poison to the dead letters, one after the other."""
    core = engine.core
    pause = RETRY_INITIAL
    while engine.phase is not Phase.CLOSED:
        entry = core.next_burial()
        if entry is None:
            await engine.bury_bell.wait()
            continue
        try:
            await letters.bury(entry)
        except MessageTooLargeError as error:  # it will be each time
            engine.bury_failures += 1
            engine.last_error = str(error)
            log.warning(
                "subscription %s: offset %d can be no dead letter, and is blocked: %s",
                engine.name,
                entry.offset,
                error,
            )
            core.not_buried(
                entry, f"it can be no dead letter ({error}), and failed: {entry.reason}"
            )
            engine.changed()
            continue
        except (DanubeError, OSError, ValueError) as error:
            engine.bury_failures += 1
            engine.last_error = str(error)
            if pause == RETRY_INITIAL:
                log.warning(
                    "subscription %s: offset %d could not be dead-lettered, and is tried again: %s",
                    engine.name,
                    entry.offset,
                    error,
                )
            await trio.sleep(pause)
            pause = min(2 * pause, RETRY_MAX)
            core.not_buried(entry)
            continue
        pause = RETRY_INITIAL
        core.buried(entry)
        engine.changed()
