"""Metadata stores: small consistent maps for catalogs and cursors."""

from danube_trio.metadata._memory import MemoryMetadata
from danube_trio.metadata._store import MetadataStore, Revised, WatchEvent

__all__ = ["MemoryMetadata", "MetadataStore", "Revised", "WatchEvent"]
