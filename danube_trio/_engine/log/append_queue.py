"""Room: what a log may hold in memory for the disk, and the queue of the appends that wait for it.

Every append comes through here, of whatever door and level. One rule makes offsets follow the order
of the calls: *who finds room and nobody waiting is accepted at its call; who does not stands at the
end of the queue, and nobody but the first in the queue is accepted as long as there is one.*

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

from collections import OrderedDict
from typing import Protocol

from danube_trio._core.frame import Records
from danube_trio._core.life import Phase
from danube_trio._core.log import Intake, LogState, Marks
from danube_trio._core.meters import Meters
from danube_trio.errors import UnexpectedOffsetError

__all__ = ["AppendQueue", "Newcomer", "check_expected"]


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
        ...

    def refused(self, error: BaseException) -> None:
        """It was not accepted, and never will be."""
        ...


class _Limit(Protocol):
    @property
    def full(self) -> bool: ...


class _Log(Protocol):
    """What the queue needs of its log: see `Engine`."""

    intake: Intake
    log: LogState
    marks: Marks
    meters: Meters

    @property
    def cloud(self) -> _Limit | None: ...
    def accept(self, records: Records, size_bytes: int) -> int: ...


def check_expected(expected_offset: int | None, next_offset: int) -> None:
    """Raise UnexpectedOffsetError if another offset is the next one than the caller expects."""
    if expected_offset is not None and (
        expected_offset.__class__ is not int or expected_offset != next_offset
    ):
        raise UnexpectedOffsetError(expected_offset, next_offset)


class AppendQueue:
    """The way into one log."""

    def __init__(self, engine: _Log) -> None:
        self._engine = engine
        self._queue: OrderedDict[Newcomer, None] = OrderedDict()

    def __len__(self) -> int:
        """How many wait."""
        return len(self._queue)

    def must_wait(self, size_bytes: int) -> bool:
        """Whether an append of this size, coming now, has to stand in the queue."""
        full = bool(self._queue) or not self._fits(size_bytes)
        return full and self._engine.log.phase is Phase.OPEN

    def accept(self, records: Records, size_bytes: int, expected_offset: int | None) -> int:
        """Accept what need not wait; returns the first offset. Raises if it is refused."""
        engine = self._engine
        if engine.log.phase is not Phase.OPEN:
            raise engine.log.refusal()
        next_offset = engine.marks.next_offset
        if expected_offset is not None:
            check_expected(expected_offset, next_offset)
        if not len(records):  # an empty batch: nothing becomes of it
            return next_offset
        return engine.accept(records, size_bytes)

    def enter(self, newcomer: Newcomer) -> None:
        """Accept or refuse it now, or have it stand in the queue."""
        if self.must_wait(newcomer.size_bytes):
            self._queue[newcomer] = None
            self._engine.meters.appends_wait(len(self._queue))
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
        queue, log = self._queue, self._engine.log
        while queue and (log.phase is not Phase.OPEN or self._fits(next(iter(queue)).size_bytes)):
            self._decide(queue.popitem(last=False)[0])

    def _fits(self, size_bytes: int) -> bool:
        engine = self._engine
        cloud = engine.cloud
        return engine.intake.has_room(size_bytes) and (cloud is None or not cloud.full)

    def _decide(self, newcomer: Newcomer) -> None:
        try:
            first = self.accept(newcomer.records, newcomer.size_bytes, newcomer.expected_offset)
        except BaseException as error:
            newcomer.refused(error)  # all of them, also its clock's: they belong to the caller
        else:
            newcomer.accepted(first)
