"""One suite for every way into the engine; see `doors`."""

from __future__ import annotations

import errno
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import trio
from doors import DOORS, Door, GatedDisk, end_child

from danube_trio import (
    CorruptDataError,
    LogBrokenError,
    LogClosedError,
    LogLockedError,
    MessageTooLargeError,
    OffsetTrimmedError,
    StartPosition,
    StorageConfig,
    StreamMessage,
    UnexpectedOffsetError,
    WalConfig,
)
from danube_trio._disk.real import RealDisk
from danube_trio._engine.files.segments import fetch_block
from danube_trio.cloud import MemoryStore
from danube_trio.testing import SimDisk

ALL = list(DOORS)
HERE = [name for name in ALL if not DOORS[name].elsewhere]  # where reading elsewhere adds nothing
CANCELLING = [name for name in HERE if DOORS[name].cancels]


@pytest.fixture(scope="module", autouse=True)
def _child() -> Iterator[None]:
    yield
    end_child()


TOPIC = "/default/orders"
Scenario = Callable[..., Awaitable[None]]
through_every_door = pytest.mark.parametrize("name", ALL)
through_doors_of_this_process = pytest.mark.parametrize("name", HERE)
through_doors_that_cancel = pytest.mark.parametrize("name", CANCELLING)


def small(path: Path, **more: Any) -> WalConfig:
    settings: dict[str, Any] = {"segment_bytes": 2000, "cache_capacity": 10}
    settings |= {"read_block_bytes": 700, "preallocate_bytes": 0}
    return WalConfig(dir=str(path), **{**settings, **more})


async def fill(wal: Any, count: int) -> None:
    for i in range(wal.next_offset, wal.next_offset + count):
        await wal.append(b"%d" % i * 20)


@through_every_door
def test_what_is_appended_is_read_back_as_it_was(name: str, tmp_path: Path) -> None:
    async def scenario(door: Door) -> None:
        config = WalConfig(dir=str(tmp_path))
        async with door.open_wal(config) as wal:
            assert await wal.append(b"plain") == 0
            assert await wal.append(b"dressed", attributes={"a": "b"}, routing_key="eu") == 1
            assert await wal.append_batch([b"one", bytearray(b"two")]) == range(2, 4)
            assert await wal.append(StreamMessage(payload=b"whole", producer_name="p")) == 4
            assert await wal.append_batch([]) == range(5, 5)
            assert (wal.next_offset, wal.durable_end, wal.start_offset) == (5, 5, 0)
            assert wal.codec == config.codec
        async with door.open_wal(config) as wal:
            seen = await door.read(wal, config.dir, end="current")
            assert [s.offset for s in seen] == list(range(5))
            assert [s.payload for s in seen] == [b"plain", b"dressed", b"one", b"two", b"whole"]
            assert [s.attributes for s in seen[:2]] == [{}, {"a": "b"}]
            raw = [record async for record in wal.reader(raw=True, end="current")]
            assert [record.offset for record in raw] == list(range(5))

    DOORS[name].run(scenario)


@through_doors_of_this_process
@pytest.mark.parametrize("memory", [False, True])
def test_every_level_and_every_wait_of_a_receipt(name: str, memory: bool, tmp_path: Path) -> None:
    async def scenario(door: Door) -> None:
        async with door.open_wal(WalConfig(dir=None if memory else str(tmp_path))) as wal:
            for level in ("accepted", "written", "fsync"):
                await wal.append(b"x", durability=level)
            assert await wal.append_batch([b"y"] * 2, durability="accepted") == range(3, 5)
            receipt = wal.append_nowait(b"z")
            assert (receipt.offset, receipt.offsets) == (5, range(5, 6))
            assert await receipt.accepted() == await receipt.written() == range(5, 6)
            assert await receipt.durable() == range(5, 6)
            batch = wal.append_batch_nowait(iter([b"p", b"q"]))
            assert batch.offsets == range(6, 8)
            await wal.flush()
            await wal.wait_durable(8)
            assert wal.durable_end == 8
            with pytest.raises(ValueError, match="durability='never'"):
                await wal.append(b"x", durability="never")
            with pytest.raises(ValueError, match="needs an object store"):
                await wal.append(b"x", durability="uploaded")
            with pytest.raises(ValueError, match="needs an object store"):
                await receipt.uploaded()
            with pytest.raises(ValueError, match="messages is empty"):
                wal.append_batch_nowait([])

    DOORS[name].run(scenario)


@through_doors_of_this_process
def test_what_is_refused_was_not_accepted(name: str, tmp_path: Path) -> None:
    def broken() -> Iterator[bytes]:
        yield b"x"
        raise ZeroDivisionError

    async def scenario(door: Door) -> None:
        config = WalConfig(dir=str(tmp_path), max_message_bytes=1000, max_atomic_batch_bytes=2000)
        async with door.open_wal(config) as wal:
            assert await wal.append(b"x", expected_offset=0) == 0
            with pytest.raises(UnexpectedOffsetError) as caught:
                await wal.append_batch([b"x"], expected_offset=0)
            assert (caught.value.expected, caught.value.next_offset) == (0, 1)
            with pytest.raises(UnexpectedOffsetError):
                wal.append_nowait(b"x", expected_offset=7)
            for call in (wal.append, wal.append_nowait):
                with pytest.raises(MessageTooLargeError, match="max_message_bytes=1000"):
                    await _result(call(bytes(1001)))
                with pytest.raises(TypeError, match="must be bytes or a StreamMessage, not str"):
                    await _result(call("text"))
            with pytest.raises(MessageTooLargeError, match="max_atomic_batch_bytes=2000"):
                await wal.append_batch([bytes(900)] * 3)
            with pytest.raises(ZeroDivisionError):
                await wal.append_batch(broken())
            assert wal.next_offset == 1

    DOORS[name].run(scenario)


@through_doors_of_this_process
def test_an_empty_batch_is_refused_like_any_other(name: str, tmp_path: Path) -> None:
    async def scenario(door: Door) -> None:
        async with door.open_wal(WalConfig(dir=str(tmp_path))) as wal:
            nothing: list[Iterable[bytes]] = [[], (), iter(())]
            for empty in nothing:
                assert await wal.append_batch(empty) == range(0)
            await wal.append(b"x")
            for level in ("accepted", "written", "fsync"):
                offsets = await wal.append_batch([], expected_offset=1, durability=level)
                assert offsets == range(1, 1)
            for empty in nothing:
                with pytest.raises(UnexpectedOffsetError) as caught:
                    await wal.append_batch(empty, expected_offset=999)
                assert (caught.value.expected, caught.value.next_offset) == (999, 1)
            with pytest.raises(ValueError, match="durability='nonsense' must be one of"):
                await wal.append_batch([], durability="nonsense")
            with pytest.raises(ValueError, match="needs an object store"):
                await wal.append_batch([], durability="uploaded")
            assert wal.next_offset == 1
        with pytest.raises(LogClosedError):
            await wal.append_batch([])
        storage = StorageConfig(dir=str(tmp_path / "topics"))
        async with door.open("open_storage", storage) as topics:
            assert await topics.append_batch("/default/t", []) == range(0)
            with pytest.raises(UnexpectedOffsetError):
                await topics.append_batch("/default/t", [], expected_offset=1)

    DOORS[name].run(scenario)


async def _result(found: Any) -> Any:
    return await found if hasattr(found, "__await__") else found


@through_every_door
def test_readers_start_and_end_where_they_are_told(name: str, tmp_path: Path) -> None:
    async def scenario(door: Door) -> None:
        config = small(tmp_path)
        at = StartPosition.offset

        async def offsets(**wanted: Any) -> list[int]:
            return [s.offset for s in await door.read(wal, config.dir, **wanted)]

        async with door.open_wal(config) as wal:
            await fill(wal, 60)
            assert await offsets(end="current") == list(range(60))
            assert await offsets(start=at(33), end=36) == [33, 34, 35]
            assert await offsets(start=at(10), count=25) == list(range(10, 35))
            assert await offsets(start=at(58), end="current", count=9) == [58, 59]
            assert await offsets(start=at(60), end="current") == []
            assert await offsets(start=StartPosition.latest(), end="current") == []
            assert await offsets(start=StartPosition.timestamp(1.0), count=2) == [0, 1]
            assert await offsets(count=0) == []
            with pytest.raises(ValueError, match="beyond the end of the log"):
                wal.reader(at(61))
            with pytest.raises(ValueError, match="count=-1 must be 0 or more"):
                wal.reader(count=-1)
            start = await wal.trim(30)
            assert 0 < start <= 30
            assert await offsets(end="current") == list(range(start, 60))
            with pytest.raises(OffsetTrimmedError) as caught:
                await offsets(start=at(start - 1), end="current")
            assert (caught.value.offset, caught.value.start_offset) == (start - 1, start)

    DOORS[name].run(scenario)


@through_every_door
def test_a_live_reader_gets_each_record_once(name: str, tmp_path: Path) -> None:
    async def scenario(door: Door) -> None:
        config = small(tmp_path)
        seen: list[int] = []

        async def watch() -> None:
            seen.extend([s.offset for s in await door.read(wal, config.dir, count=90)])

        async with door.open_wal(config) as wal, anyio.create_task_group() as tasks:
            await fill(wal, 30)
            tasks.start_soon(watch)
            await anyio.lowlevel.checkpoint()
            await fill(wal, 60)
        assert seen == list(range(90))

    DOORS[name].run(scenario)


@through_doors_of_this_process
def test_a_slow_reader_comes_back_through_the_files(name: str, tmp_path: Path) -> None:
    async def scenario(door: Door) -> None:
        async with door.open_wal(small(tmp_path)) as wal:
            await fill(wal, 3)
            reader = wal.reader()
            assert (await reader.__anext__()).offset == 0
            assert reader.cursor == 1
            await fill(wal, 80)
            for offset in range(1, 83):
                assert reader.cursor == offset
                assert (await reader.__anext__()).offset == offset
            assert reader.statistics().lag == 0
            reader = wal.reader(end="current")
            await reader.__anext__()
            assert (await reader.next_batch())[0].offset == 1
            rest = [m.offset async for batch in reader.batches() for m in batch]
            assert rest == list(range(rest[0], 83))
            assert await reader.next_batch() == []
            await reader.aclose()
            with pytest.raises(LogClosedError, match="reader is closed"):
                await reader.__anext__()

    DOORS[name].run(scenario)


@through_doors_of_this_process
def test_many_at_once_share_syncs_and_get_dense_offsets(name: str, tmp_path: Path) -> None:
    async def scenario(door: Door) -> None:
        offsets: dict[int, int] = {}

        async def one(number: int) -> None:
            offsets[number] = await wal.append(b"%d" % number)

        async with door.open_wal(WalConfig(dir=str(tmp_path))) as wal:
            async with anyio.create_task_group() as tasks:
                for number in range(300):
                    tasks.start_soon(one, number)
            statistics = wal.statistics()
            assert statistics.appended_records == 300
            assert statistics.syncs < 300
        assert sorted(offsets.values()) == list(range(300))
        async with door.open_wal(WalConfig(dir=str(tmp_path))) as wal:
            seen = await door.read(wal, end="current")
            assert {int(s.payload): s.offset for s in seen} == offsets

    DOORS[name].run(scenario)


@through_doors_of_this_process
def test_leaving_drains_and_then_everything_is_refused(name: str, tmp_path: Path) -> None:
    async def scenario(door: Door) -> None:
        async with door.open_wal(WalConfig(dir=str(tmp_path))) as wal:
            receipts = [wal.append_nowait(b"%d" % i) for i in range(50)]
            reader = wal.reader(StartPosition.latest())
        assert await receipts[-1].durable() == range(49, 50)
        assert wal.statistics().phase == "closed"
        assert "closed" in repr(wal)
        for call in (wal.append, wal.append_nowait, wal.trim, wal.wait_durable):
            with pytest.raises(LogClosedError, match="open it again"):
                await _result(call(60 if call in (wal.trim, wal.wait_durable) else b"late"))
        with pytest.raises(LogClosedError):
            await wal.append_batch([b"late"])
        with pytest.raises(LogClosedError):
            await reader.__anext__()
        async with door.open_wal(WalConfig(dir=str(tmp_path))) as wal:
            assert len(await door.read(wal, end="current")) == 50

    DOORS[name].run(scenario)


@through_doors_of_this_process
def test_an_exception_of_the_body_comes_out_as_it_is(name: str, tmp_path: Path) -> None:
    async def scenario(door: Door) -> None:
        with pytest.raises(ZeroDivisionError) as caught:
            async with door.open_wal(WalConfig(dir=str(tmp_path))) as wal:
                wal.append_nowait(b"x")
                raise ZeroDivisionError
        assert not isinstance(caught.value, BaseExceptionGroup)
        async with door.open_wal(WalConfig(dir=str(tmp_path))) as wal:
            assert wal.next_offset == 1

    DOORS[name].run(scenario)


@through_doors_of_this_process
def test_a_live_reader_ends_with_the_log(name: str, tmp_path: Path) -> None:
    async def scenario(door: Door) -> None:
        async def tail(wal: Any) -> None:
            with pytest.raises(LogClosedError):
                await wal.reader().next_batch()
            ended.append(True)

        ended: list[bool] = []
        async with anyio.create_task_group() as tasks:
            async with door.open_wal(WalConfig(dir=str(tmp_path))) as wal:
                tasks.start_soon(tail, wal)
                while not wal.statistics().readers:
                    await anyio.lowlevel.checkpoint()
        assert ended

    DOORS[name].run(scenario)


class HeldReads(RealDisk):
    """A real disk that reads blocks for readers only while `gate` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.reading = threading.Event()

    async def run(self, fn: Callable[..., Any], /, *args: object) -> Any:
        def held(*args: object) -> Any:
            self.reading.set()
            self.gate.wait()
            return fn(*args)

        return await super().run(held if fetch_block in (fn, *args) else fn, *args)


@pytest.mark.parametrize("kind", ["wal", "follower", "topic", "dispatch"])
@through_doors_of_this_process
def test_a_reader_that_is_closed_while_it_fetches_hands_out_nothing_more(
    name: str, kind: str, tmp_path: Path
) -> None:
    outcomes: list[object] = []

    async def read(reader: Any) -> None:
        try:
            outcomes.append((await reader.__anext__()).offset)
        except LogClosedError as error:
            outcomes.append(str(error))

    async def close_while_it_fetches(disk: HeldReads, reader: Any) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read, reader)
            while not disk.reading.is_set():
                await anyio.lowlevel.checkpoint()
            await reader.aclose()
            assert not outcomes
            disk.gate.set()
        assert outcomes == ["the reader is closed: make another one with reader()"]
        with pytest.raises(LogClosedError):
            await reader.next_batch()

    async def scenario(door: Door) -> None:
        disk = HeldReads()
        async with door.open_wal(small(tmp_path, cache_capacity=1), disk=disk) as wal:
            await fill(wal, 30)
            if kind == "wal":
                await close_while_it_fetches(disk, wal.reader())
            elif kind == "follower":
                async with door.open("open_follower", tmp_path, disk=disk) as follower:
                    await close_while_it_fetches(disk, follower.reader())
            elif kind == "topic":
                storage = door.wal_storage(wal, "t")
                reader = await storage.create_reader("t", StartPosition.earliest())
                await close_while_it_fetches(disk, reader)
            else:
                async with door.dispatch(TOPIC, door.wal_storage(wal, TOPIC)) as dispatch:
                    reader = await dispatch.topic_store.create_reader(StartPosition.earliest())
                    await close_while_it_fetches(disk, reader)

    DOORS[name].run(scenario)


@through_doors_of_this_process
def test_the_directory_is_locked_and_bad_settings_are_named(name: str, tmp_path: Path) -> None:
    async def scenario(door: Door) -> None:
        config = WalConfig(dir=str(tmp_path / "log"))
        async with door.open_wal(config) as wal:
            with pytest.raises(LogLockedError, match="locked by process"):
                async with door.open_wal(config):
                    pass
            assert await wal.append(b"still fine") == 0
        with pytest.raises(ValueError, match="needs an object store"):
            async with door.open_wal(WalConfig(dir=str(tmp_path), durability="uploaded")):
                pass
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(NotADirectoryError):
            async with door.open_wal(WalConfig(dir=str(tmp_path / "file"))):
                pass

    DOORS[name].run(scenario)


@through_doors_of_this_process
@pytest.mark.parametrize("operation", ["write", "sync_data"])
def test_a_failing_disk_breaks_the_log_and_everybody_is_told(name: str, operation: str) -> None:
    async def scenario(door: Door) -> None:
        disk = SimDisk()
        config = WalConfig(dir="/log", preallocate_bytes=0)
        async with door.open_wal(config, disk=disk) as wal:
            await wal.append(b"acked")
            disk.fail(operation, path_contains=".log")
            with pytest.raises(LogBrokenError, match="outcome") as caught:
                await wal.append(b"lost or not")
            assert isinstance(caught.value.__cause__, OSError)
            assert caught.value.__cause__.errno == errno.EIO
            for call in (wal.append(b"x"), wal.append_batch([b"x"]), wal.flush(), wal.trim(1)):
                with pytest.raises(LogBrokenError):
                    await call
            with pytest.raises(LogBrokenError):
                wal.append_nowait(b"x")
            assert [s.payload for s in await door.read(wal, end="current")] == [b"acked"]
            assert wal.statistics().phase == "broken"
        async with door.open_wal(config, disk=disk) as wal:
            assert (await door.read(wal, end="current"))[0].payload == b"acked"

    DOORS[name].run(scenario)


@through_doors_of_this_process
def test_leaving_raises_when_nobody_was_told(name: str) -> None:
    async def scenario(door: Door) -> None:
        for body in (None, ZeroDivisionError()):
            disk = SimDisk()
            with pytest.raises((LogBrokenError, ZeroDivisionError)) as caught:
                async with door.open_wal(WalConfig(dir="/log"), disk=disk) as wal:
                    disk.fail("write", path_contains=".log")
                    wal.append_nowait(b"x")
                    if body is not None:
                        raise body
            if body is None:
                assert isinstance(caught.value, LogBrokenError)
                assert caught.value.lost == 1
            else:
                assert caught.value is body
                assert "1 accepted records may be lost" in body.__notes__[0]

    DOORS[name].run(scenario)


@through_doors_of_this_process
def test_leaving_does_not_repeat_what_an_append_raised(name: str) -> None:
    async def scenario(door: Door) -> None:
        disk = SimDisk()
        async with door.open_wal(WalConfig(dir="/log"), disk=disk) as wal:
            disk.fail("write", path_contains=".log")
            with pytest.raises(LogBrokenError):
                await wal.append(b"x")

    DOORS[name].run(scenario)


@through_doors_of_this_process
def test_an_append_for_the_store_returns_when_the_store_has_it(name: str, tmp_path: Path) -> None:
    async def scenario(door: Door) -> None:
        config = small(tmp_path, topic_name="/default/t")
        async with door.open_wal(config, store=MemoryStore()) as wal:
            assert await wal.append(b"x", durability="uploaded") == 0
            assert wal.uploaded_end == 1
            assert await wal.append_batch([b"y", b"z"], durability="uploaded") == range(1, 3)
            assert wal.uploaded_end == 3

    DOORS[name].run(scenario)


@through_every_door
def test_damage_is_named_and_never_read_over(name: str, tmp_path: Path) -> None:
    async def scenario(door: Door) -> None:
        config = small(tmp_path, cache_capacity=1)
        async with door.open_wal(config) as wal:
            await fill(wal, 60)
            first = min(tmp_path.glob("*.log"))
            data = bytearray(first.read_bytes())
            data[300] ^= 1
            first.write_bytes(data)
            with pytest.raises(CorruptDataError):
                await door.read(wal, config.dir, end="current")

    DOORS[name].run(scenario)


@through_doors_of_this_process
def test_without_room_appends_wait_in_order_and_nowait_refuses(name: str, tmp_path: Path) -> None:
    async def scenario(door: Door) -> None:
        disk = GatedDisk()
        config = WalConfig(dir=str(tmp_path), max_pending_bytes=2000)
        offsets: dict[int, int] = {}

        async def one(number: int) -> None:
            offsets[number] = await wal.append(b"%d" % number * 1500)

        async with door.open_wal(config, disk=disk) as wal, anyio.create_task_group() as tasks:
            disk.gate.clear()
            try:
                for number in range(6):
                    tasks.start_soon(one, number)
                    # One after the other, so that the order of the calls is known.
                    while wal.next_offset + wal.statistics().waiting_appends <= number:
                        await anyio.lowlevel.checkpoint()
                with pytest.raises(trio.WouldBlock):
                    wal.append_nowait(b"x")
                assert wal.next_offset < 6
            finally:
                disk.gate.set()
        assert offsets == {number: number for number in range(6)}

    DOORS[name].run(scenario)


@through_doors_that_cancel
def test_an_append_that_waits_for_room_can_be_cancelled(name: str, tmp_path: Path) -> None:
    async def scenario(door: Door) -> None:
        disk = GatedDisk()
        config = WalConfig(dir=str(tmp_path), max_pending_bytes=2000)
        async with door.open_wal(config, disk=disk) as wal, anyio.create_task_group() as tasks:
            disk.gate.clear()
            try:
                for _ in range(4):
                    tasks.start_soon(wal.append, bytes(1500))
                while not wal.statistics().waiting_appends:
                    await anyio.lowlevel.checkpoint()
                for _ in range(3):
                    with anyio.move_on_after(0.01) as scope:
                        await wal.append(b"never")
                    assert scope.cancelled_caught
            finally:
                disk.gate.set()
        async with door.open_wal(config) as wal:
            seen = await door.read(wal, end="current")
            assert [len(s.payload) for s in seen] == [1500] * 4

    DOORS[name].run(scenario)


@through_doors_that_cancel
def test_an_append_that_was_accepted_is_not_interrupted(name: str, tmp_path: Path) -> None:
    async def scenario(door: Door) -> None:
        disk = GatedDisk()
        outcomes: list[object] = []
        async with door.open_wal(WalConfig(dir=str(tmp_path)), disk=disk) as wal:
            disk.gate.clear()

            async def one() -> None:
                with anyio.CancelScope() as scope:
                    scopes.append(scope)
                    outcomes.append(await wal.append(b"x"))
                    await anyio.sleep_forever()
                outcomes.append(scope.cancelled_caught)

            scopes: list[anyio.CancelScope] = []
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(one)
                while wal.next_offset == 0:
                    await anyio.lowlevel.checkpoint()
                scopes[0].cancel()
                for _ in range(10):
                    await anyio.lowlevel.checkpoint()
                assert not outcomes
                disk.gate.set()
            assert outcomes == [0, True]

    DOORS[name].run(scenario)


@through_doors_that_cancel
def test_a_cancelled_append_never_appears_and_any_other_does(name: str, tmp_path: Path) -> None:
    async def scenario(door: Door) -> None:
        appended: list[int] = []

        async def one(number: int, scope: anyio.CancelScope) -> None:
            with scope:
                await wal.append(b"%d" % number)
                appended.append(number)

        async with door.open_wal(WalConfig(dir=str(tmp_path))) as wal:
            async with anyio.create_task_group() as tasks:
                for number in range(200):
                    scope = anyio.CancelScope()
                    if number % 5 == 0:
                        scope.cancel()  # before the call
                    tasks.start_soon(one, number, scope)
                    for _ in range(number % 4):
                        await anyio.lowlevel.checkpoint()
                    scope.cancel()
        assert not [number for number in appended if number % 5 == 0]
        async with door.open_wal(WalConfig(dir=str(tmp_path))) as wal:
            found = [int(s.payload) for s in await door.read(wal, end="current")]
        assert sorted(found) == sorted(appended)

    DOORS[name].run(scenario)


@through_doors_that_cancel
def test_a_cancelled_reader_loses_nothing(name: str, tmp_path: Path) -> None:
    async def scenario(door: Door) -> None:
        async with door.open_wal(small(tmp_path, cache_capacity=2)) as wal:
            await fill(wal, 60)
            reader = wal.reader(end="current")
            seen: list[int] = []
            for turn in range(3000):
                with anyio.move_on_after(0.0001 * (turn % 7)):
                    try:
                        seen.append((await reader.__anext__()).offset)
                    except StopAsyncIteration:
                        break
            assert seen == list(range(60))

    DOORS[name].run(scenario)


@through_doors_that_cancel
def test_cancelling_the_body_drains_too(name: str, tmp_path: Path) -> None:
    async def scenario(door: Door) -> None:
        receipts: list[Any] = []
        with anyio.CancelScope() as scope:
            async with door.open_wal(WalConfig(dir=str(tmp_path))) as wal:
                receipts.append(wal.append_nowait(b"x"))
                scope.cancel()
                await anyio.sleep_forever()
        assert scope.cancelled_caught
        assert await receipts[0].durable() == range(1)
        async with door.open_wal(WalConfig(dir=str(tmp_path))) as wal:
            assert wal.next_offset == 1

    DOORS[name].run(scenario)
