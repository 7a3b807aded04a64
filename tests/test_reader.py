"""Readers: start and end positions, tiers, slow readers, and what overtakes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from shelves_of import files_of
from trio.testing import MockClock, wait_all_tasks_blocked

from danube_trio import (
    CloudConfig,
    CorruptDataError,
    Gap,
    LogClosedError,
    OffsetTrimmedError,
    Reader,
    StartPosition,
    Wal,
    WalConfig,
    open_follower,
    open_replica,
    open_wal,
)
from danube_trio._core.frame import Block
from danube_trio._engine.files.segments import Fetched, fetch_block
from danube_trio._engine.read import file_shelf
from danube_trio._engine.read.shelf import Passed, Piece
from danube_trio.testing import SimDisk, SimStore

SMALL = WalConfig(
    dir="/log", segment_bytes=2000, preallocate_bytes=512, cache_capacity=5, read_block_bytes=400
)


class Clock:
    """Seconds since 1970, by hand."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


async def offsets(reader: Reader[Any]) -> list[int]:
    return [item.offset async for item in reader]


async def fill(wal: Wal, count: int) -> None:
    for i in range(count):
        await wal.append(b"%d" % i * 20)


async def test_start_and_end_positions() -> None:
    async with open_wal(SMALL, disk=SimDisk()) as wal:
        await fill(wal, 60)
        every = list(range(60))
        at = StartPosition.offset
        assert await offsets(wal.reader(end="current")) == every
        assert await offsets(wal.reader(StartPosition.earliest(), end=7)) == every[:7]
        assert await offsets(wal.reader(at(33), end=36)) == [33, 34, 35]
        assert await offsets(wal.reader(at(10), count=25)) == every[10:35]
        assert await offsets(wal.reader(at(58), end="current", count=9)) == [58, 59]
        assert await offsets(wal.reader(at(60), end="current")) == []
        assert await offsets(wal.reader(at(20), end=3)) == []
        assert await offsets(wal.reader(count=0)) == []
        assert await offsets(wal.reader(StartPosition.latest(), end="current")) == []


@pytest.mark.parametrize("start", range(61))
async def test_every_offset_can_be_sought(start: int) -> None:
    async with open_wal(SMALL, disk=SimDisk()) as wal:
        await fill(wal, 60)
        reader = wal.reader(StartPosition.offset(start), end="current")
        assert await offsets(reader) == list(range(start, 60))


async def test_a_start_outside_of_the_log_is_named() -> None:
    async with open_wal(SMALL, disk=SimDisk()) as wal:
        await fill(wal, 60)
        with pytest.raises(ValueError, match="offset=61 is beyond the end of the log, which is 60"):
            wal.reader(StartPosition.offset(61))
        start = await wal.trim(30)
        assert 0 < start <= 30
        with pytest.raises(OffsetTrimmedError, match=f"now starts at {start}") as caught:
            wal.reader(StartPosition.offset(start - 1))
        assert (caught.value.offset, caught.value.start_offset) == (start - 1, start)
        assert await offsets(wal.reader(end="current")) == list(range(start, 60))
        for bad in (-1, 1.5, True, "7", None):
            with pytest.raises(ValueError, match="must be a whole number"):
                StartPosition.offset(bad)  # type: ignore[arg-type]
        bad_ends: list[dict[str, Any]] = [{"end": -1}, {"count": -1}, {"end": 1.5}, {"end": "soon"}]
        for arguments in bad_ends:
            with pytest.raises(ValueError, match="must be 0 or more"):
                wal.reader(**arguments)
        for seconds in (-1.0, float("nan"), float("inf"), 1e30):
            with pytest.raises(ValueError, match="timestamp="):
                StartPosition.timestamp(seconds)


@pytest.mark.happens
@pytest.mark.parametrize(("scale", "unit"), [(1e3, "milli"), (1e6, "micro"), (1e9, "nano")])
def test_a_time_that_is_not_in_seconds_is_refused_with_its_value_in_seconds(
    scale: float, unit: str
) -> None:
    for seconds in (200_000_000.0, 1_733_000_000.5, 4e9):  # 1976, 2024, 2096
        with pytest.raises(ValueError, match=f"looks like {unit}seconds: timestamp={seconds}"):
            StartPosition.timestamp(seconds * scale)
        assert StartPosition.timestamp(seconds).value == seconds * 1e6
    with pytest.raises(ValueError, match="must be seconds since 1970"):
        StartPosition.timestamp(True)


@pytest.mark.parametrize("memory", [False, True])
async def test_timestamps_find_the_first_record_at_or_after_them(memory: bool) -> None:
    clock = Clock()
    config = attrs.evolve(SMALL, dir=None, cache_capacity=1000) if memory else SMALL
    async with open_wal(config, disk=SimDisk(), clock=clock) as wal:
        times: list[float] = []
        for i in range(60):
            clock.now += (0, 0, 10)[i % 3]
            times.append(clock.now)
            await wal.append(b"%d" % i * 20)
        for seconds in (0.0, *sorted({t + d for t in times for d in (-0.5, 0, 0.5)})):
            expected = [i for i, t in enumerate(times) if t >= seconds]
            reader = wal.reader(StartPosition.timestamp(seconds), end="current")
            assert await offsets(reader) == expected, seconds
        future = wal.reader(StartPosition.timestamp(clock.now + 50))
        clock.now += 20
        await wal.append(b"too early")
        clock.now += 40
        await wal.append(b"in time")
        assert (await future.__anext__()).payload == b"in time"


async def test_timestamps_after_a_reopen_and_a_trim_inside_a_segment() -> None:
    clock, disk = Clock(), SimDisk()
    async with open_wal(SMALL, disk=disk, clock=clock) as wal:
        for i in range(60):
            clock.now += 1
            await wal.append(b"%d" % i * 20)
    for path in disk.tree():
        if path.endswith((".idx", ".ckpt")):
            disk.unlink(path)
    async with open_wal(SMALL, disk=disk, clock=clock) as wal:
        for i in (0, 1, 17, 42, 59):
            reader = wal.reader(StartPosition.timestamp(1_000_001.0 + i), end="current")
            assert await offsets(reader) == list(range(i, 60))
        start = await wal.trim(11)
        reader = wal.reader(StartPosition.timestamp(1_000_001.0), end="current")
        assert await offsets(reader) == list(range(start, 60))


async def test_raw_records_carry_body_and_time() -> None:
    clock = Clock(1234.5)
    async with open_wal(SMALL, disk=SimDisk(), clock=clock) as wal:
        await fill(wal, 30)
        clock.now = 1000.0  # a clock that goes back does not take the log with it
        await wal.append(b"later")
        records = [record async for record in wal.reader(raw=True, end="current")]
        assert [r.offset for r in records] == list(range(31))
        assert {r.append_time for r in records} == {1_234_500_000}
        assert b"later" in records[-1].body


async def test_batches_give_the_same_records() -> None:
    async with open_wal(SMALL, disk=SimDisk()) as wal:
        await fill(wal, 60)
        batches = [batch async for batch in wal.reader(end="current").batches()]
        assert [m.offset for batch in batches for m in batch] == list(range(60))
        assert len(batches) > 3
        reader = wal.reader(end="current")
        await reader.__anext__()
        assert (await reader.next_batch())[0].offset == 1
        while await reader.next_batch():
            pass
        assert await reader.next_batch() == []


async def test_a_live_reader_gets_each_record_once_over_all_tiers() -> None:
    async with open_wal(SMALL, disk=SimDisk()) as wal, trio.open_nursery() as nursery:
        seen: dict[int, list[int | None]] = {i: [] for i in range(6)}

        async def watch(name: int) -> None:
            async for message in wal.reader(StartPosition.earliest(), count=90):
                seen[name].append(message.offset)
                if name % 2:
                    for _ in range(message.payload[0] % (name * 4)):
                        await trio.lowlevel.checkpoint()  # a slow one, which falls behind

        await fill(wal, 30)
        for name in seen:
            nursery.start_soon(watch, name)
        await fill(wal, 60)
    assert all(found == list(range(90)) for found in seen.values())


@pytest.mark.happens
async def test_a_reader_that_sleeps_comes_back_through_the_files() -> None:
    async with open_wal(SMALL, disk=SimDisk()) as wal:
        await fill(wal, 3)
        reader = wal.reader()
        assert (await reader.__anext__()).offset == 0
        assert reader.statistics().tier == "cache"
        await fill(wal, 80)
        tiers = set[str]()
        for offset in range(1, 83):
            assert (await reader.__anext__()).offset == offset
            tiers.add(reader.statistics().tier)
        assert tiers == {"cache", "file"}
        assert reader.statistics().lag == 0


async def test_a_reader_that_retention_overtakes_is_told() -> None:
    async with open_wal(SMALL, disk=SimDisk()) as wal:
        await fill(wal, 10)
        reader = wal.reader()
        await reader.__anext__()
        await reader.next_batch()
        cursor = reader.cursor
        await fill(wal, 80)
        start = await wal.trim(60)
        with pytest.raises(OffsetTrimmedError) as caught:
            await reader.__anext__()
        assert (caught.value.offset, caught.value.start_offset) == (cursor, start)


@pytest.mark.parametrize("by", ["size", "age"])
async def test_retention_frees_whole_segments_and_never_the_active_one(
    by: str, autojump_clock: MockClock
) -> None:
    clock, disk = Clock(), SimDisk()
    settings = {"retain_bytes": 5000} if by == "size" else {"retain_age": 100.0}
    async with open_wal(attrs.evolve(SMALL, **settings), disk=disk, clock=clock) as wal:
        for i in range(100):
            clock.now += 10
            await wal.append(b"%d" % i * 20)
        await trio.sleep(30)
        statistics = wal.statistics()
        assert 0 < statistics.start_offset <= statistics.sealed_end
        if by == "size":
            assert statistics.size_bytes <= 5000 + 2000
        else:
            oldest = await wal.reader(count=1, raw=True).__anext__()
            assert oldest.append_time / 1e6 > clock.now - 100 - 10 * 40
        clock.now += 1e6
        await trio.sleep(30)
        assert wal.start_offset <= wal.statistics().sealed_end < 100
        logs = [path for path in disk.tree() if path.endswith(".log")]
        assert len(logs) == wal.statistics().segments
        assert await offsets(wal.reader(end="current")) == list(range(wal.start_offset, 100))


async def test_an_old_segment_is_sealed_though_nothing_is_appended(
    autojump_clock: MockClock,
) -> None:
    clock = Clock()
    config = attrs.evolve(SMALL, segment_age=60)
    async with open_wal(config, disk=SimDisk(), clock=clock) as wal:
        await wal.append(b"x")
        for _ in range(20):
            clock.now += 5
            await trio.sleep(5)
        assert wal.statistics().sealed_end == 1
        assert wal.statistics().rolls == 1


async def test_readers_see_only_what_is_durable_unless_asked(tmp_path: Path) -> None:
    config = WalConfig(dir=str(tmp_path / "a"), fsync_interval_ms=3_600_000)
    async with open_wal(config) as wal:
        await wal.append(b"x", durability="written")
        with trio.move_on_after(0.05) as scope:
            await wal.reader().__anext__()
        assert scope.cancelled_caught
    early = attrs.evolve(config, dir=str(tmp_path / "b"), visibility="written")
    async with open_wal(early) as wal:
        await wal.append(b"x", durability="written")
        assert (await wal.reader().__anext__()).payload == b"x"
        assert wal.durable_end == 0


async def test_one_task_at_a_time_and_closing() -> None:
    async with open_wal(SMALL, disk=SimDisk()) as wal, trio.open_nursery() as nursery:
        async with wal.reader() as reader:
            nursery.start_soon(reader.next_batch)
            await wait_all_tasks_blocked()
            with pytest.raises(trio.BusyResourceError):
                await reader.__anext__()
            await wal.append(b"x")
            await wait_all_tasks_blocked()
        with pytest.raises(LogClosedError, match="reader is closed"):
            await reader.__anext__()
        await reader.aclose()
        await reader.batches().aclose()
        assert "closed" in repr(reader)


async def test_the_cursor_is_the_next_record_handed_out() -> None:
    async with open_wal(SMALL, disk=SimDisk()) as wal:
        await fill(wal, 60)
        reader = wal.reader(StartPosition.offset(7))
        for offset in range(7, 60):
            assert reader.cursor == offset
            await reader.__anext__()


async def test_a_segment_that_vanishes_is_named() -> None:
    disk = SimDisk()
    async with open_wal(SMALL, disk=disk) as wal:
        await fill(wal, 60)
        first = min(path for path in disk.tree() if path.endswith(".log"))
        disk.unlink(first)
        with pytest.raises(CorruptDataError, match="segment is missing") as caught:
            await offsets(wal.reader(end="current"))
        assert caught.value.path == first


async def test_large_messages_cross_read_blocks() -> None:
    config = attrs.evolve(SMALL, segment_bytes=100_000)
    async with open_wal(config, disk=SimDisk()) as wal:
        sizes = [1, 399, 400, 401, 5000, 0, 30_000, 7] * 3
        for size in sizes:
            await wal.append(bytes(size))
        found = [len(m.payload) async for m in wal.reader(end="current")]
        assert found == sizes


# ---- closing while it is in use


async def read_until_closed(reader: Reader[Any], got: list[int]) -> None:
    with pytest.raises(LogClosedError, match="reader is closed"):
        while batch := await reader.next_batch():
            got += [item.offset for item in batch]
    got.append(-1)


async def closed_at_any_moment(make: Callable[[], Reader[Any]], disk: SimDisk) -> None:
    """What was handed out before `aclose` is all that there is."""
    interrupted = 0
    for quarters in range(1, 40):
        disk.latency = 0.004
        reader, got = make(), list[int]()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read_until_closed, reader, got)
            await trio.sleep(0.001 * quarters)
            for _ in range(quarters % 4):
                await trio.lowlevel.checkpoint()
            before = list(got)
            interrupted += reader.cursor < 60
            await reader.aclose()
        assert got == [*range(len(before)), -1]
        with pytest.raises(LogClosedError):
            await anext(reader)
    assert interrupted > 3


@pytest.mark.parametrize("cache", [1, 30, 100])
async def test_a_closed_reader_hands_out_nothing_that_was_still_on_its_way(
    cache: int, autojump_clock: MockClock
) -> None:
    disk = SimDisk()
    config = attrs.evolve(SMALL, cache_capacity=cache)
    async with open_wal(config, disk=disk) as wal:
        await fill(wal, 60)
        if cache == 100:  # whatever the latency, there is only a checkpoint to close it in
            reader, got = wal.reader(), list[int]()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read_until_closed, reader, got)
                await trio.lowlevel.checkpoint()
                before = list(got)
                reader.close_now()
            assert got == [*before, -1]
            return
        await closed_at_any_moment(wal.reader, disk)


async def test_a_closed_reader_of_a_follower_hands_out_nothing_more(
    autojump_clock: MockClock,
) -> None:
    disk = SimDisk()
    async with open_wal(SMALL, disk=disk) as wal:
        await fill(wal, 60)
        async with open_follower("/log", disk=disk) as follower:
            await closed_at_any_moment(follower.reader, disk)


async def test_closing_does_not_wait_for_a_store_that_hangs(autojump_clock: MockClock) -> None:
    store = SimStore()
    config = attrs.evolve(SMALL, cloud=CloudConfig(prefix="log", keep_local_bytes=0))
    async with open_wal(config, disk=SimDisk(), store=store) as wal:
        await fill(wal, 60)
        await wal.wait_uploaded(60)
        await trio.sleep(20)
        client = store.client()
        async with open_replica(client, prefix="log") as replica:
            for log, shop in ((wal, store), (replica, client)):
                shop.fail("get", kind="hang")
                reader, got = log.reader(), list[int]()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(read_until_closed, reader, got)
                    await wait_all_tasks_blocked()
                    before = trio.current_time()
                    await reader.aclose()
                assert got == [-1]
                assert trio.current_time() == before


async def test_a_reader_of_a_log_that_was_left_does_not_read_what_another_writes_there() -> None:
    """The log was taken over meanwhile, and its tail here set aside."""
    disk, store = SimDisk(), SimStore()
    cloud = CloudConfig(prefix="log", upload_interval=None, keep_local_bytes=1 << 20)
    config = attrs.evolve(SMALL, segment_bytes=300, cache_capacity=1, cloud=cloud)
    async with open_wal(config, disk=disk, store=store) as wal:
        await fill(wal, 12)
        await wal.wait_uploaded(12)
        for operation in ("upload", "put", "create"):
            store.fail(operation, sticky=True)
        await fill(wal, 12)
        reader = wal.reader(StartPosition.offset(14))
        await anext(reader)
    other = store.client()
    for where in (SimDisk(), disk):
        async with open_wal(config, disk=where, store=other) as wal:
            await wal.append_batch([b"another"] * 20)
            await wal.wait_uploaded(wal.next_offset)
    seen: list[bytes] = []
    with pytest.raises(LogClosedError):
        while batch := await reader.next_batch():
            seen += [message.payload for message in batch]
    assert b"another" not in seen


# ---- the seams


@pytest.mark.parametrize(
    ("start", "end", "complaint"),
    [
        (21, 25, "records 20 to 21 are missing"),
        (29, 30, "records 20 to 29 are missing"),
        (18, 20, "records 18 to 20 came where record 20 must come"),
        (20, 20, "records 20 to 20 came where record 20 must come"),
    ],
)
@pytest.mark.parametrize("kind", ["block", "gap", "passed"])
async def test_what_does_not_hold_the_cursor_is_refused(
    kind: str, start: int, end: int, complaint: str
) -> None:
    async with open_wal(SMALL, disk=SimDisk()) as wal:
        await fill(wal, 60)
        reader = wal.reader(StartPosition.offset(20), raw=True)
        pieces: dict[str, Piece] = {
            "block": Block(start, end, b"", tuple(range(end - start + 1))),
            "gap": Gap(start, end, "damaged"),
            "passed": Passed(start, end),
        }
        with pytest.raises(CorruptDataError, match=complaint) as caught:
            reader._take([pieces[kind]])
        assert caught.value.offset == reader.cursor == 20
        assert (await anext(reader)).offset == 20


async def test_a_hole_in_the_cache_is_refused_after_what_comes_before_it() -> None:
    async with open_wal(attrs.evolve(SMALL, cache_capacity=100), disk=SimDisk()) as wal:
        await fill(wal, 60)
        del wal._engine.memory._blocks[30]
        reader = wal.reader(StartPosition.offset(28))
        assert [m.offset for m in await reader.next_batch()] == [28, 29]
        for _ in range(2):
            with pytest.raises(CorruptDataError, match=r"record 30 must come \(cache tier\)"):
                await reader.next_batch()
        wal._engine.memory.end -= 1  # it ends before what is visible
        reader = wal.reader(StartPosition.offset(59))
        with pytest.raises(CorruptDataError, match=r"records 59 to 60 are missing \(cache tier\)"):
            await reader.next_batch()


def later(block: Block | Gap) -> Block:
    """The block without its first three records."""
    assert isinstance(block, Block)
    return attrs.evolve(block, start=block.start + 3, positions=block.positions[3:])


@pytest.mark.parametrize("tier", ["cloud", "file"])
async def test_a_hole_behind_the_seam_between_two_tiers_is_refused(
    tier: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = attrs.evolve(SMALL, cloud=CloudConfig(prefix="log"))
    async with open_wal(config, disk=SimDisk(), store=SimStore()) as wal:
        await fill(wal, 60)
        await wal.wait_uploaded(60)
        engine, files = wal._engine, files_of(wal)
        first, second = files.segments.sealed()[:2]
        assert engine.tier is not None
        if tier == "cloud":  # the first segment is read from its file, the second one is not
            fetch = engine.tier.block

            async def fetch_later(offset: int) -> Block:
                return later(await fetch(offset))

            monkeypatch.setattr(engine.tier, "block", fetch_later)
            files.damaged[second.base] = "as it is said"
        else:
            read = fetch_block

            def read_later(*args: Any) -> Fetched:
                found = read(*args)
                return attrs.evolve(found, found=later(found.found))

            monkeypatch.setattr(file_shelf, "fetch_block", read_later)
            files.damaged[first.base] = "as it is said"
        reader = wal.reader(end="current")
        seen: list[int] = []
        with pytest.raises(
            CorruptDataError,
            match=rf"{second.base} to {second.base + 3} are missing \({tier} tier\)",
        ):
            async for message in reader:
                seen.append(message.offset)
        assert seen == list(range(second.base))


async def test_what_is_written_behind_a_gap_is_read(tmp_path: Path) -> None:
    """Also by the reader that met the gap at the end of what there was."""
    config = WalConfig(dir=str(tmp_path / "log"), on_corruption="skip", cache_capacity=1)
    async with open_wal(config) as wal:
        for _ in range(10):
            await wal.append(b"x" * 100)
        [file] = (tmp_path / "log").glob("wal.*.log")
        frame = len(file.read_bytes().rstrip(b"\0")) // 10
        with file.open("r+b") as segment:
            for number in (8, 9):
                segment.seek(number * frame + frame // 2)
                segment.write(b"\xff\xfe")
        first = wal.reader(StartPosition.offset(8), end=20)
        assert isinstance(await anext(first), Gap)
        second = wal.reader(StartPosition.offset(10), end=20)
        for _ in range(10):
            await wal.append(b"x" * 100)
        for reader in (first, second):
            assert [message.offset async for message in reader] == list(range(10, 20))
