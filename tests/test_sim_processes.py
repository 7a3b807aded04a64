"""Killed processes on the simulated disk: the page cache survives them, their locks do not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from disks import D, durable_file, new_disk

from danube_trio._core.disk import read_file
from danube_trio.errors import LogLockedError
from danube_trio.testing import ProcessKilledError


def test_a_killed_process_loses_nothing_but_a_power_cut_still_may() -> None:
    disk = new_disk()
    file = durable_file(disk, b"old")
    file.write_at(b"new", 0)
    after = disk.crash("everything written")
    assert after.tree() == {f"{D}/a": b"new"}
    assert after.crash().tree() == {f"{D}/a": b"old"}
    reopened = after.open(f"{D}/a", "rw")
    reopened.sync_data()
    assert after.crash().tree() == {f"{D}/a": b"new"}


def test_a_removed_file_comes_back_when_the_removal_is_lost_after_a_kill() -> None:
    disk = new_disk()
    durable_file(disk, b"data")
    disk.unlink(f"{D}/a")
    after = disk.crash("everything written")
    assert after.tree() == {}
    assert after.crash().tree() == {f"{D}/a": b"data"}


def test_a_process_may_be_killed_in_the_middle_of_a_write() -> None:
    disk = new_disk()
    file = durable_file(disk, b"old")
    at = disk.op_count
    file.write_at(b"new", 3)
    found = {state.name: state.disk for state in disk.crash_states(at)}
    after = found["killed in the next write at 2"]
    assert after.tree() == {f"{D}/a": b"oldne"}
    assert after.crash().tree() == {f"{D}/a": b"old"}


def test_processes_share_the_files_and_not_the_locks() -> None:
    disk = new_disk()
    one, two = disk.process(), disk.process()
    file = one.open(f"{D}/a", "create")
    file.write_at(b"data", 0)
    one.lock(f"{D}/lock", "one")
    with pytest.raises(LogLockedError, match="one"):
        two.lock(f"{D}/lock", "two")
    assert one.open_paths == [f"{D}/a"]
    assert two.open_paths == []
    one.kill()
    one.kill()
    assert one.open_paths == []
    assert read_file(two, f"{D}/a", 10) == b"data"
    lock = two.lock(f"{D}/lock", "two")
    assert repr(one).startswith("<SimDisk killed")
    lock.release()


async def test_a_killed_process_does_nothing_more() -> None:
    disk = new_disk()
    process = disk.process()
    file, lane = process.open(f"{D}/a", "create"), process.open_lane()
    process.kill()
    count, tree = disk.op_count, disk.tree()
    calls: list[Callable[[], object]] = [
        lambda: file.write_at(b"data", 0),
        file.sync_data,
        file.size,
        lambda: process.open(f"{D}/b", "create"),
        lambda: process.unlink(f"{D}/a"),
        lambda: process.sync_dir(D),
        lambda: process.lock(f"{D}/lock", "dead"),
    ]
    for call in calls:
        with pytest.raises(ProcessKilledError):
            call()
    with pytest.raises(ProcessKilledError):
        await lane.run(file.sync_data)
    file.close()
    await lane.aclose()
    assert (disk.op_count, disk.tree()) == (count, tree)
