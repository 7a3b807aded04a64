"""What every catalog promises: one suite for both, on stores of several kinds."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from trio.testing import MockClock

from danube_trio.catalog import Catalog, ManifestCatalog, MetadataCatalog
from danube_trio.cloud import MemoryStore
from danube_trio.metadata import MemoryMetadata
from danube_trio.testing import SimMetadata, SimStore, check_catalog

Make = Callable[[], Catalog]


def manifests() -> Make:
    store = MemoryStore()
    return lambda: ManifestCatalog(store, "topics/default/orders")


def small_pages() -> Make:
    store = SimStore()
    clients = itertools.count()

    def make() -> Catalog:
        client = store.client(f"client {next(clients)}")
        return ManifestCatalog(client, "log", fold_segments=3, keep=1)

    return make


def danube() -> Make:
    metadata = MemoryMetadata()
    return lambda: MetadataCatalog(metadata, "/default/orders")


def danube_remote() -> Make:
    metadata = SimMetadata()
    return lambda: MetadataCatalog(metadata.client(), "/default/orders", root="/elsewhere")


KINDS = [manifests, small_pages, danube, danube_remote]


@pytest.mark.parametrize("kind", KINDS)
async def test_the_catalog_keeps_the_contract(
    kind: Callable[[], Make], autojump_clock: MockClock
) -> None:
    await check_catalog(kind())
