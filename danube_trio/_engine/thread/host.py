"""The engine's thread: trio for programs that run something else.

One daemon thread for the whole process runs trio; whoever opens the first log (or store) starts it,
and it ends when the last one was left. The doors (`anyio` on asyncio, `blocking`) hand it jobs and
are told the outcomes; nothing of the engine is ever touched by another thread, except that marks,
which are plain integers, are read. `docs/decisions/0040` has what other ways cost.

**Handing over.** Jobs go into a deque, in the order of the calls. A flag says that the thread was
woken and has not looked yet, so a thousand callers wake it once: `submit` appends, then looks at
the flag; the thread lowers it, then takes. Whoever appends too late for that look sees it lowered.

**Outcomes** are set in the engine's thread, together with one call of the job's `reply`, which must
not block. Each job that is submitted gets exactly one, whatever happens to the thread.

**Cancelling** is a job too, and the deque is first in, first out: it finds its target started, and
the engine's own rules decide. A job whose outcome is `Withdrawn` had no effect. Anything else is
what really happened, though somebody wanted to cancel it.

**Leaving.** A *hold* is the task in which an ``async with`` block of the engine is entered and
left. When the interpreter exits, after all other threads have ended, the holds that are left over
are left, last one first, so that accepted records drain; a ResourceWarning names them. In a forked
child there is no such thread: every job is a LogClosedError.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import cast

import trio
from outcome import Error, Value

from danube_trio._disk.lane import Signal
from danube_trio._engine.thread.jobs import Job, SyncJob, Withdrawn
from danube_trio.errors import DanubeError, FencedError, LogBrokenError

__all__ = [
    "Hold",
    "Host",
    "LeaveJob",
    "acquire",
    "settle_leaving",
    "tell_nobody",
]

THREAD_NAME = "danube-trio-engine"


class Hold(Job):
    """A block of the engine, entered; the job is over when it is open. `LeaveJob` leaves it.

    Args:
        block: what ``async with`` takes.
        name: for the warning if it is never left.
        opened: is called with what the block gave; returns what belongs to it and is to be called
            after leaving. The outcome are both, in a tuple.
    """

    __slots__ = ("_block", "_leave", "_opened", "_scope", "ended", "error", "name")

    def __init__(
        self,
        reply: Callable[[Job], None],
        block: AbstractAsyncContextManager[object],
        name: str,
        opened: Callable[[Host, object], Callable[[], None] | None],
    ) -> None:
        super().__init__(reply)
        self.name = name
        self.error: BaseException | None = None
        self._block = block
        self._opened = opened
        self._scope: trio.CancelScope | None = trio.CancelScope()
        self._leave = trio.Event()
        self.ended = trio.Event()

    def start(self, host: Host) -> None:
        """Start the task that enters the block."""
        host.holds.append(self)
        host.nursery.start_soon(self._run, host)

    def cancel(self) -> None:
        """Give up opening; too late, it does nothing."""
        if self._scope is not None:
            self._scope.cancel()

    def abandon(self, host: Host) -> None:
        """Without having been entered, it has ended."""
        super().abandon(host)
        self.ended.set()
        host.idle()

    def leave(self) -> None:
        """Leave the block, in the engine's thread."""
        self._leave.set()

    async def _run(self, host: Host) -> None:
        result: BaseException = Withdrawn()
        try:
            assert self._scope is not None
            with self._scope:
                await self._enter_and_leave(host)
        except BaseException as error:
            result = error
        finally:
            host.holds.remove(self)
            self.ended.set()
            host.idle()  # before anybody is told, who may then wait for the thread's end
            if self.outcome is None:
                self.finish(Error(result))

    async def _enter_and_leave(self, host: Host) -> None:
        thing = await self._block.__aenter__()
        scope, self._scope = self._scope, None
        assert scope is not None
        scope.shield = True
        closing = self._opened(host, thing)
        if not scope.cancel_called:
            self.finish(Value((thing, closing)))
            # The shield keeps a bug, which cancels the block's nursery, from ending the wait.
            with trio.CancelScope(shield=True):
                await self._leave.wait()
        try:
            await self._block.__aexit__(None, None, None)
        except BaseException as error:
            self.error = error  # all of them: they belong to who leaves
        if closing is not None:
            closing()


class LeaveJob(Job):
    """Leave a hold; over when it was left. Raises what leaving raised."""

    __slots__ = ("_hold",)

    def __init__(self, reply: Callable[[Job], None], hold: Hold) -> None:
        super().__init__(reply)
        self._hold = hold

    def start(self, host: Host) -> None:
        """Start leaving; the hold may have ended by itself at the interpreter's exit."""
        self._hold.leave()
        host.nursery.start_soon(self._wait)

    def refuse(self, reason: str) -> None:
        """The host ends after the last hold."""
        self.finish(Value(None))

    async def _wait(self) -> None:
        await self._hold.ended.wait()
        error, self._hold.error = self._hold.error, None  # told once
        self.finish(Error(error) if error is not None else Value(None))


def settle_leaving(
    error: BaseException, body: BaseException | None, cancelled: type[BaseException] | None
) -> None:
    """What leaving raised, and what the body did: as the engine's own block does it.

    Args:
        error: from leaving.
        body: what the block's body raised.
        cancelled: how the body's world says that it was cancelled.
    """
    if body is None:
        raise error
    lost = _lost_records(error)
    if lost:
        if cancelled is not None and isinstance(body, cancelled):
            raise error
        for each in lost:
            body.add_note(str(each))
    elif not isinstance(error, FencedError):
        raise error from body


def _lost_records(error: BaseException) -> list[Exception]:
    """What a log, or the topics of a storage, could not keep; empty if it is something else."""
    if isinstance(error, LogBrokenError):
        return [error]
    if not isinstance(error, ExceptionGroup):
        return []
    inner = cast("ExceptionGroup[Exception]", error).exceptions
    return list(inner) if all(isinstance(each, DanubeError) for each in inner) else []


class _CancelJob(Job):
    __slots__ = ("_target",)

    def __init__(self, target: Job) -> None:
        super().__init__(tell_nobody)
        self._target = target

    def start(self, host: Host) -> None:
        target = self._target
        if not target.started:  # an interrupt came before it was handed over
            target.started = True
            target.abandon(host)
        elif target.outcome is None:
            target.cancel()

    def refuse(self, reason: str) -> None:
        """There is no engine, so nobody has started it, and nobody will."""
        super().refuse(reason)
        if not self._target.started:
            self._target.finish(Error(Withdrawn()))


def tell_nobody(_: Job) -> None:
    """The reply of a job for which nobody waits."""


class Host:
    """The thread. Made by `acquire`."""

    def __init__(self) -> None:
        self.users = 0  # blocks that are to be opened, or are open; guarded by _lock
        self.holds: list[Hold] = []  # the engine's thread's own
        self.clock_ahead = 0.0  # how far trio's clock is ahead of time.monotonic
        self._box: deque[Job] = deque()
        self._signal = Signal()
        self._woken = False
        self._closed = False
        self._stop = False
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self._run, name=THREAD_NAME, daemon=True)
        self._thread.start()

    # ---- from any thread

    def submit(self, job: Job, *, wake: bool = True) -> None:
        """Hand a job over. Never blocks, and never raises: it gets an outcome in any case.

        Without `wake` it relies on the flag: that is for who hands over many. A signal handler that
        raises between flag and signal would leave the flag up for nothing, until somebody wakes.
        """
        if self._pid != os.getpid():
            job.refuse("the log was opened before fork: open it in the child")
            return
        self._box.append(job)
        if self._closed:
            self._refuse_all()
        elif wake or not self._woken:
            self._woken = True
            self._signal.set()

    def tell(self, fn: Callable[[], object]) -> None:
        """Have the engine's thread call a function, when it comes to it; nobody hears of it."""
        self.submit(SyncJob(tell_nobody, fn))

    def bury(self, box: list[object]) -> None:
        """Have the engine's thread drop what is in the list, which has the last reference to it.

        For what the engine knows weakly: it may be looking through those at this moment.
        """
        self.tell(box.clear)

    @property
    def is_here(self) -> bool:
        """Whether this is the engine's thread."""
        return threading.current_thread() is self._thread

    def cancel(self, job: Job) -> None:
        """Ask for the withdrawal of a job that was submitted."""
        self.submit(_CancelJob(job))

    def join(self) -> None:
        """Wait for the thread if it is ending; it takes no time worth mentioning."""
        if self._stop and self._pid == os.getpid() and threading.current_thread() != self._thread:
            self._thread.join()

    def wait_ended(self) -> None:
        """Wait until the last hold was left and the thread has ended."""
        self._thread.join()

    def _refuse_all(self) -> None:
        while True:
            try:
                job = self._box.popleft()
            except IndexError:
                return
            job.refuse("the log was left: open it again to continue")

    # ---- in the engine's thread

    def _run(self) -> None:
        trio.run(self._main)

    async def _main(self) -> None:
        self.clock_ahead = trio.current_time() - time.monotonic()
        async with trio.open_nursery() as self.nursery:
            try:
                await self._serve()
            finally:
                # Without holds, unless a task of ours had a bug: then this ends them, drained.
                self._closed = True
                self._refuse_all()
                for hold in self.holds:
                    hold.leave()

    async def _serve(self) -> None:
        box, signal = self._box, self._signal
        while not self._stop:
            await trio.lowlevel.wait_readable(signal.fd)
            signal.clear()
            self._woken = False
            # No more than there are: whoever comes meanwhile has woken us again.
            for _ in range(len(box)):
                job = box.popleft()
                if not job.started:
                    job.started = True
                    job.start(self)

    def idle(self) -> None:
        """A hold has ended. Without any, the thread ends."""
        global _host
        with _lock:
            self.users -= 1
            if self.users == 0:
                self._stop = True
                if _host is self:
                    _host = None
        if self._stop:
            self._signal.set()

    def leave_all(self) -> None:
        """Leave every hold, last one first: a store was opened before the log that needs it."""
        self.nursery.start_soon(self._leave_all)

    async def _leave_all(self) -> None:
        for hold in self.holds[::-1]:
            hold.cancel()
            hold.leave()
            await hold.ended.wait()
        self._stop = True  # also if an interrupt kept somebody from submitting a hold
        self._signal.set()


# Re-entrant: a block that is collected while its thread holds it asks for a host too.
_lock = threading.RLock()
_host: Host | None = None


def acquire() -> Host:
    """The host, for one more hold, which must be submitted next."""
    global _host
    with _lock:
        if _host is None:
            _host = Host()
        _host.users += 1
        return _host


class _ExitJob(Job):
    """Leave everything, because the interpreter exits."""

    __slots__ = ()

    def start(self, host: Host) -> None:
        host.leave_all()


@atexit.register
def _leave_at_exit() -> None:
    """Accepted records drain. Threads that are no daemons have ended before this runs."""
    with _lock:
        host = _host
    if host is None:
        return
    names = [hold.name for hold in list(host.holds)]
    host.submit(_ExitJob(tell_nobody))
    host.wait_ended()
    for name in names:
        warnings.warn(f"{name} was never closed: leave its block", ResourceWarning, stacklevel=1)


def _after_fork_in_child() -> None:
    global _host, _lock
    _host, _lock = None, threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
