"""What every disk promises: one suite for the operating system's and the simulated one."""

from __future__ import annotations

import errno
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from disks import raises_errno

from danube_trio._core.disk import Disk, parent_of, read_file, replace_file
from danube_trio._disk.real import RealDisk
from danube_trio.errors import CorruptDataError, LogLockedError
from danube_trio.testing import SimDisk


@pytest.fixture(params=["real", "simulated"])
def disk(request: pytest.FixtureRequest) -> Disk:
    return RealDisk() if request.param == "real" else SimDisk()


@pytest.fixture
def root(disk: Disk, tmp_path: Path) -> str:
    path = f"{tmp_path}/log"
    disk.make_dir(path)
    return path


def make_file(disk: Disk, path: str, data: bytes = b"") -> None:
    file = disk.open(path, "create")
    file.write_at(data, 0)
    file.close()


# -- directories


def test_make_dir_makes_parents_and_may_be_repeated(disk: Disk, root: str) -> None:
    disk.make_dir(f"{root}/a/b/c")
    disk.make_dir(f"{root}/a/b/c")
    disk.make_dir(f"{root}/a/b/c/")
    assert disk.list_dir(f"{root}/a/b") == ["c"]


def test_make_dir_refuses_a_file_in_the_way(disk: Disk, root: str) -> None:
    make_file(disk, f"{root}/file")
    with pytest.raises(NotADirectoryError):
        disk.make_dir(f"{root}/file")
    with pytest.raises(NotADirectoryError):
        disk.make_dir(f"{root}/file/below")


def test_list_dir_is_sorted(disk: Disk, root: str) -> None:
    for name in ("b", "a", "c"):
        make_file(disk, f"{root}/{name}")
    assert disk.list_dir(root) == ["a", "b", "c"]


def test_list_dir_needs_a_directory(disk: Disk, root: str) -> None:
    make_file(disk, f"{root}/file")
    with pytest.raises(FileNotFoundError):
        disk.list_dir(f"{root}/none")
    with pytest.raises(NotADirectoryError):
        disk.list_dir(f"{root}/file")


def test_sync_dir(disk: Disk, root: str) -> None:
    disk.sync_dir(root)
    with pytest.raises(FileNotFoundError):
        disk.sync_dir(f"{root}/none")
    make_file(disk, f"{root}/file")
    with pytest.raises(NotADirectoryError):
        disk.sync_dir(f"{root}/file")


def test_free_bytes(disk: Disk, root: str) -> None:
    assert disk.free_bytes(root) > 0


@pytest.mark.parametrize(
    ("path", "parent"),
    [
        ("/a/b", "/a"),
        ("/a/b/", "/a"),
        ("/a", "/"),
        ("/", "/"),
        ("a/b", "a"),
        ("a", "."),
        (".", "."),
    ],
)
def test_parent_of(path: str, parent: str) -> None:
    assert parent_of(path) == parent


# -- opening


def test_open_creates_only_what_is_not_there(disk: Disk, root: str) -> None:
    make_file(disk, f"{root}/file")
    with pytest.raises(FileExistsError):
        disk.open(f"{root}/file", "create")
    for mode in ("r", "rw"):
        with pytest.raises(FileNotFoundError):
            disk.open(f"{root}/none", mode)
    with pytest.raises(FileNotFoundError):
        disk.open(f"{root}/none/file", "create")
    with pytest.raises(NotADirectoryError):
        disk.open(f"{root}/file/below", "create")


def test_open_refuses_a_directory(disk: Disk, root: str) -> None:
    disk.make_dir(f"{root}/dir")
    for mode in ("r", "rw"):
        with raises_errno(errno.EINVAL) as caught:
            disk.open(f"{root}/dir", mode)
        assert caught.value.filename == f"{root}/dir"
    with raises_errno(errno.EINVAL):
        disk.file_size(f"{root}/dir")


def test_a_file_opened_for_reading_cannot_be_changed(disk: Disk, root: str) -> None:
    make_file(disk, f"{root}/file", b"data")
    file = disk.open(f"{root}/file", "r")
    with raises_errno(errno.EBADF):
        file.write_at(b"x", 0)
    with raises_errno(errno.EBADF, errno.EINVAL):
        file.truncate(0)
    assert file.read_at(10, 0) == b"data"
    file.close()


def test_a_closed_file_is_an_error(disk: Disk, root: str) -> None:
    file = disk.open(f"{root}/file", "create")
    assert file.path == f"{root}/file"
    file.close()
    file.close()
    calls: list[Callable[[], object]] = [
        partial(file.read_at, 1, 0),
        partial(file.write_at, b"x", 0),
        partial(file.write_durable_at, b"x", 0),
        file.size,
        partial(file.allocate, 10),
        partial(file.truncate, 0),
        file.sync_data,
    ]
    for call in calls:
        with raises_errno(errno.EBADF):
            call()


# -- reading and writing


def test_write_and_read_at_positions(disk: Disk, root: str) -> None:
    file = disk.open(f"{root}/file", "create")
    file.write_at(b"hello", 0)
    file.write_at(bytearray(b"HE"), 0)
    file.write_at(memoryview(b"world"), 10)
    file.write_at(b"", 3)
    file.sync_data()
    assert file.size() == disk.file_size(f"{root}/file") == 15
    assert file.read_at(15, 0) == b"HEllo\0\0\0\0\0world"
    assert file.read_at(3, 10) == b"wor"
    assert file.read_at(100, 12) == b"rld"
    assert file.read_at(100, 15) == file.read_at(100, 99) == file.read_at(0, 0) == b""
    file.close()


def test_a_write_over_many_pages(disk: Disk, root: str) -> None:
    data = bytes(range(256)) * 100
    file = disk.open(f"{root}/file", "create")
    file.write_at(data, 4000)
    assert file.read_at(4000 + len(data), 0) == bytes(4000) + data
    file.write_at(b"-" * 5000, 4096)
    assert file.read_at(len(data), 4000) == data[:96] + b"-" * 5000 + data[5096:]
    file.close()


def test_a_write_takes_items_of_any_width(disk: Disk, root: str) -> None:
    file = disk.open(f"{root}/file", "create")
    file.write_at(memoryview(b"12345678").cast("Q"), 0)
    assert file.read_at(100, 0) == b"12345678"
    file.close()


def test_a_durable_write_is_a_write(disk: Disk, root: str) -> None:
    file = disk.open(f"{root}/file", "create")
    file.write_durable_at(b"hello", 0)
    file.write_durable_at(b"HE", 0)
    file.write_durable_at(b"world", 10)
    file.write_durable_at(b"", 3)
    assert file.read_at(100, 0) == b"HEllo\0\0\0\0\0world"
    file.close()


def test_truncate_cuts_and_extends(disk: Disk, root: str) -> None:
    file = disk.open(f"{root}/file", "create")
    file.write_at(b"x" * 10_000, 0)
    file.truncate(5)
    assert file.size() == 5
    file.truncate(5000)
    assert file.read_at(9999, 0) == b"x" * 5 + bytes(4995)
    file.close()


def test_allocate_extends_with_zeros_and_never_shrinks(disk: Disk, root: str) -> None:
    file = disk.open(f"{root}/file", "create")
    file.write_at(b"data", 0)
    assert file.allocate(10_000)
    assert file.size() == 10_000
    assert file.allocate(100)
    assert file.size() == 10_000
    assert file.read_at(10_000, 0) == b"data" + bytes(9996)
    file.close()


# -- names


def test_rename_replaces_the_target(disk: Disk, root: str) -> None:
    make_file(disk, f"{root}/old", b"old")
    make_file(disk, f"{root}/new", b"new")
    disk.rename(f"{root}/new", f"{root}/old")
    assert disk.list_dir(root) == ["old"]
    assert read_file(disk, f"{root}/old", 10) == b"new"
    disk.rename(f"{root}/old", f"{root}/old")
    assert disk.list_dir(root) == ["old"]


def test_rename_and_unlink_need_a_file(disk: Disk, root: str) -> None:
    disk.make_dir(f"{root}/dir")
    make_file(disk, f"{root}/file")
    with pytest.raises(FileNotFoundError):
        disk.rename(f"{root}/none", f"{root}/file")
    with pytest.raises(IsADirectoryError):
        disk.rename(f"{root}/file", f"{root}/dir")
    with pytest.raises(FileNotFoundError):
        disk.unlink(f"{root}/none")
    with raises_errno(errno.EISDIR, errno.EPERM):
        disk.unlink(f"{root}/dir")
    with pytest.raises(FileNotFoundError):
        disk.file_size(f"{root}/none")


def test_remove_dir_removes_an_empty_directory_and_nothing_else(disk: Disk, root: str) -> None:
    disk.make_dir(f"{root}/dir/below")
    make_file(disk, f"{root}/file")
    with raises_errno(errno.ENOTEMPTY) as caught:
        disk.remove_dir(f"{root}/dir")
    assert caught.value.filename == f"{root}/dir"
    with pytest.raises(NotADirectoryError):
        disk.remove_dir(f"{root}/file")
    with pytest.raises(FileNotFoundError):
        disk.remove_dir(f"{root}/none")
    held = disk.open_dir(f"{root}/dir")
    held.remove_dir(f"{root}/dir/below")
    assert held.list_dir(f"{root}/dir") == []
    held.remove_dir(f"{root}/dir")
    assert disk.list_dir(root) == ["file"]
    held.close()


def test_link_gives_a_file_a_further_name(disk: Disk, root: str) -> None:
    make_file(disk, f"{root}/file", b"data")
    disk.make_dir(f"{root}/dir")
    disk.link(f"{root}/file", f"{root}/dir/name")
    assert read_file(disk, f"{root}/dir/name", 10) == b"data"
    disk.unlink(f"{root}/file")
    assert read_file(disk, f"{root}/dir/name", 10) == b"data"
    assert (disk.list_dir(root), disk.list_dir(f"{root}/dir")) == (["dir"], ["name"])


def test_link_replaces_nothing(disk: Disk, root: str) -> None:
    make_file(disk, f"{root}/file", b"new")
    make_file(disk, f"{root}/taken", b"old")
    disk.make_dir(f"{root}/dir")
    for taken in ("taken", "file", "dir"):
        with pytest.raises(FileExistsError):
            disk.link(f"{root}/file", f"{root}/{taken}")
    assert read_file(disk, f"{root}/taken", 10) == b"old"
    with pytest.raises(FileNotFoundError):
        disk.link(f"{root}/none", f"{root}/new")
    with pytest.raises(FileNotFoundError):
        disk.link(f"{root}/file", f"{root}/none/new")
    with pytest.raises(NotADirectoryError):
        disk.link(f"{root}/file", f"{root}/taken/new")
    with raises_errno(errno.EPERM):
        disk.link(f"{root}/dir", f"{root}/new")


def test_a_rename_takes_one_name_of_a_file_that_has_two(disk: Disk, root: str) -> None:
    make_file(disk, f"{root}/a", b"data")
    disk.link(f"{root}/a", f"{root}/b")
    disk.rename(f"{root}/a", f"{root}/c")
    assert disk.list_dir(root) == ["b", "c"]
    disk.rename(f"{root}/b", f"{root}/c")  # two names of one file: nothing happens
    assert disk.list_dir(root) == ["b", "c"]
    disk.unlink(f"{root}/b")
    assert read_file(disk, f"{root}/c", 10) == b"data"


def test_an_unlinked_file_lives_until_it_is_closed(disk: Disk, root: str) -> None:
    make_file(disk, f"{root}/file", b"data")
    file = disk.open(f"{root}/file", "rw")
    disk.unlink(f"{root}/file")
    assert disk.list_dir(root) == []
    file.write_at(b"!", 4)
    assert file.read_at(10, 0) == b"data!"
    file.close()


# -- locks


def test_one_lock_per_file(disk: Disk, root: str) -> None:
    lock = disk.lock(f"{root}/wal.lock", "process 1")
    with pytest.raises(LogLockedError) as caught:
        disk.lock(f"{root}/wal.lock", "process 2")
    assert (caught.value.path, caught.value.holder) == (f"{root}/wal.lock", "process 1")
    disk.lock(f"{root}/other.lock", "process 2").release()
    lock.release()
    lock.release()
    second = disk.lock(f"{root}/wal.lock", "p2")
    lock.release()  # of a lock given up: not the second one's business
    assert read_file(disk, f"{root}/wal.lock", 100) == b"p2"
    with pytest.raises(LogLockedError):
        disk.lock(f"{root}/wal.lock", "process 3")
    second.release()


def test_closing_another_descriptor_of_the_lock_file_keeps_the_lock(disk: Disk, root: str) -> None:
    lock = disk.lock(f"{root}/wal.lock", "process 1")
    read_file(disk, f"{root}/wal.lock", 100)
    with pytest.raises(LogLockedError):
        disk.lock(f"{root}/wal.lock", "process 2")
    lock.release()


# -- helpers


def test_read_file_refuses_more_than_the_limit(disk: Disk, root: str) -> None:
    make_file(disk, f"{root}/file", b"12345")
    assert read_file(disk, f"{root}/file", 5) == b"12345"
    with pytest.raises(CorruptDataError, match="5 bytes where at most 4") as caught:
        read_file(disk, f"{root}/file", 4)
    assert caught.value.path == f"{root}/file"


def test_replace_file(disk: Disk, root: str) -> None:
    replace_file(disk, f"{root}/file", b"one")
    replace_file(disk, f"{root}/file", b"two, which is longer")
    assert read_file(disk, f"{root}/file", 100) == b"two, which is longer"
    replace_file(disk, f"{root}/file", b"3")
    assert read_file(disk, f"{root}/file", 100) == b"3"
    assert disk.list_dir(root) == ["file"]


def test_replace_file_takes_over_what_a_crash_left(disk: Disk, root: str) -> None:
    make_file(disk, f"{root}/file.tmp", b"half of what somebody wanted to write")
    replace_file(disk, f"{root}/file", b"one")
    assert disk.list_dir(root) == ["file"]
    assert read_file(disk, f"{root}/file", 100) == b"one"
