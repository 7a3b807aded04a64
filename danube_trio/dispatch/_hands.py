"""Entered messages that are not ready: in consumers' hands, waiting for redelivery, or blocked.

No trio, no clock. Both what waits and what is in flight have a time at which something becomes of
them. The earliest one is asked for after each delivery and each failure, so it must not cost a look
at all of them: see `_Times`.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from math import inf

from danube_trio.dispatch._ledger import Entry, State

__all__ = ["Hands"]


class Hands:
    """Messages by what they wait for. Each change of an entry's state to or from these is here."""

    def __init__(self) -> None:
        self.in_flight: dict[int, Entry] = {}
        self.blocked: dict[int, Entry] = {}
        self.waiting = 0
        self._due = _Times(_due_at)
        self._deadlines = _Times(_deadline_of)

    def give(self, entry: Entry, consumer: object, serial: int, deadline: float) -> None:
        """A consumer has it now."""
        entry.state = State.IN_FLIGHT
        entry.consumer = consumer
        entry.serial = serial
        entry.deadline = deadline
        entry.excused = False
        self.in_flight[entry.offset] = entry
        self._deadlines.add(entry, len(self.in_flight))

    def wait(self, entry: Entry, due: float) -> None:
        """It is to be delivered again when `due` has come."""
        entry.state = State.WAITING
        entry.due = due
        self.waiting += 1
        self._due.add(entry, self.waiting)

    def block(self, entry: Entry) -> None:
        """It stays until somebody decides."""
        entry.state = State.BLOCKED
        self.blocked[entry.offset] = entry

    def take_back(self, entry: Entry) -> None:
        """It is in none of these states any more; which one is next is for the caller to say."""
        match entry.state:
            case State.IN_FLIGHT:
                del self.in_flight[entry.offset]
                entry.consumer = None
            case State.WAITING:
                self.waiting -= 1
            case State.BLOCKED:
                del self.blocked[entry.offset]
            case _:
                pass

    def timed_out(self, now: float) -> Entry | None:
        """What has been in a consumer's hands for too long, if anything has."""
        return self._deadlines.reached(now)

    def next_due(self, now: float) -> Entry | None:
        """A waiting message whose time has come."""
        return self._due.reached(now)

    def next_deadline(self) -> float:
        """The earliest deadline of what is in flight."""
        return self._deadlines.first()

    def next_wait(self) -> float:
        """When the next waiting message is due."""
        return self._due.first()


class _Times:
    """Deliveries by a time that may be put off, or end to mean anything: a heap that lags behind.

    A delivery is in it at most once, with a time that is not later than its real one. The first one
    is put right when it is looked at; those that mean nothing are cleared when they are the
    majority. So each delivery costs what a heap costs, however many there are.

    Args:
        real: the time of an entry in its present state; inf: none.
    """

    def __init__(self, real: Callable[[Entry], float]) -> None:
        self._real = real
        self._heap: list[tuple[float, int, Entry]] = []

    def add(self, entry: Entry, live: int) -> None:
        """A delivery; so many mean something, this one included."""
        time = self._real(entry)
        if time == inf:
            return
        heap = self._heap
        if len(heap) > 64 and len(heap) > 2 * live:
            self._heap = heap = [item for item in heap if self._time_of(item) < inf]
            heapq.heapify(heap)
        heapq.heappush(heap, (time, entry.serial, entry))

    def first(self) -> float:
        """The earliest time."""
        heap = self._heap
        while heap:
            item = heap[0]
            time = self._time_of(item)
            if time == item[0]:
                return time
            if time == inf:
                heapq.heappop(heap)
            else:
                heapq.heapreplace(heap, (time, item[1], item[2]))
        return inf

    def reached(self, now: float) -> Entry | None:
        """One whose time has come. It stays until its state changes."""
        return self._heap[0][2] if self.first() <= now else None

    def _time_of(self, item: tuple[float, int, Entry]) -> float:
        _, serial, entry = item
        return self._real(entry) if entry.serial == serial else inf


def _due_at(entry: Entry) -> float:
    return entry.due if entry.state is State.WAITING else inf


def _deadline_of(entry: Entry) -> float:
    return entry.deadline if entry.state is State.IN_FLIGHT else inf
