"""The process that `test_metadata_kill9` kills: puts into a metadata directory on the real disk.

Says on stdout, a line each and in one write: what it is about to put (``sent``), and what was
acknowledged (``ack``). A value says which put it belongs to.
"""

from __future__ import annotations

import os
import random
import sys

import trio

from danube_trio._disk.real import RealDisk
from danube_trio.metadata import EmbeddedMetadata, open_metadata_directory

WRITERS = 5


def say(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


async def work(store: EmbeddedMetadata, life: int, writer: int) -> None:
    rng = random.Random(f"{life}/{writer}")
    for number in range(1_000_000):
        name = f"{life}/{number}"
        say("sent", writer, name)
        keys = [f"/w/{writer}/{place}" for place in range(3)]
        value = name.encode() + b":" + bytes(rng.choice([0, 10, 500, 5000]))
        await store.transact({}, put=dict.fromkeys(keys, value))
        say("ack", writer, name)


async def main(directory: str, life: int) -> None:
    say("opening")
    async with open_metadata_directory(directory, disk=RealDisk(), journal_bytes=50_000) as store:
        async with trio.open_nursery() as nursery:
            for writer in range(WRITERS):
                nursery.start_soon(work, store, life, writer)


if __name__ == "__main__":
    trio.run(main, sys.argv[1], int(sys.argv[2]))
