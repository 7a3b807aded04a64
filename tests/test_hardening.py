"""Interrupts, failing housekeeping, odd input, bounds."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from danube_trio import (
    Gap,
    LogBrokenError,
    LogClosedError,
    LogLockedError,
    StartPosition,
    WalConfig,
    open_wal,
)
from danube_trio._disk.real import RealDisk
from danube_trio._engine.wait.waiters import OffsetWaiters
from danube_trio.testing import SimDisk

CONFIG = WalConfig(dir="/log", segment_bytes=2000, preallocate_bytes=0)

INTERRUPTED = """
    import os, signal, sys, trio
    from danube_trio import WalConfig, open_wal
    import danube_trio._engine.log.writer as writer

    frame = writer.encode_block

    def interrupt_here(*args):
        if sys.argv[2] == "framing" and args[1] > 100:
            writer.encode_block = frame
            os.kill(os.getpid(), signal.SIGINT)
        return frame(*args)

    writer.encode_block = interrupt_here

    async def main():
        async with open_wal(WalConfig(dir=sys.argv[1], fsync_interval_ms=5000)) as wal:
            async def produce():
                while True:
                    offset = await wal.append(b"x" * 100, durability="accepted")
                    os.write(1, b"%d\\n" % offset)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(produce)
                if sys.argv[2] == "leaving":
                    await trio.sleep(0.2)
                    nursery.cancel_scope.cancel()
                await trio.sleep(5)
            os.kill(os.getpid(), signal.SIGINT)

    trio.run(main)
"""


@pytest.mark.happens
@pytest.mark.parametrize("where", ["framing", "leaving"])
def test_ctrl_c_drains_what_was_accepted(where: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", textwrap.dedent(INTERRUPTED), str(tmp_path), where]
    done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert done.returncode in (1, -signal.SIGINT)
    assert b"KeyboardInterrupt" in done.stderr
    assert b"TrioInternalError" not in done.stderr
    accepted = len(done.stdout.splitlines())

    async def reopened() -> int:
        async with open_wal(WalConfig(dir=str(tmp_path))) as wal:
            return wal.next_offset

    assert trio.run(reopened) >= accepted > 100


async def test_a_wait_that_is_interrupted_or_cancelled_leaves_nothing_behind() -> None:
    waiters = OffsetWaiters()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(waiters.wait, 1)  # stays at the head, in front of all that follow
        for _ in range(1000):
            with trio.move_on_after(0):
                await waiters.wait(99)
        assert len(waiters) == 1
        assert len(waiters._heap) < 200
        waiters.release(1)


async def test_a_bad_setting_leaves_no_lock_behind(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"topic_name=.* cannot be encoded"):
        WalConfig(dir=str(tmp_path), topic_name=os.fsdecode(b"t\xff"))
    for settings in ({"segment_bytes": 1e6}, {"read_block_bytes": 5e5}):
        bad: dict[str, Any] = {"dir": str(tmp_path), **settings}
        with pytest.raises(ValueError, match="must be a whole number"):
            WalConfig(**bad)


async def test_a_relative_directory_stays_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    async with open_wal(WalConfig(dir="log", segment_bytes=500)) as wal:
        monkeypatch.chdir(tmp_path / "elsewhere")
        for _ in range(10):
            await wal.append(bytes(200))
    assert list((tmp_path / "elsewhere").iterdir()) == []


async def test_waiting_for_durability_in_memory_ends_with_the_append() -> None:
    async with open_wal(WalConfig()) as wal, trio.open_nursery() as nursery:
        nursery.start_soon(wal.wait_durable, 1)
        await wait_all_tasks_blocked()
        await wal.append(b"x")


async def test_a_failed_drain_is_told_though_the_body_was_cancelled() -> None:
    disk = SimDisk()
    with (
        trio.CancelScope() as scope,
        pytest.raises(LogBrokenError, match="100 accepted records may be lost"),
    ):
        async with open_wal(CONFIG, disk=disk) as wal:
            for _ in range(100):
                wal.append_nowait(b"x")
            disk.fail("sync_data", path_contains=".log", sticky=True)
            scope.cancel()
            await trio.sleep_forever()
    disk = SimDisk()
    with pytest.raises(ZeroDivisionError) as caught:
        async with open_wal(CONFIG, disk=disk) as wal:
            wal.append_nowait(b"x")
            disk.fail("sync_data", path_contains=".log", sticky=True)
            raise ZeroDivisionError
    assert "1 accepted records may be lost" in caught.value.__notes__[0]


async def test_a_reader_takes_no_more_of_a_large_batch_than_it_asked_for() -> None:
    config = WalConfig(read_block_bytes=10_000, cache_bytes=1 << 20)
    async with open_wal(config) as wal:
        await wal.append_batch([bytes(1000)] * 500)
        reader = wal.reader(end="current")
        sizes = [len(batch) async for batch in reader.batches()]
        assert sum(sizes) == 500
        assert max(sizes) <= 10


async def test_segments_age_under_steady_load(autojump_clock: MockClock) -> None:
    config = attrs.evolve(CONFIG, segment_bytes=1 << 20, segment_age=1)
    disk = SimDisk(latency=0.01)
    async with open_wal(config, disk=disk, clock=lambda: 1e9 + trio.current_time()) as wal:
        async with trio.open_nursery() as nursery:

            async def produce() -> None:
                while True:
                    await wal.append(b"x")

            for _ in range(3):
                nursery.start_soon(produce)
                await trio.sleep(0.004)
            await trio.sleep(20)
            nursery.cancel_scope.cancel()
        assert wal.statistics().rolls >= 10


@pytest.mark.happens
@pytest.mark.parametrize("now", [float("nan"), -1.0, 1e30])
async def test_a_clock_that_is_off_accepts_nothing_and_breaks_nothing(now: float) -> None:
    times = [1000.0]
    async with open_wal(CONFIG, disk=SimDisk(), clock=lambda: times[-1]) as wal:
        await wal.append(b"first")
        times.append(now)
        with pytest.raises((ValueError, OverflowError)):
            await wal.append(b"second")
        times.append(2000.0)
        assert await wal.append(b"third") == 1


async def test_skip_finds_large_records_behind_damage() -> None:
    disk = SimDisk()
    config = WalConfig(dir="/log", on_corruption="skip", preallocate_bytes=0)
    async with open_wal(config, disk=disk) as wal:
        for i in range(4):
            await wal.append(bytes([i]) * 9_000_000)
    disk.corrupt("/log/wal.00000000000000000000.log", 12_000_000)
    async with open_wal(config, disk=disk) as wal:
        items = [item async for item in wal.reader(end="current")]
    assert [item.start if isinstance(item, Gap) else item.offset for item in items] == [0, 1, 2, 3]


async def test_a_gap_ends_where_the_reader_does() -> None:
    disk = SimDisk()
    async with open_wal(CONFIG, disk=disk) as wal:
        for i in range(60):
            await wal.append(b"%d" % i * 20)
    second = sorted(path for path in disk.tree() if path.endswith(".log"))[1]
    base = int(second.split(".")[1])
    disk.write_file(second, bytes(len(disk.read_file(second))))
    async with open_wal(attrs.evolve(CONFIG, on_corruption="skip"), disk=disk) as wal:
        reader = wal.reader(StartPosition.offset(base - 1), end=base + 3)
        first, gap = [item async for item in reader]
        assert first.offset == base - 1
        assert isinstance(gap, Gap)
        assert (gap.start, gap.end, reader.cursor) == (base, base + 3, base + 3)


@pytest.mark.happens
async def test_a_dead_device_breaks_the_log_and_leaves_nothing_open() -> None:
    disk = SimDisk()
    async with open_wal(CONFIG, disk=disk) as wal:
        await wal.append(b"x")
        for operation in ("write", "sync_data", "close", "truncate"):
            disk.fail(operation, path_contains=".log", sticky=True)
        with pytest.raises(LogBrokenError):
            await wal.append(b"y")
    assert disk.open_paths == []


@pytest.mark.parametrize("operation", ["open", "size", "read", "write", "sync_data", "sync_dir"])
async def test_an_open_that_fails_anywhere_leaves_nothing_open(operation: str) -> None:
    disk = SimDisk()
    async with open_wal(CONFIG, disk=disk) as wal:
        for i in range(20):
            await wal.append(b"%d" % i * 100)
    for nth in range(1, 15):
        fault = disk.fail(operation, nth)
        try:
            async with open_wal(CONFIG, disk=disk):
                fault.cancel()
        except OSError:
            assert disk.open_paths == [], (operation, nth)
        fault.cancel()
    async with open_wal(CONFIG, disk=disk) as wal:
        assert wal.next_offset == 20


async def test_a_full_disk_can_be_opened_and_trimmed() -> None:
    disk = SimDisk()
    async with open_wal(CONFIG, disk=disk) as wal:
        for i in range(60):
            await wal.append(b"%d" % i * 40)
    last = max(path for path in disk.tree() if path.endswith(".log"))
    disk.write_file(last, disk.read_file(last) + b"torn" * 300)
    disk.capacity_bytes = sum(map(len, disk.tree().values()))
    async with open_wal(CONFIG, disk=disk) as wal:
        assert "no space to keep the bytes" in " ".join(wal.statistics().notes)
        assert wal.next_offset == 60
        assert await wal.trim(50) > 0
        assert await wal.append(b"room again") == 60
    assert not any(path.endswith(".torn") for path in disk.tree())


async def test_a_trim_that_waits_while_the_log_is_left_is_refused(
    autojump_clock: MockClock,
) -> None:
    disk = SimDisk(latency=0.5)
    refused: list[int] = []

    async def trim(before: int) -> None:
        try:
            await wal.trim(before)
        except LogClosedError:
            refused.append(before)

    async with trio.open_nursery() as nursery:
        async with open_wal(CONFIG, disk=disk) as wal:
            for i in range(40):
                await wal.append(b"%d" % i * 40)
            for before in range(5, 40, 5):
                nursery.start_soon(trim, before)
            await wait_all_tasks_blocked()
        left = disk.op_count
    assert refused
    assert [op.name for op in disk.operations[left:]] == []


async def test_a_durable_write_that_the_system_refuses_becomes_a_write_and_a_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EOPNOTSUPP, "no flags here")

    monkeypatch.setattr(os, "pwritev", refuse)
    async with open_wal(WalConfig(dir=str(tmp_path))) as wal:
        assert await wal.append(b"x") == 0
    async with open_wal(WalConfig(dir=str(tmp_path))) as wal:
        assert wal.next_offset == 1


def test_a_forked_child_does_not_keep_the_lock_of_a_dead_parent(tmp_path: Path) -> None:
    program = """
        import os, signal, sys
        from danube_trio._disk.real import RealDisk
        lock = RealDisk().lock(sys.argv[1], "parent")
        if os.fork():
            os.kill(os.getpid(), signal.SIGKILL)
        os.write(1, b"child\\n")
        os.read(0, 1)
    """
    path = str(tmp_path / "wal.lock")
    command = [sys.executable, "-c", textwrap.dedent(program), path]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"child\n"
        process.wait()
        lock = RealDisk().lock(path, "me")
        with pytest.raises(LogLockedError):
            RealDisk().lock(path, "you")
        lock.release()


async def test_a_receipt_from_another_thread_is_refused_before_anything_is_accepted() -> None:
    """The record was accepted, the tasks could not be woken, and the log hung for ever."""
    with trio.fail_after(20):
        async with open_wal(WalConfig(dir="/log"), disk=SimDisk()) as wal:
            for call in (
                lambda: wal.append_nowait(b"x"),
                lambda: wal.append_batch_nowait([b"x"]),
            ):
                with pytest.raises(RuntimeError, match=r"from_thread"):
                    await trio.to_thread.run_sync(call)
            assert wal.next_offset == 0
            offset = await trio.to_thread.run_sync(lambda: trio.from_thread.run(wal.append, b"x"))
            assert offset == 0


def test_what_is_no_config_and_no_store_is_refused_by_name() -> None:
    with pytest.raises(TypeError, match=r"config='dir' must be a WalConfig"):
        open_wal("dir")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"store='file:///x' must be an object store"):
        open_wal(WalConfig(dir="d"), store="file:///x")  # type: ignore[arg-type]


class StruckDisk(RealDisk):
    """Ctrl-C comes while a call of the opening is under way in its thread."""

    def __init__(self, moment: str) -> None:
        super().__init__()
        self._moment: str | None = moment

    def _strike(self, moment: str) -> None:
        if moment == self._moment:
            self._moment = None
            os.kill(os.getpid(), signal.SIGINT)

    def open_dir(self, path: str) -> Any:
        held: Any = super().open_dir(path)
        self._strike("holding")
        sync_dir = held.sync_dir

        def struck(path: str) -> None:
            sync_dir(path)
            self._strike("recovering")

        held.sync_dir = struck
        return held


@pytest.mark.parametrize("moment", ["holding", "recovering"])
def test_ctrl_c_while_a_log_is_opened_leaves_nothing_open(tmp_path: Path, moment: str) -> None:
    config = WalConfig(dir=str(tmp_path / "log"))

    def open_files() -> list[str]:
        links = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
        shown = [os.readlink(link) for link in links if os.path.lexists(link)]
        return [path for path in shown if str(tmp_path) in path]

    async def main() -> None:
        with pytest.raises(KeyboardInterrupt):
            async with open_wal(config, disk=StruckDisk(moment)):
                pass
        assert open_files() == []
        async with open_wal(config) as wal:
            assert await wal.append(b"as if nothing had been") == 0

    trio.run(main)
