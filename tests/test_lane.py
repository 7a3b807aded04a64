"""The I/O thread: what the conformance suite of `test_disk` cannot see."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import weakref

import pytest
import trio
import trio.testing

from danube_trio._disk import lane as _lane
from danube_trio._disk.lane import THREAD_NAME, ThreadLane


def io_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == THREAD_NAME]


def open_fds() -> int:
    return len(os.listdir("/proc/self/fd"))


async def test_the_thread_starts_with_the_first_call_and_ends_with_the_lane() -> None:
    await trio.lowlevel.checkpoint()
    fds = open_fds()
    lane = ThreadLane()
    assert io_threads() == []
    assert await lane.run(threading.current_thread) is io_threads()[0]
    assert io_threads()[0].daemon
    assert repr(lane) == "<ThreadLane running, 0 calls waiting>"
    await lane.aclose()
    assert io_threads() == []
    assert open_fds() == fds
    assert repr(lane) == "<ThreadLane closed, 0 calls waiting>"


@pytest.mark.parametrize("shielded", [True, False])
async def test_cancelling_a_call_that_runs_waits_for_it(shielded: bool) -> None:
    lane = ThreadLane()
    go_on = threading.Event()
    log: list[str] = []

    def call() -> str:
        go_on.wait()
        log.append("called")
        return "result"

    async def run(scope: trio.CancelScope) -> None:
        with scope:
            log.append(await lane.run(call))
            await trio.lowlevel.checkpoint()
            log.append("never reached")

    scope = trio.CancelScope(shield=shielded)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, scope)
        await trio.testing.wait_all_tasks_blocked()
        scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert log == []
        go_on.set()
    assert log == ["called", "result"]
    assert scope.cancelled_caught
    await lane.aclose()


async def test_cancelled_callers_in_the_line_keep_their_place() -> None:
    lane = ThreadLane()
    go_on = threading.Event()
    results: list[int] = []

    async def run(number: int) -> None:
        results.append(await lane.run(int, f"{number}"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(lane.run, go_on.wait)
        await trio.testing.wait_all_tasks_blocked()
        for number in range(20):
            nursery.start_soon(run, number)
        await trio.testing.wait_all_tasks_blocked()
        assert repr(lane) == "<ThreadLane running, 21 calls waiting>"
        nursery.cancel_scope.cancel()
        await trio.lowlevel.cancel_shielded_checkpoint()
        go_on.set()
    assert sorted(results) == list(range(20))
    await lane.aclose()


async def test_an_exception_of_one_call_does_not_touch_the_others() -> None:
    lane = ThreadLane()
    errors: list[object] = []

    async def run(number: int) -> None:
        if number % 3:
            assert await lane.run(divmod, number, 1) == (number, 0)
        else:
            with pytest.raises(ZeroDivisionError) as caught:
                await lane.run(divmod, number, 0)
            errors.append(caught.value)

    async with trio.open_nursery() as nursery:
        for number in range(60):
            nursery.start_soon(run, number)
    assert len({id(error) for error in errors}) == 20
    await lane.aclose()


async def test_even_a_base_exception_leaves_the_thread_alive() -> None:
    lane = ThreadLane()

    def leave() -> None:
        raise SystemExit("not from here")

    with pytest.raises(SystemExit, match="not from here"):
        await lane.run(leave)
    assert await lane.run(int) == 0
    await lane.aclose()


async def test_an_idle_lane_keeps_nothing_alive() -> None:
    class Buffer:
        pass

    def call(_: Buffer) -> Buffer:
        result = Buffer()
        refs.append(weakref.ref(result))
        return result

    def fail(_: Buffer) -> None:
        raise ZeroDivisionError

    lane = ThreadLane()
    argument = Buffer()
    refs = [weakref.ref(argument)]
    gc.disable()
    try:
        await lane.run(call, argument)
        with pytest.raises(ZeroDivisionError):
            await lane.run(fail, argument)
        await lane.run(int)  # the thread has let go of the calls before
        del argument
        assert [ref() for ref in refs] == [None, None]
    finally:
        gc.enable()
    await lane.aclose()


def test_a_lane_goes_on_in_the_next_event_loop_run() -> None:
    lane = ThreadLane()

    async def use() -> threading.Thread:
        return await lane.run(threading.current_thread)

    assert trio.run(use) is trio.run(use)
    trio.run(lane.aclose)
    trio.run(lane.aclose)
    assert io_threads() == []


def test_a_forgotten_lane_warns_and_ends_its_thread() -> None:
    lane = ThreadLane()
    trio.run(lane.run, int)
    (thread,) = io_threads()
    fds = open_fds()
    lanes = [lane]
    del lane
    with pytest.warns(ResourceWarning, match="unclosed I/O lane"):
        lanes.clear()
    thread.join()
    del thread
    assert open_fds() < fds


def test_a_keyboard_interrupt_of_the_caller_comes_after_the_call() -> None:
    lane = ThreadLane()
    log: list[str] = []

    async def main() -> None:
        token = trio.lowlevel.current_trio_token()

        def call() -> None:
            main_thread = threading.main_thread().ident
            assert main_thread is not None
            signal.pthread_kill(main_thread, signal.SIGINT)
            for _ in range(5):  # until the event loop has seen it
                trio.from_thread.run_sync(int, trio_token=token)
            log.append("called")

        try:
            await lane.run(call)
            log.append("no interrupt")
        except KeyboardInterrupt:
            log.append("interrupted")
        log.append(str(await lane.run(int)))
        await lane.aclose()

    trio.run(main)
    assert log == ["called", "interrupted", "0"]


def test_a_keyboard_interrupt_of_somebody_else_does_not_disturb_the_caller() -> None:
    lane = ThreadLane()
    log: list[str] = []

    async def append() -> None:
        token = trio.lowlevel.current_trio_token()

        def call() -> None:
            main_thread = threading.main_thread().ident
            assert main_thread is not None
            signal.pthread_kill(main_thread, signal.SIGINT)
            for _ in range(5):
                trio.from_thread.run_sync(int, trio_token=token)
            log.append("called")

        await lane.run(call)
        log.append("answered")

    async def main() -> None:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(append)
                await trio.sleep_forever()
        finally:
            await lane.aclose()

    with pytest.raises(BaseExceptionGroup) as caught:
        trio.run(main)
    assert caught.group_contains(KeyboardInterrupt)
    assert log == ["called", "answered"]


async def test_without_eventfd_a_pipe_does(monkeypatch: pytest.MonkeyPatch) -> None:
    await trio.lowlevel.checkpoint()
    fds = open_fds()
    monkeypatch.delattr(os, "eventfd", raising=False)
    lane = ThreadLane()
    results: list[int] = []

    async def run(number: int) -> None:
        results.append(await lane.run(int, f"{number}"))

    async with trio.open_nursery() as nursery:
        for number in range(100):
            nursery.start_soon(run, number)
    assert sorted(results) == list(range(100))
    await lane.aclose()
    assert open_fds() == fds


def test_a_signal_that_nobody_waits_for_never_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "eventfd", raising=False)
    flag = _lane.Signal()
    for _ in range(20_000):  # more than a pipe holds
        flag.set()
    flag.clear()
    flag.close()
    flag.close()


def run_script(script: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_a_program_that_ends_without_closing_its_lane_just_ends() -> None:
    script = """
import threading, trio
from danube_trio._disk.lane import ThreadLane, _Job
lane = ThreadLane()
trio.run(lane.run, int)
# The interpreter ends while the thread is in a call.
lane._jobs.put(_Job(threading.Event().wait, ()))
print("end")
"""
    assert run_script(script) == "end\n"


def test_a_lane_refuses_to_be_used_after_fork() -> None:
    script = """
import os, trio
from danube_trio._disk.lane import ThreadLane
lane = ThreadLane()
trio.run(lane.run, int)
if os.fork() == 0:
    try:
        trio.run(lane.run, int)
    except RuntimeError as error:
        print(error, flush=True)
    trio.run(lane.aclose)
    os._exit(0)
os.wait()
assert trio.run(lane.run, int) == 0
trio.run(lane.aclose)
"""
    assert "before fork" in run_script(script)
