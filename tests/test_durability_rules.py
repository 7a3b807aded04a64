"""The rules of `docs/durability.md` that show in the order of a log's calls to its disk.

Each test names its rule. The page names all tests that show a rule, these and others; the first
test here checks that they exist.
"""

from __future__ import annotations

import ast
import errno
import re
from pathlib import Path

import attrs
import pytest
import trio
from trio.testing import MockClock

from danube_trio import (
    CorruptDataError,
    LogBrokenError,
    StartPosition,
    Wal,
    WalConfig,
    open_follower,
    open_wal,
)
from danube_trio._core.frame import scan
from danube_trio.testing import Operation, SimDisk

PAGE = Path(__file__).parent.parent / "docs" / "durability.md"
CONFIG = WalConfig(dir="/data/log", segment_bytes=900, preallocate_bytes=256, cache_capacity=4)
LOG, MARK = ".log", "wal.mark"


def test_every_rule_names_tests_and_they_exist() -> None:
    rules = re.split(r"^### (\d+)\. ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    assert [int(number) for number in rules[::2]] == list(range(1, 25))
    tests: dict[str, set[str]] = {}
    for number, text in zip(rules[::2], rules[1::2], strict=True):
        named = re.findall(r"`(test_\w+)::(test_\w+)`", text)
        assert named, f"rule {number} names no test"
        assert text.count("::") == len(named)
        for file, name in named:
            if file not in tests:
                source = Path(__file__).with_name(f"{file}.py").read_text(encoding="utf-8")
                functions = (ast.FunctionDef, ast.AsyncFunctionDef)
                nodes = ast.walk(ast.parse(source))
                tests[file] = {node.name for node in nodes if isinstance(node, functions)}
            assert name in tests[file], f"rule {number}: {file} has no {name}"


@attrs.define(eq=False)
class Work:
    """A disk on which a log worked, and when what was acknowledged."""

    disk: SimDisk
    acks: dict[int, int] = attrs.Factory(dict[int, int])  # offset -> operations so far

    async def append(self, wal: Wal, *payloads: bytes) -> None:
        for offset in await wal.append_batch(payloads):
            self.acks[offset] = self.disk.op_count

    def find(self, name: str, path: str, start: int = 0, stop: int | None = None) -> list[int]:
        """Numbers of the operations of that name on paths that contain `path`."""
        return [
            op.number
            for op in self.disk.operations[start:stop]
            if op.name == name and path in op.path and op.error is None
        ]

    def next(self, name: str, path: str, start: int) -> int:
        return self.find(name, path, start)[0]

    def frames(self) -> dict[int, tuple[str, int, int]]:
        """Where each record is: path, start and end."""
        found: dict[int, tuple[str, int, int]] = {}
        for path, data in self.disk.tree().items():
            if path.endswith(LOG):
                base = int(path.split(".")[1])
                positions = scan(data, 0, base).positions
                for i, (start, end) in enumerate(zip(positions, positions[1:], strict=False)):
                    found[base + i] = (path, start, end)
        return found


async def worked(config: WalConfig = CONFIG) -> Work:
    """Rolls, batches, unsynced records in between, many producers, and an end."""
    work = Work(SimDisk(latency=0.01))
    async with open_wal(config, disk=work.disk) as wal:
        for i in range(6):
            await work.append(wal, b"single %d" % i * 10)
            await wal.append(b"unsynced", durability="accepted")
            await work.append(wal, b"batch", b"of", b"%d" % i * 50)
        async with trio.open_nursery() as nursery:
            for i in range(10):
                nursery.start_soon(work.append, wal, b"concurrent %d" % i * 9)
    return work


async def test_rule_1_an_ack_follows_a_sync_that_began_after_the_write(
    autojump_clock: MockClock,
) -> None:
    work = await worked()
    frames = work.frames()
    assert len(work.acks) == 34
    for offset, acked in work.acks.items():
        path, start, end = frames[offset]
        writes = [
            op.number
            for op in work.disk.operations
            if op.name == "write" and op.path == path
            if op.position < end and start < op.position + op.size_bytes
        ]
        assert len(writes) == 1, "written once, never again"
        assert work.find("sync_data", path, writes[0], acked), offset


async def test_rule_1_an_append_does_not_profit_from_a_sync_that_is_under_way(
    autojump_clock: MockClock,
) -> None:
    async with (
        open_wal(CONFIG, disk=SimDisk(latency=1)) as wal,
        trio.open_nursery() as nursery,
    ):
        began = trio.current_time()
        nursery.start_soon(wal.append, b"first")
        await trio.sleep(0.99)
        await wal.append(b"while it is synced")
        assert trio.current_time() - began == pytest.approx(2)


async def test_rule_3_unsynced_bytes_are_bounded_and_a_batch_is_one_write(
    autojump_clock: MockClock,
) -> None:
    limit = 2000
    config = attrs.evolve(
        CONFIG, max_batch_bytes=limit, segment_bytes=10**6, fsync_interval_ms=3_600_000
    )
    work = Work(SimDisk())
    async with open_wal(config, disk=work.disk) as wal:
        for i in range(60):
            await wal.append_batch([bytes(30)] * (1 + i % 5), durability="written")
        await wal.append(bytes(5000), durability="accepted")
    writes = work.find("write", LOG)
    assert len(writes) == 61
    unsynced = largest = 0
    for op in work.disk.operations:
        if op.name == "sync_data" and op.path.endswith(LOG):
            unsynced = 0
        if op.name == "write" and op.path.endswith(LOG):
            unsynced += op.size_bytes
            largest = max(largest, unsynced - op.size_bytes)
    assert 0 < largest < limit


async def test_rule_4_segment_files_are_new_and_never_used_again(
    autojump_clock: MockClock,
) -> None:
    work = await worked()
    async with open_wal(CONFIG, disk=work.disk) as wal:
        await wal.trim(wal.next_offset)
        for i in range(12):
            await work.append(wal, b"%d" % i * 200)
    created = [work.disk.operations[n].path for n in work.find("create", LOG)]
    assert len(created) == len(set(created)) > 8
    for path in created:
        # Nothing is renamed to a segment, and its zeros are only ever allocated at its end.
        assert work.find("rename", path) == []
        end = 0
        for number in work.find("write", path):
            op = work.disk.operations[number]
            assert op.position == end
            end += op.size_bytes


async def test_rules_5_and_7_a_roll_syncs_the_old_makes_the_new_syncs_the_directory_and_writes(
    autojump_clock: MockClock,
) -> None:
    work = await worked()
    operations = work.disk.operations
    created = work.find("create", LOG)
    assert len(created) > 3
    for number in created:
        path = operations[number].path
        named = work.next("sync_dir", "/data/log", number)
        assert named < work.next("write", path, number)
    for old, number in zip(created, created[1:], strict=False):
        path = operations[old].path
        last_write = max(work.find("write", path))
        last_change = max([last_write, *work.find("truncate", path)])
        assert last_change < max(work.find("sync_data", path)) < number
        assert not work.find("write", path, number), "the sealed one never changes"


async def test_rule_5_every_name_is_durable_before_the_first_ack_that_needs_it(
    autojump_clock: MockClock,
) -> None:
    work = await worked()
    first_ack = min(work.acks.values())
    made = work.find("make_dir", "/data/log")[-1]
    assert work.find("sync_dir", "/data", made, first_ack)
    for name in ("wal.meta", MARK, LOG):
        made = min(work.find("rename", name) or work.find("create", name))
        assert work.find("sync_dir", "/data/log", made, first_ack), name


async def test_rule_6_a_replacement_is_synced_renamed_and_its_directory_synced(
    autojump_clock: MockClock,
) -> None:
    work = await worked()
    async with open_wal(CONFIG, disk=work.disk) as wal:
        await wal.trim(20)
    operations = work.disk.operations
    renames = work.find("rename", "/data/log")
    assert {operations[n].path.rpartition(".")[2] for n in renames} == {
        "meta",
        "ckpt",
        "idx",
        "trim",
    }
    for number in renames:
        temporary = operations[number].path + ".tmp"
        written = max(work.find("write", temporary, 0, number))
        assert work.find("sync_data", temporary, written, number)
        assert operations[number + 1].name == "sync_dir" or work.find("sync_dir", "", number)
    trimmed = max(work.find("rename", "wal.trim"))
    gone = work.find("unlink", LOG)
    assert gone, "something was trimmed"
    assert trimmed < work.next("sync_dir", "/data/log", trimmed) < min(gone)
    names = [operations[n].path for n in gone if operations[n].path.endswith(LOG)]
    assert names == sorted(names), "oldest first"


@pytest.mark.parametrize("operation", ["write", "sync_data", "close", "sync_dir", "create"])
async def test_rule_8_nothing_is_written_after_any_failure_at_a_roll(operation: str) -> None:
    disk = SimDisk()
    acked: list[bytes] = []
    async with open_wal(CONFIG, disk=disk) as wal:
        disk.fail(operation, path_contains="log")
        with pytest.raises(LogBrokenError, match="outcome"):
            for i in range(40):
                await wal.append(b"%d" % i * 90)
                acked.append(b"%d" % i * 90)
        failed = next(op.number for op in disk.operations if op.error is not None)
        assert [m.payload async for m in wal.reader(end="current")] == acked
        assert wal.statistics().phase == "broken"
    later = {op.name for op in disk.operations[failed + 1 :]}
    assert not later & {"write", "sync_data", "truncate", "create", "rename"}
    async with open_wal(CONFIG, disk=disk) as wal:
        found = [m.payload async for m in wal.reader(end="current")]
    assert found[: len(acked)] == acked


async def test_rule_9_a_full_disk_can_be_read() -> None:
    disk = SimDisk()
    async with open_wal(CONFIG, disk=disk) as wal:
        for i in range(20):
            await wal.append(b"%d" % i * 90)
    disk.capacity_bytes = 1
    async with open_follower("/data/log", disk=disk) as follower:
        found = [m.payload async for m in follower.reader(end="current")]
    assert found == [b"%d" % i * 90 for i in range(20)]


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


def is_mark(operation: Operation) -> bool:
    return operation.path.endswith(MARK)


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
    assert all(a != b for a, b in zip(places, places[1:], strict=False)), "in turn"
    rolls = len(work.find("create", LOG)) - 1
    assert len(work.find("sync_data", MARK)) <= rolls + 2 < len(puts)


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
    disk = SimDisk()
    config = attrs.evolve(CONFIG, fsync_interval_ms=3_600_000)
    async with open_wal(config, disk=disk) as wal:
        await wal.append(b"durable")
        for i in range(3):
            await wal.append(b"unsynced %d" % i * 6, durability="written")
        torn = disk.crash("first write lost")
        opened = torn.op_count
    path = f"/data/log/wal.{0:020d}.log"
    frames = scan(disk.read_file(path), 0, 0).positions
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
