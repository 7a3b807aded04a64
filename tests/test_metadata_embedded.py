"""The metadata store in a directory: the contract, group commit, cancellation, faults, locks."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from danube_trio._core.disk import Disk
from danube_trio._disk.real import RealDisk
from danube_trio.errors import (
    CorruptDataError,
    LogLockedError,
    StoreUnavailableError,
    UnsupportedFormatError,
    WatchLostError,
)
from danube_trio.metadata import (
    EmbeddedMetadata,
    MetadataStore,
    WatchEvent,
    open_metadata_directory,
)
from danube_trio.testing import SimDisk, check_metadata

D = "/data/metadata"


async def content(store: EmbeddedMetadata) -> dict[str, bytes]:
    return {entry.key: entry.value for entry in await store.list_entries("/")}


async def content_of(disk: Disk, path: str = D) -> dict[str, bytes]:
    async with open_metadata_directory(path, disk=disk) as store:
        return await content(store)


def journals(disk: SimDisk) -> list[str]:
    return [name for name in disk.list_dir(D) if name.endswith(".journal")]


# -- the contract


async def test_it_keeps_the_contract_on_the_simulated_disk(autojump_clock: MockClock) -> None:
    disk = SimDisk()
    async with open_metadata_directory(D, disk=disk, journal_bytes=30_000) as store:
        await check_metadata(store)
        assert store.revision > 100 and await content(store) == {}
    assert disk.open_paths == []


async def test_it_keeps_the_contract_on_the_real_disk(tmp_path: Path) -> None:
    async with open_metadata_directory(tmp_path / "store", disk=RealDisk()) as store:
        await check_metadata(store)
    assert await content_of(RealDisk(), f"{tmp_path}/store") == {}


def takes_a_store(store: MetadataStore) -> None:
    """Checked by the type checkers only."""


async def test_entries_and_revisions_survive(tmp_path: Path) -> None:
    disk = RealDisk()
    async with open_metadata_directory(tmp_path, disk=disk) as store:
        takes_a_store(store)
        await store.put("/ключ", b"1")
        await store.transact({}, put={"/b": b"", "/c": bytes(range(256))})
        await store.delete("/b")
        before = await store.list_entries("/")
        assert "open, 2 entries, revision 4" in repr(store)
        assert store.url == f"file://{tmp_path}"
    async with open_metadata_directory(tmp_path, disk=disk) as store:
        assert await store.list_entries("/") == before
        assert await store.put("/d", b"") == 5


async def test_a_store_in_a_log_directory_leaves_the_log_alone() -> None:
    disk = SimDisk()
    disk.make_dir(D)
    disk.write_file(f"{D}/wal.meta", b"not ours")
    disk.write_file(f"{D}/metadata.journal.bak", b"not ours either")
    async with open_metadata_directory(D, disk=disk) as store:
        await store.put("/a", b"")
    assert disk.read_file(f"{D}/wal.meta") == b"not ours"
    assert "metadata.journal.bak" in disk.list_dir(D)


# -- group commit and cancellation


async def test_concurrent_writers_share_a_sync_and_see_each_other() -> None:
    disk = SimDisk()
    async with open_metadata_directory(D, disk=disk) as store:
        syncs = sum(op.name == "sync_data" for op in disk.operations)
        results: dict[int, int | None] = {}

        async def create(number: int) -> None:
            results[number] = await store.transact({"/a": 0}, put={"/a": b"%d" % number})

        async with trio.open_nursery() as nursery:
            for number in range(200):
                nursery.start_soon(create, number)
        assert sum(op.name == "sync_data" for op in disk.operations) - syncs <= 3
        [(winner, revision)] = [item for item in results.items() if item[1] is not None]
        assert (await content(store), store.revision) == ({"/a": b"%d" % winner}, revision)


async def test_a_large_line_is_written_in_parts(autojump_clock: MockClock) -> None:
    disk = SimDisk(latency=0.01)
    async with open_metadata_directory(D, disk=disk) as store:
        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(store.put, f"/{number}", bytes(900_000))
        assert len(await content(store)) == 10
    largest = max(op.size_bytes for op in disk.operations if op.name == "write")
    assert largest < 10_000_000  # the snapshot; a batch is smaller
    assert len(await content_of(disk)) == 10


async def test_a_write_is_not_seen_before_it_is_durable(autojump_clock: MockClock) -> None:
    disk = SimDisk()
    async with open_metadata_directory(D, disk=disk) as store, trio.open_nursery() as nursery:
        disk.latency = 1.0
        async with store.watch("/") as events:
            nursery.start_soon(store.put, "/a", b"")
            await trio.sleep(0.5)
            assert await store.get("/a") is None
            event = await anext(events)
        assert trio.current_time() == 1.0
        assert (await store.get("/a")) is not None and event.key == "/a"


Write = Callable[[EmbeddedMetadata], Awaitable[object]]
WRITES: list[Write] = [
    lambda store: store.put("/a", b"new"),
    lambda store: store.delete("/a"),
    lambda store: store.transact({"/a": 2}, put={"/a": b"new"}),
]


@pytest.mark.parametrize("write", WRITES)
async def test_cancelled_in_the_line_nothing_was_done(
    write: Write, autojump_clock: MockClock
) -> None:
    disk = SimDisk()
    async with open_metadata_directory(D, disk=disk) as store:
        await store.put("/a", b"old")
        disk.latency = 1.0
        for delay in (0.0, 0.5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(store.put, "/b", b"")  # leads
                await wait_all_tasks_blocked()
                with trio.move_on_after(delay) as scope:
                    await write(store)
                assert scope.cancelled_caught
        disk.latency = 0.0
        await store.put("/c", b"")
        assert await content(store) == {"/a": b"old", "/b": b"", "/c": b""}


@pytest.mark.parametrize("write", WRITES)
async def test_cancelled_while_it_is_written_it_is_done_and_returns(
    write: Write, autojump_clock: MockClock
) -> None:
    disk = SimDisk()
    async with open_metadata_directory(D, disk=disk) as store:
        await store.put("/a", b"old")
        disk.latency = 1.0
        returned = False
        with trio.move_on_after(0.5) as scope:
            await write(store)
            returned = True
            await trio.lowlevel.checkpoint()
        assert returned and scope.cancelled_caught
        assert await content(store) in ({"/a": b"new"}, {})


async def test_a_cancelled_writer_does_not_lose_the_line(autojump_clock: MockClock) -> None:
    """The leader, or the next one, being cancelled must leave nobody waiting for ever."""
    disk = SimDisk()
    done: list[int] = []

    async def put(number: int, scope: trio.CancelScope) -> None:
        with scope:
            await store.put(f"/{number}", b"")
            done.append(number)

    async with open_metadata_directory(D, disk=disk) as store:
        disk.latency = 1.0
        scopes = [trio.CancelScope() for _ in range(6)]
        async with trio.open_nursery() as nursery:
            for number in range(6):
                nursery.start_soon(put, number, scopes[number])
                await wait_all_tasks_blocked()
            for number in (0, 1, 3, 4):
                scopes[number].cancel()
        assert sorted(done) == [0, 2, 5]
        assert await content(store) == {f"/{number}": b"" for number in done}


async def test_leaving_waits_for_what_is_written_and_refuses_the_rest(
    autojump_clock: MockClock,
) -> None:
    disk = SimDisk()
    outcome: dict[str, str] = {}

    async def put(store: EmbeddedMetadata, key: str) -> None:
        try:
            await store.put(key, b"")
            outcome[key] = "done"
        except StoreUnavailableError as error:
            outcome[key] = str(error)

    async with trio.open_nursery() as nursery:
        async with open_metadata_directory(D, disk=disk) as store:
            disk.latency = 1.0
            nursery.start_soon(put, store, "/a")
            await wait_all_tasks_blocked()
            nursery.start_soon(put, store, "/b")
            await wait_all_tasks_blocked()
    assert outcome["/a"] == "done" and "nothing was done" in outcome["/b"]
    assert await content_of(disk) == {"/a": b""}
    with pytest.raises(StoreUnavailableError, match="closed"):
        await store.get("/a")
    await store.aclose()


# -- times to live


async def test_times_to_live_begin_anew_when_the_store_is_opened(autojump_clock: MockClock) -> None:
    disk = SimDisk()
    async with open_metadata_directory(D, disk=disk) as store:
        await store.put("/a", b"", ttl=10)
        await store.put("/ended", b"", ttl=1)
        await trio.sleep(9)
        assert await content(store) == {"/a": b""}
    async with open_metadata_directory(D, disk=disk) as store:
        await trio.sleep(9)
        assert await content(store) == {"/a": b""}
        await trio.sleep(1)
        assert await content(store) == {}
        revision = store.revision
    async with open_metadata_directory(D, disk=disk) as store:
        assert (await content(store), store.revision) == ({}, revision)


async def test_thousands_of_times_end_at_once(autojump_clock: MockClock) -> None:
    disk = SimDisk()
    async with open_metadata_directory(D, disk=disk) as store:
        for start in range(0, 2560, 128):
            async with trio.open_nursery() as nursery:
                for number in range(start, start + 128):
                    nursery.start_soon(partial(store.put, f"/{number}", b"", ttl=5))
        await trio.sleep(5)
        assert await content(store) == {}
    assert await content_of(disk) == {}


async def test_a_watch_waits_for_the_end_of_a_time_and_makes_it_durable(
    autojump_clock: MockClock,
) -> None:
    disk = SimDisk()
    async with open_metadata_directory(D, disk=disk) as store:
        revision = await store.put("/a", b"", ttl=5)
        async with store.watch("/") as events:
            assert await anext(events) == WatchEvent("/a", None, revision + 1)
        assert await content_of(disk.crash()) == {}


# -- watches across openings


async def test_a_watch_resumes_after_opening_as_far_as_the_journal_goes() -> None:
    disk = SimDisk()
    async with open_metadata_directory(D, disk=disk) as store:
        revisions = [await store.put("/a", b"%d" % n) for n in range(5)]
    async with open_metadata_directory(D, disk=disk) as store:
        async with store.watch("/", after=revisions[2]) as events:
            assert [(await anext(events)).value for _ in range(2)] == [b"3", b"4"]
        async with store.watch("/", after=0) as events:
            with pytest.raises(WatchLostError):
                await anext(events)


# -- faults


FAULTS = [
    ("write", errno.ENOSPC, None),
    ("write", errno.EIO, 10),
    ("sync_data", errno.EIO, None),
]


@pytest.mark.happens
@pytest.mark.parametrize(("operation", "number", "short"), FAULTS)
async def test_a_store_whose_write_failed_tells_everybody_and_is_opened_anew_by_the_next_call(
    operation: str, number: int, short: int | None
) -> None:
    disk = SimDisk()
    async with open_metadata_directory(D, disk=disk) as store:
        first = await store.put("/a", b"1")
        disk.fail(operation, error=number, short=short, path_contains=".journal")
        async with store.watch("/") as events:
            with pytest.raises(StoreUnavailableError, match="not known") as caught:
                await store.put("/a", b"2")
            assert isinstance(caught.value.__cause__, OSError)
            assert "broken" in repr(store)
            with pytest.raises(StoreUnavailableError, match=r"broken.*See to the disk"):
                await anext(events)
        found = await content(store)
        assert "open" in repr(store)
        assert found == {"/a": b"2" if operation == "sync_data" else b"1"}
        async with store.watch("/", after=first) as events:
            await store.put("/b", b"3")
            seen = [(await anext(events)).value]
            if operation == "sync_data":
                seen.append((await anext(events)).value)
            assert seen == ([b"2", b"3"] if operation == "sync_data" else [b"3"])
        with pytest.raises(LogLockedError):
            await content_of(disk)
    assert await content_of(disk.crash()) == {**found, "/b": b"3"}


@pytest.mark.parametrize(("operation", "number", "short"), FAULTS)
async def test_whatever_a_crash_leaves_after_a_failure_has_what_was_acknowledged_since(
    operation: str, number: int, short: int | None, autojump_clock: MockClock
) -> None:
    for fail_again in range(1, 12):
        disk = SimDisk()
        done: dict[str, bytes] = {}
        async with open_metadata_directory(D, disk=disk, journal_bytes=300) as store:
            for at in range(8):
                if at == 4:
                    disk.fail(operation, error=number, short=short, path_contains=".journal")
                    disk.fail(None, fail_again, error=number, path_contains="/metadata.")
                key, value = f"/{at % 3}", b"%d" % at * 30
                while done.get(key) != value:
                    with contextlib.suppress(StoreUnavailableError):
                        await store.put(key, value)
                        done[key] = value
                    await trio.sleep(1)
                assert await content(store) == done
                for state in disk.crash_states():
                    assert await content_of(state.disk) == done, state.name


@pytest.mark.happens
async def test_a_full_disk_is_tried_again_with_pauses_and_told_once(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    disk = SimDisk()
    async with open_metadata_directory(D, disk=disk) as store:
        await store.put("/a", b"1")
        fault = disk.fail("write", error=errno.ENOSPC, sticky=True, path_contains=".journal")
        for _ in range(200):
            with pytest.raises(StoreUnavailableError, match="injected ENOSPC"):
                await store.put("/a", b"2")
            assert await content(store) == {"/a": b"1"}
            await trio.sleep(0.1)
        assert 5 < fault.hits < 30
        fault.cancel()
        await trio.sleep(5)
        await store.put("/a", b"3")
    assert await content_of(disk.crash()) == {"/a": b"3"}
    told = [record.getMessage() for record in caplog.records if record.levelname != "DEBUG"]
    assert len(told) == 2 and "is broken" in told[0] and "can be written to again" in told[1]


@pytest.mark.happens
async def test_a_store_that_lost_what_it_acknowledged_is_not_gone_on_with(
    autojump_clock: MockClock,
) -> None:
    disk = SimDisk()
    async with open_metadata_directory(D, disk=disk) as store:
        await store.put("/a", b"1")
        disk.fail("write", path_contains=".journal")
        with pytest.raises(StoreUnavailableError, match="not known"):
            await store.put("/a", b"2")
        (name,) = journals(disk)
        file = disk.open(f"{D}/{name}", "rw")
        file.truncate(disk.file_size(f"{D}/{name}") - 1)
        file.close()
        for _ in range(3):
            with pytest.raises(StoreUnavailableError, match="nothing was done") as caught:
                await store.put("/b", b"")
            assert isinstance(caught.value.__cause__, CorruptDataError)
            await trio.sleep(10)
        assert await content(store) == {"/a": b"1"}


async def test_all_who_wait_hear_of_a_failed_sync(autojump_clock: MockClock) -> None:
    disk = SimDisk()
    causes: list[str] = []

    async def put(number: int) -> None:
        try:
            await store.put(f"/{number}", b"")
        except StoreUnavailableError as error:
            causes.append(str(error))

    async with open_metadata_directory(D, disk=disk) as store:
        disk.latency = 1.0
        disk.fail("sync_data")
        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(put, number)
                await trio.sleep(0.2)
    assert sum("not known" in cause for cause in causes) == 1
    assert sum("nothing was done" in cause for cause in causes) == 4  # who came later goes on
    assert list(await content_of(disk)) == [f"/{number}" for number in (0, 5, 6, 7)]


async def test_a_full_disk_leaves_the_old_snapshot_and_goes_on() -> None:
    disk = SimDisk()
    async with open_metadata_directory(D, disk=disk, journal_bytes=1000) as store:
        fault = disk.fail("write", error=errno.ENOSPC, path_contains=".tmp", sticky=True)
        for n in range(40):
            await store.put("/a", b"%d" % n * 50)
        assert fault.hits in range(1, 10)  # not tried with every write
        assert journals(disk) == ["metadata.00000000000000000001.journal"]
        assert not [name for name in disk.list_dir(D) if name.endswith(".tmp")]
        fault.cancel()
        for n in range(80):
            await store.put("/a", b"%d" % n * 50)
        assert journals(disk) != ["metadata.00000000000000000001.journal"]
    assert await content_of(disk) == {"/a": b"79" * 50}


async def test_the_journal_does_not_grow_without_bound() -> None:
    disk = SimDisk()
    async with open_metadata_directory(D, disk=disk, journal_bytes=5000) as store:
        for n in range(500):
            await store.put(f"/cursor/{n % 3}", b"%d" % n)
    assert sum(len(data) for data in disk.tree().values()) < 9000
    assert len(journals(disk)) == 1


# -- the directory


async def test_two_openers_are_kept_apart(tmp_path: Path) -> None:
    async with open_metadata_directory(tmp_path, disk=RealDisk()) as store:
        with pytest.raises(LogLockedError, match=f"process {os.getpid()}"):
            async with open_metadata_directory(tmp_path, disk=RealDisk()):
                pass
        await store.put("/a", b"")
    assert await content_of(RealDisk(), f"{tmp_path}") == {"/a": b""}


async def test_a_later_format_is_refused_untouched() -> None:
    disk = SimDisk()
    await content_of(disk)
    data = bytearray(disk.read_file(f"{D}/metadata.snapshot"))
    data[8] = 2
    disk.write_file(f"{D}/metadata.snapshot", bytes(data))
    before = disk.tree()
    with pytest.raises(UnsupportedFormatError, match="format 2 is not known"):
        await content_of(disk)
    assert disk.tree() == before


async def test_a_missing_file_is_damage() -> None:
    disk = SimDisk()
    async with open_metadata_directory(D, disk=disk) as store:
        await store.put("/a", b"")
    tree = disk.tree()
    for lost in (f"{D}/metadata.snapshot", f"{D}/metadata.{1:020d}.journal"):
        other = SimDisk()
        for path, data in tree.items():
            if path != lost:
                other.write_file(path, data)
        before = other.tree()
        with pytest.raises(CorruptDataError, match="missing"):
            await content_of(other)
        assert other.tree() == before


async def test_bad_settings_are_refused_before_the_disk_is_touched() -> None:
    disk = SimDisk()
    for settings in ({"journal_bytes": 0}, {"history_events": 0}, {"history_bytes": -1}):
        with pytest.raises(ValueError, match=next(iter(settings))):
            async with open_metadata_directory(D, disk=disk, **settings):
                pass
    assert disk.op_count == 0
