"""Tools for testing programs that keep their data with danube-trio, and danube-trio itself.

`SimDisk` is a disk in memory that forgets what was not synced, tears what was, and fails on
command: hand it to a log, let your program work, then recover from every state that a crash could
have left. Its module documents the model.

`SimStore` is an object store in memory that loses answers, carries requests out late, and lets a
test stop its clients at every step. `check_store` checks any store against the contract of
`danube_trio.cloud.CloudStore`.
"""

from danube_trio.testing._check_store import check_store
from danube_trio.testing._cloud_faults import (
    STORE_OPERATIONS,
    StoreFault,
    StoreFaultKind,
    StoreOperation,
)
from danube_trio.testing._sim_cloud import SimStore
from danube_trio.testing._sim_disk import CrashPoint, CrashState, SimDisk
from danube_trio.testing._sim_faults import OPERATIONS, Fault, Operation, ProcessKilledError

__all__ = [
    "OPERATIONS",
    "STORE_OPERATIONS",
    "CrashPoint",
    "CrashState",
    "Fault",
    "Operation",
    "ProcessKilledError",
    "SimDisk",
    "SimStore",
    "StoreFault",
    "StoreFaultKind",
    "StoreOperation",
    "check_store",
]
