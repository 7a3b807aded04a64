"""The rules of `docs/durability.md` that show in the order of calls: the mark, and recovery."""

from __future__ import annotations

import errno
from itertools import pairwise

import attrs
import pytest
from rules import CONFIG, LOG, MARK, Work, worked
from trio.testing import MockClock

from danube_trio import CorruptDataError, LogBrokenError, StartPosition, open_wal
from danube_trio._core.frame import scan
from danube_trio.testing import SimDisk


@pytest.mark.happens
@pytest.mark.parametrize("number", [errno.EMFILE, errno.EROFS, errno.EACCES])
async def test_rule_11_a_roll_that_cannot_be_leaves_nothing_that_a_recovery_chokes_on(
    number: int,
) -> None:
    disk = SimDisk()
    acked: list[bytes] = []
    async with open_wal(CONFIG, disk=disk) as wal:
        disk.fail("create", error=number, path_contains=LOG)
        with pytest.raises(LogBrokenError) as caught:
            for i in range(40):
                await wal.append(b"%d" % i * 90)
                acked.append(b"%d" % i * 90)
        assert isinstance(caught.value.__cause__, OSError)
        assert caught.value.__cause__.errno == number
        assert [m.payload async for m in wal.reader(end="current")] == acked
    for state in disk.crash_states(samples=3):
        async with open_wal(CONFIG, disk=state.disk) as wal:
            await wal.append(b"goes on")
            found = [m.payload async for m in wal.reader(end="current")]
        assert found[: len(acked)] == acked
        assert found[-1] == b"goes on"


async def test_rule_12_the_mark_follows_the_sync_precedes_the_ack_and_is_seldom_synced(
    autojump_clock: MockClock,
) -> None:
    work = await worked()
    operations = work.disk.operations
    puts = work.find("write", MARK)
    for number in puts[1:]:
        before = [op.name for op in operations[:number] if op.path.endswith(LOG)]
        assert before[-1] == "sync_data", "of the data, just before"
    for acked in work.acks.values():
        last_sync = work.find("sync_data", LOG, 0, acked)[-1]
        assert work.find("write", MARK, last_sync, acked)
    assert {operations[n].position for n in puts} == {0, 512}
    places = [operations[n].position for n in puts]
    assert all(a != b for a, b in pairwise(places)), "in turn"
    calm = await worked(attrs.evolve(CONFIG, segment_bytes=10**6))
    assert len(calm.find("sync_data", MARK)) <= 3 < 12 < len(calm.find("write", MARK))


@pytest.mark.happens
async def test_rule_12_an_old_torn_or_missing_mark_only_claims_less() -> None:
    disk = SimDisk()
    marks: list[bytes] = [b"", b"torn"]
    async with open_wal(CONFIG, disk=disk) as wal:
        for i in range(12):
            await wal.append(b"%d" % i * 90)
            marks.append(disk.read_file("/data/log/wal.mark"))
    files = disk.tree()
    marks += [mark[:done] + marks[-1][done:] for mark in marks[2:] for done in (5, 20, 515, 530)]
    for mark in marks:
        again = SimDisk()
        for path, data in {**files, "/data/log/wal.mark": mark}.items():
            again.write_file(path, data)
        async with open_wal(CONFIG, disk=again) as wal:
            found = [m.payload async for m in wal.reader(end="current")]
        assert found == [b"%d" % i * 90 for i in range(12)]


async def test_rule_12_a_cut_lowers_the_mark_durably_before_it_truncates() -> None:
    disk = SimDisk()
    config = attrs.evolve(CONFIG, segment_bytes=10**6, preallocate_bytes=0)
    async with open_wal(config, disk=disk) as wal:
        for i in range(12):
            await wal.append(b"%d" % i * 90)
    disk.corrupt(f"/data/log/wal.{0:020d}.log", 700)
    work = Work(disk)
    opened = disk.op_count
    async with open_wal(attrs.evolve(config, on_corruption="truncate"), disk=disk) as wal:
        kept = wal.next_offset
    assert 0 < kept < 12
    cut = work.next("truncate", "0.log", opened)
    assert work.find("write", ".corrupt", opened, cut)
    assert work.find("sync_data", ".corrupt", opened, cut)
    lowered = work.find("write", MARK, opened, cut)
    assert len(lowered) == 2, "both slots"
    assert work.find("sync_data", MARK, lowered[-1], cut)
    for point in disk.crash_points(start=opened):
        for state in point.states:  # a crash in the middle is never worse than before
            try:
                async with open_wal(config, disk=state.disk) as wal:
                    assert wal.next_offset >= kept
            except CorruptDataError:
                assert point.op_count <= cut


async def test_rule_14_a_torn_tail_is_cut_even_if_whole_frames_follow() -> None:
    disk, torn = SimDisk(), SimDisk()
    config = attrs.evolve(CONFIG, fsync_interval_ms=3_600_000)
    async with open_wal(config, disk=disk) as wal:
        await wal.append(b"durable")
        for i in range(3):
            await wal.append(b"unsynced %d" % i * 6, durability="written")
        files = disk.tree()
    path = f"/data/log/wal.{0:020d}.log"
    frames = scan(files[path], 0, 0).positions
    assert len(frames) == 5
    for name, data in files.items():  # a power cut took a page of the first unsynced record
        torn.write_file(name, data.replace(b"unsynced 0", bytes(10), 1) if name == path else data)
    opened = torn.op_count
    async with open_wal(config, disk=torn) as wal:
        assert [m.payload async for m in wal.reader(end="current")] == [b"durable"]
        assert "never acknowledged" in wal.statistics().notes[0]
        assert await wal.append(b"goes on") == 1
    kept = torn.read_file(f"{path}.{frames[1]}.torn")
    assert b"unsynced 2" in kept, "whole frames followed, and were kept beside"
    work = Work(torn)
    steps = [
        work.next("write", ".torn", opened),
        work.next("sync_data", ".torn", opened),
        work.next("truncate", path, work.next("sync_data", ".torn", opened)),
    ]
    steps.append(work.next("sync_data", path, steps[-1]))
    steps.append(work.next("sync_dir", "/data/log", steps[-1]))
    steps.append(work.next("write", path, opened))
    assert steps == sorted(steps), "copy, truncate, sync, sync the directory, append"
    async with open_wal(config, disk=torn) as wal:
        reader = wal.reader(StartPosition.offset(1), end="current")
        assert [m.payload async for m in reader] == [b"goes on"]


async def test_rule_17_what_a_killed_process_wrote_is_durable_before_it_is_served() -> None:
    disk = SimDisk()
    config = attrs.evolve(CONFIG, fsync_interval_ms=3_600_000)
    process = disk.process()
    with pytest.raises(LogBrokenError):
        async with open_wal(config, disk=process) as wal:
            for i in range(5):
                await wal.append(b"%d" % i * 60, durability="written")
            process.kill()
    async with open_wal(config, disk=disk) as wal:
        served = [m.payload async for m in wal.reader(end="current")]
        assert served == [b"%d" % i * 60 for i in range(5)]
        for state in disk.crash_states(samples=5):
            async with open_wal(config, disk=state.disk) as again:
                assert [m.payload async for m in again.reader(end="current")] == served


async def test_a_damaged_record_below_the_mark_is_refused_and_nothing_is_changed() -> None:
    disk = SimDisk()
    async with open_wal(CONFIG, disk=disk) as wal:
        for i in range(3):
            await wal.append(b"%d" % i * 90)
    path = next(path for path in disk.tree() if path.endswith(LOG))
    data = bytearray(disk.read_file(path))
    data[-20] ^= 1
    disk.write_file(path, bytes(data))
    before = disk.tree()
    with pytest.raises(CorruptDataError, match="below the durability mark"):
        async with open_wal(CONFIG, disk=disk):
            pass
    assert {p: d for p, d in disk.tree().items() if "lock" not in p} == {
        p: d for p, d in before.items() if "lock" not in p
    }


@pytest.mark.happens
async def test_a_last_segment_that_only_the_mark_knows_of_is_missed() -> None:
    disk = SimDisk()
    async with open_wal(CONFIG, disk=disk) as wal:
        for i in range(30):
            await wal.append(b"%d" % i * 90)
    *_, last = sorted(path for path in disk.tree() if path.endswith(LOG))
    disk.unlink(last)
    disk.unlink("/data/log/wal.ckpt")
    with pytest.raises(CorruptDataError, match="the segment is missing") as caught:
        async with open_wal(CONFIG, disk=disk):
            pass
    assert caught.value.path == last


async def test_the_name_of_the_first_segment_is_durable_before_the_mark_speaks_of_it() -> None:
    work = Work(SimDisk())
    async with open_wal(CONFIG, disk=work.disk):
        pass
    made = max(work.find("create", LOG)[0], work.find("create", MARK)[0])
    spoken = work.next("write", MARK, made)
    assert work.find("sync_dir", "/data/log", made, spoken)
