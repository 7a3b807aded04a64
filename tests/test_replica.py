"""Replicas: a log read from its object store alone; and a follower with the store beside."""

from __future__ import annotations

import itertools

import attrs
import pytest
import trio
import trio.testing

from danube_trio import (
    CloudConfig,
    LogClosedError,
    OffsetTrimmedError,
    Reader,
    StartPosition,
    StoreUnavailableError,
    StreamMessage,
    WalConfig,
    open_follower,
    open_replica,
    open_wal,
)
from danube_trio.testing import SimDisk, SimStore

CLOUD = CloudConfig(prefix="log", keep_local_bytes=0, block_bytes=4096, cache_bytes=20_000)
CONFIG = WalConfig(dir="/log", segment_bytes=10_000, cloud=CLOUD)


async def fill(disk: SimDisk, store: SimStore, count: int) -> None:
    """So many records more, all of them uploaded."""
    ticks = itertools.count(1000)
    async with open_wal(CONFIG, disk=disk, store=store, clock=lambda: next(ticks)) as wal:
        for _ in range(count):
            await wal.append(b"%d" % wal.next_offset + bytes(90))
        await wal.wait_uploaded(wal.next_offset)


async def test_a_replica_needs_the_store_only() -> None:
    store = SimStore()
    await fill(SimDisk(), store, 400)
    async with open_replica(store.client(), prefix="log", settings=CLOUD) as replica:
        assert (replica.start_offset, replica.durable_end) == (0, 400)
        found = [m async for m in replica.reader(end="current")]
        assert [m.offset for m in found] == list(range(400))
        assert [m.payload for m in found] == [b"%d" % n + bytes(90) for n in range(400)]
        statistics = replica.statistics()
        assert statistics.fetched_bytes >= statistics.object_bytes
        assert statistics.cached_bytes <= CLOUD.cache_bytes


@pytest.mark.parametrize("start", range(0, 400, 37))
async def test_a_replica_begins_at_any_offset_and_time(start: int) -> None:
    store = SimStore()
    await fill(SimDisk(), store, 400)
    async with open_replica(store, prefix="log", settings=CLOUD) as replica:
        reader = replica.reader(StartPosition.offset(start), count=3, raw=True)
        first = [record async for record in reader]
        assert [record.offset for record in first] == list(range(start, min(start + 3, 400)))
        time = StartPosition.timestamp(first[0].append_time / 1e6)
        assert (await anext(replica.reader(time))).offset == start


async def test_a_replica_follows_new_objects(autojump_clock: trio.testing.MockClock) -> None:
    disk, store = SimDisk(), SimStore()
    await fill(disk, store, 10)
    async with open_replica(store.client(), prefix="log", poll_seconds=2) as replica:
        seen: list[int] = []

        async def watch() -> None:
            async for message in replica.reader(StartPosition.offset(5), end=30):
                seen.append(message.offset)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            await trio.testing.wait_all_tasks_blocked()
            assert seen == list(range(5, 10))
            await fill(disk, store, 20)
        assert seen == list(range(5, 30))
        with trio.fail_after(60):
            await replica.wait_durable(30)


async def test_a_replica_that_is_left_tells_those_who_wait() -> None:
    store = SimStore()
    await fill(SimDisk(), store, 3)
    caught: list[Exception] = []

    async def wait(reader: Reader[StreamMessage]) -> None:
        try:
            await anext(reader)
        except LogClosedError as error:
            caught.append(error)

    async with trio.open_nursery() as nursery:
        async with open_replica(store, prefix="log", poll_seconds=1000) as replica:
            nursery.start_soon(wait, replica.reader(StartPosition.latest()))
            await trio.testing.wait_all_tasks_blocked()
    assert "replica is closed" in str(caught[0])
    with pytest.raises(LogClosedError):
        replica.reader()


async def test_a_replica_of_nothing_says_where_it_looked() -> None:
    with pytest.raises(FileNotFoundError, match=r"not there \(yet\).*sim:/nothing"):
        async with open_replica(SimStore(), prefix="nothing"):
            raise AssertionError


async def test_what_the_body_raises_comes_out_as_it_is() -> None:
    store = SimStore()
    await fill(SimDisk(), store, 3)
    with pytest.raises(KeyError, match="mine"):
        async with open_replica(store, prefix="log"):
            raise KeyError("mine")


@pytest.mark.happens
async def test_retention_overtakes_a_replica_with_an_error_that_says_so() -> None:
    disk, store = SimDisk(), SimStore()
    await fill(disk, store, 400)
    async with open_replica(store.client(), prefix="log", settings=CLOUD) as replica:
        async with open_wal(CONFIG, disk=disk, store=store) as wal:
            await wal.trim(200)
            # Objects go in a later round of the owner.
            while any("/00000000000000000000-" in key for key in store.tree()):
                await trio.testing.wait_all_tasks_blocked(0.001)
        with pytest.raises(OffsetTrimmedError) as caught:
            await anext(replica.reader())
        assert caught.value.start_offset == 200
        assert (await anext(replica.reader())).offset == 200


async def test_a_store_that_fails_is_told_and_the_same_reader_goes_on() -> None:
    store = SimStore()
    await fill(SimDisk(), store, 100)
    client = store.client()
    calm = attrs.evolve(CLOUD, readahead=0)
    async with open_replica(client, prefix="log", settings=calm) as replica:
        reader = replica.reader(end="current")
        client.fail("get", kind="unavailable")
        with pytest.raises(StoreUnavailableError):
            await anext(reader)
        assert [m.offset async for m in reader] == list(range(100))


async def test_a_follower_reads_the_front_from_the_store() -> None:
    disk, store = SimDisk(), SimStore()
    async with open_wal(CONFIG, disk=disk, store=store) as wal:
        for number in range(300):
            await wal.append(b"%d" % number + bytes(90))
        await wal.wait_uploaded(200)
        statistics = wal.statistics().cloud
        assert statistics is not None
        async with open_follower("/log", disk=disk, store=store.client(), prefix="log") as follower:
            assert follower.start_offset == 0
            offsets = [m.offset async for m in follower.reader(end="current")]
            assert offsets == list(range(300))


async def test_a_follower_without_the_store_says_what_it_needs() -> None:
    disk, store = SimDisk(), SimStore()
    await fill(disk, store, 300)
    async with open_follower("/log", disk=disk) as follower:
        assert follower.start_offset == 0
        with pytest.raises(StoreUnavailableError, match="open the log with its store"):
            await anext(follower.reader())


async def test_without_its_store_a_log_goes_on_and_says_what_it_cannot_read() -> None:
    disk, store = SimDisk(), SimStore()
    await fill(disk, store, 300)
    async with open_wal(CONFIG, disk=disk) as wal:
        assert (wal.start_offset, wal.next_offset) == (0, 300)
        assert await wal.append(b"local") == 300
        with pytest.raises(StoreUnavailableError, match="open the log with its store"):
            await anext(wal.reader())
        assert (await anext(wal.reader(StartPosition.offset(300)))).payload == b"local"
    async with open_wal(CONFIG, disk=disk, store=store) as wal:
        assert [m.offset async for m in wal.reader(end="current")] == list(range(301))


async def test_a_refresh_shows_waiting_readers_what_it_saw(
    autojump_clock: trio.testing.MockClock,
) -> None:
    disk, store = SimDisk(), SimStore()
    await fill(disk, store, 3)
    async with open_replica(store.client(), prefix="log", poll_seconds=3600) as replica:
        seen: list[int] = []

        async def watch() -> None:
            async for message in replica.reader(end=5):
                seen.append(message.offset)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            await trio.testing.wait_all_tasks_blocked()
            await fill(disk, store, 2)
            before = trio.current_time()
            await replica.refresh()
        assert seen == list(range(5))
        assert trio.current_time() - before < 60


async def test_who_reads_while_a_replica_is_left_is_not_left_hanging(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = SimStore(latency=0.5)
    await fill(SimDisk(), store, 400)
    caught: list[Exception] = []

    async def read(reader: Reader[StreamMessage]) -> None:
        try:
            async for _ in reader:
                await trio.sleep(0.01)
        except Exception as error:
            caught.append(error)

    with trio.fail_after(600):
        async with trio.open_nursery() as nursery:
            async with open_replica(store.client(), prefix="log", settings=CLOUD) as replica:
                for start in (0, 100, 200, 300):
                    nursery.start_soon(read, replica.reader(StartPosition.offset(start)))
                await trio.sleep(0.7)
    assert caught
    assert all(isinstance(error, LogClosedError) for error in caught), caught
