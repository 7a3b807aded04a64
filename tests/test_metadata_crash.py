"""Crashes, failed calls and flipped bits at every place of a metadata directory's life.

After each crash: opening succeeds; the content is exactly that of one revision, not before the
newest acknowledged one; and what was served then is still there after the next crash.

`DANUBE_CRASH_SAMPLES` asks for more random states at each point (default 1).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable

import attrs
import pytest
import trio

from danube_trio.errors import CorruptDataError, DanubeError, StoreUnavailableError
from danube_trio.metadata import EmbeddedMetadata, open_metadata_directory
from danube_trio.testing import SimDisk

SAMPLES = int(os.environ.get("DANUBE_CRASH_SAMPLES", "1"))
D = "/data/metadata"
Content = dict[str, bytes]


@attrs.define(eq=False)
class Record:
    """What a program did, and when it was told so (in operations of the disk)."""

    disk: SimDisk
    states: dict[int, Content] = attrs.Factory(lambda: {1: {}})
    acked: list[tuple[int, int]] = attrs.Factory(list[tuple[int, int]])  # (op_count, revision)
    _done: dict[int, tuple[Content, list[str]]] = attrs.Factory(
        dict[int, tuple[Content, list[str]]]
    )

    async def change(
        self, store: EmbeddedMetadata, put: Content | None = None, delete: tuple[str, ...] = ()
    ) -> None:
        revision = await store.transact({}, put=put, delete=delete)
        assert revision is not None
        self.acked.append((self.disk.op_count, revision))
        self._done[revision] = (put or {}, list(delete))

    def finish(self) -> None:
        """The content at each revision."""
        for revision in sorted(self._done):
            state = dict(self.states[revision - 1])
            put, delete = self._done[revision]
            state.update(put)
            for key in delete:
                state.pop(key, None)
            self.states[revision] = state

    def acked_by(self, op_count: int) -> int:
        return max((revision for at, revision in self.acked if at <= op_count), default=1)


Workload = Callable[[SimDisk, Record], Awaitable[None]]


async def one_by_one(disk: SimDisk, record: Record) -> None:
    async with open_metadata_directory(D, disk=disk) as store:
        for n in range(3):
            await record.change(store, {f"/{n % 2}": b"%d" % n * 40})
        await record.change(store, {"/a": b"", "/b": b"b" * 200}, ("/1",))
        await record.change(store, delete=("/a",))


async def together(disk: SimDisk, record: Record) -> None:
    async with open_metadata_directory(D, disk=disk) as store:
        for _ in range(2):
            async with trio.open_nursery() as nursery:
                for n in range(5):
                    nursery.start_soon(record.change, store, {f"/{n}": b"%d" % n * 60})
            await record.change(store, delete=("/0", "/3"))


async def starting_over(disk: SimDisk, record: Record) -> None:
    async with open_metadata_directory(D, disk=disk, journal_bytes=200) as store:
        for n in range(12):
            await record.change(store, {f"/{n % 3}": b"%d" % n * 30})


async def opening_again(disk: SimDisk, record: Record) -> None:
    for n in range(4):
        async with open_metadata_directory(D, disk=disk, journal_bytes=150) as store:
            await record.change(store, {f"/{n}": b"%d" % n * 30})
            if n % 2:
                await record.change(store, {"/more": b"%d" % n * 90})


WORKLOADS: list[Workload] = [one_by_one, together, starting_over, opening_again]


async def recover(disk: SimDisk) -> tuple[int, Content]:
    async with open_metadata_directory(D, disk=disk) as store:
        content = {entry.key: entry.value for entry in await store.list_entries("/")}
        return store.revision, content


async def recorded(workload: Workload) -> tuple[SimDisk, Record]:
    disk = SimDisk(seed=workload.__name__, sector_bytes=32)
    record = Record(disk)
    await workload(disk, record)
    record.finish()
    return disk, record


def check(record: Record, op_count: int, found: tuple[int, Content], what: str) -> None:
    revision, content = found
    assert revision >= record.acked_by(op_count), what
    assert content == record.states[revision], what


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda w: w.__name__)
async def test_every_crash_state_recovers(workload: Workload) -> None:
    disk, record = await recorded(workload)
    states = 0
    for point in disk.crash_points(samples=SAMPLES):
        for state in point.states:
            what = f"{state.name} at operation {point.op_count}, lost: {state.lost}"
            found = await recover(state.disk)
            check(record, point.op_count, found, what)
            states += 1
            if states % 10 == 0 or SAMPLES > 1:
                served = state.disk.op_count
                for again in state.disk.crash_states(served):
                    assert await recover(again.disk) == found, (what, again.name)
    assert states > 100


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda w: w.__name__)
async def test_a_crash_inside_a_recovery_changes_nothing(workload: Workload) -> None:
    disk, record = await recorded(workload)
    count = 0
    for point in disk.crash_points():
        for state in point.states:
            count += 1
            if count % (23 if SAMPLES == 1 else 5):
                continue
            await recover(state.disk)
            for inner in state.disk.crash_points():
                for again in inner.states:
                    what = f"{state.name} at {point.op_count}, {again.name} at {inner.op_count}"
                    check(record, point.op_count, await recover(again.disk), what)
    assert count > 100


async def try_to_work(disk: SimDisk) -> tuple[int, Content]:
    """Write until the disk fails; return the newest acknowledged revision and its content."""
    acked: tuple[int, Content] = (1, {})
    try:
        async with open_metadata_directory(D, disk=disk, journal_bytes=150) as store:
            for n in range(6):
                revision = await store.put("/a", b"%d" % n * 30)
                acked = (revision, {"/a": b"%d" % n * 30})
    except StoreUnavailableError as error:
        assert isinstance(error.__cause__, OSError)
    except OSError:
        assert acked == (1, {}), "opening fails, or a write"
    return acked


def is_next(found: tuple[int, Content], acked: tuple[int, Content]) -> bool:
    """The acknowledged state, or the one after it: the write whose outcome is not known."""
    following = b"%d" % (acked[0] - 1) * 30
    return found in (acked, (acked[0] + 1, {"/a": following}))


async def recover_and_crash(disk: SimDisk, acked: tuple[int, Content], what: str) -> None:
    """Another process opens what is in the page cache; the power goes meanwhile, or then."""
    before = disk.op_count
    found = await recover(disk.process())
    assert is_next(found, acked), what
    every = 5 if SAMPLES == 1 else 1  # replaying the history takes time
    if before % every == 0:
        for point in disk.crash_points(samples=SAMPLES, start=before):
            for state in point.states:
                name = f"{what}, then {state.name} at {point.op_count}"
                assert is_next(await recover(state.disk), acked), name
    for state in disk.crash_states(samples=SAMPLES):
        assert await recover(state.disk) == found, f"{what}, then {state.name}"


@pytest.mark.parametrize("after", [False, True], ids=["undone", "done"])
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
async def test_any_failing_call_loses_nothing_that_was_acknowledged(
    number: int, after: bool
) -> None:
    """Then the same process opens again, on the page cache as it is; then the power goes."""
    clean = SimDisk()
    await try_to_work(clean)
    for nth in range(1, clean.op_count + 1):
        disk = SimDisk(seed=nth, sector_bytes=16)
        fault = disk.fail(None, nth, error=number, after=after)
        acked = await try_to_work(disk)
        assert fault.hits == 1
        if disk.operations[nth - 1].name == "lock":
            continue  # a lock that was taken and nobody has: no disk does that
        what = f"operation {nth}: {disk.operations[nth - 1]}"
        for state in disk.crash_states(samples=SAMPLES):
            assert is_next(await recover(state.disk), acked), (what, state.name)
        await recover_and_crash(disk, acked, what)


@pytest.mark.happens
async def test_a_killed_process_and_then_a_power_cut() -> None:
    clean = SimDisk()
    await try_to_work(clean)
    for nth in range(1, clean.op_count, 1):
        disk = SimDisk(seed=nth, sector_bytes=16)
        process = disk.process()

        def kill(_: object, nth: int = nth, process: SimDisk = process) -> None:
            if process.op_count == nth:
                process.kill()

        disk.on_operation = kill
        acked = await try_to_work(process)
        disk.on_operation = None
        await recover_and_crash(disk, acked, f"operation {nth}")


@pytest.mark.happens
@pytest.mark.parametrize("workload", [one_by_one, starting_over], ids=lambda w: w.__name__)
async def test_every_flipped_bit_is_noticed_or_harmless(workload: Workload) -> None:
    disk, record = await recorded(workload)
    expected = await recover(disk)
    assert expected[1] == record.states[expected[0]]
    noticed = harmless = 0
    for path, data in disk.tree().items():
        if path.endswith(".lock"):
            continue
        for position in range(len(data)):
            # Of the padding between the slots one bit is enough.
            for bit in range(8 if data[position] or position > 1500 else 1):
                other = disk.crash()
                other.corrupt(path, position, bit)
                before = other.tree()
                try:
                    found = await recover(other)
                except DanubeError:
                    noticed += 1
                    after = {p: d for p, d in other.tree().items() if not p.endswith(".lock")}
                    assert after == {p: before[p] for p in after}, "a refusal changes nothing"
                else:
                    assert found == expected, (path, position, bit)
                    harmless += 1
    assert noticed > 1000 and harmless > 1000


async def test_every_cut_of_the_journal_is_noticed() -> None:
    """After a clean end: the mark says how long it was."""
    disk, _ = await recorded(one_by_one)
    path = f"{D}/metadata.{1:020d}.journal"
    data = disk.read_file(path)
    for size in range(len(data)):
        other = disk.crash()
        other.write_file(path, data[:size])
        with pytest.raises(CorruptDataError):
            await recover(other)


@pytest.mark.parametrize("tail", [b"\0" * 3000, b"x" * 17, b"\0", bytes(range(256)) * 9])
async def test_what_follows_the_last_batch_is_cut_off(tail: bytes) -> None:
    disk, record = await recorded(one_by_one)
    path = f"{D}/metadata.{1:020d}.journal"
    data = disk.read_file(path)
    disk.write_file(path, data + tail)
    for _ in range(2):
        revision, content = await recover(disk)
        assert content == record.states[revision] and revision == max(record.states)
    assert len(disk.read_file(path)) == len(data)


@pytest.mark.happens
async def test_an_old_copy_of_the_snapshot_beside_a_newer_journal_is_noticed() -> None:
    disk = SimDisk()
    await recover(disk)
    old = disk.tree()
    async with open_metadata_directory(D, disk=disk, journal_bytes=100) as store:
        for n in range(5):
            await store.put("/a", b"%d" % n * 60)
        journal = disk.list_dir(D)[0]
    assert journal != f"metadata.{1:020d}.journal" and len(disk.read_file(f"{D}/{journal}")) > 1536
    for path, data in old.items():
        disk.write_file(path, data)
    with pytest.raises(CorruptDataError, match="its journal has changes"):
        await recover(disk)


async def test_files_of_two_directories_do_not_mix() -> None:
    one, _ = await recorded(one_by_one)
    two, _ = await recorded(one_by_one)
    path = f"{D}/metadata.{1:020d}.journal"
    one.write_file(path, two.read_file(path))
    with pytest.raises(CorruptDataError, match="belongs to another snapshot"):
        await recover(one)
