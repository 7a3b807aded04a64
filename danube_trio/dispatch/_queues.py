"""Which message comes next: two ways to queue what is ready. No trio, no clock.

`PlainQueue` gives redeliveries first, lowest offset first, then new messages as they come. New ones
stay as the reader brought them and are entered into the ledger only when they are handed out.

`LaneQueue` has a lane for each key. Only the head of a lane can be handed out, and it stays the
head until it is settled: so there is one message of a key in flight, and order holds through
failures and backoff too. Lanes whose head is ready take turns. A message without a key is a lane of
its own; so is one whose key cannot be read, and it is marked. Messages are entered when they are
read.

Neither can fail: what is fed is queued, all of it.

A message that was never handed out is *new*. Both are asked for messages with a limit for new ones:
only those below that offset may go.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Sequence
from itertools import takewhile
from math import inf

from danube_trio.dispatch._ledger import Entry, Ledger, State
from danube_trio.message import StreamMessage


def key_of(message: StreamMessage) -> str:
    """The key of a message: its routing key, else its producer. Empty: it has none."""
    return message.routing_key or message.producer_name


class PlainQueue:
    """Redeliveries, then new messages in order.

    Attributes:
        fresh: messages that were not entered yet.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.fresh: deque[StreamMessage] = deque()
        self._again: list[tuple[int, int, Entry]] = []
        self._number = 0
        self._again_ready = 0  # entries in `_again` that are really ready

    def feed(self, messages: Sequence[StreamMessage]) -> None:
        """New messages, behind all others."""
        self.fresh.extend(messages)

    def offer(self, entry: Entry) -> None:
        """An entered message became ready again."""
        self._number += 1
        heapq.heappush(self._again, (entry.offset, self._number, entry))
        self._again_ready += 1

    def withdraw(self, entry: Entry) -> None:
        """A ready entry is settled without having been handed out."""
        self._again_ready -= 1
        if not self._again_ready:
            self._again.clear()

    def settled(self, entry: Entry) -> None:
        """An entry that was not ready is settled."""

    def count(self, limit: float) -> int:
        """How many can be handed out, of new ones those below offset `limit`."""
        if limit == inf:
            return self._again_ready + len(self.fresh)
        return self._again_ready + sum(1 for _ in takewhile(lambda m: m.offset < limit, self.fresh))

    @property
    def buffered(self) -> int:
        """How many are at hand, for whoever decides whether to read on."""
        return self._again_ready + len(self.fresh)

    def pop(self, limit: float) -> Entry | None:
        """The next one; see `count`."""
        again = self._again
        while again:
            entry = heapq.heappop(again)[2]
            if entry.state is State.READY:
                self._again_ready -= 1
                return entry
        if self.fresh and self.fresh[0].offset < limit:
            return self._ledger.enter(self.fresh.popleft())
        return None

    def adopt(self, entry: Entry) -> None:
        """Take over a message that another queue had."""
        entry.unreadable = ""  # here nobody asks for its key
        if entry.state is State.READY:
            self.offer(entry)


class LaneQueue:
    """A lane for each key."""

    fresh: Sequence[StreamMessage] = ()  # all are entered when they are fed

    def __init__(self, ledger: Ledger, key: Callable[[StreamMessage], str] = key_of) -> None:
        self._ledger = ledger
        self._key = key
        self._lanes: dict[object, deque[Entry]] = {}
        # Heads, with a number that grows; some may not be ready any more. New ones, and others.
        self._new: deque[tuple[int, Entry]] = deque()
        self._again: deque[tuple[int, Entry]] = deque()
        self._new_heads = 0  # those in `_new` that are ready
        self._again_heads = 0
        self._number = 0
        self._ready = 0  # ready entries, heads or not

    def feed(self, messages: Sequence[StreamMessage]) -> None:
        """New messages, each behind those of its key."""
        for message in messages:
            self.adopt(self._ledger.enter(message))

    def offer(self, entry: Entry) -> None:
        """A message is ready, for the first time or again."""
        self._ready += 1
        if self._lanes[entry.key][0] is entry:
            self._turn(entry)

    def adopt(self, entry: Entry) -> None:
        """Take over a message that another queue had; they come in order."""
        try:
            key: object = self._key(entry.message) or entry.offset
        except ValueError as error:  # a DecodeError
            key, entry.unreadable = entry.offset, f"its key cannot be read: {error}"
        entry.key = key
        self._lanes.setdefault(key, deque()).append(entry)
        if entry.state is State.READY:
            self.offer(entry)

    def _turn(self, entry: Entry) -> None:
        self._number += 1
        if entry.serial:
            self._again.append((self._number, entry))
            self._again_heads += 1
        else:
            self._new.append((self._number, entry))
            self._new_heads += 1

    def withdraw(self, entry: Entry) -> None:
        """A ready entry is settled without having been handed out."""
        self._ready -= 1
        if self._lanes[entry.key][0] is entry:
            self._leave_turn(entry)
        self.settled(entry)

    def settled(self, entry: Entry) -> None:
        """An entry is settled: if it was the head of its lane, the next one is."""
        lane = self._lanes[entry.key]
        if lane[0] is not entry:
            lane.remove(entry)
            return
        lane.popleft()
        if not lane:
            del self._lanes[entry.key]
        elif lane[0].state is State.READY:
            self._turn(lane[0])

    def count(self, limit: float) -> int:
        """How many can be handed out, of new ones those below offset `limit`."""
        if limit == inf:
            return self._again_heads + self._new_heads
        if limit <= 0:
            return self._again_heads
        return self._again_heads + sum(1 for item in self._new if _is_ready(item, limit))

    @property
    def buffered(self) -> int:
        """How many are at hand, behind others of their key or not."""
        return self._ready

    def pop(self, limit: float) -> Entry | None:
        """The next one; see `count`."""
        for turns in (self._again, self._new):
            while turns and not _is_ready(turns[0], inf):
                turns.popleft()
        new = None
        if limit > 0:
            new = next((item for item in self._new if _is_ready(item, limit)), None)
        if self._again and (new is None or self._again[0][0] < new[0]):
            _, entry = self._again.popleft()
        elif new is not None:
            self._new.remove(new)  # nearly always the first one
            _, entry = new
        else:
            return None
        self._leave_turn(entry)
        self._ready -= 1
        return entry

    def _leave_turn(self, entry: Entry) -> None:
        if entry.serial:
            self._again_heads -= 1
        else:
            self._new_heads -= 1


def _is_ready(item: tuple[int, Entry], limit: float) -> bool:
    return item[1].state is State.READY and item[1].offset < limit


ReadyQueue = PlainQueue | LaneQueue
