"""The process that `test_kill9` kills: appends under load to a log on the real disk.

Says on stdout, a line each and in one write: what it is about to send (``sent``, so that whatever
is found later can be recognized), what was acknowledged (``ack``), where it trims (``trim``).

A payload says what it is: ``<life>/<producer>/<number>/<place in its batch>`` and bytes that follow
from that, so it can be checked without having been kept.
"""

from __future__ import annotations

import contextlib
import os
import random
import sys
import zlib

import trio

from danube_trio import Wal, WalConfig, open_wal

__all__ = ["config", "payload"]

PRODUCERS = 6
LARGE = 40_000


def config(directory: str) -> WalConfig:
    """Small segments and a small cache; a batch of large payloads is larger than a segment."""
    return WalConfig(
        dir=directory,
        segment_bytes=200_000,
        preallocate_bytes=64_000,
        cache_capacity=50,
        fsync_interval_ms=5,
    )


def payload(name: str, size: int) -> bytes:
    """The payload of that name: the name, then bytes that depend on it, `size` of them."""
    head = name.encode() + b":"
    seed = zlib.crc32(head).to_bytes(4, "little")
    return head + seed * (size // 4)


def say(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


async def produce(wal: Wal, life: int, producer: int) -> None:
    rng = random.Random(f"{life}/{producer}")
    number = 0
    while True:
        number += 1
        name = f"{life}/{producer}/{number}"
        count = rng.choice([1, 1, 1, 2, 7, 20])
        size = rng.choice([0, 100, 1000, 1000, LARGE])
        say("sent", name, count, size)
        batch = [payload(f"{name}/{place}", size) for place in range(count)]
        way = rng.randrange(4)
        if way == 0:
            with contextlib.suppress(trio.WouldBlock):
                wal.append_batch_nowait(batch)
            await trio.lowlevel.checkpoint()
        elif count == 1:
            say("ack", name, await wal.append(batch[0]))
        elif way == 1:
            offsets = await wal.append_batch(batch, durability="written")
            say("ack", name, offsets.start)  # written survives a killed process
        else:
            say("ack", name, (await wal.append_batch(batch)).start)


async def trim(wal: Wal, life: int) -> None:
    rng = random.Random(life)
    step = rng.randrange(100, 600)
    while True:
        await wal.wait_durable(wal.next_offset + step)
        before = wal.next_offset - rng.randrange(100, 600)
        if before > 0:
            say("trim", before)
            await wal.trim(before)


async def main(directory: str, life: int) -> None:
    say("opening")
    async with open_wal(config(directory)) as wal, trio.open_nursery() as nursery:
        say("open", wal.start_offset, wal.next_offset)
        for producer in range(PRODUCERS):
            nursery.start_soon(produce, wal, life, producer)
        nursery.start_soon(trim, wal, life)


if __name__ == "__main__":
    trio.run(main, sys.argv[1], int(sys.argv[2]))
