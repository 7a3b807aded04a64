"""`Subscription.run`: handlers, their errors, and the order of keys."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator

import pytest
import trio
from topics import Metadata, keyed, open_backing, settle, store
from trio.testing import MockClock, wait_all_tasks_blocked

from danube_trio.dispatch import (
    Delivery,
    PoisonPolicy,
    ReliableDispatch,
    SubscriptionBusyError,
    SubscriptionClosedError,
    SubscriptionOptions,
    SubscriptionType,
)


@pytest.fixture(params=["wal", "segments"])
async def dispatch(request: pytest.FixtureRequest) -> AsyncGenerator[ReliableDispatch]:
    async with open_backing(request.param) as backing, backing.dispatch(Metadata()) as dispatch:
        yield dispatch


async def test_a_handler_is_called_for_each_message(dispatch: ReliableDispatch) -> None:
    await store(dispatch, 20)
    subscription = await dispatch.add_subscription("billing")
    got: list[int] = []

    async def handle(message: Delivery) -> None:
        await trio.lowlevel.checkpoint()
        got.append(message.offset)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(subscription.run, handle)
        await subscription.wait_settled()
        nursery.cancel_scope.cancel()
    assert got == list(range(20))
    assert (await subscription.statistics()).acked == 20


async def test_so_many_at_a_time(dispatch: ReliableDispatch, autojump_clock: MockClock) -> None:
    await store(dispatch, 20)
    subscription = await dispatch.add_subscription("billing")
    busy = most = 0

    async def handle(message: Delivery) -> None:
        nonlocal busy, most
        busy += 1
        most = max(most, busy)
        await trio.sleep(1)
        busy -= 1

    async with trio.open_nursery() as nursery:
        run = lambda: subscription.run(handle, concurrency=4)  # noqa: E731
        nursery.start_soon(run)
        await subscription.wait_settled()
        nursery.cancel_scope.cancel()
    assert most == 4
    assert trio.current_time() == pytest.approx(5)


@pytest.mark.parametrize(
    "kind", [SubscriptionType.EXCLUSIVE, SubscriptionType.FAILOVER, SubscriptionType.KEY_SHARED]
)
async def test_the_order_of_a_key_holds_through_failures(
    dispatch: ReliableDispatch, kind: SubscriptionType, autojump_clock: MockClock
) -> None:
    await dispatch.store_batch([keyed("abc"[i % 3]) for i in range(30)])
    subscription = await dispatch.add_subscription("billing", SubscriptionOptions(type=kind))
    done: dict[str, list[int]] = {"a": [], "b": [], "c": []}
    busy: set[str] = set()

    async def handle(message: Delivery) -> None:
        assert message.key not in busy
        busy.add(message.key)
        await trio.sleep(message.offset % 5 / 10)
        busy.remove(message.key)
        if message.offset % 4 == 0 and message.attempt < 3:
            raise ZeroDivisionError
        done[message.key].append(message.offset)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: subscription.run(handle, concurrency=3))
        await subscription.wait_settled()
        nursery.cancel_scope.cancel()
    assert done == {key: list(range(i, 30, 3)) for i, key in enumerate("abc")}
    assert await nobody_is_there(subscription.name, dispatch)


async def nobody_is_there(name: str, dispatch: ReliableDispatch) -> bool:
    subscription = dispatch.subscriptions()[name]
    assert subscription is not None
    return (await subscription.statistics()).consumers == 0


async def test_plain_takes_after_a_run_have_no_lanes(dispatch: ReliableDispatch) -> None:
    await dispatch.store_batch([keyed("a") for _ in range(10)])
    subscription = await dispatch.add_subscription("billing")
    async with trio.open_nursery() as nursery:
        entered = trio.Event()

        async def handle(message: Delivery) -> None:
            entered.set()
            await trio.sleep_forever()

        nursery.start_soon(subscription.run, handle)
        await entered.wait()
        nursery.cancel_scope.cancel()
    async with subscription.consumer() as consumer:
        got = await consumer.receive()
        assert [(d.offset, d.attempt) for d in got] == [(i, 1) for i in range(10)]


async def test_a_handler_that_fails_does_not_stop_the_run(
    dispatch: ReliableDispatch, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    await store(dispatch, 3)
    options = SubscriptionOptions(poison_policy=PoisonPolicy.DROP, max_redeliveries=2)
    subscription = await dispatch.add_subscription("billing", options)
    got: list[tuple[int, int]] = []

    async def handle(message: Delivery) -> None:
        got.append((message.offset, message.attempt))
        if message.offset == 1:
            raise ZeroDivisionError("it is bad")

    with caplog.at_level(logging.WARNING, "danube_trio.dispatch"):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(subscription.run, handle)
            await subscription.wait_settled()
            nursery.cancel_scope.cancel()
    assert got == [(0, 1), (1, 1), (2, 1), (1, 2), (1, 3)]
    assert "offset 1 failed at attempt 3: ZeroDivisionError: it is bad" in caplog.text
    assert (await subscription.statistics()).dropped == 1


async def test_an_error_that_shall_stop_the_run_comes_out_as_itself(
    dispatch: ReliableDispatch,
) -> None:
    await store(dispatch, 5)
    subscription = await dispatch.add_subscription("billing")
    released: list[int] = []

    async def handle(message: Delivery) -> None:
        if message.offset == 3:
            raise ZeroDivisionError
        try:
            await trio.sleep_forever()
        finally:
            released.append(message.offset)

    with pytest.raises(ZeroDivisionError):
        await subscription.run(handle, concurrency=5, stop_on=(ArithmeticError,))
    assert sorted(released) == [0, 1, 2, 4]
    statistics = await subscription.statistics()
    assert (statistics.failed, statistics.released, statistics.consumers) == (1, 4, 0)


async def test_of_several_errors_one_comes_out_with_the_others_as_notes(
    dispatch: ReliableDispatch,
) -> None:
    await store(dispatch, 2)
    subscription = await dispatch.add_subscription("billing")
    both = trio.Event()

    async def handle(message: Delivery) -> None:
        if message.offset == 0:
            await both.wait()
        both.set()
        raise ZeroDivisionError(str(message.offset))

    with pytest.raises(ZeroDivisionError) as caught:
        await subscription.run(handle, concurrency=2, stop_on=(ArithmeticError,))
    (note,) = caught.value.__notes__
    other = {"0": "1", "1": "0"}[str(caught.value)]
    assert "another handler failed, too" in note and note.endswith(other)


async def test_cancelling_a_run_burns_no_attempt(dispatch: ReliableDispatch) -> None:
    await store(dispatch, 3)
    subscription = await dispatch.add_subscription("billing")

    async def handle(message: Delivery) -> None:
        assert message.attempt == 1
        async with trio.open_nursery() as nursery:  # Cancelled comes out of it, too
            nursery.start_soon(trio.sleep_forever)

    for _ in range(10):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lambda: subscription.run(handle, concurrency=3))
                await wait_all_tasks_blocked()
                scope.cancel()
    statistics = await subscription.statistics()
    assert (statistics.released, statistics.failed) == (30, 0)
    assert await settle(subscription, 3) == [0, 1, 2]


@pytest.mark.happens
async def test_a_handler_is_cancelled_when_its_delivery_times_out(
    dispatch: ReliableDispatch, autojump_clock: MockClock
) -> None:
    await store(dispatch, 1)
    subscription = await dispatch.add_subscription("billing")
    times: list[float] = []

    async def handle(message: Delivery) -> None:
        times.append(trio.current_time())
        if message.attempt == 1:
            try:
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    await trio.sleep(100)  # not delivered again meanwhile
        await trio.sleep(20)
        assert message.extend(25)
        await trio.sleep(24)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(subscription.run, handle)
        await subscription.wait_settled()
        nursery.cancel_scope.cancel()
    assert times == pytest.approx([0, 131])
    assert (await subscription.statistics()).timed_out == 1


async def test_a_handler_may_answer_itself(
    dispatch: ReliableDispatch, autojump_clock: MockClock
) -> None:
    await store(dispatch, 1)
    subscription = await dispatch.add_subscription("billing")

    async def handle(message: Delivery) -> None:
        if message.attempt < 3:
            message.nack(delay=10)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(subscription.run, handle)
        await subscription.wait_settled()
        nursery.cancel_scope.cancel()
    assert trio.current_time() == pytest.approx(20)


async def test_a_second_run_is_refused_where_there_is_one_consumer(
    dispatch: ReliableDispatch,
) -> None:
    subscription = await dispatch.add_subscription("billing")

    async def handle(message: Delivery) -> None:
        raise AssertionError

    async with trio.open_nursery() as nursery:
        nursery.start_soon(subscription.run, handle)
        await wait_all_tasks_blocked()
        with pytest.raises(SubscriptionBusyError, match="run"):
            await subscription.run(handle)
        nursery.cancel_scope.cancel()
    with pytest.raises(ValueError, match="max_unacked_messages=10"):
        await subscription.run(handle, concurrency=11)


async def test_a_run_ends_with_its_subscription(dispatch: ReliableDispatch) -> None:
    subscription = await dispatch.add_subscription("billing")

    async def handle(message: Delivery) -> None:
        raise AssertionError

    async def run() -> None:
        with pytest.raises(SubscriptionClosedError):
            await subscription.run(handle, concurrency=3)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await wait_all_tasks_blocked()
        await dispatch.remove_subscription("billing")
