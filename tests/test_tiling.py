"""Records below the mark are in a segment, or it is corruption, whatever else stands beside."""

from __future__ import annotations

import attrs
import pytest

from danube_trio import (
    CorruptDataError,
    Gap,
    StartPosition,
    StreamMessage,
    Wal,
    WalConfig,
    open_follower,
    open_wal,
)
from danube_trio._core.segment import LogNames
from danube_trio._engine.care.repair import apply_repair
from danube_trio._engine.care.repair_plan import plan_repair
from danube_trio._engine.care.verify import Verification
from danube_trio.testing import SimDisk

CONFIG = WalConfig(dir="/log", segment_bytes=4000, preallocate_bytes=0)
NAMES = LogNames.of("/log", "wal.log")
BODIES = [b"%03d" % i * 100 for i in range(30)]
EACH = 11  # records of a segment


async def payloads(wal: Wal) -> list[bytes]:
    return [m.payload async for m in wal.reader(StartPosition.earliest(), end="current")]


async def made(count: int = 30, **settings: object) -> SimDisk:
    """A log of segments [0, 11), [11, 22) and [22, 30)."""
    disk = SimDisk()
    async with open_wal(attrs.evolve(CONFIG, **settings), disk=disk) as wal:  # type: ignore[arg-type]
        for body in BODIES[:count]:
            await wal.append(body)
        assert count < 30 or wal.statistics().segments == 3
    return disk


async def refused(disk: SimDisk) -> CorruptDataError:
    before = disk.tree()
    with pytest.raises(CorruptDataError) as caught:
        async with open_wal(CONFIG, disk=disk):
            pass
    assert {p: d for p, d in disk.tree().items() if p != NAMES.lock} == {
        p: d for p, d in before.items() if p != NAMES.lock
    }, "nothing was changed"
    return caught.value


CONTENTS = [b"", b"anything else" * 100]


@pytest.mark.happens
@pytest.mark.parametrize("data", CONTENTS, ids=["empty", "filled"])
@pytest.mark.parametrize("base", [3, 10, 13, 21, 23, 29])
@pytest.mark.parametrize("hints", ["hints", "none"])
async def test_a_file_with_a_segments_name_takes_nothing_out_of_the_log(
    base: int, data: bytes, hints: str
) -> None:
    disk = await made()
    if hints == "none" and data and base < 2 * EACH:
        return  # nothing at hand says anything, and who reads it says that it is damaged
    if hints == "none":
        for path in disk.tree():
            if path.endswith((".idx", ".ckpt")):
                disk.unlink(path)
    disk.write_file(NAMES.segment(base), data)
    error = await refused(disk)
    stray = NAMES.segment(base)
    assert stray in str(error)
    assert "move it out of the directory" in str(error)
    disk.unlink(stray)
    async with open_wal(CONFIG, disk=disk) as wal:
        assert await payloads(wal) == BODIES


async def test_a_stray_segment_of_an_acknowledged_log_is_refused_and_moving_it_away_helps() -> None:
    disk = SimDisk()
    async with open_wal(CONFIG, disk=disk) as wal:
        await wal.append_batch(BODIES[:5])
        for body in BODIES[5:10]:
            await wal.append(body)
    disk.write_file(NAMES.segment(6), b"")
    error = await refused(disk)
    assert (error.path, error.offset) == (NAMES.segment(6), 6)
    with pytest.raises(CorruptDataError, match="no segment of this log"):
        async with open_follower("/log", disk=disk):
            pass
    disk.rename(NAMES.segment(6), "/log/stray")
    async with open_wal(CONFIG, disk=disk) as wal:
        assert await payloads(wal) == BODIES[:10]
        assert await wal.append(b"new") == 10


@pytest.mark.happens
async def test_a_follower_is_told_of_a_stray_segment_while_it_follows() -> None:
    disk = await made()
    async with open_follower("/log", disk=disk, notify=False) as follower:
        disk.write_file(NAMES.segment(3), b"")
        disk.write_file(NAMES.segment(25), b"")
        reader = follower.reader(StartPosition.offset(0), end="current")
        assert len([m async for m in reader]) == 30, "what it had seen is not changed by that"
    with pytest.raises(CorruptDataError, match="no segment of this log"):
        async with open_follower("/log", disk=disk):
            pass


@pytest.mark.parametrize("base", [3, 13, 23])
async def test_with_skip_a_stray_segment_is_left_out_with_a_note(base: int) -> None:
    disk = await made()
    disk.write_file(NAMES.segment(base), b"stray" * 1000)
    async with open_wal(attrs.evolve(CONFIG, on_corruption="skip"), disk=disk) as wal:
        assert await payloads(wal) == BODIES
        assert any(NAMES.segment(base) in note for note in wal.statistics().notes)
        assert await wal.append(b"new") == 30
    assert disk.read_file(NAMES.segment(base)) == b"stray" * 1000


@pytest.mark.happens
async def test_a_last_segment_that_the_log_never_came_to_is_refused() -> None:
    disk = await made()
    disk.write_file(NAMES.segment(50), b"")
    error = await refused(disk)
    assert (error.path, error.offset) == (NAMES.segment(22), 30)
    assert f"if {NAMES.segment(50)} is not of this log, move it out" in str(error)
    async with open_wal(attrs.evolve(CONFIG, on_corruption="skip"), disk=disk) as wal:
        items: list[object] = [
            item async for item in wal.reader(StartPosition.earliest(), end="current")
        ]
        assert [i.payload for i in items if isinstance(i, StreamMessage)] == BODIES
        assert [(i.start, i.end) for i in items if isinstance(i, Gap)] == [(30, 50)]


@pytest.mark.happens
@pytest.mark.parametrize("base", [0, 11])
async def test_an_emptied_segment_is_refused_at_once(base: int) -> None:
    disk = await made()
    disk.write_file(NAMES.segment(base), b"")
    error = await refused(disk)
    assert f"records {base} to {base + EACH} are in no segment" in str(error)
    async with open_wal(attrs.evolve(CONFIG, on_corruption="skip"), disk=disk) as wal:
        items: list[object] = [
            item async for item in wal.reader(StartPosition.earliest(), end="current")
        ]
        assert [(i.start, i.end) for i in items if isinstance(i, Gap)] == [(base, base + EACH)]


async def test_without_a_mark_a_stray_after_the_last_segment_is_refused() -> None:
    disk = await made()
    disk.unlink(NAMES.mark)
    disk.write_file(NAMES.segment(25), b"")
    error = await refused(disk)
    assert error.path == NAMES.segment(25)


@pytest.mark.parametrize("data", CONTENTS, ids=["empty", "filled"])
@pytest.mark.parametrize("base", [3, 13, 23])
async def test_a_repair_keeps_a_stray_segment_beside_and_loses_nothing(
    base: int, data: bytes
) -> None:
    disk = await made()
    path = NAMES.segment(base)
    disk.write_file(path, data)
    assert any(f.severity == "problem" for f in Verification(disk, NAMES))
    plan = plan_repair(disk, NAMES, None)
    assert [(s.action, s.path) for s in plan.steps if s.action != "rebuild"] == [("remove", path)]
    apply_repair(disk, plan)
    assert disk.read_file(f"{path}.0.corrupt") == data
    assert not [f for f in Verification(disk, NAMES) if f.severity == "problem"]
    async with open_wal(CONFIG, disk=disk) as wal:
        assert await payloads(wal) == BODIES


async def test_a_repair_ends_a_log_before_a_last_segment_that_it_never_came_to() -> None:
    disk = await made()
    disk.write_file(NAMES.segment(50), b"")
    apply_repair(disk, plan_repair(disk, NAMES, "truncate"))
    async with open_wal(CONFIG, disk=disk) as wal:
        assert await payloads(wal) == BODIES
        assert await wal.append(b"new") == 30


async def test_a_stray_after_damage_below_the_mark_takes_nothing_either() -> None:
    """The segment's own records cannot say how far it goes, so the mark does."""
    disk = await made(10)
    disk.corrupt(NAMES.segment(0), 1500)
    disk.write_file(NAMES.segment(6), b"")
    error = await refused(disk)
    assert "records 6 to 10 are in no segment, and were durable" in str(error)
    disk.unlink(NAMES.segment(6))
    assert "below the durability mark" in str(await refused(disk))
