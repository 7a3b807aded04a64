"""A thousand topics in one process: opening them all, appending to each, replaying each, idling.

Every topic that was opened is kept open, so what one costs is what memory grew by, divided. The
same topics again, with few of them open at a time, show what closing and opening on demand costs.
"""

from __future__ import annotations

import gc
import os
import resource
from collections.abc import Awaitable, Callable
from time import perf_counter, process_time

import attrs
import trio
from scale import Context, payloads

from danube_trio import Storage, StorageConfig, open_storage

__all__ = ["topics"]

PAYLOAD_BYTES = 100
PRODUCERS = 100  # tasks that share the topics among them


async def topics(context: Context) -> dict[str, float]:
    """One round."""
    _allow_files()
    scale = context.scale
    with context.scratch() as directory:
        all_open = scale.topics + 1
        config = StorageConfig(dir=directory, max_open_topics=all_open, idle_seconds=1e6)
        found = await _all_open(config, scale.topics, scale.topic_appends, scale.idle_seconds)
        few = attrs.evolve(config, max_open_topics=max(1, scale.topics // 16))
        found["on_demand_per_s"] = await _on_demand(few, scale.topics)
        return found


async def _all_open(
    config: StorageConfig, number: int, appends: int, idle_seconds: float
) -> dict[str, float]:
    names = [f"/bench/topic-{i}" for i in range(number)]
    messages = payloads(appends, PAYLOAD_BYTES)
    async with open_storage(config) as storage:
        await storage.append_message("/bench/first", b"x")  # all that is needed only once
        before = _memory_kib()
        seconds = await _for_each(storage, names, storage.current_offset)
        found = {"open_per_s": number / seconds, "opened_kib": (_memory_kib() - before) / number}

        async def fill(name: str) -> None:
            for message in messages:
                await storage.append_message(name, message)

        found["appends_per_s"] = number * appends / await _for_each(storage, names, fill)
        found["idle_kib"] = (_memory_kib() - before) / number

        async def replay(name: str) -> None:
            reader = await storage.create_reader(name, end="current")
            assert [message.offset async for message in reader] == list(range(appends))

        found["replayed_per_s"] = number * appends / await _for_each(storage, names, replay)
        began, used = perf_counter(), process_time()
        await trio.sleep(idle_seconds)
        found["idle_cpu_percent"] = 100 * (process_time() - used) / (perf_counter() - began)
        assert storage.statistics().open_topics == number + 1
        return found


async def _on_demand(config: StorageConfig, number: int) -> float:
    """Uses per second when nearly each of them must close one topic and open another."""
    async with open_storage(config) as storage:
        names = [f"/bench/topic-{i}" for i in range(number)]

        async def use(name: str) -> None:
            await storage.append_message(name, b"x")

        return number / await _for_each(storage, names, use)


async def _for_each(
    storage: Storage, names: list[str], use: Callable[[str], Awaitable[object]]
) -> float:
    """Use each topic, some at a time; returns the seconds."""
    left = iter(names)

    async def work() -> None:
        for name in left:
            await use(name)

    began = perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(PRODUCERS):
            nursery.start_soon(work)
    return perf_counter() - began


def _memory_kib() -> float:
    gc.collect()
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1024


def _allow_files() -> None:
    """As many open files as this process may have."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
