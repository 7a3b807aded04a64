"""Dispatch: what once went wrong, and must not again."""

from __future__ import annotations

import errno
import gc
import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
from cloud_model import CONFIG, World, virtual_clock
from topics import (
    CURSOR,
    TOPIC,
    UNTIL_ACK,
    Metadata,
    fill,
    keyed,
    settle,
    settle_and_save,
)
from trio.testing import MockClock

from danube_trio import StartPosition, StreamMessage, Wal, WalConfig, WalStorage, open_wal
from danube_trio.config import CloudConfig, StorageConfig
from danube_trio.dispatch import (
    CursorTooLargeError,
    Delivery,
    InMemoryStorage,
    PoisonPolicy,
    ReliableDispatch,
    ReliableOptions,
    RetentionPolicy,
    Subscription,
    SubscriptionOptions,
    SubscriptionType,
    TopicCache,
)
from danube_trio.dispatch._cursor import CursorState
from danube_trio.errors import (
    CorruptDataError,
    LogClosedError,
    OffsetTrimmedError,
    StoreUnavailableError,
)
from danube_trio.metadata import open_metadata_directory
from danube_trio.storage import open_storage
from danube_trio.testing import SimDisk, SimStore

TO_DEAD_LETTERS = SubscriptionOptions(poison_policy=PoisonPolicy.DEAD_LETTER, max_redeliveries=0)


def dispatch_over(wal: Wal, metadata: Metadata) -> ReliableDispatch:
    storage = WalStorage.from_wal(wal, TOPIC)
    return ReliableDispatch.new_with_persistent(TOPIC, UNTIL_ACK, None, storage, metadata=metadata)


async def payloads(subscription: Subscription) -> list[bytes]:
    """Acknowledge all that comes."""
    found: list[bytes] = []
    with trio.move_on_after(5):
        while True:
            async with subscription.take() as message:
                found.append(bytes(message.payload))
    return found


# ---- cursors and a log that loses its end


@pytest.mark.parametrize("how", ["add", "seek"])
async def test_a_cursor_at_the_end_is_saved_only_when_the_log_below_it_is_durable(
    autojump_clock: MockClock, how: str
) -> None:
    disk, metadata = SimDisk(latency=0.05), Metadata()
    async with open_wal(WalConfig(dir="/log"), disk=disk) as wal:
        async with dispatch_over(wal, metadata) as dispatch, trio.open_nursery() as nursery:
            await dispatch.store_message(b"0")
            late = await dispatch.add_subscription("late") if how == "seek" else None
            nursery.start_soon(dispatch.store_batch, [b"1", b"2"])
            await trio.sleep(0.01)
            assert wal.durable_end < wal.next_offset
            if late is None:
                await dispatch.add_subscription("late", start=StartPosition.latest())
            else:
                await late.seek(StartPosition.latest())
            after, cursors = disk.crash(), metadata.left_behind()
            metadata.down = False  # the old process may end in peace
    async with open_wal(WalConfig(dir="/log"), disk=after) as wal:
        assert wal.next_offset == 3
        async with dispatch_over(wal, cursors) as dispatch:
            await dispatch.store_batch([b"new 0", b"new 1"])
            assert await payloads(await dispatch.add_subscription("late")) == [b"new 0", b"new 1"]


async def test_acknowledgements_of_what_is_only_written_are_saved_when_it_is_durable(
    autojump_clock: MockClock,
) -> None:
    disk, metadata = SimDisk(), Metadata()
    config = WalConfig(dir="/log", visibility="written", fsync_interval_ms=5000)
    async with open_wal(config, disk=disk) as wal:
        async with dispatch_over(wal, metadata) as dispatch:
            await dispatch.store_message(b"0")
            await dispatch.store_batch([b"1", b"2"], durability="written")
            subscription = await dispatch.add_subscription("billing")
            await settle(subscription, 3)
            await subscription.flush()
            assert subscription.saved_end == 3
            after, cursors = disk.crash(), metadata.left_behind()
            metadata.down = False
    async with open_wal(config, disk=after) as wal:
        assert wal.next_offset == 3
        async with dispatch_over(wal, cursors) as dispatch:
            await dispatch.store_message(b"new")
            assert await payloads(await dispatch.add_subscription("billing")) == [b"new"]


async def test_a_cursor_beyond_the_end_is_refused_and_can_be_removed(
    autojump_clock: MockClock,
) -> None:
    metadata, disk = Metadata(), SimDisk()
    async with open_wal(WalConfig(dir="/log"), disk=disk) as wal:
        async with dispatch_over(wal, metadata) as dispatch:
            await dispatch.store_batch([b"0", b"1"])
            await settle(await dispatch.add_subscription("billing"), 2)
    async with open_wal(WalConfig(dir="/other"), disk=disk) as wal:
        async with dispatch_over(wal, metadata) as dispatch:
            await dispatch.store_message(b"new")
            with pytest.raises(CorruptDataError, match="remove_subscription"):
                await dispatch.add_subscription("billing")
            assert await dispatch.remove_subscription("billing")
            assert await payloads(await dispatch.add_subscription("billing")) == [b"new"]


# ---- retention, and who begins to need messages


def in_memory(metadata: Metadata) -> ReliableDispatch:
    return ReliableDispatch(TOPIC, UNTIL_ACK, TopicCache(InMemoryStorage()), metadata=metadata)


@asynccontextmanager
async def holds_retention_back(dispatch: ReliableDispatch) -> AsyncGenerator[None]:
    """Until the block: what one subscription has settled is freed after it, and not before."""
    await settle_and_save(dispatch, "fast", 40)
    await trio.sleep(50)
    assert await dispatch.topic_store.start_offset() == 0
    yield
    await trio.sleep(50)
    assert await dispatch.topic_store.start_offset() > 25


async def test_a_subscription_whose_first_save_has_a_lost_answer_loses_nothing(
    autojump_clock: MockClock,
) -> None:
    metadata = Metadata()
    async with in_memory(metadata) as dispatch:
        await fill(dispatch, 40)
        metadata.lost_answers = 1
        with pytest.raises(StoreUnavailableError):
            await dispatch.add_subscription("billing")
        assert dispatch.subscriptions() == {"billing": None}
        async with holds_retention_back(dispatch):
            billing = await dispatch.add_subscription("billing")
            assert (await settle(billing, 40))[0] == 0


async def test_a_subscription_whose_first_save_was_cancelled_loses_nothing(
    autojump_clock: MockClock,
) -> None:
    metadata = Metadata()
    async with in_memory(metadata) as dispatch:
        await fill(dispatch, 40)
        metadata.gate = trio.Event()
        with trio.move_on_after(1):
            await dispatch.add_subscription("billing")
        metadata.gate.set()
        assert dispatch.subscriptions() == {"billing": None}
        await settle_and_save(dispatch, "fast", 40)
        assert await dispatch.apply_retention() == 0
        assert await dispatch.remove_subscription("billing")
        assert await dispatch.apply_retention() > 25


async def test_a_subscription_that_cannot_begin_holds_nothing_back(
    autojump_clock: MockClock,
) -> None:
    async with in_memory(Metadata()) as dispatch:
        await fill(dispatch, 40)
        await settle_and_save(dispatch, "fast", 40)
        with pytest.raises(ValueError, match="beyond the end"):
            await dispatch.add_subscription("late", start=StartPosition.offset(1000))
        assert list(dispatch.subscriptions()) == ["fast"]
        await trio.sleep(100)
        assert await dispatch.topic_store.start_offset() > 25


@pytest.mark.parametrize("what", ["seek", "add", "reader"])
async def test_a_round_of_retention_takes_nothing_from_who_begins_meanwhile(
    autojump_clock: MockClock, what: str
) -> None:
    disk = SimDisk(latency=0.01)
    config = WalConfig(dir="/log", segment_bytes=1 << 20, read_block_bytes=4096)
    async with open_wal(config, disk=disk) as wal, dispatch_over(wal, Metadata()) as dispatch:
        await fill(dispatch, 40)
        fast = await settle_and_save(dispatch, "fast", 40)
        found: list[int] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(dispatch.apply_retention)
            await trio.sleep(0.005)
            if what == "reader":
                async with await dispatch.topic_store.create_reader(end="current") as reader:
                    await dispatch.apply_retention()
                    found = [message.offset async for message in reader]
            elif what == "seek":
                begin = await fast.seek(StartPosition.earliest())
                found = await settle(fast, 40 - begin)
            else:
                late = await dispatch.add_subscription("late")
                found = await settle(late, 40 - late.end)
        assert found == list(range(found[0], 40))
        assert found[0] > 0, "the round came first, and what it freed is gone"


async def test_nobody_begins_among_messages_that_may_yet_be_freed(
    autojump_clock: MockClock,
) -> None:
    world = World.new("manifests")
    async with world.open() as wal, dispatch_over(wal, Metadata()) as dispatch:
        for _ in range(30):
            await dispatch.store_message(bytes(100))
        await wal.wait_uploaded(24)
        fast = await settle_and_save(dispatch, "fast", 30)
        fault = world.store.fail(None, kind="unavailable", sticky=True)
        with pytest.raises(StoreUnavailableError):
            await dispatch.apply_retention()
        start = await dispatch.topic_store.start_offset()
        assert start == 0
        with pytest.raises(OffsetTrimmedError):
            await fast.seek(StartPosition.offset(0))
        late = await dispatch.add_subscription("late")
        reader = await dispatch.topic_store.create_reader()
        assert late.end == reader.cursor == 30
        fault.cancel()
        await dispatch.apply_retention()
        await trio.sleep(100)
        assert 20 < await dispatch.topic_store.start_offset() <= 30
        start = await dispatch.topic_store.start_offset()
        assert (await dispatch.add_subscription("later")).end == start
        assert await fast.seek(StartPosition.earliest()) == start
        await reader.aclose()


async def test_retention_is_told_of_a_removed_subscription(autojump_clock: MockClock) -> None:
    async with in_memory(Metadata()) as dispatch:
        await fill(dispatch, 40)
        await dispatch.add_subscription("slow")
        async with holds_retention_back(dispatch):
            await dispatch.remove_subscription("slow")


@pytest.mark.parametrize("how", ["closes", "reads on", "is forgotten"])
async def test_retention_goes_on_when_a_reader(autojump_clock: MockClock, how: str) -> None:
    async with in_memory(Metadata()) as dispatch:
        await fill(dispatch, 40)
        reader = await dispatch.topic_store.create_reader()
        async with holds_retention_back(dispatch):
            if how == "closes":
                await reader.aclose()
            elif how == "reads on":
                for _ in range(40):
                    await anext(reader)
            else:
                del reader
                gc.collect()


async def test_retention_goes_on_when_a_topic_was_given_away_and_taken_back(
    autojump_clock: MockClock,
) -> None:
    metadata = Metadata()
    config = StorageConfig(dir="/data", wal=attrs.evolve(CONFIG, dir=None, cloud=CloudConfig()))
    async with (
        open_storage(config, store=SimStore(), disk=SimDisk(), metadata=metadata) as storage,
        ReliableDispatch.new_with_persistent(
            TOPIC, UNTIL_ACK, None, storage, metadata=metadata
        ) as dispatch,
    ):
        billing = await dispatch.add_subscription("billing")
        await dispatch.store_batch([bytes(100)] * 5)
        await storage.seal(TOPIC)
        with pytest.raises(LogClosedError):
            await settle(billing, 100)
        await trio.sleep(60)
        await storage.take_over(TOPIC)
        billing = await dispatch.add_subscription("billing")
        for _ in range(30):
            await dispatch.store_message(bytes(100))
        await settle(billing, 35 - billing.end)
        await trio.sleep(100)
        assert await storage.start_offset(TOPIC) > 5


# ---- dead letters


async def buried(dispatch: ReliableDispatch, name: str, count: int = 1) -> Subscription:
    """A subscription with so many dead letters."""
    subscription = await dispatch.add_subscription(name, TO_DEAD_LETTERS)
    for _ in range(count):
        async with subscription.take() as message:
            message.reject("bad")
    await subscription.wait_settled()
    return subscription


async def all_payloads(dispatch: ReliableDispatch) -> list[bytes]:
    async with await dispatch.topic_store.create_reader(end="current") as reader:
        return [bytes(message.payload) async for message in reader]


async def test_each_subscription_brings_back_its_own_dead_letters_only() -> None:
    async with open_wal(WalConfig(dir="/dead"), disk=SimDisk()) as dead:
        storage = WalStorage.from_wal(dead)

        def topic(name: str) -> ReliableDispatch:
            cache = TopicCache(InMemoryStorage())
            return ReliableDispatch(name, UNTIL_ACK, cache, dead_letter_storage=storage)

        async with topic("/default/orders") as orders, topic("/default/other") as other:
            await orders.store_message(b"order")
            await other.store_message(b"other")
            first, second = await buried(orders, "billing"), await buried(orders, "audit")
            third = await buried(other, "billing")
            assert await first.redrive() == 1
            assert await all_payloads(orders) == [b"order", b"order"]
            assert await third.redrive() == 1
            assert await all_payloads(other) == [b"other", b"other"]
            assert await second.redrive() == 1
            assert [await each.redrive() for each in (first, second, third)] == [0, 0, 0]


async def test_a_limit_of_redriving_counts_what_is_brought_back() -> None:
    async with open_wal(WalConfig(dir="/dead"), disk=SimDisk()) as dead:
        storage = WalStorage.from_wal(dead)
        cache = TopicCache(InMemoryStorage())
        async with ReliableDispatch(TOPIC, UNTIL_ACK, cache, dead_letter_storage=storage) as orders:
            await orders.store_batch([b"0", b"1", b"2"])
            await buried(orders, "audit", 3)
            billing = await buried(orders, "billing", 3)
            with pytest.raises(ValueError, match="limit=-1"):
                await billing.redrive(-1)
            assert await billing.redrive(0) == 0
            assert await billing.redrive(2) == 2
            assert await billing.redrive(2) == 1
            assert (await all_payloads(orders))[3:] == [b"0", b"1", b"2"]


# ---- a log that cannot be read


SEGMENTS = WalConfig(dir="/log", segment_bytes=900, preallocate_bytes=256, cache_capacity=1)


@pytest.mark.happens
async def test_reading_goes_on_when_the_object_store_answers_again(
    autojump_clock: MockClock,
) -> None:
    world = World.new("manifests")
    async with world.open() as wal:
        for _ in range(30):
            await wal.append(bytes(100))
        await wal.wait_uploaded(24)
        await trio.sleep(20)
        cloud = wal.statistics().cloud
        assert cloud is not None and cloud.local_start > 10
        async with dispatch_over(wal, Metadata()) as dispatch:
            fault = world.store.fail("get", kind="unavailable", sticky=True)
            subscription = await dispatch.add_subscription("billing")
            await trio.sleep(60)
            assert subscription.is_open
            assert (await subscription.statistics()).read_failures > 3
            fault.cancel()
            assert await settle(subscription, 30) == list(range(30))


async def test_reading_goes_on_when_there_are_file_descriptors_again(
    autojump_clock: MockClock,
) -> None:
    disk = SimDisk()
    async with open_wal(SEGMENTS, disk=disk) as wal, dispatch_over(wal, Metadata()) as dispatch:
        for _ in range(20):
            await dispatch.store_message(bytes(100))
        fault = disk.fail("open", error=errno.EMFILE, sticky=True)
        subscription = await dispatch.add_subscription("billing")
        await trio.sleep(10)
        assert subscription.is_open
        assert (await subscription.statistics()).read_failures
        fault.cancel()
        assert await settle(subscription, 20) == list(range(20))


async def test_a_subscription_is_moved_while_reading_fails(autojump_clock: MockClock) -> None:
    disk = SimDisk()
    async with open_wal(SEGMENTS, disk=disk) as wal, dispatch_over(wal, Metadata()) as dispatch:
        for _ in range(20):
            await dispatch.store_message(bytes(100))
        fault = disk.fail("open", error=errno.EMFILE, sticky=True)
        subscription = await dispatch.add_subscription("billing")
        await trio.sleep(10)
        await subscription.seek(StartPosition.latest())
        await dispatch.store_message(b"new")
        assert await settle(subscription, 1) == [20], "it need not open a file any more"
        fault.cancel()


# ---- a log with gaps


@asynccontextmanager
async def damaged_log() -> AsyncGenerator[Wal]:
    """A log of 30 messages, one a second, whose first ones cannot be read."""
    disk = SimDisk()
    config = attrs.evolve(SEGMENTS, on_corruption="skip")
    async with open_wal(config, disk=disk, clock=virtual_clock) as wal:
        for _ in range(30):
            await wal.append(bytes(100))
            await trio.sleep(1)
    path = min(path for path in disk.tree() if path.endswith(".log"))
    file = disk.open(path, "rw")
    file.write_at(bytes([file.read_at(1, 40)[0] ^ 0xFF]), 40)
    file.sync_data()
    file.close()
    async with open_wal(config, disk=disk, clock=virtual_clock) as wal:
        yield wal


async def test_retention_by_age_passes_a_gap(autojump_clock: MockClock) -> None:
    by_age = ReliableOptions(1, RetentionPolicy.RETAIN_UNTIL_EXPIRE, 100.0)
    async with damaged_log() as wal:
        storage = WalStorage.from_wal(wal, TOPIC)
        async with ReliableDispatch.new_with_persistent(
            TOPIC, by_age, None, storage, clock=virtual_clock
        ) as dispatch:
            assert await dispatch.apply_retention() == 0
            await trio.sleep(200)
            assert await dispatch.topic_store.start_offset() > 20


async def test_a_subscription_begins_at_a_gap(autojump_clock: MockClock) -> None:
    async with damaged_log() as wal, dispatch_over(wal, Metadata()) as dispatch:
        long_ago = StartPosition.timestamp(virtual_clock() - 1000)
        subscription = await dispatch.add_subscription("billing", start=long_ago)
        assert subscription.end == 0
        found = await payloads(subscription)
        lost = (await subscription.statistics()).lost
        assert found and lost and len(found) + lost == 30


async def test_redriving_passes_a_gap(autojump_clock: MockClock) -> None:
    async with damaged_log() as dead:
        cache = TopicCache(InMemoryStorage())
        storage = WalStorage.from_wal(dead)
        async with ReliableDispatch(TOPIC, UNTIL_ACK, cache, dead_letter_storage=storage) as orders:
            await orders.store_message(b"order")
            billing = await buried(orders, "billing")
            assert await billing.redrive() == 1
            assert await all_payloads(orders) == [b"order", b"order"]


# ---- bounds


@pytest.mark.parametrize("kind", [SubscriptionType.SHARED, SubscriptionType.KEY_SHARED])
async def test_new_messages_wait_while_too_many_wait_for_redelivery(
    autojump_clock: MockClock, kind: SubscriptionType
) -> None:
    options = SubscriptionOptions(
        type=kind, max_retrying_messages=2, max_unacked_messages=1, backoff_initial=50.0
    )
    async with in_memory(Metadata()) as dispatch:
        await dispatch.store_batch([keyed(f"key {number}") for number in range(100)])
        subscription = await dispatch.add_subscription("billing", options)
        async with subscription.consumer() as consumer:
            found: list[int] = []
            with trio.move_on_after(45):
                while True:
                    delivery = await consumer.receive_one()
                    found.append(delivery.offset)
                    delivery.nack()
            assert found == [0, 1]
        assert sorted(await settle(subscription, 100)) == list(range(100))


@pytest.mark.parametrize("keys", [1, 2])
async def test_lanes_go_on_when_the_cursor_is_too_large(
    autojump_clock: MockClock, keys: int
) -> None:
    """The messages behind the slow keys are the holes: only handing them out makes it smaller."""
    options = SubscriptionOptions(
        type=SubscriptionType.KEY_SHARED,
        max_cursor_bytes=1024,
        ack_timeout=None,
        max_unsaved_acks=500,
    )
    chance = random.Random(keys)
    slow = [f"slow {number}" for number in range(keys)]
    names = [*slow, *(chance.choice([*slow, "", ""]) for _ in range(8000))]
    async with in_memory(Metadata()) as dispatch:
        await dispatch.store_batch([keyed(name, b"x") for name in names])
        subscription = await dispatch.add_subscription("billing", options)
        async with subscription.consumer() as consumer:
            held = await consumer.receive(keys)
            assert [delivery.key for delivery in held] == slow
            found = [delivery.offset for delivery in held]
            with trio.move_on_after(100):
                while True:
                    delivery = await consumer.receive_one()
                    found.append(delivery.offset)
                    delivery.ack()
            with pytest.raises(CursorTooLargeError):
                await subscription.flush()
            seen = len(found)
            assert keys < seen < names.count(""), "new ones do not wait"
            assert consumer.ack(held) == keys
            while len(found) < len(names):
                for delivery in await consumer.receive():
                    found.append(delivery.offset)
                    delivery.ack()
        await subscription.flush()
        assert subscription.saved_end == len(names)
        assert sorted(found) == list(range(len(names)))


async def test_failures_that_do_not_fit_into_the_cursor_are_told(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    options = SubscriptionOptions(
        type=SubscriptionType.SHARED,
        max_unacked_messages=20_000,
        max_retrying_messages=20_000,
        max_cursor_bytes=1024,
        backoff_initial=1000.0,
        backoff_max=1000.0,
    )
    chance, metadata = random.Random(1), Metadata()
    async with in_memory(metadata) as dispatch:
        await dispatch.store_batch([b"x"] * 20_000)
        subscription = await dispatch.add_subscription("billing", options)
        async with subscription.consumer() as consumer:
            for _ in range(20):
                for delivery in await consumer.receive(1000):
                    if chance.random() < 0.5:
                        delivery.nack()
            await subscription.flush()
            failed = (await subscription.statistics()).failed
            unsaved = (await subscription.statistics()).unsaved_failures
            entry = await metadata.get(CURSOR)
            assert entry is not None
            saved = CursorState.decode(entry.value, CURSOR).attempts
            assert len(saved) > 100 and len(saved) + unsaved == failed, "the older ones are saved"
            assert caplog.text.count("begin at the first attempt") == 1
        assert sorted(await settle(subscription, 20_000)) == list(range(20_000))
        await subscription.flush()
        assert (await subscription.statistics()).unsaved_failures == 0


def not_async(message: object) -> None:
    """A handler that somebody forgot to make async."""


@pytest.mark.parametrize("handler", [None, 5, not_async])
async def test_a_handler_that_is_not_async_is_refused_and_no_message_pays(
    handler: object, autojump_clock: MockClock
) -> None:
    options = SubscriptionOptions(poison_policy=PoisonPolicy.DROP, max_redeliveries=0)
    async with (
        open_wal(WalConfig(dir="/log"), disk=SimDisk()) as wal,
        dispatch_over(wal, Metadata()) as dispatch,
    ):
        for text in (b"a", b"b"):
            await dispatch.store_message(text)
        subscription = await dispatch.add_subscription("s", options)
        with pytest.raises(TypeError, match="must be an async function"):
            await subscription.run(handler, concurrency=2)  # type: ignore[arg-type]
        assert await payloads(subscription) == [b"a", b"b"]


async def test_of_several_errors_that_stop_a_run_the_first_comes_out_as_itself(
    autojump_clock: MockClock,
) -> None:
    async def fail(message: object) -> None:
        await trio.sleep(1)
        raise ValueError("mine")

    async with (
        open_wal(WalConfig(dir="/log"), disk=SimDisk()) as wal,
        dispatch_over(wal, Metadata()) as dispatch,
    ):
        for text in (b"a", b"b", b"c"):
            await dispatch.store_message(text)
        subscription = await dispatch.add_subscription("s")
        with pytest.raises(ValueError, match="mine"):
            await subscription.run(fail, concurrency=3, stop_on=(ValueError,))


async def test_over_a_storage_cursors_are_in_its_own_metadata_store(
    autojump_clock: MockClock,
) -> None:
    disk = SimDisk()
    for expected in ([b"a", b"b"], [b"c"]):
        async with (
            open_storage(StorageConfig(dir="/topics"), disk=disk) as storage,
            ReliableDispatch.new_with_persistent(TOPIC, UNTIL_ACK, None, storage) as dispatch,
        ):
            for text in expected:
                await dispatch.store_message(text)
            assert await payloads(await dispatch.add_subscription("s")) == expected
            assert await storage.metadata.list_entries("/topics/")


async def test_a_subscription_of_a_storage_begins_at_what_is_durable(
    autojump_clock: MockClock,
) -> None:
    config = StorageConfig(dir="/data", wal=WalConfig(fsync_interval_ms=3_600_000))
    async with open_storage(config, disk=SimDisk()) as storage:
        options = ReliableOptions()
        async with ReliableDispatch.new_with_persistent(TOPIC, options, None, storage) as dispatch:
            await dispatch.store_message(b"x", durability="accepted")
            subscription = await dispatch.add_subscription("late", start=StartPosition.latest())
            async with storage.topic(TOPIC) as wal:
                assert subscription.saved_end == wal.durable_end == 1


# ---- the disk of the cursors


@pytest.mark.happens
@pytest.mark.parametrize("where", ["a directory of its own", "the storage's"])
async def test_subscriptions_go_on_when_the_full_disk_of_their_cursors_has_space_again(
    autojump_clock: MockClock, where: str
) -> None:
    disk = SimDisk()
    options = SubscriptionOptions(max_unsaved_acks=5)

    async def use(dispatch: ReliableDispatch, path: str) -> None:
        await dispatch.store_batch([b"%d" % i for i in range(40)])
        billing = await dispatch.add_subscription("billing", options)
        fault = disk.fail("write", error=errno.ENOSPC, path_contains=path, sticky=True)
        handled: list[int] = []

        async def handle(message: Delivery) -> None:
            handled.append(message.offset)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(billing.run, handle)
            await trio.sleep(100)
            assert len(handled) == 5, "nothing more is handed out while nothing can be saved"
            statistics = await billing.statistics()
            assert statistics.save_failures and "ENOSPC" in str(statistics.last_error)
            fault.cancel()
            await billing.wait_settled()
            nursery.cancel_scope.cancel()
        await billing.flush()
        assert (billing.saved_end, handled) == (40, list(range(40)))
        await dispatch.add_subscription("other")

    if where == "the storage's":
        async with (
            open_storage(StorageConfig(dir="/s"), disk=disk) as storage,
            ReliableDispatch.new_with_persistent(TOPIC, UNTIL_ACK, None, storage) as dispatch,
        ):
            await use(dispatch, "/s/.metadata/")
    else:
        async with (
            open_metadata_directory("/cursors", disk=disk) as metadata,
            open_wal(WalConfig(dir="/log"), disk=disk) as wal,
            ReliableDispatch.new_with_persistent(
                TOPIC, UNTIL_ACK, None, WalStorage.from_wal(wal, TOPIC), metadata=metadata
            ) as dispatch,
        ):
            await use(dispatch, "/cursors/")


# ---- redriving what is large


@pytest.mark.happens
@pytest.mark.parametrize("limit", [None, 7])
async def test_large_dead_letters_are_brought_back_in_batches_that_fit(limit: int | None) -> None:
    config = WalConfig(max_atomic_batch_bytes=1 << 20)  # that of the topic
    payloads = [bytes([at]) * (300_000 if at % 4 else 10) for at in range(20)]
    async with open_wal(config) as wal, open_wal(WalConfig()) as dead:
        storage, letters = WalStorage.from_wal(wal, TOPIC), WalStorage.from_wal(dead)
        async with ReliableDispatch.new_with_persistent(
            TOPIC, UNTIL_ACK, None, storage, metadata=Metadata(), dead_letter_storage=letters
        ) as dispatch:
            for payload in payloads:
                await dispatch.store_message(payload)
            billing = await dispatch.add_subscription("billing", TO_DEAD_LETTERS)
            for _ in payloads:
                async with billing.take() as message:
                    message.reject("bad")
            await billing.wait_settled()
            brought = [await billing.redrive(limit=limit)]
            while brought[-1]:
                brought.append(await billing.redrive(limit=limit))
            assert brought == ([20, 0] if limit is None else [7, 7, 6, 0])
            reader = wal.reader(StartPosition.offset(20), end="current")
            assert [message.payload async for message in reader] == payloads


@pytest.mark.happens
async def test_a_dead_letter_that_fits_no_more_stays_and_the_others_come_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with (
        open_wal(WalConfig(max_message_bytes=2000)) as dead,
        open_wal(WalConfig(max_message_bytes=1000)) as wal,
    ):
        storage, letters = WalStorage.from_wal(wal, TOPIC), WalStorage.from_wal(dead)
        async with ReliableDispatch.new_with_persistent(
            TOPIC, UNTIL_ACK, None, storage, metadata=Metadata(), dead_letter_storage=letters
        ) as dispatch:
            for size in (10, 976, 20):  # ``x-redriven`` makes the second one too large
                await dispatch.store_message(StreamMessage(attributes={"a": "x" * size}))
            billing = await dispatch.add_subscription("billing", TO_DEAD_LETTERS)
            for _ in range(3):
                async with billing.take() as message:
                    message.reject("bad")
            await billing.wait_settled()
            assert await billing.redrive() == 2
            assert await billing.redrive() == 0
            assert wal.next_offset == 5
    assert "dead letter 1 " in caplog.text and "too large" in caplog.text
