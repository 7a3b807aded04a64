"""A catalog that is gone, or older than its objects: nothing is begun, given again, or removed."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import pytest
import trio
import trio.testing
from cloud_model import CONFIG, World, check_objects, entries_of, everything, with_entries

from danube_trio._core.catalog import CatalogState
from danube_trio._core.segment import LogNames
from danube_trio._engine.care.adopt import adopt_objects, plan_adoption
from danube_trio._engine.files.directory import Directory, look
from danube_trio.cloud import ObjectInfo
from danube_trio.errors import CorruptDataError, FencedError
from danube_trio.testing import SimDisk, SimStore, StoreOperation

QUIET = attrs.evolve(CONFIG, cloud=attrs.evolve(CONFIG.cloud, upload_interval=None))


async def without(world: World, *parts: str) -> World:
    """A new directory, and the store without these."""
    store = world.store.clone()
    for key in store.tree():
        if any(part in key for part in parts):
            await store.delete(key)
    return World(SimDisk(), store)


async def written(catalog: str = "manifests", segments: int = 5) -> World:
    world = World.new(catalog)
    async with world.open() as wal:
        for i in range(segments):
            await wal.append(b"%d " % i * 40, durability="uploaded")
    return world


@pytest.mark.happens
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize(
    "lost", [("/manifest/",), ("/manifest/", "log/log"), ("/manifest/", "log/log", f"{0:020d}")]
)
async def test_a_log_whose_catalog_is_gone_is_not_begun_anew(
    lost: tuple[str, ...], own: bool, autojump_clock: trio.testing.MockClock
) -> None:
    world = await written()
    left = await without(world, *lost)
    if own:
        left = attrs.evolve(left, disk=world.disk)
    before = left.store.tree()
    for _ in range(2):
        with pytest.raises(CorruptDataError, match="catalog"):
            async with left.open():
                raise AssertionError("it was opened")
    assert left.store.tree() == before


@pytest.mark.happens
@pytest.mark.parametrize("catalog", ["manifests", "metadata"])
@pytest.mark.parametrize("own", [False, True])
async def test_a_log_whose_catalog_went_back_is_not_taken_over(
    own: bool, catalog: str, autojump_clock: trio.testing.MockClock
) -> None:
    world = await written(catalog, 3)
    manifests = {key for key in world.store.tree() if "/manifest/" in key}
    entries = await entries_of(world.metadata) if world.metadata is not None else None
    async with world.open() as wal:
        for i in range(3):
            await wal.append(b"new %d " % i * 40, durability="uploaded")
    disk = world.disk if own else SimDisk()
    left = World(disk, world.store.clone(), await with_entries(entries) if entries else None)
    for key in left.store.tree():
        if "/manifest/" in key and key not in manifests:
            await left.store.delete(key)
    before = left.store.tree()
    with pytest.raises(CorruptDataError, match=r"older than 3 of the objects .* offset 3"):
        async with left.open():
            raise AssertionError("it was opened")
    assert left.store.tree() == before


async def test_an_object_that_nobody_named_stays_until_another_one_has_its_records(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """It may be all that is left of them, if the newest manifest is what was lost."""
    world = await written()
    newest = max(key for key in world.store.tree() if "/manifest/" in key)
    left = await without(world, newest)
    [unnamed] = [key for key in left.store.tree() if f"segments/{4:020d}" in key]
    async with left.open(QUIET) as wal:
        assert wal.next_offset == 4
        await wal.trim(2)
        await trio.sleep(30)
        assert unnamed in left.store.tree()
        await wal.append(b"again", durability="uploaded")
        await trio.sleep(30)
        assert unnamed not in left.store.tree()
    await check_objects(left)


class WrongLists(SimStore):
    """Its lists are empty, as long as `wrong` says so."""

    wrong: Callable[[str], bool]

    async def list_objects(self, prefix: str, *, after: str = "") -> list[ObjectInfo]:
        found = await super().list_objects(prefix, after=after)
        return [] if self.wrong(prefix) else found


@pytest.mark.happens
@pytest.mark.parametrize("times", [1, 2, 3, 1000])
@pytest.mark.parametrize("claimed", [True, False])
async def test_a_list_that_is_wrongly_empty_begins_no_second_history(
    claimed: bool, times: int, autojump_clock: trio.testing.MockClock
) -> None:
    world = await written()
    left = await without(world, *(["log/log"] if not claimed else []))
    before = left.store.tree()
    store = WrongLists()
    store._world = left.store._world
    wrong = iter(range(times))
    store.wrong = lambda prefix: prefix.endswith("/manifest") and next(wrong, None) is not None
    left = World(SimDisk(), store)
    if times == 1000:
        with pytest.raises(CorruptDataError, match="empty"):
            async with left.open():
                raise AssertionError("it was opened")
        assert store.tree() == before
        return
    async with left.open() as wal:
        assert len((await everything(wal)).payloads) == 5
        assert await wal.append(b"goes on", durability="uploaded") == 5
    await check_objects(left)


# ---- removing holds nothing up


@pytest.mark.happens
async def test_objects_are_removed_several_at_a_time_and_nothing_waits_for_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    world = World.new("manifests")
    under_way: list[str] = []
    go = trio.Event()

    async def hang(operation: StoreOperation) -> None:
        if operation.name == "delete" and "/segments/" in operation.key:
            under_way.append(operation.key)
            await go.wait()

    async with world.open() as wal:
        for i in range(40):
            await wal.append(b"%d " % i * 400)
        await wal.wait_uploaded(40)
        world.store.before = hang
        await wal.trim(30)
        await trio.sleep(60)
        assert len(under_way) == 8
        # Sealed, uploaded, trimmed and pruned meanwhile.
        for i in range(3):
            await wal.append(b"%d" % i * 400, durability="uploaded")
        assert await wal.trim(41) == 41
        await trio.sleep(20)
        cloud = wal.statistics().cloud
        assert cloud is not None
        assert (cloud.local_start, len(under_way)) == (43, 8)
        go.set()
        await trio.sleep(60)
    await check_objects(world)


# ---- adopting


async def adopted(world: World, directory: Directory | None = None) -> CatalogState:
    plan = await plan_adoption(world.store, world.catalog(), directory)
    assert plan is not None
    assert not plan.refused, plan
    return await adopt_objects(world.store, world.catalog(), plan)


@pytest.mark.happens
@pytest.mark.parametrize("catalog", ["manifests", "metadata"])
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("back_to", [None, 1, 3])
async def test_objects_without_their_catalog_are_adopted(
    back_to: int | None, own: bool, catalog: str, autojump_clock: trio.testing.MockClock
) -> None:
    world = await written(catalog, back_to or 0)
    manifests = {key for key in world.store.tree() if "/manifest/" in key}
    entries = await entries_of(world.metadata) if world.metadata is not None else None
    async with world.open() as wal:
        for i in range(wal.next_offset, 6):
            await wal.append(b"%d " % i * 40, durability="uploaded")
        before = await everything(wal)
        await wal.append(b"tail")
    left = World(world.disk if own else SimDisk(), world.store.clone())
    if catalog == "metadata":
        left = attrs.evolve(left, metadata=await with_entries((entries or {}) if back_to else {}))
    for key in left.store.tree():
        if "/manifest/" in key and (key not in manifests or not back_to):
            await left.store.delete(key)
    state = await adopted(left)
    assert (state.start_offset, state.end, len(state.segments)) == (0, 6, 6)
    assert await plan_adoption(left.store, left.catalog()) is None
    for life in range(2):
        async with left.open() as wal:
            found = await everything(wal)
            assert list(found.payloads.values())[:6] == list(before.payloads.values())
            assert wal.next_offset == 6 + own + life
            await wal.append(b"goes on", durability="uploaded")
    await check_objects(left)


@pytest.mark.happens
async def test_a_writer_that_lives_on_is_fenced_by_an_adopted_catalog(
    autojump_clock: trio.testing.MockClock,
) -> None:
    world = World.new("manifests")
    with pytest.raises(FencedError):
        async with world.open(QUIET) as wal:
            await wal.append(b"a" * 100, durability="uploaded")
            for key in world.store.tree():
                if "/manifest/" in key:
                    await world.store.client().delete(key)
            await adopted(World(SimDisk(), world.store.client()))
            await wal.append(b"b" * 100, durability="uploaded")


@pytest.mark.happens
async def test_a_hole_between_objects_is_not_adopted(
    autojump_clock: trio.testing.MockClock,
) -> None:
    left = await without(await written(), "/manifest/", f"segments/{2:020d}")
    before = left.store.tree()
    plan = await plan_adoption(left.store, left.catalog())
    assert plan is not None
    assert [reason[:15] for _, reason in plan.refused] == ["records 2 to 3 "]
    with pytest.raises(FencedError):
        await adopt_objects(left.store, left.catalog(), plan)
    assert left.store.tree() == before


@pytest.mark.happens
async def test_an_object_that_is_damaged_is_not_adopted(
    autojump_clock: trio.testing.MockClock,
) -> None:
    left = await without(await written(), "/manifest/")
    last = max(left.store.tree())
    data = bytearray(left.store.tree()[last])
    data[40] ^= 1
    await left.store.put(last, bytes(data))
    plan = await plan_adoption(left.store, left.catalog())
    assert plan is not None
    assert plan.after.end == 4
    assert [path for path, _ in plan.left] == [f"sim:/{last}"]


async def test_what_the_directory_trimmed_is_not_adopted(
    autojump_clock: trio.testing.MockClock,
) -> None:
    world = await written()
    world.store.fail("delete", kind="denied", sticky=True)
    async with world.open() as wal:
        await wal.trim(3)
    left = await without(world, "/manifest/")
    left = attrs.evolve(left, disk=world.disk)
    names = LogNames.of("/data/log", CONFIG.file_name)
    state = await adopted(left, look(left.disk, names, complete=False))
    assert (state.start_offset, state.end) == (3, 5)


async def test_nothing_is_adopted_over_a_catalog_that_went_on(
    autojump_clock: trio.testing.MockClock,
) -> None:
    world = await written()
    assert await plan_adoption(world.store, world.catalog()) is None
    newest = max(key for key in world.store.tree() if "/manifest/" in key)
    data = world.store.tree()[newest]
    left = await without(world, "/manifest/")
    plan = await plan_adoption(left.store, left.catalog())
    assert plan is not None
    await left.store.put(newest, data)
    with pytest.raises(FencedError):
        await adopt_objects(left.store, left.catalog(), plan)
