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

from importlib import import_module
from typing import TYPE_CHECKING

from danube_trio.anyio._open import (
    open_follower,
    open_replica,
    open_store,
    open_wal,
)
from danube_trio.anyio._stream import ReaderStream

if TYPE_CHECKING:
    from danube_trio.anyio._open_topics import (
        open_etcd,
        open_metadata_directory,
        open_storage,
        restore_log,
    )
    from danube_trio.anyio._storage import WalStorage

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

_OPENERS = ("open_etcd", "open_metadata_directory", "open_storage", "restore_log")
# Imported when they are used: what a program with one log does not need.
_HOMES = {
    **dict.fromkeys(_OPENERS, "_open_topics"),
    **dict.fromkeys(("WalStorage",), "_storage"),
}

if not TYPE_CHECKING:  # type checkers would take it as leave to use any name

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
        return value

    def __dir__() -> list[str]:
        return __all__
