"""A log whose wal.meta is lost or damaged: read, and made a log again, by naming its codec."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
from test_cli import CORRUPT, OK, PROBLEMS, USAGE, call, fill, numbered, segments

from danube_trio import CorruptDataError, StreamMessage, WalConfig, open_wal
from danube_trio._core.codec import CODECS

RECORDS = 30


def made(path: Path, codec: str = "s5-standard", **settings: Any) -> Path:
    fill(path, numbered(RECORDS), codec=codec, segment_bytes=700, **settings)
    return path


def content(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


def lose(log: Path, how: str) -> None:
    if how == "missing":
        (log / "wal.meta").unlink()
    else:
        data = bytearray((log / "wal.meta").read_bytes())
        data[20] ^= 1
        (log / "wal.meta").write_bytes(data)


@pytest.mark.happens
@pytest.mark.parametrize("how", ["missing", "damaged"])
@pytest.mark.parametrize("codec", CODECS)
def test_replay_and_repair_rescue_a_log_whose_meta_is_lost(
    codec: str, how: str, tmp_path: Path
) -> None:
    log = made(tmp_path / "log", codec)
    lose(log, how)
    before = content(log)
    assert call("replay", log).code == CORRUPT
    result = call("replay", log, "--codec", codec)
    assert (result.code, result.lines) == (OK, numbered(RECORDS))
    result = call("replay", log, "--codec", codec, "--from", 5, "--until", 8)
    assert result.lines == numbered(RECORDS)[5:8]
    result = call("repair", log)
    assert f"--codec {codec}, which the messages fit".encode() in result.out
    result = call("repair", log, "--codec", codec)
    assert result.code == PROBLEMS
    assert b"plan: rebuild: %s/wal.meta" % str(log).encode() in result.out
    assert content(log) == before  # the plan comes first
    result = call("repair", log, "--codec", codec, "--yes")
    assert (result.code, result.lines[-1]) == (OK, b"repaired, and verified: no problems")
    assert call("replay", log).lines == numbered(RECORDS)
    fill(log, [b"more"])
    assert call("replay", log).lines == [*numbered(RECORDS), b"more"]
    assert list(log.glob("wal.meta.0.corrupt")) == (
        [] if how == "missing" else [log / "wal.meta.0.corrupt"]
    )
    assert call("repair", log, "--codec", codec).lines[-1] == b"nothing to repair"


@pytest.mark.happens
@pytest.mark.parametrize("verb", ["replay", "repair"])
def test_a_codec_that_the_messages_do_not_have_is_refused(verb: str, tmp_path: Path) -> None:
    for codec in CODECS:
        log = made(tmp_path / codec, codec)
        lose(log, "missing")
        before = content(log)
        for other in {*CODECS} - {codec}:
            result = call(verb, log, "--codec", other)
            assert (result.code, result.out) == (USAGE, b"")
            assert f"they fit {codec}" in result.err
        assert content(log) == before


def test_a_codec_for_a_log_that_has_its_meta_must_be_the_same(tmp_path: Path) -> None:
    log = made(tmp_path / "log")
    assert call("replay", log, "--codec", "s5-standard").lines == numbered(RECORDS)
    for verb in ("replay", "repair"):
        result = call(verb, log, "--codec", "s1-legacy")
        assert result.code == USAGE
        assert "says 's5-standard'" in result.err


@pytest.mark.happens
def test_a_lost_end_is_no_torn_tail_when_the_meta_is_lost_too(tmp_path: Path) -> None:
    """The mark of the old id still says what was durable."""
    log = made(tmp_path / "log")
    lose(log, "missing")
    last = segments(log)[-1]
    last.write_bytes(last.read_bytes()[:-3])
    for _ in range(2):
        result = call("repair", log, "--codec", "s5-standard", "--yes")
        assert b"undecided" in result.out
        assert result.code in (PROBLEMS, CORRUPT)  # made a log again; then still undecided
    result = call("repair", log, "--codec", "s5-standard", "--policy", "truncate", "--yes")
    assert result.lines[-1] == b"repaired, and verified: no problems"
    assert call("replay", log).lines == numbered(RECORDS - 3)


def test_what_is_whole_is_replayed_without_meta_and_mark(tmp_path: Path) -> None:
    log = made(tmp_path / "log")
    lose(log, "missing")
    (log / "wal.mark").unlink()
    last = segments(log)[-1]
    last.write_bytes(last.read_bytes()[:-3])
    first = bytearray(segments(log)[0].read_bytes())
    first[30] ^= 1
    segments(log)[0].write_bytes(first)
    result = call("replay", log, "--codec", "s5-standard", "--skip-corrupt")
    assert (result.code, result.lines) == (PROBLEMS, numbered(RECORDS - 3)[1:])


def test_opening_says_how_a_log_without_its_meta_is_rescued(tmp_path: Path) -> None:
    log = made(tmp_path / "log")
    lose(log, "missing")

    async def open_it() -> None:
        with pytest.raises(CorruptDataError, match=f"repair {log} --codec NAME"):
            async with open_wal(WalConfig(dir=str(log))):
                pass

    trio.run(open_it)


def test_a_directory_without_segments_is_not_rescued(tmp_path: Path) -> None:
    for verb in ("replay", "repair"):
        result = call(verb, tmp_path, "--codec", "s5-standard")
        assert "there is no log" in result.err
    assert list(tmp_path.iterdir()) == []


def test_a_log_without_records_takes_any_codec(tmp_path: Path) -> None:
    log = tmp_path / "log"
    messages: list[bytes | StreamMessage] = []
    fill(log, messages)
    lose(log, "missing")
    assert call("repair", log, "--codec", "s2-legacy", "--yes").code == OK
    fill(log, [b"x"])
    assert call("replay", log).lines == [b"x"]
