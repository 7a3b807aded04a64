"""Dispatch: what once went wrong, and must not again."""

from __future__ import annotations

import pytest
import trio
from topics import TOPIC, Metadata, settle
from trio.testing import MockClock

from danube_trio import StartPosition, Wal, WalConfig, WalStorage, open_wal
from danube_trio.dispatch import ReliableDispatch, ReliableOptions, RetentionPolicy, Subscription
from danube_trio.errors import CorruptDataError
from danube_trio.testing import SimDisk

UNTIL_ACK = ReliableOptions(1, RetentionPolicy.RETAIN_UNTIL_ACK)


def dispatch_over(wal: Wal, metadata: Metadata) -> ReliableDispatch:
    storage = WalStorage.from_wal(wal, TOPIC)
    return ReliableDispatch.new_with_persistent(TOPIC, UNTIL_ACK, None, storage, metadata=metadata)


async def payloads(subscription: Subscription) -> list[bytes]:
    """Acknowledge all that comes."""
    found: list[bytes] = []
    with trio.move_on_after(5):
        while True:
            async with subscription.take() as message:
                found.append(bytes(message.payload))
    return found


# ---- cursors and a log that loses its end


@pytest.mark.parametrize("how", ["add", "seek"])
async def test_a_cursor_at_the_end_is_saved_only_when_the_log_below_it_is_durable(
    autojump_clock: MockClock, how: str
) -> None:
    disk, metadata = SimDisk(latency=0.05), Metadata()
    async with open_wal(WalConfig(dir="/log"), disk=disk) as wal:
        async with dispatch_over(wal, metadata) as dispatch, trio.open_nursery() as nursery:
            await dispatch.store_message(b"0")
            late = await dispatch.add_subscription("late") if how == "seek" else None
            nursery.start_soon(dispatch.store_batch, [b"1", b"2"])
            await trio.sleep(0.01)
            assert wal.durable_end < wal.next_offset
            if late is None:
                await dispatch.add_subscription("late", start=StartPosition.latest())
            else:
                await late.seek(StartPosition.latest())
            after, cursors = disk.crash(), metadata.left_behind()
            metadata.down = False  # the old process may end in peace
    async with open_wal(WalConfig(dir="/log"), disk=after) as wal:
        assert wal.next_offset == 3
        async with dispatch_over(wal, cursors) as dispatch:
            await dispatch.store_batch([b"new 0", b"new 1"])
            assert await payloads(await dispatch.add_subscription("late")) == [b"new 0", b"new 1"]


async def test_acknowledgements_of_what_is_only_written_are_saved_when_it_is_durable(
    autojump_clock: MockClock,
) -> None:
    disk, metadata = SimDisk(), Metadata()
    config = WalConfig(dir="/log", visibility="written", fsync_interval_ms=5000)
    async with open_wal(config, disk=disk) as wal:
        async with dispatch_over(wal, metadata) as dispatch:
            await dispatch.store_message(b"0")
            await dispatch.store_batch([b"1", b"2"], durability="written")
            subscription = await dispatch.add_subscription("billing")
            await settle(subscription, 3)
            await subscription.flush()
            assert subscription.saved_end == 3
            after, cursors = disk.crash(), metadata.left_behind()
            metadata.down = False
    async with open_wal(config, disk=after) as wal:
        assert wal.next_offset == 3
        async with dispatch_over(wal, cursors) as dispatch:
            await dispatch.store_message(b"new")
            assert await payloads(await dispatch.add_subscription("billing")) == [b"new"]


async def test_a_cursor_beyond_the_end_is_refused_and_can_be_removed(
    autojump_clock: MockClock,
) -> None:
    metadata, disk = Metadata(), SimDisk()
    async with open_wal(WalConfig(dir="/log"), disk=disk) as wal:
        async with dispatch_over(wal, metadata) as dispatch:
            await dispatch.store_batch([b"0", b"1"])
            await settle(await dispatch.add_subscription("billing"), 2)
    async with open_wal(WalConfig(dir="/other"), disk=disk) as wal:
        async with dispatch_over(wal, metadata) as dispatch:
            await dispatch.store_message(b"new")
            with pytest.raises(CorruptDataError, match="remove_subscription"):
                await dispatch.add_subscription("billing")
            assert await dispatch.remove_subscription("billing")
            assert await payloads(await dispatch.add_subscription("billing")) == [b"new"]
