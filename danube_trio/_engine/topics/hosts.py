"""Topics that are opened on demand, and closed when nobody uses them.

A log must be entered and left by one task, so each open topic has a *host*: a task that opens it,
waits until it shall close, and leaves it. Its states, each one a step in the host::

    WAITING --a slot is free--> OPENING --recovered--> OPEN --leave--> CLOSING --> gone

- **Pins.** Whoever uses a topic holds a pin for as long. An open reader is one too, until it is
  closed, at its end, or garbage. A topic without pins is *idle*.
- **Slots.** There are `limit`. A host that finds none has the idle topic closed that was used
  longest ago; if none is idle, it waits in line until one is.
- **Concurrent first uses** find the same host. When opening fails each of them gets an exception of
  its own, the host is gone, and the next use tries again.
- **What leaving a topic raises** (lost records that no caller was told of) is kept, and raised by
  the next use of that topic, or on leaving the storage. It never goes unsaid.
- **Broken** topics stay broken for whoever uses them at that moment, and close when they are idle:
  the next use recovers. Other topics never notice.
- **Records that only this directory has.** With an object store a topic is not closed for being
  idle before everything is uploaded, because nobody would upload it afterwards. One that must make
  room for others is closed all the same, and opened again when there is room, for that.

The hosts are shielded: a cancelled program leaves its block first, and they close then.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack

import trio
from trio.lowlevel import enable_ki_protection

from danube_trio._core.stats import StorageStatistics
from danube_trio._engine.log.wal import Wal
from danube_trio._engine.topics.topic import State, Topic, another, ask_for_upload, no_files_left
from danube_trio._engine.wait.housekeeping import keeping_house
from danube_trio._engine.wait.running import OwnRun
from danube_trio._engine.wait.waiters import Doorbell
from danube_trio.errors import FencedError, LogClosedError

log = logging.getLogger("danube_trio.storage")

# How many topics are opened, or left, at a time. Guesses: both wait for the disk, or a store.
OPENERS = LEAVERS = 32
# Garbage readers tell nobody that they are gone.
STARVING_POLL = 0.25
# Seconds that a topic waits for a slot before that is said. A guess.
SAY_AFTER = 1.0


class TopicHosts:
    """The topics of one storage.

    Args:
        nursery: of the hosts.
        open_log: makes the block of a topic's log.
        admit: called before a topic is opened; what it raises refuses to open it.
        fenced: told of a topic that another process took over, and in which epoch it was ours.
        limit, idle_seconds: how many may be open; when an idle one is closed.
        uploads: whether idle topics are uploaded before.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        open_log: Callable[[str], AbstractAsyncContextManager[Wal]],
        admit: Callable[[str], Awaitable[None]],
        fenced: Callable[[str, int], None],
        *,
        limit: int,
        idle_seconds: float,
        uploads: bool,
    ) -> None:
        self._run = OwnRun()
        self._nursery = nursery
        self._open_log = open_log
        self._admit = admit
        self._fenced = fenced
        self._idle_seconds = idle_seconds
        self._uploads = uploads
        self._topics: dict[str, Topic] = {}
        self._slots = trio.CapacityLimiter(limit)
        self._openers = trio.CapacityLimiter(OPENERS)
        self._leavers = trio.CapacityLimiter(LEAVERS)
        self._starving = 0
        self._starving_since = 0.0
        self._said = False  # that topics wait, since the last time that none did
        self._bell = Doorbell()
        self._empty = trio.Event()
        self._left = False
        self._not_uploaded: dict[str, None] = {}  # the next one to be tried first
        self.untold: dict[str, Exception] = {}
        self.opens = self.closes = self.evictions = self.failed_opens = 0

    # ---- using a topic

    def pin_now(self, name: str) -> Topic | None:
        """Hold a topic that is open, by its whole name, until `unpin`; None if it is not."""
        topic = self._topics.get(name)
        if topic is None or topic.state is not State.OPEN:
            return None
        topic.pins += 1
        return topic

    @enable_ki_protection
    async def pin(self, name: str) -> Topic:
        """Hold a topic; opens it, and waits for that, if it is not open. Cancelled: not held.

        Always a checkpoint. Raises what opening raises.
        """
        self._run.check()
        await trio.lowlevel.checkpoint()
        while True:
            if (topic := self.pin_now(name)) is not None:
                return topic
            topic = self._topics.get(name)
            if topic is None:
                topic = self._begin(name)
            if topic.state is State.CLOSING:
                await topic.gone.wait()
                continue
            topic.waiting += 1
            try:
                await topic.ready.wait()
            finally:
                topic.waiting -= 1
                if not (topic.waiting or topic.wanted) and topic.state is State.WAITING:
                    self._close(topic)  # whoever wanted it was cancelled
            if topic.error is not None:
                raise another(topic.error)

    def unpin(self, topic: Topic) -> None:
        """Give it back; synchronous, so that nothing comes between a result and its caller."""
        assert topic.pins > 0, topic
        topic.pins -= 1
        if topic.pins or topic.state is not State.OPEN:
            return
        topic.used_at = trio.current_time()
        if self._starving or topic.log.phase != "open":
            self._bell.ring()

    async def close(self, name: str) -> None:
        """Close a topic whoever uses it, and wait for that. Cancelled: it closes all the same."""
        topic = self._topics.get(name)
        if topic is None:
            await trio.lowlevel.checkpoint()
            return
        self._close(topic)
        await topic.gone.wait()

    async def close_idle(self, name: str) -> Topic:
        """Close a topic that nobody uses, and keep its name: uses wait until `release`.

        Raises trio.BusyResourceError if somebody uses it. Cancelled: it closes, and no more.
        """
        await trio.lowlevel.checkpoint()
        place = Topic(name, trio.CancelScope(), State.CLOSING)
        while (topic := self._topics.get(name)) is not None:
            if topic.state is State.CLOSING:
                await topic.gone.wait()
            elif topic.state is not State.OPEN:
                await topic.ready.wait()
            else:
                await self._close_for(place, topic)
                break
        else:
            self._refuse_if_left()
            self._topics[name] = place
        self._not_uploaded.pop(name, None)
        self.untold.pop(name, None)  # what was lost is not wanted any more
        return place

    async def _close_for(self, place: Topic, topic: Topic) -> None:
        """Close a topic; the place takes its name over before anybody else can."""
        topic.check_idle()
        topic.heir = place
        self._close(topic)
        try:
            await topic.gone.wait()
        except BaseException:
            topic.heir = None
            if self._topics.get(topic.name) is place:
                self._remove(place)
            raise

    def release(self, topic: Topic) -> None:
        """The end of `close_idle`."""
        self._remove(topic)

    # ---- hosts

    def _begin(self, name: str) -> Topic:
        """Start a host. Raises what leaving the topic raised when nobody was there to be told."""
        self._refuse_if_left()
        untold = self.untold.get(name)
        if untold is not None:
            if keeping_house():  # which does not tell anybody
                raise another(untold)
            raise self.untold.pop(name)
        topic = Topic(name, trio.CancelScope(shield=True))
        self._topics[name] = topic
        self._nursery.start_soon(self._host, topic, name=f"danube_trio topic {name}")
        return topic

    def _refuse_if_left(self) -> None:
        if self._left:
            raise LogClosedError("the storage is closed: open it again to continue")

    @enable_ki_protection
    async def _host(self, topic: Topic) -> None:
        try:
            with topic.scope:
                await self._admit(topic.name)
                await self._take_slot(topic)
                try:
                    await self._serve(topic)
                finally:
                    self._slots.release_on_behalf_of(topic)
        except Exception as error:
            self._failed(topic, error)
        finally:
            self._remove(topic)

    async def _take_slot(self, topic: Topic) -> None:
        try:
            self._slots.acquire_on_behalf_of_nowait(topic)
        except trio.WouldBlock:
            if not self._starving:
                self._starving_since, self._said = trio.current_time(), False
            self._starving += 1
            self._bell.ring()
            try:
                await self._slots.acquire_on_behalf_of(topic)
            finally:
                self._starving -= 1

    async def _serve(self, topic: Topic) -> None:
        """Open the log, wait until it shall close, and leave it."""
        topic.state = State.OPENING
        leaving = False
        try:
            async with AsyncExitStack() as stack:
                async with self._openers:
                    wal = await stack.enter_async_context(self._open_log(topic.name))
                self._opened(topic, wal)
                try:
                    await topic.leave.wait()
                    await self._leavers.acquire_on_behalf_of(topic)
                    leaving = True
                finally:
                    topic.state = State.CLOSING
                    self._look_back(topic, wal)
        finally:
            if leaving:
                self._leavers.release_on_behalf_of(topic)

    def _opened(self, topic: Topic, wal: Wal) -> None:
        topic.wal = wal
        if not topic.scope.cancel_called:
            topic.state = State.OPEN
        topic.used_at = trio.current_time()
        self.opens += 1
        self._not_uploaded.pop(topic.name, None)
        topic.ready.set()

    def _look_back(self, topic: Topic, wal: Wal) -> None:
        """The log is about to be left: what must be remembered of it."""
        cloud = wal.statistics().cloud
        if cloud is None:
            return
        if wal.phase == "fenced":
            self._fenced(topic.name, cloud.epoch)
        elif self._is_behind(wal) and not self._left:
            self._not_uploaded[topic.name] = None

    def _failed(self, topic: Topic, error: Exception) -> None:
        if topic.wal is None:
            topic.error = error
            self.failed_opens += 1
            if no_files_left(error):
                self._make_room(1)  # for the next try
            if isinstance(error, FencedError | LogClosedError):
                self._not_uploaded.pop(topic.name, None)  # it is somebody else's now
            if not topic.waiting:
                log.warning("topic %s could not be opened: %s", topic.name, error)
            return
        if isinstance(error, FencedError):
            self._fenced(topic.name, error.epoch)
        self.untold[topic.name] = error

    def _remove(self, topic: Topic) -> None:
        topic.state = State.CLOSING  # also one that never opened
        if topic.wal is not None:
            self.closes += 1
        assert self._topics[topic.name] is topic, topic
        del self._topics[topic.name]
        if topic.heir is not None:
            self._topics[topic.name] = topic.heir
        topic.ready.set()
        topic.gone.set()
        if self._left and not self._topics:
            self._empty.set()

    def _close(self, topic: Topic) -> None:
        if topic.state is State.OPEN:
            topic.state = State.CLOSING
            topic.leave.set()
        elif topic.state is State.WAITING:
            topic.state = State.CLOSING
            topic.scope.cancel()
        elif topic.state is State.OPENING:
            topic.scope.cancel()

    # ---- housekeeping

    async def keep_house(self) -> None:
        """Close idle topics, and those in the way of others; until cancelled."""
        while True:
            pause = min(max(self._idle_seconds / 4, 0.01), 5.0)
            with trio.move_on_after(min(pause, STARVING_POLL) if self._starving else pause):
                await self._bell.wait()
            self._close_idle()
            self._make_room()
            self._open_for_upload()
            self._say_who_waits()

    def _close_idle(self) -> None:
        long_ago = trio.current_time() - self._idle_seconds
        for topic in self._topics.values():
            if topic.idle and (
                topic.log.phase in ("broken", "fenced")
                or (topic.used_at <= long_ago and self._is_uploaded(topic))
            ):
                self._close(topic)

    def _is_uploaded(self, topic: Topic) -> bool:
        """Whether nothing would be left behind; asks for an upload if something would."""
        wal = topic.log
        if not self._is_behind(wal):
            return True
        if topic.asked < wal.next_offset:
            topic.asked = wal.next_offset
            self._nursery.start_soon(ask_for_upload, wal, topic.asked)
        return False

    def _is_behind(self, wal: Wal) -> bool:
        return self._uploads and wal.uploaded_end < wal.next_offset

    def _make_room(self, least: int = 0) -> None:
        """Close an idle topic for each host that needs a slot; at least so many.

        First those that are uploaded; of these, those that were used longest ago.
        """
        closing = sum(t.state is State.CLOSING and t.wal is not None for t in self._topics.values())
        needed = max(least, self._starving - closing - int(self._slots.available_tokens))
        if needed <= 0:
            return
        idle = [topic for topic in self._topics.values() if topic.idle]
        idle.sort(key=lambda topic: (self._is_behind(topic.log), topic.used_at))
        for topic in idle[:needed]:
            self.evictions += 1
            self._close(topic)

    def _say_who_waits(self) -> None:
        """Once, until none waits any more; `statistics().waiting` has how many."""
        if not self._starving or self._said:
            return
        if trio.current_time() - self._starving_since < SAY_AFTER:
            return
        self._said = True
        names = [topic.name for topic in self._topics.values() if topic.state is State.WAITING]
        log.warning(
            "%s (and %d more) cannot be opened yet: max_open_topics=%d topics are in use. Close "
            "readers and subscriptions that are not needed, or raise the setting",
            names[0] if names else "a topic",
            max(0, len(names) - 1),
            int(self._slots.total_tokens),
        )

    def _open_for_upload(self) -> None:
        """Open one that was closed with records that are only here, if there is room."""
        if self._starving or self._left or not self._slots.available_tokens:
            return
        for name in self._not_uploaded:
            if name not in self._topics and name not in self.untold:
                self._not_uploaded[name] = self._not_uploaded.pop(name)  # to the end of the line
                self._begin(name).wanted = True
                return

    # ---- the end

    def leave(self) -> None:
        """Close everything, whoever uses it; nothing opens any more."""
        self._left = True
        for topic in list(self._topics.values()):
            self._close(topic)
        if not self._topics:
            self._empty.set()

    async def wait_empty(self) -> None:
        """Wait until all topics are closed, after `leave`."""
        await self._empty.wait()

    def open_log(self, name: str) -> Wal | None:
        """The log of a topic if it is open. Holds nothing."""
        topic = self._topics.get(name)
        return topic.wal if topic is not None and topic.state is State.OPEN else None

    def open_names(self) -> list[str]:
        """The topics that are open, in the order of their opening."""
        return [topic.name for topic in self._topics.values() if topic.state is State.OPEN]

    def statistics(self, given_away: int) -> StorageStatistics:
        """Everything that can be counted, now."""
        states = [topic.state for topic in self._topics.values()]
        return StorageStatistics(
            open_topics=states.count(State.OPEN),
            pinned_topics=sum(topic.in_use for topic in self._topics.values()),
            opening=states.count(State.OPENING),
            closing=states.count(State.CLOSING),
            waiting=states.count(State.WAITING),
            opens=self.opens,
            closes=self.closes,
            evictions=self.evictions,
            failed_opens=self.failed_opens,
            not_uploaded=len(self._not_uploaded),
            given_away=given_away,
        )
