"""How to write durably: what the device alone makes of it. For the decision record, not a target.

Two ways to make bytes durable, write(2) + fdatasync(2) and pwritev2(2) with RWF_DSYNC, each into a
file that *grows*, one whose blocks were *reserved* with posix_fallocate(3), and one that was filled
with *zeros* (and synced) before; in writes of 1 KiB and of 1 MiB. The file with zeros is the bound:
a sync finds no new blocks to record. What filling it costs stands beside, because a log would have
to pay for it at some time.

Every combination does a turn of a few writes, then the next one, and so on, so that all of them see
the same weather. Before, as much space as they need is written once and given back: see
`device.warm_up`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable
from time import perf_counter

import attrs
from device import quantile, sync_directory, warm_up
from machine import machine_facts

KIB = 1 << 10
MIB = 1 << 20
ZEROS = bytes(MIB)
LAYOUTS = ("grows", "reserved", "zeros")


def _sync_after(fd: int, data: bytes, position: int) -> None:
    os.pwrite(fd, data, position)
    os.fdatasync(fd)


def _durable_write(fd: int, data: bytes, position: int) -> None:
    os.pwritev(fd, [data], position, os.RWF_DSYNC)


def _ways() -> dict[str, Callable[[int, bytes, int], None]]:
    ways: dict[str, Callable[[int, bytes, int], None]] = {"write + fdatasync": _sync_after}
    if hasattr(os, "RWF_DSYNC"):
        ways["RWF_DSYNC"] = _durable_write
    return ways


@attrs.define(eq=False)
class Contestant:
    """One way of writing, into one kind of file."""

    way: str
    layout: str
    write: Callable[[int, bytes, int], None]
    fd: int
    prepare_seconds: float
    position: int = 0
    seconds: list[float] = attrs.Factory(list[float])
    turns: list[float] = attrs.Factory(list[float])

    def turn(self, data: bytes, count: int) -> None:
        """Write `count` times."""
        started = perf_counter()
        for _ in range(count):
            before = perf_counter()
            self.write(self.fd, data, self.position)
            self.seconds.append(perf_counter() - before)
            self.position += len(data)
        self.turns.append(count / (perf_counter() - started))


def _prepare(fd: int, layout: str, size_bytes: int) -> float:
    """Give the file its layout; returns what that cost."""
    started = perf_counter()
    if layout == "reserved":
        os.posix_fallocate(fd, 0, size_bytes)
    elif layout == "zeros":
        for position in range(0, size_bytes, MIB):
            os.pwrite(fd, ZEROS[: size_bytes - position], position)
    if layout != "grows":
        os.fsync(fd)
    return perf_counter() - started


def _contestants(directory: str, size_bytes: int) -> list[Contestant]:
    found: list[Contestant] = []
    for way, write in _ways().items():
        for layout in LAYOUTS:
            path = os.path.join(directory, f"{len(found)}.bin")
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            seconds = _prepare(fd, layout, size_bytes)
            found.append(Contestant(way, layout, write, fd, seconds))
    sync_directory(directory)
    return found


def measure(directory: str, write_bytes: int, turns: int, each: int) -> list[dict[str, object]]:
    """All combinations with writes of one size; rates and milliseconds."""
    data = os.urandom(write_bytes)
    size_bytes = write_bytes * turns * each
    warm_up(directory, size_bytes * len(LAYOUTS) * len(_ways()))
    contestants = _contestants(directory, size_bytes)
    try:
        for number in range(turns):
            order = contestants if number % 2 == 0 else contestants[::-1]
            for contestant in order:
                contestant.turn(data, each)
    finally:
        for contestant in contestants:
            os.close(contestant.fd)
    base = statistics.median(contestants[0].turns)
    return [
        {
            "write_bytes": write_bytes,
            "way": contestant.way,
            "file": contestant.layout,
            "writes_per_s": statistics.median(contestant.turns),
            "of_first": statistics.median(contestant.turns) / base,
            "p50_ms": quantile(contestant.seconds, 0.5) * 1e3,
            "p99_ms": quantile(contestant.seconds, 0.99) * 1e3,
            "prepare_ms": contestant.prepare_seconds * 1e3,
        }
        for contestant in contestants
    ]


def _print(rows: list[dict[str, object]]) -> None:
    keys = list(rows[0])
    cells = [keys] + [
        [f"{value:,.2f}" if isinstance(value, float) else str(value) for value in row.values()]
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))


def main(given: list[str] | None = None) -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description="Compare ways of writing durably.")
    parser.add_argument("--json", metavar="FILE", help="write all numbers to this file")
    parser.add_argument("--dir", metavar="DIR", default=".", help="the disk to measure (here)")
    parser.add_argument("--turns", type=int, default=20, help="of each combination (20)")
    parser.add_argument("--quick", action="store_true", help="a few writes, to show that it works")
    arguments = parser.parse_args(given)
    turns = 2 if arguments.quick else arguments.turns
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=arguments.dir) as directory:
        facts = machine_facts(directory)
        for write_bytes, each in ((KIB, 100), (MIB, 5)):
            rows += measure(directory, write_bytes, turns, 2 if arguments.quick else each)
    _print(rows)
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump({"machine": facts, "rows": rows}, file, indent=1)
            file.write("\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
