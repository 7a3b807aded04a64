"""What the tests of the durability rules share: a log at work, and the calls that it made."""

from __future__ import annotations

from itertools import pairwise

import attrs
import trio

from danube_trio import Wal, WalConfig, open_wal
from danube_trio._core.frame import scan
from danube_trio.testing import SimDisk

CONFIG = WalConfig(dir="/data/log", segment_bytes=900, preallocate_bytes=256, cache_capacity=4)
LOG, MARK = ".log", "wal.mark"


@attrs.define(eq=False)
class Work:
    """A disk on which a log worked, and when what was acknowledged."""

    disk: SimDisk
    acks: dict[int, int] = attrs.Factory(dict[int, int])  # offset -> operations so far

    async def append(self, wal: Wal, *payloads: bytes) -> None:
        for offset in await wal.append_batch(payloads):
            self.acks[offset] = self.disk.op_count

    def find(self, name: str, path: str, start: int = 0, stop: int | None = None) -> list[int]:
        """Numbers of the operations of that name that worked, on paths that end in `path`."""
        return [
            op.number
            for op in self.disk.operations[start:stop]
            if op.name == name and op.path.endswith(path) and op.error is None
        ]

    def next(self, name: str, path: str, start: int) -> int:
        return self.find(name, path, start)[0]

    def frames(self) -> dict[int, tuple[str, int, int]]:
        """Where each record is: path, start and end."""
        found: dict[int, tuple[str, int, int]] = {}
        for path, data in self.disk.tree().items():
            if path.endswith(LOG):
                base = int(path.split(".")[1])
                positions = scan(data, 0, base).positions
                for i, (start, end) in enumerate(pairwise(positions)):
                    found[base + i] = (path, start, end)
        return found


async def worked(config: WalConfig = CONFIG) -> Work:
    """Rolls, batches, unsynced records in between, many producers, and an end."""
    work = Work(SimDisk(latency=0.01))
    async with open_wal(config, disk=work.disk) as wal:
        for i in range(6):
            await work.append(wal, b"single %d" % i * 10)
            await wal.append(b"unsynced", durability="accepted")
            await work.append(wal, b"batch", b"of", b"%d" % i * 50)
        async with trio.open_nursery() as nursery:
            for i in range(10):
                nursery.start_soon(work.append, wal, b"concurrent %d" % i * 9)
    return work
