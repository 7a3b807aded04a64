"""Tools for testing programs that keep their data with danube-trio, and danube-trio itself.

`SimDisk` is a disk in memory that forgets what was not synced, tears what was, and fails on
command: hand it to a log, let your program work, then recover from every state that a crash could
have left. Its module documents the model.

`SimStore` is an object store in memory that loses answers, carries requests out late, and lets a
test stop its clients at every step. `check_store` checks any store against the contract of
`danube_trio.cloud.CloudStore`.

`SimClock` is a wall clock that is set back, steps ahead, or is wrong for a while.

`SimMetadata` is a metadata store whose answers get lost on command, and `check_metadata` checks
that a metadata store keeps the rules of `danube_trio.metadata.MetadataStore`.

`check_catalog` checks that a catalog keeps those of `danube_trio.catalog.Catalog`.
"""

from danube_trio.testing._check_catalog import check_catalog
from danube_trio.testing._check_metadata import check_metadata
from danube_trio.testing._check_store import check_store
from danube_trio.testing._cloud_faults import (
    STORE_OPERATIONS,
    StoreFault,
    StoreFaultKind,
    StoreOperation,
)
from danube_trio.testing._sim_clock import SimClock
from danube_trio.testing._sim_cloud import SimStore
from danube_trio.testing._sim_disk import CrashPoint, CrashState, SimDisk
from danube_trio.testing._sim_faults import OPERATIONS, Fault, Operation, ProcessKilledError
from danube_trio.testing._sim_metadata import (
    METADATA_OPERATIONS,
    MetadataFault,
    MetadataOperation,
    SimMetadata,
)

__all__ = [
    "METADATA_OPERATIONS",
    "OPERATIONS",
    "STORE_OPERATIONS",
    "CrashPoint",
    "CrashState",
    "Fault",
    "MetadataFault",
    "MetadataOperation",
    "Operation",
    "ProcessKilledError",
    "SimClock",
    "SimDisk",
    "SimMetadata",
    "SimStore",
    "StoreFault",
    "StoreFaultKind",
    "StoreOperation",
    "check_catalog",
    "check_metadata",
    "check_store",
]
