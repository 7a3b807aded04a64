"""A store and a metadata store that fail in every way, at every operation of a workload.

`DANUBE_CLOUD_SEEDS` asks for more random weather (default 6), and for every operation instead of
some.
"""

from __future__ import annotations

import os
from typing import Literal, get_args

import attrs
import pytest
import trio
import trio.testing
from cloud_model import CONFIG, Journal, Watch, World, elsewhere, reopened, told

from danube_trio import Wal
from danube_trio._core.crc import crc32
from danube_trio._core.segment import Segment
from danube_trio._engine.log.verify_upload import verify_upload
from danube_trio.errors import CorruptDataError, FencedError, StoreError, StoreUnavailableError
from danube_trio.testing import SimDisk, SimStore, StoreFaultKind, StoreOperation

SEEDS = int(os.environ.get("DANUBE_CLOUD_SEEDS", "6"))
LONG = SEEDS > 6
KINDS: list[StoreFaultKind] = [
    "unavailable",
    "reply_lost",
    "late",
    "false_conflict",
    "own_conflict",
    "denied",
    "hang",
    "hang_after",
]
MetadataKind = Literal["unavailable", "reply_lost", "denied", "hang", "hang_after"]
METADATA_KINDS: tuple[MetadataKind, ...] = get_args(MetadataKind)
HANGING: tuple[StoreFaultKind, ...] = ("hang", "hang_after")
LIMPING = attrs.evolve(CONFIG, cloud=attrs.evolve(CONFIG.cloud, upload_timeout=20.0))


async def body(wal: Wal, journal: Journal, life: int) -> None:
    """Something of everything. Whatever the store does, the appends are durable here."""
    await journal.append(wal, "fsync", *(b"life %d, %d " % (life, i) * 8 for i in range(4)))
    try:
        await journal.append(wal, "uploaded", b"important " * 20)
    except StoreUnavailableError:
        assert wal.durable_end == wal.next_offset
    await journal.append(wal, "fsync", b"x" * 400)
    with trio.move_on_after(60):
        await journal.uploaded(wal)
    with trio.move_on_after(60):
        try:
            await journal.trim(wal, wal.next_offset - 3)
        except StoreError:
            await trio.sleep(1)
    await journal.append(wal, "fsync", b"tail %d" % life)
    await trio.sleep(11)


async def lives(world: World, journal: Journal, count: int = 2) -> None:
    """One life after the other, however often opening has to be tried."""
    for life in range(count):
        for _ in range(60):
            with trio.move_on_after(60):
                try:
                    async with world.open(LIMPING) as wal:
                        with trio.CancelScope(shield=True):
                            await body(wal, journal, life)
                    break
                except (StoreError, FencedError):
                    await trio.sleep(1)
        else:
            raise AssertionError("it never opened")


async def check(world: World, journal: Journal) -> None:
    """The weather is fine again: everything is there, and only once."""
    world.store.settle()
    found = await reopened(world, exact=False)
    journal.check(found, journal.watch.now, "written", "fsync", "uploaded")
    world.store.settle()
    # What arrived late is removed by the next owner.
    await reopened(world)
    there = await elsewhere(world)
    assert there.next_offset == found.next_offset + 2


async def clean_run(catalog: str) -> World:
    world = World.new(catalog)
    await lives(world, Journal(Watch(world)))
    return world


@pytest.mark.happens
@pytest.mark.parametrize("catalog", ["manifests", "metadata"])
@pytest.mark.parametrize("kind", KINDS)
async def test_one_failure_of_the_store_at_any_operation_loses_nothing(
    kind: StoreFaultKind, catalog: str, autojump_clock: trio.testing.MockClock
) -> None:
    operations = (await clean_run(catalog)).store.operations
    if kind in ("false_conflict", "own_conflict"):
        operations = tuple(op for op in operations if op.name == "create")
    stride = 1 if LONG else max(1, len(operations) // 6)
    hits = 0
    for nth in range(1 + KINDS.index(kind) % stride, len(operations) + 1, stride):
        world = World.new(catalog, nth)
        journal = Journal(await Watch(world).begin())
        fault = world.store.fail(None, nth, kind=kind, late_by=1 + nth % 7)
        await lives(world, journal)
        hits += fault.hits
        fault.cancel()
        with told(f"{kind} at {nth}"):
            await check(world, journal)
    assert hits


@pytest.mark.parametrize("kind", METADATA_KINDS)
async def test_one_failure_of_the_metadata_store_at_any_operation_loses_nothing(
    kind: MetadataKind, autojump_clock: trio.testing.MockClock
) -> None:
    metadata = (await clean_run("metadata")).metadata
    assert metadata is not None
    for nth in range(3, metadata.op_count + 1, 1 if LONG else 17):
        world = World.new("metadata", nth)
        journal = Journal(await Watch(world).begin())
        assert world.metadata is not None
        fault = world.metadata.fail(None, nth, kind=kind)
        await lives(world, journal)
        fault.cancel()
        with told(f"{kind} at {nth}"):
            await check(world, journal)


@pytest.mark.parametrize("catalog", ["manifests", "metadata"])
async def test_bad_weather_loses_nothing(
    catalog: str, autojump_clock: trio.testing.MockClock
) -> None:
    for seed in range(SEEDS):
        world = World.new(catalog, seed)
        journal = Journal(await Watch(world).begin())
        fault = world.store.fail_sometimes(0.05 + 0.1 * (seed % 4))
        await lives(world, journal, 3)
        fault.cancel()
        with told(f"seed {seed}"):
            await check(world, journal)


@pytest.mark.parametrize("hidden", [1, 2, 5])
async def test_lists_that_are_stale_for_a_while_lose_nothing(
    hidden: int, autojump_clock: trio.testing.MockClock
) -> None:
    """Not a store that the log is made for: it may refuse to open, and must not do harm."""
    count = (await clean_run("manifests")).store.op_count
    for begin in range(0, count, 1 if LONG else 13):
        world = World.new("manifests", begin)
        journal = Journal(await Watch(world).begin())

        async def stale(
            operation: StoreOperation, begin: int = begin, world: World = world
        ) -> None:
            world.store.stale_keys = hidden if begin <= operation.number < begin + 6 else 0

        world.store.before = stale
        for _ in range(20):
            try:
                await lives(world, journal)
                break
            except CorruptDataError:
                await trio.sleep(1)
        world.store.before = None
        world.store.stale_keys = 0
        with told(f"from {begin} on"):
            await check(world, journal)


@pytest.mark.happens
async def test_a_store_that_lies_about_creating_is_refused() -> None:
    world = World(SimDisk(), SimStore(create_overwrites=True))
    with pytest.raises(StoreError, match="lets create overwrite"):
        async with world.open():
            raise AssertionError("it was opened")
    assert world.disk.tree().keys() <= {"/data/log/wal.lock"}
    assert not any(key.startswith("log/") for key in world.store.tree())


async def test_a_store_that_is_gone_for_long_is_left_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Leaving waits for no answer, whatever is under way: upload, trim, removal, take-over."""
    for kind in HANGING:
        for operation in ("upload", "create", "get", "list_objects", "delete"):
            world = World.new("manifests")
            async with world.open() as wal, trio.open_nursery() as nursery:
                await wal.append_batch([b"x" * 300] * 6, durability="uploaded")
                await wal.trim(3)
                world.store.fail(operation, kind=kind, sticky=True)
                wal.append_nowait(b"y" * 600)
                nursery.start_soon(wal.trim, 5)
                await trio.sleep(20)
                nursery.cancel_scope.cancel()
                before = trio.current_time()
            assert trio.current_time() - before < 1, (kind, operation)
            assert not world.disk.open_paths


async def test_a_new_directory_cannot_be_opened_while_the_store_is_away(
    autojump_clock: trio.testing.MockClock,
) -> None:
    world = World.new("manifests")
    fault = world.store.fail(None, kind="unavailable", sticky=True)
    with pytest.raises(StoreUnavailableError):
        async with world.open():
            raise AssertionError("it was opened")
    fault.cancel()
    async with world.open() as wal:
        await wal.append(b"a", durability="uploaded")
    other = attrs.evolve(world, disk=SimDisk())
    async with other.open() as wal:
        assert wal.next_offset == 1


# ---- what an upload is compared by


@pytest.mark.parametrize("how", ["read", "head"])
@pytest.mark.parametrize("differs", ["", "size", "tag", "checksum"])
async def test_an_upload_is_compared_by_size_tag_and_checksum(
    how: Literal["read", "head"], differs: str
) -> None:
    store, data = SimStore(), b"frames" * 1000
    info = await store.put("key", data)
    segment = Segment(0, 5, len(data) + (differs == "size"), 0, 0)
    if differs == "tag":
        info = attrs.evolve(info, etag="another")
    crc = crc32(data) ^ (differs == "checksum")
    if not differs or (how, differs) == ("head", "checksum"):  # that asks for no bytes
        await verify_upload(store, "key", info, segment, crc, how)
    else:
        with pytest.raises(CorruptDataError, match="differs from the file"):
            await verify_upload(store, "key", info, segment, crc, how)


@pytest.mark.happens
async def test_an_object_that_is_not_what_was_uploaded_is_uploaded_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    world = World.new("manifests")
    client = world.store.client()
    damaged: list[str] = []

    async def damage(operation: StoreOperation) -> None:
        if operation.key.endswith(".dnb1") and operation.name == "upload" and not damaged:
            damaged.append(operation.key)
            data = bytearray(world.store.tree()[operation.key])
            data[-1] ^= 1
            await client.put(operation.key, bytes(data))

    world.store.after = damage
    async with world.open() as wal:
        await wal.append(b"important", durability="uploaded")
        assert damaged
        assert wal.statistics().cloud.upload_failures == 1  # type: ignore[union-attr]
        await trio.sleep(60)
        assert damaged[0] not in world.store.tree()
    async with world.process(SimDisk()).open() as wal:
        assert [m.payload async for m in wal.reader(end="current")] == [b"important"]


async def test_frames_of_an_object_are_verified_up_to_the_last_byte(
    autojump_clock: trio.testing.MockClock,
) -> None:
    world = World.new("manifests")
    async with world.open() as wal:
        await wal.append_batch([b"%d" % i * 20 for i in range(5)], durability="uploaded")
        tier = wal._engine.tier
        assert tier is not None
        [descriptor] = tier.objects
        data = world.store.tree()[world.catalog().object_key(descriptor.object_id)]
        assert tier._verify(data, descriptor, 0).end == 5
        for wrong in (data[:-1], data + b"x", data[:-1] + b"x", data[:40] + b"x" + data[41:]):
            with pytest.raises(CorruptDataError):
                tier._verify(wrong, attrs.evolve(descriptor, size_bytes=len(wrong)), 0)
