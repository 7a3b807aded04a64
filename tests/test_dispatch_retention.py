"""Retention, and topics in files."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from topics import TOPIC, Metadata, settle
from trio.testing import MockClock

from danube_trio import StartPosition, WalConfig, WalStorage, open_wal
from danube_trio.dispatch import (
    FileStorage,
    InMemoryStorage,
    ReliableDispatch,
    ReliableOptions,
    RetentionPolicy,
    SubscriptionOptions,
    TopicCache,
)
from danube_trio.metadata import open_metadata_directory
from danube_trio.testing import SimDisk

Make = Callable[[ReliableOptions, Metadata], ReliableDispatch]
BODY = bytes(100_000)  # eleven of them fill a segment of 1 MiB


class Clock:
    """Seconds since 1970, as the test says."""

    now = 1e9

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(
    params=[RetentionPolicy.RETAIN_UNTIL_ACK, RetentionPolicy.RETAIN_UNTIL_EXPIRE],
    ids=lambda policy: policy.name,
)
def options(request: pytest.FixtureRequest) -> ReliableOptions:
    return ReliableOptions(1, request.param, 60.0)


@pytest.fixture(params=["wal", "segments"])
async def make(request: pytest.FixtureRequest, clock: Clock) -> AsyncGenerator[Make]:
    """Makes dispatches over the same messages."""
    if request.param == "segments":
        cache = TopicCache(InMemoryStorage(clock=clock))

        def over_segments(options: ReliableOptions, metadata: Metadata) -> ReliableDispatch:
            return ReliableDispatch(TOPIC, options, cache, metadata=metadata, clock=clock)

        yield over_segments
        return
    config = WalConfig(dir="/log", segment_bytes=1 << 20)
    async with open_wal(config, disk=SimDisk(), clock=clock) as wal:
        storage = WalStorage.from_wal(wal, TOPIC)

        def over_wal(options: ReliableOptions, metadata: Metadata) -> ReliableDispatch:
            return ReliableDispatch.new_with_persistent(
                TOPIC, options, None, storage, metadata=metadata, clock=clock
            )

        yield over_wal


UNTIL_ACK = ReliableOptions(1, RetentionPolicy.RETAIN_UNTIL_ACK)
UNTIL_EXPIRE = ReliableOptions(1, RetentionPolicy.RETAIN_UNTIL_EXPIRE, 60.0)


async def fill(dispatch: ReliableDispatch, count: int) -> None:
    for _ in range(count):
        await dispatch.store_message(BODY)


async def test_what_everybody_acknowledged_goes(make: Make) -> None:
    async with make(UNTIL_ACK, Metadata()) as dispatch:
        await fill(dispatch, 40)
        assert await dispatch.apply_retention() == 0  # no subscription: nothing goes
        fast = await dispatch.add_subscription("fast", SubscriptionOptions())
        slow = await dispatch.add_subscription("slow", SubscriptionOptions())
        await settle(fast, 40)
        await fast.flush()
        assert await dispatch.apply_retention() == 0
        await settle(slow, 25)
        assert await dispatch.apply_retention() == 0, "not saved, and yet gone"
        await slow.flush()
        start = await dispatch.apply_retention()
        assert 10 < start <= 25
        assert await settle(slow, 15) == list(range(25, 40))
        late = await dispatch.add_subscription("late")
        assert late.end == start


async def test_a_subscription_that_is_not_open_counts(make: Make) -> None:
    metadata = Metadata()
    async with make(UNTIL_ACK, metadata) as dispatch:
        await fill(dispatch, 30)
        await settle(await dispatch.add_subscription("slow"), 15)
    async with make(UNTIL_ACK, metadata) as dispatch:
        await settle(await dispatch.add_subscription("fast"), 30)
        await (await dispatch.add_subscription("fast")).flush()
        start = await dispatch.apply_retention()
        assert 0 < start <= 15
        await dispatch.remove_subscription("slow")
        assert await dispatch.apply_retention() > 15


async def test_what_is_old_goes_acknowledged_or_not(make: Make, clock: Clock) -> None:
    async with make(UNTIL_EXPIRE, Metadata()) as dispatch:
        await fill(dispatch, 25)
        clock.now += 50
        await fill(dispatch, 15)
        subscription = await dispatch.add_subscription("billing")
        assert await dispatch.apply_retention() == 0
        clock.now += 20
        start = await dispatch.apply_retention()
        assert 10 < start <= 25
        assert await settle(subscription, 40 - start) == list(range(start, 40)) or start
        clock.now += 1000
        await dispatch.apply_retention()
        assert await dispatch.topic_store.start_offset() > 25


async def test_a_reader_keeps_what_it_has_not_read(
    make: Make, options: ReliableOptions, clock: Clock
) -> None:
    async with make(options, Metadata()) as dispatch:
        await fill(dispatch, 40)
        clock.now += 1000
        subscription = await dispatch.add_subscription("billing")
        await settle(subscription, 40)
        await subscription.flush()
        reader = await dispatch.topic_store.create_reader(StartPosition.earliest())
        for _ in range(15):
            await anext(reader)
        start = await dispatch.apply_retention()
        assert 0 < start <= 15
        assert [(await anext(reader)).offset for _ in range(25)] == list(range(15, 40))
        await reader.aclose()
        assert await dispatch.apply_retention() > 25


async def test_a_forgotten_reader_keeps_nothing(make: Make) -> None:
    async with make(UNTIL_ACK, Metadata()) as dispatch:
        await fill(dispatch, 40)
        subscription = await dispatch.add_subscription("billing")
        await settle(subscription, 40)
        await subscription.flush()
        await dispatch.topic_store.create_reader(StartPosition.earliest())
        assert await dispatch.apply_retention() > 25


async def test_retention_comes_by_itself(make: Make, autojump_clock: MockClock) -> None:
    async with make(UNTIL_ACK, Metadata()) as dispatch:
        await fill(dispatch, 40)
        subscription = await dispatch.add_subscription("billing")
        await settle(subscription, 40)
        await trio.sleep(25)
        assert await dispatch.topic_store.start_offset() > 25


async def test_topics_in_files_survive(tmp_path: Path) -> None:
    cache = TopicCache(FileStorage(tmp_path / "topics"))
    other = "/default/other"
    for life in range(3):
        async with open_metadata_directory(tmp_path / "metadata") as metadata:
            async with ReliableDispatch(TOPIC, UNTIL_ACK, cache, metadata=metadata) as dispatch:
                assert await dispatch.store_batch([b"a", b"b"]) == range(2 * life, 2 * life + 2)
                subscription = await dispatch.add_subscription("billing")
                assert await settle(subscription, 2) == [2 * life, 2 * life + 1]
            async with ReliableDispatch(other, UNTIL_ACK, cache, metadata=metadata) as dispatch:
                assert await dispatch.store_message(b"x") == life
    assert (tmp_path / "topics" / "default" / "orders" / "wal.00000000000000000000.log").exists()


@pytest.mark.parametrize(
    "topic", ["", "orders", "/orders", "/a/b/c", "//orders", "/default/", "/default/..", "/a/\n"]
)
def test_a_bad_topic_is_refused(topic: str) -> None:
    with pytest.raises(ValueError, match="topic="):
        ReliableDispatch(topic, UNTIL_ACK, TopicCache(InMemoryStorage()))


@pytest.mark.parametrize("name", ["", "a/b", "a\nb"])
async def test_a_bad_subscription_name_is_refused(name: str) -> None:
    async with ReliableDispatch(TOPIC, UNTIL_ACK, TopicCache(InMemoryStorage())) as dispatch:
        with pytest.raises(ValueError, match="subscription="):
            await dispatch.add_subscription(name)


async def test_without_a_cache_there_is_nothing_to_open() -> None:
    with pytest.raises(ValueError, match="new_with_persistent"):
        async with ReliableDispatch(TOPIC, UNTIL_ACK, None):
            pass


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_unacked_messages", 0),
        ("max_unacked_messages", 1.5),
        ("max_unacked_messages", True),
        ("ack_timeout", -1),
        ("ack_timeout", "30"),
        ("max_redeliveries", -1),
        ("backoff_initial", -1),
        ("backoff_max", 0.5),
        ("save_interval", None),
        ("max_unsaved_acks", 0),
        ("max_cursor_bytes", 2_000_000),
        ("dead_letter_topic", "no-namespace"),
    ],
)
def test_a_bad_setting_of_a_subscription_is_named(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=field):
        SubscriptionOptions(**{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [("segment_size", 0), ("retention_period", -1), ("retention_interval", 0)],
)
def test_a_bad_setting_of_a_topic_is_named(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=field):
        ReliableOptions(**{field: value})


def test_settings_may_come_from_a_file() -> None:
    plain: dict[str, Any] = {"type": "key_shared", "poison_policy": "drop", "ack_timeout": None}
    options = SubscriptionOptions(**plain)
    assert (options.type.name, options.poison_policy.name) == ("KEY_SHARED", "DROP")
    for policy in RetentionPolicy:
        assert ReliableOptions(1, policy.value).retention_policy is policy
    assert ReliableOptions().retention_policy is None
    with pytest.raises(ValueError, match="sharing"):
        SubscriptionOptions(type="sharing")
