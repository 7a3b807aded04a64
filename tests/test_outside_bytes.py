"""Bytes that are none of ours: what a disk, a store, a server or a person hands over."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import struct
import subprocess
import tracemalloc
import zlib
from base64 import b64encode
from pathlib import Path

import pytest
from test_cli import COMMAND, ENVIRONMENT, call, run

from danube_trio import (
    CorruptDataError,
    StartPosition,
    StreamMessage,
    WalConfig,
    WalStorage,
    open_wal,
)
from danube_trio._core.danube_names import ROTATED_NAME
from danube_trio._core.files import with_crc
from danube_trio._core.frame import find_frame
from danube_trio._core.numbers import number_in
from danube_trio._core.plain import JSON_DEPTH, from_json
from danube_trio._core.segment import LogNames
from danube_trio.cli._say import shown
from danube_trio.dispatch import ReliableDispatch, ReliableOptions
from danube_trio.dispatch._cursor import MAX_FAILED, MAX_HOLES, CursorState
from danube_trio.metadata import MemoryMetadata
from danube_trio.metadata._journal import Names

# ---- JSON and numbers


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"[" * 100_000, "brackets"),
        (b"[" * 65 + b"]" * 65, "nested more than 64"),
        (b'{"a":' * 200 + b"1" + b"}" * 200, "nested more than 64"),
        (b"[" + b"[]," * 1_000_000 + b"[]]", "more values"),
        (b"[" + b'"",' * 3_000_000 + b"1]", "more values"),
        (b"NaN", "NaN is no JSON"),
        (b"[-Infinity]", "-Infinity is no JSON"),
        (b"[1e999]", "no number is 1e999"),
        (b"9" * 5000, "5000 digits"),
        (b'{"a":1,"b":2,"a":3}', "the key 'a' is there twice"),
        (rb'["\ud800"]', "lone surrogate"),
        (b'["\xed\xa0\x80"]', "invalid continuation byte"),
        ("[1]".encode("utf-16"), "invalid start byte"),
        (b"", "Expecting value"),
        (b"[1] 2", "Extra data"),
    ],
)
def test_json_from_outside_that_could_do_harm_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        from_json(data)


@pytest.mark.parametrize(
    "data",
    [
        b"[" * JSON_DEPTH + b"]" * JSON_DEPTH,
        json.dumps("[{" * 100_000).encode(),
        json.dumps('\\"[' * 100_000).encode(),
        json.dumps({"a,b": ",".join("0" * 2_000_000)}).encode(),
        rb'["\ud83d\ude00", "\\ud800"]',
        '[1.5e300, -7, 18446744073709551615, null, true, "ü"]'.encode(),
        b'\xef\xbb\xbf{"a": {"a": 1}}',
    ],
)
def test_all_other_json_is_read_as_it_is(data: bytes) -> None:
    assert from_json(data) == json.loads(data)


def test_only_ascii_digits_make_a_number() -> None:
    assert [number_in(text) for text in ("0", "007", "9" * 19)] == [0, 7, 10**19 - 1]
    for text in (
        "",
        "\u0663",
        "\u00b2",
        "+1",
        "-1",
        "1_0",
        " 1",
        "1\n",
        "0x1",
        "9" * 20,
        "9" * 5000,
    ):
        assert number_in(text) is None


def test_digits_of_another_alphabet_are_in_no_name() -> None:
    strange = "\u0660" * 19 + "\u0665"
    names = LogNames.of("/log", "wal.log")
    assert names.segment_bases([f"wal.{strange}.log"]) == []
    assert names.index_bases([f"wal.{strange}.idx"]) == []
    assert names.unfinished([f"wal.{strange}.log.tmp"]) == []
    assert ROTATED_NAME.fullmatch("wal.\u0663.log") is None
    assert Names("/metadata").bases([f"metadata.{strange}.journal"]) == []


# ---- a log's directory


async def test_an_index_is_bounded_by_its_segment(tmp_path: Path) -> None:
    config = WalConfig(dir=str(tmp_path), segment_bytes=4096, cache_bytes=1)
    async with open_wal(config) as wal:
        for _ in range(20):
            await wal.append(b"x" * 1000)
    index = sorted(tmp_path.glob("*.idx"))[0]
    os.truncate(index, 300 << 20)  # sparse: it takes no space on the disk
    tracemalloc.start()
    async with open_wal(config) as wal:
        async with wal.reader(StartPosition.offset(1), end="current") as reader:
            assert len([message async for message in reader]) == 19
        peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 32 << 20


@pytest.mark.happens
@pytest.mark.parametrize(
    "line",
    [
        b"[" * 5000 + b"]" * 5000,
        b'{"next_offset": Infinity, "segments": []}',
        b'{"next_offset": 0, "segments": [[0, 1e999, 1, 1, 1]]}',
        b'{"next_offset": true, "segments": []}',
        b'{"next_offset": 5, "segments": [[-1, 5, 100, 0, 0]]}',
    ],
)
async def test_a_checkpoint_that_says_nonsense_is_passed_over(tmp_path: Path, line: bytes) -> None:
    async with open_wal(WalConfig(dir=str(tmp_path))) as wal:
        await wal.append(b"x")
    (tmp_path / "wal.ckpt").write_bytes(with_crc(line))
    async with open_wal(WalConfig(dir=str(tmp_path))) as wal:
        assert wal.next_offset == 1


@pytest.mark.happens
async def test_a_meta_file_that_says_nonsense_is_refused(tmp_path: Path) -> None:
    async with open_wal(WalConfig(dir=str(tmp_path))) as wal:
        await wal.append(b"x")
    line = (tmp_path / "wal.meta").read_bytes().partition(b"\n")[0]
    for nonsense in (b"[" * 5000, line.replace(b'"trailer": 1', b'"trailer": true')):
        (tmp_path / "wal.meta").write_bytes(with_crc(nonsense))
        with pytest.raises(CorruptDataError, match=r"wal\.meta"):
            async with open_wal(WalConfig(dir=str(tmp_path))):
                pass


def test_headers_that_claim_much_have_little_read() -> None:
    """Each of them could be a frame; that none is, a few bytes at the end tell."""
    data = struct.pack("<QII", 7, 100 << 20, 0) * 1000
    read_bytes = 0

    def read(count: int, at: int) -> bytes:
        nonlocal read_bytes
        read_bytes += count
        return bytes(count)

    assert find_frame(data, 0, 0, 100, read=read) is None
    assert 0 < read_bytes < 64 * 1000


# ---- cursors

_KEY = "/topics/default/jobs/subscriptions/workers/danube-trio"
_BAD = {"attempts": "", "edge": 5, "end": 1, "owner": "o", "saves": 1, "version": 1}


def _holes(planes: bytes) -> bytes:
    packed = b64encode(b"\4" + zlib.compress(planes, 9)).decode()
    return json.dumps({**_BAD, "edge": 1 << 40, "holes": packed}).encode()


@pytest.mark.happens
@pytest.mark.parametrize(
    "value",
    [
        _holes(b""),
        _holes(b"\1" * (MAX_HOLES + 1) + bytes(3 * MAX_HOLES + 3)),
        b"[" * 5000 + b"]" * 5000,
        b"[]",
        b"1e999",
        json.dumps({**_BAD, "holes": "", "edge": True}).encode(),
        json.dumps({**_BAD, "holes": "", "saves": 10**30}).encode(),
    ],
    ids=range(7),
)
async def test_a_cursor_that_cannot_be_read_costs_its_own_subscription_only(value: bytes) -> None:
    metadata = MemoryMetadata()
    await metadata.put(_KEY, value)
    async with (
        open_wal(WalConfig()) as wal,
        ReliableDispatch.new_with_persistent(
            "/default/jobs",
            ReliableOptions(),
            None,
            WalStorage.from_wal(wal),
            metadata=metadata,
        ) as dispatch,
    ):
        with pytest.raises(CorruptDataError, match="danube-trio"):
            await dispatch.add_subscription("workers")
        await dispatch.store_message(StreamMessage(b"x"))
        other = await dispatch.add_subscription("others")
        assert other.end == 0


@pytest.mark.happens
def test_no_more_is_saved_of_a_cursor_than_can_be_read() -> None:
    holes = range(5, 5 + 2 * MAX_HOLES + 2, 2)
    state = CursorState(end=5, edge=1 << 40, holes=holes)
    saved, value = state.fitted(1_000_000)
    assert len(saved.holes) == MAX_HOLES
    assert saved.edge == holes[MAX_HOLES]
    found = CursorState.decode(value, "key")
    assert (found.edge, len(found.holes)) == (saved.edge, MAX_HOLES)
    failed = CursorState(end=0, attempts=dict.fromkeys(range(MAX_FAILED + 5), 1))
    saved, value = failed.fitted(1_000_000)
    assert len(saved.attempts) == MAX_FAILED == len(CursorState.decode(value, "key").attempts)


# ---- terminals

_EVIL = b"\x1b]0;owned\x07\x1b[2J\xc2\x9b31mred\x7f\r\xe2\x80\xae"


def _on_terminal(*args: object) -> bytes:
    """What a command sends to the terminal that its stdout and stderr are."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*COMMAND, *map(str, args)],
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        env={**ENVIRONMENT, "TERM": "dumb", "COLUMNS": "80"},
    ):
        os.close(theirs)
        parts: list[bytes] = []
        with contextlib.suppress(OSError):  # nobody has it open any more
            while part := os.read(ours, 1 << 16):
                parts.append(part)
    os.close(ours)
    return b"".join(parts).replace(b"\r\n", b"\n")  # the terminal's own


def _sends_nothing(sent: bytes) -> bool:
    return shown(sent.decode()) == sent.decode()


@pytest.fixture
def evil_log(tmp_path: Path) -> Path:
    log = tmp_path / "log"
    line = {"base64": b64encode(_EVIL + b"\xff").decode(), "attributes": {"k": _EVIL.decode()}}
    lines = json.dumps({"payload": _EVIL.decode()}) + "\n" + json.dumps(line) + "\n"
    run("append", "--format", "ndjson", log, stdin=lines.encode())
    return log


@pytest.mark.happens
@pytest.mark.parametrize("args", [(), ("--json",), ("--raw",)], ids=str)
@pytest.mark.parametrize("verb", ["replay", "tail"])
def test_payloads_are_shown_to_a_terminal_and_not_sent(
    evil_log: Path, verb: str, args: tuple[str, ...]
) -> None:
    sent = _on_terminal(verb, *args, evil_log)
    assert _sends_nothing(sent)
    assert b"owned" in sent
    if not args:
        assert rb"\x1b]0;owned\x07\x1b[2J\x9b31mred\x7f\r\u202e" in sent
    if args == ("--json",):
        assert [json.loads(line)["offset"] for line in sent.splitlines()] == [0, 1]
        assert json.loads(sent.splitlines()[0])["payload"] == _EVIL.decode()


@pytest.mark.happens
def test_a_pipe_gets_payloads_as_they_are(evil_log: Path) -> None:
    assert call("replay", evil_log).out == _EVIL + b"\n" + _EVIL + b"\xff\n"


def test_json_has_no_control_characters_on_a_pipe_either(evil_log: Path) -> None:
    lines = call("replay", "--json", evil_log).out.decode()
    assert "\\u009b" in lines
    assert not any(c < " " or "\x7f" <= c <= "\x9f" for c in lines if c != "\n")
    assert json.loads(lines.splitlines()[1])["attributes"] == {"k": _EVIL.decode()}


@pytest.mark.happens
def test_names_and_errors_are_shown_to_a_terminal_and_not_sent(tmp_path: Path) -> None:
    name = "o\x1b[2Jrders"
    (tmp_path / name).mkdir()
    assert _sends_nothing(_on_terminal("info", tmp_path / name))
    assert rb"o\x1b[2Jrders" in _on_terminal("replay", tmp_path / name)
    run("append", tmp_path / name / "log", stdin=b"x\n")
    for verb in ("info", "verify", "topics"):
        sent = _on_terminal(verb, tmp_path / name / ("log" if verb != "topics" else ""))
        assert _sends_nothing(sent), (verb, sent)


async def test_the_holder_of_a_lock_is_shown_to_a_terminal_and_not_sent(tmp_path: Path) -> None:
    async with open_wal(WalConfig(dir=str(tmp_path))):
        (tmp_path / "wal.lock").write_bytes(b"me\x1b[2J\nprocess 7")
        for verb in ("info", "append"):
            assert _sends_nothing(_on_terminal(verb, tmp_path)), verb
