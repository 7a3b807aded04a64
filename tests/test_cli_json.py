"""`--json` everywhere: each line of each command parses, with the keys that docs/cli.md lists."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from danube_writer import run as danube_frames
from serving import serving
from test_cli import (
    CORRUPT,
    OK,
    PROBLEMS,
    ROOT,
    USAGE,
    Result,
    call,
    fill,
    flip,
    numbered,
    run,
    segments,
)

from danube_trio import StreamMessage
from danube_trio.cli._app import app

TOPIC = "/default/orders"
ROW = re.compile(r"^\| (`.+?`) \| ([^|]+) \| (.+) \|$", re.MULTILINE)
NAMES = re.compile(r"`([\w -]+)`")
KEY = re.compile(r"`(\w+)`")


@attrs.frozen
class Shape:
    """A row of the table: what a line of these commands looks like."""

    commands: frozenset[str]
    line: str
    outer: str | None
    always: frozenset[str]
    sometimes: frozenset[str]

    def fits(self, line: dict[str, Any]) -> bool:
        fields = line
        if self.outer is not None:
            if line.keys() != {self.outer}:
                return False
            fields = line[self.outer]
        return self.always <= fields.keys() <= self.always | self.sometimes


def shapes() -> Iterator[Shape]:
    page = (ROOT / "docs" / "cli.md").read_text()
    section = page.partition("## JSON\n")[2].partition("\n## ")[0]
    for commands, line, keys in ROW.findall(section):
        outer = re.match(r"`(\w+)`: ", keys)
        keys = keys[outer.end() :] if outer else keys
        always, _, sometimes = re.sub(r", and (what|with)", "|", keys, count=1).partition("|")
        either = re.findall(r"`(\w+)` or `(\w+)`", always)
        optional = {*KEY.findall(sometimes), *(key for pair in either for key in pair)}
        yield Shape(
            frozenset(name.partition(" ")[0] for name in NAMES.findall(commands)),
            line,
            outer[1] if outer else None,
            frozenset(KEY.findall(always)) - optional,
            frozenset(optional),
        )


SHAPES = list(shapes())


class Seen:
    """Runs commands with --json, and looks at what they print."""

    def __init__(self) -> None:
        self.lines: Counter[Shape] = Counter()

    def __call__(self, code: int, verb: str, *args: object, stdin: bytes = b"") -> Result:
        if verb == "append":
            done = run(verb, *args, "--json", stdin=stdin)
            result = Result(("completion", "bash"))  # a result to be filled
            result.code, result.out = done.returncode, done.stdout
            result.lines = done.stdout.splitlines()
        else:
            result = call(verb, *args, "--json")
        assert result.code == code, (verb, args, result.err)
        for line in result.objects:
            self.look(verb, line)
        return result

    def look(self, verb: str, line: dict[str, Any]) -> None:
        fitting = [shape for shape in SHAPES if verb in shape.commands and shape.fits(line)]
        assert len(fitting) == 1, (verb, line)
        self.lines[fitting[0]] += 1


def look_at_one_log(seen: Seen, tmp_path: Path) -> None:
    log = tmp_path / "log"
    seen(OK, "append", log, stdin=b"a\nb\n")
    seen(OK, "append", log)
    seen(OK, "append", log, "--acks", "--batch", 2, stdin=b"a\nb\nc\n")
    seen(USAGE, "append", log, "--format", "ndjson", stdin=b'{"payload": "x"}\n{}\n')
    seen(OK, "replay", log)
    seen(OK, "tail", log, "-n", 2)
    seen(OK, "info", log)
    seen(OK, "verify", log)
    seen(OK, "repair", log)
    (log / "wal.mark").unlink()
    seen(PROBLEMS, "repair", log)
    seen(OK, "repair", log, "--yes")


def look_at_damage(seen: Seen, tmp_path: Path) -> None:
    log = tmp_path / "damaged"
    fill(log, numbered(30), segment_bytes=500)
    flip(segments(log)[1], 30)
    seen(PROBLEMS, "verify", log)
    seen(PROBLEMS, "replay", log, "--skip-corrupt")
    seen(PROBLEMS, "tail", log, "-n", 100, "--skip-corrupt")
    seen(CORRUPT, "repair", log)
    seen(OK, "repair", log, "--policy", "truncate", "--yes")


def look_at_a_store(seen: Seen, tmp_path: Path) -> None:
    log = tmp_path / "stored"
    store = ("--store", f"file://{tmp_path}/objects", "--topic", TOPIC)
    message = StreamMessage(
        payload=b"\xff",
        request_id=7,
        publish_time=9,
        producer_name="me",
        subscription_name="s",
        attributes={"k": "v"},
        schema_id=1,
        schema_version=3,
        routing_key="eu",
    )
    message.msg_id.producer_id = 5
    message.msg_id.topic_name = TOPIC
    message.msg_id.broker_addr = "b:1"
    fill(log, [message, *numbered(3)])
    seen(OK, "upload", log, *store, "--dry-run")
    seen(OK, "upload", log, *store)
    seen(OK, "upload", log, *store)  # nothing to do
    seen(OK, "upload", log, *store, "--seal")
    seen(OK, "replay", *store)
    seen(OK, "info", log, *store)
    seen(OK, "info", *store)
    seen(OK, "verify", log, *store)
    seen(OK, "topics", tmp_path, *store[:2])
    seen(OK, "restore", tmp_path / "copy", *store, "--dry-run")
    seen(OK, "restore", tmp_path / "copy", *store)


def look_at_the_rest(seen: Seen, tmp_path: Path) -> None:
    source = tmp_path / "danube"
    source.mkdir()
    (source / "wal.log").write_bytes(danube_frames(0, 4) + b"garbage" + danube_frames(5, 9))
    seen(CORRUPT, "import-danube", source, tmp_path / "new")
    seen(PROBLEMS, "import-danube", source, tmp_path / "new", "--on-damage", "skip")
    seen(OK, "bench", tmp_path, "--seconds", 0.02, "--producers", 2, "--batch", 2)
    seen(OK, "completion", "bash")
    with serving(tmp_path / "served") as server:
        seen.look("serve", server.ready)


def test_every_line_has_the_keys_that_the_page_lists(tmp_path: Path) -> None:
    seen = Seen()
    look_at_one_log(seen, tmp_path)
    look_at_damage(seen, tmp_path)
    look_at_a_store(seen, tmp_path)
    look_at_the_rest(seen, tmp_path)
    for shape in SHAPES:
        assert seen.lines[shape], f"no line was like this: {shape}"
    # What `top` prints is described with it.
    assert {name for shape in SHAPES for name in shape.commands} == {*app.commands} - {"top"}


@pytest.mark.parametrize("verb", app.commands)
def test_every_command_has_the_option(verb: str) -> None:
    names = [name for param in app.commands[verb].params for name in param.opts]
    assert "--json" in names


def test_an_upload_prints_the_same_keys_whatever_it_did(tmp_path: Path) -> None:
    log = tmp_path / "log"
    fill(log, numbered(3))
    store = ("--store", f"file://{tmp_path}/objects", "--topic", TOPIC, "--json")
    dry = call("upload", log, *store, "--dry-run").json
    done = call("upload", log, *store).json
    again = call("upload", log, *store).json
    assert [*dry] == [*done] == [*again]
    assert (dry["uploaded"], dry["epoch"]) == (False, None)
    assert (again["uploaded"], again["epoch"]) == (True, done["epoch"])
    assert (done["records"], again["records"]) == (3, 0)


def test_a_restore_prints_the_same_keys_whatever_it_did(tmp_path: Path) -> None:
    fill(tmp_path / "log", numbered(3))
    store = ("--store", f"file://{tmp_path}/objects", "--topic", TOPIC, "--json")
    call("upload", tmp_path / "log", *store)
    dry = call("restore", tmp_path / "copy", *store, "--dry-run").json
    done = call("restore", tmp_path / "copy", *store).json
    assert [*dry] == [*done]
    assert (dry["restored"], dry["directory_id"]) == (False, None)


# ---- inside


def inside(first: str) -> frozenset[str]:
    """The keys that the second table lists for this place."""
    page = (ROOT / "docs" / "cli.md").read_text()
    (row,) = re.findall(rf"^\| {re.escape(first)} \| (.+) \|$", page, re.MULTILINE)
    return frozenset(KEY.findall(row.partition(", or ")[0]))


def test_what_is_inside_has_the_keys_that_the_page_lists(tmp_path: Path) -> None:
    root, log = tmp_path / "root", tmp_path / "root" / "default" / "orders"
    fill(log, numbered(30), segment_bytes=500)
    store = ("--store", f"file://{tmp_path}/objects", "--topic", TOPIC, "--json")
    call("upload", log, *store)
    info = call("info", log, *store).json
    assert info["mark"].keys() == inside("`info`, `mark`")
    assert info["recovery"].keys() == inside("`info`, `recovery`")
    assert info["store"].keys() == inside("`info`, `store`")
    for segment in info["segments"]:
        assert segment.keys() == inside("`info`, `segments`, each")
    for found in info["store"]["objects"]:
        assert found.keys() == inside("`info`, `store`, `objects`, each")
    summary = call("verify", log, *store).objects[-1]["summary"]
    assert summary["store"].keys() == inside("`verify`, `summary`, `store`")
    (topic,) = call("topics", root, *store[:2], "--json").objects
    assert topic["local"].keys() == inside("`topics`, `local`")
    assert topic["store"].keys() == inside("`topics`, `store`")
    refused = json.loads(run("append", log, "--format", "ndjson", "--json", stdin=b"x\n").stdout)
    assert refused["refused"].keys() == inside("`append`, `refused`") - {"line"}
    fill(tmp_path / "empty", [])
    segments(tmp_path / "empty")[0].unlink()
    (tmp_path / "empty" / "wal.mark").unlink()
    empty = call("info", tmp_path / "empty", "--json").json
    assert empty["recovery"].keys() == inside("`info`, `recovery`")
