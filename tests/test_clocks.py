"""Clocks that are set back, ahead, wrong once, at 1970, or years apart.

`NOW` is the right time; a `SimClock` goes with trio's clock, which here is virtual.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from topics import TOPIC, Metadata, settle
from trio.testing import MockClock

from danube_trio import (
    CloudConfig,
    StartPosition,
    Wal,
    WalConfig,
    WalStorage,
    open_replica,
    open_wal,
    restore_log,
)
from danube_trio._core.clocks import EARLIEST, UNKNOWN, SteadyClock, find_time, next_time
from danube_trio._core.retention import retained_start
from danube_trio._core.segment import LogNames, Segment
from danube_trio._engine.care.repair import apply_repair
from danube_trio._engine.care.repair_plan import plan_repair
from danube_trio._engine.care.verify import Verification
from danube_trio.dispatch import (
    InMemoryStorage,
    ReliableDispatch,
    ReliableOptions,
    RetentionPolicy,
    SubscriptionOptions,
    TopicCache,
)
from danube_trio.testing import SimClock, SimDisk, SimStore

NOW = 1_750_000_000.0  # a replica has the clock of the machine, which says more
DAY = 86_400.0
YEARS = 20 * 365 * DAY
SMALL = WalConfig(dir="/log", segment_bytes=2000, preallocate_bytes=0, topic_name="/default/t")
AGED = attrs.evolve(SMALL, retain_age=600.0, max_clock_ahead=600.0)
ON_DEMAND = CloudConfig(upload_interval=None)
NAMES = LogNames.of("/log", "wal.log")
SAMPLES = int(os.environ.get("DANUBE_CRASH_SAMPLES", "2"))  # and then all points
WRONG = pytest.mark.parametrize("wrong", [-YEARS, -NOW, -3700.0, 3700.0, YEARS])


async def fill(wal: Wal, count: int, seconds: float = 1.0) -> None:
    for _ in range(count):
        await wal.append(bytes(500))
        await trio.sleep(seconds)


async def times(wal: Wal, start: int = 0) -> list[float]:
    reader = wal.reader(StartPosition.offset(start), end="current", raw=True)
    return [record.append_time / 1e6 async for record in reader]


async def go_on(clock: SimClock, seconds: float) -> None:
    """Time goes by in steps that are believed, and with few rounds of housekeeping."""
    for _ in range(round(seconds / 500)):
        clock.step(490)
        await trio.sleep(10)


async def since(source: Any, seconds: float) -> list[int]:
    reader = source.reader(StartPosition.timestamp(seconds), end="current")
    return [message.offset async for message in reader]


# ---- intervals


@pytest.mark.happens
@WRONG
async def test_segments_are_sealed_by_age_whatever_the_wall_clock_says(
    wrong: float, autojump_clock: MockClock
) -> None:
    clock = SimClock(NOW)
    config = attrs.evolve(SMALL, segment_age=10.0)
    async with open_wal(config, disk=SimDisk(), clock=clock) as wal:
        await wal.append(b"x")
        clock.step(wrong)
        await trio.sleep(8)
        assert wal.statistics().sealed_end == 0
        await trio.sleep(8)
        assert wal.statistics().sealed_end == 1


@WRONG
async def test_uploads_by_interval_go_on_whatever_the_wall_clock_says(
    wrong: float, autojump_clock: MockClock
) -> None:
    clock = SimClock(NOW)
    config = attrs.evolve(SMALL, cloud=CloudConfig(upload_interval=10.0))
    async with open_wal(config, disk=SimDisk(), store=SimStore(), clock=clock) as wal:
        for i in range(5):
            await wal.append(b"x")
            if not i:
                clock.step(wrong)
            await trio.sleep(20)
            assert wal.uploaded_end == i + 1


@WRONG
async def test_a_segment_of_an_earlier_opening_is_sealed_in_its_time_at_the_latest(
    wrong: float, autojump_clock: MockClock
) -> None:
    clock, disk = SimClock(NOW), SimDisk()
    async with open_wal(SMALL, disk=disk, clock=clock) as wal:
        await wal.append(b"x")
    clock.step(wrong)
    async with open_wal(attrs.evolve(SMALL, segment_age=10.0), disk=disk, clock=clock) as wal:
        await trio.sleep(16)
        assert wal.statistics().sealed_end == 1


@pytest.mark.happens
@WRONG
async def test_acknowledgements_time_out_whatever_the_wall_clock_says(
    wrong: float, autojump_clock: MockClock
) -> None:
    clock = SimClock(NOW)
    cache = TopicCache(InMemoryStorage(clock=clock))
    options = SubscriptionOptions(ack_timeout=10.0)
    async with ReliableDispatch(
        TOPIC, ReliableOptions(1), cache, metadata=Metadata(), clock=clock
    ) as dispatch:
        subscription = await dispatch.add_subscription("s", options)
        await dispatch.store_message(b"x")
        async with subscription.take():
            clock.step(wrong)
            await trio.sleep(9)
            assert (await subscription.statistics()).timed_out == 0
            await trio.sleep(2)
            assert (await subscription.statistics()).timed_out == 1


# ---- append times


@pytest.mark.happens
@pytest.mark.parametrize("where", ["memory", "files", "objects"])
async def test_append_times_recover_when_the_clock_does(
    where: str, autojump_clock: MockClock
) -> None:
    """One wrong reading, and a wrong minute: those records alone have a wrong time."""
    clock = SimClock(NOW)
    config = attrs.evolve(SMALL, cloud=ON_DEMAND)
    if where == "memory":
        config = attrs.evolve(SMALL, dir=None)
    store = SimStore() if where == "objects" else None
    async with open_wal(config, disk=SimDisk(), store=store, clock=clock) as wal:
        await fill(wal, 10)
        with clock.off_by(YEARS):
            await fill(wal, 1)
        await fill(wal, 10)
        with clock.off_by(YEARS):
            await fill(wal, 6, 10)
        await fill(wal, 10)
        if store is not None:
            await wal.wait_uploaded(wal.next_offset)
        right = [*range(10), *range(11, 21), *range(27, 37)]
        found = await times(wal)
        expected = [NOW + offset + (54 if offset >= 27 else 0) for offset in right]
        assert [found[offset] for offset in right] == pytest.approx(expected, abs=0.5)
        for offset in right:
            first = offset - (1 if offset == 11 else 6 if offset == 27 else 0)
            assert await since(wal, found[offset] - 0.5) == list(range(first, 37)), offset
        assert await since(wal, clock()) == []
        if store is not None:
            async with open_replica(store, topic=SMALL.topic_name) as replica:
                assert await since(replica, found[15] - 0.5) == list(range(15, 37))


@pytest.mark.happens
@pytest.mark.parametrize("where", ["files", "objects"])
async def test_a_log_that_was_begun_while_the_clock_was_ahead_goes_on_with_the_right_time(
    where: str, autojump_clock: MockClock
) -> None:
    clock, disk = SimClock(NOW + YEARS), SimDisk()
    config = attrs.evolve(SMALL, cloud=ON_DEMAND)
    store = SimStore() if where == "objects" else None
    async with open_wal(config, disk=disk, store=store, clock=clock) as wal:
        await fill(wal, 5)
        if store is not None:
            await wal.seal()
            disk = SimDisk()
    clock.set(NOW)
    async with open_wal(config, disk=disk, store=store, clock=clock) as wal:
        await fill(wal, 5)
        assert (await times(wal))[5:] == pytest.approx([NOW + i for i in range(5)], abs=0.5)
        assert await since(wal, NOW + 1.5) == [7, 8, 9]
    clock.step(-30)
    async with open_wal(config, disk=disk, store=store, clock=clock) as wal:
        await fill(wal, 2)
        assert (await times(wal))[10:] == [(await times(wal))[9]] * 2


@pytest.mark.parametrize("trims", [False, True])
async def test_whoever_goes_on_behind_a_wrong_time_appends_nothing_earlier_than_the_right_ones(
    trims: bool, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    clock, store = SimClock(NOW), SimStore()
    config = attrs.evolve(SMALL, cloud=ON_DEMAND)
    async with open_wal(config, disk=SimDisk(), store=store, clock=clock) as wal:
        await fill(wal, 5)
        with clock.off_by(YEARS):
            await fill(wal, 1)
        await fill(wal, 5)
        newest = (await times(wal))[-1]
        await wal.wait_uploaded(11)
        if trims:
            await wal.trim(11)
        await wal.seal()
    caplog.clear()
    clock.set(newest - 60)
    async with open_wal(config, disk=SimDisk(), store=store, clock=clock) as wal:
        await fill(wal, 2)
        assert await times(wal, 11) == [newest] * 2
    said = [record for record in caplog.records if "records have append times" in record.message]
    assert len(said) == (0 if trims else 1)


@pytest.mark.happens
async def test_append_times_stay_while_the_clock_is_at_1970(autojump_clock: MockClock) -> None:
    clock, disk = SimClock(NOW), SimDisk()
    async with open_wal(SMALL, disk=disk, clock=clock) as wal:
        await fill(wal, 5)
    clock.set(3.0)
    async with open_wal(SMALL, disk=disk, clock=clock) as wal:
        await fill(wal, 5)
        assert (await times(wal))[5:] == [(await times(wal))[4]] * 5
        assert await since(wal, NOW + 2.5) == list(range(3, 10))
        clock.set(NOW + 500)
        await fill(wal, 5)
        assert (await times(wal))[10:] == pytest.approx([NOW + 500 + i for i in range(5)], abs=0.5)
        assert await since(wal, NOW + 100) == [10, 11, 12, 13, 14]


@pytest.mark.happens
@pytest.mark.parametrize("now", [3.0, NOW - YEARS, NOW - 5 * DAY, NOW + 5 * DAY, NOW + YEARS])
async def test_a_reader_whose_clock_is_years_off_finds_what_was_appended_since_a_time(
    now: float, autojump_clock: MockClock
) -> None:
    clock, disk = SimClock(NOW), SimDisk()
    async with open_wal(SMALL, disk=disk, clock=clock) as wal:
        await fill(wal, 20)
        clock.step(2 * DAY)
        await fill(wal, 20)
        found = await times(wal)
    clock.set(now)
    async with open_wal(SMALL, disk=disk, clock=clock) as wal:
        for offset in range(40):
            assert await since(wal, found[offset]) == list(range(offset, 40))
        assert await since(wal, found[19] + DAY) == list(range(20, 40))


LABELS = st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=4).map(sorted), max_size=8)


@given(LABELS, st.integers(1, 41), st.integers(0, 40) | st.just(UNKNOWN))
def test_the_first_record_of_a_time_is_found_also_where_times_are_not_believed(
    labels: list[list[int]], wanted: int, ahead: int
) -> None:
    """The model: right behind the last older record before the first believed one that is not."""
    latest = min(wanted + ahead, UNKNOWN)
    records = [time for run in labels for time in run]
    ends = [0]
    for run in labels:
        ends.append(ends[-1] + len(run))
    first = next((i for i, t in enumerate(records) if wanted <= t <= latest), len(records))
    older = [i for i, t in enumerate(records[:first]) if t < wanted]
    expected = older[-1] + 1 if older else 0

    def find(number: int, found: int | None = None) -> int:
        """As a reader does: it looks where it is told to, and asks again."""
        runs = [(ends[i], run[0], run[-1]) for i, run in enumerate(labels)][number:]
        at = find_time(runs, wanted, latest, ends[-1], found)
        if at == found or at == ends[-1]:
            return at
        number = ends.index(at)
        inside = next((i for i, t in enumerate(labels[number]) if t >= wanted), None)
        assert inside is not None
        if labels[number][inside] <= latest:
            return at + inside
        return find(number + 1, at + inside)

    assert find(0) == expected


@given(st.lists(st.integers(-50, 50), max_size=30), st.integers(1, 20))
def test_append_times_fall_only_below_what_is_not_believed(
    steps: Sequence[int], ahead: int
) -> None:
    now, last, before = 2_000_000_000_000_000, 0, 0
    for step in steps:
        now += step
        time, before = next_time(last, before, now, ahead)
        assert time >= now
        assert time - now <= ahead
        assert time >= last or last > now + ahead
        last = time


# ---- retention by age


@pytest.mark.happens
@WRONG
@pytest.mark.parametrize("minutes", [0.1, 8])
async def test_retention_frees_nothing_new_while_the_clock_is_wrong(
    wrong: float, minutes: float, autojump_clock: MockClock
) -> None:
    clock = SimClock(NOW)
    async with open_wal(AGED, disk=SimDisk(), clock=clock) as wal:
        await fill(wal, 20)
        with clock.off_by(wrong):
            await fill(wal, 20, minutes * 3)
        await fill(wal, 20)
        assert wal.start_offset == 0
        await trio.sleep(60)
        await fill(wal, 20)
        assert wal.start_offset == 0
        await go_on(clock, 5000)
        assert 57 <= wal.start_offset <= 80


@pytest.mark.happens
async def test_retention_goes_on_after_one_wrong_reading(autojump_clock: MockClock) -> None:
    clock, disk = SimClock(NOW), SimDisk()
    async with open_wal(AGED, disk=disk, clock=clock) as wal:
        await fill(wal, 20)
        with clock.off_by(YEARS):
            await fill(wal, 1)
        await fill(wal, 20)
        assert wal.start_offset == 0
    clock.step(10 * DAY)
    async with open_wal(AGED, disk=disk, clock=clock) as wal:
        began = clock()
        await fill(wal, 20)
        assert 36 <= wal.start_offset <= 41
        assert await since(wal, began - 60) == list(range(41, 61))


@pytest.mark.happens
async def test_retention_believes_a_clock_that_was_set_right_when_it_has_stood(
    autojump_clock: MockClock,
) -> None:
    """Until then it keeps too much: also what has times of 1970, which nobody believes later."""
    clock = SimClock(10.0)
    async with open_wal(AGED, disk=SimDisk(), clock=clock) as wal:
        await fill(wal, 20)
        clock.set(NOW)
        await fill(wal, 20)
        await trio.sleep(300)
        assert wal.start_offset == 0
        await trio.sleep(700)
        assert wal.start_offset >= 36


@pytest.mark.happens
async def test_retention_of_a_log_that_was_left_for_years_waits_first(
    autojump_clock: MockClock,
) -> None:
    clock, disk = SimClock(NOW), SimDisk()
    async with open_wal(AGED, disk=disk, clock=clock) as wal:
        await fill(wal, 20)
    clock.step(YEARS)
    async with open_wal(AGED, disk=disk, clock=clock) as wal:
        await trio.sleep(300)
        assert wal.start_offset == 0
        await trio.sleep(700)
        assert wal.start_offset > 10


async def test_a_doubtful_clock_is_said_once(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    clock = SimClock(NOW)
    async with open_wal(AGED, disk=SimDisk(), clock=clock) as wal:
        await fill(wal, 20)
        with clock.off_by(YEARS):
            await fill(wal, 20, 10)
        await fill(wal, 20)
        with clock.off_by(YEARS):
            await fill(wal, 1)
        await fill(wal, 20)
    said = [record.getMessage() for record in caplog.records]
    assert sum("retention by age waits" in text for text in said) == 1
    assert sum("append times go on from" in text for text in said) == 1


@pytest.mark.parametrize("now", [5e8, NOW])
def test_times_that_cannot_be_right_do_not_count_for_retention(now: float) -> None:
    def start(*times: tuple[float, ...]) -> int:
        segments = [
            Segment(i, i + 1, 1, int(found[0] * 1e6), int(found[1] * 1e6))
            for i, found in enumerate(times)
        ]
        return retained_start(segments, active_bytes=1, max_bytes=None, max_age=1000, now=now)

    old, new, future = (now - 2000,) * 2, (now - 500,) * 2, (now + YEARS,) * 2
    assert start(old, future) == 1
    assert start(old, future, old, new) == 3
    assert start(old, future, new) == 1
    assert start((now - 2000, now + YEARS), old) == 2
    assert start((10.0, 20.0), new) == (0 if now >= EARLIEST else 1)


def test_a_clock_is_doubted_until_it_has_stood() -> None:
    wall, elapsed = NOW, 0.0
    clock = SteadyClock(lambda: wall, lambda: elapsed, 100.0)

    def look(new_wall: float, seconds: float) -> float | None:
        nonlocal wall, elapsed
        wall, elapsed = new_wall, elapsed + seconds
        return clock.now()

    assert look(NOW + 100, 0) == NOW + 100
    assert look(NOW + 1000, 10) is None
    assert look(NOW + 120, 10) == NOW + 120, "it was one reading"
    assert look(NOW + 5000, 10) is None
    assert look(NOW + 9000, 90) is None, "another jump"
    assert look(NOW + 9090, 90) is None
    assert look(NOW + 9100, 10) == NOW + 9100
    assert look(NOW, 10) == NOW, "what is behind frees less"
    assert look(NOW + 9120, 10) == NOW + 9120
    assert look(NOW, 10) == NOW
    assert look(NOW + 100, 100) == NOW + 100
    assert look(NOW + 9320, 10) is None, "it was set back for good"


@pytest.mark.happens
@pytest.mark.parametrize("where", ["log", "memory"])
async def test_what_expires_in_a_dispatch_does_so_by_a_clock_that_is_believed(
    where: str, autojump_clock: MockClock
) -> None:
    clock = SimClock(NOW)
    options = ReliableOptions(1, RetentionPolicy.RETAIN_UNTIL_EXPIRE, 3600.0)

    async def run(dispatch: ReliableDispatch, store: Callable[[], Any]) -> None:
        for wrong in (0.0, YEARS, 0.0, -YEARS, 0.0):
            with clock.off_by(wrong):
                for _ in range(15):
                    await store()
                await trio.sleep(70)
                assert await dispatch.apply_retention() == 0
        await go_on(clock, 7500)
        for _ in range(15):
            await store()
        assert await dispatch.apply_retention() > 60
        subscription = await dispatch.add_subscription(
            "s", start=StartPosition.timestamp(NOW + 3600)
        )
        assert await settle(subscription, 15) == list(range(75, 90))

    if where == "memory":
        cache = TopicCache(InMemoryStorage(clock=clock))
        async with ReliableDispatch(
            TOPIC, options, cache, metadata=Metadata(), clock=clock
        ) as dispatch:
            await run(dispatch, lambda: dispatch.store_message(bytes(100_000)))
    else:
        async with open_wal(
            attrs.evolve(SMALL, topic_name=TOPIC), disk=SimDisk(), clock=clock
        ) as wal:
            storage = WalStorage.from_wal(wal, TOPIC)
            async with ReliableDispatch.new_with_persistent(
                TOPIC, options, None, storage, metadata=Metadata(), clock=clock
            ) as dispatch:
                await run(dispatch, lambda: dispatch.store_message(bytes(500)))


# ---- restore


@pytest.mark.happens
async def test_a_restore_until_a_time_passes_times_that_are_not_believed(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    clock, store = SimClock(EARLIEST + DAY), SimStore()
    config = attrs.evolve(SMALL, cloud=ON_DEMAND)
    async with open_wal(config, disk=SimDisk(), store=store, clock=clock) as wal:
        for _ in range(2):
            await fill(wal, 10)
            with clock.off_by(3 * YEARS):
                await fill(wal, 1)
        await fill(wal, 10)
        await wal.seal()
        found = await times(wal)
    for number, (until, end) in enumerate(((5, 5), (10, 10), (15, 15), (20, 20), (25, 25))):
        done = await restore_log(
            store,
            tmp_path / str(number),
            topic=SMALL.topic_name,
            until_time=found[until if until % 11 != 10 else until + 1] - 0.2,
            disk=SimDisk(),
        )
        assert done.end_offset == end, until


# ---- repair


async def wrong_log(before: int) -> SimDisk:
    """Some records, some that a clock ahead wrote, and more of both."""
    clock, disk = SimClock(NOW), SimDisk()
    config = attrs.evolve(SMALL, segment_bytes=3500)
    async with open_wal(config, disk=disk, clock=clock) as wal:
        await fill(wal, before)
        with clock.off_by(YEARS):
            await wal.append_batch([b"a", b"b", b"c"])
        await fill(wal, 10)
        with clock.off_by(YEARS):
            await fill(wal, 8)
        await fill(wal, 3)
        with clock.off_by(YEARS):
            await fill(wal, 1)
    return disk


@pytest.mark.happens
@pytest.mark.parametrize("before", [0, 5])
async def test_a_repair_mends_the_times_that_a_clock_ahead_left(
    before: int, autojump_clock: MockClock
) -> None:
    disk = await wrong_log(before)
    bodies = await _messages(disk)
    begin = disk.op_count
    found = [f for f in Verification(disk, NAMES) if "ahead of the clock" in f.reason]
    assert found and {f.severity for f in found} == {"note"}
    plan = plan_repair(disk, NAMES, None)
    assert {step.action for step in plan.steps} == {"retime"}
    apply_repair(disk, plan)
    points = list(disk.crash_points(samples=SAMPLES, start=begin))
    await _check_mended(disk, before, bodies)
    for point in points[:: 4 if SAMPLES <= 2 else 1] if before else ():
        for state in point.states:
            after = state.disk
            apply_repair(after, plan_repair(after, NAMES, None))
            await _check_mended(after, before, bodies)


async def _messages(disk: SimDisk) -> list[bytes]:
    async with open_wal(attrs.evolve(SMALL, segment_bytes=3500), disk=disk) as wal:
        return [message.payload async for message in wal.reader(end="current")]


async def _check_mended(disk: SimDisk, before: int, bodies: list[bytes]) -> None:
    found = list(Verification(disk, NAMES))
    assert not [f for f in found if f.severity != "note" or "ahead of the clock" in f.reason]
    assert not plan_repair(disk, NAMES, None).steps
    assert await _messages(disk) == bodies
    async with open_wal(SMALL, disk=disk, clock=SimClock(NOW + DAY)) as wal:
        stamps = await times(wal)
        assert stamps == sorted(stamps)
        right = [*range(before), *range(before + 3, before + 13)]
        assert [stamps[offset] for offset in right] == pytest.approx(
            [NOW + i for i in range(before + 10)], abs=0.5
        )
        assert await since(wal, NOW + before + 3.5) == list(range(before + 7, len(stamps)))


async def test_a_repair_leaves_the_times_of_a_log_with_a_store(autojump_clock: MockClock) -> None:
    """Objects do not change, and the local files must be those that they were made of."""
    clock, disk, store = SimClock(NOW + YEARS), SimDisk(), SimStore()
    async with open_wal(SMALL, disk=disk, store=store, clock=clock) as wal:
        await fill(wal, 10)
    assert not plan_repair(disk, NAMES, None).changes


# ---- units


@pytest.mark.happens
async def test_a_clock_in_milliseconds_is_refused() -> None:
    async with open_wal(WalConfig(), clock=lambda: NOW * 1000) as wal:
        with pytest.raises(ValueError, match=r"looks like milliseconds: .*=1750000000\.0"):
            await wal.append(b"x")
        assert wal.next_offset == 0


async def test_a_restore_until_a_time_in_milliseconds_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"until_time=1750000000\.0"):
        await restore_log(SimStore(), tmp_path / "x", topic="/default/t", until_time=NOW * 1000)
