"""Crashes of a log with an object store, at every operation of its disk and of its stores."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable

import attrs
import pytest
import trio
import trio.testing
from cloud_model import CONFIG, Crash, Journal, Watch, World, away_and_back, elsewhere, reopened

from danube_trio import WalConfig

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


WORKLOADS = [every_level, life_after_life, trims, sealed_and_reopened]


async def check_after(journal: Journal, crash: Crash, config: WalConfig) -> None:
    """Every way to go on after this crash."""
    promised = ("written", "fsync", "uploaded") if crash.killed else ("fsync", "uploaded")
    found = await reopened(await crash.world(), config)
    journal.check(found, crash.at, *promised)
    there = await elsewhere(await crash.world(), config)
    journal.check(there, crash.at, "uploaded")
    assert there.next_offset == found.uploaded_end
    journal.check(await away_and_back(await crash.world(), found, config), crash.at, "uploaded")


@pytest.mark.parametrize("catalog", ["manifests", "metadata"])
@pytest.mark.parametrize("config", [CONFIG, KEEPING], ids=["pruning", "keeping"])
@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda w: w.__name__)
async def test_a_crash_at_every_operation_loses_nothing(
    workload: Workload, config: WalConfig, catalog: str, autojump_clock: trio.testing.MockClock
) -> None:
    world = World.new(catalog, workload.__name__)
    watch = await Watch(world).begin()
    journal = Journal(watch)
    await workload(world, journal, config)
    tried = seen = 0
    for crash in watch.crashes(samples=SAMPLES):
        seen += 1
        if not LONG and seen % 67:
            continue
        tried += 1
        try:
            await check_after(journal, crash, config)
        except BaseException as error:
            error.add_note(crash.what)
            raise
    assert tried > (500 if LONG else 5)
