"""Any program of producers, consumers, cancellations and crashes, against what it was promised.

Each program runs on virtual time. Its consumers fail, dawdle, leave and are cancelled as drawn; its
process is killed as drawn, which leaves the log and whatever the metadata store has. What is
checked, over all lives of the program:

- a message is never delivered again after its acknowledgement was saved (`flush` returned);
- a message is in one consumer's hands at a time, and no more of them than the window has room for;
- in a key-shared subscription there is one message of a key in hand, and none comes before all
  earlier ones are settled;
- an attempt number is never above the limit, and a dead letter failed exactly once more than it may
  be redelivered;
- leaving saves everything; a kill loses no more acknowledgements than the window and
  ``max_unsaved_acks`` allow;
- in the end every message is acknowledged, dropped or a dead letter: nothing is lost or stuck.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from topics import Backing, Metadata, keyed, open_backing
from trio.testing import MockClock

from danube_trio import OffsetTrimmedError, StartPosition, Wal, WalConfig, WalStorage, open_wal
from danube_trio.dispatch import (
    Consumer,
    Delivery,
    PoisonPolicy,
    ReliableDispatch,
    Subscription,
    SubscriptionBusyError,
    SubscriptionClosedError,
    SubscriptionOptions,
    SubscriptionType,
)
from danube_trio.errors import StoreUnavailableError

ONE = (SubscriptionType.EXCLUSIVE, SubscriptionType.FAILOVER)


@attrs.frozen
class Step:
    """One thing that happens, some time after the one before."""

    what: str
    pause: float
    number: int


WHATS = [
    *("store", "store", "join", "join", "leave", "flush"),
    *("kill", "restart", "pause", "run", "seek"),
]
STEPS = st.builds(
    Step,
    st.sampled_from(WHATS),
    st.sampled_from([0.0, 0.0, 0.01, 0.3, 2.0, 40.0]),
    st.integers(0, 20),
)
# How a consumer treats the next message: what it answers, after how long.
MANNERS = st.lists(
    st.tuples(
        st.sampled_from(["ack", "ack", "raise", "nack", "cancel", "reject", "forget", "nothing"]),
        st.sampled_from([0.0, 0.0, 0.1, 1.0, 35.0]),
    ),
    min_size=1,
    max_size=30,
)
OPTIONS = st.builds(
    SubscriptionOptions,
    type=st.sampled_from(SubscriptionType),
    poison_policy=st.sampled_from([PoisonPolicy.DROP, PoisonPolicy.DEAD_LETTER]),
    max_unacked_messages=st.integers(1, 5),
    max_redeliveries=st.integers(0, 3),
    save_interval=st.sampled_from([0.01, 1.0]),
    max_unsaved_acks=st.sampled_from([1, 3, None]),
    max_retrying_messages=st.integers(1, 4),
    count_crashes=st.booleans(),
)


@attrs.define(eq=False)
class Facts:
    """What the program knows about one message, over all its lives."""

    key: str
    acked: bool = False  # a kill may take it back
    saved: bool = False
    ever_acked: bool = False
    seen: bool = False


class Program:
    """Runs the steps of one program."""

    def __init__(
        self,
        backing: Backing,
        dead: Wal,
        options: SubscriptionOptions,
        manners: list[tuple[str, float]],
    ) -> None:
        self.backing = backing
        self.dead = dead
        self.options = options
        self.manners = manners
        self.turn = 0
        self.metadata = Metadata()
        self.messages: list[Facts] = []
        self.ending = False
        self.dropped = 0
        self.in_hand: list[Delivery] = []
        self.cancels: list[trio.CancelScope] = []

    async def run(self, steps: list[Step]) -> None:
        rest = list(steps)
        while rest:
            await self.life(rest)
        self.ending = True
        await self.life([Step("end", 0.0, 0)])
        letters = {
            int(m.attributes["x-original-offset"]): int(m.attributes["x-failure-count"])
            async for m in self.dead.reader(end="current")
        }
        limit = (self.options.max_redeliveries or 0) + 1
        assert set(letters.values()) <= {limit}
        others = [
            offset
            for offset, facts in enumerate(self.messages)
            if not facts.ever_acked and offset not in letters
        ]
        assert len(others) <= self.dropped, others

    async def life(self, steps: list[Step]) -> None:
        """From a start of the process to its end; takes its steps off the list."""
        dead = WalStorage.from_wal(self.dead)
        self.cancels = []
        self.metadata = self.metadata.left_behind()
        try:
            async with self.backing.dispatch(self.metadata, dead_letter_storage=dead) as dispatch:
                subscription = await dispatch.add_subscription("billing", self.options)
                self.compare(subscription)
                async with trio.open_nursery() as nursery:
                    while steps:
                        step = steps.pop(0)
                        await trio.sleep(step.pause)
                        if await self.step(dispatch, subscription, step, nursery):
                            break
                    nursery.cancel_scope.cancel()
                self.dropped += (await subscription.statistics()).dropped
        except StoreUnavailableError:
            assert self.metadata.down
        if not self.metadata.down:
            for facts in self.messages:
                facts.saved = facts.acked

    def compare(self, subscription: Subscription) -> None:
        """What the life before left in the metadata store."""
        cursor = subscription._state.core.snapshot()
        lost = 0
        for offset, facts in enumerate(self.messages):
            if facts.acked and not cursor.is_settled(offset):
                assert not facts.saved
                facts.acked = False
                lost += 1
        unsaved = self.options.max_unsaved_acks
        assert unsaved is None or lost <= unsaved + self.options.max_unacked_messages

    async def step(
        self,
        dispatch: ReliableDispatch,
        subscription: Subscription,
        step: Step,
        nursery: trio.Nursery,
    ) -> bool:
        """Do it; True at the end of this life."""
        match step.what:
            case "store":
                keys = ["", "a", "b"][: 1 + step.number % 3]
                batch = [keyed(keys[i % len(keys)], b"%d" % i) for i in range(1 + step.number % 7)]
                self.messages += [Facts(message.routing_key or "") for message in batch]
                await dispatch.store_batch(batch)
            case "join":
                nursery.start_soon(self.consume, subscription, bool(step.number % 2))
            case "run":
                nursery.start_soon(self.run_handler, subscription, 1 + step.number % 3)
            case "leave" if self.cancels:
                self.cancels.pop(step.number % len(self.cancels)).cancel()
            case "pause":
                subscription.pause()
                await trio.sleep(step.number)
                subscription.resume()
            case "flush":
                acked = [facts for facts in self.messages if facts.acked]
                await subscription.flush()
                for facts in acked:
                    facts.saved = True
            case "seek":
                there = await dispatch.topic_store.start_offset()  # retention frees things, too
                start = max(there, step.number % (len(self.messages) + 1))
                try:
                    await subscription.seek(StartPosition.offset(start))
                except OffsetTrimmedError:
                    return False  # it went just now
                for offset, facts in enumerate(self.messages):
                    settled = offset < start
                    facts.acked = facts.saved = facts.seen = settled
                    facts.ever_acked |= settled
            case "kill":
                self.metadata.down = True  # from now on nothing that it does is saved
                return True
            case "restart":
                return True
            case "end":
                for _ in range(2 if self.options.type not in ONE else 1):
                    nursery.start_soon(self.consume, subscription, False)
                with trio.fail_after(100_000):
                    await subscription.wait_settled()
            case _:
                pass
        return False

    async def consume(self, subscription: Subscription, many: bool) -> None:
        with trio.CancelScope() as scope:
            self.cancels.append(scope)
            try:
                async with subscription.consumer() as consumer:
                    while True:
                        await (self.take_many(consumer) if many else self.take_one(consumer))
            except (SubscriptionBusyError, SubscriptionClosedError):
                return

    async def run_handler(self, subscription: Subscription, concurrency: int) -> None:
        with trio.CancelScope() as scope:
            self.cancels.append(scope)
            concurrency = min(concurrency, self.options.max_unacked_messages)
            try:
                await subscription.run(self.handle, concurrency=concurrency)
            except (SubscriptionBusyError, SubscriptionClosedError):
                return

    async def handle(self, message: Delivery) -> None:
        with self.holding(message):
            await self.treat(message)

    async def take_one(self, consumer: Consumer) -> None:
        try:
            async with consumer.take() as message:
                with self.holding(message):
                    await self.treat(message)
        except ZeroDivisionError:
            pass

    async def take_many(self, consumer: Consumer) -> None:
        for message in await consumer.receive(3):
            if not message.is_current:
                continue  # it timed out while the others were handled
            with self.holding(message):
                try:
                    await self.treat(message)
                except ZeroDivisionError:
                    message.nack()

    def holding(self, message: Delivery) -> Holding:
        return Holding(self, message)

    async def treat(self, message: Delivery) -> None:
        """Do to a message what is drawn for it; in the end everything is done well."""
        how, pause = self.manners[self.turn % len(self.manners)]
        self.turn += 1
        assert self.turn < 10_000, "time stands still"
        if self.ending and (self.turn > len(self.manners) or how in ("nothing", "forget")):
            how, pause = "ack", 0.0
        await trio.sleep(pause)
        match how:
            case "raise":
                raise ZeroDivisionError
            case "nack":
                message.nack(delay=pause)
            case "reject":
                message.reject("never")
            case "forget":
                await trio.sleep_forever() if not self.ending else None
            case "cancel":
                with trio.CancelScope() as scope:
                    scope.cancel()
                    await trio.lowlevel.checkpoint()
                message.release()
                await trio.sleep(5)  # or time would stand still
            case _:
                pass


class Holding:
    """Checks a delivery when it begins, and notes how it ended."""

    def __init__(self, program: Program, message: Delivery) -> None:
        self._program = program
        self._message = message

    def __enter__(self) -> None:
        program, message = self._program, self._message
        facts = program.messages[message.offset]
        assert message.is_current
        assert not facts.saved, f"offset {message.offset} was delivered after its ack was saved"
        assert not facts.acked, f"offset {message.offset} was delivered after its ack"
        assert message.attempt <= (program.options.max_redeliveries or 0) + 1
        if program.options.type is SubscriptionType.KEY_SHARED and facts.key:
            earlier = program.messages[: message.offset]
            waiting = [f for f in earlier if f.key == facts.key and not f.seen]
            assert not waiting, "not in order"
        facts.seen = True
        in_hand = [other for other in program.in_hand if other.is_current]
        assert message.offset not in [other.offset for other in in_hand], "two have it in hand"
        assert len(in_hand) < program.options.max_unacked_messages
        program.in_hand.append(message)

    def __exit__(self, exc_type: type[BaseException] | None, *_: object) -> None:
        facts = self._program.messages[self._message.offset]
        self._program.in_hand.remove(self._message)
        if exc_type is None and self._message.ack():
            facts.acked = facts.ever_acked = True


def run(program: Callable[..., object], *args: object) -> None:
    trio.run(program, *args, clock=MockClock(autojump_threshold=0))  # type: ignore[arg-type]


@settings(max_examples=max(60, settings().max_examples // 2))
@given(st.sampled_from(["wal", "segments"]), OPTIONS, st.lists(STEPS, max_size=25), MANNERS)
def test_any_program(
    kind: str, options: SubscriptionOptions, steps: list[Step], manners: list[tuple[str, float]]
) -> None:
    async def main() -> None:
        async with open_backing(kind) as backing, open_wal(WalConfig()) as dead:
            await Program(backing, dead, options, manners).run(steps)

    run(main)
