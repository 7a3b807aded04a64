"""Jobs: what the doors hand to the engine's thread. See `host`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import outcome
import trio
from outcome import Error, Outcome, Value

from danube_trio.errors import LogClosedError

if TYPE_CHECKING:
    from danube_trio._engine.thread.host import Host

__all__ = ["AsyncJob", "ChangeJob", "GiveBackJob", "Job", "SyncJob", "Withdrawn"]


class Withdrawn(BaseException):
    """The outcome of a job that was cancelled in time: nothing happened. Never leaves a door."""


class Job:
    """A call into the engine's thread.

    Attributes:
        outcome: None until it is over; then it stays.
        started: whether the engine's thread has seen it.
        waiter: what the door's `reply` wakes; belongs to the door.
    """

    __slots__ = ("outcome", "reply", "started", "waiter")

    def __init__(self, reply: Callable[[Job], None]) -> None:
        self.outcome: Outcome[Any] | None = None
        self.reply = reply
        self.started = False
        self.waiter: Any = None

    def start(self, host: Host) -> None:
        """Begin, in the engine's thread. Must not raise."""
        raise NotImplementedError

    def cancel(self) -> None:
        """Withdraw it if that is still possible. In the engine's thread, after `start`."""

    def abandon(self, host: Host) -> None:
        """It was to be handed over, and will not be. In the engine's thread."""
        self.finish(Error(Withdrawn()))

    def refuse(self, reason: str) -> None:
        """There is no engine (any more). In whatever thread."""
        self.finish(Error(LogClosedError(reason)))

    def finish(self, result: Outcome[Any]) -> None:
        """It is over: tell the door."""
        if self.outcome is None:
            self.outcome = result
            self.reply(self)

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

    def __init__(self, reply: Callable[[Job], None], fn: Callable[[], object]) -> None:
        super().__init__(reply)
        self._fn = fn

    def start(self, host: Host) -> None:
        """Call it."""
        self.finish(outcome.capture(self._fn))

    def refuse(self, reason: str) -> None:
        """Call it here: a log that was left can still be asked, and nobody changes it."""
        if self.outcome is None:
            self.finish(outcome.capture(self._fn))


class ChangeJob(SyncJob):
    """A call that never waits, and means nothing when there is no engine (any more)."""

    __slots__ = ()

    def refuse(self, reason: str) -> None:
        """Raise LogClosedError."""
        Job.refuse(self, reason)


class GiveBackJob(SyncJob):
    """Gives back what ends with the engine anyway."""

    __slots__ = ()

    def refuse(self, reason: str) -> None:
        """It has ended."""
        self.finish(Value(None))


class AsyncJob(Job):
    """A call that may wait: a task of its own."""

    __slots__ = ("_fn", "_scope")

    def __init__(self, reply: Callable[[Job], None], fn: Callable[[], Awaitable[object]]) -> None:
        super().__init__(reply)
        self._fn = fn
        self._scope: trio.CancelScope | None = None

    def start(self, host: Host) -> None:
        """Start the task."""
        self._scope = trio.CancelScope()
        host.nursery.start_soon(self._run, self._scope)

    def cancel(self) -> None:
        """Cancel the task."""
        if self._scope is not None:
            self._scope.cancel()

    async def _run(self, scope: trio.CancelScope) -> None:
        result: Outcome[Any] = Error(Withdrawn())
        try:
            with scope:
                result = Value(await self._fn())
        except trio.Cancelled:
            result = Error(LogClosedError("the log was left: open it again to continue"))
            raise
        except BaseException as error:
            result = Error(error)  # all of them: they belong to the caller
        finally:
            self.finish(result)
