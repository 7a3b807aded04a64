"""A subscription without its surroundings: who gets which message, and what an answer means.

No trio, no clock, no storage: time is an argument, and whoever calls does the waiting. One object
holds the whole state, every method leaves it consistent, and none of them can fail half way.

Rules:

1. A message is handed out to one consumer at a time. Each hand-out is a delivery with a serial
   number, and an answer (acknowledge, fail, release) counts only for the delivery it speaks of.
   There is one exception, in favour of work that was done: a delivery that timed out may still be
   acknowledged, as long as nobody else got the message: no consumer, and not the dead letters.
2. A delivery that fails (`fail`, a timeout) is one failure more. After ``max_redeliveries`` + 1
   failures the message is poison. A released delivery (cancelled, its consumer left) is none.
   Poison is also what a consumer rejected, until the operator decides, and with lanes what has a
   key that cannot be read. It meets its fate when its turn comes, and nothing else does.
3. What is settled is never handed out again, unless the subscription is moved back.
4. Nothing is handed out while the window is full, while it is paused, while more is acknowledged
   than may wait unsaved, or, without lanes, while a message is blocked.
5. New messages (not redeliveries) wait too while too many wait for redelivery, or are on their way
   to the dead letters. While the cursor is
   larger than it may be when saved, so do those above the part that was saved: with lanes the rest
   must go on, or the cursor would never get smaller.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from math import inf
from operator import attrgetter
from typing import Protocol

import attrs

from danube_trio._core.pauses import Pauses
from danube_trio.dispatch._cursor import CursorState, Witness
from danube_trio.dispatch._hands import Hands
from danube_trio.dispatch._ledger import Entry, Ledger, State
from danube_trio.dispatch._options import PoisonPolicy, SubscriptionOptions, SubscriptionType
from danube_trio.dispatch._queues import LaneQueue, PlainQueue, ReadyQueue
from danube_trio.errors import shortened
from danube_trio.message import StreamMessage, fields_bytes

ONE_AT_A_TIME = (SubscriptionType.EXCLUSIVE, SubscriptionType.FAILOVER)
# Guesses. Read on when fewer are at hand; with lanes many may wait behind few keys, so many.
LOW = 256
LOOK_AHEAD = 8192
# Bytes of a message's fields, on average, that nobody counts: they are bounded by the messages.
SMALL_FIELDS = 256

_PAYLOAD = attrgetter("payload")


class Taker(Protocol):
    """What the core knows of a consumer."""

    @property
    def ordered(self) -> bool:
        """Whether it wants one message of a key at a time; counts where it is the only one."""
        ...


@attrs.define(eq=False)
class Counts:
    """What happened since the subscription was opened."""

    delivered: int = 0
    acked: int = 0
    failed: int = 0
    timed_out: int = 0
    released: int = 0
    dropped: int = 0
    dead_lettered: int = 0
    lost: int = 0


class DispatchCore:
    """The state of one subscription."""

    def __init__(self, options: SubscriptionOptions, cursor: CursorState) -> None:
        self.options = options
        self._pauses = Pauses(options.backoff_initial, options.backoff_max)
        self.counts = Counts()
        self.consumers: dict[Taker, None] = {}  # in the order in which they came
        self.paused = False
        self.unsaved_from: int | None = None  # the cursor exceeds max_cursor_bytes from here on
        self.burying: deque[Entry] = deque()  # poison on its way to the dead letters
        self.changes = 0  # counts settlements, and failures: whatever changes the cursor
        self.saved_changes = 0  # those that are saved
        self._serial = 0
        self._restart(cursor)

    def _restart(self, cursor: CursorState) -> None:
        self._ledger = Ledger(cursor)
        self._queue: ReadyQueue = PlainQueue(self._ledger)
        self._hands = Hands()
        self._buffered_bytes = 0
        self._fields: dict[int, int] = {}  # of it, by offset, what is not payload: see `feed`
        self.fed_end = cursor.end  # the next offset that the reader is to bring
        self._arrange()

    # ---- consumers

    def join(self, consumer: Taker) -> None:
        """A consumer comes. That an exclusive subscription has only one is for the caller."""
        self.consumers[consumer] = None
        self._arrange()

    def leave(self, consumer: Taker) -> None:
        """A consumer goes; what it has in hand is released."""
        del self.consumers[consumer]
        for entry in [e for e in self._hands.in_flight.values() if e.consumer is consumer]:
            self.release(entry, entry.serial)
        self._arrange()

    def end_deliveries(self) -> None:
        """What is in hand is released, and no answer counts any more: not a late one either."""
        for entry in list(self._hands.in_flight.values()):
            self.release(entry, entry.serial)
        for entry in self._ledger.entries.values():
            entry.excused = False

    def may_take(self, consumer: Taker) -> bool:
        """Whether it is this consumer's turn, where there are turns."""
        if self.options.type is SubscriptionType.FAILOVER:
            return next(iter(self.consumers), None) is consumer
        return True

    def _arrange(self) -> None:
        """Use lanes, or do not, as the type and the consumers want it."""
        kind = self.options.type
        first = next(iter(self.consumers), None)
        lanes = kind is SubscriptionType.KEY_SHARED or (
            kind in ONE_AT_A_TIME and first is not None and first.ordered
        )
        if lanes is isinstance(self._queue, LaneQueue):
            return
        new = LaneQueue(self._ledger) if lanes else PlainQueue(self._ledger)
        for entry in self._ledger.in_order():
            new.adopt(entry)
        new.feed(self._queue.fresh)
        self._queue = new
        self._note_entered()

    # ---- feeding

    def wants_more(self) -> bool:
        """Whether the reader is to read on."""
        queue, window = self._queue, self.options.max_unacked_messages
        if isinstance(queue, LaneQueue):
            room = queue.count(inf) < window and queue.buffered < max(LOOK_AHEAD, window)
        else:
            room = queue.buffered < max(LOW, window)
        room = room and self._buffered_bytes < self.options.max_buffered_bytes
        return room and self.next_wanted() < self._new_limit()

    def next_wanted(self) -> int:
        """The first offset at or after `fed_end` that is not settled."""
        return self._ledger.next_wanted(self.fed_end)

    def feed(self, messages: Sequence[StreamMessage], end: int) -> None:
        """New messages, in order: all that the log has in `[fed_end, end)`."""
        assert not messages or (self.fed_end <= messages[0].offset and messages[-1].offset < end)
        if self.fed_end < self._ledger.resumed_edge:
            wants = self._ledger.wants
            messages = [message for message in messages if wants(message.offset)]
        # First what can be handed out, then that it was fed: what is below `fed_end` and in no
        # queue counts as settled.
        self._queue.feed(messages)
        self._buffered_bytes += sum(map(len, map(_PAYLOAD, messages)))
        self._count_fields(messages)
        self.fed_end = end
        self._note_entered()

    def _count_fields(self, messages: Sequence[StreamMessage]) -> None:
        """Count what messages hold beside their payloads, where that is more than a little."""
        sizes = fields_bytes(messages)
        total = sum(sizes)
        if total > SMALL_FIELDS * len(sizes):
            self._buffered_bytes += total
            self._fields.update(zip((message.offset for message in messages), sizes, strict=True))

    def pass_by(self, end: int) -> None:
        """Everything in `[fed_end, end)` is settled; it need not be read."""
        assert end >= self.fed_end, (end, self.fed_end)
        self.fed_end = end
        self._note_entered()

    def lose(self, end: int) -> int:
        """Messages in `[fed_end, end)` are not in the log any more. Returns how many it wanted."""
        lost = self._ledger.lose(self.fed_end, end)
        self.counts.lost += lost
        self.changes += 1  # something to save
        self.pass_by(end)
        return lost

    def _note_entered(self) -> None:
        if not self._queue.fresh:
            self._ledger.pass_to(self.fed_end)

    # ---- handing out

    def available(self) -> int:
        """How many messages could be handed out now."""
        if self.paused or self._gated():
            return 0
        room = self.options.max_unacked_messages - len(self._hands.in_flight)
        return max(0, min(room, self._queue.count(self._new_limit())))

    def _gated(self) -> bool:
        limit = self.options.max_unsaved_acks
        if limit is not None and self.changes - self.saved_changes >= limit:
            return True
        return bool(self._hands.blocked) and isinstance(self._queue, PlainQueue)

    def _new_limit(self) -> float:
        if self._hands.waiting + len(self.burying) >= self.options.max_retrying_messages:
            return 0
        return inf if self.unsaved_from is None else self.unsaved_from + 1

    def take(self, consumer: Taker, now: float) -> Entry | None:
        """Hand out the next message, or None when there is none for this consumer now."""
        while self.may_take(consumer) and self.available():
            entry = self._queue.pop(self._new_limit())
            if entry is None:
                return None
            self._note_entered()
            if (entry.failures or entry.rejected or entry.unreadable) and self._is_poison(entry):
                self._poison(entry)
                continue
            self._serial += 1
            timeout = self.options.ack_timeout
            deadline = inf if timeout is None else now + timeout
            self._hands.give(entry, consumer, self._serial, deadline)
            self.counts.delivered += 1
            return entry
        return None

    # ---- answers

    def is_current(self, entry: Entry, serial: int) -> bool:
        """Whether this delivery is still in its consumer's hands."""
        return entry.state is State.IN_FLIGHT and entry.serial == serial

    def ack(self, entry: Entry, serial: int) -> bool:
        """Settle the message of this delivery. False: the delivery is over, and it was not."""
        if entry.serial != serial:
            return False
        if entry.state is not State.IN_FLIGHT:
            if not entry.excused:
                return False
            if entry.state is State.SETTLED:  # dropped when its time was over, and counted as that
                entry.excused = False
                return True
            if entry.state is State.BURYING:
                self.burying.remove(entry)
        self._settle(entry)
        self.counts.acked += 1
        return True

    def ack_up_to(self, offset: int) -> int:
        """Settle every message that was handed out, at and below `offset`; returns how many."""
        found = [
            entry
            for entry in self._ledger.up_to(offset)
            if entry.serial and entry.state is not State.BURYING
        ]
        for entry in found:
            self._settle(entry)
        self.counts.acked += len(found)
        return len(found)

    def fail(
        self, entry: Entry, serial: int, now: float, reason: str, delay: float | None = None
    ) -> bool:
        """This delivery failed; deliver again after `delay`, or the backoff, if that may be."""
        if not self.is_current(entry, serial):
            return False
        self._failed(entry, now, reason, delay)
        return True

    def reject(self, entry: Entry, serial: int, reason: str) -> bool:
        """This message is poison: no redelivery would help."""
        if not self.is_current(entry, serial):
            return False
        self.counts.failed += 1
        self.changes += 1
        entry.failures = max(entry.failures, self.options.max_redeliveries or 0) + 1
        entry.rejected = True
        self._note(entry, reason)
        self._poison(entry)
        return True

    def release(self, entry: Entry, serial: int) -> bool:
        """The consumer gives it back unhandled: no failure, and it is ready at once."""
        if not self.is_current(entry, serial):
            return False
        self.counts.released += 1
        self.changes += self.options.count_crashes  # what is saved may say that it was in hand
        self._offer(entry)
        return True

    def extend(self, entry: Entry, serial: int, deadline: float) -> bool:
        """Let this delivery time out later."""
        if not self.is_current(entry, serial):
            return False
        entry.deadline = max(entry.deadline, deadline)
        return True

    def _failed(self, entry: Entry, now: float, reason: str, delay: float | None) -> None:
        self.counts.failed += 1
        self.changes += 1
        entry.failures += 1
        self._note(entry, reason)
        limit = self.options.max_redeliveries
        if limit is not None and entry.failures > limit:
            self._poison(entry)
            return
        self._hands.take_back(entry)
        pause = self._pauses.after(entry.failures) if delay is None else delay
        self._hands.wait(entry, now + pause)

    def _offer(self, entry: Entry) -> None:
        self._hands.take_back(entry)
        entry.state = State.READY
        self._queue.offer(entry)

    def _settle(self, entry: Entry) -> None:
        was_ready = entry.state is State.READY
        entry.excused = False
        self._hands.take_back(entry)
        self._ledger.settle(entry)
        if was_ready:
            self._queue.withdraw(entry)
        else:
            self._queue.settled(entry)
        self._buffered_bytes -= len(entry.message.payload)
        if self._fields:
            self._buffered_bytes -= self._fields.pop(entry.offset, 0)
        if entry.reason:
            self._buffered_bytes -= len(entry.reason)
        self.changes += 1

    def _note(self, entry: Entry, reason: str) -> None:
        """Why it failed the last time; that takes space, too, as long as it is not settled."""
        reason = shortened(reason)
        if entry.state is not State.SETTLED:
            self._buffered_bytes += len(reason) - len(entry.reason)
        entry.reason = reason

    # ---- time

    def next_due(self) -> float:
        """When the next redelivery is due."""
        return self._hands.next_wait()

    def next_deadline(self) -> float:
        """When the next delivery times out."""
        return self._hands.next_deadline()

    def time_out(self, entry: Entry, serial: int, now: float) -> bool:
        """This delivery took too long."""
        if not self.is_current(entry, serial):
            return False
        self.counts.timed_out += 1
        entry.excused = True
        self._failed(entry, now, "it was not acknowledged in time", None)
        return True

    def tick(self, now: float) -> None:
        """Let deliveries time out, and make ready what is due again."""
        while (late := self._hands.timed_out(now)) is not None:
            self.time_out(late, late.serial, now)
        while (due := self._hands.next_due(now)) is not None:
            self._offer(due)

    # ---- poison

    def _is_poison(self, entry: Entry) -> bool:
        """Whether a ready message must not be handed out, and why: in its reason."""
        limit = self.options.max_redeliveries
        if entry.unreadable:
            self._note(entry, entry.unreadable)
        elif entry.rejected:
            self._note(entry, entry.reason or "it was rejected before a restart")
        elif limit is not None and entry.failures > limit:
            why = f"it failed {entry.failures} times before a restart"
            self._note(entry, entry.reason or why)
        else:
            return False
        return True

    def _poison(self, entry: Entry) -> None:
        self._hands.take_back(entry)
        if self.options.poison_policy is PoisonPolicy.BLOCK:
            self._hands.block(entry)
            return
        entry.state = State.BURYING
        if self.options.poison_policy is PoisonPolicy.DEAD_LETTER:
            self.burying.append(entry)
        else:
            late = entry.excused
            self._settle(entry)
            entry.excused = late  # work that is still under way was not in vain
            self.counts.dropped += 1

    def next_burial(self) -> Entry | None:
        """What is to be appended to the dead letters now, if anything is.

        From now on they may have it, whatever becomes of that: no work on it counts any more.
        """
        if not self.burying:
            return None
        entry = self.burying[0]
        entry.excused = False
        return entry

    def not_buried(self, entry: Entry, never: str | None = None) -> None:
        """It was not, or that is not known: the others first, it may be this one only.

        Args:
            never: why it never will be; then it is blocked.
        """
        if entry.state is not State.BURYING:  # it was moved meanwhile
            return
        self.burying.remove(entry)
        if never is None:
            self.burying.append(entry)
        else:
            self._note(entry, never)
            self._hands.block(entry)

    def buried(self, entry: Entry) -> None:
        """A message is among the dead letters now."""
        if entry.state is State.BURYING:  # not if it was moved meanwhile
            self.burying.remove(entry)
            self._settle(entry)
            self.counts.dead_lettered += 1

    def blocked(self) -> list[Entry]:
        """What the policy BLOCK holds back, or can be no dead letter, by offset."""
        return sorted(self._hands.blocked.values(), key=lambda entry: entry.offset)

    def unblock(self, offset: int, *, retry: bool) -> bool:
        """Deliver a blocked message again, as if it had never failed, or drop it."""
        entry = self._hands.blocked.get(offset)
        if entry is None:
            return False
        if retry:
            entry.failures, entry.rejected, entry.unreadable = 0, False, ""
            self.changes += 1
            self._offer(entry)
        else:
            self._settle(entry)
            self.counts.dropped += 1
        return True

    # ---- the cursor

    def move(self, offset: int, witness: Witness | None = None) -> None:
        """Begin anew at `offset`, before which there is `witness`. Deliveries so far are over."""
        for entry in self._ledger.entries.values():
            entry.state, entry.excused = State.SETTLED, False
        self.burying.clear()
        self.changes += 1
        self._restart(CursorState.at(offset, witness=witness))

    def snapshot(self) -> CursorState:
        """The cursor as it is now."""
        return self._ledger.snapshot(self.options.count_crashes)

    @property
    def end(self) -> int:
        """Everything below it is settled."""
        return self._ledger.end

    def lag(self, log_end: int) -> int:
        """How many messages below `log_end` are not settled."""
        return self._ledger.unsettled + max(0, log_end - self._ledger.known_end)

    @property
    def in_flight(self) -> int:
        """How many are in consumers' hands."""
        return len(self._hands.in_flight)

    @property
    def retrying(self) -> int:
        """How many wait for redelivery."""
        return self._hands.waiting
