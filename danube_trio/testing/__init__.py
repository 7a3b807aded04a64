"""Tools for testing programs that keep their data with danube-trio, and danube-trio itself.

`SimDisk` is a disk in memory that forgets what was not synced, tears what was, and fails on
command: hand it to a log, let your program work, then recover from every state that a crash could
have left. Its module documents the model.

`SimMetadata` is a metadata store whose answers get lost on command, and `check_metadata` checks
that a metadata store keeps the rules of `danube_trio.metadata.MetadataStore`.
"""

from danube_trio.testing._check_metadata import check_metadata
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
    "CrashPoint",
    "CrashState",
    "Fault",
    "MetadataFault",
    "MetadataOperation",
    "Operation",
    "ProcessKilledError",
    "SimDisk",
    "SimMetadata",
    "check_metadata",
]
