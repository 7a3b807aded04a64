"""A disk that fails: the log breaks, says so to everyone, and nothing else happens."""

from __future__ import annotations

import errno
from collections.abc import Callable
from functools import partial
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from danube_trio import LogBrokenError, StartPosition, Wal, WalConfig, open_wal
from danube_trio.testing import SimDisk

CONFIG = WalConfig(dir="/log", segment_bytes=2000, preallocate_bytes=0)


async def payloads(wal: Wal) -> list[bytes]:
    return [m.payload async for m in wal.reader(end="current")]


async def recovered(disk: SimDisk) -> list[bytes]:
    async with open_wal(CONFIG, disk=disk) as wal:
        await wal.append(b"goes on")
        return await payloads(wal)


@pytest.mark.happens
@pytest.mark.parametrize("operation", ["write", "sync_data"])
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
async def test_a_failed_write_or_sync_breaks_the_log(operation: str, code: int) -> None:
    disk = SimDisk()
    async with open_wal(CONFIG, disk=disk) as wal:
        await wal.append(b"acked")
        disk.fail(operation, error=code, path_contains=".log")
        with pytest.raises(LogBrokenError, match="outcome") as caught:
            await wal.append(b"lost or not")
        assert isinstance(caught.value.__cause__, OSError)
        assert caught.value.__cause__.errno == code
        synced = disk.op_count
        for call in (wal.append(b"x"), wal.append_batch([b"x"]), wal.flush(), wal.trim(1)):
            with pytest.raises(LogBrokenError):
                await call
        with pytest.raises(LogBrokenError):
            wal.append_nowait(b"x")
        later = [op.name for op in disk.operations[synced:]]
        assert "write" not in later and "sync_data" not in later, "nothing is retried"
        assert await payloads(wal) == [b"acked"]
        assert wal.statistics().phase == "broken"
    after = await recovered(disk)
    assert after[0] == b"acked"
    assert after[-1] == b"goes on"


@pytest.mark.happens
async def test_a_full_disk_breaks_the_log_and_space_mends_it() -> None:
    disk = SimDisk(capacity_bytes=6000)
    accepted: list[bytes] = []
    async with open_wal(attrs.evolve(CONFIG, segment_bytes=100_000), disk=disk) as wal:
        with pytest.raises(LogBrokenError) as caught:
            while True:
                text = b"%d" % len(accepted) * 100
                await wal.append(text)
                accepted.append(text)
        assert isinstance(caught.value.__cause__, OSError)
        assert caught.value.__cause__.errno == errno.ENOSPC
        assert await payloads(wal) == accepted
    disk.capacity_bytes = None
    assert await recovered(disk) == [*accepted, b"goes on"]
    assert len(accepted) > 10


async def test_preallocation_on_a_full_disk_takes_less_and_goes_on() -> None:
    disk = SimDisk(capacity_bytes=8000)
    config = attrs.evolve(CONFIG, preallocate_bytes=1 << 20, segment_bytes=1 << 20)
    async with open_wal(config, disk=disk) as wal:
        for i in range(20):
            assert await wal.append(bytes(100)) == i


@pytest.mark.parametrize("operation", ["create", "sync_dir", "truncate"])
async def test_a_failure_at_a_roll_leaves_nothing_that_recovery_chokes_on(operation: str) -> None:
    disk = SimDisk()
    acked: list[bytes] = []
    config = attrs.evolve(CONFIG, preallocate_bytes=512)
    async with open_wal(config, disk=disk) as wal:
        disk.fail(operation, error=errno.EMFILE if operation == "create" else errno.EIO)
        with pytest.raises(LogBrokenError):
            for i in range(100):
                await wal.append(b"%d" % i * 100)
                acked.append(b"%d" % i * 100)
        assert await payloads(wal) == acked
    after = await recovered(disk)
    assert after[: len(acked)] == acked
    assert len(acked) > 5


@pytest.mark.happens
async def test_everyone_who_waits_is_told_within_the_same_moment(
    autojump_clock: MockClock,
) -> None:
    disk = SimDisk(latency=0.01)
    config = attrs.evolve(CONFIG, max_pending_bytes=3000)
    told: list[str] = []

    def note(name: str) -> Callable[[], None]:
        return lambda: told.append(name)

    async def expect(name: str, call: Callable[[], Any]) -> None:
        with pytest.raises(LogBrokenError):
            await call()
        note(name)()

    async with open_wal(config, disk=disk) as wal:
        reader = wal.reader(StartPosition.latest())
        disk.fail("sync_data", path_contains=".log")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(expect, "reader", reader.__anext__)
            nursery.start_soon(expect, "append", lambda: wal.append(bytes(1000)))
            await wait_all_tasks_blocked()
            receipt = wal.append_nowait(b"receipt")
            nursery.start_soon(expect, "receipt", receipt.durable)
            nursery.start_soon(expect, "flush", wal.flush)
            nursery.start_soon(expect, "future", lambda: wal.wait_durable(100))
            await wait_all_tasks_blocked()
            for i in range(4):
                nursery.start_soon(expect, f"room {i}", lambda: wal.append(bytes(2000)))
                await wait_all_tasks_blocked()
        assert trio.current_time() < 5
    assert sorted(told) == sorted(
        ["reader", "append", "receipt", "flush", "future", *(f"room {i}" for i in range(4))]
    )


@pytest.mark.happens
async def test_leaving_raises_only_if_a_loss_was_told_to_nobody() -> None:
    async def lose(told: str) -> None:
        disk = SimDisk()
        async with open_wal(CONFIG, disk=disk) as wal:
            await wal.append(b"kept")
            disk.fail("sync_data", path_contains=".log", sticky=True)
            receipts = [wal.append_nowait(b"%d" % i) for i in range(3)]
            if told == "flush":
                with pytest.raises(LogBrokenError):
                    await wal.flush()
            elif told:
                for receipt in receipts if told == "all" else receipts[:2]:
                    with pytest.raises(LogBrokenError):
                        await receipt.durable()

    await lose("all")
    await lose("flush")
    for told, count in (("", 3), ("some", 1)):
        with pytest.raises(LogBrokenError, match=f"{count} accepted records may be lost") as error:
            await lose(told)
        assert error.value.lost == count
        assert isinstance(error.value.__cause__, OSError)


async def test_the_body_s_own_exception_wins_over_the_loss() -> None:
    disk = SimDisk()
    with pytest.raises(ZeroDivisionError):
        async with open_wal(CONFIG, disk=disk) as wal:
            disk.fail("sync_data", path_contains=".log", sticky=True)
            wal.append_nowait(b"x")
            raise ZeroDivisionError


async def test_other_logs_are_not_touched() -> None:
    disk = SimDisk()
    other = attrs.evolve(CONFIG, dir="/other")
    async with open_wal(CONFIG, disk=disk) as wal, open_wal(other, disk=disk) as second:
        disk.fail("write", path_contains="/log/")
        with pytest.raises(LogBrokenError):
            await wal.append(b"x")
        assert await second.append(b"y") == 0


@pytest.mark.parametrize("operation", ["create", "write", "sync_data", "rename"])
async def test_hints_that_cannot_be_written_break_nothing(
    operation: str, autojump_clock: MockClock
) -> None:
    disk = SimDisk()
    async with open_wal(CONFIG, disk=disk) as wal:
        fault = disk.fail(operation, path_contains=".idx", sticky=True)
        for i in range(30):
            await wal.append(b"%d" % i * 40)
        await trio.sleep(20)
        assert wal.statistics().janitor_failures > 0
        fault.cancel()
        await trio.sleep(20)
        assert await wal.append(b"x") == 30
    assert any(path.endswith(".idx") for path in disk.tree())


@pytest.mark.parametrize("operation", ["write", "sync_data", "unlink"])
async def test_a_trim_that_fails_is_an_error_and_the_log_goes_on(operation: str) -> None:
    disk = SimDisk()
    async with open_wal(CONFIG, disk=disk) as wal:
        for i in range(40):
            await wal.append(b"%d" % i * 40)
        await wait_all_tasks_blocked()
        disk.fail(operation, path_contains="wal.")
        with pytest.raises(OSError, match="EIO"):
            await wal.trim(20)
        assert await wal.append(b"x") == 40
        assert 0 < await wal.trim(25) <= 25
    after = await recovered(disk)
    assert after[-3:] == [b"39" * 40, b"x", b"goes on"]


async def test_a_directory_that_cannot_be_synced_while_trimming_breaks_the_log() -> None:
    disk = SimDisk()
    async with open_wal(CONFIG, disk=disk) as wal:
        for i in range(40):
            await wal.append(b"%d" % i * 40)
        await wait_all_tasks_blocked()
        disk.fail("sync_dir")
        with pytest.raises(LogBrokenError):
            await wal.trim(20)
    after = await recovered(disk)
    assert after[-2:] == [b"39" * 40, b"goes on"]


async def test_retention_that_fails_breaks_nothing_and_is_tried_again(
    autojump_clock: MockClock,
) -> None:
    disk = SimDisk()
    async with open_wal(attrs.evolve(CONFIG, retain_bytes=3000), disk=disk) as wal:
        fault = disk.fail("write", path_contains=".trim", sticky=True)
        for i in range(40):
            await wal.append(b"%d" % i * 40)
        await trio.sleep(20)
        assert wal.start_offset == 0
        assert wal.statistics().janitor_failures > 0
        fault.cancel()
        await trio.sleep(20)
        assert wal.start_offset > 0


@pytest.mark.happens
@pytest.mark.parametrize("code", [errno.EIO, errno.EACCES, errno.EMFILE])
@pytest.mark.parametrize("operation", ["open", "read", "list_dir", "size"])
async def test_a_read_error_at_open_is_an_error_and_changes_nothing(
    operation: str, code: int
) -> None:
    disk = SimDisk()
    async with open_wal(CONFIG, disk=disk) as wal:
        for i in range(40):
            await wal.append(b"%d" % i * 40)
    before = disk.tree()
    failed = 0
    for nth in range(1, 12):
        fault = disk.fail(operation, nth, error=code)
        try:
            async with open_wal(CONFIG, disk=disk):
                pass
        except OSError as error:
            assert error.errno == code
            failed += 1
            after = disk.tree()
            for path, data in before.items():
                if not path.endswith((".mark", ".lock", ".ckpt")):
                    assert after[path] == data, path
        fault.cancel()
    assert failed > 0
    async with open_wal(CONFIG, disk=disk) as wal:
        assert await payloads(wal) == [b"%d" % i * 40 for i in range(40)]


async def test_a_short_read_is_an_error_never_the_end_of_the_file() -> None:
    disk = SimDisk()
    async with open_wal(CONFIG, disk=disk) as wal:
        for i in range(10):
            await wal.append(b"%d" % i * 40)
    before = disk.tree()
    # Sticky: once may be a writer that was left, and the next one that came.
    disk.fail("read", error=None, short=100, path_contains=".log", sticky=True)
    disk.fail("read", error=None, short=0, path_contains=".mark")
    with pytest.raises(OSError, match=r"could be read|gave less than"):
        async with open_wal(CONFIG, disk=disk):
            pass
    after = disk.tree()
    assert {p: after[p] for p in before if p.endswith(".log")} == {
        p: d for p, d in before.items() if p.endswith(".log")
    }


@pytest.mark.happens
async def test_a_read_error_reaches_the_reader_and_the_next_reader_goes_on() -> None:
    disk = SimDisk()
    config = attrs.evolve(CONFIG, cache_capacity=1)
    async with open_wal(config, disk=disk) as wal:
        for i in range(30):
            await wal.append(b"%d" % i * 40)
        disk.fail("read", path_contains=".log")
        reader = wal.reader(end="current")
        with pytest.raises(OSError, match="5"):
            await reader.__anext__()
        assert [m.payload async for m in reader] == [b"%d" % i * 40 for i in range(30)]


@pytest.mark.happens
async def test_a_bug_in_a_task_comes_out_as_one_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(*_: object, **__: object) -> None:
        raise ZeroDivisionError("bug")

    monkeypatch.setattr("danube_trio._engine.log.writer.encode_block", bug)
    with pytest.raises(ZeroDivisionError, match="bug"):
        async with open_wal(CONFIG, disk=SimDisk()) as wal:
            with pytest.raises(LogBrokenError):
                await wal.append(b"x")
            await trio.sleep_forever()
    monkeypatch.undo()
    monkeypatch.setattr("danube_trio._engine.log.engine.Engine.synced", bug)
    with pytest.raises(ZeroDivisionError, match="bug"):
        async with open_wal(CONFIG, disk=SimDisk()) as wal:
            wal.append_nowait(b"x")
            await trio.sleep_forever()


async def test_a_sync_that_ends_after_the_log_broke_makes_nothing_durable(
    autojump_clock: MockClock,
) -> None:
    async with open_wal(CONFIG, disk=SimDisk(latency=1)) as wal:
        receipt = wal.append_nowait(b"written, and not synced")
        await receipt.written()
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def _() -> None:
                with pytest.raises(LogBrokenError):
                    await wal.flush()

            await trio.sleep(0.5)
            wal._engine.break_(OSError(errno.EIO, "from elsewhere"))
        await trio.sleep(10)
        assert wal.durable_end == 0


async def test_after_a_failed_directory_sync_the_tail_writes_nothing(
    autojump_clock: MockClock,
) -> None:
    """Also what stands behind it in the lane, and was sent before anybody knew."""
    disk = SimDisk()
    with pytest.raises(LogBrokenError):
        async with open_wal(CONFIG, disk=disk) as wal:
            await wal.append(b"kept")
            assert wal._janitor is not None
            tail = wal._janitor._tail
            disk.fail("sync_dir")
            with pytest.raises(OSError, match="injected"):
                tail.sync_directory()
            before = disk.op_count
            for call in (
                partial(tail.commit, b"x", 2),
                partial(tail.write, b"x"),
                partial(tail.sync, 2),
                tail.sync_directory,
            ):
                with pytest.raises(OSError, match="injected"):
                    call()
            assert disk.op_count == before
            wal.append_nowait(b"meets it")
