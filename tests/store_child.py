"""A process that races others for a directory store: see test_store_processes."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import trio

from danube_trio._disk.real import RealDisk
from danube_trio.cloud import DirectoryStore
from danube_trio.errors import PreconditionFailedError

KEYS = 25
INCREMENTS = 10


async def create(store: DirectoryStore, name: str) -> None:
    """Try to be the first with each key; say which ones."""
    for number in range(KEYS):
        try:
            await store.create(f"race/{number}", f"{number} {name}".encode() * 500)
        except PreconditionFailedError:
            continue
        print(number)


async def count(store: DirectoryStore) -> None:
    """Add to a number by swap, as often as it takes."""
    done = 0
    while done < INCREMENTS:
        info, data = await store.get("number")
        try:
            await store.swap("number", b"%d" % (int(data) + 1), info)
        except PreconditionFailedError:
            continue
        done += 1


async def main(directory: str, work: str, name: str) -> None:
    async with DirectoryStore(f"{directory}/store", RealDisk()) as store:
        Path(f"{directory}/ready-{name}").touch()
        while not Path(f"{directory}/go").exists():
            time.sleep(0.001)  # noqa: ASYNC251 - nothing else runs here
        await (create(store, name) if work == "create" else count(store))


if __name__ == "__main__":
    directory, work, name = sys.argv[1:]
    trio.run(main, directory, work, name)
