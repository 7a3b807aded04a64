"""The simulated disk: each sentence of its model, one by one."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from danube_trio._core.disk import Disk, File, read_file, replace_file
from danube_trio.errors import LogLockedError
from danube_trio.testing import OPERATIONS, CrashState, Operation, ProcessKilledError, SimDisk

D = "/log"


def new_disk(**settings: int) -> SimDisk:
    disk = SimDisk(sector_bytes=settings.get("sector_bytes", 1), seed=settings.get("seed", 0))
    disk.make_dir(D)
    return disk


def durable_file(disk: SimDisk, data: bytes, name: str = "a") -> File:
    file = disk.open(f"{D}/{name}", "create")
    file.write_at(data, 0)
    file.sync_data()
    disk.sync_dir(D)
    return file


def trees(states: Iterable[CrashState]) -> dict[str, dict[str, bytes]]:
    return {state.name: state.disk.tree() for state in states}


def contents(states: Iterable[CrashState], name: str = "a") -> set[bytes | None]:
    return {state.disk.tree().get(f"{D}/{name}") for state in states}


# -- 1. files


def test_synced_data_survives() -> None:
    disk = new_disk()
    durable_file(disk, b"data")
    assert contents(disk.crash_states(samples=50)) == {b"data"}


def test_unsynced_data_may_be_lost_kept_or_torn() -> None:
    disk = new_disk()
    file = durable_file(disk, b"old")
    file.write_at(b"new", 0)
    found = contents(disk.crash_states(samples=100))
    assert {b"old", b"new", b"nld", b"oew"} <= found
    assert disk.read_file(f"{D}/a") == b"new"


def test_a_size_may_be_kept_without_its_data() -> None:
    disk = new_disk()
    file = durable_file(disk, b"old")
    file.write_at(b"new", 3)
    assert trees(disk.crash_states())["sizes without data"] == {f"{D}/a": b"old\0\0\0"}


def test_data_beyond_the_size_that_was_kept_is_lost() -> None:
    disk = new_disk()
    file = durable_file(disk, b"old")
    file.write_at(b"new", 3)
    found = contents(disk.crash_states(samples=1000))
    assert found == {
        *(b"old", b"oldnew", b"old\0\0\0"),
        *(b"oldn", b"oldne", b"oldn\0\0", b"oldne\0"),
        *(b"old\0ew", b"old\0\0w", b"old\0e\0", b"oldn\0w"),
    }


def test_allocated_space_is_a_size() -> None:
    disk = new_disk()
    file = durable_file(disk, b"old")
    file.allocate(6)
    assert contents(disk.crash_states(samples=20)) == {b"old", b"old\0\0\0"}
    file.sync_data()
    assert contents(disk.crash_states(samples=20)) == {b"old\0\0\0"}


def test_a_truncation_may_be_lost() -> None:
    disk = new_disk()
    file = durable_file(disk, b"12345")
    file.truncate(2)
    assert contents(disk.crash_states(samples=20)) == {b"12345", b"12"}
    file.sync_data()
    assert contents(disk.crash_states(samples=20)) == {b"12"}


def test_what_a_truncation_cut_is_zero_when_the_file_grows_again() -> None:
    disk = new_disk()
    file = durable_file(disk, b"12345")
    file.truncate(2)
    file.allocate(5)
    file.sync_data()
    assert contents(disk.crash_states()) == {b"12\0\0\0"}


def test_a_later_write_may_be_kept_without_an_earlier_one() -> None:
    disk = new_disk()
    file = durable_file(disk, b"........")
    file.write_at(b"AAAA", 0)
    file.write_at(b"BBBB", 4)
    assert trees(disk.crash_states())["first write lost"] == {f"{D}/a": b"....BBBB"}


def test_what_is_kept_of_overlapping_writes_has_their_order() -> None:
    disk = new_disk(sector_bytes=512)
    file = durable_file(disk, b"....")
    file.write_at(b"AAA", 0)
    file.write_at(b"BBB", 1)
    assert contents(disk.crash_states(samples=100)) == {b"....", b"AAA.", b".BBB", b"ABBB"}


def test_syncing_one_file_does_nothing_for_another() -> None:
    disk = new_disk()
    file, other = durable_file(disk, b"1", "a"), durable_file(disk, b"1", "b")
    file.write_at(b"2", 0)
    other.write_at(b"2", 0)
    file.sync_data()
    assert disk.crash().tree() == {f"{D}/a": b"2", f"{D}/b": b"1"}


# -- 2. directories


def test_syncing_a_file_does_nothing_for_its_name() -> None:
    disk = new_disk()
    file = disk.open(f"{D}/a", "create")
    file.write_at(b"data", 0)
    file.sync_data()
    assert trees(disk.crash_states()) == {
        "synced only": {},
        "everything written": {f"{D}/a": b"data"},
        "sizes without data": {f"{D}/a": b"data"},
    }


def test_syncing_a_directory_does_nothing_for_its_files() -> None:
    disk = new_disk()
    file = disk.open(f"{D}/a", "create")
    file.write_at(b"data", 0)
    disk.sync_dir(D)
    assert disk.crash().tree() == {f"{D}/a": b""}


def test_data_and_names_are_lost_apart() -> None:
    disk = new_disk()
    file = durable_file(disk, b"old")
    file.write_at(b"new", 0)
    disk.open(f"{D}/b", "create").write_at(b"b", 0)
    found = trees(disk.crash_states())
    assert found["data without directory entries"] == {f"{D}/a": b"new"}
    assert found["directory entries without data"] == {f"{D}/a": b"old", f"{D}/b": b""}
    assert found["sizes without data"] == {f"{D}/a": b"old", f"{D}/b": b"\0"}


def test_a_removal_may_be_lost_or_be_the_only_thing_kept() -> None:
    disk = new_disk()
    durable_file(disk, b"old")
    disk.open(f"{D}/b", "create").write_at(b"new", 0)
    disk.unlink(f"{D}/a")
    found = trees(disk.crash_states())
    assert found["synced only"] == {f"{D}/a": b"old"}
    assert found["removals only"] == {}


def test_each_change_of_a_directory_is_undone_on_its_own() -> None:
    disk = new_disk()
    for name in "abc":
        disk.open(f"{D}/{name}", "create")
    found = {frozenset(state.disk.list_dir(D)) for state in disk.crash_states(samples=200)}
    assert len(found) == 8


def test_the_order_of_names_means_nothing_for_one_created_again() -> None:
    disk = new_disk()
    durable_file(disk, b"old")
    disk.unlink(f"{D}/a")
    file = disk.open(f"{D}/a", "create")
    file.write_at(b"new", 0)
    file.sync_data()
    assert contents(disk.crash_states(samples=50)) == {b"old", b"new", None}


def test_a_directory_that_was_not_synced_takes_its_files_along() -> None:
    disk = new_disk()
    disk.fail("sync_dir", path_contains=D, error=None)  # make_dir syncs the parent: let that lie
    disk.make_dir(f"{D}/sub")
    disk.write_file(f"{D}/sub/a", b"data")
    assert disk.crash().tree() == {}
    disk.sync_dir(D)
    assert disk.crash().tree() == {f"{D}/sub/a": b"data"}


def test_make_dir_is_durable_even_for_what_a_killed_process_made() -> None:
    disk = SimDisk()
    process = disk.process()
    # The second directory sync is that of the new name "a".
    disk.on_operation = lambda operation: process.kill() if operation.number == 3 else None
    with pytest.raises(ProcessKilledError):
        process.make_dir("/a")
    assert [operation.name for operation in disk.operations[2:]] == ["make_dir", "sync_dir"]
    assert disk.list_dir("/") == ["a"]
    assert disk.crash().list_dir("/") == []
    disk.make_dir("/a")
    assert disk.crash().list_dir("/") == ["a"]


# -- 4. torn writes


def test_a_write_is_torn_at_sectors_only() -> None:
    disk = new_disk(sector_bytes=4)
    file = durable_file(disk, b"." * 12)
    file.write_at(b"x" * 8, 2)  # sectors are counted from the start of the file
    assert contents(disk.crash_states(samples=300)) == {
        b".." + a + b + c + b".."
        for a in (b"..", b"xx")
        for b in (b"....", b"xxxx")
        for c in (b"..", b"xx")
    }


def test_a_write_inside_one_sector_is_not_torn() -> None:
    disk = new_disk(sector_bytes=512)
    file = durable_file(disk, b"." * 512)
    file.write_at(b"x" * 512, 0)
    assert contents(disk.crash_states(samples=50)) == {b"." * 512, b"x" * 512}


def test_the_last_write_is_torn_at_several_places() -> None:
    disk = new_disk()
    file = durable_file(disk, b"old")
    file.write_at(b"12", 3)
    file.write_at(b"34567", 5)
    found = trees(disk.crash_states())
    assert {name: tree[f"{D}/a"] for name, tree in found.items() if "torn" in name} == {
        "last write torn at 1": b"old123",
        "last write torn at 3": b"old12345",
        "last write torn at 4": b"old123456",
        "last write torn at 3, size kept": b"old12345\0\0",
    }


# -- 5. renames


def test_a_rename_is_kept_or_lost_as_a_whole() -> None:
    disk = new_disk()
    durable_file(disk, b"old", "a")
    durable_file(disk, b"new", "b")
    disk.rename(f"{D}/b", f"{D}/a")
    old, new = {f"{D}/a": b"old", f"{D}/b": b"new"}, {f"{D}/a": b"new"}
    found = trees(disk.crash_states(samples=20)).values()
    assert all(tree in (old, new) for tree in found)
    assert {len(tree) for tree in found} == {1, 2}
    disk.sync_dir(D)
    assert disk.crash().tree() == new


def test_a_rename_does_not_need_the_creation_of_its_source() -> None:
    disk = new_disk()
    durable_file(disk, b"old", "a")
    file = disk.open(f"{D}/b", "create")
    file.write_at(b"new", 0)
    file.sync_data()
    disk.rename(f"{D}/b", f"{D}/a")
    found = trees(disk.crash_states(samples=50)).values()
    assert {tuple(tree.items()) for tree in found} == {
        ((f"{D}/a", b"old"),),
        ((f"{D}/a", b"old"), (f"{D}/b", b"new")),
        ((f"{D}/a", b"new"),),
    }


def test_a_file_never_has_two_names() -> None:
    disk = new_disk()
    durable_file(disk, b"data", "a")
    for source, target in ("ab", "bc", "cd"):
        disk.rename(f"{D}/{source}", f"{D}/{target}")
    found = {tuple(state.disk.list_dir(D)) for state in disk.crash_states(samples=100)}
    assert found == {("a",), ("b",), ("c",), ("d",)}


def test_renames_stay_in_one_directory() -> None:
    disk = new_disk()
    disk.make_dir("/other")
    durable_file(disk, b"data")
    with pytest.raises(OSError, match="EXDEV"):
        disk.rename(f"{D}/a", "/other/a")


def test_replacing_a_file_gives_the_old_or_the_new_at_every_point() -> None:
    disk = new_disk()
    durable_file(disk, b"old")
    start = disk.op_count
    replace_file(disk, f"{D}/a", b"new")
    found: set[bytes | None] = set()
    for point in disk.crash_points(samples=20, start=start):
        found |= contents(point.states)
    assert found == {b"old", b"new"}
    assert contents(disk.crash_states(samples=20)) == {b"new"}


@pytest.mark.parametrize("forgotten", ["sync_data", "sync_dir"])
def test_replacing_a_file_without_a_sync_is_found_out(forgotten: str) -> None:
    disk = new_disk()
    durable_file(disk, b"old")
    disk.fail(forgotten, error=None)
    replace_file(disk, f"{D}/a", b"new")
    found = contents(disk.crash_states(samples=100))
    wrong = {b"old"} if forgotten == "sync_dir" else {b"", b"\0\0\0", b"n", b"ne"}
    assert {b"new", *wrong} <= found
    assert (b"old" in found) == (forgotten == "sync_dir")


# -- 6. killed processes


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


# -- 7. failed syncs


def test_a_failed_sync_loses_what_no_later_sync_brings_back() -> None:
    disk = new_disk()
    file = durable_file(disk, b"old")
    fault = disk.fail("sync_data")
    file.write_at(b"new!", 0)
    with pytest.raises(OSError, match="EIO"):
        file.sync_data()
    file.sync_data()
    assert fault.hits == 1
    assert disk.read_file(f"{D}/a") == b"new!"
    assert disk.crash().tree() == {f"{D}/a": b"old"}
    assert disk.crash("everything written").tree() == {f"{D}/a": b"new!"}
    file.write_at(b"+", 6)  # a hole where the lost bytes are
    file.sync_data()
    assert disk.crash().tree() == {f"{D}/a": b"old\0\0\0+"}


def test_a_failed_directory_sync_loses_the_names() -> None:
    disk = new_disk()
    disk.open(f"{D}/a", "create")
    disk.fail("sync_dir")
    with pytest.raises(OSError, match="EIO"):
        disk.sync_dir(D)
    disk.sync_dir(D)
    assert disk.list_dir(D) == ["a"]
    assert disk.crash().list_dir(D) == []


# -- 8. full disks


def test_a_full_disk_writes_what_fits() -> None:
    disk = new_disk()
    disk.capacity_bytes = 10
    file = disk.open(f"{D}/a", "create")
    file.write_at(b"1234567", 0)
    with pytest.raises(OSError, match="ENOSPC"):
        file.write_at(b"890abc", 7)
    assert disk.read_file(f"{D}/a") == b"1234567890"
    assert disk.free_bytes(D) == 0
    file.write_at(b"in place", 0)
    with pytest.raises(OSError, match="ENOSPC"):
        file.allocate(11)
    with pytest.raises(OSError, match="ENOSPC"):
        disk.open(f"{D}/b", "create").write_at(b"x", 0)
    assert disk.read_file(f"{D}/b") == b""
    disk.lock(f"{D}/lock", "needs no space").release()


def test_space_comes_back_when_a_file_is_gone_and_closed() -> None:
    disk = new_disk()
    disk.capacity_bytes = 10
    file = durable_file(disk, b"12345")
    durable_file(disk, b"67890", "b").truncate(3)
    assert disk.free_bytes(D) == 2
    disk.unlink(f"{D}/a")
    assert disk.free_bytes(D) == 2
    file.close()
    assert disk.free_bytes(D) == 7
    disk.capacity_bytes = None
    assert disk.free_bytes(D) > 1 << 30


# -- faults


def test_the_nth_matching_operation_fails() -> None:
    disk = new_disk()
    file, other = durable_file(disk, b"", "a"), durable_file(disk, b"", "b")
    fault = disk.fail("write", 2, error=errno.EDQUOT, path_contains="/a")
    for target in (file, other, other):
        target.write_at(b"ok", 0)
    with pytest.raises(OSError, match="EDQUOT") as caught:
        file.write_at(b"no", 0)
    assert (caught.value.errno, caught.value.filename) == (errno.EDQUOT, f"{D}/a")
    file.write_at(b"OK", 0)
    assert fault.hits == 1
    assert disk.read_file(f"{D}/a") == b"OK"


def test_a_sticky_fault_lasts_until_it_is_cancelled() -> None:
    disk = new_disk()
    fault = disk.fail(None, 2, error=errno.EROFS, sticky=True)
    disk.list_dir(D)
    for _ in range(3):
        with pytest.raises(OSError, match="EROFS"):
            disk.open(f"{D}/a", "create")
        with pytest.raises(OSError, match="EROFS"):
            disk.list_dir(D)
    assert fault.hits == 6
    fault.cancel()
    assert disk.list_dir(D) == []


def test_a_fault_may_come_in_the_middle_of_a_write_or_after_the_operation() -> None:
    disk = new_disk()
    file = durable_file(disk, b"....")
    disk.fail("write", short=2)
    with pytest.raises(OSError, match="EIO"):
        file.write_at(b"xxxx", 0)
    assert disk.read_file(f"{D}/a") == b"xx.."
    disk.fail("rename", after=True)
    with pytest.raises(OSError, match="EIO"):
        disk.rename(f"{D}/a", f"{D}/b")
    assert disk.list_dir(D) == ["b"]
    disk.fail("sync_data", after=True)
    with pytest.raises(OSError, match="EIO"):
        file.sync_data()
    disk.sync_dir(D)
    assert disk.crash().tree() == {f"{D}/b": b"xx.."}


def test_a_disk_that_lies() -> None:
    disk = new_disk()
    file = durable_file(disk, b"data")
    disk.fail("read", error=None, short=2)
    assert file.read_at(4, 0) == b"da"
    assert file.read_at(4, 0) == b"data"
    disk.fail("write", error=None, short=1)
    file.write_at(b"DATA", 0)
    assert file.read_at(4, 0) == b"Data"
    disk.fail("sync_data", error=None)
    file.sync_data()
    assert disk.crash().tree() == {f"{D}/a": b"data"}


def test_every_operation_can_fail() -> None:
    calls: dict[str, Callable[[Disk, File], object]] = {
        "allocate": lambda _, file: file.allocate(10),
        "close": lambda _, file: file.close(),
        "create": lambda disk, _: disk.open(f"{D}/b", "create"),
        "file_size": lambda disk, _: disk.file_size(f"{D}/a"),
        "free_bytes": lambda disk, _: disk.free_bytes(D),
        "list_dir": lambda disk, _: disk.list_dir(D),
        "lock": lambda disk, _: disk.lock(f"{D}/lock", ""),
        "make_dir": lambda disk, _: disk.make_dir(f"{D}/b"),
        "open": lambda disk, _: disk.open(f"{D}/a", "r"),
        "read": lambda _, file: file.read_at(1, 0),
        "rename": lambda disk, _: disk.rename(f"{D}/a", f"{D}/b"),
        "size": lambda _, file: file.size(),
        "sync_data": lambda _, file: file.sync_data(),
        "sync_dir": lambda disk, _: disk.sync_dir(D),
        "truncate": lambda _, file: file.truncate(1),
        "unlink": lambda disk, _: disk.unlink(f"{D}/a"),
        "write": lambda _, file: file.write_at(b"x", 0),
    }
    assert set(calls) == OPERATIONS
    for name, call in calls.items():
        disk = new_disk()
        file = durable_file(disk, b"data")
        disk.fail(name)
        tree = disk.tree()
        with pytest.raises(OSError, match="EIO"):
            call(disk, file)
        assert disk.tree() == tree
        assert [o.error for o in disk.operations if o.error] == [errno.EIO]
        call(disk, file)  # a failed close has closed the file; closing again is nothing


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"operation": "fsync"}, "operation must be one of allocate, .*; got 'fsync'"),
        ({"operation": "write", "nth": 0}, "nth counts from 1, got 0"),
        ({"operation": "open", "short": 1}, "short=1 is for 'read' and 'write'"),
        ({"operation": "write", "short": -1}, "short=-1 is"),
        ({"operation": "open", "error": None}, "error=None .* got operation 'open'"),
        ({"operation": None, "error": None}, "error=None .* got operation None"),
        ({"operation": "write", "error": None, "after": True}, "not with after"),
        ({"operation": "write", "after": True, "short": 1}, "does not go with short"),
    ],
)
def test_a_fault_that_makes_no_sense_is_refused(
    settings: dict[str, str | int | None], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        SimDisk().fail(**settings)  # type: ignore[arg-type]


# -- looking at it and damaging it


def test_every_operation_is_numbered_and_shown_before_it_has_an_effect() -> None:
    seen: list[tuple[Operation, int]] = []
    disk = SimDisk()
    disk.make_dir(D)
    disk.on_operation = lambda operation: seen.append((operation, len(disk.tree())))
    count = disk.op_count
    file = disk.open(f"{D}/a", "create")
    file.write_at(b"data", 7)
    with pytest.raises(FileNotFoundError):
        disk.unlink(f"{D}/none")
    assert [(o.number - count, o.name, o.path, o.position, o.size_bytes) for o, _ in seen] == [
        (0, "create", f"{D}/a", 0, 0),
        (1, "write", f"{D}/a", 7, 4),
        (2, "unlink", f"{D}/none", 0, 0),
    ]
    assert [files for _, files in seen] == [0, 1, 1]
    assert [o.error for o in disk.operations[count:]] == [None, None, errno.ENOENT]
    assert disk.op_count == count + 3


def test_a_process_killed_from_the_hook_does_not_do_the_operation() -> None:
    disk = new_disk()
    process = disk.process()
    file = process.open(f"{D}/a", "create")
    disk.on_operation = lambda _: process.kill()
    with pytest.raises(ProcessKilledError):
        file.write_at(b"data", 0)
    assert disk.tree() == {f"{D}/a": b""}


def test_bits_flip_durably() -> None:
    disk = new_disk()
    durable_file(disk, b"abc")
    disk.corrupt(f"{D}/a", 1, 7)
    assert disk.read_file(f"{D}/a") == disk.crash().read_file(f"{D}/a") == b"a\xe2c"
    disk.corrupt(f"{D}/a", 1, 7)
    assert disk.read_file(f"{D}/a") == b"abc"
    for position, bit in ((3, 0), (0, 8)):
        with pytest.raises(ValueError, match="has no bit"):
            disk.corrupt(f"{D}/a", position, bit)


def test_a_test_writes_files_durably() -> None:
    disk = SimDisk(seed=3)
    disk.fail(None, sticky=True)
    disk.write_file("/a/b/c", b"first, longer")
    disk.write_file("/a/b/c", b"second")
    disk.write_file("/top", b"")
    assert disk.tree() == disk.crash().tree() == {"/a/b/c": b"second", "/top": b""}


def test_relative_paths_start_at_the_root() -> None:
    disk = SimDisk()
    disk.make_dir("log/./deep")
    replace_file(disk, "log/deep/../file", b"data")
    replace_file(disk, "top", b"")
    assert disk.tree() == {"/log/file": b"data", "/top": b""}


# -- crash points


def workload(disk: SimDisk) -> None:
    file = disk.open(f"{D}/wal", "create")
    disk.sync_dir(D)
    for number in range(20):
        file.write_at(b"%03d " % number * 10, 40 * number)
        if number % 3 == 0:
            file.sync_data()
        if number % 7 == 0:
            replace_file(disk, f"{D}/ckpt", b"%d" % number)
    disk.rename(f"{D}/wal", f"{D}/old")
    disk.unlink(f"{D}/ckpt")
    read_file(disk, f"{D}/old", 1000)


def fingerprint(disk: SimDisk) -> list[tuple[int, str, dict[str, bytes], tuple[str, ...]]]:
    return [
        (state.op_count, state.name, state.disk.tree(), state.lost)
        for point in disk.crash_points(samples=5)
        for state in point.states
    ]


def test_the_same_seed_gives_the_same_crashes() -> None:
    disks = [new_disk(seed=seed) for seed in (1, 1, 2)]
    for disk in disks:
        workload(disk)
    one, same, other = map(fingerprint, disks)
    assert one == same
    assert one != other
    assert len(one) > 300


def test_one_seed_repeats_a_crash_within_a_crash() -> None:
    found: list[dict[str, bytes]] = []
    for _ in range(2):
        disk = new_disk(seed=5)
        workload(disk)
        state = list(disk.crash_states(30, samples=5))[-1]
        state.disk.open(f"{D}/again", "create").write_at(bytes(range(100)), 0)
        found.append(list(state.disk.crash_states(samples=5))[-1].disk.tree())
    assert found[0] == found[1]


def test_the_replay_of_the_history_is_what_was_there_at_the_time() -> None:
    disk = new_disk()
    live: dict[int, dict[str, dict[str, bytes]]] = {}
    disk.on_operation = lambda operation: live.update(
        {operation.number: trees(disk.crash_states())}
    )
    workload(disk)
    disk.on_operation = None
    live[disk.op_count] = trees(disk.crash_states())
    for point in disk.crash_points(start=min(live)):
        # Looking into the future, the replay also knows how far the next write could get.
        replayed = [state for state in point.states if not state.name.startswith("killed")]
        assert trees(replayed) == live[point.op_count]
        assert trees(disk.crash_states(point.op_count)) == trees(point.states)


def test_points_are_where_something_new_can_happen() -> None:
    disk = new_disk()
    start = disk.op_count
    file = disk.open(f"{D}/a", "create")
    disk.list_dir(D)
    file.size()
    file.write_at(b"data", 0)
    file.read_at(4, 0)
    file.sync_data()
    file.sync_data()
    file.close()
    points = [point.op_count - start for point in disk.crash_points(start=start)]
    assert points == [0, 3, 5, 8]  # before the creation, the write and the sync; and now


def test_a_crashed_disk_can_be_used_and_crashed_again() -> None:
    disk = new_disk()
    file = durable_file(disk, b"old")
    file.write_at(b"new", 0)
    disk.lock(f"{D}/lock", "dead")
    disk.fail(None, sticky=True)
    after = disk.crash("everything kept")
    assert after.op_count == 0
    after.lock(f"{D}/lock", "alive").release()
    after.open(f"{D}/a", "rw").write_at(b"2", 0)
    assert after.tree()[f"{D}/a"] == b"2ew"
    assert disk.tree()[f"{D}/a"] == b"new"
    assert next(iter(after.crash_points())).states[0].disk.tree()[f"{D}/a"] == b"new"


def test_a_crash_says_what_it_lost() -> None:
    disk = new_disk()
    file = durable_file(disk, b"old")
    file.write_at(b"1234", 3)
    disk.open(f"{D}/b", "create")
    lost = {state.name: state.lost for state in disk.crash_states()}
    assert lost["everything written"] == lost["everything kept"] == ()
    assert lost["synced only"] == (
        f"{D}/a: data [3, 7)",
        f"{D}/a: size 7",
        f"{D}/b: creation of 'b'",
    )
    assert lost["last write torn at 2"] == (
        f"{D}/a: data [3, 7), of which data [3, 5) was kept",
        f"{D}/a: size 7, of which size 5 was kept",
    )


def test_crashes_that_cannot_be_are_refused() -> None:
    disk = new_disk()
    with pytest.raises(ValueError, match="no crash 'torn' is possible now, only synced only"):
        disk.crash("torn")
    for at in (-1, disk.op_count + 1):
        with pytest.raises(ValueError, match=f"between 0 and {disk.op_count}, got {at}"):
            next(disk.crash_states(at))
    with pytest.raises(ValueError, match="sector_bytes must be at least 1, got 0"):
        SimDisk(sector_bytes=0)


class Reference:
    """A file as plain bytes: what is visible must be this, whatever was synced."""

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, data: bytes, position: int) -> None:
        self.data.extend(bytes(max(0, position - len(self.data))))
        self.data[position : position + len(data)] = data

    def resize(self, size: int) -> None:
        del self.data[size:]
        self.data.extend(bytes(size - len(self.data)))


sizes = st.integers(0, 9000)
steps = st.one_of(
    st.tuples(st.just("write"), sizes, st.integers(0, 6000)),
    st.tuples(st.sampled_from(["truncate", "allocate"]), sizes, st.just(0)),
    st.tuples(st.just("sync_data"), st.just(0), st.just(0)),
)


@given(st.lists(steps, max_size=12), st.integers(0, 1000))
def test_a_file_is_its_bytes_and_a_crash_keeps_what_was_synced(
    script: list[tuple[str, int, int]], seed: int
) -> None:
    disk = SimDisk(seed=seed)
    file, reference, synced = disk.open("/a", "create"), Reference(), b""
    disk.sync_dir("/")
    for number, (name, position, size) in enumerate(script):
        if name == "write":
            data = bytes([number + 1]) * size
            file.write_at(data, position)
            if data:
                reference.write(data, position)
        elif name == "sync_data":
            file.sync_data()
            synced = bytes(reference.data)
        else:
            file.truncate(position) if name == "truncate" else file.allocate(position)
            reference.resize(position if name == "truncate" else max(position, file.size()))
        assert file.read_at(20_000, 0) == reference.data
        assert file.size() == len(reference.data)
    assert disk.crash().read_file("/a") == synced
    assert disk.crash("everything written").read_file("/a") == reference.data
    for state in disk.crash_states(samples=5):
        state.disk.open("/a", "r").close()


# -- time


async def test_calls_take_virtual_time(autojump_clock: MockClock) -> None:
    disk = SimDisk(latency=2.0)
    lane = disk.open_lane()
    finished: list[tuple[str, float]] = []

    async def call(name: str) -> None:
        start = trio.current_time()
        await (lane.run(int) if name == "lane" else disk.run(int))
        finished.append((name, trio.current_time() - start))

    async with trio.open_nursery() as nursery:
        for name in ("lane", "run", "lane", "run"):
            nursery.start_soon(call, name)
    assert sorted(finished) == [("lane", 2.0), ("lane", 4.0), ("run", 2.0), ("run", 2.0)]
    disk.latency = 0
    await call("lane")
    assert finished[-1] == ("lane", 0.0)


async def test_a_call_that_has_begun_is_not_cancelled(autojump_clock: MockClock) -> None:
    disk = SimDisk(latency=2.0)
    lane = disk.open_lane()
    calls: list[int] = []
    for number, run in enumerate((disk.run, lane.run)):
        with trio.move_on_after(1) as scope:
            await run(calls.append, number)
            await trio.lowlevel.checkpoint()
        assert scope.cancelled_caught
    assert calls == [0, 1]
