"""Object stores: where sealed segments go."""

from __future__ import annotations

from typing import TYPE_CHECKING

from danube_trio.cloud._chunks import read_chunks
from danube_trio.cloud._directory import DirectoryStore
from danube_trio.cloud._memory import MemoryStore
from danube_trio.cloud._open import load_obstore_store, open_store
from danube_trio.cloud._options import StoreOptions
from danube_trio.cloud._probe import probe_store
from danube_trio.cloud._store import CloudStore, ObjectInfo

if TYPE_CHECKING:
    from danube_trio.cloud._obstore import ObstoreStore

__all__ = [
    "CloudStore",
    "DirectoryStore",
    "MemoryStore",
    "ObjectInfo",
    "ObstoreStore",
    "StoreOptions",
    "open_store",
    "probe_store",
    "read_chunks",
]

if not TYPE_CHECKING:  # type checkers would take it as leave to use any name

    def __getattr__(name: str) -> object:
        if name == "ObstoreStore":  # each time: without obstore it says what to install
            return load_obstore_store()
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
