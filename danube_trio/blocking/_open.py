"""Opening through the blocking door: a hold in its thread, entered and left by a ``with`` block."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Literal

from danube_trio._core.disk import Disk
from danube_trio._engine.log import open as _open
from danube_trio._engine.read import follow as _follow
from danube_trio._engine.read import replica as _replica
from danube_trio._engine.thread.engine_thread import Hold
from danube_trio.blocking._block import Block, as_it_is
from danube_trio.blocking._log import Follower, Replica, Wal
from danube_trio.blocking._thread import ThreadDoor
from danube_trio.catalog import Catalog
from danube_trio.cloud import CloudStore, StoreOptions
from danube_trio.cloud import open_store as open_engine_store
from danube_trio.config import CloudConfig, WalConfig

__all__ = ["open_follower", "open_replica", "open_store", "open_wal"]


def open_wal(
    config: WalConfig,
    *,
    store: CloudStore | None = None,
    catalog: Catalog | None = None,
    disk: Disk | None = None,
    clock: Callable[[], float] = time.time,
) -> AbstractContextManager[Wal]:
    """Open a log for appending and reading; see `danube_trio.open_wal`.

    `store` must come from this module's `open_store`, and `clock` is called in several threads.
    """
    block = _open.open_wal(config, store=store, catalog=catalog, disk=disk, clock=clock)
    return Block(block, f"log {config.dir or 'in memory'}", _log)


def open_follower(
    dir: str | os.PathLike[str],
    *,
    file_name: str = "wal.log",
    disk: Disk | None = None,
    store: CloudStore | None = None,
    prefix: str = "",
    catalog: Catalog | None = None,
    notify: bool = True,
    poll_seconds: float = 0.05,
    recheck_seconds: float = 1.0,
    on_corruption: Literal["refuse", "skip"] = "refuse",
) -> AbstractContextManager[Follower]:
    """Follow a log read-only; see `danube_trio.open_follower`."""
    block = _follow.open_follower(
        dir,
        file_name=file_name,
        disk=disk,
        store=store,
        prefix=prefix,
        catalog=catalog,
        notify=notify,
        poll_seconds=poll_seconds,
        recheck_seconds=recheck_seconds,
        on_corruption=on_corruption,
    )
    return Block(block, f"follower of {os.fspath(dir)}", _follower)


def open_replica(
    store: CloudStore,
    *,
    topic: str = "",
    prefix: str = "",
    catalog: Catalog | None = None,
    poll_seconds: float = 5.0,
    settings: CloudConfig | None = None,
) -> AbstractContextManager[Replica]:
    """Read a log from its object store; see `danube_trio.open_replica`."""
    block = _replica.open_replica(
        store,
        topic=topic,
        prefix=prefix,
        catalog=catalog,
        poll_seconds=poll_seconds,
        settings=settings,
    )
    return Block(block, f"replica of {topic or prefix or 'a log'}", _replica_of)


def open_store(
    url: str,
    options: StoreOptions | None = None,
    *,
    disk: Disk | None = None,
    **more: object,
) -> AbstractContextManager[CloudStore]:
    """Open an object store, to be handed to the functions above; see `danube_trio.cloud`.

    Its own methods are for the engine only.
    """
    store = open_engine_store(url, options, disk=disk, **more)
    return Block(store, f"store {url}", as_it_is)


def _log(thing: Any, appender: Any, door: ThreadDoor, hold: Hold, keep: object) -> Wal:
    return Wal(thing, door, hold, keep, appender)


def _follower(thing: Any, appender: Any, door: ThreadDoor, hold: Hold, keep: object) -> Follower:
    return Follower(thing, door, hold, keep)


def _replica_of(thing: Any, appender: Any, door: ThreadDoor, hold: Hold, keep: object) -> Replica:
    return Replica(thing, door, hold, keep)
