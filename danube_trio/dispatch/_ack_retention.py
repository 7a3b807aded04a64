"""Retention: which messages of a topic may go.

What goes is a whole number of segments below all of these:

* RETAIN_UNTIL_ACK: the saved end of every subscription of the topic, in use or not, that a metadata
  store knows which a dispatch of the topic in this program uses. Without any subscription nothing
  goes, nor with one whose cursor cannot be read, or does not fit the log.
* RETAIN_UNTIL_EXPIRE: the first message that is younger than the retention period; nothing while
  the clock is far ahead of what it can be (`clocks.SteadyClock`).
* whatever a reader of the topic has not handed out yet.

Each dispatch frees by its own policy. KEEP frees nothing, and holds nothing against another's.

**The order of a round.** What subscriptions here need that the stores may not show: where they were
moved back to, or begin. Then what the stores say, the least of all of it, and then, with the guard
of the log (`_needs`), readers and freeing; anew if somebody here went back in between. A seek moves
with the guard, saves, and looks then whether its position is still there. So:

* Here, what was moved back before the guard was taken is held, and what comes later finds gone what
  went.
* Elsewhere, a seek that is saved before the store is asked is held. A later one finds gone what
  went, unless the round is just freeing: then it misses that, and counts it as lost.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import attrs
import trio

from danube_trio import StartPosition
from danube_trio._core.clocks import MAX_AHEAD, SteadyClock
from danube_trio.dispatch._options import RetentionPolicy
from danube_trio.dispatch._store import TopicStore, first_offset
from danube_trio.errors import DanubeError

log = logging.getLogger("danube_trio.dispatch")


@attrs.define(eq=False)
class Retention:
    """Frees messages of one topic, from time to time.

    Attributes:
        period: seconds; the age at which messages go with RETAIN_UNTIL_EXPIRE.
        interval: seconds between two rounds.
        clock: seconds since 1970.
        handed_in: the log is somebody else's, who is told once that something of it went.
    """

    store: TopicStore
    policy: RetentionPolicy
    period: float
    interval: float
    clock: Callable[[], float]
    handed_in: bool
    _done: int | None = None  # what the last round freed up to: no reason to use the log again
    _steady: SteadyClock = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._steady = SteadyClock(self.clock, trio.current_time, MAX_AHEAD)

    async def run(self, *, at_once: bool = False) -> None:
        """A round every `interval`, until cancelled."""
        if self.policy is RetentionPolicy.KEEP:
            return
        failing = False
        while True:
            await trio.sleep(0 if at_once else self.interval)
            at_once = False
            try:
                await self._round()
            except (DanubeError, OSError, ValueError) as error:
                # LogClosedError, too: a topic that was given away may be taken over again. And
                # a DecodeError: the next round may begin at another message.
                if not failing:
                    log.warning(
                        "retention of %s failed, and is tried again: %s", self.store.topic, error
                    )
                failing = True
            else:
                failing = False

    async def apply(self) -> int:
        """One round; returns the first offset that still exists. Raises like log and store."""
        if self.policy is not RetentionPolicy.KEEP:
            self._done = None
            await self._round()
        return await self.store.start_offset()

    async def _round(self) -> None:
        needs = self.store.needs
        while True:
            before = needs.went_back
            if self.policy is RetentionPolicy.RETAIN_UNTIL_ACK:
                unneeded = await self._settled_by_all()
            else:
                unneeded = await self._expired()
            async with needs.guard:
                if before == needs.went_back:
                    await self._free(needs.first_read(unneeded))
                    return

    async def _free(self, may_go: int) -> None:
        """Free what is below, in whole segments. With the guard held."""
        if may_go == self._done:
            return
        needs, start = self.store.needs, await self.store.start_offset()
        if may_go > start:
            needs.freed = max(needs.freed, may_go)
            await self.store.log.free(may_go)
            before, start = start, await self.store.start_offset()
            if may_go == needs.freed:  # else another round may still free more
                needs.freed = start
            if self.handed_in and start > before:
                self.handed_in = False
                log.info(
                    "retention of %s (%s) frees messages of the log that was handed in, from now "
                    "on: it begins at %d",
                    self.store.topic,
                    self.policy.name,
                    start,
                )
        self._done = may_go

    async def _settled_by_all(self) -> int:
        """The first message that a subscription may need; 0 if there is none."""
        dispatches = self.store.needs.dispatches
        held = [offset for needed in list(dispatches) for offset in needed()]
        ends = [end for known in set(dispatches.values()) for end in await known.ends()]
        return min(held + ends) if ends else 0

    async def _expired(self) -> int:
        """The first message that is young enough to stay."""
        now = self._steady.now()
        if now is None:
            return 0
        since = max(0.0, now - self.period)
        # What is missing may be young: a gap goes when what follows it does.
        return await first_offset(self.store, StartPosition.timestamp(since))
