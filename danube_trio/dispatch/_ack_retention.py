"""Retention: which messages of a topic may go.

What goes is a whole number of segments below all of these:

* RETAIN_UNTIL_ACK: the saved end of every subscription that the topic has in the metadata store, in
  use or not. Without any subscription nothing goes, nor with one whose cursor cannot be read, or
  is ahead of the log.
* RETAIN_UNTIL_EXPIRE: the first message that is younger than the retention period; nothing while
  the clock is far ahead of what it can be (`clocks.SteadyClock`).
* whatever a reader of the topic has not handed out yet.

Who begins to need messages registers that while holding the topic's guard, which a round holds from
its first look to its end (`TopicStore.guard`). Freeing may fail, or be cancelled, and happen later
all the same (the log's own janitor goes on): until a round succeeds nobody begins below what that
one was to free (`TopicStore.freed`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

import trio

from danube_trio import StartPosition
from danube_trio.clocks import MAX_AHEAD, SteadyClock
from danube_trio.dispatch._log import first_offset
from danube_trio.dispatch._options import ReliableOptions, RetentionPolicy
from danube_trio.dispatch._state import Bell
from danube_trio.dispatch._store import TopicStore
from danube_trio.errors import DanubeError

__all__ = ["Retention"]

log = logging.getLogger("danube_trio.dispatch")


class Retention:
    """Frees messages of one topic, from time to time.

    Args:
        ends: the saved end of each subscription, by name; looked at in each round.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        store: TopicStore,
        options: ReliableOptions,
        ends: Callable[[], Mapping[str, int]],
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._options = options
        self._ends = ends
        self._clock = SteadyClock(clock, trio.current_time, MAX_AHEAD)
        self.bell = Bell()
        self.failures = 0

    async def run(self) -> None:
        """A round every ``retention_interval``, until cancelled."""
        by_age = self._options.retention_policy is RetentionPolicy.RETAIN_UNTIL_EXPIRE
        failing = False
        while True:
            await trio.sleep(self._options.retention_interval)
            if not by_age:
                await self.bell.wait()  # nothing new can go before something changed
            try:
                await self.apply()
            except (DanubeError, OSError, ValueError) as error:
                # LogClosedError, too: a topic that was given away may be taken over again. And
                # a DecodeError: the next round may begin at another message.
                self.failures += 1
                if not failing:
                    log.warning(
                        "retention of %s failed, and is tried again: %s", self._store.topic, error
                    )
                failing = True
                self.bell.ring()
            else:
                failing = False

    async def apply(self) -> int:
        """One round; returns the first offset that still exists. Raises like the log."""
        async with self._store.guard:
            start = await self._store.start_offset()
            if self._options.retention_policy is RetentionPolicy.RETAIN_UNTIL_ACK:
                unneeded = await self._settled_by_all()
            else:
                unneeded = await self._expired()
            may_go = self._store.first_needed(unneeded)
            if may_go < unneeded:
                self.bell.ring()  # readers do not tell how far they are: look again
            if may_go > start:
                self._store.freed = may_go
                await self._store.log.free(may_go)
                self._store.freed = start = await self._store.start_offset()
            return start

    async def _settled_by_all(self) -> int:
        """The first message that a subscription may need. One that is ahead of the log needs all.

        (It is not of this log, or the log lost its end: nobody knows what it has settled of this.)
        """
        ends = list(self._ends().values())
        log_end = await self._store.current_offset()
        return min((end if end <= log_end else 0 for end in ends), default=0)

    async def _expired(self) -> int:
        """The first message that is young enough to stay."""
        now = self._clock.now()
        if now is None:
            return 0
        since = max(0.0, now - self._options.retention_period)
        end = await self._store.current_offset()
        reader = await self._store.log.reader(
            StartPosition.timestamp(since), end="current", count=1
        )
        try:
            # What is missing may be young: a gap goes when what follows it does.
            return first_offset(await reader.next_batch(), end)
        finally:
            with trio.CancelScope(shield=True):
                await reader.aclose()
