"""A log with an object store, watched: what was acknowledged when, and what must be there after.

A `World` is all that a log lives on: the disk of one directory, the object store, and a metadata
store if the catalog is there. A `Watch` remembers what the stores held after each of their changes,
and at which operation of the disk, so that a crash can be tried at every moment of a workload that
ran once: `Watch.crashes` pairs each state that a disk may have after it with what the stores held.

A `Journal` has what the program was told. The scenarios below go on after a crash, each on copies:
with the same directory, with a new one, and after somebody else took the log over and left it.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from itertools import pairwise

import attrs
import trio

from danube_trio import StartPosition, StreamMessage, Wal, WalConfig, open_wal
from danube_trio._core.catalog import CatalogState
from danube_trio._core.crc import crc32
from danube_trio._core.frame import scan
from danube_trio._core.stats import CloudStatistics
from danube_trio.catalog import Backoff, Catalog, ManifestCatalog, MetadataCatalog
from danube_trio.config import CloudConfig, Durability
from danube_trio.testing import SimDisk, SimMetadata, SimStore, StoreOperation

__all__ = ["CONFIG", "Crash", "Journal", "Moment", "Watch", "World", "check_objects", "everything"]

CLOUD = CloudConfig(
    prefix="log", keep_local_bytes=0, block_bytes=4096, upload_interval=2.0, retry_seconds=1.0
)
CONFIG = WalConfig(
    dir="/data/log", segment_bytes=500, preallocate_bytes=128, cache_capacity=4, cloud=CLOUD
)
BACKOFF = Backoff(chance=lambda: 0.5)


def virtual_clock() -> float:
    """Trio's clock, so that age and intervals go with the test's time."""
    return 1e9 + trio.current_time()


@attrs.define(eq=False)
class World:
    """One directory's disk, and the stores."""

    disk: SimDisk
    store: SimStore
    metadata: SimMetadata | None = None

    @classmethod
    def new(cls, catalog: str, seed: int | str = 0) -> World:
        metadata = SimMetadata() if catalog == "metadata" else None
        return cls(SimDisk(seed=seed), SimStore(seed=seed), metadata)

    def catalog(self) -> Catalog:
        """A handle of this process."""
        if self.metadata is not None:
            return MetadataCatalog(self.metadata, "/default/log", backoff=BACKOFF)
        return ManifestCatalog(self.store, "log", backoff=BACKOFF)

    def open(self, config: WalConfig = CONFIG) -> AbstractAsyncContextManager[Wal]:
        return open_wal(
            config, disk=self.disk, store=self.store, catalog=self.catalog(), clock=virtual_clock
        )

    def process(self, disk: SimDisk | None = None) -> World:
        """Another process: on the same disk, or on one of its own."""
        metadata = self.metadata.client() if self.metadata is not None else None
        client = self.store.client()
        client.before, client.after = self.store.before, self.store.after
        return World(disk or self.disk.process(), client, metadata)

    def kill(self) -> None:
        self.disk.kill()
        self.store.kill()


async def entries_of(metadata: SimMetadata) -> dict[str, bytes]:
    return {entry.key: entry.value for entry in await metadata.memory.list_entries("/")}


async def with_entries(entries: dict[str, bytes]) -> SimMetadata:
    metadata = SimMetadata()
    for key, value in entries.items():
        await metadata.memory.put(key, value)
    return metadata


@attrs.frozen
class Moment:
    """Operations of the disk, and changes of the stores, until then."""

    disk_ops: int
    changes: int

    def __le__(self, other: Moment) -> bool:
        return self.disk_ops <= other.disk_ops and self.changes <= other.changes


@attrs.frozen
class Crash:
    """A moment at which the process died, and maybe the power went."""

    what: str
    at: Moment
    killed: bool  # the page cache is there
    disk: SimDisk
    stores: Change

    async def world(self) -> World:
        """What there is then; a copy each time."""
        entries = self.stores.entries
        return World(
            self.disk.crash("everything written"),
            self.stores.store.clone(),
            await with_entries(entries) if entries is not None else None,
        )


@attrs.frozen
class Change:
    """What the stores held after a change, and the operations of the disk until then."""

    disk_ops: int
    what: str
    store: SimStore
    entries: dict[str, bytes] | None


class Watch:
    """Remembers what the stores held at each operation of the disk."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._changes: list[Change] = []

    async def begin(self) -> Watch:
        await self._note("the beginning")
        self.world.store.after = self._after_store
        if self.world.metadata is not None:
            self.world.metadata.hook = self._after_metadata
        return self

    @property
    def now(self) -> Moment:
        return Moment(self.world.disk.op_count, len(self._changes))

    async def _after_store(self, operation: StoreOperation) -> None:
        if operation.name in ("create", "put", "upload", "delete"):
            await self._note(f"{operation.name} {operation.key}")

    async def _after_metadata(self, operation: object, when: str) -> None:
        if when == "after" and getattr(operation, "name", "") in ("transact", "put", "delete"):
            await self._note(f"{operation}")

    async def _note(self, what: str) -> None:
        world = self.world
        entries = await entries_of(world.metadata) if world.metadata is not None else None
        self._changes.append(Change(world.disk.op_count, what, world.store.clone(), entries))

    def crashes(self, *, samples: int = 0, start: int = 0) -> Iterator[Crash]:
        """Every moment, with every state of the disk that is possible then."""
        ends = [change.disk_ops for change in self._changes[1:]] + [1 << 62]
        before = start - 1
        for point in self.world.disk.crash_points(samples=samples, start=start):
            for number, (change, end) in enumerate(zip(self._changes, ends, strict=True), 1):
                if not (change.disk_ops <= point.op_count and end > before):
                    continue
                for state in point.states:
                    yield Crash(
                        f"{state.name} at operation {point.op_count}, after {change.what}; "
                        f"lost: {state.lost}",
                        Moment(point.op_count, number),
                        state.name.startswith(("everything written", "killed")),
                        state.disk,
                        change,
                    )
            before = point.op_count


@attrs.frozen
class _Batch:
    offset: int
    payloads: tuple[bytes, ...]
    accepted: Moment
    level: Durability
    acked: Moment | None

    @property
    def end(self) -> int:
        return self.offset + len(self.payloads)


class Journal:
    """What a program sent, and what it was told."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self.batches: list[_Batch] = []
        self.trims: list[tuple[Moment, int]] = []

    async def append(self, wal: Wal, level: Durability, *payloads: bytes) -> None:
        batch = _Batch(wal.next_offset, payloads, self.watch.now, "accepted", None)
        self.batches.append(batch)
        offsets = await wal.append_batch(payloads, durability=level)
        assert offsets == range(batch.offset, batch.end)
        self.batches[self.batches.index(batch)] = attrs.evolve(
            batch, level=level, acked=self.watch.now
        )

    async def uploaded(self, wal: Wal) -> None:
        """Wait for everything: it is acknowledged at the highest level then."""
        end = wal.next_offset
        await wal.wait_uploaded(end)
        for i, batch in enumerate(self.batches):
            if batch.end <= end and batch.level != "uploaded" and self._is_newest(batch):
                at = self.watch.now
                self.batches[i] = attrs.evolve(batch, level="uploaded", acked=at)

    def _is_newest(self, batch: _Batch) -> bool:
        return not any(
            other.offset < batch.end and batch.offset < other.end
            for other in self.batches[self.batches.index(batch) + 1 :]
        )

    async def trim(self, wal: Wal, before: int) -> None:
        self.trims.append((self.watch.now, before))
        await wal.trim(before)

    def synced_end(self, at: Moment) -> int:
        """The offset after the last record that was known to be synced."""
        ends = [
            batch.end
            for batch in self.batches
            if batch.level in ("fsync", "uploaded")
            and batch.acked is not None
            and batch.acked <= at
        ]
        return max(ends, default=0)

    def after(self, at: Moment, levels: tuple[Durability, ...], watch: Watch) -> Journal:
        """What is left of it after a crash: what these levels promised, and what may be there."""
        other, ever = Journal(watch), Moment(0, 0)
        for batch in self.batches:
            if batch.accepted <= at:
                kept = batch.acked is not None and batch.acked <= at and batch.level in levels
                acked = ever if kept else None
                other.batches.append(attrs.evolve(batch, accepted=ever, acked=acked))
        other.trims = [(ever, before) for when, before in self.trims if when <= at]
        return other

    def saw(self, found: Found) -> None:
        """Readers saw these records: they must stay."""
        for offset, payload in found.payloads.items():
            seen = _Batch(offset, (payload,), Moment(0, 0), "fsync", self.watch.now)
            self.batches.append(seen)

    def check(self, found: Found, at: Moment, *levels: Durability) -> None:
        """What acknowledgements of these levels promised is there, and nothing else than sent."""
        possible: dict[int, set[bytes]] = {}
        ends = {0, *(before for _, before in self.trims)}
        for batch in self.batches:
            if batch.accepted <= at:
                ends.add(batch.end)
                for i, payload in enumerate(batch.payloads):
                    possible.setdefault(batch.offset + i, set()).add(payload)
            if batch.acked is None or not batch.acked <= at or batch.level not in levels:
                continue
            assert found.next_offset >= batch.end, f"{batch} is gone"
            for i, payload in enumerate(batch.payloads, batch.offset):
                if i >= found.start:
                    assert found.payloads[i] == payload, f"{i} is another record now"
        trimmed = max((before for when, before in self.trims if when <= at), default=0)
        assert found.start <= trimmed, f"starts at {found.start}, trimmed to {trimmed}"
        for offset, payload in found.payloads.items():
            assert payload in possible.get(offset, ()), f"{offset}: {payload!r} was never sent"
        assert found.next_offset in ends, "a batch is there in part"


@attrs.define(eq=False)
class Found:
    """What an opened log has."""

    start: int
    next_offset: int
    uploaded_end: int
    payloads: dict[int, bytes]
    notes: tuple[str, ...]


async def everything(wal: Wal) -> Found:
    """Read it all; each offset once, in order."""
    start, end, uploaded = wal.start_offset, wal.next_offset, wal.uploaded_end
    reader = wal.reader(StartPosition.offset(start), end="current")
    messages: list[StreamMessage] = [m async for m in reader]
    assert [m.offset for m in messages] == list(range(start, end))
    payloads = dict(zip(range(start, end), (m.payload for m in messages), strict=True))
    return Found(start, end, uploaded, payloads, wal.statistics().notes)


def cloud(wal: Wal) -> CloudStatistics:
    """The store's part of the statistics."""
    statistics = wal.statistics().cloud
    assert statistics is not None
    return statistics


async def check_objects(world: World, *, exact: bool = True) -> CatalogState:
    """The catalog is dense, its objects are what it says; with `exact` there are no others."""
    catalog = world.catalog()
    state = await catalog.latest()
    assert state is not None
    tree = world.store.tree()
    if state.segments:
        assert state.segments[0].base <= state.start_offset < state.segments[0].end
        assert state.segments[-1].end == state.end
    assert all(a.end == b.base for a, b in pairwise(state.segments))
    for descriptor in state.segments:
        data = tree.get(catalog.object_key(descriptor.object_id))
        assert data is not None, f"{descriptor.object_id} is missing"
        assert len(data) == descriptor.size_bytes
        assert crc32(data) == descriptor.crc32
        assert scan(data, 0, descriptor.base).end_offset == descriptor.end
    keys = {key for key in tree if key.startswith(f"{catalog.object_prefix}/")}
    named = {catalog.object_key(descriptor.object_id) for descriptor in state.segments}
    assert named <= keys
    if exact:
        assert keys == named, f"nobody names {keys - named}"
    return state


# ---- scenarios: what is tried after a crash


async def go_on(wal: Wal) -> None:
    """Write a little more, all the way to the store, and let old objects be collected."""
    await wal.append(b"afterwards", durability="uploaded")
    assert wal.uploaded_end == wal.next_offset
    await trio.sleep(11)
    assert not wal.statistics().janitor_failures


async def reopened(world: World, config: WalConfig = CONFIG, *, exact: bool = True) -> Found:
    """The next life in the same directory."""
    async with world.open(config) as wal:
        found = await everything(wal)
        await go_on(wal)
        again = await everything(wal)
        assert again.next_offset == found.next_offset + 1
        assert {**found.payloads, found.next_offset: b"afterwards"} == again.payloads
    await check_objects(world, exact=exact)
    return found


async def elsewhere(world: World, config: WalConfig = CONFIG) -> Found:
    """The directory is lost."""
    return await reopened(attrs.evolve(world, disk=SimDisk()), config)


async def away_and_back(world: World, kept: Found, config: WalConfig = CONFIG) -> Found:
    """Somebody else took the log over; then the old directory is opened again.

    Args:
        kept: what the old directory has if nobody did.
    """
    other = attrs.evolve(world, disk=SimDisk())
    async with other.open(config) as wal:
        there = await everything(wal)
        assert there.next_offset <= kept.uploaded_end, "what was not uploaded cannot be there"
        await wal.append_batch([b"from B"] * 3, durability="uploaded")
    async with world.open(config) as wal:
        found = await everything(wal)
        assert found.payloads == {
            **there.payloads,
            **dict.fromkeys(range(there.next_offset, found.next_offset), b"from B"),
        }
        assert found.next_offset == there.next_offset + 3
        check_set_aside(world, kept, found.notes)
        await go_on(wal)
    await check_objects(world)
    return there


def check_set_aside(world: World, kept: Found, notes: tuple[str, ...] | None) -> None:
    """Exactly the records that were not uploaded are kept beside, and a note says so."""
    aside: set[int] = set()
    for path, data in world.disk.tree().items():
        if path.endswith(".fenced"):
            base = int(path.split(".")[1])
            aside |= set(range(base, scan(data, 0, base).end_offset))
    assert aside >= set(range(kept.uploaded_end, kept.next_offset))
    assert not any(kept.start <= offset < kept.uploaded_end for offset in aside)
    if notes is not None and kept.next_offset > kept.uploaded_end:
        # More may be told of: what was trimmed meanwhile cannot be compared with objects any more.
        told = f" to {kept.next_offset} were kept here only"
        assert any(told in note for note in notes), notes


@contextmanager
def told(what: str) -> Generator[None]:
    """Say where a failure was."""
    try:
        yield
    except BaseException as error:
        error.add_note(what)
        raise
