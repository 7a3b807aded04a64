"""Runs of real logs, on a simulated disk and store and in virtual time, for the pictures.

Only the public interface is used, so what is drawn is what any program can see.
"""

from __future__ import annotations

import errno
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial

import attrs
import trio
import trio.testing

from danube_trio import (
    CloudConfig,
    DanubeError,
    StartPosition,
    Wal,
    WalConfig,
    open_replica,
    open_wal,
)
from danube_trio.testing import Operation, SimDisk, SimStore, StoreOperation

__all__ = ["MARKS", "Event", "Sample", "journey", "marks", "phases"]

MARKS = (
    "start_offset",
    "uploaded_end",
    "sealed_end",
    "durable_end",
    "written_end",
    "next_offset",
)
PREFIX = "log"


@attrs.frozen
class Sample:
    """The marks at one moment: seconds since the log was opened, and offsets by name."""

    time: float
    marks: dict[str, int]


@attrs.frozen
class Event:
    """What happened, where, from when to when, in seconds since the record was handed in."""

    where: str
    what: str
    start: float
    end: float


def _virtual(main: Callable[[], Awaitable[None]]) -> None:
    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


# ---- the marks


def marks() -> list[Sample]:
    """What `statistics()` says of a log that is written in bursts, uploaded and trimmed."""
    samples: list[Sample] = []
    _virtual(partial(_marks, samples))
    return samples


async def _marks(samples: list[Sample]) -> None:
    config = WalConfig(
        dir="/log",
        durability="accepted",
        fsync_interval_ms=120,
        max_batch_bytes=1500,
        segment_bytes=4000,
        preallocate_bytes=0,
        cloud=CloudConfig(prefix=PREFIX, upload_interval=0.8),
    )
    disk, store = SimDisk(latency=0.03), SimStore(latency=0.06)
    async with (
        open_wal(config, disk=disk, store=store, clock=trio.current_time) as wal,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(_sample, wal, samples, trio.current_time())
        nursery.start_soon(_trim, wal)
        await _burst(wal)
        await trio.sleep(1.2)
        nursery.cancel_scope.cancel()


async def _sample(wal: Wal, samples: list[Sample], began: float) -> None:
    while True:
        seen = wal.statistics()
        now = trio.current_time() - began
        samples.append(Sample(now, {name: getattr(seen, name) for name in MARKS}))
        await trio.sleep(0.01)


async def _burst(wal: Wal) -> None:
    chance = random.Random(4)
    for count in (40, 70, 25, 60):
        for _ in range(count):
            await wal.append(b"x" * chance.randrange(20, 120))
            await trio.sleep(chance.random() * 0.016)
        await trio.sleep(0.15)


async def _trim(wal: Wal) -> None:
    for keep in (60, 50, 40):
        await trio.sleep(0.9)
        await wal.trim(max(wal.start_offset, wal.uploaded_end - keep))


# ---- the journey of one record


def journey() -> list[Event]:
    """One record from the hands of its producer to a reader on another machine."""
    events: list[Event] = []
    _virtual(partial(_journey, events))
    return events


async def _journey(events: list[Event]) -> None:
    disk, store = SimDisk(latency=0.004), SimStore(latency=0.008)
    config = WalConfig(dir="/log", preallocate_bytes=0, cloud=CloudConfig(prefix=PREFIX))
    async with open_wal(config, disk=disk, store=store, clock=trio.current_time) as wal:
        await wal.append(b"before it")
        await wal.wait_uploaded(1)
        async with open_replica(store.client("elsewhere"), prefix=PREFIX, poll_seconds=0.02) as far:
            async with trio.open_nursery() as nursery:
                near_reader = wal.reader(StartPosition.latest(), count=1)
                far_reader = far.reader(StartPosition.latest(), count=1)
                began = trio.current_time()
                log = partial(_note, events, began)
                nursery.start_soon(_receive, near_reader.receive, log, "reader here")
                nursery.start_soon(_receive, far_reader.receive, log, "replica elsewhere")
                _watch_disk(disk, log)
                _watch_store(store, log)
                await trio.sleep(0.004)
                nursery.start_soon(_produce, wal, log, nursery)
    handed_in = next(event.start for event in events if event.what == "append")
    events[:] = [
        attrs.evolve(event, start=event.start - handed_in, end=event.end - handed_in)
        for event in events
        if event.end >= handed_in
    ]


Log = Callable[[str, str, float], None]


def _note(events: list[Event], began: float, where: str, what: str, start: float) -> None:
    """Log that this ends now."""
    events.append(Event(where, what, start - began, trio.current_time() - began))


async def _produce(wal: Wal, log: Log, nursery: trio.Nursery) -> None:
    start = trio.current_time()
    receipt = wal.append_nowait(b"the record")
    log("marks", "accepted", start)
    for name in ("written", "uploaded"):
        nursery.start_soon(_mark, getattr(receipt, name), log, name)
    nursery.start_soon(_sealed_mark, wal, log)
    await receipt.durable()
    log("marks", "durable", start)
    log("producer", "append", start)


async def _mark(wait: Callable[[], Awaitable[range]], log: Log, name: str) -> None:
    start = trio.current_time()
    await wait()
    log("marks", name, start)


async def _sealed_mark(wal: Wal, log: Log) -> None:
    start = trio.current_time()
    while wal.statistics().sealed_end < wal.next_offset:  # noqa: ASYNC110 (nothing tells)
        await trio.sleep(0.0001)
    log("marks", "sealed", start)


async def _receive(receive: Callable[[], Awaitable[object]], log: Log, where: str) -> None:
    start = trio.current_time()
    await receive()
    log(where, "waits", start)


def _watch_disk(disk: SimDisk, log: Log) -> None:
    def seen(operation: Operation) -> None:
        kind = {"write": "write", "sync_data": "sync"}.get(operation.name)
        if kind is not None and operation.path.endswith(".log"):
            now = trio.current_time()
            log("disk", kind, now - disk.latency)

    disk.on_operation = seen


def _watch_store(store: SimStore, log: Log) -> None:
    began: dict[int, float] = {}

    async def before(operation: StoreOperation) -> None:
        began[operation.number] = trio.current_time() - 0.008
        await trio.lowlevel.checkpoint()

    async def after(operation: StoreOperation) -> None:
        log("object store", f"{operation.name} {operation.key}", began[operation.number])
        await trio.lowlevel.checkpoint()

    store.before, store.after = before, after


# ---- the phases


def phases() -> list[tuple[str, str, str]]:
    """Every change of `Wal.phase` that real logs went through: from, to, and what brought it."""
    seen: list[tuple[str, str, str]] = []
    for story in (_left, _sealed, _fenced, _failed, _failed_while_sealed):
        _virtual(partial(story, seen))
    return list(dict.fromkeys(seen))


@asynccontextmanager
async def _watched(seen: list[tuple[str, str, str]], why: list[str]) -> AsyncGenerator[list[Wal]]:
    """Look at the phase of the log in the list at every step of virtual time."""
    logs: list[Wal] = []

    async def watch() -> None:
        last = "open"
        while True:
            if logs and logs[0].phase != last:
                seen.append((last, logs[0].phase, why[-1]))
                last = logs[0].phase
                if last == "closing":
                    why.append("drained")
            await trio.sleep(0.0001)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        yield logs
        await trio.sleep(0.01)
        nursery.cancel_scope.cancel()


def _log(
    disk: SimDisk, store: SimStore | None = None, name: str = "/log"
) -> AbstractAsyncContextManager[Wal]:
    config = WalConfig(dir=name, preallocate_bytes=0, cloud=CloudConfig(prefix=PREFIX))
    return open_wal(config, disk=disk, store=store, clock=trio.current_time)


async def _left(seen: list[tuple[str, str, str]]) -> None:
    why = ["the block is left"]
    async with _watched(seen, why) as logs:
        async with _log(SimDisk(latency=0.001)) as wal:
            logs.append(wal)
            await wal.append(b"x")
            await trio.sleep(0.01)


async def _sealed(seen: list[tuple[str, str, str]]) -> None:
    why = ["seal()"]
    async with _watched(seen, why) as logs:
        async with _log(SimDisk(latency=0.001), SimStore(latency=0.001)) as wal:
            logs.append(wal)
            await wal.append(b"x")
            await wal.seal()
            await trio.sleep(0.01)
            why.append("the block is left")


async def _fenced(seen: list[tuple[str, str, str]]) -> None:
    why = ["another writer took it over"]
    store = SimStore(latency=0.001)
    async with _watched(seen, why) as logs:
        async with _log(SimDisk(latency=0.001), store) as wal:
            logs.append(wal)
            await wal.append(b"x", durability="uploaded")
            async with _log(SimDisk(latency=0.001), store.client("other"), "/other"):
                try:
                    await wal.append(b"y", durability="uploaded")
                except DanubeError:
                    await trio.sleep(0.01)
            why.append("the block is left")


async def _failed(seen: list[tuple[str, str, str]]) -> None:
    why = ["a write or sync failed"]
    disk = SimDisk(latency=0.001)
    async with _watched(seen, why) as logs:
        async with _log(disk) as wal:
            logs.append(wal)
            disk.fail("write", error=errno.ENOSPC, path_contains=".log")
            try:
                await wal.append(b"x")
            except DanubeError:
                await trio.sleep(0.01)


async def _failed_while_sealed(seen: list[tuple[str, str, str]]) -> None:
    why = ["seal()"]
    disk, store = SimDisk(latency=0.001), SimStore(latency=0.001)
    async with _watched(seen, why) as logs:
        async with _log(disk, store) as wal:
            logs.append(wal)
            await wal.append(b"x")
            wal.append_nowait(b"y")
            disk.fail("sync_data", path_contains=".log", sticky=True)
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(wal.seal)
                    await trio.sleep(0.0005)
                    why.append("a write or sync failed")
            except* DanubeError:
                await trio.sleep(0.01)
