"""Cursors and their logs: which storage they are of, and what happens when they do not fit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import attrs
import pytest

from danube_trio import (
    CloudConfig,
    StartPosition,
    Storage,
    StorageConfig,
    StreamMessage,
    Wal,
    WalConfig,
    WalStorage,
    open_storage,
    open_wal,
    restore_log,
)
from danube_trio.cloud import MemoryStore
from danube_trio.dispatch import (
    InMemoryStorage,
    PoisonPolicy,
    ReliableDispatch,
    ReliableOptions,
    RetentionPolicy,
    Subscription,
    SubscriptionOptions,
    TopicCache,
)
from danube_trio.dispatch._cursor import CursorState, Witness
from danube_trio.errors import CorruptDataError
from danube_trio.metadata import MemoryMetadata, MetadataStore

TOPIC = "/default/orders"
KEY = f"/topics{TOPIC}/subscriptions/billing/danube-trio"
REFUSED = "do not belong together, or the log was restored from an older copy"


async def handle(subscription: Subscription, count: int) -> list[bytes]:
    """Acknowledge so many messages, and save that."""
    got: list[bytes] = []
    async with subscription.consumer("c") as consumer:
        while len(got) < count:
            deliveries = await consumer.receive(max_messages=count - len(got))
            got += [delivery.payload for delivery in deliveries]
            consumer.ack(deliveries)
    await subscription.flush()
    return got


def dispatch_of(
    wal: Wal, metadata: MetadataStore, options: ReliableOptions | None = None
) -> ReliableDispatch:
    return ReliableDispatch.new_with_persistent(
        TOPIC, options or ReliableOptions(), None, WalStorage.from_wal(wal), metadata=metadata
    )


def dispatch_in(storage: Storage) -> ReliableDispatch:
    return ReliableDispatch.new_with_persistent(TOPIC, ReliableOptions(), None, storage)


async def day(
    directory: Path,
    metadata: MetadataStore,
    stored: Sequence[bytes],
    *,
    start: StartPosition | None = None,
) -> list[bytes]:
    """A program's day: it stores messages, and its subscription handles all that there are."""
    async with open_wal(WalConfig(dir=directory)) as wal, dispatch_of(wal, metadata) as dispatch:
        await dispatch.store_batch(stored)
        subscription = await dispatch.add_subscription(
            "billing", start=start or StartPosition.earliest()
        )
        return await handle(subscription, await subscription.lag())


def orders(first: int, end: int, name: str = "order") -> list[bytes]:
    return [b"%s %d" % (name.encode(), i) for i in range(first, end)]


async def saved(metadata: MetadataStore, key: str = KEY) -> CursorState:
    found = await metadata.get(key)
    assert found is not None
    return CursorState.decode(found.value, key)


# ---- roots


async def test_storages_with_roots_of_their_own_share_nothing_in_a_metadata_store(
    tmp_path: Path,
) -> None:
    metadata = MemoryMetadata()
    letters = SubscriptionOptions(poison_policy=PoisonPolicy.DEAD_LETTER)
    for name in ("staging", "prod", "prod/eu"):
        config = StorageConfig(dir=tmp_path / name, metadata_root=f"/{name}")
        async with (
            open_storage(config, metadata=metadata) as storage,
            dispatch_in(storage) as dispatch,
        ):
            await dispatch.store_batch(orders(0, 30, name))
            subscription = await dispatch.add_subscription("billing", letters)
            async with subscription.take() as message:
                message.reject("it is poison")
            assert await handle(subscription, 29) == orders(1, 30, name)
            await subscription.wait_settled()
            assert await subscription.redrive() == 1
            assert await subscription.redrive() == 0
    keys = [entry.key for entry in await metadata.list_entries("/")]
    assert keys
    assert all(key.startswith(("/staging/", "/prod/")) for key in keys)
    assert any(key.endswith("/redriven") for key in keys)


async def test_dispatch_over_a_log_takes_a_root_too(tmp_path: Path) -> None:
    metadata = MemoryMetadata()
    for name in ("a", "b"):
        async with (
            open_wal(WalConfig(dir=tmp_path / name)) as wal,
            ReliableDispatch.new_with_persistent(
                TOPIC,
                ReliableOptions(),
                None,
                WalStorage.from_wal(wal),
                metadata=metadata,
                metadata_root=f"/{name}",
            ) as dispatch,
        ):
            await dispatch.store_batch(orders(0, 3, name))
            assert await handle(await dispatch.add_subscription("billing"), 3)
            assert await dispatch.remove_subscription("billing")
    assert not await metadata.list_entries("/")
    with pytest.raises(ValueError, match="metadata_root='prod'"):
        ReliableDispatch(TOPIC, ReliableOptions(), None, metadata_root="prod")


async def test_under_danubes_root_cursors_are_where_danube_has_its_own(tmp_path: Path) -> None:
    metadata = MemoryMetadata()
    async with (
        open_storage(StorageConfig(dir=tmp_path), metadata=metadata) as storage,
        dispatch_in(storage) as dispatch,
    ):
        await dispatch.store_batch(orders(0, 3))
        await handle(await dispatch.add_subscription("billing"), 3)
    assert [entry.key for entry in await metadata.list_entries("/")] == [
        f"/topics{TOPIC}/subscriptions/billing/cursor",
        KEY,
        f"/topics{TOPIC}/subscriptions/billing/owner",
    ]


async def test_an_older_versions_cursor_moves_below_the_root_of_one_storage(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    metadata = MemoryMetadata()
    await metadata.put(KEY, CursorState.at(20, owner="old", saves=7).encode())
    await metadata.put(KEY.replace("danube-trio", "cursor"), b"19")
    await metadata.put(KEY.replace("danube-trio", "redriven"), b"5")
    for name, end in (("prod", 20), ("staging", 0)):
        config = StorageConfig(dir=tmp_path / name, metadata_root=f"/{name}")
        async with (
            open_storage(config, metadata=metadata) as storage,
            dispatch_in(storage) as dispatch,
        ):
            await dispatch.store_batch(orders(0, 30))
            assert ("billing" in dispatch.subscriptions()) is (end > 0)
            subscription = await dispatch.add_subscription("billing")
            assert subscription.end == end
    keys = [entry.key for entry in await metadata.list_entries("/")]
    assert keys == [
        f"/prod{KEY.replace('danube-trio', 'cursor')}",
        f"/prod{KEY}",
        f"/prod{KEY.replace('danube-trio', 'owner')}",
        f"/prod{KEY.replace('danube-trio', 'redriven')}",
        f"/staging{KEY}",
        f"/staging{KEY.replace('danube-trio', 'owner')}",
    ]
    assert f"moves to /prod{KEY}" in caplog.text


async def test_a_cursor_that_knows_its_log_does_not_move_to_another_root(tmp_path: Path) -> None:
    metadata = MemoryMetadata()
    await day(tmp_path / "a", metadata, orders(0, 10))
    before = await metadata.get(KEY)
    config = StorageConfig(dir=tmp_path / "b", metadata_root="/prod")
    async with (
        open_storage(config, metadata=metadata) as storage,
        dispatch_in(storage) as dispatch,
    ):
        await dispatch.store_batch(orders(0, 20, "other"))
        assert not dispatch.subscriptions()
        assert (await dispatch.add_subscription("billing")).end == 0
    assert await metadata.get(KEY) == before


# ---- logs


@pytest.mark.parametrize("stored", [5, 10, 20])
async def test_a_cursor_is_refused_by_another_log(stored: int, tmp_path: Path) -> None:
    metadata = MemoryMetadata()
    await day(tmp_path / "a", metadata, orders(0, 10))
    before = await metadata.get(KEY)
    with pytest.raises(CorruptDataError, match=REFUSED):
        await day(tmp_path / "b", metadata, orders(0, stored, "other"))
    assert await metadata.get(KEY) == before
    assert await day(tmp_path / "a", metadata, orders(10, 11)) == [b"order 10"]


@pytest.mark.parametrize("begin", ["earliest", "latest"])
@pytest.mark.parametrize("stored", [0, 10, 60])
async def test_a_cursor_that_is_newer_than_its_log_is_refused(
    begin: str, stored: int, tmp_path: Path
) -> None:
    """The log came back from an older copy, and gives offsets again that the cursor has settled."""
    metadata, log = MemoryMetadata(), tmp_path / "log"
    start = StartPosition.latest() if begin == "latest" else None
    async with open_wal(WalConfig(dir=log)) as wal:
        await wal.append_batch(orders(0, 50))
    shutil.copytree(log, tmp_path / "copy")
    await day(log, metadata, orders(50, 100), start=start)
    shutil.rmtree(log)
    (tmp_path / "copy").rename(log)
    async with open_wal(WalConfig(dir=log)) as wal:
        await wal.append_batch(orders(50, 50 + stored, "new"))
    with pytest.raises(CorruptDataError, match=REFUSED) as caught:
        await day(log, metadata, [])
    assert "remove_subscription" in str(caught.value)
    async with open_wal(WalConfig(dir=log)) as wal, dispatch_of(wal, metadata) as dispatch:
        assert await dispatch.remove_subscription("billing")
        subscription = await dispatch.add_subscription("billing", start=StartPosition.offset(50))
        assert await handle(subscription, stored) == orders(50, 50 + stored, "new")


async def test_a_subscription_that_was_moved_is_refused_by_an_older_log(tmp_path: Path) -> None:
    metadata, log = MemoryMetadata(), tmp_path / "log"
    await day(log, metadata, orders(0, 10))
    shutil.copytree(log, tmp_path / "copy")
    async with open_wal(WalConfig(dir=log)) as wal, dispatch_of(wal, metadata) as dispatch:
        await dispatch.store_batch(orders(10, 30))
        subscription = await dispatch.add_subscription("billing")
        await subscription.seek(StartPosition.offset(20))
    with pytest.raises(CorruptDataError, match=REFUSED):
        await day(tmp_path / "copy", metadata, orders(10, 40, "new"))


async def test_what_is_settled_behind_holes_is_a_witness_too(tmp_path: Path) -> None:
    metadata, log = MemoryMetadata(), tmp_path / "log"
    async with open_wal(WalConfig(dir=log)) as wal:
        await wal.append_batch(orders(0, 5))
    shutil.copytree(log, tmp_path / "copy")
    async with open_wal(WalConfig(dir=log)) as wal, dispatch_of(wal, metadata) as dispatch:
        await dispatch.store_batch(orders(5, 10))
        subscription = await dispatch.add_subscription("billing")
        async with subscription.consumer("c") as consumer:
            deliveries = await consumer.receive(max_messages=10)
            while len(deliveries) < 10:
                deliveries += await consumer.receive(max_messages=10 - len(deliveries))
            consumer.ack([d for d in deliveries if d.offset not in (0, 3)])
            await subscription.flush()
    cursor = await saved(metadata)
    assert (cursor.end, cursor.edge, [*cursor.holes]) == (0, 10, [0, 3])
    assert cursor.witness is not None
    assert cursor.witness.offset == 9
    with pytest.raises(CorruptDataError, match=REFUSED):
        await day(tmp_path / "copy", metadata, orders(5, 40, "new"))


@pytest.mark.happens
async def test_retention_frees_nothing_that_a_cursor_which_does_not_fit_may_need(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    metadata, log = MemoryMetadata(), tmp_path / "log"
    options = ReliableOptions(retention_policy=RetentionPolicy.RETAIN_UNTIL_ACK)
    config = WalConfig(dir=log, segment_bytes=300)
    async with open_wal(config) as wal:
        await wal.append_batch(orders(0, 50))
    shutil.copytree(log, tmp_path / "copy")
    await day(log, metadata, orders(50, 100))
    shutil.rmtree(log)
    (tmp_path / "copy").rename(log)
    async with open_wal(config) as wal:
        for order in orders(50, 110, "new"):
            await wal.append(order)
        async with dispatch_of(wal, metadata, options) as dispatch:
            other = await dispatch.add_subscription("shipping")
            await handle(other, 110)
            assert await dispatch.apply_retention() == 0
    assert "retention stands still: subscription billing" in caplog.text


async def test_a_fork_keeps_its_cursors_as_far_as_it_goes(tmp_path: Path) -> None:
    metadata, store = MemoryMetadata(), MemoryStore()
    config = WalConfig(dir=tmp_path / "log", topic_name=TOPIC, cloud=CloudConfig())
    async with open_wal(config, store=store) as wal, dispatch_of(wal, metadata) as dispatch:
        await dispatch.store_batch(orders(0, 10))
        await handle(await dispatch.add_subscription("billing"), 8)
        await wal.wait_uploaded(10)
        log_id = wal.log_id
    await restore_log(store, tmp_path / "fork", topic=TOPIC)
    await restore_log(store, tmp_path / "short", topic=TOPIC, until_offset=0)
    assert await day(tmp_path / "fork", metadata, []) == orders(8, 10)
    assert (await saved(metadata)).log not in ("", log_id)
    with pytest.raises(CorruptDataError, match=REFUSED):
        await day(tmp_path / "short", metadata, orders(0, 20, "new"))


async def test_an_older_versions_cursor_opens_and_knows_its_log_from_then_on(
    tmp_path: Path,
) -> None:
    metadata = MemoryMetadata()
    async with open_wal(WalConfig(dir=tmp_path)) as wal:
        await wal.append_batch(orders(0, 10))
        log_id = wal.log_id
    await metadata.put(KEY, CursorState.at(10, owner="old", saves=7).encode())
    assert await day(tmp_path, metadata, []) == []
    cursor = await saved(metadata)
    assert (cursor.log, cursor.saves) == (log_id, 8)
    assert cursor.witness is not None
    assert cursor.witness.offset == 9


async def test_where_the_witness_was_trimmed_the_log_must_have_the_cursors_id(
    tmp_path: Path,
) -> None:
    metadata = MemoryMetadata()
    for name in ("a", "b"):
        async with open_wal(WalConfig(dir=tmp_path / name, segment_bytes=200)) as wal:
            for order in orders(0, 30, name):
                await wal.append(order)
            if name == "a":
                async with dispatch_of(wal, metadata) as dispatch:
                    await handle(await dispatch.add_subscription("billing"), 5)
            assert await wal.trim(20) > 5
    async with open_wal(WalConfig(dir=tmp_path / "a")) as wal, dispatch_of(wal, metadata) as own:
        assert (await own.add_subscription("billing")).end == 5
    state = attrs.evolve(await saved(metadata), end=5, edge=5, witness=Witness(4, 1))
    await metadata.put(KEY, state.encode())
    with pytest.raises(CorruptDataError, match=f"the cursor is of the log {state.log}"):
        await day(tmp_path / "b", metadata, [])


async def test_a_cursor_outlives_no_log_in_memory(tmp_path: Path) -> None:
    metadata = MemoryMetadata()
    for name in ("a", "b"):
        cache = TopicCache(InMemoryStorage())
        dispatch = ReliableDispatch(TOPIC, ReliableOptions(), cache, metadata=metadata)
        async with dispatch:
            await dispatch.store_batch(orders(0, 10, name))
            if name == "a":
                await handle(await dispatch.add_subscription("billing"), 5)
                continue
            with pytest.raises(CorruptDataError, match=REFUSED):
                await dispatch.add_subscription("billing")


def test_a_cursor_that_is_cut_to_fit_still_says_its_log() -> None:
    state = CursorState(
        end=0,
        edge=5000,
        holes=sorted({i * i % 4999 for i in range(300)}),
        log="ab" * 16,
        witness=Witness(4999, 7),
    )
    for limit in (150, 400):
        cut, value = state.fitted(limit)
        assert cut.edge < state.edge
        assert (cut.log, cut.witness) == (state.log, state.witness)
        assert CursorState.decode(value, KEY) == cut


@pytest.mark.parametrize(
    "value",
    [b'"witness":7', b'"witness":[1]', b'"witness":[1,-1]', b'"log":7', b'"witness":["",1]'],
)
def test_a_saved_cursor_with_a_bad_log_or_witness_is_told_as_damage(value: bytes) -> None:
    whole = CursorState.at(7).encode()
    with pytest.raises(CorruptDataError, match="cannot be read"):
        CursorState.decode(whole[:-1] + b"," + value + b"}", KEY)


def test_a_witness_is_the_same_after_a_trip_through_the_log_and_differs_between_messages() -> None:
    message = StreamMessage(b"a", attributes={"b": "1", "a": "2"}, publish_time=5, offset=3)
    again = attrs.evolve(message, attributes={"a": "2", "b": "1"})
    assert Witness.of(message) == Witness.of(again)
    for other in (
        attrs.evolve(message, payload=b"b"),
        attrs.evolve(message, publish_time=6),
        attrs.evolve(message, attributes={}),
        attrs.evolve(message, producer_name="x"),
    ):
        assert Witness.of(other) != Witness.of(message)


# ---- dead letters


async def bury_and_redrive(
    log: Path, letters: Path, metadata: MetadataStore, *poison: bytes, topic: str | None = None
) -> int:
    options = SubscriptionOptions(poison_policy=PoisonPolicy.DEAD_LETTER, dead_letter_topic=topic)
    async with (
        open_wal(WalConfig(dir=log)) as wal,
        open_wal(WalConfig(dir=letters)) as dead,
        ReliableDispatch.new_with_persistent(
            TOPIC,
            ReliableOptions(),
            None,
            WalStorage.from_wal(wal),
            metadata=metadata,
            dead_letter_storage=WalStorage.from_wal(dead),
        ) as dispatch,
    ):
        subscription = await dispatch.add_subscription("billing", options)
        for payload in poison:
            await dispatch.store_message(payload)
            async with subscription.take() as message:
                message.reject("it is poison")
            await subscription.wait_settled()
        count = await subscription.redrive()
        await handle(subscription, count)
        return count


@pytest.mark.parametrize("poison", [1, 3, 5])
async def test_letters_of_a_log_that_was_restored_are_brought_back(
    poison: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Rather twice than never."""
    metadata, log, letters = MemoryMetadata(), tmp_path / "log", tmp_path / "letters"
    assert await bury_and_redrive(log, letters, metadata, b"a") == 1
    shutil.copytree(letters, tmp_path / "copy")
    assert await bury_and_redrive(log, letters, metadata, b"b", b"c") == 2
    assert await bury_and_redrive(log, letters, metadata) == 0
    shutil.rmtree(letters)
    (tmp_path / "copy").rename(letters)
    assert not caplog.records
    payloads = [b"new %d" % i for i in range(poison)]
    assert await bury_and_redrive(log, letters, metadata, *payloads) == 1 + poison
    assert "are not those" in caplog.text
    assert await bury_and_redrive(log, letters, metadata) == 0


async def test_the_letters_of_another_topic_are_brought_back_from_their_first(
    tmp_path: Path,
) -> None:
    metadata, log = MemoryMetadata(), tmp_path / "log"
    assert await bury_and_redrive(log, tmp_path / "a", metadata, b"a", b"b") == 2
    other = tmp_path / "b"
    assert await bury_and_redrive(log, other, metadata, b"c", topic="/default/other") == 1


async def test_an_offset_that_an_older_version_saved_is_where_redriving_goes_on(
    tmp_path: Path,
) -> None:
    metadata, log, letters = MemoryMetadata(), tmp_path / "log", tmp_path / "letters"
    assert await bury_and_redrive(log, letters, metadata, b"a", b"b") == 2
    key = KEY.replace("danube-trio", "redriven")
    entry = await metadata.get(key)
    assert entry is not None
    assert json.loads(entry.value)["offset"] == 2
    await metadata.put(key, b"1")
    assert await bury_and_redrive(log, letters, metadata) == 1
    for bad in (b"", b"x", b"[]", b"{}", b'{"offset":-1}', b'{"offset":1,"topic":2}'):
        await metadata.put(key, bad)
        with pytest.raises(CorruptDataError, match="dead letters"):
            await bury_and_redrive(log, letters, metadata)
