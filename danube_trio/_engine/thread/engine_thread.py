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

**Bugs** end what they are in, and nothing else. What runs here runs for a job, in its `begin` or in
a task that `Work.spawn` has started, and what it raises is that job's outcome; the tasks of a block
are in the block's own nursery, and their bugs come out when it is left. Should something end the
thread nevertheless, every block is left, so that what was accepted drains, and nothing more is
begun but what never waits. At the thread's end whoever was begun and has no outcome gets a
LogBrokenError, and whoever was not a LogClosedError, both with the bug as their cause. The next one
who opens something has a new thread.

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
import logging
import os
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, cast

import trio
from outcome import Error, Outcome, Value

from danube_trio._disk.lane import Signal, refuse_green_threads
from danube_trio._engine.thread.jobs import (
    Job,
    SyncJob,
    Withdrawn,
    Work,
    is_end_of_thread,
    tell_nobody,
)
from danube_trio.errors import (
    DanubeError,
    FencedError,
    LogBrokenError,
    LogClosedError,
    add_note,
    describe,
)

log = logging.getLogger("danube_trio.engine")

THREAD_NAME = "danube-trio-engine"
LEFT = "the log was left: open it again to continue"
FORKED = "the log was opened before fork: open it in the child"


class Hold(Job):
    """A block of the engine, entered; the job is over when it is open. `LeaveJob` leaves it.

    Args:
        block: what ``async with`` takes.
        name: for the warning if it is never left.
        opened: is called with what the block gave; returns what belongs to it. The outcome are
            both, in a tuple.

    Attributes:
        ended: it was left, or never opened; any thread may look.
        engine_thread: that it is in, or is to be; None before `acquire`.
    """

    __slots__ = (
        "_block",
        "_error",
        "_gone",
        "_leave",
        "_leavers",
        "_opened",
        "_scope",
        "ended",
        "engine_thread",
        "name",
    )

    def __init__(
        self,
        reply: Callable[[Job], None],
        block: AbstractAsyncContextManager[object],
        name: str,
        opened: Callable[[Any], object],
    ) -> None:
        super().__init__(reply)
        self.name = name
        self.ended = False
        self.engine_thread: EngineThread | None = None
        self._error: BaseException | None = None
        self._block = block
        self._opened = opened
        self._scope: trio.CancelScope | None = trio.CancelScope()
        self._leave = trio.Event()
        self._leavers: list[LeaveJob] = []
        self._gone = trio.Event()

    def start(self, work: Work) -> None:
        """Start the task that enters the block."""
        assert self.engine_thread is not None
        self.engine_thread.holds.append(self)
        work.nursery.start_soon(self._run, self.engine_thread)

    def cancel(self) -> None:
        """Give up opening; too late, it does nothing."""
        if self._scope is not None:
            self._scope.cancel()

    def abandon(self) -> None:
        """Without having been entered, it has ended."""
        super().abandon()
        self.ended = True
        assert self.engine_thread is not None
        self.engine_thread.idle(self)

    def leave(self) -> None:
        """Leave the block, in the engine's thread."""
        self._leave.set()

    async def wait_ended(self) -> None:
        """Wait until it was left."""
        await self._gone.wait()

    def tell(self, leaver: LeaveJob) -> None:
        """Tell it when the block was left, and the first one what leaving raised."""
        if not self.ended:
            self._leavers.append(leaver)
        elif leaver.reply is tell_nobody:
            self.log_untold()
            leaver.finish(Value(None))
        else:
            leaver.finish(self.left())

    def end(self, error: BaseException | None) -> None:
        """It was left, and raised this."""
        self.ended = True
        self._error = error
        leavers, self._leavers = self._leavers, []  # each knows this: a cycle
        for leaver in leavers:
            self.tell(leaver)

    def left(self) -> Outcome[None]:
        """How it was left. An error is told once."""
        error, self._error = self._error, None
        return Value(None) if error is None else Error(error)

    def log_untold(self) -> None:
        """Nobody will ask what leaving raised."""
        error, self._error = self._error, None
        if error is not None:
            log.error("leaving %s failed, and nobody waited for it", self.name, exc_info=error)

    async def _run(self, engine_thread: EngineThread) -> None:
        result: BaseException | None = Withdrawn()
        left: BaseException | None = None
        try:
            assert self._scope is not None
            with self._scope:
                left = await self._enter_and_leave()
        except BaseException as error:
            # All of them: they belong to who opens.
            result = None if is_end_of_thread(error) else error
        engine_thread.holds.remove(self)
        self._gone.set()
        engine_thread.idle(self)  # before anybody is told, who may then wait for the thread's end
        self.end(left)
        if result is not None:
            self.finish(Error(result))

    async def _enter_and_leave(self) -> BaseException | None:
        """Returns what leaving raised."""
        thing = await self._block.__aenter__()
        scope, self._scope = self._scope, None
        assert scope is not None
        scope.shield = True
        try:
            made = self._opened(thing)
            if not scope.cancel_called:
                self.finish(Value((thing, made)))
                # The shield keeps a bug, which cancels the block's nursery, from ending the wait.
                with trio.CancelScope(shield=True):
                    await self._leave.wait()
        except BaseException as bug:
            self.finish(Error(bug))  # the block is open: it must be left
        try:
            await self._block.__aexit__(None, None, None)
        except BaseException as error:
            return error  # all of them: they belong to who leaves
        return None


class LeaveJob(Job):
    """Leave a hold; over when it was left. Raises what leaving raised."""

    __slots__ = ("_hold",)
    even_late = True

    def __init__(self, reply: Callable[[Job], None], hold: Hold) -> None:
        super().__init__(reply)
        self._hold = hold

    def start(self, work: Work) -> None:
        """Start leaving; the hold may have ended by itself at the interpreter's exit."""
        self._hold.leave()
        self._hold.tell(self)

    def refuse(self, error: LogClosedError) -> None:
        """The thread ends after the last hold."""
        self.finish(self._hold.left())


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
            add_note(body, str(each))
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
    even_late = True

    def __init__(self, target: Job) -> None:
        super().__init__(tell_nobody)
        self._target = target

    def start(self, work: Work) -> None:
        target = self._target
        if not target.started:  # an interrupt came before it was handed over
            target.started = True
            target.abandon()
        elif target.outcome is None:
            target.cancel()
        self.finish(Value(None))

    def refuse(self, error: LogClosedError) -> None:
        """There is no engine, so nobody has started it, and nobody will."""
        super().refuse(error)
        if not self._target.started:
            self._target.finish(Error(Withdrawn()))


def _alone(error: BaseException) -> BaseException:
    """What is alone in its group, or groups."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    group = cast("BaseExceptionGroup[BaseException]", error)
    return _alone(group.exceptions[0]) if len(group.exceptions) == 1 else group


class EngineThread:
    """The thread. Made by `acquire`."""

    def __init__(self) -> None:
        self.users: set[Hold] = set()  # to be opened, or open; guarded by _lock
        self.holds: list[Hold] = []  # the engine's thread's own, as its work is
        self._work = Work()
        self.clock_ahead = 0.0  # how far trio's clock is ahead of time.monotonic
        self._box: deque[Job] = deque()
        self._late: list[Job] = []  # came while a bug ends the thread: refused when it is known
        self._signal = Signal()
        self._woken = False
        self._ending = False  # a bug ends the thread: only what ends something is begun
        self._bug: BaseException | None = None
        self._bug_text = ""
        self._closed = False
        self._stop = False
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self._run, name=THREAD_NAME, daemon=True)

    def start(self) -> None:
        """Start the thread, once."""
        self._thread.start()

    # ---- from any thread

    def submit(self, job: Job, *, wake: bool = True) -> None:
        """Hand a job over. Never blocks, and never raises: it gets an outcome in any case.

        Without `wake` it relies on the flag: that is for who hands over many. A signal handler that
        raises between flag and signal would leave the flag up for nothing, until somebody wakes.
        """
        if self._pid != os.getpid():
            job.refuse(LogClosedError(FORKED))
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
            self._refuse(job)

    def _refuse(self, job: Job) -> None:
        error = LogClosedError(LEFT)
        if self._bug is not None:
            error = LogClosedError(
                f"the engine's thread ended by a bug ({self._bug_text}), nothing was done: {LEFT}"
            )
            error.__cause__ = self._bug
        job.refuse(error)

    # ---- in the engine's thread

    def _run(self) -> None:
        try:
            trio.run(self._main)
        except BaseException as error:
            self._bug = _alone(error)  # all of them: whoever waits must hear of it
            self._bug_text = describe(self._bug)
            log.critical("the engine's thread ended by a bug", exc_info=error)
            self._let_others_begin()
        for hold in self.holds:  # trio itself has dropped them
            hold.end(self._broken())
        for job in [*self._work.underway]:
            job.finish(Error(self._broken()))
        for job in self._late:
            self._refuse(job)
        self._closed = True
        self._refuse_all()
        with _lock:
            _alive.discard(self)

    def _broken(self) -> LogBrokenError:
        error = LogBrokenError(
            f"the engine's thread ended by a bug ({self._bug_text}): what was not acknowledged has "
            f"an unknown outcome; open the log again"
        )
        error.__cause__ = self._bug
        return error

    async def _main(self) -> None:
        self.clock_ahead = trio.current_time() - time.monotonic()
        async with trio.open_nursery() as self._work.nursery:
            try:
                while not self._stop:
                    await self._serve()
            finally:
                if not self._stop:
                    await self._end_by_a_bug()
                self._closed = True
                self._refuse_all()

    async def _serve(self) -> None:
        box, signal, work = self._box, self._signal, self._work
        await trio.lowlevel.wait_readable(signal.fd)
        signal.clear()
        self._woken = False
        # No more than there are: whoever comes meanwhile has woken us again.
        for _ in range(len(box)):
            job = box.popleft()
            if self._ending and not job.even_late:
                self._late.append(job)
            elif not job.started:
                if job.acts_at_once:
                    await work.wait_for_turn()
                job.begin(work)

    async def _end_by_a_bug(self) -> None:
        """It has cancelled, or will cancel, the calls under way; blocks that are open drain."""
        self._ending = True
        self._let_others_begin()
        self._work.nursery.cancel_scope.cancel()
        self.leave_all()
        with trio.CancelScope(shield=True):
            while not self._stop:
                await self._serve()

    def _let_others_begin(self) -> None:
        """Whoever opens something from now on has another thread."""
        global _engine_thread
        with _lock:
            if _engine_thread is self:
                _engine_thread = None

    def idle(self, hold: Hold) -> None:
        """The hold has ended, or will never be. Without any, the thread ends. Idempotent."""
        global _engine_thread
        with _lock:
            self.users.discard(hold)
            if not self.users:
                self._stop = True
                if _engine_thread is self:
                    _engine_thread = None
        if self._stop:
            self._signal.set()

    def leave_all(self) -> None:
        """Leave every hold, last one first: a store was opened before the log that needs it."""
        self._work.nursery.start_soon(self._leave_all)

    async def _leave_all(self) -> None:
        with trio.CancelScope(shield=True):
            for hold in self.holds[::-1]:
                if not self._ending:  # else the nursery is cancelled, and the bug the reason
                    hold.refuse(LogClosedError(LEFT))  # unless it is open
                    hold.cancel()
                hold.leave()
                await hold.wait_ended()
        self._stop = True  # also if an interrupt kept somebody from submitting a hold
        self._signal.set()


# Re-entrant: a block that is collected while its thread holds it asks for one too.
_lock = threading.RLock()
_engine_thread: EngineThread | None = None
_alive: set[EngineThread] = set()  # those that have not ended


def acquire(hold: Hold) -> EngineThread:
    """The engine thread, for a hold that must be submitted next, or retired."""
    global _engine_thread
    refuse_green_threads()
    with _lock:
        engine_thread = _engine_thread
        try:
            if engine_thread is not None:
                hold.engine_thread = engine_thread  # first: `retire` asks it
                engine_thread.users.add(hold)
            else:
                engine_thread = hold.engine_thread = EngineThread()
                engine_thread.users.add(hold)
                _alive.add(engine_thread)
                engine_thread.start()
                _engine_thread = engine_thread
        except BaseException:  # an interrupt: if it started all the same, it ends at once
            if engine_thread is not None:
                engine_thread.idle(hold)
                if engine_thread is not _engine_thread and not engine_thread.users:
                    _alive.discard(engine_thread)
            raise
        return engine_thread


def retire(hold: Hold) -> None:
    """An interrupt came before the hold could be submitted."""
    engine_thread = hold.engine_thread
    if engine_thread is not None and hold in engine_thread.users:
        engine_thread.idle(hold)
        engine_thread.join()


class _ExitJob(Job):
    """Leave everything, because the interpreter exits."""

    __slots__ = ("_engine_thread",)

    def __init__(self, engine_thread: EngineThread) -> None:
        super().__init__(tell_nobody)
        self._engine_thread = engine_thread

    def start(self, work: Work) -> None:
        self._engine_thread.leave_all()
        self.finish(Value(None))


@atexit.register
def _leave_at_exit() -> None:
    """Accepted records drain. Threads that are no daemons have ended before this runs."""
    with _lock:
        engine_thread, alive = _engine_thread, [*_alive]
    holds = [*engine_thread.holds] if engine_thread is not None else []
    if engine_thread is not None:
        engine_thread.submit(_ExitJob(engine_thread))
    for each in alive:  # one that ends by a bug drains, too
        each.wait_ended()
    for hold in holds:
        hold.log_untold()
        text = f"{hold.name} was never closed: leave its block"
        warnings.warn(text, ResourceWarning, stacklevel=1)


def _after_fork_in_child() -> None:
    global _engine_thread, _lock
    _engine_thread, _lock = None, threading.RLock()
    _alive.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
