"""What a roll costs, and what it may rely on: counted on the simulated disk, never timed.

A log of ten thousand segments must pay for its next one what a log of ten pays.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from functools import partial

import pytest
import trio
from shelves_of import files_of
from trio.testing import MockClock, wait_all_tasks_blocked

from danube_trio import LogBrokenError, Wal, WalConfig, open_wal
from danube_trio._core.files import Checkpoint, decode_document
from danube_trio._core.index import INDEX_BYTES, KEPT_BYTES, KeptIndexes, SparseIndex
from danube_trio._core.segment import LogNames
from danube_trio.testing import Operation, SimDisk

CONFIG = WalConfig(dir="/log", segment_bytes=200, preallocate_bytes=0)
NAMES = LogNames.of("/log", "wal.log")


def count(disk: SimDisk, name: str, path: str, start: int = 0) -> int:
    return sum(op.name == name and op.path.endswith(path) for op in disk.operations[start:])


def written_bytes(disk: SimDisk, path: str, start: int = 0) -> int:
    return sum(
        op.size_bytes
        for op in disk.operations[start:]
        if op.name == "write" and op.path.endswith(path)
    )


async def roll(wal: Wal, times: int) -> None:
    """Append what fills a segment, so that each append but the first one rolls."""
    for _ in range(times):
        await wal.append(bytes(150))
        await wait_all_tasks_blocked()


async def test_a_roll_costs_one_sync_of_the_directory() -> None:
    disk = SimDisk()
    async with open_wal(CONFIG, disk=disk) as wal:
        await roll(wal, 3)
        start = disk.op_count
        await roll(wal, 20)
        assert count(disk, "create", ".log", start) == 20
        assert count(disk, "rename", ".idx", start) == 20
        assert count(disk, "sync_dir", "", start) == 20
        left = disk.op_count
    assert count(disk, "sync_dir", "", left) == 1, "and leaving another one, for the last hints"


async def test_the_checkpoint_costs_a_roll_the_same_however_many_segments_there_are() -> None:
    disk = SimDisk()
    rolls = 400
    async with open_wal(CONFIG, disk=disk) as wal:
        await roll(wal, rolls + 1)
        row = len(disk.read_file(NAMES.checkpoint)) / rolls
        assert written_bytes(disk, "ckpt.tmp") < rolls * 100 * row
    start = disk.op_count
    async with open_wal(CONFIG, disk=disk) as wal:
        await roll(wal, 3)
    assert count(disk, "write", "ckpt.tmp", start) <= 1, "it describes all but a few"


@pytest.mark.parametrize("ends", ["left", "killed"])
async def test_what_the_checkpoint_lacks_is_found_in_the_indexes(ends: str) -> None:
    disk = SimDisk()
    async with open_wal(CONFIG, disk=disk) as wal:
        await roll(wal, 300)
        known = list(files_of(wal).segments)
        if ends == "killed":
            disk = disk.crash("everything written")
    described = decode_document(disk.read_file(NAMES.checkpoint), Checkpoint).by_base()
    assert 0 < len(known) - len(described) < 10
    start = disk.op_count
    async with open_wal(CONFIG, disk=disk) as wal:
        assert list(files_of(wal).segments) == known
    read = {op.path for op in disk.operations[start:] if op.name == "read"}
    assert len([path for path in read if path.endswith(".idx")]) < 10
    assert len([path for path in read if path.endswith(".log")]) == 1


async def test_no_number_of_segments_keeps_more_than_some_indexes_in_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    disk, most = SimDisk(), 200
    assert most < KEPT_BYTES // INDEX_BYTES
    monkeypatch.setattr("danube_trio._core.index.KEPT_BYTES", most * INDEX_BYTES)
    async with open_wal(CONFIG, disk=disk) as wal:
        files = files_of(wal)
        # They are kept before anybody reads; what does not fit is loaded again.
        await roll(wal, most + 50)
        assert len(files.indexes) <= most
        disk.fail("create", path_contains=".idx", error=errno.EACCES, sticky=True)
        await roll(wal, 200)
        assert len(files.unindexed) <= 64
        read = [m.msg_id.topic_offset async for m in wal.reader(end="current")]
        assert read == list(range(most + 250))
        assert len(files.indexes) <= most


def test_indexes_are_kept_by_their_size_the_latest_used_ones() -> None:
    kept = KeptIndexes()

    def index(base: int, entries: int) -> SparseIndex:
        made = SparseIndex(base)
        for _ in range(entries):
            made.add_batch(made.end, made.end + 1, 1 << 16, 1, 1)
        return made

    for base in range(4):
        kept.keep(index(base, 100))
    assert kept.get(0) is not None
    kept.keep(index(9, (KEPT_BYTES - 4 * INDEX_BYTES) // 24 - 200))
    assert [base for base in (0, 1, 2, 3, 9) if kept.get(base) is not None] == [0, 3, 9]
    kept.keep(index(10, KEPT_BYTES))
    assert len(kept) == 1, "one is kept, however large"
    kept.keep(index(11, 1))
    assert kept.get(10) is None
    kept.drop_before(12)
    assert len(kept) == 0


def test_an_index_of_any_size_is_the_same_when_it_was_written_and_read() -> None:
    for entries in (0, 1, 2, 1000):
        index = SparseIndex(5)
        for i in range(entries):
            index.add_batch(index.end, index.end + 3, 70_000 + i, 10 * i, 10 * i + 1)
        found = SparseIndex.decode(index.encode(), 5)
        assert found is not None
        assert found.entries() == index.entries()
        assert found.segment() == index.segment()


# ---- directory syncs that fail


async def attempt(call: Callable[[], object]) -> None:
    try:
        await call()  # type: ignore[misc]
    except (LogBrokenError, OSError):
        return


@pytest.mark.parametrize("nth", range(1, 40))
async def test_a_failed_directory_sync_of_anybody_takes_no_acknowledged_record(
    nth: int, autojump_clock: MockClock
) -> None:
    """Rolls, trims and hints meet in one directory; whoever's sync fails, the log is broken."""
    disk = SimDisk(latency=0.01)
    acked: list[int] = []

    async def produce(wal: Wal) -> None:
        for _ in range(30):
            acked.append(await wal.append(bytes(150)))

    async def trim(wal: Wal) -> None:
        for start in range(1, 20):
            await trio.sleep(0.013)
            await wal.trim(start)

    async with open_wal(CONFIG, disk=disk) as wal:
        fault = disk.fail("sync_dir", nth)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(attempt, partial(produce, wal))
            nursery.start_soon(attempt, partial(trim, wal))
        if fault.hits:
            await trio.sleep(1)
            assert wal.phase == "broken"
            with pytest.raises(LogBrokenError):
                await wal.append(b"more")
    after = disk.crash("synced only")
    async with open_wal(CONFIG, disk=after) as wal:
        found = [m.msg_id.topic_offset async for m in wal.reader(end="current")]
        assert found[-1] >= acked[-1]
        assert found == list(range(wal.start_offset, wal.next_offset))


@pytest.mark.parametrize("nth", [1, 2, 5])
async def test_a_directory_sync_of_somebody_else_that_fails_breaks_the_log(nth: int) -> None:
    """Another thread or program syncs our directory in the middle of a roll: its failure is ours.

    It takes the new segment's name with it, and our own sync would succeed.
    """
    disk = SimDisk()
    other = disk.process()
    rolls = 0

    def meddle(operation: Operation) -> None:
        nonlocal rolls
        if operation.name != "sync_dir":
            return
        rolls += 1
        if rolls == nth:  # the new segment has its name, and our sync is about to come
            disk.fail("sync_dir")
            with pytest.raises(OSError, match="EIO"):
                other.sync_dir("/log")

    acked: list[int] = []
    async with open_wal(CONFIG, disk=disk) as wal:
        acked.append(await wal.append(b"first"))
        disk.on_operation = meddle
        with pytest.raises(LogBrokenError):
            for _ in range(60):
                acked.append(await wal.append(bytes(150)))
        disk.on_operation = None
    async with open_wal(CONFIG, disk=disk.crash("synced only")) as wal:
        found = [m.msg_id.topic_offset async for m in wal.reader(end="current")]
        assert found[: len(acked)] == acked
