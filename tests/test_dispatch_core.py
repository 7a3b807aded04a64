"""The dispatch core against a model that keeps every message in a plain dict."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

import danube_trio.dispatch
from danube_trio._core.bincode import DecodeError
from danube_trio.dispatch import PoisonPolicy, SubscriptionOptions, SubscriptionType
from danube_trio.dispatch._core import DispatchCore
from danube_trio.dispatch._cursor import CursorState
from danube_trio.dispatch._ledger import Entry, Ledger
from danube_trio.message import StreamMessage

PURE = ("_core", "_cursor", "_failures", "_hands", "_ledger", "_options", "_queues")
BELOW = ("errors", "message", "_core.numbers", "_core.pauses", "_core.plain", "_core.settings")
IMPURE = {"trio", "time", "random", "os", "threading", "socket", "logging"}


@pytest.mark.parametrize("name", PURE)
def test_the_core_of_dispatch_has_no_clock_no_chance_and_no_io(name: str) -> None:
    source = Path(danube_trio.dispatch.__file__).with_name(f"{name}.py").read_text("utf-8")
    tree = ast.parse(source)
    suspending = (ast.Await, ast.AsyncFor, ast.AsyncWith, ast.AsyncFunctionDef)
    assert not [node for node in ast.walk(tree) if isinstance(node, suspending)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            assert not {alias.name.split(".")[0] for alias in node.names} & IMPURE
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            assert module.split(".")[0] not in IMPURE
            if module.startswith("danube_trio.dispatch."):
                assert module.removeprefix("danube_trio.dispatch.") in PURE
            elif module.startswith("danube_trio"):
                assert module.removeprefix("danube_trio.") in BELOW


UNREADABLE = "!"  # such a key cannot be decoded
KEYS = ["", "a", "b", "c", UNREADABLE]
BUFFER_BYTES = 40
HOWS = ["keep", "ack", "nack", "nack", "delay", "release"]


@attrs.define(eq=False)
class Taker:
    """A consumer, as the core knows it."""

    ordered: bool = False


@attrs.define
class Fact:
    """What the model knows about a message."""

    key: str
    failures: int = 0
    state: str = "stored"  # stored, held, waiting, blocked, burying, acked, dropped, dead
    entry: Entry | None = None
    serial: int = 0
    due: float = 0.0
    deadline: float = 0.0
    holder: Taker | None = None
    excused: bool = False  # the last delivery timed out
    rejected: bool = False
    retried: bool = False  # by the operator


SETTLED = {"acked", "dropped", "dead"}


def unreadable(message: StreamMessage) -> StreamMessage:
    """The message as a log gives it that has other bytes than its codec says."""
    late: Any = StreamMessage.__new__(StreamMessage)
    late.payload, late.request_id, late.offset = message.payload, 0, message.offset
    late._late_head, late._late_tail, late._late_offset = Broken(), b"", message.offset
    found: StreamMessage = late
    return found


class Broken:
    """Decodes nothing."""

    def late_fields(self, tail: bytes, offset: int, /) -> tuple[object, ...]:
        raise DecodeError(0, "no text", offset)


def message(offset: int, key: str) -> StreamMessage:
    plain = StreamMessage(b"x", routing_key=key or None, offset=offset)
    return unreadable(plain) if key == UNREADABLE else plain


class Dispatching(RuleBasedStateMachine):
    """Any program of the core's methods. `persisted` is the cursor that a crash falls back to."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.facts: list[Fact] = []
        self.fed = 0
        self.takers: list[Taker] = []
        self.restored: set[int] = set()  # acknowledged, saved, and never to be seen again

    @initialize(
        kind=st.sampled_from(SubscriptionType),
        poison=st.sampled_from(PoisonPolicy),
        window=st.integers(1, 6),
        redeliveries=st.one_of(st.none(), st.integers(0, 3)),
        timeout=st.one_of(st.none(), st.just(30.0)),
        unsaved=st.one_of(st.none(), st.integers(1, 5)),
        retrying=st.integers(1, 5),
        ordered=st.booleans(),
        keys=st.lists(st.sampled_from(KEYS), min_size=3, max_size=15),
    )
    def open(
        self,
        kind: SubscriptionType,
        poison: PoisonPolicy,
        window: int,
        redeliveries: int | None,
        timeout: float | None,
        unsaved: int | None,
        retrying: int,
        ordered: bool,
        keys: list[str],
    ) -> None:
        self.options = SubscriptionOptions(
            type=kind,
            poison_policy=poison,
            max_unacked_messages=window,
            max_redeliveries=redeliveries,
            ack_timeout=timeout,
            max_unsaved_acks=unsaved,
            max_retrying_messages=retrying,
            max_buffered_bytes=BUFFER_BYTES,
        )
        self.ordered = ordered and kind is not SubscriptionType.SHARED
        self.core = DispatchCore(self.options, CursorState())
        self.saved = CursorState()
        self.store(keys)
        self.join()

    @property
    def lanes(self) -> bool:
        kind = self.options.type
        if kind is SubscriptionType.KEY_SHARED:
            return True
        return bool(self.takers) and self.takers[0].ordered and kind is not SubscriptionType.SHARED

    # ---- the surroundings

    @rule(keys=st.lists(st.sampled_from(KEYS), min_size=1, max_size=6))
    def store(self, keys: list[str]) -> None:
        self.facts += [Fact(key) for key in keys]

    def feed(self, count: int) -> None:
        assert self.core.fed_end == self.fed
        if self.fed >= len(self.facts) or not self.core.wants_more():
            return
        wanted = self.core.next_wanted()
        if wanted > self.fed:
            assert all(self.facts[o].state in SETTLED for o in range(self.fed, wanted))
            if count % 2 and wanted <= len(self.facts):
                self.core.pass_by(wanted)
                self.fed = wanted
                return
        end = min(self.fed + count, len(self.facts))
        batch = [message(o, self.facts[o].key) for o in range(self.fed, end)]
        self.core.feed(batch, end)
        self.fed = end

    def join(self) -> None:
        if self.options.type is SubscriptionType.EXCLUSIVE and self.takers:
            return
        taker = Taker(self.ordered)
        self.takers.append(taker)
        self.core.join(taker)

    @rule(which=st.integers(0, 5), come=st.booleans())
    def come_or_go(self, which: int, come: bool) -> None:
        if come:
            self.join()
        elif self.takers:
            taker = self.takers.pop(which % len(self.takers))
            self.core.leave(taker)
            for fact in self.facts:
                if fact.state == "held" and fact.holder is taker:
                    fact.state, fact.holder = "stored", None

    @rule(which=st.integers(0, 5), count=st.integers(1, 4), fed=st.integers(0, 8))
    def take(self, which: int, count: int, fed: int = 0) -> None:
        if fed:
            self.feed(fed)
        if not self.takers:
            self.join()
        taker = self.takers[which % len(self.takers)]
        for _ in range(count):
            available = self.core.available()
            entry = self.core.take(taker, self.now)
            self._meet_fates()
            if entry is None:
                assert not available or self._may_refuse(taker)
                return
            self._check_taken(taker, entry)

    @rule(
        which=st.integers(0, 5),
        fed=st.integers(0, 8),
        hows=st.lists(st.sampled_from(HOWS), min_size=1, max_size=8),
        pause=st.sampled_from([0.0, 0.0, 1.0, 5.0, 70.0]),
    )
    def work(self, which: int, fed: int, hows: list[str], pause: float) -> None:
        """Take messages and answer for them; most programs do little else."""
        for how in hows:
            self.take(which, 1, fed)
            if how != "keep":
                self.answer(which, how)
        if pause:
            self.time_passes(pause)

    @rule(
        fed=st.integers(1, 8),
        hows=st.lists(st.sampled_from(HOWS), min_size=1, max_size=8),
        saved=st.booleans(),
    )
    def work_and_crash(self, fed: int, hows: list[str], saved: bool) -> None:
        """What a crash finds in between."""
        self.work(0, fed, hows, 5.0)
        self.crash(saved)
        self.work(0, fed, hows, 5.0)

    def _may_refuse(self, taker: Taker) -> bool:
        """Whether it is another one's turn, or what was ready turned out to be poison."""
        if self.options.type is SubscriptionType.FAILOVER and taker is not self.takers[0]:
            return True
        strange = any(fact.rejected or fact.key == UNREADABLE for fact in self.facts)
        return strange or self.options.max_redeliveries is not None

    def _check_taken(self, taker: Taker, entry: Entry) -> None:
        fact = self.facts[entry.offset]
        assert fact.state == "stored", f"offset {entry.offset} was {fact.state}"
        assert entry.offset not in self.restored
        assert entry.failures == fact.failures
        limit = self.options.max_redeliveries
        assert limit is None or fact.failures <= limit
        assert not fact.rejected
        assert fact.key != UNREADABLE or not self.lanes or fact.retried
        fact.state, fact.entry, fact.serial = "held", entry, entry.serial
        fact.holder, fact.excused = taker, False
        fact.deadline = self.now + (self.options.ack_timeout or float("inf"))
        held = [f for f in self.facts if f.state == "held"]
        assert len(held) <= self.options.max_unacked_messages
        if self.options.type is SubscriptionType.FAILOVER:
            assert taker is self.takers[0]
        if self.lanes and fact.key and fact.key != UNREADABLE:
            earlier = self.facts[: entry.offset]
            assert all(f.key != fact.key or f.state in SETTLED for f in earlier), "key order"
        elif not self.lanes:
            assert not any(f.state == "blocked" for f in self.facts)

    # ---- answers

    def _held(self, which: int) -> Fact | None:
        held = [fact for fact in self.facts if fact.state == "held"]
        return held[which % len(held)] if held else None

    @rule(which=st.integers(0, 9), how=st.sampled_from(HOWS[1:]))
    def answer(self, which: int, how: str) -> None:
        fact = self._held(which)
        if fact is None or fact.entry is None:
            return
        core, entry, serial = self.core, fact.entry, fact.serial
        if how == "ack":
            assert core.ack(entry, serial)
            assert not core.ack(entry, serial), "twice"
            fact.state = "acked"
        elif how == "release":
            assert core.release(entry, serial)
            fact.state = "stored"
        else:
            delay = 3.0 if how == "delay" else None
            assert core.fail(entry, serial, self.now, "no", delay)
            assert not core.release(entry, serial)
            self._failed(fact, delay)

    @rule(which=st.integers(0, 9))
    def reject(self, which: int) -> None:
        fact = self._held(which)
        if fact is not None and fact.entry is not None:
            assert self.core.reject(fact.entry, fact.serial, "never")
            fact.failures = max(fact.failures, self.options.max_redeliveries or 0) + 1
            fact.rejected = True
            self._poison(fact)

    @rule(which=st.integers(0, 9))
    def ack_late(self, which: int) -> None:
        """Answers to deliveries that are over."""
        over = [f for f in self.facts if f.entry is not None and f.state != "held"]
        if not over:
            return
        fact = over[which % len(over)]
        assert fact.entry is not None
        assert not self.core.fail(fact.entry, fact.serial, self.now, "late")
        counted = self.core.ack(fact.entry, fact.serial)
        assert counted == (fact.excused and fact.state not in ("acked", "dead"))
        if counted:
            fact.excused = False
            fact.state = "dropped" if fact.state == "dropped" else "acked"

    @rule(which=st.integers(0, 30))
    def ack_cumulative(self, which: int) -> None:
        kind = self.options.type
        if self.facts and kind in (SubscriptionType.EXCLUSIVE, SubscriptionType.FAILOVER):
            offset = which % len(self.facts)
            self.core.ack_up_to(offset)
            for fact in self.facts[: offset + 1]:
                if fact.entry is not None and fact.state in (
                    "held",
                    "waiting",
                    "blocked",
                    "stored",
                ):
                    fact.state = "acked"

    def _failed(self, fact: Fact, delay: float | None) -> None:
        fact.failures += 1
        limit = self.options.max_redeliveries
        if limit is not None and fact.failures > limit:
            self._poison(fact)
            return
        pause = min(2.0 ** (fact.failures - 1), 60.0) if delay is None else delay
        fact.state, fact.due = "waiting", self.now + pause

    def _poison(self, fact: Fact) -> None:
        fact.state = {
            PoisonPolicy.BLOCK: "blocked",
            PoisonPolicy.DROP: "dropped",
            PoisonPolicy.DEAD_LETTER: "burying",
        }[self.options.poison_policy]

    def _meet_fates(self) -> None:
        """A take may find messages that were poison before a restart."""
        limit = self.options.max_redeliveries
        for offset, fact in enumerate(self.facts):
            if fact.state == "stored" and (
                fact.rejected
                or fact.key == UNREADABLE
                or (limit is not None and fact.failures > limit)
            ):
                now_in = self.core._ledger.entries.get(offset)
                state = None if now_in is None else now_in.state.value
                if state in ("blocked", "burying") or (now_in is None and self._settled(offset)):
                    self._poison(fact)

    def _settled(self, offset: int) -> bool:
        return self.core.snapshot().is_settled(offset)

    @rule(seconds=st.sampled_from([0.5, 1.0, 5.0, 30.0, 70.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        next_time = min(self.core.next_due(), self.core.next_deadline())
        self.core.tick(self.now)
        happened = False
        for fact in self.facts:
            if fact.state == "held" and fact.deadline <= self.now:
                self._failed(fact, None)
                fact.excused = True
                happened = True
            if fact.state == "waiting" and fact.due <= self.now:
                fact.state = "stored"
                happened = True
        assert not happened or next_time <= self.now

    @precondition(lambda self: bool(self.core.burying))
    @rule()
    def bury(self) -> None:
        entry = self.core.burying[0]
        self.core.buried(entry)
        assert self.facts[entry.offset].state == "burying"
        self.facts[entry.offset].state = "dead"

    @rule(which=st.integers(0, 9), retry=st.booleans())
    def operator_decides(self, which: int, retry: bool) -> None:
        blocked = self.core.blocked()
        assert [e.offset for e in blocked] == [
            o for o, f in enumerate(self.facts) if f.state == "blocked"
        ]
        if blocked:
            entry = blocked[which % len(blocked)]
            assert self.core.unblock(entry.offset, retry=retry)
            fact = self.facts[entry.offset]
            fact.state = "stored" if retry else "dropped"
            fact.failures = 0 if retry else fact.failures
            fact.retried, fact.rejected = retry, fact.rejected and not retry
            fact.excused = fact.excused and retry

    @rule(paused=st.booleans())
    def pause(self, paused: bool) -> None:
        self.core.paused = paused
        assert not paused or not self.core.available()

    # ---- the cursor

    def save(self) -> None:
        state = self.core.snapshot()
        self.saved = CursorState.decode(state.encode(), "key")
        assert self.saved == state
        self.core.saved_changes = self.core.changes

    @precondition(lambda self: bool(self.facts))
    @rule(offset=st.integers(0, 30))
    def seek(self, offset: int) -> None:
        offset %= len(self.facts) + 1
        self.core.move(offset)
        self.fed = offset
        for at, fact in enumerate(self.facts):
            self.facts[at] = Fact(fact.key, state="acked" if at < offset else "stored")
        self.restored.clear()
        self.save()

    def crash(self, saved: bool) -> None:
        """All that is left is the log and the cursor that was saved."""
        if saved:
            self.save()
        state = self.saved
        for offset, fact in enumerate(self.facts):
            if state.is_settled(offset):
                assert fact.state in SETTLED
                self.restored.add(offset)
                continue
            failures = state.attempts.get(offset, 0)
            self.facts[offset] = Fact(fact.key, failures, rejected=offset in state.rejected)
            assert fact.rejected == self.facts[offset].rejected or not saved
        self.core = DispatchCore(self.options, state)
        self.fed = self.core.fed_end
        self.takers = []
        self.join()

    # ---- what always holds

    @invariant()
    def the_cursor_says_what_is_settled(self) -> None:
        if not hasattr(self, "core"):
            return
        state = self.core.snapshot()
        for offset, fact in enumerate(self.facts):
            assert state.is_settled(offset) == (fact.state in SETTLED), (offset, fact.state)
        unsettled = [o for o, f in enumerate(self.facts) if f.state not in SETTLED]
        assert self.core.lag(len(self.facts)) == len(unsettled)
        assert self.core.end <= (unsettled[0] if unsettled else len(self.facts))
        if self.fed == len(self.facts) and not self.core._queue.buffered:
            assert self.core.end == (unsettled[0] if unsettled else len(self.facts))

    @invariant()
    def the_counts_agree(self) -> None:
        if not hasattr(self, "core"):
            return
        states = [fact.state for fact in self.facts]
        assert self.core.in_flight == states.count("held")
        assert self.core.retrying == states.count("waiting")
        assert len(self.core.burying) == states.count("burying")
        ledger: Ledger = self.core._ledger
        known = len(ledger.entries) + (self.core._queue.buffered if not self.lanes else 0)
        reasons = sum(len(entry.reason) for entry in ledger.entries.values())
        assert self.core._buffered_bytes <= known + reasons
        assert self.core._buffered_bytes >= len(ledger.entries)

    def teardown(self) -> None:
        """Nothing is stuck: with one consumer that works, everything ends settled."""
        if not hasattr(self, "core"):
            return
        self.core.paused = False
        steps = 0
        while any(fact.state not in SETTLED for fact in self.facts):
            steps += 1
            assert steps < 50 * (len(self.facts) + 5), [f.state for f in self.facts]
            if not self.takers:
                self.join()
            self.save()
            if self.fed < len(self.facts):
                self.feed(8)
            self.take(0, 4)
            while self._held(0):
                self.answer(0, "ack")
            while self.core.burying:
                self.bury()
            self.operator_decides(0, retry=False)
            self.time_passes(70.0)
        assert self.core.end == len(self.facts) or self.fed < len(self.facts)


Dispatching.TestCase.settings = settings(
    max_examples=200 if settings().max_examples <= 100 else settings().max_examples,
    stateful_step_count=60,
)
TestDispatching: Any = Dispatching.TestCase


class Consumer:
    ordered = False


def core_of(count: int, **options: Any) -> tuple[DispatchCore, Consumer]:
    """A core with so many messages and a consumer."""
    core, consumer = DispatchCore(SubscriptionOptions(**options), CursorState()), Consumer()
    core.join(consumer)
    core.feed([message(offset, "") for offset in range(count)], count)
    return core, consumer


def taken(core: DispatchCore, consumer: Consumer) -> Entry:
    entry = core.take(consumer, 0.0)
    assert entry is not None
    return entry


def test_nothing_is_handed_out_while_too_many_acknowledgements_are_not_saved() -> None:
    core, consumer = core_of(5, max_unsaved_acks=2)
    for _ in range(2):
        entry = taken(core, consumer)
        assert core.ack(entry, entry.serial)
    assert core.take(consumer, 0.0) is None
    core.saved_changes = core.changes
    assert taken(core, consumer).offset == 2


def test_an_acknowledgement_speaks_of_one_delivery() -> None:
    core, consumer = core_of(1)
    entry = taken(core, consumer)
    first = entry.serial
    assert core.release(entry, first)
    assert taken(core, consumer) is entry
    assert not core.ack(entry, first)
    assert core.end == 0
    assert core.ack(entry, entry.serial)


def test_a_message_is_redelivered_as_often_as_was_asked_for() -> None:
    core, consumer = core_of(1, max_redeliveries=1, poison_policy=PoisonPolicy.BLOCK)
    for failures, (retrying, blocked) in enumerate([(1, 0), (0, 1)], 1):
        entry = taken(core, consumer)
        assert core.fail(entry, entry.serial, 0.0, "it failed", 0.0)
        assert (entry.failures, core.retrying, len(core.blocked())) == (failures, retrying, blocked)
        core.tick(1.0)


def test_the_window_holds_as_many_as_it_says() -> None:
    core, consumer = core_of(5, max_unacked_messages=2)
    assert [taken(core, consumer).offset for _ in range(2)] == [0, 1]
    assert core.take(consumer, 0.0) is None


def test_what_a_consumer_that_leaves_had_in_hand_is_for_others() -> None:
    core, consumer = core_of(2)
    taken(core, consumer)
    core.leave(consumer)
    assert core.in_flight == 0
    another = Consumer()
    core.join(another)
    assert taken(core, another).offset == 0


def test_a_cumulative_acknowledgement_settles_what_was_handed_out() -> None:
    core, consumer = core_of(3, type=SubscriptionType.KEY_SHARED)
    taken(core, consumer)
    assert core.ack_up_to(2) == 1
    assert core.end == 1
