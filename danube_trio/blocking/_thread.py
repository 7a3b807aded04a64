"""Jobs of the engine's thread, waited for by other threads.

**Interrupts.** A signal handler (Ctrl-C's, for one) may raise in the main thread at any step, also
while it waits here. The job is then withdrawn, and its outcome waited for, which takes no longer
than the engine's own rules make it. If it was withdrawn, nothing happened, and the exception goes
on. If it happened, the exception goes on with a note that says what the result was. Whoever presses
Ctrl-C a second time meanwhile leaves at once, and what becomes of the job is not known.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar, cast

from danube_trio._engine.thread.engine_thread import EngineThread
from danube_trio._engine.thread.jobs import AsyncJob, ChangeJob, Job, SyncJob, Withdrawn

T = TypeVar("T")


class ThreadDoor:
    """Hands jobs of any thread to the engine thread."""

    def __init__(self, engine_thread: EngineThread) -> None:
        self.engine_thread = engine_thread

    @staticmethod
    def reply(job: Job) -> None:
        """The job is over. Called in the engine's thread, or, without one, in whatever thread."""
        waiter = job.waiter
        if waiter is not None:  # else it was cancelled before anybody waited
            with suppress(RuntimeError):  # of two threads that refuse it, one comes too late
                waiter.release()

    def call(self, fn: Callable[[], Awaitable[T]]) -> T:
        """Run an async function in the engine's thread."""
        return cast("T", self.run(AsyncJob(self.reply, fn)))

    def call_now(self, fn: Callable[[], T], *, late: bool = True) -> T:
        """Run a function in the engine's thread.

        Args:
            late: whether it may be called when there is no engine any more. Else LogClosedError.
        """
        if self.engine_thread.is_here:  # a callback, of the settings or so
            return fn()
        return cast("T", self.run((SyncJob if late else ChangeJob)(self.reply, fn)))

    def time(self, engine_time: float) -> float:
        """A time of trio's clock by time.monotonic."""
        return engine_time - self.engine_thread.clock_ahead

    def now(self) -> float:
        """The time by time.monotonic."""
        return time.monotonic()

    def run(self, job: Job, *, withdraw: bool = True) -> Any:
        """Submit a job, and wait for its outcome. Interrupts: see above."""
        # Taken here, released by the reply: taking it again is the wait.
        waiter = threading.Lock()
        waiter.acquire()
        job.waiter = waiter
        try:
            self.engine_thread.submit(job)
            if job.outcome is None:  # another thread may have cancelled it before it had a waiter
                waiter.acquire()
        except BaseException as interrupt:
            self._see_it_through(job, interrupt, withdraw)
            raise
        return job.take()  # an interrupt from here on is one of the caller's

    def _see_it_through(self, job: Job, interrupt: BaseException, withdraw: bool) -> None:
        if withdraw:
            self.engine_thread.cancel(job)  # withdraws it too if it has not been submitted
        else:
            self.engine_thread.submit(job)  # the second time it does nothing
        while job.outcome is None:  # set before the lock is released
            job.waiter.acquire()
        with suppress(Withdrawn):
            try:
                result = job.take()
                text = "" if result is None else f": its result is {result!r}"
            except Exception as error:
                text = f": it raised {error!r}"
            interrupt.add_note(f"the interrupted call had taken effect{text}")
