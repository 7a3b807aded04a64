"""The ways into the engine against trio's own: appends, batches, and many producers at once.

Each door has a log of its own, and they take turns. asyncio's loop and the blocking calls run in a
thread while trio's loop, which hosts the measurement, has nothing to do.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack
from time import perf_counter

import trio
from device import take_turns
from scale import Context, payloads

import danube_trio.anyio
import danube_trio.blocking
from danube_trio import Wal, WalConfig, open_wal

__all__ = ["door_appends", "door_batches", "door_producers"]

BATCH = 1000
PAYLOAD_BYTES = 1024

Work = Callable[[Wal], Awaitable[None]]
BlockingWork = Callable[[danube_trio.blocking.Wal], None]


async def _timed(work: Work, wal: Wal) -> float:
    started = perf_counter()
    await work(wal)
    return perf_counter() - started


async def _compare(
    context: Context, count: int, work: Work, blocking: BlockingWork | None
) -> dict[str, float]:
    """Take turns; `work` is `count` records (in all turns together `turns` times that)."""
    with ExitStack() as stack:
        scratch = stack.enter_context(context.scratch())

        def config(door: str) -> WalConfig:
            return WalConfig(dir=os.path.join(scratch, door))

        runner = stack.enter_context(asyncio.Runner())

        async def enter() -> tuple[AsyncExitStack, Wal]:
            inner = AsyncExitStack()
            return inner, await inner.enter_async_context(
                danube_trio.anyio.open_wal(config("asyncio"))
            )

        async with AsyncExitStack() as own:
            direct = await own.enter_async_context(open_wal(config("trio")))
            anyio_wal = await own.enter_async_context(danube_trio.anyio.open_wal(config("anyio")))
            inner, looped = await trio.to_thread.run_sync(runner.run, enter())
            threaded = stack.enter_context(danube_trio.blocking.open_wal(config("blocking")))

            def in_thread(fn: BlockingWork) -> float:
                started = perf_counter()
                fn(threaded)
                return perf_counter() - started

            contestants: dict[str, Callable[[], Awaitable[float]]] = {
                "trio": lambda: _timed(work, direct),
                "anyio": lambda: _timed(work, anyio_wal),
                "asyncio": lambda: trio.to_thread.run_sync(runner.run, _timed(work, looped)),
            }
            if blocking is not None:
                contestants["blocking"] = lambda: trio.to_thread.run_sync(in_thread, blocking)
            for run in contestants.values():
                await run()  # warm
            seconds = await take_turns(context.scale.turns, contestants)
            await trio.to_thread.run_sync(runner.run, inner.aclose())
    found: dict[str, float] = {}
    for name, taken in seconds.items():
        found[f"{name}_per_s"] = count * context.scale.turns / taken
        if name != "trio":
            found[f"{name}_cost"] = taken / seconds["trio"]
    return found


async def door_appends(context: Context) -> dict[str, float]:
    """One producer, each append awaited."""
    each = context.scale.single_appends // context.scale.turns
    messages = payloads(each, PAYLOAD_BYTES)

    async def work(wal: Wal) -> None:
        for message in messages:
            await wal.append(message)

    def blocking(wal: danube_trio.blocking.Wal) -> None:
        for message in messages:
            wal.append(message)

    return await _compare(context, each, work, blocking)


async def door_batches(context: Context) -> dict[str, float]:
    """Batches of 1000, the next one when the one before is durable."""
    each = max(1, context.scale.batches // context.scale.turns)
    batch = payloads(BATCH, PAYLOAD_BYTES)

    async def work(wal: Wal) -> None:
        for _ in range(each):
            await wal.append_batch(batch)

    def blocking(wal: danube_trio.blocking.Wal) -> None:
        for _ in range(each):
            wal.append_batch(batch)

    return await _compare(context, each * BATCH, work, blocking)


async def door_producers(context: Context) -> dict[str, float]:
    """A thousand producers, as tasks of the loop that they run on."""
    scale = context.scale
    message = payloads(1, PAYLOAD_BYTES)[0]

    async def one(wal: Wal) -> None:
        for _ in range(scale.appends_each):
            await wal.append(message)

    async def work(wal: Wal) -> None:
        if trio.lowlevel.in_trio_run():
            async with trio.open_nursery() as nursery:
                for _ in range(scale.producers):
                    nursery.start_soon(one, wal)
        else:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(scale.producers):
                    tasks.create_task(one(wal))

    return await _compare(context, scale.producers * scale.appends_each, work, None)
