"""Defects of a log with an object store that were found once, each with the story of how."""

from __future__ import annotations

import attrs
import pytest
import trio
import trio.testing
from cloud_model import CONFIG, World, check_objects, cloud, everything, go_on

from danube_trio import StartPosition, Wal, WalConfig, open_wal
from danube_trio._core.files import with_crc, without_crc
from danube_trio._core.segment import LogNames
from danube_trio.catalog import Backoff, ManifestCatalog
from danube_trio.errors import (
    CorruptDataError,
    FencedError,
    LogClosedError,
    OffsetTrimmedError,
    StoreUnavailableError,
)
from danube_trio.testing import SimDisk, SimStore, StoreOperation

ON_DEMAND = attrs.evolve(CONFIG, cloud=attrs.evolve(CONFIG.cloud, upload_interval=None))
KEEPING = attrs.evolve(ON_DEMAND, cloud=attrs.evolve(ON_DEMAND.cloud, keep_local_bytes=1 << 20))


async def test_an_upload_that_a_later_try_settles_is_kept(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Its commit was done when it was tried again; its object was then removed as rubbish."""
    world = World.new("manifests")
    async with world.open() as wal:
        await wal.append(b"a", durability="uploaded")
        fault = world.store.fail("create", kind="reply_lost", key_contains="manifest", sticky=True)
        lists = world.store.fail("get", key_contains="manifest", sticky=True)
        wal.append_nowait(b"b")
        await trio.sleep(60)
        fault.cancel()
        lists.cancel()
        await wal.wait_uploaded(2)
        await go_on(wal)
        assert cloud(wal).uploads == 3
    await check_objects(world)


async def test_a_receipt_asks_for_an_upload_before_the_record_is_written(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The uploader found nothing to upload yet, and nobody told it when there was."""
    world = World.new("manifests")
    async with world.open(ON_DEMAND) as wal:
        with trio.fail_after(30):
            assert await wal.append_nowait(b"a").uploaded() == range(1)
            wal.append_nowait(b"b")
            await wal.wait_uploaded(2)
            wal.append_nowait(b"c")
            assert await wal.seal() == 3


async def test_a_trim_at_segment_starts_keeps_what_is_in_objects_only(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The first local segment was taken for the one that holds the record."""
    world = World.new("manifests")
    async with world.open(ON_DEMAND) as wal:
        for i in range(9):
            await wal.append(b"%d" % i * 200, durability="uploaded")
        await trio.sleep(6)
        assert cloud(wal).local_start == 9
        assert await wal.trim(4, whole_segments=True) == 4
        assert (await everything(wal)).start == 4
    async with open_wal(ON_DEMAND, disk=world.disk) as wal:  # without its store
        assert await wal.trim(6, whole_segments=True) == 4


async def test_a_trim_is_seen_when_the_log_begins_later_and_not_before(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Between the catalog's trim and the local one, a reader saw damage where there was none.

    Then it was told to begin at the start of the log, from which it was sent away again.
    """
    world = World.new("manifests")
    async with world.open(ON_DEMAND) as wal:
        for i in range(6):
            await wal.append(b"%d" % i * 200, durability="uploaded")
        await trio.sleep(6)
        reader = wal.reader(StartPosition.offset(1))
        world.store.fail("create", kind="hang_after", key_contains="manifest")
        with trio.move_on_after(1) as scope:
            await wal.trim(4)
        assert scope.cancelled_caught
        world.disk.latency = 1.0
        await wal.append(b"settles it", durability="uploaded")
        assert wal.start_offset == 0
        assert (await wal.reader().__anext__()).offset == 0
        assert (await reader.__anext__()).offset == 1
        late = wal.reader(StartPosition.offset(1))
        await trio.sleep(30)
        assert wal.start_offset == 4
        with pytest.raises(OffsetTrimmedError) as caught:
            await late.__anext__()
        assert caught.value.start_offset == 4
        await go_on(wal)
    await check_objects(world)


async def test_a_trim_without_the_store_is_no_hole(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A log that was opened without its store, and trimmed beyond the objects."""
    world = World.new("manifests")
    async with world.open(ON_DEMAND) as wal:
        await wal.append(b"a", durability="uploaded")
    async with open_wal(ON_DEMAND, disk=world.disk) as wal:
        for i in range(8):
            await wal.append_batch([b"%d" % i * 100] * 2)
        assert await wal.trim(8) == 8
    async with world.open(ON_DEMAND) as wal:
        found = await everything(wal)
        assert (found.start, found.next_offset) == (8, 17)
        await go_on(wal)
    await check_objects(world)


async def test_a_log_that_begins_inside_a_segment_can_get_a_store(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The uploader looked for a segment that begins where the log does."""
    world = World.new("manifests")
    async with open_wal(ON_DEMAND, disk=world.disk) as wal:
        for i in range(8):
            await wal.append_batch([b"%d" % i * 100] * 2)
        assert await wal.trim(5) == 5
    async with world.open(ON_DEMAND) as wal:
        assert wal.start_offset == 5
        await go_on(wal)
        found = await everything(wal)
        assert (found.start, found.next_offset) == (5, 17)
    state = await check_objects(world)
    assert state.first_base == 4
    async with attrs.evolve(world, disk=SimDisk()).open(ON_DEMAND) as wal:
        assert (await everything(wal)).payloads.keys() >= set(range(5, 17))


async def test_a_trim_frees_room_although_nothing_can_be_uploaded(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """What waits for the store was trimmed, and appends went on waiting."""
    world = World.new("manifests")
    config = attrs.evolve(
        KEEPING, cloud=attrs.evolve(KEEPING.cloud, max_local_bytes=1500, retry_seconds=1e4)
    )
    async with world.open(config) as wal:
        world.store.fail("upload", sticky=True)
        while not cloud(wal).appends_held:
            await wal.append(b"x" * 200)
        await trio.sleep(20)
        end = wal.statistics().sealed_end
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wal.append, b"waits")
            nursery.start_soon(wal.wait_uploaded, end)
            await trio.sleep(5)
            assert wal.statistics().waiting_appends == 1
            with trio.fail_after(5):
                assert await wal.trim(end) == end
                await trio.sleep(1)
                assert not wal.statistics().waiting_appends


async def test_an_object_that_became_shorter_is_damage(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A range beyond its end is a ValueError of the store; it ended the tasks of the log."""
    world = World.new("manifests")
    config = attrs.evolve(
        ON_DEMAND, segment_bytes=500_000, cloud=attrs.evolve(ON_DEMAND.cloud, readahead=4)
    )
    async with world.open(config) as wal:
        await wal.append_batch([b"x" * 30_000] * 2)
        for _ in range(8):
            await wal.append(b"x" * 30_000)
        await wal.wait_uploaded(10)
        await trio.sleep(6)
        [key] = [key for key in world.store.tree() if "segments/" in key]
        await world.store.put(key, world.store.tree()[key][:100])
        for offset in (0, 5):
            with pytest.raises(CorruptDataError, match=key):
                await wal.reader(StartPosition.offset(offset)).__anext__()
        await trio.sleep(10)
        await wal.append(b"the log goes on")


async def test_pruning_does_not_wait_for_readers_without_end(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """It waited until nobody read anything below, and somebody always did."""
    world = World(SimDisk(), SimStore(latency=1.0))
    async with world.open(KEEPING) as wal:
        for i in range(6):
            await wal.append(b"%d" % i * 200, durability="uploaded")
    config = attrs.evolve(ON_DEMAND, cloud=attrs.evolve(ON_DEMAND.cloud, cache_bytes=1))
    async with world.open(config) as wal, trio.open_nursery() as nursery:
        await trio.sleep(10)
        assert cloud(wal).local_start == 6

        async def read(pause: float) -> None:
            await trio.sleep(pause)
            while True:
                async for _ in wal.reader(end=5):
                    pass

        for i in range(4):
            nursery.start_soon(read, i / 4)
        await wal.append(b"x" * 600, durability="uploaded")
        await trio.sleep(30)
        bases = [path for path in world.disk.tree() if path.endswith(".log")]
        assert len(bases) == 1, bases
        nursery.cancel_scope.cancel()


async def test_an_append_that_waits_for_the_store_while_the_log_is_left_is_told(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """It was told that the log is closed, which means that a record was not accepted."""
    world = World.new("manifests")
    async with trio.open_nursery() as nursery:
        async with world.open(ON_DEMAND) as wal:
            world.store.fail("upload", sticky=True)

            async def append() -> None:
                with pytest.raises(StoreUnavailableError, match=r"durable in /data/log.*was left"):
                    await wal.append(b"a", durability="uploaded")

            nursery.start_soon(append)
            await trio.sleep(3)
    async with world.open(ON_DEMAND) as wal:
        assert wal.next_offset == 1


async def test_a_sealed_log_goes_on_tidying_up(autojump_clock: trio.testing.MockClock) -> None:
    """Retention asked for a trim, was refused, and the janitor went home."""
    world = World.new("manifests")
    config = attrs.evolve(KEEPING, retain_bytes=300)
    async with world.open(config) as wal:
        world.store.fail("upload", nth=1)
        for i in range(6):
            await wal.append(b"%d" % i * 200, durability="accepted")
        await wal.seal()
        await trio.sleep(12)
        assert cloud(wal).local_start == 6


async def test_a_store_that_forbids_removing_still_gets_uploads(
    autojump_clock: trio.testing.MockClock,
) -> None:
    world = World.new("manifests")
    async with world.open() as wal:
        world.store.fail("create", kind="unavailable", key_contains="manifest", sticky=True)
        await wal.append(b"a" * 600)
        await wal.append(b"a" * 600)
        await trio.sleep(6)  # an object that no catalog names
    store = world.store.client()
    store.fail("delete", kind="denied", sticky=True, key_contains="segments/")
    async with attrs.evolve(world, store=store).open() as wal:
        await wal.append(b"b", durability="uploaded")


async def test_the_last_change_that_counted_is_known_to_a_fenced_writer(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Its append was told that it is fenced off, and yet its record was in the log for good."""
    world = World.new("manifests")
    other = world.process(SimDisk())
    async with world.open(ON_DEMAND) as wal:

        async def take_over(operation: StoreOperation) -> None:
            if operation.name == "create" and "manifest" in operation.key:
                world.store.after = None
                async with other.open(ON_DEMAND) as theirs:
                    assert theirs.next_offset == 1

        world.store.after = take_over
        assert await wal.append(b"a", durability="uploaded") == 0
        assert wal.uploaded_end == 1
        assert wal.statistics().phase == "fenced"
        await trio.sleep(30)
    assert (await check_objects(world)).end == 1  # and it is not taken back


async def test_what_a_newer_version_published_ends_in_an_error_that_is_seen(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The uploader took it for a defect of its own, and ended the program's block."""
    world = World.new("manifests")
    catalog = ManifestCatalog(world.store, "log", backoff=Backoff(attempts=2))
    config: WalConfig = ON_DEMAND
    async with open_wal(config, disk=world.disk, store=world.store, catalog=catalog) as wal:
        await wal.append(b"a", durability="uploaded")
        newest = max(key for key in world.store.tree() if "/manifest/" in key)
        number = int(newest.rpartition("/")[2][:20])
        later = newest.replace(f"{number:020d}", f"{number + 1:020d}")
        line = without_crc(world.store.tree()[newest])
        assert b'"format":1,' in line
        await world.store.put(later, with_crc(line.replace(b'"format":1,', b'"format":2,')))
        wal.append_nowait(b"b")
        await wal.flush()
        with trio.move_on_after(60):
            await wal.wait_uploaded(2)
        assert "newer than this version" in cloud(wal).upload_error
        await wal.append(b"c")


async def test_a_reader_that_hangs_in_the_store_holds_up_nothing_here(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Pruning, trimming and leaving waited for its answer."""
    world = World.new("manifests")
    async with trio.open_nursery() as nursery:
        async with world.open(ON_DEMAND) as wal:
            for i in range(6):
                await wal.append(b"%d" % i * 200, durability="uploaded")
            await trio.sleep(6)
            world.store.fail("get", kind="hang", key_contains="segments/" + "0" * 20)
            nursery.start_soon(wal.reader().__anext__)
            await trio.sleep(1)
            assert cloud(wal).pins == 1
            await wal.append_batch([b"x" * 300] * 3, durability="uploaded")
            await trio.sleep(6)
            assert cloud(wal).local_start == 9
            with trio.fail_after(1):
                assert await wal.trim(3) == 3
            await trio.sleep(6)
            assert any("segments/" + "0" * 20 in key for key in world.store.tree())
            before = trio.current_time()
        assert trio.current_time() - before < 1
        nursery.cancel_scope.cancel()
    async with world.open(ON_DEMAND) as wal:
        await go_on(wal)
    await check_objects(world)


async def test_a_local_log_is_not_set_aside_for_the_catalog_of_another_one() -> None:
    """A wrong prefix was enough: all of the log went to *.fenced."""
    world = World.new("manifests")
    async with world.open(ON_DEMAND) as wal:
        await wal.append(b"another log", durability="uploaded")
    local = SimDisk()
    async with open_wal(ON_DEMAND, disk=local) as wal:
        await wal.append(b"local")
    before = local.tree()
    with pytest.raises(CorruptDataError, match=r"never was in a store.*Check the prefix"):
        async with attrs.evolve(world, disk=local).open(ON_DEMAND):
            raise AssertionError("it was opened")
    before.pop("/data/log/wal.lock")
    assert local.tree().items() >= before.items()


async def test_who_waits_behind_the_end_of_a_sealed_log_is_told(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Readers waited there until the log was left."""
    world = World.new("manifests")
    seen: list[str] = []

    async def watch(wal: Wal) -> None:
        with pytest.raises(LogClosedError, match="sealed"):
            async for message in wal.reader():
                seen.append(f"read {message.offset}")
        seen.append("reader told")

    async def wait(wal: Wal) -> None:
        with pytest.raises(LogClosedError, match="sealed"):
            await wal.wait_durable(5)
        seen.append("waiter told")

    async with world.open(ON_DEMAND) as wal, trio.open_nursery() as nursery:
        await wal.append(b"a")
        nursery.start_soon(watch, wal)
        nursery.start_soon(wait, wal)
        await trio.testing.wait_all_tasks_blocked()
        wal.append_nowait(b"b")  # accepted before the seal: readers see it
        assert await wal.seal() == 2
    seen.remove("waiter told")
    assert seen == ["read 0", "read 1", "reader told"]


async def test_who_waits_behind_the_end_of_a_fenced_log_is_told(
    autojump_clock: trio.testing.MockClock,
) -> None:
    world = World.new("manifests")
    told: list[int] = []

    async def watch(wal: Wal) -> None:
        with pytest.raises(FencedError):
            async for message in wal.reader():
                told.append(message.offset)
        told.append(-1)

    async with world.open(ON_DEMAND) as wal, trio.open_nursery() as nursery:
        await wal.append(b"a", durability="uploaded")
        await wal.append(b"b")
        nursery.start_soon(watch, wal)
        await trio.testing.wait_all_tasks_blocked()
        async with attrs.evolve(world, disk=SimDisk()).open(ON_DEMAND):
            with pytest.raises(FencedError):
                await wal.append(b"c", durability="uploaded")
    assert told == [0, 1, 2, -1]


async def test_a_directory_that_lost_its_newest_segments_goes_on_behind_the_objects(
    autojump_clock: trio.testing.MockClock,
) -> None:
    world = World.new("manifests")
    async with world.open(attrs.evolve(KEEPING, segment_bytes=400)) as wal:
        for i in range(12):
            await wal.append(b"%d" % i * 100)
        await wal.wait_uploaded(12)
    names = LogNames.of("/data/log", "wal.log")
    bases = names.segment_bases([path.rpartition("/")[2] for path in world.disk.tree()])
    for path in (names.mark, names.checkpoint, *map(names.segment, bases[2:])):
        world.disk.unlink(path)
    async with world.open(ON_DEMAND) as wal:
        assert wal.next_offset == 12
        await go_on(wal)
    await check_objects(world)


async def test_a_mistyped_topic_begins_no_second_copy(
    autojump_clock: trio.testing.MockClock,
) -> None:
    disk, store = SimDisk(), SimStore()
    plain = attrs.evolve(ON_DEMAND, cloud=attrs.evolve(ON_DEMAND.cloud, prefix=""))
    async with open_wal(attrs.evolve(plain, topic_name="/d/t"), disk=disk, store=store) as wal:
        await wal.append(b"a", durability="uploaded")
    before = store.tree()
    for name in ("orders", "/a/b/c", "/a/b b", "//"):
        with pytest.raises(ValueError, match="topic="):
            open_wal(attrs.evolve(plain, topic_name=name), store=store)
    with pytest.raises(ValueError, match=r"topic_name='/d/typo'.*topic '/d/t'"):
        async with open_wal(attrs.evolve(plain, topic_name="/d/typo"), disk=disk, store=store):
            raise AssertionError
    assert store.tree() == before
    async with open_wal(attrs.evolve(plain, topic_name="/d/t"), disk=disk, store=store) as wal:
        assert wal.next_offset == 1
