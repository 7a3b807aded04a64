"""Reading a log with an object store: every seam between the tiers, healing, damage, pins."""

from __future__ import annotations

import attrs
import pytest
import trio
import trio.testing
from cloud_model import CONFIG, World, cloud, everything

from danube_trio import StartPosition, Wal, WalConfig, open_wal
from danube_trio.errors import CorruptDataError, StoreUnavailableError
from danube_trio.testing import SimDisk, SimStore, StoreOperation

RECORDS = 24
HUGE = 1 << 20


def kept(keep: int, capacity: int = 4, **cloud_settings: int) -> WalConfig:
    settings = attrs.evolve(CONFIG.cloud, keep_local_bytes=keep, **cloud_settings)  # type: ignore[arg-type]
    return attrs.evolve(CONFIG, cache_capacity=capacity, cloud=settings)


async def filled(wal: Wal) -> list[bytes]:
    """Batches and single records, a second apart, all uploaded but the last few."""
    payloads: list[bytes] = []
    while len(payloads) < RECORDS:
        count = 1 + len(payloads) % 4
        batch = [b"%d " % (len(payloads) + i) * 20 for i in range(count)]
        await wal.append_batch(batch)
        payloads += batch
        await trio.sleep(1)
    await wal.wait_uploaded(RECORDS - 4)
    await trio.sleep(11)
    return payloads


@pytest.mark.parametrize("capacity", [1, 5, 1000])
@pytest.mark.parametrize("keep", [0, 1000, HUGE])
@pytest.mark.parametrize("again", [False, True], ids=["at once", "reopened"])
async def test_readers_cross_every_seam_from_every_offset(
    again: bool, keep: int, capacity: int, autojump_clock: trio.testing.MockClock
) -> None:
    world, config = World.new("manifests"), kept(keep, capacity)
    async with world.open(config) as wal:
        payloads = await filled(wal)
        if not again:
            await check_reads(wal, payloads)
    if again:
        async with world.open(config) as wal:
            await check_reads(wal, payloads)


async def check_reads(wal: Wal, payloads: list[bytes]) -> None:
    end = len(payloads)
    records = [r async for r in wal.reader(end="current", raw=True)]
    times = [record.append_time for record in records]
    assert times == sorted(times)
    for start in range(end + 1):
        at = StartPosition.offset(start)
        found = [m.payload async for m in wal.reader(at, end="current")]
        assert found == payloads[start:]
        counted = [m.payload async for m in wal.reader(at, count=7)] if start + 7 <= end else []
        assert counted == (payloads[start : start + 7] if start + 7 <= end else [])
        stopped = [m.offset async for m in wal.reader(at, end=min(end, start + 5))]
        assert stopped == list(range(start, min(end, start + 5)))
        batches = [b async for b in wal.reader(at, end="current", raw=True).batches()]
        assert [r.offset for b in batches for r in b] == list(range(start, end))
        if start < end:
            when = StartPosition.timestamp(times[start] / 1e6)
            found = [m.payload async for m in wal.reader(when, end="current")]
            assert found == payloads[times.index(times[start]) :]
    live = wal.reader(StartPosition.offset(0))
    for payload in payloads:
        assert (await live.__anext__()).payload == payload
    await wal.append(b"live")
    payloads.append(b"live")
    assert (await live.__anext__()).payload == b"live"


@pytest.mark.parametrize("latency", [0.0, 0.3])
async def test_readers_go_on_while_everything_moves_under_them(
    latency: float, autojump_clock: trio.testing.MockClock
) -> None:
    """Rolls, uploads and pruning overtake readers in the middle of each fetch."""
    world = World(SimDisk(latency=latency / 7), SimStore(latency=latency))
    config = attrs.evolve(kept(0, 1), read_block_bytes=300)
    async with world.open(config) as wal, trio.open_nursery() as nursery:

        async def follow(pause: float) -> None:
            reader, expected = wal.reader(), 0
            async for message in reader:
                assert (message.offset, message.payload) == (expected, b"%d " % expected * 30)
                expected += 1
                if expected == 60:
                    return
                await trio.sleep(pause)

        for pause in (0, 0.05, 0.4, 1.7):
            nursery.start_soon(follow, pause)
        for i in range(60):
            await wal.append(b"%d " % i * 30)
            await trio.sleep(0.3)


async def test_nothing_is_deleted_while_it_is_being_fetched(
    autojump_clock: trio.testing.MockClock,
) -> None:
    world = World.new("manifests")
    async with world.open(kept(0)) as wal:
        await filled(wal)
        fetching, go_ahead = trio.Event(), trio.Event()

        async def pause(operation: StoreOperation) -> None:
            if operation.name == "get" and "segments" in operation.key:
                fetching.set()
                await go_ahead.wait()

        world.store.before = pause
        async with trio.open_nursery() as nursery:

            async def read() -> None:
                assert (await wal.reader().__anext__()).offset == 0

            nursery.start_soon(read)
            await fetching.wait()
            assert cloud(wal).pins == 1
            nursery.start_soon(wal.trim, 12)
            await trio.sleep(30)
            assert any("segments/" + "0" * 20 in key for key in world.store.tree())
            go_ahead.set()
        world.store.before = None
        await trio.sleep(11)
        assert wal.start_offset == 12
        assert not any("segments/" + "0" * 20 in key for key in world.store.tree())


async def test_files_stay_while_one_of_them_is_being_read(
    autojump_clock: trio.testing.MockClock,
) -> None:
    world = World.new("manifests")
    async with world.open(kept(HUGE)) as wal, trio.open_nursery() as nursery:
        await filled(wal)
        files = [path for path in world.disk.tree() if path.endswith(".log")]
        with wal._engine.pins.pin(1, stored=False):
            nursery.start_soon(wal.trim, 12)
            await trio.sleep(11)
            assert wal.start_offset == 12
            assert files == [path for path in world.disk.tree() if path.endswith(".log")]
        await trio.sleep(1)
        assert files[0] not in world.disk.tree()


# ---- damage


@pytest.mark.happens
async def test_a_damaged_local_file_is_healed_from_its_object(
    autojump_clock: trio.testing.MockClock,
) -> None:
    world, config = World.new("manifests"), kept(HUGE)
    async with world.open(config) as wal:
        payloads = await filled(wal)
    segments = sorted(path for path in world.disk.tree() if path.endswith(".log"))
    for path in segments[:3]:
        size = len(world.disk.read_file(path))
        for damage in ["cut", "gone", *range(0, size, 41)]:
            disk = world.disk.crash("everything written")
            if damage == "gone":
                disk.unlink(path)
            elif damage == "cut":
                disk.write_file(path, disk.read_file(path)[: size // 2])
            else:
                disk.corrupt(path, int(damage), 3)
            copy = World(disk, world.store.clone())
            if damage in ("gone", "cut"):
                async with copy.open(config) as wal:
                    assert list((await everything(wal)).payloads.values()) == payloads
                continue
            async with copy.open(config) as wal:
                assert list((await everything(wal)).payloads.values()) == payloads
                await trio.sleep(11)
                assert list((await everything(wal)).payloads.values()) == payloads
            assert any(name.endswith(".corrupt") for name in disk.tree()), damage


async def test_a_file_that_is_damaged_while_the_log_is_open_is_healed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    world, config = World.new("manifests"), kept(HUGE)
    async with world.open(config) as wal:
        payloads = await filled(wal)
        path = sorted(path for path in world.disk.tree() if path.endswith(".log"))[2]
        world.disk.corrupt(path, 100, 1)
        assert list((await everything(wal)).payloads.values()) == payloads
        await trio.sleep(11)
        assert path not in world.disk.tree()
        [name] = [name for name in world.disk.tree() if name.endswith(".corrupt")]
        assert name.startswith(path)
        assert list((await everything(wal)).payloads.values()) == payloads


async def test_a_damaged_file_that_is_not_uploaded_is_not_uploaded(
    autojump_clock: trio.testing.MockClock,
) -> None:
    world, config = World.new("manifests"), kept(HUGE)
    for reopened in (False, True):
        world = World.new("manifests")
        async with world.open(config) as wal:
            fault = world.store.fail("upload", sticky=True)
            await wal.append_batch([b"x" * 100] * 4)
            await trio.sleep(10)
            path = next(path for path in world.disk.tree() if path.endswith(".log"))
            if not reopened:
                world.disk.corrupt(path, 60, 1)
                fault.cancel()
                await check_refused(wal, world, path)
        if reopened:
            fault.cancel()
            world.disk.corrupt(path, 60, 1)
            async with world.open(config) as wal:
                await check_refused(wal, world, path)


async def check_refused(wal: Wal, world: World, path: str) -> None:
    await trio.sleep(20)
    assert path in cloud(wal).upload_error
    assert wal.uploaded_end == 0
    assert not any("segments/" in key for key in world.store.tree())
    for _ in range(5):
        await wal.append(b"appends go on")
    with pytest.raises(CorruptDataError, match=path):
        await wal.reader().__anext__()


async def test_a_damaged_object_is_named_with_position_and_offset(
    autojump_clock: trio.testing.MockClock,
) -> None:
    world = World.new("manifests")
    async with world.open(kept(0, 1)) as wal:
        payloads = await filled(wal)
    key = sorted(key for key in world.store.tree() if "segments/" in key)[1]
    base = int(key.rpartition("/")[2][:20])
    for position in range(0, len(world.store.tree()[key]), 29):
        store = world.store.clone()
        data = bytearray(store.tree()[key])
        data[position] ^= 4
        await store.put(key, bytes(data))
        async with World(world.disk.crash("everything written"), store).open(kept(0, 1)) as wal:
            found = [m.payload async for m in wal.reader(end=base)]
            assert found == payloads[:base]
            with pytest.raises(CorruptDataError, match=key) as caught:
                await wal.reader(StartPosition.offset(base)).__anext__()
            assert caught.value.offset is not None and caught.value.offset >= base
            assert caught.value.position is not None and caught.value.position <= position
    async with world.open(kept(0, 1)) as wal:
        await world.store.delete(key)
        with pytest.raises(CorruptDataError, match=key):
            await wal.reader(StartPosition.offset(base)).__anext__()


# ---- with and without the store


async def test_a_local_log_gets_a_store_later_and_all_of_it_is_uploaded(
    autojump_clock: trio.testing.MockClock,
) -> None:
    world, config = World.new("manifests"), kept(0)
    async with open_wal(config, disk=world.disk) as wal:
        await wal.append_batch([b"%d" % i * 100 for i in range(5)])
        for i in range(5, 20):
            await wal.append(b"%d" % i * 100)
    async with world.open(config) as wal:
        await wal.wait_uploaded(20)
        await trio.sleep(11)
    async with World(SimDisk(), world.store).open(config) as wal:
        found = await everything(wal)
        assert list(found.payloads.values()) == [b"%d" % i * 100 for i in range(20)]


async def test_without_its_store_the_front_is_said_to_be_there(
    autojump_clock: trio.testing.MockClock,
) -> None:
    world, config = World.new("manifests"), kept(0)
    async with world.open(config) as wal:
        payloads = await filled(wal)
        local = cloud(wal).local_start
        assert 0 < local <= len(payloads)
    async with open_wal(config, disk=world.disk) as wal:
        assert (wal.start_offset, wal.next_offset) == (0, len(payloads))
        with pytest.raises(StoreUnavailableError, match="open the log with its store"):
            await wal.reader().__anext__()
        at = StartPosition.offset(local)
        found = [m.payload async for m in wal.reader(at, end="current")]
        assert found == payloads[local:]
        await wal.append(b"meanwhile")
    async with world.open(config) as wal:
        assert list((await everything(wal)).payloads.values()) == [*payloads, b"meanwhile"]


async def test_reading_from_the_store_is_bounded_by_the_settings(
    autojump_clock: trio.testing.MockClock,
) -> None:
    world = World.new("manifests")
    config = attrs.evolve(kept(0, 1, cache_bytes=3000, readahead=2), segment_bytes=1000)
    async with world.open(config) as wal:
        for i in range(100):
            await wal.append(b"%d " % i * 30)
        await wal.wait_uploaded(100)
        await trio.sleep(11)
        for _ in range(3):
            async with trio.open_nursery() as nursery:

                async def read() -> None:
                    assert len([m async for m in wal.reader(end=95)]) == 95
                    assert cloud(wal).cached_bytes <= 3000

                for _ in range(5):
                    nursery.start_soon(read)
        assert cloud(wal).fetches > 50
        assert cloud(wal).pins == 0
