"""A log with an object store: uploads, take-overs and reading, on simulated disk and store."""

from __future__ import annotations

from danube_trio import Wal, WalConfig, open_wal
from danube_trio.config import CloudConfig
from danube_trio.testing import SimDisk, SimStore

CLOUD = CloudConfig(prefix="log", keep_local_bytes=0, block_bytes=4096)
CONFIG = WalConfig(dir="/log", segment_bytes=4000, cloud=CLOUD)


async def payloads(log: Wal) -> list[bytes]:
    return [m.payload async for m in log.reader(end="current")]


async def test_what_is_uploaded_is_read_back() -> None:
    disk, store = SimDisk(), SimStore()
    async with open_wal(CONFIG, disk=disk, store=store) as wal:
        for number in range(300):
            await wal.append(b"%d" % number + bytes(50))
        await wal.wait_uploaded(300)
        assert len(await payloads(wal)) == 300
    async with open_wal(CONFIG, disk=disk, store=store) as wal:
        assert wal.next_offset == 300
        assert len(await payloads(wal)) == 300
    async with open_wal(CONFIG, disk=SimDisk(), store=store) as wal:
        assert wal.next_offset == 300
        assert [m.offset async for m in wal.reader(end="current")] == list(range(300))
