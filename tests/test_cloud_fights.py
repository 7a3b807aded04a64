"""Writers on a few directories that take one log from one another, at random, with faults.

They append at all levels, trim, seal, die, and lose the power. What was acknowledged as uploaded is
there in the end, whoever did it, and at its offset.

`DANUBE_CLOUD_SEEDS` says how many fights (default 6); more than that are longer ones.
"""

from __future__ import annotations

import os
import random

import attrs
import pytest
import trio
import trio.testing
from cloud_model import CONFIG, World, reopened, told

from danube_trio import Wal
from danube_trio.config import Durability
from danube_trio.errors import DanubeError
from danube_trio.testing import SimDisk, SimStore

SEEDS = int(os.environ.get("DANUBE_CLOUD_SEEDS", "6"))
LONG = SEEDS > 6
LEVELS: tuple[Durability, ...] = ("accepted", "written", "fsync", "uploaded")
KEEPING = attrs.evolve(CONFIG, cloud=attrs.evolve(CONFIG.cloud, keep_local_bytes=1 << 20))


class Fight:
    """Writers on a few directories, at random, with faults; what was acknowledged as uploaded."""

    def __init__(self, seed: int, catalog: str) -> None:
        self.rng = random.Random(seed)
        base = World.new(catalog, seed)
        self.world = World(base.disk, SimStore(seed=seed, latency=0.05), base.metadata)
        self.disks = [SimDisk(seed=f"{seed}/{i}") for i in range(3)]
        self.uploaded: dict[int, bytes] = {}
        self.serial = 0
        self.taken = 0

    async def writer(self, number: int) -> None:
        rng = random.Random(f"{self.rng.random()}/{number}")
        for _ in range(3 if not LONG else 6):
            await trio.sleep(rng.uniform(0, 8))
            metadata = self.world.metadata
            client = self.world.store.client()
            client.fail_sometimes(rng.choice([0, 0, 0.05, 0.2]))
            place = rng.randrange(3)
            disk = self.disks[place].process()
            world = World(disk, client, metadata.client() if metadata is not None else None)
            try:
                async with world.open(CONFIG if rng.random() < 0.5 else KEEPING) as wal:
                    self.taken += 1
                    await self.live(wal, world, rng, place)
            except (DanubeError, OSError):
                await trio.sleep(rng.uniform(0, 3))

    async def live(self, wal: Wal, world: World, rng: random.Random, place: int) -> None:
        for _ in range(rng.randrange(1, 12)):
            self.serial += 1
            payload = b"%d " % self.serial * rng.choice([1, 30, 90])
            level = rng.choice(LEVELS)
            with trio.move_on_after(30):
                offset = await wal.append(payload, durability=level)
                if level == "uploaded":
                    assert self.uploaded.setdefault(offset, payload) == payload, "twice"
            if rng.random() < 0.05:
                await wal.trim(max(0, wal.next_offset - 5))
            await trio.sleep(rng.choice([0, 0.1, 3]))
            if rng.random() < 0.04:
                world.kill()
                if rng.random() < 0.5:  # the power went, too
                    self.disks[place] = world.disk.crash("synced only")
                return
        if rng.random() < 0.2:
            await wal.seal()

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(self.writer, number)
        assert self.taken and self.uploaded
        self.world.store.settle()
        for disk in (*self.disks, SimDisk()):
            found = await reopened(attrs.evolve(self.world, disk=disk), exact=False)
            for offset, payload in self.uploaded.items():
                assert offset < found.start or found.payloads[offset] == payload
            self.world.store.settle()
        await reopened(attrs.evolve(self.world, disk=SimDisk()))


@pytest.mark.parametrize("catalog", ["manifests", "metadata"])
async def test_writers_that_fight_lose_nothing_that_was_uploaded(
    catalog: str, autojump_clock: trio.testing.MockClock
) -> None:
    for seed in range(SEEDS):
        with told(f"seed {seed}"):
            await Fight(seed, catalog).run()
