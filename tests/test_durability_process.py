"""The rules of `docs/durability.md` that only a real process on a real disk shows.

Where the calls of the operating system matter, strace watches a child or makes its calls fail.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import subprocess
import sys
import textwrap
import threading
import tracemalloc
from functools import cache, partial
from itertools import cycle
from pathlib import Path

import attrs
import pytest
import trio
from trio.testing import MockClock

from danube_trio import (
    CorruptDataError,
    StartPosition,
    Wal,
    WalConfig,
    open_wal,
)
from danube_trio.testing import SimDisk

SCRIPT = """
import errno, os, sys, trio
from danube_trio import *

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

async def main():
    config = WalConfig(dir=sys.argv[1], preallocate_bytes=0, fsync_interval_ms=3_600_000)
    async with open_wal(config) as wal:
{body}

trio.run(main)
"""


def script(body: str) -> list[str]:
    text = SCRIPT.format(body=textwrap.indent(textwrap.dedent(body), " " * 8))
    return [sys.executable, "-W", "ignore", "-c", text]


def run(command: list[str], directory: Path, **extra: str) -> str:
    """What the script said; `directory` is its argument."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), **extra}
    done = subprocess.run(
        [*command, str(directory)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@cache
def strace() -> str:
    found = shutil.which("strace")
    if found is None:
        pytest.skip("strace is not installed")
    probe = subprocess.run([found, "-e", "trace=none", "true"], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip("strace may not trace here")
    return found


def traced(body: str, tmp_path: Path, *options: str) -> tuple[str, list[str]]:
    """What the script said, and its system calls, as strace writes them."""
    output = tmp_path / "calls"
    command = [strace(), "-f", "-y", "-qq", "-s", "40", "-o", str(output), *options]
    said = run([*command, *script(body)], tmp_path / "log")
    return said, output.read_text(errors="replace").splitlines()


CALLS = "trace=pwrite64,pwritev2,pwritev,fdatasync,fsync,write"
APPENDS = """
for number in range(5):
    say("ack", await wal.append(b"x" * 100))
await wal.append_batch([b"y"] * 3, durability="written")
say("ack", await wal.append(b"z"))
"""


def test_rule_2_acks_follow_fdatasync_or_a_durable_write(tmp_path: Path) -> None:
    said, calls = traced(APPENDS, tmp_path, "-e", CALLS)
    assert said.split() == ["ack", "0", "ack", "1", "ack", "2", "ack", "3", "ack", "4", "ack", "8"]
    steps: list[str] = []
    for call in calls:
        if ".log>" in call:
            if "RWF_DSYNC" in call:
                steps.append("durable write")
            elif "pwrite" in call:
                steps.append("write")
            elif "fdatasync" in call:
                steps.append("sync")
        elif "wal.mark>" in call and "pwrite" in call:
            steps.append("mark")
        elif "write(1<" in call and "ack" in call:
            steps.append("ack")
    text = " ".join(steps)
    single = "(durable write|write sync) mark ack "
    assert re.search(f"({single}){{5}}write write sync mark ack", text), text


def test_rule_3_a_short_write_goes_on_where_it_stopped(tmp_path: Path) -> None:
    needs_durable_writes()
    inject = "inject=pwritev2:retval=10:when=1"
    _, calls = traced('await wal.append(b"x" * 100)', tmp_path, "-e", CALLS, "-e", inject)
    first, second = [call for call in calls if "pwritev2" in call][:2]
    assert "(INJECTED)" in first
    size, position = size_and_position(first)
    assert size_and_position(second) == (size - 10, position + 10)


def size_and_position(call: str) -> tuple[int, int]:
    """Of a write, in strace's words."""
    found = re.search(r"iov_len=(\d+)\}\], 1, (\d+)", call)
    assert found, call
    return int(found[1]), int(found[2])


def needs_durable_writes() -> None:
    if not hasattr(os, "RWF_DSYNC"):
        pytest.skip("a write that is its own sync is not one call here")


@pytest.mark.parametrize("failure", ["retval=0", "error=EIO", "error=ENOSPC"])
def test_rules_3_and_8_a_write_that_fails_or_writes_nothing_breaks_the_log(
    failure: str, tmp_path: Path
) -> None:
    body = """
    say(await wal.append(b"first"))
    say("ready")
    for call in (wal.append(b"second"), wal.append(b"third")):
        try:
            await call
        except LogBrokenError as error:
            say(errno.errorcode[error.__cause__.errno])
    say([m.payload async for m in wal.reader(end="current")])
    """
    needs_durable_writes()
    inject = f"inject=pwritev2:{failure}:when=2+"
    said, _ = traced(body, tmp_path, "-e", CALLS, "-e", inject)
    code = "EIO" if "ENOSPC" not in failure else "ENOSPC"
    assert said.splitlines() == ["0", "ready", code, code, "[b'first']"]


FORK = """
say(await wal.append(b"before"))
child = os.fork()
if child == 0:
    for call in (
        lambda: wal.append_nowait(b"child"),
        lambda: wal.append_batch_nowait([b"child"]),
    ):
        try:
            call()
        except LogClosedError as error:
            say("fork" in str(error))
    for call in (wal.append(b"child"), wal.append_batch([b"child"]), wal.trim(1)):
        try:
            await call
        except LogClosedError as error:
            say("fork" in str(error))
    os._exit(0)
os.waitpid(child, 0)
say(await wal.append(b"after"))
try:
    async with open_wal(WalConfig(dir=sys.argv[1])):
        pass
except LogLockedError:
    say("still locked")
"""


@pytest.mark.happens
async def test_rule_20_the_log_refuses_to_be_used_after_a_fork(tmp_path: Path) -> None:
    said = run(script(FORK), tmp_path)
    assert said.split() == ["0", *["True"] * 5, "1", "still", "locked"]
    async with open_wal(WalConfig(dir=str(tmp_path))) as wal:
        assert [m.payload async for m in wal.reader(end="current")] == [b"before", b"after"]


@pytest.mark.happens
async def test_rule_20_the_lock_excludes_other_processes_and_closing_files_keeps_it(
    tmp_path: Path,
) -> None:
    attempt = "try:\n    await main()\nexcept LogLockedError as error:\n    say(error.holder)\n"
    command = script("say('open')")
    command[-1] = command[-1].replace(
        "trio.run(main)",
        f"async def attempt():\n{textwrap.indent(attempt, '    ')}\ntrio.run(attempt)",
    )
    async with open_wal(WalConfig(dir=str(tmp_path))) as wal:
        # With POSIX locks, closing any other descriptor of the file would give the lock away.
        (tmp_path / "wal.lock").read_bytes()
        await wal.append(b"x")
        said = await trio.to_thread.run_sync(run, command, tmp_path)
        assert said.startswith(f"process {os.getpid()} on ")
    assert run(command, tmp_path) == "open\n"


async def test_rule_20_no_descriptor_of_a_log_reaches_a_child_process(tmp_path: Path) -> None:
    async with open_wal(WalConfig(dir=str(tmp_path))) as wal:
        await wal.append(b"x")
        assert len(descriptors(tmp_path)) == 4  # segment, mark, lock, directory
        listing = await trio.run_process(
            ["ls", "-l", "/proc/self/fd"], capture_stdout=True, close_fds=False
        )
        assert str(tmp_path).encode() not in listing.stdout


def descriptors(directory: Path) -> list[str]:
    found: list[str] = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            path = os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:  # that of the listing itself
            continue
        if path.startswith(str(directory)):
            found.append(path)
    return found


async def test_rule_21_a_clock_that_jumps_changes_neither_order_nor_recovery(
    autojump_clock: MockClock,
) -> None:
    disk = SimDisk()
    config = WalConfig(dir="/log", segment_bytes=600, preallocate_bytes=0, retain_bytes=100_000)
    jumps = [1e9, 0.0, 5e8, 2e9, 1.0, 1.5e9]
    sent: list[bytes] = []
    for life, now in enumerate(jumps):
        times = cycle([now, max(0.0, now - 0.5), now * 2, 0.0])
        async with open_wal(config, disk=disk, clock=partial(next, times)) as wal:
            assert wal.next_offset == len(sent)
            for i in range(5):
                sent.append(b"%d/%d" % (life, i) * 20)
                assert await wal.append(sent[-1]) == len(sent) - 1
            records = [r async for r in wal.reader(end="current", raw=True)]
            for offset, stamp in enumerate(r.append_time for r in records):
                start = StartPosition.timestamp(stamp / 1e6)
                since = [m.offset async for m in wal.reader(start, end="current")]
                assert since[0] <= offset
                assert since == list(range(since[0], len(sent)))
            assert [m.payload async for m in wal.reader(end="current")] == sent


async def test_rule_21_intervals_do_not_use_the_wall_clock(autojump_clock: MockClock) -> None:
    config = WalConfig(dir="/log", fsync_interval_ms=200)
    async with open_wal(config, disk=SimDisk(), clock=lambda: 1e9) as wal:
        wal.append_nowait(b"x")
        started = trio.current_time()
        await wal.reader().__anext__()  # waits, and asks for no sync
        assert trio.current_time() - started == pytest.approx(0.2)


async def test_rule_22_everything_of_a_log_is_private(tmp_path: Path) -> None:
    directory = tmp_path / "a" / "log"
    config = WalConfig(dir=str(directory), segment_bytes=500)
    old = os.umask(0)
    try:
        async with open_wal(config) as wal:
            for _ in range(9):
                await wal.append(bytes(200))
            await wal.trim(3)
    finally:
        os.umask(old)
    names = {path.name.rpartition(".")[2] for path in directory.iterdir()}
    assert names == {"log", "idx", "meta", "trim", "mark", "ckpt", "lock"}
    for path in (directory.parent, directory):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    for path in directory.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


@pytest.mark.happens
@pytest.mark.parametrize("name", ["meta", "trim", "mark", "lock", f"{0:020d}.log"])
@pytest.mark.parametrize("kind", ["link", "fifo", "directory"])
async def test_rule_22_a_link_or_fifo_or_directory_is_refused(
    name: str, kind: str, tmp_path: Path
) -> None:
    config = WalConfig(dir=str(tmp_path / "log"))
    async with open_wal(config) as wal:
        await wal.append(b"x")
        await wal.trim(0)
    path = tmp_path / "log" / f"wal.{name}"
    if path.exists():
        path.rename(tmp_path / "elsewhere")
    else:
        (tmp_path / "elsewhere").touch()
    if kind == "link":
        path.symlink_to(tmp_path / "elsewhere")
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.mkdir()
    with pytest.raises((OSError, CorruptDataError)) as caught:
        async with open_wal(config):
            pass
    if isinstance(caught.value, OSError):
        assert caught.value.errno in (errno.ELOOP, errno.EINVAL)
        assert caught.value.filename == str(path)


async def test_rule_23_only_a_trim_and_the_retention_that_was_asked_for_remove_segments(
    autojump_clock: MockClock,
) -> None:
    config = WalConfig(dir="/log", segment_bytes=600, preallocate_bytes=0, segment_age=1.0)
    disk = SimDisk()
    for life, retain in enumerate((None, 10**6)):
        now = attrs.evolve(config, retain_bytes=retain)
        async with open_wal(now, disk=disk, clock=lambda: 1e9 + trio.current_time()) as wal:
            for _ in range(20):
                await wal.append(bytes(200))
            await trio.sleep(100)
            assert wal.start_offset == 0
            assert wal.statistics().sealed_end == 20 * (life + 1)
    kept = [path for path in disk.tree() if path.endswith(".log")]
    made = {op.path for op in disk.operations if op.name == "create" and op.path.endswith(".log")}
    assert set(kept) == made


# ---- rule 24

READERS = 100
BLOCK = 32 << 10


async def read_slowly(wal: Wal, start: int, most: list[int], directory: Path) -> int:
    count = 0
    async for batch in wal.reader(StartPosition.offset(start), end="current").batches():
        count += len(batch)
        most[0] = max(most[0], len(descriptors(directory)))
        most[1] = max(most[1], threading.active_count())
        await trio.lowlevel.checkpoint()
    return count


async def test_rule_24_descriptors_threads_and_memory_are_bounded_with_100_readers(
    tmp_path: Path,
) -> None:
    config = WalConfig(
        dir=str(tmp_path),
        segment_bytes=400_000,
        cache_capacity=10,
        cache_bytes=100_000,
        read_block_bytes=BLOCK,
    )
    counts: list[int] = []
    most = [0, 0]
    async with open_wal(config) as wal:
        for _ in range(10):
            await wal.append_batch([bytes(1000)] * 100)
        threads = threading.active_count()
        tracemalloc.start()
        try:
            async with trio.open_nursery() as nursery:

                async def one(start: int) -> None:
                    counts.append(await read_slowly(wal, start, most, tmp_path))

                for number in range(READERS):
                    nursery.start_soon(one, number * 10)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert sorted(counts) == sorted(1000 - number * 10 for number in range(READERS))
        assert most[0] <= 3 + 8, "one file for each read under way, none between"
        assert most[1] <= threads + 8
        assert peak < READERS * 4 * BLOCK + (4 << 20)
        assert len(descriptors(tmp_path)) == 4
    assert descriptors(tmp_path) == []
