"""A log works in the directory that it opened, wherever that is by now, and in no other."""

from __future__ import annotations

import errno
import os
import shutil
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from disks import raises_errno
from trio.testing import MockClock

from danube_trio import (
    CorruptDataError,
    FencedError,
    LogBrokenError,
    LogClosedError,
    LogLockedError,
    StartPosition,
    StorageConfig,
    Wal,
    WalConfig,
    open_follower,
    open_storage,
    open_wal,
)
from danube_trio._core.disk import Disk, OpenDirectory, Stray, hold
from danube_trio._core.segment import LogNames
from danube_trio._disk.locks import find_holder
from danube_trio._disk.real import RealDisk
from danube_trio._engine.care.repair import apply_repair
from danube_trio._engine.care.repair_plan import plan_repair
from danube_trio.cloud._directory import DirectoryStore
from danube_trio.errors import StoreUnavailableError
from danube_trio.metadata import open_metadata_directory
from danube_trio.testing import SimDisk, SimStore

CONFIG = WalConfig(dir="/log", segment_bytes=4096, preallocate_bytes=0)
BODY = b"a" * 1000


async def payloads(wal: Wal) -> list[bytes]:
    return [m.payload async for m in wal.reader(StartPosition.earliest(), end="current")]


# ---- the disk


@pytest.fixture(params=["real", "simulated"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Disk, str]:
    """A disk, and a path on it where nothing is."""
    return (RealDisk(), f"{tmp_path}/d") if request.param == "real" else (SimDisk(), "/d")


def put(disk: Disk, path: str, data: bytes) -> None:
    file = disk.open(path, "create")
    file.write_at(data, 0)
    file.close()


def remove(disk: Disk, path: str) -> None:
    if isinstance(disk, SimDisk):
        disk.remove_tree(path)
    else:
        shutil.rmtree(path)


def test_paths_in_a_held_directory_are_names_in_it_wherever_it_is(place: tuple[Disk, str]) -> None:
    disk, d = place
    disk.make_dir(d)
    held = disk.open_dir(f"{d}/")
    put(held, f"{d}/a", b"ours")
    assert held.strayed() is None
    disk.rename(d, f"{d}.old")
    disk.make_dir(d)
    put(disk, f"{d}/b", b"theirs")
    assert held.strayed() == Stray(removed=False, place=f"{d}.old", replaced=True)
    assert held.list_dir(d) == ["a"]
    assert (held.file_size(f"{d}/a"), held.stat(f"{d}/a").size_bytes) == (4, 4)
    held.rename(f"{d}/a", f"{d}/c")
    held.link(f"{d}/c", f"{d}/e")
    put(held, f"{d}/f", b"new")
    held.unlink(f"{d}/e")
    held.sync_dir(d)
    assert held.free_bytes(d) > 0
    assert (disk.list_dir(d), disk.list_dir(f"{d}.old")) == (["b"], ["c", "f"])
    calls: list[Callable[[str], object]] = [held.file_size, held.stat, held.unlink]
    calls.append(partial(held.open, mode="r"))
    for call in calls:
        with pytest.raises(FileNotFoundError) as caught:
            call(f"{d}/b")
        if isinstance(disk, RealDisk):
            assert caught.value.filename == f"{d}/b", "the whole path, as it was asked for"
    assert held.list_dir(f"{d}.old") == ["c", "f"], "other paths are the disk's"
    again = held.open_dir(d)
    assert again.list_dir(d) == ["c", "f"]
    again.close()
    held.close()
    held.close()
    with raises_errno(errno.EBADF):
        held.list_dir(d)


def test_a_directory_that_was_removed_takes_nothing_any_more(place: tuple[Disk, str]) -> None:
    disk, d = place
    disk.make_dir(d)
    held = disk.open_dir(d)
    put(held, f"{d}/a", b"")
    remove(disk, d)
    assert held.strayed() == Stray(removed=True)
    with pytest.raises(FileNotFoundError):
        put(held, f"{d}/b", b"")
    disk.make_dir(d)
    assert held.strayed() == Stray(removed=True, replaced=True)
    assert disk.list_dir(d) == []
    held.close()


def test_the_lock_is_of_the_directory_itself(place: tuple[Disk, str]) -> None:
    disk, d = place
    other = disk.process() if isinstance(disk, SimDisk) else disk
    disk.make_dir(d)

    def hold(path: str = d, name: str = "wal.lock") -> OpenDirectory:
        held = other.open_dir(path)
        try:
            held.lock(f"{path}/{name}", "second")
        except BaseException:
            held.close()
            raise
        return held

    first = disk.open_dir(d)
    first.lock(f"{d}/wal.lock", "first")
    with pytest.raises(LogLockedError, match="first"):
        hold()
    with pytest.raises(LogLockedError, match="first"):
        other.lock(f"{d}/wal.lock", "an older version")
    disk.rename(d, f"{d}.old")
    with pytest.raises(LogLockedError, match="first"):
        hold(f"{d}.old")
    disk.rename(f"{d}.old", d)
    disk.unlink(f"{d}/wal.lock")
    with pytest.raises(LogLockedError, match="another process"):
        hold()
    assert disk.list_dir(d) == [], "who is refused leaves nothing"
    first.close()
    hold().close()


def test_a_log_and_a_metadata_store_may_share_a_directory(place: tuple[Disk, str]) -> None:
    disk, d = place
    disk.make_dir(d)
    one, two, three = disk.open_dir(d), disk.open_dir(d), disk.open_dir(d)
    one.lock(f"{d}/wal.lock", "a log")
    two.lock(f"{d}/metadata.lock", "a store")
    for name, holder in (("wal.lock", "a log"), ("metadata.lock", "a store")):
        with pytest.raises(LogLockedError, match=holder):
            three.lock(f"{d}/{name}", "a third one")
    for held in (one, two, three):
        held.close()


@pytest.mark.happens
def test_where_directories_cannot_be_locked_the_files_lock_is_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    real = fcntl.flock

    def flock(fd: int, how: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{fd}"):
            raise OSError(errno.EBADF, "as on NFS")
        real(fd, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    d = str(tmp_path)
    one, two = RealDisk().open_dir(d), RealDisk().open_dir(d)
    one.lock(f"{d}/wal.lock", "one")
    with pytest.raises(LogLockedError, match="one"):
        two.lock(f"{d}/wal.lock", "two")
    assert find_holder(f"{d}/wal.lock") == "one"
    one.close()
    two.lock(f"{d}/wal.lock", "two")
    two.close()


def test_tools_see_the_holder_of_a_directory_without_its_lock_file(tmp_path: Path) -> None:
    path, link = f"{tmp_path}/d/wal.lock", f"{tmp_path}/link/wal.lock"
    RealDisk().make_dir(f"{tmp_path}/d")
    os.symlink(f"{tmp_path}/d", f"{tmp_path}/link")
    held = RealDisk().open_dir(f"{tmp_path}/d")
    held.lock(path, "me")
    assert find_holder(path) == find_holder(link) == "me"
    os.unlink(path)
    assert find_holder(path) == find_holder(link) == "another program"
    held.close()
    assert find_holder(path) is None
    held = RealDisk().open_dir(f"{tmp_path}/d")
    held.lock(f"{tmp_path}/d/metadata.lock", "a store")
    assert find_holder(path) is None
    held.close()
    assert find_holder(f"{tmp_path}/nothing/wal.lock") is None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_does_not_keep_the_lock_of_the_directory(tmp_path: Path) -> None:
    d = str(tmp_path)
    held: Any = RealDisk().open_dir(d)
    held.lock(f"{d}/wal.lock", "the parent")
    ours, theirs = os.pipe()
    with warnings.catch_warnings():  # of threads, which others may have started
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        os.close(theirs)
        os.read(ours, 1)  # until the parent closes its end
        os._exit(0)
    os.close(ours)
    os.unlink(f"{d}/wal.lock")
    second = RealDisk().open_dir(d)
    with pytest.raises(LogLockedError):
        second.lock(f"{d}/wal.lock", "somebody")
    os.close(held._fd)  # as the parent's death does: nothing is unlocked
    second.lock(f"{d}/wal.lock", "somebody")
    second.close()
    os.close(theirs)
    os.waitpid(child, 0)


# ---- a log


@pytest.mark.happens
async def test_a_directory_that_moved_breaks_the_log_within_seconds(
    autojump_clock: MockClock,
) -> None:
    disk = SimDisk()
    async with open_wal(CONFIG, disk=disk) as wal:
        await wal.append(b"before")
        disk.process().rename("/log", "/log.old")
        await wal.append(b"between")
        await trio.sleep(6)
        with pytest.raises(LogBrokenError, match=r"was moved to /log\.old\. All that was ack") as e:
            await wal.append(b"after")
        assert "move the directory back, or open the log where it is now" in str(e.value)
        assert await payloads(wal) == [b"before", b"between"], "readers go on"
    async with open_wal(attrs.evolve(CONFIG, dir="/log.old"), disk=disk) as wal:
        assert await payloads(wal) == [b"before", b"between"]


@pytest.mark.happens
async def test_a_log_that_was_moved_writes_nothing_into_the_one_at_its_path(
    autojump_clock: MockClock,
) -> None:
    disk = SimDisk()
    async with open_wal(CONFIG, disk=disk) as ours:
        for _ in range(3):
            await ours.append(BODY)
        disk.rename("/log", "/log.old")
        async with open_wal(CONFIG, disk=disk.process()) as theirs:
            for i in range(10):
                await theirs.append(b"%d" % i)
            before = {path: data for path, data in disk.tree().items() if "/log/" in path}
            with pytest.raises(LogBrokenError, match="another one is in its place"):
                for _ in range(3):
                    await ours.append(BODY)
            assert ours.next_offset == 4, "not one segment more"
            assert before == {path: disk.tree()[path] for path in before}
            assert {path for path in disk.tree() if "/log/" in path} == set(before)
    async with open_wal(CONFIG, disk=disk) as wal:
        assert await payloads(wal) == [b"%d" % i for i in range(10)]
    async with open_wal(attrs.evolve(CONFIG, dir="/log.old"), disk=disk) as wal:
        assert len(await payloads(wal)) >= 3


async def test_a_directory_that_moved_is_told_on_leaving_if_nobody_was_told() -> None:
    disk = SimDisk()
    with pytest.raises(LogBrokenError, match=r"was moved to /log\.old") as caught:
        async with open_wal(CONFIG, disk=disk) as wal:
            await wal.append(b"x")
            disk.rename("/log", "/log.old")
    assert caught.value.lost == 0


@pytest.mark.happens
async def test_a_directory_that_was_removed_breaks_the_log_and_tells_what_is_lost(
    autojump_clock: MockClock,
) -> None:
    disk = SimDisk()
    with pytest.raises(LogBrokenError, match="the directory of the running log: it was re") as e:
        async with open_wal(CONFIG, disk=disk) as wal:
            for _ in range(7):
                await wal.append(BODY)
            await trio.sleep(1)
            disk.process().remove_tree("/log")
            await wal.append(BODY)
            await trio.sleep(6)
            assert wal.phase == "broken"
            assert wal.durable_end == 8
    assert e.value.lost == 8
    assert "put its files back from a copy" in str(e.value)
    assert disk.tree() == {}


async def test_before_a_roll_a_directory_that_was_removed_is_noticed_at_once() -> None:
    disk = SimDisk()
    async with open_wal(CONFIG, disk=disk) as wal:
        await wal.append(BODY)
        disk.remove_tree("/log")
        with pytest.raises(LogBrokenError, match="was removed"):
            for _ in range(5):
                await wal.append(BODY)
        assert wal.next_offset < 5


@pytest.mark.happens
async def test_a_copy_in_the_place_of_the_directory_is_not_the_directory(
    autojump_clock: MockClock,
) -> None:
    disk = SimDisk()
    async with open_wal(CONFIG, disk=disk) as wal:
        await wal.append(b"x")
        disk.rename("/log", "/away")
        for path, data in disk.tree().items():
            disk.write_file(path.replace("/away", "/log"), data)
        await trio.sleep(6)
        with pytest.raises(LogBrokenError, match="moved to /away, and another one is in its place"):
            await wal.append(b"y")


async def test_a_directory_that_was_moved_and_came_back_is_no_alarm(
    autojump_clock: MockClock,
) -> None:
    disk = SimDisk(latency=0.01)
    async with open_wal(CONFIG, disk=disk) as wal:
        for i in range(20):
            disk.rename("/log", "/away")
            await wal.append(b"%d" % i)
            disk.rename("/away", "/log")
        await trio.sleep(6)
        assert wal.phase == "open"
        assert len(await payloads(wal)) == 20


@pytest.mark.happens
async def test_what_was_acknowledged_in_a_moved_directory_is_in_it_after_a_power_cut(
    autojump_clock: MockClock,
) -> None:
    disk = SimDisk()
    async with open_wal(CONFIG, disk=disk) as wal:
        await wal.append(b"before")
        disk.rename("/log", "/away")
        await wal.append(b"after")
        for state in disk.crash_states(samples=20):
            there = (
                "/away" if any(path.startswith("/away/") for path in state.disk.tree()) else "/log"
            )
            async with open_wal(attrs.evolve(CONFIG, dir=there), disk=state.disk) as then:
                assert await payloads(then) == [b"before", b"after"], state.name
        disk.rename("/away", "/log")


async def test_an_opening_works_in_one_directory_whatever_is_put_in_its_place() -> None:
    """Moved at any operation of an opening, another log in its place: that one stays as it is."""
    base = SimDisk()
    async with open_wal(CONFIG, disk=base) as wal:
        await wal.append(b"ours")
    base.write_file("/log/wal.00000000000000000000.idx.tmp", b"unfinished")
    async with open_wal(attrs.evolve(CONFIG, dir="/other"), disk=base) as wal:
        await wal.append(b"theirs")
    for at in range(60):
        disk = base.crash("everything written")
        first = disk.op_count

        def move(operation: object, disk: SimDisk = disk, stop: int = first + at) -> None:
            if disk.op_count > stop and disk.on_operation is not None:
                disk.on_operation = None
                disk.rename("/log", "/away")
                disk.rename("/other", "/log")

        disk.on_operation = move
        before = {p: d for p, d in disk.tree().items() if p.startswith("/other/")}
        try:
            async with open_wal(CONFIG, disk=disk):
                pass
        except LogBrokenError:
            pass
        if disk.on_operation is not None:
            break
        after = {p: d for p, d in disk.tree().items() if p.startswith("/log/")}
        if after.keys() >= {"/log/wal.meta"} and "/away/wal.meta" in disk.tree():
            moved = {p.replace("/other", "/log"): d for p, d in before.items()}
            same = after == moved
            opened = "theirs" in str(after) and not same  # it was moved before it was held
            assert same or opened, at
    else:
        raise AssertionError("there are more operations than were tried")


@pytest.mark.parametrize("how", ["moved", "removed", "replaced"])
async def test_a_real_directory_tells_it_too(how: str, tmp_path: Path) -> None:
    d, old = tmp_path / "log", tmp_path / "log.old"
    touch: dict[str, Callable[[], object]] = {
        "moved": lambda: d.rename(old),
        "removed": lambda: shutil.rmtree(d),
        "replaced": lambda: (d.rename(old), shutil.copytree(old, d)),
    }
    async with open_wal(attrs.evolve(CONFIG, dir=str(d))) as wal:
        for _ in range(3):
            await wal.append(BODY)
        touch[how]()
        with pytest.raises(LogBrokenError, match="somebody changed the directory of the running"):
            for _ in range(3):
                await wal.append(BODY)
        assert wal.next_offset < 6
    if how == "removed":
        assert not d.exists()
        return
    async with open_wal(attrs.evolve(CONFIG, dir=str(old))) as wal:
        assert (await payloads(wal))[:3] == [BODY] * 3


@pytest.mark.happens
async def test_a_program_may_change_its_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    async with open_wal(attrs.evolve(CONFIG, dir="log")) as wal:
        monkeypatch.chdir(tmp_path / "elsewhere")
        for _ in range(9):
            await wal.append(BODY)
        assert await payloads(wal) == [BODY] * 9
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.happens
async def test_a_lock_file_that_was_removed_lets_nobody_in(tmp_path: Path) -> None:
    config = attrs.evolve(CONFIG, dir=str(tmp_path / "log"))
    async with open_wal(config) as wal:
        await wal.append(b"1")
        (tmp_path / "log" / "wal.lock").unlink()
        with pytest.raises(LogLockedError):
            async with open_wal(config):
                pass
        await wal.append(b"2")
    async with open_wal(config) as wal:
        assert await payloads(wal) == [b"1", b"2"]


@pytest.mark.happens
async def test_a_lock_file_of_a_metadata_store_that_was_removed_lets_nobody_in(
    tmp_path: Path,
) -> None:
    async with open_metadata_directory(tmp_path) as store:
        await store.put("/a", b"1")
        (tmp_path / "metadata.lock").unlink()
        with pytest.raises(LogLockedError):
            async with open_metadata_directory(tmp_path):
                pass
        await store.put("/b", b"2")
    async with open_metadata_directory(tmp_path) as store:
        assert [entry.key for entry in await store.list_entries("/")] == ["/a", "/b"]


# ---- the metadata store, and stores of objects


@pytest.mark.happens
@pytest.mark.parametrize("how", ["moved", "removed", "replaced", "journal"])
async def test_a_metadata_directory_that_is_not_what_it_was_acknowledges_nothing(how: str) -> None:
    disk = SimDisk()
    async with open_metadata_directory("/m", disk=disk) as store:
        await store.put("/a", b"1")
        if how == "removed":
            disk.remove_tree("/m")
        elif how == "journal":
            disk.unlink(next(path for path in disk.tree() if path.endswith(".journal")))
        else:
            disk.rename("/m", "/old")
            for path, data in disk.tree().items() if how == "replaced" else ():
                disk.write_file(path.replace("/old", "/m"), data)
        before = disk.tree()
        with pytest.raises(StoreUnavailableError, match=r"somebody (changed|removed)") as caught:
            await store.put("/b", b"2")
        assert how in ("removed", "journal") or "was moved to /old" in str(caught.value)
        assert (await store.list_entries("/"))[0].value == b"1", "reads go on"
    assert disk.tree() == before, "nothing was written anywhere"
    if how == "moved":
        async with open_metadata_directory("/old", disk=disk) as store:
            assert [entry.key for entry in await store.list_entries("/")] == ["/a"]


@pytest.mark.happens
async def test_a_lock_file_of_a_directory_store_that_is_removed_does_not_let_two_change_it(
    autojump_clock: MockClock,
) -> None:
    disk = SimDisk()
    async with DirectoryStore("/store", disk) as store:
        await store.put("key", b"before")
        other = hold(disk.process(), "/store/.danube-lock", "another process")
        disk.unlink("/store/.danube-lock")
        with trio.move_on_after(10) as scope:
            await store.put("key", b"after")
        assert scope.cancelled_caught
        assert (await store.get("key"))[1] == b"before"
        other.close()
        await store.put("key", b"after")
        assert (await store.get("key"))[1] == b"after"


@pytest.mark.happens
async def test_a_directory_store_that_was_moved_stops_uploads_until_it_is_back(
    autojump_clock: MockClock,
) -> None:
    disk = SimDisk()
    config = attrs.evolve(CONFIG, topic_name="/default/t")
    async with (
        DirectoryStore("/store", disk) as store,
        open_wal(config, disk=disk, store=store) as wal,
    ):
        await wal.append(BODY)
        disk.rename("/store", "/away")
        for _ in range(9):
            await wal.append(BODY)
        await trio.sleep(60)
        assert wal.uploaded_end < 9
        assert not [path for path in disk.tree() if path.startswith("/store")]
        disk.rename("/away", "/store")
        await trio.sleep(600)
        assert wal.uploaded_end >= 9


# ---- other names of its files, and other people


@pytest.mark.happens
async def test_files_that_are_hard_linked_for_a_backup_do_not_change_with_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    disk = SimDisk()
    async with open_wal(CONFIG, disk=disk) as wal:
        for _ in range(5):
            await wal.append(BODY)
        await wal.trim(3)
    disk.make_dir("/backup")
    backup: dict[str, bytes] = {}
    for path, data in disk.tree().items():
        backup[path.replace("/log/", "/backup/")] = data
        disk.link(path, path.replace("/log/", "/backup/"))
    async with open_wal(CONFIG, disk=disk) as wal:
        for _ in range(5):
            await wal.append(BODY)
        await wal.trim(6)
    assert "names (hard links): it is copied" in caplog.text
    now = {path: data for path, data in disk.tree().items() if path.startswith("/backup/")}
    backup.pop("/backup/wal.lock")
    now.pop("/backup/wal.lock")
    assert now == backup
    async with open_wal(attrs.evolve(CONFIG, dir="/backup"), disk=disk) as wal:
        assert (wal.start_offset, wal.next_offset) == (3, 5)


@pytest.mark.happens
async def test_a_hard_link_made_while_the_log_runs_is_told_once(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    disk = SimDisk()
    async with open_wal(CONFIG, disk=disk) as wal:
        await wal.append(b"x")
        disk.link("/log/wal.00000000000000000000.log", "/copy")
        await trio.sleep(30)
        assert wal.phase == "open"
    assert caplog.text.count("a hard link is no copy") == 1


async def test_a_copy_for_a_hard_link_that_is_interrupted_loses_nothing() -> None:
    disk = SimDisk()
    async with open_wal(CONFIG, disk=disk) as wal:
        await wal.append(BODY)
    disk.link("/log/wal.00000000000000000000.log", "/copy")
    start = disk.op_count
    async with open_wal(CONFIG, disk=disk) as wal:
        pass
    for point in disk.crash_points(start=start):
        for state in point.states:
            async with open_wal(CONFIG, disk=state.disk) as wal:
                assert await payloads(wal) == [BODY], (point.op_count, state.name)


@pytest.mark.happens
async def test_a_directory_that_everybody_may_write_to_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = attrs.evolve(CONFIG, dir=str(tmp_path / "log"))
    for _ in range(2):
        async with open_wal(config):
            pass
    assert not caplog.text
    (tmp_path / "log").chmod(0o777)
    for _ in range(2):
        async with open_wal(config):
            pass
    assert caplog.text.count("everybody may write to this directory") == 1


# ---- followers


@pytest.mark.happens
async def test_a_follower_is_told_that_another_copy_is_at_the_path_of_its_directory() -> None:
    disk = SimDisk()
    async with open_wal(CONFIG, disk=disk) as wal:
        await wal.append_batch([b"both"] * 5)
    for path, data in disk.tree().items():
        disk.write_file(path.replace("/log/", "/copy/"), data)
    async with open_wal(CONFIG, disk=disk) as wal:
        await wal.append_batch([b"ours"] * 5)
    async with open_wal(attrs.evolve(CONFIG, dir="/copy"), disk=disk) as wal:
        await wal.append_batch([b"them"] * 9)
    async with open_follower("/log", disk=disk) as follower:
        reader = follower.reader(StartPosition.earliest())
        assert [(await anext(reader)).payload for _ in range(10)] == [b"both"] * 5 + [b"ours"] * 5
        disk.rename("/log", "/away")
        with pytest.raises(FileNotFoundError, match="was moved to /away"):
            await follower.refresh()
        disk.rename("/copy", "/log")
        with pytest.raises(CorruptDataError, match="another copy of it: it was moved to /away"):
            await anext(reader)
        disk.rename("/log", "/copy")
        disk.rename("/away", "/log")
        await follower.refresh()
        assert follower.durable_end == 10


async def test_a_reader_of_a_follower_that_was_left_is_told_so(tmp_path: Path) -> None:
    config = attrs.evolve(CONFIG, dir=str(tmp_path / "log"))
    async with open_wal(config) as wal:
        await wal.append_batch([BODY] * 3)
    async with open_follower(config.dir or "") as follower:
        reader = follower.reader(StartPosition.earliest())
    with pytest.raises(LogClosedError, match="open another one"):
        await anext(reader)


# ---- copies


@pytest.mark.happens
async def test_two_copies_with_a_store_are_told_apart_and_without_one_are_two_logs() -> None:
    disk, store = SimDisk(), SimStore()
    config = attrs.evolve(CONFIG, topic_name="/default/t")
    copied = attrs.evolve(config, dir="/copy")
    async with open_wal(config, disk=disk, store=store) as wal:
        await wal.append_batch([b"both"] * 3)
    for path, data in disk.tree().items():
        disk.write_file(path.replace("/log/", "/copy/"), data)
    async with open_wal(config, disk=disk) as one, open_wal(copied, disk=disk) as two:
        assert await one.append(b"one") == await two.append(b"two") == 3
    with pytest.raises(FencedError):
        async with open_wal(config, disk=disk, store=store) as one:
            assert await one.append(b"one") == 4
            async with open_wal(copied, disk=disk, store=store) as two:
                assert "were kept here only when" in str(two.statistics().notes)
                await two.append(b"two")
                await two.seal()
            await one.append(b"never uploaded")
            await one.wait_uploaded(5)
    assert [path for path in disk.tree() if "/copy/" in path and path.endswith(".fenced")]


# ---- states that are mixed


Tree = dict[str, bytes]


async def states() -> tuple[SimDisk, Tree, Tree]:
    """A disk, and the files of a log when it had 5 records and when it had 30 and was trimmed."""
    disk = SimDisk()
    config = attrs.evolve(CONFIG, segment_bytes=1200)
    async with open_wal(config, disk=disk) as wal:
        for i in range(5):
            await wal.append(b"%03d" % i * 100)
    older = disk.tree()
    async with open_wal(config, disk=disk) as wal:
        for i in range(5, 30):
            await wal.append(b"%03d" % i * 100)
        await wal.trim(9)
    return disk, older, disk.tree()


BODIES = [b"%03d" % i * 100 for i in range(30)]


def mixed(base: Tree, other: Tree, *ends: str) -> SimDisk:
    disk = SimDisk()
    for path, data in base.items():
        if not path.endswith(ends):
            disk.write_file(path, data)
    for path, data in other.items():
        if path.endswith(ends):
            disk.write_file(path, data)
    return disk


@pytest.mark.happens
@pytest.mark.parametrize("ends", ["mark", "ckpt", ".idx", ".meta", "mark ckpt .idx .meta .lock"])
async def test_an_older_small_file_beside_later_segments_loses_nothing(ends: str) -> None:
    _, older, newer = await states()
    async with open_wal(CONFIG, disk=mixed(newer, older, *ends.split())) as wal:
        assert (wal.start_offset, wal.next_offset) == (9, 30)
        assert await payloads(wal) == BODIES[9:]
    later = mixed(newer, older, *ends.split())
    async with open_wal(CONFIG, disk=later) as wal:
        assert await wal.append(b"next") == 30
    async with open_wal(CONFIG, disk=later) as wal:
        assert await payloads(wal) == [*BODIES[9:], b"next"]


@pytest.mark.happens
@pytest.mark.parametrize("ends", ["mark", "trim", "ckpt", "mark trim ckpt .idx .meta"])
async def test_a_later_small_file_beside_older_segments_is_refused(ends: str) -> None:
    _, older, newer = await states()
    disk = mixed(older, newer, *ends.split())
    with pytest.raises(CorruptDataError, match=r"is missing.*Restore the file from a copy"):
        async with open_wal(CONFIG, disk=disk):
            pass
    assert {p for p in disk.tree() if p.endswith(".log")} == {
        p for p in older if p.endswith(".log")
    }


@pytest.mark.happens
async def test_an_older_start_beside_later_segments_is_refused_and_names_what_is_missing() -> None:
    _, older, newer = await states()
    with pytest.raises(CorruptDataError, match="the segment is missing") as caught:
        async with open_wal(CONFIG, disk=mixed(newer, older, "trim")):
            pass
    assert (caught.value.path, caught.value.offset) == (f"/log/wal.{0:020}.log", 0)


@pytest.mark.happens
@pytest.mark.parametrize("left", [1, 2])
async def test_a_directory_that_was_restored_halfway_is_refused(left: int) -> None:
    """Files come in the order of their names; the last segment or the mark is not there yet."""
    _, _, newer = await states()
    segments = sorted(path for path in newer if path.endswith(".log"))
    disk = mixed(newer, {}, *segments[-left:])
    with pytest.raises(CorruptDataError, match="the segment is missing"):
        async with open_wal(CONFIG, disk=disk):
            pass
    for path in segments[-left:]:
        disk.write_file(path, newer[path])
    async with open_wal(CONFIG, disk=disk) as wal:
        assert await payloads(wal) == BODIES[9:]


@pytest.mark.happens
async def test_segments_under_the_meta_of_another_directory_are_refused() -> None:
    _, _, newer = await states()
    other = SimDisk()
    async with open_wal(CONFIG, disk=other) as wal:
        await wal.append(b"other")
    disk = mixed(newer, other.tree(), ".meta")
    before = disk.tree()
    with pytest.raises(CorruptDataError, match="the mark is that of another directory") as caught:
        async with open_wal(CONFIG, disk=disk):
            pass
    assert "all of its files from the same one" in str(caught.value)
    assert {p: d for p, d in disk.tree().items() if ".lock" not in p} == {
        p: d for p, d in before.items() if ".lock" not in p
    }
    apply_repair(disk, plan_repair(disk, LogNames.of("/log", "wal.log"), None))
    async with open_wal(CONFIG, disk=disk) as wal:
        assert await payloads(wal) == BODIES[9:]


# ---- a storage


@pytest.mark.happens
async def test_a_storage_whose_directory_was_moved_begins_no_topic_anew(
    autojump_clock: MockClock,
) -> None:
    disk = SimDisk()
    config = StorageConfig(dir="/s", idle_seconds=1.0)
    async with open_storage(config, disk=disk) as storage:
        await storage.append_message("/default/t", b"before")
        await trio.sleep(60)  # closed, being idle
        disk.rename("/s", "/away")
        with pytest.raises(OSError, match=r"the directory of the storage: it was moved to /away"):
            await storage.append_message("/default/t", b"after")
        assert not [path for path in disk.tree() if path.startswith("/s/")]
        disk.rename("/away", "/s")
        assert await storage.append_message("/default/t", b"after") == 1
