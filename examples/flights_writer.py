"""The writing process of the demonstration: appends the rows that the log does not have yet.

It knows nothing of an earlier run: it opens the log, asks it which rows are there, and goes on.
`demo.py` starts it, kills it, and starts it again.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from functools import partial

import trio
from flights import Kind, Reports, flight_message, load_rows, row_of, settings

from danube_trio import StartPosition, Wal, open_wal

CHUNK_ROWS = 100


async def find_missing(wal: Wal, rows: int) -> list[int]:
    """Rows that are not in the log."""
    there = bytearray(rows)
    async for message in wal.reader(end="current"):
        there[row_of(message)] = 1
    return [row for row in range(rows) if not there[row]]


def runs(chunk: list[int]) -> Iterator[tuple[int, int]]:
    """Where rows follow each other: index of the first one, and how many."""
    first = 0
    for i in range(1, len(chunk) + 1):
        if i == len(chunk) or chunk[i] != chunk[i - 1] + 1:
            yield first, i - first
            first = i


async def produce(
    wal: Wal, lines: list[bytes], chunks: Iterator[tuple[int, list[int]]], reports: Reports
) -> None:
    """Take the next chunk, append it durably, report it; until there are none left.

    Every other chunk is one atomic batch, the others are single appends.
    """
    for number, chunk in chunks:
        now = time.time()
        messages = [flight_message(row, lines[row], now) for row in chunk]
        if number % 2:
            offsets = await wal.append_batch(messages)
            for first, count in runs(chunk):
                reports.tell(Kind.ACKED, offsets[first], chunk[first], count)
        else:
            for row, message in zip(chunk, messages, strict=True):
                reports.tell(Kind.ACKED, await wal.append(message), row, 1)


async def watch(wal: Wal, start: int, end: int | None, reports: Reports) -> None:
    """The live reader: everything from `start` on, as soon as it is durable, without a hole."""
    expected = start
    reader = wal.reader(StartPosition.offset(start), end=end)
    async for messages in reader.batches():
        for message in messages:
            if message.offset != expected:
                raise AssertionError(f"offset {message.offset} came instead of {expected}")
            expected += 1
        reports.tell(Kind.SEEN, expected)


async def write(arguments: argparse.Namespace, lines: list[bytes], reports: Reports) -> None:
    """Open the log, append what is missing, watch."""
    started = time.perf_counter()
    async with open_wal(settings(arguments.dir)) as wal:
        opened = time.perf_counter()
        reports.tell(Kind.OPENED, wal.next_offset, round((opened - started) * 1e6))
        missing = await find_missing(wal, len(lines))
        looked = time.perf_counter() - opened
        reports.tell(Kind.READY, len(lines) - len(missing), round(looked * 1e6))
        end = wal.next_offset + len(missing)
        if arguments.until is not None:
            missing = missing[: arguments.until]
        size = min(CHUNK_ROWS, len(missing) // (4 * arguments.producers) + 1)
        chunks = enumerate(missing[at : at + size] for at in range(0, len(missing), size))
        async with trio.open_nursery() as watching:
            watching.start_soon(watch, wal, arguments.seen, end, reports)
            async with trio.open_nursery() as producing:
                for _ in range(arguments.producers):
                    producing.start_soon(produce, wal, lines, chunks, reports)
            if arguments.until is not None:
                await trio.sleep_forever()  # more rows are left, and somebody is to kill us
        reports.tell(Kind.DONE, len(missing))


def main() -> int:
    """Run until everything is there, or until somebody kills us."""
    parser = argparse.ArgumentParser(description="Append the missing flights to a log.")
    parser.add_argument("--dir", required=True)
    parser.add_argument("--csv")
    parser.add_argument("--rows", type=int)
    parser.add_argument("--producers", type=int, required=True)
    parser.add_argument("--seen", type=int, default=0, help="where the live reader goes on")
    parser.add_argument("--until", type=int, help="append no more than so many, then wait")
    arguments = parser.parse_args()
    lines = load_rows(arguments.csv, arguments.rows)
    status = 0
    try:
        trio.run(partial(write, arguments, lines, Reports(sys.stdout.fileno())))
    except* BrokenPipeError:
        status = 1  # nobody is interested any more
    return status


if __name__ == "__main__":
    sys.exit(main())
