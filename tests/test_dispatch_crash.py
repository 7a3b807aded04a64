"""The power is cut at every moment of a program that stores, acknowledges and saves.

Log and cursors are on one simulated disk. Whatever state it is left in, the next start delivers
everything that was stored and is not settled, and nothing whose acknowledgement was saved.

`DANUBE_CRASH_SAMPLES` is the number of states that are tried at each point (default 1).
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import attrs
import trio
from topics import TOPIC

from danube_trio import WalConfig, WalStorage, open_wal
from danube_trio.dispatch import (
    ReliableDispatch,
    ReliableOptions,
    Subscription,
    SubscriptionOptions,
    SubscriptionType,
)
from danube_trio.metadata import open_metadata_directory
from danube_trio.testing import SimDisk

SAMPLES = int(os.environ.get("DANUBE_CRASH_SAMPLES", "1"))
OPTIONS = SubscriptionOptions(type=SubscriptionType.SHARED, max_unacked_messages=100)


@attrs.define(eq=False)
class History:
    """What was promised, and how many operations the disk had done by then."""

    stored: list[tuple[int, int]] = attrs.Factory(list[tuple[int, int]])
    saved: list[tuple[int, set[int]]] = attrs.Factory(list[tuple[int, set[int]]])
    acked: set[int] = attrs.Factory(set[int])


@asynccontextmanager
async def open_all(disk: SimDisk) -> AsyncGenerator[tuple[ReliableDispatch, Subscription]]:
    async with (
        open_wal(WalConfig(dir="/log", preallocate_bytes=0), disk=disk) as wal,
        open_metadata_directory("/metadata", disk=disk, journal_bytes=1000) as metadata,
        ReliableDispatch.new_with_persistent(
            TOPIC, ReliableOptions(), None, WalStorage.from_wal(wal), metadata=metadata
        ) as dispatch,
    ):
        yield dispatch, await dispatch.add_subscription("billing", OPTIONS)


async def live(disk: SimDisk, history: History, rounds: int) -> None:
    """Store four messages, acknowledge some, save; again and again."""
    async with open_all(disk) as (dispatch, subscription), subscription.consumer() as consumer:
        for number in range(rounds):
            offsets = await dispatch.store_batch([b"x"] * 4)
            history.stored.append((disk.op_count, offsets.stop))
            held = await consumer.receive(4)
            while len(held) < 3:
                held += await consumer.receive(4)
            for delivery in held[number % 3 :: 2]:
                delivery.ack()
                history.acked.add(delivery.offset)
            await subscription.flush()
            history.saved.append((disk.op_count, set(history.acked)))


async def check(disk: SimDisk, op_count: int, history: History) -> None:
    """Start anew, take everything, and compare."""
    stored = max((end for at, end in history.stored if at <= op_count), default=0)
    saved: set[int] = set()
    for at, acked in history.saved:
        if at <= op_count:
            saved = acked
    async with open_all(disk) as (dispatch, subscription):
        end = await dispatch.topic_store.current_offset()
        assert end >= stored
        got: set[int] = set()
        while await subscription.lag():
            with trio.fail_after(1000):
                async with subscription.take() as message:
                    assert message.offset not in got
                    got.add(message.offset)
        assert not got & saved, "delivered after its acknowledgement was saved"
        missing = set(range(end)) - got
        assert missing <= history.acked, "lost"


async def test_nothing_is_lost_and_nothing_saved_comes_again() -> None:
    disk = SimDisk(seed=4, sector_bytes=64)
    history = History()
    await live(disk, history, rounds=4)
    await live(disk, history, rounds=2)
    states = 0
    for point in disk.crash_points(samples=SAMPLES):
        for state in point.states[: 1 + SAMPLES]:
            await check(state.disk, point.op_count, history)
            states += 1
    assert states > 100
