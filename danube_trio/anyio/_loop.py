"""Jobs of the engine's thread, awaited in an asyncio task.

**Cancellation.** A task that is cancelled while a job is under way has the job withdrawn, and waits
for what became of it: that wait is shielded from anyio's scopes, and as short as the engine's own
rules make it. Then there are two cases. The job was withdrawn: nothing happened, and CancelledError
is raised. Or it happened: its result is returned, or its error raised, and the cancellation is
delivered afterwards.

*Afterwards.* anyio delivers the cancellation of a scope again and again until the scope is left,
so there is nothing to do. asyncio raises CancelledError once; whoever swallows it must see to it.
That happens in the loop's next step, when the task has come to its next wait or its end: if its
count of cancellations is still above what it was before the job, it is cancelled again, with the
count unchanged. So a result is never lost by a cancellation that came too late, not even that of a
task which ends with it; and one that a timeout has taken back meanwhile is not delivered.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast

try:
    import anyio
except ModuleNotFoundError as error:  # the first module of this package that needs it
    raise ModuleNotFoundError(
        "danube_trio.anyio needs the package anyio: pip install 'danube-trio[anyio]'",
        name=error.name,
    ) from error
import anyio.lowlevel

from danube_trio._engine.thread.engine_thread import EngineThread
from danube_trio._engine.thread.jobs import (
    AsyncJob,
    ChangeJob,
    GiveBackJob,
    Job,
    SyncJob,
    Withdrawn,
)
from danube_trio._engine.thread.loan import Loan

log = logging.getLogger("danube_trio.anyio")

T = TypeVar("T")

# How anyio's scopes name themselves in the CancelledError that they cause; anyio itself tells its
# own from others by it.
ANYIO_CANCEL = "Cancelled via cancel scope "


class LoopDoor:
    """Hands jobs of one asyncio loop to the engine thread. Belongs to the loop's thread."""

    def __init__(self, engine_thread: EngineThread) -> None:
        self.engine_thread = engine_thread
        self._loop = asyncio.get_running_loop()
        self._done: deque[Job] = deque()
        self._woken = False
        self._owed: set[asyncio.Task[Any]] = set()

    def reply(self, job: Job) -> None:
        """The job is over. Called in the engine's thread: wakes the loop once for many."""
        self._done.append(job)
        if not self._woken:
            self._woken = True
            try:
                self._loop.call_soon_threadsafe(self._deliver)
            except RuntimeError:
                log.debug("the event loop is closed: nobody waits for outcomes any more")

    def _deliver(self) -> None:
        self._woken = False
        done = self._done
        while done:
            waiter = done.popleft().waiter
            if waiter is not None and not waiter.done():
                waiter.set_result(None)

    async def call(self, fn: Callable[[], Awaitable[T]]) -> T:
        """Run an async function in the engine's thread."""
        return cast("T", await self.run(AsyncJob(self.reply, fn)))

    async def run(self, job: Job) -> Any:
        """Submit a job, and wait for its outcome. Cancellation: see above."""
        self._check_loop()
        await anyio.lowlevel.checkpoint_if_cancelled()
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        if self._owed and task in self._owed:
            await asyncio.sleep(0)  # the loop's step in which it is delivered
        cancels = task.cancelling()
        job.waiter = self._loop.create_future()
        self.engine_thread.submit(job, wake=False)
        try:
            await job.waiter
        except asyncio.CancelledError as cancelled:
            await self._see_it_through(job, cancelled, task, cancels)
            try:
                return job.take()
            except Withdrawn:
                raise cancelled from None
        except BaseException:
            self.engine_thread.cancel(job)  # the coroutine is closed, or Ctrl-C came in it
            raise
        return job.take()

    async def finish(self, job: Job) -> Any:
        """Like `run`, for what must not be withdrawn."""
        self._check_loop()
        job.waiter = self._loop.create_future()
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        cancels = task.cancelling()
        self.engine_thread.submit(job)
        try:
            await job.waiter
        except asyncio.CancelledError as cancelled:
            await self._see_it_through(job, cancelled, task, cancels, withdraw=False)
        return job.take()

    async def _see_it_through(
        self,
        job: Job,
        cancelled: asyncio.CancelledError,
        task: asyncio.Task[Any],
        cancels: int,
        *,
        withdraw: bool = True,
    ) -> None:
        """Wait for the outcome, whatever happens, and arrange what is owed then."""
        ours = _is_anyios(cancelled)
        if job.outcome is None and withdraw:
            self.engine_thread.cancel(job)
        with anyio.CancelScope(shield=True):
            while job.outcome is None:
                job.waiter = self._loop.create_future()
                try:
                    if job.outcome is None:
                        await job.waiter
                except asyncio.CancelledError as another:
                    ours = ours and _is_anyios(another)
        if not ours and not job.withdrawn:
            self._owed.add(task)
            self._loop.call_soon(self._pay, task, cancels, cancelled.args)

    def _pay(self, task: asyncio.Task[Any], cancels: int, args: tuple[Any, ...]) -> None:
        """Cancel the task again, unless the reason is gone."""
        self._owed.discard(task)
        if not task.done() and task.cancelling() > cancels:
            task.uncancel()
            task.cancel(*args)

    async def give_back(self, loan: Loan[Any], answer: Callable[[], object]) -> None:
        """Answer for what is held, in the engine's thread; not to be cancelled."""
        try:
            await self.finish(GiveBackJob(self.reply, lambda: loan.leave(answer)))
        except BaseException:
            self.engine_thread.tell(loan.drop)  # the coroutine is closed, or Ctrl-C came in it
            raise

    def time(self, engine_time: float) -> float:
        """A time of trio's clock by the loop's."""
        return engine_time - self.engine_thread.clock_ahead + self._loop.time() - time.monotonic()

    def now(self) -> float:
        """The loop's time, for calls that belong to the loop's thread."""
        self._check_loop()
        return self._loop.time()

    def _check_loop(self) -> None:
        """Before anything is handed over: elsewhere nobody could be told what became of it."""
        try:
            here = asyncio.get_running_loop()
        except RuntimeError:
            here = None
        if here is not self._loop:
            raise RuntimeError(
                "it belongs to the event loop that opened it, and nothing was changed: from "
                "another thread use asyncio.run_coroutine_threadsafe(wal.append(...), loop), or "
                "open it with danube_trio.blocking, whose calls belong to no loop"
            )

    def call_now(self, fn: Callable[[], T], *, late: bool = True) -> T:
        """Run a function in the engine's thread, and block until it returned.

        It never waits there, so this takes as long as a hop to the thread and back, and the step
        that is under way there.

        Args:
            late: whether it may be called when there is no engine any more. Else LogClosedError.
        """
        if self.engine_thread.is_here:  # a callback, of the settings or so
            return fn()
        returned = threading.Lock()
        returned.acquire()
        job = (SyncJob if late else ChangeJob)(lambda _: returned.release(), fn)
        self.engine_thread.submit(job)
        returned.acquire()
        return cast("T", job.take())


def _is_anyios(cancelled: asyncio.CancelledError) -> bool:
    args = cancelled.args
    return bool(args) and isinstance(args[0], str) and args[0].startswith(ANYIO_CANCEL)
