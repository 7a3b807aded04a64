"""Where objects end and begin, what waits for a store, and how every wait ends."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from cloud_model import CONFIG, World, check_objects, cloud, everything, go_on, virtual_clock

from danube_trio import (
    Receipt,
    StartPosition,
    Wal,
    open_follower,
    open_replica,
    open_wal,
)
from danube_trio._core.catalog import CatalogState, Descriptor
from danube_trio._core.segment import LogNames
from danube_trio._core.stored import StoredObjects
from danube_trio._engine.care.repair import apply_repair
from danube_trio._engine.care.repair_plan import plan_repair
from danube_trio.errors import (
    CorruptDataError,
    DanubeError,
    FencedError,
    LogBrokenError,
    LogClosedError,
    StoreUnavailableError,
)
from danube_trio.testing import SimDisk, SimStore

ON_DEMAND = attrs.evolve(CONFIG, cloud=attrs.evolve(CONFIG.cloud, upload_interval=None))
KEEPING = attrs.evolve(ON_DEMAND, cloud=attrs.evolve(ON_DEMAND.cloud, keep_local_bytes=1 << 20))


def objects_of(world: World) -> list[str]:
    return [key for key in world.store.tree() if "/segments/" in key]


def logs_of(world: World) -> list[str]:
    return sorted(path for path in world.disk.tree() if path.endswith(".log"))


# ---- one owner


def descriptor(base: int, end: int) -> Descriptor:
    return Descriptor(base, end, 100, f"{base}", 0, epoch=1)


def test_an_object_is_read_until_the_log_begins_behind_it() -> None:
    state = CatalogState.begin(0, "s5-standard", 1).taken_over("d", "w")
    objects = StoredObjects(state)
    for base in (0, 4, 8):
        objects.published(objects.state.committed(descriptor(base, base + 4)))
    objects.published(objects.state.trimmed(6))
    assert [d.base for d in objects] == [0, 4, 8]
    assert [d.base if (d := objects.find(i)) else None for i in (0, 3, 4, 11, 12)] == [
        *(0, 0, 4, 8),
        None,
    ]
    assert objects.free(3) == []
    [free] = objects.free(6)
    objects.published(objects.state.trimmed(20))  # beyond its end: there is a gap behind them
    assert [d.base for d in objects.free(20)] == [0, 4, 8]
    objects.deleted(free)
    assert objects.find(0) is None
    assert objects.find(8) is not None
    assert objects.find(12) is None


@pytest.mark.parametrize("catalog", ["manifests", "metadata"])
@pytest.mark.parametrize("start", [1, 4, 5, 15])
async def test_what_was_trimmed_before_the_log_had_a_store_is_gone_there_too(
    catalog: str, start: int, autojump_clock: trio.testing.MockClock
) -> None:
    world = World.new(catalog)
    async with open_wal(ON_DEMAND, disk=world.disk, clock=virtual_clock) as wal:
        for i in range(8):
            await wal.append_batch([b"%d" % i * 100] * 2)
        assert await wal.trim(start) == min(start, wal.statistics().sealed_end)
        start = wal.start_offset
    async with world.open(ON_DEMAND) as wal:
        await wal.wait_uploaded(wal.durable_end)
        async with open_replica(world.store, catalog=world.catalog()) as replica:
            assert replica.start_offset == start
            assert (await replica.reader().receive()).offset == start
        await go_on(wal)
    assert (await check_objects(world)).start_offset == start
    async with attrs.evolve(world, disk=SimDisk()).open(ON_DEMAND) as wal:
        assert (await everything(wal)).start == start


async def test_a_trim_that_only_the_catalog_knows_of_hides_nothing_from_readers(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Files were freed as if objects held what had been trimmed, before it was trimmed here."""
    world = World.new("manifests")
    config = attrs.evolve(ON_DEMAND, cloud=attrs.evolve(ON_DEMAND.cloud, retry_seconds=1e4))
    async with world.open(config) as wal:
        uploads = world.store.fail("upload", sticky=True)  # so that no change is under way
        for i in range(12):
            await wal.append(b"%d" % i * 200)
        world.store.fail("create", kind="hang_after", key_contains="manifest")
        with trio.move_on_after(1):
            await wal.trim(6)
        reads: list[int] = []
        for _ in range(40):
            start = wal.start_offset
            reads.append((await wal.reader().__anext__()).offset)
            assert reads[-1] == start or wal.start_offset > start
            await trio.sleep(1)
        uploads.cancel()
        assert await wal.trim(7) == 7
        await everything(wal)


async def test_a_sealed_log_finishes_the_trim_that_the_catalog_knows_of(
    autojump_clock: trio.testing.MockClock,
) -> None:
    world = World.new("manifests")
    async with world.open(ON_DEMAND) as wal:
        for i in range(6):
            await wal.append(b"%d" % i * 200, durability="uploaded")
        world.store.fail("create", kind="hang_after", key_contains="manifest")
        with trio.move_on_after(1):
            await wal.trim(4)
        await wal.seal()
        await trio.sleep(20)
        assert (await everything(wal)).start == 4


# ---- nothing local waits for a store


async def test_a_store_that_hangs_while_damage_is_healed_holds_nothing_up(
    autojump_clock: trio.testing.MockClock,
) -> None:
    world = World.new("manifests")
    async with trio.open_nursery() as nursery:
        async with world.open(KEEPING) as wal:
            for i in range(6):
                await wal.append(b"%d" % i * 200, durability="uploaded")
            world.disk.corrupt(logs_of(world)[0], 100, 3)
            world.store.fail("get", kind="hang", sticky=True)
            reader = wal.reader()
            nursery.start_soon(reader.receive)
            await trio.sleep(1)
            assert reader.statistics().tier == "cloud"
            with trio.fail_after(5):
                assert await wal.trim(3) == 3
            await trio.sleep(11)  # the damaged file goes
            assert cloud(wal).local_start >= 3
            assert len(objects_of(world)) == 6  # the first of them is being read
            left = trio.current_time()
        assert trio.current_time() - left < 1
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("operation", ["upload", "create", "list_objects", "delete", "get", None])
async def test_a_store_that_hangs_holds_nothing_up_that_is_local(
    operation: str | None, autojump_clock: trio.testing.MockClock
) -> None:
    world = World.new("manifests")
    config = attrs.evolve(ON_DEMAND, segment_age=3.0, retain_bytes=1500, cache_capacity=1)
    async with trio.open_nursery() as nursery:
        async with world.open(config) as wal:
            for i in range(8):
                await wal.append(b"%d" % i * 200, durability="uploaded")
            await trio.sleep(6)
            world.store.fail(operation, kind="hang", sticky=True)
            nursery.start_soon(ignoring, lambda: wal.trim(5))
            nursery.start_soon(ignoring, wal.reader().receive)
            rolls = wal.statistics().rolls
            for i in range(8):
                await wal.append(b"%d" % i)
                await trio.sleep(5)
            assert wal.statistics().rolls >= rolls + 7
            janitor = next(t for t in wal.statistics().tasks if t.name == "janitor")
            assert (janitor.state, janitor.seconds < 6) == ("idle", True)
            reader = wal.reader(StartPosition.offset(wal.next_offset - 1))
            assert (await reader.receive()).offset == wal.next_offset - 1
            left = trio.current_time()
        assert trio.current_time() - left < 1
        nursery.cancel_scope.cancel()


async def ignoring(call: Callable[[], Awaitable[object]]) -> None:
    try:
        await call()
    except DanubeError:
        return


async def test_a_follower_at_the_end_does_not_wait_for_the_store(
    autojump_clock: trio.testing.MockClock,
) -> None:
    world = World.new("manifests")
    config = attrs.evolve(ON_DEMAND, cloud=attrs.evolve(ON_DEMAND.cloud, keep_local_bytes=900))
    async with world.open(config) as wal:
        await wal.append(b"0" * 600)
        other = world.process()
        async with open_follower(
            "/data/log", disk=other.disk, store=other.store, catalog=other.catalog(), notify=False
        ) as follower:
            found: list[int] = []

            async def follow() -> None:
                async for message in follower.reader(StartPosition.latest()):
                    found.append(message.offset)

            hang = other.store.fail(None, kind="hang", sticky=True)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(follow)
                for i in range(1, 9):  # the local files begin later and later
                    await wal.append(b"%d" % i * 200, durability="uploaded")
                    await trio.sleep(6)
                    assert found == list(range(1, i + 1))
                assert cloud(wal).local_start > 3
                nursery.cancel_scope.cancel()
            hang.cancel()
            assert [m.offset async for m in follower.reader(end="current")] == list(range(9))


class GatedStore:
    """A store whose `create` waits at a gate, if there is one."""

    def __init__(self, store: SimStore) -> None:
        self._store = store
        self.gate: trio.Event | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def create(self, key: str, data: bytes) -> object:
        if self.gate is not None:
            await self.gate.wait()
        return await self._store.create(key, data)


async def test_a_trim_that_is_under_way_when_the_log_is_sealed_comes_to_its_end(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store: Any = GatedStore(SimStore())
    config = attrs.evolve(CONFIG, topic_name="/d/t")
    async with open_wal(config, disk=SimDisk(), store=store, clock=virtual_clock) as wal:
        for i in range(9):
            await wal.append(b"%d" % i * 100, durability="uploaded")
        starts: list[int] = []

        async def trim() -> None:
            starts.append(await wal.trim(5))

        store.gate = gate = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trim)
            await trio.sleep(1)
            nursery.start_soon(wal.seal)
            await trio.sleep(1)
            assert (starts, wal.phase) == ([], "sealed")
            store.gate = None
            gate.set()
        assert starts == [wal.start_offset]
        assert 0 < wal.start_offset <= 5
        with pytest.raises(LogClosedError, match="sealed"):
            await wal.trim(9)


# ---- every wait ends

Wait = Callable[[Wal, Receipt], Awaitable[object]]


async def live(wal: Wal, receipt: Receipt) -> object:
    return await wal.reader(StartPosition.offset(wal.next_offset)).receive()


async def timed(wal: Wal, receipt: Receipt) -> object:
    when = StartPosition.timestamp(2e9)
    return await wal.reader(when).receive()


async def trimmed(wal: Wal, receipt: Receipt) -> object:
    return await wal.trim(receipt.offset)


async def sealing(wal: Wal, receipt: Receipt) -> object:
    return await wal.seal()


WAITS: dict[str, Wait] = {
    "Receipt.written": lambda wal, receipt: receipt.written(),
    "Receipt.durable": lambda wal, receipt: receipt.durable(),
    "Receipt.uploaded": lambda wal, receipt: receipt.uploaded(),
    "wait_durable": lambda wal, receipt: wal.wait_durable(receipt.offsets.stop),
    "wait_durable beyond": lambda wal, receipt: wal.wait_durable(1000),
    "wait_uploaded": lambda wal, receipt: wal.wait_uploaded(receipt.offsets.stop),
    "wait_uploaded beyond": lambda wal, receipt: wal.wait_uploaded(1000),
    "flush": lambda wal, receipt: wal.flush(),
    "append": lambda wal, receipt: wal.append(b"a"),
    "append uploaded": lambda wal, receipt: wal.append(b"a", durability="uploaded"),
    "reader at the end": live,
    "reader by time": timed,
    "trim": trimmed,
    "seal": sealing,
}
# What an ending allows a wait to end in; anything else, and no end at all, is wrong.
ENDINGS: dict[str, tuple[type[Exception], ...]] = {
    "left": (LogClosedError, StoreUnavailableError),
    "broken": (LogBrokenError,),
    "fenced": (FencedError,),
    "sealed": (LogClosedError, StoreUnavailableError),
}


async def bring_about(ending: str, wal: Wal, world: World, stack: AsyncExitStack) -> None:
    if ending == "left":
        await stack.aclose()
    elif ending == "broken":
        world.disk.fail("write", sticky=True)
        world.disk.fail("sync_data", sticky=True)
        wal._engine.break_(OSError(5, "the disk"))
    elif ending == "fenced":
        wal._engine.fenced(FencedError(1, "another"))
    else:
        wal._engine.seal()


@pytest.mark.parametrize("late", [False, True], ids=["waits before", "waits after"])
@pytest.mark.parametrize("hangs", ["upload", "create", None])
@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("name", WAITS)
async def test_every_wait_ends_when_what_it_waits_for_can_no_longer_be(
    name: str, ending: str, hangs: str | None, late: bool, autojump_clock: trio.testing.MockClock
) -> None:
    """With a store that hangs, so that nothing but the ending can end it."""
    world, ended = World.new("manifests"), trio.Event()
    outcome: list[object] = []
    async with AsyncExitStack() as stack, trio.open_nursery() as nursery:
        inner = AsyncExitStack()
        wal = await inner.enter_async_context(world.open(ON_DEMAND))
        stack.push_async_callback(ignoring, inner.aclose)
        for i in range(4):
            await wal.append(b"%d" % i * 400)
        world.store.fail(hangs, kind="hang", sticky=True)
        receipt = wal.append_nowait(b"r")
        await trio.sleep(1)

        async def wait() -> None:
            try:
                outcome.append(await WAITS[name](wal, receipt))
            except DanubeError as error:
                outcome.append(error)
            ended.set()

        if not late:
            nursery.start_soon(wait)
            await trio.sleep(1)
        await bring_about(ending, wal, world, inner)
        if late:
            nursery.start_soon(wait)
        # What a sealed log still can do is uploaded when the store comes back.
        can_be = ending == "sealed" and name in (
            "Receipt.uploaded",
            "wait_uploaded",
            "append uploaded",
            "seal",
            "trim",
        )
        with trio.move_on_after(5):
            await ended.wait()
        if can_be and not ended.is_set():
            await ignoring(inner.aclose)
            with trio.move_on_after(1):
                await ended.wait()
            assert ended.is_set(), f"{name} waits for ever"
        assert ended.is_set(), f"{name} waits for ever"
        await ignoring(inner.aclose)
        nursery.cancel_scope.cancel()
    [result] = outcome
    if isinstance(result, Exception):
        assert isinstance(result, ENDINGS[ending]), result


@pytest.mark.parametrize("who", ["follower", "replica"])
async def test_who_waits_in_a_follower_or_a_replica_is_told_when_it_is_left(
    who: str, autojump_clock: trio.testing.MockClock
) -> None:
    world = World.new("manifests")
    async with world.open(ON_DEMAND) as wal:
        await wal.append(b"a", durability="uploaded")
        told: list[Exception] = []

        async def wait(call: Callable[[], Awaitable[object]]) -> None:
            with pytest.raises(LogClosedError) as caught:
                await call()
            told.append(caught.value)

        async with trio.open_nursery() as nursery:
            block = (
                open_follower("/data/log", disk=world.disk.process())
                if who == "follower"
                else open_replica(world.store, catalog=world.catalog())
            )
            async with block as log:
                nursery.start_soon(wait, lambda: log.wait_durable(1000))
                nursery.start_soon(wait, log.reader(StartPosition.latest()).receive)
                await trio.sleep(1)
                if who == "replica":
                    world.store.fail(None, kind="hang", sticky=True)
                    await trio.sleep(10)
        assert len(told) == 2
        await wait(lambda: log.wait_durable(1000))
        world.store.settle()


# ---- damage that is not uploaded yet


async def damaged(world: World, *, reopened: bool = False) -> str:
    """Three segments that are not uploaded; the first one is damaged. Its path."""
    async with open_wal(KEEPING, disk=world.disk, clock=virtual_clock) as wal:
        for i in range(6):
            await wal.append(b"%d" % i * 200)
    path = logs_of(world)[0]
    world.disk.corrupt(path, 100, 3)
    return path


@pytest.mark.happens
@pytest.mark.parametrize("policy", ["refuse", "truncate", "skip"])
async def test_who_waits_for_an_upload_behind_damage_is_told_what_helps(
    policy: str, autojump_clock: trio.testing.MockClock
) -> None:
    world = World.new("manifests")
    path = await damaged(world)
    config = attrs.evolve(KEEPING, on_corruption=policy)  # type: ignore[arg-type]
    async with world.open(config) as wal:
        waits: list[Callable[[], Awaitable[object]]] = [
            lambda: wal.wait_uploaded(6),
            lambda: wal.append(b"durable here", durability="uploaded"),
            lambda: wal.append_nowait(b"here too").uploaded(),
            wal.seal,
        ]
        for wait in waits:
            with trio.fail_after(5), pytest.raises(CorruptDataError, match="repair") as caught:
                await wait()
            assert caught.value.path == path
        assert wal.durable_end == 8
        assert path in cloud(wal).upload_error
        assert cloud(wal).upload_failures
        assert not objects_of(world)


async def test_uploads_go_on_when_a_copy_of_the_damaged_file_is_put_back(
    autojump_clock: trio.testing.MockClock,
) -> None:
    world = World.new("manifests")
    async with world.open(KEEPING) as wal:
        stop = world.store.fail("upload", sticky=True)
        for i in range(6):
            await wal.append(b"%d" % i * 200)
        path = logs_of(world)[0]
        whole = world.disk.read_file(path)
        await trio.sleep(10)
        world.disk.corrupt(path, 100, 3)
        stop.cancel()
        with pytest.raises(CorruptDataError, match="repair"):
            await wal.wait_uploaded(6)
        puts = sum(operation.name == "upload" for operation in world.store.operations)
        await trio.sleep(100)
        assert puts == sum(operation.name == "upload" for operation in world.store.operations)
        world.disk.write_file(path, whole)
        await trio.sleep(5)
        await wal.wait_uploaded(6)
        assert not cloud(wal).upload_error
        await go_on(wal)
    await check_objects(world)


@pytest.mark.parametrize("missing", [False, True])
async def test_uploads_go_on_when_the_damaged_records_are_given_up(
    missing: bool, autojump_clock: trio.testing.MockClock
) -> None:
    world = World.new("manifests")
    path = await damaged(world)
    async with world.open(KEEPING) as wal:
        if missing:
            world.disk.unlink(path)
        with pytest.raises(CorruptDataError, match=r"trim\(\d+\)") as caught:
            await wal.wait_uploaded(6)
        end = int(str(caught.value).rpartition("trim(")[2].partition(")")[0])
        assert await wal.trim(end) == end
        await wal.wait_uploaded(6)
        await go_on(wal)
    assert (await check_objects(world)).start_offset == end


async def test_uploads_go_on_after_a_repair(autojump_clock: trio.testing.MockClock) -> None:
    world = World.new("manifests")
    await damaged(world)
    async with world.open(KEEPING) as wal:
        with pytest.raises(CorruptDataError, match="repair"):
            await wal.wait_uploaded(6)
    names = LogNames.of("/data/log", "wal.log")
    apply_repair(world.disk, plan_repair(world.disk, names, "truncate"))
    async with world.open(KEEPING) as wal:
        await go_on(wal)
    await check_objects(world)


# ---- fenced


@pytest.mark.parametrize("how", [None, "reply_lost", "late"])
@pytest.mark.parametrize("catalog", ["manifests", "metadata"])
async def test_a_fenced_uploader_leaves_no_object_behind(
    catalog: str, how: str | None, autojump_clock: trio.testing.MockClock
) -> None:
    world = World.new(catalog)
    other = world.process(SimDisk())
    async with world.open(ON_DEMAND) as wal:
        await wal.append(b"a", durability="uploaded")
        async with other.open(ON_DEMAND) as theirs:
            await theirs.append(b"theirs", durability="uploaded")
            if how is not None:
                world.store.fail("upload", kind=how)  # type: ignore[arg-type]
            with pytest.raises(FencedError):
                await wal.append(b"b" * 300, durability="uploaded")
            if how != "late":  # that one comes when nobody can know of it
                await check_objects(world)
            await trio.sleep(30)
            await everything(theirs)
    async with other.open(ON_DEMAND) as theirs:
        await go_on(theirs)
    await check_objects(world)


async def test_the_fence_is_told_although_the_store_hangs_when_objects_are_taken_back(
    autojump_clock: trio.testing.MockClock,
) -> None:
    world = World.new("manifests")
    other = world.process(SimDisk())
    async with world.open(ON_DEMAND) as wal:
        async with other.open(ON_DEMAND):
            pass
        hang = world.store.fail("delete", kind="hang", sticky=True)
        with trio.fail_after(10), pytest.raises(FencedError):
            await wal.append(b"b", durability="uploaded")
        hang.cancel()


# ---- append times


@pytest.mark.happens
@pytest.mark.parametrize("catalog", ["manifests", "metadata"])
@pytest.mark.parametrize("trims", [False, True])
async def test_append_times_never_fall_whoever_goes_on(catalog: str, trims: bool) -> None:
    world = World.new(catalog)
    clock = iter((2000.0, 1995.0, 1990.0, 1.0))
    now, times = 0.0, list[int]()
    disks = [SimDisk(), SimDisk(), SimDisk()]
    for disk in (disks[0], disks[1], disks[0], disks[2]):
        now = next(clock)
        async with open_wal(
            ON_DEMAND,
            disk=disk,
            store=world.store,
            catalog=world.catalog(),
            clock=lambda now=now: now,  # type: ignore[misc]
        ) as wal:
            first = wal.next_offset
            await wal.append_batch([b"x", b"y"])
            await wal.wait_uploaded(wal.next_offset)
            reader = wal.reader(StartPosition.offset(first), end="current", raw=True)
            times += [record.append_time async for record in reader]
            if trims:
                assert await wal.trim(wal.next_offset) == wal.next_offset
            else:
                since = wal.reader(StartPosition.timestamp(1998), end="current")
                assert [m.offset async for m in since] == list(range(wal.next_offset))
            await wal.seal()
    assert times == [2_000_000_000] * 8


# ---- opening rides out what an open log rides out


@pytest.mark.parametrize("what", ["log", "replica", "follower"])
async def test_a_store_that_refuses_every_fifth_request_can_be_opened(
    what: str, autojump_clock: trio.testing.MockClock
) -> None:
    for seed in range(20):
        store, disk = SimStore(seed=seed), SimDisk()
        config = attrs.evolve(
            ON_DEMAND, topic_name="/default/t", cloud=attrs.evolve(ON_DEMAND.cloud, prefix="")
        )
        if what != "log":
            async with open_wal(config, disk=disk, store=store.client()) as wal:
                await wal.append(b"a", durability="uploaded")
        store.fail_sometimes(0.2, kinds=("unavailable", "reply_lost"))
        if what == "log":
            async with open_wal(config, disk=disk, store=store) as wal:
                assert await wal.append(b"a", durability="uploaded") == 0
        elif what == "replica":
            async with open_replica(store, topic="/default/t") as replica:
                assert replica.durable_end == 1
        else:
            prefix = "storage/topics/default/t"
            async with open_follower("/data/log", disk=disk, store=store, prefix=prefix) as log:
                assert log.durable_end == 1


@pytest.mark.happens
async def test_a_store_that_is_gone_is_told_at_opening(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = SimStore()
    store.fail(None, sticky=True)
    with trio.fail_after(60), pytest.raises(StoreUnavailableError):
        async with open_wal(attrs.evolve(ON_DEMAND), disk=SimDisk(), store=store):
            pass


@pytest.mark.happens
async def test_a_store_to_which_one_can_only_add_says_so_once(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    world = World.new("manifests")
    config = attrs.evolve(ON_DEMAND, retain_bytes=600)
    async with world.open(config) as wal:
        await wal.append(b"a" * 600)
    store = world.store.client()
    store.fail("delete", kind="denied", sticky=True)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        async with attrs.evolve(world, store=store).open(config) as wal:
            for i in range(40):
                await wal.append(b"%d" % i * 200, durability="uploaded")
                await trio.sleep(7)
            assert wal.start_offset > 30
            assert not wal.statistics().janitor_failures
    assert len([record for record in caplog.records if "denied" in record.message]) == 1
