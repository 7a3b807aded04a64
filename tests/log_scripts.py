"""Random scripts on whole logs, against plain lists.

A script is the life of one log: it is opened, appended to, trimmed, read, left, killed, opened
again, here and in other directories, with and without a store; copies of directories are put back;
followers, replicas and readers stay open beside it. What it does is decided by its seed alone, on
simulated disks and a simulated store, in virtual time.

The model is a list of payloads, each of which is unique: the *history*, by offset. Whoever reads
must see a piece of one history, without a hole: while the log is one, that is its list. Two things
begin another one, which has the front of the last in common with it:

- a crash, or a copy that is put back without a store: what was not durable, or not in the copy;
- another writer: what was not uploaded.

What is known about it before it is opened again, and is checked then: what was acknowledged at the
level that survives is there; nothing is there that was never sent; batches are whole.

Not here, because nothing is promised about it, or others test it: damage, failing disks and stores
(`test_model`, `test_cloud_faults`), clocks that go back, a log that gets or loses its store.
"""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from importlib import import_module
from typing import Any

import attrs
import trio
from shelves_of import files_of
from trio.testing import MockClock

from danube_trio import (
    CloudConfig,
    CorruptDataError,
    FencedError,
    Follower,
    Gap,
    LogBrokenError,
    LogClosedError,
    OffsetTrimmedError,
    Reader,
    Replica,
    StartPosition,
    StreamMessage,
    UnexpectedOffsetError,
    Wal,
    WalConfig,
    open_follower,
    open_replica,
    open_wal,
)
from danube_trio.catalog import Backoff, ManifestCatalog
from danube_trio.testing import ProcessKilledError, SimDisk, SimStore

__all__ = ["Script", "run_script"]

DIR = "/data/log"
History = list[bytes]


@attrs.define(eq=False)
class Seen:
    """A reader that goes on beside the log, and what it has shown."""

    who: str
    place: str
    reader: Reader[StreamMessage]
    first: int | None = None
    payloads: list[bytes] = attrs.Factory(list[bytes])
    closed: bool = False
    ended: BaseException | None = None
    taken_back: int = 0  # of its place, when it began

    async def run(self) -> None:
        try:
            while batch := await self.reader.next_batch():
                assert not self.closed, "it was closed, and hands out records"
                for message in batch:
                    assert not isinstance(message, Gap)
                    if self.first is None:
                        self.first = message.offset
                    assert message.offset == self.first + len(self.payloads)
                    self.payloads.append(message.payload)
        except (LogClosedError, LogBrokenError, FencedError, OffsetTrimmedError) as error:
            self.ended = error
        except (ProcessKilledError, CorruptDataError) as error:
            self.ended = error


@attrs.frozen
class Copy:
    """A directory as it was, and what was known then."""

    disk: SimDisk
    history: History
    epoch: int
    durable: int
    certain: bool


@attrs.define(eq=False)
class Place:
    """A directory, on a disk of its own.

    Attributes:
        history: what it shows.
        taken_back: how often a part of that went which somebody may have seen.
    """

    name: str
    disk: SimDisk
    history: History = attrs.Factory(History)
    taken_back: int = 0
    copies: list[Copy] = attrs.Factory(list[Copy])


class Script:
    """One script. `steps` is what it did, for who has to find out why it failed."""

    def __init__(self, seed: int) -> None:
        self.rng = rng = random.Random(seed)
        self.steps: list[str] = []
        self.store = SimStore(seed=seed) if rng.random() < 0.6 else None
        self.config = WalConfig(
            dir=DIR,
            segment_bytes=rng.choice([200, 600, 2500]),
            cache_capacity=rng.choice([1, 5, 1000]),
            cache_bytes=rng.choice([1, 700, 100_000]),
            read_block_bytes=rng.choice([1, 300, 100_000]),
            preallocate_bytes=rng.choice([0, 64, 4000]),
            max_pending_bytes=rng.choice([600, 100_000]),
            fsync_interval_ms=rng.choice([1, 50]),
            segment_age=rng.choice([None, None, 2.0]),
            cloud=CloudConfig(
                prefix="log",
                block_bytes=4096,
                keep_local_bytes=rng.choice([0, 0, 1500, 1 << 30]),
                upload_interval=rng.choice([None, 1.5]),
                readahead=rng.choice([0, 3]),
                cache_bytes=rng.choice([5000, 100_000]),
            ),
        )
        names = ["a", "b", "c"] if self.store is not None else ["a"]
        latency = rng.choice([0.0, 0.0, 0.003])
        self.places = {name: Place(name, SimDisk(latency=latency, seed=seed)) for name in names}
        self.owner = "a"
        self.epoch = 0
        self.history: History = []
        self.histories: list[History] = [self.history]
        self.possible: dict[bytes, tuple[bytes, ...]] = {}
        self.start = 0  # it begins here or later
        self.trimmed = 0  # and here or earlier
        self.durable = 0  # acknowledged below it
        self.uploaded = 0
        self.certain = True  # nobody died since: all that was accepted is there
        self.fighting = False
        self.serial = 0
        self.unknown: set[bytes] = set()  # handed to a process that died
        self.seen: list[Seen] = []
        self.nursery: trio.Nursery

    def log(self, what: str) -> None:
        self.steps.append(what)

    def clock(self) -> float:
        return 1e9 + trio.current_time()

    def catalog(self, store: SimStore) -> ManifestCatalog:
        return ManifestCatalog(store, "log", backoff=Backoff(chance=lambda: 0.5))

    def shared(self, store: SimStore | None = None) -> dict[str, Any]:
        """The arguments that have to do with the store."""
        if self.store is None:
            return {}
        store = store if store is not None else self.store.client()
        return {"store": store, "catalog": self.catalog(store)}

    # ---- the course of it

    async def run(self) -> None:
        async with trio.open_nursery() as self.nursery:
            for _ in range(self.rng.randint(2, 6)):
                await self.between()
                await self.life(self.choose_place())
                self.check_seen()
            async with self.opened(self.places[self.owner]) as wal:
                await self.compare(wal)
            self.nursery.cancel_scope.cancel()

    def choose_place(self) -> Place:
        if self.rng.random() < 0.6:
            return self.places[self.owner]
        return self.places[self.rng.choice(list(self.places))]

    async def between(self) -> None:
        """What can happen while no log is open."""
        place = self.places[self.rng.choice([*self.places, self.owner])]
        chance = self.rng.random()
        if chance < 0.3 and place.disk.tree():
            self.log(f"copy {place.name}")
            disk = place.disk.crash("everything written")
            history = list(place.history)
            place.copies.append(Copy(disk, history, self.epoch, self.durable, self.certain))
        elif chance < 0.6 and place.copies:
            self.put_back(place, place.copies.pop())

    def put_back(self, place: Place, copy: Copy) -> None:
        """A copy of the directory takes its place; nobody may be following it."""
        self.log(f"put the copy with {len(copy.history)} records back as {place.name}")
        self.end_seen(place.name)
        place.disk, place.history = copy.disk, copy.history
        if self.store is None:
            self.begin_history(copy.history)
            self.durable, self.certain = copy.durable, copy.certain
            self.start = 0
        elif place.name == self.owner and copy.epoch != self.epoch:
            self.owner = ""  # what it has beyond the catalog is not of this log any more
            self.places[""] = place

    def end_seen(self, place: str) -> None:
        for seen in self.seen:
            if seen.place == place:
                seen.closed = True
                seen.reader.close_now()

    def begin_history(self, history: History) -> None:
        self.history = history
        self.histories.append(history)

    async def life(self, place: Place) -> None:
        rng, process = self.rng, place.disk.process()
        client = self.store.client() if self.store is not None else None
        killed = rng.random() < 0.25
        died = False
        try:
            async with self.opened(place, process, client) as wal:
                if rng.random() < 0.5:
                    await self.compare(wal)
                for _ in range(rng.randint(1, 14)):
                    await self.step(place, wal)
                if self.store is not None and rng.random() < 0.15:
                    await self.rival(place, wal)
                elif killed:
                    died = True
                    self.die(process, client, rng.randrange(20))
                    await self.burst(wal)
                    await trio.sleep(rng.choice([0.0, 0.1]))
                    process.kill()
                    if client is not None:
                        client.kill()
        except* (LogBrokenError, OSError):
            assert died
            self.log("killed")
        process.on_operation = None
        if died:
            self.certain = False
            if rng.random() < 0.4:
                self.log("power cut")
                self.end_seen(place.name)
                place.disk = place.disk.crash("synced only")

    def die(self, process: SimDisk, client: SimStore | None, left: int) -> None:
        """The process dies so many operations of the disk later."""

        def count(_: object) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                process.kill()
                if client is not None:
                    client.kill()

        process.on_operation = count

    # ---- opening

    @asynccontextmanager
    async def opened(
        self, place: Place, disk: SimDisk | None = None, client: SimStore | None = None
    ) -> AsyncGenerator[Wal]:
        """The log, opened in this place; what it has then is what must be there."""
        end: int | None = None
        if self.store is not None:
            state = await self.catalog(self.store.client()).latest()
            if state is not None:
                assert state.end >= self.uploaded
                self.epoch = state.epoch + 1
                end = state.end
        self.log(f"open {place.name}")
        block: AbstractAsyncContextManager[Wal] = open_wal(
            self.config,
            disk=disk if disk is not None else place.disk.process(),
            clock=self.clock,
            **self.shared(client),
        )
        async with block as wal:
            owner = self.places.get(self.owner)
            await self.check_opened(place, wal, None if owner is place and self.owner else end)
            self.owner = place.name
            yield wal

    async def check_opened(self, place: Place, wal: Wal, catalog_end: int | None) -> None:
        """Where it must end is known, if another place owned the log before."""
        found = [m async for m in wal.reader(end="current")]
        first, end = wal.start_offset, wal.next_offset
        assert [m.offset for m in found] == list(range(first, end))
        assert self.start <= first <= max(self.trimmed, self.start), (self.start, self.trimmed)
        least = self.durable if catalog_end is None else self.uploaded
        assert end >= least, f"ends at {end}, {least} were acknowledged"
        if catalog_end is not None:
            # Another writer that is still there may upload until it is fenced.
            assert end == max(catalog_end, first) or (self.fighting and catalog_end < end)
        elif self.certain:
            assert end == max(len(self.history), first)
        now = [*self.history[:first], *(m.payload for m in found)]
        now[len(self.history[:first]) : len(self.history[:first])] = [b"trimmed"] * (
            first - len(self.history[:first])
        )
        known = min(least, end)
        assert now[first:known] == self.history[first:known]
        self.check_whole(now, first)
        if now != self.history[: len(now)] or len(now) < len(self.history):
            self.begin_history(now)
        differs = place.history[: len(now)] != now[: len(place.history)]
        # What was trimmed elsewhere cannot be compared any more, so it counts as taken back.
        if differs or len(place.history) > len(now) or (catalog_end is not None and first):
            place.taken_back += 1
        place.history = self.history
        self.start, self.trimmed = first, max(self.trimmed, first)
        self.durable, self.certain = end, True

    def check_whole(self, now: History, first: int) -> None:
        """Batches, each as it was sent, the first one trimmed maybe."""
        offset = first
        while offset < len(now):
            batch = self.possible[now[offset]]
            done = batch.index(now[offset])
            assert not done or offset == first
            rest = list(batch[done:])
            assert now[offset : offset + len(rest)] == rest, "a batch is there in part"
            offset += len(rest)

    # ---- steps

    async def step(self, place: Place, wal: Wal) -> None:
        steps: dict[str, Callable[[], Awaitable[None]]] = {
            "append": partial(self.append, wal),
            "append ": partial(self.append, wal),
            "burst": partial(self.burst, wal),
            "nowait": partial(self.nowait, wal),
            "trim": partial(self.trim, wal),
            "compare": partial(self.compare, wal),
            "sleep": self.sleep,
            "flush": partial(self.flush, wal),
            "reader": partial(self.add_reader, place.name, wal),
            "follower": partial(self.follow, place),
            "close": self.close_one,
        }
        if self.store is not None:
            steps |= {"upload": partial(self.upload, wal), "replica": self.replicate}
        name = self.rng.choice(list(steps))
        self.log(name)
        await steps[name]()

    def make(self, wal: Wal) -> tuple[bytes, ...]:
        """A batch. One in five ends just at, or beside, the border of its segment."""
        rng = self.rng
        sizes = [rng.randint(0, 120) for _ in range(rng.choice([1, 1, 2, 5]))]
        if rng.random() < 0.2:
            left = self.config.segment_bytes - files_of(wal).active.size_bytes
            sizes = [max(0, left - rng.choice([40, 60, 64, 65, 80]))]
        made: list[bytes] = []
        for size in sizes:
            self.serial += 1
            made.append(b"%d." % self.serial + b"x" * size)
        batch = tuple(made)
        self.possible |= dict.fromkeys(batch, batch)
        return batch

    def accepted(self, batch: tuple[bytes, ...], first: int) -> None:
        assert first == len(self.history), "an offset was passed over, or given twice"
        self.history += batch

    async def append(self, wal: Wal) -> None:
        batch = self.make(wal)
        wrong = self.rng.random() < 0.1
        expected = len(self.history) + 1 if wrong else self.rng.choice([None, len(self.history)])
        try:
            offsets = await wal.append_batch(batch, expected_offset=expected)
        except UnexpectedOffsetError:
            assert wrong
            return
        assert not wrong
        self.accepted(batch, offsets.start)
        self.durable = max(self.durable, offsets.stop)
        if len(batch) == 1:
            end = self.make(wal)[:1]
            self.possible[end[0]] = end
            offset = await wal.append(end[0])
            self.accepted(end, offset)
            self.durable = max(self.durable, offset + 1)

    async def nowait(self, wal: Wal) -> None:
        batch = self.make(wal)
        try:
            receipt = wal.append_batch_nowait(batch)
        except trio.WouldBlock:
            return
        self.accepted(batch, receipt.offsets.start)
        if self.rng.random() < 0.5:
            await receipt.durable()
            self.durable = max(self.durable, receipt.offsets.stop)

    async def burst(self, wal: Wal) -> None:
        """Many at once, some of them cancelled; they were accepted in the order of the offsets."""
        done: list[tuple[int, tuple[bytes, ...]]] = []
        batches = [self.make(wal) for _ in range(self.rng.randint(2, 5))]
        patience = [self.rng.choice([None, 0, 1, 3]) for _ in batches]

        async def one(batch: tuple[bytes, ...], checkpoints: int | None) -> None:
            with trio.CancelScope() as scope:
                if checkpoints is not None:
                    if not checkpoints:
                        scope.cancel()
                    else:
                        nursery.start_soon(later, scope, checkpoints)
                offsets = await wal.append_batch(batch)
                done.append((offsets.start, batch))
                self.durable = max(self.durable, offsets.stop)

        async def later(scope: trio.CancelScope, checkpoints: int) -> None:
            for _ in range(checkpoints):
                await trio.lowlevel.checkpoint()
            scope.cancel()

        try:
            async with trio.open_nursery() as nursery:
                for batch, checkpoints in zip(batches, patience, strict=True):
                    nursery.start_soon(one, batch, checkpoints)
        except BaseException:
            self.unknown.update(*batches)
            raise
        finally:
            for first, batch in sorted(done):
                self.accepted(batch, first)

    async def flush(self, wal: Wal) -> None:
        end = wal.next_offset
        await wal.flush()
        self.durable = max(self.durable, end)

    async def upload(self, wal: Wal) -> None:
        end = self.rng.randint(wal.start_offset, wal.next_offset)
        await wal.wait_uploaded(end)
        self.uploaded = max(self.uploaded, end)
        self.durable = max(self.durable, end)

    async def sleep(self) -> None:
        await trio.sleep(self.rng.choice([0.001, 0.3, 6.0]))

    async def trim(self, wal: Wal) -> None:
        before = self.rng.randint(wal.start_offset, wal.next_offset + 1)
        start = wal.start_offset
        self.trimmed = max(self.trimmed, before)
        self.start = await wal.trim(before, whole_segments=self.rng.random() < 0.3)
        assert start <= self.start <= max(start, before)

    async def rival(self, place: Place, wal: Wal) -> None:
        """Somebody else takes the log over while it is open here."""
        self.log("rival")
        await self.flush(wal)
        others = [other for name, other in self.places.items() if name and other is not place]
        before = list(self.history)
        self.fighting = True
        async with self.opened(self.rng.choice(others)) as theirs:
            self.fighting = False
            for _ in range(self.rng.randint(0, 3)):
                await self.append(theirs)
        late = self.make(wal)
        try:
            await wal.append_batch(late, durability="uploaded")
        except FencedError:
            self.histories.append([*before, *late])  # what it keeps is in its directory only
            place.history = self.histories[-1]
        else:
            raise AssertionError("a writer that lost the log uploads")

    # ---- reading

    async def compare(self, log: Wal | Follower | Replica) -> None:
        """Read in a way by chance; the log is at rest, but for what the store's tasks do."""
        rng = self.rng
        if isinstance(log, Wal):
            await self.flush(log)
        start, end = log.start_offset, log.durable_end
        at = rng.randint(start, end)
        stop = rng.randint(at, end)
        way = rng.choice(["end", "count", "time", "batches", "open"])
        self.log(f"read {start} {at} {stop} {end} by {way}")
        begin = StartPosition.offset(at)
        if way == "time":
            raw = [record async for record in log.reader(end=end, raw=True)]
            times = [record.append_time for record in raw]
            assert [record.offset for record in raw] == list(range(start, end))
            assert times == sorted(times)
            time = rng.choice(times) + rng.choice([-1, 0, 1]) if times else 10**15
            at = start + sum(each < time for each in times)
            stop, begin = end, StartPosition.timestamp(time / 1e6)
        if way in ("end", "time"):
            found = [m async for m in log.reader(begin, end=stop)]
        elif way == "count":
            found = [m async for m in log.reader(begin, count=stop - at)]
        elif way == "batches":
            found = [m async for batch in log.reader(begin, end=stop).batches() for m in batch]
        else:
            reader = log.reader(begin)
            found = [await anext(reader) for _ in range(at, stop)]
            await reader.aclose()
        assert [m.offset for m in found] == list(range(at, stop)), way
        assert [m.payload for m in found] == self.history[at:stop]

    def watch(self, who: str, place: str, log: Wal | Follower | Replica) -> Seen:
        at = self.rng.choice([log.start_offset, log.durable_end])
        seen = Seen(who, place, log.reader(StartPosition.offset(at)))
        if place in self.places:
            seen.taken_back = self.places[place].taken_back
        self.seen.append(seen)
        return seen

    async def add_reader(self, place: str, wal: Wal) -> None:
        self.nursery.start_soon(self.watch("reader", place, wal).run)

    async def follow(self, place: Place) -> None:
        """Follow the log from now on, through whatever comes."""
        ready = trio.Event()

        async def run() -> None:
            async with open_follower(
                DIR, disk=place.disk.process(), poll_seconds=0.2, **self.shared(), prefix="log"
            ) as follower:
                await self.compare(follower)
                seen = self.watch("follower", place.name, follower)
                ready.set()
                await seen.run()
            if isinstance(seen.ended, CorruptDataError):
                self.log(f"a follower of {place.name} was told")

        self.nursery.start_soon(run)
        await ready.wait()

    async def replicate(self) -> None:
        assert self.store is not None
        store, ready = self.store.client(), trio.Event()

        async def run() -> None:
            async with open_replica(
                store, prefix="log", catalog=self.catalog(store), poll_seconds=0.5
            ) as replica:
                await self.compare(replica)
                seen = self.watch("replica", "store", replica)
                ready.set()
                await seen.run()

        self.nursery.start_soon(run)
        await ready.wait()

    async def close_one(self) -> None:
        if self.seen:
            seen = self.rng.choice(self.seen)
            seen.closed = True
            await seen.reader.aclose()

    def check_seen(self) -> None:
        """Everybody saw a piece of one history."""
        for seen in self.seen:
            assert any(self.is_piece(seen, history) for history in self.histories), seen
            if isinstance(seen.ended, CorruptDataError):
                assert seen.who == "follower" and "cut back" in seen.ended.reason, seen
                assert self.places[seen.place].taken_back > seen.taken_back, seen
        self.seen = [seen for seen in self.seen if seen.ended is None]

    def is_piece(self, seen: Seen, history: History) -> bool:
        """What nobody knows the outcome of, because its process died, may come after its end."""
        if seen.first is None:
            return True
        known = history[seen.first : seen.first + len(seen.payloads)]
        rest = seen.payloads[len(known) :]
        return seen.payloads[: len(known)] == known and self.unknown.issuperset(rest)


def run_script(seed: int) -> Script:
    """Run the script of this seed."""
    script = Script(seed)
    # Trio takes the tasks that are ready in an order by chance. The seed decides that, too.
    scheduling: Any = import_module("trio._core._run")
    scheduling._ALLOW_DETERMINISTIC_SCHEDULING = True
    scheduling._r.seed(seed)
    try:
        trio.run(script.run, clock=MockClock(autojump_threshold=0))
    except BaseException as error:
        error.add_note(f"seed {seed}: {'; '.join(script.steps)}")
        raise
    finally:
        scheduling._ALLOW_DETERMINISTIC_SCHEDULING = False
    return script
