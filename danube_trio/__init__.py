"""A durable log to embed in trio programs.

One process, one ``async with``, and appends that are on disk when they return; the same log
replayed, tailed and followed from other processes. It keeps Danube's bytes.
"""

from danube_trio._follow import Follower, open_follower
from danube_trio._open import open_wal
from danube_trio._reader import Reader
from danube_trio._source import StartPosition
from danube_trio._version import __version__
from danube_trio._wal import Receipt, Wal
from danube_trio.config import WalConfig
from danube_trio.errors import (
    CorruptDataError,
    DanubeError,
    LogBrokenError,
    LogClosedError,
    LogLockedError,
    MessageTooLargeError,
    OffsetTrimmedError,
    UnexpectedOffsetError,
    UnsupportedFormatError,
)
from danube_trio.message import Gap, MessageID, Record, StreamMessage
from danube_trio.storage import PersistentStorage, WalStorage

__all__ = [
    "CorruptDataError",
    "DanubeError",
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
    "StartPosition",
    "StreamMessage",
    "UnexpectedOffsetError",
    "UnsupportedFormatError",
    "Wal",
    "WalConfig",
    "WalStorage",
    "__version__",
    "open_follower",
    "open_wal",
]
