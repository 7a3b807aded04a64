"""Opening through the blocking door: a hold in its thread, entered and left by a ``with`` block."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from typing import Any

from danube_trio._core.disk import Disk
from danube_trio._doors.surface import arguments_of
from danube_trio._engine.log import open as _open
from danube_trio._engine.read import follow as _follow
from danube_trio._engine.read import replica as _replica
from danube_trio.blocking._block import Block, as_it_is
from danube_trio.blocking._log import Follower, Replica, Wal
from danube_trio.cloud import CloudStore, StoreOptions
from danube_trio.cloud import open_store as open_engine_store
from danube_trio.config import WalConfig


@arguments_of(_open.open_wal)
def open_wal(config: WalConfig, **more: Any) -> AbstractContextManager[Wal]:
    """Open a log for appending and reading; see `danube_trio.open_wal`.

    `store` must come from this module's `open_store`, and `clock` is called in several threads.
    """
    return Block(_open.open_wal(config, **more), f"log {config.dir or 'in memory'}", Wal)


@arguments_of(_follow.open_follower)
def open_follower(dir: str | os.PathLike[str], **more: Any) -> AbstractContextManager[Follower]:
    """Follow a log read-only; see `danube_trio.open_follower`."""
    return Block(_follow.open_follower(dir, **more), f"follower of {os.fspath(dir)}", Follower)


@arguments_of(_replica.open_replica)
def open_replica(
    store: CloudStore, *, topic: str = "", prefix: str = "", **more: Any
) -> AbstractContextManager[Replica]:
    """Read a log from its object store; see `danube_trio.open_replica`."""
    block = _replica.open_replica(store, topic=topic, prefix=prefix, **more)
    return Block(block, f"replica of {topic or prefix or 'a log'}", Replica)


def open_store(
    url: str, options: StoreOptions | None = None, *, disk: Disk | None = None, **more: object
) -> AbstractContextManager[CloudStore]:
    """Open an object store, to be handed to the functions above; see `danube_trio.cloud`.

    Its own methods are for the engine only.
    """
    store = open_engine_store(url, options, disk=disk, **more)
    return Block(store, f"store {url}", as_it_is)
