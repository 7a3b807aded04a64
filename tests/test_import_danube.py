"""`import-danube`: Danube's directory in, a log of ours out, whole or not at all."""

from __future__ import annotations

import os
import pty
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from danube_writer import DIR, ERAS, Sent, dnb1, frame, on_disk, run, segment, sent
from test_cli import COMMAND, CORRUPT, ENVIRONMENT, LOCKED, OK, PROBLEMS, USAGE, call
from test_cli import run as command

from danube_trio import CorruptDataError, StartPosition, StreamMessage, WalConfig, open_wal
from danube_trio._core.segment import LogNames
from danube_trio._engine.care.verify import Verification
from danube_trio._engine.danube.import_log import (
    NOTE,
    STAGING,
    Imported,
    Plan,
    import_log,
    plan_import,
)
from danube_trio._engine.danube.source import DanubeSource
from danube_trio.testing import SimDisk

TARGET = "/target/log"
NOW = 1_800_000_000.0


def write(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def plan(disk: SimDisk, **options: Any) -> Plan:
    source = DanubeSource(disk, DIR, **options)
    for _ in source:
        pass
    return plan_import(source)


def clock() -> float:
    return NOW


async def imported(files: dict[str, bytes]) -> tuple[list[StreamMessage], int, SimDisk, Imported]:
    """Import on a simulated disk; messages, start offset, disk and what it says."""
    disk = on_disk(files)
    done = await import_log(disk, plan(disk), TARGET, clock=clock)
    found = list(Verification(disk, LogNames.of(TARGET, "wal.log")))
    assert not [finding for finding in found if finding.severity != "note"]
    messages, start = await contents(disk)
    return messages, start, disk, done


async def contents(disk: SimDisk) -> tuple[list[StreamMessage], int]:
    async with open_wal(WalConfig(dir=TARGET), disk=disk) as wal:
        reader = wal.reader(StartPosition.earliest(), end="current")
        return [message async for message in reader], wal.start_offset


# ---- through the command line


@pytest.mark.parametrize("codec", ERAS)
def test_a_directory_of_every_era_is_imported(tmp_path: Path, codec: str) -> None:
    files = {"wal.log": run(0, 30, codec), "wal.1.log": run(30, 50, codec), "wal.ckpt": b"?"}
    source = write(tmp_path / "source", files)
    target = tmp_path / "deep" / "log"
    done = subprocess.run(
        [*COMMAND, "import-danube", str(source), str(target)],
        capture_output=True, env=ENVIRONMENT, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (OK, b"")
    assert f"50 records ({codec}) in 2 files" in done.stdout.decode()
    assert "offsets 0 to 50 (exclusive) are kept" in done.stdout.decode()
    assert f"imported 50 records into {target}, read back" in done.stdout.decode()
    assert {path.name: path.read_bytes() for path in source.iterdir()} == files
    assert sorted(path.name for path in target.parent.iterdir()) == ["log"]
    assert call("verify", target).lines[-1].startswith(b"clean: 50 records, offsets 0 to 50")
    schema = ERAS[codec][0]
    lines = call("replay", target, "--json").objects
    for line, want in zip(lines, map(sent, range(50)), strict=True):
        assert line["payload"].encode() == want.payload
        assert line.get("request_id", 0) == want.request_id
        assert line["publish_time"] == want.publish_time
        assert line["attributes"] == want.attributes
        assert line["topic_name"] == want.topic
        assert line["broker_addr"] == want.broker
        assert line["producer_name"] == want.producer
        assert line.get("routing_key") == (want.routing_key if schema >= 5 else None)
        assert line.get("schema_version") == (want.schema_version if schema >= 3 else None)


def test_objects_and_segments_are_imported_too(tmp_path: Path) -> None:
    objects = write(
        tmp_path / "a", {"data-0-4.dnb1": dnb1((i, sent(i)) for i in range(5)),
                         "data-5-9.dnb1": run(5, 10, "s1-legacy")}
    )  # fmt: skip
    assert call("import-danube", objects, tmp_path / "log1").code == OK
    segments = write(
        tmp_path / "b", {f"segment_{n}.bin": segment(n, [sent(n), sent(n)]) for n in range(11)}
    )
    assert call("import-danube", segments, tmp_path / "log2").code == OK
    assert call("replay", tmp_path / "log1").lines == [sent(i).payload for i in range(10)]
    assert call("replay", tmp_path / "log2").lines == [sent(i // 2).payload for i in range(22)]


@pytest.mark.happens
def test_damage_is_refused_and_then_stepped_over(tmp_path: Path) -> None:
    data = run(0, 4) + b"garbage" + run(5, 9)
    source, target = write(tmp_path / "source", {"wal.log": data}), tmp_path / "log"
    result = call("import-danube", source, target)
    assert result.code == CORRUPT
    assert "nothing was imported, because of 2 problems" in result.err
    assert not target.exists()
    result = call("import-danube", source, target, "--dry-run")
    assert (result.code, result.err) == (PROBLEMS, "")
    assert not target.exists()
    result = call("import-danube", source, target, "--on-damage", "skip", "--keep-offsets")
    assert result.code == CORRUPT
    assert "cannot all keep their offsets" in result.err
    assert os.listdir(tmp_path) == ["source"]
    result = call("import-danube", source, target, "--on-damage", "skip")
    assert result.code == PROBLEMS
    assert "offsets 5 to 9 (exclusive) of generation 1 become 4 to 8" in result.out.decode()
    assert call("replay", target).lines == [sent(i).payload for i in (0, 1, 2, 3, 5, 6, 7, 8)]


def test_generations_follow_each_other_and_the_summary_maps_them(tmp_path: Path) -> None:
    data = run(0, 4, of="a") + run(0, 3, of="b")
    source, target = write(tmp_path / "source", {"wal.log": data}), tmp_path / "log"
    result = call("import-danube", source, target, "--json")
    assert result.code == OK
    *findings, last = result.objects
    assert [finding["severity"] for finding in findings] == ["warning"]
    summary = last["summary"]
    assert summary["generations"] == 2
    assert summary["stretches"] == [
        {"generation": 1, "start": 0, "end": 4, "new_start": 0, "new_end": 4},
        {"generation": 2, "start": 0, "end": 3, "new_start": 4, "new_end": 7},
    ]
    assert summary["imported"]["records"] == 7
    assert len(summary["imported"]["sha256"]) == 64
    expected = [sent(i, "a").payload for i in range(4)] + [sent(i, "b").payload for i in range(3)]
    assert call("replay", target).lines == expected


def test_wrong_usage_is_said_before_anything_is_read(tmp_path: Path) -> None:
    source = write(tmp_path / "source", {"wal.log": run(0, 3)})
    full = write(tmp_path / "full", {"x": b""})
    for args, reason in (
        ((source, full), "is not empty"),
        ((source, source / "log"), "inside the source"),
        ((source, source), "is not empty"),
        ((tmp_path / "nowhere", tmp_path / "log"), "No such file"),
        ((full, tmp_path / "log"), "there are no wal files of Danube's here"),
        ((source, tmp_path / "log", "--codec", "s9"), "unknown"),
        ((source, tmp_path / "log", "--kind", "segments"), "there are no segments"),
    ):
        result = call("import-danube", *args)
        assert result.code == USAGE, args
        assert reason in result.err
    assert sorted(os.listdir(tmp_path)) == ["full", "source"]


def test_an_empty_directory_is_a_target_and_an_empty_log_a_source(tmp_path: Path) -> None:
    source, target = write(tmp_path / "source", {"wal.log": b""}), tmp_path / "log"
    target.mkdir()
    result = call("import-danube", source, target)
    assert result.code == OK
    assert "imported 0 records" in result.out.decode()
    assert call("verify", target).lines[-1].startswith(b"clean: 0 records")


async def test_two_imports_at_a_time_exclude_each_other(tmp_path: Path) -> None:
    source, target = write(tmp_path / "source", {"wal.log": run(0, 3)}), tmp_path / "log"
    done = await trio.to_thread.run_sync(command, "import-danube", source, target)
    assert done.returncode == OK
    staging = Path(f"{target}{STAGING}")
    os.rename(target, staging)
    note = [[str(source / "wal.log"), (source / "wal.log").stat().st_size]]
    stretches = [{"generation": 1, "start": 0, "end": 3, "new_start": 0, "new_end": 3}]
    import json

    text = json.dumps({"files": note, "first": 0, "stretches": stretches})
    Path(f"{target}{NOTE}").write_text(text)
    async with open_wal(WalConfig(dir=str(staging))):
        result = await trio.to_thread.run_sync(command, "import-danube", source, target)
        assert result.returncode == LOCKED
    result = await trio.to_thread.run_sync(command, "import-danube", source, target)
    assert result.returncode == OK
    assert "3 records, 3 of them before" in result.stdout.decode()


def test_progress_is_shown_on_a_terminal_only(tmp_path: Path) -> None:
    source = write(tmp_path / "source", {"wal.log": run(0, 300)})
    ours, theirs = pty.openpty()
    done = subprocess.run(
        [*COMMAND, "import-danube", str(source), str(tmp_path / "log")],
        stdout=subprocess.PIPE,
        stderr=theirs,
        env={**ENVIRONMENT, "TERM": "xterm", "COLUMNS": "80"},
        check=True,
    )
    os.close(theirs)
    shown = os.read(ours, 65536)
    os.close(ours)
    assert b"importing" in shown
    assert b"\x1b" not in done.stdout


# ---- what is kept


async def test_offsets_are_kept_wherever_they_begin() -> None:
    messages, start, _, done = await imported({"wal.log": run(100, 130)})
    assert (start, done.records) == (100, 30)
    assert [message.offset for message in messages] == list(range(100, 130))
    assert [message.payload for message in messages] == [sent(i).payload for i in range(100, 130)]


async def test_append_times_are_the_publish_times() -> None:
    times = [1758383000, 1758383001000, 1758383002000000, 1758383003000000000]
    data = b"".join(
        frame(i, message=attrs.evolve(sent(i), payload=b"x" * 900_000, publish_time=t))
        for i, t in enumerate([*times, 1 << 63, 5, 0])
    )
    _, _, disk, _ = await imported({"wal.log": data})
    async with open_wal(WalConfig(dir=TARGET), disk=disk) as wal:
        records = [r async for r in wal.reader(StartPosition.earliest(), end="current", raw=True)]
    seconds = [record.append_time / 1e6 for record in records]
    assert seconds[:4] == pytest.approx([1758383000, 1758383001, 1758383002, 1758383003])
    assert seconds[4:] == [NOW] * 3


async def test_without_any_publish_time_it_is_the_time_of_the_import() -> None:
    data = b"".join(frame(i, message=Sent(b"x", publish_time=0)) for i in range(3))
    _, _, disk, _ = await imported({"wal.log": data})
    async with open_wal(WalConfig(dir=TARGET), disk=disk) as wal:
        records = [r async for r in wal.reader(StartPosition.earliest(), end="current", raw=True)]
    assert {record.append_time for record in records} == {int(NOW * 1e6)}


async def test_the_segment_id_of_the_first_layout_is_counted_and_dropped() -> None:
    files = {"segment_3.bin": segment(3, [attrs.evolve(sent(i), segment_id=3) for i in range(4)])}
    messages, _, disk, _ = await imported(files)
    assert [message.msg_id.segment_id for message in messages] == [0] * 4
    source = DanubeSource(disk, DIR)
    assert list(source) == []
    assert source.dropped_segment_ids == 4


async def test_messages_above_danubes_limit_are_imported() -> None:
    big = Sent(bytes(11 << 20))
    messages, *_ = await imported({"wal.log": frame(0, message=big) + run(1, 3)})
    assert [len(message.payload) for message in messages] == [11 << 20, 9, 9]


# ---- interrupted


@pytest.mark.happens
async def test_it_goes_on_where_it_was_interrupted() -> None:
    files = {"wal.log": run(7, 2500)}
    disk = on_disk(files)

    with trio.CancelScope() as scope:

        def stop(_: int) -> None:
            scope.cancel()

        await import_log(disk, plan(disk), TARGET, clock=clock, progress=stop)
    assert scope.cancelled_caught
    assert f"{TARGET}{NOTE}" in disk.tree()
    done = await import_log(disk, plan(disk), TARGET, clock=clock)
    assert 0 < done.resumed < done.records == 2493
    messages, start = await contents(disk)
    assert (start, len(messages)) == (7, 2493)
    assert not [path for path in disk.tree() if STAGING in path]


async def test_another_source_is_not_mixed_in() -> None:
    disk = on_disk({"wal.log": run(0, 2500)})
    with pytest.raises(RuntimeError, match="stop"):
        await import_log(disk, plan(disk), TARGET, clock=clock, progress=stop_after(40_000))
    disk.write_file(f"{DIR}/wal.log", run(0, 2600))
    with pytest.raises(ValueError, match="an import of something else"):
        await import_log(disk, plan(disk), TARGET, clock=clock)
    disk.write_file(f"{DIR}/wal.log", run(0, 2500))
    assert (await import_log(disk, plan(disk), TARGET, clock=clock)).resumed > 0


async def test_a_source_of_the_same_size_with_other_bytes_is_found_at_the_end() -> None:
    disk = on_disk({"wal.log": run(0, 2500, of="a")})
    with pytest.raises(RuntimeError, match="stop"):
        await import_log(disk, plan(disk), TARGET, clock=clock, progress=stop_after(2000))
    disk.write_file(f"{DIR}/wal.log", run(0, 2500, of="b"))
    with pytest.raises(CorruptDataError, match="they are not the"):
        await import_log(disk, plan(disk), TARGET, clock=clock)
    assert f"{TARGET}/wal.meta" not in disk.tree()


def stop_after(count: int) -> Callable[[int], None]:
    done = 0

    def progress(size_bytes: int) -> None:
        nonlocal done
        done += size_bytes
        if done >= count:
            raise RuntimeError("stop")

    return progress


async def test_a_crash_anywhere_leaves_no_log_or_a_whole_one() -> None:
    disk = on_disk({"wal.log": run(3, 9), "wal.1.log": run(9, 12)})
    disk.sync_dir(DIR)
    disk.sync_dir("/")
    for name in ("wal.log", "wal.1.log"):
        file = disk.open(f"{DIR}/{name}", "rw")
        file.sync_data()
        file.close()
    begin = disk.op_count
    await import_log(disk, plan(disk), TARGET, clock=clock)
    whole = [sent(i).payload for i in range(3, 12)]
    seen: set[str] = set()
    for point in disk.crash_points(start=begin):
        for state in point.states:
            after = state.disk
            if f"{TARGET}/wal.meta" in after.tree():
                seen.add("whole")
            else:
                seen.add("again")
                await import_log(after, plan(after), TARGET, clock=clock)
            messages, start = await contents(after)
            assert (start, [message.payload for message in messages]) == (3, whole), state.name
    assert seen == {"whole", "again"}
