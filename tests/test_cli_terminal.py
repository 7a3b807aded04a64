"""Progress bars: on a terminal, for everything that takes long, and nowhere else."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import subprocess
import time
from pathlib import Path

import attrs
import pytest
from danube_writer import run as danube_frames
from test_cli import (
    COMMAND,
    ENVIRONMENT,
    INTERRUPTED,
    OK,
    PROBLEMS,
    call,
    fill,
    numbered,
    segments,
)

TOPIC = "/default/orders"


@attrs.frozen
class Shown:
    """What a command printed: to a pipe or file, and to the terminal that its stderr is."""

    code: int
    out: bytes
    terminal: bytes


def on_terminal(*args: object, stdout: int = subprocess.PIPE, stdin: bytes = b"") -> Shown:
    """Run a command whose stderr is a terminal, of 80 columns."""
    ours, theirs = pty.openpty()
    try:
        done = subprocess.run(
            [*COMMAND, *map(str, args)],
            input=stdin,
            stdout=stdout,
            stderr=theirs,
            env={**ENVIRONMENT, "TERM": "xterm", "COLUMNS": "80"},
            check=False,
        )
        os.close(theirs)
        parts: list[bytes] = []
        with contextlib.suppress(OSError):  # the end of a terminal that nobody has open any more
            while part := os.read(ours, 1 << 16):
                parts.append(part)
        return Shown(done.returncode, done.stdout or b"", b"".join(parts))
    finally:
        os.close(ours)


def without_terminal(*args: object, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*COMMAND, *map(str, args)],
        input=stdin,
        capture_output=True,
        env={**ENVIRONMENT, "TERM": "xterm", "COLUMNS": "80"},
        check=False,
    )


@pytest.fixture
def places(tmp_path: Path) -> dict[str, str]:
    """Logs that each of the commands can work on."""
    fill(tmp_path / "log", numbered(30), segment_bytes=500)
    store = f"file://{tmp_path}/objects"
    call("upload", tmp_path / "log", "--store", store, "--topic", TOPIC)
    source = tmp_path / "danube"
    source.mkdir()
    (source / "wal.log").write_bytes(danube_frames(0, 9))
    return {"log": str(tmp_path / "log"), "tmp": str(tmp_path), "store": store}


STORED = ("--store", "{store}", "--topic", TOPIC)
LONG = [
    ("appending", ("append", "{tmp}/own")),  # `log` has a store: opened without, it says so
    ("verifying", ("verify", "{log}")),
    ("verifying objects", ("verify", *STORED)),
    ("verifying", ("repair", "{log}")),
    ("verifying objects", ("repair", "{log}", *STORED)),
    ("uploading", ("upload", "{log}", "--store", "{store}2", "--topic", TOPIC)),
    ("restoring", ("restore", "{tmp}/new", *STORED)),
    ("importing", ("import-danube", "{tmp}/danube", "{tmp}/new")),
    ("measuring", ("bench", "{tmp}", "--seconds", "0.05")),
]


@pytest.mark.parametrize(("what", "args"), LONG, ids=lambda value: str(value)[:20])
def test_a_bar_is_shown_on_a_terminal_and_nothing_of_it_elsewhere(
    places: dict[str, str], tmp_path: Path, what: str, args: tuple[str, ...]
) -> None:
    given = [arg.format(**places) for arg in args]
    if "repair" in args and "--store" in args:  # it looks at objects only if it needs some
        segments(tmp_path / "log")[1].unlink()
    shown = on_terminal(*given, stdin=b"a line\n")
    assert what.encode() in shown.terminal
    assert b"\x1b" not in shown.out
    assert what.encode() not in shown.out
    # It is taken away at the end, so that what is left on the screen is the result.
    assert shown.terminal.rstrip().endswith((b"\x1b[2K", b"\x1b[?25h", b"\x1b[1A"))
    for path in (tmp_path / "new").glob("*"):
        path.unlink()
    done = without_terminal(*given, stdin=b"a line\n")
    assert (done.returncode, done.stderr) == (shown.code, b"")
    assert b"\x1b" not in done.stdout


@pytest.mark.parametrize("args", [(), ("--count", 7), ("--until", 9), ("--json",)], ids=str)
def test_replay_shows_a_bar_when_it_fills_a_file(
    places: dict[str, str], tmp_path: Path, args: tuple[object, ...]
) -> None:
    with (tmp_path / "out").open("wb") as file:
        shown = on_terminal("replay", places["log"], *args, stdout=file.fileno())
    assert shown.code == OK
    assert b"replaying" in shown.terminal
    assert (tmp_path / "out").read_bytes() == call("replay", places["log"], *args).out


def test_replay_shows_no_bar_over_what_it_prints(places: dict[str, str]) -> None:
    shown = on_terminal("replay", places["log"])
    assert shown.terminal == b""
    assert shown.out.splitlines() == numbered(30)
    assert on_terminal("tail", places["log"]).terminal == b""


def test_other_commands_show_none(places: dict[str, str]) -> None:
    for args in (("info", places["log"]), ("topics", "--store", places["store"]), ("--help",)):
        shown = on_terminal(*args)
        assert (shown.code, shown.terminal) == (OK, b"")


def test_who_types_is_told_how_to_end_it(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*COMMAND, "append", str(tmp_path / "log")],
        stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        assert process.stdout is not None
        assert b"Ctrl-D ends it" in process.stderr.readline()
        os.write(ours, b"one\ntwo\n\x04")
        assert process.stdout.read() == b"2 records, offsets 0 to 1\n"
    os.close(ours)
    os.close(theirs)
    assert process.returncode == OK


def state_of(process: subprocess.Popen[bytes]) -> str:
    """As the system calls it: S is asleep."""
    stat = Path(f"/proc/{process.pid}/stat").read_text()
    return stat.rpartition(")")[2].split()[0]


@pytest.mark.parametrize(
    ("answer", "code"), [(b"y\n", OK), (b"n\n", PROBLEMS), (b"\n", PROBLEMS), (None, INTERRUPTED)]
)
def test_repair_asks_whoever_sits_at_a_terminal(
    tmp_path: Path, answer: bytes | None, code: int
) -> None:
    fill(tmp_path / "log", numbered(30), segment_bytes=500)
    (tmp_path / "log" / "wal.mark").unlink()
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*COMMAND, "repair", str(tmp_path / "log")],
        stdin=theirs, stdout=subprocess.PIPE, stderr=theirs, env={**ENVIRONMENT, "TERM": "dumb"},
    ) as process:  # fmt: skip
        shown = b""
        while b"Do this?" not in shown:
            shown += os.read(ours, 1 << 16)
        if answer is None:
            # Before it waits for the answer Python might not notice, and a second one, while it
            # ends, would be answered by nobody.
            while state_of(process) != "S":
                time.sleep(0.01)
            process.send_signal(signal.SIGINT)
        else:
            os.write(ours, answer)
        assert process.stdout is not None
        lines = process.stdout.read().splitlines()
    os.close(ours)
    os.close(theirs)
    assert process.returncode == code
    assert (tmp_path / "log" / "wal.mark").exists() == (code == OK)
    assert any(line.startswith(b"plan: rebuild: ") for line in lines)
