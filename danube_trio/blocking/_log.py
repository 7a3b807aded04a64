"""Logs without async. What each call promises stands at its namesake in `danube_trio`.

Interrupts: see `_thread`. The words: see `_doors.surface`.
"""

from __future__ import annotations

from typing import Any

from danube_trio._doors.afar import FarWal
from danube_trio._doors.surface import at_once, method_arguments_of
from danube_trio._engine.log import wal as _wal
from danube_trio._engine.read import follow as _follow
from danube_trio._engine.read import replica as _replica
from danube_trio.blocking._read import Log, Readable
from danube_trio.blocking._thread import ThreadDoor
from danube_trio.blocking._words import waits


class Receipt:
    """Records that were accepted, and what became of them since; see `danube_trio.Receipt`.

    Attributes:
        offsets: the offsets of the records, a `range`.
    """

    def __init__(self, inner: _wal.Receipt, door: ThreadDoor, log: _wal.Wal) -> None:
        self.inner: _wal.Receipt = inner
        self.door: ThreadDoor = door
        self.offsets: range = inner.offsets
        self._log = log

    def __repr__(self) -> str:
        return repr(self.inner)

    @property
    def offset(self) -> int:
        """The offset of the (first) record."""
        return self.offsets.start

    def accepted(self) -> range:
        """The records are in memory, which they are since the receipt exists."""
        return self.offsets

    written = waits(_wal.Receipt.written)

    def durable(self) -> range:
        """Wait until fdatasync returned. Asks for a sync now instead of at the next interval."""
        # Nothing to wait for: also when the log was left meanwhile.
        if self._log.durable_end >= self.offsets.stop:
            return self.offsets
        return self.door.call(self.inner.durable)

    uploaded = waits(_wal.Receipt.uploaded, "Wait until the records are in the object store.")


class Closeable(Readable[Log]):
    """What was opened, and can be closed by any thread."""

    def close(self) -> None:
        """Drain, sync and close, as leaving the block does. Any thread. Idempotent.

        Calls that wait in other threads end with LogClosedError, or with their result. Raises what
        leaving the block raises.
        """
        self._keep.close()  # the block that opened it


class Wal(Closeable[_wal.Wal], FarWal[ThreadDoor]):
    """An open log. Made by `open_wal`; any thread may call it. See `danube_trio.Wal`."""

    @method_arguments_of(_wal.Wal.append)
    def append(self, *args: Any, **more: Any) -> int:
        """Append one message and return its offset when it is as durable as asked."""
        offset: int = self.door.run(self._job(*args, **more))
        return offset

    @method_arguments_of(_wal.Wal.append_batch)
    def append_batch(self, *args: Any, **more: Any) -> range:
        """Append messages as one atomic batch; return their offsets."""
        offsets: range = self.door.run(self._batch_job(*args, **more))
        return offsets

    @method_arguments_of(_wal.Wal.append_nowait)
    def append_nowait(self, *args: Any, **more: Any) -> Receipt:
        """Accept one message now. Raises trio.WouldBlock when there is no room."""
        accept = self._accepting(*args, **more)
        return Receipt(self.door.call_now(accept, late=False), self.door, self.inner)

    @method_arguments_of(_wal.Wal.append_batch_nowait)
    def append_batch_nowait(self, *args: Any, **more: Any) -> Receipt:
        """Accept an atomic batch now. Raises trio.WouldBlock when there is no room."""
        accept = self._accepting_batch(*args, **more)
        return Receipt(self.door.call_now(accept, late=False), self.door, self.inner)

    flush = waits(_wal.Wal.flush, "Wait until everything accepted so far is durable.")
    wait_durable = waits(
        _wal.Wal.wait_durable,
        "Wait until everything below offset `end` is durable, now or in the future.",
    )
    wait_uploaded = waits(
        _wal.Wal.wait_uploaded, "Wait until everything below offset `end` is in the object store."
    )
    seal = waits(
        _wal.Wal.seal,
        "Hand the log over: accept nothing more, upload everything, and say so in the catalog.",
    )
    trim = waits(
        _wal.Wal.trim,
        "Drop records below offset `before` from the front; returns the new `start_offset`.",
    )


class Follower(Closeable[_follow.Follower]):
    """A log seen from outside, read-only. Made by `open_follower`. See `danube_trio.Follower`."""

    refresh = waits(_follow.Follower.refresh, "Look at the directory now.")
    wait_durable = waits(
        _follow.Follower.wait_durable,
        "Wait until everything below offset `end` is durable, now or in the future.",
    )
    statistics = at_once(_follow.Follower.statistics, late=True)


class Replica(Closeable[_replica.Replica]):
    """A log seen through its object store. Made by `open_replica`. See `danube_trio.Replica`."""

    refresh = waits(_replica.Replica.refresh, "Look at the catalog now.")
    wait_durable = waits(
        _replica.Replica.wait_durable,
        "Wait until everything below offset `end` is in the store, now or in the future.",
    )
    statistics = at_once(_replica.Replica.statistics, late=True)
