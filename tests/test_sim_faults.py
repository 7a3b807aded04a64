"""The simulated disk when it fails: failed syncs, full disks, injected faults, damage."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest
import trio
from disks import D, durable_file, new_disk

from danube_trio._core.disk import Disk, File, replace_file
from danube_trio.testing import OPERATIONS, Operation, ProcessKilledError, SimDisk

# -- failed syncs


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


def test_a_durable_write_fails_as_a_write_or_as_a_sync() -> None:
    for operation in ("write", "sync_data"):
        disk = new_disk()
        file = durable_file(disk, b"old")
        disk.fail(operation)
        with pytest.raises(OSError, match="EIO"):
            file.write_durable_at(b"new", 0)
        file.sync_data()
        assert disk.read_file(f"{D}/a") == (b"new" if operation == "sync_data" else b"old")
        assert disk.crash().tree() == {f"{D}/a": b"old"}


def test_a_failed_directory_sync_loses_the_names() -> None:
    disk = new_disk()
    disk.open(f"{D}/a", "create")
    disk.fail("sync_dir")
    with pytest.raises(OSError, match="EIO"):
        disk.sync_dir(D)
    disk.sync_dir(D)
    assert disk.list_dir(D) == ["a"]
    assert disk.crash().list_dir(D) == []


# -- full disks


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


def arm(disk: Disk) -> None:
    watch = trio.run(disk.watch, D, f"{D}/a")
    assert watch is not None
    watch.arm()


def test_every_operation_can_fail() -> None:
    calls: dict[str, Callable[[Disk, File], object]] = {
        "allocate": lambda _, file: file.allocate(10),
        "close": lambda _, file: file.close(),
        "create": lambda disk, _: disk.open(f"{D}/b", "create"),
        "file_size": lambda disk, _: disk.file_size(f"{D}/a"),
        "free_bytes": lambda disk, _: disk.free_bytes(D),
        "link": lambda disk, _: disk.link(f"{D}/a", f"{D}/l"),
        "list_dir": lambda disk, _: disk.list_dir(D),
        "lock": lambda disk, _: disk.lock(f"{D}/lock", ""),
        "make_dir": lambda disk, _: disk.make_dir(f"{D}/b"),
        "open": lambda disk, _: disk.open(f"{D}/a", "r"),
        "read": lambda _, file: file.read_at(1, 0),
        "remove_dir": lambda disk, _: disk.remove_dir(f"{D}/empty"),
        "rename": lambda disk, _: disk.rename(f"{D}/a", f"{D}/b"),
        "size": lambda _, file: file.size(),
        "sync_data": lambda _, file: file.sync_data(),
        "sync_dir": lambda disk, _: disk.sync_dir(D),
        "truncate": lambda _, file: file.truncate(1),
        "unlink": lambda disk, _: disk.unlink(f"{D}/a"),
        "watch": lambda disk, _: arm(disk),
        "write": lambda _, file: file.write_at(b"x", 0),
    }
    assert set(calls) == OPERATIONS
    for name, call in calls.items():
        disk = new_disk()
        file = durable_file(disk, b"data")
        disk.make_dir(f"{D}/empty")
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
