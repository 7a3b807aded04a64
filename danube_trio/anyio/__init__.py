"""The log for programs that run on anyio or asyncio; under trio it is the log itself.

::

    from danube_trio.anyio import open_wal

    async with open_wal(WalConfig(dir="events")) as wal:
        await wal.append(b"order 17 paid")

Everything is as in `danube_trio`, and so are the types. On asyncio the engine runs in a thread of
its own (`_engine.thread`), to which calls are handed over; `docs/doors.md` has
what that means for cancellation, exceptions and speed. Needs the package anyio.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from danube_trio._lazy import late_names
from danube_trio.anyio._open import open_follower, open_replica, open_store, open_wal

if TYPE_CHECKING:
    from danube_trio.anyio._open_topics import (
        open_etcd,
        open_metadata_directory,
        open_storage,
        restore_log,
    )
    from danube_trio.anyio._storage import WalStorage
    from danube_trio.anyio._stream import ReaderStream

__all__ = [
    "ReaderStream",
    "WalStorage",
    "open_etcd",
    "open_follower",
    "open_metadata_directory",
    "open_replica",
    "open_storage",
    "open_store",
    "open_wal",
    "restore_log",
]

# What a program with one log does not need.
_HOMES = {
    "_open_topics": ("open_etcd", "open_metadata_directory", "open_storage", "restore_log"),
    "_storage": ("WalStorage",),
    "_stream": ("ReaderStream",),
}

if not TYPE_CHECKING:  # type checkers would take it as leave to use any name
    __getattr__, __dir__ = late_names(__name__, __all__, _HOMES)
