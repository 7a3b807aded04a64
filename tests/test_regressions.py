"""Defects that were found once and must not come back, each with the way it showed."""

from __future__ import annotations

from collections.abc import Awaitable

import pytest
import trio
from trio.testing import MockClock

from danube_trio import (
    CorruptDataError,
    LogBrokenError,
    StartPosition,
    UnsupportedFormatError,
    WalConfig,
    open_wal,
)
from danube_trio._core.crc import crc32
from danube_trio._core.files import Trim, encode_document
from danube_trio._core.frame import find_frame
from danube_trio.testing import SimDisk


@pytest.mark.parametrize("limit", [{"count": 2}, {"end": 2}])
async def test_a_reader_may_end_inside_the_first_of_several_cached_blocks(
    limit: dict[str, int],
) -> None:
    """Taking more of the cached blocks than asked for looked like missing records."""
    async with open_wal(WalConfig()) as wal:
        await wal.append_batch([b"a"] * 5)
        await wal.append_batch([b"b"] * 5)
        end, count = limit.get("end"), limit.get("count")
        assert [m.offset async for m in wal.reader(end=end, count=count)] == [0, 1]


async def test_the_interval_never_syncs_between_the_pieces_of_a_batch(
    autojump_clock: MockClock,
) -> None:
    """The timer of what was written before fires while a large batch is half written: if the mark
    moved into the batch, the log would not open after a crash ("a batch is not whole")."""
    disk = SimDisk(latency=0.06)
    config = WalConfig(dir="/log", fsync_interval_ms=100, preallocate_bytes=0)
    seen = set[int]()
    async with open_wal(config, disk=disk) as wal:
        wal.append_nowait(b"x")
        await trio.sleep(0.01)
        wal.append_batch_nowait([bytes(1000)] * 3000)
        while wal.durable_end < 3001:
            seen.add(wal.durable_end)
            await trio.sleep(0.01)
    assert seen <= {0, 1, 3001}


async def test_a_crash_after_the_interval_passed_inside_a_batch_can_be_opened(
    autojump_clock: MockClock,
) -> None:
    """The same, seen from recovery."""
    disk = SimDisk(latency=0.06)
    config = WalConfig(dir="/log", fsync_interval_ms=100, preallocate_bytes=0)
    async with open_wal(config, disk=disk) as wal:
        wal.append_nowait(b"x")
        await trio.sleep(0.01)
        wal.append_batch_nowait([bytes(1000)] * 3000)
        await wal.flush()
    for point in disk.crash_points():
        for state in point.states:
            async with open_wal(config, disk=state.disk) as wal:
                assert wal.next_offset in (0, 1, 3001)


async def test_a_roll_that_is_wanted_never_comes_between_the_pieces_of_a_batch(
    autojump_clock: MockClock,
) -> None:
    """A roll between the pieces would let the batch cross segments."""
    disk = SimDisk(latency=0.06)
    config = WalConfig(dir="/log", fsync_interval_ms=100, preallocate_bytes=0, segment_age=0.05)
    async with open_wal(config, disk=disk, clock=lambda: 1e9 + trio.current_time()) as wal:
        wal.append_nowait(b"x")
        await trio.sleep(0.01)
        wal.append_batch_nowait([bytes(1000)] * 3000)
        await wal.flush()
        bases = [int(p.split(".")[1]) for p in disk.tree() if p.endswith(".log")]
        assert not [base for base in bases if 1 < base < 3001]


async def test_a_trim_that_fails_while_an_append_is_in_flight_breaks_the_log_only(
    autojump_clock: MockClock,
) -> None:
    """The flusher's hop under way then succeeds, in a log that is broken already."""
    disk = SimDisk(latency=1)
    config = WalConfig(dir="/log", segment_bytes=500, preallocate_bytes=0)
    async with open_wal(config, disk=disk) as wal:
        for _ in range(5):
            await wal.append(bytes(300))
        await trio.sleep(4)  # the hints of the rolls are written
        disk.fail("sync_dir")

        async def broken(call: Awaitable[object]) -> None:
            with pytest.raises(LogBrokenError):
                await call

        async with trio.open_nursery() as nursery:
            nursery.start_soon(broken, wal.trim(3))
            await trio.sleep(2.5)  # the directory is being synced
            nursery.start_soon(broken, wal.append(b"x"))


async def test_append_times_never_fall_when_the_active_segment_was_empty_at_open(
    autojump_clock: MockClock,
) -> None:
    """Right after a roll the last segment has no record whose time could be continued."""
    disk = SimDisk()
    now = 1000.0
    config = WalConfig(dir="/log", segment_age=1, preallocate_bytes=0)
    async with open_wal(config, disk=disk, clock=lambda: now) as wal:
        await wal.append(b"x")
        now = 2000.0
        await trio.sleep(6)
        assert wal.statistics().sealed_end == 1
    now = 500.0
    async with open_wal(config, disk=disk, clock=lambda: now) as wal:
        await wal.append(b"y")
        times = [record.append_time async for record in wal.reader(end="current", raw=True)]
        assert times == sorted(times)


async def test_a_loss_counts_as_told_once_only() -> None:
    """Hearing of record 0 twice must not hide that nobody heard of record 1."""
    disk = SimDisk()
    with pytest.raises(LogBrokenError, match="1 accepted records may be lost"):
        async with open_wal(WalConfig(dir="/log"), disk=disk) as wal:
            disk.fail("sync_data", path_contains=".log", sticky=True)
            wal.append_nowait(b"a")
            wal.append_nowait(b"b")
            for _ in range(2):
                with pytest.raises(LogBrokenError):
                    await wal.wait_durable(1)


@pytest.mark.parametrize(("operation", "nth"), [("sync_dir", 4), ("sync_data", 3), ("write", 2)])
async def test_an_open_that_fails_closes_every_file(operation: str, nth: int) -> None:
    """Whatever step fails, neither the segment nor the mark stays open."""
    disk = SimDisk()
    disk.fail(operation, nth)
    with pytest.raises(OSError, match="5"):
        async with open_wal(WalConfig(dir="/log"), disk=disk):
            pass
    assert disk.open_paths == []


async def test_retention_by_age_goes_on_without_the_checkpoint(autojump_clock: MockClock) -> None:
    """The checkpoint is a hint: without it the times come from the segments themselves."""
    disk = SimDisk()
    now = 1000.0
    config = WalConfig(dir="/log", segment_bytes=500, preallocate_bytes=0, retain_age=100)
    async with open_wal(config, disk=disk, clock=lambda: now) as wal:
        for _ in range(6):
            await wal.append(bytes(300))
    disk.unlink("/log/wal.ckpt")
    now = 5000.0
    async with open_wal(config, disk=disk, clock=lambda: now) as wal:
        await trio.sleep(20)
        assert wal.start_offset == wal.statistics().sealed_end > 0


async def closed_log(disk: SimDisk) -> None:
    config = WalConfig(dir="/log", segment_bytes=500, preallocate_bytes=0)
    async with open_wal(config, disk=disk) as wal:
        for i in range(8):
            await wal.append(b"%d" % i * 100)


async def test_a_start_beyond_every_segment_names_the_missing_one() -> None:
    disk = SimDisk()
    await closed_log(disk)
    disk.write_file("/log/wal.trim", encode_document(Trim(99)))
    with pytest.raises(CorruptDataError, match="segment is missing") as caught:
        async with open_wal(WalConfig(dir="/log"), disk=disk):
            pass
    assert caught.value.offset == 99


async def test_an_index_without_its_segment_is_removed() -> None:
    """A kill between the two unlinks of a trim leaves it."""
    disk = SimDisk()
    await closed_log(disk)
    orphan = f"/log/wal.{10**6:020d}.idx"
    disk.write_file(orphan, b"left over")
    async with open_wal(WalConfig(dir="/log"), disk=disk):
        assert orphan not in disk.tree()


@pytest.mark.parametrize(
    ("text", "error", "reason"),
    [
        (b'"text"', CorruptDataError, "no Meta|invalid"),
        (b'{"codec": "s9", "directory_id": "x"}', UnsupportedFormatError, "codec 's9' is unknown"),
        (
            b'{"codec": "s5-standard", "directory_id": "x", "format": 2}',
            UnsupportedFormatError,
            "newer",
        ),
        (b'{"directory_id": "x"}', CorruptDataError, "codec"),
    ],
)
async def test_a_meta_file_of_another_make_is_refused_untouched(
    text: bytes, error: type[Exception], reason: str
) -> None:
    disk = SimDisk()
    await closed_log(disk)
    line = text + b"\n"
    disk.write_file("/log/wal.meta", line + b"crc32 %08x\n" % crc32(line))
    before = disk.tree()
    with pytest.raises(error, match=reason):
        async with open_wal(WalConfig(dir="/log"), disk=disk):
            pass
    assert disk.tree() == before


async def test_time_zero_is_the_earliest_record_even_after_a_trim() -> None:
    disk = SimDisk()
    await closed_log(disk)
    async with open_wal(WalConfig(dir="/log"), disk=disk) as wal:
        reader = wal.reader(StartPosition.timestamp(0), end="current")
        start = await wal.trim(5)
        assert [m.offset async for m in reader] == list(range(start, 8))


async def test_searching_behind_damage_does_not_crawl_through_zeros() -> None:
    """It would try each byte of a preallocated tail."""
    assert find_frame(bytes(8 << 20), 0, 0, 1 << 40) is None


async def test_an_eviction_during_the_checkpoint_hands_nothing_out_twice() -> None:
    config = WalConfig(
        dir="/log", preallocate_bytes=0, cache_capacity=1, segment_bytes=300, max_batch_bytes=1
    )
    async with open_wal(config, disk=SimDisk()) as wal, trio.open_nursery() as nursery:
        seen: list[int] = []

        async def follow() -> None:
            async for message in wal.reader(count=60):
                seen.append(message.offset)

        nursery.start_soon(follow)
        for i in range(20):
            await wal.append_batch([b"%d" % i] * 3, durability="accepted")
        await wal.flush()
    assert seen == list(range(60))


async def test_a_slow_reader_that_comes_back_through_a_file_gets_nothing_twice() -> None:
    config = WalConfig(dir="/log", cache_capacity=6, read_block_bytes=400, preallocate_bytes=0)
    async with open_wal(config, disk=SimDisk()) as wal:
        for i in range(20):
            await wal.append(b"%d" % i * 50)
        reader = wal.reader(StartPosition.offset(18))  # served from the cache
        assert [(await reader.__anext__()).offset for _ in range(2)] == [18, 19]
        for i in range(20, 60):
            await wal.append(b"%d" % i * 50)
        found = [(await reader.__anext__()).offset for _ in range(40)]  # from the file now
        assert found == list(range(20, 60))


async def test_a_later_format_is_newer_whatever_else_it_says() -> None:
    disk = SimDisk()
    line = b'{"codec": {"name": "s6"}, "epochs": 7, "format": 2, "trailer": 1}\n'
    disk.write_file("/log/wal.meta", line + b"crc32 %08x\n" % crc32(line))
    with pytest.raises(UnsupportedFormatError, match="newer"):
        async with open_wal(WalConfig(dir="/log"), disk=disk):
            pass
