"""What every object store promises: one check for all of them, and that it finds liars."""

from __future__ import annotations

from pathlib import Path

from danube_trio._disk import RealDisk
from danube_trio.cloud import DirectoryStore, MemoryStore
from danube_trio.testing import SimDisk, SimStore, check_store


async def test_memory_keeps_the_rules() -> None:
    await check_store(MemoryStore())


async def test_the_simulated_store_keeps_the_rules() -> None:
    await check_store(SimStore())
    await check_store(SimStore(can_swap=False))


async def test_a_directory_keeps_the_rules(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "store", RealDisk())
    await check_store(store, many_keys=300)
    await store.aclose()
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [".danube-lock"]


async def test_a_directory_on_a_simulated_disk_keeps_the_rules() -> None:
    store = DirectoryStore("/store", SimDisk())
    await check_store(store, many_keys=30)
    await store.aclose()
