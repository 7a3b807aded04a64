"""Metadata stores: small consistent maps for catalogs and cursors.

`MemoryMetadata` ends with the process, `open_metadata_directory` keeps one in a directory of this
machine, `open_etcd` uses an etcd cluster (it needs the extra ``danube-trio[etcd]``).
"""

from danube_trio.metadata._embedded import EmbeddedMetadata, open_metadata_directory
from danube_trio.metadata._etcd import EtcdMetadata, open_etcd
from danube_trio.metadata._etcd_config import EtcdConfig
from danube_trio.metadata._memory import MemoryMetadata
from danube_trio.metadata._store import MetadataStore, Revised, WatchEvent

__all__ = [
    "EmbeddedMetadata",
    "EtcdConfig",
    "EtcdMetadata",
    "MemoryMetadata",
    "MetadataStore",
    "Revised",
    "WatchEvent",
    "open_etcd",
    "open_metadata_directory",
]
