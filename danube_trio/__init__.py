"""A durable log to embed in trio programs.

One process, one ``async with``, and appends that are on disk when they return; the same log
replayed, tailed and followed from other processes. It keeps Danube's bytes.
"""

from danube_trio._follow import Follower, open_follower
from danube_trio._open import open_wal
from danube_trio._reader import Reader
from danube_trio._replica import Replica, open_replica
from danube_trio._restore import Restored, restore_log
from danube_trio._source import StartPosition
from danube_trio._version import __version__
from danube_trio._wal import Receipt, Wal
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
