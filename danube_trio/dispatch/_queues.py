"""Which message comes next: two ways to queue what is ready. No trio, no clock.

`PlainQueue` gives redeliveries first, lowest offset first, then new messages as they come. New ones
stay as the reader brought them and are entered into the ledger only when they are handed out.

`LaneQueue` has a lane for each key. Only the head of a lane can be handed out, and it stays the
head until it is settled: so there is one message of a key in flight, and order holds through
failures and backoff too. Lanes whose head is ready take turns. A message without a key is a lane of
its own. Messages are entered when they are read.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Sequence

from danube_trio.dispatch._ledger import Entry, Ledger, State
from danube_trio.message import StreamMessage

__all__ = ["LaneQueue", "PlainQueue", "ReadyQueue", "key_of"]


def key_of(message: StreamMessage) -> str:
    """The key of a message: its routing key, else its producer. Empty: it has none."""
    return message.routing_key or message.producer_name


class PlainQueue:
    """Redeliveries, then new messages in order."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._fresh: deque[StreamMessage] = deque()
        self._again: list[tuple[int, int, Entry]] = []
        self._number = 0
        self.again = 0  # entries in `_again` that are really ready

    def feed(self, messages: Sequence[StreamMessage]) -> None:
        """New messages, behind all others."""
        self._fresh.extend(messages)

    def offer(self, entry: Entry) -> None:
        """An entered message became ready again."""
        self._number += 1
        heapq.heappush(self._again, (entry.offset, self._number, entry))
        self.again += 1

    def withdraw(self, entry: Entry) -> None:
        """A ready entry is settled without having been handed out."""
        self.again -= 1
        if not self.again:
            self._again.clear()

    def settled(self, entry: Entry) -> None:
        """An entry that was not ready is settled."""

    def count(self, fresh_too: bool) -> int:
        """How many can be handed out."""
        return self.again + (len(self._fresh) if fresh_too else 0)

    @property
    def buffered(self) -> int:
        """How many are at hand, for whoever decides whether to read on."""
        return self.again + len(self._fresh)

    def pop(self, fresh_too: bool) -> Entry | None:
        """The next one."""
        again = self._again
        while again:
            entry = heapq.heappop(again)[2]
            if entry.state is State.READY:
                self.again -= 1
                return entry
        if fresh_too and self._fresh:
            return self._ledger.enter(self._fresh.popleft())
        return None

    def adopt(self, entry: Entry) -> None:
        """Take over a message that another queue had."""
        if entry.state is State.READY:
            self.offer(entry)

    @property
    def fresh(self) -> Sequence[StreamMessage]:
        """Messages that were not entered yet."""
        return list(self._fresh)

    @property
    def all_entered(self) -> bool:
        """Whether everything that was fed is in the ledger."""
        return not self._fresh


class LaneQueue:
    """A lane for each key."""

    def __init__(self, ledger: Ledger, key: Callable[[StreamMessage], str] = key_of) -> None:
        self._ledger = ledger
        self._key = key
        self._lanes: dict[object, deque[Entry]] = {}
        self._turns: deque[Entry] = deque()  # heads; some may not be ready any more
        self._heads = 0  # those that are
        self._ready = 0  # ready entries, heads or not

    def feed(self, messages: Sequence[StreamMessage]) -> None:
        """New messages, each behind those of its key.

        Raises DecodeError, before anything was changed, when a message's key cannot be read.
        """
        keys = [self._key(message) or message.offset for message in messages]
        for message, key in zip(messages, keys, strict=True):
            entry = self._ledger.enter(message)
            self._assign(entry, key)
            self.offer(entry)

    def offer(self, entry: Entry) -> None:
        """A message is ready, for the first time or again."""
        self._ready += 1
        if self._lanes[entry.key][0] is entry:
            self._turn(entry)

    def _assign(self, entry: Entry, key: object) -> None:
        entry.key = key
        self._lanes.setdefault(key, deque()).append(entry)

    def adopt(self, entry: Entry) -> None:
        """Take over a message that another queue had; they come in order. Raises as `feed`."""
        self._assign(entry, self._key(entry.message) or entry.offset)
        if entry.state is State.READY:
            self.offer(entry)

    @property
    def fresh(self) -> Sequence[StreamMessage]:
        """Messages that were not entered yet: none."""
        return ()

    @property
    def all_entered(self) -> bool:
        """Whether everything that was fed is in the ledger."""
        return True

    def _turn(self, entry: Entry) -> None:
        self._turns.append(entry)
        self._heads += 1

    def withdraw(self, entry: Entry) -> None:
        """A ready entry is settled without having been handed out."""
        self._ready -= 1
        if self._lanes[entry.key][0] is entry:
            self._heads -= 1
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

    def count(self, fresh_too: bool) -> int:
        """How many can be handed out."""
        return self._heads

    @property
    def buffered(self) -> int:
        """How many are at hand, behind others of their key or not."""
        return self._ready

    def pop(self, fresh_too: bool) -> Entry | None:
        """The next one."""
        turns = self._turns
        while turns:
            entry = turns.popleft()
            if entry.state is State.READY:
                self._heads -= 1
                self._ready -= 1
                return entry
        return None


ReadyQueue = PlainQueue | LaneQueue
