"""Healing a directory from its store: a crash anywhere leaves what the same repair goes on with."""

from __future__ import annotations

import os

import pytest

from danube_trio import CloudConfig, WalConfig, open_wal
from danube_trio._core.catalog import CatalogState
from danube_trio._core.segment import LogNames
from danube_trio._engine.care.heal import Heal, apply_heal, plan_heal
from danube_trio._engine.care.verify import Verification
from danube_trio.catalog import ManifestCatalog
from danube_trio.testing import SimDisk, SimStore

CONFIG = WalConfig(
    dir="/data/log", segment_bytes=400, preallocate_bytes=0, cloud=CloudConfig(prefix="log")
)
NAMES = LogNames.of("/data/log", "wal.log")
PAYLOADS = [b"record %d " % i * 4 for i in range(30)]
SAMPLES = int(os.environ.get("DANUBE_CRASH_SAMPLES", "2"))


async def written() -> tuple[SimDisk, SimStore, CatalogState]:
    """A log with its objects, and something that is not uploaded."""
    disk, store = SimDisk(seed="heal"), SimStore()
    async with open_wal(CONFIG, disk=disk, store=store) as wal:
        for payload in PAYLOADS[:-12]:
            await wal.append(payload)
        await wal.wait_uploaded(18)
    async with open_wal(CONFIG, disk=disk) as wal:
        for payload in PAYLOADS[-12:]:
            await wal.append(payload)
    state = await ManifestCatalog(store, "log").latest()
    assert state is not None
    assert state.end == 18
    return disk, store, state


def healed(disk: SimDisk, state: CatalogState) -> Heal | None:
    heal = plan_heal(disk, NAMES, state)
    if heal is not None:
        apply_heal(disk, heal)
        assert plan_heal(disk, NAMES, state) is None
    return heal


async def check(disk: SimDisk, store: SimStore) -> None:
    found = list(Verification(disk, NAMES))
    assert not [finding for finding in found if finding.severity == "problem"]
    async with open_wal(CONFIG, disk=disk, store=store.clone()) as wal:
        assert [m.payload async for m in wal.reader(end="current")] == PAYLOADS
        assert wal.next_offset == len(PAYLOADS)


def damage(disk: SimDisk, wanted: str) -> None:
    bases = NAMES.segment_bases(disk.list_dir(NAMES.directory))
    if "first" in wanted:
        disk.corrupt(NAMES.segment(bases[0]), 30)
    if "third" in wanted:
        disk.corrupt(NAMES.segment(bases[2]), 30)
    if "missing" in wanted:
        disk.unlink(NAMES.segment(bases[1]))
        disk.sync_dir(NAMES.directory)


@pytest.mark.parametrize("wanted", ["first", "third", "missing", "first missing third"])
async def test_a_crash_while_healing_is_gone_on_with(wanted: str) -> None:
    disk, store, state = await written()
    damage(disk, wanted)
    begin = disk.op_count
    heal = healed(disk, state)
    assert heal is not None
    assert len(heal.damaged) == ("first" in wanted) + ("third" in wanted)
    await check(disk.crash("everything written"), store)
    crashes = 0
    for point in disk.crash_points(samples=SAMPLES, start=begin):
        for crash in point.states:
            crashes += 1
            if SAMPLES <= 2 and crashes % 2:
                continue
            healed(crash.disk, state)
            await check(crash.disk, store)
    assert crashes > 10


async def test_what_is_whole_is_left_alone() -> None:
    disk, _, state = await written()
    before = disk.tree()
    assert healed(disk, state) is None
    assert disk.tree() == before


async def test_damage_that_no_object_covers_is_left_to_the_rest_of_the_repair() -> None:
    disk, _, state = await written()
    bases = NAMES.segment_bases(disk.list_dir(NAMES.directory))
    beyond = next(base for base in bases if base >= state.end)
    assert beyond != bases[-1]
    disk.corrupt(NAMES.segment(beyond), 30)
    assert plan_heal(disk, NAMES, state) is None
    # With covered damage too, only that is healed.
    disk.corrupt(NAMES.segment(bases[0]), 30)
    heal = healed_in_part(disk, state)
    assert heal.local_start == bases[1]
    assert heal.damaged == (0,)


def healed_in_part(disk: SimDisk, state: CatalogState) -> Heal:
    heal = plan_heal(disk, NAMES, state)
    assert heal is not None
    apply_heal(disk, heal)
    return heal
