"""A catalog that is gone, or older than its objects: nothing is begun, given again, or removed."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import pytest
import trio
import trio.testing
from cloud_model import CONFIG, World, check_objects, entries_of, everything, with_entries

from danube_trio.cloud import ObjectInfo
from danube_trio.errors import CorruptDataError
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
