"""The disk of the operating system: what the conformance suite of `test_disk` cannot see."""

from __future__ import annotations

import errno
import os
import resource
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from disks import raises_errno

from danube_trio import WalConfig, open_wal
from danube_trio._core.disk import File
from danube_trio._disk import real as _disk
from danube_trio._disk.real import RealDisk, _RealFile
from danube_trio.errors import LogLockedError


def test_a_directory_that_another_makes_meanwhile_is_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody makes it between the question whether it is a directory and whether it is there."""
    real, path = os.path.lexists, tmp_path / "a"

    def lexists(name: str) -> bool:
        if name == str(path):
            path.mkdir(exist_ok=True)
        return real(name)

    monkeypatch.setattr(os.path, "lexists", lexists)
    RealDisk().make_dir(f"{path}/b")
    assert (path / "b").is_dir()


def test_the_real_disk_makes_private_files_that_children_do_not_inherit(tmp_path: Path) -> None:
    disk = RealDisk()
    disk.make_dir(f"{tmp_path}/a/b")
    file = disk.open(f"{tmp_path}/a/file", "create")
    lock = disk.lock(f"{tmp_path}/a/lock", "")
    for name, mode in (("a", 0o700), ("a/b", 0o700), ("a/file", 0o600), ("a/lock", 0o600)):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == mode
    fds = [fd for fd in os.listdir("/proc/self/fd") if opened_below(fd, tmp_path)]
    assert len(fds) == 2
    assert not any(os.get_inheritable(int(fd)) for fd in fds)
    file.close()
    lock.release()


def opened_below(fd: str, path: Path) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{fd}").startswith(str(path))
    except FileNotFoundError:
        return False


def test_the_real_disk_refuses_what_is_not_a_regular_file(tmp_path: Path) -> None:
    disk = RealDisk()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "file")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        for mode in ("r", "rw"):
            for name in ("fifo", "socket"):
                with raises_errno(errno.EINVAL):
                    disk.open(f"{tmp_path}/{name}", mode)
            with raises_errno(errno.ELOOP):
                disk.open(f"{tmp_path}/link", mode)
    for name in ("fifo", "link"):
        with raises_errno(errno.EINVAL):
            disk.file_size(f"{tmp_path}/{name}")
    for name in ("link", "dangling"):
        with raises_errno(errno.ELOOP):
            disk.lock(f"{tmp_path}/{name}", "")
        with raises_errno(errno.EEXIST):
            disk.open(f"{tmp_path}/{name}", "create")
    with pytest.raises(NotADirectoryError):
        disk.make_dir(f"{tmp_path}/dangling")


def test_the_real_disk_finishes_a_short_write_or_says_why_not(tmp_path: Path) -> None:
    file = RealDisk().open(f"{tmp_path}/file", "create")
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, old[1]))
    try:
        with raises_errno(errno.EFBIG):
            file.write_at(b"x" * 1500, 0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert file.size() == 1000
    file.close()


def test_the_real_lock_ends_with_its_process(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from danube_trio._disk.real import RealDisk\n"
        "lock = RealDisk().lock(sys.argv[1], 'the child')\n"
        "print('locked', flush=True)\n"
        "sys.stdin.read()\n"
    )
    path = f"{tmp_path}/wal.lock"
    with subprocess.Popen(
        [sys.executable, "-c", script, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"locked\n"
        with pytest.raises(LogLockedError, match="the child"):
            RealDisk().lock(path, "the parent")
        child.kill()
    RealDisk().lock(path, "the parent").release()


def test_the_real_disk_runs_calls_in_one_event_loop_run_after_another() -> None:
    disk = RealDisk(threads=2)

    async def main() -> int:
        results: list[int] = []

        async def call(number: int) -> None:
            results.append(await disk.run(int, f"{number}"))

        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(call, number)
        return sum(results)

    assert [trio.run(main) for _ in range(3)] == [45, 45, 45]


def test_the_real_disk_needs_a_thread() -> None:
    with pytest.raises(ValueError, match="threads must be at least 1, got 0"):
        RealDisk(threads=0)


def test_where_nobody_knows_what_a_sync_promises_there_is_only_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"data")
    monkeypatch.setattr(_disk, "CAN_WRITE", False)
    disk, path = RealDisk(), f"{tmp_path}/file"
    assert disk.open(path, "r").read_at(10, 0) == b"data"
    calls: list[Callable[[], object]] = [
        lambda: disk.open(path, "rw"),
        lambda: disk.open(f"{path}2", "create"),
        lambda: disk.make_dir(f"{path}2"),
        lambda: disk.rename(path, f"{path}2"),
        lambda: disk.unlink(path),
        lambda: disk.remove_dir(f"{tmp_path}"),
        lambda: disk.sync_dir(f"{tmp_path}"),
        lambda: disk.lock(path, ""),
    ]
    for call in calls:
        with raises_errno(errno.ENOTSUP) as caught:
            call()
        assert "open the log read-only" in str(caught.value)
    assert disk.list_dir(f"{tmp_path}") == ["file"]


@pytest.mark.parametrize("advice", ["works", "fails"])
def test_a_large_durable_write_goes_in_parts_and_ends_in_a_sync(
    advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def advise(*_: int) -> None:
        calls.append("advise")
        if advice == "fails":
            raise OSError(errno.EINVAL, "no advice here")

    def sync(_: int) -> None:
        calls.append("sync")

    monkeypatch.setattr(os, "posix_fadvise", advise)
    monkeypatch.setattr(_disk, "_sync", sync)
    file = RealDisk().open(str(tmp_path / "file"), "create")
    data = bytes(range(256)) * 8000
    file.write_durable_at(data, 5)
    assert file.read_at(len(data) + 5, 0) == bytes(5) + data
    file.close()
    assert calls == ["advise"] * 6 + ["sync"]


REFUSALS = [errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EPERM]


@pytest.mark.parametrize("refusal", [None, *REFUSALS])
@pytest.mark.parametrize("size", [1, 5000, 2_000_000])
def test_a_durable_write_is_synced_where_the_system_has_no_flag_for_it(
    size: int, refusal: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python does not know the flag, or a kernel, file system or sandbox refuses it."""
    calls: list[str] = []
    real_write, real_sync = os.pwrite, _disk._sync

    def write(fd: int, data: memoryview, position: int) -> int:
        calls.append("write")
        return real_write(fd, data, position)

    def refuse(*_: object) -> int:
        assert refusal is not None, "without the flag, what needs it is not called"
        raise OSError(refusal, "no such flag here")

    def sync(fd: int) -> None:
        calls.append("sync")
        real_sync(fd)

    if refusal is None:
        monkeypatch.setattr(_disk, "_DURABLE_WRITE", 0)
    monkeypatch.setattr(os, "pwritev", refuse)
    monkeypatch.setattr(os, "pwrite", write)
    monkeypatch.setattr(_disk, "_sync", sync)
    file = RealDisk().open(str(tmp_path / "file"), "create")
    file.write_durable_at(b"x" * size, 7)
    assert file.read_at(size + 7, 0) == bytes(7) + b"x" * size
    file.close()
    assert calls[-1] == "sync"
    assert set(calls[:-1]) == {"write"}


def test_a_durable_write_that_goes_on_without_the_flag_syncs_all_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    real = os.pwritev

    def first_only(fd: int, parts: list[memoryview], position: int, flags: int) -> int:
        calls.append("flagged")
        if len(calls) > 1:
            raise OSError(errno.EOPNOTSUPP, "not any more")
        return real(fd, [parts[0][:10]], position)

    monkeypatch.setattr(_disk, "_DURABLE_WRITE", 1)
    monkeypatch.setattr(os, "pwritev", first_only)

    def sync(_: int) -> None:
        calls.append("sync")

    monkeypatch.setattr(_disk, "_sync", sync)
    file = RealDisk().open(str(tmp_path / "file"), "create")
    file.write_durable_at(bytes(range(100)), 0)
    assert file.read_at(200, 0) == bytes(range(100))
    file.close()
    assert calls == ["flagged", "flagged", "sync"]


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
def test_a_durable_write_that_failed_is_not_tried_in_another_way(
    error: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> int:
        raise OSError(error, "failed")

    monkeypatch.setattr(_disk, "_DURABLE_WRITE", 1)
    monkeypatch.setattr(os, "pwritev", fail)
    file = RealDisk().open(str(tmp_path / "file"), "create")
    with raises_errno(error):
        file.write_durable_at(b"data", 0)
    assert file.size() == 0
    file.close()


@pytest.mark.parametrize("refusal", [None, *REFUSALS])
async def test_a_log_works_where_the_system_has_none_of_what_it_may_do_without(
    refusal: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each facility is absent, or is there and refuses."""

    def refuse(*_: object, **__: object) -> int:
        assert refusal is not None
        raise OSError(refusal, "not here")

    for name in ("posix_fallocate", "posix_fadvise", "pwritev", "eventfd"):
        if refusal is None:
            monkeypatch.delattr(os, name)
        else:
            monkeypatch.setattr(os, name, refuse)
    if refusal is None:
        monkeypatch.setattr(_disk, "_DURABLE_WRITE", 0)
    else:
        monkeypatch.setattr(os, "statvfs", refuse)
    synced: list[str] = []
    real = _disk._sync

    def sync(fd: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{fd}"))
        real(fd)

    monkeypatch.setattr(_disk, "_sync", sync)
    config = WalConfig(dir=str(tmp_path / "log"))
    async with open_wal(config) as wal:
        synced.clear()
        for size in (10, 10, 1 << 20):
            await wal.append(bytes(size))
        assert sum(path.endswith(".log") for path in synced) == 3
    async with open_wal(config) as wal:
        assert [len(m.payload) async for m in wal.reader(end="current")] == [10, 10, 1 << 20]


def test_an_open_directory_is_synced_wherever_it_is_and_closed_once(tmp_path: Path) -> None:
    disk, path = RealDisk(), tmp_path / "here"
    with raises_errno(errno.ENOENT):
        disk.open_dir(str(path))
    path.mkdir()
    opened = disk.open_dir(str(path))
    opened.sync_dir(str(path))
    path.rename(tmp_path / "there")
    opened.sync_dir(str(path))
    for _ in range(2):
        opened.close()
    with raises_errno(errno.EBADF):
        opened.sync_dir(str(path))
    (tmp_path / "file").write_bytes(b"")
    with raises_errno(errno.ENOTDIR):
        disk.open_dir(str(tmp_path / "file"))


CALLS: dict[str, Callable[[File], object]] = {
    "read_at": lambda file: file.read_at(1, 0),
    "write_at": lambda file: file.write_at(b"x", 0),
    "write_durable_at": lambda file: file.write_durable_at(b"x", 0),
    "size": lambda file: file.size(),
    "stat": lambda file: file.stat(),
    "holds": lambda file: file.holds(b"x", 0),
    "allocate": lambda file: file.allocate(9),
    "truncate": lambda file: file.truncate(0),
    "sync_data": lambda file: file.sync_data(),
}


@pytest.mark.happens
@pytest.mark.parametrize("call", CALLS)
def test_an_error_of_a_call_on_a_descriptor_names_the_file(call: str, tmp_path: Path) -> None:
    path = f"{tmp_path}/file"
    file = RealDisk().open(path, "create")
    file.close()
    with pytest.raises(OSError, match=path) as caught:
        CALLS[call](file)
    assert (caught.value.errno, caught.value.filename) == (errno.EBADF, path)


def test_a_full_disk_is_named_by_the_file_that_did_not_fit(tmp_path: Path) -> None:
    file = _RealFile(os.open("/dev/full", os.O_RDWR), "the/segment")
    for write in (file.write_at, file.write_durable_at):
        with pytest.raises(OSError, match="the/segment") as caught:
            write(b"x", 0)
        assert caught.value.errno == errno.ENOSPC
    file.close()
