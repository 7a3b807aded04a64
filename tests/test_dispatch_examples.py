"""The examples of dispatch run, print what they say, and survive what they say they do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def run(name: str, *args: object, status: int = 0, **environment: str) -> list[str]:
    """Run an example; the lines that it prints."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / name), *map(str, args)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        check=False,
    )
    assert done.returncode == status, done.stderr
    return done.stdout.splitlines()


def test_wal_wiring(tmp_path: Path) -> None:
    for offset in (0, 2):
        assert run("wal_wiring.py", tmp_path) == [
            "streamed: hello",
            "streamed: world",
            f"delivered: {offset} hello",
            f"delivered: {offset + 1} world",
            "replayed: ['hello', 'world']",
        ]


def test_job_queue(tmp_path: Path) -> None:
    done, *dead = run("job_queue.py", tmp_path, 30)
    assert done.startswith(("29 jobs done, ", "28 jobs done, "))  # one may be unlucky
    assert int(done.split()[3]) >= 4  # each death of the poisoned job, at least
    assert any("job 10 4 times: WorkerDiedError: worker" in line for line in dead)
    assert run("job_queue.py", tmp_path, 30)[0] == "0 jobs done, 0 workers died"


def test_outbox_brings_each_row_once_though_it_is_killed(tmp_path: Path) -> None:
    for _ in range(4):
        run("outbox.py", tmp_path, 9, status=-signal.SIGKILL, OUTBOX_DIES="1")
    lines = run("outbox.py", tmp_path, 2)
    count = len(lines)
    assert lines == [f"{i} {i + 1} order {i + 1}" for i in range(count)]
    assert count > 10


@pytest.mark.parametrize("name", ["wal_wiring.py", "job_queue.py", "outbox.py"])
def test_an_example_says_how_to_run_it(name: str) -> None:
    source = (ROOT / "examples" / name).read_text(encoding="utf-8")
    assert f"Usage: {name} DIR" in source.splitlines()[0]
