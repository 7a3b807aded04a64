"""Opening topics, metadata stores and forks through the blocking door.

Apart from `_open`, because these bring along what a program with one log does not need.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from danube_trio import metadata
from danube_trio._core.disk import Disk
from danube_trio._engine.care import restore as _restore
from danube_trio._engine.care.restore import Restored
from danube_trio._engine.topics import open as _open_storage
from danube_trio.blocking._block import Block, as_it_is, one_call
from danube_trio.blocking._storage import Storage, storage_of
from danube_trio.catalog import Catalog
from danube_trio.cloud import CloudStore
from danube_trio.config import StorageConfig
from danube_trio.metadata import EmbeddedMetadata, MetadataStore
from danube_trio.metadata._embedded import JOURNAL_BYTES
from danube_trio.metadata._history import HISTORY_BYTES, HISTORY_EVENTS

__all__ = ["open_etcd", "open_metadata_directory", "open_storage", "restore_log"]


def open_storage(
    config: StorageConfig,
    *,
    store: CloudStore | None = None,
    metadata: MetadataStore | None = None,
    disk: Disk | None = None,
    clock: Callable[[], float] = time.time,
) -> AbstractContextManager[Storage]:
    """Open many topics; see `danube_trio.open_storage`.

    `store` and `metadata` must come from this module, and `clock` is called in another
    thread.
    """
    block = _open_storage.open_storage(
        config, store=store, metadata=metadata, disk=disk, clock=clock
    )
    return Block(block, f"storage {config.dir}", storage_of)


def open_metadata_directory(
    path: str | os.PathLike[str],
    *,
    disk: Disk | None = None,
    journal_bytes: int = JOURNAL_BYTES,
    history_events: int = HISTORY_EVENTS,
    history_bytes: int = HISTORY_BYTES,
) -> AbstractContextManager[EmbeddedMetadata]:
    """Open a metadata store, to be handed to a storage or a dispatch; see `danube_trio.metadata`.

    Its own methods are for the engine only.
    """
    block = metadata.open_metadata_directory(
        path,
        disk=disk,
        journal_bytes=journal_bytes,
        history_events=history_events,
        history_bytes=history_bytes,
    )
    return Block(block, f"metadata store {os.fspath(path)}", as_it_is)


def open_etcd(config: metadata.EtcdConfig) -> AbstractContextManager[metadata.EtcdMetadata]:
    """Use an etcd cluster, as `open_metadata_directory`; see `danube_trio.metadata.open_etcd`."""
    return Block(metadata.open_etcd(config), "metadata store in etcd", as_it_is)


def restore_log(
    store: CloudStore,
    dir: str | os.PathLike[str],
    *,
    topic: str = "",
    prefix: str = "",
    catalog: Catalog | None = None,
    until_offset: int | None = None,
    until_time: float | None = None,
    file_name: str = "wal.log",
    disk: Disk | None = None,
    expect: Callable[[int], object] | None = None,
    progress: Callable[[int], object] | None = None,
) -> Restored:
    """Make a log directory of what a store holds; see `danube_trio.restore_log`.

    `store` must come from this module's `open_store`, and `expect` and `progress` are
    called in another thread.
    """
    told: dict[str, Any] = {"expect": expect, "progress": progress}
    call = partial(
        _restore.restore_log,
        store,
        dir,
        topic=topic,
        prefix=prefix,
        catalog=catalog,
        until_offset=until_offset,
        until_time=until_time,
        file_name=file_name,
        disk=disk,
        **{name: fn for name, fn in told.items() if fn is not None},
    )
    return one_call(call, f"restore into {os.fspath(dir)}")
