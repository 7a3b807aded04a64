"""Jobs: what the doors hand to the engine's thread. See `engine_thread`."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, ClassVar

import outcome
import trio
from outcome import Error, Outcome, Value

from danube_trio.errors import LogClosedError

if TYPE_CHECKING:
    from danube_trio._engine.thread.engine_thread import EngineThread

__all__ = ["AsyncJob", "ChangeJob", "GiveBackJob", "Job", "SyncJob", "Withdrawn", "tell_nobody"]

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

    def begin(self, engine_thread: EngineThread) -> None:
        """Start it, in the engine's thread. A bug in that is its outcome."""
        self.started = True
        self._underway = engine_thread.underway
        self._underway.add(self)
        try:
            self.start(engine_thread)
        except BaseException as error:
            if self.reply is tell_nobody:
                log.exception("a bug in %r", self)
            self.finish(Error(error))  # all of them: they belong to the caller

    def start(self, engine_thread: EngineThread) -> None:
        """What `begin` begins. What it raises is the job's outcome."""
        raise NotImplementedError

    def cancel(self) -> None:
        """Withdraw it if that is still possible. In the engine's thread, after `start`."""

    def abandon(self, engine_thread: EngineThread) -> None:
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


class SyncJob(Job):
    """A call that never waits."""

    __slots__ = ("_fn",)
    acts_at_once = True
    even_late = True

    def __init__(self, reply: Callable[[Job], None], fn: Callable[[], object]) -> None:
        super().__init__(reply)
        self._fn = fn

    def start(self, engine_thread: EngineThread) -> None:
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

    def start(self, engine_thread: EngineThread) -> None:
        """Start the task."""
        self._scope = trio.CancelScope()
        engine_thread.spawn(self, self._fn, self._scope)

    def cancel(self) -> None:
        """Cancel the task."""
        if self._scope is not None:
            self._scope.cancel()
