"""The open log: appending, levels, receipts, bounds, and leaving."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from danube_trio import (
    LogClosedError,
    LogLockedError,
    MessageID,
    MessageTooLargeError,
    Receipt,
    StartPosition,
    StreamMessage,
    UnexpectedOffsetError,
    UnsupportedFormatError,
    Wal,
    WalConfig,
    open_wal,
)
from danube_trio._core.codec import CODECS
from danube_trio.testing import SimDisk


async def everything(wal: Wal) -> list[StreamMessage]:
    return [message async for message in wal.reader(end="current")]


async def payloads(wal: Wal) -> list[bytes]:
    return [message.payload for message in await everything(wal)]


async def test_offsets_count_from_zero_and_survive_reopening(tmp_path: Path) -> None:
    config = WalConfig(dir=str(tmp_path))
    async with open_wal(config) as wal:
        assert [await wal.append(b"a"), await wal.append(b"b")] == [0, 1]
        assert await wal.append_batch([b"c", b"d"]) == range(2, 4)
    async with open_wal(config) as wal:
        assert wal.next_offset == wal.durable_end == 4
        assert await wal.append(b"e") == 4
        assert await payloads(wal) == [b"a", b"b", b"c", b"d", b"e"]
        assert [m.offset for m in await everything(wal)] == [0, 1, 2, 3, 4]


async def test_a_plain_payload_takes_fields_of_its_own() -> None:
    async with open_wal(WalConfig(topic_name="/default/t", producer_name="p")) as wal:
        await wal.append(
            b"x", attributes={"k": "v"}, routing_key="eu", schema_id=1, schema_version=2
        )
        await wal.append(bytearray(b"y"))
        await wal.append(memoryview(b"z"))
        first, second, third = await everything(wal)
    assert (first.attributes, first.routing_key) == ({"k": "v"}, "eu")
    assert (first.schema_id, first.schema_version) == (1, 2)
    assert (first.msg_id.topic_name, first.producer_name) == ("/default/t", "p")
    assert first.publish_time > 1_600_000_000_000
    assert (second.payload, second.attributes, third.payload) == (b"y", {}, b"z")


@pytest.mark.parametrize("codec", sorted(CODECS))
async def test_a_whole_message_comes_back_with_its_offset_stamped(
    codec: str, tmp_path: Path
) -> None:
    message = StreamMessage(
        payload=b"hello",
        request_id=7,
        msg_id=MessageID(300, "/default/orders", "b:1", 99, 0),
        publish_time=1758383000123,
        producer_name="p1",
        subscription_name="s",
        attributes={"k": "v"},
    )
    async with open_wal(WalConfig(dir=str(tmp_path), codec=codec)) as wal:
        await wal.append(b"first")
        await wal.append(message)
    async with open_wal(WalConfig(dir=str(tmp_path))) as wal:  # the directory's codec counts
        stored = (await everything(wal))[1]
        assert await wal.append(b"third") == 2
    assert stored == attrs.evolve(message, msg_id=attrs.evolve(message.msg_id, topic_offset=1))


async def test_an_empty_batch_gets_an_empty_range() -> None:
    async with open_wal(WalConfig()) as wal:
        assert await wal.append_batch([]) == range(0)
        with pytest.raises(ValueError, match="messages is empty"):
            wal.append_batch_nowait([])


@pytest.mark.parametrize("level", ["accepted", "written", "fsync"])
async def test_each_level_returns_the_offset(level: Any, tmp_path: Path) -> None:
    async with open_wal(WalConfig(dir=str(tmp_path), fsync_interval_ms=3_600_000)) as wal:
        assert await wal.append(b"x", durability=level) == 0
        marks = wal.statistics()
        assert marks.written_end >= (level != "accepted")
        assert marks.durable_end == (level == "fsync")
        await wal.flush()
        assert wal.durable_end == 1


async def test_levels_that_cannot_be_had_are_refused() -> None:
    with pytest.raises(ValueError, match="needs an object store"):
        open_wal(WalConfig(durability="uploaded"))
    async with open_wal(WalConfig()) as wal:
        with pytest.raises(ValueError, match="needs an object store"):
            await wal.append(b"x", durability="uploaded")
        with pytest.raises(ValueError, match="durability='safe' must be one of"):
            await wal.append(b"x", durability="safe")  # type: ignore[arg-type]
        assert wal.next_offset == 0


async def test_a_timer_syncs_what_nobody_waits_for(autojump_clock: trio.testing.MockClock) -> None:
    async with open_wal(WalConfig(dir="/log", fsync_interval_ms=250), disk=SimDisk()) as wal:
        await wal.append(b"x", durability="accepted")
        await wait_all_tasks_blocked()
        assert wal.durable_end == 0
        started = trio.current_time()
        await trio.sleep(0.3)
        assert wal.durable_end == 1
        assert trio.current_time() - started == pytest.approx(0.3)


async def test_max_batch_bytes_syncs_without_a_timer() -> None:
    config = WalConfig(dir="/log", fsync_interval_ms=3_600_000, max_batch_bytes=1000)
    async with open_wal(config, disk=SimDisk()) as wal:
        for _ in range(3):
            await wal.append(bytes(400), durability="written")
        assert wal.durable_end >= 2
        assert wal.statistics().syncs >= 1


async def test_receipts_tell_what_became_of_a_record(tmp_path: Path) -> None:
    async with open_wal(WalConfig(dir=str(tmp_path), fsync_interval_ms=3_600_000)) as wal:
        receipt = wal.append_nowait(b"x")
        batch = wal.append_batch_nowait([b"y", b"z"])
        assert (receipt.offset, batch.offsets) == (0, range(1, 3))
        assert wal.durable_end == 0
        assert await receipt.accepted() == range(1)
        assert await receipt.written() == range(1)
        assert await batch.durable() == range(1, 3)
        assert await receipt.durable() == range(1)
        assert wal.durable_end == 3


async def test_cancelling_a_receipt_does_nothing_to_the_record(tmp_path: Path) -> None:
    async with open_wal(WalConfig(dir=str(tmp_path))) as wal:
        receipt = wal.append_nowait(b"x")
        with trio.CancelScope() as scope:
            scope.cancel()
            await receipt.durable()
        assert scope.cancelled_caught
        assert await receipt.durable() == range(1)
        assert await payloads(wal) == [b"x"]


async def test_expected_offset_accepts_only_the_next_one() -> None:
    async with open_wal(WalConfig()) as wal:
        assert await wal.append(b"x", expected_offset=0) == 0
        with pytest.raises(UnexpectedOffsetError) as caught:
            await wal.append(b"x", expected_offset=0)
        assert (caught.value.expected, caught.value.next_offset) == (0, 1)
        with pytest.raises(UnexpectedOffsetError):
            wal.append_nowait(b"x", expected_offset=5)
        assert await wal.append_batch([b"y"], expected_offset=1) == range(1, 2)
        assert wal.next_offset == 2


# Any: type checkers would refuse these too.
BAD_APPENDS: dict[str, tuple[Callable[[Any], Any], type[Exception], str]] = {
    "text": (lambda w: w.append("text"), TypeError, "must be bytes or a StreamMessage"),
    "number": (lambda w: w.append(7), TypeError, "not int"),
    "attribute": (lambda w: w.append(b"", attributes={"k": 1}), TypeError, "attributes"),
    "key": (lambda w: w.append(b"", routing_key=7), TypeError, "routing_key"),
    "fields twice": (
        lambda w: w.append(StreamMessage(), routing_key="x"),
        TypeError,
        "set them in the StreamMessage",
    ),
    "range": (lambda w: w.append(StreamMessage(request_id=-1)), ValueError, "request_id"),
    "in a batch": (lambda w: w.append_batch([b"ok", "bad"]), TypeError, "must be bytes"),
    "payload": (lambda w: w.append(bytes(2001)), MessageTooLargeError, "max_message_bytes=2000"),
    "attributes": (
        lambda w: w.append(b"", attributes={"k": "v" * 3000}),
        MessageTooLargeError,
        "max_message_bytes=2000",
    ),
    "payload in a batch": (
        lambda w: w.append_batch([b"", bytes(2001)]),
        MessageTooLargeError,
        "max_message_bytes=2000",
    ),
    "batch": (
        lambda w: w.append_batch([bytes(1000)] * 10),
        MessageTooLargeError,
        "max_atomic_batch_bytes=9000",
    ),
}


@pytest.mark.parametrize("case", BAD_APPENDS)
async def test_what_cannot_be_appended_is_refused_and_nothing_is_accepted(case: str) -> None:
    call, error, text = BAD_APPENDS[case]
    config = WalConfig(max_message_bytes=2000, max_atomic_batch_bytes=9000)
    async with open_wal(config) as wal:
        with pytest.raises(error, match=text):
            await call(wal)
        assert wal.next_offset == 0
        assert await wal.append(b"fine") == 0


@pytest.mark.happens
async def test_appends_wait_for_room_in_the_order_of_their_calls(
    autojump_clock: trio.testing.MockClock,
) -> None:
    config = WalConfig(dir="/log", max_pending_bytes=1500)
    order: list[tuple[int, int]] = []
    async with (
        open_wal(config, disk=SimDisk(latency=1.0)) as wal,
        trio.open_nursery() as nursery,
    ):

        async def produce(number: int, size: int) -> None:
            order.append((await wal.append(bytes(size)), number))

        for number, size in enumerate([1000, 1000, 10, 10, 1000]):
            nursery.start_soon(produce, number, size)
            await wait_all_tasks_blocked()
        statistics = wal.statistics()
        assert (statistics.next_offset, statistics.waiting_appends) == (1, 4)
        with pytest.raises(trio.WouldBlock):
            wal.append_nowait(b"may not overtake")
    assert sorted(order) == [(i, i) for i in range(5)]


async def test_pending_bytes_stay_below_the_limit_with_many_producers(tmp_path: Path) -> None:
    config = WalConfig(dir=str(tmp_path), max_pending_bytes=20_000)
    async with open_wal(config) as wal:
        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(wal.append, bytes(1000))
        assert wal.statistics().pending_peak_bytes <= 20_000
        assert wal.statistics().pending_bytes == 0
        assert wal.next_offset == 100


async def test_a_batch_larger_than_the_limit_goes_when_nothing_else_is_pending() -> None:
    config = WalConfig(dir="/log", max_pending_bytes=100)
    async with open_wal(config, disk=SimDisk()) as wal:
        assert await wal.append_batch([bytes(1000)] * 3) == range(3)
        assert await wal.append(bytes(1000)) == 3


async def test_single_and_batch_appends_from_many_tasks_stay_dense(tmp_path: Path) -> None:
    seen: dict[int, bytes] = {}
    async with open_wal(WalConfig(dir=str(tmp_path), segment_bytes=5000)) as wal:

        async def produce(name: int) -> None:
            for i in range(20):
                if i % 3:
                    text = b"%d/%d" % (name, i)
                    seen[await wal.append(text)] = text
                else:
                    texts = [b"%d/%d/%d" % (name, i, k) for k in range(5)]
                    seen.update(zip(await wal.append_batch(texts), texts, strict=True))

        async with trio.open_nursery() as nursery:
            for name in range(10):
                nursery.start_soon(produce, name)
        assert await payloads(wal) == [seen[i] for i in range(len(seen))]


@pytest.mark.happens
async def test_leaving_drains_what_was_accepted(tmp_path: Path) -> None:
    config = WalConfig(dir=str(tmp_path), fsync_interval_ms=3_600_000)
    async with open_wal(config) as wal:
        receipts = [wal.append_nowait(b"%d" % i) for i in range(50)]
    assert await receipts[-1].durable() == range(49, 50)
    assert wal.statistics().phase == "closed"
    async with open_wal(config) as wal:
        assert await payloads(wal) == [b"%d" % i for i in range(50)]


async def test_cancelling_the_body_drains_too(tmp_path: Path) -> None:
    config = WalConfig(dir=str(tmp_path))
    receipts: list[Receipt] = []
    with trio.CancelScope() as scope:
        async with open_wal(config) as wal:
            receipts.append(wal.append_nowait(b"x"))
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert await receipts[0].durable() == range(1)
    async with open_wal(config) as wal:
        assert await payloads(wal) == [b"x"]


async def test_an_exception_of_the_body_comes_out_as_it_is(tmp_path: Path) -> None:
    for config in (WalConfig(), WalConfig(dir=str(tmp_path))):
        with pytest.raises(ZeroDivisionError) as caught:
            async with open_wal(config) as wal:
                await wal.append(b"x")
                raise ZeroDivisionError
        assert not isinstance(caught.value, BaseExceptionGroup)
        with pytest.raises(ExceptionGroup) as group:
            async with open_wal(config):
                raise ExceptionGroup("mine", [ValueError("a"), ValueError("b")])
        assert group.value.message == "mine"


async def test_a_closed_log_refuses(tmp_path: Path) -> None:
    for config in (WalConfig(), WalConfig(dir=str(tmp_path))):
        async with open_wal(config) as wal:
            reader = wal.reader()
        for call in (wal.append(b""), wal.append_batch([b""]), wal.trim(1), wal.wait_durable(1)):
            with pytest.raises(LogClosedError, match="open it again"):
                await call
        with pytest.raises(LogClosedError):
            wal.append_nowait(b"")
        with pytest.raises(LogClosedError):
            await reader.__anext__()


async def test_a_live_reader_ends_with_the_log(tmp_path: Path) -> None:
    async def tail(wal: Wal) -> None:
        with pytest.raises(LogClosedError):
            await wal.reader().next_batch()

    async with trio.open_nursery() as nursery:
        async with open_wal(WalConfig(dir=str(tmp_path))) as wal:
            nursery.start_soon(tail, wal)
            await wait_all_tasks_blocked()


@pytest.mark.happens
async def test_an_append_during_the_drain_is_refused(tmp_path: Path) -> None:
    async def late(wal: Wal, entered: trio.Event) -> None:
        await entered.wait()
        with pytest.raises(LogClosedError):
            await wal.append(b"late")

    entered = trio.Event()
    async with trio.open_nursery() as nursery:
        async with open_wal(WalConfig(dir=str(tmp_path))) as wal:
            nursery.start_soon(late, wal, entered)
            wal.append_nowait(b"x")
            entered.set()
    assert wal.next_offset == 1


async def test_the_block_can_be_entered_once() -> None:
    block = open_wal(WalConfig())
    async with block:
        pass
    with pytest.raises(RuntimeError, match="entered once"):
        await block.__aenter__()


async def test_a_log_that_was_never_left_warns(tmp_path: Path) -> None:
    block = open_wal(WalConfig())
    await block.__aenter__()
    with pytest.warns(ResourceWarning, match="never closed"):
        del block


async def test_the_directory_is_locked(tmp_path: Path) -> None:
    config = WalConfig(dir=str(tmp_path))
    async with open_wal(config) as wal:
        with pytest.raises(LogLockedError, match="locked by process") as caught:
            async with open_wal(config):
                pass
        assert caught.value.path.endswith("wal.lock")
        await wal.append(b"still fine")
    async with open_wal(config):
        pass


async def test_a_memory_log_keeps_what_the_cache_holds() -> None:
    async with open_wal(WalConfig(cache_capacity=10)) as wal:
        await wal.append_batch([b"%d" % i for i in range(5)])
        for i in range(5, 20):
            await wal.append(b"%d" % i)
        assert (wal.start_offset, wal.durable_end) == (10, 20)
        assert await payloads(wal) == [b"%d" % i for i in range(10, 20)]
        assert await wal.trim(15) == 15
        assert [m.offset for m in await everything(wal)] == list(range(15, 20))
        with pytest.raises(ValueError, match="before=-1"):
            await wal.trim(-1)


def _file(path: Path) -> None:
    path.write_bytes(b"")


def _danube_log(path: Path) -> None:
    path.mkdir()
    _file(path / "wal.1.log")


def _other_log(path: Path) -> None:
    path.mkdir()
    _file(path / "orders.meta")


def _linked_lock(path: Path) -> None:
    path.mkdir()
    (path / "wal.lock").symlink_to("/dev/null")


BAD_DIRECTORIES: dict[str, tuple[Callable[[Path], None], type[Exception], str]] = {
    "a file": (_file, NotADirectoryError, "log"),
    "Danube's own": (_danube_log, UnsupportedFormatError, "written by Danube itself"),
    "another log": (_other_log, ValueError, "already holds the log of 'orders.meta'"),
    "a link as lock": (_linked_lock, OSError, "wal.lock"),
}


@pytest.mark.parametrize("case", BAD_DIRECTORIES)
async def test_a_directory_that_cannot_serve_is_refused_untouched(
    case: str, tmp_path: Path
) -> None:
    make, error, text = BAD_DIRECTORIES[case]
    path = tmp_path / "log"
    make(path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(error, match=text):
        async with open_wal(WalConfig(dir=str(path))):
            pass
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.happens
async def test_foreign_files_are_left_alone(tmp_path: Path) -> None:
    for name in ("notes.txt", "wal.00.idx.bak", "other.tmp", "wal.idx"):
        (tmp_path / name).write_text("mine")
    (tmp_path / "wal.meta.tmp").write_text("half")
    async with open_wal(WalConfig(dir=str(tmp_path))) as wal:
        await wal.append(b"x")
    for name in ("notes.txt", "wal.00.idx.bak", "other.tmp", "wal.idx"):
        assert (tmp_path / name).read_text() == "mine"
    assert not (tmp_path / "wal.meta.tmp").exists()


BAD_SETTINGS: list[tuple[dict[str, Any], str]] = [
    ({"codec": "s9"}, "codec='s9' must be one of"),
    ({"durability": "never"}, "durability='never'"),
    ({"on_corruption": "ignore"}, "on_corruption='ignore'"),
    ({"visibility": "soon"}, "visibility='soon'"),
    ({"fsync_interval_ms": 0}, "fsync_interval_ms=0 must be between"),
    ({"max_batch_bytes": -1}, "max_batch_bytes=-1"),
    ({"segment_bytes": "big"}, "segment_bytes='big' must be a number"),
    ({"cache_capacity": True}, "cache_capacity=True must be a number"),
    ({"retain_age": -1}, "retain_age=-1"),
    ({"file_name": "wal"}, "file_name='wal' must look like"),
    ({"file_name": "a/b.log"}, "must not contain a separator"),
    ({"file_name": "wal.meta"}, "reserved suffix"),
    ({"file_name": 7}, "file_name=7 must be a string"),
    ({"dir": ""}, "dir=''"),
    ({"topic_name": b"x"}, "topic_name"),
]


@pytest.mark.parametrize(("settings", "text"), BAD_SETTINGS)
def test_a_setting_out_of_range_names_field_and_value(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        WalConfig(**settings)


async def test_statistics_count(tmp_path: Path) -> None:
    async with open_wal(WalConfig(dir=str(tmp_path), segment_bytes=3000)) as wal:
        for _ in range(10):
            await wal.append(bytes(1000))
        reader = wal.reader(StartPosition.offset(4))
        await reader.__anext__()
        statistics = wal.statistics()
        assert (statistics.appended_records, statistics.next_offset) == (10, 10)
        assert (statistics.segments, statistics.rolls, statistics.sealed_end) == (5, 4, 8)
        assert statistics.size_bytes == statistics.appended_bytes > 10_000
        assert statistics.sync_seconds.total == statistics.syncs >= 10
        assert 0 < statistics.sync_seconds.quantile(0.5) < 60
        assert [(r.cursor, r.lag) for r in statistics.readers] == [(5, 5)]
        assert statistics.cached_records == 10
    assert "closed" in repr(wal)
