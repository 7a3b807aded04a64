"""The anyio door on asyncio: what only asyncio does, and what only a second thread can break."""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import pytest
import trio
from doors import GatedDisk, shown_by

import danube_trio
from danube_trio import LogBrokenError, LogClosedError, Reader, Wal, WalConfig
from danube_trio.anyio import ReaderStream, open_follower, open_replica, open_store, open_wal
from danube_trio.anyio import _views as views
from danube_trio.testing import Operation, SimDisk

ROOT = Path(__file__).parent.parent
PREFIX = "storage/topics/default/orders"


def offsets_of(directory: Path) -> list[int]:
    async def read() -> list[int]:
        async with danube_trio.open_wal(WalConfig(dir=str(directory))) as wal:
            return [m.offset async for m in wal.reader(end="current")]

    return trio.run(read)


async def until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110 (the other side is another thread)
        await asyncio.sleep(0)


# ---- the views


NO_VIEW_NEEDED = {
    *("next_offset", "uploaded_end", "start_offset", "durable_end", "codec", "phase"),  # marks
    *("offset", "offsets", "cursor", "log_id"),  # plain values
    *("reader", "receive", "next_batch", "batches"),  # made of others that are overridden
}


@pytest.mark.parametrize("name", ["Wal", "Follower", "Replica", "Receipt", "Reader"])
def test_every_call_that_touches_the_engine_crosses_to_its_thread(name: str) -> None:
    inner: type = getattr(danube_trio, name)
    view: type = getattr(views, f"{name}View")
    calls = {key for key, _ in inspect.getmembers(inner) if key[0] != "_"} - NO_VIEW_NEEDED
    calls -= {key for key, _ in inspect.getmembers(trio.abc.ReceiveChannel)} - {"aclose"}
    assert calls <= shown_by(view)
    for call in calls:
        if inspect.isfunction(getattr(inner, call)):
            assert inspect.signature(getattr(view, call)) == inspect.signature(getattr(inner, call))


def test_on_trio_it_is_the_engine_itself(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_wal(WalConfig(dir=str(tmp_path))) as wal:
            assert type(wal) is Wal
            assert type(wal.reader()) is Reader

    block = open_wal(WalConfig())  # made outside of any loop, entered in one

    async def later() -> None:
        async with block as wal:
            assert type(wal) is Wal

    trio.run(main)
    trio.run(later)


def test_the_objects_are_of_the_types_that_they_are_said_to_be() -> None:
    async def main() -> None:
        async with open_wal(WalConfig()) as wal:
            await wal.append_batch([b"a", b"b", b"c"])
            assert isinstance(wal, Wal)
            reader = wal.reader(end="current")
            assert isinstance(reader, Reader)
            assert isinstance(reader, trio.abc.ReceiveChannel)
            assert (await reader.receive()).payload == b"a"
            stream = ReaderStream(reader)
            assert isinstance(stream, anyio.abc.ObjectReceiveStream)
            assert [m.payload async for m in stream] == [b"b", b"c"]
            with pytest.raises(anyio.EndOfStream):
                await stream.receive()
            with pytest.raises(trio.EndOfChannel):
                await reader.receive()
            await stream.aclose()

    asyncio.run(main())
    anyio.run(main, backend="trio")


def test_a_store_is_shared_by_logs_and_replicas_of_the_same_thread(tmp_path: Path) -> None:
    async def main() -> None:
        config = WalConfig(dir=str(tmp_path), topic_name="/default/orders")
        async with open_store("memory:") as store:
            async with open_wal(config, store=store) as wal:
                await wal.append(b"a", durability="uploaded")
                receipt = wal.append_nowait(b"b")
                assert await receipt.uploaded() == range(1, 2)
                assert await wal.seal() == 2
            async with open_replica(store, topic="/default/orders") as replica:
                assert [m.payload async for m in replica.reader(end="current")] == [b"a", b"b"]
                await replica.refresh()
                assert replica.statistics().durable_end == 2
            async with open_follower(tmp_path, store=store, prefix=PREFIX) as follower:
                await follower.wait_durable(2)
                assert follower.statistics().durable_end == 2

    asyncio.run(main())


# ---- asyncio's own cancellation


def test_a_cancelled_wait_is_over_when_it_raises(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_wal(WalConfig(dir=str(tmp_path))) as wal:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await wal.wait_durable(7)
            task = asyncio.create_task(wal.reader().next_batch())
            await until(lambda: wal.statistics().readers)
            task.cancel("mine")
            with pytest.raises(asyncio.CancelledError, match="mine"):
                await task
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(wal.wait_durable(7), 0.01)
            assert await wal.append(b"x") == 0

    asyncio.run(main())


async def _held_append(
    wal: Wal, disk: GatedDisk, then: Callable[[], Any]
) -> tuple[asyncio.Task[list[object]], list[object]]:
    """A task that appends, is accepted, and waits for a disk that stands still."""
    events: list[object] = []

    async def work() -> list[object]:
        events.append(await wal.append(b"x"))
        events.append(await then())
        return events

    disk.gate.clear()
    before = wal.next_offset
    task = asyncio.create_task(work())
    await until(lambda: wal.next_offset > before)
    return task, events


def test_a_reader_that_is_closed_hands_out_no_batch_that_was_on_its_way(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with open_wal(WalConfig(dir=str(tmp_path))) as wal:
            await wal.append_batch([b"0", b"1"])
            reader: Any = wal.reader()
            waiting = asyncio.ensure_future(reader.next_batch())
            await asyncio.sleep(0)
            while reader._fetched is None:
                time.sleep(0)  # noqa: ASYNC251 (it comes in the other thread, unknown to the task)
            reader.close_now()
            with pytest.raises(LogClosedError, match="reader is closed"):
                await waiting
            with pytest.raises(LogClosedError, match="reader is closed"):
                await reader.next_batch()

    asyncio.run(scenario())


def test_a_cancellation_after_acceptance_is_delivered_at_the_next_wait(tmp_path: Path) -> None:
    async def main() -> None:
        disk = GatedDisk()
        async with open_wal(WalConfig(dir=str(tmp_path)), disk=disk) as wal:
            for cancels in (1, 3):
                task, events = await _held_append(wal, disk, asyncio.Event().wait)
                for _ in range(cancels):
                    task.cancel("mine")
                    for _ in range(5):
                        await asyncio.sleep(0)
                assert not task.done(), "the wait goes on"
                disk.gate.set()
                with pytest.raises(asyncio.CancelledError, match="mine"):
                    await task
                assert len(events) == 1, "the append has returned its offset"
                assert task.cancelling() == cancels

    asyncio.run(main())


def test_the_next_append_of_a_cancelled_task_is_not_accepted(tmp_path: Path) -> None:
    async def main() -> None:
        disk = GatedDisk()
        async with open_wal(WalConfig(dir=str(tmp_path)), disk=disk) as wal:
            task, events = await _held_append(wal, disk, lambda: wal.append(b"never"))
            task.cancel()
            await asyncio.sleep(0)
            disk.gate.set()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert events == [0]
        assert offsets_of(tmp_path) == [0]

    asyncio.run(main())


def test_a_task_that_ends_with_its_append_keeps_the_result(tmp_path: Path) -> None:
    async def main() -> None:
        disk = GatedDisk()
        async with open_wal(WalConfig(dir=str(tmp_path)), disk=disk) as wal:
            disk.gate.clear()
            task = asyncio.create_task(wal.append(b"x"))
            await until(lambda: wal.next_offset == 1)
            task.cancel()
            await asyncio.sleep(0)
            disk.gate.set()
            assert await task == 0

    asyncio.run(main())


def test_a_timeout_during_an_accepted_append_leaves_no_stray_cancellation(tmp_path: Path) -> None:
    async def main() -> None:
        disk = GatedDisk()
        async with open_wal(WalConfig(dir=str(tmp_path)), disk=disk) as wal:
            disk.gate.clear()
            loop = asyncio.get_running_loop()
            async with asyncio.timeout(0.01) as timeout:
                loop.call_later(0.03, disk.gate.set)
                assert await wal.append(b"x") == 0
            assert timeout.expired()
            for _ in range(5):
                await asyncio.sleep(0)
            disk.gate.clear()
            with anyio.move_on_after(0.01) as scope:
                loop.call_later(0.03, disk.gate.set)
                assert await wal.append(b"x") == 1
            for _ in range(5):
                await asyncio.sleep(0)
            assert scope.cancel_called
            task = asyncio.current_task()
            assert task is not None
            assert task.cancelling() == 0

    asyncio.run(main())


def test_a_timeout_and_a_cancellation_together_leave_the_cancellation(tmp_path: Path) -> None:
    async def main() -> None:
        disk = GatedDisk()
        async with open_wal(WalConfig(dir=str(tmp_path)), disk=disk) as wal:
            events: list[object] = []

            async def work() -> None:
                async with asyncio.timeout(0.01):
                    events.append(await wal.append(b"x"))
                await asyncio.Event().wait()

            disk.gate.clear()
            task = asyncio.create_task(work())
            await asyncio.sleep(0.03)
            task.cancel()
            await asyncio.sleep(0)
            disk.gate.set()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert events == [0]

    asyncio.run(main())


def test_a_task_group_that_fails_waits_for_what_was_accepted(tmp_path: Path) -> None:
    async def main() -> None:
        disk = GatedDisk()
        async with open_wal(WalConfig(dir=str(tmp_path)), disk=disk) as wal:
            offsets: list[int] = []

            async def one() -> None:
                offsets.append(await wal.append(b"x"))

            disk.gate.clear()
            with pytest.raises(ExceptionGroup) as caught:
                async with asyncio.TaskGroup() as tasks:
                    for _ in range(20):
                        tasks.create_task(one())
                    await until(lambda: wal.next_offset == 20)
                    asyncio.get_running_loop().call_later(0.01, disk.gate.set)
                    raise ZeroDivisionError
            assert caught.group_contains(ZeroDivisionError)
            assert sorted(offsets) == list(range(20))

    asyncio.run(main())


def test_cancelling_the_main_task_drains(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_wal(WalConfig(dir=str(tmp_path))) as wal:
            for _ in range(10):
                wal.append_nowait(b"x")
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.Event().wait()

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(main())
    assert len(offsets_of(tmp_path)) == 10


def test_opening_can_be_cancelled(tmp_path: Path) -> None:
    async def main() -> None:
        disk = GatedDisk()
        disk.gate.clear()
        asyncio.get_running_loop().call_later(0.03, disk.gate.set)
        with anyio.move_on_after(0.01) as scope:
            async with open_wal(WalConfig(dir=str(tmp_path)), disk=disk):
                await anyio.sleep_forever()
        assert scope.cancelled_caught
        async with open_wal(WalConfig(dir=str(tmp_path))) as wal:
            assert await wal.append(b"x") == 0

    asyncio.run(main())


# ---- the thread


def test_a_bug_in_the_engine_is_raised_at_leaving_and_hangs_nobody() -> None:
    class BugError(Exception):
        pass

    def fail(operation: Operation) -> None:
        if operation.name == "sync_data":
            raise BugError

    async def main() -> None:
        disk = SimDisk()
        with pytest.raises(BugError):
            async with open_wal(WalConfig(dir="/log"), disk=disk) as wal:
                disk.on_operation = fail
                with pytest.raises(LogBrokenError):
                    await wal.append(b"x")
                with pytest.raises(LogBrokenError):
                    await wal.append(b"y")

    asyncio.run(main())


def test_a_failed_opening_leaves_no_thread_behind(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")

    async def main() -> None:
        with pytest.raises(NotADirectoryError):
            async with open_wal(WalConfig(dir=str(tmp_path / "file"))):
                pass
        assert "danube-trio-engine" not in {t.name for t in threading.enumerate()}

    asyncio.run(main())


def test_the_thread_lives_as_long_as_something_is_open(tmp_path: Path) -> None:
    def engines() -> list[str]:
        return [t.name for t in threading.enumerate() if t.name == "danube-trio-engine"]

    async def main() -> None:
        async with open_wal(WalConfig()), open_wal(WalConfig(dir=str(tmp_path))):
            assert len(engines()) == 1
            with pytest.raises(danube_trio.LogLockedError):
                async with open_wal(WalConfig(dir=str(tmp_path))):
                    pass
            assert len(engines()) == 1
        assert not engines()

    asyncio.run(main())
    asyncio.run(main())


def test_a_log_that_was_never_left_warns_and_drains(tmp_path: Path) -> None:
    async def main() -> None:
        block = open_wal(WalConfig(dir=str(tmp_path)))
        wal = await block.__aenter__()
        del block  # the log keeps its block
        gc.collect()
        wal.append_nowait(b"x")
        kept = [wal]
        del wal
        with pytest.warns(ResourceWarning, match="never closed"):
            kept.clear()
        gc.collect()

    asyncio.run(main())
    while True:
        try:
            assert offsets_of(tmp_path) == [0]
        except danube_trio.LogLockedError:
            continue  # it drains in the background
        return


def test_a_loop_that_ended_does_not_matter_to_the_log(tmp_path: Path) -> None:
    loop = asyncio.new_event_loop()
    block = open_wal(WalConfig(dir=str(tmp_path)))
    wal = loop.run_until_complete(block.__aenter__())
    reading = wal.reader().next_batch()
    task = loop.create_task(reading)
    loop.run_until_complete(asyncio.sleep(0.01))
    wal.append_nowait(b"x")
    loop.run_until_complete(asyncio.sleep(0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loop.close()
        del task, reading
        del wal, block
        gc.collect()
    while True:
        try:
            assert offsets_of(tmp_path) == [0]
        except danube_trio.LogLockedError:
            continue
        return


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_is_told(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_wal(WalConfig(dir=str(tmp_path))) as wal:
            await wal.append(b"x")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                pid = os.fork()
            if pid == 0:
                try:
                    wal.append_nowait(b"child")
                except LogClosedError:
                    os._exit(7)
                os._exit(1)
            status = os.waitpid(pid, 0)[1]  # noqa: ASYNC222 (the child ends at once)
            assert os.waitstatus_to_exitcode(status) == 7
            assert await wal.append(b"y") == 1

    asyncio.run(main())


# ---- Ctrl-C and exits, in processes of their own


def run_script(source: str, *arguments: object, interrupt: bool = False) -> tuple[int, str, str]:
    """Run a program; with `interrupt`, SIGINT it when it has written its first line."""
    with subprocess.Popen(
        [sys.executable, "-X", "dev", "-c", source, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as process:
        first = ""
        if interrupt:
            assert process.stdout is not None
            first = process.stdout.readline()
            process.send_signal(signal.SIGINT)
        try:
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()  # leaving the block waits for it
    return process.returncode, first + out, err


INTERRUPTED = """
import asyncio, sys
from danube_trio import WalConfig
from danube_trio.anyio import open_wal

async def produce(wal):
    while True:
        print(await wal.append(b"x" * 100), flush=True)

async def main():
    async with open_wal(WalConfig(dir=sys.argv[1])) as wal:
        tasks = [asyncio.create_task(produce(wal)) for _ in range(20)]
        await asyncio.gather(*tasks)

if sys.argv[2] == "run":
    asyncio.run(main())
else:
    loop = asyncio.new_event_loop()
    loop.run_until_complete(main())
"""


@pytest.mark.parametrize("how", ["run", "bare loop"])
def test_ctrl_c_loses_nothing_that_was_acknowledged(how: str, tmp_path: Path) -> None:
    code, out, err = run_script(INTERRUPTED, tmp_path, how, interrupt=True)
    assert code != 0
    assert "KeyboardInterrupt" in err
    acked = sorted(map(int, out.split()))
    found = offsets_of(tmp_path)
    assert acked
    assert found == list(range(len(found)))
    assert set(acked) <= set(found)
    if how == "bare loop":
        assert "was never closed" in err


LEFT_OPEN = """
import asyncio, sys
from danube_trio import WalConfig
from danube_trio.anyio import open_wal

async def main():
    global wal
    wal = await open_wal(WalConfig(dir=sys.argv[1], fsync_interval_ms=3_600_000)).__aenter__()
    for _ in range(100):
        wal.append_nowait(b"x")

asyncio.run(main())
"""


def test_what_is_open_at_exit_drains_and_is_named(tmp_path: Path) -> None:
    code, _, err = run_script(LEFT_OPEN, tmp_path)
    assert code == 0
    assert "ResourceWarning" in err
    assert "was never closed" in err
    assert len(offsets_of(tmp_path)) == 100
