"""Entered messages that are not ready: in consumers' hands, waiting for redelivery, or blocked.

No trio, no clock. What waits is in a heap by the time when it is due, from which settled ones are
cleared when they are the majority. What is in flight is looked through, all of it, when the
earliest deadline has passed: there are never more of them than the window has room for, and
deadlines may be put off.
"""

from __future__ import annotations

import heapq
from math import inf

from danube_trio.dispatch._ledger import Entry, State

__all__ = ["Hands"]


class Hands:
    """Messages by what they wait for. Each change of an entry's state to or from these is here."""

    def __init__(self) -> None:
        self.in_flight: dict[int, Entry] = {}
        self.blocked: dict[int, Entry] = {}
        self.waiting = 0
        self._heap: list[tuple[float, int, Entry]] = []

    def give(self, entry: Entry, consumer: object, serial: int, deadline: float) -> None:
        """A consumer has it now."""
        entry.state = State.IN_FLIGHT
        entry.consumer = consumer
        entry.serial = serial
        entry.deadline = deadline
        entry.excused = False
        self.in_flight[entry.offset] = entry

    def wait(self, entry: Entry, due: float) -> None:
        """It is to be delivered again when `due` has come."""
        entry.state = State.WAITING
        entry.due = due
        self.waiting += 1
        heap = self._heap
        if len(heap) > 64 and len(heap) > 2 * self.waiting:
            self._heap = heap = [item for item in heap if _is_waiting(item)]
            heapq.heapify(heap)
        heapq.heappush(heap, (due, entry.serial, entry))

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

    def timed_out(self, now: float) -> list[Entry]:
        """What has been in a consumer's hands for too long."""
        return [entry for entry in self.in_flight.values() if entry.deadline <= now]

    def next_due(self, now: float) -> Entry | None:
        """A waiting message whose time has come."""
        while self._heap and self._heap[0][0] <= now:
            item = heapq.heappop(self._heap)
            if _is_waiting(item):
                return item[2]
        return None

    def next_deadline(self) -> float:
        """The earliest deadline of what is in flight."""
        return min((entry.deadline for entry in self.in_flight.values()), default=inf)

    def next_wait(self) -> float:
        """When the next waiting message is due."""
        while self._heap and not _is_waiting(self._heap[0]):
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else inf


def _is_waiting(item: tuple[float, int, Entry]) -> bool:
    _, serial, entry = item
    return entry.state is State.WAITING and entry.serial == serial
