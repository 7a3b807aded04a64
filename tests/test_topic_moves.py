"""Topics that move between two processes through a shared store, and are deleted.

Each process has a directory of its own. The catalogs are manifests in the object store, or in a
shared metadata store under Danube's keys.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import attrs
import pytest
import topic_child
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from danube_trio import (
    CloudConfig,
    CorruptDataError,
    FencedError,
    LogBrokenError,
    LogClosedError,
    LogLockedError,
    Reader,
    StartPosition,
    Storage,
    StorageConfig,
    StoreUnavailableError,
    StreamMessage,
    WalConfig,
    open_storage,
    open_wal,
)
from danube_trio._disk.real import RealDisk
from danube_trio.cloud import DirectoryStore
from danube_trio.metadata import MemoryMetadata
from danube_trio.testing import Operation, SimDisk, SimStore

WAL = WalConfig(
    segment_bytes=4000,
    preallocate_bytes=0,
    cloud=CloudConfig(keep_local_bytes=0, retry_seconds=1.0, upload_interval=5.0),
)
CONFIG = StorageConfig(dir="/data", wal=WAL, idle_seconds=10)
T, U = "/default/t", "/default/u"
# Each so many operations a process is killed; 1 is the long campaign.
STEP = int(os.environ.get("DANUBE_TOPIC_KILL_STEP", "4"))


@attrs.define(eq=False)
class World:
    """The shared stores, and a disk for each process."""

    store: SimStore
    metadata: MemoryMetadata | None
    disks: dict[str, SimDisk] = attrs.Factory(dict[str, SimDisk])
    clients: dict[str, SimStore] = attrs.Factory(dict[str, SimStore])

    def client(self, process: str) -> SimStore:
        """A process's client of the store: faults are a client's."""
        if process not in self.clients:
            self.clients[process] = self.store.client(process)
        return self.clients[process]

    def open(self, process: str, **more: Any) -> AbstractAsyncContextManager[Storage]:
        """A process's storage."""
        disk = self.disks.setdefault(process, SimDisk(seed=process))
        config = attrs.evolve(CONFIG, **more)
        store = self.client(process)
        return open_storage(config, store=store, metadata=self.metadata, disk=disk)

    def objects(self) -> list[str]:
        return [key for key in self.store.tree() if key.endswith(".dnb1")]


@pytest.fixture(params=["manifests", "metadata"])
async def world(request: pytest.FixtureRequest) -> World:
    metadata = MemoryMetadata() if request.param == "metadata" else None
    return World(SimStore(), metadata)


async def payloads(storage: Storage, topic: str) -> list[bytes]:
    reader = await storage.create_reader(topic, end="current")
    return [message.payload async for message in reader]


async def offsets(reader: Reader[StreamMessage]) -> list[int]:
    return [message.offset async for message in reader]


# ---- moves


async def test_a_sealed_topic_goes_on_elsewhere(world: World) -> None:
    async with world.open("one") as one, world.open("two") as two:
        for i in range(100):
            await one.append_message(T, b"%d" % i)
        assert await one.seal(T) == 100
        assert await one.seal(T) == 100, "the answer is kept"
        assert await two.current_offset(T) == 100
        for i in range(100, 200):
            assert await two.append_message(T, b"%d" % i) == i
        assert await payloads(two, T) == [b"%d" % i for i in range(200)]


async def test_it_can_come_back(world: World) -> None:
    async with world.open("one") as one, world.open("two") as two:
        owners = [one, two] * 3
        for i, owner in enumerate(owners):
            assert await owner.append_message(T, b"%d" % i) == i
            assert await owner.seal(T) == i + 1
        assert await payloads(one, T) == [b"%d" % i for i in range(6)]


@pytest.mark.happens
async def test_what_was_given_away_is_not_taken_back_by_a_stray_append(world: World) -> None:
    async with world.open("one") as one, world.open("two") as two:
        await one.append_message(T, b"0")
        await one.seal(T)
        with pytest.raises(LogClosedError, match=r"sealed here at offset 1.*take_over"):
            await one.append_message(T, b"stray")
        await two.append_message(T, b"1")
        for _ in range(2):
            with pytest.raises(FencedError, match="epoch 2"):
                await one.append_message(T, b"stray")
        assert one.statistics().given_away == 1
        await one.append_message(U, b"x")
        assert await two.append_message(T, b"2") == 2
        assert await payloads(two, T) == [b"0", b"1", b"2"]


async def test_a_seal_can_be_taken_back(world: World) -> None:
    async with world.open("one") as one:
        await one.append_message(T, b"0")
        await one.seal(T)
        await one.take_over(T)
        assert await one.append_message(T, b"1") == 1
        assert await payloads(one, T) == [b"0", b"1"]


async def test_an_unsealed_take_over_fences_the_one_before(world: World) -> None:
    async with world.open("one") as one, world.open("two") as two:
        await one.append_message(T, b"uploaded", durability="uploaded")
        await one.append_message(T, b"only here")
        assert await two.append_message(T, b"next") == 1
        with pytest.raises(FencedError):
            await one.append_message(T, b"x", durability="uploaded")
        await wait_all_tasks_blocked()
        with pytest.raises(FencedError, match="epoch 2"):
            await one.append_message(T, b"y")
        assert await one.append_message(U, b"others go on") == 0
        assert await payloads(two, T) == [b"uploaded", b"next"]
        await one.take_over(T)
        with pytest.raises(FencedError):
            await two.append_message(T, b"x", durability="uploaded")
    assert any(path.endswith(".fenced") for path in world.disks["one"].tree())


async def test_a_fenced_topic_says_so_to_who_comes_later(
    world: World, autojump_clock: MockClock
) -> None:
    async with world.open("one") as one, world.open("two") as two:
        await one.append_message(T, b"0", durability="uploaded")
        await one.append_message(T, b"1")
        await two.append_message(T, b"1, too")
        await trio.sleep(100)
        with pytest.raises(FencedError):
            await one.append_message(T, b"2")
        await two.seal(T)
        assert await one.append_message(T, b"2") == 2
        assert await payloads(one, T) == [b"0", b"1, too", b"2"]


async def test_readers_of_a_sealed_topic_are_told(world: World) -> None:
    async with world.open("one") as one:
        await one.append_message(T, b"0")
        reader = await one.create_reader(T)
        assert (await anext(reader)).payload == b"0"

        async def wait_for_more() -> None:
            with pytest.raises(LogClosedError):
                await anext(reader)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait_for_more)
            await wait_all_tasks_blocked()
            await one.seal(T)
        with pytest.raises(LogClosedError):
            await one.append_message(T, b"1")


async def test_a_seal_that_was_cancelled_goes_on_with_the_next(
    world: World, autojump_clock: MockClock
) -> None:
    async with world.open("one") as one, world.open("two") as two:
        await one.append_message(T, b"0")
        fault = world.client("one").fail("upload", sticky=True)
        with trio.move_on_after(20) as scope:
            await one.seal(T)
        assert scope.cancelled_caught
        with pytest.raises(LogClosedError, match="sealed"):
            await one.append_message(T, b"1")
        await trio.sleep(100)  # it is not closed for being idle: the seal would be forgotten
        with pytest.raises(LogClosedError, match="sealed"):
            await one.append_message(T, b"1")
        fault.cancel()
        assert await one.seal(T) == 1
        assert await two.append_message(T, b"1") == 1


@pytest.mark.parametrize("delay", [0.05, 0.15, 0.25, 0.45, 0.75, 1.05])
async def test_a_use_that_meets_a_take_over_is_served_after_it(
    world: World, delay: float, autojump_clock: MockClock
) -> None:
    world.disks["one"] = SimDisk(latency=0.1)
    async with world.open("one") as one:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.append_message, T, b"x")
            await trio.sleep(delay)
            await one.take_over(T)
        assert await payloads(one, T) == [b"x"]


async def test_an_empty_topic_can_move(world: World) -> None:
    async with world.open("one") as one, world.open("two") as two:
        assert await one.seal(T) == 0
        assert await two.append_message(T, b"0") == 0
        assert await payloads(two, T) == [b"0"]


async def test_a_topic_that_is_sealed_twice_at_a_time(world: World) -> None:
    async with world.open("one") as one:
        await one.append_message(T, b"0")
        ends: list[int] = []

        async def seal() -> None:
            ends.append(await one.seal(T))

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(seal)
        assert ends == [1, 1, 1]


async def test_seal_needs_an_object_store() -> None:
    async with open_storage(CONFIG, disk=SimDisk()) as storage:
        with pytest.raises(ValueError, match="object store"):
            await storage.seal(T)


async def test_ten_thousand_records_on_each_side_of_a_move(world: World) -> None:
    wal = attrs.evolve(WAL, segment_bytes=100_000)
    async with world.open("one", wal=wal) as one:
        for start in range(0, 10_000, 500):
            await one.append_batch(T, [b"%d" % i for i in range(start, start + 500)])
        assert await one.seal(T) == 10_000
    world.disks["one"] = SimDisk()  # the first directory is gone
    async with world.open("two", wal=wal) as two:
        assert await two.current_offset(T) == 10_000
        for start in range(10_000, 20_000, 500):
            found = await two.append_batch(T, [b"%d" % i for i in range(start, start + 500)])
            assert found == range(start, start + 500)
        reader = await two.create_reader(T, StartPosition.offset(0), end="current")
        seen = [(message.offset, message.payload) async for message in reader]
    assert seen == [(i, b"%d" % i) for i in range(20_000)]


def run_child(directory: Path, who: str, first: int, number: int) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    command = [sys.executable, topic_child.__file__, str(directory), who, str(first), str(number)]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr


async def test_a_topic_moves_between_two_processes(tmp_path: Path) -> None:
    await trio.to_thread.run_sync(run_child, tmp_path, "one", 0, 2000)
    for path in sorted((tmp_path / "one").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    await trio.to_thread.run_sync(run_child, tmp_path, "two", 2000, 2000)
    async with DirectoryStore(tmp_path / "store", RealDisk()) as store:
        config = StorageConfig(dir=tmp_path / "three", wal=topic_child.WAL)
        async with open_storage(config, store=store) as storage:
            assert await storage.list_topics() == [topic_child.TOPIC]
            assert await payloads(storage, topic_child.TOPIC) == [b"%d" % i for i in range(4000)]


# ---- what only a directory has


async def test_an_idle_topic_is_uploaded_before_it_is_closed(
    world: World, autojump_clock: MockClock
) -> None:
    wal = attrs.evolve(WAL, cloud=attrs.evolve(WAL.cloud, upload_interval=1e6))
    async with world.open("one", wal=wal) as one:
        await one.append_message(T, b"x")
        fault = world.client("one").fail("upload", sticky=True)
        await trio.sleep(100)
        assert one.statistics().open_topics == 1
        fault.cancel()
        await trio.sleep(100)
        assert one.statistics().open_topics == 0
        assert len(world.objects()) == 1


async def test_full_segments_only_are_uploaded_if_that_is_wanted(
    world: World, autojump_clock: MockClock
) -> None:
    wal = attrs.evolve(WAL, cloud=attrs.evolve(WAL.cloud, upload_interval=None))
    async with world.open("one", wal=wal) as one:
        await one.append_message(T, b"x")
        await trio.sleep(100)
        assert one.statistics().open_topics == 0
        assert world.objects() == []
        assert await one.append_message(T, b"y") == 1


async def test_what_had_to_make_room_is_uploaded_when_there_is_room(
    world: World, autojump_clock: MockClock
) -> None:
    async with world.open("one", max_open_topics=2) as one:
        fault = world.client("one").fail("upload", sticky=True)
        for topic in (T, U, "/default/v", "/default/w"):
            await one.append_message(topic, b"x")
        assert one.statistics().not_uploaded == 2
        fault.cancel()
        await trio.sleep(200)
        assert one.statistics().not_uploaded == 0
        assert one.statistics().open_topics == 0
        assert len(world.objects()) == 4


async def test_a_store_that_does_not_answer_is_told_to_who_opens(
    world: World, autojump_clock: MockClock
) -> None:
    async with world.open("one") as one:
        await one.append_message(T, b"x")
        fault = world.client("one").fail(None, sticky=True)
        if world.metadata is None:
            with pytest.raises(StoreUnavailableError):
                await one.append_message(U, b"x")
        assert await one.append_message(T, b"y") == 1
        fault.cancel()
        assert await one.append_message(U, b"x") == 0


async def test_a_store_that_hangs_keeps_nobody_from_leaving(
    world: World, autojump_clock: MockClock
) -> None:
    async with world.open("one") as one, world.open("two") as two:
        await one.append_message(T, b"x")
        await one.append_message(U, b"x")
        await one.seal(U)
        await two.append_message(U, b"y")
    async with trio.open_nursery() as nursery:

        async def use(storage: Storage, topic: str) -> None:
            with pytest.raises(LogClosedError, match="storage is closed"):
                await storage.append_message(topic, b"x", durability="uploaded")

        async with world.open("one") as one:
            await one.append_message("/default/open", b"x")
            world.client("one").fail(None, kind="hang", sticky=True)
            if world.metadata is None:
                nursery.start_soon(use, one, T)
                nursery.start_soon(use, one, U)
            with trio.move_on_after(5) as scope:
                await one.delete("/default/open")
            assert scope.cancelled_caught


# ---- deleting


async def test_a_deleted_topic_is_gone_and_its_offsets_are_not_given_again(world: World) -> None:
    async with world.open("one") as one, world.open("two") as two:
        for i in range(100):
            await one.append_message(T, bytes(100), durability="uploaded" if i == 50 else None)
        await one.append_message(U, b"x")
        assert await one.delete(T)
        assert await one.list_topics() == [U]
        assert await two.list_topics() == [U]
        assert not [key for key in world.objects() if T in key]
        left = [p.rpartition("/")[2] for p in world.disks["one"].tree() if T in p]
        assert left == ["deleted", *(f"wal.{n:020d}.log" for n in [100]), *left[2:]]
        assert set(left[2:]) <= {"wal.lock", "wal.mark", "wal.meta", "wal.trim"}
        assert not await one.delete(T), "there is none"
        assert await two.append_message(T, b"new") == 100
        assert await payloads(two, T) == [b"new"]
        assert await two.list_topics() == [T, U]


@pytest.mark.parametrize("nth", range(1, 14))
async def test_a_deletion_that_comes_back_in_a_power_cut_deletes_nothing_new(nth: int) -> None:
    """The sync that makes the removal of its marker durable failed, and was not made up for."""
    disk = SimDisk()
    async with open_storage(CONFIG, disk=disk) as storage:
        for i in range(5):
            await storage.append_message(T, b"%d" % i)
        await storage.delete(T)
    disk.fail("sync_dir", nth)
    acked: list[bytes] = []
    for attempt in (b"first", b"second"):
        try:
            async with open_storage(CONFIG, disk=disk) as storage:
                await storage.append_message(T, attempt)
                acked.append(attempt)
        except (OSError, LogBrokenError):
            continue
    assert acked
    for state in disk.crash_states():
        async with open_storage(CONFIG, disk=state.disk) as storage:
            assert (await payloads(storage, T))[: len(acked)] == acked, state.name


async def test_a_topic_without_a_store_is_deleted_too() -> None:
    disk = SimDisk()
    async with open_storage(CONFIG, disk=disk) as storage:
        for _ in range(100):
            await storage.append_message(T, bytes(100))
        assert await storage.delete(T)
        assert await storage.list_topics() == []
        assert not await storage.delete(T)
        assert not await storage.delete(U)
        assert await storage.list_topics() == []
        assert (await storage.start_offset(T), await storage.current_offset(T)) == (100, 100)
        assert await storage.append_message(T, b"new") == 100
        assert await payloads(storage, T) == [b"new"]
        assert await storage.list_topics() == [T]
    async with open_storage(CONFIG, disk=disk) as storage:
        assert await storage.delete(T)
        assert await storage.append_message(T, b"newer") == 101


async def test_a_topic_in_use_is_not_deleted(world: World) -> None:
    async with world.open("one") as one:
        await one.append_message(T, b"x")
        async with one.topic(T):
            with pytest.raises(trio.BusyResourceError, match="blocks: 1, readers: 0"):
                await one.delete(T)
        reader = await one.create_reader(T)
        with pytest.raises(trio.BusyResourceError, match="blocks: 0, readers: 1"):
            await one.delete(T)
        assert (await anext(reader)).payload == b"x"
        await reader.aclose()
        assert await one.delete(T)


async def test_uses_wait_for_a_deletion(world: World, autojump_clock: MockClock) -> None:
    world.disks["one"] = SimDisk(latency=0.1)
    async with world.open("one") as one:
        await one.append_message(T, b"old")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.delete, T)
            await trio.sleep(0.25)
            assert await one.append_message(T, b"new") == 1
        assert await payloads(one, T) == [b"new"]


async def test_a_topic_that_another_process_has_is_taken_from_it(world: World) -> None:
    async with world.open("one") as one, world.open("two") as two:
        await one.append_message(T, b"0", durability="uploaded")
        await one.append_message(T, b"1")
        assert await two.delete(T)
        with pytest.raises(FencedError):
            await one.append_message(T, b"2", durability="uploaded")
        await wait_all_tasks_blocked()
        assert await one.append_message(T, b"new life") == 1
        assert await payloads(one, T) == [b"new life"], "its old tail is not part of it"


async def test_a_directory_that_another_process_has_open_is_not_deleted() -> None:
    disk = SimDisk()
    async with open_storage(CONFIG, disk=disk) as storage:
        await storage.append_message(T, b"x")
    config = attrs.evolve(WAL, dir=f"/data{T}")
    async with open_wal(config, disk=disk.process()):
        async with open_storage(CONFIG, disk=disk) as storage:
            with pytest.raises(LogLockedError):
                await storage.delete(T)
            assert await storage.list_topics() == [T]


async def test_a_damaged_topic_can_be_deleted() -> None:
    disk = SimDisk()
    async with open_storage(CONFIG, disk=disk) as storage:
        for _ in range(10):
            await storage.append_message(T, b"x")
    disk.corrupt(f"/data{T}/wal.00000000000000000000.log", 30)
    async with open_storage(CONFIG, disk=disk) as storage:
        with pytest.raises(CorruptDataError):
            await storage.append_message(T, b"y")
        assert await storage.delete(T)
        assert await storage.append_message(T, b"z") == 10


@pytest.mark.parametrize("operation", ["list_objects", "create", "delete"])
async def test_a_deletion_that_the_store_interrupts_is_done_by_the_next(
    world: World, operation: str, autojump_clock: MockClock
) -> None:
    async with world.open("one") as one:
        await one.append_message(T, b"x", durability="uploaded")
        fault = world.client("one").fail(operation, sticky=True)
        hit = False
        try:
            assert await one.delete(T)
        except StoreUnavailableError as error:
            hit = True
            text = "".join([str(error), *getattr(error, "__notes__", [])])
            assert operation != "delete" or "Delete it again" in text
        assert hit == bool(fault.hits)
        fault.cancel()
        await one.delete(T)
        assert world.objects() == []
        assert await one.list_topics() == []
        assert await one.append_message(T, b"y") == 1


async def test_a_crash_anywhere_in_a_deletion_leaves_all_or_nothing() -> None:
    disk = SimDisk(seed="deletion")
    async with open_storage(CONFIG, disk=disk) as storage:
        for _ in range(25):
            await storage.append_message(T, bytes(200))
    began = disk.op_count
    async with open_storage(CONFIG, disk=disk) as storage:
        ready = disk.op_count
        await storage.delete(T)
        done = disk.op_count
    assert began < ready < done
    seen: set[bool] = set()
    for point in disk.crash_points(start=ready):
        if point.op_count > done:
            break
        for state in point.states:
            async with open_storage(CONFIG, disk=state.disk) as storage:
                there = await storage.list_topics() == [T]
                seen.add(there)
                assert not there or point.op_count < done
                assert await storage.current_offset(T) == 25
                assert await storage.start_offset(T) == (0 if there else 25)
                assert len(await payloads(storage, T)) == (25 if there else 0)
                assert await storage.append_message(T, b"goes on") == 25
                assert await storage.delete(T)
                assert await storage.append_message(T, b"and on") == 26
    assert seen == {True, False}


async def test_a_process_that_is_killed_anywhere_in_a_deletion(world: World) -> None:
    """Killed before the operations of its disk: the topic is whole or deleted, and goes on."""
    kills = 0
    seen: set[bool] = set()
    while True:
        here = World(SimStore(), MemoryMetadata() if world.metadata is not None else None)
        disk = here.disks["one"] = SimDisk()
        async with here.open("one") as one:
            for _ in range(20):
                await one.append_message(T, bytes(100))
            await one.append_message(T, b"x", durability="uploaded")
            await one.append_message(T, b"tail")
        async with open_storage(  # without the topic's uploader in between
            CONFIG, store=here.client("one"), metadata=here.metadata, disk=disk
        ) as one:
            victim, left = disk, kills

            def count(_: Operation, victim: SimDisk = victim) -> None:
                nonlocal left
                left -= 1
                if left < 0:
                    victim.kill()

            disk.on_operation = count
            with contextlib.suppress(OSError):
                await one.delete(T)
            disk.on_operation = None
        if left >= 0:
            break
        kills += STEP
        here.disks["one"] = disk.process()
        async with here.open("one") as one:
            there = await one.list_topics() == [T]
            seen.add(there)
            assert len(await payloads(one, T)) == (22 if there else 0)
            assert await one.append_message(T, b"goes on") == 22
            assert await one.delete(T)
            assert await one.list_topics() == []
            assert here.objects() == []
            assert await one.append_message(T, b"and on") == 23
    assert kills > 20
    assert seen == {True, False}
