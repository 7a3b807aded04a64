"""The ledger of a subscription: which messages are not settled, and so where its cursor is.

No trio, no clock. Messages are *entered* in the order of their offsets, once each, and are
*settled* in any order (acknowledged, dropped, dead-lettered). So the ledger needs no set of ranges:
what is not settled is what is in `entries`, and all other entered messages are settled.

::

    0 ...... end ........ entered ............ edge of the resumed cursor ........
     settled | entries are holes | resumed holes, to be entered | nobody knows yet

A cursor that was loaded from the metadata store is the *resumed* one: its holes that were not
entered yet stay holes, and what it knows to be settled is never entered again.

Costs: entering and settling O(1) (the order is a queue from which the settled ones are cleared when
they are the majority), a snapshot O(entries).
"""

from __future__ import annotations

import enum
from bisect import bisect_left
from collections import deque
from collections.abc import Sequence

from danube_trio.dispatch._cursor import CursorState, Witness
from danube_trio.message import StreamMessage


class State(enum.Enum):
    """Where an unsettled message is.

    ::

        READY --take--> IN_FLIGHT --ack--> settled
          ^                |
          |             nack, timeout: one failure more
          |                v
          +--due-- WAITING (backoff)    or, when it failed too often,
          |        BLOCKED, BURYING (on its way to the dead letters), or settled (dropped)
          +--release (cancelled, consumer left): no failure
    """

    READY = "ready"
    IN_FLIGHT = "in flight"
    WAITING = "waiting"
    BLOCKED = "blocked"
    BURYING = "burying"
    SETTLED = "settled"


class Entry:
    """An unsettled message.

    Attributes:
        key: the lane that it belongs to, when there are lanes.
        failures: how many deliveries of it have failed.
        serial: of the current delivery; an acknowledgement speaks of one delivery.
        consumer: who has it in hand.
        deadline: when its delivery times out; due: when it may be delivered again.
        excused: whether the last delivery ended by its timeout, and may be acknowledged late.
        rejected: whether it is poison, however often it may fail.
        unreadable: why it cannot be handed out in order, if it cannot; not saved.
        reason: why the last delivery failed.
    """

    __slots__ = (
        "consumer",
        "deadline",
        "due",
        "excused",
        "failures",
        "key",
        "message",
        "offset",
        "reason",
        "rejected",
        "serial",
        "state",
        "unreadable",
    )

    def __init__(self, message: StreamMessage, failures: int) -> None:
        self.message = message
        self.offset = message.offset
        self.failures = failures
        self.state = State.READY
        self.serial = 0
        self.key: object = None
        self.consumer: object = None
        self.deadline = 0.0
        self.due = 0.0
        self.excused = False
        self.rejected = False
        self.unreadable = ""
        self.reason = ""

    def __repr__(self) -> str:
        return f"<Entry {self.offset} {self.state.value}, failed {self.failures} times>"


class Ledger:
    """Unsettled messages, and the cursor that follows from them."""

    def __init__(self, cursor: CursorState) -> None:
        self.entries: dict[int, Entry] = {}
        self._order: deque[int] = deque()
        # Of messages that were not entered yet: how often they failed, and which were rejected.
        self._failures = dict(cursor.attempts)
        self._rejected = set(cursor.rejected)
        self._resumed: deque[int] = deque(cursor.holes)  # holes that were not entered yet
        self._resumed_list: Sequence[int] = cursor.holes  # all of them
        self.resumed_edge = cursor.edge
        # Everything below it was entered or is settled; only what is below it can be settled.
        self.entered_end = cursor.end
        self._witness = cursor.witness
        # The last message that was settled here, by offset, until a snapshot sums it up.
        self._newest: StreamMessage | None = None
        self._newest_offset = cursor.witness.offset if cursor.witness is not None else -1

    def wants(self, offset: int) -> bool:
        """Whether a message that was not entered yet is unsettled."""
        return self.next_wanted(offset) == offset

    def next_wanted(self, offset: int) -> int:
        """The first unsettled offset that was not entered, at or after `offset`."""
        if offset >= self.resumed_edge:
            return offset
        at = bisect_left(self._resumed_list, offset)
        return self._resumed_list[at] if at < len(self._resumed_list) else self.resumed_edge

    def enter(self, message: StreamMessage) -> Entry:
        """Take the next message in. Messages come in the order of their offsets."""
        offset = message.offset
        assert offset >= self.entered_end, f"offset {offset} was entered before"
        failures = self._failures.pop(offset, 0) if self._failures else 0
        entry = Entry(message, failures)
        if offset in self._rejected:
            entry.rejected = True
            self._rejected.discard(offset)
        resumed = self._resumed
        while resumed and resumed[0] <= offset:
            resumed.popleft()
        self.entries[offset] = entry
        self._order.append(offset)
        self.entered_end = offset + 1
        return entry

    def settle(self, entry: Entry) -> None:
        """The message is done with."""
        del self.entries[entry.offset]
        entry.state = State.SETTLED
        if entry.offset > self._newest_offset:
            self._newest, self._newest_offset = entry.message, entry.offset
        order = self._order
        if order[0] == entry.offset:
            order.popleft()
            entries = self.entries
            while order and order[0] not in entries:
                order.popleft()
        elif len(order) > 64 and len(order) > 2 * len(self.entries):
            self._order = deque(offset for offset in order if offset in self.entries)

    def lose(self, start: int, end: int) -> int:
        """Messages `[start, end)`, which were not entered, are gone from the log.

        Returns how many of them were unsettled.
        """
        assert self.entered_end <= start <= end, (self.entered_end, start, end)
        before = len(self._resumed)
        self._resumed = deque(hole for hole in self._resumed if not start <= hole < end)
        self._failures = {
            offset: count for offset, count in self._failures.items() if not start <= offset < end
        }
        self._rejected = {offset for offset in self._rejected if not start <= offset < end}
        return before - len(self._resumed) + max(0, end - max(start, self.resumed_edge))

    def pass_to(self, offset: int) -> None:
        """Every message below `offset` was entered, or is settled or gone."""
        self.entered_end = max(self.entered_end, offset)
        if offset >= self.resumed_edge:
            self._resumed_list = ()

    @property
    def end(self) -> int:
        """Everything below it is settled."""
        if self._order:
            return self._order[0]
        if self._resumed:
            return self._resumed[0]
        return max(self.entered_end, self.resumed_edge)

    @property
    def unsettled(self) -> int:
        """Unsettled messages below `known_end`."""
        return len(self.entries) + len(self._resumed)

    @property
    def known_end(self) -> int:
        """Everything at and above it is unsettled."""
        return max(self.entered_end, self.resumed_edge)

    def in_order(self) -> list[Entry]:
        """All entries, by offset."""
        entries = self.entries
        return [entries[offset] for offset in self._order if offset in entries]

    def up_to(self, offset: int) -> list[Entry]:
        """Entries at and below `offset`, by offset."""
        entries = self.entries
        found: list[Entry] = []
        for candidate in self._order:
            if candidate > offset:
                break
            if candidate in entries:
                found.append(entries[candidate])
        return found

    def snapshot(self, in_flight_failed: bool) -> CursorState:
        """The cursor as it is now; its `owner` and `saves` are for others to fill in.

        Args:
            in_flight_failed: count a failure more for messages that are in consumers' hands.
        """
        entries = self.entries
        holes: list[int] = [offset for offset in self._order if offset in entries]
        holes.extend(self._resumed)
        edge = _without_tail(holes, self.known_end)
        attempts = {
            offset: entry.failures + (in_flight_failed and entry.state is State.IN_FLIGHT)
            for offset, entry in entries.items()
            if entry.failures or in_flight_failed
        }
        attempts.update(self._failures)
        attempts = {offset: count for offset, count in attempts.items() if count}
        rejected = self._rejected.union(
            offset for offset in attempts if offset in entries and entries[offset].rejected
        )
        if self._newest is not None:
            self._witness, self._newest = Witness.of(self._newest) or self._witness, None
        return CursorState(
            end=holes[0] if holes else edge,
            edge=edge,
            holes=holes,
            attempts=attempts,
            rejected=sorted(rejected),
            witness=self._witness,
        )


def _without_tail(holes: list[int], edge: int) -> int:
    """Drop the holes just below `edge`, which say nothing; returns the lower edge."""
    while holes and holes[-1] == edge - 1:
        holes.pop()
        edge -= 1
    return edge
