"""Random programs in a world that does things to them, against a plain list.

A program appends, uploads, consumes and acknowledges, is left, killed and opened again. Between its
lives, and in the middle of them, the world acts: somebody removes, adds or truncates a file, puts
an older copy of the store or the metadata back, moves, removes or replaces the directory, or the
clock steps; calls of the disk fail, the store is away, the power is cut. All of it is simulated.

What is promised is one sentence: **nothing is lost in silence**.

- Whoever opens the log after that gets all that was acknowledged, each record at its offset, or one
  of the documented errors; and so does whoever has it open. Then an *operator* undoes what the
  world did, and everything must be there again: the refusal has changed nothing that matters.
- What was acknowledged after a file or the directory was taken from a running log may go with it;
  the log must have said so (LogBrokenError), within a minute.
- Every message that was not acknowledged by its consumer is delivered, with its own payload, or the
  subscription is refused.

Two things cannot be known, and are not drawn: an older copy of a directory, without a store and
without a cursor that is ahead of it, is a log like any other; and after a power cut the mark may
lag behind what is durable, so that what is cut off behind it looks like what a crash tears.
"""

from __future__ import annotations

import errno
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, cast

import attrs
import pytest
import trio

from danube_trio import (
    CloudConfig,
    CorruptDataError,
    DanubeError,
    LogLockedError,
    Wal,
    WalConfig,
    WalStorage,
    open_wal,
)
from danube_trio.catalog import Backoff, ManifestCatalog
from danube_trio.dispatch import ReliableDispatch, ReliableOptions, Subscription
from danube_trio.testing import Fault, SimDisk, SimMetadata, SimStore

__all__ = ["RUNNING", "WORLD", "Step", "World"]

DIR = "/data/log"
AWAY = "/data/log.away"
ALL = 1 << 60
TOPIC = "/default/world"
# What a log says within this time, if its files are taken away.
NOTICED = 60.0


CLOCKS = [0.0, -3600.0, 3600.0, 86_400.0 * 365 * 20, -1.7e9, 0.0]
WORLD = ("clock", "cut", "keep", "lose", "metadata back", "store back", "stray")
# These only while it is open: a directory that is not there is a new log, as everywhere.
RUNNING = ("move", "remove", "swap")
FAULTS = [
    *(
        ("write", errno.ENOSPC),
        ("write", errno.EIO),
        ("sync_data", errno.EIO),
        ("create", errno.EMFILE),
    ),
    *(
        ("sync_dir", errno.EIO),
        ("rename", errno.ENOSPC),
        ("unlink", errno.EBUSY),
        ("read", errno.EIO),
    ),
]


@attrs.frozen
class Step:
    """One thing that happens."""

    what: str
    number: int = 0


@attrs.frozen
class Deed:
    """What the world did, how an operator undoes it, and what was acknowledged before it."""

    what: str
    undo: Callable[[], None]
    sure: int


class World:
    """One program and what happens to it. `story` tells how a failure came about."""

    def __init__(self, settings: dict[str, Any], *, with_store: bool) -> None:
        settings = dict(settings)
        cloud = CloudConfig(prefix="log", keep_local_bytes=settings.pop("keep_local_bytes"))
        self.config = WalConfig(dir=DIR, segment_bytes=300, cloud=cloud, **settings)
        self.disk = SimDisk()
        self.process = self.disk
        self.store = SimStore() if with_store else None
        self.client = self.store
        self.metadata = SimMetadata()
        self.skew = 0.0
        self.history: list[bytes] = []
        self.sent: set[bytes] = set()
        self.sure = 0  # acknowledged below it
        self.acked: set[int] = set()  # by the consumer
        self.cursor_ahead = False  # what it has acknowledged is not there any more
        self.deed: Deed | None = None
        self.backup: tuple[SimStore | None, SimMetadata] | None = None
        self.faults: list[Fault] = []
        self.story: list[str] = []
        self.died = self.power = False

    def clock(self) -> float:
        return 1.7e9 + trio.current_time() + self.skew

    # ---- lives

    async def run(self, steps: list[Step]) -> None:
        rest = list(steps)
        try:
            while rest:
                await self.life(rest)
            await self.life([])
            async with self.opened() as wal:
                await self.check(wal)
                await self.consume(wal, len(self.history))
                assert self.acked.issuperset(range(self.sure)), "messages were passed over"
        except BaseException as error:
            error.add_note("; ".join(self.story))
            raise

    async def life(self, steps: list[Step]) -> None:
        """From an opening to its end; takes its steps off the list."""
        while steps and steps[0].what in WORLD:
            step = steps.pop(0)
            # The mark may lag behind what is durable then: what is cut off behind it is not missed.
            if not (self.power and step.what in ("cut", "lose")):
                self.act(step, running=False)
        self.died = self.power = False
        try:
            async with self.opened() as wal:
                await self.check(wal)
                self.deed = None  # whatever was done, everything is there
                while steps and await self.step(wal, steps.pop(0)):
                    pass
        except* (DanubeError, OSError) as errors:
            error = leaf(errors)
            self.story.append(f"told: {type(error).__name__} {error!s:.120}")
            failed = any(fault.hits for fault in self.faults)
            self.mend()
            if not self.died:
                assert failed or self.deed is not None, "an error, and nobody did anything"
                self.undo()
        self.mend()
        if self.power:
            self.disk = self.disk.crash("synced only")

    def mend(self) -> None:
        """Calls of the disk do not fail any more."""
        for fault in self.faults:
            fault.cancel()
        self.faults = []

    def undo(self) -> None:
        """The operator puts things right."""
        deed, self.deed = self.deed, None
        if deed is not None:
            self.story.append(f"undo {deed.what}")
            self.sure = min(self.sure, deed.sure)
            deed.undo()

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[Wal]:
        self.story.append("open")
        self.process = self.disk.process()
        cloud: dict[str, Any] = {}
        if self.store is not None:
            self.client = self.store.client()
            catalog = ManifestCatalog(self.client, "log", backoff=Backoff(chance=lambda: 0.5))
            cloud = {"store": self.client, "catalog": catalog}
        block = open_wal(self.config, disk=self.process, clock=self.clock, **cloud)
        async with block as wal:
            yield wal
        self.story.append("left")

    async def check(self, wal: Wal) -> None:
        """What is there is what was sent, and all that was acknowledged is there."""
        found = [message.payload async for message in wal.reader(end="current")]
        assert wal.start_offset == 0 and len(found) == wal.durable_end
        known = min(len(found), len(self.history))
        assert found[:known] == self.history[:known], "another record is there"
        assert len(found) >= self.sure, f"{self.sure} were acknowledged, {len(found)} are there"
        assert self.sent.issuperset(found) and len(set(found)) == len(found)
        if max(self.acked, default=-1) >= len(found):
            self.cursor_ahead = True
            self.acked = {offset for offset in self.acked if offset < len(found)}
        self.history = found
        self.sure = len(found)

    # ---- what the program does

    async def step(self, wal: Wal, step: Step) -> bool:
        """Do it; False: this life is over."""
        self.story.append(f"{step.what} {step.number}")
        match step.what:
            case "append":
                await self.append(wal, 1 + step.number % 5)
            case "upload" if self.store is not None:
                await wal.wait_uploaded(wal.next_offset)
            case "sleep":
                await trio.sleep(step.number)
            case "consume":
                await self.consume(wal, 1 + step.number % 9)
            case "rival" if not self.faults:
                with pytest.raises(LogLockedError):
                    async with open_wal(self.config, disk=self.disk.process()):
                        pass
            case "fault":
                what, error = FAULTS[step.number % len(FAULTS)]
                nth = 1 + step.number // len(FAULTS)
                self.faults.append(self.disk.fail(what, nth, error=error))
            case "outage" if self.client is not None:
                away = self.client.fail(None, sticky=True)
                await self.append(wal, 4)
                await trio.sleep(step.number)
                away.cancel()
            case "leave":
                return False
            case "kill" | "power":
                self.died = True
                self.power = step.what == "power"
                self.process.kill()
                if self.client is not None:
                    self.client.kill()
                return False
            case what if what in (*WORLD, *RUNNING):
                self.act(step, running=True)
                await self.notice(wal)
            case _:
                pass
        return True

    async def append(self, wal: Wal, count: int) -> None:
        first = len(self.sent)
        batch = [b"%d." % number + b"x" * 30 for number in range(first, first + count)]
        self.sent.update(batch)
        offsets = await wal.append_batch(batch)
        assert offsets.start == len(self.history), "an offset was passed over, or given twice"
        self.history += batch
        self.sure = offsets.stop

    async def notice(self, wal: Wal) -> None:
        """Go on for a minute; a log that says nothing in it must have everything."""
        for _ in range(6):
            await self.append(wal, 2)
            await trio.sleep(NOTICED / 6)

    async def consume(self, wal: Wal, most: int) -> None:
        """Take so many messages, if there are so many, and acknowledge them."""
        make = partial(ReliableDispatch.new_with_persistent, metadata=self.metadata.client())
        options = ReliableOptions()
        try:
            async with make(TOPIC, options, None, WalStorage.from_wal(wal)) as dispatch:
                await self.take(await dispatch.add_subscription("billing"), most)
        except CorruptDataError as error:
            if self.deed is not None:
                raise
            # The log went back, and had said so: the operator begins with another cursor.
            assert self.cursor_ahead, "a cursor is refused that is not ahead"
            self.story.append(f"told: {error!s:.120}")
            self.metadata, self.acked, self.cursor_ahead = SimMetadata(), set(), False
            self.backup = None
            async with make(TOPIC, options, None, WalStorage.from_wal(wal)) as dispatch:
                await self.take(await dispatch.add_subscription("billing"), most)

    async def take(self, subscription: Subscription, most: int) -> None:
        async with subscription.consumer() as consumer:
            while most and (await subscription.statistics()).lag:
                for message in await consumer.receive(most):
                    assert message.payload == self.history[message.offset]
                    assert message.ack()
                    self.acked.add(message.offset)
                    most -= 1
        await subscription.flush()

    # ---- what the world does

    def act(self, step: Step, *, running: bool) -> None:
        """Something that nobody asked for."""
        what, number = step.what, step.number
        self.story.append(f"{what} {number}{' while it is open' if running else ''}")
        if self.faults and what not in ("clock", "keep", "metadata back", "store back"):
            return  # it would meet them itself
        before = self.tree()
        undo: Callable[[], None] | None = None
        match what:
            case "clock":
                self.skew = CLOCKS[number % len(CLOCKS)]
            case "keep":
                store = self.store.clone() if self.store is not None else None
                self.backup = store, self.metadata.clone()
            case "metadata back" if self.backup is not None:
                self.metadata.go_back_to(self.backup[1])
            case "store back" if self.backup and self.store and self.deed is None:
                assert self.backup[0] is not None
                now = self.store.clone()
                self.store.go_back_to(self.backup[0])
                undo = partial(self.bring_back, self.store, now)
            case "lose" | "cut" if before and self.deed is None:
                path = sorted(before)[number % len(before)]
                self.story.append(path)
                self.lose(path) if what == "lose" else self.cut(path)
                undo = partial(self.disk.write_file, path, before[path])
            case "stray" if before and self.deed is None:
                path = f"{DIR}/wal.{number % (len(self.history) + 3):020}.log"
                if path not in before:
                    self.disk.write_file(path, b"")
                    undo = partial(self.lose, path)
            case "remove" if self.deed is None:
                self.disk.remove_tree(DIR)
                undo = partial(self.put_back, before)
            case "move" | "swap" if self.deed is None:
                self.rename(DIR, AWAY)
                if what == "swap":
                    self.disk.write_file(f"{DIR}/wal.lock", b"")
                undo = self.move_back
            case _:
                pass
        if undo is None:
            return
        sure = self.sure
        if not running or what in ("move", "swap"):
            sure = ALL  # nothing may be missing when it is undone
        elif what != "store back":
            undo = partial(self.put_back, before)
        self.deed = Deed(f"{what} {number}", undo, sure)

    def rename(self, source: str, target: str) -> None:
        somebody = self.disk.process()
        somebody.rename(source, target)
        somebody.sync_dir("/data")

    def move_back(self) -> None:
        if self.tree():
            self.disk.remove_tree(DIR)
        self.rename(AWAY, DIR)

    def bring_back(self, store: SimStore, then: SimStore) -> None:
        """What was in the store and is not: what came since stays."""
        for key in then.tree().keys() - store.tree().keys():
            store.go_back_to(then, key)

    def tree(self) -> dict[str, bytes]:
        """The files of the log."""
        inside = f"{DIR}/"
        return {path: data for path, data in self.disk.tree().items() if path.startswith(inside)}

    def lose(self, path: str) -> None:
        somebody = self.disk.process()
        if path in self.tree():
            somebody.unlink(path)
            somebody.sync_dir(DIR)

    def cut(self, path: str) -> None:
        file = self.disk.process().open(path, "rw")
        file.truncate(file.size() // 2)
        file.sync_data()
        file.close()

    def put_back(self, tree: dict[str, bytes]) -> None:
        """The whole directory, from just before."""
        for path in self.tree().keys() - tree.keys():
            self.lose(path)
        for path, data in tree.items():
            self.disk.write_file(path, data)


def leaf(error: BaseException) -> BaseException:
    """The first error of a group."""
    while isinstance(error, BaseExceptionGroup):
        error = cast("BaseExceptionGroup[BaseException]", error).exceptions[0]
    return error
