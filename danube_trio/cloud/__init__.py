"""Object stores: where sealed segments go."""

from danube_trio.cloud._memory import MemoryStore
from danube_trio.cloud._probe import probe_store
from danube_trio.cloud._store import CloudStore, ObjectInfo

__all__ = ["CloudStore", "MemoryStore", "ObjectInfo", "probe_store"]
