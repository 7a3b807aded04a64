"""What every object store promises: one check for all of them, and that it finds liars."""

from __future__ import annotations

from pathlib import Path

from servers import Server

from danube_trio._disk.real import RealDisk
from danube_trio.cloud import DirectoryStore, MemoryStore, open_store, probe_store
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
    left = sorted(path.name for path in tmp_path.rglob("*") if path.is_file())
    assert left == [".danube-lock", ".danube-store"]


async def test_a_directory_on_a_simulated_disk_keeps_the_rules() -> None:
    store = DirectoryStore("/store", SimDisk())
    await check_store(store, many_keys=30)
    await store.aclose()


async def test_s3_keeps_the_rules(s3: Server) -> None:
    async with open_store(f"{s3.url}/rules/of", s3.options) as store:
        await probe_store(store)
        await check_store(store)


async def test_another_s3_keeps_the_rules(more_s3: Server) -> None:
    async with open_store(f"{more_s3.url}/rules", more_s3.options) as store:
        await probe_store(store)
        await check_store(store)


async def test_google_keeps_the_rules(gcs: Server) -> None:
    async with open_store(f"{gcs.url}/rules", gcs.options) as store:
        await probe_store(store)
        await check_store(store, many_keys=250)
