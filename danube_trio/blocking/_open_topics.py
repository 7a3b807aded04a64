"""Opening topics, metadata stores and forks through the blocking door.

Apart from `_open`, because these bring along what a program with one log does not need.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from danube_trio import metadata
from danube_trio._doors import restore as _restore
from danube_trio._doors.surface import arguments_of
from danube_trio._engine.care.restore import Restored
from danube_trio._engine.topics import open as _open_storage
from danube_trio.blocking._block import Block, as_it_is, one_call
from danube_trio.blocking._storage import Storage
from danube_trio.cloud import CloudStore
from danube_trio.config import StorageConfig
from danube_trio.metadata import EmbeddedMetadata

__all__ = ["open_etcd", "open_metadata_directory", "open_storage", "restore_log"]


@arguments_of(_open_storage.open_storage)
def open_storage(config: StorageConfig, **more: Any) -> AbstractContextManager[Storage]:
    """Open many topics; see `danube_trio.open_storage`.

    `store` and `metadata` must come from this module, and `clock` is called in another
    thread.
    """
    block = _open_storage.open_storage(config, **more)
    return Block(block, f"storage {config.dir}", Storage)


@arguments_of(metadata.open_metadata_directory)
def open_metadata_directory(
    path: str | os.PathLike[str], **more: Any
) -> AbstractContextManager[EmbeddedMetadata]:
    """Open a metadata store, to be handed to a storage or a dispatch; see `danube_trio.metadata`.

    Its own methods are for the engine only.
    """
    block = metadata.open_metadata_directory(path, **more)
    return Block(block, f"metadata store {os.fspath(path)}", as_it_is)


def open_etcd(config: metadata.EtcdConfig) -> AbstractContextManager[metadata.EtcdMetadata]:
    """Use an etcd cluster, as `open_metadata_directory`; see `danube_trio.metadata.open_etcd`."""
    return Block(metadata.open_etcd(config), "metadata store in etcd", as_it_is)


@arguments_of(_restore.restore_log)
def restore_log(store: CloudStore, dir: str | os.PathLike[str], **more: Any) -> Restored:
    """Make a log directory of what a store holds; see `danube_trio.restore_log`.

    `store` must come from this module's `open_store`, and `expect` and `progress` are
    called in another thread.
    """
    restore = partial(_restore.restore_log, store, dir, **more)
    return one_call(restore, f"restore into {os.fspath(dir)}")
