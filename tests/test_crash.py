"""Crashes at every operation of a workload, on the simulated disk.

For each state that a crash can leave: opening succeeds, every record whose durable append had
returned is there, in order and unaltered; nothing is there that was never accepted; a batch is
there as a whole or not at all; and what a recovery served is still there after the next crash.

`DANUBE_CRASH_SAMPLES` asks for more random states at each point (default 2), and for crashes in
the middle of every recovery instead of a few.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable

import attrs
import pytest
import trio

from danube_trio import StartPosition, Wal, WalConfig, open_wal
from danube_trio.testing import SimDisk

SAMPLES = int(os.environ.get("DANUBE_CRASH_SAMPLES", "2"))
CONFIG = WalConfig(dir="/data/log", segment_bytes=900, preallocate_bytes=256, cache_capacity=4)


@attrs.define(eq=False)
class Journal:
    """What a program was told, and when (in operations of the disk)."""

    disk: SimDisk
    accepted: list[bytes] = attrs.Factory(list[bytes])
    batch_ends: set[int] = attrs.Factory(lambda: {0})
    acked: list[tuple[int, int]] = attrs.Factory(list[tuple[int, int]])  # (op_count, end)
    trims: list[tuple[int, int]] = attrs.Factory(list[tuple[int, int]])  # (before, offset)

    async def append(self, wal: Wal, *payloads: bytes, durable: bool = True) -> None:
        offset = wal.next_offset
        del self.accepted[offset:]  # never acknowledged, and lost in the crash before
        self.accepted.extend(payloads)
        self.batch_ends.add(offset + len(payloads))
        if durable:
            await wal.append_batch(payloads)
            self.acked.append((self.disk.op_count, offset + len(payloads)))
        else:
            wal.append_batch_nowait(payloads)

    async def trim(self, wal: Wal, before: int) -> None:
        self.trims.append((self.disk.op_count, before))
        await wal.trim(before)

    def durable_end(self, op_count: int) -> int:
        return max((end for at, end in self.acked if at <= op_count), default=0)

    def trimmed(self, op_count: int) -> int:
        return max((before for at, before in self.trims if at <= op_count), default=0)


Workload = Callable[[SimDisk, Journal], Awaitable[None]]


async def singles_and_batches(disk: SimDisk, journal: Journal) -> None:
    async with open_wal(CONFIG, disk=disk) as wal:
        for i in range(4):
            await journal.append(wal, b"single %d " % i * 8)
        await journal.append(wal, *(b"batch %d " % i * 12 for i in range(5)))
        await journal.append(wal, b"unsynced", b"pair", durable=False)
        await trio.lowlevel.checkpoint()
        await journal.append(wal, b"last")


async def reopen_and_go_on(disk: SimDisk, journal: Journal) -> None:
    for i in range(3):
        async with open_wal(CONFIG, disk=disk) as wal:
            await journal.append(wal, b"run %d " % i * 20)
            await journal.append(wal, *[b"x" * 100] * 4)


async def die_and_go_on(disk: SimDisk, journal: Journal) -> None:
    for i in range(3):
        process = disk.process()
        try:
            async with open_wal(CONFIG, disk=process) as wal:
                await journal.append(wal, b"life %d " % i * 30)
                await journal.append(wal, b"in flight", b"when it died", durable=False)
                await wal.append(b"w", durability="written")
                journal.accepted.append(b"w")
                journal.batch_ends.add(len(journal.accepted))
                process.kill()
        except Exception as error:
            assert "killed" in repr(error.__cause__)


async def retention(disk: SimDisk, journal: Journal) -> None:
    async with open_wal(CONFIG, disk=disk) as wal:
        for i in range(16):
            await journal.append(wal, b"record %d " % i * 25)
            if i % 5 == 4:
                await journal.trim(wal, wal.next_offset - 3)
    async with open_wal(CONFIG, disk=disk) as wal:
        await journal.trim(wal, wal.next_offset)
        await journal.append(wal, b"the last one")


async def large_batches(disk: SimDisk, journal: Journal) -> None:
    async with open_wal(attrs.evolve(CONFIG, segment_bytes=5000), disk=disk) as wal:
        await journal.append(wal, b"before")
        await journal.append(wal, *(bytes([i]) * 300 for i in range(12)))
        await journal.append(wal, *(bytes([i]) * 300 for i in range(6)), durable=False)
        await journal.append(wal, b"after")


async def unsynced_across_rolls(disk: SimDisk, journal: Journal) -> None:
    async with open_wal(CONFIG, disk=disk) as wal:
        for i in range(3):
            for k in range(6):
                await journal.append(wal, b"%d-%d " % (i, k) * 60, durable=False)
                await trio.testing.wait_all_tasks_blocked()  # written, and not synced
            await journal.append(wal, b"ack")


WORKLOADS = [
    unsynced_across_rolls,
    singles_and_batches,
    reopen_and_go_on,
    die_and_go_on,
    retention,
    large_batches,
]


async def recover(disk: SimDisk) -> tuple[int, list[bytes]]:
    """Open, read everything, and go on writing for a moment."""
    async with open_wal(CONFIG, disk=disk) as wal:
        start, end = wal.start_offset, wal.next_offset
        records = [m async for m in wal.reader(StartPosition.offset(start), end="current")]
        assert [m.offset for m in records] == list(range(start, end))
        return start, [m.payload for m in records]


def check(journal: Journal, op_count: int, start: int, payloads: list[bytes], what: str) -> None:
    end = start + len(payloads)
    assert start <= journal.trimmed(op_count), what
    assert end >= journal.durable_end(op_count), what
    assert payloads == journal.accepted[start:end], what
    assert end in journal.batch_ends, what


@pytest.mark.happens
@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda w: w.__name__)
async def test_every_crash_state_recovers(workload: Workload) -> None:
    disk = SimDisk(seed=workload.__name__)
    journal = Journal(disk)
    await workload(disk, journal)
    states = 0
    for point in disk.crash_points(samples=SAMPLES):
        for state in point.states:
            what = f"{state.name} at operation {point.op_count}, lost: {state.lost}"
            start, payloads = await recover(state.disk)
            check(journal, point.op_count, start, payloads, what)
            states += 1
            if SAMPLES > 2 or states % 25 == 0:
                await crash_in_recovery(state.disk, start, payloads, what)
    assert states > 100


async def crash_in_recovery(disk: SimDisk, start: int, payloads: list[bytes], what: str) -> None:
    """A crash anywhere after records were served must not take one of them back."""
    served = disk.op_count
    for again in disk.crash_states(served):
        then_start, then_payloads = await recover(again.disk)
        assert then_start == start, (what, again.name)
        assert then_payloads == payloads, (what, again.name)


@pytest.mark.happens
async def test_a_crash_inside_a_recovery_changes_nothing() -> None:
    """Rule 18: recovery is idempotent, and may itself crash anywhere."""
    disk = SimDisk(seed=18)
    journal = Journal(disk)
    await singles_and_batches(disk, journal)
    torn = 0
    for point in disk.crash_points():
        for state in point.states:
            if "torn" not in state.name and "sizes" not in state.name:
                continue
            torn += 1
            if torn % 6:
                continue
            await recover(state.disk)
            for inner in state.disk.crash_points():
                for again in inner.states:
                    what = f"{state.name} at {point.op_count}, {again.name} at {inner.op_count}"
                    start, payloads = await recover(again.disk)
                    check(journal, point.op_count, start, payloads, what)
    assert torn > 20


async def test_what_a_reader_has_seen_survives_any_crash() -> None:
    disk = SimDisk(seed=2)
    seen: list[tuple[int, int]] = []
    async with open_wal(CONFIG, disk=disk) as wal, trio.open_nursery() as nursery:

        async def watch() -> None:
            async for message in wal.reader():
                assert message.offset is not None
                seen.append((disk.op_count, message.offset + 1))

        nursery.start_soon(watch)
        for i in range(12):
            await wal.append(b"%d" % i * 60, durability="accepted" if i % 2 else "fsync")
        await wal.flush()
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert len(seen) == 12
    for point in disk.crash_points(samples=SAMPLES):
        end = max((end for at, end in seen if at <= point.op_count), default=0)
        for state in point.states:
            start, payloads = await recover(state.disk)
            assert start + len(payloads) >= end, state.name
