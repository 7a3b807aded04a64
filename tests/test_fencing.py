"""Two writers of one log: the one that lost it can change nothing, and says so.

`DANUBE_CLOUD_SEEDS` above 6 asks for pauses at every operation instead of some.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import attrs
import pytest
import trio
import trio.testing
from cloud_model import CONFIG, World, check_objects, everything, go_on, reopened, told

from danube_trio import StartPosition, Wal, open_wal
from danube_trio._core.catalog import CatalogState
from danube_trio._core.files import MARK_BYTES, Meta, decode_marks
from danube_trio._core.frame import scan
from danube_trio._core.segment import LogNames
from danube_trio._engine.files.directory import Directory, look
from danube_trio._engine.files.set_aside import belongs, set_aside
from danube_trio.config import Durability
from danube_trio.errors import FencedError, LogBrokenError, StoreError
from danube_trio.testing import MetadataOperation, SimDisk, StoreOperation

SEEDS = int(os.environ.get("DANUBE_CLOUD_SEEDS", "6"))
LONG = SEEDS > 6
LEVELS: tuple[Durability, ...] = ("accepted", "written", "fsync", "uploaded")
KEEPING = attrs.evolve(CONFIG, cloud=attrs.evolve(CONFIG.cloud, keep_local_bytes=1 << 20))
QUIET = attrs.evolve(KEEPING, cloud=attrs.evolve(KEEPING.cloud, upload_interval=None))


class Sleeper:
    """Stops one process at one of its operations on the stores, before it or after it."""

    def __init__(self, world: World, nth: int, when: str) -> None:
        self.asleep = trio.Event()
        self.wake = trio.Event()
        self.count = 0
        self._nth = nth
        self._when = when
        self._client = world.metadata.number if world.metadata is not None else -1
        world.store.before = self._before
        world.store.after = self._after
        if world.metadata is not None:
            world.metadata.hook = self._metadata

    async def _before(self, _: StoreOperation) -> None:
        self.count += 1
        await self._at("before")

    async def _after(self, _: StoreOperation) -> None:
        await self._at("after")

    async def _metadata(self, operation: MetadataOperation, when: str) -> None:
        if operation.client == self._client:
            self.count += when == "before"
            await self._at(when)

    async def _at(self, when: str) -> None:
        if (self.count, when) == (self._nth, self._when) and not self.asleep.is_set():
            self.asleep.set()
            await self.wake.wait()


@attrs.define(eq=False)
class First:
    """The writer that loses the log, and what it was told."""

    world: World
    uploaded: dict[int, bytes] = attrs.Factory(dict[int, bytes])
    durable: dict[int, bytes] = attrs.Factory(dict[int, bytes])
    opened: bool = False
    fenced: bool = False
    all_uploaded: bool = False

    async def run(self) -> None:
        try:
            async with self.world.open(KEEPING) as wal:
                self.opened = True
                await self._work(wal)
        except FencedError:
            self.fenced = True

    async def _work(self, wal: Wal) -> None:
        try:
            for i in range(4):
                await self._append(wal, b"A %d " % i * 40, uploaded=i in (1, 3))
            await wal.trim(1)
            await self._append(wal, b"A tail", uploaded=False)
            await trio.sleep(12)
            for _ in range(3):  # until it is told
                await self._append(wal, b"A after all", uploaded=True)
                await trio.sleep(1)
            self.all_uploaded = True
        finally:
            if wal.statistics().phase == "fenced":
                await self._still_reads(wal)

    async def _append(self, wal: Wal, payload: bytes, *, uploaded: bool) -> None:
        offset = wal.next_offset
        try:
            await wal.append(payload, durability="uploaded" if uploaded else "fsync")
        finally:
            if wal.durable_end > offset:
                self.durable[offset] = payload
            if wal.uploaded_end > offset:
                self.uploaded[offset] = payload

    async def _still_reads(self, wal: Wal) -> None:
        found: list[tuple[int | None, bytes]] = []
        with trio.CancelScope(shield=True):
            start = StartPosition.offset(wal.start_offset)
            found = [(m.offset, m.payload) async for m in wal.reader(start, end="current")]
        mine = {o: p for o, p in self.durable.items() if o >= wal.start_offset}
        assert dict(found).items() >= mine.items()


async def overtaken(
    catalog: str, nth: int, when: str, second_disk: Callable[[SimDisk], SimDisk]
) -> tuple[First, World, CatalogState | None, bool]:
    """The first writer sleeps at its nth operation, while the second one has the log."""
    world = World.new(catalog, nth)
    first = First(world)
    sleeper = Sleeper(world, nth, when)
    state: CatalogState | None = None
    was_open = False
    async with trio.open_nursery() as nursery:
        nursery.start_soon(first.run)
        with trio.move_on_after(60) as scope:
            await sleeper.asleep.wait()
        if scope.cancelled_caught:
            nursery.cancel_scope.cancel()
        else:
            was_open = first.opened
            metadata = world.metadata.client() if world.metadata is not None else None
            second = World(second_disk(world.disk), world.store.client(), metadata)
            async with second.open(KEEPING) as wal:
                assert (await everything(wal)).payloads.items() >= {
                    o: p for o, p in first.uploaded.items() if o >= wal.start_offset
                }.items()
                await wal.append_batch([b"B"] * 3, durability="uploaded")
                await wal.append(b"B tail")
            state = await second.catalog().latest()
            sleeper.wake.set()
            world = second
    return first, world, state, was_open


@pytest.mark.happens
@pytest.mark.parametrize("catalog", ["manifests", "metadata"])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("copied", [False, True], ids=["another directory", "a copy of it"])
async def test_a_writer_that_slept_at_any_operation_can_change_nothing(
    copied: bool, when: str, catalog: str, autojump_clock: trio.testing.MockClock
) -> None:
    def second_disk(disk: SimDisk) -> SimDisk:
        return disk.crash("everything written") if copied else SimDisk()

    nth, slept, fenced = 1, True, 0
    while slept:
        first, second, state, was_open = await overtaken(catalog, nth, when, second_disk)
        slept = state is not None
        with told(f"{when} {nth}"):
            if state is not None and was_open:
                fenced += first.fenced
                assert first.fenced or first.all_uploaded  # nothing was refused, nothing was lost
                assert await second.catalog().latest() == state, "the fenced one changed it"
                await check_objects(second, exact=False)
            if state is not None:
                await check_the_end(first, second)
        nth += 1 if LONG else 7
    assert fenced >= (20 if LONG else 3)


async def check_the_end(first: First, second: World) -> None:
    """Both directories are opened again, the loser's first."""
    ours = attrs.evolve(second, disk=first.world.disk)
    for world in (ours, second, ours):
        found = await reopened(world, KEEPING)
        for offset, payload in first.uploaded.items():
            assert found.payloads.get(offset, payload) == payload
        payloads = list(found.payloads.values())
        assert payloads.count(b"B") == 3 or not first.fenced  # it trimmed them
        # Each either uploaded, or set aside: never twice, never in part.
        tail = [p for o, p in first.durable.items() if o >= found.start]
        kept = kept_aside(first.world.disk)
        for payload in set(tail) - {b"A after all"}:
            assert payload in payloads or any(payload in data for data in kept)


def kept_aside(disk: SimDisk) -> list[bytes]:
    return [data for path, data in disk.tree().items() if path.endswith(".fenced")]


@pytest.mark.happens
async def test_a_fenced_log_refuses_appends_at_every_level_and_keeps_its_readers(
    autojump_clock: trio.testing.MockClock,
) -> None:
    world = World.new("manifests")
    other = world.process(SimDisk())
    async with world.open(QUIET) as wal:
        await wal.append(b"shared", durability="uploaded")
        await wal.append(b"tail")
        receipt = wal.append_nowait(b"more tail")
        async with other.open(QUIET) as theirs:
            assert theirs.next_offset == 1
            await theirs.append(b"theirs", durability="uploaded")
            with pytest.raises(FencedError, match="opening") as caught:
                await receipt.uploaded()
            assert caught.value.epoch == 1
            for level in LEVELS:
                with pytest.raises(FencedError):
                    await wal.append(b"no", durability=level)
            with pytest.raises(FencedError):
                wal.append_nowait(b"no")
            for call in (wal.wait_uploaded(3), wal.seal(), wal.trim(1)):
                with pytest.raises(FencedError):
                    await call
            assert await receipt.durable() == range(2, 3)
            reader = wal.reader(end="current")
            assert [m.payload async for m in reader] == [b"shared", b"tail", b"more tail"]
            assert wal.statistics().phase == "fenced"
            await theirs.append(b"theirs too", durability="uploaded")
    async with world.open(QUIET) as wal:
        found = await everything(wal)
        assert list(found.payloads.values()) == [b"shared", b"theirs", b"theirs too"]
        [note] = found.notes
        assert "records 1 to 3 were kept here only" in note
        [data] = kept_aside(world.disk)
        assert scan(data, 0, 1).end_offset == 3


async def test_leaving_a_fenced_log_raises_if_nobody_was_told(
    autojump_clock: trio.testing.MockClock,
) -> None:
    world = World.new("manifests")
    with pytest.raises(FencedError):
        async with world.open() as wal:
            await wal.append(b"a")
            async with world.process(SimDisk()).open():
                await trio.sleep(60)
    async with world.process(SimDisk()).open():
        pass
    async with world.open() as wal:
        assert wal.next_offset == 0


async def copied() -> tuple[World, World]:
    """A log with one record that both have, and a copy of its directory."""
    world = World.new("manifests")
    async with world.open(QUIET) as wal:
        await wal.append(b"shared", durability="uploaded")
    return world, world.process(world.disk.crash("everything written"))


async def test_a_copy_of_a_directory_is_found_out_even_in_the_middle_of_opening(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """It had saved the very epoch that the other copy took, and took that for its own."""
    world, copy = await copied()
    for each in (world, copy):  # both go on without the store
        async with open_wal(QUIET, disk=each.disk) as wal:
            await wal.append(b"mine" if each is world else b"copied")
    sleeper = Sleeper(copy, 0, "before")
    copies: list[list[bytes]] = []

    async def open_copy() -> None:
        async with copy.open(QUIET) as wal:
            copies.append(list((await everything(wal)).payloads.values()))

    async def pause(operation: StoreOperation) -> None:
        if operation.name == "create" and "manifest" in operation.key:
            sleeper.asleep.set()
            await sleeper.wake.wait()

    copy.store.before = pause
    async with trio.open_nursery() as nursery:
        nursery.start_soon(open_copy)
        await sleeper.asleep.wait()
        async with world.open(QUIET) as wal:
            await wal.wait_uploaded(2)
        sleeper.wake.set()
    assert copies == [[b"shared", b"mine"]]
    assert any(b"copied" in data for data in kept_aside(copy.disk))


async def test_the_original_is_a_stranger_once_its_copy_took_the_log(
    autojump_clock: trio.testing.MockClock,
) -> None:
    world, copy = await copied()
    async with copy.open(QUIET) as wal:
        await wal.append(b"copied", durability="uploaded")
    async with open_wal(QUIET, disk=world.disk) as wal:  # without the store
        for i in range(4):
            await wal.append(b"mine %d " % i * 50)
    async with world.open(QUIET) as wal:
        found = await everything(wal)
        assert list(found.payloads.values()) == [b"shared", b"copied"]
        assert "records 1 to 5 were kept here only" in found.notes[0]


async def test_a_saved_epoch_that_was_not_published_changes_no_owner(
    autojump_clock: trio.testing.MockClock,
) -> None:
    world = World.new("manifests")
    async with world.open(QUIET) as wal:
        await wal.append(b"a")
    fault = world.store.fail("create", key_contains="manifest", sticky=True)
    other = attrs.evolve(world, disk=SimDisk())
    for each in (world, other):
        with pytest.raises(StoreError):
            async with each.open(QUIET):
                raise AssertionError("it was opened")
    fault.cancel()
    async with world.open(QUIET) as wal:
        assert list((await everything(wal)).payloads.values()) == [b"a"]
        await go_on(wal)


async def test_collecting_that_slept_removes_no_object_of_a_later_owner(
    autojump_clock: trio.testing.MockClock,
) -> None:
    world = World.new("manifests")
    asleep, wake = trio.Event(), trio.Event()

    async def pause(operation: StoreOperation) -> None:
        if operation.name == "list_objects" and operation.key.endswith("/segments"):
            asleep.set()
            await wake.wait()

    other = world.process(SimDisk())
    with pytest.raises(FencedError):
        async with world.open(QUIET) as wal:
            world.store.before = pause
            await asleep.wait()
            async with other.open(QUIET) as theirs:
                await theirs.append_batch([b"theirs"] * 2, durability="uploaded")
            wake.set()
            await trio.sleep(11)
            await check_objects(other)
            await wal.append(b"too late", durability="uploaded")
    assert len((await reopened(other, QUIET)).payloads) == 2


@pytest.mark.parametrize("failed_openings", [0, 1, 2, 3])
async def test_a_copy_is_found_out_however_many_openings_of_the_original_failed(
    failed_openings: int, autojump_clock: trio.testing.MockClock
) -> None:
    """The epochs that these saved, and did not publish, were taken for the copy's."""
    world = World.new("manifests")
    async with world.open(QUIET) as wal:
        await wal.append_batch([b"old"] * 4)
        await wal.wait_uploaded(4)
        copied = world.disk.crash()
        fault = world.store.fail(None, sticky=True)
        await wal.append_batch([b"mine" * 50] * 3)
        await wal.append_batch([b"mine"] * 3)
        original = world.disk.crash()
    fault.cancel()
    for _ in range(failed_openings):
        client = world.store.client()
        client.fail("create", sticky=True, key_contains="manifest")
        with pytest.raises(StoreError):
            async with attrs.evolve(world, disk=original, store=client).open(QUIET):
                raise AssertionError("it was opened")
    async with attrs.evolve(world, disk=copied, store=world.store.client()).open(QUIET) as wal:
        await wal.append_batch([b"copy"] * (7 - wal.next_offset))
        await wal.wait_uploaded(7)
    async with attrs.evolve(world, disk=original, store=world.store.client()).open(QUIET) as wal:
        found = await everything(wal)
        assert list(found.payloads.values()) == [b"old"] * 4 + [b"copy"] * 3
        assert "kept here only" in found.notes[0]


# ---- whose tail it is


@pytest.mark.parametrize(
    ("owner_since", "epochs", "writers", "ours"),
    [
        (1, ((1, 0), (3, 4)), ((3, "w"),), True),
        (3, ((1, 0), (3, 4)), ((3, "w"),), True),
        (3, ((1, 0), (3, 9)), ((3, "w"),), False),  # another's in between: ours begins at 9
        (2, ((1, 0),), ((3, "w"),), False),
        (1, ((1, 0), (3, 4)), ((2, "w"),), False),  # an epoch that it knows nothing of
        (1, ((1, 0), (3, 4)), ((3, "a copy of it"),), False),
    ],
)
def test_a_tail_counts_if_nobody_else_owned_the_log_since_it_began(
    owner_since: int,
    epochs: tuple[tuple[int, int], ...],
    writers: tuple[tuple[int, str], ...],
    ours: bool,
) -> None:
    meta = Meta("us", "s5-standard", epochs, writers=writers)
    state = CatalogState(epoch=3, owner="us", owner_since_epoch=owner_since, writer="w", end=5)
    assert belongs(meta, state) is ours
    assert not belongs(attrs.evolve(meta, directory_id="somebody else"), state)
    assert belongs(meta, attrs.evolve(state, owner=""))


async def left_behind() -> tuple[World, Directory, CatalogState]:
    """A directory whose writer was killed with a tail that is not synced, and lost the log."""
    world = World.new("manifests")
    disk = world.disk
    with pytest.raises(LogBrokenError):
        async with world.open(QUIET) as wal:
            await wal.append(b"shared", durability="uploaded")
            await wal.append(b"durable tail")
            await wal.append(b"written tail", durability="written")
            world.kill()
    after = World(disk.process(), world.store.client())
    async with after.process(SimDisk()).open(QUIET) as other:
        await other.append(b"theirs", durability="uploaded")
    directory = look(after.disk, LogNames.of("/data/log", QUIET.file_name))
    state = await after.catalog().latest()
    assert directory is not None
    assert state is not None
    return after, directory, state


async def test_a_tail_that_is_set_aside_is_synced_before_its_name_says_that_it_is_kept(
    autojump_clock: trio.testing.MockClock,
) -> None:
    world, directory, state = await left_behind()
    set_aside(world.disk, directory.names, directory.meta, state)
    [kept] = kept_aside(world.disk.crash("synced only"))
    assert b"written tail" in kept


async def test_both_slots_of_the_mark_speak_of_the_log_after_a_tail_was_set_aside(
    autojump_clock: trio.testing.MockClock,
) -> None:
    world, directory, state = await left_behind()
    set_aside(world.disk, directory.names, directory.meta, state)
    data = world.disk.read_file(directory.names.mark)
    for alone in (data[:MARK_BYTES], bytes(MARK_BYTES) + data[MARK_BYTES:]):
        mark = decode_marks(alone, directory.directory_crc)
        assert mark is not None
        assert (mark.durable_end, mark.base, mark.position) == (state.end, state.end, 0)
