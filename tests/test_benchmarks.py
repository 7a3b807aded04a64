"""The benchmarks run, and report every case. What they measure is nobody's business here."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
BENCHMARKS = ROOT / "benchmarks"
CASES = {
    *("single", "batch", "batch4", "concurrent", "live", "follow"),
    *("replay", "replay100"),
    *("open", "seek", "memory", "objects", "uploads", "topics", "peers", "peers1000"),
    *("dispatch", "dispatch10", "dispatch100", "doors", "doors_batch", "doors_many"),
    *("imports", "http", "http_live"),
}


def run(script: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(BENCHMARKS / script), *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any], Path]:
    """Output, JSON and directory of one quick run."""
    folder = tmp_path_factory.mktemp("bench")
    done = run("run.py", "--quick", "--json", "results/out.json", cwd=make(folder / "results"))
    assert done.returncode == 0, done.stderr
    assert not done.stderr  # no progress where no terminal is
    return done.stdout, json.loads((folder / "results" / "out.json").read_text()), folder


def make(results: Path) -> Path:
    results.mkdir()
    return results.parent


def test_the_json_has_every_case_with_numbers(quick: tuple[str, dict[str, Any], Path]) -> None:
    _, report, _ = quick
    assert set(report["cases"]) == CASES
    for case in report["cases"].values():
        assert len(case["rounds"]) == 1
        assert case["medians"]
        for found in case["rounds"]:
            assert all(math.isfinite(value) for value in found.values())
        assert all(target["verdict"] in {"goal", "ok", "below"} for target in case["targets"])


def test_the_json_says_what_was_measured_and_where(
    quick: tuple[str, dict[str, Any], Path],
) -> None:
    _, report, _ = quick
    assert report["quick"] is True
    assert report["scale"]["log_bytes"] < 16 << 20
    machine = report["machine"]
    assert machine["cpus"] >= 1
    assert machine["python"].endswith(sys.version.split()[0])
    assert machine["libraries"]["trio"]
    assert os.uname().nodename not in json.dumps(machine)


def test_the_table_has_every_case(quick: tuple[str, dict[str, Any], Path]) -> None:
    output, _, _ = quick
    assert all(f"({name})" in output for name in CASES)
    assert "bar" in output and "goal" in output


def test_nothing_is_left_but_the_json(quick: tuple[str, dict[str, Any], Path]) -> None:
    _, _, folder = quick
    assert [path.name for path in folder.rglob("*")] == ["results", "out.json"]


def test_one_case_can_be_chosen(tmp_path: Path) -> None:
    done = run("run.py", "--quick", "--rounds", "2", "--case", "single", "--dir", ".", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "(single)" in done.stdout and "(batch)" not in done.stdout
    assert not list(tmp_path.iterdir())


def test_an_unknown_case_is_named(tmp_path: Path) -> None:
    done = run("run.py", "--case", "lottery", cwd=tmp_path)
    assert done.returncode == 2
    assert "lottery" in done.stderr


def test_the_ways_to_write_durably_can_be_compared(tmp_path: Path) -> None:
    done = run("preallocate.py", "--quick", "--json", "out.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert {(row["write_bytes"], row["file"]) for row in rows} == {
        (size, layout) for size in (1 << 10, 1 << 20) for layout in ("grows", "reserved", "zeros")
    }
