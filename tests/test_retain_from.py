"""What a program still needs is not freed by retention, in whatever way and wherever it is."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from doors import DOORS, Door
from test_topic_moves import World
from trio.testing import MockClock

from danube_trio import CloudConfig, Storage, StorageConfig, WalConfig, open_storage
from danube_trio.errors import StoreUnavailableError
from danube_trio.metadata import MemoryMetadata
from danube_trio.testing import SimClock, SimDisk, SimStore, StoreOperation

T, U = "/default/t", "/default/u"
# A record takes some 290 bytes, so a segment has three.
BODY = bytes(200)
ROUND = 6.0  # seconds: a little more than a round of the janitor takes


def config_of(way: str, **more: Any) -> StorageConfig:
    limit = {"retain_bytes": 1500} if way == "size" else {"retain_age": 50.0}
    wal = WalConfig(segment_bytes=800, preallocate_bytes=0, **limit, **more)
    return StorageConfig(dir="/data", wal=wal, idle_seconds=1000)


async def fill(storage: Storage, topic: str, number: int = 30) -> None:
    for _ in range(number):
        await storage.append_message(topic, BODY)


async def start(storage: Storage, topic: str) -> int:
    """Where the topic begins, when retention has looked at it."""
    async with storage.topic(topic) as wal:
        await trio.sleep(ROUND)
        return wal.start_offset


# ---- local logs


@pytest.mark.parametrize("way", ["size", "age"])
async def test_nothing_goes_from_the_floor_on_and_more_goes_as_it_moves(
    way: str, autojump_clock: MockClock
) -> None:
    floors: dict[str, int | None] = {T: 10, U: None}
    asked: list[str] = []

    def floor_of(topic: str) -> int | None:
        asked.append(topic)
        return floors[topic]

    async with open_storage(config_of(way), disk=SimDisk(), clock=SimClock()) as storage:
        storage.retain_from(floor_of)
        for topic in (T, U):
            await fill(storage, topic)
            await trio.sleep(100)
        assert 7 <= await start(storage, T) <= 10
        assert await start(storage, U) > 20, "it has no floor"
        assert {*asked} == {T, U}, "by their whole names"
        floors[T] = 17
        assert 14 <= await start(storage, T) <= 17
        floors[T] = 9
        assert 14 <= await start(storage, T) <= 17, "what is gone does not come back"
        floors[T] = None
        assert await start(storage, T) > 20


@pytest.mark.parametrize("way", ["size", "age"])
@pytest.mark.parametrize("held", [True, False], ids=["with a floor", "as without one"])
async def test_the_first_look_when_a_topic_is_opened_asks_too(
    way: str, held: bool, autojump_clock: MockClock
) -> None:
    disk, clock = SimDisk(), SimClock()
    unlimited = WalConfig(segment_bytes=800, preallocate_bytes=0)
    config = attrs.evolve(config_of(way), wal=unlimited)
    async with open_storage(config, disk=disk, clock=clock) as storage:
        await fill(storage, T)
    await trio.sleep(100)
    async with open_storage(config_of(way), disk=disk, clock=clock) as storage:
        if held:
            storage.retain_from(lambda _: 5)
        async with storage.topic(T) as wal:
            found = wal.start_offset  # no task had a turn: this is what opening freed
        assert 3 <= found <= 5 if held else found > 20
        assert await start(storage, T) == found


async def test_it_can_be_said_while_topics_are_open(autojump_clock: MockClock) -> None:
    async with open_storage(config_of("size"), disk=SimDisk()) as storage:
        await fill(storage, T, 6)
        storage.retain_from(lambda _: 0)
        await fill(storage, T)
        assert await start(storage, T) <= 3
        storage.retain_from(None)
        assert await start(storage, T) > 20


async def test_what_a_program_asks_for_is_done(autojump_clock: MockClock) -> None:
    async with open_storage(config_of("size"), disk=SimDisk()) as storage:
        storage.retain_from(lambda _: 0)
        await fill(storage, T)
        async with storage.topic(T) as wal:
            assert await wal.trim(12) == 12
        await storage.ack_checkpoint(T, 20)
        assert 17 < await start(storage, T) <= 20
        assert await storage.delete(T, for_good=True)


async def test_one_at_a_time_is_asked() -> None:
    async with open_storage(config_of("size"), disk=SimDisk()) as storage:
        storage.retain_from(lambda _: 0)
        with pytest.raises(RuntimeError, match=r"retain_from\(None\)"):
            storage.retain_from(lambda _: 1)
        with pytest.raises(TypeError, match="floor_of=7"):
            storage.retain_from(7)  # type: ignore[arg-type] # on purpose
        storage.retain_from(None)
        storage.retain_from(lambda _: 1)


class Wrong:
    """Answers of programs that have a bug."""

    @staticmethod
    def raises(topic: str) -> int:
        raise KeyError(topic)

    @staticmethod
    def has_no_number(topic: str) -> Any:
        return topic


@pytest.mark.happens
@pytest.mark.parametrize(
    ("floor_of", "text"),
    [(Wrong.raises, "KeyError: '/default/t'"), (Wrong.has_no_number, "it returned '/default/t'")],
)
async def test_a_program_that_cannot_say_frees_nothing_and_the_log_goes_on(
    floor_of: Callable[[str], int | None],
    text: str,
    autojump_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with open_storage(config_of("size"), disk=SimDisk()) as storage:
        storage.retain_from(floor_of)
        with caplog.at_level(logging.WARNING):
            await fill(storage, T)
            assert await start(storage, T) == 0
        assert text in caplog.text
        found = storage.topic_statistics(T)
        assert found is not None
        assert found.janitor_failures > 0
        assert await storage.append_message(T, b"goes on") == 30
        storage.retain_from(None)
        assert await start(storage, T) > 20


# ---- with an object store


@pytest.fixture(params=["manifests", "metadata"])
async def world(request: pytest.FixtureRequest) -> World:
    metadata = MemoryMetadata() if request.param == "metadata" else None
    return World(SimStore(), metadata)


def stored(world: World, way: str) -> AbstractAsyncContextManager[Storage]:
    """A storage whose topics are in the world's store, with a clock that time can be told by."""
    config = config_of(way, cloud=CloudConfig(keep_local_bytes=0, upload_interval=1.0))
    disk = world.disks["one"] = SimDisk()
    store = world.client("one")
    return open_storage(config, store=store, metadata=world.metadata, disk=disk, clock=SimClock())


def bases(world: World) -> list[int]:
    """Where the objects in the store begin."""
    return sorted(int(key.rpartition("/")[2][:20]) for key in world.objects())


@pytest.mark.parametrize("way", ["size", "age"])
async def test_objects_stay_from_the_floor_on_and_local_files_do_not(
    world: World, way: str, autojump_clock: MockClock
) -> None:
    floor: int | None = 10
    async with stored(world, way) as one:
        one.retain_from(lambda _: floor)
        await fill(one, T)
        await trio.sleep(100)
        assert 7 <= await start(one, T) <= 10
        assert 7 <= bases(world)[0] <= 10
        files = [path for path in world.disks["one"].tree() if path.endswith(".log")]
        assert len(files) == 1, "all but the active segment is in the store, and was pruned"
        reader = await one.create_reader(T, end="current")
        offsets = [message.offset async for message in reader]
        assert offsets[-20:] == list(range(10, 30))
        floor = None
        assert await start(one, T) > 20
        await trio.sleep(ROUND)
        assert bases(world) == [] or bases(world)[0] > 20


async def test_what_the_store_was_not_told_yet_is_taken_back(
    world: World, autojump_clock: MockClock
) -> None:
    """A round wanted it gone, the uploader was busy; when it came to it the records were needed."""
    gate, busy = trio.Event(), trio.Event()

    async def wait_at_the_gate(operation: StoreOperation) -> None:
        if operation.name == "upload":
            busy.set()
            await gate.wait()

    async with stored(world, "size") as one:
        one.retain_from(lambda _: 0)
        await fill(one, T)
        await trio.sleep(ROUND)
        world.client("one").before = wait_at_the_gate
        await fill(one, T, 3)
        await busy.wait()
        one.retain_from(None)
        await trio.sleep(ROUND)
        assert await start(one, T) == 0
        one.retain_from(lambda _: 4)
        await trio.sleep(ROUND)
        gate.set()
        assert 0 < await start(one, T) <= 4


async def test_what_waits_for_a_change_before_it_is_taken_back_too(
    autojump_clock: MockClock,
) -> None:
    """The catalog did not answer to a trim, and so was not asked for more."""
    world = World(SimStore(), None)
    async with stored(world, "size") as one:
        one.retain_from(lambda _: 0)
        await fill(one, T)
        await trio.sleep(ROUND)
        outage = world.client("one").fail("create", key_contains="manifest", sticky=True)
        async with one.topic(T) as wal:
            with pytest.raises(StoreUnavailableError):
                await wal.trim(3)
            one.retain_from(None)
            await trio.sleep(ROUND)
            one.retain_from(lambda _: 4)
            await trio.sleep(ROUND)
            outage.cancel()
            await trio.sleep(100)
            assert wal.start_offset == 3


# ---- through doors


HERE = [name for name in DOORS if not DOORS[name].elsewhere]


@pytest.mark.parametrize("name", HERE)
def test_every_door_has_it(name: str, tmp_path: Path) -> None:
    async def scenario(door: Door) -> None:
        wal = WalConfig(segment_bytes=800, preallocate_bytes=0)
        async with door.open("open_storage", StorageConfig(dir=str(tmp_path), wal=wal)) as storage:
            for _ in range(30):
                await storage.append_message(T, BODY)
        wal = attrs.evolve(wal, retain_bytes=1500)
        config = StorageConfig(dir=str(tmp_path), wal=wal)
        async with door.open("open_storage", config) as storage:
            storage.retain_from({T: 10}.get)
            assert 7 <= await storage.start_offset(T) <= 10

    DOORS[name].run(scenario)
