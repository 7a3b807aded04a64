"""The state that a subscription's handles and tasks share: the core, and who is waiting for what.

`changed` is called after every change of the core, in the same synchronous step. It wakes whoever
can go on: consumers, as many as there are messages for; the task that reads on; the one that saves.
Nobody polls.

A consumer that waits is woken once for one message. Until it runs, its message counts as spoken
for, so that the next change does not wake another one for it. If it was cancelled meanwhile, it
passes the call on.
"""

from __future__ import annotations

import enum
from math import inf

import trio
from trio.lowlevel import checkpoint, current_trio_token

from danube_trio.dispatch._core import DispatchCore, Taker
from danube_trio.dispatch._errors import SubscriptionClosedError
from danube_trio.dispatch._leaving import Calls
from danube_trio.dispatch._ledger import Entry, State
from danube_trio.errors import FencedError, text_of


class Phase(enum.Enum):
    """The life of an open subscription."""

    OPEN = "open"
    FAILED = "failed"
    CLOSED = "closed"


class Bell:
    """Wakes one task. Rings that come while it does not wait count as one, for its next wait.

    Attributes:
        event: of the wait that is under way, if one is.
    """

    __slots__ = ("_rung", "event")

    def __init__(self) -> None:
        self.event: trio.Event | None = None
        self._rung = False

    def ring(self) -> None:
        """Wake the task, or let its next wait return at once."""
        self._rung = True
        if self.event is not None:
            self.event.set()
            self.event = None

    async def wait(self) -> None:
        """Wait for a ring. Always a checkpoint."""
        if self._rung:
            self._rung = False
            await checkpoint()
            return
        self.event = trio.Event()
        try:
            await self.event.wait()
            self._rung = False
        finally:
            self.event = None


class _Waiting:
    """A consumer's task that waits for a message."""

    __slots__ = ("consumer", "event")

    def __init__(self, consumer: Taker) -> None:
        self.consumer = consumer
        self.event = trio.Event()


class SubscriptionState:
    """One open subscription."""

    def __init__(self, name: str, core: DispatchCore) -> None:
        self.name = name
        self.core = core
        self.phase = Phase.OPEN
        self.failure: BaseException | None = None
        self.untold: BaseException | None = None  # the failure, if only our own task got it
        self.calls = Calls(f"subscription {name!r}")
        self.saved_end = core.end
        # The highest end that the store may hold, or get yet from a save whose outcome is unknown.
        self.stored_end = core.end
        self.unsaved_failures = 0  # messages whose failures did not fit into the saved cursor
        self.saves = 0
        self.save_failures = 0
        self.read_failures = 0
        self.bury_failures = 0
        self.last_error: str | None = None
        self.read_bell = Bell()
        self.time_bell = Bell()
        self.save_bell = Bell()
        self.bury_bell = Bell()
        self.timer_until = inf  # when the task that keeps the time wakes up
        self.save_at: float = inf  # so many changes wake the task that saves
        self._token = current_trio_token()
        self._waiting: dict[_Waiting, None] = {}
        self._called = 0  # woken, and not running yet
        self._settle_waiters: dict[trio.Event, int] = {}

    # ---- wake-ups

    def changed(self) -> None:
        """The core has changed: wake whoever can go on."""
        core = self.core
        if self._waiting:
            self._call(core.available() - self._called)
        if self.read_bell.event is not None and core.wants_more():
            self.read_bell.ring()
        if core.changes >= self.save_at:
            self.save_at = inf
            self.save_bell.ring()
        if self._settle_waiters:
            self._tell_settled()
        if core.burying:
            self.bury_bell.ring()

    def _call(self, count: int) -> None:
        if count <= 0:
            return
        for waiting in list(self._waiting):
            if self.core.may_take(waiting.consumer):
                del self._waiting[waiting]
                self._called += 1
                waiting.event.set()
                count -= 1
                if not count:
                    return

    def failed(self, entry: Entry) -> None:
        """A delivery failed: its message may be due before anything else."""
        if entry.state is State.WAITING and entry.due < self.timer_until:
            self.time_bell.ring()
        self.changed()

    def _tell_settled(self) -> None:
        end = self.core.end
        for event, wanted in list(self._settle_waiters.items()):
            if wanted <= end:
                event.set()

    # ---- for consumers

    def check_run(self) -> None:
        """Before anything is changed: from elsewhere nobody could be woken, so it would hang.

        Raises RuntimeError in another thread, and outside of the trio run.
        """
        try:
            here = current_trio_token()
        except RuntimeError:
            here = None
        if here is not self._token:
            raise RuntimeError(
                f"subscription {self.name!r} belongs to the trio run that opened it, and nothing "
                f"was changed: from another thread use trio.from_thread.run_sync(message.ack), and "
                f"outside of trio the doors danube_trio.anyio and danube_trio.blocking"
            )

    def check_open(self) -> None:
        """Raise what there is to say to a consumer, if the subscription is not open."""
        if self.phase is Phase.FAILED and self.failure is not None:
            self.untold = None
            raise self.failure.with_traceback(None)
        if self.phase is not Phase.OPEN:
            raise SubscriptionClosedError(
                f"subscription {self.name!r} is closed: open it again with add_subscription()"
            )

    async def take(self, consumer: Taker, most: int) -> list[Entry]:
        """Wait for messages and take those that are at hand, at least one. Always a checkpoint."""
        await checkpoint()
        while True:
            if entries := self._take_nowait(consumer, most):
                return entries
            await self._wait(consumer)

    def _take_nowait(self, consumer: Taker, most: int) -> list[Entry]:
        """What there is for this consumer; whoever waits is woken once for all of it."""
        self.check_run()
        self.check_open()
        core = self.core
        if consumer not in core.consumers:
            raise SubscriptionClosedError("the consumer is closed: make another one")
        now = trio.current_time()
        entries: list[Entry] = []
        while len(entries) < most and (entry := core.take(consumer, now)) is not None:
            entries.append(entry)
        if entries and entries[0].deadline < self.timer_until:  # all have the same
            self.time_bell.ring()
        self.changed()
        return entries

    async def _wait(self, consumer: Taker) -> None:
        waiting = _Waiting(consumer)
        self._waiting[waiting] = None
        try:
            await waiting.event.wait()
        except BaseException:
            if waiting.event.is_set():
                self._called -= 1
                self.changed()  # the call is for somebody else now
            else:
                del self._waiting[waiting]
            raise
        self._called -= 1
        if consumer not in self.core.consumers:
            self.changed()  # it was closed after it was called

    async def wait_settled(self, end: int) -> None:
        """Wait until everything below `end` is settled."""
        self.check_run()
        await checkpoint()
        while self.core.end < end:
            self.check_open()
            event = trio.Event()
            self._settle_waiters[event] = end
            try:
                await event.wait()
            finally:
                del self._settle_waiters[event]

    # ---- the end

    @property
    def held_from(self) -> int | None:
        """Where it was moved back to, as long as the store may say more; None: the store knows."""
        return self.core.end if self.core.end < self.stored_end and not self.fenced else None

    @property
    def fenced(self) -> bool:
        """Whether somebody else has the cursor."""
        return isinstance(self.failure, FencedError)

    def fail(self, error: BaseException) -> None:
        """Nothing more can be handed out, for this reason."""
        if self.phase is Phase.OPEN:
            self.phase, self.failure = Phase.FAILED, error
            self.last_error = text_of(error)
            self._wake_all()

    def close(self) -> None:
        """The subscription is being closed: deliveries are over, and who waits gets an error."""
        self.phase = Phase.CLOSED
        self.core.end_deliveries()
        self._wake_all()

    def left(self, consumer: Taker) -> None:
        """A consumer was closed: its tasks that wait get an error."""
        for waiting in [w for w in self._waiting if w.consumer is consumer]:
            self._dismiss(waiting)

    def _dismiss(self, waiting: _Waiting) -> None:
        del self._waiting[waiting]
        self._called += 1  # it takes nothing, and says so when it runs
        waiting.event.set()

    def _wake_all(self) -> None:
        for waiting in list(self._waiting):
            self._dismiss(waiting)
        for event in self._settle_waiters:
            event.set()
