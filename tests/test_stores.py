"""What every object store promises: one check for all of them, and that it finds liars."""

from __future__ import annotations

from danube_trio.cloud import MemoryStore
from danube_trio.testing import SimStore, check_store


async def test_memory_keeps_the_rules() -> None:
    await check_store(MemoryStore())


async def test_the_simulated_store_keeps_the_rules() -> None:
    await check_store(SimStore())
    await check_store(SimStore(can_swap=False))
