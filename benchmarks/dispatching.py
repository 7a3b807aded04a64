"""The measurements of dispatch: messages that are taken and acknowledged, one at a time.

The same messages of 100 bytes are first replayed by a plain reader, which is what a subscription
adds to: its numbers stand beside as a ratio. The log is in memory and cursors are saved to a
metadata store on the disk, as often as they are by default.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from functools import partial
from time import perf_counter

import trio
from device import take_turns
from scale import Context, payloads

from danube_trio import StartPosition, Wal, WalConfig, WalStorage, open_wal
from danube_trio.dispatch import (
    Delivery,
    ReliableDispatch,
    ReliableOptions,
    RetentionPolicy,
    Subscription,
    SubscriptionOptions,
    SubscriptionType,
)
from danube_trio.metadata import open_metadata_directory

__all__ = ["exclusive", "shared10", "shared100"]

WINDOW = 1000
PAYLOAD_BYTES = 100
TOPIC = "/bench/dispatch"
UNTIL_ACK = ReliableOptions(retention_policy=RetentionPolicy.RETAIN_UNTIL_ACK)


async def _consume(subscription: Subscription, rest: list[int]) -> None:
    """Take and acknowledge one message at a time, until `rest` (of all consumers) is used up."""
    async with subscription.consumer() as consumer:
        while rest[0] > 0:
            rest[0] -= 1
            async with consumer.take():
                pass


async def _take_all(subscription: Subscription, consumers: int, count: int) -> float:
    rest = [count]
    started = perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(consumers):
            nursery.start_soon(_consume, subscription, rest)
    return perf_counter() - started


async def _run_handlers(subscription: Subscription, consumers: int) -> float:
    async def handle(message: Delivery) -> None:
        pass

    started = perf_counter()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(subscription.run, handle, concurrency=consumers))
        await subscription.wait_settled()
        nursery.cancel_scope.cancel()
    return perf_counter() - started


async def _receive_batches(subscription: Subscription, count: int) -> float:
    started = perf_counter()
    async with subscription.consumer() as consumer:
        while count > 0:
            count -= consumer.ack(await consumer.receive(WINDOW))
    return perf_counter() - started


async def _replay(wal: Wal, count: int) -> float:
    started = perf_counter()
    found = 0
    async for message in wal.reader(StartPosition.offset(wal.next_offset - count), end="current"):
        found += len(message.payload) > 0
    assert found == count
    return perf_counter() - started


async def _measure(context: Context, kind: SubscriptionType, consumers: int) -> dict[str, float]:
    turns = context.scale.turns
    count = max(context.scale.dispatched // turns, consumers)
    config = WalConfig(cache_capacity=count * turns + 1, cache_bytes=1 << 30)
    options = SubscriptionOptions(type=kind, max_unacked_messages=WINDOW)
    with context.scratch() as directory:
        async with (
            open_wal(config) as wal,
            open_metadata_directory(os.path.join(directory, "metadata")) as metadata,
            ReliableDispatch.new_with_persistent(
                TOPIC, UNTIL_ACK, None, WalStorage.from_wal(wal), metadata=metadata
            ) as dispatch,
        ):
            names = ("take", "batch", "run")
            take, batch, run = [await dispatch.add_subscription(name, options) for name in names]
            messages = payloads(count, PAYLOAD_BYTES)
            contestants: dict[str, Callable[[], Awaitable[float]]] = {
                "replay": partial(_replay, wal, count),
                "take": partial(_take_all, take, consumers, count),
                "batch": partial(_receive_batches, batch, count),
                "run": partial(_run_handlers, run, consumers),
            }
            seconds = dict.fromkeys(contestants, 0.0)
            for _ in range(turns):
                await wal.append_batch(messages)
                for name, took in (await take_turns(1, contestants)).items():
                    seconds[name] += took
            statistics = await take.statistics()
            assert statistics.acked == count * turns and not statistics.lag
    total = count * turns
    return {
        "taken_per_s": total / seconds["take"],
        "run_per_s": total / seconds["run"],
        "batched_per_s": total / seconds["batch"],
        "replayed_per_s": total / seconds["replay"],
        "of_replay": seconds["replay"] / seconds["take"],
        "saves": statistics.saves,
    }


async def exclusive(context: Context) -> dict[str, float]:
    """One consumer of an exclusive subscription."""
    return await _measure(context, SubscriptionType.EXCLUSIVE, 1)


async def shared10(context: Context) -> dict[str, float]:
    """Ten consumers of a shared subscription."""
    return await _measure(context, SubscriptionType.SHARED, 10)


async def shared100(context: Context) -> dict[str, float]:
    """A hundred consumers of a shared subscription."""
    return await _measure(context, SubscriptionType.SHARED, 100)
