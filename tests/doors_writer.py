"""The process that writes for `test_doors_processes`, through a door, until it is killed.

``doors_writer.py DOOR DIRECTORY``: appends to a log and to a topic of a storage, with a segment for
a few records, and prints each offset when it is durable in both. Now and then it trims the log.
"""

from __future__ import annotations

import itertools
import sys

from doors import DOORS, Door

from danube_trio import StorageConfig, WalConfig

TOPIC = "/default/orders"
KEPT = 150  # records


def config(directory: str | None) -> WalConfig:
    """Small segments."""
    return WalConfig(dir=directory, segment_bytes=2000, preallocate_bytes=0, cache_capacity=10)


async def write(door: Door, directory: str) -> None:
    """Go on where the log ends, without end."""
    topics = StorageConfig(dir=f"{directory}/topics", wal=config(None))
    async with (
        door.open_wal(config(f"{directory}/log")) as wal,
        door.open("open_storage", topics) as storage,
    ):
        for offset in itertools.count(await storage.current_offset(TOPIC)):
            payload = b"%d" % offset * 10
            if wal.next_offset <= offset:  # it was killed between the two
                assert await wal.append(payload) == offset
            assert await storage.append_message(TOPIC, payload) == offset
            if offset % 100 == 99 and offset > KEPT:
                await wal.trim(offset - KEPT)
            sys.stdout.write(f"{offset}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    DOORS[sys.argv[1]].run(write, sys.argv[2])
