"""A durable log to embed in trio programs.

One process, one ``async with``, and appends that are on disk when they return; the same log
replayed, tailed and followed from other processes. It keeps Danube's bytes.

A name is imported when it is first used, so that a program pays for what it uses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from danube_trio._lazy import late_names
from danube_trio._version import __version__

if TYPE_CHECKING:
    from danube_trio._engine.care.restore import Restored, restore_log
    from danube_trio._engine.log.open import open_wal
    from danube_trio._engine.log.wal import Receipt, Wal
    from danube_trio._engine.read.follow import Follower, open_follower
    from danube_trio._engine.read.reader import Reader
    from danube_trio._engine.read.replica import Replica, open_replica
    from danube_trio._engine.read.source import StartPosition
    from danube_trio.config import CloudConfig, StorageConfig, WalConfig
    from danube_trio.errors import (
        AccessDeniedError,
        CorruptDataError,
        DanubeError,
        FencedError,
        LogBrokenError,
        LogClosedError,
        LogLockedError,
        MessageTooLargeError,
        OffsetTrimmedError,
        StoreUnavailableError,
        UnexpectedOffsetError,
        UnsupportedFormatError,
    )
    from danube_trio.message import Gap, MessageID, Record, StreamMessage
    from danube_trio.storage import PersistentStorage, Storage, WalStorage, open_storage

__all__ = [
    "AccessDeniedError",
    "CloudConfig",
    "CorruptDataError",
    "DanubeError",
    "FencedError",
    "Follower",
    "Gap",
    "LogBrokenError",
    "LogClosedError",
    "LogLockedError",
    "MessageID",
    "MessageTooLargeError",
    "OffsetTrimmedError",
    "PersistentStorage",
    "Reader",
    "Receipt",
    "Record",
    "Replica",
    "Restored",
    "StartPosition",
    "Storage",
    "StorageConfig",
    "StoreUnavailableError",
    "StreamMessage",
    "UnexpectedOffsetError",
    "UnsupportedFormatError",
    "Wal",
    "WalConfig",
    "WalStorage",
    "__version__",
    "open_follower",
    "open_replica",
    "open_storage",
    "open_wal",
    "restore_log",
]

_HOMES = {
    "_engine.care.restore": ("Restored", "restore_log"),
    "_engine.log.open": ("open_wal",),
    "_engine.log.wal": ("Receipt", "Wal"),
    "_engine.read.follow": ("Follower", "open_follower"),
    "_engine.read.reader": ("Reader",),
    "_engine.read.replica": ("Replica", "open_replica"),
    "_engine.read.source": ("StartPosition",),
    "config": ("CloudConfig", "StorageConfig", "WalConfig"),
    "errors": (
        *("AccessDeniedError", "CorruptDataError", "DanubeError", "FencedError"),
        *("LogBrokenError", "LogClosedError", "LogLockedError", "MessageTooLargeError"),
        *("OffsetTrimmedError", "StoreUnavailableError", "UnexpectedOffsetError"),
        "UnsupportedFormatError",
    ),
    "message": ("Gap", "MessageID", "Record", "StreamMessage"),
    "storage": ("PersistentStorage", "Storage", "WalStorage", "open_storage"),
}

if not TYPE_CHECKING:  # type checkers would take it as leave to use any name
    __getattr__, __dir__ = late_names(__name__, __all__, _HOMES)
