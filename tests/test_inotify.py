"""The watches of the real disk: nothing is missed, nothing is left behind."""

from __future__ import annotations

import errno
import logging
import os
import resource
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from test_notify import needs_inotify
from trio.testing import wait_all_tasks_blocked

from danube_trio._core.disk import Watch
from danube_trio._disk import inotify as _inotify
from danube_trio._disk.real import RealDisk
from danube_trio._disk.shared_lanes import SharedLanes

pytestmark = needs_inotify
QUEUE = Path("/proc/sys/fs/inotify/max_queued_events")
WATCHES = Path("/proc/sys/fs/inotify/max_user_watches")


@asynccontextmanager
async def watching(directory: Path, name: str = "file") -> AsyncGenerator[Watch]:
    watch = await RealDisk().watch(str(directory), str(directory / name))
    assert watch is not None
    try:
        yield watch
    finally:
        watch.close()


async def arm(watch: Watch) -> None:
    await trio.to_thread.run_sync(watch.arm)


def instances() -> int:
    """How many inotify instances this process has open."""
    found = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            found += os.readlink(f"/proc/self/fd/{name}") == "anon_inode:inotify"
        except FileNotFoundError:  # the listing's own
            continue
    return found


@pytest.mark.parametrize("what", ["content", "new", "removed", "replaced", "new, the file itself"])
async def test_a_change_is_told_once_for_each_arming(tmp_path: Path, what: str) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"0")
    if what == "new, the file itself":
        file.unlink()
    changes: dict[str, Callable[[], object]] = {
        "content": lambda: file.write_bytes(b"1"),
        "new": lambda: (tmp_path / "new").write_bytes(b""),
        "removed": lambda: file.unlink(missing_ok=True),
        "replaced": lambda: (tmp_path / "tmp").write_bytes(b"") and (tmp_path / "tmp").rename(file),
        "new, the file itself": lambda: file.write_bytes(b""),
    }
    async with watching(tmp_path) as watch:
        await arm(watch)
        assert not watch.changed
        changes[what]()  # before anybody waits
        await watch.wait_changed()
        assert watch.changed
        await watch.wait_changed()  # it stays told until it is armed again
        await arm(watch)
        await wait_all_tasks_blocked(0.001)
        assert not watch.changed
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch.wait_changed)
            await wait_all_tasks_blocked()
            (tmp_path / "another").write_bytes(b"")


async def test_writes_to_other_files_are_nobodys_business(tmp_path: Path) -> None:
    other = tmp_path / "segment"
    other.write_bytes(b"")
    async with watching(tmp_path) as watch:
        await arm(watch)
        with other.open("ab") as file:
            for _ in range(100):
                file.write(b"x")
                file.flush()
        (tmp_path / "file").write_bytes(b"")  # makes the file
        await watch.wait_changed()
        await arm(watch)
        with other.open("ab") as file:
            file.write(b"x")
        await wait_all_tasks_blocked(0.001)
        assert not watch.changed


async def test_no_change_is_missed_however_fast_they_come(tmp_path: Path) -> None:
    file, last = tmp_path / "file", 30_000
    file.write_bytes(bytes(8))

    def write() -> None:
        fd = os.open(file, os.O_RDWR)
        for number in range(1, last + 1):
            os.pwrite(fd, number.to_bytes(8, "little"), 0)
        os.close(fd)

    async def follow(watch: Watch) -> None:
        def arm_and_look() -> int:
            watch.arm()
            return int.from_bytes(file.read_bytes(), "little")

        while await trio.to_thread.run_sync(arm_and_look) < last:
            await watch.wait_changed()  # a change that is missed hangs here

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            watch = await RealDisk().watch(str(tmp_path), str(file))
            assert watch is not None
            nursery.start_soon(follow, watch)
        nursery.start_soon(trio.to_thread.run_sync, write)


async def test_one_instance_serves_all_and_goes_with_the_last(tmp_path: Path) -> None:
    before = instances()
    watches: dict[int, Watch] = {}

    async def make(number: int) -> None:
        directory = tmp_path / str(number)
        directory.mkdir()
        watch = await RealDisk().watch(str(directory), str(directory / "file"))
        assert watch is not None
        watches[number] = watch
        await arm(watch)

    async with trio.open_nursery() as nursery:
        for number in range(50):
            nursery.start_soon(make, number)
    assert instances() == before + 1
    for number in range(1, 50):
        watches[number].close()
        watches[number].close()
    await wait_all_tasks_blocked()
    assert instances() == before + 1
    (tmp_path / "0" / "file").write_bytes(b"")
    if not watches[0].changed:
        await watches[0].wait_changed()
    watches[0].close()
    await wait_all_tasks_blocked()
    assert instances() == before
    async with watching(tmp_path) as watch:  # and there can be a new one
        await arm(watch)
        assert instances() == before + 1


async def test_a_watch_that_is_closed_while_it_is_armed_leaves_nothing(tmp_path: Path) -> None:
    before = instances()
    for number in range(200):
        async with trio.open_nursery() as nursery:
            watch = await RealDisk().watch(str(tmp_path), str(tmp_path / "file"))
            assert watch is not None

            async def arm_or_be_told(watch: Watch = watch) -> None:
                try:
                    await arm(watch)
                except OSError as error:
                    assert error.errno == errno.EBADF

            nursery.start_soon(arm_or_be_told)
            for _ in range(number % 4):
                await trio.lowlevel.checkpoint()
            watch.close()
    await wait_all_tasks_blocked()
    assert instances() == before


async def test_closing_one_does_not_deafen_another_of_the_same_directory(tmp_path: Path) -> None:
    async with watching(tmp_path) as stays:
        async with watching(tmp_path) as goes:
            await arm(stays)
            await arm(goes)
        await wait_all_tasks_blocked()
        assert not stays.changed
        (tmp_path / "file").write_bytes(b"")
        await stays.wait_changed()


async def test_when_the_queue_overflows_everybody_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "danube_trio.disk")
    queue = int(QUEUE.read_text())
    count = queue // 4 + 50  # of two inodes each, and two events of each
    if count > 20_000 or int(WATCHES.read_text()) < 3 * count:
        pytest.skip(f"the queue is too long to fill here, or watches are too few: {queue}")
    watches: list[Watch] = []
    disk = RealDisk()
    for number in range(count):
        directory = tmp_path / str(number)
        directory.mkdir()
        (directory / "file").write_bytes(b"")
        watch = await disk.watch(str(directory), str(directory / "file"))
        assert watch is not None
        watch.arm()
        watches.append(watch)
    (tmp_path / "quiet").mkdir()
    async with watching(tmp_path / "quiet") as quiet:
        await arm(quiet)
        for number in range(count):  # the loop does not run meanwhile
            (tmp_path / str(number) / "file").write_bytes(b"1")
            (tmp_path / str(number) / "new").write_bytes(b"")
        await quiet.wait_changed()
        assert "events were lost" in caplog.text
        assert all(watch.changed for watch in watches)
        for watch in watches:
            watch.close()


async def test_a_directory_that_is_not_there_is_an_error_and_a_later_arming_works(
    tmp_path: Path,
) -> None:
    directory = tmp_path / "log"
    async with watching(directory) as watch:
        with pytest.raises(FileNotFoundError):
            await arm(watch)
        directory.write_bytes(b"")
        with pytest.raises(NotADirectoryError):
            await arm(watch)
        directory.unlink()
        directory.mkdir()
        await arm(watch)
        directory.rename(tmp_path / "moved")
        await watch.wait_changed()
    with pytest.raises(OSError, match="the watch is closed") as caught:
        await arm(watch)
    assert caught.value.errno == errno.EBADF


async def test_waiting_can_be_cancelled(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        await arm(watch)
        with trio.CancelScope() as scope:
            scope.cancel()
            await watch.wait_changed()
        assert scope.cancelled_caught
        (tmp_path / "file").write_bytes(b"")
        await watch.wait_changed()


async def test_it_goes_through_the_disk_of_many_topics(tmp_path: Path) -> None:
    watch = await SharedLanes(RealDisk(), 1).watch(str(tmp_path), str(tmp_path / "file"))
    assert watch is not None
    watch.close()


def test_without_room_for_an_instance_there_is_no_watch(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_inotify, "_complained", False)
    caplog.set_level(logging.INFO, "danube_trio")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))  # what is open stays open
    try:
        found = [_inotify._open_inotify() for _ in range(3)]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert found == [None] * 3
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "inotify cannot be used" in caplog.text
