"""`wal.trim`: the start moves in place, twice, so that no crash and no full disk can lose it."""

from __future__ import annotations

import errno

import attrs
import pytest
from trio.testing import wait_all_tasks_blocked

from danube_trio import CorruptDataError, LogBrokenError, Wal, WalConfig, open_wal
from danube_trio._core.files import (
    TRIM_BYTES,
    TRIM_COPIES,
    Trim,
    decode_document,
    decode_trim_copies,
    encode_document,
    encode_trim,
    encode_trim_copy,
)
from danube_trio._core.segment import LogNames
from danube_trio._engine.files.space import give_back, renew_trim, save_trim
from danube_trio.testing import SimDisk

CONFIG = WalConfig(dir="/log", segment_bytes=700, preallocate_bytes=0)
NAMES = LogNames.of("/log", "wal.log")
OLD, NEW = Trim(3), Trim(7, 9)


def file_of(first: Trim | bytes, second: Trim | bytes) -> bytes:
    copies = [c if isinstance(c, bytes) else encode_trim_copy(c) for c in (first, second)]
    return b"".join(copy.ljust(TRIM_COPIES[1], b"\0") for copy in copies)


async def payloads(wal: Wal) -> dict[int, bytes]:
    reader = wal.reader(end="current")
    return {m.offset: m.payload async for m in reader}


async def append(wal: Wal, count: int) -> None:
    for _ in range(count):
        await wal.append(b"%d" % wal.next_offset * 40)


# ---- the bytes


@pytest.mark.parametrize("trim", [Trim(0), OLD, NEW, Trim(2**64 - 1, 2**64 - 1)], ids=str)
def test_both_copies_say_the_same_and_either_is_enough(trim: Trim) -> None:
    data = encode_trim(trim)
    assert len(data) == TRIM_BYTES
    assert decode_trim_copies(data) == [trim, trim]
    for damaged in (file_of(b"x", trim), file_of(trim, b"x"), file_of(b"", trim)):
        assert decode_document(damaged, Trim) == trim
    for bit in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        assert decode_document(bytes(flipped), Trim) == trim
        assert sum(isinstance(copy, str) for copy in decode_trim_copies(bytes(flipped))) == 1


def test_the_copy_that_is_further_counts() -> None:
    for copies in ((OLD, NEW), (NEW, OLD)):
        assert decode_document(file_of(*copies), Trim) == NEW


def test_one_document_alone_is_what_an_earlier_version_wrote() -> None:
    assert decode_document(encode_document(NEW), Trim) == NEW


@pytest.mark.parametrize("data", [b"", b"x", bytes(TRIM_BYTES), file_of(b"x", b"y")])
def test_no_copy_at_all_is_damage(data: bytes) -> None:
    with pytest.raises(ValueError, match="CRC"):
        decode_document(data, Trim)


# ---- crashes


@pytest.mark.parametrize("before", [OLD, None], ids=["in place", "made anew"])
@pytest.mark.parametrize("sector_bytes", [1, 512])
def test_a_crash_at_every_step_leaves_the_old_start_or_the_new_one(
    before: Trim | None, sector_bytes: int
) -> None:
    disk = SimDisk(sector_bytes=sector_bytes)
    disk.make_dir("/log")
    old = encode_trim(before) if before is not None else encode_document(OLD)
    disk.write_file(NAMES.trim, old)
    begun = disk.op_count
    if save_trim(disk, NAMES, NEW):
        disk.sync_dir("/log")
    done = disk.op_count
    seen: set[Trim] = set()
    for point in disk.crash_points(samples=8, start=begun):
        for state in point.states:
            found = decode_document(state.disk.read_file(NAMES.trim), Trim)
            assert found in (OLD, NEW)
            assert point.op_count < done or found == NEW, state.name
            seen.add(found)
            # And what is written next may crash in the middle, too.
            renew_trim(state.disk, NAMES, found)
            for inner in state.disk.crash_points():
                for after in inner.states:
                    last = decode_document(after.disk.read_file(NAMES.trim), Trim)
                    assert last in (OLD, NEW)
                    assert inner.op_count < state.disk.op_count or last == found
    assert seen == {OLD, NEW}


@pytest.mark.parametrize("nth", [1, 2])
@pytest.mark.parametrize("operation", ["write", "sync_data"])
def test_after_a_failed_write_or_sync_the_copy_in_doubt_is_written_first(
    operation: str, nth: int
) -> None:
    """Each failure leaves one copy that may not be durable; a power cut comes in the next try."""
    disk = SimDisk(sector_bytes=1)
    disk.make_dir("/log")
    disk.write_file(NAMES.trim, encode_trim(OLD))
    disk.fail(operation, nth, path_contains="wal.trim")
    with pytest.raises(OSError, match="5"):
        save_trim(disk, NAMES, NEW)
    begun = disk.op_count
    save_trim(disk, NAMES, Trim(20))
    for point in disk.crash_points(samples=8, start=begun):
        for state in point.states:
            found = decode_document(state.disk.read_file(NAMES.trim), Trim)
            assert found in (OLD, NEW, Trim(20))
            assert found == Trim(20) or point.op_count < disk.op_count


async def test_a_crash_while_a_log_is_trimmed_never_loses_what_it_begins_with() -> None:
    disk = SimDisk(sector_bytes=1)
    told: list[tuple[int, int]] = [(0, 0)]
    async with open_wal(CONFIG, disk=disk) as wal:
        await append(wal, 30)
        begun = disk.op_count
        for before in (7, 11, 24):
            told.append((disk.op_count, await wal.trim(before)))
            await wait_all_tasks_blocked()
            told[-1] = (disk.op_count, told[-1][1])
        end = wal.next_offset
    for point in disk.crash_points(samples=2, start=begun):
        least = max(start for number, start in told if number <= point.op_count)
        for state in point.states:
            async with open_wal(CONFIG, disk=state.disk) as wal:
                assert wal.start_offset >= least
                found = await payloads(wal)
            assert list(found) == list(range(wal.start_offset, end)), state.name


async def test_the_start_is_durable_before_files_are_removed_and_nothing_is_made_for_it() -> None:
    disk = SimDisk()
    async with open_wal(CONFIG, disk=disk) as wal:
        await append(wal, 30)
        await wait_all_tasks_blocked()
        begun = disk.op_count
        await wal.trim(20)
        operations = disk.operations[begun:]
    names = [(op.name, op.path) for op in operations]
    assert not {"create", "rename"} & {name for name, _ in names}
    synced = [
        i for i, (name, path) in enumerate(names) if (name, path) == ("sync_data", NAMES.trim)
    ]
    removed = [i for i, (name, _) in enumerate(names) if name == "unlink"]
    assert len(synced) == 2
    assert removed
    assert max(synced) < min(removed)


# ---- logs of an earlier version


@pytest.mark.parametrize("trimmed", [True, False])
async def test_a_log_of_an_earlier_version_opens_and_can_be_trimmed(trimmed: bool) -> None:
    disk = SimDisk()
    async with open_wal(CONFIG, disk=disk) as wal:
        await append(wal, 30)
        start = await wal.trim(10) if trimmed else 0
    if trimmed:
        disk.write_file(NAMES.trim, encode_document(Trim(start)))
    else:
        disk.unlink(NAMES.trim)
    async with open_wal(CONFIG, disk=disk) as wal:
        assert wal.start_offset == start
        assert len(disk.read_file(NAMES.trim)) == TRIM_BYTES
        assert await wal.trim(20) == 20
    async with open_wal(CONFIG, disk=disk) as wal:
        assert list(await payloads(wal)) == list(range(20, 30))


async def test_on_a_full_disk_a_log_of_an_earlier_version_gives_its_hints_back() -> None:
    disk = SimDisk()
    async with open_wal(CONFIG, disk=disk) as wal:
        await append(wal, 30)
    disk.unlink(NAMES.trim)
    # Here files take no more than their bytes: the hints alone would not be a block.
    disk.capacity_bytes = sum(map(len, disk.tree().values())) + 500
    async with open_wal(CONFIG, disk=disk) as wal:
        assert not [path for path in disk.tree() if path.endswith((".idx", ".ckpt"))]
        assert await wal.trim(20) == 20
        await wal.append(b"room again")
        assert len(await payloads(wal)) == 11


async def test_a_damaged_start_is_refused_and_half_of_one_is_mended() -> None:
    disk = SimDisk()
    async with open_wal(CONFIG, disk=disk) as wal:
        await append(wal, 30)
        await wal.trim(20)
    disk.corrupt(NAMES.trim, TRIM_COPIES[0] + 5)
    async with open_wal(CONFIG, disk=disk) as wal:
        assert wal.start_offset == 20
    assert disk.read_file(NAMES.trim) == encode_trim(Trim(20))
    for position in TRIM_COPIES:
        disk.corrupt(NAMES.trim, position + 5)
    with pytest.raises(CorruptDataError, match=r"wal\.trim"):
        async with open_wal(CONFIG, disk=disk):
            pass


# ---- no space


async def test_without_space_trim_gives_back_hints_and_the_preallocated_rest() -> None:
    """A file system that writes nothing in place needs space even for this."""
    disk = SimDisk()
    config = attrs.evolve(CONFIG, preallocate_bytes=256)
    async with open_wal(config, disk=disk) as wal:
        await append(wal, 30)
        await wait_all_tasks_blocked()
        assert [path for path in disk.tree() if path.endswith(".idx")]
        disk.fail("write", error=errno.ENOSPC, path_contains="wal.trim")
        assert await wal.trim(20) == 20
        assert not [path for path in disk.tree() if path.endswith((".idx", ".ckpt"))]
        await append(wal, 10)
        assert list(await payloads(wal)) == list(range(20, 40))
    async with open_wal(config, disk=disk) as wal:
        assert list(await payloads(wal)) == list(range(20, 40))


async def test_a_log_that_broke_for_want_of_space_can_be_trimmed_and_opened_again() -> None:
    disk = SimDisk()
    async with open_wal(CONFIG, disk=disk) as wal:
        await append(wal, 20)
        await wait_all_tasks_blocked()
        disk.capacity_bytes = sum(map(len, disk.tree().values())) + 30
        with pytest.raises(LogBrokenError):
            await append(wal, 3)
        assert await wal.trim(12) == 12
        assert list(await payloads(wal)) == list(range(12, 20))
        with pytest.raises(LogBrokenError):
            await wal.append(b"still broken")
        with pytest.raises(LogBrokenError):
            await wal.trim(12)  # nothing more to free
    with pytest.raises(LogBrokenError):
        await wal.trim(16)  # it was left
    async with open_wal(CONFIG, disk=disk) as wal:
        assert list(await payloads(wal)) == list(range(12, 20))
        await append(wal, 3)


async def test_a_log_that_broke_otherwise_cannot_be_trimmed() -> None:
    disk = SimDisk()
    async with open_wal(CONFIG, disk=disk) as wal:
        await append(wal, 20)
        disk.fail("sync_data", path_contains=".log")
        with pytest.raises(LogBrokenError):
            await append(wal, 1)
        with pytest.raises(LogBrokenError):
            await wal.trim(12)


def test_only_hints_are_given_back() -> None:
    disk = SimDisk()
    disk.make_dir("/log")
    kept = ["wal.meta", "wal.trim", "wal.mark", "wal.lock", "wal.00000000000000000000.log"]
    kept += ["wal.00000000000000000000.log.7.torn", "other.tmp"]
    hints = ["wal.ckpt", "wal.00000000000000000000.idx", "wal.00000000000000000009.idx"]
    unfinished = ["wal.meta.tmp", "wal.00000000000000000009.idx.tmp"]
    for name in (*kept, *hints, *unfinished):
        disk.write_file(f"/log/{name}", b"x")
    assert give_back(disk, NAMES)
    assert disk.list_dir("/log") == sorted([*kept, *unfinished])
    assert give_back(disk, NAMES, unfinished=True)
    assert disk.list_dir("/log") == sorted(kept)
    assert not give_back(disk, NAMES, unfinished=True)


@pytest.mark.parametrize("damaged", [0, 1])
def test_a_copy_that_is_damaged_is_written_before_the_whole_one(damaged: int) -> None:
    disk = SimDisk()
    disk.make_dir("/log")
    data = bytearray(file_of(OLD, OLD))
    data[TRIM_COPIES[damaged]] ^= 1
    disk.write_file(NAMES.trim, bytes(data))
    begun = disk.op_count
    assert not save_trim(disk, NAMES, NEW)
    calls = [(op.name, op.position) for op in disk.operations[begun:] if op.path == NAMES.trim]
    writes = [position for name, position in calls if name == "write"]
    assert writes == [TRIM_COPIES[damaged], TRIM_COPIES[1 - damaged]]
