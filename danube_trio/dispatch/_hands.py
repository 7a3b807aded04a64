"""Entered messages that are not ready: in consumers' hands, waiting for redelivery, or blocked.

No trio, no clock. Both what waits and what is in flight have a time at which something becomes of
them. The earliest one is asked for after each delivery and each failure, so it must not cost a look
at all of them: see `_Times`.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable
from math import inf
from operator import attrgetter

from danube_trio.dispatch._ledger import Entry, State

SORT_AT = 1024  # deliveries; a guess


class Hands:
    """Messages by what they wait for. Each change of an entry's state to or from these is here."""

    def __init__(self) -> None:
        self.in_flight: dict[int, Entry] = {}
        self.blocked: dict[int, Entry] = {}
        self.waiting = 0
        # Deliveries whose deadlines nobody asked for yet; most are over before anybody does.
        self._given: list[Entry] = []
        self._sort_at = SORT_AT
        self._due = _Times(State.WAITING, "due")
        self._deadlines = _Times(State.IN_FLIGHT, "deadline")

    def give(self, entry: Entry, consumer: object, serial: int, deadline: float) -> None:
        """A consumer has it now."""
        entry.state = State.IN_FLIGHT
        entry.consumer = consumer
        entry.serial = serial
        entry.deadline = deadline
        entry.excused = False
        self.in_flight[entry.offset] = entry
        self._given.append(entry)
        if len(self._given) > self._sort_at:
            self._sort()

    def _sort(self) -> None:
        """Note the deadlines of what is still in flight."""
        live = len(self.in_flight)
        given, self._given, self._sort_at = self._given, [], max(SORT_AT, 2 * live)
        for entry in given:
            if entry.state is State.IN_FLIGHT and entry.deadline < inf:
                self._deadlines.add(entry.deadline, entry, live)

    def wait(self, entry: Entry, due: float) -> None:
        """It is to be delivered again when `due` has come."""
        entry.state = State.WAITING
        entry.due = due
        self.waiting += 1
        self._due.add(due, entry, self.waiting)

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
        self._sort()
        return self._deadlines.reached(now)

    def next_due(self, now: float) -> Entry | None:
        """A waiting message whose time has come."""
        return self._due.reached(now)

    def next_deadline(self) -> float:
        """The earliest deadline of what is in flight."""
        self._sort()
        return self._deadlines.first()

    def next_wait(self) -> float:
        """When the next waiting message is due."""
        return self._due.first()


class _Times:
    """Deliveries by a time that may be put off, or end to mean anything.

    Most come in the order of their times, since each delivery has as long as the one before: a
    queue, to which adding costs next to nothing. The others are in a heap. A delivery is in one of
    them at most once, with a time that is not later than its real one, and is put right when it
    comes to the front; those that mean nothing are cleared when they are the majority.

    Args:
        state: in which the time means something.
        name: of the entry's attribute that has it; inf: none.
    """

    def __init__(self, state: State, name: str) -> None:
        self._state = state
        self._time = attrgetter(name)
        self._queue: deque[tuple[float, int, Entry]] = deque()
        self._heap: list[tuple[float, int, Entry]] = []

    def add(self, time: float, entry: Entry, live: int) -> None:
        """A delivery that has this time; so many mean something, this one included."""
        queue = self._queue
        if queue and time < queue[-1][0]:
            heapq.heappush(self._heap, (time, entry.serial, entry))
        else:
            queue.append((time, entry.serial, entry))
        if len(queue) + len(self._heap) > max(64, 2 * live):
            self._queue = deque(self._meant(queue))
            self._heap = self._meant(self._heap)
            heapq.heapify(self._heap)

    def _meant(self, items: Iterable[tuple[float, int, Entry]]) -> list[tuple[float, int, Entry]]:
        state = self._state
        return [item for item in items if item[2].serial == item[1] and item[2].state is state]

    def first(self) -> float:
        """The earliest time."""
        front = self._front()
        return front[0] if front is not None else inf

    def reached(self, now: float) -> Entry | None:
        """One whose time has come. It stays until its state changes."""
        front = self._front()
        return front[2] if front is not None and front[0] <= now else None

    def _front(self) -> tuple[float, int, Entry] | None:
        """The delivery with the earliest time, which is its real one."""
        queue, heap = self._queue, self._heap
        while queue or heap:
            of_queue = not heap or (bool(queue) and queue[0][0] <= heap[0][0])
            item = queue[0] if of_queue else heap[0]
            _, serial, entry = item
            meant = entry.serial == serial and entry.state is self._state
            time: float = self._time(entry) if meant else inf
            if time == item[0]:
                return item
            if of_queue:
                queue.popleft()
            else:
                heapq.heappop(heap)
            if time < inf:  # it was put off
                heapq.heappush(heap, (time, serial, entry))
        return None
