"""Bugs in the engine's thread: each ends the call that it is in, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import gc
import itertools
import linecache
import logging
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any, cast

import pytest
import trio
from doors import GatedDisk
from test_anyio_door import offsets_of, until
from test_blocking_door import Thread

import danube_trio.anyio
import danube_trio.blocking
from danube_trio import LogBrokenError, LogClosedError, WalConfig
from danube_trio._engine.thread import engine_thread as engine_module
from danube_trio._engine.thread.engine_thread import THREAD_NAME, EngineThread
from danube_trio._engine.thread.jobs import Job


class BugError(Exception):
    """What the tests put into the engine's thread."""


class BuggyJob(Job):
    """It does not even start."""

    __slots__ = ()

    def start(self, engine_thread: EngineThread) -> None:
        raise BugError


async def fail() -> None:
    raise BugError


async def never() -> None:
    await trio.sleep_forever()


def in_the_hosts_nursery(engine_thread: EngineThread) -> None:
    engine_thread.nursery.start_soon(fail)


def in_a_system_task(engine_thread: EngineThread) -> None:
    trio.lowlevel.spawn_system_task(fail)


WAYS_TO_END = [in_the_hosts_nursery, in_a_system_task]


def root_of(error: BaseException) -> BaseException:
    """The bug behind an error."""
    while not isinstance(error, BugError):
        inner: BaseException | None = error.__cause__
        if isinstance(error, BaseExceptionGroup):
            (inner,) = cast("BaseExceptionGroup[BaseException]", error).exceptions
        assert inner is not None, error
        error = inner
    return error


def engines() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == THREAD_NAME]


def test_a_job_that_does_not_start_gets_the_error_and_the_others_go_on() -> None:
    async def main() -> None:
        async with danube_trio.anyio.open_wal(WalConfig()) as wal:
            door: Any = vars(wal)["door"]
            calls = [door.run(BuggyJob(door.reply)), wal.append(b"x"), wal.append(b"y")]
            bug, *offsets = await asyncio.gather(*calls, return_exceptions=True)
            assert isinstance(bug, BugError)
            assert offsets == [0, 1]

    asyncio.run(main())


def test_a_bug_in_telling_an_outcome_strikes_nobody_else(caplog: pytest.LogCaptureFixture) -> None:
    def reply(_: Job) -> None:
        raise BugError

    with danube_trio.blocking.open_wal(WalConfig()) as wal:
        wal.door.engine_thread.submit(BuggyJob(reply))
        assert wal.append(b"x") == 0
    assert "nobody could be told" in caplog.text


def test_a_block_whose_opening_ends_in_a_bug_is_left(tmp_path: Path) -> None:
    from danube_trio._engine.log.open import open_wal
    from danube_trio._engine.thread.engine_thread import Hold, acquire
    from danube_trio.blocking._thread import ThreadDoor

    def opened(_: object) -> None:
        raise BugError

    block = open_wal(WalConfig(dir=str(tmp_path)))
    hold = Hold(ThreadDoor.reply, block, "a log", opened)
    door = ThreadDoor(acquire(hold))
    with pytest.raises(BugError):
        door.run(hold)
    door.engine_thread.wait_ended()
    assert offsets_of(tmp_path) == []


@pytest.mark.parametrize("end", WAYS_TO_END)
def test_when_the_thread_ends_by_a_bug_every_call_of_asyncio_is_answered(
    end: Callable[[EngineThread], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "danube_trio.engine")
    disk, gated = GatedDisk(), GatedDisk()
    full = WalConfig(dir=str(tmp_path / "full"), max_pending_bytes=1000)
    open_wal = danube_trio.anyio.open_wal

    async def main() -> None:
        other_block = open_wal(WalConfig(dir=str(tmp_path / "other")))
        block = open_wal(full, disk=disk)
        other, wal = await other_block.__aenter__(), await block.__aenter__()
        door: Any = vars(wal)["door"]
        engine_thread: EngineThread = door.engine_thread
        assert await other.append(b"x") == 0
        receipt = other.append_nowait(b"y")
        disk.gate.clear()
        gated.gate.clear()
        accepted = asyncio.create_task(wal.append(bytes(900)))
        await until(lambda: wal.next_offset == 1)
        waiting = [asyncio.create_task(wal.append(bytes(901))) for _ in range(3)]
        await until(lambda: wal.statistics().waiting_appends == 3)
        waits = [
            asyncio.create_task(call)
            for call in (wal.wait_durable(9), wal.reader().next_batch(), door.call(never))
        ]
        new = open_wal(WalConfig(dir=str(tmp_path / "new")), disk=gated)
        opening = asyncio.create_task(new.__aenter__())
        reader = other.reader(end=2)
        await asyncio.sleep(0)
        engine_thread.tell(lambda: end(engine_thread))
        await until(lambda: engine_thread._ending)
        late = [asyncio.create_task(call) for call in (wal.append(b"late"), wal.flush())]
        await asyncio.sleep(0)
        gated.gate.set()
        await until(lambda: not wal.statistics().waiting_appends)
        disk.gate.set()
        if end is in_the_hosts_nursery:
            assert await accepted == 0, "it drained"
        with suppress(LogBrokenError):  # or it has opened, and was left
            await opening
        for task in (*waiting, *waits, *late):
            with pytest.raises((LogBrokenError, LogClosedError)) as caught:
                await task
            if task not in waiting:
                assert isinstance(root_of(caught.value), BugError)
        with suppress(LogBrokenError):
            await accepted
        with pytest.raises(LogClosedError) as later:
            wal.append_nowait(b"later")
        assert isinstance(root_of(later.value), BugError)
        with pytest.raises((LogBrokenError, LogClosedError)):
            await reader.next_batch()
        for each in (block, other_block):
            with suppress(LogBrokenError):
                await each.__aexit__(None, None, None)
        assert receipt.offsets == range(1, 2)
        async with open_wal(WalConfig()) as another:
            assert await another.append(b"z") == 0, "in a thread of its own"

    asyncio.run(main())
    assert "ended by a bug" in caplog.text
    assert engines() == []
    assert offsets_of(tmp_path / "other") == [0, 1]
    assert offsets_of(tmp_path / "full") == [0]


@pytest.mark.parametrize("end", WAYS_TO_END)
def test_when_the_thread_ends_by_a_bug_every_call_of_threads_is_answered(
    end: Callable[[EngineThread], None], tmp_path: Path
) -> None:
    disk = GatedDisk()
    config = WalConfig(dir=str(tmp_path), max_pending_bytes=1000)
    block = danube_trio.blocking.open_wal(config, disk=disk)
    wal = block.__enter__()
    engine_thread = wal.door.engine_thread
    disk.gate.clear()
    accepted = Thread(wal.append, bytes(900))
    while wal.next_offset == 0:
        pass
    reader = wal.reader()
    calls = [Thread(wal.append, bytes(901)), Thread(wal.wait_durable, 9), Thread(next, reader)]
    while not wal.statistics().waiting_appends:
        pass
    engine_thread.tell(lambda: end(engine_thread))
    while not engine_thread._ending:
        pass
    calls += [Thread(wal.append, b"late"), Thread(wal.flush)]
    leaving = Thread(wal.close)
    while wal.statistics().waiting_appends:
        pass
    disk.gate.set()
    for thread in (accepted, leaving, *calls):
        thread.join()
    for thread in calls:
        assert isinstance(thread.error, LogBrokenError | LogClosedError)
    assert leaving.error is None or isinstance(leaving.error, LogBrokenError)
    assert accepted.result == 0 or isinstance(accepted.error, LogBrokenError)
    with pytest.raises(LogClosedError):
        wal.append(b"later")
    block.__exit__(None, None, None)
    engine_thread.wait_ended()
    with danube_trio.blocking.open_wal(config) as again:
        assert [m.offset for m in again.reader(end="current")] == [0]


# ---- Ctrl-C while a block is being entered


class InterruptAt:
    """Raises KeyboardInterrupt at the n-th line of the package that this thread runs.

    Not where a `with` or `try` begins or ends: no signal comes there, only before and after.
    """

    def __init__(self, nth: int) -> None:
        self.left = nth

    def __enter__(self) -> None:
        gc.collect()
        gc.disable()  # what is collected meanwhile is no part of it
        sys.settrace(self._trace)

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)
        gc.enable()

    def _trace(self, frame: FrameType, event: str, arg: object) -> Any:
        if "danube_trio" not in frame.f_code.co_filename or frame.f_code.co_name == "__init__":
            return None
        line = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
        if event == "line" and not line.startswith(("with ", "try:")):
            self.left -= 1
            if self.left == 0:
                sys.settrace(None)
                raise KeyboardInterrupt
        return self._trace


@pytest.mark.happens
def test_ctrl_c_at_any_step_of_entering_a_block_leaves_nothing_behind(tmp_path: Path) -> None:
    """No thread, no lock, no block that is open; whatever it opened before is left."""
    open_wal, config = danube_trio.blocking.open_wal, WalConfig(dir=str(tmp_path))
    nth = 0
    for nth in itertools.count(1):
        block = open_wal(config)
        interrupt = InterruptAt(nth)
        try:
            with interrupt:
                wal = block.__enter__()
        except KeyboardInterrupt:
            pass
        else:
            block.__exit__(None, None, None)
            assert wal.phase == "closed"
            break
        for thread in threading.enumerate():
            if thread.name == THREAD_NAME:
                thread.join()  # one that was started by a hair's breadth ends at once
        assert engine_module._engine_thread is None
        assert not engine_module._alive
        del block
        with open_wal(config) as wal:
            assert wal.append(b"x") == nth - 1
        del wal  # or it is collected while the next one is traced
    assert nth > 20
