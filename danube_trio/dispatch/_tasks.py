"""The tasks of one subscription: one reads the log, one keeps the time, one takes poison to the
dead letters. (One more saves the cursor: `_saving`.)

They share a `SubscriptionState` and nothing else; each waits for its bell. What cannot be repaired
by waiting (a damaged log, a cursor that somebody else took over) makes the subscription fail:
consumers get that error. What can be (a store or a dead letter log that does not answer, no file
descriptors) is tried again, counted, and told in the statistics; messages stay where they are
meanwhile.
"""

from __future__ import annotations

import errno
import logging

import trio

from danube_trio import StartPosition
from danube_trio.catalog import Backoff, Outage
from danube_trio.dispatch._dead_letters import DeadLetters
from danube_trio.dispatch._log import MessageReader, TopicLog
from danube_trio.dispatch._state import Phase, SubscriptionState
from danube_trio.errors import (
    DanubeError,
    LogClosedError,
    MessageTooLargeError,
    OffsetTrimmedError,
    StoreUnavailableError,
    text_of,
)
from danube_trio.message import Gap, StreamMessage

log = logging.getLogger("danube_trio.dispatch")

# Settled messages that are read over rather than skipped with a new reader (a guess).
SKIP = 4096
# Errors of the system that say nothing about the log: no file descriptors, no memory, for now.
PASSING = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN)


class Reading:
    """Feeds the core from the log, when it wants more."""

    def __init__(self, state: SubscriptionState, topic_log: TopicLog) -> None:
        self._state = state
        self._log = topic_log
        self._reader: MessageReader | None = None
        self._scope = trio.CancelScope()
        self._moved = False  # while a step waited: what it has found is of before
        self._outage = Outage(log, f"subscription {state.name}: reading", Backoff())

    async def run(self) -> None:
        """Read until the subscription is not open any more."""
        state = self._state
        try:
            while state.phase is Phase.OPEN:
                if self._moved:
                    self._moved = False
                    await self._drop_reader()
                elif not state.core.wants_more():
                    await state.read_bell.wait()
                else:
                    with trio.CancelScope() as self._scope:
                        await self._try_step()
        except (DanubeError, OSError, ValueError) as error:
            state.fail(error)
        finally:
            await self._drop_reader()

    def moved(self) -> None:
        """The core was moved: read on from where it is now."""
        self._moved = True
        self._scope.cancel()

    async def _try_step(self) -> None:
        """One step; after a failure that may pass, wait, so that the next one begins anew."""
        state = self._state
        try:
            await self._step()
        except (StoreUnavailableError, OSError) as error:
            if isinstance(error, OSError) and error.errno not in PASSING:
                raise
            state.read_failures += 1
            state.last_error = text_of(error)
            await self._drop_reader()
            await trio.sleep(self._outage.failed(error))

    async def _step(self) -> None:
        core = self._state.core
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
        self._outage.over()
        if not batch:
            raise LogClosedError("the log has ended: nothing more can be delivered")
        if not self._moved:
            self._feed(batch)

    async def _open(self, wanted: int) -> None:
        self._reader = await self._log.reader(StartPosition.offset(wanted))
        if not self._moved:
            self._state.core.pass_by(wanted)
            self._state.changed()

    def _feed(self, batch: list[StreamMessage]) -> None:
        core = self._state.core
        start = 0
        for i, item in enumerate(batch):
            if isinstance(item, Gap):  # of a log that was opened with on_corruption="skip"
                if i > start:
                    core.feed(batch[start:i], batch[i - 1].offset + 1)
                self._lose(item.end)
                start = i + 1
        if start < len(batch):
            core.feed(batch[start:] if start else batch, batch[-1].offset + 1)
        self._state.changed()

    def _lose(self, end: int) -> None:
        state = self._state
        start, lost = state.core.fed_end, state.core.lose(end)
        if lost:
            log.warning(
                "subscription %s: %d messages between %d and %d are not in the log any more",
                state.name,
                lost,
                start,
                end,
            )
        state.changed()

    async def _drop_reader(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            with trio.CancelScope(shield=True):
                await reader.aclose()


async def keep_time(state: SubscriptionState) -> None:
    """Let deliveries time out and redeliveries become due.

    A delivery that begins later times out later, so while there are some it is enough to look again
    after one timeout at the latest; whoever takes a message need not wake this task.
    """
    core = state.core
    timeout = core.options.ack_timeout
    seen = -1
    while state.phase is not Phase.CLOSED:
        now = trio.current_time()
        core.tick(now)
        state.changed()
        until = min(core.next_due(), core.next_deadline())
        if timeout is not None and core.counts.delivered != seen:
            until = min(until, now + timeout)
            seen = core.counts.delivered
        state.timer_until = until
        with trio.CancelScope(deadline=until):
            await state.time_bell.wait()


async def bury(state: SubscriptionState, letters: DeadLetters) -> None:
    """Take poison to the dead letters, one after the other."""
    core = state.core
    outage = Outage(log, f"subscription {state.name}: the dead letter", Backoff())
    while state.phase is not Phase.CLOSED:
        entry = core.next_burial()
        if entry is None:
            await state.bury_bell.wait()
            continue
        try:
            await letters.bury(entry)
        except MessageTooLargeError as error:  # it will be each time
            state.bury_failures += 1
            state.last_error = text_of(error)
            log.warning(
                "subscription %s: offset %d can be no dead letter, and is blocked: %s",
                state.name,
                entry.offset,
                text_of(error),
            )
            core.not_buried(
                entry, f"it can be no dead letter ({error}), and failed: {entry.reason}"
            )
            state.changed()
            continue
        except (DanubeError, OSError, ValueError) as error:
            state.bury_failures += 1
            state.last_error = text_of(error)
            await trio.sleep(outage.failed(error, f" of offset {entry.offset}"))
            core.not_buried(entry)
            continue
        outage.over()
        core.buried(entry)
        state.changed()
