"""The marks and the state of one log: all of it, in one place, without I/O.

The whole state of a log is one axis of numbers that only move right. Each is an exclusive end, and
each is moved by exactly one owner::

    start_offset <= uploaded_end <= sealed_end <= durable_end <= written_end <= next_offset
      janitor        uploader       flusher       flusher        flusher        append

``durable_end`` is the high watermark: what readers may see. Without a cloud store nobody uploads,
and ``uploaded_end`` moves with ``start_offset``.

What phase the log is in, and what follows from it, is its `life`.

**The way in** (`AppendQueue`). Every append comes through it, of whatever door and level. One rule
makes offsets follow the order of the calls: *who finds room and nobody waiting is accepted at its
call; who does not stands at the end of the queue, and nobody but the first in the queue is accepted
as long as there is one.*

No task serves the queue. Whatever may make room, or ends acceptance, calls `look` in the same step,
and that accepts (or refuses) from the front, as many as it can. Therefore

* an append is in the queue, or accepted, or refused, or has left, and each change is one step, in
  which nothing else happens: there is no hand-over for a cancellation, or for the next one, to
  fall into;
* the queue is empty unless the log is open and has no room for the first: nobody waits in a log
  that is left, broken, sealed or fenced;
* how many wait is the length of the queue, and nobody counts.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Protocol

import attrs

from danube_trio._core.clocks import MAX_AHEAD, next_time
from danube_trio._core.frame import Batch, Records
from danube_trio._core.life import Life, Phase
from danube_trio.errors import UnexpectedOffsetError


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
        return f"Marks({', '.join(f'{n}={getattr(self, n)}' for n in Marks.__slots__)})"

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
    """Accepted batches on their way to the writer, and the bounds on them.

    ``held_bytes`` counts from acceptance until the batch was written (or the log broke), so it
    bounds what the process holds for the disk, wherever on the way it is.

    Attributes:
        held_back: nothing has room, for a reason of its own: too much waits for the object store.

    **Append times** do not fall when the clock goes back, unless it is far behind (`next_time`).
    What begins where they fall is a block, and a segment, of its own: inside both they never do.
    """

    __slots__ = (
        "_before",  # the newest time before they got so far ahead, if they did
        "_fell",
        "_queue",
        "ahead_us",
        "held_back",
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
        self.held_back = False
        self.queued_bytes = 0
        self.held_bytes = 0
        self.peak_bytes = 0
        self.limit_bytes = limit_bytes
        self.last_time = last_time

    def __len__(self) -> int:
        return len(self._queue)

    def has_room(self, size_bytes: int) -> bool:
        """Whether a batch of this size may be accepted now. An empty intake takes any."""
        fits = self.held_bytes + size_bytes <= self.limit_bytes or not self.held_bytes
        return fits and not self.held_back

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


class Newcomer(Protocol):
    """An append that has not been accepted: what it brings, and how it is told.

    Exactly one of the two methods is called, once, unless it leaves the queue before. Both belong
    to the step of somebody else: they must neither raise nor wait.

    Attributes:
        records, size_bytes: what it brings.
        expected_offset: accept it only if this is the next one; None is any.
    """

    @property
    def records(self) -> Records: ...
    @property
    def size_bytes(self) -> int: ...
    @property
    def expected_offset(self) -> int | None: ...

    def accepted(self, first: int) -> None:
        """It has its offsets, from `first` on; called in the step in which it got them."""

    def refused(self, error: BaseException) -> None:
        """It was not accepted, and never will be."""


def check_expected(expected_offset: int | None, next_offset: int) -> None:
    """Raise UnexpectedOffsetError if another offset is the next one than the caller expects."""
    if expected_offset is not None and (
        expected_offset.__class__ is not int or expected_offset != next_offset
    ):
        raise UnexpectedOffsetError(expected_offset, next_offset)


class AppendQueue:
    """The way into one log.

    Attributes:
        peak: the most that ever waited.

    Args:
        accept: takes offsets for records that are accepted, and queues them; returns the first.
    """

    def __init__(
        self, log: LogState, intake: Intake, accept: Callable[[Records, int], int]
    ) -> None:
        self._log = log
        self._intake = intake
        self._accept = accept
        self._queue: OrderedDict[Newcomer, None] = OrderedDict()
        self.peak = 0

    def __len__(self) -> int:
        """How many wait."""
        return len(self._queue)

    def must_wait(self, size_bytes: int) -> bool:
        """Whether an append of this size, coming now, has to stand in the queue."""
        full = bool(self._queue) or not self._intake.has_room(size_bytes)
        return full and self._log.phase is Phase.OPEN

    def accept(self, records: Records, size_bytes: int, expected_offset: int | None) -> int:
        """Accept what need not wait; returns the first offset. Raises if it is refused."""
        log = self._log
        if log.phase is not Phase.OPEN:
            raise log.refusal()
        next_offset = log.marks.next_offset
        if expected_offset is not None:
            check_expected(expected_offset, next_offset)
        if not len(records):  # an empty batch: nothing becomes of it
            return next_offset
        return self._accept(records, size_bytes)

    def enter(self, newcomer: Newcomer) -> None:
        """Accept or refuse it now, or have it stand in the queue."""
        if self.must_wait(newcomer.size_bytes):
            self._queue[newcomer] = None
            self.peak = max(self.peak, len(self._queue))
        else:
            self._decide(newcomer)

    def leave(self, newcomer: Newcomer) -> bool:
        """Give up waiting. False if it does not wait: it was accepted or refused."""
        if newcomer not in self._queue:
            return False
        del self._queue[newcomer]
        self.look()  # the next one may be smaller
        return True

    def look(self) -> None:
        """There may be room, or no acceptance any more: decide about who waits, in order."""
        queue, log, fits = self._queue, self._log, self._intake.has_room
        while queue and (log.phase is not Phase.OPEN or fits(next(iter(queue)).size_bytes)):
            self._decide(queue.popitem(last=False)[0])

    def _decide(self, newcomer: Newcomer) -> None:
        try:
            first = self.accept(newcomer.records, newcomer.size_bytes, newcomer.expected_offset)
        except BaseException as error:
            newcomer.refused(error)  # all of them, also its clock's: they belong to the caller
        else:
            newcomer.accepted(first)
