"""Reliable dispatch through every door; see `doors` and `test_doors`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import trio
from doors import DOORS, Door, shown_by

import danube_trio
import danube_trio.dispatch
from danube_trio import OffsetTrimmedError, StartPosition, StorageConfig, WalConfig, WalStorage
from danube_trio.anyio import dispatch as anyio_dispatch
from danube_trio.anyio import open_store
from danube_trio.anyio.dispatch import _consumer, _subscription
from danube_trio.anyio.dispatch import _dispatch as _views
from danube_trio.blocking import Storage as BlockingStorage
from danube_trio.blocking import WalStorage as BlockingWalStorage
from danube_trio.blocking import dispatch as blocking_dispatch
from danube_trio.dispatch import (
    Delivery,
    PoisonPolicy,
    ReliableDispatch,
    ReliableOptions,
    RetentionPolicy,
    SubscriptionBusyError,
    SubscriptionClosedError,
    SubscriptionOptions,
    SubscriptionType,
)
from danube_trio.metadata import MemoryMetadata

TOPIC = "/default/orders"
AT_ONCE: dict[str, Any] = {"backoff_initial": 0.0, "backoff_max": 0.0}
HERE = [name for name in DOORS if not DOORS[name].elsewhere]
through_every_door = pytest.mark.parametrize("name", HERE)
through_doors_that_cancel = pytest.mark.parametrize("name", [n for n in HERE if DOORS[n].cancels])


@through_every_door
def test_a_block_acknowledges_and_an_exception_brings_the_message_back(name: str) -> None:
    async def scenario(door: Door) -> None:
        async with door.dispatch(TOPIC) as dispatch:
            assert await dispatch.store_batch(b"%d" % i for i in range(2)) == range(2)
            billing = await dispatch.add_subscription("billing", SubscriptionOptions(**AT_ONCE))
            async with billing.take() as message:
                assert (message.offset, message.payload, message.attempt) == (0, b"0", 1)
                assert message.is_current
                assert message.message.offset == 0
                assert 0 < message.deadline < inf
            assert not message.is_current
            assert billing.end == 1
            for attempt in (1, 2, 3):
                with pytest.raises(ZeroDivisionError):
                    async with billing.take() as message:
                        assert (message.offset, message.attempt) == (1, attempt)
                        raise ZeroDivisionError
            async with billing.take() as message:
                assert (message.offset, message.attempt) == (1, 4)
                assert message.ack()
                assert not message.nack(), "it was answered"
            assert await dispatch.store_message(bytearray(b"2")) == 2
            assert await dispatch.store_message(b"3") == 3
            async with billing.take() as message:
                assert message.release()
            async with billing.take() as message:
                assert (message.offset, message.attempt) == (2, 1)
            await billing.flush()
            assert billing.saved_end == 3
            assert await billing.lag() == 1
            assert (await billing.statistics()).failed == 3

    DOORS[name].run(scenario)


@through_every_door
def test_cursors_survive_a_restart(name: str, tmp_path: Path) -> None:
    async def scenario(door: Door) -> None:
        for turn in range(3):
            async with (
                door.open("open_storage", StorageConfig(dir=str(tmp_path))) as storage,
                door.dispatch(TOPIC, storage) as dispatch,
            ):
                await dispatch.store_batch([b"%d" % turn] * 4)
                assert dispatch.subscriptions() == ({} if not turn else {"billing": None})
                billing = await dispatch.add_subscription("billing")
                assert await dispatch.add_subscription("billing") is billing or door.threads
                assert list(dispatch.subscriptions()) == ["billing"]
                for offset in range(turn * 3, turn * 3 + 3):
                    async with billing.take() as message:
                        assert (message.offset, message.payload) == (offset, b"%d" % (offset // 4))
                assert await billing.lag() == turn + 1

    DOORS[name].run(scenario)


@through_every_door
def test_a_cursor_in_a_directory_of_its_own(name: str, tmp_path: Path) -> None:
    async def scenario(door: Door) -> None:
        for offset in range(3):
            async with (
                door.open_wal(WalConfig(dir=str(tmp_path / "log"))) as wal,
                door.open("open_metadata_directory", tmp_path / "cursors") as metadata,
                door.dispatch(TOPIC, door.wal_storage(wal), metadata=metadata) as dispatch,
            ):
                await dispatch.store_message(b"%d" % offset)
                billing = await dispatch.add_subscription("billing")
                async with billing.take() as message:
                    assert message.offset == offset

    DOORS[name].run(scenario)


@through_every_door
def test_handlers_get_every_message_and_failures_come_again(name: str) -> None:
    async def scenario(door: Door) -> None:
        seen: dict[int, int] = {}
        busy = most = 0

        async def handle(message: Delivery) -> None:
            nonlocal busy, most
            busy += 1
            most = max(most, busy)
            await anyio.lowlevel.checkpoint()
            busy -= 1
            assert message.attempt == seen.get(message.offset, 0) + 1
            seen[message.offset] = message.attempt
            if message.offset % 10 == 3 and message.attempt < 3:
                raise ZeroDivisionError

        async with door.dispatch(TOPIC) as dispatch:
            await dispatch.store_batch([b"%d" % i for i in range(200)])
            options = SubscriptionOptions(max_unacked_messages=50, **AT_ONCE)
            workers = await dispatch.add_subscription("workers", options)
            async with door.running(workers, handle, concurrency=8):
                await dispatch.store_batch([b"%d" % i for i in range(200, 300)])
                await workers.wait_settled()
            assert most <= 8
            assert seen == {offset: 3 if offset % 10 == 3 else 1 for offset in range(300)}
            statistics = await workers.statistics()
            assert (statistics.acked, statistics.failed, statistics.in_flight) == (300, 60, 0)
            assert statistics.consumers == 0

    DOORS[name].run(scenario)


@through_every_door
def test_messages_of_a_key_are_handled_in_order_through_failures(name: str) -> None:
    async def scenario(door: Door) -> None:
        seen: dict[str, list[bytes]] = {}
        failed: set[bytes] = set()
        at_work: set[str] = set()

        async def handle(message: Delivery) -> None:
            assert message.key not in at_work
            at_work.add(message.key)
            await anyio.lowlevel.checkpoint()
            at_work.discard(message.key)
            if message.payload not in failed and int(message.payload) % 7 == 0:
                failed.add(message.payload)
                raise ZeroDivisionError
            seen.setdefault(message.key, []).append(message.payload)

        async with door.dispatch(TOPIC) as dispatch:
            for i in range(60):
                message = danube_trio.StreamMessage(b"%d" % i, routing_key=str(i % 3))
                await dispatch.store_message(message)
            options = SubscriptionOptions(type=SubscriptionType.KEY_SHARED, **AT_ONCE)
            workers = await dispatch.add_subscription("workers", options)
            async with door.running(workers, handle, concurrency=5):
                await workers.wait_settled()
            assert seen == {str(key): [b"%d" % i for i in range(key, 60, 3)] for key in range(3)}

    DOORS[name].run(scenario)


@through_every_door
@pytest.mark.parametrize("concurrency", [1, 3])
def test_an_exception_that_stops_the_run_comes_out(name: str, concurrency: int) -> None:
    async def scenario(door: Door) -> None:
        async def handle(message: Delivery) -> None:
            if message.offset == 5:
                raise ZeroDivisionError("stop")

        async with door.dispatch(TOPIC) as dispatch:
            await dispatch.store_batch([b"x"] * 10)
            workers = await dispatch.add_subscription("workers", SubscriptionOptions(**AT_ONCE))
            more = {"concurrency": concurrency, "stop_on": (ZeroDivisionError,)}
            with pytest.raises(ZeroDivisionError, match="stop"):
                await door.handle(workers, handle, **more)
            statistics = await workers.statistics()
            assert (statistics.failed, statistics.in_flight, statistics.consumers) == (1, 0, 0)
            async with workers.take() as message:
                assert message.attempt == (2 if message.offset == 5 else 1)
            with pytest.raises(ValueError, match="concurrency=11"):
                await door.handle(workers, handle, concurrency=11)
            with pytest.raises(TypeError, match=r"must be an? (async )?function"):
                await workers.run(None)

    DOORS[name].run(scenario)


@through_every_door
def test_consumers_take_batches_and_answer_for_many(name: str) -> None:
    async def scenario(door: Door) -> None:
        async with door.dispatch(TOPIC) as dispatch:
            await dispatch.store_batch([b"%d" % i for i in range(20)])
            options = SubscriptionOptions(max_unacked_messages=8, max_redeliveries=0)
            audit = await dispatch.add_subscription("audit", options)
            async with audit.consumer("first") as consumer:
                assert consumer.active
                with pytest.raises(SubscriptionBusyError, match="first"):
                    async with audit.consumer():
                        pass
                batch = await consumer.receive(5)
                assert [message.offset for message in batch] == list(range(5))
                assert consumer.ack(batch[:2]) == 2
                assert consumer.ack(batch[:2]) == 0
                assert consumer.ack_cumulative(batch[3]) == 2
                assert batch[4].reject("poison")
                assert [blocked.reason for blocked in audit.blocked()] == ["poison"]
                assert audit.retry_blocked(4)
                assert not audit.drop_blocked(4)
                rest = await consumer.receive(3)
                assert [message.offset for message in rest] == [4, 5, 6]
                assert rest[0].extend(1000)
                assert rest[0].deadline > rest[1].deadline
            assert not rest[0].is_current, "its consumer has left"
            assert not rest[0].nack()
            assert audit.end == 4
            async with audit.consumer() as consumer, consumer.take() as message:
                assert (message.offset, message.attempt) == (4, 1)
            audit.pause()
            assert audit.paused
            audit.resume()
            assert await audit.seek(StartPosition.earliest()) == 0
            async with audit.take() as message:
                assert message.offset == 0
            with pytest.raises(SubscriptionClosedError):
                await consumer.receive()

    DOORS[name].run(scenario)


@through_every_door
def test_a_delivery_that_takes_too_long_comes_again(name: str) -> None:
    async def scenario(door: Door) -> None:
        options = SubscriptionOptions(
            type=SubscriptionType.SHARED, ack_timeout=0.01, max_redeliveries=None, **AT_ONCE
        )
        async with door.dispatch(TOPIC) as dispatch:
            await dispatch.store_message(b"x")
            shared = await dispatch.add_subscription("shared", options)
            async with shared.consumer() as slow, shared.consumer() as other:
                (first,) = await slow.receive()
                (again,) = await other.receive()
                assert (again.offset, again.attempt) == (first.offset, first.attempt + 1)
                assert again.extend(1000)
                assert not first.ack(), "somebody else has it"
                assert again.ack()
            assert (await shared.statistics()).timed_out >= 1

    DOORS[name].run(scenario)


@through_every_door
def test_poison_goes_to_the_dead_letters_and_comes_back(name: str, tmp_path: Path) -> None:
    async def scenario(door: Door) -> None:
        options = SubscriptionOptions(poison_policy=PoisonPolicy.DEAD_LETTER, max_redeliveries=0)
        async with door.open_wal(WalConfig(dir=str(tmp_path))) as dead:
            letters = door.wal_storage(dead)
            async with door.dispatch(TOPIC, dead_letter_storage=letters) as dispatch:
                await dispatch.store_message(b"not json")
                billing = await dispatch.add_subscription("billing", options)
                async with billing.take() as message:
                    message.reject("not json")
                await billing.wait_settled()
                (letter,) = await door.read(dead, end="current")
                assert letter.payload == b"not json"
                assert letter.attributes["x-failure-reason"] == "not json"
                assert await billing.redrive() == 1
                async with billing.take() as message:
                    assert (message.offset, message.attributes["x-redriven"]) == (1, "1")

    DOORS[name].run(scenario)


@through_every_door
def test_a_dispatch_frees_nothing_by_default_and_nothing_that_another_needs(
    name: str, tmp_path: Path
) -> None:
    async def scenario(door: Door) -> None:
        config = WalConfig(dir=str(tmp_path), segment_bytes=2000, preallocate_bytes=0)
        options = ReliableOptions(retention_policy=RetentionPolicy.RETAIN_UNTIL_ACK)
        keep = ReliableOptions(retention_policy=RetentionPolicy.KEEP)
        async with door.open_wal(config) as wal:
            storage = door.wal_storage(wal)
            async with (
                door.dispatch(TOPIC, storage, options=options) as one,
                door.dispatch(TOPIC, storage, options=keep) as keeping,
                door.dispatch(TOPIC, storage) as other,
            ):
                for i in range(60):
                    await one.store_message(b"%d" % i * 20)
                billing = await one.add_subscription("billing")
                await other.add_subscription("audit")
                async with billing.consumer() as consumer:
                    while billing.end < 60:
                        consumer.ack(await consumer.receive())
                await billing.flush()
                assert await one.apply_retention() == 0
                await other.remove_subscription("audit")
                assert await other.apply_retention() == 0
                assert await keeping.apply_retention() == 0
                assert await one.apply_retention() > 0

    DOORS[name].run(scenario)


@through_every_door
def test_the_topics_store_reads_and_retention_frees(name: str, tmp_path: Path) -> None:
    async def scenario(door: Door) -> None:
        config = WalConfig(dir=str(tmp_path), segment_bytes=2000, preallocate_bytes=0)
        options = ReliableOptions(retention_policy=RetentionPolicy.RETAIN_UNTIL_ACK)
        async with door.open_wal(config) as wal:
            storage = door.wal_storage(wal)
            async with door.dispatch(TOPIC, storage, options=options) as dispatch:
                stream = await dispatch.create_stream_latest()
                for i in range(60):
                    await dispatch.store_message(b"%d" % i * 20)
                assert (await stream.__anext__()).offset == 0
                assert stream.cursor == 1
                store = dispatch.topic_store
                reader = await store.create_reader(StartPosition.offset(58), end="current")
                assert [m.offset async for m in reader] == [58, 59]
                assert await reader.next_batch() == []
                await reader.aclose()
                billing = await dispatch.add_subscription("billing")
                async with billing.consumer() as consumer:
                    while billing.end < 60:
                        consumer.ack(await consumer.receive())
                await billing.flush()
                await stream.aclose()
                start = await dispatch.apply_retention()
                assert start > 0
                assert await store.start_offset() == start
                assert await store.current_offset() == 60
                with pytest.raises(OffsetTrimmedError):
                    await _first(await store.create_reader(StartPosition.offset(0)))
                assert await dispatch.remove_subscription("billing") is True
                assert await dispatch.remove_subscription("billing") is False
                with pytest.raises(SubscriptionClosedError):
                    async with billing.take():
                        pass

    async def _first(reader: Any) -> Any:
        return await reader.__anext__()

    DOORS[name].run(scenario)


@through_every_door
def test_after_leaving_everything_says_so(name: str) -> None:
    async def scenario(door: Door) -> None:
        async with door.dispatch(TOPIC) as dispatch:
            await dispatch.store_batch([b"x"] * 3)
            billing = await dispatch.add_subscription("billing")
            consumer = billing.consumer()
        for call in (
            dispatch.store_message(b"x"),
            dispatch.add_subscription("other"),
            billing.take().__aenter__(),
            consumer.__aenter__(),
        ):
            with pytest.raises((SubscriptionClosedError, danube_trio.LogClosedError)):
                await call
        assert not billing.is_open

    DOORS[name].run(scenario)


@through_every_door
def test_the_bodys_exception_comes_out_with_what_could_not_be_saved(name: str) -> None:
    class Down(MemoryMetadata):
        down = False

        async def transact(self, *args: Any, **more: Any) -> Any:
            if self.down:
                raise danube_trio.StoreUnavailableError("it is down")
            return await super().transact(*args, **more)

    async def scenario(door: Door) -> None:
        for body in (None, ZeroDivisionError()):
            metadata = Down()
            with pytest.raises((danube_trio.StoreUnavailableError, ZeroDivisionError)) as caught:
                async with door.dispatch(TOPIC, metadata=metadata) as dispatch:
                    await dispatch.store_message(b"x")
                    billing = await dispatch.add_subscription("billing")
                    metadata.down = True
                    async with billing.take():
                        pass
                    if body is not None:
                        raise body
            if body is not None:
                assert caught.value is body
                assert body.__notes__ == ["cursors were not saved: it is down"]

    DOORS[name].run(scenario)


@through_doors_that_cancel
def test_a_cancelled_take_takes_nothing_and_a_cancelled_block_burns_no_attempt(name: str) -> None:
    async def scenario(door: Door) -> None:
        async with door.dispatch(TOPIC) as dispatch:
            billing = await dispatch.add_subscription("billing")
            with anyio.move_on_after(0.01) as scope:
                async with billing.take():
                    raise AssertionError("there is nothing")
            assert scope.cancelled_caught
            await dispatch.store_batch([b"x"] * 2)
            for _ in range(8):
                with anyio.CancelScope() as scope:
                    async with billing.take() as message:
                        assert (message.offset, message.attempt) == (0, 1)
                        scope.cancel()
                        await anyio.sleep_forever()
                assert scope.cancelled_caught
            for turn in range(60):  # at any moment
                with anyio.CancelScope() as scope:
                    async with anyio.create_task_group() as tasks:
                        tasks.start_soon(_take_and_wait, billing)
                        for _ in range(turn % 12):
                            await anyio.lowlevel.checkpoint()
                        scope.cancel()
            statistics = await billing.statistics()
            assert (statistics.failed, statistics.in_flight, statistics.consumers) == (0, 0, 0)
            async with billing.take() as message:
                assert (message.offset, message.attempt) == (0, 1)

    async def _take_and_wait(billing: Any) -> None:
        async with billing.take():
            await anyio.sleep_forever()

    DOORS[name].run(scenario)


@through_doors_that_cancel
def test_a_cancelled_run_releases_what_its_handlers_had(name: str) -> None:
    async def scenario(door: Door) -> None:
        at_work: list[int] = []

        async def handle(message: Delivery) -> None:
            at_work.append(message.offset)
            if message.offset >= 2:
                await anyio.sleep_forever()

        async with door.dispatch(TOPIC) as dispatch:
            await dispatch.store_batch([b"x"] * 9)
            workers = await dispatch.add_subscription("workers")
            async with door.running(workers, handle, concurrency=3):
                while len(at_work) < 5:
                    await anyio.lowlevel.checkpoint()
            statistics = await workers.statistics()
            assert (statistics.acked, statistics.failed, statistics.in_flight) == (2, 0, 0)
            async with workers.consumer() as consumer:
                rest = await consumer.receive()
                assert [(m.offset, m.attempt) for m in rest] == [(i, 1) for i in range(2, 9)]

    DOORS[name].run(scenario)


@through_doors_that_cancel
def test_a_handler_that_takes_too_long_is_cancelled_and_its_message_comes_again(name: str) -> None:
    async def scenario(door: Door) -> None:
        attempts: list[int] = []

        async def handle(message: Delivery) -> None:
            attempts.append(message.attempt)
            if message.attempt == 1:
                assert message.extend(0.001)
                await anyio.sleep_forever()
            assert message.extend(1000)
            assert message.deadline - anyio.current_time() > 900

        options = SubscriptionOptions(ack_timeout=0.02, **AT_ONCE)
        async with door.dispatch(TOPIC) as dispatch:
            await dispatch.store_message(b"x")
            workers = await dispatch.add_subscription("workers", options)
            async with door.running(workers, handle):
                await workers.wait_settled()
            assert attempts == [1, 2]
            assert (await workers.statistics()).timed_out == 1

    DOORS[name].run(scenario)


# ---- the same names


KINDS: list[tuple[type, type, set[str]]] = [
    # its life, for who opens it, is the engine's only
    (
        danube_trio.dispatch.Subscription,
        _subscription.SubscriptionView,
        {"take_over", "run_tasks", "finish", "close_unsaved", "held_from", "untold_fence"},
    ),
    (danube_trio.dispatch.Consumer, _consumer.ConsumerView, set()),
    (danube_trio.dispatch.Take, _consumer.TakeView, set()),
    (danube_trio.dispatch.ReliableDispatch, anyio_dispatch.ReliableDispatch, set()),
    (
        danube_trio.dispatch.TopicStore,
        _views._TopicStoreView,
        {"not_freed", "end_now"},
    ),
]
PLAIN = {"paused", "saved_end", "is_open", "topic"}  # marks: read where they are


@pytest.mark.parametrize(("engine", "view", "inner"), KINDS)
def test_every_call_of_dispatch_crosses_to_the_engines_thread(
    engine: type, view: type, inner: set[str]
) -> None:
    calls = {name for name in vars(engine) if name[0] != "_"} - inner - PLAIN
    assert calls <= shown_by(view)
    for name in calls:
        found, wanted = getattr(view, name), getattr(engine, name)
        if callable(wanted):
            assert inspect.signature(found) == inspect.signature(wanted)
            assert inspect.iscoroutinefunction(found) == inspect.iscoroutinefunction(
                inspect.unwrap(wanted)
            )


BLOCKING: list[tuple[type, type, set[str]]] = [
    (
        danube_trio.dispatch.Subscription,
        blocking_dispatch.Subscription,
        {
            "take_over",
            "run_tasks",
            "finish",
            "close_unsaved",
            "held_from",
            "untold_fence",
            "run_consumer",
            "run",
        },
    ),
    (
        danube_trio.dispatch.Consumer,
        blocking_dispatch.Consumer,
        {"enter", "leave", "receive_one"},
    ),
    (danube_trio.dispatch.ReliableDispatch, blocking_dispatch.ReliableDispatch, set()),
    (
        danube_trio.dispatch.TopicStore,
        blocking_dispatch.TopicStore,
        {"not_freed", "end_now"},
    ),
    (danube_trio.Storage, BlockingStorage, set()),
    (danube_trio.WalStorage, BlockingWalStorage, {"check"}),
]


@pytest.mark.parametrize(("engine", "other", "inner"), BLOCKING)
def test_the_blocking_door_has_every_name_with_the_same_arguments(
    engine: type, other: type, inner: set[str]
) -> None:
    def arguments(fn: Callable[..., object]) -> list[tuple[str, Any, Any]]:
        parameters = inspect.signature(fn).parameters.values()
        return [(p.name, p.kind, p.default) for p in parameters]

    names = {name for name in vars(engine) if name[0] != "_"} - inner
    assert names <= shown_by(other)
    for name in names:
        if callable(getattr(engine, name)):
            assert arguments(getattr(other, name)) == arguments(getattr(engine, name))


@pytest.mark.parametrize("module", [anyio_dispatch, blocking_dispatch])
def test_the_dispatch_of_a_door_has_the_names_of_the_engines(module: Any) -> None:
    protocols = {"CacheLimits", "MessageReader", "SegmentStorage", "TopicLog"}
    assert set(danube_trio.dispatch.__all__) - protocols <= set(module.__all__)


# ---- answers from elsewhere, on trio


async def test_an_answer_from_another_thread_is_refused_before_it_counts() -> None:
    async with ReliableDispatch(TOPIC, ReliableOptions(), _cache()) as dispatch:
        await dispatch.store_batch([b"x"] * 3)
        billing = await dispatch.add_subscription("billing")
        async with billing.consumer() as consumer:
            (message, *_) = await consumer.receive()
            for call in (
                message.ack,
                message.nack,
                message.release,
                message.extend,
                lambda: message.reject("no"),
                lambda: consumer.ack([message]),
                lambda: consumer.ack_cumulative(message),
                consumer.leave,
                billing.pause,
                billing.resume,
                lambda: billing.drop_blocked(0),
            ):
                with pytest.raises(RuntimeError, match="belongs to the trio run"):
                    await trio.to_thread.run_sync(call)
            assert message.is_current
            assert not billing.paused
            assert (await billing.statistics()).in_flight == 3
            assert await trio.to_thread.run_sync(trio.from_thread.run_sync, message.ack)


def test_an_answer_after_the_run_is_refused() -> None:
    async def main() -> Delivery:
        async with ReliableDispatch(TOPIC, ReliableOptions(), _cache()) as dispatch:
            await dispatch.store_message(b"x")
            billing = await dispatch.add_subscription("billing")
            async with billing.consumer() as consumer:
                return (await consumer.receive())[0]

    with pytest.raises(RuntimeError, match="belongs to the trio run"):
        trio.run(main).ack()


async def test_a_log_is_dispatched_as_one_topic_only() -> None:
    async with danube_trio.open_wal(WalConfig()) as wal:
        storage = WalStorage.from_wal(wal)
        make = ReliableDispatch.new_with_persistent
        async with make(TOPIC, ReliableOptions(), None, storage):
            pass
        for one in (storage, WalStorage.from_wal(wal)):
            with pytest.raises(ValueError, match=r"'/default/payments'.*'/default/orders'"):
                async with make("/default/payments", ReliableOptions(), None, one):
                    pass
        async with make("default/orders", ReliableOptions(), None, storage):
            pass
    async with danube_trio.open_wal(WalConfig(topic_name=TOPIC)) as wal:
        with pytest.raises(ValueError, match=r"'/default/payments'.*'/default/orders'"):
            async with make("/default/payments", ReliableOptions(), None, WalStorage(wal, None)):
                pass


async def test_a_closed_store_refuses() -> None:
    async with open_store("memory:") as store:
        await store.put("a", b"x")
    for call in (store.get("a"), store.put("a", b"y"), store.list_objects("")):
        with pytest.raises(danube_trio.StoreUnavailableError, match="was closed"):
            await call
    assert "objects: 1" in repr(store)


def _cache() -> danube_trio.dispatch.TopicCache:
    return danube_trio.dispatch.TopicCache(danube_trio.dispatch.InMemoryStorage())
