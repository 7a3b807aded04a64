"""The command line, as another process where that matters: output, exit codes, and manners."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any

import pytest
import trio
from click.testing import CliRunner

import danube_trio
from danube_trio import (
    StartPosition,
    StreamMessage,
    WalConfig,
    open_follower,
    open_wal,
)
from danube_trio._core.files import Meta, decode_document, encode_document
from danube_trio.cli._app import app
from danube_trio.cli._failures import CODES
from danube_trio.cli._times import time_text

ROOT = Path(__file__).parent.parent
COMMAND = [sys.executable, "-m", "danube_trio.cli"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
OK, PROBLEMS, USAGE, CORRUPT, LOCKED, IO, INTERRUPTED = 0, 1, 2, 3, 4, 5, 130
READING = ("replay", "tail", "info", "verify")
VERBS = tuple(app.commands)


def run(*args: object, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run the command as a process of its own."""
    return subprocess.run(
        [*COMMAND, *map(str, args)],
        input=stdin,
        capture_output=True,
        env=ENVIRONMENT,
        check=False,
    )


def run_program(program: str) -> subprocess.CompletedProcess[bytes]:
    """Run Python code as a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", program], env=ENVIRONMENT, capture_output=True, check=False
    )


class Result:
    """What a command printed, and its exit code."""

    def __init__(self, args: tuple[object, ...]) -> None:
        result = CliRunner().invoke(app, [str(arg) for arg in args])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        self.code = result.exit_code
        self.out = result.stdout_bytes
        self.err = result.stderr
        self.lines = self.out.splitlines()

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def objects(self) -> list[Any]:
        return [json.loads(line) for line in self.lines]


def call(*args: object) -> Result:
    """Run the command in this process; enough where neither stdin nor signals matter."""
    return Result(args)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


def fill(log: Path, payloads: Sequence[bytes | StreamMessage], **settings: Any) -> None:
    async def append() -> None:
        async with open_wal(WalConfig(dir=str(log), preallocate_bytes=0, **settings)) as wal:
            for start in range(0, len(payloads), 3):
                await wal.append_batch(payloads[start : start + 3])

    trio.run(append)


def numbered(count: int) -> list[bytes]:
    return [b"record %d" % i for i in range(count)]


def segments(log: Path) -> list[Path]:
    return sorted(log.glob("wal.*.log"))


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


# ---- help and usage


@pytest.mark.parametrize("verb", VERBS)
def test_each_command_explains_itself_and_its_exit_codes(verb: str) -> None:
    result = call(verb, "--help")
    assert result.code == OK
    for code, text in CODES.items():
        assert re.search(rf"^ +{code} +{text[:20]}", result.out.decode(), re.MULTILINE)
    assert b"--json" in result.out


def test_the_commands_are_listed_with_whole_sentences_of_their_own() -> None:
    lines = re.findall(r"^  ([a-z-]+)  +(\S.*)$", call("--help").out.decode(), re.MULTILINE)
    listed = {name: text for name, text in lines if name in app.commands}
    assert listed.keys() == app.commands.keys()
    assert len({*listed.values()}) == len(listed)
    assert not [text for text in listed.values() if not text.endswith(".") or "..." in text]


def test_the_page_lists_every_option_and_exit_code() -> None:
    page = (ROOT / "docs" / "cli.md").read_text()
    for verb in VERBS:
        assert f"## {verb}" in page
        for option in app.commands[verb].params:
            for name in option.opts:
                if name.startswith("--"):
                    assert f"`{name}" in page, f"{verb} {name}"
    table = dict(re.findall(r"^\| (\d+) \| (.*) \|$", page, re.MULTILINE))
    assert {int(code): text for code, text in table.items()} == CODES


def test_the_version_is_the_packages() -> None:
    assert call("--version").out.decode().split()[-1] == danube_trio.__version__


def test_help_imports_no_progress_bar() -> None:
    program = (
        "import sys\nfrom danube_trio.cli import main\nsys.argv[1:] = ['--help']\n"
        "try:\n    main()\nfinally:\n    assert 'rich' not in sys.modules"
    )
    done = run_program(program)
    assert (done.returncode, done.stderr) == (OK, b"")


def test_without_click_it_says_what_to_install() -> None:
    program = "import sys\nsys.modules['click'] = None\nfrom danube_trio.cli import main\nmain()"
    done = run_program(program)
    assert done.returncode != OK
    assert done.stderr == (
        b"danube-trio: this command needs click: pip install 'danube-trio[cli]'\n"
    )


@pytest.mark.parametrize(
    "args",
    [
        ("replay",),
        ("replay", "{log}", "--from", "x"),
        ("replay", "{log}", "--from", "@x"),
        ("replay", "{log}", "--from", "@1960-01-01"),
        ("replay", "{log}", "--from", "@nan"),
        ("replay", "{log}", "--from", "31"),
        ("replay", "{log}", "--until", "31"),
        ("replay", "{log}", "--until", "-1"),
        ("replay", "{log}", "--count", "-1"),
        ("replay", "{log}", "--json", "--raw"),
        ("tail", "{log}", "-n", "x"),
        ("info", "{log}", "--file-name", "wal"),
        ("info", "{log}", "--file-name", "other.log"),
        ("append", "{log}", "--batch", "0"),
        ("append", "{log}", "--codec", "s9"),
        ("append", "{log}", "--format", "csv"),
        ("unknown",),
    ],
    ids=" ".join,
)
def test_wrong_usage_ends_with_2_and_says_what_is_wrong(log: Path, args: tuple[str, ...]) -> None:
    fill(log, numbered(30))
    result = call(*(arg.format(log=log) for arg in args))
    assert (result.code, result.out) == (USAGE, b"")
    assert result.err


# ---- append


def test_lines_are_appended_and_counted(log: Path) -> None:
    done = run("append", log, stdin=b"one\ntwo\n\nfour")
    assert (done.returncode, done.stdout) == (OK, b"4 records, offsets 0 to 3\n")
    assert call("replay", log).out == b"one\ntwo\n\nfour\n"
    done = run("append", log, "--json", stdin=b"five\n")
    assert json.loads(done.stdout) == {
        "records": 1,
        "first_offset": 4,
        "last_offset": 4,
        "refused": None,
    }
    assert run("append", log).stdout == b"0 records\n"
    assert json.loads(run("append", log, "--json").stdout) == {
        "records": 0,
        "first_offset": None,
        "last_offset": None,
        "refused": None,
    }


def test_append_makes_the_directory_with_the_codec_that_was_asked_for(log: Path) -> None:
    run("append", log / "deep", "--codec", "s2-legacy", "--file-name", "x.log", stdin=b"x\n")
    assert call("info", log / "deep", "--json", "--file-name", "x.log").json["codec"] == "s2-legacy"


def test_much_input_is_appended_in_batches(log: Path) -> None:
    lines = b"".join(b"%06d%s\n" % (i, b"x" * (i % 100)) for i in range(30_000))
    assert run("append", log, "--batch", 500, stdin=lines).stdout == (
        b"30,000 records, offsets 0 to 29999\n"
    )
    assert call("replay", log).out == lines


@pytest.mark.parametrize(
    ("options", "feed"),
    [(("--json",), ("--format", "ndjson")), (("--raw",), ("--format", "length-prefixed"))],
)
def test_what_replay_prints_append_takes(
    log: Path, tmp_path: Path, options: tuple[str, ...], feed: tuple[str, ...]
) -> None:
    payloads = [b"", b"line\nline", b"\xff\x00", "äöü".encode(), b"x" * 5000]
    fill(log, payloads)
    printed = call("replay", log, *options).out
    assert run("append", tmp_path / "copy", *feed, stdin=printed).returncode == OK
    copied = call("replay", tmp_path / "copy", "--raw").out
    assert copied == b"".join(struct.pack("<I", len(p)) + p for p in payloads)


async def test_all_fields_of_a_message_go_out_and_in_again(log: Path, tmp_path: Path) -> None:
    message = StreamMessage(
        payload=b"p",
        request_id=7,
        publish_time=9,
        producer_name="me",
        subscription_name="",
        attributes={"k": "v", "ü": ""},
        schema_id=0,
        schema_version=3,
        routing_key="eu",
    )
    message.msg_id.producer_id = 5
    message.msg_id.topic_name = "/default/t"
    message.msg_id.broker_addr = "b:1"
    async with open_wal(WalConfig(dir=str(log))) as wal:
        await wal.append(b"before")
        await wal.append(message)
    printed = await trio.to_thread.run_sync(
        lambda: run("replay", log, "--from", 1, "--json").stdout
    )
    fields = json.loads(printed)
    assert fields["offset"] == 1
    assert fields["append_time"].endswith("Z")
    assert fields["attributes"] == {"k": "v", "ü": ""}
    copy = tmp_path / "copy"
    await trio.to_thread.run_sync(lambda: run("append", copy, "--format", "ndjson", stdin=printed))
    async with open_follower(copy) as follower:
        copied = await follower.reader().__anext__()
    message.msg_id.topic_offset = 0
    assert copied == message


@pytest.mark.parametrize(
    ("input_format", "data", "complaint"),
    [
        ("ndjson", b'{"payload": "a"}\nnonsense\n', b"line 2: "),
        ("ndjson", b"[1]\n", b"line 1: it is no object"),
        ("ndjson", b"{}\n", b"either a payload (text) or base64"),
        ("ndjson", b'{"payload": "a", "base64": ""}\n', b"either a payload (text) or base64"),
        ("ndjson", b'{"payload": 5}\n', b"payload is no str"),
        ("ndjson", b'{"base64": "?"}\n', b"line 1: "),
        ("ndjson", b'{"payload": "a", "key": 5}\n', b"the field 'key' is unknown"),
        ("ndjson", b'{"payload": "a", "schema_id": "5"}\n', b"schema_id is no number"),
        ("ndjson", b'{"payload": "a", "request_id": true}\n', b"request_id is no number"),
        ("ndjson", b'{"payload": "a", "attributes": {"k": 5}}\n', b"attributes has a value"),
        ("ndjson", b'{"payload": "a", "schema_id": -5}\n', b"schema_id"),
        ("ndjson", b"[" * 100_000 + b"\n", b"line 1: "),
        ("length-prefixed", b"\1\0\0\0a\5\0\0\0b", b"payload 2: the input ends within it"),
        ("length-prefixed", b"\xff\xff\xff\xff", b"is the input length-prefixed?"),
        ("lines", b"a\n" + b"x" * (11 << 20) + b"\n", b"line 2: it is longer than 10485760 bytes"),
    ],
)
def test_input_that_cannot_be_appended_is_named(
    log: Path, input_format: str, data: bytes, complaint: bytes
) -> None:
    done = run("append", log, "--format", input_format, stdin=data)
    assert done.returncode == USAGE
    assert complaint in done.stderr
    assert b"Traceback" not in done.stderr
    records = call("info", log, "--json").json["records"]
    # What was appended before is there, and said to be.
    assert done.stdout == (b"1 record, offsets 0 to 0\n" if records else b"")


async def test_a_log_that_is_held_can_be_read_but_not_appended_to(log: Path) -> None:
    async with open_wal(WalConfig(dir=str(log))) as wal:
        await wal.append_batch(numbered(30))

        async def command(*args: object) -> subprocess.CompletedProcess[bytes]:
            return await trio.to_thread.run_sync(lambda: run(*args, stdin=b"x\n"))

        done = await command("append", log)
        assert (done.returncode, done.stdout) == (LOCKED, b"")
        assert f"locked by process {os.getpid()} on ".encode() in done.stderr
        assert (await command("replay", log)).stdout.splitlines() == numbered(30)
        assert (await command("tail", log, "-n", 2)).stdout == b"record 28\nrecord 29\n"
        done = await command("info", log, "--json")
        facts = json.loads(done.stdout)
        assert facts["locked"]
        assert facts["holder"].startswith(f"process {os.getpid()} on ")
        assert facts["recovery"] is None
        assert (facts["durable_end"], facts["segments"][0]["sealed"]) == (30, False)
        done = await command("verify", log)
        assert done.returncode == OK
        assert b"clean: 30 records" in done.stdout
        assert b"held by process" in done.stdout
        assert await wal.append(b"undisturbed") == 30


# ---- replay and tail


def test_replay_begins_and_ends_where_it_is_told(log: Path) -> None:
    fill(log, numbered(30), segment_bytes=500)
    for args, expected in (
        ((), range(30)),
        (("--from", "earliest"), range(30)),
        (("--from", "latest"), range(0)),
        (("--from", 30), range(0)),
        (("--from", 7), range(7, 30)),
        (("--until", 7), range(7)),
        (("--from", 7, "--until", 9), range(7, 9)),
        (("--from", 9, "--until", 7), range(0)),
        (("--from", 7, "--count", 2), range(7, 9)),
        (("--count", 0), range(0)),
        (("--from", "@0"), range(30)),
        (("--from", "@2001-01-01T00:00:00+01:00"), range(30)),
        (("--from", "@99999999999"), range(0)),
        (("--until", "current"), range(30)),
    ):
        result = call("replay", log, *args)
        assert result.code == OK
        assert result.lines == [b"record %d" % i for i in expected], args
    times = [line["append_time"] for line in call("replay", log, "--json").objects]
    later = call("replay", log, "--from", f"@{times[20]}", "--json").objects
    assert later[0]["append_time"] == times[20]
    assert len(later) == 30 - times.index(times[20])


def test_tail_prints_the_last_ones(log: Path) -> None:
    fill(log, numbered(30))
    assert call("tail", log).lines == numbered(30)[20:]
    assert call("tail", log, "-n", 2).lines == numbered(30)[28:]
    assert call("tail", log, "-n", 0).lines == []
    assert call("tail", log, "-n", 100).lines == numbered(30)
    assert [line["offset"] for line in call("tail", log, "-n", 2, "--json").objects] == [28, 29]
    assert call("tail", log, "-n", 1, "--raw").out == b"\x09\0\0\0record 29"


def started(*args: object) -> Popen[bytes]:
    return Popen([*COMMAND, *map(str, args)], stdout=PIPE, stderr=PIPE, env=ENVIRONMENT)


def test_tail_follows_and_an_interrupt_is_quiet(log: Path) -> None:
    fill(log, numbered(3), segment_bytes=100)
    with started("tail", "-f", "-n", 1, log) as tail:
        assert tail.stdout is not None
        assert tail.stderr is not None
        assert tail.stdout.readline() == b"record 2\n"
        for i in range(3):
            run("append", log, stdin=b"new %d\n" % i)
            assert tail.stdout.readline() == b"new %d\n" % i
        tail.send_signal(signal.SIGINT)
        assert (tail.stdout.read(), tail.stderr.read().strip()) == (b"", b"")
    assert tail.returncode == INTERRUPTED


async def test_an_interrupt_of_append_leaves_what_was_appended(log: Path) -> None:
    async with open_wal(WalConfig(dir=str(log))):
        pass
    process = await trio.lowlevel.open_process(
        [*COMMAND, "append", str(log)], stdin=PIPE, stdout=PIPE, stderr=PIPE, env=ENVIRONMENT
    )
    stdin, stdout, stderr = process.stdin, process.stdout, process.stderr
    assert stdin is not None
    assert stdout is not None
    assert stderr is not None
    async with open_follower(log) as follower, stdin, stdout, stderr:
        await stdin.send_all(b"one\ntwo\nhal")
        await follower.wait_durable(2)
        process.send_signal(signal.SIGINT)
        assert await process.wait() == INTERRUPTED
        assert await stdout.receive_some() == b"2 records, offsets 0 to 1\n"
        assert (await stderr.receive_some()).strip() == b""


@pytest.mark.parametrize("args", [("replay",), ("replay", "--json"), ("tail", "-f", "-n", "9999")])
def test_a_reader_that_goes_away_ends_it_quietly(log: Path, args: tuple[str, ...]) -> None:
    fill(log, [b"x" * 1000] * 3000)
    with started(args[0], log, *args[1:]) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == OK


def test_output_that_cannot_be_written_is_an_error(log: Path) -> None:
    fill(log, numbered(3))
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*COMMAND, "replay", str(log)], stdout=full, stderr=PIPE, env=ENVIRONMENT
        )
    assert done.returncode == IO
    assert b"No space left on device" in done.stderr
    assert b"Traceback" not in done.stderr


# ---- bad directories and damage


@pytest.mark.parametrize("verb", READING)
def test_a_directory_without_a_log_ends_with_2(tmp_path: Path, verb: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    for name, complaint in (
        ("missing", "No such file or directory"),
        ("file", "Not a directory"),
        ("empty", "no log 'wal.log' here"),
    ):
        result = call(verb, tmp_path / name)
        assert (result.code, result.out) == (USAGE, b"")
        assert complaint in result.err
        assert str(tmp_path / name) in result.err
    assert list((tmp_path / "empty").iterdir()) == []


def test_appending_to_what_is_no_directory_ends_with_2(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    done = run("append", tmp_path / "file", stdin=b"x\n")
    assert done.returncode == USAGE
    assert f"{tmp_path}/file" in done.stderr.decode()


@pytest.mark.parametrize("verb", ["append", *READING, "repair"])
def test_a_format_that_is_not_supported_ends_with_3(tmp_path: Path, verb: str) -> None:
    danube, newer = tmp_path / "danube", tmp_path / "newer"
    danube.mkdir()
    (danube / "wal.log").write_bytes(b"")
    fill(newer, numbered(3))
    meta = decode_document((newer / "wal.meta").read_bytes(), Meta)
    newer_meta = Meta(meta.directory_id, meta.codec, format=2)
    (newer / "wal.meta").write_bytes(encode_document(newer_meta))
    for log, complaint in ((danube, "written by Danube itself"), (newer, "format 2")):
        if verb == "append":
            done = run(verb, log)
            assert (done.returncode, done.stdout) == (CORRUPT, b"")
            assert complaint in done.stderr.decode()
        else:
            result = call(verb, log)
            assert (result.code, result.out) == (CORRUPT, b"")
            assert complaint in result.err


def test_damage_ends_with_3_and_names_file_and_position(log: Path) -> None:
    fill(log, numbered(30), segment_bytes=500)
    second = segments(log)[1]
    base = int(second.name.split(".")[1])
    flip(second, 30)
    result = call("replay", log)
    assert result.code == CORRUPT
    assert result.lines == numbered(base)
    assert f"{second}: the body does not match its CRC at byte 0, offset {base}" in result.err
    result = call("replay", log, "--skip-corrupt")
    assert result.code == PROBLEMS
    assert result.lines == [*numbered(base), *numbered(30)[base + 1 :]]
    assert f"offsets {base} to {base + 1} (exclusive) cannot be read" in result.err
    result = call("replay", log, "--skip-corrupt", "--json")
    (gap,) = [line for line in result.objects if "gap" in line]
    assert gap["gap"] == [base, base + 1]
    assert result.objects.index(gap) == base
    assert len(result.objects) == 30


def test_damage_of_a_small_file_ends_with_3_and_names_it(log: Path) -> None:
    fill(log, numbered(3))
    flip(log / "wal.meta", 3)
    for verb in ("append", "replay", "tail", "info"):
        done = run(verb, log)
        assert done.returncode == CORRUPT
        assert b"wal.meta: the document does not match its CRC" in done.stderr


# ---- info


def test_info_shows_the_log(log: Path) -> None:
    fill(log, numbered(30), segment_bytes=500, codec="s3-standard")
    facts = call("info", log, "--json").json
    assert (facts["codec"], facts["format"], facts["trailer"]) == ("s3-standard", 1, 1)
    assert (facts["start_offset"], facts["durable_end"], facts["records"]) == (0, 30, 30)
    assert (facts["locked"], facts["holder"]) == (False, None)
    assert [s["end"] for s in facts["segments"][:-1]] == [s["base"] for s in facts["segments"][1:]]
    assert [s["size_bytes"] for s in facts["segments"]] == [
        path.stat().st_size for path in segments(log)
    ]
    assert facts["size_bytes"] == sum(s["size_bytes"] for s in facts["segments"])
    assert [s["sealed"] for s in facts["segments"]] == [True] * (len(segments(log)) - 1) + [False]
    times = [s[name] for s in facts["segments"] for name in ("first_time", "last_time")]
    assert times == sorted(times)
    assert None not in times
    assert facts["mark"]["durable_end"] == 30
    assert facts["recovery"]["next_offset"] == 30
    assert facts["recovery"]["cut_bytes"] == 0
    text = call("info", log).out.decode()
    for fact in ("codec s3-standard", "0 to 30", facts["directory_id"], "goes on at offset 30"):
        assert fact in text
    assert (
        len([line for line in text.splitlines() if line.endswith("sealed")]) == len(times) / 2 - 1
    )


@pytest.mark.happens
def test_info_without_hints_finds_the_same(log: Path) -> None:
    fill(log, numbered(30), segment_bytes=500)
    before = call("info", log, "--json").json
    for hint in [*log.glob("*.idx"), log / "wal.ckpt"]:
        hint.unlink()
    assert call("info", log, "--json").json == before
    (log / "wal.mark").unlink()
    assert call("info", log, "--json").json["durable_end"] == before["segments"][-1]["base"]
    assert "none: without it" in call("info", log).out.decode()


def test_info_says_what_recovery_would_do(log: Path) -> None:
    fill(log, numbered(30), segment_bytes=500)
    last = segments(log)[-1]
    whole = last.read_bytes()
    last.write_bytes(whole + b"torn")
    (log / "wal.meta.tmp").write_bytes(b"")
    recovery = call("info", log, "--json").json["recovery"]
    assert (recovery["next_offset"], recovery["cut_bytes"]) == (30, 4)
    assert recovery["cut_position"] == len(whole)
    text = call("info", log).out.decode()
    assert f"cuts 4 bytes at byte {len(whole)}" in text
    assert "removes 1 leftover file" in text
    run("append", log)
    assert "cut off" in call("info", log).out.decode()
    last.write_bytes(whole[:-1])
    assert "would be refused" in call("info", log).out.decode()
    assert run("append", log).returncode == CORRUPT


def test_info_of_an_empty_log(log: Path) -> None:
    fill(log, [])
    facts = call("info", log, "--json").json
    assert (facts["records"], facts["size_bytes"]) == (0, 0)
    assert facts["segments"][0]["first_time"] is None
    assert call("info", log).code == OK
    segments(log)[0].unlink()
    (log / "wal.mark").unlink()
    assert call("info", log, "--json").json["segments"] == []


@pytest.mark.parametrize(
    ("microseconds", "text"),
    [
        (0, None),
        (1, "1970-01-01T00:00:00.000001Z"),
        (1_758_383_000_123_456, "2025-09-20T15:43:20.123456Z"),
        (1 << 63, "9223372036854775808 us after 1970"),
    ],
)
def test_times_are_shown_in_utc(microseconds: int, text: str | None) -> None:
    assert time_text(microseconds) == text


# ---- verify


def test_verify_says_that_a_log_is_clean(log: Path) -> None:
    fill(log, numbered(30), segment_bytes=500)
    result = call("verify", log)
    assert (result.code, result.err) == (OK, "")
    size = sum(path.stat().st_size for path in segments(log))
    assert result.out.decode() == (
        f"clean: 30 records, offsets 0 to 30 (exclusive), {len(segments(log))} segments, "
        f"{size:,} bytes\n"
    )
    (summary,) = call("verify", log, "--json").objects
    assert summary["summary"]["problems"] == 0
    assert summary["summary"]["holder"] is None


def test_verify_lists_every_problem_and_changes_nothing(log: Path) -> None:
    fill(log, numbered(30), segment_bytes=500)
    first, second = segments(log)[:2]
    flip(first, 30)
    flip(second, 40)
    next(log.glob("*.idx")).unlink()
    before = {path: path.read_bytes() for path in log.iterdir()}
    result = call("verify", log)
    assert result.code == PROBLEMS
    problems = [line for line in result.out.decode().splitlines() if line.startswith("problem: ")]
    assert len(problems) == 2
    assert f"{first}: the body does not match its CRC" in problems[0]
    assert "at byte 0, offset 0" in problems[0]
    assert str(second) in problems[1]
    assert result.lines[-1].startswith(b"2 problems")
    *found, last = call("verify", log, "--json").objects
    assert [f["severity"] for f in found if f["path"].endswith(".log")] == ["problem"] * 2
    assert found[0].keys() == {"severity", "reason", "path", "position", "offset"}
    assert last["summary"]["problems"] == 2
    assert {path: path.read_bytes() for path in log.iterdir()} == before


def test_warnings_alone_are_no_failure(log: Path) -> None:
    fill(log, numbered(30), segment_bytes=500)
    (log / "wal.mark").unlink()
    result = call("verify", log)
    assert result.code == OK
    assert result.lines[0].startswith(b"warning: ")
    assert result.lines[-1].startswith(b"clean, 1 warning: 30 records")


# ---- terminals


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    ours, theirs = pty.openpty()
    yield ours, theirs
    os.close(ours)


def test_progress_is_shown_on_a_terminal_only(log: Path, terminal: tuple[int, int]) -> None:
    ours, theirs = terminal
    source = log.with_suffix(".txt")
    source.write_bytes(b"".join(line + b"\n" for line in numbered(1000)))
    environment = {**ENVIRONMENT, "TERM": "xterm", "COLUMNS": "80"}
    with source.open("rb") as stdin:
        done = subprocess.run(
            [*COMMAND, "append", str(log)],
            stdin=stdin,
            stdout=PIPE,
            stderr=theirs,
            env=environment,
        )
    os.close(theirs)
    assert done.stdout == b"1,000 records, offsets 0 to 999\n"
    assert b"appending" in os.read(ours, 65536)
    with source.open("rb") as stdin:
        done = subprocess.run(
            [*COMMAND, "append", str(log)], stdin=stdin, capture_output=True, env=environment
        )
    assert done.stderr == b""


async def test_start_positions_of_the_tool_are_those_of_the_library(log: Path) -> None:
    async with open_wal(WalConfig(dir=str(log))) as wal:
        await wal.append_batch(numbered(5))
        reader = wal.reader(StartPosition.offset(3), end="current")
        expected = [message.payload async for message in reader]
    done = await trio.to_thread.run_sync(lambda: run("replay", log, "--from", "3"))
    assert done.stdout.splitlines() == expected
