"""One behavioural suite for logs with an object store, on every store with every catalog."""

from __future__ import annotations

import shutil

import pytest
import trio
import trio.lowlevel
from cloud_places import Place

from danube_trio import (
    FencedError,
    LogClosedError,
    OffsetTrimmedError,
    StartPosition,
    Wal,
)
from danube_trio._core.stats import CloudStatistics

SIDE = 10_000


def cloud_of(wal: Wal) -> CloudStatistics:
    found = wal.statistics().cloud
    assert found is not None
    return found


async def fill(wal: Wal, count: int) -> None:
    for _ in range(count // 100):
        first = wal.next_offset
        await wal.append_batch([b"%d" % (first + n) for n in range(100)], durability="accepted")
    await wal.flush()


async def check(log: Wal, start: int, end: int) -> None:
    """All of it is there, once, in order, from wherever it is now."""
    offset = start
    async for batch in log.reader(StartPosition.offset(start), end="current").batches():
        for message in batch:
            assert (message.offset, message.payload) == (offset, b"%d" % offset)
            offset += 1
    assert offset == end


async def test_a_log_is_the_same_from_cloud_file_and_cache(place: Place) -> None:
    settings = {"keep_local_bytes": 150_000}
    async with place.open("a", cloud=settings, cache_bytes=50_000) as wal:
        await fill(wal, 6000)
        await wal.wait_uploaded(wal.next_offset)
        await fill(wal, 1000)
        while not (cloud := cloud_of(wal)).local_start:  # the janitor's next round
            await trio.lowlevel.checkpoint()
        assert cloud.local_start < wal.uploaded_end < wal.next_offset
        for start in (0, 17, cloud.local_start - 1, cloud.local_start, 6999):
            await check(wal, start, 7000)
    async with place.open("a") as wal:  # what was not uploaded yet comes from its own directory
        assert wal.next_offset == 7000
        await check(wal, 0, 7000)
        await wal.wait_uploaded(7000)
    async with place.replica() as replica:
        found = [m.offset async for m in replica.reader(end="current")]
        assert found == list(range(7000))


async def test_a_sealed_log_goes_on_elsewhere(place: Place) -> None:
    async with place.open("a", cloud={"upload_interval": None}) as wal:
        await fill(wal, SIDE)
        assert await wal.seal() == SIDE
        with pytest.raises(LogClosedError, match="sealed"):
            await wal.append(b"late")
    shutil.rmtree(place.folder / "a")
    async with place.open("b") as wal:
        assert wal.next_offset == SIDE
        await fill(wal, SIDE)
        await check(wal, 0, 2 * SIDE)
        assert wal.statistics().notes == ()


async def test_a_take_over_fences_the_writer_before(place: Place) -> None:
    async with place.open("a") as first:
        await fill(first, 300)
        await first.wait_uploaded(300)
        await fill(first, 200)  # acknowledged there, and not uploaded
        async with place.open("b") as second:
            assert second.next_offset == 300
            await fill(second, 100)
            with pytest.raises(FencedError) as caught:
                await first.append(b"too late", durability="uploaded")
            assert caught.value.epoch == 1
            with pytest.raises(FencedError):
                await first.append(b"too late")
            assert first.statistics().phase == "fenced"
            await check(second, 0, 400)
            await second.wait_uploaded(400)
    async with place.open("a") as wal:
        assert wal.next_offset == 400
        (note,) = wal.statistics().notes
        assert "records 300 to 501 were kept here only" in note
        assert list((place.folder / "a").glob("*.fenced"))
        await check(wal, 0, 400)


async def test_trimming_frees_objects(place: Place) -> None:
    async with place.open("a", cloud={"keep_local_bytes": 0}) as wal:
        await fill(wal, 6000)
        await wal.wait_uploaded(6000)
        before = await place.store.list_objects("")
        await wal.trim(3000)
        assert wal.start_offset == 3000
        with pytest.raises(OffsetTrimmedError):
            await anext(wal.reader(StartPosition.offset(2999)))
        await check(wal, 3000, 6000)
    async with place.open("a") as wal:  # the next owner removes what was left
        assert wal.start_offset == 3000
        await fill(wal, 100)
        await wal.wait_uploaded(6100)
        await check(wal, 3000, 6100)
        after = await place.store.list_objects("")
        assert sum(o.size_bytes for o in after) < sum(o.size_bytes for o in before)
    async with place.replica() as replica:
        assert (replica.start_offset, replica.durable_end) == (3000, 6100)


async def test_a_damaged_local_file_is_healed_from_its_object(place: Place) -> None:
    async with place.open("a") as wal:
        await fill(wal, 3000)
        await wal.wait_uploaded(3000)
        damaged = place.folder / "a" / "wal.00000000000000000000.log"
        data = bytearray(damaged.read_bytes())
        data[len(data) // 2] ^= 1
        damaged.write_bytes(data)
    async with place.open("a") as wal:
        await check(wal, 0, 3000)
