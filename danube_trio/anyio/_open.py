"""Opening through the anyio door: the engine's own blocks on trio, else a hold in its thread."""

from __future__ import annotations

import os
from contextlib import AbstractAsyncContextManager
from typing import Any, cast

from danube_trio._core.disk import Disk
from danube_trio._doors.surface import arguments_of
from danube_trio._engine.log import open as _open
from danube_trio._engine.log.wal import Wal
from danube_trio._engine.read import follow as _follow
from danube_trio._engine.read import replica as _replica
from danube_trio._engine.read.follow import Follower
from danube_trio._engine.read.replica import Replica
from danube_trio.anyio._block import loop_block
from danube_trio.cloud import CloudStore, StoreOptions
from danube_trio.cloud import open_store as open_engine_store
from danube_trio.config import WalConfig


@arguments_of(_open.open_wal)
def open_wal(config: WalConfig, **more: Any) -> AbstractAsyncContextManager[Wal]:
    """Open a log for appending and reading; see `danube_trio.open_wal`.

    On asyncio `store` must come from this module's `open_store`, and `clock` is called in several
    threads.
    """
    return loop_block(_open.open_wal(config, **more), f"log {config.dir or 'in memory'}")


@arguments_of(_follow.open_follower)
def open_follower(
    dir: str | os.PathLike[str], **more: Any
) -> AbstractAsyncContextManager[Follower]:
    """Follow a log read-only; see `danube_trio.open_follower`."""
    return loop_block(_follow.open_follower(dir, **more), f"follower of {os.fspath(dir)}")


@arguments_of(_replica.open_replica)
def open_replica(
    store: CloudStore, *, topic: str = "", prefix: str = "", **more: Any
) -> AbstractAsyncContextManager[Replica]:
    """Read a log from its object store; see `danube_trio.open_replica`."""
    block = _replica.open_replica(store, topic=topic, prefix=prefix, **more)
    return loop_block(block, f"replica of {topic or prefix or 'a log'}")


def open_store(
    url: str, options: StoreOptions | None = None, *, disk: Disk | None = None, **more: object
) -> AbstractAsyncContextManager[CloudStore]:
    """Open an object store, to be handed to the functions above; see `danube_trio.cloud`.

    On asyncio its own methods are for the engine only.
    """
    block = cast(
        "AbstractAsyncContextManager[CloudStore]",
        open_engine_store(url, options, disk=disk, **more),
    )
    return loop_block(block, f"store {url}")
