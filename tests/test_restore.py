"""Restoring a log from its store: what comes out, where it ends, and what an interrupt leaves."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from typing import Any

import attrs
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from danube_trio import (
    CloudConfig,
    CorruptDataError,
    LogLockedError,
    OffsetTrimmedError,
    Restored,
    StoreUnavailableError,
    UnsupportedFormatError,
    WalConfig,
    open_wal,
    restore_log,
)
from danube_trio._core.catalog import CatalogState
from danube_trio._core.segment import LogNames
from danube_trio._engine.care.restore_files import STAGING
from danube_trio._engine.care.restore_plan import plan_restore
from danube_trio._engine.care.verify import Verification
from danube_trio.catalog import ManifestCatalog, acquire
from danube_trio.testing import ProcessKilledError, SimDisk, SimStore

TARGET = "/new/log"
CLOUD = CloudConfig(prefix="log", block_bytes=4096)
CONFIG = WalConfig(dir="/data/log", segment_bytes=700, preallocate_bytes=0, cloud=CLOUD)
LARGE = attrs.evolve(CONFIG, segment_bytes=400_000)
BATCHES = [[b"batch %d, record %d" % (i, j) * 3 for j in range(1 + i % 4)] for i in range(24)]
PAYLOADS = [payload for batch in BATCHES for payload in batch]
ENDS = [sum(map(len, BATCHES[:i])) for i in range(len(BATCHES) + 1)]
SAMPLES = int(os.environ.get("DANUBE_CRASH_SAMPLES", "2"))


class Clock:
    """One second more for each batch."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


async def uploaded(
    batches: Sequence[list[bytes]] = BATCHES, *, trim: int = 0, config: WalConfig = CONFIG
) -> SimStore:
    """A store with the log, which is uploaded wholly."""
    store, clock = SimStore(), Clock()
    async with open_wal(config, disk=SimDisk(), store=store, clock=clock) as wal:
        for batch in batches:
            await wal.append_batch(batch)
            clock.now += 1
        await wal.wait_uploaded(wal.next_offset)
        if trim:
            assert await wal.trim(trim) == trim
    return store


async def restored(
    store: SimStore, disk: SimDisk | None = None, **options: Any
) -> tuple[Restored, list[bytes], SimDisk]:
    """Restore, verify, read everything, and go on with it."""
    disk = disk if disk is not None else SimDisk()
    before = store.tree()
    done = await restore_log(store, TARGET, prefix="log", disk=disk, **options)
    assert store.tree() == before
    return done, await check(disk, done), disk


async def check(disk: SimDisk, done: Restored) -> list[bytes]:
    found = list(Verification(disk, LogNames.of(done.path, "wal.log")))
    assert not [finding for finding in found if finding.severity != "note"]
    async with open_wal(WalConfig(dir=done.path), disk=disk) as wal:
        assert not wal.statistics().notes
        assert (wal.start_offset, wal.next_offset) == (done.start_offset, done.end_offset)
        payloads = [message.payload async for message in wal.reader(end="current")]
        assert await wal.append(b"more") == done.end_offset
    return payloads


async def state_of(store: SimStore) -> CatalogState:
    state = await ManifestCatalog(store, "log").latest()
    assert state is not None
    return state


# ---- what comes out


async def test_all_of_a_log_is_restored_and_goes_on_by_itself() -> None:
    store = await uploaded()
    done, payloads, disk = await restored(store)
    assert payloads == PAYLOADS
    state = await state_of(store)
    assert done.objects == len(state.segments) > 5
    assert done.size_bytes == done.fetched_bytes == sum(d.size_bytes for d in state.segments)
    assert (done.start_offset, done.end_offset) == (0, len(PAYLOADS))
    assert done.last_time == state.segments[-1].last_time
    assert done.directory_id != state.owner
    for d in state.segments:
        name = f"{TARGET}/wal.{d.base:020d}.log"
        assert disk.read_file(name) == store.tree()[f"log/segments/{d.object_id}"]
    assert not [path for path in disk.tree() if STAGING in path]


@pytest.mark.parametrize("until", [*range(10), 29, 30, 31, len(PAYLOADS) - 1, len(PAYLOADS)])
async def test_it_ends_at_the_last_whole_batch_below_an_offset(until: int) -> None:
    store = await uploaded()
    done, payloads, _ = await restored(store, until_offset=until)
    assert done.end_offset == max(end for end in ENDS if end <= until)
    assert payloads == PAYLOADS[: done.end_offset]


@settings(max_examples=20, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=20),
    payload=st.integers(0, 20_000),
    until=st.integers(0, 200),
)
async def test_whatever_the_batches_it_ends_at_one(
    sizes: list[int], payload: int, until: int
) -> None:
    batches = [[b"%d" % i + b"x" * payload] * size for i, size in enumerate(sizes)]
    store = await uploaded(batches, config=LARGE)
    ends = [sum(sizes[:i]) for i in range(len(sizes) + 1)]
    until = min(until, ends[-1])
    by_offset, _, _ = await restored(store, until_offset=until)
    assert by_offset.end_offset == max(end for end in ends if end <= until)
    number = until % len(sizes)
    if number:
        by_time, _, _ = await restored(store, until_time=1_000_000.0 + number)
        assert by_time.end_offset == ends[number]


@pytest.mark.parametrize("number", [1, 2, 7, 23, 24, 99])
@pytest.mark.parametrize("early", [0.0, 0.5])
async def test_it_ends_before_the_first_record_of_a_time(number: int, early: float) -> None:
    store = await uploaded()
    done, payloads, _ = await restored(store, until_time=1_000_000.0 + number - early)
    assert done.end_offset == ENDS[min(number, 24)]
    assert payloads == PAYLOADS[: done.end_offset]
    assert done.last_time == (1_000_000 + min(number, 24) - 1) * 1_000_000


async def test_a_trimmed_log_keeps_its_start() -> None:
    store = await uploaded(trim=30)
    done, payloads, _ = await restored(store)
    assert (done.start_offset, payloads) == (30, PAYLOADS[30:])
    done, payloads, _ = await restored(store, until_offset=30)
    assert (done.start_offset, done.end_offset, payloads) == (30, 30, [])
    with pytest.raises(OffsetTrimmedError):
        await restored(store, until_offset=29)


async def test_a_start_inside_a_batch_is_kept_and_never_passed() -> None:
    start = ENDS[3] + 1  # of four records
    store = await uploaded(trim=start)
    done, payloads, _ = await restored(store, until_offset=start + 1)
    assert (done.start_offset, done.end_offset, payloads) == (start, start, [])


async def test_an_empty_log_is_restored_empty() -> None:
    done, payloads, _ = await restored(await uploaded([]))
    assert (done.objects, done.end_offset, payloads) == (0, 0, [])


async def test_the_source_may_go_on_meanwhile() -> None:
    """A fork is no writer of the log: the one that there is does not notice."""
    store, disk = SimStore(), SimDisk()
    async with open_wal(CONFIG, disk=disk, store=store) as wal:
        await wal.append_batch(PAYLOADS)
        await wal.wait_uploaded(len(PAYLOADS))
        done, payloads, _ = await restored(store)
        assert payloads == PAYLOADS
        await wal.append(b"undisturbed", durability="uploaded")
        assert (await state_of(store)).end == done.end_offset + 1


async def test_the_plan_says_what_comes_out() -> None:
    store = await uploaded([[b"%03d" % i * 3000] * 2 for i in range(40)], config=LARGE)
    catalog = ManifestCatalog(store, "log")
    assert any(len(d.index) > 2 for d in (await state_of(store)).segments)
    for until in range(0, 81, 2):
        plan = await plan_restore(store, catalog, until_offset=until, disk=SimDisk())
        done = await restore_log(store, TARGET, prefix="log", until_offset=until, disk=SimDisk())
        assert (plan.end_offset, plan.last_time) == (done.end_offset, done.last_time)
        assert plan.fetch_bytes == done.fetched_bytes
        assert plan.fetch_bytes - plan.cut_bytes == done.size_bytes


async def test_a_fork_may_become_a_log_in_a_store_itself() -> None:
    store = await uploaded()
    done, _, disk = await restored(store)
    fork = WalConfig(dir=TARGET, cloud=attrs.evolve(CLOUD, prefix="fork"))
    async with open_wal(fork, disk=disk, store=store) as wal:
        await wal.wait_uploaded(wal.next_offset)
    again = await restore_log(store, "/again", prefix="fork", disk=disk)
    assert (again.start_offset, again.end_offset) == (0, done.end_offset + 1)
    assert await check(disk, again) == [*PAYLOADS, b"more"]


# ---- refusals


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"until_offset": 1000}, "beyond what the store holds, which ends at 60"),
        ({"until_offset": -1}, "until_offset=-1"),
        ({"until_offset": True}, "until_offset=True"),
        ({"until_time": 5.0}, "appended later, at 1970-01-12T13:46:40"),
        ({"until_time": float("nan")}, "until_time=nan"),
        ({"until_time": 1e15}, "must be in seconds since 1970"),
        ({"until_time": 5.0, "until_offset": 5}, "exclude each other"),
        ({"file_name": "wal"}, "file_name='wal'"),
    ],
)
async def test_a_point_that_is_none_is_refused(options: Any, complaint: str) -> None:
    disk = SimDisk()
    with pytest.raises(ValueError, match=complaint):
        await restored(await uploaded(), disk, **options)
    assert not disk.tree()


@pytest.mark.happens
async def test_what_is_there_is_not_touched() -> None:
    store, disk = await uploaded(), SimDisk()
    disk.write_file(f"{TARGET}/mine", b"")
    with pytest.raises(ValueError, match="is not empty"):
        await restored(store, disk)
    assert disk.tree() == {f"{TARGET}/mine": b""}


async def test_a_staging_directory_with_other_files_is_not_touched() -> None:
    store, disk = await uploaded(), SimDisk()
    disk.write_file(f"{TARGET}{STAGING}/mine", b"")
    with pytest.raises(ValueError, match="which no restore put there"):
        await restored(store, disk)
    assert disk.tree() == {f"{TARGET}{STAGING}/mine": b""}


async def test_a_second_restore_waits_outside() -> None:
    store, disk = await uploaded(), SimDisk()
    disk.make_dir(f"{TARGET}{STAGING}")
    lock = disk.process().lock(f"{TARGET}{STAGING}/wal.lock", "another")
    with pytest.raises(LogLockedError, match="another"):
        await restored(store, disk)
    lock.release()
    await restored(store, disk)


@pytest.mark.happens
async def test_what_does_not_fit_is_not_begun() -> None:
    store, disk = await uploaded(), SimDisk(capacity_bytes=3000)
    with pytest.raises(OSError, match="still to be fetched") as caught:
        await restored(store, disk)
    assert caught.value.errno == errno.ENOSPC


async def test_a_log_that_is_not_there_is_named() -> None:
    with pytest.raises(FileNotFoundError, match="is not there"):
        await restored(SimStore())


async def test_a_log_of_a_later_version_is_refused() -> None:
    store = await uploaded()

    async def settle(state: CatalogState | None) -> CatalogState:
        assert state is not None
        return attrs.evolve(state.taken_over("x", "x"), codec="s9-standard")

    await acquire(ManifestCatalog(store, "log"), settle)
    with pytest.raises(UnsupportedFormatError, match="s9-standard"):
        await restored(store)


# ---- damage


async def object_keys(store: SimStore) -> list[str]:
    return [f"log/segments/{d.object_id}" for d in (await state_of(store)).segments]


@pytest.mark.happens
@pytest.mark.parametrize("number", [0, 3, -1])
@pytest.mark.parametrize("change", ["flip", "cut", "grow", "empty"])
async def test_a_damaged_object_is_named_and_gives_no_log(number: int, change: str) -> None:
    store, disk = await uploaded(), SimDisk()
    key = (await object_keys(store))[number]
    data = store.tree()[key]
    changed = {
        "flip": data[:40] + bytes([data[40] ^ 1]) + data[41:],
        "cut": data[:-1],
        "grow": data + b"\0",
        "empty": b"",
    }
    await store.put(key, changed[change])
    with pytest.raises(CorruptDataError) as caught:
        await restored(store, disk)
    assert caught.value.path is not None
    assert caught.value.path.endswith(key)
    assert not [path for path in disk.tree() if path.startswith(f"{TARGET}/")]
    # What is before it can be had.
    assert caught.value.offset is not None
    _, payloads, _ = await restored(store, disk, until_offset=caught.value.offset)
    assert payloads == PAYLOADS[: caught.value.offset]
    # And all of it, once the object is what it was.
    await store.put(key, data)
    _, payloads, _ = await restored(store)
    assert payloads == PAYLOADS


async def test_a_missing_object_is_corruption() -> None:
    store = await uploaded()
    await store.delete((await object_keys(store))[2])
    with pytest.raises(CorruptDataError, match="an object is missing"):
        await restored(store)


async def test_retention_meanwhile_moves_the_start() -> None:
    store, source = SimStore(), SimDisk()
    async with open_wal(CONFIG, disk=source, store=store) as wal:
        for batch in BATCHES:
            await wal.append_batch(batch)
        await wal.wait_uploaded(len(PAYLOADS))

        seen: list[str] = []

        class Trimming(SimDisk):
            async def run(self, fn: Any, /, *args: object) -> Any:
                if getattr(fn, "__name__", "") == "create" and not seen:
                    seen.append("trim")
                    await wal.trim(30)
                    for key in sorted(set(store.tree()) - set(await object_keys(store))):
                        if "/segments/" in key:
                            await store.delete(key)
                return await super().run(fn, *args)

        done = await restore_log(store, TARGET, prefix="log", disk=(disk := Trimming()))
        assert (seen, done.start_offset) == (["trim"], 30)
        assert await check(disk, done) == PAYLOADS[30:]


# ---- interrupts


async def test_a_store_that_fails_leaves_what_the_next_call_goes_on_with() -> None:
    store, disk = await uploaded(), SimDisk()
    store.fail("get", nth=9)
    with pytest.raises(StoreUnavailableError):
        await restored(store, disk)
    assert not [path for path in disk.tree() if path.startswith(f"{TARGET}/")]
    done, payloads, _ = await restored(store, disk)
    assert payloads == PAYLOADS
    assert done.resumed_bytes > 0
    assert done.resumed_bytes + done.fetched_bytes == done.size_bytes


@pytest.mark.happens
async def test_a_cancelled_restore_goes_on_later() -> None:
    store, disk = await uploaded(), SimDisk()
    for stop_after in range(1, 40, 3):
        calls = 0
        with trio.CancelScope() as scope:

            def count(
                size_bytes: int, scope: trio.CancelScope = scope, at: int = stop_after
            ) -> None:
                nonlocal calls
                calls += 1
                if calls == at:
                    scope.cancel()

            await restore_log(store, TARGET, prefix="log", disk=disk, progress=count)
        if not scope.cancelled_caught:
            break
    else:
        raise AssertionError("it never ended")
    disk = disk.crash("everything written")
    async with open_wal(WalConfig(dir=TARGET), disk=disk) as wal:
        assert [m.payload async for m in wal.reader(end="current")] == PAYLOADS


async def test_an_interrupted_restore_may_change_its_mind() -> None:
    """Another point, another log: what is there already is kept only if it is what is wanted."""
    store, other, disk = await uploaded(), await uploaded(BATCHES[::-1]), SimDisk()
    store.fail("get", nth=9)
    with pytest.raises(StoreUnavailableError):
        await restored(store, disk)
    _, payloads, _ = await restored(other, disk, until_offset=10)
    assert payloads == [p for batch in BATCHES[::-1] for p in batch][: len(payloads)]


async def test_a_crash_at_every_operation_leaves_no_log_or_a_whole_one() -> None:
    store = await uploaded(BATCHES[:9])
    expected = [p for batch in BATCHES[:9] for p in batch]
    disk = SimDisk(seed="restore")
    await restore_log(store, TARGET, prefix="log", disk=disk)
    crashes = whole = 0
    for point in disk.crash_points(samples=SAMPLES):
        for state in point.states:
            crashes += 1
            there = [path for path in state.disk.tree() if path.startswith(f"{TARGET}/")]
            if there:
                whole += 1
                async with open_wal(WalConfig(dir=TARGET), disk=state.disk) as wal:
                    assert [m.payload async for m in wal.reader(end="current")] == expected
            elif SAMPLES > 2 or crashes % 3 == 0:
                _, payloads, _ = await restored(store, state.disk)
                assert payloads == expected, (point.op_count, state.name)
    assert crashes > 50
    assert whole


async def test_a_kill_at_every_operation_is_gone_on_with() -> None:
    store = await uploaded(BATCHES[:9])
    expected = [p for batch in BATCHES[:9] for p in batch]
    number, done = 0, False
    while not done:
        disk = SimDisk()
        process = disk.process()

        def kill(operation: Any, process: Any = process, at: int = number) -> None:
            if operation.number == at:
                process.kill()

        disk.on_operation = kill
        try:
            await restore_log(store, TARGET, prefix="log", disk=process)
            done = True
        except ProcessKilledError:
            disk.on_operation = None
            if not [path for path in disk.tree() if path.startswith(f"{TARGET}/")]:
                _, payloads, _ = await restored(store, disk)
                assert payloads == expected
        number += 3
    assert number > 60


@pytest.mark.parametrize("operation", ["write", "sync_data", "rename", "sync_dir", "create"])
async def test_a_failing_disk_gives_no_log_and_the_next_call_goes_on(operation: str) -> None:
    store = await uploaded(BATCHES[:9])
    expected = [p for batch in BATCHES[:9] for p in batch]
    nth = 1
    while True:
        disk = SimDisk()
        fault = disk.fail(operation, nth=nth, path_contains=TARGET)
        try:
            await restore_log(store, TARGET, prefix="log", disk=disk)
        except OSError:
            assert fault.hits
        else:
            break
        there = [path for path in disk.tree() if path.startswith(f"{TARGET}/")]
        if not there:
            done = await restore_log(store, TARGET, prefix="log", disk=disk)
            # A sync that failed says nothing when it succeeds the next time.
            assert await check(disk.crash("synced only"), done) == expected
        nth += 1
    assert nth > 2
