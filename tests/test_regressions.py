"""Defects that were found once and must not come back, each with the way it showed."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from danube_trio import LogBrokenError, Reader, StreamMessage, WalConfig, open_wal
from danube_trio.testing import SimDisk


@pytest.mark.parametrize("limit", [{"count": 2}, {"end": 2}])
async def test_a_reader_may_end_inside_the_first_of_several_cached_blocks(
    limit: dict[str, Any],
) -> None:
    """Taking more of the cached blocks than asked for looked like missing records."""
    async with open_wal(WalConfig()) as wal:
        await wal.append_batch([b"a"] * 5)
        await wal.append_batch([b"b"] * 5)
        reader: Reader[StreamMessage] = wal.reader(**limit)
        assert [m.offset async for m in reader] == [0, 1]


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
        disk.fail("rename", path_contains=".trim")

        async def broken(call: Awaitable[object]) -> None:
            with pytest.raises(LogBrokenError):
                await call

        async with trio.open_nursery() as nursery:
            nursery.start_soon(broken, wal.trim(3))
            await trio.sleep(0.5)
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
