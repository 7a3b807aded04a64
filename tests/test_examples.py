"""The examples run, and print what they say."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from subprocess import PIPE, Popen

import pytest

ROOT = Path(__file__).parent.parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


def command(name: str, *args: object) -> list[str]:
    return [sys.executable, str(ROOT / "examples" / name), *map(str, args)]


def run(name: str, *args: object) -> list[str]:
    """Run an example; the lines that it prints."""
    done = subprocess.run(
        command(name, *args), capture_output=True, text=True, env=ENVIRONMENT, check=True
    )
    return done.stdout.splitlines()


def append(log: Path, text: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "danube_trio.cli", "append", str(log)],
        input=text,
        text=True,
        env=ENVIRONMENT,
        check=True,
        stdout=subprocess.DEVNULL,
    )


def test_quickstart(tmp_path: Path) -> None:
    live = [
        "0 on disk when this returns {'unit': 'C'}",
        "1 in the page cache, on disk soon {}",
        "2 both of these {}",
        "3 or none {}",
        "4 accepted at once {}",
    ]
    assert run("quickstart.py", tmp_path / "log") == [*live, "5 messages"]
    assert run("quickstart.py", tmp_path / "log")[-1] == "10 messages"


def test_replay(tmp_path: Path) -> None:
    append(tmp_path / "log", "a\nb\nc\n")
    assert run("replay.py", tmp_path / "log") == ["0 a", "1 b", "2 c"]
    assert run("replay.py", tmp_path / "log", 2) == ["2 c"]


def test_tail_follows_another_process(tmp_path: Path) -> None:
    append(tmp_path / "log", "before\n")
    arguments = command("tail.py", tmp_path / "log")
    with Popen(arguments, stdout=PIPE, stderr=PIPE, text=True, env=ENVIRONMENT) as tail:
        assert tail.stdout is not None
        assert tail.stderr is not None
        assert tail.stdout.readline() == "waiting for offset 1\n"
        for text in ("one", "two"):  # two writers, one after the other
            append(tmp_path / "log", f"{text}\n")
            assert tail.stdout.readline().split()[-1] == text
        tail.send_signal(signal.SIGINT)
        assert (tail.stdout.read(), tail.stderr.read()) == ("", "")
    assert tail.returncode == 0


def test_metrics_are_served_until_it_is_interrupted(tmp_path: Path) -> None:
    arguments = command("metrics.py", tmp_path / "log", 0)
    with Popen(arguments, stdout=PIPE, stderr=PIPE, text=True, env=ENVIRONMENT) as server:
        assert server.stdout is not None
        assert server.stderr is not None
        url = server.stdout.readline().strip()
        with urllib.request.urlopen(url, timeout=60) as response:
            lines = response.read().decode().splitlines()
        assert 'danube_trio_phase{log="seconds",phase="open"} 1.0' in lines
        assert [line for line in lines if line.startswith("danube_trio_append_seconds_count")]
        server.send_signal(signal.SIGINT)
        assert (server.stdout.read(), server.stderr.read()) == ("", "")
    assert server.returncode == 0


@pytest.mark.parametrize("name", ["metrics.py", "quickstart.py", "replay.py", "tail.py"])
def test_an_example_says_how_to_run_it(name: str) -> None:
    source = (ROOT / "examples" / name).read_text(encoding="utf-8")
    assert f"Usage: {name} DIR" in source.splitlines()[0]
    done = subprocess.run(command(name), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"Usage: {name} DIR" in done.stderr.splitlines()[0]
