"""How commands take what the world does to them: closed pipes, signals, full disks, retention."""

from __future__ import annotations

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE, Popen

import pytest
import trio
from test_cli import (
    COMMAND,
    ENVIRONMENT,
    INTERRUPTED,
    IO,
    OK,
    PROBLEMS,
    USAGE,
    call,
    fill,
    numbered,
    run,
    run_program,
    segments,
    started,
)

from danube_trio import WalConfig, open_wal
from danube_trio.cli._input import make_parser


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


# ---- append: what was appended is there, and said to be


@pytest.mark.happens
@pytest.mark.parametrize("batch", [1, 3, 1000])
def test_everything_before_a_bad_line_is_appended(log: Path, batch: int) -> None:
    lines = [b'{"payload": "%d"}' % i for i in range(7)]
    data = b"\n".join([*lines[:5], b"", b"{bad", *lines[5:]])
    done = run("append", log, "--format", "ndjson", "--batch", batch, stdin=data)
    assert (done.returncode, done.stdout) == (USAGE, b"5 records, offsets 0 to 4\n")
    assert b"stdin, line 7: it is no JSON: " in done.stderr
    assert b"appended (5 records, offsets 0 to 4)" in done.stderr
    assert b"go on with line 7 (tail -n +7)" in done.stderr
    assert call("replay", log).lines == [b"0", b"1", b"2", b"3", b"4"]
    rest = b"\n".join(lines[5:])
    assert run("append", log, "--format", "ndjson", stdin=rest).returncode == OK
    assert call("replay", log).lines == [b"%d" % i for i in range(7)]


def test_with_json_what_was_refused_is_in_the_document(log: Path) -> None:
    done = run("append", log, "--format", "ndjson", "--json", stdin=b"x\n")
    assert done.returncode == USAGE
    assert json.loads(done.stdout) == {
        "records": 0,
        "first_offset": None,
        "last_offset": None,
        "refused": {
            "place": "line",
            "number": 1,
            "reason": "it is no JSON: Expecting value (column 1) (--format lines takes lines as "
            "they are)",
        },
    }


@pytest.mark.parametrize(
    ("tail", "reason"),
    [
        (b"\5\0", "the input ends within its length, after 2 bytes"),
        (b"\5\0\0\0", "the input ends within it, after 0 of 5 bytes"),
        (b"\5\0\0\0abcd", "the input ends within it, after 4 of 5 bytes"),
        (b"\xff\xff\xff\xff", "is the input length-prefixed?"),
    ],
)
def test_everything_before_a_cut_payload_is_appended(log: Path, tail: bytes, reason: str) -> None:
    whole = b"".join(struct.pack("<I", len(p)) + p for p in (b"a", b"", b"bc"))
    done = run("append", log, "--format", "length-prefixed", stdin=whole + tail)
    assert (done.returncode, done.stdout) == (USAGE, b"3 records, offsets 0 to 2\n")
    assert f"stdin, payload 4: {reason}" in done.stderr.decode().replace(
        "its length is given as 4294967295 bytes, and the limit is 10485760: ", ""
    )
    assert call("replay", log).lines == [b"a", b"", b"bc"]


def test_a_message_that_the_log_refuses_is_named_and_those_before_it_are_appended(
    log: Path,
) -> None:
    """The parser finds nothing wrong with it: its layout has no such field."""
    lines = [b'{"payload": "a"}', b'{"payload": "b"}', b'{"payload": "c", "routing_key": "k"}']
    args = ("append", log, "--format", "ndjson")
    done = run(*args, "--codec", "s1-legacy", stdin=b"\n".join(lines))
    assert (done.returncode, done.stdout) == (USAGE, b"2 records, offsets 0 to 1\n")
    assert b"stdin, line 3: routing_key" in done.stderr
    big = b'{"payload": "%s"}' % (b"x" * (11 << 20))
    done = run(*args, stdin=b"\n".join([lines[0], big, lines[1]]))
    assert (done.returncode, done.stdout) == (USAGE, b"1 record, offsets 2 to 2\n")
    assert b"stdin, line 2: a record of 11534336 bytes is larger than" in done.stderr


def test_acks_are_printed_as_batches_become_durable(log: Path) -> None:
    done = run("append", log, "--acks", "--batch", 2, stdin=b"a\nb\nc\n")
    assert done.stdout.splitlines() == [
        b"acked offsets 0 to 1",
        b"acked offsets 2 to 2",
        b"3 records, offsets 0 to 2",
    ]
    done = run("append", log, "--acks", "--batch", 2, "--json", stdin=b"d\n")
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        {"acked": [3, 3]},
        {"records": 1, "first_offset": 3, "last_offset": 3, "refused": None},
    ]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_no_ack_that_was_printed_is_lost_however_it_ends(log: Path, number: int) -> None:
    process = Popen(
        [*COMMAND, "append", str(log), "--acks", "--batch", "1"],
        stdin=PIPE, stdout=PIPE, stderr=PIPE, env={**ENVIRONMENT, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        process.stdin.write(b"".join(b"%d\n" % i for i in range(2000)))
        process.stdin.flush()
        acked = [process.stdout.readline() for _ in range(20)]
        process.send_signal(number)
        acked += process.stdout.readlines()
    acks = [line for line in acked if line.startswith(b"acked") and line.endswith(b"\n")]
    last = int(acks[-1].split()[-1])
    assert last >= 19
    found = call("replay", log).lines
    assert found[: last + 1] == [b"%d" % i for i in range(last + 1)]
    if number == signal.SIGINT:
        assert process.returncode == INTERRUPTED
        assert acked[-1] == f"{last + 1:,} records, offsets 0 to {last}\n".encode()


def test_acks_that_nobody_reads_end_it_and_say_what_was_appended(log: Path) -> None:
    process = Popen(
        [*COMMAND, "append", str(log), "--acks", "--batch", "1"],
        stdin=PIPE, stdout=PIPE, stderr=PIPE, env=ENVIRONMENT,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    with process:
        process.stdout.close()
        process.stdin.write(b"a\nb\n")
        process.stdin.close()
        error = process.stderr.read().decode()
    assert process.returncode == IO
    records = call("info", log, "--json").json["records"]
    assert f"stdout was closed, so appending ended early: {records} record" in error


def test_a_stream_that_is_closed_is_no_traceback(log: Path) -> None:
    fill(log, numbered(3))
    shell = ["sh", "-c", '"$@" <&- 2>&1', "sh", *COMMAND, "append", str(log)]
    done = subprocess.run(shell, capture_output=True, env=ENVIRONMENT, check=False)
    assert done.returncode == USAGE
    assert b"stdin is closed" in done.stdout
    for verb, code in (("replay", USAGE), ("info", OK), ("verify", OK)):
        shell = ["sh", "-c", '"$@" >&-', "sh", *COMMAND, verb, str(log)]
        done = subprocess.run(shell, capture_output=True, env=ENVIRONMENT, check=False)
        assert done.returncode == code
        assert b"Traceback" not in done.stderr


# ---- disks

NEEDS_MOUNT = pytest.mark.skipif(
    shutil.which("unshare") is None
    or subprocess.run(
        ["unshare", "-m", "sh", "-c", "mount -t tmpfs none /tmp"], capture_output=True, check=False
    ).returncode
    != 0,
    reason="this user may not mount a file system",
)


def in_small_file_system(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a shell script in an empty file system of 4 MiB; $tool is the command."""
    folder.mkdir()
    setup = f"mount -t tmpfs -o size=4m none {folder}; cd {folder}; tool='{' '.join(COMMAND)}'\n"
    return subprocess.run(
        ["unshare", "-m", "sh", "-c", setup + script],
        capture_output=True, env=ENVIRONMENT, check=False, text=True,
    )  # fmt: skip


@pytest.mark.happens
@NEEDS_MOUNT
def test_a_full_disk_ends_it_and_says_what_is_durable_and_how_to_go_on(tmp_path: Path) -> None:
    done = in_small_file_system(
        "head -c 3000000 /dev/zero > filler\n"
        f"seq 500000 | $tool append log --json > {tmp_path}/said; echo $?\n"
        "$tool replay log | tail -n 1\n"
        "rm filler; echo more | $tool append log 2> /dev/null\n"
        f"$tool verify log > /dev/null; echo $?; cat {tmp_path}/said",
        tmp_path / "small",
    )
    code, last, appended, verified, said = done.stdout.splitlines()
    records = json.loads(said)["records"]
    assert (code, verified) == (str(IO), "0")
    assert int(last) >= records > 0
    assert appended.endswith(f"offsets {last} to {last}")
    error = done.stderr.splitlines()[-1]
    assert "No space left on device: the log is broken" in error
    # What the library logs is as good as what the command says.
    assert all(line.startswith("danube-trio: ") for line in done.stderr.splitlines())
    assert "`danube-trio tail -n 1 --json log` shows where it ends; then free some space" in error
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("data", [b"a\nb\n", b"a\n" + b"x" * (11 << 20)], ids=["good", "bad"])
def test_where_stdout_is_full_stderr_says_what_was_appended(log: Path, data: bytes) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*COMMAND, "append", str(log)],
            input=data, stdout=full, stderr=PIPE, env=ENVIRONMENT, check=False,
        )  # fmt: skip
    assert done.returncode == (IO if len(data) < 10 else USAGE)
    records = call("info", log, "--json").json["records"]
    assert f"appended: {records} record".encode() in done.stderr
    assert b"run the command again" not in done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.happens
@NEEDS_MOUNT
def test_what_is_mounted_read_only_can_be_looked_at(tmp_path: Path) -> None:
    small = tmp_path / "small"
    done = in_small_file_system(
        f"seq 3 | $tool append log; mount -o remount,ro {small}\n"
        "for verb in append upload 'repair --yes'; do\n"
        "  $tool $verb log --store file:///none --topic /a/b < /dev/null; echo $verb $?; done\n"
        "$tool append log < /dev/null; echo append $?; $tool append new < /dev/null; echo $?\n"
        "for verb in replay tail info verify repair; do $tool $verb log > /dev/null; echo $?; done",
        small,
    )
    assert done.stdout.splitlines()[-7:] == [f"append {IO}", str(IO), *["0"] * 5]
    error = [line for line in done.stderr.splitlines() if "wal.lock" in line][-1]
    assert "log/wal.lock: Read-only file system" in error
    assert "replay, tail, info and verify work there" in error
    assert "Traceback" not in done.stderr


def test_a_missing_package_for_bars_costs_only_the_bars(log: Path) -> None:
    fill(log, numbered(3))
    program = (
        "import sys, io\nsys.modules['rich'] = None\nsys.argv[1:] = ['verify', {!r}]\n"
        "sys.stderr.isatty = lambda: True\nfrom danube_trio.cli import main\nmain()"
    )
    done = run_program(program.format(str(log)))
    assert (done.returncode, done.stderr) == (OK, b"")
    assert done.stdout.startswith(b"clean: 3 records")


# ---- tail -f


WRITER = """
import sys, trio
from danube_trio import WalConfig, open_wal

async def main():
    config = WalConfig(dir={directory!r}, segment_bytes=400, preallocate_bytes=0)
    async with open_wal(config) as wal:
        for line in sys.stdin:
            print(await wal.append(line.strip().encode()), flush=True)

trio.run(main)
"""


@pytest.fixture
def following(log: Path) -> Iterator[Popen[bytes]]:
    """A `tail -f` of the log, from its beginning."""
    fill(log, [b"first"])
    with started("tail", "-f", log, "--json") as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["payload"] == "first"
        yield process
        process.kill()


def write(log: Path, lines: list[str], *, kill: bool) -> None:
    """Append in a process of its own, which ends by itself or is killed."""
    with Popen(
        [sys.executable, "-c", WRITER.format(directory=str(log))],
        stdin=PIPE, stdout=PIPE, env=ENVIRONMENT, text=True,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        for line in lines:
            process.stdin.write(line + "\n")
            process.stdin.flush()
            assert process.stdout.readline()
        if kill:
            process.kill()
        process.stdin.close()


@pytest.mark.happens
def test_tail_goes_on_through_rolls_and_the_death_of_the_writer(
    log: Path, following: Popen[bytes]
) -> None:
    assert following.stdout is not None
    expected = 1
    for turn in range(3):
        lines = [f"{turn} {i} {'x' * 50}" for i in range(20)]
        write(log, lines, kill=turn != 1)
        for line in lines:
            message = json.loads(following.stdout.readline())
            assert (message["offset"], message["payload"]) == (expected, line)
            expected += 1
    assert len(segments(log)) > 5
    following.send_signal(signal.SIGINT)
    assert following.wait() == INTERRUPTED


def test_tail_goes_on_behind_what_retention_took(log: Path) -> None:
    """It is stopped meanwhile: it had no chance to print what was freed."""
    fill(log, numbered(30), segment_bytes=500)
    with started("tail", "-f", log, "--json", "--from", "0", "--count", "40") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline())["offset"] == 0
        seen = [json.loads(process.stdout.readline())["offset"] for _ in range(29)]
        assert seen == [*range(1, 30)]
        os.kill(process.pid, signal.SIGSTOP)

        async def replace() -> int:
            async with open_wal(WalConfig(dir=str(log), segment_bytes=500)) as wal:
                await wal.append_batch([b"lost"] * 3)
                for number in range(30):
                    await wal.append(b"kept %d" % number)
                return await wal.trim(40)

        start = trio.run(replace)
        assert start > 30
        os.kill(process.pid, signal.SIGCONT)
        out, err = process.communicate()
    gap, *rest = [json.loads(line) for line in out.splitlines()]
    assert gap == {"gap": [30, start], "reason": "trimmed"}
    assert [message["offset"] for message in rest] == [*range(start, start + 10)]
    assert f"offsets 30 to {start} (exclusive) were trimmed before they" in err.decode()
    assert process.returncode == PROBLEMS


def test_tail_begins_and_ends_where_it_is_told(log: Path) -> None:
    fill(log, numbered(30))
    assert call("tail", log, "--from", 27).lines == numbered(30)[27:]
    assert call("tail", log, "--from", "earliest", "--count", 2).lines == numbered(2)
    assert call("tail", log, "--from", "latest").lines == []
    assert call("tail", log, "--from", "@0", "-f", "--count", 3).lines == numbered(3)
    assert call("tail", log, "-f", "-n", 5, "--count", 3).lines == numbered(30)[25:28]
    result = call("tail", log, "--from", 3, "-n", 3)
    assert (result.code, result.out) == (USAGE, b"")
    assert "--lines and --from exclude each other" in result.err


@pytest.mark.parametrize(
    ("format", "data"),
    [
        ("lines", b"x" * (8 << 20) + b"\n"),
        ("length-prefixed", (8 << 20).to_bytes(4, "little") + b"x" * (8 << 20)),
    ],
)
def test_a_large_payload_in_many_small_pieces_is_joined_once(format: str, data: bytes) -> None:
    """Joined at each piece, this would be half a terabyte to copy."""
    parser = make_parser(format, 10 << 20)
    messages = [
        m for at in range(0, len(data), 64) for m in parser.feed(data[at : at + 64]).messages
    ]
    assert [len(message) for message in messages] == [8 << 20]
    assert parser.finish().messages == []
    assert parser.bad is None


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 100])
@pytest.mark.parametrize(
    ("format", "data", "payloads"),
    [
        ("lines", b"a\n\nbcd\nef", [b"a", b"", b"bcd", b"ef"]),
        ("length-prefixed", b"\1\0\0\0a\0\0\0\0\3\0\0\0bcd", [b"a", b"", b"bcd"]),
    ],
)
def test_pieces_of_any_size_make_the_same_messages(
    size: int, format: str, data: bytes, payloads: list[bytes]
) -> None:
    parser = make_parser(format, 3)
    parts = [parser.feed(data[at : at + size]) for at in range(0, len(data), size)]
    parts.append(parser.finish())
    assert [message for part in parts for message in part.messages] == payloads
    assert [number for part in parts for number in part.numbers] == [*range(1, len(payloads) + 1)]
    assert parser.bad is None
