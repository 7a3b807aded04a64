"""`repair`: a plan first, then what the plan says, and never a byte thrown away."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from test_cli import (
    COMMAND,
    CORRUPT,
    ENVIRONMENT,
    LOCKED,
    OK,
    PROBLEMS,
    USAGE,
    call,
    fill,
    numbered,
)
from test_cli import run as command
from test_verify import (
    CONFIG,
    DIR,
    NAMES,
    RECORDS,
    Files,
    another_codec,
    disk_with,
    doubled,
    empty_at_the_end,
    flipped,
    mark_beside_a_frame,
    mark_beyond_its_segment,
    mark_beyond_the_end,
    payload,
    problems,
    segments,
    small_log,
    swapped,
    without,
    zeros_in_the_middle,
    zeros_to_the_end,
)

from danube_trio import CorruptDataError, Gap, StartPosition, WalConfig, open_wal
from danube_trio._core.files import TRIM_COPIES
from danube_trio._engine.care.repair import apply_repair
from danube_trio._engine.care.repair_plan import Plan, Policy, plan_repair
from danube_trio._engine.care.verify import Verification
from danube_trio.testing import SimDisk

TRUTH = [payload(offset) for offset in range(RECORDS)]
POLICIES: tuple[Policy | None, ...] = (None, "truncate", "skip")
Damage = Callable[[Files], Files]


def plan_of(disk: SimDisk, policy: Policy | None = None) -> Plan:
    before = disk.tree()
    plan = plan_repair(disk, NAMES, policy)
    assert disk.tree() == before
    assert disk.open_paths == []
    return plan


def repair(disk: SimDisk, policy: Policy | None = None) -> Plan:
    """Plan and apply, and check that it is idempotent and threw nothing away."""
    plan = plan_of(disk, policy)
    apply_repair(disk, plan)
    assert disk.open_paths == []
    assert not plan_of(disk, policy).changes
    return plan


def actions(plan: Plan) -> list[str]:
    return [step.action for step in plan.steps]


async def contents(disk: SimDisk, **changes: Any) -> list[bytes | Gap]:
    config = attrs.evolve(CONFIG, **changes)
    async with open_wal(config, disk=disk) as wal:
        reader = wal.reader(StartPosition.earliest(), end="current")
        items: list[Any] = [item async for item in reader]
        return [item if isinstance(item, Gap) else item.payload for item in items]


def damaged(disk: SimDisk) -> list[str]:
    return [str(f) for f in Verification(disk, NAMES) if f.severity != "note"]


def kept(disk: SimDisk) -> list[str]:
    return [path for path in disk.tree() if path.endswith((".torn", ".corrupt"))]


# ---- what is harmless


async def test_a_clean_log_needs_nothing() -> None:
    disk = disk_with(await small_log())
    assert plan_of(disk).steps == ()


async def test_a_torn_tail_is_cut_and_kept() -> None:
    files = await small_log()
    last = segments(files)[-1]
    disk = disk_with({**files, last: files[last] + b"torn"})
    assert actions(repair(disk)) == ["cut"]
    assert disk.read_file(kept(disk)[0]) == b"torn"
    assert disk.read_file(last) == files[last]
    assert damaged(disk) == []


async def test_a_tail_without_a_mark_is_cut_and_the_plan_says_what_is_whole_in_it() -> None:
    files = await small_log()
    last = segments(files)[-1]
    base = int(last.split(".")[1])
    disk = disk_with(without(NAMES.mark)({**files, last: flipped(files[last], 8 * 30)}))
    plan = repair(disk)
    assert set(actions(plan)) == {"rebuild", "cut"}
    (step,) = [step for step in plan.steps if step.action == "cut"]
    assert "nobody can tell whether they were durable, and record" in step.reason
    assert disk.read_file(kept(disk)[0]) == flipped(files[last], 8 * 30)
    assert await contents(disk) == TRUTH[:base]


async def test_small_files_are_rebuilt_and_damaged_ones_kept() -> None:
    files = await small_log()
    for path in (NAMES.mark, NAMES.checkpoint, NAMES.index(0)):
        bad = flipped(files[path], 8 * 20 + 3)
        disk = disk_with({**files, path: bad})
        assert damaged(disk)
        assert actions(repair(disk)) == ["rebuild"], path
        assert damaged(disk) == []
        assert disk.read_file(f"{path}.0.corrupt") == bad
        assert disk.read_file(path)[:20] == files[path][:20] or path == NAMES.mark
        disk = disk_with(without(path)(files))
        expected = [] if path == NAMES.checkpoint else ["rebuild"]
        assert actions(repair(disk)) == expected
        assert damaged(disk) == []
        assert await contents(disk) == TRUTH


async def test_a_mark_with_too_many_bytes_is_kept_and_cut() -> None:
    files = await small_log()
    disk = disk_with({**files, NAMES.mark: files[NAMES.mark] + b"more"})
    assert problems(disk.tree())
    repair(disk)
    assert damaged(disk) == []


@pytest.mark.parametrize("damage", [mark_beyond_its_segment, mark_beside_a_frame])
async def test_a_mark_that_lies_is_written_anew(damage: Damage) -> None:
    disk = disk_with(damage(await small_log()))
    assert damaged(disk)
    assert "rebuild" in actions(repair(disk))
    assert damaged(disk) == []
    assert await contents(disk) == TRUTH


async def test_bytes_behind_the_last_record_of_a_sealed_segment_are_cut() -> None:
    files = await small_log()
    first = segments(files)[0]
    for more in (b"junk", bytes(100), files[first]):
        disk = disk_with({**files, first: files[first] + more})
        assert "cut" in actions(repair(disk))
        assert damaged(disk) == []
        assert disk.read_file(first) == files[first]
        (beside,) = [path for path in kept(disk) if ".log." in path]
        assert disk.read_file(beside) == more.rstrip(b"\0")
    assert doubled(files)[first] == files[first] * 2


async def test_leftovers_go() -> None:
    files = await small_log()
    disk = disk_with({**files, f"{DIR}/wal.meta.tmp": b"x"})
    assert actions(repair(disk)) == ["remove"]
    assert not any(path.endswith(".tmp") for path in disk.tree())


# ---- what is not


@pytest.mark.parametrize("name", ["meta", "trim"])
async def test_nothing_is_done_without_the_files_that_nothing_else_says(name: str) -> None:
    disk = disk_with(await small_log())
    async with open_wal(CONFIG, disk=disk) as wal:
        await wal.trim(20)
    files = disk.tree()
    path = f"{DIR}/wal.{name}"
    last = segments(files)[-1]
    damaged = flipped(files[path], 77)
    if name == "trim":
        damaged = flipped(damaged, 77 + 8 * TRIM_COPIES[1])  # the other copy
    disk = disk_with({**files, path: damaged, last: files[last] + b"torn"})
    before = disk.tree()
    for policy in POLICIES:
        plan = repair(disk, policy)
        assert actions(plan) == ["impossible"]
        assert path in str(plan.steps[0])
        assert disk.tree() == before


async def test_messages_of_another_layout_stay() -> None:
    disk = disk_with(another_codec(await small_log()))
    plan = plan_of(disk, "truncate")
    assert set(actions(plan)) == {"impossible"}
    assert not plan.changes


async def test_a_log_without_its_first_segment_is_only_described() -> None:
    files = without(NAMES.segment(0))(await small_log())
    for policy in POLICIES:
        disk = disk_with(files)
        plan = repair(disk, policy)
        assert "impossible" in actions(plan)
        assert "restore the segments from a copy" in str(plan.steps[0])
        assert disk.tree() == files


def in_the_first_segment(files: Files) -> Files:
    first = segments(files)[0]
    return {**files, first: flipped(files[first], 8 * 300)}


def in_the_last_segment(files: Files) -> Files:
    last = segments(files)[-1]
    return {**files, last: flipped(files[last], 8 * 30)}


def in_two_segments(files: Files) -> Files:
    return in_the_last_segment(in_the_first_segment(files))


def without_the_second(files: Files) -> Files:
    return without(segments(files)[1])(files)


def without_the_last(files: Files) -> Files:
    return without(segments(files)[-1])(files)


def shorter_at_the_end(files: Files) -> Files:
    last = segments(files)[-1]
    return {**files, last: files[last][:-30]}


DAMAGE = [
    in_the_first_segment,
    in_the_last_segment,
    in_two_segments,
    without_the_second,
    without_the_last,
    shorter_at_the_end,
    zeros_in_the_middle,
    zeros_to_the_end,
    empty_at_the_end,
    mark_beyond_the_end,
    swapped,
]


@pytest.mark.parametrize("damage", DAMAGE)
async def test_without_a_policy_damage_is_described_and_stays(damage: Damage) -> None:
    disk = disk_with(damage(await small_log()))
    before = {path: disk.read_file(path) for path in segments(disk.tree())}
    plan = repair(disk)
    (step,) = [step for step in plan.steps if step.action == "undecided"]
    assert step.lost is not None
    assert re.search(r"with --policy truncate the log would end at offset \d+", step.reason)
    assert {path: disk.read_file(path) for path in before} == before


@pytest.mark.parametrize("damage", DAMAGE)
async def test_truncate_ends_the_log_before_the_first_damage(damage: Damage) -> None:
    files = damage(await small_log())
    disk = disk_with(files)
    plan = repair(disk, "truncate")
    (step,) = [step for step in plan.steps if step.action == "truncate"]
    assert step.lost is not None
    end = step.lost[0]
    assert damaged(disk) == []
    assert await contents(disk) == TRUTH[:end]
    everything = b"".join(disk.read_file(path) for path in sorted(disk.tree()))
    for path in segments(files):
        cut = disk.read_file(path) if path in disk.tree() else b""
        assert files[path].startswith(cut)
        assert files[path][len(cut) :].rstrip(b"\0") in everything
    # No more was cut than had to be: the record or batch at the end is the one that is damaged.
    assert end >= min(f.offset for f in problems(files) if f.offset is not None) - 4
    async with open_wal(CONFIG, disk=disk) as wal:
        assert await wal.append(b"new") == end


@pytest.mark.parametrize("damage", DAMAGE)
async def test_skip_leaves_the_damage_and_readers_get_gaps(damage: Damage) -> None:
    files = damage(await small_log())
    disk = disk_with(files)
    plan = repair(disk, "skip")
    if damage is without_the_last:
        assert "impossible" in actions(plan)  # nobody knows how much there was
        return
    assert "skip" in actions(plan)
    assert kept(disk) == []
    for path in segments(files):
        assert disk.read_file(path).rstrip(b"\0") == files[path].rstrip(b"\0")
    items = await contents(disk, on_corruption="skip")
    gaps = [item for item in items if isinstance(item, Gap)]
    assert gaps
    assert plan.damage is not None
    readable = [p for p in items if not isinstance(p, Gap)]
    lost = {offset for low, high in plan.damage.gaps for offset in range(low, high)}
    assert readable == [p for offset, p in enumerate(TRUTH) if offset not in lost]
    with pytest.raises(CorruptDataError):
        await contents(disk)


async def test_a_log_is_never_cut_below_its_start() -> None:
    disk = disk_with(await small_log())
    second = int(segments(disk.tree())[1].split(".")[1])
    async with open_wal(CONFIG, disk=disk) as wal:
        start = await wal.trim(second + 6)
    files = disk.tree()
    path = segments(files)[0]
    disk = disk_with({**files, path: flipped(files[path], 8 * 30)})
    plan = repair(disk, "truncate")
    assert "impossible" in actions(plan)
    assert "or use --policy skip" in str(plan.steps[0])
    repair(disk, "skip")
    items = await contents(disk, on_corruption="skip")
    assert items[-1] == TRUTH[-1]
    assert start == second + 6


# ---- crashes


@pytest.mark.happens
@pytest.mark.parametrize("damage", [in_two_segments, without_the_second, shorter_at_the_end])
@pytest.mark.parametrize("policy", ["truncate", "skip"])
async def test_a_repair_may_crash_anywhere_and_be_done_again(
    damage: Damage, policy: Policy
) -> None:
    files = damage(await small_log())
    disk = disk_with({**files, NAMES.checkpoint: b"?", f"{DIR}/wal.meta.tmp": b"?"})
    for path in disk.tree():
        file = disk.open(path, "rw")
        file.sync_data()
        file.close()
    disk.sync_dir(DIR)
    disk.sync_dir("/")
    begin = disk.op_count
    first = plan_of(disk, policy)
    apply_repair(disk, first)
    expected = await contents(disk_with(disk.tree()), on_corruption="skip")
    for point in disk.crash_points(start=begin):
        for state in point.states:
            after = state.disk
            repair(after, policy)
            found = await contents(after, on_corruption="skip")
            assert found == expected, (point.op_count, state.name)
            if policy == "truncate":
                assert damaged(after) == []


async def test_a_disk_that_fails_leaves_a_log_that_can_be_repaired_again() -> None:
    files = in_the_first_segment(await small_log())
    reference = disk_with(files)
    repair(reference, "truncate")
    for name in ("write", "sync_data", "sync_dir", "rename", "truncate"):
        for nth in range(1, 8):
            disk = disk_with(files)
            plan = plan_of(disk, "truncate")
            fault = disk.fail(name, nth)
            with contextlib.suppress(OSError):
                apply_repair(disk, plan)
            fault.cancel()
            assert disk.open_paths == []
            repair(disk, "truncate")
            assert damaged(disk) == []
            assert await contents(disk) == await contents(disk_with(reference.tree()))


# ---- the command


@pytest.fixture
def log(tmp_path: Path) -> Path:
    fill(tmp_path / "log", numbered(30), segment_bytes=500)
    return tmp_path / "log"


def first_segment(log: Path) -> Path:
    return min(log.glob("wal.*.log"))


def break_first(log: Path) -> None:
    path = first_segment(log)
    path.write_bytes(flipped(path.read_bytes(), 8 * 60))


def test_nothing_is_done_without_yes(log: Path) -> None:
    assert call("repair", log).out == b"nothing to repair\n"
    break_first(log)
    before = {path: path.read_bytes() for path in log.iterdir()}
    result = call("repair", log, "--policy", "truncate")
    assert result.code == PROBLEMS
    assert b"plan: truncate: " in result.out
    assert result.lines[-1] == b"nothing was changed: run it again with --yes"
    result = call("repair", log, "--yes")
    assert result.code == CORRUPT
    assert b"plan: undecided: " in result.out
    assert {path: path.read_bytes() for path in log.iterdir()} == before


def test_with_yes_it_repairs_verifies_and_has_nothing_left_to_do(log: Path) -> None:
    break_first(log)
    result = call("repair", log, "--policy", "truncate", "--yes")
    assert result.code == OK
    assert result.lines[-1] == b"repaired, and verified: no problems"
    assert b"done: " in result.out
    assert call("verify", log).code == OK
    assert call("repair", log).out.endswith(b"nothing to repair\n")
    assert call("replay", log).code == OK


def test_skip_leaves_problems_and_says_so(log: Path) -> None:
    break_first(log)
    result = call("repair", log, "--policy", "skip", "--yes", "--json")
    assert result.code in (PROBLEMS, CORRUPT)
    assert result.objects[-1]["summary"]["repaired"] is False
    assert [o["step"]["action"] for o in result.objects if "step" in o] == ["skip"]


def test_json_gives_findings_steps_and_a_summary(log: Path) -> None:
    index = next(log.glob("*.idx"))
    index.write_bytes(b"?")
    *_, step, done, again, summary = call("repair", log, "--yes", "--json").objects
    assert step["step"]["action"] == "rebuild"
    assert step["step"]["path"] == str(index)
    assert "kept in" in done["done"]
    assert "written anew" in again["done"]
    assert summary["summary"] == {"repaired": True, "steps": 1, "problems": 0}


@pytest.mark.happens
async def test_it_refuses_while_a_program_holds_the_log(log: Path) -> None:
    async with open_wal(WalConfig(dir=str(log))):
        done = await trio.to_thread.run_sync(command, "repair", log, "--yes")
    assert done.returncode == LOCKED
    assert b"the log is locked by process" in done.stderr


def test_what_is_no_log_is_refused(tmp_path: Path) -> None:
    assert call("repair", tmp_path).code == USAGE
    (tmp_path / "wal.log").write_bytes(b"")
    assert call("repair", tmp_path, "--yes").code == CORRUPT
    assert sorted(path.name for path in tmp_path.iterdir()) == ["wal.log"]


def test_an_answer_at_a_terminal_is_enough(log: Path) -> None:
    next(log.glob("*.idx")).write_bytes(b"?")
    program = "import pty,sys; sys.exit(pty.spawn(sys.argv[1:]) >> 8)"
    for answer, code in ((b"n\n", PROBLEMS), (b"y\n", OK)):
        done = subprocess.run(
            [sys.executable, "-c", program, *COMMAND, "repair", str(log)],
            input=answer, capture_output=True, env={**ENVIRONMENT, "TERM": "dumb"}, check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stdout
        assert b"Do this?" in done.stdout
    assert call("repair", log).lines[-1] == b"nothing to repair"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
