"""Pins: what is being fetched is not deleted, and deleting waits for no longer than that."""

from __future__ import annotations

import trio
import trio.testing
from cloud_model import World

from danube_trio import WalConfig, open_wal
from danube_trio._engine.wait.pins import Pins
from danube_trio.testing import SimDisk


async def test_several_wait_for_the_same_fetch() -> None:
    pins = Pins()
    done: list[int] = []

    async def wait(below: int) -> None:
        await pins.released(below, stored=True)
        done.append(below)

    async with trio.open_nursery() as nursery:
        with pins.pin(5, stored=False):
            nursery.start_soon(wait, 6)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(wait, 10)  # a trim, while objects are being removed
            nursery.start_soon(wait, 5)  # not held by anything below
            await trio.testing.wait_all_tasks_blocked()
            assert done == [5]
            with pins.pin(3, stored=False):
                await trio.testing.wait_all_tasks_blocked()
    assert sorted(done) == [5, 6, 10]


async def test_fetches_that_begin_later_are_not_waited_for() -> None:
    pins = Pins()
    done = trio.Event()

    async def wait() -> None:
        await pins.released(10, stored=True)
        done.set()

    async with trio.open_nursery() as nursery:
        with pins.pin(1, stored=False):
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            later = pins.pin(2, stored=False)
            later.__enter__()
        await done.wait()
        assert len(pins) == 1
        later.__exit__(None, None, None)


SMALL = WalConfig(dir="/log", segment_bytes=500, preallocate_bytes=0)


def segments(disk: SimDisk) -> list[str]:
    return [path for path in disk.tree() if path.endswith(".log")]


async def test_a_trim_removes_no_file_while_a_block_below_it_is_fetched(
    autojump_clock: trio.testing.MockClock,
) -> None:
    disk = SimDisk()
    async with open_wal(SMALL, disk=disk) as wal, trio.open_nursery() as nursery:
        for i in range(20):
            await wal.append(b"%d" % i * 45)
        before = segments(disk)
        with wal._engine.pins.pin(0, stored=False):
            nursery.start_soon(wal.trim, 15)
            await trio.sleep(60)
            assert wal.start_offset == 15, "nobody begins below it any more"
            assert segments(disk) == before
        await trio.sleep(60)
        assert len(segments(disk)) < len(before)


async def test_pruning_removes_no_file_while_a_block_of_it_is_fetched(
    autojump_clock: trio.testing.MockClock,
) -> None:
    world = World.new("manifests")
    async with world.open() as wal:
        with wal._engine.pins.pin(0, stored=False):
            for i in range(20):
                await wal.append(b"%d" % i * 45)
            await wal.wait_uploaded(20)
            await trio.sleep(60)
            assert min(segments(world.disk)).endswith("wal.00000000000000000000.log")
        await trio.sleep(60)
        assert len(segments(world.disk)) == 1


async def test_an_object_stays_while_a_block_of_it_is_fetched(
    autojump_clock: trio.testing.MockClock,
) -> None:
    world = World.new("manifests")
    async with world.open() as wal:
        for i in range(20):
            await wal.append(b"%d" % i * 45)
        await wal.wait_uploaded(20)
        await trio.sleep(60)

        def objects() -> list[str]:
            return [key for key in world.store.tree() if key.endswith(".dnb1")]

        before = objects()
        with wal._engine.pins.pin(0, stored=True):
            await wal.trim(15)
            await trio.sleep(60)
            assert objects() == before
        await trio.sleep(60)
        assert len(objects()) < len(before)
