"""Directory, catalog and prefix: whose they are, and what happens when two do not belong together.

Of cursors it is told in `test_identity_cursors`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import attrs
import pytest
import trio
import trio.testing
from cloud_model import CONFIG, World, check_objects, cloud, everything, reopened

from danube_trio import (
    CloudConfig,
    StorageConfig,
    WalConfig,
    open_follower,
    open_replica,
    open_storage,
    open_wal,
)
from danube_trio._core.catalog import CatalogState
from danube_trio._core.files import Meta, decode_document, encode_document
from danube_trio._core.segment import LogNames
from danube_trio._engine.care.heal import plan_heal
from danube_trio._engine.care.verify_objects import compare
from danube_trio._engine.read.observe import find_log
from danube_trio.catalog import MetadataCatalog
from danube_trio.cloud import MemoryStore
from danube_trio.errors import CorruptDataError
from danube_trio.metadata import MemoryMetadata
from danube_trio.testing import SimDisk, SimStore

KEEPING = attrs.evolve(
    CONFIG,
    segment_bytes=1 << 20,
    cloud=attrs.evolve(CONFIG.cloud, keep_local_bytes=1 << 20, upload_interval=None),
)
NAMES = LogNames.of("/data/log", "wal.log")


def kept_aside(disk: SimDisk) -> bytes:
    return b"".join(data for path, data in disk.tree().items() if path.endswith(".fenced"))


def differences(world: World, state: CatalogState | None) -> list[str]:
    assert state is not None
    found = compare(world.disk, find_log(world.disk, NAMES), state)
    return [finding.reason for finding in found if finding.severity == "problem"]


# ---- a directory that was copied


async def restored(before_the_copy: int, after_it: int) -> World:
    """A log that was copied, went on, uploaded, and was lost; the copy is in its place."""
    world = World.new("manifests")
    async with world.open(KEEPING) as wal:
        await wal.append_batch([b"common %d" % i for i in range(10)])
        await wal.wait_uploaded(10)
        if before_the_copy:
            await wal.append_batch([b"common %d" % i for i in range(10, 10 + before_the_copy)])
        copy = world.disk.crash("everything written")
        for i in range(before_the_copy, after_it):
            await wal.append(b"original %d" % i)
        await wal.wait_uploaded(10 + after_it)
    return attrs.evolve(world, disk=copy, store=world.store.client())


@pytest.mark.happens
@pytest.mark.parametrize("at_the_copy", [0, 3])
@pytest.mark.parametrize("apart", [5, 10, 14])
async def test_what_a_copy_appended_without_the_store_is_set_aside_and_said(
    apart: int, at_the_copy: int, autojump_clock: trio.testing.MockClock
) -> None:
    """Fewer records than the original uploaded, as many, and more."""
    world = await restored(at_the_copy, 10)
    async with open_wal(KEEPING, disk=world.disk) as wal:
        for i in range(at_the_copy, apart):
            await wal.append(b"new order %d " % i)
    state = await world.catalog().latest()
    assert state is not None
    assert any("not those that the store has" in reason for reason in differences(world, state))
    async with world.open(KEEPING) as wal:
        found = await everything(wal)
        assert wal.next_offset == 20
        await wal.append(b"goes on", durability="uploaded")
    assert [b"new" in payload for payload in found.payloads.values()] == [False] * 20
    [note] = found.notes
    assert f"records 10 to {10 + apart} are not those" in note
    aside = kept_aside(world.disk)
    assert all(b"new order %d " % i in aside for i in range(at_the_copy, apart))
    assert await check_objects(world)
    assert not differences(world, await world.catalog().latest())


async def test_histories_that_part_at_a_segments_boundary_are_not_mixed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The copy's segments end where the original's do: every name and size is as it must be."""
    small = attrs.evolve(KEEPING, segment_bytes=700)
    world = World.new("manifests")
    async with world.open(small) as wal:
        await wal.append(b"common" * 20, durability="uploaded")
        copy = world.disk.crash("everything written")
        for i in range(12):
            await wal.append(b"%02d old" % i * 20)
        await wal.wait_uploaded(13)
    async with open_wal(small, disk=copy) as wal:
        for i in range(20):
            await wal.append(b"%02d new" % i * 20)
    ours = attrs.evolve(world, disk=copy, store=world.store.client())
    assert differences(ours, await world.catalog().latest())
    found = await reopened(ours, small)
    assert found.next_offset == 13
    assert not any(b"new" in payload for payload in found.payloads.values())
    assert kept_aside(copy).count(b"19 new") == 20


@pytest.mark.happens
async def test_an_older_copy_that_nobody_used_goes_on_where_the_store_does(
    autojump_clock: trio.testing.MockClock,
) -> None:
    world = await restored(0, 10)
    found = await reopened(world, KEEPING)
    assert (found.next_offset, found.notes) == (20, ())


async def test_setting_aside_what_a_copy_appended_can_crash_anywhere(
    autojump_clock: trio.testing.MockClock,
) -> None:
    world = await restored(2, 10)
    async with open_wal(KEEPING, disk=world.disk) as wal:
        await wal.append_batch([b"apart %d " % i * 9 for i in range(14)])
    begun, before = world.disk.op_count, world.store.clone()
    async with world.open(KEEPING) as wal:
        assert wal.next_offset == 20
    for point in world.disk.crash_points(start=begun):
        for state in point.states:
            found = await reopened(World(state.disk, before.clone()), KEEPING)
            assert found.next_offset == 20, state
            assert not any(b"apart" in payload for payload in found.payloads.values())
            assert b"apart 13 " in kept_aside(state.disk), state


async def test_a_damaged_segment_is_not_taken_for_another_history(
    autojump_clock: trio.testing.MockClock,
) -> None:
    world = World.new("manifests")
    async with world.open(KEEPING) as wal:
        await wal.append_batch([b"uploaded" * 20] * 3)
        await wal.wait_uploaded(3)
        await wal.append(b"tail")
    world.disk.corrupt(NAMES.segment(0), 100)
    async with world.open(KEEPING) as wal:
        found = await everything(wal)
    assert list(found.payloads.values()) == [b"uploaded" * 20] * 3 + [b"tail"]
    assert not kept_aside(world.disk)


async def test_repair_heals_nothing_from_a_store_with_another_history(
    autojump_clock: trio.testing.MockClock,
) -> None:
    world = await restored(0, 10)
    async with open_wal(KEEPING, disk=world.disk) as wal:
        await wal.append_batch([b"apart"] * 12)
    world.disk.corrupt(NAMES.segment(0), 100)
    state = await world.catalog().latest()
    assert state is not None
    with pytest.raises(ValueError, match="went on apart"):
        plan_heal(world.disk, NAMES, state)


@pytest.mark.happens
async def test_opening_without_the_store_that_a_directory_has_is_said(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    world = World.new("manifests")
    async with open_wal(KEEPING, disk=world.disk):
        pass
    async with world.open(KEEPING):
        pass
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        async with open_wal(KEEPING, disk=world.disk):
            pass
    assert "opened without the object store" in caplog.text
    assert "log/segments" in caplog.text


# ---- whose log


@pytest.mark.happens
async def test_a_directory_is_refused_by_the_catalog_of_another_log_of_the_same_owner(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Both were in the store, and everything is uploaded: there is no record to tell them apart."""
    world = World.new("manifests")
    other = attrs.evolve(KEEPING, dir="/data/other", cloud=CloudConfig(prefix="other"))
    async with world.open(KEEPING) as wal:
        await wal.append(b"a", durability="uploaded")
    async with open_wal(other, disk=world.disk, store=world.store) as wal:
        await wal.append(b"b", durability="uploaded")
    before = world.disk.tree(), world.store.tree()
    mistyped = attrs.evolve(other, cloud=KEEPING.cloud)
    with pytest.raises(CorruptDataError, match=r"and the catalog the log .* Each log has"):
        async with open_wal(mistyped, disk=world.disk, store=world.store):
            raise AssertionError
    with pytest.raises(CorruptDataError, match="and the catalog the log"):
        async with open_follower(
            "/data/other", disk=world.disk, store=world.store, prefix="log"
        ) as follower:
            await follower.refresh()
            raise AssertionError
    assert (world.disk.tree(), world.store.tree()) == before


@pytest.mark.parametrize("catalog", ["manifests", "metadata"])
async def test_a_log_of_an_older_version_opens_and_says_from_then_on_whose_it_is(
    catalog: str, autojump_clock: trio.testing.MockClock
) -> None:
    world = World.new(catalog)
    async with world.open(KEEPING) as wal:
        log_id = wal.log_id
        await wal.append(b"a", durability="uploaded")
        await wal.append(b"tail")
    await forget(world)
    async with world.open(attrs.evolve(KEEPING, topic_name="/d/t")) as wal:
        assert wal.log_id == log_id
        assert list((await everything(wal)).payloads.values()) == [b"a", b"tail"]
    for _ in range(2):
        async with world.open(attrs.evolve(KEEPING, topic_name="d/t")) as wal:
            await wal.append(b"b", durability="uploaded")
    meta = decode_document(world.disk.tree()[NAMES.meta], Meta)
    state = await world.catalog().latest()
    assert state is not None
    assert (meta.log, meta.topic) == (state.log, state.topic) == (log_id, "/d/t")
    assert state.place == meta.place
    async with attrs.evolve(world, disk=SimDisk()).open(KEEPING) as wal:
        assert wal.log_id == log_id


async def forget(world: World) -> None:
    """Take out of directory and catalog what older versions do not have."""
    meta = decode_document(world.disk.tree()[NAMES.meta], Meta)
    meta = attrs.evolve(meta, log="", topic="")
    world.disk.write_file(NAMES.meta, encode_document(meta))
    catalog = world.catalog()
    state = await catalog.latest()
    assert state is not None
    after = attrs.evolve(state, log="", topic="", place="", nonce="old", sequence=0)
    await catalog.publish(state, after)
    await world.store.delete(f"{catalog.object_prefix.removesuffix('/segments')}/log")


async def test_an_older_directory_that_lost_its_log_is_set_aside_and_not_refused(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """It was opened without the store meanwhile, and must not have made an id for itself."""
    world = World.new("manifests")
    async with world.open(KEEPING) as wal:
        await wal.append(b"a", durability="uploaded")
    await forget(world)
    async with open_wal(KEEPING, disk=world.disk) as wal:
        await wal.append(b"here only")
        assert not wal.log_id
    other = attrs.evolve(world, disk=SimDisk(), store=world.store.client())
    async with other.open(KEEPING) as wal:
        await wal.append(b"b", durability="uploaded")
        log_id = wal.log_id
    async with world.open(KEEPING) as wal:
        assert wal.log_id == log_id
        assert list((await everything(wal)).payloads.values()) == [b"a", b"b"]
    assert b"here only" in kept_aside(world.disk)


# ---- whose topic, whose prefix


def settings(name: str, topic: str, prefix: str = "") -> WalConfig:
    cloud = CloudConfig(prefix=prefix, upload_interval=None)
    return WalConfig(dir=f"/data/{name}", topic_name=topic, preallocate_bytes=0, cloud=cloud)


async def test_two_topics_with_one_prefix_do_not_become_one_log(
    autojump_clock: trio.testing.MockClock,
) -> None:
    disk, store = SimDisk(), SimStore()
    billing = settings("billing", "/default/billing", "prod/logs")
    async with open_wal(billing, disk=disk, store=store) as wal:
        await wal.append(b"billing", durability="uploaded")
    audit = settings("audit", "/default/audit", "prod/logs")
    for each in (audit, attrs.evolve(audit, dir="/data/billing")):
        with pytest.raises(ValueError, match=r"topic_name='/default/audit'.*'/default/billing'"):
            async with open_wal(each, disk=disk, store=store):
                raise AssertionError
    with pytest.raises(ValueError, match="'/default/billing'"):
        async with open_replica(store, topic="/default/audit", prefix="prod/logs"):
            raise AssertionError
    for topic in ("/default/billing", "default/billing", ""):
        async with open_wal(attrs.evolve(billing, topic_name=topic), disk=disk, store=store) as wal:
            assert wal.next_offset == 1


async def test_a_local_log_is_not_opened_as_another_topic() -> None:
    disk = SimDisk()
    async with open_wal(settings("log", "/d/a"), disk=disk) as wal:
        await wal.append(b"a")
    before = disk.tree()
    with pytest.raises(ValueError, match=r"'/d/A': the log in /data/log is that of topic '/d/a'"):
        async with open_wal(settings("log", "/d/A"), disk=disk):
            raise AssertionError
    assert disk.tree() == before


class FoldingStore(MemoryStore):
    """As on a file system that takes names which differ in case for the same."""


def _fold(name: str) -> None:
    inner = getattr(MemoryStore, name)

    async def folded(self: MemoryStore, key: str, *args: object, **options: object) -> object:
        if isinstance(options.get("after"), str):
            options["after"] = str(options["after"]).casefold()
        found = await inner(self, key.casefold(), *args, **options)
        if name == "list_objects":  # a directory is listed under the name that it was asked by
            return [attrs.evolve(info, key=key + info.key[len(key) :]) for info in found]
        return found

    setattr(FoldingStore, name, folded)


for _name in ("create", "delete", "get", "head", "list_objects", "list_children", "put", "upload"):
    _fold(_name)


@pytest.mark.happens
@pytest.mark.parametrize("uploads", [0, 1])
@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("", "prod/Logs"), ("", "prod/logs")),
        (("/d/Orders", ""), ("/d/orders", "")),
    ],
)
async def test_names_that_a_file_system_takes_for_the_same_are_refused(
    one: tuple[str, str],
    other: tuple[str, str],
    uploads: int,
    autojump_clock: trio.testing.MockClock,
) -> None:
    disk, store = SimDisk(), FoldingStore()
    for _ in range(uploads + 1):
        async with open_wal(settings("a", *one), disk=disk, store=store) as wal:
            await wal.append(b"one")
            if uploads:
                await wal.wait_uploaded(wal.next_offset)
    with pytest.raises(ValueError, match=r"two topics would become one|takes for"):
        async with open_wal(settings("b", *other), disk=disk, store=store):
            raise AssertionError
    async with open_wal(settings("a", *one), disk=disk, store=store) as wal:
        assert wal.next_offset == uploads + 1


@pytest.mark.parametrize("inner", ["segments/x", "manifest/x/y", "pages", "Segments/x", "log/x"])
async def test_a_prefix_inside_the_names_of_another_log_is_refused(
    inner: str, autojump_clock: trio.testing.MockClock
) -> None:
    disk, store = SimDisk(), SimStore()
    outer, nested = settings("a", "", "prod/log"), settings("b", "", f"prod/log/{inner}")
    async with open_wal(outer, disk=disk, store=store):
        pass
    with pytest.raises(ValueError, match="inside the names of the log below 'prod/log'"):
        async with open_wal(nested, disk=disk, store=store):
            raise AssertionError
    beside = attrs.evolve(nested, cloud=CloudConfig(prefix="prod/log/others/x"))
    async with open_wal(attrs.evolve(beside, dir="/data/c"), disk=disk, store=store):
        pass
    if inner in ("segments/x", "manifest/x/y"):
        disk, store = SimDisk(), SimStore()
        async with open_wal(nested, disk=disk, store=store):
            pass
        with pytest.raises(ValueError, match="another log inside its own names"):
            async with open_wal(outer, disk=disk, store=store):
                raise AssertionError


async def test_objects_of_a_log_that_is_nested_from_before_are_not_collected(
    autojump_clock: trio.testing.MockClock,
) -> None:
    world = World.new("manifests")
    async with world.open(KEEPING):
        pass
    key = "log/segments/x/segments/00000000000000000000-0000000001-abc.dnb1"
    await world.store.put(key, b"of another log")
    async with world.open(KEEPING) as wal:
        await wal.append(b"a", durability="uploaded")
    assert key in world.store.tree()


# ---- many topics, and catalogs that do not know of each other


@pytest.fixture
def places() -> Callable[[str, str], StorageConfig]:
    def storage(name: str, root: str) -> StorageConfig:
        wal = WalConfig(preallocate_bytes=0, cloud=CloudConfig(upload_interval=None))
        return StorageConfig(dir=f"/data/{name}", metadata_root=root, wal=wal)

    return storage


async def test_two_roots_of_one_metadata_store_do_not_share_objects(
    places: Callable[[str, str], StorageConfig], autojump_clock: trio.testing.MockClock
) -> None:
    """Each would remove what its own catalog does not name."""
    disk, store, metadata = SimDisk(), SimStore(), MemoryMetadata()
    for root in ("/prod", "/danube"):
        async with open_storage(
            places("prod", "/prod"), store=store, metadata=metadata, disk=disk
        ) as storage:
            await storage.append_message("/d/t", b"prod", durability="uploaded")
        if root == "/danube":
            break
        async with open_storage(
            places("staging", "/staging"), store=store, metadata=metadata, disk=disk
        ) as staging:
            with pytest.raises((ValueError, CorruptDataError), match="storage/topics/d/t"):
                await staging.append_message("/d/t", b"staging", durability="uploaded")
            await staging.append_message("/d/other", b"staging", durability="uploaded")
    world = World(disk, store)
    catalog = MetadataCatalog(metadata, "/d/t", root="/prod")
    state = await catalog.latest()
    assert state is not None
    assert state.end == 2
    assert {catalog.object_key(d.object_id) for d in state.segments} <= world.store.tree().keys()


@pytest.mark.parametrize("first", ["manifests", "metadata"])
async def test_manifests_and_a_metadata_store_do_not_share_a_prefix(
    first: str, autojump_clock: trio.testing.MockClock
) -> None:
    disk, store, metadata = SimDisk(), SimStore(), MemoryMetadata()
    one, other = settings("a", "/d/t"), settings("b", "/d/t")
    catalogs = [None, MetadataCatalog(metadata, "/d/t")]
    mine, theirs = catalogs if first == "manifests" else catalogs[::-1]
    async with open_wal(one, disk=disk, store=store, catalog=mine) as wal:
        await wal.append(b"a", durability="uploaded")
    before = store.tree()
    for config in (other, one):
        with pytest.raises(CorruptDataError, match="the catalog that names them is empty"):
            async with open_wal(config, disk=disk, store=store, catalog=theirs):
                raise AssertionError
    assert store.tree() == before


async def test_directories_that_begin_a_log_together_claim_one_prefix(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The one that died between publishing and claiming leaves it to the next."""
    world = World.new("manifests")
    world.store.fail("create", key_contains="log/log", sticky=True)
    with pytest.raises(Exception, match="claiming"):
        async with world.open(KEEPING):
            raise AssertionError
    other = attrs.evolve(world, disk=SimDisk(), store=world.store.client())
    async with other.open(KEEPING) as wal:
        await wal.append(b"a", durability="uploaded")
        assert cloud(wal).epoch == 2
    assert b'"log"' in world.store.tree()["log/log"]


async def test_a_catalog_that_was_lost_is_not_begun_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    world = World.new("manifests")
    async with world.open(KEEPING) as wal:
        await wal.append(b"a", durability="uploaded")
    for key in world.store.tree():
        if "manifest" in key:
            await world.store.delete(key)
    before = world.store.tree()
    for disk in (world.disk, SimDisk()):
        with pytest.raises(CorruptDataError, match="the catalog that names them is empty"):
            async with attrs.evolve(world, disk=disk, store=world.store.client()).open(KEEPING):
                raise AssertionError
    assert world.store.tree() == before
