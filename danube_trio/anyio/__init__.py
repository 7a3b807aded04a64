"""The log for programs that run on anyio or asyncio; under trio it is the log itself.

::

    from danube_trio.anyio import open_wal

    async with open_wal(WalConfig(dir="events")) as wal:
        await wal.append(b"order 17 paid")

Everything is as in `danube_trio`, and so are the types. On asyncio the engine runs in a thread of
its own (`danube_trio._host`), to which calls are handed over; `docs/doors.md` has what that means
for cancellation, exceptions and speed. Needs the package anyio.
"""

from __future__ import annotations

from danube_trio.anyio._open import open_follower, open_replica, open_store, open_wal
from danube_trio.anyio._stream import ReaderStream

__all__ = ["ReaderStream", "open_follower", "open_replica", "open_store", "open_wal"]
