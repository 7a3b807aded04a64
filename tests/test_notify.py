"""Followers that are told of changes: by another process, on a real disk, and in virtual time.

Where a test is about being told, all looks without that are an hour away: what is missed hangs.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from notify_child import config, payload
from trio.testing import MockClock, wait_all_tasks_blocked

from danube_trio import Follower, OffsetTrimmedError, StartPosition, Wal, open_follower, open_wal
from danube_trio._core.disk import Watch
from danube_trio._disk.real import RealDisk
from danube_trio._engine.read.poller import Poller
from danube_trio.testing import Operation, SimDisk
from danube_trio.testing._sim_watch import SimWatch

CHILD = Path(__file__).with_name("notify_child.py")
HOUR: dict[str, Any] = {"poll_seconds": 3600, "recheck_seconds": 3600}
DIR = "/log"


def inotify_is_there() -> bool:
    """Whether this machine has what the tests of the real thing are about."""

    async def look() -> bool:
        watch = await RealDisk().watch("/", "/none")
        if watch is not None:
            watch.close()
        return watch is not None

    return trio.run(look)


needs_inotify = pytest.mark.skipif(
    not inotify_is_there(), reason="no inotify here, or inotify_simple is not installed"
)


@attrs.define(eq=False)
class Child:
    """A running child. What it says comes line by line, as words."""

    process: trio.Process
    _rest: bytes = b""

    async def line(self) -> list[str]:
        """What it says next; an assertion if it has ended."""
        stdout = self.process.stdout
        assert stdout is not None
        while b"\n" not in self._rest:
            data = await stdout.receive_some()
            assert data, f"the child has ended: {self.process.returncode}"
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode().split()

    async def tell(self, text: str) -> list[str]:
        """Have it do this; returns its answer."""
        stdin = self.process.stdin
        assert stdin is not None
        await stdin.send_all(f"{text}\n".encode())
        return await self.line()


@asynccontextmanager
async def child(verb: str, **given: Any) -> AsyncGenerator[Child]:
    process = await trio.lowlevel.open_process(
        [sys.executable, str(CHILD), verb, json.dumps(given)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(CHILD.parent.parent)},
    )
    stdin, stdout = process.stdin, process.stdout
    assert stdin is not None
    assert stdout is not None
    async with stdin, stdout:
        try:
            found = Child(process)
            assert (await found.line())[0] in ("open", "log")
            yield found
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()


def writer(directory: Path) -> Any:
    return child("write", dir=str(directory))


async def append(wal: Wal, count: int) -> None:
    for _ in range(count):
        await wal.append(payload(wal.next_offset))


async def make_log(directory: Path) -> None:
    async with open_wal(config(str(directory))):
        pass


class Seen:
    """A reader in a task of its own, which checks what it gets."""

    def __init__(self, follower: Follower) -> None:
        self._reader = follower.reader(StartPosition.earliest())
        self._news = trio.Event()
        self.end = 0

    async def read(self) -> None:
        async for message in self._reader:
            assert message.offset == self.end
            assert message.payload == payload(message.offset)
            self.end += 1
            self._news.set()

    async def wait(self, end: int) -> None:
        while self.end < end:
            self._news = trio.Event()
            await self._news.wait()


# ---- another process


@needs_inotify
async def test_what_another_process_appends_is_seen_without_polling(tmp_path: Path) -> None:
    async with writer(tmp_path) as other, open_follower(tmp_path, **HOUR) as follower:
        async with trio.open_nursery() as nursery:
            seen = Seen(follower)
            nursery.start_soon(seen.read)
            for count in (1, 1, 300, 1):  # 300 of them roll many times
                _, end = await other.tell(f"append {count}")
                await seen.wait(int(end))
            nursery.cancel_scope.cancel()
        statistics = follower.statistics()
        assert statistics.durable_end == 303
        assert statistics.segments > 5
        assert statistics.by == "notification"
        assert statistics.notifications >= 4


@needs_inotify
async def test_retention_of_another_process_is_seen(tmp_path: Path) -> None:
    async with writer(tmp_path) as other, open_follower(tmp_path, **HOUR) as follower:
        await other.tell("append 100")
        await follower.wait_durable(100)
        late = follower.reader(StartPosition.earliest())
        _, start = await other.tell("trim 80")
        await other.tell("append 1")
        await follower.wait_durable(101)
        assert follower.start_offset == int(start) > 0
        with pytest.raises(OffsetTrimmedError):
            await late.next_batch()
        after = [m.offset async for m in follower.reader(end="current")]
        assert after == list(range(int(start), 101))


@needs_inotify
async def test_a_writer_is_killed_in_full_flight_and_comes_back(tmp_path: Path) -> None:
    await make_log(tmp_path)
    async with open_follower(tmp_path, **HOUR) as follower, trio.open_nursery() as nursery:
        seen = Seen(follower)
        nursery.start_soon(seen.read)
        end = 0
        for _ in range(3):
            async with writer(tmp_path) as other:
                await other.tell("flood 0")
                await seen.wait(end + 50)
                other.process.kill()
            end = seen.end
        async with writer(tmp_path) as other:
            _, last = await other.tell("append 10")
            await seen.wait(int(last))
        assert seen.end >= end + 10
        assert follower.statistics().by == "notification"
        nursery.cancel_scope.cancel()


@needs_inotify
async def test_another_process_sees_what_this_one_appends(tmp_path: Path) -> None:
    async with open_wal(config(str(tmp_path))) as wal:
        await append(wal, 1)
        given = {"dir": str(tmp_path), "count": 90, "hide": False, **HOUR}
        async with child("follow", **given) as other:
            for offset in range(90):
                assert await other.line() == ["seen", str(offset)]
                if offset < 89:
                    await append(wal, 1)
                if offset == 50:
                    await wal.trim(40)
            assert await other.line() == ["by", "notification"]


async def test_without_the_package_it_polls_and_says_so_once(tmp_path: Path) -> None:
    async with open_wal(config(str(tmp_path))) as wal:
        given = {"dir": str(tmp_path), "count": 2, "hide": True, "poll_seconds": 0.001}
        async with child("follow", **given) as other:
            if sys.platform == "linux":  # the line that `child` has read was the log's
                assert (await other.line())[0] == "open"
            for offset in range(2):
                await append(wal, 1)
                assert await other.line() == ["seen", str(offset)]
            assert await other.line() == ["by", "polling"]


@needs_inotify
async def test_many_readers_of_one_follower_and_many_followers_are_all_told(
    tmp_path: Path,
) -> None:
    async with writer(tmp_path) as other, trio.open_nursery() as nursery:
        async with trio.open_nursery() as waiting:
            for _ in range(5):
                follower = await enter(nursery, open_follower(tmp_path, **HOUR))
                for _ in range(5):
                    waiting.start_soon(follower.wait_durable, 1)
            await wait_all_tasks_blocked()
            await other.tell("append 1")
        nursery.cancel_scope.cancel()


async def enter(nursery: trio.Nursery, block: Any) -> Follower:
    """Enter it in a task, which leaves it when it is cancelled."""

    async def hold(task_status: trio.TaskStatus[Follower]) -> None:
        async with block as entered:
            task_status.started(entered)
            await trio.sleep_forever()

    follower: Follower = await nursery.start(hold)
    return follower


@pytest.mark.happens
@needs_inotify
@pytest.mark.parametrize("how", ["removed", "moved"])
async def test_a_directory_that_goes_is_told_at_once(tmp_path: Path, how: str) -> None:
    await make_log(tmp_path / "log")
    async with open_follower(tmp_path / "log", **HOUR) as follower:

        async def wait() -> None:
            with pytest.raises(FileNotFoundError):
                await follower.wait_durable(1)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await wait_all_tasks_blocked()
            if how == "removed":
                shutil.rmtree(tmp_path / "log")
            else:
                (tmp_path / "log").rename(tmp_path / "elsewhere")
        assert follower.statistics().by == "polling"  # there is nothing to watch


class MuteDisk(RealDisk):
    """The real disk of a system that does not tell of changes."""

    async def watch(self, path: str, file: str) -> Watch | None:
        await trio.lowlevel.checkpoint()
        return None


async def test_where_nothing_is_told_it_polls(tmp_path: Path) -> None:
    async with writer(tmp_path) as other:
        async with open_follower(tmp_path, disk=MuteDisk(), poll_seconds=0.001) as follower:
            async with trio.open_nursery() as nursery:
                seen = Seen(follower)
                nursery.start_soon(seen.read)
                _, end = await other.tell("append 30")
                await seen.wait(int(end))
                nursery.cancel_scope.cancel()
            assert follower.statistics().by == "polling"
            assert follower.statistics().notifications == 0


# ---- virtual time


@asynccontextmanager
async def log_and_follower(disk: SimDisk, **settings: Any) -> AsyncGenerator[tuple[Wal, Follower]]:
    async with open_wal(config(DIR), disk=disk) as wal:
        async with open_follower(DIR, disk=disk, **settings) as follower:
            yield wal, follower


async def test_it_wakes_on_a_change_long_before_any_poll(autojump_clock: MockClock) -> None:
    async with log_and_follower(SimDisk(), **HOUR) as (wal, follower):
        for end in range(1, 30):
            began = trio.current_time()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(follower.wait_durable, end)
                await trio.sleep(10)
                await append(wal, 1)
            assert trio.current_time() - began < 11
        assert follower.statistics().looks < 100


async def test_a_change_that_came_while_nobody_waited_is_seen(autojump_clock: MockClock) -> None:
    async with log_and_follower(SimDisk(), **HOUR) as (wal, follower):
        await append(wal, 1)
        looks = follower.statistics().looks
        await trio.sleep(7200)
        assert follower.statistics().looks == looks  # nobody waits: nothing is looked at
        began = trio.current_time()
        await follower.wait_durable(1)
        assert trio.current_time() - began < 1
        assert follower.statistics().notifications == 1


async def test_while_nothing_happens_only_the_recheck_looks(autojump_clock: MockClock) -> None:
    disk = SimDisk()
    async with open_wal(config(DIR), disk=disk):
        pass
    async with open_follower(DIR, disk=disk, recheck_seconds=10) as follower:
        with trio.move_on_after(1005):
            await follower.wait_durable(1)
        statistics = follower.statistics()
        assert statistics.looks == 101
        assert (statistics.by, statistics.notifications) == ("notification", 0)


async def test_looks_are_never_more_often_than_a_long_poll(autojump_clock: MockClock) -> None:
    disk = SimDisk()
    async with open_wal(config(DIR), disk=disk):
        pass
    async with open_follower(DIR, disk=disk, poll_seconds=100, recheck_seconds=1) as follower:
        with trio.move_on_after(1005):
            await follower.wait_durable(1)
        assert follower.statistics().looks == 11


async def test_a_busy_writer_does_not_make_a_follower_busy(autojump_clock: MockClock) -> None:
    disk = SimDisk(latency=0.0001)
    async with log_and_follower(disk, **HOUR) as (wal, follower):
        began, looks = trio.current_time(), follower.statistics().looks
        async with trio.open_nursery() as nursery:
            seen = Seen(follower)
            nursery.start_soon(seen.read)
            await append(wal, 3000)
            await seen.wait(3000)
            nursery.cancel_scope.cancel()
        passed = trio.current_time() - began
        statistics = follower.statistics()
        assert wal.statistics().syncs >= 3000
        assert statistics.looks - looks <= passed / 0.001 + 1 < 1000
        assert statistics.notifications > 10


async def test_one_who_refreshes_serves_those_who_wait(autojump_clock: MockClock) -> None:
    disk = SimDisk()
    async with log_and_follower(disk, notify=False, poll_seconds=3600) as (wal, follower):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(follower.wait_durable, 1)
            await wait_all_tasks_blocked()
            await append(wal, 1)
            await follower.refresh()
        assert follower.statistics().by == "polling"
        assert trio.current_time() < 1


@pytest.mark.happens
async def test_too_many_watches_mean_polling_until_there_are_fewer(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    disk = SimDisk()
    fault = disk.fail("watch", error=errno.ENOSPC, sticky=True)
    async with log_and_follower(disk, poll_seconds=0.05) as (wal, follower):
        for end in range(1, 4):
            await append(wal, 1)
            await follower.wait_durable(end)
            assert follower.statistics().by == "polling"
        assert fault.hits >= 4
        assert [record.levelno for record in caplog.records] == [logging.WARNING]
        assert "looking every 0.05 s instead" in caplog.text
        fault.cancel()
        await follower.refresh()
        assert follower.statistics().by == "notification"


class DeafDisk(SimDisk):
    """As a network file system whose changes come from another machine: watched, never told."""

    async def watch(self, path: str, file: str) -> Any:
        self.make_dir("/elsewhere")
        return await super().watch("/elsewhere", "/elsewhere/file")


@pytest.mark.happens
async def test_a_disk_that_tells_of_nothing_is_found_out(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with log_and_follower(DeafDisk(), poll_seconds=0.05) as (wal, follower):
        delays: list[float] = []
        for end in range(1, 9):
            await trio.sleep(0.01)
            await append(wal, 1)
            began = trio.current_time()
            await follower.wait_durable(end)
            delays.append(trio.current_time() - began)
        assert all(0.9 < delay <= 1 for delay in delays[:3])
        assert all(delay <= 0.05 for delay in delays[3:])
        assert follower.statistics().by == "polling"
        assert caplog.text.count("does not tell of changes") == 1


async def test_a_late_recheck_is_no_evidence_when_it_was_told(autojump_clock: MockClock) -> None:
    # Nobody waits for longer than the recheck; what happens meanwhile is told all the same.
    async with log_and_follower(SimDisk(), recheck_seconds=1) as (wal, follower):
        for end in range(1, 10):
            await append(wal, 1)
            await trio.sleep(5)
            await follower.wait_durable(end)
        assert follower.statistics().by == "notification"
        assert follower.statistics().notifications == 9


async def test_a_mark_that_is_made_anew_is_watched(autojump_clock: MockClock) -> None:
    disk = SimDisk()
    async with open_wal(config(DIR), disk=disk) as wal:
        await append(wal, 2)
    mark = disk.read_file(f"{DIR}/wal.mark")
    disk.unlink(f"{DIR}/wal.mark")
    async with open_follower(DIR, disk=disk, **HOUR) as follower:
        end = follower.durable_end
        async with trio.open_nursery() as nursery:
            nursery.start_soon(follower.wait_durable, 5)
            await wait_all_tasks_blocked()
            disk.write_file(f"{DIR}/wal.mark", mark)
            async with open_wal(config(DIR), disk=disk) as wal:
                await append(wal, 3)
        assert follower.durable_end == 5 > end


async def test_leaving_ends_the_watch_also_when_entering_fails() -> None:
    disk = SimDisk()
    async with open_wal(config(DIR), disk=disk) as wal:
        await append(wal, 2)
        async with open_follower(DIR, disk=disk, **HOUR):
            pass

        def fail(operation: Operation) -> None:
            if operation.name == "watch":  # what was to be found was found
                disk.fail("read", path_contains="wal.mark", sticky=True)

        disk.on_operation = fail
        with pytest.raises(OSError, match=r"wal\.mark"):
            async with open_follower(DIR, disk=disk, **HOUR):
                raise AssertionError
        await append(wal, 1)
        assert disk._store.watches == []


async def test_what_a_look_saw_before_it_failed_is_for_those_who_wait(
    autojump_clock: MockClock,
) -> None:
    """Of the directory, say, before the store could not be reached."""
    there, seen, began = 0, 0, trio.current_time()

    async def look() -> bool:
        nonlocal seen
        poller.arm()
        await trio.lowlevel.checkpoint()
        seen = there
        if seen:
            raise OSError(errno.EHOSTUNREACH, "the store cannot be reached")
        return False

    poller = Poller(look, 3600, "follower", watch=SimWatch(DIR, lambda _: {1}))
    await poller.look()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(poller.wait, lambda: seen == 1)
        await wait_all_tasks_blocked()
        there = 1
        with pytest.raises(OSError, match="cannot be reached"):
            await poller.look()
    assert trio.current_time() - began < 3600
    poller.close()
