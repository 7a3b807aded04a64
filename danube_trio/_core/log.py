"""The marks and the state of one log: all of it, in one place, without I/O.

The whole state of a log is one axis of numbers that only move right. Each is an exclusive end, and
each is moved by exactly one owner::

    start_offset <= uploaded_end <= sealed_end <= durable_end <= written_end <= next_offset
      janitor        uploader       flusher       flusher        flusher        append

``durable_end`` is the high watermark: what readers may see. Without a cloud store nobody uploads,
and ``uploaded_end`` moves with ``start_offset``.

What phase the log is in, and what follows from it, is its `life`.
"""

from __future__ import annotations

from collections import deque

import attrs

from danube_trio._core.clocks import MAX_AHEAD, next_time
from danube_trio._core.frame import Batch, Records
from danube_trio._core.life import Life

__all__ = ["Intake", "LogState", "Marks"]


class Marks:
    """The axis. Every change goes through a method, and every method ends in the check."""

    __slots__ = (
        "durable_end",  # on disk, acknowledged, visible: fdatasync returned
        "next_offset",  # will be given to the next record accepted
        "sealed_end",  # in segments that never change again
        "start_offset",  # before it everything was trimmed
        "uploaded_end",  # in verified objects that the catalog names
        "written_end",  # handed to the operating system: write returned
    )

    def __init__(
        self,
        start_offset: int = 0,
        sealed_end: int = 0,
        next_offset: int = 0,
        *,
        uploaded_end: int = 0,
    ) -> None:
        self.start_offset = start_offset
        self.uploaded_end = max(start_offset, uploaded_end)
        self.sealed_end = sealed_end
        self.durable_end = next_offset
        self.written_end = next_offset
        self.next_offset = next_offset
        self._check()

    def _check(self) -> None:
        assert (
            0
            <= self.start_offset
            <= self.uploaded_end
            <= self.sealed_end
            <= self.durable_end
            <= self.written_end
            <= self.next_offset
        ), self

    def __repr__(self) -> str:
        return f"Marks({', '.join(f'{n}={getattr(self, n)}' for n in self.__slots__)})"

    def accept(self, count: int) -> int:
        """`count` records were accepted; returns the offset of the first."""
        first = self.next_offset
        self.next_offset = first + count
        return first

    def written(self, end: int) -> None:
        """Write returned for everything below `end`."""
        assert end >= self.written_end, (end, self)
        self.written_end = end
        self._check()

    def durable(self, end: int) -> None:
        """Sync returned for everything below `end`."""
        assert end >= self.durable_end, (end, self)
        self.durable_end = end
        self._check()

    def sealed(self, end: int) -> None:
        """The segment that ends at `end` was sealed."""
        assert end >= self.sealed_end, (end, self)
        self.sealed_end = end
        self._check()

    def trimmed(self, start: int) -> None:
        """Everything below `start` is gone, durably."""
        assert start >= self.start_offset, (start, self)
        self.start_offset = start
        self.uploaded_end = max(self.uploaded_end, start)
        self._check()

    def uploaded(self, end: int) -> None:
        """The catalog names verified objects for everything below `end`."""
        assert end >= self.uploaded_end, (end, self)
        self.uploaded_end = end
        self._check()

    def settle_in_memory(self, start: int) -> None:
        """A log without a directory: acceptance moves all marks; memory holds all from `start`."""
        self.start_offset = self.uploaded_end = max(start, self.start_offset)
        self.sealed_end = self.durable_end = self.written_end = self.next_offset
        self._check()


@attrs.define(eq=False)
class _Accepted:
    """One accepted batch, atomic: it is framed, written and recovered as a whole."""

    size_bytes: int
    time: int
    records: Records


class Intake:
    """Accepted batches on their way to the writer, and the bound on them.

    ``held_bytes`` counts from acceptance until the batch was written (or the log broke), so it
    bounds what the process holds for the disk, wherever on the way it is.

    **Append times** do not fall when the clock goes back, unless it is far behind (`next_time`).
    What begins where they fall is a block, and a segment, of its own: inside both they never do.
    """

    __slots__ = (
        "_before",  # the newest time before they got so far ahead, if they did
        "_fell",
        "_queue",
        "ahead_us",
        "held_bytes",
        "last_time",
        "limit_bytes",
        "peak_bytes",
        "queued_bytes",
    )

    def __init__(
        self, limit_bytes: int, last_time: int, ahead_us: int = int(MAX_AHEAD * 1e6)
    ) -> None:
        self._queue: deque[_Accepted] = deque()
        self._before = 0
        self._fell = False
        self.ahead_us = ahead_us
        self.queued_bytes = 0
        self.held_bytes = 0
        self.peak_bytes = 0
        self.limit_bytes = limit_bytes
        self.last_time = last_time

    def __len__(self) -> int:
        return len(self._queue)

    def has_room(self, size_bytes: int) -> bool:
        """Whether a batch of this size may be accepted now. An empty intake takes any."""
        return self.held_bytes + size_bytes <= self.limit_bytes or not self.held_bytes

    def put(self, records: Records, size_bytes: int, now: int) -> None:
        """Queue a batch that was accepted `now` (us)."""
        last = self.last_time
        if 0 <= now - last <= self.ahead_us:
            self.last_time = now
        else:
            self.last_time, self._before = next_time(last, self._before, now, self.ahead_us)
            self._fell = self._fell or self.last_time < last
        self._queue.append(_Accepted(size_bytes, self.last_time, records))
        self.queued_bytes += size_bytes
        self.held_bytes += size_bytes
        if self.held_bytes > self.peak_bytes:
            self.peak_bytes = self.held_bytes

    def take(self, limit_bytes: int) -> tuple[list[Batch], int]:
        """Whole batches up to `limit_bytes` (at least one), and their size in bytes.

        Where times fall, the next ones are left for the next call.
        """
        taken: list[Batch] = []
        size = 0
        queue, fell = self._queue, self._fell
        while queue and (not taken or size + queue[0].size_bytes <= limit_bytes):
            if fell and taken and queue[0].time < taken[-1][0]:
                break
            batch = queue.popleft()
            size += batch.size_bytes
            taken.append((batch.time, batch.records))
        self.queued_bytes -= size
        return taken, size

    def release(self, size_bytes: int) -> None:
        """Batches of this size were written."""
        self.held_bytes -= size_bytes
        assert self.held_bytes >= self.queued_bytes >= 0

    def discard(self) -> None:
        """The log broke: nothing of what is queued will be written."""
        self._queue.clear()
        self.queued_bytes = self.held_bytes = 0


class LogState(Life):
    """A log's life and marks, and what is asked of the flusher and the uploader.

    Attributes:
        sync_wanted: somebody waits until everything below this offset is durable.
        upload_wanted: somebody waits until everything below this offset is uploaded.
        roll_wanted: the active segment shall be sealed at the next occasion.
    """

    __slots__ = ("marks", "roll_wanted", "sync_wanted", "upload_wanted")

    def __init__(self, marks: Marks) -> None:
        super().__init__()
        self.marks = marks
        self.sync_wanted = 0
        self.upload_wanted = 0
        self.roll_wanted = False

    def want_durable(self, end: int) -> None:
        """Ask the flusher to sync everything below `end`."""
        if end > self.sync_wanted:
            self.sync_wanted = end

    @property
    def sync_due(self) -> bool:
        """Whether somebody waits for a sync."""
        return self.sync_wanted > self.marks.durable_end
