"""Object stores: where sealed segments go."""

from danube_trio.cloud._directory import DirectoryStore
from danube_trio.cloud._memory import MemoryStore
from danube_trio.cloud._store import CloudStore, ObjectInfo

__all__ = ["CloudStore", "DirectoryStore", "MemoryStore", "ObjectInfo"]
