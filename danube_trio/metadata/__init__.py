"""Metadata stores: small consistent maps for catalogs and cursors."""

from danube_trio.metadata._embedded import EmbeddedMetadata, open_metadata_directory
from danube_trio.metadata._memory import MemoryMetadata
from danube_trio.metadata._store import MetadataStore, Revised, WatchEvent

__all__ = [
    "EmbeddedMetadata",
    "MemoryMetadata",
    "MetadataStore",
    "Revised",
    "WatchEvent",
    "open_metadata_directory",
]
