"""Waiting for a mark, and waking one task: the two primitives of the hot path.

`WatchedMarks` are the marks of an open log with those who wait for each: to move one wakes them, in
the same step, so no mark can move without.

Between being listed as waiting and waiting no KeyboardInterrupt may strike: hence the protection.
Both sit directly on `trio.lowlevel`, because they run once per append: an `AsyncValue` with 1000
waiters costs about 100 us an assignment, an `Event` per append an object and two calls more.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from typing import Protocol

import attrs
import outcome
import trio
import trio_util  # pyright: ignore[reportMissingTypeStubs]  # wrapped here, once
from trio.lowlevel import (
    Abort,
    Task,
    current_task,
    enable_ki_protection,
    reschedule,
    wait_task_rescheduled,
)

from danube_trio._core.log import Marks

# Who waits where nothing can be cancelled: a task, or a function that is told in its stead, with
# None or an error; in the step of somebody else, so it must not raise.
Waiter = Task | Callable[[BaseException | None], object]


class RepeatedEvent(Protocol):
    """An event that comes again and again, for any number of waiters."""

    def set(self) -> None:
        """Wake all who wait now."""

    async def wait(self) -> None:
        """Wait for the next one."""


def repeated_event() -> RepeatedEvent:
    """That of trio-util, which has no types."""
    event: RepeatedEvent = trio_util.RepeatedEvent()
    return event


def wake(waiter: Waiter, error: BaseException | None = None) -> None:
    """Tell it: the wait is over."""
    if not isinstance(waiter, Task):
        waiter(error)
    elif error is None:
        reschedule(waiter)
    else:
        reschedule(waiter, outcome.Error(error))


def _never(_: object) -> Abort:
    return Abort.FAILED


class Doorbell:
    """Wakes one task. Rings that come while nobody waits count as one, for the next wait."""

    __slots__ = ("_rung", "_task")

    def __init__(self) -> None:
        self._task: Task | None = None
        self._rung = False

    def ring(self) -> None:
        """Wake the waiting task, or let the next wait return at once."""
        task = self._task
        if task is None:
            self._rung = True
        else:
            self._task = None
            reschedule(task)

    def clear(self) -> None:
        """Forget rings so far: what they announced is about to be looked at."""
        self._rung = False

    @enable_ki_protection
    async def wait(self) -> None:
        """Wait for a ring. Always a checkpoint. One task at a time."""
        if self._rung:
            self._rung = False
            await trio.lowlevel.checkpoint()
            return
        assert self._task is None, "one task at a time"
        self._task = current_task()

        def abort(_: object) -> Abort:
            self._task = None
            return Abort.SUCCEEDED

        await wait_task_rescheduled(abort)


@attrs.frozen
class Bells:
    """One for each task of a log."""

    writer: Doorbell = attrs.Factory(Doorbell)
    janitor: Doorbell = attrs.Factory(Doorbell)
    uploader: Doorbell = attrs.Factory(Doorbell)
    sweeper: Doorbell = attrs.Factory(Doorbell)

    def ring_all(self) -> None:
        """Wake every task, to look at what changed."""
        for bell in (self.writer, self.janitor, self.uploader, self.sweeper):
            bell.ring()


class OffsetWaiters:
    """Who waits until a mark reaches an offset.

    Appends wait in the order of their offsets and cannot be cancelled once accepted: a plain queue.
    Everything else (receipts, readers, flush) comes in any order and can be cancelled: a heap, from
    which the cancelled ones are cleared when they are the majority.
    """

    __slots__ = ("_cancelled", "_heap", "_number", "_queue")

    def __init__(self) -> None:
        self._queue: deque[tuple[int, Waiter]] = deque()
        self._heap: list[tuple[int, int, list[Task | None]]] = []
        self._number = 0
        self._cancelled = 0  # at least as many as are still in the heap

    def __len__(self) -> int:
        return len(self._queue) + sum(1 for *_, cell in self._heap if cell[0] is not None)

    @enable_ki_protection
    async def wait_shielded(self, end: int) -> None:
        """Wait for the mark to reach `end`; ends are handed in in order. Ignores cancellation."""
        self._queue.append((end, current_task()))
        await wait_task_rescheduled(_never)

    def add(self, end: int, waiter: Waiter) -> None:
        """Have it told, as if it had called `wait_shielded`; a task must be waiting already."""
        self._queue.append((end, waiter))

    @enable_ki_protection
    async def wait(self, end: int) -> None:
        """Wait for the mark to reach `end`. Can be cancelled."""
        cell: list[Task | None] = [current_task()]
        self._number += 1
        heapq.heappush(self._heap, (end, self._number, cell))

        def abort(_: object) -> Abort:
            cell[0] = None
            self._cancelled += 1
            if self._cancelled > 64 and self._cancelled * 2 > len(self._heap):
                self._heap = [entry for entry in self._heap if entry[2][0] is not None]
                heapq.heapify(self._heap)
                self._cancelled = 0
            return Abort.SUCCEEDED

        await wait_task_rescheduled(abort)

    def release(self, mark: int) -> None:
        """The mark moved: wake everyone whose offset it has reached."""
        queue = self._queue
        while queue and queue[0][0] <= mark:
            waiter = queue.popleft()[1]
            if isinstance(waiter, Task):  # as `wake` does; a call less for each append
                reschedule(waiter)
            else:
                wake(waiter)
        heap = self._heap
        while heap and heap[0][0] <= mark:
            task = heapq.heappop(heap)[2][0]
            if task is not None:
                reschedule(task)

    def fail(self, make_error: Callable[[], BaseException], *, beyond: int = -1) -> None:
        """Wake everyone who waits for more than `beyond` with an error of their own."""
        failed: list[Waiter] = [waiter for end, waiter in self._queue if end > beyond]
        self._queue = deque(entry for entry in self._queue if entry[0] <= beyond)
        failed += [cell[0] for end, _, cell in self._heap if end > beyond and cell[0] is not None]
        self._heap = [entry for entry in self._heap if entry[0] <= beyond]
        heapq.heapify(self._heap)
        for waiter in failed:
            wake(waiter, make_error())


class WatchedMarks(Marks):
    """The axis of an open log, and who waits for each mark.

    Attributes:
        early_visible: readers may see what is written, before it is durable.
        on_written, on_durable, on_visible, on_uploaded: who waits.
    """

    __slots__ = ("early_visible", "on_durable", "on_uploaded", "on_visible", "on_written")

    def __init__(
        self,
        start_offset: int = 0,
        sealed_end: int = 0,
        next_offset: int = 0,
        *,
        uploaded_end: int = 0,
        early_visible: bool = False,
    ) -> None:
        super().__init__(start_offset, sealed_end, next_offset, uploaded_end=uploaded_end)
        self.early_visible = early_visible
        self.on_written = OffsetWaiters()
        self.on_durable = OffsetWaiters()
        self.on_visible = OffsetWaiters()
        self.on_uploaded = OffsetWaiters()

    @property
    def visible_end(self) -> int:
        """Readers may see records below it."""
        return self.written_end if self.early_visible else self.durable_end

    def written(self, end: int) -> None:
        """Write returned for everything below `end`."""
        super().written(end)
        self.on_written.release(end)
        if self.early_visible:
            self.on_visible.release(end)

    def durable(self, end: int) -> None:
        """Sync returned for everything below `end`."""
        super().durable(end)
        if not self.early_visible:
            self.on_visible.release(end)
        self.on_durable.release(end)

    def uploaded(self, end: int) -> None:
        """The catalog names verified objects for everything below `end`."""
        super().uploaded(end)
        self.on_uploaded.release(end)

    def settle_in_memory(self, start: int) -> None:
        """A log without a directory: acceptance moves all marks; memory holds all from `start`."""
        super().settle_in_memory(start)
        for waiters in (self.on_written, self.on_durable, self.on_visible):
            waiters.release(self.next_offset)
