"""Topics of one storage: opened by use, closed when idle, limited, broken and not the others."""

from __future__ import annotations

import errno
import gc
import logging
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from danube_trio import (
    CorruptDataError,
    LogBrokenError,
    LogClosedError,
    LogLockedError,
    PersistentStorage,
    StartPosition,
    Storage,
    StorageConfig,
    WalConfig,
    open_storage,
    open_wal,
)
from danube_trio._core.topic_names import topic_name, topic_path
from danube_trio._engine.topics.open import FILES_OF_A_TOPIC
from danube_trio._engine.topics.topic import another
from danube_trio.errors import FencedError, MessageTooLargeError
from danube_trio.metadata import MemoryMetadata
from danube_trio.testing import SimDisk

CONFIG = StorageConfig(dir="/data", wal=WalConfig(segment_bytes=2000, preallocate_bytes=0))
A, B, C = "/default/a", "/default/b", "/other/c"


def limited(topics: int, **more: Any) -> StorageConfig:
    return attrs.evolve(CONFIG, max_open_topics=topics, **more)


async def payloads(storage: Storage, topic: str) -> list[bytes]:
    reader = await storage.create_reader(topic, end="current")
    return [message.payload async for message in reader]


# ---- names


@pytest.mark.parametrize("name", ["/default/orders", "/a/b", "/ns-1/t_2", "/größe/日本", "/0/0"])
def test_names_that_danube_accepts(name: str) -> None:
    assert topic_name(name) == name
    assert topic_name(name[1:]) == name, "the slash may be left out"
    assert topic_path(name) == name[1:]


@pytest.mark.parametrize(
    "name",
    [
        *("", "/", "orders", "/orders", "/a/b/c", "//a/b", "/a//b", "/a/", "a/b/"),
        *("/../b", "/a/..", "/./b", "/a/.metadata", "/a/b.c", "/a/b c", "/a/b\n", "/a/b\0"),
        *("/a/b\\c", "/a/b%2f", "/a/*", "/a/" + "x" * 201, "/a/" + "ü" * 101),
        *("/a/u\u0308", "/a/\u212b", "/a/\ud800"),  # an ü in two parts, an old Å, half a pair
    ],
)
def test_a_name_that_danube_would_refuse_or_take_for_another_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="topic="):
        topic_path(name)


async def test_a_bad_name_is_named_and_nothing_is_made() -> None:
    disk = SimDisk()
    async with open_storage(CONFIG, disk=disk) as storage:
        before = set(disk.tree())
        with pytest.raises(ValueError, match=r"/default/\.\./x"):
            await storage.append_message("/default/../x", b"x")
        with pytest.raises(TypeError, match="topic=7"):
            await storage.append_message(7, b"x")  # type: ignore[arg-type] # on purpose
        assert set(disk.tree()) == before


# ---- settings


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"dir": None}, "dir=None"),
        ({"dir": ""}, "dir=''"),
        ({"max_open_topics": 0}, "max_open_topics=0"),
        ({"idle_seconds": 0}, "idle_seconds=0"),
        ({"io_threads": 1.5}, "io_threads=1.5"),
        ({"metadata_root": "danube"}, "metadata_root='danube'"),
        ({"metadata_root": "/danube/"}, "metadata_root='/danube/'"),
        ({"wal": {}}, "wal={}"),
        ({"wal": WalConfig(dir="/log")}, "wal: dir='/log'"),
        ({"wal": WalConfig(topic_name="t")}, "wal: topic_name='t'"),
    ],
)
def test_a_bad_setting_is_named(fields: dict[str, Any], text: str) -> None:
    given: dict[str, Any] = {"dir": "/data", **fields}
    with pytest.raises(ValueError, match="^" + text.replace("{", r"\{")):
        StorageConfig(**given)


def test_uploaded_needs_a_store() -> None:
    with pytest.raises(ValueError, match="object store"):
        open_storage(attrs.evolve(CONFIG, wal=WalConfig(durability="uploaded")))


async def test_too_few_open_files_are_said_at_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = StorageConfig(dir=tmp_path, max_open_topics=1_000_000)
    with caplog.at_level(logging.WARNING):
        async with open_storage(config):
            assert "max_open_topics=1000000" in caplog.text


# ---- use


async def test_each_topic_is_a_log_of_its_own() -> None:
    disk = SimDisk()
    async with open_storage(CONFIG, disk=disk) as storage:
        assert isinstance(storage, PersistentStorage)
        assert await storage.append_message(A, b"a0") == 0
        assert await storage.append_batch(B, [b"b0", b"b1"]) == range(2)
        assert await storage.append_message("default/a", b"a1", expected_offset=1) == 1
        await storage.flush(A)
        assert (await storage.start_offset(A), await storage.current_offset(A)) == (0, 2)
        assert await storage.current_offset(C) == 0
        assert await storage.list_topics() == [A, B, C]
        assert await payloads(storage, A) == [b"a0", b"a1"]
        reader = await storage.create_reader(B, StartPosition.offset(1), end="current")
        [message] = [message async for message in reader]
        assert (message.payload, message.msg_id.topic_name) == (b"b1", B)
    async with open_wal(WalConfig(dir="/data/default/a"), disk=disk) as wal:
        assert wal.next_offset == 2, "in Danube's directories"
    async with open_storage(CONFIG, disk=disk) as storage:
        assert await storage.list_topics() == [A, B, C]
        assert await payloads(storage, B) == [b"b0", b"b1"]


async def test_a_checkpoint_frees_whole_segments() -> None:
    async with open_storage(CONFIG, disk=SimDisk()) as storage:
        for _ in range(60):
            await storage.append_message(A, bytes(100))
        await storage.ack_checkpoint(A, 50)
        assert 0 < await storage.start_offset(A) <= 50


async def test_in_its_block_a_topic_stays_open(autojump_clock: MockClock) -> None:
    async with open_storage(limited(1, idle_seconds=1), disk=SimDisk()) as storage:
        async with storage.topic(A) as wal:
            await trio.sleep(100)
            assert await wal.append(b"x") == 0
            with trio.move_on_after(100) as scope:
                await storage.append_message(B, b"x")
            assert scope.cancelled_caught, "no slot is free"
            assert storage.statistics().pinned_topics == 1
        assert await storage.append_message(B, b"x") == 0


async def test_concurrent_first_uses_open_once() -> None:
    async with open_storage(CONFIG, disk=SimDisk(latency=0.001)) as storage:
        async with trio.open_nursery() as nursery:
            for i in range(50):
                nursery.start_soon(storage.append_message, A, b"%d" % i)
        assert storage.statistics().opens == 1
        assert sorted(await payloads(storage, A)) == sorted(b"%d" % i for i in range(50))


async def test_an_idle_topic_is_closed_and_opens_again(autojump_clock: MockClock) -> None:
    async with open_storage(limited(9, idle_seconds=10), disk=SimDisk()) as storage:
        await storage.append_message(A, b"x")
        await trio.sleep(5)
        await storage.append_message(B, b"x")
        await trio.sleep(7.6)
        assert storage.topic_statistics(A) is None
        found = storage.topic_statistics(B)
        assert found is not None and found.next_offset == 1
        assert storage.statistics().open_topics == 1
        assert await storage.append_message(A, b"y") == 1
        assert (storage.statistics().opens, storage.statistics().closes) == (3, 1)
        assert storage.statistics().evictions == 0


async def test_at_the_limit_the_one_used_longest_ago_goes() -> None:
    async with open_storage(limited(2), disk=SimDisk(latency=0.001)) as storage:
        for topic in (A, B, A, C):
            await storage.append_message(topic, b"x")
        assert storage.topic_statistics(B) is None
        assert storage.topic_statistics(A) is not None
        assert storage.statistics().evictions == 1


async def test_many_more_topics_than_slots_all_get_their_turn(autojump_clock: MockClock) -> None:
    disk = SimDisk(latency=0.001)
    topics = [f"/default/t{i}" for i in range(30)]
    async with open_storage(limited(3), disk=disk) as storage:

        async def work(topic: str) -> None:
            for i in range(5):
                assert await storage.append_message(topic, b"%d" % i) == i

        async with trio.open_nursery() as nursery:
            for topic in topics:
                nursery.start_soon(work, topic)
        assert len([path for path in disk.open_paths if path.endswith(".log")]) <= 3
        for topic in topics:
            assert await payloads(storage, topic) == [b"%d" % i for i in range(5)]


async def test_a_wait_for_a_slot_can_be_cancelled(autojump_clock: MockClock) -> None:
    disk = SimDisk()
    async with open_storage(limited(1), disk=disk) as storage:
        async with storage.topic(A):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(storage.append_message, B, b"x")
                await wait_all_tasks_blocked()
                assert storage.statistics().waiting == 1
                nursery.cancel_scope.cancel()
            await wait_all_tasks_blocked()
            assert storage.statistics().waiting == 0
        assert await storage.current_offset(B) == 0, "it was not accepted"
        assert await storage.list_topics() == [A, B]


async def test_who_is_cancelled_does_not_spoil_it_for_others(autojump_clock: MockClock) -> None:
    disk = SimDisk(latency=0.1)
    async with open_storage(limited(1), disk=disk) as storage:
        offsets: list[int] = []

        async def append() -> None:
            offsets.append(await storage.append_message(A, b"x"))

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(append)
            with trio.move_on_after(0.05) as scope:
                await storage.append_message(A, b"cancelled")
        assert scope.cancelled_caught
        assert sorted(offsets) == [0, 1, 2]
        assert b"cancelled" not in await payloads(storage, A)


@pytest.mark.parametrize("delay", [0.0, 0.01, 0.05, 0.11, 0.21, 0.35, 0.52, 0.7, 1.5])
async def test_a_cancelled_append_was_not_accepted(delay: float, autojump_clock: MockClock) -> None:
    disk = SimDisk(latency=0.1)
    async with open_storage(limited(1), disk=disk) as storage:
        await storage.append_message(B, b"in the way")
        result = -1
        with trio.move_on_after(delay):
            result = await storage.append_message(A, b"x")
        async with storage.topic(A) as wal:
            await wal.flush()
        assert await payloads(storage, A) == ([b"x"] if result == 0 else [])


# ---- readers


async def test_an_open_reader_keeps_its_topic_open(autojump_clock: MockClock) -> None:
    async with open_storage(limited(9, idle_seconds=1), disk=SimDisk()) as storage:
        await storage.append_message(A, b"0")
        reader = await storage.create_reader(A)
        await trio.sleep(100)
        assert (await anext(reader)).payload == b"0"
        assert storage.statistics().open_topics == 1
        await reader.aclose()
        await trio.sleep(100)
        assert storage.statistics().open_topics == 0


async def test_a_leaked_reader_does_not(autojump_clock: MockClock) -> None:
    async with open_storage(limited(1, idle_seconds=1e6), disk=SimDisk()) as storage:
        await storage.append_message(A, b"0")
        assert (await anext(await storage.create_reader(A))).payload == b"0"
        gc.collect()
        with trio.fail_after(10):
            await storage.append_message(B, b"0")


async def test_a_reader_at_its_end_does_not(autojump_clock: MockClock) -> None:
    async with open_storage(limited(1), disk=SimDisk()) as storage:
        await storage.append_message(A, b"0")
        reader = await storage.create_reader(A, end="current")
        counted = await storage.create_reader(A, count=1)
        assert len([message async for message in reader]) == 1
        assert len([message async for message in counted]) == 1
        with trio.fail_after(10):
            await storage.append_message(B, b"0")
        with pytest.raises(StopAsyncIteration):
            await anext(reader)


async def test_a_reader_that_follows_gets_what_comes(autojump_clock: MockClock) -> None:
    async with open_storage(limited(2, idle_seconds=1), disk=SimDisk()) as storage:
        reader = await storage.create_reader(A)
        got: list[bytes] = []

        async def follow() -> None:
            async for message in reader:
                got.append(message.payload)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(follow)
            for i in range(5):
                await trio.sleep(10)
                await storage.append_message(A, b"%d" % i)
                await storage.append_message(B, b"x")
                await storage.append_message(C, b"x")
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert got == [b"0", b"1", b"2", b"3", b"4"]


# ---- failures


async def test_an_error_in_opening_is_told_to_each_and_the_next_use_tries_again() -> None:
    disk = SimDisk(latency=0.001)
    async with open_storage(CONFIG, disk=disk) as storage:
        disk.fail("create", error=errno.EACCES, path_contains="default/a")
        errors: list[OSError] = []

        async def use() -> None:
            with pytest.raises(OSError, match="EACCES") as caught:
                await storage.append_message(A, b"x")
            errors.append(caught.value)

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(use)
        assert len({id(error) for error in errors}) == 5
        assert {error.errno for error in errors} == {errno.EACCES}
        assert all("default/a" in str(error) for error in errors)
        assert storage.statistics().failed_opens == 1
        assert await storage.append_message(A, b"x") == 0
        assert await storage.append_message(B, b"x") == 0


@pytest.mark.happens
async def test_without_files_an_idle_topic_makes_room_for_the_next_try() -> None:
    disk = SimDisk()
    async with open_storage(CONFIG, disk=disk) as storage:
        for topic in (A, B):
            await storage.append_message(topic, b"x")
        disk.fail("create", error=errno.EMFILE, path_contains="other/c")
        with pytest.raises(OSError, match="EMFILE"):
            await storage.append_message(C, b"x")
        await wait_all_tasks_blocked()
        assert storage.topic_statistics(A) is None
        assert storage.topic_statistics(B) is not None
        assert await storage.append_message(C, b"x") == 0


@pytest.mark.parametrize(
    "error",
    [
        FencedError(3, "somebody"),
        MessageTooLargeError(3, 2, "max_message_bytes"),
        LogBrokenError("broken", lost=7),
        LogLockedError("/log/wal.lock", "process 1"),
        CorruptDataError("bad", path="/x", position=1, offset=2, advice="pray"),
        OSError(errno.ENOSPC, "no space", "/x"),
        OSError(errno.EXDEV, "two", "/x", None, "/y"),
        FileNotFoundError(errno.ENOENT, "gone", "/x"),
        OSError("only a text"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
        ValueError("x", 3),
    ],
)
def test_the_same_error_for_another_caller(error: Exception) -> None:
    error.add_note("a note")
    again = another(error)
    assert again is not error and type(again) is type(error)
    assert (str(again), again.args, vars(again)) == (str(error), error.args, vars(error))
    if isinstance(error, OSError) and isinstance(again, OSError):
        assert (again.errno, again.filename, again.filename2) == (
            *(error.errno, error.filename, error.filename2),
        )


@pytest.mark.happens
async def test_a_corrupt_topic_says_so_and_others_go_on() -> None:
    disk = SimDisk()
    async with open_storage(CONFIG, disk=disk) as storage:
        for topic in (A, B):
            await storage.append_message(topic, b"x")
    disk.corrupt("/data/default/a/wal.00000000000000000000.log", 20)
    async with open_storage(CONFIG, disk=disk) as storage:
        for _ in range(2):
            with pytest.raises(CorruptDataError, match="default/a"):
                await storage.append_message(A, b"y")
        assert await storage.append_message(B, b"y") == 1


@pytest.mark.happens
async def test_a_broken_topic_is_opened_again_by_its_next_use() -> None:
    disk = SimDisk()
    async with open_storage(CONFIG, disk=disk) as storage:
        await storage.append_message(A, b"before")
        await storage.append_message(B, b"x")
        disk.fail("write", path_contains="default/a")
        with pytest.raises(LogBrokenError):
            await storage.append_message(A, b"unknown")
        assert await storage.append_message(B, b"y") == 1
        await wait_all_tasks_blocked()
        await storage.append_message(A, b"after")
        assert [p for p in await payloads(storage, A) if p != b"unknown"] == [b"before", b"after"]
        assert storage.statistics().opens == 3


async def test_a_broken_topic_stays_broken_for_who_uses_it() -> None:
    disk = SimDisk()
    async with open_storage(CONFIG, disk=disk) as storage:
        async with storage.topic(A) as wal:
            await wal.append(b"0")
            disk.fail("write", path_contains="default/a")
            for _ in range(2):
                with pytest.raises(LogBrokenError):
                    await storage.append_message(A, b"x")
            assert [m.payload async for m in wal.reader(end="current")] == [b"0"]
        await wait_all_tasks_blocked()
        assert await storage.append_message(A, b"1") >= 1


async def test_what_no_caller_was_told_is_raised_by_the_next_use(
    autojump_clock: MockClock,
) -> None:
    disk = SimDisk()
    async with open_storage(limited(2, idle_seconds=1), disk=disk) as storage:
        await storage.append_message(A, b"x")
        fault = disk.fail("write", path_contains="default/a", sticky=True)
        await storage.append_message(A, b"lost", durability="accepted")
        await trio.sleep(10)
        fault.cancel()
        assert storage.statistics().open_topics == 0
        with pytest.raises(LogBrokenError, match="no caller was told") as caught:
            await storage.append_message(A, b"y")
        assert caught.value.lost == 1
        assert await storage.append_message(A, b"y") == 1


async def test_what_no_caller_was_told_is_raised_on_leaving() -> None:
    disk = SimDisk()
    with pytest.raises(LogBrokenError, match="no caller was told"):
        async with open_storage(CONFIG, disk=disk) as storage:
            await storage.append_message(A, b"x")
            disk.fail("write", path_contains="default/a")
            await storage.append_message(A, b"lost", durability="accepted")
    with pytest.raises(ExceptionGroup) as caught:
        async with open_storage(CONFIG, disk=disk) as storage:
            for topic, part in ((A, "default/a"), (B, "default/b")):
                await storage.append_message(topic, b"x")
                disk.fail("write", path_contains=part)
                await storage.append_message(topic, b"lost", durability="accepted")
    assert [type(error) for error in caught.value.exceptions] == [LogBrokenError, LogBrokenError]
    with pytest.raises(KeyError, match="mine") as mine:
        async with open_storage(CONFIG, disk=disk) as storage:
            await storage.append_message(A, b"x")
            disk.fail("write", path_contains="default/a")
            await storage.append_message(A, b"lost", durability="accepted")
            raise KeyError("mine")
    assert "no caller was told" in mine.value.__notes__[0]


# ---- leaving


async def test_leaving_drains_every_topic() -> None:
    disk = SimDisk(latency=0.001)
    async with open_storage(CONFIG, disk=disk) as storage:
        for i in range(40):
            await storage.append_message(f"/default/t{i}", b"x", durability="accepted")
    async with open_storage(CONFIG, disk=disk.crash()) as storage:
        for i in range(40):
            assert await payloads(storage, f"/default/t{i}") == [b"x"]


async def test_leaving_by_cancellation_drains_too() -> None:
    disk = SimDisk(latency=0.001)
    with trio.CancelScope() as scope:
        async with open_storage(CONFIG, disk=disk) as storage:
            for i in range(5):
                await storage.append_message(f"/default/t{i}", b"x", durability="accepted")
            scope.cancel()
            try:
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):  # the topics outlive the body
                    await storage.append_message(A, b"last words")
    assert scope.cancelled_caught
    async with open_storage(CONFIG, disk=disk.crash()) as storage:
        assert await payloads(storage, A) == [b"last words"]
        assert await payloads(storage, "/default/t4") == [b"x"]


async def test_what_the_body_raises_comes_out_as_it_is() -> None:
    with pytest.raises(ZeroDivisionError):
        async with open_storage(CONFIG, disk=SimDisk()) as storage:
            await storage.append_message(A, b"x")
            raise ZeroDivisionError


async def test_a_topic_that_is_opening_does_not_keep_the_storage_from_closing(
    autojump_clock: MockClock,
) -> None:
    disk = SimDisk(latency=0.1)
    async with trio.open_nursery() as nursery:
        async with open_storage(limited(1), disk=disk) as storage:

            async def use(topic: str) -> None:
                with pytest.raises(LogClosedError, match="storage is closed"):
                    await storage.append_message(topic, b"x")

            nursery.start_soon(use, A)
            nursery.start_soon(use, B)
            await trio.sleep(0.15)
    assert not disk.open_paths
    with pytest.raises(LogClosedError, match="storage is closed"):
        await storage.current_offset(A)


async def test_two_storages_of_one_directory_exclude_each_other() -> None:
    disk = SimDisk()
    async with open_storage(CONFIG, disk=disk):
        with pytest.raises(LogLockedError):
            async with open_storage(CONFIG, disk=disk.process()):
                pass
    async with open_storage(CONFIG, disk=disk):
        pass


async def test_a_storage_is_entered_once() -> None:
    opened = open_storage(CONFIG, disk=SimDisk())
    async with opened:
        pass
    with pytest.raises(RuntimeError, match="once"):
        async with opened:
            pass


async def test_topics_share_a_few_threads(tmp_path: Path) -> None:
    config = StorageConfig(dir=tmp_path, io_threads=3)
    async with open_storage(config, metadata=MemoryMetadata()) as storage:
        before = {thread.ident for thread in threading.enumerate()}
        async with trio.open_nursery() as nursery:
            for i in range(20):
                nursery.start_soon(storage.append_message, f"/default/t{i}", b"x")
        lanes = [t for t in threading.enumerate() if t.ident not in before and "trio" in t.name]
        ours = [t for t in lanes if not t.name.startswith("trio.to_thread")]
        assert storage.statistics().open_topics == 20
        assert len([t for t in ours if "Trio thread" not in t.name]) <= 3


@pytest.mark.skipif(sys.platform != "linux", reason="/proc says what is open")
async def test_an_open_topic_holds_as_many_files_as_it_is_counted_for(tmp_path: Path) -> None:
    async with open_storage(StorageConfig(dir=str(tmp_path))) as storage:
        async with storage.topic(A):
            names = [os.readlink(fd) for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink()]
            held = [name for name in names if name.startswith(str(tmp_path / topic_path(A)))]
            assert len(held) == FILES_OF_A_TOPIC, held


async def test_cursors_have_a_metadata_store() -> None:
    disk = SimDisk()
    async with open_storage(CONFIG, disk=disk) as storage:
        await storage.metadata.put("/topics/default/a/subscriptions/s/cursor", b"7")
    async with open_storage(CONFIG, disk=disk.crash()) as storage:
        entry = await storage.metadata.get("/topics/default/a/subscriptions/s/cursor")
        assert entry is not None and entry.value == b"7"
    given = MemoryMetadata()
    async with open_storage(CONFIG, disk=SimDisk(), metadata=given) as storage:
        assert storage.metadata is given


async def test_a_thousand_topics_with_few_open() -> None:
    disk = SimDisk()
    topics = [f"/load/topic-{i}" for i in range(1000)]
    async with open_storage(limited(64), disk=disk) as storage:

        async def each(use: Callable[[str], Any]) -> None:
            left = iter(topics)

            async def work() -> None:
                for topic in left:
                    await use(topic)

            async with trio.open_nursery() as nursery:
                for _ in range(40):
                    nursery.start_soon(work)

        async def append(topic: str) -> None:
            assert await storage.append_message(topic, topic.encode()) == 0

        async def replay(topic: str) -> None:
            assert await payloads(storage, topic) == [topic.encode()]

        await each(append)
        await each(replay)
        assert storage.statistics().open_topics <= 64
        assert len(await storage.list_topics()) == 1000


@pytest.mark.happens
async def test_what_waits_for_max_open_topics_says_so_once(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_storage(limited(1), disk=SimDisk()) as storage, storage.topic(A):
        for turn in (1, 2):
            with trio.move_on_after(0.5):
                await storage.current_offset(C)  # a moment is nothing to speak of
            with trio.move_on_after(30):
                await storage.current_offset(B)
            said = f"{B} (and 0 more) cannot be opened yet: max_open_topics=1 topics are in use"
            assert caplog.text.count("cannot be opened yet") == caplog.text.count(said) == turn
