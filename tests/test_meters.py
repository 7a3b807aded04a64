"""What is counted: how long appends take, what writes are like, what tasks are doing."""

from __future__ import annotations

import errno
from functools import partial
from itertools import pairwise

import attrs
import pytest
import trio
from cloud_model import CONFIG, World
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from danube_trio import Wal, WalConfig, WalStorage, open_wal
from danube_trio._core.meters import Ages, Histogram
from danube_trio._core.stats import BYTES, RECORDS, SECONDS, WalStatistics
from danube_trio.dispatch import ReliableDispatch, ReliableOptions
from danube_trio.errors import LogBrokenError
from danube_trio.testing import SimDisk

LATENCY = 1 / 64  # of a call to the disk; exact in binary, so that sums are exact too


def states(wal: Wal) -> dict[str, str]:
    return {task.name: task.state for task in wal.statistics().tasks}


# ---- histograms


@pytest.mark.parametrize("bounds", [SECONDS, RECORDS, BYTES])
def test_a_bound_belongs_to_its_bucket(bounds: tuple[float, ...]) -> None:
    assert all(2 * low == high for low, high in pairwise(bounds))
    histogram = Histogram(bounds)
    for bound in bounds:
        histogram.add(bound)
    assert histogram.view().counts == (*[1] * len(bounds), 0)
    histogram.add(bounds[-1] + 1)
    assert histogram.view().counts[-1] == 1
    assert histogram.view().quantile(0) == bounds[0]


@given(st.lists(st.integers(0, 1 << 14).map(lambda n: n / 1024)), st.integers(16, 99))
def test_ages_are_counted_together_as_each_for_itself(times: list[float], now: int) -> None:
    together, each = Histogram(), Histogram()
    together.add_since(sorted(times), now)
    for time in times:
        each.add(now - time)
    assert together.view() == each.view()


@given(
    st.lists(st.tuples(st.integers(1, 3), st.integers(0, 5)), max_size=30),
    st.lists(st.integers(0, 90), max_size=5),
)
def test_appends_are_counted_when_their_end_is_durable(
    appends: list[tuple[int, int]], syncs: list[int]
) -> None:
    now = end = 0
    ages = Ages(lambda: now, Histogram())
    waiting: list[tuple[int, int]] = []
    for records, pause in appends:
        now, end = now + pause, end + records
        ages.accepted(end)
        waiting.append((end, now))
    expected = Histogram()
    for durable in sorted(syncs):
        now += 1
        assert ages.oldest == (now - waiting[0][1] if waiting else 0)
        ages.durable(durable)
        for _, time in [append for append in waiting if append[0] <= durable]:
            expected.add(now - time)
        waiting = [append for append in waiting if append[0] > durable]
        assert len(ages) == len(waiting)
        assert ages.seconds.view() == expected.view()


# ---- appends, writes, syncs


async def test_one_append_lasts_as_long_as_its_hop(autojump_clock: MockClock) -> None:
    disk = SimDisk(latency=LATENCY)
    async with open_wal(WalConfig(dir="/log"), disk=disk) as wal:
        for _ in range(5):
            await wal.append(b"a")
        found = wal.statistics()
        for view in (found.append_seconds, found.sync_seconds):
            assert (view.total, view.sum) == (5, 5 * LATENCY)
        assert found.disk_seconds.total == 5
        assert found.write_seconds.total == 0
    last = wal.statistics()  # leaving syncs what is there: nothing, and nobody waits for it
    assert last.append_seconds == found.append_seconds


async def test_what_waits_for_the_block_before_lasts_longer(autojump_clock: MockClock) -> None:
    disk = SimDisk(latency=LATENCY)
    async with open_wal(WalConfig(dir="/log"), disk=disk) as wal:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wal.append, b"first")
            await wait_all_tasks_blocked()
            for _ in range(3):
                nursery.start_soon(wal.append, b"next")
            nursery.start_soon(wal.append_batch, [b"a", b"b"])
        found = wal.statistics()
        # The others were accepted in the hop of the first, and share the next one or two.
        assert found.append_seconds.total == 5
        assert found.syncs < 5
        assert found.append_seconds.sum > found.sync_seconds.sum
        assert found.append_seconds.sum >= (1 + 4 * 2) * LATENCY


@pytest.mark.parametrize("durability", ["accepted", "written", "fsync"])
async def test_totals_are_those_of_what_happened(
    autojump_clock: MockClock, durability: str
) -> None:
    config = WalConfig(dir="/log", segment_bytes=4000, durability=durability)  # type: ignore[arg-type]
    disk = SimDisk(latency=LATENCY)
    async with open_wal(config, disk=disk) as wal:
        async with trio.open_nursery() as nursery:
            for number in range(40):
                nursery.start_soon(wal.append, bytes(10 * number))
                nursery.start_soon(wal.append_batch, [b"x"] * (number + 1))
        receipt = wal.append_nowait(b"nowait")
        await receipt.durable()
        await wal.flush()
        found = wal.statistics()
    last = wal.statistics()
    for seen in (found, last):
        assert seen.append_seconds.total == 81
        assert (seen.pending_appends, seen.durable_lag_seconds) == (0, 0.0)
        assert seen.batch_records.total == seen.batch_bytes.total == seen.writes
        assert seen.batch_records.sum == seen.appended_records == seen.next_offset
        assert seen.batch_bytes.sum == seen.appended_bytes == seen.size_bytes
        assert seen.sync_seconds.total == seen.disk_seconds.total == seen.syncs
        # A write is a hop of its own, or part of one that syncs.
        assert seen.write_seconds.total <= seen.writes <= seen.write_seconds.total + seen.syncs
    assert found.rolls > 1


async def test_a_log_in_memory_has_writes_and_no_waiting() -> None:
    async with open_wal(WalConfig()) as wal:
        await wal.append_batch([b"a", b"b"])
        found = wal.statistics()
        assert (found.writes, found.batch_records.sum) == (1, 2)
        assert (found.append_seconds.total, found.pending_appends, found.tasks) == (0, 0, ())


async def test_a_cancelled_append_that_was_not_accepted_is_not_counted() -> None:
    async with open_wal(WalConfig(dir="/log"), disk=SimDisk()) as wal:
        with trio.CancelScope() as scope:
            scope.cancel()
            await wal.append(b"a")
        assert wal.statistics().append_seconds.total == wal.statistics().pending_appends == 0


async def test_the_age_of_what_is_not_durable_shows_a_disk_that_hangs(
    autojump_clock: MockClock,
) -> None:
    disk = SimDisk(latency=1000)
    async with open_wal(WalConfig(dir="/log"), disk=disk) as wal:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wal.append, b"a")
            await trio.sleep(100)
            wal.append_nowait(b"b")
            found = wal.statistics()
            assert (found.pending_appends, found.durable_lag_seconds) == (2, 100.0)
            assert found.append_seconds.total == 0
            flusher = next(task for task in found.tasks if task.name == "flusher")
            assert (flusher.state, flusher.seconds) == ("syncing", 100.0)
    assert wal.statistics().durable_lag_seconds == 0


async def test_what_a_broken_log_lost_is_neither_pending_nor_counted() -> None:
    disk = SimDisk()
    opened: list[Wal] = []
    with pytest.raises(LogBrokenError):
        async with open_wal(WalConfig(dir="/log"), disk=disk) as wal:
            opened.append(wal)
            await wal.append(b"a")
            disk.fail("sync_data", error=errno.EIO, sticky=True)
            disk.fail("write", error=errno.EIO, sticky=True)
            wal.append_nowait(b"b")
            await wal.flush()
    found = opened[0].statistics()
    assert (found.phase, found.append_seconds.total) == ("broken", 1)
    assert (found.pending_appends, found.durable_lag_seconds) == (0, 0.0)


# ---- peaks


async def test_peaks_stay_when_the_line_is_gone(autojump_clock: MockClock) -> None:
    config = WalConfig(dir="/log", max_pending_bytes=1000)
    async with open_wal(config, disk=SimDisk(latency=LATENCY)) as wal:
        async with trio.open_nursery() as nursery:
            for _ in range(9):
                nursery.start_soon(wal.append, bytes(900))
            await wait_all_tasks_blocked()
            found = wal.statistics()
            assert 0 < found.waiting_appends == found.waiting_peak_appends
        found = wal.statistics()
        assert (found.waiting_appends, found.waiting_peak_appends) == (0, 8)
        assert found.pending_bytes == 0 < found.pending_peak_bytes


async def test_the_most_that_waited_for_the_store_is_remembered(autojump_clock: MockClock) -> None:
    world = World.new("manifests")
    config = attrs.evolve(CONFIG, cloud=attrs.evolve(CONFIG.cloud, upload_interval=None))
    async with world.open(config) as wal:
        fault = world.store.fail("upload", sticky=True)
        for _ in range(10):
            await wal.append(bytes(500))
        before = wal.statistics().cloud
        assert before is not None
        assert before.waiting_peak_bytes == before.waiting_bytes > 5000
        fault.cancel()
        await wal.append(b"last", durability="uploaded")
        after = wal.statistics().cloud
        assert after is not None
        assert after.waiting_bytes == 0
        assert after.waiting_peak_bytes > before.waiting_bytes


# ---- uploads


async def test_every_upload_is_counted_once(autojump_clock: MockClock) -> None:
    world = World.new("manifests")
    world.store._world.latency = LATENCY
    async with world.open(CONFIG) as wal:
        world.store.fail("upload", 2)
        for number in range(5):
            await wal.append(b"%d" % number, durability="uploaded")
        found = wal.statistics().cloud
        assert found is not None
        assert found.upload_seconds.total == found.uploads == found.objects >= 5
        assert found.upload_failures == 1
        assert found.upload_seconds.sum >= found.uploads * 3 * LATENCY


# ---- tasks


async def test_tasks_say_what_they_wait_for(autojump_clock: MockClock) -> None:
    disk = SimDisk(latency=LATENCY)
    config = WalConfig(dir="/log", max_batch_bytes=1000, durability="written")
    async with open_wal(config, disk=disk) as wal:
        await wait_all_tasks_blocked()
        assert states(wal) == {"writer": "idle", "flusher": "idle", "janitor": "idle"}
        wal.append_nowait(b"a")
        await wait_all_tasks_blocked()
        assert states(wal)["flusher"] == "writing"
        for _ in range(3):
            wal.append_nowait(bytes(990))
        await wait_all_tasks_blocked()
        assert states(wal)["writer"] == "handing over"
        await wal.flush()
        await wal.append(b"b")
        await wait_all_tasks_blocked()
        assert states(wal)["flusher"] == "unsynced"
        await trio.sleep(config.fsync_interval_ms / 1000 - LATENCY / 2)  # since the write began
        await wait_all_tasks_blocked()
        assert states(wal)["flusher"] == "syncing"
    assert set(states(wal).values()) == {"ended"}


async def test_the_uploader_says_what_it_does_with_the_store(autojump_clock: MockClock) -> None:
    world = World.new("manifests")
    seen: list[str] = []
    async with world.open(CONFIG) as wal:

        async def look(_: object) -> None:
            seen.append(states(wal)["uploader"])

        world.store.before = look
        world.store.fail("upload")
        wal.append_nowait(b"a")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(wal.wait_uploaded, 1))
            await trio.sleep(0.01)
            assert states(wal)["uploader"] == "pausing"
        await wait_all_tasks_blocked()
        assert states(wal)["uploader"] == "idle"
    assert {"uploading", "verifying", "cataloguing"} <= set(seen)
    assert states(wal)["uploader"] == "ended"


# ---- subscriptions, without waiting


async def test_a_subscription_is_seen_the_same_without_waiting() -> None:
    async with open_wal(WalConfig()) as wal:
        options = ReliableOptions()
        storage = WalStorage.from_wal(wal)
        dispatch = ReliableDispatch.new_with_persistent("/default/orders", options, None, storage)
        async with dispatch:
            subscription = await dispatch.add_subscription("billing")
            assert subscription.topic == "/default/orders"
            for number in range(30):
                await wal.append(b"%d" % number)
            async with subscription.take():
                pass
            await wait_all_tasks_blocked()
            now = subscription.statistics_nowait()
            assert now == await subscription.statistics()
            assert (now.lag, now.acked) == (29, 1)


def test_every_field_is_explained() -> None:
    text = WalStatistics.__doc__ or ""
    assert not [name for name in attrs.fields_dict(WalStatistics) if name not in text]
