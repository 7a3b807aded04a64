"""``danube-trio bench``: this machine's disk, and a log on it.

The yardstick is the *device*: the same bytes written and synced in one thread by nothing but system
calls. It and the log take turns of a few tenths of a second, because on a shared machine the disk
is twice as fast one moment as the next; what says most are the ratios. Everything goes to a
directory of its own below DIR, which is removed at the end, however that comes.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Awaitable, Callable
from functools import partial
from random import randbytes
from time import perf_counter
from typing import Any

import attrs
import trio

from danube_trio import StartPosition, WalConfig, open_follower, open_wal
from danube_trio._core.disk import File
from danube_trio._disk.real import RealDisk
from danube_trio.cli._progress import Bar, open_bar
from danube_trio.cli._say import say
from danube_trio.cli._values import columns

TURNS = 4
# Of each measurement, so that a fast disk is not filled. Together with the files of the device it
# is what has to be free.
MOST_BYTES = 128 << 20
FREE_BYTES = 10 * MOST_BYTES
LEAST_RECORDS = 100

Contestant = Callable[["_Count", float], Awaitable[None]]  # until this time


@attrs.define(eq=False)
class _Count:
    """What a contestant did: records, seconds, and how long each step of it took."""

    records: int = 0
    seconds: float = 0.0
    steps: list[float] = attrs.Factory(list[float])

    def add(self, records: int, seconds: float) -> None:
        self.records += records
        self.steps.append(seconds)

    @property
    def per_s(self) -> float:
        return self.records / self.seconds if self.seconds else 0.0

    def quantile(self, share: float) -> float | None:
        ordered = sorted(self.steps)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None

    def facts(self) -> dict[str, Any]:
        return {
            "records_per_s": round(self.per_s, 1),
            "p50_s": self.quantile(0.5),
            "p99_s": self.quantile(0.99),
        }


@attrs.frozen
class _Bench:
    """One run. `seconds` are for each measurement, half of them for the device."""

    directory: str
    payload: bytes
    batch: int
    producers: int
    seconds: float
    disk: RealDisk
    bar: Bar

    async def run(self) -> dict[str, Any]:
        config = WalConfig(dir=f"{self.directory}/log")
        async with open_wal(config) as wal:
            await wal.append(self.payload)
            frame_bytes = wal.statistics().appended_bytes
            most = max(LEAST_RECORDS, MOST_BYTES // frame_bytes)
            messages = [self.payload] * self.batch
            single = partial(_appends, lambda: wal.append(self.payload), 1, most)
            batches = partial(_appends, lambda: wal.append_batch(messages), self.batch, most)
            at_once = partial(_all_at_once, self.producers, single)
            facts = {
                "single": await self._against_device(frame_bytes, 1, single),
                "batches": await self._against_device(frame_bytes, self.batch, batches),
                "concurrent": await self._against_device(frame_bytes, 1, at_once),
            }
        facts["replay"] = await self._replay()
        return facts

    async def _against_device(
        self, frame_bytes: int, records: int, ours: Contestant
    ) -> dict[str, Any]:
        """The log and the device, taking turns; the device syncs `records` at a time."""
        device, log = _Count(), _Count()
        path = f"{self.directory}/device"
        file = self.disk.open(path, "create")
        self.disk.sync_dir(self.directory)
        try:
            for _ in range(TURNS):
                each = self.seconds / TURNS / 2
                _write_and_sync(file, randbytes(frame_bytes * records), records, device, each)
                await trio.lowlevel.checkpoint()
                started = perf_counter()
                await ours(log, started + each)
                log.seconds += perf_counter() - started
                self.bar.advance(_ms(2 * each))
        finally:
            file.close()
            self.disk.unlink(path)
        return log.facts() | {
            "device": device.facts(),
            "of_device": round(log.per_s / device.per_s, 3) if device.per_s else None,
        }

    async def _replay(self) -> dict[str, Any]:
        """Read everything again and again, offset and payload of each."""
        count, stop = _Count(), perf_counter() + self.seconds
        started = perf_counter()
        size = 0
        async with open_follower(f"{self.directory}/log") as follower:
            while not count.records or perf_counter() < stop:
                reader = follower.reader(StartPosition.earliest(), end="current")
                async for batch in reader.batches():
                    size += sum(len(message.payload) for message in batch)
                    count.records += len(batch)
                    if perf_counter() >= stop:
                        break
                await reader.aclose()
        count.seconds = perf_counter() - started
        self.bar.advance(_ms(self.seconds))
        return count.facts() | {"payload_bytes_per_s": round(size / count.seconds, 1)}


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _write_and_sync(file: File, data: bytes, records: int, count: _Count, seconds: float) -> None:
    begun = perf_counter()
    stop = begun + seconds
    position = file.size()
    before = begun
    while (before < stop and position < MOST_BYTES) or before == begun:
        file.write_at(data, position)
        file.sync_data()
        position += len(data)
        now = perf_counter()
        count.add(records, now - before)
        before = now
    count.seconds += before - begun


async def _appends(
    step: Callable[[], Awaitable[object]], records: int, most: int, count: _Count, stop: float
) -> None:
    """One step after the other, each of so many records."""
    before = perf_counter()
    while (before < stop and count.records < most) or not count.records:
        await step()
        now = perf_counter()
        count.add(records, now - before)
        before = now


async def _all_at_once(producers: int, one: Contestant, count: _Count, stop: float) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(producers):
            nursery.start_soon(one, count, stop)


# ---- the command


def run_bench(
    directory: str, *, seconds: float, size: int, batch: int, producers: int, as_json: bool
) -> None:
    """Run the command."""
    disk = RealDisk()
    disk.list_dir(directory)  # says what is wrong with it
    if (free := disk.free_bytes(directory)) < FREE_BYTES:
        raise ValueError(
            f"{directory}: a measurement needs {FREE_BYTES >> 20} MiB, and {free >> 20} MiB are "
            f"free: name a directory on another file system"
        )
    payload = randbytes(size)
    with (
        tempfile.TemporaryDirectory(prefix=".danube-bench-", dir=directory) as scratch,
        open_bar("measuring", _ms(4 * seconds), in_bytes=False) as bar,
    ):
        bench = _Bench(scratch, payload, batch, producers, seconds, disk, bar)
        facts = trio.run(bench.run)
    settings = {
        "directory": directory,
        "payload_bytes": size,
        "batch": batch,
        "producers": producers,
        "seconds": seconds,
    }
    facts = settings | facts
    say(json.dumps(facts) if as_json else _text(facts))


def _text(facts: dict[str, Any]) -> str:
    rows: list[tuple[str, ...]] = [("records/s", "device/s", "ratio", "p50", "p99", "")]
    for name, what in (
        ("single", "one producer, each append awaited"),
        ("batches", f"batches of {facts['batch']:,}, each awaited"),
        ("concurrent", f"{facts['producers']:,} producers, each append awaited"),
        ("replay", "replay, from the page cache"),
    ):
        found = facts[name]
        device = found.get("device")
        rows.append(
            (
                f"{found['records_per_s']:,.0f}",
                f"{device['records_per_s']:,.0f}" if device else "-",
                f"{found['of_device']:.2f}" if device else "-",
                _time(found["p50_s"]),
                _time(found["p99_s"]),
                what,
            )
        )
    head = (
        f"{facts['payload_bytes']:,} bytes of payload, {facts['seconds']:g} s for each, in "
        f"'{facts['directory']}'. The device is one write and one fdatasync of the same bytes\n"
        f"(of one record, or of a batch); appends are durable when they return."
    )
    return "\n".join([head, "", *columns(rows, 5)])


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds * 1e6:,.0f} us" if seconds < 0.01 else f"{seconds * 1e3:,.0f} ms"
