"""Topics that are deleted for good: nothing is left of them, at whatever step a crash comes."""

from __future__ import annotations

import contextlib
import errno
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
import trio
from click.testing import CliRunner
from disks import raises_errno
from test_topic_moves import CONFIG, WAL, T, U, World, payloads

from danube_trio import (
    FencedError,
    LogLockedError,
    Storage,
    StorageConfig,
    StoreUnavailableError,
    open_storage,
    open_wal,
)
from danube_trio._disk.real import RealDisk
from danube_trio.cli._app import app
from danube_trio.metadata import MemoryMetadata
from danube_trio.testing import Operation, SimDisk, SimStore

PLACE = "/data/default"
RECORDS = 25


@pytest.fixture(params=["manifests", "metadata"])
async def world(request: pytest.FixtureRequest) -> World:
    metadata = MemoryMetadata() if request.param == "metadata" else None
    return World(SimStore(), metadata)


def names(disk: SimDisk) -> list[str]:
    """What the directory of the namespace has."""
    return disk.list_dir(PLACE)


async def filled(disk: SimDisk, *, deleted: bool = False) -> SimDisk:
    """A disk with a topic of a few segments, which may have been deleted, and not for good."""
    async with open_storage(CONFIG, disk=disk) as storage:
        for _ in range(RECORDS):
            await storage.append_message(T, bytes(200))
        if deleted:
            assert await storage.delete(T)
    return disk


async def is_whole_or_gone(storage: Storage) -> bool:
    """Whether the topic is there; if it is, all of it is, and nothing else where it was."""
    if await storage.list_topics() != [T]:
        assert await storage.list_topics() == []
        return False
    assert (await storage.start_offset(T), await storage.current_offset(T)) == (0, RECORDS)
    assert len(await payloads(storage, T)) == RECORDS
    return True


def points(disk: SimDisk, start: int, end: int) -> Iterator[tuple[int, str, SimDisk]]:
    """Each crash between two operations: before which one, of what kind, and what it leaves."""
    for point in disk.crash_points(start=start, samples=3):
        for state in point.states:
            if point.op_count <= end:
                yield point.op_count, state.name, state.disk


# ---- what is left


async def test_nothing_is_left_of_a_topic_on_a_real_disk(tmp_path: Path) -> None:
    config = StorageConfig(dir=str(tmp_path), wal=WAL)
    async with open_storage(config) as storage:
        for topic in (T, U):
            for _ in range(RECORDS):
                await storage.append_message(topic, bytes(200))
        assert await storage.delete(T, for_good=True)
        assert os.listdir(tmp_path / "default") == ["u"]
        assert await storage.list_topics() == [U]
        assert not await storage.delete(T, for_good=True), "there is none"
        assert await storage.delete(U), "the usual way"
        assert await storage.list_topics() == []
        assert os.listdir(tmp_path / "default") == ["u"]
        assert not await storage.delete(U, for_good=True), "it was deleted before"
        assert os.listdir(tmp_path / "default") == []
        assert await storage.append_message(T, b"from the beginning") == 0
        assert await payloads(storage, T) == [b"from the beginning"]


async def test_what_is_removed_is_not_read_first() -> None:
    """A thousand topics go with two syncs each, of the directory that has their names."""
    disk = await filled(SimDisk())
    async with open_storage(CONFIG, disk=disk) as storage:
        before = disk.op_count
        assert await storage.delete(T, for_good=True)
        done = disk.operations[before:]
    opened = {operation.path for operation in done if operation.name == "open"}
    assert opened <= {f"{PLACE}/t/wal.ckpt"}, "Danube has files of that name"
    names_of = Counter(operation.name for operation in done if operation.path not in opened)
    assert names_of.keys() <= {"list_dir", "lock", "remove_dir", "rename", "sync_dir", "unlink"}
    assert (names_of["sync_dir"], names_of["rename"], names_of["remove_dir"]) == (2, 1, 1)
    gone = [operation.path for operation in done if operation.name == "unlink"]
    assert gone[-1] == f"{PLACE}/t/wal.lock", "it keeps others out to the end"


async def test_a_topic_that_was_never_used_leaves_nothing(tmp_path: Path) -> None:
    async with open_storage(StorageConfig(dir=str(tmp_path))) as storage:
        assert not await storage.delete(T, for_good=True)
        assert not (tmp_path / "default").exists()


async def test_a_directory_without_a_log_goes_too() -> None:
    """As when the process that made it was killed before there was a log in it."""
    disk = SimDisk()
    for left in ((), ("wal.lock",), ("wal.lock", "wal.meta.tmp", ".watch.tmp")):
        disk.make_dir(f"{PLACE}/t")
        for name in left:
            disk.write_file(f"{PLACE}/t/{name}", b"")
        async with open_storage(CONFIG, disk=disk) as storage:
            assert not await storage.delete(T, for_good=True)
        assert names(disk) == []


async def test_a_damaged_topic_goes_whatever_the_damage_is() -> None:
    disk = await filled(SimDisk())
    disk.write_file(f"{PLACE}/t/wal.meta", b"{}")
    disk.corrupt(f"{PLACE}/t/wal.{0:020d}.log", 30)
    async with open_storage(CONFIG, disk=disk) as storage:
        assert await storage.delete(T, for_good=True)
        assert names(disk) == []


# ---- when it is refused


async def test_a_topic_in_use_is_not_deleted_for_good() -> None:
    disk = SimDisk()
    async with open_storage(CONFIG, disk=disk) as storage:
        await storage.append_message(T, b"x")
        reader = await storage.create_reader(T)
        with pytest.raises(trio.BusyResourceError, match="readers: 1"):
            await storage.delete(T, for_good=True)
        assert (await anext(reader)).payload == b"x"
        await reader.aclose()
        assert await storage.delete(T, for_good=True)
        assert names(disk) == []


async def test_a_directory_that_another_process_has_open_is_not_removed() -> None:
    disk = await filled(SimDisk())
    async with open_storage(CONFIG, disk=disk) as storage:
        async with open_wal(attrs.evolve(WAL, dir=f"{PLACE}/t"), disk=disk.process()):
            with pytest.raises(LogLockedError):
                await storage.delete(T, for_good=True)
            assert names(disk) == ["t"]
        assert await is_whole_or_gone(storage)


@pytest.mark.happens
@pytest.mark.parametrize("name", ["notes.txt", "wal.log", "wal.1.log", "uploader.ckpt"])
async def test_files_of_somebody_else_are_not_removed(name: str, tmp_path: Path) -> None:
    """Those that Danube would write are named like ours, and are not."""
    async with open_storage(StorageConfig(dir=str(tmp_path), wal=WAL)) as storage:
        await storage.append_message(T, b"x")
        strange = tmp_path / "default" / "t" / name
        strange.write_bytes(b"theirs")
        with raises_errno(errno.ENOTEMPTY) as caught:
            await storage.delete(T, for_good=True)
        assert name in str(caught.value)
        assert "Move them away" in str(caught.value)
        assert strange.read_bytes() == b"theirs"
        strange.unlink()
        assert await storage.current_offset(T) == 1
        assert await storage.delete(T, for_good=True)
        assert os.listdir(tmp_path / "default") == []


async def test_a_directory_that_is_moved_in_that_moment_is_left_alone() -> None:
    disk = await filled(SimDisk())
    other = disk.process()

    def move(operation: Operation) -> None:
        if operation.name == "list_dir" and operation.path == f"{PLACE}/t":
            locked = any(o.name == "lock" and "default" in o.path for o in disk.operations[-3:])
            if locked and "t" in other.list_dir(PLACE):
                other.rename(f"{PLACE}/t", f"{PLACE}/elsewhere")

    async with open_storage(CONFIG, disk=disk) as storage:
        disk.on_operation = move
        with raises_errno(errno.ESTALE) as caught:
            await storage.delete(T, for_good=True)
        disk.on_operation = None
        assert "elsewhere" in str(caught.value)
    other.rename(f"{PLACE}/elsewhere", f"{PLACE}/t")
    async with open_storage(CONFIG, disk=disk) as storage:
        assert await is_whole_or_gone(storage)


# ---- crashes


@pytest.mark.parametrize("deleted", [False, True], ids=["live", "deleted before"])
async def test_a_crash_at_any_step_leaves_the_log_or_what_the_next_deletion_removes(
    deleted: bool,
) -> None:
    disk = await filled(SimDisk(seed="for good"), deleted=deleted)
    async with open_storage(CONFIG, disk=disk) as storage:
        ready = disk.op_count
        assert await storage.delete(T, for_good=True) != deleted
        done = disk.op_count
    seen: set[tuple[bool, tuple[str, ...]]] = set()
    for number, kind, left in points(disk, ready, done):
        async with open_storage(CONFIG, disk=left) as storage:
            before = names(left)
            there = await is_whole_or_gone(storage)
            seen.add((there, tuple(before)))
            if number == done:
                assert (there, before) == (False, []), kind
            assert not (there and deleted)
            assert await storage.delete(T, for_good=True) == there, kind
            assert names(left) == [], kind
            assert not await storage.delete(T, for_good=True)
            assert await storage.append_message(T, b"anew") == 0
    assert seen >= {(not deleted, ("t",)), (False, ("t.deleted",)), (False, ())}


async def test_a_crash_while_leftovers_are_removed_leaves_leftovers_at_most() -> None:
    disk = await filled(SimDisk(seed="again"))
    ready = disk.op_count
    async with open_storage(CONFIG, disk=disk) as storage:
        await storage.delete(T, for_good=True)
    leftovers = {tuple(sorted(d.tree())): d for _, _, d in points(disk, ready, disk.op_count)}
    going = [d for d in leftovers.values() if names(d) == ["t.deleted"]]
    assert len(going) > 3
    for left in going[:: max(1, len(going) // 4)]:
        begin = left.op_count
        async with open_storage(CONFIG, disk=left) as storage:
            assert not await storage.delete(T, for_good=True)
        for _, kind, again in points(left, begin, left.op_count):
            async with open_storage(CONFIG, disk=again) as storage:
                assert await storage.list_topics() == [], kind
                assert not await storage.delete(T, for_good=True), kind
                assert names(again) == [], kind


async def test_a_new_life_beside_leftovers_is_another_log() -> None:
    """The name was used again although it should not be: nothing new goes with what is old."""
    disk = await filled(SimDisk())
    fault = disk.fail("unlink", path_contains="/t/", sticky=True)
    async with open_storage(CONFIG, disk=disk) as storage:
        with raises_errno(errno.EIO):
            await storage.delete(T, for_good=True)
        assert await storage.append_message(T, b"new") == 0
        assert names(disk) == ["t", "t.deleted"]
        assert await storage.list_topics() == [T]
        fault.cancel()
        assert await storage.delete(T, for_good=True)
        assert names(disk) == []


# ---- failures


async def test_whatever_fails_a_second_deletion_does_the_rest() -> None:
    nth, hit = 0, 1
    while hit:
        nth += 1
        disk = await filled(SimDisk())
        async with open_storage(CONFIG, disk=disk) as storage:
            fault = disk.fail(None, nth)
            try:
                assert await storage.delete(T, for_good=True)
            except OSError as error:
                assert error.errno == errno.EIO
            fault.cancel()
            there = await is_whole_or_gone(storage)
            assert await storage.delete(T, for_good=True) == there
            assert names(disk) == []
        hit = fault.hits
    assert nth > 12


@pytest.mark.happens
@pytest.mark.parametrize("nth", [1, 2])
async def test_a_failed_sync_brings_no_half_of_a_log_back(nth: int) -> None:
    """Of its outcome nobody knows, and one that works later says nothing of it."""
    disk = await filled(SimDisk(seed=nth))
    async with open_storage(CONFIG, disk=disk) as storage:
        begin = disk.op_count
        fault = disk.fail("sync_dir", nth, path_contains="default")
        with raises_errno(errno.EIO):
            await storage.delete(T, for_good=True)
        assert fault.hits
        assert not await storage.delete(T, for_good=True)
        assert names(disk) == []
    end = disk.op_count
    for number, kind, left in points(disk, begin, end):
        async with open_storage(CONFIG, disk=left) as storage:
            there = await is_whole_or_gone(storage)
            assert not there or number < end, kind
            assert await storage.delete(T, for_good=True) == there
            assert names(left) == []


async def test_a_full_disk_gives_hints_back_for_the_new_name() -> None:
    disk = await filled(SimDisk())
    async with open_storage(CONFIG, disk=disk) as storage:
        disk.fail("rename", error=errno.ENOSPC)
        assert await storage.delete(T, for_good=True)
        assert names(disk) == []


class SillyDisk(RealDisk):
    """Keeps a directory whose lock file was removed, as long as that is open. As NFS does."""

    def __init__(self) -> None:
        super().__init__()
        self.refused = 0

    def remove_dir(self, path: str) -> None:
        if f"{path}/wal.lock (deleted)" in open_files():
            self.refused += 1
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), path)
        super().remove_dir(path)


def open_files() -> set[str]:
    """The paths of all files that this process has open, as Linux shows them."""
    found: set[str] = set()
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the one that lists them
            found.add(os.readlink(f"/proc/self/fd/{fd}"))
    return found


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="needs to see what is open")
async def test_where_open_files_keep_a_name_the_lock_is_given_up_first(tmp_path: Path) -> None:
    disk = SillyDisk()
    async with open_storage(StorageConfig(dir=str(tmp_path), wal=WAL), disk=disk) as storage:
        await storage.append_message(T, b"x")
        assert await storage.delete(T, for_good=True)
    assert disk.refused == 1
    assert os.listdir(tmp_path / "default") == []


# ---- with an object store


async def test_the_tombstone_stays_in_the_catalog(world: World) -> None:
    async with world.open("one") as one, world.open("two") as two:
        for i in range(100):
            await one.append_message(T, b"%d" % i)
        await one.append_message(U, b"x", durability="uploaded")
        assert await one.delete(T, for_good=True)
        assert names(world.disks["one"]) == ["u"]
        assert await one.list_topics() == await two.list_topics() == [U]
        assert len(world.objects()) == 1
        assert not await two.delete(T, for_good=True)
        assert await two.append_message(T, b"its offsets are known there") == 100


async def test_who_had_the_topic_elsewhere_is_fenced(world: World) -> None:
    async with world.open("one") as one, world.open("two") as two:
        await one.append_message(T, b"0", durability="uploaded")
        await one.append_message(T, b"1")
        assert await two.delete(T, for_good=True)
        with pytest.raises(FencedError):
            await one.append_message(T, b"2", durability="uploaded")


@pytest.mark.parametrize("operation", ["list_objects", "create", "delete"])
async def test_a_deletion_for_good_that_the_store_interrupts_is_done_by_the_next(
    world: World, operation: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with world.open("one") as one:
        await one.append_message(T, b"x", durability="uploaded")
        fault = world.client("one").fail(operation, sticky=True)
        hit = False
        try:
            assert await one.delete(T, for_good=True)
        except StoreUnavailableError:
            hit = True
        assert hit == bool(fault.hits)
        fault.cancel()
        await one.delete(T, for_good=True)
        assert world.objects() == []
        assert names(world.disks["one"]) == []
        assert await one.list_topics() == []


async def killed_in_a_deletion(here: World, operations: int) -> bool:
    """Delete for good in a process that is killed after so many operations; whether it was."""
    disk = here.disks["one"]
    store = here.client("one")
    async with open_storage(CONFIG, store=store, metadata=here.metadata, disk=disk) as one:
        last = disk.op_count + operations
        disk.on_operation = lambda operation: disk.kill() if operation.number >= last else None
        try:
            await one.delete(T, for_good=True)
        except OSError:
            return True
        finally:
            disk.on_operation = None
    return False


async def test_a_process_that_is_killed_anywhere_in_a_deletion_for_good(world: World) -> None:
    seen: set[bool] = set()
    operations, killed = 0, True
    while killed:
        here = World(SimStore(), MemoryMetadata() if world.metadata is not None else None)
        async with here.open("one") as one:
            await one.append_message(T, b"x", durability="uploaded")
            await one.append_message(T, b"tail")
        killed = await killed_in_a_deletion(here, operations)
        here.disks["one"] = disk = here.disks["one"].process()
        async with here.open("one") as one:
            there = await one.list_topics() == [T]
            seen.add(there)
            assert killed or not there
            if there:
                assert await payloads(one, T) == [b"x", b"tail"]
            await one.delete(T, for_good=True)
            assert await one.list_topics() == []
            assert here.objects() == []
            assert names(disk) == []
        operations += 1
    assert operations > 20
    assert seen == {True, False}


# ---- who else sees it


def test_the_command_line_does_not_show_what_is_being_removed(tmp_path: Path) -> None:
    async def interrupted() -> None:
        async with open_storage(StorageConfig(dir=str(tmp_path), wal=WAL)) as storage:
            await storage.append_message(U, b"x")

    trio.run(interrupted)
    (tmp_path / "default" / "u").rename(tmp_path / "default" / "u.deleted")
    result = CliRunner().invoke(app, ["topics", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert "no topics" in result.output
