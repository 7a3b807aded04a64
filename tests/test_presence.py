"""Files of a running log that somebody else touches: noticed, named, and nothing is made up."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest
import trio
from trio.testing import MockClock

from danube_trio import LogBrokenError, Wal, WalConfig, open_wal
from danube_trio.testing import SimDisk, SimStore

CONFIG = WalConfig(dir="/log", segment_bytes=2000, preallocate_bytes=0)
# How many records of this size a segment holds, and which segments there are after 35 of them.
EACH = 13
ACTIVE, SEALED = (f"/log/wal.{2 * EACH:020}.log", f"/log/wal.{EACH:020}.log")
MARK, META, TRIM = "/log/wal.mark", "/log/wal.meta", "/log/wal.trim"


async def append(wal: Wal, count: int) -> None:
    for _ in range(count):
        await wal.append(b"%03d" % wal.next_offset * 30)


def remove(disk: SimDisk, path: str) -> None:
    disk.unlink(path)


def rename(disk: SimDisk, path: str) -> None:
    disk.rename(path, f"{path}.mine")


def replace(disk: SimDisk, path: str) -> None:
    """By the same bytes, as a copy would be."""
    disk.write_file(f"{path}.new", disk.read_file(path))
    disk.rename(f"{path}.new", path)


def truncate(disk: SimDisk, path: str) -> None:
    file = disk.open(path, "rw")
    file.truncate(10)
    file.close()


DAMAGE: list[tuple[Callable[[SimDisk, str], None], str]] = [
    (remove, "is not there any more"),
    (rename, "is not there any more"),
    (replace, "was replaced by another one"),
    (truncate, "has 10 bytes where|was truncated"),
]


@pytest.mark.happens
@pytest.mark.parametrize("path", [ACTIVE, SEALED, MARK, META, TRIM])
@pytest.mark.parametrize(("touch", "what"), DAMAGE, ids=lambda v: getattr(v, "__name__", ""))
async def test_a_file_that_is_taken_from_a_running_log_breaks_it_within_seconds(
    path: str, touch: Callable[[SimDisk, str], None], what: str, autojump_clock: MockClock
) -> None:
    disk = SimDisk()
    async with open_wal(CONFIG, disk=disk) as wal:
        await append(wal, 35)
        await trio.sleep(20)
        assert wal.phase == "open"
        touch(disk, path)
        await trio.sleep(6)
        with pytest.raises(LogBrokenError, match=what) as caught:
            await wal.append(b"into nothing")
        assert path in str(caught.value)
        assert "Leave the log" in str(caught.value)
        assert wal.next_offset == 35


@pytest.mark.parametrize(("touch", "what"), DAMAGE, ids=lambda v: getattr(v, "__name__", ""))
async def test_before_a_roll_it_is_noticed_at_once(
    touch: Callable[[SimDisk, str], None], what: str
) -> None:
    disk = SimDisk()
    async with open_wal(CONFIG, disk=disk) as wal:
        await append(wal, 2 * EACH + 1)
        touch(disk, ACTIVE)
        with pytest.raises(LogBrokenError, match=what):
            await append(wal, 20)
        assert wal.next_offset < 4 * EACH, "not one segment more"
        assert not [p for p in disk.tree() if p > ACTIVE and p.endswith(".log")]


@pytest.mark.parametrize(("touch", "what"), DAMAGE, ids=lambda v: getattr(v, "__name__", ""))
async def test_leaving_says_what_was_acknowledged_and_is_in_no_file_any_more(
    touch: Callable[[SimDisk, str], None], what: str
) -> None:
    disk = SimDisk()
    with pytest.raises(LogBrokenError, match=what) as caught:
        async with open_wal(CONFIG, disk=disk) as wal:
            await append(wal, 31)
            touch(disk, ACTIVE)
            await append(wal, 1)
    assert caught.value.lost == 32 - 2 * EACH


async def test_a_wait_that_was_told_is_enough(autojump_clock: MockClock) -> None:
    disk = SimDisk()
    async with open_wal(CONFIG, disk=disk) as wal:
        await append(wal, 31)
        remove(disk, ACTIVE)
        with pytest.raises(LogBrokenError, match="is not there any more"):
            await wal.wait_durable(32)


async def test_what_a_log_removes_and_rewrites_itself_is_no_alarm(
    autojump_clock: MockClock,
) -> None:
    disk = SimDisk(latency=0.3)
    store = SimStore()
    config = attrs.evolve(CONFIG, topic_name="/default/t", retain_bytes=8000, segment_age=2.0)
    for cloud in (None, store):
        directory = f"/log{cloud is not None}"
        log = attrs.evolve(config, dir=directory)
        async with open_wal(log, disk=disk, store=cloud) as wal:
            for i in range(60):
                await append(wal, 3)
                if i % 10 == 5:
                    await wal.trim(wal.next_offset - 10)
                await trio.sleep(1)
            assert wal.phase == "open"
            assert wal.start_offset > 0


@pytest.mark.happens
async def test_a_segment_that_is_stored_is_read_from_the_store_instead(
    autojump_clock: MockClock,
) -> None:
    disk, store = SimDisk(), SimStore()
    config = attrs.evolve(CONFIG, topic_name="/default/t", cache_capacity=1)
    config = attrs.evolve(config, cloud=attrs.evolve(config.cloud, keep_local_bytes=1 << 20))
    async with open_wal(config, disk=disk, store=store) as wal:
        await append(wal, 35)
        await wal.wait_uploaded(2 * EACH)
        remove(disk, sorted(path for path in disk.tree() if path.endswith(".log"))[1])
        await trio.sleep(12)
        assert wal.phase == "open"
        found = [m.payload async for m in wal.reader(end="current")]
        assert found == [b"%03d" % i * 30 for i in range(35)]


async def test_many_segments_are_looked_at_in_turn(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("danube_trio._engine.log.janitor.LOOK_AT", 2)
    disk = SimDisk()
    async with open_wal(CONFIG, disk=disk) as wal:
        await append(wal, 100)
        await trio.sleep(6)
        remove(disk, SEALED)
        await trio.sleep(40)
        with pytest.raises(LogBrokenError, match="is not there any more"):
            await wal.append(b"x")


# ---- on a real disk


def replaced(path: Path) -> None:
    shutil.copy(path, f"{path}.copy")
    os.replace(f"{path}.copy", path)


def renamed(path: Path) -> None:
    path.rename(f"{path}.mine")


def removed(path: Path) -> None:
    path.unlink()


def truncated(path: Path) -> None:
    os.truncate(path, 5)


@pytest.mark.parametrize("touch", [removed, renamed, replaced, truncated])
async def test_a_real_disk_tells_it_too(touch: Callable[[Path], object], tmp_path: Path) -> None:
    config = attrs.evolve(CONFIG, dir=str(tmp_path / "log"))
    async with open_wal(config) as wal:
        await append(wal, 3)
        touch(tmp_path / "log" / f"wal.{0:020}.log")
        with pytest.raises(LogBrokenError, match="somebody changed a file of the running log"):
            await append(wal, 60)
        assert wal.next_offset < 60


async def test_a_symbolic_link_in_the_place_of_a_file_is_not_that_file(tmp_path: Path) -> None:
    config = attrs.evolve(CONFIG, dir=str(tmp_path / "log"))
    async with open_wal(config) as wal:
        await append(wal, 3)
        path = tmp_path / "log" / f"wal.{0:020}.log"
        path.rename(tmp_path / "moved")
        path.symlink_to(tmp_path / "moved")
        with pytest.raises(LogBrokenError, match="no regular file any more"):
            await append(wal, 60)
