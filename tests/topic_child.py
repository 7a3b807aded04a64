"""A process that has a topic for a while: appends to it, and seals it. See test_topic_moves."""

from __future__ import annotations

import sys

import trio

from danube_trio import CloudConfig, StorageConfig, WalConfig, open_storage
from danube_trio._disk.real import RealDisk
from danube_trio.cloud import DirectoryStore

__all__ = ["TOPIC", "WAL"]

TOPIC = "/default/moving"
WAL = WalConfig(segment_bytes=50_000, cloud=CloudConfig(keep_local_bytes=0))


async def main(directory: str, who: str, first: str, number: str) -> None:
    """Append `number` records from offset `first` on, and give the topic away."""
    start, end = int(first), int(first) + int(number)
    async with DirectoryStore(f"{directory}/store", RealDisk()) as store:
        config = StorageConfig(dir=f"{directory}/{who}", wal=WAL)
        async with open_storage(config, store=store) as storage:
            assert await storage.current_offset(TOPIC) == start
            for offset in range(start, end, 100):
                await storage.append_batch(TOPIC, [b"%d" % i for i in range(offset, offset + 100)])
            assert await storage.seal(TOPIC) == end


if __name__ == "__main__":
    directory, who, first, number = sys.argv[1:]
    trio.run(main, directory, who, first, number)
