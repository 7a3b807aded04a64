"""Measure danube-trio: `make bench`, or `python benchmarks/run.py --json FILE`.

A round runs every case once, each in a process of its own, so that no case inherits memory, caches
or threads of another. Inside a case the device (or the peer) takes turns with the log every few
milliseconds: see `device.py`. What is reported is the median over the rounds. No timing is ever
asserted, here or in a test: a number below its target is printed as ``below``, and that is all.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from time import perf_counter

import attrs
import trio
from cases import CASES
from device import warm_up
from machine import machine_facts
from peers import installed
from report import document, print_table
from scale import FULL, LARGE, QUICK, SMALL, Context, build_log

WORKER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "worker.py")
NEEDS_LOG = {
    "replay": LARGE,
    "open": LARGE,
    "seek": LARGE,
    "memory": LARGE,
    "replay100": SMALL,
}


class Progress:
    """One line on stderr that says what is going on; nothing unless that is a terminal."""

    def __init__(self) -> None:
        self._shown = sys.stderr.isatty()

    def say(self, text: str) -> None:
        """Replace the line."""
        if self._shown:
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


class WorkerFailedError(Exception):
    """A measurement ended with an error, which it has printed to stderr."""


def _arguments(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure danube-trio against the disk below it.")
    parser.add_argument("--json", metavar="FILE", help="write all numbers to this file")
    parser.add_argument("--rounds", type=int, help="how often to run each case (5; quick: 1)")
    parser.add_argument(
        "--case",
        action="append",
        choices=list(CASES),
        metavar="NAME",
        help=f"only this one; may be repeated. One of {', '.join(CASES)}",
    )
    parser.add_argument(
        "--quick", action="store_true", help="tiny sizes: shows that it works, measures nothing"
    )
    parser.add_argument(
        "--dir", metavar="DIR", help="measure the disk that holds DIR (default: that of FILE)"
    )
    arguments = parser.parse_args(given)
    if arguments.rounds is None:
        arguments.rounds = 1 if arguments.quick else 5
    if arguments.rounds < 1:
        parser.error(f"--rounds {arguments.rounds}: must be 1 or more")
    return arguments


@contextmanager
def _working_directory(parent: str, needed_bytes: int) -> Generator[str]:
    """A directory for everything that is written, removed afterwards."""
    os.makedirs(parent, exist_ok=True)
    free = shutil.disk_usage(parent).free
    if free < needed_bytes:
        raise SystemExit(
            f"{parent} has {free >> 20} MiB of free space, {needed_bytes >> 20} MiB are needed: "
            f"name another place with --dir"
        )
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=parent) as directory:
        yield directory


def _measure(name: str, context: Context) -> dict[str, float]:
    given = json.dumps({"directory": context.directory, **attrs.asdict(context.scale)})
    done = subprocess.run(
        [sys.executable, WORKER, name], input=given, stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        raise WorkerFailedError(f"case {name}: its process ended with status {done.returncode}")
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _run_rounds(
    names: list[str], rounds: int, context: Context, progress: Progress
) -> dict[str, list[dict[str, float]]]:
    results: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    sizes = {LARGE: context.scale.log_bytes, SMALL: context.scale.small_log_bytes}
    progress.say("warming up")
    warm_up(context.directory, context.scale.warm_bytes)
    for number in range(rounds):
        for name in names:
            if number >= CASES[name].most_rounds:
                continue
            # Made when it is first needed: a disk may be slow for a while after a large write.
            log = NEEDS_LOG.get(name)
            if log in sizes:
                progress.say(f"preparing a log of {sizes[log] >> 20} MiB")
                trio.run(build_log, context.directory, log, sizes.pop(log))
            progress.say(f"round {number + 1} of {rounds}: {name}")
            results[name].append(_measure(name, context))
    progress.say("")
    return results


def main(given: list[str] | None = None) -> int:
    """Measure, print, write."""
    arguments = _arguments(given)
    scale = QUICK if arguments.quick else FULL
    names = [name for name in CASES if not arguments.case or name in arguments.case]
    parent = arguments.dir or os.path.dirname(os.path.abspath(arguments.json or "benchmarks"))
    started, began = datetime.now(UTC), perf_counter()
    with _working_directory(parent, 2 * scale.log_bytes) as directory:
        facts = machine_facts(directory)
        context = Context(directory, scale)
        try:
            results = _run_rounds(names, arguments.rounds, context, Progress())
        except WorkerFailedError as error:
            print(error, file=sys.stderr)
            return 1
    missing = [name for name, there in installed().items() if not there]
    report = {
        "started": started.isoformat(timespec="seconds"),
        "seconds": round(perf_counter() - began, 1),
        "rounds": arguments.rounds,
        "quick": arguments.quick,
        "machine": facts,
        "scale": attrs.asdict(scale),
        "peers_not_installed": missing,
        "cases": document(results),
    }
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(report, file, indent=1)
            file.write("\n")
    print_table(results)
    for name in missing:
        print(f"\n{name} is not installed: skipped")
    if arguments.quick:
        print("\n--quick: these numbers show that it works, and nothing else")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("\ninterrupted; nothing was written", file=sys.stderr)
        sys.exit(130)
