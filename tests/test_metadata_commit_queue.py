"""Many writers to a metadata directory, cancelled at random: each was told the truth."""

from __future__ import annotations

import os
import random

import attrs
import pytest
import trio
from trio.testing import MockClock

from danube_trio.errors import StoreUnavailableError
from danube_trio.metadata import EmbeddedMetadata, open_metadata_directory
from danube_trio.testing import SimDisk

SEEDS = int(os.environ.get("DANUBE_LINE_SEEDS", "40"))


@attrs.define(eq=False)
class Story:
    """What writers were told of the keys that each of them created, once and alone."""

    done: set[str] = attrs.Factory(set[str])
    undone: set[str] = attrs.Factory(set[str])
    unknown: set[str] = attrs.Factory(set[str])


async def write(store: EmbeddedMetadata, rng: random.Random, name: str, story: Story) -> None:
    for number in range(4):
        key = f"/{name}/{number}"
        outcome = story.undone  # unless it returns
        with trio.move_on_after(rng.choice([0, 0.5, 1, 1.5, 2, 3, 100])):
            try:
                if rng.random() < 0.3:
                    await store.put(key, b"", ttl=1000)
                else:
                    assert await store.transact({key: 0}, put={key: bytes(300_000)})
                outcome = story.done
            except StoreUnavailableError as error:
                outcome = story.unknown if "not known" in str(error) else story.undone
        outcome.add(key)
        await trio.sleep(rng.choice([0, 0, 0.3, 1]))


@pytest.mark.parametrize("fault", [False, True], ids=["works", "breaks"])
async def test_what_was_cancelled_was_not_done(fault: bool, autojump_clock: MockClock) -> None:
    seen_done = seen_undone = 0
    for seed in range(SEEDS):
        rng, story, disk = random.Random(seed), Story(), SimDisk(seed=seed)
        async with open_metadata_directory("/m", disk=disk, journal_bytes=1_000_000) as store:
            disk.latency = 1.0
            if fault:
                disk.fail("sync_data", rng.randrange(1, 12))
            async with trio.open_nursery() as nursery:
                for writer in range(8):
                    own = random.Random(f"{seed}/{writer}")
                    nursery.start_soon(write, store, own, str(writer), story)
            disk.latency = 0.0
            keys = {entry.key for entry in await store.list_entries("/")}
            assert story.done == keys, seed
        async with open_metadata_directory("/m", disk=disk) as store:
            keys = {entry.key for entry in await store.list_entries("/")}
            assert story.done <= keys <= story.done | story.unknown, seed
            assert not keys & story.undone, seed
        seen_done += len(story.done)
        seen_undone += len(story.undone)
    assert seen_done > SEEDS and seen_undone > SEEDS
