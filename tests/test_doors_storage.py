"""Storages of many topics through every door; see `doors` and `test_doors`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import trio
from doors import DOORS, Door, GatedDisk, Seen, end_child

from danube_trio import (
    LogBrokenError,
    LogClosedError,
    StartPosition,
    StorageConfig,
    StreamMessage,
    UnexpectedOffsetError,
    WalConfig,
)
from danube_trio.testing import SimDisk

ORDERS, PAYMENTS = "/default/orders", "/default/payments"
ALL = list(DOORS)
HERE = [name for name in ALL if not DOORS[name].elsewhere]
through_every_door = pytest.mark.parametrize("name", ALL)
through_doors_of_this_process = pytest.mark.parametrize("name", HERE)
through_doors_that_cancel = pytest.mark.parametrize("name", [n for n in HERE if DOORS[n].cancels])


@pytest.fixture(scope="module", autouse=True)
def _child() -> Iterator[None]:
    yield
    end_child()


async def everything(door: Door, storage: Any, topic: str) -> list[Seen]:
    """All of a topic, read as the door reads."""
    if door.elsewhere:
        return await door.read(None, f"{storage.config.dir}{topic}", end="current")
    reader = await storage.create_reader(topic, StartPosition.earliest(), end="current")
    return [Seen(m.offset, m.payload, m.attributes) async for m in reader]


@through_every_door
def test_topics_have_logs_of_their_own_and_are_there_after_a_restart(
    name: str, tmp_path: Path
) -> None:
    async def scenario(door: Door) -> None:
        config = StorageConfig(dir=str(tmp_path))
        async with door.open("open_storage", config) as storage:
            assert await storage.append_message(ORDERS, b"o0") == 0
            assert await storage.append_message("default/payments", bytearray(b"p0")) == 0
            message = StreamMessage(b"o1", attributes={"a": "b"})
            assert await storage.append_message(ORDERS, message, expected_offset=1) == 1
            batch = await storage.append_batch(ORDERS, (b"%d" % i for i in range(3)))
            assert batch == range(2, 5)
            await storage.flush(PAYMENTS)
            with pytest.raises(UnexpectedOffsetError):
                await storage.append_message(ORDERS, b"x", expected_offset=1)
        async with door.open("open_storage", config) as storage:
            orders = await everything(door, storage, ORDERS)
            assert [s.payload for s in orders] == [b"o0", b"o1", b"0", b"1", b"2"]
            assert orders[1].attributes == {"a": "b"}
            assert [s.payload for s in await everything(door, storage, PAYMENTS)] == [b"p0"]
            assert await storage.list_topics() == [ORDERS, PAYMENTS]
            assert await storage.current_offset(ORDERS) == 5
            assert await storage.append_message(PAYMENTS, b"p1") == 1
            assert [s.offset for s in await everything(door, storage, PAYMENTS)] == [0, 1]

    DOORS[name].run(scenario)


@through_doors_of_this_process
def test_a_topics_block_gives_all_that_a_log_can_do(name: str, tmp_path: Path) -> None:
    async def scenario(door: Door) -> None:
        config = StorageConfig(dir=str(tmp_path), max_open_topics=1)
        async with door.open("open_storage", config) as storage:
            async with storage.topic(ORDERS) as wal, storage.topic(ORDERS) as same:
                receipt = wal.append_nowait(b"a")
                assert await receipt.durable() == range(1)
                assert await same.append(b"b") == 1
                assert await wal.append_batch([b"c"], durability="written") == range(2, 3)
                await wal.flush()
                reader = wal.reader(end="current")
                assert [m.payload async for m in reader] == [b"a", b"b", b"c"]
                assert wal.statistics().appended_records == 3
                assert storage.topic_statistics(ORDERS).appended_records == 3
                assert storage.topic_statistics(PAYMENTS) is None
                assert storage.statistics().pinned_topics == 1
            assert await wal.append(b"d") == 3, "still open, and nobody needs the room"
            assert storage.statistics().pinned_topics == 0
            await storage.append_message(PAYMENTS, b"takes the room")
            with pytest.raises(LogClosedError):
                await wal.append(b"late")
            assert await storage.append_message(ORDERS, b"e") == 4

    DOORS[name].run(scenario)


@through_doors_of_this_process
def test_what_a_storage_refuses(name: str, tmp_path: Path) -> None:
    async def scenario(door: Door) -> None:
        async with door.open("open_storage", StorageConfig(dir=str(tmp_path))) as storage:
            for bad in ("orders", "/a/b/c", "/a/.."):
                with pytest.raises(ValueError, match="topic="):
                    await storage.append_message(bad, b"x")
                with pytest.raises(ValueError, match="topic="):
                    storage.topic(bad)
            with pytest.raises(ValueError, match="needs an object store"):
                await storage.seal(ORDERS)
            async with storage.topic(ORDERS):
                with pytest.raises(trio.BusyResourceError, match="in use here"):
                    await storage.delete(ORDERS)
            await storage.append_message(ORDERS, b"x")
            assert await storage.delete(ORDERS) is True
            assert await storage.list_topics() == []
            assert await storage.append_message(ORDERS, b"y") == 1, "offsets are not given again"
            assert await storage.delete(ORDERS, for_good=True) is True
            assert not list(tmp_path.glob("*/orders*"))
        with pytest.raises(LogClosedError, match="open it again"):
            await storage.append_message(ORDERS, b"late")
        assert storage.statistics().open_topics == 0

    DOORS[name].run(scenario)


@through_doors_of_this_process
def test_an_exception_in_a_topics_block_gives_the_topic_back(name: str, tmp_path: Path) -> None:
    async def scenario(door: Door) -> None:
        async with door.open("open_storage", StorageConfig(dir=str(tmp_path))) as storage:
            for _ in range(3):
                with pytest.raises(ZeroDivisionError):
                    async with storage.topic(ORDERS):
                        raise ZeroDivisionError
            assert storage.statistics().pinned_topics == 0
            assert await storage.append_message(ORDERS, b"x") == 0

    DOORS[name].run(scenario)


@through_doors_of_this_process
def test_a_topic_moves_between_storages_and_is_restored_from_the_store(
    name: str, tmp_path: Path
) -> None:
    async def scenario(door: Door) -> None:
        first, second = (StorageConfig(dir=str(tmp_path / part)) for part in ("a", "b"))
        async with (
            door.open("open_store", "memory:") as store,
            door.open("open_storage", first, store=store) as here,
            door.open("open_storage", second, store=store) as there,
        ):
            await here.append_message(ORDERS, b"0", durability="uploaded")
            assert await here.seal(ORDERS) == 1
            assert await there.append_message(ORDERS, b"1") == 1
            assert [s.payload for s in await everything(door, there, ORDERS)] == [b"0", b"1"]
            assert await there.seal(ORDERS) == 2
            await here.take_over(ORDERS)
            assert await here.current_offset(ORDERS) == 2
            done: list[int] = []
            restored = await door.call(
                "restore_log", store, tmp_path / "c", topic=ORDERS, progress=done.append
            )
            assert (restored.start_offset, restored.end_offset) == (0, 2)
            assert sum(done) == restored.size_bytes
        async with door.open_wal(WalConfig(dir=str(tmp_path / "c"))) as wal:
            assert [s.payload for s in await door.read(wal, end="current")] == [b"0", b"1"]

    DOORS[name].run(scenario)


@through_doors_of_this_process
def test_a_log_of_ones_own_behind_the_same_interface(name: str, tmp_path: Path) -> None:
    async def scenario(door: Door) -> None:
        config = WalConfig(dir=str(tmp_path), topic_name=ORDERS)
        async with door.open_wal(config) as wal:
            storage = door.wal_storage(wal)
            assert await storage.append_message(ORDERS, b"a") == 0
            assert await storage.append_batch("default/orders", [b"b", b"c"]) == range(1, 3)
            reader = await storage.create_reader(ORDERS, StartPosition.offset(1), end="current")
            assert [m.payload async for m in reader] == [b"b", b"c"]
            await storage.flush(ORDERS)
            await storage.ack_checkpoint(ORDERS, 2)
            assert await storage.start_offset(ORDERS) == 0
            assert await storage.current_offset(ORDERS) == 3
            with pytest.raises(ValueError, match=f"'{PAYMENTS}'.*'{ORDERS}'"):
                await storage.append_message(PAYMENTS, b"x")
            with pytest.raises(ValueError, match=f"'{PAYMENTS}'.*'{ORDERS}'"):
                await storage.current_offset(PAYMENTS)
            with pytest.raises(ValueError, match=f"'{PAYMENTS}'.*'{ORDERS}'"):
                door.wal_storage(wal, PAYMENTS)
            assert wal.next_offset == 3

    DOORS[name].run(scenario)


@through_doors_of_this_process
def test_leaving_a_storage_raises_when_nobody_was_told(name: str) -> None:
    async def scenario(door: Door) -> None:
        for body in (None, ZeroDivisionError()):
            disk = SimDisk()
            config = StorageConfig(dir="/topics")
            with pytest.raises((LogBrokenError, ZeroDivisionError)) as caught:
                async with door.open("open_storage", config, disk=disk) as storage:
                    await storage.append_message(ORDERS, b"kept")
                    disk.fail("write", path_contains="orders")
                    await storage.append_message(ORDERS, b"lost", durability="accepted")
                    if body is not None:
                        raise body
            if body is None:
                assert isinstance(caught.value, LogBrokenError)
            else:
                assert caught.value is body
                assert "may be lost" in body.__notes__[0]
            async with door.open("open_storage", config, disk=disk) as storage:
                found = [s.payload for s in await everything(door, storage, ORDERS)]
                assert found == [b"kept"]

    DOORS[name].run(scenario)


@through_doors_that_cancel
def test_a_cancelled_append_to_a_topic_never_appears(name: str, tmp_path: Path) -> None:
    async def scenario(door: Door) -> None:
        config = StorageConfig(dir=str(tmp_path))
        appended: list[int] = []

        async def one(number: int, scope: anyio.CancelScope) -> None:
            with scope:
                await storage.append_message((ORDERS, PAYMENTS)[number % 2], b"%d" % number)
                appended.append(number)

        async with door.open("open_storage", config) as storage:
            async with anyio.create_task_group() as tasks:
                for number in range(100):
                    scope = anyio.CancelScope()
                    tasks.start_soon(one, number, scope)
                    for _ in range(number % 5):
                        await anyio.lowlevel.checkpoint()
                    scope.cancel()
        async with door.open("open_storage", config) as storage:
            seen = [s for t in (ORDERS, PAYMENTS) for s in await everything(door, storage, t)]
            assert sorted(int(s.payload) for s in seen) == sorted(appended)
            assert storage.statistics().pinned_topics == 0

    DOORS[name].run(scenario)


@through_doors_that_cancel
def test_whoever_waits_for_a_topic_can_be_cancelled(name: str, tmp_path: Path) -> None:
    async def scenario(door: Door) -> None:
        disk = GatedDisk()
        async with door.open(
            "open_storage", StorageConfig(dir=str(tmp_path)), disk=disk
        ) as storage:
            disk.gate.clear()
            try:
                for _ in range(3):
                    with anyio.move_on_after(0.01) as scope:
                        async with storage.topic(ORDERS):
                            raise AssertionError("it cannot be open")
                    assert scope.cancelled_caught
            finally:
                disk.gate.set()
            assert await storage.append_message(ORDERS, b"x") == 0
            assert storage.statistics().pinned_topics == 0

    DOORS[name].run(scenario)
