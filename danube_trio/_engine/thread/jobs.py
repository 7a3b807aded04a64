"""Jobs: what the doors hand to the engine's thread, and in which order they act.

`engine_thread` takes them, one after the other, and begins them. Its work is what was begun and has
no outcome yet, with the tasks of jobs that need one.

**Order.** Jobs act in the order in which they were handed over. For one that needs a task that is
the order of the first steps of the tasks, which trio itself would take at random: so each waits for
its turn, and so does a job that acts at once, until the tasks before it have taken theirs.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from math import inf
from typing import Any, ClassVar, cast

import outcome
import trio
from outcome import Error, Outcome, Value

from danube_trio.errors import LogClosedError

log = logging.getLogger("danube_trio.engine")


class Withdrawn(BaseException):
    """The outcome of a job that was cancelled in time: nothing happened. Never leaves a door."""


def tell_nobody(_: Job) -> None:
    """The reply of a job for which nobody waits."""


class Job:
    """A call into the engine's thread.

    Attributes:
        outcome: None until it is over; then it stays.
        started: whether the engine's thread has seen it.
        waiter: what the door's `reply` wakes; belongs to the door.
        acts_at_once: what it does is done in `start`, so the tasks of jobs before it come first.
        even_late: begun even while a bug ends the engine's thread.
    """

    __slots__ = ("_underway", "outcome", "reply", "started", "waiter")
    acts_at_once: ClassVar[bool] = False
    even_late: ClassVar[bool] = False

    def __init__(self, reply: Callable[[Job], None]) -> None:
        self.outcome: Outcome[Any] | None = None
        self.reply = reply
        self.started = False
        self.waiter: Any = None
        self._underway: set[Job] | None = None

    def begin(self, work: Work) -> None:
        """Start it, in the engine's thread. A bug in that is its outcome."""
        self.started = True
        self._underway = work.underway
        self._underway.add(self)
        try:
            self.start(work)
        except BaseException as error:
            if self.reply is tell_nobody:
                log.exception("a bug in %r", self)
            self.finish(Error(error))  # all of them: they belong to the caller

    def start(self, work: Work) -> None:
        """What `begin` begins. What it raises is the job's outcome."""
        raise NotImplementedError

    def cancel(self) -> None:
        """Withdraw it if that is still possible. In the engine's thread, after `start`."""

    def abandon(self) -> None:
        """It was to be handed over, and will not be. In the engine's thread."""
        self.finish(Error(Withdrawn()))

    def refuse(self, error: LogClosedError) -> None:
        """There is no engine (any more). In whatever thread."""
        self.finish(Error(error))

    def finish(self, result: Outcome[Any]) -> None:
        """It is over: tell the door."""
        if self.outcome is not None:
            return
        self.outcome = result
        if self._underway is not None:
            self._underway.discard(self)
        try:
            self.reply(self)
        except Exception:  # a bug there must not strike who happens to be in this step
            log.exception("nobody could be told of %r", result)

    @property
    def withdrawn(self) -> bool:
        """Whether it was cancelled before it had any effect."""
        return isinstance(self.outcome, Error) and isinstance(self.outcome.error, Withdrawn)

    def take(self) -> Any:
        """The result, or raises the error; once, so that no cycle of error and job remains."""
        result, self.outcome = self.outcome, _TAKEN
        assert result is not None
        return result.unwrap()


_TAKEN: Outcome[Any] = Value(None)


class Work:
    """What the engine's thread is at. In that thread only, but for making it.

    Attributes:
        nursery: of the tasks.
        underway: all jobs that were begun and have no outcome.
    """

    nursery: trio.Nursery

    def __init__(self) -> None:
        self.underway: set[Job] = set()
        self._tasks = 0  # were started
        self._turn = 0  # of them have taken their first step
        self._early: list[trio.lowlevel.Task] = []  # wait for their turn

    def spawn(
        self, job: Job, fn: Callable[[], Awaitable[object]], scope: trio.CancelScope | None = None
    ) -> None:
        """Start a task for a job, whose outcome is what the function returns or raises.

        Args:
            job, fn: whose, and what.
            scope: withdraws it. Without one it goes to its end, whatever happens.
        """
        scope = scope or trio.CancelScope(shield=True)
        self.nursery.start_soon(self._call, job, fn, scope, self._tasks)
        self._tasks += 1

    async def wait_for_turn(self, turn: int | None = None) -> None:
        """Wait until so many tasks, or all, have taken their first step; nothing keeps them."""
        turn = self._tasks if turn is None else turn
        while self._turn != turn:
            self._early.append(trio.lowlevel.current_task())
            await trio.lowlevel.wait_task_rescheduled(lambda _: trio.lowlevel.Abort.FAILED)

    async def _call(
        self, job: Job, fn: Callable[[], Awaitable[object]], scope: trio.CancelScope, turn: int
    ) -> None:
        await self.wait_for_turn(turn)
        self._turn += 1
        early, self._early = self._early, []
        for task in early:  # all of them: more often than not they come in order now
            trio.lowlevel.reschedule(task)
        result: Outcome[Any] = Error(Withdrawn())
        try:
            with scope:
                result = Value(await fn())
        except BaseException as error:
            if is_end_of_thread(error):
                raise
            result = Error(error)  # all of them: they belong to the caller
        job.finish(result)


def is_end_of_thread(error: BaseException) -> bool:
    """Whether a task of it ends because the thread does, which tells everybody why."""
    return _is_cancellation(error) and trio.current_effective_deadline() == -inf


def _is_cancellation(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        return all(_is_cancellation(each) for each in group.exceptions)
    return isinstance(error, trio.Cancelled)


class SyncJob(Job):
    """A call that never waits."""

    __slots__ = ("_fn",)
    acts_at_once = True
    even_late = True

    def __init__(self, reply: Callable[[Job], None], fn: Callable[[], object]) -> None:
        super().__init__(reply)
        self._fn = fn

    def start(self, work: Work) -> None:
        """Call it."""
        self.finish(outcome.capture(self._fn))

    def refuse(self, error: LogClosedError) -> None:
        """Call it here: a log that was left can still be asked, and nobody changes it."""
        if self.outcome is None:
            self.finish(outcome.capture(self._fn))


class ChangeJob(SyncJob):
    """A call that never waits, and means nothing when there is no engine (any more)."""

    __slots__ = ()
    even_late = False

    def refuse(self, error: LogClosedError) -> None:
        """Raise LogClosedError."""
        Job.refuse(self, error)


class GiveBackJob(SyncJob):
    """Gives back what ends with the engine anyway."""

    __slots__ = ()

    def refuse(self, error: LogClosedError) -> None:
        """It has ended."""
        self.finish(Value(None))


class AsyncJob(Job):
    """A call that may wait: a task of its own."""

    __slots__ = ("_fn", "_scope")

    def __init__(self, reply: Callable[[Job], None], fn: Callable[[], Awaitable[object]]) -> None:
        super().__init__(reply)
        self._fn = fn
        self._scope: trio.CancelScope | None = None

    def start(self, work: Work) -> None:
        """Start the task."""
        self._scope = trio.CancelScope()
        work.spawn(self, self._fn, self._scope)

    def cancel(self) -> None:
        """Cancel the task."""
        if self._scope is not None:
            self._scope.cancel()
