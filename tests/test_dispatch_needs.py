"""Who still needs what: retention, with several dispatches of one topic, here and elsewhere."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from topics import (
    CURSOR,
    DANUBE_CURSOR,
    TOPIC,
    UNTIL_ACK,
    Metadata,
    fill,
    settle,
    settle_and_save,
)
from trio.testing import MockClock

from danube_trio import StartPosition, StorageConfig, Wal, WalConfig, WalStorage, open_wal
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
from danube_trio.dispatch._cursor import CursorState
from danube_trio.errors import CorruptDataError, OffsetTrimmedError, StoreUnavailableError
from danube_trio.metadata import MemoryMetadata, Revised
from danube_trio.storage import PersistentStorage, open_storage
from danube_trio.testing import SimDisk

Make = Callable[..., ReliableDispatch]
CONFIG = WalConfig(dir="/log", segment_bytes=1 << 20)


class Asked(Metadata):
    """A metadata store that counts, and calls somebody at the given moment.

    Attributes:
        lists, gets: how many were asked for.
        listed: called when a list is ready, before it is handed out.
        saving: called before each transaction.
    """

    lists = gets = 0
    listed: Callable[[], Any] | None = None
    saving: Callable[[], Any] | None = None

    async def list_entries(self, prefix: str) -> list[Revised]:
        found = await super().list_entries(prefix)
        self.lists += 1
        hook, self.listed = self.listed, None
        if hook is not None:
            await hook()
        return found

    async def get(self, key: str) -> Revised | None:
        self.gets += 1
        return await super().get(key)

    async def transact(self, *args: Any, **settings: Any) -> int | None:
        hook, self.saving = self.saving, None
        if hook is not None:
            await hook()
        return await super().transact(*args, **settings)


class Elsewhere:
    """A storage that only reaches the log: as a client of the program that has it open."""

    def __init__(self, inner: PersistentStorage) -> None:
        self.append_message = inner.append_message
        self.append_batch = inner.append_batch
        self.create_reader = inner.create_reader
        self.ack_checkpoint = inner.ack_checkpoint
        self.flush = inner.flush
        self.start_offset = inner.start_offset
        self.current_offset = inner.current_offset


def over(
    storage: PersistentStorage,
    metadata: MemoryMetadata | None,
    options: ReliableOptions = UNTIL_ACK,
    **settings: Any,
) -> ReliableDispatch:
    return ReliableDispatch.new_with_persistent(
        TOPIC, options, None, storage, metadata=metadata, **settings
    )


@asynccontextmanager
async def a_log() -> AsyncGenerator[WalStorage]:
    async with open_wal(CONFIG, disk=SimDisk()) as wal:
        yield WalStorage.from_wal(wal)


@pytest.fixture(params=["wal", "storage", "segments", "no metadata"])
async def make(request: pytest.FixtureRequest) -> AsyncGenerator[Make]:
    """Makes dispatches of one topic."""
    metadata = None if request.param == "no metadata" else MemoryMetadata()
    if request.param == "segments":
        cache = TopicCache(InMemoryStorage())
        yield lambda: ReliableDispatch(TOPIC, UNTIL_ACK, cache, metadata=metadata)
    elif request.param == "storage":
        config = StorageConfig(dir="/data", wal=attrs.evolve(CONFIG, dir=None))
        async with open_storage(config, disk=SimDisk()) as storage:
            yield lambda: over(storage, None)
    else:
        async with open_wal(CONFIG, disk=SimDisk()) as wal:
            yield lambda: over(WalStorage.from_wal(wal, TOPIC), metadata)


# ---- several dispatches in one program


@pytest.mark.happens
async def test_retention_of_one_dispatch_leaves_what_a_subscription_of_another_needs(
    make: Make, autojump_clock: MockClock
) -> None:
    async with make() as one, make() as other:
        audit = await other.add_subscription("audit")
        await fill(one, 40)
        await settle_and_save(one, "billing", 40)
        await trio.sleep(100)
        assert await one.apply_retention() == 0
        assert await settle(audit, 25) == list(range(25))
        await audit.flush()
        await trio.sleep(100)
        assert 10 < await one.topic_store.start_offset() <= 25
        assert await settle(audit, 15) == list(range(25, 40))
        assert (await audit.statistics()).lost == 0


@pytest.mark.happens
async def test_a_subscription_that_nobody_takes_from_holds_what_it_needs(make: Make) -> None:
    async with make() as one:
        await fill(one, 40)
        async with make() as other:
            await other.add_subscription("audit")
            await settle_and_save(one, "billing", 40)
            assert await one.apply_retention() == 0
            assert await other.apply_retention() == 0
            assert await other.remove_subscription("audit")
        assert await one.apply_retention() > 25


@pytest.mark.happens
@pytest.mark.parametrize("how", ["reader", "latest"])
async def test_a_reader_of_another_dispatch_keeps_what_it_has_not_read(
    make: Make, how: str
) -> None:
    async with make() as one, make() as other:
        reader = await (
            other.create_stream_latest()
            if how == "latest"
            else other.topic_store.create_reader(StartPosition.earliest())
        )
        await fill(one, 40)
        await settle_and_save(one, "billing", 40)
        assert await one.apply_retention() == 0
        assert [(await anext(reader)).offset for _ in range(20)] == list(range(20))
        assert 0 < await one.apply_retention() <= 20
        await reader.aclose()
        assert await one.apply_retention() > 25


async def test_a_reader_outlives_its_dispatch_and_keeps_what_it_has_not_read() -> None:
    async with a_log() as storage:
        metadata = MemoryMetadata()
        async with over(storage, metadata) as gone:
            reader = await gone.create_stream_latest()
        async with over(storage, metadata) as dispatch:
            await fill(dispatch, 40)
            await settle_and_save(dispatch, "billing", 40)
            assert await dispatch.apply_retention() == 0
            assert (await anext(reader)).offset == 0
            await reader.aclose()


async def test_a_reader_at_its_end_holds_nothing(make: Make) -> None:
    async with make() as dispatch:
        await fill(dispatch, 2)
        reader = await dispatch.topic_store.create_reader(end="current")
        assert [message.offset async for message in reader] == [0, 1]
        await fill(dispatch, 38)
        await settle_and_save(dispatch, "billing", 40)
        assert await dispatch.apply_retention() > 25
        await reader.aclose()


@pytest.mark.happens
async def test_a_reader_of_the_log_itself_holds_nothing_and_is_told() -> None:
    async with a_log() as storage, over(storage, None) as dispatch:
        await fill(dispatch, 40)
        reader = await storage.create_reader(TOPIC, StartPosition.earliest())
        plain = storage.wal.reader(StartPosition.earliest())
        await settle_and_save(dispatch, "billing", 40)
        assert await dispatch.apply_retention() > 25
        for overtaken in (reader, plain):
            with pytest.raises(OffsetTrimmedError):
                await overtaken.next_batch()
            await overtaken.aclose()


@pytest.mark.happens
async def test_what_keeps_holds_nothing_against_another_dispatch() -> None:
    metadata = MemoryMetadata()
    async with a_log() as storage:
        keep = ReliableOptions(retention_policy=RetentionPolicy.KEEP)
        async with over(storage, metadata, keep) as keeping, over(storage, metadata) as freeing:
            await fill(keeping, 40)
            await settle_and_save(keeping, "billing", 40)
            assert await keeping.apply_retention() == 0
            assert await freeing.apply_retention() > 25


@pytest.mark.parametrize("when", ["before", "between", "after"])
async def test_a_seek_of_one_dispatch_and_a_round_of_another_agree(when: str) -> None:
    """Between asking what is needed and freeing: the round asks again."""
    metadata = Asked()
    async with a_log() as storage, over(storage, metadata) as one, over(storage, metadata) as other:
        await fill(one, 40)
        audit = await settle_and_save(other, "audit", 40)

        async def seek() -> None:
            assert await audit.seek(StartPosition.offset(5)) == 5

        if when == "before":
            await seek()
        elif when == "between":
            metadata.listed = seek
        start = await one.apply_retention()
        if when == "after":
            assert start > 25
            with pytest.raises(OffsetTrimmedError):
                await seek()
            assert audit.end == 40
        else:
            assert start == 0
            assert await settle(audit, 35) == list(range(5, 40))


@pytest.mark.happens
async def test_what_was_moved_back_and_is_not_saved_yet_is_held() -> None:
    metadata = Metadata()
    async with a_log() as storage, over(storage, metadata) as one, over(storage, metadata) as other:
        await fill(one, 40)
        audit = await settle_and_save(other, "audit", 40)
        metadata.down = True
        with pytest.raises(StoreUnavailableError):
            await audit.seek(StartPosition.earliest())
        assert await one.apply_retention() == 0
        metadata.down = False
        assert await settle(audit, 40) == list(range(40))
        await audit.flush()
        assert await one.apply_retention() > 25


async def test_a_save_that_is_under_way_when_it_is_moved_back_frees_nothing(
    autojump_clock: MockClock,
) -> None:
    """What that save says is more than what the subscription needs by then."""
    metadata = Asked()
    async with (
        a_log() as storage,
        over(storage, metadata) as dispatch,
        trio.open_nursery() as nursery,
    ):
        await fill(dispatch, 40)
        audit = await dispatch.add_subscription("audit")
        stored = trio.Event()
        held = trio.Event()

        async def answer_late(*args: Any, **settings: Any) -> int | None:
            revision = await Metadata.transact(metadata, *args, **settings)
            stored.set()
            await held.wait()
            return revision

        await settle(audit, 40)
        metadata.transact = answer_late  # type: ignore[method-assign]
        nursery.start_soon(audit.flush)
        await stored.wait()
        del metadata.transact
        nursery.start_soon(audit.seek, StartPosition.offset(5))
        await trio.testing.wait_all_tasks_blocked()
        assert audit.end == 5
        assert await dispatch.apply_retention() == 0
        held.set()
        await trio.testing.wait_all_tasks_blocked()
        assert audit.saved_end == 5
        assert await dispatch.apply_retention() == 0


async def test_a_metadata_store_that_hangs_keeps_no_reader_waiting(
    autojump_clock: MockClock,
) -> None:
    metadata = Asked()
    async with a_log() as storage, over(storage, metadata) as dispatch:
        await fill(dispatch, 3)
        metadata.listed = trio.sleep_forever
        with trio.move_on_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(dispatch.apply_retention)
                await trio.testing.wait_all_tasks_blocked()
                async with await dispatch.topic_store.create_reader(end="current") as reader:
                    assert [message.offset async for message in reader] == [0, 1, 2]
                nursery.cancel_scope.cancel()


@pytest.mark.happens
async def test_while_the_metadata_store_does_not_answer_nothing_is_freed(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    metadata = Asked()
    async with a_log() as storage, over(storage, metadata) as dispatch:
        await fill(dispatch, 40)
        await settle_and_save(dispatch, "billing", 40)

        async def refuse() -> None:
            metadata.listed = refuse
            raise StoreUnavailableError("the metadata store is out of reach")

        metadata.listed = refuse
        await trio.sleep(100)
        with pytest.raises(StoreUnavailableError):
            await dispatch.apply_retention()
        assert await dispatch.topic_store.start_offset() == 0
        assert caplog.text.count("failed, and is tried again") == 1
        metadata.listed = None
        await trio.sleep(20)
        assert await dispatch.topic_store.start_offset() > 25


async def test_a_round_asks_the_metadata_store_once_however_many_there_are() -> None:
    metadata = Asked()
    async with a_log() as storage, over(storage, metadata) as one, over(storage, metadata) as other:
        await fill(one, 40)
        for number in range(20):
            await settle_and_save(one if number % 2 else other, f"s{number}", 30)
        metadata.lists = metadata.gets = 0
        assert 0 < await one.apply_retention() <= 30
        assert (metadata.lists, metadata.gets) == (1, 0)


# ---- several programs, which share a metadata store


@asynccontextmanager
async def two_programs(metadata: MemoryMetadata) -> AsyncGenerator[list[ReliableDispatch]]:
    """Two dispatches that know each other only by the metadata store."""
    async with a_log() as storage, over(storage, metadata) as here:
        await fill(here, 40)
        async with over(Elsewhere(storage), metadata, ReliableOptions()) as there:
            yield [here, there]


@pytest.mark.happens
async def test_a_subscription_that_another_program_added_holds_what_it_needs() -> None:
    async with two_programs(MemoryMetadata()) as (here, there):
        await settle_and_save(here, "billing", 40)
        audit = await there.add_subscription("audit")
        assert await here.apply_retention() == 0
        assert here.subscriptions()["audit"] is None
        await settle(audit, 25)
        await audit.flush()
        assert 10 < await here.apply_retention() <= 25
        assert await settle(audit, 15) == list(range(25, 40))


@pytest.mark.happens
async def test_a_subscription_that_another_program_removed_holds_nothing(
    autojump_clock: MockClock,
) -> None:
    async with two_programs(MemoryMetadata()) as (here, there):
        await here.add_subscription("audit")  # open here, and taken by nobody
        await settle_and_save(here, "billing", 40)
        await trio.sleep(100)
        assert await here.topic_store.start_offset() == 0
        assert await there.remove_subscription("audit")
        await trio.sleep(100)
        assert await here.topic_store.start_offset() > 25


async def test_a_subscription_that_another_program_took_over_holds_what_that_one_needs() -> None:
    async with two_programs(MemoryMetadata()) as (here, there):
        await here.add_subscription("audit")
        await settle_and_save(here, "billing", 40)
        await settle_and_save(there, "audit", 40)
        assert await here.apply_retention() > 25


async def test_where_another_program_moved_back_to_is_held() -> None:
    async with two_programs(MemoryMetadata()) as (here, there):
        audit = await settle_and_save(there, "audit", 40)
        await settle_and_save(here, "billing", 40)
        assert await audit.seek(StartPosition.earliest()) == 0
        assert await here.apply_retention() == 0
        assert await settle(audit, 40) == list(range(40))


@pytest.mark.happens
async def test_who_moves_back_to_what_another_program_is_freeing_is_told() -> None:
    metadata = Asked()
    async with two_programs(metadata) as (here, there):
        audit = await settle_and_save(there, "audit", 40)
        metadata.saving = here.apply_retention
        with pytest.raises(OffsetTrimmedError) as caught:
            await audit.seek(StartPosition.offset(5))
        start = await here.topic_store.start_offset()
        assert caught.value.start_offset == start > 25
        found = await settle(audit, 1)
        while found[-1] != 39:
            found += await settle(audit, 1)
        assert found == list(range(found[0], 40)), "it may have read some before they went"
        assert 5 <= found[0] <= start


@pytest.mark.happens
async def test_a_metadata_store_that_was_put_back_gives_revisions_again_and_is_believed() -> None:
    class PutBack(MemoryMetadata):
        async def list_entries(self, prefix: str) -> list[Revised]:
            found = await super().list_entries(prefix)
            return [attrs.evolve(entry, revision=1) for entry in found]

    metadata = PutBack()
    async with a_log() as storage, over(storage, metadata) as dispatch:
        await fill(dispatch, 40)
        await metadata.put(CURSOR, CursorState.at(35).encode())
        audit = await dispatch.add_subscription("audit")
        assert await dispatch.apply_retention() == 0
        await settle(audit, 40)
        await audit.flush()
        await metadata.put(CURSOR, CursorState.at(15).encode())
        assert 0 < await dispatch.apply_retention() <= 15


@pytest.mark.parametrize("what", ["readable", "damaged", "Danube's", "Danube's, damaged"])
async def test_a_subscription_that_only_the_store_knows_can_be_removed(
    what: str, caplog: pytest.LogCaptureFixture
) -> None:
    metadata = MemoryMetadata()
    async with a_log() as storage, over(storage, metadata) as dispatch:
        await fill(dispatch, 40)
        await settle_and_save(dispatch, "fast", 40)
        key = DANUBE_CURSOR if "Danube" in what else CURSOR
        value = {
            "readable": CursorState.at(5).encode(),
            "damaged": b"{",
            "Danube's": b"4",
            "Danube's, damaged": b"four",
        }[what]
        await metadata.put(key, value)
        for _ in range(3):
            assert await dispatch.apply_retention() == 0
        assert caplog.text.count("retention stands still") == ("damaged" in what)
        assert await dispatch.remove_subscription("billing")
        assert await metadata.list_entries(CURSOR.rpartition("/")[0] + "/") == []
        assert await dispatch.apply_retention() > 25
        assert not await dispatch.remove_subscription("billing")


@pytest.mark.parametrize("told", [False, True], ids=["at the old place", "moves meanwhile"])
async def test_a_cursor_that_moves_to_the_storages_root_is_never_missed(told: bool) -> None:
    metadata = Asked()
    root = "/prod"
    async with a_log() as storage, over(storage, metadata, metadata_root=root) as dispatch:
        await fill(dispatch, 40)
        await settle_and_save(dispatch, "fast", 40)
        await metadata.put(DANUBE_CURSOR, b"4")

        async def move() -> None:
            there = over(Elsewhere(storage), metadata, metadata_root=root)
            async with there:
                await there.add_subscription("billing")

        if told:
            metadata.listed = move
        assert await dispatch.apply_retention() == 0


async def test_a_cursor_at_the_old_place_that_cannot_be_read_holds_all_and_is_left_alone() -> None:
    metadata = MemoryMetadata()
    async with a_log() as storage, over(storage, metadata, metadata_root="/prod") as dispatch:
        await fill(dispatch, 40)
        await settle_and_save(dispatch, "fast", 40)
        await metadata.put(CURSOR, b"{")
        assert await dispatch.apply_retention() == 0
        with pytest.raises(CorruptDataError, match=CURSOR):
            await dispatch.remove_subscription("billing")
        assert await metadata.get(CURSOR) is not None


async def test_a_large_cursor_of_another_program_is_compared_like_any_other() -> None:
    metadata = MemoryMetadata()
    async with a_log() as storage, over(storage, metadata) as dispatch:
        await fill(dispatch, 40)
        await settle_and_save(dispatch, "fast", 40)
        value = CursorState(end=30, edge=31, holes=[30], owner="x" * 100_000).encode()
        await metadata.put(CURSOR, value)
        assert 10 < await dispatch.apply_retention() <= 30


async def test_a_first_save_whose_answer_was_lost_is_no_doubt_once_it_is_seen() -> None:
    metadata = Metadata()
    async with two_programs(metadata) as (here, there):
        await settle_and_save(here, "billing", 40)
        metadata.lost_answers = 1
        with pytest.raises(StoreUnavailableError):
            await here.add_subscription("audit")
        assert await here.apply_retention() == 0
        await settle_and_save(there, "audit", 40)
        assert await here.apply_retention() > 25


# ---- a log that was handed in


@pytest.mark.happens
@pytest.mark.parametrize("what", ["wal", "storage"])
@pytest.mark.parametrize("policy", [None, RetentionPolicy.KEEP], ids=["default", "KEEP"])
async def test_nothing_of_a_log_that_was_handed_in_is_freed_unless_that_was_said(
    what: str, policy: RetentionPolicy | None, autojump_clock: MockClock
) -> None:
    options = ReliableOptions(1, policy)
    config = StorageConfig(dir="/data", wal=attrs.evolve(CONFIG, dir=None))
    async with open_storage(config, disk=SimDisk()) as many, a_log() as one:
        storage = one if what == "wal" else many
        async with over(storage, None, options) as dispatch:
            await fill(dispatch, 40)
            await settle_and_save(dispatch, "billing", 40)
            await trio.sleep(1000)
            assert await dispatch.apply_retention() == 0
            assert await storage.start_offset(TOPIC) == 0


@pytest.mark.happens
async def test_that_a_log_which_was_handed_in_is_freed_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "danube_trio.dispatch")
    async with a_log() as storage, over(storage, None) as dispatch:
        await fill(dispatch, 20)
        await settle_and_save(dispatch, "billing", 5)
        assert await dispatch.apply_retention() == 0
        assert "frees" not in caplog.text
        for _ in range(2):
            await fill(dispatch, 20)
            await settle_and_save(dispatch, "billing", 15)
            assert await dispatch.apply_retention() > 0
    (record,) = [record for record in caplog.records if "frees" in record.message]
    assert record.levelno == logging.INFO
    assert f"retention of {TOPIC} (RETAIN_UNTIL_ACK)" in record.message


async def test_the_segments_of_a_dispatchs_own_are_freed_by_default() -> None:
    cache = TopicCache(InMemoryStorage())
    async with ReliableDispatch(TOPIC, ReliableOptions(1), cache) as dispatch:
        await fill(dispatch, 40)
        await settle_and_save(dispatch, "billing", 40)
        assert await dispatch.apply_retention() > 25


# ---- dead letters


@pytest.mark.happens
@pytest.mark.parametrize("period", [None, 600.0])
async def test_dead_letters_that_are_older_than_their_period_go(
    period: float | None, tmp_path: Path, autojump_clock: MockClock
) -> None:
    def clock() -> float:
        return 1e9 + trio.current_time()

    options = SubscriptionOptions(
        poison_policy=PoisonPolicy.DEAD_LETTER, max_redeliveries=0, dead_letter_period=period
    )

    async def bury(subscription: Subscription, count: int) -> None:
        end = subscription.end + count
        for _ in range(count):
            async with subscription.take() as message:
                message.reject("no")
        await subscription.wait_settled(end)

    dead_config = attrs.evolve(CONFIG, dir="/dead")
    async with open_wal(dead_config, disk=SimDisk(), clock=clock) as dead, a_log() as storage:
        letters: Wal = dead
        dispatch = over(
            storage,
            None,
            ReliableOptions(),
            dead_letter_storage=WalStorage.from_wal(letters),
            clock=clock,
        )
        async with dispatch:
            await fill(dispatch, 50)
            billing = await dispatch.add_subscription("billing", options)
            await bury(billing, 25)
            await trio.sleep(500)
            await bury(billing, 15)
            assert letters.start_offset == 0
            await trio.sleep(200)
            start = letters.start_offset
            assert start == 0 if period is None else 10 < start <= 25
            assert await billing.redrive() == 40 - start
            assert await storage.start_offset(TOPIC) == 0
