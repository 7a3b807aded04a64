"""Logs without async. What each call promises stands at its namesake in `danube_trio`.

Interrupts: see `_thread`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from danube_trio._core.frame import Records
from danube_trio._core.stats import WalStatistics
from danube_trio._engine.log import wal as _wal
from danube_trio._engine.log.encode import Appendable
from danube_trio._engine.read import follow as _follow
from danube_trio._engine.read import replica as _replica
from danube_trio._engine.thread.append_job import Appender, AppendJob
from danube_trio._engine.thread.engine_thread import Hold, LeaveJob
from danube_trio.blocking._read import Readable
from danube_trio.blocking._thread import ThreadDoor
from danube_trio.config import Durability

__all__ = ["Closeable", "Follower", "Receipt", "Replica", "Wal"]


class Receipt:
    """Records that were accepted, and what became of them since; see `danube_trio.Receipt`.

    Attributes:
        offsets: the offsets of the records, a `range`.
    """

    def __init__(self, inner: _wal.Receipt, door: ThreadDoor, log: _wal.Wal) -> None:
        self._inner = inner
        self._door = door
        self._log = log
        self.offsets = inner.offsets

    def __repr__(self) -> str:
        return repr(self._inner)

    @property
    def offset(self) -> int:
        """The offset of the (first) record."""
        return self.offsets.start

    def accepted(self) -> range:
        """The records are in memory, which they are since the receipt exists."""
        return self.offsets

    def written(self) -> range:
        """Wait until write returned: the records survive a crash of the process."""
        return self._door.call(self._inner.written)

    def durable(self) -> range:
        """Wait until fdatasync returned. Asks for a sync now instead of at the next interval."""
        # Nothing to wait for: also when the log was left meanwhile.
        if self._log.durable_end >= self.offsets.stop:
            return self.offsets
        return self._door.call(self._inner.durable)

    def uploaded(self) -> range:
        """Wait until the records are in the object store."""
        return self._door.call(self._inner.uploaded)


class Closeable(Readable):
    """What was opened, and can be closed by any thread."""

    def __init__(
        self,
        inner: _wal.Wal | _follow.Follower | _replica.Replica,
        door: ThreadDoor,
        hold: Hold,
        keep: object,
    ) -> None:
        super().__init__(inner, door, keep)
        self._hold = hold

    def close(self) -> None:
        """Drain, sync and close, as leaving the block does. Any thread. Idempotent.

        Calls that wait in other threads end with LogClosedError, or with their result. Raises what
        leaving the block raises.
        """
        self._door.run(LeaveJob(self._door.reply, self._hold), withdraw=False)


class Wal(Closeable):
    """An open log. Made by `open_wal`; any thread may call it. See `danube_trio.Wal`."""

    def __init__(
        self, inner: _wal.Wal, door: ThreadDoor, hold: Hold, keep: object, appender: Appender
    ) -> None:
        super().__init__(inner, door, hold, keep)
        self._inner = inner
        self._appender = appender

    @property
    def phase(self) -> str:
        """``open``, ``sealed``, ``fenced``, ``closing``, ``closed`` or ``broken``."""
        return self._inner.phase

    @property
    def inner(self) -> _wal.Wal:
        """The engine's own log, for its thread."""
        return self._inner

    @property
    def door(self) -> ThreadDoor:
        """The way to that thread."""
        return self._door

    @property
    def log_id(self) -> str:
        """What identifies the log, wherever it is: the same for copies of it, and for ever."""
        return self._inner.log_id

    @property
    def next_offset(self) -> int:
        """The offset that the next record will get."""
        return self._inner.next_offset

    @property
    def uploaded_end(self) -> int:
        """The first offset that is not in the object store; without one, `start_offset`."""
        return self._inner.uploaded_end

    def append(
        self,
        message: Appendable,
        *,
        attributes: Mapping[str, str] | None = None,
        routing_key: str | None = None,
        schema_id: int | None = None,
        schema_version: int | None = None,
        durability: Durability | None = None,
        expected_offset: int | None = None,
    ) -> int:
        """Append one message and return its offset when it is as durable as asked."""
        dress = (attributes, routing_key, schema_id, schema_version)
        records, size = self._appender.encode(message, dress)
        offset: int = self._append(records, size, False, durability, expected_offset)
        return offset

    def append_batch(
        self,
        messages: Iterable[Appendable],
        *,
        durability: Durability | None = None,
        expected_offset: int | None = None,
    ) -> range:
        """Append messages as one atomic batch; return their offsets."""
        records, size = self._appender.encode_batch(messages)
        offsets: range = self._append(records, size, True, durability, expected_offset)
        return offsets

    def _append(
        self,
        records: Records,
        size_bytes: int,
        batch: bool,
        level: Durability | None,
        expected_offset: int | None,
    ) -> Any:
        door = self._door
        job = AppendJob(
            door.reply, self._appender, records, size_bytes, batch, level, expected_offset
        )
        return door.run(job)

    def append_nowait(
        self,
        message: Appendable,
        *,
        attributes: Mapping[str, str] | None = None,
        routing_key: str | None = None,
        schema_id: int | None = None,
        schema_version: int | None = None,
        expected_offset: int | None = None,
    ) -> Receipt:
        """Accept one message now. Raises trio.WouldBlock when there is no room."""
        dress = (attributes, routing_key, schema_id, schema_version)
        return self._accept(*self._appender.encode(message, dress), expected_offset)

    def append_batch_nowait(
        self, messages: Iterable[Appendable], *, expected_offset: int | None = None
    ) -> Receipt:
        """Accept an atomic batch now. Raises trio.WouldBlock when there is no room."""
        records, size = self._appender.encode_batch(messages)
        if not len(records):
            raise ValueError("messages is empty: a receipt needs at least one record")
        return self._accept(records, size, expected_offset)

    def _accept(self, records: Records, size_bytes: int, expected_offset: int | None) -> Receipt:
        appender = self._appender
        receipt = self._door.call_now(
            lambda: appender.append_nowait(records, size_bytes, expected_offset), late=False
        )
        return Receipt(receipt, self._door, self._inner)

    def flush(self) -> None:
        """Wait until everything accepted so far is durable."""
        self._door.call(self._inner.flush)

    def wait_durable(self, end: int) -> None:
        """Wait until everything below offset `end` is durable, now or in the future."""
        self._door.call(lambda: self._inner.wait_durable(end))

    def wait_uploaded(self, end: int) -> None:
        """Wait until everything below offset `end` is in the object store."""
        self._door.call(lambda: self._inner.wait_uploaded(end))

    def seal(self) -> int:
        """Hand the log over: accept nothing more, upload everything, and say so in the catalog."""
        return self._door.call(self._inner.seal)

    def trim(self, before: int, *, whole_segments: bool = False) -> int:
        """Drop records below offset `before` from the front; returns the new `start_offset`."""
        return self._door.call(lambda: self._inner.trim(before, whole_segments=whole_segments))

    def statistics(self) -> WalStatistics:
        """Everything that can be counted, at this moment."""
        return self._door.call_now(self._inner.statistics)


class Follower(Closeable):
    """A log seen from outside, read-only. Made by `open_follower`. See `danube_trio.Follower`."""

    def __init__(self, inner: _follow.Follower, door: ThreadDoor, hold: Hold, keep: object) -> None:
        super().__init__(inner, door, hold, keep)
        self._inner = inner

    def refresh(self) -> None:
        """Look at the directory now."""
        self._door.call(self._inner.refresh)

    def wait_durable(self, end: int) -> None:
        """Wait until everything below offset `end` is durable, now or in the future."""
        self._door.call(lambda: self._inner.wait_durable(end))

    def statistics(self) -> _follow.FollowerStatistics:
        """Everything that can be counted, at this moment."""
        return self._door.call_now(self._inner.statistics)


class Replica(Closeable):
    """A log seen through its object store. Made by `open_replica`. See `danube_trio.Replica`."""

    def __init__(self, inner: _replica.Replica, door: ThreadDoor, hold: Hold, keep: object) -> None:
        super().__init__(inner, door, hold, keep)
        self._inner = inner

    def refresh(self) -> None:
        """Look at the catalog now."""
        self._door.call(self._inner.refresh)

    def wait_durable(self, end: int) -> None:
        """Wait until everything below offset `end` is in the store, now or in the future."""
        self._door.call(lambda: self._inner.wait_durable(end))

    def statistics(self) -> _replica.ReplicaStatistics:
        """Everything that can be counted, at this moment."""
        return self._door.call_now(self._inner.statistics)
