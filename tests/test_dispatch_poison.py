"""Dispatch: messages that cannot be handled, or not be read, and work that comes late."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from topics import Backing, Metadata, open_backing, settle, store
from trio.testing import MockClock, wait_all_tasks_blocked

from danube_trio import StreamMessage, Wal, WalConfig, WalStorage, open_wal
from danube_trio._engine.log.wal import inside
from danube_trio.dispatch import (
    Delivery,
    PoisonPolicy,
    ReliableDispatch,
    ReliableOptions,
    Subscription,
    SubscriptionOptions,
    SubscriptionType,
    _ledger,
)
from danube_trio.dispatch._core import DispatchCore
from danube_trio.dispatch._cursor import CursorState
from danube_trio.dispatch._ledger import Entry
from danube_trio.errors import CorruptDataError

BAD = b"\xff\xfe\xff\xfe"
LATE = SubscriptionOptions(ack_timeout=10, max_redeliveries=0, backoff_initial=100, backoff_max=100)


@pytest.fixture
async def wal() -> AsyncGenerator[Wal]:
    async with open_wal(WalConfig(cache_capacity=1_000_000)) as wal:
        yield wal


@pytest.fixture
async def dead() -> AsyncGenerator[Wal]:
    async with open_wal(WalConfig(max_message_bytes=3000)) as wal:
        yield wal


@asynccontextmanager
async def open_dispatch(
    wal: Wal, metadata: Metadata, dead: Wal | None = None
) -> AsyncGenerator[ReliableDispatch]:
    letters = WalStorage.from_wal(dead) if dead is not None else None
    backing = Backing("wal", None, wal)  # type: ignore[arg-type]
    async with backing.dispatch(metadata, dead_letter_storage=letters) as dispatch:
        yield dispatch


async def append_foreign(wal: Wal, messages: list[StreamMessage]) -> None:
    """One batch, as a writer with another idea of text leaves it: each ZZZZ is none."""
    _, acceptor, encoder = inside(wal)
    records = tuple(
        (head.replace(b"ZZZZ", BAD), payload, tail.replace(b"ZZZZ", BAD))
        for head, payload, tail in map(encoder.one, messages)
    )
    size = sum(len(part) for record in records for part in record)
    await acceptor.append(records, size, "fsync", None)


FOREIGN = {
    "routing_key": StreamMessage(b"bad", routing_key="ZZZZ"),
    "producer_name": StreamMessage(b"bad", producer_name="ZZZZ"),
    "attributes": StreamMessage(b"bad", attributes={"ZZZZ": ""}),
}


async def handled(subscription: Subscription, **more: Any) -> list[bytes]:
    """What a run is given until nothing more comes."""
    found: list[bytes] = []

    async def handle(message: Delivery) -> None:
        assert message.key in ("k", "")
        found.append(message.payload)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: subscription.run(handle, **more))
        await trio.sleep(1000)
        nursery.cancel_scope.cancel()
    return found


async def nothing_comes(subscription: Subscription) -> bool:
    """Whether nobody is given anything, for as long as it takes."""
    with trio.move_on_after(1000) as scope:
        async with subscription.take() as message:
            message.release()
    return scope.cancelled_caught


# ---- what cannot be read


@pytest.mark.happens
@pytest.mark.parametrize("policy", PoisonPolicy)
@pytest.mark.parametrize("field", FOREIGN)
@pytest.mark.parametrize("kind", [SubscriptionType.EXCLUSIVE, SubscriptionType.KEY_SHARED])
async def test_a_message_that_cannot_be_decoded_is_poison_and_the_others_of_its_batch_are_delivered(
    wal: Wal,
    dead: Wal,
    autojump_clock: MockClock,
    kind: SubscriptionType,
    field: str,
    policy: PoisonPolicy,
) -> None:
    metadata, good = Metadata(), StreamMessage(b"good", routing_key="k")
    options = SubscriptionOptions(
        type=kind, poison_policy=policy, max_redeliveries=1, backoff_initial=0
    )
    async with open_dispatch(wal, metadata, dead) as dispatch:
        await append_foreign(wal, [good, FOREIGN[field], good, good])
        subscription = await dispatch.add_subscription("billing", options)
        assert await handled(subscription) == [b"good"] * 3
        blocked = policy is PoisonPolicy.BLOCK
        assert [found.offset for found in subscription.blocked()] == ([1] if blocked else [])
        assert subscription.end == (1 if blocked else 4)
        assert (await subscription.statistics()).dropped == (policy is PoisonPolicy.DROP)
    async with open_dispatch(wal, metadata, dead) as dispatch:
        subscription = await dispatch.add_subscription("billing", options)
        assert await handled(subscription) == [], "the others were settled, and that was saved"
        assert [found.offset for found in subscription.blocked()] == ([1] if blocked else [])
        if blocked:
            assert f"{field} is not UTF-8" in subscription.blocked()[0].reason
            assert subscription.drop_blocked(1)
            assert subscription.end == 4
    letters = [letter async for letter in dead.reader(end="current")]
    assert [letter.payload for letter in letters] == (
        [b"bad"] if policy is PoisonPolicy.DEAD_LETTER else []
    )
    assert all(letter.attributes["x-original-offset"] == "1" for letter in letters)


async def test_what_cannot_be_read_is_retried_when_the_operator_says_so(
    wal: Wal, autojump_clock: MockClock
) -> None:
    async with open_dispatch(wal, Metadata()) as dispatch:
        await append_foreign(wal, [FOREIGN["routing_key"]])
        subscription = await dispatch.add_subscription("billing")
        found: list[bytes] = []

        async def handle(message: Delivery) -> None:
            found.append(message.payload)  # who needs no key can handle it

        async with trio.open_nursery() as nursery:
            nursery.start_soon(subscription.run, handle)
            await wait_all_tasks_blocked()
            assert (found, subscription.end) == ([], 0)
            assert subscription.retry_blocked(0)
            await subscription.wait_settled()
            assert found == [b"bad"]
            nursery.cancel_scope.cancel()


async def test_a_consumer_without_lanes_is_given_what_has_no_readable_key(
    wal: Wal, autojump_clock: MockClock
) -> None:
    async with open_dispatch(wal, Metadata()) as dispatch:
        await append_foreign(wal, [FOREIGN["routing_key"], FOREIGN["attributes"]])
        subscription = await dispatch.add_subscription("billing")
        async with subscription.take() as message:
            assert message.payload == b"bad"
        with pytest.raises(ValueError, match="not UTF-8"):
            async with subscription.take() as message:
                _ = message.attributes
        assert (await subscription.statistics()).failed == 1


async def test_letters_that_cannot_be_read_are_passed_over_when_others_are_brought_back(
    wal: Wal, dead: Wal, autojump_clock: MockClock
) -> None:
    options = SubscriptionOptions(poison_policy=PoisonPolicy.DEAD_LETTER)
    async with open_dispatch(wal, Metadata(), dead) as dispatch:
        await append_foreign(dead, [FOREIGN["attributes"]])
        await dispatch.store_message(b"poison")
        subscription = await dispatch.add_subscription("billing", options)
        async with subscription.take() as message:
            message.reject("no")
        await subscription.wait_settled()
        assert await subscription.redrive() == 1
        async with subscription.take() as message:
            assert message.payload == b"poison"


@pytest.mark.happens
async def test_a_letter_that_is_too_large_is_blocked_until_the_operator_settles_it(
    wal: Wal, dead: Wal, autojump_clock: MockClock
) -> None:
    options = SubscriptionOptions(poison_policy=PoisonPolicy.DEAD_LETTER)
    async with open_dispatch(wal, Metadata(), dead) as dispatch:
        await dispatch.store_message(bytes(3001))
        subscription = await dispatch.add_subscription("billing", options)
        async with subscription.take() as message:
            message.reject("no")
        await trio.sleep(60)
        (blocked,) = subscription.blocked()
        assert "max_message_bytes" in blocked.reason
        assert (await subscription.statistics()).dead_lettering == 0
        assert subscription.drop_blocked(0)
        assert subscription.end == 1


# ---- what was rejected, and how often others failed


@pytest.mark.parametrize("limits", [(None, None), (5, 5), (2, 10), (10, 2), (0, None)])
@pytest.mark.parametrize("policy", PoisonPolicy)
async def test_what_was_rejected_stays_rejected_after_restarts(
    wal: Wal,
    dead: Wal,
    autojump_clock: MockClock,
    policy: PoisonPolicy,
    limits: tuple[int | None, int | None],
) -> None:
    metadata = Metadata()
    first, later = (
        SubscriptionOptions(max_redeliveries=limit, poison_policy=PoisonPolicy.BLOCK)
        for limit in limits
    )
    async with open_dispatch(wal, metadata) as dispatch:
        await store(dispatch, 2)
        subscription = await dispatch.add_subscription("billing", first)
        async with subscription.take() as message:
            message.reject("can never work")
    for turn in range(3):
        options = later
        if turn == 2:
            options = SubscriptionOptions(max_redeliveries=limits[1], poison_policy=policy)
        async with open_dispatch(wal, metadata, dead) as dispatch:
            subscription = await dispatch.add_subscription("billing", options)
            if policy is PoisonPolicy.BLOCK or turn < 2:
                assert await nothing_comes(subscription)
                (blocked,) = subscription.blocked()
                assert (blocked.offset, subscription.end) == (0, 0)
            else:
                assert await settle(subscription, 1) == [1]
                await subscription.wait_settled()


async def test_what_was_rejected_is_delivered_when_the_operator_retries_it_after_a_restart(
    wal: Wal, autojump_clock: MockClock
) -> None:
    metadata = Metadata()
    async with open_dispatch(wal, metadata) as dispatch:
        await store(dispatch, 1)
        subscription = await dispatch.add_subscription("billing")
        async with subscription.take() as message:
            message.reject("no")
    async with open_dispatch(wal, metadata) as dispatch:
        subscription = await dispatch.add_subscription("billing")
        assert await nothing_comes(subscription)
        assert subscription.retry_blocked(0)
    async with open_dispatch(wal, metadata) as dispatch:
        subscription = await dispatch.add_subscription("billing")
        async with subscription.take() as message:
            assert (message.offset, message.attempt) == (0, 1)


async def test_failures_and_rejections_are_not_forgotten_by_saves_that_come_before_they_are_read(
    wal: Wal, autojump_clock: MockClock
) -> None:
    metadata = Metadata()
    async with open_dispatch(wal, metadata) as dispatch:
        await store(dispatch, 4)
        options = SubscriptionOptions(type=SubscriptionType.KEY_SHARED, max_redeliveries=None)
        subscription = await dispatch.add_subscription("billing", options)
        async with subscription.consumer() as consumer:
            zero, one, two, _ = await consumer.receive(4)
            two.nack()
            one.reject("no")
            zero.ack()
    for _ in range(3):  # each opening saves the cursor
        metadata = metadata.left_behind()
        async with open_dispatch(wal, metadata) as dispatch:
            subscription = await dispatch.add_subscription("billing", options)
            await subscription.flush()
    async with open_dispatch(wal, metadata) as dispatch:
        subscription = await dispatch.add_subscription("billing", options)
        async with subscription.consumer() as consumer:
            (found,) = await consumer.receive(1)
            assert (found.offset, found.attempt) == (2, 2)
            assert [b.offset for b in subscription.blocked()] == [1]


@pytest.mark.parametrize("how", ["consumer", "take"])
async def test_a_clean_leave_counts_no_crash_for_what_somebody_still_holds(
    wal: Wal, how: str
) -> None:
    metadata, options = Metadata(), SubscriptionOptions(count_crashes=True)
    async with trio.open_nursery() as nursery:
        holding, left = trio.Event(), trio.Event()

        async def hold(subscription: Subscription) -> None:
            consumer = subscription.consumer()
            if how == "take":
                async with subscription.take() as message:
                    holding.set()
                    await left.wait()
            else:
                async with consumer:
                    (message,) = await consumer.receive(1)
                    holding.set()
                    await left.wait()
                    assert not message.is_current
                    assert not message.ack(), "it was released, and that was saved"

        async with open_dispatch(wal, metadata) as dispatch:
            await store(dispatch, 1)
            subscription = await dispatch.add_subscription("billing", options)
            nursery.start_soon(hold, subscription)
            await holding.wait()
        left.set()
    async with open_dispatch(wal, metadata) as dispatch:
        subscription = await dispatch.add_subscription("billing", options)
        async with subscription.take() as message:
            assert (message.offset, message.attempt) == (0, 1)


# ---- work that comes late


@pytest.mark.parametrize("policy", PoisonPolicy)
@pytest.mark.parametrize("kind", ["wal", "segments"])
async def test_work_that_ends_after_the_timeout_of_its_last_attempt_counts(
    autojump_clock: MockClock, dead: Wal, kind: str, policy: PoisonPolicy
) -> None:
    options = SubscriptionOptions(ack_timeout=10, max_redeliveries=0, poison_policy=policy)
    metadata = Metadata()
    letters = Unreachable(dead)
    async with open_backing(kind) as backing:
        async with backing.dispatch(metadata, dead_letter_storage=letters) as dispatch:
            await store(dispatch, 2)
            subscription = await dispatch.add_subscription("billing", options)
            async with subscription.consumer() as consumer:
                (message,) = await consumer.receive(1)
                # In one step, so that no letter is on its way yet.
                subscription._state.core.tick(trio.current_time() + 11)
                assert message.ack()
                assert not message.ack(), "once"
                assert subscription.end == 1
                assert subscription.blocked() == []
                await trio.sleep(100)
        assert dead.next_offset == 0
        async with backing.dispatch(metadata, dead_letter_storage=letters) as dispatch:
            subscription = await dispatch.add_subscription("billing", options)
            async with subscription.take() as message:
                assert message.offset == 1


class Unreachable(WalStorage):
    """Where nothing may arrive."""

    def __init__(self, wal: Wal) -> None:
        super().__init__(wal, None)

    async def append_message(self, topic: str, message: Any, **rest: Any) -> int:
        """Not expected."""
        raise AssertionError(message)


async def test_what_the_dead_letters_have_begun_to_take_cannot_be_acknowledged_any_more(
    autojump_clock: MockClock, wal: Wal, dead: Wal
) -> None:
    options = SubscriptionOptions(
        ack_timeout=10, max_redeliveries=0, poison_policy=PoisonPolicy.DEAD_LETTER
    )
    async with open_dispatch(wal, Metadata(), dead) as dispatch:
        await store(dispatch, 1)
        subscription = await dispatch.add_subscription("billing", options)
        async with subscription.consumer() as consumer:
            (message,) = await consumer.receive(1)
            await trio.sleep(11)
            assert not message.ack()
            assert dead.next_offset == 1
            assert (await subscription.statistics()).dead_lettered == 1


# ---- deadlines


class Counted(Entry):
    """Counts how often its deadline is looked at."""

    looks = 0

    @property
    def deadline(self) -> float:
        Counted.looks += 1
        return self._deadline

    @deadline.setter
    def deadline(self, value: float) -> None:
        self._deadline = value


@pytest.mark.parametrize("timeout", [None, 30.0])
def test_a_failure_does_not_look_at_everything_that_is_in_hands(
    monkeypatch: pytest.MonkeyPatch, timeout: float | None
) -> None:
    monkeypatch.setattr(_ledger, "Entry", Counted)
    count = 20_000
    options = SubscriptionOptions(
        max_unacked_messages=count, ack_timeout=timeout, max_buffered_bytes=1 << 40
    )
    core = DispatchCore(options, CursorState())
    consumer = Taking()
    core.join(consumer)
    core.feed([StreamMessage(b"x", offset=offset) for offset in range(count)], count)
    Counted.looks = 0
    entries = [core.take(consumer, offset / count) for offset in range(count)]
    for round_ in range(100):
        entry = entries[round_ * 7 % count]
        assert entry is not None
        assert core.fail(entry, entry.serial, 2.0, "no")
        core.tick(2.0)
        expected = float("inf") if timeout is None else 30.0
        assert core.next_deadline() >= expected
    assert Counted.looks < 4 * count  # a few for each delivery, and none for each failure


class Taking:
    """A consumer."""

    ordered = False


def test_deadlines_that_are_put_off_are_kept() -> None:
    core = DispatchCore(SubscriptionOptions(ack_timeout=10, max_unacked_messages=3), CursorState())
    consumer = Taking()
    core.join(consumer)
    core.feed([StreamMessage(b"x", offset=offset) for offset in range(3)], 3)
    zero, one, two = (core.take(consumer, float(i)) for i in range(3))
    assert zero is not None and one is not None and two is not None
    assert core.extend(zero, zero.serial, 20.0)
    assert core.extend(one, one.serial, float("inf"))
    assert core.next_deadline() == 12
    core.tick(12)
    assert (core.in_flight, core.next_deadline()) == (2, 20)
    core.tick(19.9)
    assert core.in_flight == 2
    core.tick(20)
    assert (core.in_flight, core.next_deadline()) == (1, float("inf"))


# ---- cursors that say what is not so


def test_holes_and_failures_of_messages_that_are_gone_leave_the_cursor() -> None:
    cursor = CursorState(
        end=2, edge=9, holes=[2, 4, 6, 7], attempts={2: 1, 4: 2, 7: 3}, rejected=[2, 7]
    )
    core = DispatchCore(SubscriptionOptions(), cursor)
    assert core.snapshot() == cursor
    assert core.lose(5) == 2
    assert (core.counts.lost, core.end) == (2, 6)
    assert core.snapshot() == CursorState(
        end=6, edge=9, holes=[6, 7], attempts={7: 3}, rejected=[7]
    )
    core.join(consumer := Taking())
    core.feed([StreamMessage(b"x", offset=6)], 7)
    assert core.take(consumer, 0.0) is not None
    assert core.lose(20) == 1 + 11
    assert core.snapshot() == CursorState(end=6, edge=20, holes=[6])


@pytest.mark.parametrize("cursor", [b"{}", b"junk", CursorState.at(1000).encode()])
async def test_nothing_is_freed_while_a_cursor_cannot_be_read_or_is_ahead_of_the_log(
    cursor: bytes,
) -> None:
    metadata = Metadata()
    await metadata.put("/topics/default/orders/subscriptions/odd/danube-trio", cursor)
    async with open_backing("segments") as backing:
        async with backing.dispatch(metadata, ReliableOptions(1)) as dispatch:
            for _ in range(4):
                await dispatch.store_message(bytes(700_000))
            subscription = await dispatch.add_subscription("billing")
            await settle(subscription, 4)
            await subscription.flush()
            assert await dispatch.apply_retention() == 0
            with pytest.raises(CorruptDataError):
                await dispatch.add_subscription("odd")
            assert await dispatch.apply_retention() == 0
            assert await dispatch.remove_subscription("odd")
            assert await dispatch.apply_retention() == 3


def test_a_cursor_of_an_older_version_has_no_rejections_and_is_read() -> None:
    value = CursorState(end=1, edge=1, attempts={1: 6}).encode()
    assert b"rejected" not in value
    assert CursorState.decode(value, "key").rejected == []


def test_rejections_that_do_not_fit_are_left_out_with_their_failures() -> None:
    offsets = [3 * i * i for i in range(2000)]
    cursor = CursorState(
        end=0,
        edge=offsets[-1] + 1,
        holes=offsets,
        attempts=dict.fromkeys(offsets, 1),
        rejected=offsets,
    )
    fitted, value = cursor.fitted(1024)
    assert len(value) <= 1024
    assert 0 < len(fitted.rejected) < 2000
    assert list(fitted.rejected) == list(fitted.attempts)
    assert CursorState.decode(value, "key") == fitted
