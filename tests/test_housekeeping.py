"""The janitor: what fails in a round is tried again by itself, and no round is the last one."""

from __future__ import annotations

import errno

import attrs
import pytest
import trio
from cloud_model import CONFIG as CLOUD
from cloud_model import World, cloud
from trio.testing import MockClock, wait_all_tasks_blocked

from danube_trio import Wal, WalConfig, open_wal
from danube_trio._core.catalog import CatalogState
from danube_trio._core.files import Trim, decode_document
from danube_trio.catalog import ManifestCatalog, acquire
from danube_trio.errors import AccessDeniedError, LogClosedError
from danube_trio.metadata import open_metadata_directory
from danube_trio.testing import SimDisk, SimStore, StoreOperation

CONFIG = WalConfig(dir="/log", segment_bytes=700, preallocate_bytes=0)


def segments(disk: SimDisk) -> list[int]:
    return [int(path.split(".")[1]) for path in disk.tree() if path.endswith(".log")]


async def append(wal: Wal, count: int) -> None:
    for _ in range(count):
        await wal.append(b"%03d" % wal.next_offset * 30)


# ---- files


@pytest.mark.happens
async def test_a_file_that_cannot_be_removed_keeps_no_other_from_going(
    autojump_clock: MockClock,
) -> None:
    disk = SimDisk()
    async with open_wal(CONFIG, disk=disk) as wal:
        await append(wal, 40)
        await wait_all_tasks_blocked()
        second = segments(disk)[1]
        stuck = disk.fail("unlink", error=errno.EBUSY, path_contains=f"{second:020}", sticky=True)
        with pytest.raises(OSError, match="EBUSY"):
            await wal.trim(30)
        assert wal.start_offset == 30
        assert [base for base in segments(disk) if base < 28] == [second]
        assert await wal.trim(36) == 36  # it is not in the way of later ones
        await trio.sleep(12)
        assert wal.statistics().janitor_failures >= 2
        stuck.cancel()
        await trio.sleep(6)
        assert min(segments(disk)) > 28
        assert not [path for path in disk.tree() if f"{second:020}" in path]


async def test_an_opening_does_not_fail_for_a_leftover_that_cannot_be_removed() -> None:
    disk = SimDisk()
    async with open_wal(CONFIG, disk=disk) as wal:
        await append(wal, 40)
        disk.fail("unlink", error=errno.EBUSY, path_contains=".log", sticky=True)
        with pytest.raises(OSError, match="EBUSY"):
            await wal.trim(30)
    async with open_wal(CONFIG, disk=disk) as wal:
        assert wal.start_offset == 30
        assert "cannot be removed" in " ".join(wal.statistics().notes)
        assert len([m async for m in wal.reader(end="current")]) == 10


async def test_pruning_that_fails_keeps_retention_from_nothing(autojump_clock: MockClock) -> None:
    world = World.new("manifests")
    config = attrs.evolve(CLOUD, retain_bytes=2000)
    async with world.open(config) as wal:
        world.disk.fail("unlink", error=errno.EBUSY, path_contains=".log", sticky=True)
        for _ in range(12):
            await wal.append(bytes(600), durability="uploaded")
        await trio.sleep(30)
        assert wal.start_offset > 0
        assert cloud(wal).objects < 12


# ---- objects


async def test_a_manifest_that_cannot_be_removed_keeps_no_other_from_going() -> None:
    store = SimStore()
    catalog = ManifestCatalog(store, "log", keep=1)
    state: CatalogState | None = None

    async def next_state(before: CatalogState | None) -> CatalogState:
        before = before or CatalogState.begin(0, "s5-standard", 1)
        return before.taken_over("0" * 32, "somebody")

    for _ in range(6):
        state = await acquire(catalog, next_state)

    async def refuse(operation: StoreOperation) -> None:
        if operation.name == "delete" and operation.key.endswith("2"):
            raise AccessDeniedError("no")

    store.before = refuse
    assert state is not None
    assert [await catalog.collect(state) for _ in range(3)] == [1, 3, 0]
    left = [int(key.rpartition("/")[2]) for key in store.tree()]
    assert left == [2, 6]


# ---- the task


async def test_a_round_that_waits_when_the_log_is_sealed_is_not_the_last_one(
    autojump_clock: MockClock,
) -> None:
    """Retention waits behind somebody's trim, which waits for the store; then nothing is pruned."""
    world = World.new("manifests")
    gate: trio.Event | None = None
    reached = trio.Event()

    async def wait_at_the_gate(operation: StoreOperation) -> None:
        if gate is not None and operation.name == "create" and "manifest" in operation.key:
            reached.set()
            await gate.wait()

    world.store.before = wait_at_the_gate
    config = attrs.evolve(CLOUD, retain_bytes=4000)
    config = attrs.evolve(config, cloud=attrs.evolve(config.cloud, keep_local_bytes=1 << 20))
    async with world.open(config) as wal, trio.open_nursery() as nursery:
        for _ in range(4):
            await wal.append(bytes(600), durability="uploaded")
        assert wal.start_offset == 0

        async def trim() -> None:
            try:
                await wal.trim(2)
            except LogClosedError:
                return

        gate = trio.Event()
        nursery.start_soon(trim)
        await reached.wait()
        for _ in range(6):
            await wal.append(bytes(600))
        await trio.sleep(20)
        nursery.start_soon(wal.seal)
        await trio.sleep(1)
        open_it, gate = gate, None
        open_it.set()
        await trio.sleep(60)
        assert wal.phase == "sealed"
        states = [task.state for task in wal.statistics().tasks if task.name == "janitor"]
        assert states != ["ended"]
        assert len([path for path in world.disk.tree() if path.endswith(".log")]) == 1


# ---- the metadata store


async def test_a_metadata_store_opens_on_a_full_disk() -> None:
    """What is in it says what may be freed: right after it began a new journal, too."""
    disk = SimDisk()
    async with open_metadata_directory("/m", disk=disk, journal_bytes=1) as store:
        await store.put("/a", b"x" * 100)
    disk.capacity_bytes = sum(map(len, disk.tree().values()))
    async with open_metadata_directory("/m", disk=disk) as store:
        found = await store.get("/a")
        assert found is not None
        assert found.value == b"x" * 100
    disk.capacity_bytes = None
    async with open_metadata_directory("/m", disk=disk) as store:
        await store.put("/b", b"y")
        assert len(await store.list_entries("/")) == 2


# ---- in which order


async def test_no_local_file_goes_before_the_new_local_start_is_durable(
    autojump_clock: MockClock,
) -> None:
    world = World.new("manifests")
    async with world.open() as wal:
        await append(wal, 30)
        await wal.wait_uploaded(30)
        await trio.sleep(60)
    gone = [op for op in world.disk.operations if op.name == "unlink" and op.path.endswith(".log")]
    assert len(gone) > 3
    for op in gone:
        [after] = [s for s in world.disk.crash_states(op.number) if s.name == "synced only"]
        trim = decode_document(after.disk.read_file("/data/log/wal.trim"), Trim)
        assert trim.first_local > int(op.path.split(".")[1])


async def test_names_that_a_trim_removed_are_synced(autojump_clock: MockClock) -> None:
    disk = SimDisk()
    async with open_wal(CONFIG, disk=disk) as wal:
        await append(wal, 40)
        await wal.trim(30)
        left = disk.crash("synced only").tree()
        assert [path for path in left if path.endswith(".log")] == sorted(
            path for path in disk.tree() if path.endswith(".log")
        )
