"""The log for scripts and threads, without any async.

::

    from danube_trio.blocking import open_wal

    with open_wal(WalConfig(dir="events")) as wal:
        wal.append(b"order 17 paid")
        for message in wal.reader(end="current"):
            print(message.payload)

The engine runs in a thread of its own (`danube_trio._host`). Everything here may be called from any
number of threads at once; a reader belongs to one at a time. A call that waits ends when the log is
closed by another thread. In the main thread Ctrl-C ends it: `docs/doors.md` has the rules.
"""

from __future__ import annotations

from danube_trio.blocking._log import Follower, Receipt, Replica, Wal
from danube_trio.blocking._open import open_follower, open_replica, open_store, open_wal
from danube_trio.blocking._read import Reader

__all__ = [
    "Follower",
    "Reader",
    "Receipt",
    "Replica",
    "Wal",
    "open_follower",
    "open_replica",
    "open_store",
    "open_wal",
]
