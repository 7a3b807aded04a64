"""Space that is reserved ahead of the records: an optimization, which must never cost a record.

And what earlier versions left when they got only a part of it: zeros behind the last frame of a
sealed segment, which are no damage.
"""

from __future__ import annotations

import errno

import attrs
import pytest
import trio
from trio.testing import MockClock

from danube_trio import CloudConfig, LogBrokenError, Wal, WalConfig, open_follower, open_wal
from danube_trio._core.files import Checkpoint, decode_document, encode_document
from danube_trio._core.frame import scan
from danube_trio._core.segment import LogNames
from danube_trio._engine.care.verify import Verification
from danube_trio.testing import SimDisk, SimStore

STEP = 4096
CONFIG = WalConfig(
    dir="/log",
    preallocate_bytes=STEP,
    segment_bytes=4 * STEP,
    topic_name="/default/t",
    cloud=CloudConfig(upload_interval=None),
)
NAMES = LogNames.of("/log", "wal.log")


def segments(disk: SimDisk) -> dict[int, bytes]:
    found = {int(p.split(".")[1]): d for p, d in disk.tree().items() if p.endswith(".log")}
    return dict(sorted(found.items()))


def not_exact(files: dict[int, bytes]) -> list[int]:
    """Segments whose file does not end where their last frame does."""
    return [base for base, data in files.items() if scan(data, 0, base).positions[-1] != len(data)]


def allocations(disk: SimDisk) -> list[int | None]:
    """The errors of all of them, None for each that worked."""
    return [op.error for op in disk.operations if op.name == "allocate"]


async def payloads(wal: Wal) -> list[bytes]:
    return [m.payload async for m in wal.reader(end="current")]


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
async def test_what_a_refused_reserve_got_in_part_is_given_back_at_once(error: int) -> None:
    disk = SimDisk()
    async with open_wal(CONFIG, disk=disk) as wal:
        await wal.append(bytes(100))
        assert len(segments(disk)[0]) == STEP
        disk.fail("allocate", error=error, short=1000)
        await wal.append(b"x" * STEP)
        assert allocations(disk) == [None, error]
        assert not_exact(segments(disk)) == []


async def test_a_reserve_that_was_refused_is_tried_again_a_step_later() -> None:
    disk = SimDisk()
    disk.fail("allocate", error=errno.ENOSPC)
    async with open_wal(CONFIG, disk=disk) as wal:
        await wal.append(bytes(100))
        await wal.append(bytes(100))
        assert allocations(disk) == [errno.ENOSPC], "not for each record"
        await wal.append(bytes(STEP))
        assert allocations(disk) == [errno.ENOSPC, None]
        assert len(segments(disk)[0]) == 2 * STEP


@pytest.mark.parametrize("ends", ["rolled", "left", "killed", "taken over"])
async def test_whatever_ends_a_segment_leaves_it_exact(ends: str) -> None:
    disk, store = SimDisk(), SimStore() if ends == "taken over" else None
    async with open_wal(CONFIG, disk=disk, store=store) as wal:
        await wal.append(bytes(100))
        disk.fail("allocate", error=errno.ENOSPC, short=3000, sticky=True)
        await wal.append(b"x" * STEP)
        if ends == "rolled":
            await wal.append(bytes(3 * STEP))
        elif ends in ("killed", "taken over"):
            disk = disk.crash("everything written")
    if ends in ("killed", "taken over"):
        config = attrs.evolve(CONFIG, preallocate_bytes=0)
        async with open_wal(config, disk=disk, store=store):
            pass
    assert len(segments(disk)) == (1 if ends in ("left", "killed") else 2)
    assert not_exact(segments(disk)) == []


async def test_what_is_reserved_never_keeps_a_record_out() -> None:
    """Neither of the log itself nor of another one on the same disk."""
    taken: list[int] = []
    for step in (0, STEP):
        disk = SimDisk(capacity_bytes=10 * STEP)
        one = attrs.evolve(CONFIG, preallocate_bytes=step, segment_bytes=1 << 20)
        two = attrs.evolve(one, dir="/other")
        async with open_wal(one, disk=disk) as wal, open_wal(two, disk=disk) as other:
            with pytest.raises(LogBrokenError):
                while True:
                    if other.next_offset < 20:
                        await other.append(bytes(100))
                    await wal.append(bytes(100))
            taken.append(wal.next_offset)
    without, ahead = taken
    # The other log has at most one step that it does not need.
    assert without - ahead <= STEP // 100
    assert ahead > 200


async def test_a_nearly_full_disk_is_not_reserved() -> None:
    disk = SimDisk(capacity_bytes=7 * STEP)
    async with open_wal(CONFIG, disk=disk) as wal:
        for _ in range(30):
            await wal.append(bytes(100))
        assert not_exact(segments(disk)) == []
        disk.capacity_bytes = None
        await wal.append(bytes(STEP))
        assert allocations(disk) == [None]


async def test_nobody_need_say_how_much_is_free() -> None:
    disk = SimDisk()
    disk.fail("free_bytes", error=errno.ENOSYS, sticky=True)
    async with open_wal(CONFIG, disk=disk) as wal:
        await wal.append(bytes(100))
        assert wal.phase == "open"


# ---- zeros behind a sealed segment


async def old_log(zeros: int, hints: str) -> tuple[SimDisk, list[bytes]]:
    """A log of three segments in which an earlier version left zeros in the first two."""
    disk = SimDisk()
    config = attrs.evolve(CONFIG, preallocate_bytes=0, segment_bytes=1500)
    async with open_wal(config, disk=disk) as wal:
        for i in range(30):
            await wal.append(b"record %d " % i * 9)
        written = await payloads(wal)
    bases = list(segments(disk))
    assert len(bases) > 3
    checkpoint = decode_document(disk.read_file(NAMES.checkpoint), Checkpoint)
    rows = [list(row) for row in checkpoint.segments]
    for base, row in zip(bases[:2], rows[:2], strict=True):
        disk.write_file(NAMES.segment(base), disk.read_file(NAMES.segment(base)) + bytes(zeros))
        row[2] += zeros  # as its next opening wrote it
        if hints == "no index":
            disk.unlink(NAMES.index(base))
    if hints == "no checkpoint":
        disk.unlink(NAMES.checkpoint)
    else:
        old = Checkpoint(checkpoint.next_offset, tuple(tuple(row) for row in rows))  # type: ignore[misc]
        disk.write_file(NAMES.checkpoint, encode_document(old))
    disk.sync_dir("/log")
    assert not_exact(segments(disk)) == bases[:2]
    return disk, written


@pytest.mark.parametrize("hints", ["as it was", "no index", "no checkpoint"])
@pytest.mark.parametrize("zeros", [1, 16, 17, 5000])
async def test_zeros_that_an_earlier_version_left_are_no_damage(zeros: int, hints: str) -> None:
    disk, written = await old_log(zeros, hints)
    found = list(Verification(disk, NAMES))
    assert [str(finding) for finding in found if finding.severity == "problem"] == []
    async with open_follower("/log", disk=disk) as follower:
        assert [m.payload async for m in follower.reader(end="current")] == written
    async with open_wal(CONFIG, disk=disk) as wal:
        assert not_exact(segments(disk)) == []
        assert await payloads(wal) == written
    assert [finding for finding in Verification(disk, NAMES) if finding.severity != "note"] == []


@pytest.mark.parametrize("hints", ["as it was", "no index", "no checkpoint"])
async def test_zeros_that_an_earlier_version_left_stop_no_upload(
    hints: str, autojump_clock: MockClock
) -> None:
    disk, written = await old_log(3000, hints)
    store = SimStore()
    async with open_wal(CONFIG, disk=disk, store=store) as wal:
        await wal.append(b"last")
        with trio.fail_after(600):
            await wal.wait_uploaded(wal.next_offset)
        assert await payloads(wal) == [*written, b"last"]
    for key, data in store.tree().items():
        if "segments/" in key:
            assert not data.endswith(bytes(17)), key


async def test_the_zeros_are_cut_whatever_crashes_meanwhile() -> None:
    disk, written = await old_log(3000, "as it was")
    start = disk.op_count
    async with open_wal(CONFIG, disk=disk):
        pass
    for point in disk.crash_points(start=start):
        for state in point.states:
            async with open_wal(CONFIG, disk=state.disk) as wal:
                assert await payloads(wal) == written, (point.op_count, state.name)
                assert not_exact(segments(state.disk)) == []


async def test_whoever_looked_at_the_sizes_says_so_and_they_are_not_looked_at_again() -> None:
    disk, _ = await old_log(3000, "as it was")
    reads: list[list[str]] = []
    for _ in range(2):
        start = disk.op_count
        async with open_wal(CONFIG, disk=disk):
            last = NAMES.segment(max(segments(disk)))
            reads.append(
                [
                    op.path
                    for op in disk.operations[start:]
                    if op.name == "read" and op.path.endswith((".log", ".idx")) and op.path != last
                ]
            )
    assert reads[0]
    assert reads[1] == []
