"""Real data, logged, crashed, recovered, replayed and compared: `make demo`.

1. A process appends the flights of `flights.py`, durably, by many concurrent producers; a live
   reader follows them. It tells this process which records were acknowledged.
2. When half of them are, it is killed with SIGKILL.
3. A second process opens the log again, finds out from it which rows are missing, and appends
   those. Its live reader goes on where the first one was.
4. This process replays everything and compares it, record by record, with the CSV: each row is
   there exactly once and unaltered, and each acknowledged offset holds the row it was given for.

Exits with 1 if anything is lost, altered, doubled or out of order.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import attrs
import trio
from flights import Kind, Reports, load_rows, row_of, settings
from screen import Bar, print_table

from danube_trio import Wal, open_wal

WRITER = Path(__file__).with_name("flights_writer.py")
MARKER = "made-by-demo.txt"
NO_ROW = -1


@attrs.define(eq=False)
class Heard:
    """What one writing process reported.

    Attributes:
        acked: the row of each acknowledged offset.
        seen: its live reader has handed out everything below this offset.
        started: when it began to append; ended: when its last acknowledgement came.
    """

    acked: dict[int, int] = attrs.Factory(dict[int, int])
    next_offset: int = 0
    open_seconds: float = 0
    found: int = 0
    look_seconds: float = 0
    seen: int = 0
    done: bool = False
    started: float = 0
    ended: float = 0

    def take(self, kind: Kind, a: int, b: int, c: int) -> None:
        """One report."""
        if kind is Kind.ACKED:
            for i in range(c):
                self.acked[a + i] = b + i
        elif kind is Kind.SEEN:
            self.seen = a
        elif kind is Kind.OPENED:
            self.next_offset, self.open_seconds = a, b / 1e6
        elif kind is Kind.READY:
            self.found, self.look_seconds = a, b / 1e6
            self.started = perf_counter()
        else:
            self.done = True


@attrs.define(eq=False)
class Compared:
    """The log against the CSV.

    Attributes:
        rows: the row of each record, in the order of the log.
    """

    rows: list[int] = attrs.Factory(list[int])
    altered: int = 0
    replay_seconds: float = 0


async def run_writer(
    options: list[str], enough: Callable[[Heard], bool], progress: Callable[[int], None]
) -> tuple[Heard, int]:
    """Start the writing process and listen; kill it when `enough` says so. Returns its status.

    It is in a session of its own, so that Ctrl-C reaches this process only, which then ends it.
    """
    heard, reports, killed = Heard(), Reports(), False
    process = await trio.lowlevel.open_process(
        [sys.executable, str(WRITER), *options], stdout=subprocess.PIPE, start_new_session=True
    )
    assert process.stdout is not None
    try:
        async for data in process.stdout:
            for report in reports.feed(data):
                heard.take(*report)
            heard.ended = perf_counter()
            progress(len(heard.acked))
            if not killed and enough(heard):
                killed = True
                process.send_signal(signal.SIGKILL)
        return heard, await process.wait()
    finally:
        with trio.CancelScope(shield=True):
            process.kill()
            await process.wait()
            await process.stdout.aclose()


async def compare(wal: Wal, lines: list[bytes], progress: Callable[[int], None]) -> Compared:
    """Replay twice: once for the speed, touching offset and payload, once to compare all."""
    compared = Compared()
    started, count, size = perf_counter(), 0, 0
    async for message in wal.reader(end="current"):
        if message.offset != count:
            raise AssertionError(f"offset {message.offset} came instead of {count}")
        count += 1
        size += len(message.payload)
    compared.replay_seconds = perf_counter() - started
    async for messages in wal.reader(end="current").batches():
        for message in messages:
            row = row_of(message)
            columns = message.payload.split(b",")
            if not 0 <= row < len(lines):
                row = NO_ROW
            if (
                row == NO_ROW
                or message.payload != lines[row]
                or message.routing_key != columns[9].decode()
                or message.attributes["origin"] != columns[12].decode()
            ):
                compared.altered += 1
            compared.rows.append(row)
        progress(len(compared.rows))
    return compared


def prepare(directory: Path) -> str | None:
    """Make room for the log; returns why that is not possible."""
    try:
        names = [entry.name for entry in os.scandir(directory)]
    except FileNotFoundError:
        names = []
    except NotADirectoryError:
        return f"{directory} is a file: name another directory with --dir"
    foreign = [n for n in names if n != MARKER and not n.startswith("wal.")]
    if names and (MARKER not in names or foreign):
        return f"{directory} holds something else: move it away, or name another with --dir"
    if "wal.lock" in names:
        with open(directory / "wal.lock", "rb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return f"{directory} is in use: wait until the other process has ended"
    if names:
        shutil.rmtree(directory)
    directory.mkdir(parents=True, mode=0o700)
    (directory / MARKER).write_text("examples/demo.py made this log and may overwrite it.\n")
    return None


def account(first: Heard, second: Heard, compared: Compared, lines: list[bytes]) -> dict[str, int]:
    """What went wrong, by name; all zeros if nothing did."""
    acked = {**first.acked, **second.acked}
    rows = compared.rows
    return {
        "acked records lost": sum(
            offset >= len(rows) or rows[offset] != row for offset, row in acked.items()
        ),
        "records altered": compared.altered,
        "rows missing": len(set(range(len(lines))).difference(rows)),
        "rows doubled": len(rows) - len(set(rows)),
        "seen live, then gone": max(0, first.seen - second.next_offset),
        "not seen live": len(rows) - second.seen,
    }


def show_results(
    first: Heard, second: Heard, compared: Compared, faults: dict[str, int], lines: list[bytes]
) -> None:
    """The table."""
    appending = first.ended - first.started + second.ended - second.started
    appended = len(first.acked) + len(second.acked)
    unasked = second.next_offset - len(first.acked)
    print_table(
        [
            ("records", f"{len(lines):,}"),
            ("durable appends per second", f"{appended / appending:,.0f}"),
            ("acked when the process was killed", f"{len(first.acked):,}"),
            ("recovered, acked or not", f"{second.next_offset:,} (+{unasked:,})"),
            ("recovery time", f"{second.open_seconds * 1e3:,.0f} ms"),
            ("finding the missing rows", f"{second.look_seconds * 1e3:,.0f} ms"),
            ("replayed per second", f"{len(lines) / compared.replay_seconds:,.0f}"),
            ("seen by the live reader", f"{second.seen:,}"),
            *((label, f"{count:,}") for label, count in faults.items()),
        ]
    )


def show_commands(directory: Path) -> None:
    """How to look at what was left."""
    tool = shutil.which("danube-trio")
    if tool is None:
        beside = Path(sys.executable).with_name("danube-trio")
        tool = os.path.relpath(beside) if beside.exists() else "danube-trio"
    else:
        tool = "danube-trio"
    print(f"\nThe log is in {directory}. Have a look at it:\n")
    for command in ("info", "replay", "tail", "verify"):
        few = " --count 3 --json" if command == "replay" else ""
        print(f"    {tool} {command} {directory}{few}")


async def demonstrate(arguments: argparse.Namespace, lines: list[bytes]) -> int:
    """All four steps. Returns the exit status."""
    directory, total = Path(arguments.dir), len(lines)
    options = ["--dir", str(directory), "--producers", str(arguments.producers)]
    options += ["--rows", str(total)]
    if arguments.csv is not None:
        options += ["--csv", arguments.csv]
    print(f"{total:,} flights from {arguments.producers} producers to {directory}\n", flush=True)
    with Bar(total) as bar:
        first, status = await run_writer(
            [*options, "--until", str(max(1, total * 3 // 4))],
            lambda heard: len(heard.acked) >= total // 2,
            lambda done: bar.show("appending", done),
        )
        if status != -signal.SIGKILL:
            print(f"the writing process ended by itself, with status {status}", file=sys.stderr)
            return 1
        bar.show("killed; recovering", len(first.acked))
        second, status = await run_writer(
            [*options, "--seen", str(first.seen)],
            lambda heard: False,
            lambda done: bar.show("appending what is missing", len(first.acked) + done),
        )
        if status or not second.done:
            print(f"the second writing process failed, with status {status}", file=sys.stderr)
            return 1
        async with open_wal(settings(str(directory))) as wal:
            bar.show("replaying", 0)
            compared = await compare(wal, lines, lambda done: bar.show("comparing", done))
    faults = account(first, second, compared, lines)
    show_results(first, second, compared, faults, lines)
    show_commands(directory)
    if any(faults.values()):
        print("\nFAILED: see the table", file=sys.stderr)
        return 1
    return 0


def main() -> int:
    """Parse, prepare, demonstrate."""
    parser = argparse.ArgumentParser(description="Log, crash, recover, replay and compare.")
    parser.add_argument("--dir", default="demo-log", help="where to leave the log (demo-log)")
    parser.add_argument("--rows", type=int, help="only the first so many records")
    parser.add_argument("--producers", type=int, default=100, help="concurrent producers (100)")
    parser.add_argument("--csv", help="another CSV with the same columns")
    arguments = parser.parse_args()
    if arguments.producers < 1:
        parser.error(f"--producers {arguments.producers}: must be 1 or more")
    if arguments.rows is not None and arguments.rows < 4:
        parser.error(f"--rows {arguments.rows}: must be 4 or more")
    try:
        lines = load_rows(arguments.csv, arguments.rows)
        problem = prepare(Path(arguments.dir))
    except (LookupError, OSError) as error:
        parser.error(str(error))
    if problem is not None:
        parser.error(problem)
    status = 130
    try:
        status = trio.run(demonstrate, arguments, lines)
    except* KeyboardInterrupt:
        print(f"\ninterrupted; what was written is in {arguments.dir}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
