"""The log for scripts and threads, without any async.

::

    from danube_trio.blocking import open_wal

    with open_wal(WalConfig(dir="events")) as wal:
        wal.append(b"order 17 paid")
        for message in wal.reader(end="current"):
            print(message.payload)

The engine runs in a thread of its own (`_engine.thread`). Everything here may be
called from any number of threads at once; a reader belongs to one at a time. A call that waits ends
when the log is closed by another thread. In the main thread Ctrl-C ends it: `docs/doors.md` has the
rules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from danube_trio._lazy import late_names
from danube_trio.blocking._log import Follower, Receipt, Replica, Wal
from danube_trio.blocking._open import open_follower, open_replica, open_store, open_wal
from danube_trio.blocking._read import Reader

if TYPE_CHECKING:
    from danube_trio.blocking._open_topics import (
        open_etcd,
        open_metadata_directory,
        open_storage,
        restore_log,
    )
    from danube_trio.blocking._storage import Storage, WalStorage

__all__ = [
    "Follower",
    "Reader",
    "Receipt",
    "Replica",
    "Storage",
    "Wal",
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
    "_storage": ("Storage", "WalStorage"),
}

if not TYPE_CHECKING:  # type checkers would take it as leave to use any name
    __getattr__, __dir__ = late_names(__name__, __all__, _HOMES)
