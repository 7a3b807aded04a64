"""`danube-trio top`: what it computes, what it shows, and how it ends."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any

import attrs
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from processes import holding

from danube_trio import StorageConfig, WalConfig, blocking, open_storage, open_wal
from danube_trio._core.meters import Histogram
from danube_trio._core.plain import to_plain
from danube_trio._engine.watch.serve import MAX_CLIENTS
from danube_trio._engine.watch.socket import listen
from danube_trio.cli.top import feed as _top_feed
from danube_trio.cli.top.feed import Feed, Place
from danube_trio.cli.top.figures import View, histogram, rates
from danube_trio.cli.top.page import page, plain
from danube_trio.cli.top.words import bar, duration, per_second, size
from danube_trio.metadata import MemoryMetadata

ROOT = Path(__file__).parent.parent
COMMAND = [sys.executable, "-m", "danube_trio.cli", "top"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
OK, USAGE, IO, INTERRUPTED = 0, 2, 5, 130


def run(*args: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The command as a process of its own."""
    return subprocess.run(
        [*COMMAND, *map(str, args)],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        check=False,
        stdin=subprocess.DEVNULL,
        cwd=cwd,
    )


@attrs.frozen
class Program:
    """A program that holds what is watched."""

    process: Popen[str]

    def append(self) -> None:
        """Append a record, durably."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "done\n"

    def leave(self) -> None:
        """Let it end."""
        with self.process:
            if self.process.stdin is not None and not self.process.stdin.closed:
                self.process.stdin.close()
            self.process.wait()

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()
        self.leave()


def start(kind: str, directory: Path) -> Program:
    return Program(holding(kind, directory))


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A log that a program holds and offers; nobody appends."""
    directory = tmp_path_factory.mktemp("held") / "log"
    program = start("watched", directory)
    yield directory
    program.leave()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The directory of a storage with two topics."""
    directory = tmp_path_factory.mktemp("root")
    program = start("storage", directory)
    yield directory
    program.leave()


# ---- the command


def test_once_as_json_has_the_figures_of_the_log(tmp_path: Path) -> None:
    with blocking.open_wal(WalConfig(dir=tmp_path, watch=True)) as wal:
        wal.append_batch([b"a", b"b"])
        done = run(tmp_path, "--once", "--json")
        assert (done.returncode, done.stderr) == (OK, "")
        line = json.loads(done.stdout)
        expected = json.loads(json.dumps(to_plain(wal.statistics())))
        for changing in ("tasks", "durable_lag_seconds"):  # with time, if there are such
            assert (changing in expected) == (changing in line["statistics"])
            expected.pop(changing, None)
            line["statistics"].pop(changing, None)
        assert line["statistics"] == expected
        assert (line["kind"], line["name"], line["pid"]) == ("wal", str(tmp_path), os.getpid())
        assert line["rates"] == {}


def test_once_as_text_shows_marks_readers_and_syncs(held: Path) -> None:
    done = run(held, "--once")
    assert (done.returncode, done.stderr) == (OK, "")
    assert re.search(r"wal  open  process \d+ \(watch_child.py\)", done.stdout)
    assert re.search(r"^marks +start +sealed +durable +written +next$", done.stdout, re.MULTILINE)
    assert re.search(r"^1 +cache +1 +2$", done.stdout, re.MULTILINE)
    assert re.search(r"^sync ", done.stdout, re.MULTILINE)
    assert "\x1b" not in done.stdout


def test_a_stream_of_json_has_rates_from_the_second_line_on(held: Path) -> None:
    done = run(held, "--json", "--count", 3, "--interval", 0.05)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [bool(line["rates"]) for line in lines] == [False, True, True]
    assert lines[1]["rates"]["records"] == 0


def test_output_that_holds_no_blocks_gets_plain_bars(held: Path) -> None:
    done = subprocess.run(
        [*COMMAND, str(held), "--once"],
        capture_output=True,
        env={**ENVIRONMENT, "PYTHONIOENCODING": "ascii"},
        check=True,
    )
    assert done.stdout.isascii()
    assert b"####" in done.stdout


def test_the_current_directory_is_watched_without_dir(held: Path) -> None:
    done = run("--once", "--json", cwd=held)
    assert json.loads(done.stdout)["name"] == str(held)


def test_a_storage_and_one_of_its_topics(root: Path) -> None:
    done = run(root, "--once")
    assert done.returncode == OK
    assert re.search(r"^/default/orders +open +\d+ +\d+ ", done.stdout, re.MULTILINE)
    assert "open topics 2" in done.stdout
    done = run(root / "default/returns", "--once", "--json")
    line = json.loads(done.stdout)
    assert (line["topic"], line["statistics"]["next_offset"]) == ("/default/returns", 1)
    assert "/default/returns  topic  open" in run(root / "default/returns", "--once").stdout


def test_several_logs_below_a_directory_are_listed(tmp_path: Path) -> None:
    programs = [start("watched", tmp_path / "a/one"), start("watched", tmp_path / "a/two")]
    start("watched", tmp_path / "gone").kill()
    try:
        done = run(cwd=tmp_path)
        names = [line.split()[5] for line in done.stdout.splitlines()[1:]]
        assert names == [str(tmp_path / "a/one"), str(tmp_path / "a/two")]
        lines = [json.loads(line) for line in run(tmp_path, "--json").stdout.splitlines()]
        assert [line["statistics"]["next_offset"] for line in lines] == [3, 3]
        assert run(lines[1]["path"], "--once").returncode == OK
    finally:
        for program in programs:
            program.leave()
    done = run(tmp_path, "--once")
    assert done.returncode == USAGE
    assert "no program below it offers to be watched" in done.stderr


def test_a_follower_that_is_served_by_hand_is_found(tmp_path: Path) -> None:
    program = start("follower", tmp_path / "log")
    try:
        done = run(tmp_path, "--once")
        assert "my follower  follower" in done.stdout
        assert re.search(r"^marks +start +durable$", done.stdout, re.MULTILINE)
        done = run(tmp_path / "log", "--once")
        assert done.returncode == USAGE
        assert "holds the log, and does not offer to be watched" in done.stderr
        assert "WalConfig(watch=True)" in done.stderr
    finally:
        program.leave()


def test_a_log_that_nobody_holds_is_said_to_be_so(tmp_path: Path) -> None:
    for end in (Program.leave, Program.kill):
        end(start("watched", tmp_path / "log"))
        done = run(tmp_path / "log")
        assert done.returncode == USAGE
        assert "nobody holds the log" in done.stderr
        assert "danube-trio info" in done.stderr


def test_a_directory_without_anything_is_wrong_usage(tmp_path: Path) -> None:
    assert run(tmp_path).returncode == USAGE
    done = run(tmp_path / "none")
    assert done.returncode == USAGE
    assert "No such file" in done.stderr
    assert run(tmp_path, "--once", "--count", 2).returncode == USAGE


def test_a_socket_of_another_kind_of_program_is_an_error(tmp_path: Path) -> None:
    script = """
import socket, sys
sock = socket.socket(socket.AF_UNIX)
sock.bind(sys.argv[1]); sock.listen(); print("ready", flush=True)
for greeting in (b"220 mail\\n", b'{"schema": 2, "version": "9"}\\n', b'{"schema": 1'):
    peer, _ = sock.accept()
    with peer:
        peer.sendall(greeting)
"""
    path = tmp_path / "a.watch"
    with Popen([sys.executable, "-c", script, str(path)], stdout=PIPE, text=True) as program:
        assert program.stdout is not None
        program.stdout.readline()
        done = run(path)
        assert (done.returncode, "no statistics" in done.stderr) == (IO, True)
        done = run(path)
        assert (done.returncode, "version 9" in done.stderr) == (3, True)
        done = run(path, "--once")
        assert (done.returncode, "has ended" in done.stderr) == (OK, True)


async def test_a_topic_is_found_in_the_storage_that_has_it_open(tmp_path: Path) -> None:
    config = StorageConfig(dir=tmp_path, watch=True)
    async with (
        open_storage(config, metadata=MemoryMetadata()) as one,
        open_storage(config, metadata=MemoryMetadata()) as other,
    ):
        await one.append_message("/default/orders", b"a")
        await other.append_batch("/default/returns", [b"a", b"b"])
        for topic, end in (("orders", 1), ("returns", 2)):
            path = tmp_path / "default" / topic
            done = await trio.to_thread.run_sync(run, path, "--once", "--json")
            assert json.loads(done.stdout)["statistics"]["next_offset"] == end
        done = await trio.to_thread.run_sync(run, tmp_path)
        assert done.stdout.count(f"{tmp_path}/.storage-{os.getpid()}-") == 2


def test_a_program_that_does_not_answer_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_top_feed, "PATIENCE_SECONDS", 0.01)
    offer = listen(str(tmp_path / "a.watch"), "a.tmp")
    try:
        with pytest.raises(TimeoutError, match="the program does not answer"):
            Feed(Place(offer.path))
    finally:
        offer.close()


async def test_a_program_that_is_watched_by_too_many_is_an_error(tmp_path: Path) -> None:
    async with open_wal(WalConfig(dir=tmp_path, watch=True)):
        place = Place(str(tmp_path / "wal.watch"))
        feeds = [await trio.to_thread.run_sync(Feed, place) for _ in range(MAX_CLIENTS)]
        done = await trio.to_thread.run_sync(run, tmp_path, "--once")
        assert done.returncode == IO
        assert "watch already" in done.stderr
        for feed in feeds:
            feed.close()


def test_looking_does_not_load_the_engine() -> None:
    script = "import sys; import danube_trio.cli.top.command; print('trio' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], env=ENVIRONMENT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"


# ---- how it ends


@attrs.frozen
class Viewer:
    """The command, running; what it prints can be read line by line."""

    process: Popen[str]

    def line(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        found: dict[str, Any] = json.loads(self.process.stdout.readline())
        return found

    def end(self) -> tuple[int, str]:
        """Its exit code, and what it said on stderr."""
        with self.process:
            _, errors = self.process.communicate()
        return self.process.returncode, errors


def view(directory: Path, *args: object) -> Viewer:
    command = [*COMMAND, str(directory), "--json", "--interval", "0.05", *map(str, args)]
    return Viewer(Popen(command, stdout=PIPE, stderr=PIPE, text=True, env=ENVIRONMENT))


@pytest.mark.parametrize(("end", "said"), [("leave", "the log was left"), ("kill", "has ended")])
def test_it_ends_with_the_program(end: str, said: str, tmp_path: Path) -> None:
    program = start("watched", tmp_path)
    viewer = view(tmp_path)
    viewer.line()
    getattr(program, end)()
    code, errors = viewer.end()
    assert code == OK
    assert f"{tmp_path}: " in errors
    assert said in errors


def test_with_wait_it_goes_on_with_the_next_program(tmp_path: Path) -> None:
    viewer = view(tmp_path, "--wait")
    program = start("watched", tmp_path)
    first = viewer.line()
    program.kill()
    program = start("watched", tmp_path)
    while (line := viewer.line())["pid"] == first["pid"]:
        pass
    assert line["statistics"]["next_offset"] == 6
    program.append()
    while viewer.line()["statistics"]["next_offset"] != 7:
        pass
    viewer.process.send_signal(signal.SIGINT)
    code, errors = viewer.end()
    assert code == INTERRUPTED
    assert errors.count("waiting for a program") >= 1
    assert "Traceback" not in errors
    program.leave()


def test_a_reader_that_goes_away_ends_it_quietly(held: Path) -> None:
    command = " ".join([*COMMAND, str(held), "--json", "--interval", "0.05"])
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command} | head -n 1"],
        env=ENVIRONMENT,
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (OK, b"")
    assert done.stdout.count(b"\n") == 1


def test_on_a_terminal_the_page_stays_in_place_and_ctrl_c_gives_it_back(held: Path) -> None:
    ours, theirs = pty.openpty()
    environment = {**ENVIRONMENT, "TERM": "xterm", "LINES": "50", "COLUMNS": "100"}
    with Popen(
        [*COMMAND, str(held), "--interval", "0.05"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment,
        start_new_session=True,
    ) as process:
        os.close(theirs)
        shown = b""
        while shown.count(b"marks") < 3:
            shown += os.read(ours, 65536)
        process.send_signal(signal.SIGINT)
        while True:
            try:
                more = os.read(ours, 65536)
            except OSError:  # how a terminal without programs ends
                break
            shown += more
    os.close(ours)
    assert process.returncode == INTERRUPTED
    assert shown.startswith(b"\x1b[?1049h")  # another screen, and back
    before, back, after = shown.partition(b"\x1b[?1049l")
    assert back
    assert b"\x1b[?25h" in before  # the cursor is there again
    assert b"marks" in after
    assert b"Traceback" not in shown


# ---- pure functions

HELLO = {"kind": "wal", "name": "/data/orders", "pid": 4711, "program": "shop.py"}


def sample(records: int = 0, seconds: float = 0.0, **more: Any) -> dict[str, Any]:
    """A snapshot, as it is read from the socket."""
    syncs = Histogram()
    for i in range(records):
        syncs.add(0.0005 if i % 10 else 0.01)
    found = {
        "phase": "open",
        "start_offset": 0,
        "uploaded_end": 0,
        "sealed_end": records // 2,
        "durable_end": records,
        "written_end": records,
        "next_offset": records + 1,
        "segments": 2,
        "size_bytes": 100 * records,
        "pending_bytes": 10,
        "pending_peak_bytes": 4096,
        "cached_records": records,
        "cached_bytes": 100 * records,
        "appended_records": records,
        "appended_bytes": 100 * records,
        "writes": records,
        "syncs": records,
        "rolls": 1,
        "sync_seconds": to_plain(syncs.view()),
        "readers": [
            {"cursor": 5, "tier": "file", "lag": records - 5},
            {"cursor": records, "tier": "live", "lag": 0},
        ],
        "waiting_appends": 0,
        "janitor_failures": 0,
        "notes": [],
        "cloud": None,
    }
    line = {"time": 0.0, "elapsed": seconds, "statistics": {**found, **more}}
    found_again: dict[str, Any] = json.loads(json.dumps(line))
    return found_again


def shown(now: dict[str, Any], before: dict[str, Any] | None = None, **view: Any) -> str:
    return plain(page(View(HELLO, before, now, **view)))


def test_rates_come_from_the_difference_of_two_snapshots() -> None:
    found = rates(sample(100, 1.0), sample(300, 3.0))
    assert found["records"] == 100
    assert found["bytes"] == 10_000
    assert found["syncs"] == 100
    assert "uploads" not in found
    assert rates(None, sample(3)) == {}
    assert rates(sample(3, 2.0), sample(3, 2.0)) == {}
    assert "records" not in rates(sample(300, 1.0), sample(100, 3.0))


def test_a_page_in_full() -> None:
    text = shown(sample(300, 3.0), sample(100, 1.0), fancy=False)
    assert text.split("\n\n")[:5] == [
        "/data/orders  wal  open  process 4711 (shop.py)  watched for 3.0 s  00:00:00 UTC",
        "marks  start  sealed  durable  written  next\n"
        "           0     150      300      300   301\n"
        "       ===================--------------------.  = sealed, - durable, . accepted\n"
        "       not durable yet: 1 record",
        "rates          now    in all\n"
        "records      100/s       300\n"
        "bytes    9.8 KiB/s  29.3 KiB\n"
        "writes       100/s       300\n"
        "syncs        100/s       300\n"
        "rolls          0/s         1",
        "held                  now     peak\n"
        "pending bytes        10 B  4.0 KiB\n"
        "cached records        300        -\n"
        "cached bytes     29.3 KiB        -\n"
        "waiting appends         0        -",
        "how long, how much  p50 now  p99 now     p50      p99    mean  events\n"
        "sync                 512 us  16.4 ms  512 us  16.4 ms  1.5 ms     300",
    ]
    assert (
        "readers  tier  cursor  lag\n1        file       5  295\n2        live     300    0" in text
    )
    assert f"syncs now\n   <= 512 us  {40 * '#'} 180\n" in text


def test_on_a_screen_small_sections_stand_beside_each_other() -> None:
    text = shown(sample(5), beside=True)
    assert re.search(r"^rates +now +in all +held +now +peak$", text, re.MULTILINE)
    assert re.search(r"^records +- +5 +pending bytes +10 B +4.0 KiB$", text, re.MULTILINE)


def test_text_of_a_program_is_no_markup() -> None:
    assert "note: [bold]:warning: cut[/]" in shown(sample(notes=["[bold]:warning: cut[/]"]))


@pytest.mark.parametrize("as_json", [False, True])
def test_without_rich_it_says_what_is_missing_but_for_json(held: Path, as_json: bool) -> None:
    given = ["top", str(held), "--once", *["--json"] * as_json]
    script = (
        f"import sys\nsys.modules['rich'] = None\nsys.argv[1:] = {given!r}\n"
        "from danube_trio.cli import main\nmain()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    if as_json:
        assert done.returncode == 0 and json.loads(done.stdout)["kind"] == "wal"
    else:
        assert done.returncode == USAGE
        assert "top needs rich: pip install 'danube-trio[cli]'" in done.stderr


def test_an_object_store_and_its_troubles_are_shown() -> None:
    seconds = Histogram()
    seconds.add(0.2)
    cloud = {
        "epoch": 3,
        "objects": 7,
        "waiting_bytes": 3 << 20,
        "appends_held": True,
        "uploads": 7,
        "uploaded_bytes": 7 << 20,
        "upload_failures": 2,
        "upload_error": "no route\x1b[2J to host",
        "upload_seconds": to_plain(seconds.view()),
        "pins": 1,
    }
    text = shown(sample(100, cloud=cloud, uploaded_end=40))
    assert re.search(r"^marks +start +uploaded +sealed", text, re.MULTILINE)
    assert re.search(r"^upload .* 1$", text, re.MULTILINE)
    assert "waiting bytes 3.0 MiB" in text
    assert "  appends held yes\n  upload failures 2\n  upload error no route?[2J to host" in text
    assert "\x1b" not in text


def test_what_a_later_version_counts_is_shown_too() -> None:
    batches = {"bounds": [1, 2, 4], "counts": [1, 2, 0, 1], "total": 4, "sum": 12}
    tasks = [{"name": "writer", "state": "idle", "seconds": 2.5}, {"name": "flusher"}, "odd"]
    text = shown(
        sample(
            5,
            batch_records=batches,
            tasks=tasks,
            waiting_peak_appends=9,
            durable_lag_seconds=0.25,
            brand_new_bytes=2048,
            notes=["a torn tail was cut"],
        )
    )
    assert re.search(r"^batch records +- +- +2 +more +3 +4$", text, re.MULTILINE)
    assert re.search(r"^writer +idle +2.5 s$", text, re.MULTILINE)
    assert re.search(r"^waiting appends +0 +9$", text, re.MULTILINE)
    assert "durable lag seconds 250.0 ms" in text
    assert "brand new bytes 2.0 KiB" in text
    assert "note: a torn tail was cut" in text


def test_topics_are_sorted_by_how_busy_they_are() -> None:
    def topics(*records: int) -> dict[str, Any]:
        rows = [
            {"topic": f"/default/{name}", "phase": "open", "appended_records": count}
            for name, count in zip("abc", records, strict=True)
        ]
        return {"statistics": {"not_uploaded": 9}, "topics": rows, "topics_left_out": 2}

    before, now = {**topics(9, 0, 0), "elapsed": 1}, {**topics(9, 1, 6), "elapsed": 2}
    text = shown(now, before, rows=2)
    assert re.findall(r"^/default/(\w)", text, re.MULTILINE) == ["c", "b"]
    assert "and 3 more" in text
    assert "not uploaded 9" in text


def test_many_readers_are_cut_with_the_slowest_first() -> None:
    readers = [{"cursor": i, "tier": "file", "lag": i} for i in range(100)]
    text = shown(sample(5, readers=readers), rows=3)
    assert re.findall(r"^\d +file +(\d+)", text, re.MULTILINE) == ["99", "98", "97"]
    assert "and 97 more" in text


NAMES = sorted(
    {
        *("statistics", "topics", "topic", "elapsed", "time", "cloud", "readers", "tasks", "notes"),
        *("bounds", "counts", "sum", "phase", "lag", "cursor", "appended_records", "name", "kind"),
        *("start_offset", "next_offset", "durable_end", "sync_seconds", "pending_peak_bytes"),
        *("pending_bytes", "topics_left_out", "durable_lag_seconds"),
    }
)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**400, -(10**400), 1e300])
    | st.floats()
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=6)
    ),
    max_leaves=30,
)
OBJECT = st.dictionaries(st.sampled_from(NAMES), JSON, max_size=8)
SNAPSHOT = st.fixed_dictionaries({"statistics": OBJECT, "elapsed": JSON, "topics": JSON}) | OBJECT


@given(OBJECT, st.none() | SNAPSHOT, SNAPSHOT)
def test_anything_that_a_program_says_is_shown_somehow(
    hello: dict[str, Any], before: dict[str, Any] | None, now: dict[str, Any]
) -> None:
    text = plain(page(View(hello, before, now)))
    assert all(c.isprintable() or c == "\n" for c in text)
    assert isinstance(rates(before, now), dict)


def test_numbers_as_text() -> None:
    assert [size(n) for n in (0, 1023, 1024, 1 << 40)] == ["0 B", "1,023 B", "1.0 KiB", "1.0 TiB"]
    times = [duration(n) for n in (0, 0.000128, 0.0042, 3.25, 7265, float("inf"), None)]
    assert times == ["0 us", "128 us", "4.2 ms", "3.2 s", "2:01:05", "longer", "-"]
    assert [per_second(n) for n in (0, 0.25, 5000.4)] == ["0/s", "0.2/s", "5,000/s"]
    assert per_second(2048, "uploaded_bytes") == "2.0 KiB/s"
    assert [bar(n, 4, fancy=True) for n in (0, 0.001, 0.5, 0.6, 2)] == [
        "",
        "▏",
        "██",
        "██▍",
        "████",
    ]
    assert [bar(n, 4, fancy=False) for n in (0, 0.001, 0.5, 2)] == ["", "#", "##", "####"]


def test_a_histogram_agrees_with_the_one_it_was_made_of() -> None:
    ours = Histogram()
    for i in range(1000):
        ours.add(i * i * 1e-6)
    theirs = histogram(json.loads(json.dumps(to_plain(ours.view()))))
    assert theirs is not None
    for q in (0.0, 0.01, 0.5, 0.99, 1.0):
        assert theirs.quantile(q) == ours.view().quantile(q)
    assert theirs.since(theirs).total == 0
    assert theirs.since(None) == theirs
    ours.add(1e9)
    more = histogram(to_plain(ours.view()))
    assert more is not None
    assert more.since(theirs).quantile(0.5) == float("inf")
    assert theirs.since(more) == theirs  # it was begun anew
