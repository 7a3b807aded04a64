"""Dispatch as its users see it, with a WAL behind and with segments: both behave the same."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from topics import (
    CURSOR,
    DANUBE_CURSOR,
    TOPIC,
    Backing,
    Metadata,
    keyed,
    open_backing,
    settle,
    store,
)
from trio.testing import MockClock, wait_all_tasks_blocked

from danube_trio import (
    CorruptDataError,
    OffsetTrimmedError,
    StartPosition,
    StreamMessage,
    UnexpectedOffsetError,
    WalConfig,
    WalStorage,
    open_wal,
)
from danube_trio.dispatch import (
    Consumer,
    Delivery,
    PoisonPolicy,
    ReliableDispatch,
    ReliableOptions,
    Subscription,
    SubscriptionBusyError,
    SubscriptionClosedError,
    SubscriptionOptions,
    SubscriptionType,
)
from danube_trio.errors import FencedError


@pytest.fixture(params=["wal", "segments"])
async def backing(request: pytest.FixtureRequest) -> AsyncGenerator[Backing]:
    async with open_backing(request.param) as backing:
        yield backing


@pytest.fixture
def metadata() -> Metadata:
    return Metadata()


@pytest.fixture
async def dispatch(backing: Backing, metadata: Metadata) -> AsyncGenerator[ReliableDispatch]:
    async with backing.dispatch(metadata) as dispatch:
        yield dispatch


async def open_with(
    dispatch: ReliableDispatch, name: str = "billing", **settings: Any
) -> Subscription:
    return await dispatch.add_subscription(name, SubscriptionOptions(**settings))


async def taken(subscription: Subscription) -> Delivery | None:
    """A message that is at hand, or None; it is not answered, and its consumer has left."""
    with trio.move_on_after(0):
        async with subscription.take() as message:
            message.release()
            return message
    return None


# -- storing and reading


async def test_messages_are_stored_and_streamed(dispatch: ReliableDispatch) -> None:
    assert await dispatch.store_message(b"before") == 0
    stream = await dispatch.create_stream_latest()
    assert await dispatch.store_message(keyed("eu", b"one")) == 1
    assert await dispatch.store_batch([b"two", b"three"]) == range(2, 4)
    got = [await anext(stream) for _ in range(3)]
    assert [(m.offset, m.payload) for m in got] == [(1, b"one"), (2, b"two"), (3, b"three")]
    assert got[0].routing_key == "eu"
    assert got[0].msg_id.topic_offset == 1
    reader = await dispatch.topic_store.create_reader(StartPosition.earliest(), end="current")
    assert [m.payload async for m in reader] == [b"before", b"one", b"two", b"three"]
    await stream.aclose()


async def test_what_a_consumer_does_to_a_message_is_its_own_affair(
    dispatch: ReliableDispatch, autojump_clock: MockClock
) -> None:
    await dispatch.store_message(keyed("eu", b"x"))
    subscription = await open_with(dispatch)
    with pytest.raises(ZeroDivisionError):
        async with subscription.take() as message:
            message.message.payload = b"changed"
            message.message.attributes["changed"] = "yes"
            raise ZeroDivisionError
    reader = await dispatch.topic_store.create_reader(end="current")
    (there,) = [m async for m in reader]
    assert there.payload == b"x" and not there.attributes
    async with subscription.take() as message:  # nor does its redelivery know of it
        assert message.attempt == 2
        assert message.payload == b"x" and not message.attributes


async def test_an_offset_that_is_not_the_next_one_is_refused(dispatch: ReliableDispatch) -> None:
    await dispatch.store_message(b"0", expected_offset=0)
    with pytest.raises(UnexpectedOffsetError):
        await dispatch.store_message(b"again", expected_offset=0)


# -- answers


async def test_leaving_the_block_acknowledges(dispatch: ReliableDispatch) -> None:
    await store(dispatch, 3)
    subscription = await open_with(dispatch)
    assert await settle(subscription, 3) == [0, 1, 2]
    assert subscription.end == 3
    assert await subscription.lag() == 0


async def test_an_exception_nacks_and_goes_on(
    dispatch: ReliableDispatch, autojump_clock: MockClock
) -> None:
    await store(dispatch, 1)
    subscription = await open_with(dispatch)
    started = trio.current_time()
    for attempt, pause in ((1, 0), (2, 1), (3, 2), (4, 4)):
        with pytest.raises(ZeroDivisionError):
            async with subscription.take() as message:
                assert message.attempt == attempt
                started += pause
                assert trio.current_time() == pytest.approx(started)
                raise ZeroDivisionError
    assert (await subscription.statistics()).failed == 4


async def test_the_backoff_has_a_maximum(
    dispatch: ReliableDispatch, autojump_clock: MockClock
) -> None:
    await store(dispatch, 1)
    subscription = await open_with(dispatch, max_redeliveries=None, backoff_max=60.0)
    for _ in range(20):
        async with subscription.take() as message:
            message.nack()
    before = trio.current_time()
    async with subscription.take() as message:
        assert message.attempt == 21
    assert trio.current_time() - before == pytest.approx(60)


async def test_cancelling_releases_without_burning_an_attempt(dispatch: ReliableDispatch) -> None:
    await store(dispatch, 1)
    subscription = await open_with(dispatch)
    for _ in range(10):
        with trio.CancelScope() as scope:
            async with subscription.take() as message:
                assert message.attempt == 1
                scope.cancel()
                await trio.sleep_forever()
        assert scope.cancelled_caught
    assert await settle(subscription, 1) == [0]
    assert (await subscription.statistics()).released == 10


async def test_a_failure_beside_a_cancellation_is_a_failure(dispatch: ReliableDispatch) -> None:
    await store(dispatch, 1)
    subscription = await open_with(dispatch)

    async def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(BaseExceptionGroup):
        async with subscription.take():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(fail)
                nursery.start_soon(trio.sleep_forever)
    assert (await subscription.statistics()).failed == 1


async def test_the_answer_of_the_block_itself_counts(
    dispatch: ReliableDispatch, autojump_clock: MockClock
) -> None:
    await store(dispatch, 2)
    subscription = await open_with(dispatch)
    before = trio.current_time()
    async with subscription.take() as message:
        assert message.nack(delay=7)
        assert not message.is_current
    async with subscription.take() as message:
        assert message.offset == 1
    async with subscription.take() as message:
        assert (message.offset, message.attempt) == (0, 2)
    assert trio.current_time() - before == pytest.approx(7)


async def test_an_answer_counts_once(dispatch: ReliableDispatch) -> None:
    await store(dispatch, 1)
    subscription = await open_with(dispatch)
    async with subscription.take() as message:
        assert message.ack()
        assert not message.ack()
        assert not message.nack()
        assert not message.release()
        assert not message.reject("no")
        assert not message.extend()
    assert (await subscription.statistics()).acked == 1


async def test_a_batch_is_received_and_acknowledged_at_once(dispatch: ReliableDispatch) -> None:
    await store(dispatch, 25)
    subscription = await open_with(dispatch, max_unacked_messages=10)
    async with subscription.consumer() as consumer:
        batch = await consumer.receive(100)
        assert [d.offset for d in batch] == list(range(10))  # the window
        assert consumer.ack(batch) == 10
        assert [d.offset for d in await consumer.receive(5)] == list(range(10, 15))
    assert subscription.end == 10
    async with subscription.consumer() as consumer:  # what was not answered is there at once
        assert [d.offset for d in await consumer.receive(10)] == list(range(10, 20))


async def test_a_cumulative_acknowledgement_settles_what_was_delivered_before(
    dispatch: ReliableDispatch, autojump_clock: MockClock
) -> None:
    await store(dispatch, 10)
    subscription = await open_with(dispatch)
    async with subscription.consumer() as consumer:
        batch = await consumer.receive(8)
        batch[2].nack()
        assert consumer.ack_cumulative(batch[5]) == 6
        assert consumer.ack_cumulative(batch[5]) == 0
        assert subscription.end == 6
        await trio.sleep(100)
        assert [d.offset for d in await consumer.receive(10)] == [6, 7, 8, 9]


@pytest.mark.parametrize("kind", [SubscriptionType.SHARED, SubscriptionType.KEY_SHARED])
async def test_shared_subscriptions_have_no_cumulative_acknowledgements(
    dispatch: ReliableDispatch, kind: SubscriptionType
) -> None:
    await store(dispatch, 1)
    subscription = await open_with(dispatch, type=kind)
    async with subscription.consumer() as consumer:
        (message,) = await consumer.receive()
        with pytest.raises(ValueError, match="shared"):
            consumer.ack_cumulative(message)


@pytest.mark.happens
async def test_an_unanswered_message_times_out(
    dispatch: ReliableDispatch, autojump_clock: MockClock
) -> None:
    await store(dispatch, 1)
    subscription = await open_with(dispatch)
    async with subscription.consumer() as consumer:
        (first,) = await consumer.receive()
        (second,) = await consumer.receive()
        assert trio.current_time() == pytest.approx(31)  # the timeout, and the backoff
        assert second.attempt == 2
        assert not first.ack()
        assert second.ack()
    assert (await subscription.statistics()).timed_out == 1


async def test_a_delivery_after_a_long_silence_times_out_too(
    dispatch: ReliableDispatch, autojump_clock: MockClock
) -> None:
    subscription = await open_with(dispatch)
    await trio.sleep(1000)
    await store(dispatch, 1)
    async with subscription.consumer() as consumer:
        await consumer.receive()
        (again,) = await consumer.receive()
        assert again.attempt == 2
        assert trio.current_time() == pytest.approx(1031)


async def test_late_work_counts_while_nobody_else_has_it(
    dispatch: ReliableDispatch, autojump_clock: MockClock
) -> None:
    await store(dispatch, 1)
    subscription = await open_with(dispatch)
    async with subscription.consumer() as consumer:
        (message,) = await consumer.receive()
        await trio.sleep(30.5)
        assert not message.is_current
        assert message.ack()
    assert subscription.end == 1


async def test_a_delivery_can_be_extended(
    dispatch: ReliableDispatch, autojump_clock: MockClock
) -> None:
    await store(dispatch, 1)
    subscription = await open_with(dispatch)
    async with subscription.take() as message:
        for _ in range(5):
            await trio.sleep(25)
            assert message.extend()
        await trio.sleep(29)
        assert message.is_current
    assert subscription.end == 1


async def test_without_a_timeout_a_message_stays_where_it_is(
    dispatch: ReliableDispatch, autojump_clock: MockClock
) -> None:
    await store(dispatch, 1)
    subscription = await open_with(dispatch, ack_timeout=None)
    async with subscription.take() as message:
        await trio.sleep(80_000)
        assert message.is_current


# -- who gets what


async def test_an_exclusive_subscription_refuses_a_second_consumer(
    dispatch: ReliableDispatch,
) -> None:
    await store(dispatch, 2)
    subscription = await open_with(dispatch)
    async with subscription.consumer("first"):
        with pytest.raises(SubscriptionBusyError, match="first"):
            async with subscription.consumer("second"):
                pass
        with pytest.raises(SubscriptionBusyError):
            async with subscription.take():
                pass
    async with subscription.take(), subscription.take():  # one consumer, two tasks
        pass


async def test_failover_goes_to_the_next_consumer(dispatch: ReliableDispatch) -> None:
    await store(dispatch, 3)
    subscription = await open_with(dispatch, type=SubscriptionType.FAILOVER)
    got: list[tuple[str, int]] = []

    async def consume(name: str, scope: trio.CancelScope) -> None:
        with scope:
            async with subscription.consumer(name) as consumer:
                while True:
                    (message,) = await consumer.receive(1)
                    got.append((name, message.offset))
                    if message.offset == 1:
                        await trio.sleep_forever()
                    message.ack()

    first, second = trio.CancelScope(), trio.CancelScope()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(consume, "first", first)
        await wait_all_tasks_blocked()
        nursery.start_soon(consume, "second", second)
        await wait_all_tasks_blocked()
        assert got == [("first", 0), ("first", 1)]
        first.cancel()
        await wait_all_tasks_blocked()
        assert got[2:] == [("second", 1)]
        second.cancel()


async def test_shared_consumers_share(dispatch: ReliableDispatch) -> None:
    subscription = await open_with(dispatch, type=SubscriptionType.SHARED)
    got: dict[int, list[int]] = {0: [], 1: [], 2: []}

    async def consume(number: int) -> None:
        async with subscription.consumer() as consumer:
            while True:
                async with consumer.take() as message:
                    got[number].append(message.offset)

    async with trio.open_nursery() as nursery:
        for number in got:
            nursery.start_soon(consume, number)
        await wait_all_tasks_blocked()
        for _ in range(6):  # one at a time: whoever has waited longest gets it
            await store(dispatch, 1)
            await wait_all_tasks_blocked()
        assert all(len(offsets) == 2 for offsets in got.values())
        nursery.cancel_scope.cancel()
    assert sorted(o for offsets in got.values() for o in offsets) == list(range(6))


async def test_a_key_has_one_message_in_flight(dispatch: ReliableDispatch) -> None:
    await dispatch.store_batch([keyed("a"), keyed("a"), keyed("b"), keyed("a"), keyed("b")])
    subscription = await open_with(dispatch, type=SubscriptionType.KEY_SHARED)
    async with subscription.consumer() as one, subscription.consumer() as two:
        (a,) = await one.receive(1)
        (b,) = await two.receive(10)
        assert (a.offset, b.offset) == (0, 2)
        with trio.move_on_after(0):
            await two.receive()
            raise AssertionError("both keys are in flight")
        a.ack()
        (a,) = await two.receive()
        assert (a.offset, a.key) == (1, "a")


async def test_the_order_of_a_key_holds_through_failures(
    dispatch: ReliableDispatch, autojump_clock: MockClock
) -> None:
    await dispatch.store_batch([keyed("a"), keyed("a"), keyed("b"), keyed("a"), keyed("b")])
    subscription = await open_with(dispatch, type=SubscriptionType.KEY_SHARED)
    order: dict[str, list[tuple[int, int]]] = {"a": [], "b": []}

    async def work() -> None:
        while True:
            async with subscription.take() as message:
                order[message.key].append((message.offset, message.attempt))
                if message.offset == 1 and message.attempt < 3:
                    message.nack()

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(work)
        await subscription.wait_settled()
        nursery.cancel_scope.cancel()
    assert order == {"a": [(0, 1), (1, 1), (1, 2), (1, 3), (3, 1)], "b": [(2, 1), (4, 1)]}


async def test_a_producer_is_the_key_of_messages_without_one(dispatch: ReliableDispatch) -> None:
    await dispatch.store_batch([StreamMessage(b"", producer_name="p1") for _ in range(2)])
    await store(dispatch, 2)  # without a key and a producer: in no order
    subscription = await open_with(dispatch, type=SubscriptionType.KEY_SHARED)
    async with subscription.consumer() as consumer:
        got = await consumer.receive()
        expected = [0, 2, 3] if not got[1].key else [0]
        assert [d.offset for d in got] == expected


async def test_the_window_is_for_all_consumers_together(dispatch: ReliableDispatch) -> None:
    await store(dispatch, 10)
    subscription = await open_with(dispatch, type=SubscriptionType.SHARED, max_unacked_messages=4)
    async with subscription.consumer() as one, subscription.consumer() as two:
        assert len(await one.receive(3)) == 3
        held = await two.receive(3)
        assert [d.offset for d in held] == [3]
        got: list[Delivery] = []

        async def wait() -> None:
            got.extend(await two.receive(3))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await wait_all_tasks_blocked()
            assert not got
            held[0].ack()
        assert [d.offset for d in got] == [4]


# -- waiting


async def test_a_waiting_consumer_is_woken_by_a_message(dispatch: ReliableDispatch) -> None:
    subscription = await open_with(dispatch)
    got: list[int] = []

    async def wait() -> None:
        async with subscription.take() as message:
            got.append(message.offset)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        await store(dispatch, 1)
    assert got == [0]


@pytest.mark.parametrize("called_first", [True, False])
async def test_a_cancelled_waiter_passes_its_call_on(
    dispatch: ReliableDispatch, called_first: bool
) -> None:
    subscription = await open_with(dispatch)
    got: list[str] = []

    async def wait(name: str, scope: trio.CancelScope) -> None:
        with scope:
            async with subscription.take():
                got.append(name)

    scopes = trio.CancelScope(), trio.CancelScope()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait, "first", scopes[0])
        await wait_all_tasks_blocked()
        nursery.start_soon(wait, "second", scopes[1])
        await wait_all_tasks_blocked()
        subscription.pause()
        await store(dispatch, 1)
        await wait_all_tasks_blocked()
        if called_first:
            subscription.resume()
        scopes[0].cancel()
        if not called_first:
            subscription.resume()  # calls the first one, which will not come
        await wait_all_tasks_blocked()
        assert got == (["first"] if called_first else ["second"])
        nursery.cancel_scope.cancel()
    assert subscription.end == 1


async def test_wait_settled_waits_for_everything_below_its_end(
    dispatch: ReliableDispatch,
) -> None:
    await store(dispatch, 3)
    subscription = await open_with(dispatch)
    done: list[int] = []

    async def wait(end: int | None) -> None:
        await subscription.wait_settled(end)
        done.append(-1 if end is None else end)

    async with trio.open_nursery() as nursery:
        for end in (None, 0, 2, 4):
            nursery.start_soon(wait, end)
        await wait_all_tasks_blocked()
        assert done == [0]
        await settle(subscription, 2)
        await wait_all_tasks_blocked()
        assert done == [0, 2]
        await settle(subscription, 1)
        await wait_all_tasks_blocked()
        assert done == [0, 2, -1]
        nursery.cancel_scope.cancel()


# -- control


async def test_a_paused_subscription_hands_out_nothing(dispatch: ReliableDispatch) -> None:
    await store(dispatch, 2)
    subscription = await open_with(dispatch)
    async with subscription.take() as message:
        subscription.pause()
        assert message.is_current
    assert subscription.paused
    assert await taken(subscription) is None
    subscription.resume()
    assert await settle(subscription, 1) == [1]


@pytest.mark.parametrize(
    ("start", "first"),
    [
        (StartPosition.earliest(), 0),
        (StartPosition.offset(2), 2),
        (StartPosition.latest(), 5),
        (StartPosition.timestamp(0), 0),
        (StartPosition.timestamp(4e9), 5),
    ],
    ids=str,
)
async def test_a_subscription_can_be_moved(
    dispatch: ReliableDispatch, metadata: Metadata, start: StartPosition, first: int
) -> None:
    await store(dispatch, 5)
    subscription = await open_with(dispatch)
    await settle(subscription, 3)
    async with subscription.take() as held:
        assert await subscription.seek(start) == first
        assert not held.ack()
    assert subscription.end == subscription.saved_end == first
    await store(dispatch, 1)
    assert await settle(subscription, 6 - first) == list(range(first, 6))


@pytest.mark.parametrize("steps", range(-8, 8))
async def test_moving_while_messages_are_being_read(dispatch: ReliableDispatch, steps: int) -> None:
    subscription = await open_with(dispatch)
    await store(dispatch, 10)
    await settle(subscription, 10)

    async def seek() -> None:
        for _ in range(steps):
            await trio.lowlevel.checkpoint()
        await subscription.seek(StartPosition.offset(5))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(seek)
        for _ in range(-steps):
            await trio.lowlevel.checkpoint()
        await store(dispatch, 5)
    assert await settle(subscription, 10) == list(range(5, 15))


async def test_a_new_subscription_begins_where_it_is_told(dispatch: ReliableDispatch) -> None:
    await store(dispatch, 5)
    for name, start, first in (
        ("a", StartPosition.latest(), 5),
        ("b", StartPosition.offset(3), 3),
        ("c", StartPosition.earliest(), 0),
    ):
        subscription = await dispatch.add_subscription(name, start=start)
        assert subscription.end == first
    with pytest.raises(ValueError, match="99"):
        await dispatch.add_subscription("d", start=StartPosition.offset(99))
    assert "d" not in dispatch.subscriptions()


async def test_a_subscription_that_failed_can_be_opened_again(
    dispatch: ReliableDispatch, backing: Backing, metadata: Metadata
) -> None:
    await store(dispatch, 3)
    subscription = await dispatch.add_subscription("billing")
    await settle(subscription, 1)
    async with backing.dispatch(metadata) as other:  # takes it over
        await settle(await other.add_subscription("billing"), 2)
    with pytest.raises(FencedError):
        await subscription.flush()
    again = await dispatch.add_subscription("billing")
    assert again is not subscription
    assert await settle(again, 1) == [2]


async def test_a_call_for_a_consumer_that_was_closed_is_passed_on(
    dispatch: ReliableDispatch,
) -> None:
    options = SubscriptionOptions(type=SubscriptionType.SHARED)
    subscription = await dispatch.add_subscription("billing", options)
    got: list[str] = []

    async def wait(consumer: Consumer, name: str) -> None:
        try:
            async with consumer.take():
                got.append(name)
        except SubscriptionClosedError:
            got.append(f"{name} closed")

    async with trio.open_nursery() as nursery:
        async with subscription.consumer() as first:
            nursery.start_soon(wait, first, "first")
            await wait_all_tasks_blocked()
            async with subscription.consumer() as second:
                nursery.start_soon(wait, second, "second")
                await wait_all_tasks_blocked()
                subscription.pause()
                await store(dispatch, 1)
                await wait_all_tasks_blocked()
                subscription.resume()  # calls the first one, which is closed before it runs
                first.leave()
                await wait_all_tasks_blocked()
                first.enter()
    assert got == ["first closed", "second"]


async def test_an_unreadable_cursor_stops_retention_and_can_be_removed(
    backing: Backing, metadata: Metadata
) -> None:
    await metadata.put(CURSOR, b"rubbish")
    async with backing.dispatch(metadata) as dispatch:
        assert dispatch.subscriptions() == {"billing": None}
        with pytest.raises(CorruptDataError, match="cannot be read"):
            await dispatch.add_subscription("billing")
        assert await dispatch.remove_subscription("billing")
        await dispatch.add_subscription("billing")


async def test_adding_a_subscription_twice_gives_the_same(dispatch: ReliableDispatch) -> None:
    subscription = await dispatch.add_subscription("billing")
    assert await dispatch.add_subscription("billing") is subscription
    with pytest.raises(ValueError, match="other options"):
        await open_with(dispatch, max_unacked_messages=3)


async def test_a_removed_subscription_is_forgotten(
    dispatch: ReliableDispatch, metadata: Metadata
) -> None:
    await store(dispatch, 3)
    subscription = await dispatch.add_subscription("billing")
    await settle(subscription, 2)
    await subscription.flush()
    assert await metadata.get(CURSOR) is not None
    assert await dispatch.remove_subscription("billing")
    assert not await dispatch.remove_subscription("billing")
    assert await metadata.get(CURSOR) is None and await metadata.get(DANUBE_CURSOR) is None
    with pytest.raises(SubscriptionClosedError):
        async with subscription.take():
            pass
    again = await dispatch.add_subscription("billing")
    assert again.end == 0


async def test_leaving_the_dispatch_wakes_who_waits(backing: Backing, metadata: Metadata) -> None:
    dispatch = backing.dispatch(metadata)
    async with trio.open_nursery() as nursery:
        async with dispatch:
            subscription = await dispatch.add_subscription("billing")

            async def wait() -> None:
                with pytest.raises(SubscriptionClosedError):
                    async with subscription.take():
                        pass
                with pytest.raises(SubscriptionClosedError):
                    await subscription.wait_settled(5)

            nursery.start_soon(wait)
            await wait_all_tasks_blocked()
    with pytest.raises(SubscriptionClosedError):
        await dispatch.store_message(b"x")
    with pytest.raises(RuntimeError, match="once"):
        async with dispatch:
            pass


# -- poison


async def fail_times(subscription: Subscription, count: int) -> None:
    for _ in range(count):
        async with subscription.take() as message:
            message.nack(reason="it is bad")


async def test_poison_is_dropped(dispatch: ReliableDispatch, autojump_clock: MockClock) -> None:
    await store(dispatch, 1)
    subscription = await open_with(dispatch, poison_policy=PoisonPolicy.DROP)
    await fail_times(subscription, 6)
    assert subscription.end == 1
    assert (await subscription.statistics()).dropped == 1


async def test_poison_blocks_until_the_operator_decides(
    dispatch: ReliableDispatch, autojump_clock: MockClock
) -> None:
    await store(dispatch, 2)
    subscription = await open_with(dispatch, max_redeliveries=0)
    await fail_times(subscription, 1)
    assert await taken(subscription) is None
    (blocked,) = subscription.blocked()
    assert (blocked.offset, blocked.failures, blocked.reason) == (0, 1, "it is bad")
    assert blocked.message.payload == b"0"
    assert not subscription.retry_blocked(1)
    assert subscription.retry_blocked(0)
    await fail_times(subscription, 1)
    assert subscription.drop_blocked(0)
    assert not subscription.blocked()
    assert await settle(subscription, 1) == [1]


async def test_a_blocked_key_blocks_no_other(
    dispatch: ReliableDispatch, autojump_clock: MockClock
) -> None:
    await dispatch.store_batch([keyed("a"), keyed("b"), keyed("a"), keyed("b")])
    subscription = await open_with(dispatch, type=SubscriptionType.KEY_SHARED, max_redeliveries=0)
    await fail_times(subscription, 1)
    assert await settle(subscription, 2) == [1, 3]
    assert await taken(subscription) is None
    subscription.drop_blocked(0)
    assert await settle(subscription, 1) == [2]


async def test_a_key_with_a_long_queue_holds_no_other_up(
    dispatch: ReliableDispatch, autojump_clock: MockClock
) -> None:
    await dispatch.store_batch([keyed("a")] * 5000 + [keyed("b")])
    subscription = await open_with(dispatch, type=SubscriptionType.KEY_SHARED, max_redeliveries=0)
    await fail_times(subscription, 1)
    async with subscription.take() as message:
        assert message.offset == 5000


async def test_poison_becomes_a_dead_letter_and_can_be_redriven(
    backing: Backing, metadata: Metadata, autojump_clock: MockClock
) -> None:
    async with open_wal(WalConfig()) as dead_wal:
        dead = WalStorage.from_wal(dead_wal)
        async with backing.dispatch(metadata, dead_letter_storage=dead) as dispatch:
            await dispatch.store_batch([keyed("eu", b"bad"), b"good"])
            subscription = await open_with(dispatch, poison_policy=PoisonPolicy.DEAD_LETTER)
            await settle_good(subscription)
            await subscription.wait_settled()
            (letter,) = [m async for m in dead_wal.reader(end="current")]
            assert (letter.payload, letter.routing_key) == (b"bad", "eu")
            headers = letter.attributes
            assert headers["x-original-topic"] == TOPIC
            assert headers["x-original-offset"] == "0"
            assert headers["x-original-subscription"] == "billing"
            assert headers["x-failure-reason"] == "ZeroDivisionError: it is bad"
            assert headers["x-failure-count"] == "6"
            assert int(headers["x-failure-time"]) > 0
            assert (await subscription.statistics()).dead_lettered == 1

            assert await subscription.redrive() == 1
            assert await subscription.redrive() == 0
            async with subscription.take() as message:
                assert (message.offset, message.payload, message.key) == (2, b"bad", "eu")
                assert message.attempt == 1
                assert message.attributes == {"x-redriven": "1"}


async def settle_good(subscription: Subscription) -> None:
    """Fail the bad message until it does not come any more."""
    while not (await subscription.statistics()).dead_lettered:
        with trio.move_on_after(1000):
            try:
                async with subscription.take() as message:
                    if message.payload == b"bad":
                        raise ZeroDivisionError("it is bad")
            except ZeroDivisionError:
                continue
            await trio.sleep(200)


async def test_rejected_is_poison_at_once(dispatch: ReliableDispatch) -> None:
    await store(dispatch, 1)
    subscription = await open_with(dispatch)
    async with subscription.take() as message:
        assert message.reject("cannot be parsed")
    (blocked,) = subscription.blocked()
    assert (blocked.failures, blocked.reason) == (6, "cannot be parsed")


async def test_dead_letters_need_a_place_of_their_own(metadata: Metadata) -> None:
    options = SubscriptionOptions(poison_policy=PoisonPolicy.DEAD_LETTER)
    async with open_backing("segments") as backing, backing.dispatch(metadata) as dispatch:
        with pytest.raises(ValueError, match="dead_letter_storage"):
            await dispatch.add_subscription("billing", options)
        with pytest.raises(ValueError, match="DEAD_LETTER"):
            await (await dispatch.add_subscription("billing")).redrive()
    async with open_wal(WalConfig()) as wal:
        own = WalStorage.from_wal(wal)
        async with ReliableDispatch.new_with_persistent(
            TOPIC, ReliableOptions(), None, own
        ) as dispatch:
            with pytest.raises(ValueError, match="another log"):
                await dispatch.add_subscription("billing", options)


@asynccontextmanager
async def all_rejected(
    backing: Backing, metadata: Metadata, dead: WalStorage, count: int
) -> AsyncGenerator[Subscription]:
    """So many messages, each rejected, with that log for dead letters."""
    async with backing.dispatch(metadata, dead_letter_storage=dead) as dispatch:
        await store(dispatch, count)
        subscription = await open_with(dispatch, poison_policy=PoisonPolicy.DEAD_LETTER)
        for _ in range(count):
            async with subscription.take() as message:
                message.reject("bad")
        yield subscription


@pytest.mark.happens
async def test_a_dead_letter_log_that_fails_is_tried_again(
    backing: Backing, metadata: Metadata, autojump_clock: MockClock
) -> None:
    class Failing(WalStorage):
        failures = 3

        async def append_message(self, topic: str, message: Any, **rest: Any) -> int:
            if self.failures:
                self.failures -= 1
                raise OSError("no space")
            return await super().append_message(topic, message, **rest)

    async with open_wal(WalConfig()) as dead_wal:
        async with all_rejected(backing, metadata, Failing(dead_wal, None), 1) as subscription:
            await subscription.wait_settled()
            statistics = await subscription.statistics()
            assert statistics.dead_letter_failures == 3
            assert statistics.last_error == "no space"
            assert dead_wal.next_offset == 1


async def test_a_message_that_cannot_be_dead_lettered_holds_no_other_up(
    backing: Backing, metadata: Metadata, autojump_clock: MockClock
) -> None:
    class Picky(WalStorage):
        async def append_message(self, topic: str, message: Any, **rest: Any) -> int:
            if message.payload == b"0":
                raise ValueError("not this one")
            return await super().append_message(topic, message, **rest)

    async with open_wal(WalConfig()) as dead_wal:
        async with all_rejected(backing, metadata, Picky(dead_wal, None), 3) as subscription:
            await trio.sleep(60)
            assert [m.payload async for m in dead_wal.reader(end="current")] == [b"1", b"2"]
            assert (await subscription.statistics()).dead_lettering == 1
            assert subscription.end == 0


# -- bounds


async def test_no_new_messages_while_too_many_wait_for_redelivery(
    dispatch: ReliableDispatch, autojump_clock: MockClock
) -> None:
    await store(dispatch, 10)
    subscription = await open_with(dispatch, max_retrying_messages=3)
    async with subscription.consumer() as consumer:
        for _ in range(3):
            (message,) = await consumer.receive(1)
            message.nack(delay=50)
        (message,) = await consumer.receive(1)
        assert (message.offset, message.attempt) == (0, 2)


async def test_reading_ahead_is_bounded_in_bytes(dispatch: ReliableDispatch) -> None:
    for _ in range(20):
        await dispatch.store_message(bytes(1000))
    subscription = await open_with(dispatch, max_buffered_bytes=3000)
    assert await settle(subscription, 20) == list(range(20))


async def test_a_position_that_is_gone_is_refused(
    dispatch: ReliableDispatch, backing: Backing
) -> None:
    if backing.wal is None:
        return  # segments are freed by retention only: see test_retention
    await store(dispatch, 5)
    await backing.wal.trim(3)
    subscription = await dispatch.add_subscription("billing", start=StartPosition.earliest())
    with pytest.raises(OffsetTrimmedError):
        await subscription.seek(StartPosition.offset(1))
    assert await settle(subscription, 2) == [3, 4]


@pytest.mark.happens
async def test_messages_that_retention_took_are_counted_and_passed(
    dispatch: ReliableDispatch, backing: Backing
) -> None:
    if backing.wal is None:
        return
    await store(dispatch, 5)
    subscription = await open_with(dispatch)
    await backing.wal.trim(3)
    assert await settle(subscription, 2) == [3, 4]
    assert (await subscription.statistics()).lost == 3
    await backing.wal.append(b"x")
    await backing.wal.trim(6)
    assert subscription.end >= 5
