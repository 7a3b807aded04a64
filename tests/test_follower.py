"""Following a log of another process: only what is durable, all of it, and nothing is touched."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import pytest
import trio
from past import Past
from shelves_of import files_of
from trio.testing import MockClock, wait_all_tasks_blocked

from danube_trio import (
    CorruptDataError,
    Follower,
    LogBrokenError,
    LogClosedError,
    OffsetTrimmedError,
    StartPosition,
    UnsupportedFormatError,
    Wal,
    WalConfig,
    open_follower,
    open_wal,
)
from danube_trio._core.files import (
    TRIM_COPIES,
    Meta,
    Trim,
    decode_document,
    decode_marks,
    encode_document,
)
from danube_trio._core.frame import scan
from danube_trio._core.index import SparseIndex
from danube_trio._core.segment import LogNames
from danube_trio._disk.real import RealDisk
from danube_trio._engine.files.directory import Directory
from danube_trio._engine.files.segments import SegmentWalk
from danube_trio._engine.read.observe import NOTHING_SEEN, Observer, View, find_log
from danube_trio.testing import ProcessKilledError, SimDisk

DIR = "/log"
# A few records in each segment, and no preallocated zeros.
SMALL = WalConfig(dir=DIR, segment_bytes=600, preallocate_bytes=0)


def payload(offset: int) -> bytes:
    return b"record %d " % offset * (1 + offset % 5)


def payloads(start: int, end: int) -> list[bytes]:
    return [payload(offset) for offset in range(start, end)]


async def append(wal: Wal, count: int, *, durability: Any = None) -> None:
    """Batches of up to three records each."""
    end = wal.next_offset + count
    while (start := wal.next_offset) < end:
        batch = payloads(start, min(end, start + 1 + start % 3))
        await wal.append_batch(batch, durability=durability)


async def read(follower: Follower, start: int = 0) -> list[bytes]:
    reader = follower.reader(StartPosition.offset(start), end="current")
    return [message.payload async for message in reader]


@asynccontextmanager
async def written(disk: SimDisk, count: int, config: WalConfig = SMALL) -> AsyncGenerator[Wal]:
    async with open_wal(config, disk=disk) as wal:
        await append(wal, count)
        yield wal


# ---- what is visible


async def test_it_shows_what_the_writer_has_made_durable(tmp_path: Path) -> None:
    async with open_wal(WalConfig(dir=str(tmp_path))) as wal:
        await append(wal, 10)
        async with open_follower(tmp_path) as follower:
            assert (follower.start_offset, follower.durable_end) == (0, 10)
            assert follower.codec == "s5-standard"
            assert await read(follower) == payloads(0, 10)
            await append(wal, 5)
            assert follower.durable_end == 10
            await follower.refresh()
            assert await read(follower, 8) == payloads(8, 15)


async def test_it_never_shows_more_than_the_durability_mark() -> None:
    disk = SimDisk()
    config = WalConfig(dir=DIR, fsync_interval_ms=3_600_000)
    async with open_wal(config, disk=disk) as wal, open_follower(DIR, disk=disk) as follower:
        await append(wal, 4, durability="written")
        await follower.refresh()
        assert follower.durable_end == 0
        await wal.flush()
        await follower.refresh()
        assert await read(follower) == payloads(0, 4)
        await append(wal, 3, durability="written")
        await follower.refresh()
        assert await read(follower) == payloads(0, 4)


async def test_without_a_mark_it_shows_the_sealed_segments() -> None:
    disk = SimDisk()
    async with written(disk, 50) as wal:
        active_base = wal.statistics().sealed_end
    disk.unlink(f"{DIR}/wal.mark")
    async with open_follower(DIR, disk=disk) as follower:
        assert follower.durable_end == active_base
        assert await read(follower) == payloads(0, active_base)


async def test_a_log_nobody_writes_is_shown_up_to_its_end() -> None:
    disk = SimDisk()
    async with written(disk, 20):
        pass
    async with open_follower(DIR, disk=disk) as follower:
        assert await read(follower) == payloads(0, 20)


async def test_garbage_above_the_mark_is_never_seen() -> None:
    disk = SimDisk()
    async with written(disk, 20) as wal:
        path = f"{DIR}/wal.{wal.statistics().sealed_end:020d}.log"
    disk.write_file(path, disk.read_file(path) + b"\x14\0\0\0\0\0\0\0 torn")
    async with open_follower(DIR, disk=disk) as follower:
        assert await read(follower) == payloads(0, 20)


# ---- waiting


async def test_readers_wait_for_what_comes(tmp_path: Path) -> None:
    async with open_wal(WalConfig(dir=str(tmp_path), segment_bytes=2000)) as wal:
        async with open_follower(tmp_path, poll_seconds=0.001) as follower:
            seen: list[bytes] = []

            async def tail() -> None:
                async for message in follower.reader(count=90):
                    seen.append(message.payload)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(tail)
                for _ in range(9):
                    await append(wal, 10)
            assert seen == payloads(0, 90)


async def test_all_who_wait_share_one_poll(autojump_clock: MockClock) -> None:
    disk = SimDisk()
    following = open_follower(DIR, disk=disk, notify=False)
    async with written(disk, 1) as wal, following as follower:
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(follower.wait_durable, 2)
            await trio.sleep(10)
            looks = follower.statistics().looks
            assert looks == pytest.approx(10 / 0.05, rel=0.1)
            await append(wal, 1)
        assert follower.durable_end == 2
        await trio.sleep(10)
        assert follower.statistics().looks <= looks + 2  # nobody waits: nobody looks


async def test_the_poll_goes_on_when_the_one_who_polls_is_cancelled(
    autojump_clock: MockClock,
) -> None:
    disk = SimDisk()
    following = open_follower(DIR, disk=disk, notify=False)
    async with written(disk, 1) as wal, following as follower:
        async with trio.open_nursery() as nursery:

            async def give_up() -> None:
                with trio.move_on_after(1):
                    await follower.wait_durable(2)

            nursery.start_soon(give_up)
            nursery.start_soon(follower.wait_durable, 2)
            nursery.start_soon(give_up)
            await trio.sleep(3)
            await append(wal, 1)


async def test_leaving_tells_those_who_wait(autojump_clock: MockClock) -> None:
    disk = SimDisk()
    told: list[str] = []

    async def wait(follower: Follower) -> None:
        with pytest.raises(LogClosedError, match="open another one"):
            await follower.wait_durable(1)
        told.append("told")

    async with written(disk, 0):
        async with trio.open_nursery() as nursery:
            async with open_follower(DIR, disk=disk, poll_seconds=3600) as follower:
                nursery.start_soon(wait, follower)
                nursery.start_soon(wait, follower)
                await wait_all_tasks_blocked()
        assert told == ["told", "told"]
        with pytest.raises(LogClosedError):
            await follower.refresh()
        with pytest.raises(LogClosedError):
            follower.reader()


async def test_a_poll_that_fails_is_told_to_everyone_who_waits(autojump_clock: MockClock) -> None:
    disk = SimDisk()
    async with written(disk, 1), open_follower(DIR, disk=disk) as follower:

        async def wait() -> None:
            with pytest.raises(OSError, match=r"wal\.mark"):
                await follower.wait_durable(2)

        fault = disk.fail("read", path_contains="wal.mark", sticky=True)
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(wait)
        fault.cancel()
        await follower.refresh()


# ---- rolls, seeks


async def test_seeks_find_the_same_as_in_the_log_itself() -> None:
    disk = SimDisk()
    now = 1_000.0

    def clock() -> float:
        nonlocal now
        now += 0.25
        return now

    config = WalConfig(dir=DIR, segment_bytes=90_000, read_block_bytes=2000, preallocate_bytes=0)
    async with open_wal(config, disk=disk, clock=clock) as wal:
        async with open_follower(DIR, disk=disk) as follower:
            for _ in range(4):
                await append(wal, 1000)
                await follower.refresh()
                end = wal.next_offset
                for start in {0, 1, end - 1, end, *range(0, end, 97)}:
                    expected = payloads(start, min(end, start + 3))
                    reader = follower.reader(StartPosition.offset(start), end="current", count=3)
                    assert [message.payload async for message in reader] == expected
                for time in (0.0, 1000.3, 1111.1, now - 50, now + 1):
                    position = StartPosition.timestamp(time)
                    found = [
                        [record async for record in log.reader(position, end="current", raw=True)]
                        for log in (wal, follower)
                    ]
                    assert found[0] == found[1]
            assert follower.statistics().segments == wal.statistics().segments > 2
            assert follower.statistics().size_bytes == wal.statistics().size_bytes


async def test_latest_and_the_bounds_of_a_reader() -> None:
    disk = SimDisk()
    async with written(disk, 30), open_follower(DIR, disk=disk) as follower:
        assert follower.reader(StartPosition.latest()).cursor == 30
        raw = [record async for record in follower.reader(end=2, raw=True)]
        assert [record.offset for record in raw] == [0, 1]
        with pytest.raises(ValueError, match="31 is beyond the end of the log, which is 30"):
            follower.reader(StartPosition.offset(31))
        with pytest.raises(ValueError, match="count=-1"):
            follower.reader(count=-1)
        reader = follower.reader()
        assert follower.statistics().readers == (reader.statistics(),)
        assert "0 to 30" in repr(follower)


# ---- retention


@pytest.mark.happens
async def test_a_cursor_that_retention_overtakes_is_told() -> None:
    disk = SimDisk()
    async with written(disk, 60) as wal, open_follower(DIR, disk=disk) as follower:
        before = follower.reader(StartPosition.earliest())
        by_time = follower.reader(StartPosition.timestamp(1))
        start = await wal.trim(40)
        # The follower has not looked since: it learns of it from the file that is not there.
        with pytest.raises(OffsetTrimmedError) as caught:
            await before.next_batch()
        assert (caught.value.offset, caught.value.start_offset) == (0, start)
        assert follower.start_offset == start
        first = await by_time.__anext__()
        assert first.offset == start
        with pytest.raises(OffsetTrimmedError):
            follower.reader(StartPosition.offset(0))
        assert await read(follower, start) == payloads(start, 60)


async def test_a_segment_that_is_missing_stays_an_error() -> None:
    disk = SimDisk()
    async with written(disk, 60) as wal, open_follower(DIR, disk=disk) as follower:
        base = next(segment.base for segment in files_of(wal).segments.sealed()[1:])
        path = f"{DIR}/wal.{base:020d}.log"
        disk.unlink(path)
        reader = follower.reader()
        with pytest.raises(CorruptDataError, match="the segment is missing") as caught:
            _ = [message async for message in reader]
        assert (caught.value.path, caught.value.offset) == (path, base)


async def test_everything_but_the_active_segment_may_go() -> None:
    disk = SimDisk()
    config = WalConfig(dir=DIR, segment_bytes=1, preallocate_bytes=0)
    async with open_wal(config, disk=disk) as wal, open_follower(DIR, disk=disk) as follower:
        for _ in range(5):
            await append(wal, 3)
            await wal.trim(wal.next_offset)
            await follower.refresh()
            assert follower.start_offset == wal.start_offset
            assert follower.durable_end == wal.durable_end
            assert await read(follower, wal.start_offset) == payloads(
                wal.start_offset, wal.durable_end
            )


# ---- death and return of the writer


async def live_and_die(disk: SimDisk) -> None:
    """A writer that is killed in the middle of a write, with records that are not synced yet."""
    writer = disk.process()
    async with open_wal(SMALL, disk=writer) as wal:
        await append(wal, 13)
        await append(wal, 2, durability="written")
        path = f"{DIR}/wal.{files_of(wal).segments.active_base:020d}.log"
        whole = disk.read_file(path)[: files_of(wal).active.size_bytes]
        disk.write_file(path, whole + b"half a frame %d" % wal.next_offset)
        writer.kill()
        await wal.append(b"never acknowledged")


@pytest.mark.happens
async def test_it_sees_the_writer_die_and_come_back(autojump_clock: MockClock) -> None:
    disk = SimDisk()
    seen: list[bytes] = []

    async def tail(follower: Follower) -> None:
        async for message in follower.reader():
            seen.append(message.payload)

    async with written(disk, 40):
        pass
    async with open_follower(DIR, disk=disk) as follower, trio.open_nursery() as nursery:
        nursery.start_soon(tail, follower)
        for _ in range(4):
            with pytest.raises((LogBrokenError, ProcessKilledError)):
                await live_and_die(disk)
            await trio.sleep(1)
        async with open_wal(SMALL, disk=disk) as wal:
            await append(wal, 10)
            await follower.wait_durable(wal.next_offset)
            await trio.sleep(1)
            assert seen == payloads(0, wal.next_offset)
        nursery.cancel_scope.cancel()


async def test_records_that_were_cut_back_by_policy_are_an_error() -> None:
    disk = SimDisk()
    async with written(disk, 20) as wal:
        sealed_end = wal.statistics().sealed_end
    async with open_follower(DIR, disk=disk) as follower:
        disk.corrupt(f"{DIR}/wal.{sealed_end:020d}.log", 30)
        truncating = WalConfig(dir=DIR, on_corruption="truncate")
        async with open_wal(truncating, disk=disk):
            for _ in range(2):
                with pytest.raises(
                    CorruptDataError, match=r"cut back .* up to offset 20"
                ) as caught:
                    await follower.refresh()
                assert caught.value.offset == sealed_end


async def test_another_log_in_the_same_directory_is_an_error(tmp_path: Path) -> None:
    config = WalConfig(dir=str(tmp_path / "log"), segment_bytes=1)
    async with open_wal(config) as wal:
        await append(wal, 3)
    async with open_follower(tmp_path / "log") as follower:
        shutil.rmtree(tmp_path / "log")
        with pytest.raises(FileNotFoundError):
            await follower.refresh()
        async with open_wal(config) as wal:
            await append(wal, 9)
            with pytest.raises(CorruptDataError, match="holds another log now"):
                await follower.refresh()


async def test_a_mark_that_is_being_written_takes_nothing_back() -> None:
    disk = SimDisk()
    async with written(disk, 20) as wal, open_follower(DIR, disk=disk) as follower:
        mark = disk.read_file(f"{DIR}/wal.mark")
        for slot in (0, 512):
            torn = bytearray(mark)
            torn[slot + 8] ^= 0xFF
            disk.write_file(f"{DIR}/wal.mark", bytes(torn))
            await follower.refresh()
            assert follower.durable_end == 20
        disk.unlink(f"{DIR}/wal.mark")
        await follower.refresh()
        assert await read(follower) == payloads(0, 20)
        disk.write_file(f"{DIR}/wal.mark", mark)
        assert wal.durable_end == 20


# ---- opening


@pytest.mark.happens
async def test_a_log_that_is_not_there_yet(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="missing"):
        async with open_follower(tmp_path / "missing"):
            pass
    with pytest.raises(FileNotFoundError, match=r"no log 'wal\.log' here \(yet\)"):
        async with open_follower(tmp_path):
            pass
    assert RealDisk().list_dir(str(tmp_path)) == []
    async with open_wal(WalConfig(dir=str(tmp_path))) as wal:
        async with open_follower(tmp_path, poll_seconds=0.001) as follower:
            assert follower.durable_end == 0
            await append(wal, 1)
            await follower.wait_durable(1)


async def test_a_log_that_was_made_and_not_written_yet() -> None:
    disk = SimDisk()
    async with written(disk, 0):
        pass
    disk.unlink(f"{DIR}/wal.{0:020d}.log")
    disk.unlink(f"{DIR}/wal.mark")
    async with open_follower(DIR, disk=disk) as follower:
        assert (follower.start_offset, follower.durable_end) == (0, 0)
        async with open_wal(SMALL, disk=disk) as wal:
            await append(wal, 20)
            await follower.refresh()
            assert await read(follower) == payloads(0, 20)


async def test_what_is_no_log_of_ours_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(NotADirectoryError):
        async with open_follower(tmp_path / "file"):
            pass
    (tmp_path / "danube").mkdir()
    (tmp_path / "danube" / "wal.log").write_bytes(b"")
    with pytest.raises(UnsupportedFormatError, match="written by Danube"):
        async with open_follower(tmp_path / "danube"):
            pass
    async with open_wal(WalConfig(dir=str(tmp_path / "other"), file_name="x.log")):
        pass
    with pytest.raises(ValueError, match=r"file_name='wal\.log' does not match"):
        async with open_follower(tmp_path / "other"):
            pass


async def test_a_codec_that_is_unknown_is_refused() -> None:
    disk = SimDisk()
    async with written(disk, 1):
        pass
    meta = decode_document(disk.read_file(f"{DIR}/wal.meta"), Meta)
    newer = Meta(meta.directory_id, "s9-standard")
    disk.write_file(f"{DIR}/wal.meta", encode_document(newer))
    with pytest.raises(UnsupportedFormatError, match="s9-standard"):
        async with open_follower(DIR, disk=disk):
            pass


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"poll_seconds": 0}, "poll_seconds=0"),
        ({"poll_seconds": True}, "poll_seconds=True"),
        ({"recheck_seconds": 3601}, "recheck_seconds=3601"),
        ({"on_corruption": "truncate"}, "on_corruption='truncate'"),
        ({"file_name": "wal"}, "file_name='wal'"),
        ({"dir": ""}, "dir=''"),
    ],
)
def test_settings_out_of_range_name_the_setting(settings: Any, complaint: str) -> None:
    arguments: dict[str, Any] = {"dir": DIR, **settings}
    with pytest.raises(ValueError, match=complaint):
        open_follower(**arguments)


async def test_it_can_be_entered_once() -> None:
    disk = SimDisk()
    async with written(disk, 1):
        block = open_follower(DIR, disk=disk)
        async with block:
            pass
        with pytest.raises(RuntimeError, match="entered once"):
            await block.__aenter__()


# ---- damage


async def test_damage_below_the_mark_is_an_error_or_a_gap() -> None:
    disk = SimDisk()
    async with written(disk, 60):
        pass
    path = f"{DIR}/wal.{0:020d}.log"
    disk.corrupt(path, 30)
    async with open_follower(DIR, disk=disk) as follower:
        with pytest.raises(CorruptDataError) as caught:
            await read(follower)
        assert (caught.value.path, caught.value.position, caught.value.offset) == (path, 0, 0)
    async with open_follower(DIR, disk=disk, on_corruption="skip") as follower:
        items: list[Any] = [item async for item in follower.reader(end="current")]
        gap, rest = items[0], items[1:]
        assert gap.start == 0
        assert [message.payload for message in rest] == payloads(gap.end, 60)


@pytest.mark.parametrize("name", ["wal.meta", "wal.trim"])
async def test_a_damaged_document_is_an_error_that_names_it(name: str) -> None:
    disk = SimDisk()
    async with written(disk, 60) as wal, open_follower(DIR, disk=disk) as follower:
        await wal.trim(30)
        await follower.refresh()
        for position in (5, *TRIM_COPIES[1:])[: 1 + (name == "wal.trim")]:
            disk.corrupt(f"{DIR}/{name}", position)
        await append(wal, 30)  # rolls, so that both are read
        with pytest.raises(CorruptDataError, match=name):
            await follower.refresh()
        with pytest.raises(CorruptDataError, match=name):
            async with open_follower(DIR, disk=disk):
                pass


async def test_damage_in_the_active_segment_does_not_keep_it_from_opening() -> None:
    disk = SimDisk()
    async with open_wal(WalConfig(dir=DIR, preallocate_bytes=0), disk=disk) as wal:
        await append(wal, 3000)
        disk.corrupt(f"{DIR}/wal.{0:020d}.log", wal.statistics().size_bytes - 20)
        async with open_follower(DIR, disk=disk) as follower:
            assert follower.durable_end == 3000
            reader = follower.reader(StartPosition.offset(2000), count=500)
            assert [m.payload async for m in reader] == payloads(2000, 2500)


# ---- nothing is touched


async def test_it_changes_nothing_and_takes_no_lock() -> None:
    disk = SimDisk()
    async with written(disk, 40) as wal:
        await wal.trim(10)
    before = disk.tree()
    disk.write_file(f"{DIR}/wal.meta.tmp", b"left by a crash")
    number = disk.op_count
    async with open_follower(DIR, disk=disk) as follower:
        await follower.refresh()
        assert await read(follower, follower.start_offset)
    harmless = {"open", "close", "list_dir", "read", "size", "file_size", "watch"}
    assert {operation.name for operation in disk.operations[number:]} <= harmless
    assert disk.tree() == {**before, f"{DIR}/wal.meta.tmp": b"left by a crash"}
    assert disk.open_paths == []


async def test_its_readers_get_a_disk_that_refuses_every_change() -> None:
    disk = SimDisk()
    async with written(disk, 1), open_follower(DIR, disk=disk) as follower:
        view = follower._source.files.disk
        path = f"{DIR}/wal.meta"
        attempts = [
            lambda: view.make_dir("/new"),
            lambda: view.open(path, "rw"),
            lambda: view.open(path, "create"),
            lambda: view.rename(path, f"{path}2"),
            lambda: view.link(path, f"{path}2"),
            lambda: view.unlink(path),
            lambda: view.sync_dir(DIR),
            lambda: view.lock(path, "me"),
            view.open_lane,
        ]
        for attempt in attempts:
            with pytest.raises(OSError, match="changes nothing") as caught:
                attempt()
            assert caught.value.errno == errno.EROFS


# ---- races: a look that the writer crosses

# Each so many steps of the writer a look begins; DANUBE_LOOK_STEP=1 has one begin at each.
EVERY = int(os.environ.get("DANUBE_LOOK_STEP", "3"))


async def history() -> tuple[Directory, list[dict[str, bytes]]]:
    """A log that rolls and trims all the time, is closed, and goes on: the tree at each step."""
    disk = SimDisk()
    record: list[dict[str, bytes]] = []
    config = WalConfig(dir=DIR, segment_bytes=250, preallocate_bytes=512)
    async with written(disk, 1, config):
        pass
    directory = find_log(disk, LogNames.of(DIR, "wal.log"))
    disk.on_operation = lambda operation: record.append(disk.tree())
    for keep in (8, 0):
        async with open_wal(config, disk=disk) as wal:
            for _ in range(8):
                await append(wal, 3)
                await wal.trim(max(0, wal.next_offset - keep))
    disk.on_operation = None
    record.append(disk.tree())
    changes = [tree for before, tree in pairwise([{}, *record]) if tree != before]
    return directory, changes


def durable_end(directory: Directory, tree: dict[str, bytes]) -> int:
    mark = decode_marks(tree[directory.names.mark], directory.directory_crc)
    assert mark is not None
    return mark.durable_end


def check_view(view: View, directory: Directory, tree: dict[str, bytes]) -> None:
    """Whatever a view shows is there, unless it was trimmed by now."""
    trim = tree.get(directory.names.trim)
    start = decode_document(trim, Trim).start_offset if trim is not None else 0
    segments = [(segment.base, segment.end) for segment in view.sealed]
    assert view.start <= view.end
    assert [end for _, end in segments] == [base for base, _ in segments[1:]] + (
        [view.active_base] if segments else []
    )
    for base, end in [*segments, (view.active_base, view.end)]:
        if max(base, start) < end:
            data = tree[directory.names.segment(base)]
            assert scan(data, 0, base, stop_offset=end).end_offset == end


@pytest.mark.parametrize("steps", [(0,), (1,), (2,), (0, 1), (0, 0, 1), (3, 0), (7,), (0, 13, 1)])
async def test_a_look_is_consistent_whenever_the_writer_crosses_it(steps: tuple[int, ...]) -> None:
    directory, record = await history()
    assert len(record) > 200
    for begin in range(0, len(record), EVERY if any(steps) else 1):
        past = Past(record, begin, steps)
        observer = Observer(cast("Any", past), directory)
        view, index = NOTHING_SEEN, SparseIndex(0)
        while past.now < len(record) - 1 and past.now < begin + 100:
            least, before = durable_end(directory, record[past.now]), view
            view = observer.look(before, index)
            assert max(least, before.end) <= view.end <= durable_end(directory, record[past.now])
            assert view.start >= before.start
            check_view(view, directory, record[past.now])
            if view.active_base != index.base:
                index = SparseIndex(view.active_base)
            for run in view.runs:
                index.add_batch(*run)
            if not any(steps):
                break


def test_a_walk_goes_on_when_a_writer_was_left_and_the_next_one_came_within_a_read() -> None:
    """Leaving cuts the preallocated end off, and opening makes it longer again."""

    class Cut:
        path = "/log/wal.0.log"
        reads = 0

        def read_at(self, size: int, position: int) -> bytes:
            self.reads += 1
            return bytes(64 if self.reads == 1 else size)

        def size(self) -> int:
            return 4096

    file: Any = Cut()
    walk = SegmentWalk(file, 0, 0, size=4096)
    assert list(walk) == []
    assert walk.fault is not None
    assert walk.fault.only_zeros
