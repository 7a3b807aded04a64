"""The measurements of reading: replay, open, seek, and memory. Each runs in a process of its own.

*Cold* means that the system was asked to forget the files' pages. What a hypervisor or the drive
keeps is out of reach, so the plain read of the same files stands beside.
"""

from __future__ import annotations

import contextlib
import os
import random
import resource
import statistics
import sys
from time import perf_counter

import trio
from device import drop_cached, read_plain
from scale import LARGE, SMALL, Context

from danube_trio import Reader, StartPosition, StreamMessage, Wal, WalConfig, open_wal

__all__ = ["memory", "opening", "replay", "replay_small", "seek"]

MIB = 1 << 20


async def _touch_all(reader: Reader[StreamMessage]) -> tuple[int, int]:
    """Records and payload bytes; each message's offset and payload are touched."""
    count = size = 0
    async for message in reader:
        assert message.offset == count
        size += len(message.payload)
        count += 1
    return count, size


async def _replay(context: Context, log: tuple[str, int]) -> dict[str, float]:
    directory = context.log_dir(log)
    drop_cached(directory)
    file_bytes, plain_seconds = read_plain(directory, ".log")
    async with open_wal(WalConfig(dir=directory)) as wal:
        drop_cached(directory)  # opening has read the last segment
        started = perf_counter()
        count, size = await _touch_all(wal.reader(end="current"))
        seconds = perf_counter() - started
        assert count == wal.next_offset and size == count * log[1]
    return {
        "messages_per_s": count / seconds,
        "mib_per_s": file_bytes / MIB / seconds,
        "plain_read_mib_per_s": file_bytes / MIB / plain_seconds,
        "of_plain_read": plain_seconds / seconds,
    }


async def replay(context: Context) -> dict[str, float]:
    """A cold log of 1 KiB messages from its start to its end."""
    return await _replay(context, LARGE)


async def replay_small(context: Context) -> dict[str, float]:
    """A cold log of 100-byte messages."""
    return await _replay(context, SMALL)


async def _open_seconds(directory: str) -> float:
    drop_cached(directory)
    started = perf_counter()
    async with open_wal(WalConfig(dir=directory)) as wal:
        seconds = perf_counter() - started
        assert wal.next_offset > 0
    return seconds


async def opening(context: Context) -> dict[str, float]:
    """Open the log of 1 KiB messages, cold; then without its checkpoint."""
    directory = context.log_dir(LARGE)
    seconds = await _open_seconds(directory)
    with contextlib.suppress(FileNotFoundError):  # a small log has none
        os.unlink(os.path.join(directory, "wal.ckpt"))
    return {"seconds": seconds, "without_checkpoint_seconds": await _open_seconds(directory)}


def _peak_bytes() -> int:
    """The most memory that this process ever had.

    Linux tells it as VmHWM. Its ru_maxrss begins with what the parent had before exec, so it is
    the second choice.
    """
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            for line in status:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except FileNotFoundError:
        pass  # no /proc: a system other than Linux
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


async def memory(context: Context) -> dict[str, float]:
    """Peak memory of a process in which several readers replay the log at the same time."""
    directory = context.log_dir(LARGE)
    drop_cached(directory)
    before = _peak_bytes()
    counts: list[int] = []

    async def read(wal: Wal) -> None:
        counts.append((await _touch_all(wal.reader(end="current")))[0])

    async with open_wal(WalConfig(dir=directory)) as wal:
        started = perf_counter()
        async with trio.open_nursery() as nursery:
            for _ in range(context.scale.readers):
                nursery.start_soon(read, wal)
        seconds = perf_counter() - started
        assert counts == [wal.next_offset] * context.scale.readers
    return {
        "peak_mib": _peak_bytes() / MIB,
        "before_mib": before / MIB,
        "messages_per_s": sum(counts) / seconds,
    }


async def seek(context: Context) -> dict[str, float]:
    """A reader at a random offset of the cold log, until it has its first message."""
    directory = context.log_dir(LARGE)
    chance = random.Random(2025)
    milliseconds: list[float] = []
    async with open_wal(WalConfig(dir=directory)) as wal:
        drop_cached(directory)
        for _ in range(context.scale.seeks):
            offset = chance.randrange(wal.next_offset)
            started = perf_counter()
            reader = wal.reader(StartPosition.offset(offset))
            message = await anext(reader)
            milliseconds.append((perf_counter() - started) * 1e3)
            assert message.offset == offset
            await reader.aclose()
    return {"median_ms": statistics.median(milliseconds), "max_ms": max(milliseconds)}
