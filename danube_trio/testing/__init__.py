"""Tools for testing programs that keep their data with danube-trio, and danube-trio itself.

`SimDisk` is a disk in memory that forgets what was not synced, tears what was, and fails on
command: hand it to a log, let your program work, then recover from every state that a crash could
have left. Its module documents the model.
"""

from danube_trio.testing._sim_disk import CrashPoint, CrashState, SimDisk
from danube_trio.testing._sim_faults import OPERATIONS, Fault, Operation, ProcessKilledError

__all__ = [
    "OPERATIONS",
    "CrashPoint",
    "CrashState",
    "Fault",
    "Operation",
    "ProcessKilledError",
    "SimDisk",
]
