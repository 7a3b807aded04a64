"""What other programs make of stdin and stdout: full, unbuffered, non-blocking, gone."""

from __future__ import annotations

import os
import select
import subprocess
from pathlib import Path
from subprocess import PIPE, Popen

import pytest
from test_cli import COMMAND, ENVIRONMENT, IO, OK, PROBLEMS, call, fill, numbered, run, started
from test_cli_manners import NEEDS_MOUNT, in_small_file_system

UNBUFFERED = {**ENVIRONMENT, "PYTHONUNBUFFERED": "1"}
COMMANDS = [
    "--help", "append --help", "--version", "replay {log}", "replay {log} --json", "tail {log}",
    "tail -f {log} --count 3", "info {log}", "verify {log}", "repair {log}", "topics {log}/..",
    "completion bash", "import-danube --help",
]  # fmt: skip


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "root" / "log"


@pytest.mark.happens
@pytest.mark.parametrize("environment", [ENVIRONMENT, UNBUFFERED], ids=["", "unbuffered"])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_full_stdout_is_called_that_by_every_command(
    command: str, environment: dict[str, str], log: Path
) -> None:
    fill(log, numbered(3))
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*COMMAND, *command.format(log=log).split()],
            stdout=full, stderr=PIPE, env=environment, check=False,
        )  # fmt: skip
    assert done.returncode == IO
    assert done.stderr.startswith(b"danube-trio: stdout: No space left on device: it is full")
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("command", ["--help", "replay --help", "--version"])
def test_help_that_nobody_reads_is_no_error(command: str) -> None:
    with Popen([*COMMAND, *command.split()], stdout=PIPE, stderr=PIPE, env=ENVIRONMENT) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == OK


@pytest.mark.happens
def test_tail_ends_when_its_reader_does_though_nothing_more_is_appended(log: Path) -> None:
    fill(log, numbered(3))
    with started("tail", "-f", log) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"record 0\n"
        process.stdout.close()
        assert process.wait() == OK
        assert process.stderr.read() == b""


@pytest.mark.happens
@NEEDS_MOUNT
def test_unbuffered_output_that_is_cut_is_an_error(tmp_path: Path) -> None:
    """The system takes a part of the last write, and refuses the next one."""
    done = in_small_file_system(
        "seq 300000 | $tool append log > /dev/null\n"
        "PYTHONUNBUFFERED=1 $tool replay log > out; echo $?; stat -c %s out",
        tmp_path / "small",
    )
    code, size = done.stdout.split()
    assert (code, done.stderr.count("stdout: No space left on device: it is full")) == (str(IO), 1)
    assert int(size) < len("\n".join(map(str, range(1, 300_001)))) + 1


@pytest.mark.happens
@pytest.mark.parametrize("environment", [ENVIRONMENT, UNBUFFERED], ids=["", "unbuffered"])
def test_a_non_blocking_stdout_gets_everything(environment: dict[str, str], log: Path) -> None:
    payloads = [b"%d " % i * 400 for i in range(1000)]
    fill(log, payloads)
    here, there = os.pipe()
    os.set_blocking(there, False)
    with Popen(
        [*COMMAND, "replay", str(log)], stdout=there, stderr=PIPE, env=environment
    ) as process:
        os.close(there)
        select.select([here], [], [])
        with open(here, "rb") as out:
            assert out.read() == b"\n".join(payloads) + b"\n"
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert process.returncode == OK


def test_a_pause_in_a_non_blocking_stdin_is_not_its_end(log: Path) -> None:
    there, here = os.pipe()
    os.set_blocking(there, False)
    with Popen(
        [*COMMAND, "append", str(log), "--acks"], stdin=there, stdout=PIPE, env=ENVIRONMENT
    ) as process:
        os.close(there)
        assert process.stdout is not None
        for number in range(3):
            os.write(here, b"line\n")
            assert process.stdout.readline() == f"acked offsets {number} to {number}\n".encode()
        os.close(here)
        assert process.stdout.read() == b"3 records, offsets 0 to 2\n"
    assert process.returncode == OK


@pytest.mark.happens
def test_one_unreadable_directory_does_not_hide_the_other_topics(tmp_path: Path) -> None:
    fill(tmp_path / "default" / "orders", numbered(3))
    (tmp_path / "default" / "loop").symlink_to(tmp_path / "default" / "loop")
    (tmp_path / "also").symlink_to(tmp_path / "also")
    result = call("topics", tmp_path)
    assert result.code == PROBLEMS
    assert b"/default/orders" in result.out
    for path in (tmp_path / "default" / "loop", tmp_path / "also"):
        assert f"danube-trio: {path}: Too many levels of symbolic links" in result.err
    assert run("topics", tmp_path, "--json").stdout.count(b"\n") == 1
