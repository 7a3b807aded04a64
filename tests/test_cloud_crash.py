"""Crashes of a log with an object store, at every operation of its disk and of its stores."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterator
from itertools import islice

import attrs
import pytest
import trio
import trio.testing
from cloud_model import (
    CONFIG,
    Crash,
    Journal,
    Watch,
    World,
    away_and_back,
    check_set_aside,
    elsewhere,
    everything,
    reopened,
    told,
)

from danube_trio import WalConfig, open_wal
from danube_trio.config import Durability
from danube_trio.testing import SimDisk

SAMPLES = int(os.environ.get("DANUBE_CRASH_SAMPLES", "2"))
LONG = SAMPLES > 2
KEEPING = attrs.evolve(CONFIG, cloud=attrs.evolve(CONFIG.cloud, keep_local_bytes=1 << 20))

Workload = Callable[[World, Journal, WalConfig], Awaitable[None]]


async def every_level(world: World, journal: Journal, config: WalConfig) -> None:
    async with world.open(config) as wal:
        for i in range(3):
            await journal.append(wal, "fsync", b"single %d " % i * 20)
        await journal.append(wal, "uploaded", *(b"batch %d " % i * 8 for i in range(4)))
        await journal.append(wal, "accepted", b"unsynced", b"pair")
        await trio.testing.wait_all_tasks_blocked()
        await journal.append(wal, "written", b"written")
        await journal.append(wal, "fsync", b"last")


async def life_after_life(world: World, journal: Journal, config: WalConfig) -> None:
    for i in range(3):
        async with world.open(config) as wal:
            await journal.append(wal, "fsync", b"life %d " % i * 30)
            await journal.append(wal, "fsync", *[b"%d" % i * 100] * 4)
            if i % 2:
                await journal.uploaded(wal)
            await journal.append(wal, "fsync", b"tail")


async def trims(world: World, journal: Journal, config: WalConfig) -> None:
    async with world.open(config) as wal:
        for i in range(10):
            await journal.append(wal, "fsync", b"record %d " % i * 25)
            if i == 3:
                await journal.uploaded(wal)
            if i == 5:
                await journal.trim(wal, 2)
            if i == 8:
                await journal.trim(wal, 8)
        await trio.sleep(6)


async def sealed_and_reopened(world: World, journal: Journal, config: WalConfig) -> None:
    async with world.open(config) as wal:
        await journal.append(wal, "fsync", b"a" * 300)
        await journal.append(wal, "accepted", b"b" * 300)
        await wal.seal()
        await trio.sleep(6)
    async with world.open(config) as wal:
        await journal.append(wal, "fsync", b"c" * 300)


async def with_and_without_the_store(world: World, journal: Journal, config: WalConfig) -> None:
    async with world.open(config) as wal:
        await journal.append(wal, "uploaded", b"a" * 300)
        await journal.append(wal, "fsync", b"b" * 300)
        await trio.sleep(6)
    for i in range(2):
        async with open_wal(config, disk=world.disk) as wal:
            for _ in range(3):
                await journal.append(wal, "fsync", b"without %d" % i * 9, b"pair" * 30)
            await journal.trim(wal, 1 + 5 * i)
        async with world.open(config) as wal:
            await journal.append(wal, "fsync", b"with %d" % i * 9)
            await journal.trim(wal, 2 + 5 * i)


WORKLOADS = [
    every_level,
    life_after_life,
    trims,
    sealed_and_reopened,
    with_and_without_the_store,
]


def promised_by(crash: Crash) -> tuple[Durability, ...]:
    return ("written", "fsync", "uploaded") if crash.killed else ("fsync", "uploaded")


async def check_after(journal: Journal, crash: Crash, config: WalConfig) -> None:
    """Every way to go on after this crash."""
    found = await reopened(await crash.world(), config)
    journal.check(found, crash.at, *promised_by(crash))
    there = await elsewhere(await crash.world(), config)
    journal.check(there, crash.at, "uploaded")
    # A trim without the store may have gone further than what the store has.
    assert there.next_offset == found.uploaded_end or found.start == found.uploaded_end
    journal.check(await away_and_back(await crash.world(), found, config), crash.at, "uploaded")


async def worked(
    workload: Workload, config: WalConfig, catalog: str, stride: int
) -> tuple[Journal, Iterator[Crash]]:
    """The workload, and every `stride`th moment at which it may die."""
    watch = await Watch(World.new(catalog, workload.__name__)).begin()
    journal = Journal(watch)
    await workload(watch.world, journal, config)
    return journal, islice(watch.crashes(samples=SAMPLES), stride // 2, None, stride)


@pytest.mark.parametrize("catalog", ["manifests", "metadata"])
@pytest.mark.parametrize("config", [CONFIG, KEEPING], ids=["pruning", "keeping"])
@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda w: w.__name__)
async def test_a_crash_at_every_operation_loses_nothing(
    workload: Workload, config: WalConfig, catalog: str, autojump_clock: trio.testing.MockClock
) -> None:
    journal, crashes = await worked(workload, config, catalog, 1 if LONG else 113)
    tried = 0
    for crash in crashes:
        tried += 1
        with told(crash.what):
            await check_after(journal, crash, config)
    assert tried > (500 if LONG else 3)


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda w: w.__name__)
async def test_a_crash_inside_the_next_opening_loses_nothing_either(
    workload: Workload, autojump_clock: trio.testing.MockClock
) -> None:
    """Also between saving the epoch and publishing it, and what was read then stays."""
    journal, crashes = await worked(workload, CONFIG, "manifests", 97 if LONG else 450)
    for crash in crashes:
        watch = await Watch(await crash.world()).begin()
        left = journal.after(crash.at, promised_by(crash), watch)
        async with watch.world.open(CONFIG) as wal:
            left.saw(await everything(wal))
            await left.append(wal, "uploaded", b"afterwards")
            await trio.sleep(6)
        inner_crashes = islice(watch.crashes(), 0, None, 3 if LONG else 37)
        for inner in inner_crashes:
            with told(f"{crash.what}\nthen {inner.what}"):
                await check_after(left, inner, CONFIG)


@pytest.mark.parametrize("catalog", ["manifests", "metadata"])
async def test_a_crash_while_a_tail_is_set_aside_keeps_it_and_brings_nothing_back(
    catalog: str, autojump_clock: trio.testing.MockClock
) -> None:
    journal, crashes = await worked(life_after_life, KEEPING, catalog, 40 if LONG else 500)
    for crash in crashes:
        kept = await reopened(await crash.world(), KEEPING)
        world = await crash.world()
        async with attrs.evolve(world, disk=SimDisk()).open(KEEPING) as wal:
            there = await everything(wal)
            await wal.append_batch([b"from B"] * 3, durability="uploaded")
        watch = await Watch(world).begin()
        async with world.open(KEEPING) as wal:
            await wal.append(b"back", durability="uploaded")
        for inner in islice(watch.crashes(), 0, None, 1 if LONG else 9):
            with told(f"{crash.what}\nthen {inner.what}"):
                again = await inner.world()
                found = await reopened(again, KEEPING)
                expected = [*there.payloads.values(), *[b"from B"] * 3, b"back"]
                payloads = list(found.payloads.values())
                done = inner.killed or len(payloads) == len(expected)
                # A second crash, of the power, may come before what was only written is synced.
                end = kept.next_offset if done else journal.synced_end(crash.at)
                check_set_aside(again, attrs.evolve(kept, next_offset=end), None)
                assert payloads == expected[: len(payloads)]
                assert len(payloads) >= len(expected) - 1
                journal.check(there, crash.at, "uploaded")
