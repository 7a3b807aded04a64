"""Real file systems without a byte or a name left: a log on one can be freed, open or opened anew.

They are mounted here, small and empty, which takes root; the tests are skipped where it is refused.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
import trio
from shelves_of import files_of

from danube_trio import (
    LogBrokenError,
    StorageConfig,
    Wal,
    WalConfig,
    open_storage,
    open_wal,
)
from danube_trio._engine.log.wal import inside
from danube_trio.dispatch import ReliableDispatch, ReliableOptions, RetentionPolicy
from danube_trio.testing import SimStore

PAYLOAD = bytes(1000)


@pytest.fixture(params=["tmpfs", "ext4"])
def mounted(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB, with few names."""
    where = tmp_path / "mount"
    where.mkdir()
    if request.param == "tmpfs":
        steps = [["mount", "-t", "tmpfs", "-o", "size=4m,nr_inodes=80", "none", str(where)]]
    else:
        image = tmp_path / "image"
        image.write_bytes(bytes(4 << 20))
        steps = [
            ["mkfs.ext4", "-q", "-F", "-m", "0", "-N", "80", "-O", "^has_journal", str(image)],
            ["mount", "-o", "loop", str(image), str(where)],
        ]
    if shutil.which(steps[0][0]) is None:
        pytest.skip(f"there is no {steps[0][0]} here")
    for step in steps:
        done = subprocess.run(step, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"{step[0]} is refused: {done.stderr.strip()}")
    # By a process of its own, at the end of its input: also if this one is killed.
    unmount = 'cat; umount "$0" || { umount -l "$0"; exit 1; }'
    command = ["sh", "-c", unmount, str(where)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True) as keeper:
        yield where
    assert keeper.returncode == 0


def use_up(where: Path, what: str) -> None:
    """Take what is left, by somebody else's files."""
    rubbish = where / "rubbish"
    rubbish.mkdir(exist_ok=True)
    for _ in range(20):
        fill(rubbish, what)
        if what != "bytes" or not os.statvfs(where).f_bavail:
            break
        os.sync()  # blocks that a file system has promised, and were not needed, are free again
    # The last bytes, in blocks that are there already or not.
    if what == "bytes":
        assert os.statvfs(where).f_bavail == 0
    else:
        with pytest.raises(OSError, match="No space"):
            (rubbish / "one more").touch()


def fill(rubbish: Path, what: str) -> None:
    """Write until that is refused."""
    try:
        for number in range(10_000):
            with (rubbish / f"{what}{len(os.listdir(rubbish))}").open("wb", buffering=0) as file:
                while what == "bytes" and file.write(bytes(1024)):
                    pass
            assert number < 9_999
    except OSError as error:
        assert error.errno == errno.ENOSPC


def config_of(where: Path) -> WalConfig:
    return WalConfig(dir=str(where / "log"), segment_bytes=20_000, preallocate_bytes=0)


async def append(wal: Wal, count: int) -> None:
    for _ in range(count):
        await wal.append(PAYLOAD)


async def filled(wal: Wal, where: Path, what: str) -> None:
    await append(wal, 100)
    # Else these hints take some of the names that a trim frees.
    while files_of(wal).unindexed:  # noqa: ASYNC110 (nobody tells of them)
        await trio.sleep(0.01)
    use_up(where, what)


async def offsets(wal: Wal) -> list[int]:
    return [m.offset async for m in wal.reader(end="current")]


async def until_it_breaks(wal: Wal) -> int:
    """Append until there is no space; returns the end of what was acknowledged."""
    with pytest.raises(LogBrokenError) as caught:
        await append(wal, 1000)
    cause = caught.value.__cause__
    assert isinstance(cause, OSError)
    assert cause.errno == errno.ENOSPC
    return wal.statistics().durable_end


@pytest.mark.happens
@pytest.mark.parametrize("what", ["bytes", "names"])
async def test_trim_frees_a_full_disk(mounted: Path, what: str) -> None:
    async with open_wal(config_of(mounted)) as wal:
        await filled(wal, mounted, what)
        assert await wal.trim(80) == 80
        await append(wal, 60)
        assert await offsets(wal) == list(range(80, 160))
    async with open_wal(config_of(mounted)) as wal:
        assert await offsets(wal) == list(range(80, 160))


@pytest.mark.happens
@pytest.mark.parametrize("what", ["bytes", "names"])
async def test_a_log_that_broke_is_trimmed_and_goes_on_when_it_is_opened_again(
    mounted: Path, what: str
) -> None:
    config = config_of(mounted)
    async with open_wal(config) as wal:
        await filled(wal, mounted, what)
        end = await until_it_breaks(wal)
        assert await wal.trim(60) == 60
    async with open_wal(config) as wal:
        found = await offsets(wal)
        assert found[0] == 60
        assert found[-1] >= end - 1
        use_up(mounted, what)
        end = await until_it_breaks(wal)
    for _ in range(2):  # opened again and again, and full each time
        async with open_wal(config) as wal:
            assert (await offsets(wal))[-1] >= end - 1
            end = await until_it_breaks(wal)
    async with open_wal(config) as wal:
        assert await wal.trim(end - 5) == end - 5 or wal.start_offset > 80
        await append(wal, 5)


@pytest.mark.happens
@pytest.mark.parametrize("what", ["bytes", "names"])
async def test_retention_frees_a_full_disk_before_an_opening_ends(mounted: Path, what: str) -> None:
    config = config_of(mounted)
    async with open_wal(config) as wal:
        await filled(wal, mounted, what)
        end = await until_it_breaks(wal)
    async with open_wal(attrs.evolve(config, retain_bytes=40_000)) as wal:
        assert wal.start_offset > 40
        assert (await offsets(wal))[-1] >= end - 1
        await append(wal, 30)


@pytest.mark.parametrize("what", ["bytes", "names"])
async def test_retention_frees_a_full_disk_while_the_log_is_open(mounted: Path, what: str) -> None:
    now = 1e9
    config = attrs.evolve(config_of(mounted), retain_age=60)
    async with open_wal(config, clock=lambda: now) as wal:
        await filled(wal, mounted, what)
        assert wal.start_offset == 0
        now += 3600
        with trio.fail_after(30):
            while wal.start_offset < 80:
                inside(wal)[0].bells.janitor.ring()
                await trio.sleep(0.01)
        await append(wal, 60)


@pytest.mark.parametrize("what", ["bytes", "names"])
async def test_a_log_of_an_earlier_version_can_be_freed_too(mounted: Path, what: str) -> None:
    config = config_of(mounted)
    async with open_wal(config) as wal:
        await append(wal, 100)
    (mounted / "log" / "wal.trim").unlink()
    use_up(mounted, what)
    async with open_wal(config) as wal:
        assert await wal.trim(80) == 80
        await append(wal, 60)
    async with open_wal(config) as wal:
        assert await offsets(wal) == list(range(80, 160))


@pytest.mark.happens
@pytest.mark.parametrize("what", ["bytes", "names"])
async def test_with_a_store_a_full_disk_is_freed_by_what_was_uploaded(
    mounted: Path, what: str
) -> None:
    store = SimStore()
    config = attrs.evolve(config_of(mounted), topic_name="/default/t")
    kept = attrs.evolve(config, cloud=attrs.evolve(config.cloud, keep_local_bytes=1 << 30))
    async with open_wal(kept, store=store) as wal:
        await append(wal, 100)
        await wal.wait_uploaded(100)
        use_up(mounted, what)
    pruned = attrs.evolve(config, cloud=attrs.evolve(config.cloud, keep_local_bytes=0))
    async with open_wal(pruned, store=store) as wal:
        await append(wal, 60)
        assert await offsets(wal) == list(range(160))


@pytest.mark.parametrize("what", ["bytes", "names"])
async def test_retention_until_ack_frees_a_full_disk_by_what_is_saved(
    mounted: Path, what: str
) -> None:
    """The cursors are on it too: what they say is enough, nothing has to be written."""
    topic = "/default/t"
    settings = WalConfig(segment_bytes=20_000, preallocate_bytes=0)
    storage = StorageConfig(dir=str(mounted / "storage"), wal=settings)
    options = ReliableOptions(
        retention_policy=RetentionPolicy.RETAIN_UNTIL_ACK, retention_interval=3600
    )
    for opened_again in (False, True):
        async with (
            open_storage(storage) as there,
            ReliableDispatch.new_with_persistent(topic, options, None, there) as dispatch,
        ):
            if not opened_again:
                for _ in range(10):
                    await dispatch.store_batch([PAYLOAD] * 10)
                subscription = await dispatch.add_subscription("s")
                for _ in range(90):
                    async with subscription.take():
                        pass
                await subscription.flush()
                use_up(mounted, what)
            else:
                assert await dispatch.apply_retention() > 50
                await dispatch.store_batch([PAYLOAD] * 20)
