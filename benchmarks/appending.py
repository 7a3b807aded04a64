"""The measurements of appending: one producer, batches, a thousand producers, a live reader."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from time import perf_counter

import trio
from device import Device, quantile, take_turns
from scale import Context, frame_bytes, payloads

from danube_trio import StartPosition, Wal, WalConfig, open_wal

__all__ = ["batches", "batches_of_four", "concurrent", "live", "single"]

BATCH = 1000
PAYLOAD_BYTES = 1024
WARM_UP = 50


async def _timed(work: Awaitable[object]) -> float:
    started = perf_counter()
    await work
    return perf_counter() - started


async def _append_each(wal: Wal, messages: list[bytes]) -> None:
    for message in messages:
        await wal.append(message)


async def _append_batches(wal: Wal, batch: list[bytes], count: int) -> None:
    for _ in range(count):
        await wal.append_batch(batch)


async def _all(count: int, work: Callable[[], Awaitable[object]]) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(work)


async def single(context: Context) -> dict[str, float]:
    """One producer, each append awaited, against the device with a frame's bytes."""
    scale = context.scale
    each = scale.single_appends // scale.turns
    messages = payloads(each, PAYLOAD_BYTES)
    with context.scratch() as scratch:
        async with open_wal(WalConfig(dir=os.path.join(scratch, "log"))) as wal:
            await _append_each(wal, payloads(WARM_UP, PAYLOAD_BYTES))
            with Device(scratch, frame_bytes(wal)) as device:

                async def by_hand() -> float:
                    return device.run(each)

                async def ours() -> float:
                    return await _timed(_append_each(wal, messages))

                seconds = await take_turns(scale.turns, {"device": by_hand, "ours": ours})
    count = each * scale.turns
    return {
        "appends_per_s": count / seconds["ours"],
        "device_per_s": count / seconds["device"],
        "of_device": seconds["device"] / seconds["ours"],
    }


async def _batched(context: Context, producers: int) -> dict[str, float]:
    scale = context.scale
    each = max(1, scale.batches // scale.turns // producers)
    batch = payloads(BATCH, PAYLOAD_BYTES)
    with context.scratch() as scratch:
        async with open_wal(WalConfig(dir=os.path.join(scratch, "log"))) as wal:
            await wal.append_batch(batch)
            with Device(scratch, frame_bytes(wal) * BATCH) as device:

                async def by_hand() -> float:
                    return device.run(each * producers)

                async def ours() -> float:
                    work = _all(producers, lambda: _append_batches(wal, batch, each))
                    return await _timed(work)

                seconds = await take_turns(scale.turns, {"device": by_hand, "ours": ours})
    count = BATCH * each * producers * scale.turns
    return {
        "records_per_s": count / seconds["ours"],
        "device_per_s": count / seconds["device"],
        "of_device": seconds["device"] / seconds["ours"],
    }


async def batches(context: Context) -> dict[str, float]:
    """Batches of 1000, the next one when the one before is durable."""
    return await _batched(context, 1)


async def batches_of_four(context: Context) -> dict[str, float]:
    """Batches of 1000 by four producers, each of which awaits its own."""
    return await _batched(context, 4)


async def concurrent(context: Context) -> dict[str, float]:
    """A thousand producers, each of which awaits its own durable append.

    There is no device to compare with: how much shares a sync is up to the log. What is reported
    beside is how much that was, and the device with a batch of that many records.
    """
    scale = context.scale
    message = payloads(1, PAYLOAD_BYTES)[0]
    messages = [message] * scale.appends_each
    with context.scratch() as scratch:
        async with open_wal(WalConfig(dir=os.path.join(scratch, "log"))) as wal:
            await _all(scale.producers, lambda: _append_each(wal, messages[:1]))
            warm = wal.statistics()
            with Device(scratch, frame_bytes(wal) * scale.producers) as device:

                async def by_hand() -> float:
                    return device.run(scale.appends_each)

                async def ours() -> float:
                    work = _all(scale.producers, lambda: _append_each(wal, messages))
                    return await _timed(work)

                seconds = await take_turns(scale.turns, {"device": by_hand, "ours": ours})
            syncs = wal.statistics().syncs - warm.syncs
    count = scale.producers * scale.appends_each * scale.turns
    return {
        "appends_per_s": count / seconds["ours"],
        "device_per_s": count / seconds["device"],
        "of_device": seconds["device"] / seconds["ours"],
        "appends_per_sync": count / syncs,
    }


async def live(context: Context) -> dict[str, float]:
    """From the call of append to the live reader's hands, one producer; and the device's syncs."""
    scale = context.scale
    each = scale.live_appends // scale.turns
    messages = payloads(each, PAYLOAD_BYTES)
    sent: list[float] = []
    got: list[float] = []
    by_hand: list[float] = []
    with context.scratch() as scratch:
        async with open_wal(WalConfig(dir=os.path.join(scratch, "log"))) as wal:
            await _append_each(wal, payloads(WARM_UP, PAYLOAD_BYTES))
            first = wal.next_offset
            reader = wal.reader(StartPosition.offset(first), count=each * scale.turns)

            async def read() -> None:
                async for message in reader:
                    got.append(perf_counter())
                    assert message.offset == first + len(got) - 1

            async with trio.open_nursery() as nursery:
                nursery.start_soon(read)
                with Device(scratch, frame_bytes(wal)) as device:
                    for _ in range(scale.turns):
                        by_hand += device.latencies(each)
                        for message in messages:
                            sent.append(perf_counter())
                            await wal.append(message)
    latencies = [later - before for before, later in zip(sent, got, strict=True)]
    return {
        "p50_ms": quantile(latencies, 0.5) * 1e3,
        "p99_ms": quantile(latencies, 0.99) * 1e3,
        "device_p50_ms": quantile(by_hand, 0.5) * 1e3,
        "device_p99_ms": quantile(by_hand, 0.99) * 1e3,
        "p99_over_device_ms": (quantile(latencies, 0.99) - quantile(by_hand, 0.99)) * 1e3,
    }
