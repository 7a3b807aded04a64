"""The rules of `docs/durability.md` that show in the order of a log's calls: writing and failing.

Each test names its rule. The page names all tests that show a rule, these and others; the first
test here checks that they exist.
"""

from __future__ import annotations

import ast
import errno
import re
from itertools import pairwise
from pathlib import Path

import attrs
import pytest
import trio
from rules import CONFIG, LOG, MARK, Work, worked
from trio.testing import MockClock

from danube_trio import LogBrokenError, open_follower, open_wal
from danube_trio.testing import SimDisk

PAGE = Path(__file__).parent.parent / "docs" / "durability.md"


def test_every_rule_names_tests_and_they_exist() -> None:
    rules = re.split(r"^### (\d+)\. ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    assert [int(number) for number in rules[::2]] == list(range(1, 25))
    tests: dict[str, set[str]] = {}
    for number, text in zip(rules[::2], rules[1::2], strict=True):
        named = re.findall(r"`(test_\w+)::(\w+)`", text)
        assert named, f"rule {number} names no test"
        assert text.count("::") == len(named)
        for file, name in named:
            if file not in tests:
                source = Path(__file__).with_name(f"{file}.py").read_text(encoding="utf-8")
                functions = (ast.FunctionDef, ast.AsyncFunctionDef)
                nodes = ast.walk(ast.parse(source))
                tests[file] = {node.name for node in nodes if isinstance(node, functions)}
            assert name in tests[file], f"rule {number}: {file} has no {name}"


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
    for old, number in pairwise(created):
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
        opened = work.disk.op_count
        await wal.trim(20)
    operations = work.disk.operations
    renames = work.find("rename", "")
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
        assert work.find("sync_dir", "/data/log", number)
    # The start is the exception: in place, a copy after the other, each synced.
    trimmed = work.find("sync_data", "wal.trim", opened)
    gone = work.find("unlink", LOG)
    assert gone, "something was trimmed"
    assert len(trimmed) == 2
    assert max(trimmed) < min(gone)
    names = [operations[n].path for n in gone if operations[n].path.endswith(LOG)]
    assert names == sorted(names), "oldest first"


@pytest.mark.parametrize("operation", ["write", "sync_data", "close", "sync_dir", "create"])
async def test_rule_8_nothing_is_written_after_any_failure(operation: str) -> None:
    disk = SimDisk()
    acked: list[bytes] = []
    async with open_wal(CONFIG, disk=disk) as wal:
        disk.fail(operation, path_contains="log")
        with pytest.raises(LogBrokenError, match="outcome"):
            for i in range(40):
                await wal.append(b"%d" % i * 90)
                acked.append(b"%d" % i * 90)
        failed = next(op.number for op in disk.operations if op.error == errno.EIO)
        assert [m.payload async for m in wal.reader(end="current")] == acked
        assert wal.statistics().phase == "broken"
    later = {op.name for op in disk.operations[failed + 1 :]}
    assert not later & {"write", "sync_data", "truncate", "create", "rename"}
    async with open_wal(CONFIG, disk=disk) as wal:
        found = [m.payload async for m in wal.reader(end="current")]
    assert found[: len(acked)] == acked


@pytest.mark.happens
async def test_rule_9_a_full_disk_can_be_read() -> None:
    disk = SimDisk()
    async with open_wal(CONFIG, disk=disk) as wal:
        for i in range(20):
            await wal.append(b"%d" % i * 90)
    disk.capacity_bytes = 1
    async with open_follower("/data/log", disk=disk) as follower:
        found = [m.payload async for m in follower.reader(end="current")]
    assert found == [b"%d" % i * 90 for i in range(20)]


async def test_rule_1_a_flush_does_not_profit_from_a_write_that_is_under_way(
    autojump_clock: MockClock,
) -> None:
    async with open_wal(CONFIG, disk=SimDisk(latency=1)) as wal:
        began = trio.current_time()
        wal.append_nowait(b"written, and not synced")
        await trio.sleep(0.5)
        await wal.flush()
        assert trio.current_time() - began == pytest.approx(2)


async def test_rule_5_a_sealed_segment_is_exact_and_its_mark_durable_before_the_next_begins(
    autojump_clock: MockClock,
) -> None:
    work = await worked()
    created = work.find("create", LOG)
    ends: dict[str, int] = {}
    for path, _, end in work.frames().values():
        ends[path] = max(end, ends.get(path, 0))
    for old, number in pairwise(created):
        path = work.disk.operations[old].path
        assert len(next(work.disk.crash_states(number)).disk.tree()[path]) == ends[path]
        moved = work.find("write", MARK, 0, number)[-1]
        assert work.find("sync_data", MARK, moved, number)
