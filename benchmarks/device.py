"""The yardstick: what the disk does for plain Python, in one thread, on the same file system.

*Device* is one write(2) and one fdatasync(2) of the same bytes that the log writes, again and
again, to a growing file. On a machine that others use too it varies by a factor of two within
seconds, so nothing here is compared with a number from another moment: the contestants of one
measurement take turns (`take_turns`), and what is reported first are ratios.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from time import perf_counter
from types import TracebackType

__all__ = [
    "Device",
    "drop_cached",
    "quantile",
    "read_plain",
    "sync_directory",
    "take_turns",
    "warm_up",
]

READ_BYTES = 1 << 20


class Device:
    """A file that grows by the same bytes with every write + fdatasync."""

    def __init__(self, directory: str, size_bytes: int) -> None:
        self._data = os.urandom(size_bytes)
        path = os.path.join(directory, "device.bin")
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        os.fsync(self._fd)

    def __enter__(self) -> Device:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        os.close(self._fd)

    def run(self, count: int) -> float:
        """Write and sync `count` times; returns the seconds that took."""
        fd, data = self._fd, self._data
        started = perf_counter()
        for _ in range(count):
            os.write(fd, data)
            os.fdatasync(fd)
        return perf_counter() - started

    def latencies(self, count: int) -> list[float]:
        """Write and sync `count` times; returns the seconds that each took."""
        fd, data = self._fd, self._data
        found: list[float] = []
        for _ in range(count):
            started = perf_counter()
            os.write(fd, data)
            os.fdatasync(fd)
            found.append(perf_counter() - started)
        return found


async def take_turns(
    turns: int, contestants: Mapping[str, Callable[[], Awaitable[float]]]
) -> dict[str, float]:
    """Run each contestant `turns` times, one after the other; returns each one's total seconds.

    Every other turn goes in the reverse order, so that nobody always has the same neighbour.
    """
    seconds = dict.fromkeys(contestants, 0.0)
    order = list(contestants.items())
    for _ in range(turns):
        for name, run in order:
            seconds[name] += await run()
        order.reverse()
    return seconds


def sync_directory(directory: str) -> None:
    """Make the entries of a directory durable."""
    fd = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    os.fsync(fd)
    os.close(fd)


def warm_up(directory: str, size_bytes: int) -> None:
    """Write `size_bytes` once and give them back.

    The first write to a block that a virtual disk has never held took three times as long as any
    later one (measured); so nobody shall get such blocks, or the lot would decide who is faster.
    """
    path = os.path.join(directory, "warm-up.bin")
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    zeros = bytes(1 << 20)
    for position in range(0, size_bytes, len(zeros)):
        os.pwrite(fd, zeros, position)
    os.fsync(fd)
    os.close(fd)
    os.unlink(path)
    sync_directory(directory)  # freed blocks can be had again after it


def quantile(values: list[float], q: float) -> float:
    """The value below which a share `q` of the values lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))]


def drop_cached(directory: str) -> None:
    """Make the files of a directory cold: sync them, and ask the system to forget their pages."""
    for entry in sorted(os.scandir(directory), key=lambda entry: entry.name):
        if not entry.is_file(follow_symlinks=False):
            continue
        fd = os.open(entry.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)


def read_plain(directory: str, suffix: str) -> tuple[int, float]:
    """Read all files that end in `suffix` with read(2), 1 MiB at a time: bytes and seconds."""
    size = 0
    started = perf_counter()
    for name in sorted(os.listdir(directory)):
        if not name.endswith(suffix):
            continue
        fd = os.open(os.path.join(directory, name), os.O_RDONLY | os.O_CLOEXEC)
        try:
            while data := os.read(fd, READ_BYTES):
                size += len(data)
        finally:
            os.close(fd)
    return size, perf_counter() - started
