"""`WalStorage`: one log behind Danube's storage interface."""

from __future__ import annotations

import pytest

from danube_trio import PersistentStorage, StartPosition, WalConfig, WalStorage, open_wal
from danube_trio.testing import SimDisk

TOPIC = "/default/orders"


async def test_a_log_behind_the_storage_interface() -> None:
    async with open_wal(WalConfig(dir="/log"), disk=SimDisk()) as wal:
        storage = WalStorage.from_wal(wal, TOPIC)
        assert isinstance(storage, PersistentStorage)
        assert await storage.current_offset(TOPIC) == 0
        assert await storage.append_message(TOPIC, b"a") == 0
        assert await storage.append_batch(TOPIC, [b"b", b"c"]) == range(1, 3)
        await storage.flush(TOPIC)
        assert await storage.current_offset(TOPIC) == 3
        reader = await storage.create_reader(TOPIC, StartPosition.offset(1), end="current")
        assert [m.payload async for m in reader] == [b"b", b"c"]


async def test_another_topic_is_refused_by_name() -> None:
    async with open_wal(WalConfig()) as wal:
        storage = WalStorage.from_wal(wal, TOPIC)
        with pytest.raises(ValueError, match="/default/other"):
            await storage.append_message("/default/other", b"a")
        assert await WalStorage.from_wal(wal).append_message("/default/other", b"a") == 0


async def test_a_checkpoint_frees_whole_segments_only() -> None:
    config = WalConfig(dir="/log", segment_bytes=300)
    async with open_wal(config, disk=SimDisk()) as wal:
        storage = WalStorage.from_wal(wal)
        for _ in range(12):
            await storage.append_message(TOPIC, b"x" * 60)
        before = wal.statistics().segments
        assert before > 3
        await storage.ack_checkpoint(TOPIC, 1)
        assert await storage.start_offset(TOPIC) == 0
        assert wal.statistics().segments == before
        await storage.ack_checkpoint(TOPIC, 7)
        start = await storage.start_offset(TOPIC)
        assert 0 < start <= 7
        assert wal.statistics().segments < before
        reader = await storage.create_reader(TOPIC, StartPosition.earliest(), end="current")
        assert [m.offset async for m in reader] == list(range(start, 12))


async def test_a_checkpoint_in_memory() -> None:
    async with open_wal(WalConfig()) as wal:
        storage = WalStorage.from_wal(wal)
        for _ in range(4):
            await storage.append_message(TOPIC, b"x")
        await storage.ack_checkpoint(TOPIC, 2)
        assert await storage.start_offset(TOPIC) == 2
