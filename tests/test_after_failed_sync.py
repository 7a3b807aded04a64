"""After a sync that failed: what recovery serves must not depend on pages that only look written.

A failed fdatasync leaves pages that can be read, are not on disk, and are taken for clean: a later
sync succeeds without writing them. The same holds for a directory and the names in it. So recovery
writes what the mark does not vouch for again, and makes new names where they matter.
"""

from __future__ import annotations

import errno

import attrs
import pytest
import trio
from trio.testing import MockClock

from danube_trio import CloudConfig, LogBrokenError, Wal, WalConfig, open_wal
from danube_trio._core.segment import LogNames
from danube_trio._engine.care.rescue import rescue
from danube_trio.cloud import MemoryStore
from danube_trio.testing import SimDisk

CONFIG = WalConfig(dir="/log", preallocate_bytes=0, segment_bytes=500)
NAMES = LogNames.of("/log", "wal.log")
PREFIX = CloudConfig(prefix="log")


async def payloads(wal: Wal) -> list[bytes]:
    return [m.payload async for m in wal.reader(end="current")]


@pytest.mark.happens
async def test_what_is_served_after_a_failed_sync_survives_the_next_power_cut() -> None:
    disk = SimDisk()
    async with open_wal(CONFIG, disk=disk) as wal:
        await wal.append(b"first")
        disk.fail("sync_data", path_contains=".log")
        with pytest.raises(LogBrokenError):
            await wal.append(b"second")
    async with open_wal(CONFIG, disk=disk) as wal:
        served = await payloads(wal)
        assert served[:1] == [b"first"]
    for state in disk.crash_states():
        async with open_wal(CONFIG, disk=state.disk) as wal:
            assert await payloads(wal) == served, state.name


async def test_appends_after_a_failed_directory_sync_survive_a_power_cut() -> None:
    """The name of a new segment, or of wal.meta, may be visible and not durable."""
    for path in (".log", None):
        disk = SimDisk()
        if path is None:
            disk.fail("sync_dir", nth=1, path_contains="/log")
            with pytest.raises(OSError, match="5"):
                async with open_wal(CONFIG, disk=disk):
                    pass
        else:
            async with open_wal(CONFIG, disk=disk) as wal:
                disk.fail("sync_dir", path_contains="/log")
                with pytest.raises(LogBrokenError):
                    for _ in range(9):
                        await wal.append(bytes(100))
        async with open_wal(CONFIG, disk=disk) as wal:
            await wal.append(b"acked")
            served = await payloads(wal)
        for state in disk.crash_states():
            async with open_wal(CONFIG, disk=state.disk) as wal:
                assert await payloads(wal) == served, state.name


@pytest.mark.parametrize(
    ("nth", "error"), [*((nth, errno.EIO) for nth in range(1, 8)), (1, errno.ENOSPC)]
)
async def test_an_opening_after_one_whose_directory_sync_failed_may_crash_anywhere(
    nth: int, error: int
) -> None:
    """Of a new log, and of one with records: no name is taken for durable because a sync worked."""
    for records in (0, 3):
        disk = SimDisk()
        disk.make_dir("/log")
        if records:
            async with open_wal(CONFIG, disk=disk) as wal:
                for _ in range(records):
                    await wal.append(b"before")
        fault = disk.fail("sync_dir", nth, error=error)
        try:
            async with open_wal(CONFIG, disk=disk):
                pass
        except OSError as refused:
            assert refused.errno == error
        else:
            assert not fault.hits or nth > 4, "an opening that has failed says so"
        fault.cancel()
        start = disk.op_count
        async with open_wal(CONFIG, disk=disk) as wal:
            await wal.append(b"acked")
        for point in disk.crash_points(start=start):
            for state in point.states:
                async with open_wal(CONFIG, disk=state.disk) as wal:
                    assert (await payloads(wal))[:records] == [b"before"] * records
        for state in disk.crash_states():
            async with open_wal(CONFIG, disk=state.disk) as wal:
                assert await payloads(wal) == [*[b"before"] * records, b"acked"]


async def test_a_trim_whose_directory_sync_failed_does_not_lose_the_log() -> None:
    """Else recovery would believe a wal.trim that a power cut takes back, and remove segments."""
    disk = SimDisk()
    async with open_wal(CONFIG, disk=disk) as wal:
        for _ in range(9):
            await wal.append(bytes(100))
        await wal.flush()
        disk.fail("sync_dir", path_contains="/log", sticky=False)
        with pytest.raises(LogBrokenError):
            await wal.trim(6)
    async with open_wal(CONFIG, disk=disk) as wal:
        served = await payloads(wal)
    for state in disk.crash_states():
        async with open_wal(CONFIG, disk=state.disk) as wal:
            assert (await payloads(wal))[-len(served) :] == served, state.name


async def test_an_empty_last_segment_survives_a_crash_in_any_opening(
    autojump_clock: MockClock,
) -> None:
    """It is made anew at each open; the mark names it, so its name must never be gone."""
    disk = SimDisk()
    config = WalConfig(dir="/log", preallocate_bytes=0, segment_age=1.0)
    async with open_wal(config, disk=disk, clock=lambda: 1e9 + trio.current_time()) as wal:
        await wal.append(b"x")
        await trio.sleep(20)
        assert wal.statistics().sealed_end == 1
    for _ in range(2):
        opened = disk.op_count
        async with open_wal(config, disk=disk):
            pass
        for point in disk.crash_points(start=opened):
            for state in point.states:
                async with open_wal(config, disk=state.disk) as wal:
                    assert wal.next_offset == 1


@pytest.mark.happens
@pytest.mark.parametrize(
    ("of", "step"),
    [("a directory", 3), ("a directory and a store", 7), ("a log without its meta", 7)],
)
async def test_a_log_opens_after_a_kill_in_one_opening_and_a_power_cut_in_the_next(
    of: str, step: int
) -> None:
    """The page cache outlives the first, and hides from the second what never was durable."""
    rescued = of == "a log without its meta"
    served = [b"acknowledged"] if rescued else []
    stored = of == "a directory and a store"

    async def opened(disk: SimDisk, store: MemoryStore | None = None) -> None:
        if rescued and (found := rescue(disk, NAMES, "s5-standard")) is not None:
            found.write(disk)
        async with open_wal(attrs.evolve(CONFIG, cloud=PREFIX), disk=disk, store=store) as wal:
            assert await payloads(wal) == served

    disk = SimDisk()
    if rescued:
        async with open_wal(CONFIG, disk=disk) as wal:
            await wal.append(b"acknowledged")
        disk.unlink(NAMES.meta)
        disk.sync_dir("/log")
    begin = disk.op_count
    await opened(disk)
    for point in list(disk.crash_points(start=begin))[::step]:
        for killed in point.states:
            if killed.name != "everything written":
                continue
            again, store = killed.disk, MemoryStore() if stored else None
            start = again.op_count
            await opened(again, store)
            for cut in again.crash_points(start=start, samples=1):
                for state in cut.states:
                    await opened(state.disk, store)
