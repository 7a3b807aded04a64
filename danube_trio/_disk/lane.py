"""The I/O lane: a thread that makes one log's blocking calls, one at a time, in order.

A durable append waits for a device that answers in about 150 us, so what a hop to a thread and
back costs decides how close one producer comes to the device. Medians of 80 interleaved runs of
100 calls of write + fdatasync of 1 KiB on two cores:

    plain loop, no event loop                                 6304/s
    SimpleQueue there, eventfd back, wait_readable            5106/s
    the same, a shielded CancelScope around every wait        4831/s
    the same, a system task waits and reschedules the caller  4472/s
    SimpleQueue there, TrioToken.run_sync_soon back           4242/s
    trio.to_thread.run_sync                                   4162/s

Where the threads run decides as much: every line but the first is a mixture of two speeds. An empty
call takes 15 us while the scheduler has both threads on one CPU and 75 us while it has not (on a
virtual machine whose idle CPUs halt; presumably that is the price of waking them). In a later run
the lane made 5186/s of the device's 5727/s with the process on one CPU, and without that 4071/s of
6225/s, like to_thread. A library does not pin its user's threads; `taskset` can.

So a call is put into a C-level queue, and the thread reports with an eventfd for which the caller
itself waits. Pipes instead of either were no faster. Three rules make that correct:

1. *One waits.* Callers stand in a line. Jobs finish in the order of the line, so only its head
   waits for the eventfd (trio allows one waiter per descriptor); the others are parked and woken
   when they become the head.
2. *The signal is a hint.* The thread sets `done`, then signals; the head waits, drains, and looks
   at `done`. One drain may take the signals of several jobs, and one may come late for a head
   that needed none: both are harmless, because a new head looks first and every head looks again.
3. *Nothing is abandoned.* `Cancelled` is swallowed in the wait, which goes on in a shielded scope:
   trio raises it again at the caller's next checkpoint. That makes the scope free for everybody who
   is not cancelled. `KeyboardInterrupt`, which trio raises only once and through shields, is kept
   until the call is over and raised then.

The thread is a daemon: a program that dies without `aclose` does not hang in it. It refers to the
queue and the eventfd only, never to the lane, so a lane that is forgotten ends its thread.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar, cast

import trio
from trio.lowlevel import (
    Abort,
    cancel_shielded_checkpoint,
    current_task,
    enable_ki_protection,
    reschedule,
    wait_readable,
    wait_task_rescheduled,
)

THREAD_NAME = "danube-trio-io"
T = TypeVar("T")


class _Job:
    """A call, its outcome, and the task that waits for it if it is not the head of the line."""

    __slots__ = ("args", "done", "error", "fn", "result", "task")

    def __init__(self, fn: Callable[..., object] | None, args: tuple[object, ...]) -> None:
        self.fn = fn  # None: the thread ends
        self.args = args
        self.result: object = None
        self.error: BaseException | None = None
        self.done = False
        self.task: trio.lowlevel.Task | None = None


class Signal:
    """A flag that any thread raises and one task waits for: an eventfd, or a pipe without it."""

    __slots__ = ("_write_fd", "fd")

    def __init__(self) -> None:
        self.fd = self._write_fd = -1
        try:
            self.fd = self._write_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        except (AttributeError, OSError):  # not of this system, or refused by a sandbox
            self.fd, self._write_fd = os.pipe()  # close-on-exec since PEP 446
            os.set_blocking(self.fd, False)
            os.set_blocking(self._write_fd, False)

    def set(self) -> None:
        # A pipe that is full has said enough.
        with contextlib.suppress(BlockingIOError):
            os.write(self._write_fd, b"\1\0\0\0\0\0\0\0")

    def clear(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self.fd, 4096)

    def close(self) -> None:
        if self.fd >= 0:
            fds = {self.fd, self._write_fd}
            self.fd = self._write_fd = -1
            for fd in fds:
                os.close(fd)

    def __del__(self) -> None:
        # The thread has a reference too, so this is after its last signal.
        self.close()


def _serve(jobs: SimpleQueue[_Job], signal: Signal) -> None:
    """Run the calls until one is None. This is the thread."""
    while True:
        job = jobs.get()
        if job.fn is None:
            job.done = True
            signal.set()
            return
        try:
            job.result = job.fn(*job.args)
        except BaseException as error:
            job.error = error  # all of them: they belong to the caller, and the thread must go on
        job.done = True
        signal.set()
        del job  # an idle lane keeps no buffer alive


def _refuse_abort(_: object) -> Abort:
    return Abort.FAILED


def refuse_green_threads() -> None:
    """Raise RuntimeError where gevent has made threads that wait for each other of the real ones.

    A write would stop the whole program, and the engine's thread could not wait beside the caller.
    """
    monkey = sys.modules.get("gevent.monkey")
    if monkey is not None and monkey.is_module_patched("threading"):
        raise RuntimeError(
            "danube-trio needs real threads, and gevent has replaced them: open it in a process in "
            "which gevent.monkey has not patched 'threading'"
        )


class ThreadLane:
    """A `Lane` with a thread of its own, which starts with the first call.

    Bound to no event loop run: it may be used in one `trio.run` after another, but not in two at
    the same time, and not after fork.
    """

    def __init__(self) -> None:
        self._jobs: SimpleQueue[_Job] = SimpleQueue()
        self._line: deque[_Job] = deque()  # calls whose callers have not been answered, in order
        self._signal: Signal | None = None
        self._thread: threading.Thread | None = None
        self._pid = 0
        self._closing: trio.Event | None = None

    def __repr__(self) -> str:
        state = "idle" if self._thread is None else "running"
        state = state if self._closing is None else "closed"
        return f"<ThreadLane {state}, {len(self._line)} calls waiting>"

    @enable_ki_protection
    async def run(self, fn: Callable[..., T], /, *args: object) -> T:
        """Run `fn(*args)` in the lane's thread, after all calls before it.

        Returns its result or raises its exception. Context variables are not passed on.

        Cancellation: none, see `danube_trio._core.disk.Lane`. A KeyboardInterrupt that arrives
        meanwhile is raised after the call is over (and its result is lost).

        Raises:
            trio.ClosedResourceError: `aclose` was called. `fn` was not.
            RuntimeError: used after fork, or the thread could not be started. `fn` was not called.
        """
        if self._closing is not None:
            raise trio.ClosedResourceError("the I/O lane is closed")
        signal = self._signal or self._start()
        if self._pid != os.getpid():
            raise RuntimeError("the I/O lane was made before fork: open the log in the child")
        job = _Job(fn, args)
        await self._answer(job, signal)
        if job.error is not None:
            try:
                raise job.error
            finally:
                job.error = None  # no cycle of error, traceback, this frame and the job
        return cast("T", job.result)

    def _start(self) -> Signal:
        refuse_green_threads()
        signal = Signal()
        thread = threading.Thread(
            target=_serve, args=(self._jobs, signal), name=THREAD_NAME, daemon=True
        )
        thread.start()
        self._thread, self._signal, self._pid = thread, signal, os.getpid()
        return signal

    async def _answer(self, job: _Job, signal: Signal) -> None:
        """Hand the job over; return when it is done and the line has moved on."""
        line = self._line
        interrupt: KeyboardInterrupt | None = None
        # No await from here to the first wait: the order of the line is the order of the queue.
        line.append(job)
        self._jobs.put(job)
        try:
            if line[0] is not job:
                job.task = current_task()
                await wait_task_rescheduled(_refuse_abort)
            else:
                interrupt = await _wait(signal)  # at least once: `run` is always a schedule point
            while not job.done:
                interrupt = await _wait(signal) or interrupt
        finally:
            was_head = line[0] is job
            line.remove(job)
            if was_head and line:
                reschedule(cast("trio.lowlevel.Task", line[0].task))
        if interrupt is not None:
            raise interrupt from job.error

    @enable_ki_protection
    async def aclose(self) -> None:
        """Wait for the calls handed over so far, end the thread, close the descriptors.

        Idempotent; a second caller waits for the first. Cancellation: none.
        """
        if self._closing is not None:
            with trio.CancelScope(shield=True):
                await self._closing.wait()
            return
        self._closing = trio.Event()
        try:
            if self._signal is None or self._thread is None or self._pid != os.getpid():
                await cancel_shielded_checkpoint()
                return
            await self._answer(_Job(None, ()), self._signal)
            # It has signalled and is returning: this waits for microseconds.
            self._thread.join()
            self._signal.close()
        finally:
            self._closing.set()

    def __del__(self, _warn: Any = warnings.warn) -> None:
        if self._closing is None and self._thread is not None:
            _warn(f"unclosed I/O lane {self!r}", ResourceWarning, source=self, stacklevel=2)
            self._jobs.put(_Job(None, ()))


async def _wait(signal: Signal) -> KeyboardInterrupt | None:
    """Wait for a signal, whatever happens, and clear it; return what must be raised later."""
    interrupt = None
    try:
        await wait_readable(signal.fd)
    except KeyboardInterrupt as error:
        interrupt = error
    except trio.Cancelled:
        # Not lost: the scope stays cancelled, so the caller's next checkpoint raises it again.
        with trio.CancelScope(shield=True):
            try:
                await wait_readable(signal.fd)
            except KeyboardInterrupt as error:
                interrupt = error
    signal.clear()
    return interrupt
