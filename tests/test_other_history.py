"""A follower that has shown records which are not part of the log any more must not go on.

Whoever takes back what was visible (an unsealed take-over, a policy, a repair) gives the offsets to
other records, and the log may have grown beyond the follower's cursor before it looks again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from itertools import chain, pairwise, product, repeat
from pathlib import Path
from typing import Any, cast

import attrs
import pytest
import trio
from past import Past
from trio.testing import MockClock, wait_all_tasks_blocked

from danube_trio import (
    CloudConfig,
    CorruptDataError,
    Follower,
    OffsetTrimmedError,
    StartPosition,
    WalConfig,
    open_follower,
    open_wal,
)
from danube_trio._core.files import Mark, decode_marks, mark_position, next_sequence
from danube_trio._core.segment import LogNames
from danube_trio._engine.care.repair import apply_repair
from danube_trio._engine.care.repair_plan import plan_repair
from danube_trio._engine.files.directory import look
from danube_trio.testing import SimDisk, SimStore

CHILD = Path(__file__).with_name("history_child.py")
DIR = "/log"
NAMES = LogNames.of(DIR, "wal.log")
CLOUD = CloudConfig(prefix="log", upload_interval=None, keep_local_bytes=1 << 20)
SMALL = WalConfig(dir=DIR, segment_bytes=600, preallocate_bytes=0, cloud=CLOUD)
CUT_BACK = "cut back while it was followed up to offset 30"


async def append(disk: SimDisk, config: WalConfig, end: int, text: str, **more: Any) -> None:
    """Open the log, append up to `end`, and leave it."""
    async with open_wal(config, disk=disk, **more) as wal:
        while wal.next_offset < end:
            await wal.append(f"{text} {wal.next_offset}".encode())


async def read(follower: Follower, start: int = 0) -> list[str]:
    reader = follower.reader(StartPosition.offset(start), end="current")
    return [message.payload.decode() async for message in reader]


# Each takes back what was visible from some offset on, in the log in DIR, which ends at 30.
async def truncated(disk: SimDisk, store: SimStore) -> None:
    disk.corrupt(NAMES.segment(active_base(disk)), 30)
    await append(disk, attrs.evolve(SMALL, on_corruption="truncate"), 0, "")


async def repaired(disk: SimDisk, store: SimStore) -> None:
    bases = NAMES.segment_bases(disk.list_dir(DIR))
    disk.corrupt(NAMES.segment(bases[1]), 300)
    apply_repair(disk, plan_repair(disk, NAMES, "truncate"))


async def taken_over(disk: SimDisk, store: SimStore) -> None:
    """By another directory, which had nothing of the tail and appended its own."""
    async with open_wal(SMALL, disk=SimDisk(), store=store.client()) as wal:
        while wal.next_offset < 45:
            await wal.append(b"other %d" % wal.next_offset)
        await wal.wait_uploaded(45)


TAKINGS = {"truncated": truncated, "repaired": repaired, "taken over": taken_over}


def active_base(disk: SimDisk) -> int:
    return NAMES.segment_bases(disk.list_dir(DIR))[-1]


def generation(disk: SimDisk) -> int:
    directory = look(disk, NAMES, complete=False)
    assert directory is not None
    mark = decode_marks(disk.read_file(NAMES.mark), directory.directory_crc)
    assert mark is not None
    return mark.generation


async def begun(what: str) -> tuple[SimDisk, SimStore]:
    """A log of 30 records, and a store that may hold the first 10."""
    disk, store = SimDisk(), SimStore()
    if what != "taken over":
        await append(disk, SMALL, 30, "first")
        return disk, store
    client = store.client()
    async with open_wal(SMALL, disk=disk, store=client) as wal:
        for offset in range(30):
            if offset == 10:
                await wal.wait_uploaded(10)
                for operation in ("create", "put", "upload"):
                    client.fail(operation, sticky=True)
            await wal.append(b"first %d" % offset)
    return disk, store


def cloud_of(what: str, store: SimStore) -> dict[str, Any]:
    return {"store": store.client()} if what == "taken over" else {}


@pytest.mark.happens
@pytest.mark.parametrize("what", TAKINGS)
@pytest.mark.parametrize("grown", [0, 30, 31, 80])
async def test_a_follower_does_not_go_on_over_another_history(
    what: str, grown: int, autojump_clock: MockClock
) -> None:
    disk, store = await begun(what)
    async with open_follower(DIR, disk=disk, poll_seconds=1) as follower:
        tail = follower.reader(StartPosition.offset(25))
        for offset in range(25, 30):
            assert (await anext(tail)).payload == b"first %d" % offset
        middle = follower.reader(StartPosition.offset(10))
        await TAKINGS[what](disk, store)
        await append(disk, SMALL, grown, "second", **cloud_of(what, store))
        for reader in (tail, middle, follower.reader()):
            with pytest.raises(CorruptDataError, match=CUT_BACK):
                await anext(reader)
        for _ in range(2):
            with pytest.raises(CorruptDataError, match=CUT_BACK) as caught:
                await follower.refresh()
            assert caught.value.path == NAMES.mark
        with pytest.raises(CorruptDataError, match="open a new follower"):
            await follower.wait_durable(1000)
    if grown > 30:
        async with open_follower(DIR, disk=disk, **cloud_of(what, store), prefix="log") as follower:
            found = await read(follower, 30)
            assert [text.split()[1] for text in found] == [
                str(n) for n in range(30, len(found) + 30)
            ]
            assert {text.split()[0] for text in found} <= {"second", "other"}


@pytest.mark.parametrize("what", TAKINGS)
async def test_whoever_waits_is_told(what: str, autojump_clock: MockClock) -> None:
    disk, store = await begun(what)

    async def wait(follower: Follower) -> None:
        with pytest.raises(CorruptDataError, match=CUT_BACK):
            await anext(follower.reader(StartPosition.latest()))

    async with open_follower(DIR, disk=disk, poll_seconds=100) as follower:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait, follower)
            await wait_all_tasks_blocked()
            await TAKINGS[what](disk, store)
            await append(disk, SMALL, 80, "second", **cloud_of(what, store))


class PastDisk(Past):
    """As a disk that can be followed."""

    free_bytes = None

    async def run(self, fn: Callable[..., Any], /, *args: object) -> Any:
        await trio.lowlevel.checkpoint()
        return fn(*args)

    async def watch(self, path: str, file: str) -> None:
        await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("what", TAKINGS)
async def test_no_moment_of_it_lets_a_reader_mix_two_histories(
    what: str, autojump_clock: MockClock
) -> None:
    disk, store = await begun(what)
    record = [disk.tree()]
    disk.on_operation = lambda operation: record.append(disk.tree())
    await TAKINGS[what](disk, store)
    await append(disk, SMALL, 80, "second", **cloud_of(what, store))
    disk.on_operation = None
    record = [tree for before, tree in pairwise([{}, *record]) if tree != before]
    first = [f"first {offset}" for offset in range(30)]
    async with open_follower(DIR, disk=disk, **cloud_of(what, store), prefix="log") as follower:
        second = await read(follower)
    assert first[:10] == second[:10] and len(second) == 80 and second != first
    told = 0
    for step, begin, late, reach in product((1, 3, 9, 13), range(0, 30, 2), (0, 1, 2), (1, 30)):
        past = PastDisk(record, 0, (0,))
        seen: list[str] = []
        async with open_follower(
            DIR, disk=cast("Any", past), **cloud_of(what, store), prefix="log", poll_seconds=1
        ) as follower:
            reader = follower.reader(end=80)
            while len(seen) < reach:
                seen += [m.payload.decode() for m in await reader.next_batch()]
            past.now, past.steps = begin, chain([0] * late, repeat(step))
            try:
                async for message in reader:
                    seen.append(message.payload.decode())
            except CorruptDataError as error:
                told += "cut back" in error.reason  # or the damage, while it is there
        n = len(seen)
        assert seen in (first[:n], second[:n]), (step, begin, late, reach)
    assert told


async def test_what_nobody_could_see_may_go_and_others_go_on(autojump_clock: MockClock) -> None:
    """A torn tail was never visible; a hand-over leaves nothing behind that is not in the store."""
    disk, store = SimDisk(), SimStore()
    await append(disk, SMALL, 30, "first", store=store)
    async with open_follower(DIR, disk=disk, store=store.client(), prefix="log") as follower:
        path = NAMES.segment(active_base(disk))
        disk.write_file(path, disk.read_file(path) + b"torn")
        await append(disk, SMALL, 40, "first", store=store)
        async with open_wal(SMALL, disk=disk, store=store) as wal:
            await wal.seal()
        other = SimDisk()
        await append(other, SMALL, 50, "first", store=store.client())
        async with open_wal(SMALL, disk=other, store=store.client()) as wal:
            await wal.seal()
        await append(disk, SMALL, 60, "first", store=store)
        await follower.refresh()
        assert await read(follower) == [f"first {offset}" for offset in range(60)]
    assert generation(disk) == 0


async def test_a_copy_of_the_directory_that_was_put_back_and_has_grown_is_told() -> None:
    disk = SimDisk()
    await append(disk, SMALL, 20, "first")
    copy = disk.tree()
    await append(disk, SMALL, 30, "first")
    async with open_follower(DIR, disk=disk) as follower:
        assert len(await read(follower)) == 30
        for path in disk.tree():
            disk.unlink(path)
        for path, data in copy.items():
            disk.write_file(path, data)
        config = attrs.evolve(SMALL, durability="accepted")
        async with open_wal(config, disk=disk) as wal:
            await wal.append_batch([b"second"] * 30)
            await wal.flush()
            with pytest.raises(CorruptDataError, match="a copy of the directory was put back"):
                await follower.refresh()


def test_the_numbers_of_marks() -> None:
    assert [next_sequence(n) for n in (0, 1, 2**48 + 5)] == [1, 2, 2**48 + 6]
    for newest in (0, 7, 8, 2**48 + 3):
        following = next_sequence(newest, taken_back=True)
        assert Mark(following, 0, 0, 0).generation == Mark(newest, 0, 0, 0).generation + 1
        assert mark_position(following) != mark_position(newest)
        assert following < 2**49 + 2
    last = (2**16 - 1) * 2**48
    assert next_sequence(last, taken_back=True) == last + 1


# ---- in processes


def write(directory: Path, text: str, count: int, **more: Any) -> int:
    """Have a process append; returns where the log ends."""
    given: dict[str, Any] = {
        "dir": str(directory),
        "store": None,
        "settings": {},
        "uploaded": False,
        "stay": False,
    }
    given |= {"text": text, "count": count, **more}
    arguments = [sys.executable, str(CHILD), json.dumps(given)]
    environment = {**os.environ, "PYTHONPATH": str(CHILD.parent.parent)}
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        end = int(process.stdout.readline())
        if given["stay"]:
            process.kill()
    return end


@pytest.mark.parametrize("what", ["truncated", "taken over"])
async def test_it_is_told_between_processes(what: str, tmp_path: Path) -> None:
    here, there, store = tmp_path / "here", tmp_path / "there", f"file://{tmp_path}/store"
    shared = {"store": store} if what == "taken over" else {}
    assert write(here, "first", 50, uploaded=bool(shared), **shared) == 50
    assert write(here, "first", 50, stay=True, **shared) == 100
    async with open_follower(here) as follower:
        reader = follower.reader(StartPosition.offset(90))
        assert len([await anext(reader) for _ in range(10)]) == 10
        if what == "taken over":
            assert write(there, "other", 20, uploaded=True, **shared) < 115  # not from 95 on
            assert write(here, "second", 100, **shared) > 150
        else:
            name = max(path for path in here.iterdir() if path.suffix == ".log")
            data = bytearray(name.read_bytes())
            data[30] ^= 1
            name.write_bytes(data)
            assert write(here, "second", 100, settings={"on_corruption": "truncate"}) > 150
        with pytest.raises(CorruptDataError, match="cut back"):
            await anext(reader)
        with pytest.raises(CorruptDataError, match="cut back"):
            await anext(follower.reader(StartPosition.offset(95)))
    async with open_follower(here) as follower:
        assert (await anext(follower.reader(StartPosition.offset(120)))).payload == b"second 120"


async def test_a_follower_is_told_of_what_another_directory_trimmed(
    autojump_clock: MockClock,
) -> None:
    """Its own directory does not know of that, so its object is not missing: it was trimmed."""
    store, here, elsewhere = SimStore(), SimDisk(), SimDisk()
    cloud = CloudConfig(prefix="log", keep_local_bytes=0)
    config = WalConfig(dir="/log", segment_bytes=200, cloud=cloud)
    async with open_wal(config, disk=here, store=store) as wal:
        for i in range(9):
            await wal.append(b"%d" % i * 50, durability="uploaded")
        await wal.seal()
    async with open_follower("/log", disk=here, store=store, prefix="log") as follower:
        assert follower.start_offset == 0
        async with open_wal(config, disk=elsewhere, store=store) as wal:
            start = await wal.trim(6)
            assert start > 0
            await wal.append(b"more", durability="uploaded")
        with pytest.raises(OffsetTrimmedError) as told:
            await follower.reader(StartPosition.offset(0)).__anext__()
        assert (told.value.offset, told.value.start_offset) == (0, start)
        first = await follower.reader(StartPosition.timestamp(1)).__anext__()
        assert first.offset == start
