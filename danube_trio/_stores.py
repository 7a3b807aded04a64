"""What `open_wal` and `open_replica` do with a store before they use it."""

from __future__ import annotations

import weakref

from danube_trio.catalog import Catalog, ManifestCatalog
from danube_trio.cloud import CloudStore, probe_store
from danube_trio.config import WalConfig

__all__ = ["default_catalog", "probe_once"]

_probed: weakref.WeakSet[CloudStore] = weakref.WeakSet()


def default_catalog(config: WalConfig, store: CloudStore) -> Catalog:
    """Manifests in the store itself, under the log's prefix."""
    prefix = config.cloud.prefix
    if not prefix and config.topic_name:
        prefix = f"storage/topics/{config.topic_name.lstrip('/')}"
    if not prefix:
        raise ValueError(
            "cloud.prefix='' and topic_name='': one of them must say where in the store the log "
            "is, because two logs in one place take it from one another"
        )
    return ManifestCatalog(store, prefix)


async def probe_once(store: CloudStore) -> None:
    """Refuse a store that lets two writers create the same object; ask each store object once."""
    if store not in _probed:
        await probe_store(store)
        _probed.add(store)
