"""What user code hands in: exceptions, buffers, wrong types, calls from elsewhere."""

from __future__ import annotations

import asyncio
import logging
import sys
import types
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from doors import DOORS, Door
from topics import TOPIC, Metadata, open_backing, store
from trio.testing import MockClock

import danube_trio.anyio as aio
import danube_trio.blocking
from danube_trio import (
    MessageID,
    StartPosition,
    StorageConfig,
    StreamMessage,
    WalConfig,
    open_storage,
    open_wal,
)
from danube_trio.anyio.dispatch import ReliableDispatch as LoopDispatch
from danube_trio.dispatch import (
    Delivery,
    InMemoryStorage,
    PoisonPolicy,
    ReliableDispatch,
    ReliableOptions,
    SubscriptionOptions,
    TopicCache,
)
from danube_trio.errors import DanubeError, describe, text_of
from danube_trio.metadata import open_metadata_directory

HERE = [name for name in DOORS if not DOORS[name].elsewhere]
through_every_door = pytest.mark.parametrize("name", HERE)
ONCE_MORE: dict[str, Any] = {
    "backoff_initial": 0.0,
    "backoff_max": 0.0,
    "max_redeliveries": 1,
    "poison_policy": PoisonPolicy.DROP,
}


class Wordless(Exception):
    """Its text cannot be had."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    def __repr__(self) -> str:
        raise SystemExit

    def add_note(self, note: str) -> None:
        """Has no room for notes."""
        raise RuntimeError(note)


class Odd(Exception):
    """What it says is no text at all."""

    def __str__(self) -> str:
        return 5  # type: ignore[return-value]


class Exits(Exception):
    """Asking what it says would end the program."""

    def __str__(self) -> str:
        raise SystemExit


class Named(type):
    @property
    def __name__(cls) -> str:  # type: ignore[override]
        raise RuntimeError("no name")


class Nameless(Wordless, metaclass=Named):
    """Not even its class says what it is."""


def nested(depth: int) -> Any:
    error: Any = Wordless()
    for _ in range(depth):
        error = ExceptionGroup("one", [error])
    return error


BAD: list[Exception] = [Wordless(), Odd(), Exits(), Nameless(), nested(5000), Exception()]


# ---- exceptions


@pytest.mark.parametrize("error", BAD[:-1], ids=range(len(BAD) - 1))
def test_describing_an_exception_never_raises(error: Exception) -> None:
    assert describe(error)
    assert len(text_of(error)) < 100


def test_a_description_is_short_and_plain() -> None:
    class Text(str):
        """Text of a class of its own."""

        def __len__(self) -> int:
            raise RuntimeError

    assert describe(ValueError()) == "ValueError"
    assert describe(ValueError(Text("bad"))) == "ValueError: bad"
    long = text_of(ValueError(Text("x" * 1_000_000)))
    assert (len(long), long[-2:], type(long)) == (1000, "x…", str)


@pytest.mark.happens
@through_every_door
@pytest.mark.parametrize("number", range(len(BAD)))
def test_an_exception_without_text_fails_its_message_and_nothing_else(
    name: str, number: int
) -> None:
    async def scenario(door: Door) -> None:
        async with door.dispatch(TOPIC) as dispatch:
            await dispatch.store_batch([b"0", b"1", b"2"])
            billing = await dispatch.add_subscription("billing", SubscriptionOptions(**ONCE_MORE))
            with pytest.raises(type(BAD[number])):
                async with billing.take() as message:
                    assert message.offset == 0
                    raise BAD[number]
            seen: list[tuple[int, int]] = []

            async def handle(message: Any) -> None:
                seen.append((message.offset, message.attempt))
                if message.offset != 1:
                    raise BAD[number]

            async with door.running(billing, handle):
                await billing.wait_settled()
            assert sorted(seen) == [(0, 2), (1, 1), (2, 1), (2, 2)]
            statistics = await billing.statistics()
            assert (statistics.failed, statistics.dropped, statistics.acked) == (4, 2, 1)

    DOORS[name].run(scenario)


@through_every_door
def test_what_stops_a_run_comes_out_also_without_text(name: str) -> None:
    async def scenario(door: Door) -> None:
        async with door.dispatch(TOPIC) as dispatch:
            await dispatch.store_batch([b"0", b"1"])
            billing = await dispatch.add_subscription("billing", SubscriptionOptions(**ONCE_MORE))

            async def handle(message: Any) -> None:
                raise BAD[0]

            with pytest.raises(Wordless):
                await door.handle(billing, handle, concurrency=2, stop_on=(Wordless,))
            assert (await billing.statistics()).in_flight == 0

    DOORS[name].run(scenario)


@pytest.mark.happens
async def test_a_handler_that_fails_a_thousand_times_logs_one_traceback_and_then_counts(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    async with open_backing("wal") as backing, backing.dispatch(Metadata()) as dispatch:
        await store(dispatch, 1_500)
        billing = await dispatch.add_subscription("billing", SubscriptionOptions(**ONCE_MORE))

        async def handle(message: Delivery) -> None:
            if message.offset == 700:
                raise LookupError("another cause")
            raise ValueError(f"cannot parse number {message.offset}")

        with caplog.at_level(logging.WARNING, "danube_trio.dispatch"):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(billing.run, handle)
                await billing.wait_settled()
                nursery.cancel_scope.cancel()
    assert [record.getMessage() for record in caplog.records if record.exc_info] == [
        "offset 0 failed at attempt 1: ValueError: cannot parse number 0",
        "offset 700 failed at attempt 1: LookupError: another cause",
    ]
    told = [record.getMessage() for record in caplog.records if not record.exc_info]
    assert [text.split(" more like it, the last of them: ")[0] for text in told] == [
        *("and 9", "and 90", "and 900", "and 1,000", "and 1", "and 998"),
    ]
    assert told[-2].endswith("offset 700 failed at attempt 2: LookupError: another cause")


@through_every_door
def test_a_reason_is_text(name: str) -> None:
    async def scenario(door: Door) -> None:
        async with door.dispatch(TOPIC) as dispatch:
            await dispatch.store_message(b"0")
            billing = await dispatch.add_subscription("billing", SubscriptionOptions(**ONCE_MORE))
            async with billing.take() as message:
                with pytest.raises(TypeError, match="reason must be a str, not int"):
                    message.nack(reason=5)
                with pytest.raises(TypeError, match="reason must be a str, not bytes"):
                    message.reject(b"bad")
                assert message.is_current

    DOORS[name].run(scenario)


@through_every_door
@pytest.mark.parametrize("stop_on", [[ValueError], ValueError, (ValueError, "x"), ValueError()])
def test_a_run_is_told_at_once_that_its_stop_on_is_none(name: str, stop_on: object) -> None:
    async def scenario(door: Door) -> None:
        async with door.dispatch(TOPIC) as dispatch:
            billing = await dispatch.add_subscription("billing")

            async def handle(message: Any) -> None:
                raise AssertionError

            with pytest.raises(TypeError, match="must be a tuple of exception classes"):
                await door.handle(billing, handle, stop_on=stop_on)

    DOORS[name].run(scenario)


# ---- messages


def every_second(data: bytearray) -> memoryview:
    return memoryview(data)[::2]


def view_in_a_message(data: Any) -> StreamMessage:
    view: Any = memoryview(data)
    return StreamMessage(view)


def itself(data: bytearray) -> bytearray:
    return data


BUFFERS: list[Any] = [itself, memoryview, every_second, StreamMessage, view_in_a_message]


@through_every_door
@pytest.mark.parametrize("kind", ["memory", "log"])
@pytest.mark.parametrize("wrap", range(len(BUFFERS)))
def test_what_is_stored_is_what_was_handed_in(name: str, kind: str, wrap: int) -> None:
    async def scenario(door: Door) -> None:
        data, attributes = bytearray(b"order 17"), {"a": "b"}
        message = BUFFERS[wrap](data)
        if isinstance(message, StreamMessage):
            message.attributes = attributes
        async with (
            door.open_wal(WalConfig()) as wal,
            door.dispatch(
                TOPIC, None if kind == "memory" else door.wal_storage(wal, TOPIC)
            ) as dispatch,
        ):
            expected = bytes(BUFFERS[2](data)) if wrap == 2 else bytes(data)
            await dispatch.store_message(message)
            await dispatch.store_batch([message, b"another"])
            data[:] = b"GARBAGE!"
            attributes["a"] = "GARBAGE"
            billing = await dispatch.add_subscription("billing")
            for _ in range(2):
                async with billing.take() as got:
                    assert (got.payload, type(got.payload)) == (expected, bytes)
                    assert got.attributes in ({"a": "b"}, {})

    DOORS[name].run(scenario)


class Shouts(bytes):
    """Bytes, too."""


REFUSED: list[tuple[Any, dict[str, Any]]] = [
    ("text", {}),
    (5, {}),
    (None, {}),
    ([b"x"], {}),
    (StreamMessage("text"), {}),  # type: ignore[arg-type]
    (StreamMessage(b"x", attributes={"a": 5}), {}),  # type: ignore[dict-item]
    (StreamMessage(b"x", attributes={5: "a"}), {}),  # type: ignore[dict-item]
    (StreamMessage(b"x", attributes=[("a", "b")]), {}),  # type: ignore[arg-type]
    (StreamMessage(b"x", routing_key=["a"]), {}),  # type: ignore[arg-type]
    (StreamMessage(b"x", routing_key="\udc80"), {}),
    (StreamMessage(b"x", producer_name=5), {}),  # type: ignore[arg-type]
    (StreamMessage(b"x", publish_time=-1), {}),
    (StreamMessage(b"x", publish_time=1.5), {}),  # type: ignore[arg-type]
    (StreamMessage(b"x", request_id=1 << 64), {}),
    (StreamMessage(b"x", schema_id=True), {}),
    (StreamMessage(b"x", msg_id=None), {}),  # type: ignore[arg-type]
    (b"x" * (10 << 20) + b"x", {}),
    (StreamMessage(b"", attributes={"a": "x" * (11 << 20)}), {}),
    (b"x", {"durability": "always"}),
    (b"x", {"durability": "uploaded"}),
    (b"x", {"expected_offset": 1}),
    (b"x", {"expected_offset": "0"}),
    (b"x", {"expected_offset": False}),
]


@through_every_door
@pytest.mark.parametrize("number", range(len(REFUSED)))
def test_memory_refuses_what_a_log_refuses_and_in_the_same_words(name: str, number: int) -> None:
    async def scenario(door: Door) -> None:
        message, more = REFUSED[number]
        said: list[tuple[type, str]] = []
        async with (
            door.open_wal(WalConfig()) as wal,
            door.dispatch(TOPIC, door.wal_storage(wal, TOPIC)) as log,
            door.dispatch(TOPIC) as memory,
        ):
            for dispatch in (log, memory):
                for batch in ([message], [b"y", message]):
                    with pytest.raises((TypeError, ValueError, DanubeError)) as caught:
                        await dispatch.store_batch(batch, **more)
                    said.append((caught.type, str(caught.value)))
                with pytest.raises(caught.type):
                    await dispatch.store_message(message, **more)
                assert await dispatch.topic_store.current_offset() == 0
                billing = await dispatch.add_subscription("billing")
                await dispatch.store_message(Shouts(b"z"))
                async with billing.take() as got:
                    assert got.payload == b"z"
        assert said[:2] == said[2:]

    DOORS[name].run(scenario)


@pytest.mark.parametrize(
    "wanted", [{"end": "x"}, {"end": -1}, {"count": 1.5}, {"count": True}, {"start": 5}]
)
async def test_a_reader_of_memory_refuses_what_a_reader_of_a_log_refuses(
    wanted: dict[str, Any],
) -> None:
    said: list[tuple[type, str]] = []
    for kind in ("wal", "segments"):
        async with open_backing(kind) as backing, backing.dispatch(Metadata()) as dispatch:
            with pytest.raises((TypeError, ValueError)) as caught:
                await dispatch.topic_store.create_reader(**wanted)
            said.append((caught.type, str(caught.value)))
    assert said[0] == said[1]


@pytest.mark.happens
@through_every_door
@pytest.mark.parametrize("number", range(len(REFUSED)))
def test_a_log_refuses_what_is_no_message_before_anything_changes(name: str, number: int) -> None:
    async def scenario(door: Door) -> None:
        message, more = REFUSED[number]
        if "expected_offset" in more or "durability" in more:
            return  # not every call has them
        async with door.open_wal(WalConfig()) as wal:
            said: list[type] = []
            for way in ("append", "append_nowait", "append_batch", "append_batch_nowait"):
                call = getattr(wal, way)
                batch = way.startswith("append_batch")
                with pytest.raises((TypeError, ValueError, DanubeError)) as caught:
                    result = call([b"x", message] if batch else message)
                    await result
                said.append(caught.type)
            assert len(set(said)) == 1
            assert wal.next_offset == 0

    DOORS[name].run(scenario)


@pytest.mark.happens
@through_every_door
@pytest.mark.parametrize("wrap", range(len(BUFFERS)))
def test_a_log_keeps_what_was_handed_in(name: str, wrap: int) -> None:
    async def scenario(door: Door) -> None:
        async with door.open_wal(WalConfig()) as wal:
            data, attributes = bytearray(b"order 17"), {"a": "b"}
            message = BUFFERS[wrap](data)
            if isinstance(message, StreamMessage):
                message.attributes = attributes
            await wal.append(message)
            await wal.append_batch([message, message])
            wal.append_nowait(message)
            wal.append_batch_nowait([message])
            expected = bytes(BUFFERS[2](data)) if wrap == 2 else bytes(data)
            data[:] = b"GARBAGE!"
            attributes["a"] = "GARBAGE"
            found = await door.read(wal, end="current")
            assert [each.payload for each in found] == [expected] * 5
            assert all(each.attributes in ({"a": "b"}, {}) for each in found)

    DOORS[name].run(scenario)


# ---- what waits is bounded


async def fill(dispatch: ReliableDispatch, reason: str, **options: Any) -> Any:
    """A subscription that rejects what it gets, until nothing new comes; its statistics."""
    settings: dict[str, Any] = {"max_unacked_messages": 1, "backoff_initial": 9, "backoff_max": 9}
    billing = await dispatch.add_subscription(
        "billing", SubscriptionOptions(**{**settings, **options})
    )
    with trio.move_on_after(1):
        while True:
            async with billing.take() as message:
                message.nack(reason=reason)
    return await billing.statistics()


@pytest.mark.happens
async def test_reasons_of_failures_are_short_and_counted(autojump_clock: MockClock) -> None:
    async with open_backing("segments") as backing, backing.dispatch(Metadata()) as dispatch:
        for _ in range(4):
            await store(dispatch, 1000)
        found = await fill(dispatch, "x" * 1_000_000, max_buffered_bytes=1_000_000)
        assert 1000 <= found.retrying < 2100


@pytest.mark.happens
async def test_larger_attributes_are_counted(autojump_clock: MockClock) -> None:
    async with open_backing("wal") as backing, backing.dispatch(Metadata()) as dispatch:
        for _ in range(300):
            await dispatch.store_message(StreamMessage(b"", attributes={"a": "x" * 10_000}))
        found = await fill(dispatch, "bad", max_buffered_bytes=100_000)
        assert found.retrying < 250
        billing = dispatch.subscriptions()["billing"]
        assert billing is not None
        for offset in range(300):
            async with billing.take() as message:
                assert message.offset >= 0 or offset
        assert billing._state.core._buffered_bytes == 0


# ---- calls from elsewhere


def in_another_run(call: Callable[[], Awaitable[object]]) -> BaseException | None:
    """What an async call raises in a trio run of another thread, which ends it if it hangs."""

    async def main() -> None:
        with trio.fail_after(5):
            await call()

    return raised_by(lambda: trio.run(main))


def raised_by(call: Callable[[], object]) -> BaseException | None:
    try:
        call()
    except BaseException as error:
        return error
    return None


@pytest.mark.happens
async def test_a_log_is_used_in_the_trio_run_that_opened_it_only() -> None:
    async with open_wal(WalConfig()) as wal:
        await wal.append(b"0")
        receipt = wal.append_nowait(b"1")
        reader = wal.reader()

        async def make_reader() -> None:
            wal.reader()

        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: wal.append(b"x"),
            lambda: wal.append(b"x", durability="accepted"),
            lambda: wal.append_batch([b"x"]),
            lambda: wal.wait_durable(3),
            wal.flush,
            lambda: wal.trim(1),
            lambda: wal.wait_uploaded(1),
            wal.seal,
            receipt.written,
            receipt.durable,
            make_reader,
            reader.next_batch,
        ]
        for call in calls:
            error = await trio.to_thread.run_sync(in_another_run, call)
            assert isinstance(error, RuntimeError)
            assert "belongs to the trio run" in str(error)
        assert (wal.start_offset, wal.next_offset) == (0, 2)
        again: Any = lambda: trio.from_thread.run(wal.append, b"2")  # noqa: E731
        assert await trio.to_thread.run_sync(again) == 2
        assert [message.payload for message in await reader.next_batch()] == [b"0", b"1", b"2"]


async def test_a_storage_is_used_in_the_trio_run_that_opened_it_only(tmp_path: Path) -> None:
    async with open_storage(StorageConfig(dir=str(tmp_path / "s"))) as storage:
        for topic in ("/default/new", "/default/open"):
            error = await trio.to_thread.run_sync(
                in_another_run, lambda name=topic: storage.append_message(name, b"x")
            )
            assert isinstance(error, RuntimeError)
            assert await storage.current_offset("/default/open") == 0
        assert await storage.append_message("/default/open", b"0") == 0


async def test_metadata_are_used_in_the_trio_run_that_opened_them_only(tmp_path: Path) -> None:
    async with open_metadata_directory(str(tmp_path)) as store:
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: store.put("/a", b"x"),
            lambda: store.delete("/a"),
            lambda: store.transact({"/a": 0}, put={"/a": b"x"}),
            store.watch("/").__aenter__,
        ]
        for call in calls:
            error = await trio.to_thread.run_sync(in_another_run, call)
            assert isinstance(error, RuntimeError)
        assert await store.list_entries("/") == []
        assert await store.put("/a", b"0") == 2


def in_another_loop(call: Callable[[], Awaitable[object]]) -> BaseException | None:
    """What an async call raises in an asyncio loop of another thread."""

    async def main() -> None:
        async with asyncio.timeout(5):
            await call()

    return raised_by(lambda: asyncio.run(main()))


@pytest.mark.happens
@pytest.mark.parametrize("elsewhere", [in_another_loop, in_another_run])
def test_from_another_loop_nothing_is_appended(tmp_path: Path, elsewhere: Any) -> None:
    async def main() -> None:
        async with (
            aio.open_wal(WalConfig(dir=str(tmp_path / "log"))) as wal,
            aio.open_storage(StorageConfig(dir=str(tmp_path / "s"))) as storage,
            LoopDispatch(TOPIC, ReliableOptions(), TopicCache(InMemoryStorage())) as dispatch,
        ):
            await dispatch.store_message(b"0")
            receipt = wal.append_nowait(b"0")
            reader = wal.reader()
            billing = await dispatch.add_subscription("billing")
            calls: list[Callable[[], Awaitable[object]]] = [
                lambda: wal.append(b"x"),
                lambda: wal.append_batch([b"x"]),
                lambda: wal.trim(1),
                wal.flush,
                receipt.uploaded,
                reader.next_batch,
                lambda: storage.append_message("/default/a", b"x"),
                lambda: storage.append_batch("/default/a", [b"x"]),
                lambda: dispatch.store_message(b"x"),
                lambda: dispatch.add_subscription("other"),
                lambda: billing.seek(StartPosition.latest()),
                lambda: billing.take().__aenter__(),
            ]
            for call in calls:
                error = await asyncio.to_thread(elsewhere, call)
                assert isinstance(error, RuntimeError)
                assert "belongs to the event loop" in str(error)
            assert wal.next_offset == 1
            assert await storage.current_offset("/default/a") == 0
            assert await dispatch.topic_store.current_offset() == 1
            assert list(dispatch.subscriptions()) == ["billing"]
            assert await wal.append(b"1") == 1
            async with billing.take() as message:
                assert (message.offset, message.attempt) == (0, 1)

    asyncio.run(main())


def test_leaving_in_another_loop_changes_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        block = aio.open_wal(WalConfig(dir=str(tmp_path / "log")))
        wal = await block.__aenter__()
        leave: Any = lambda: block.__aexit__(None, None, None)  # noqa: E731
        error = await asyncio.to_thread(in_another_loop, leave)
        assert "belongs to the event loop" in str(error)
        assert await wal.append(b"0") == 0
        await leave()

    asyncio.run(main())


def test_what_a_storage_stores_is_what_was_there_at_the_call(tmp_path: Path) -> None:
    """Also while the topic has to be opened, and on the way to another thread."""

    def changed(message: Any) -> Any:
        message.payload[:] = b"GARBAGE!"
        message.attributes["a"] = "GARBAGE"
        message.msg_id.topic_name = "GARBAGE"

    def made() -> StreamMessage:
        payload: Any = bytearray(b"order 17")
        return StreamMessage(payload, attributes={"a": "b"}, msg_id=MessageID(topic_name="t"))

    async def main(storage: Any, spawn: Any, read: Any) -> None:
        one, two = made(), made()
        await spawn(
            lambda: storage.append_message("/default/a", one),
            lambda: storage.append_batch("/default/b", [two]),
            lambda: [changed(each) for each in (one, two)],
        )
        for topic in ("/default/a", "/default/b"):
            (got,) = await read(storage, topic)
            assert (got.payload, got.attributes) == (b"order 17", {"a": "b"})
            assert got.msg_id.topic_name == "t"

    async def read(storage: Any, topic: str) -> list[StreamMessage]:
        reader = await storage.create_reader(topic, StartPosition.earliest(), end="current")
        return [message async for message in reader]

    async def on_trio() -> None:
        async def spawn(one: Any, two: Any, change: Any) -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(one)
                nursery.start_soon(two)
                nursery.start_soon(after_them)
                changes.append(change)

        async def after_them() -> None:
            await trio.lowlevel.checkpoint()
            await trio.lowlevel.checkpoint()
            changes.pop()()

        changes: list[Any] = []
        async with open_storage(StorageConfig(dir=str(tmp_path / "t"))) as storage:
            await main(storage, spawn, read)

    async def on_asyncio() -> None:
        async def spawn(one: Any, two: Any, change: Any) -> None:
            tasks = [asyncio.create_task(one()), asyncio.create_task(two())]
            await asyncio.sleep(0)
            change()
            await asyncio.gather(*tasks)

        async with aio.open_storage(StorageConfig(dir=str(tmp_path / "a"))) as storage:
            await main(storage, spawn, read)

    trio.run(on_trio)
    asyncio.run(on_asyncio())


@pytest.mark.happens
@through_every_door
@pytest.mark.parametrize("also_the_log", [False, True])
def test_an_answer_after_the_dispatch_was_left_does_not_count(
    name: str, also_the_log: bool
) -> None:
    async def scenario(door: Door) -> None:
        async with door.open_wal(WalConfig()) as wal:
            storage = door.wal_storage(wal, TOPIC)
            async with door.dispatch(TOPIC, storage) as dispatch:
                await dispatch.store_batch([b"0", b"1"])
                billing = await dispatch.add_subscription("billing")
                consumer = billing.consumer()
                await consumer.__aenter__()
                messages = await consumer.receive(2)
            if not also_the_log:
                assert answers(messages) == [False] * 10
        assert answers(messages) == [False] * 10

    DOORS[name].run(scenario)


def answers(messages: list[Any]) -> list[bool]:
    return [
        answer
        for message in messages
        for answer in (
            message.ack(),
            message.nack(),
            message.reject("bad"),
            message.release(),
            message.extend(5),
        )
    ]


# ---- worlds that are not supported


@pytest.mark.happens
@pytest.mark.parametrize("module", [aio, danube_trio.blocking])
def test_where_gevent_has_replaced_threads_nothing_is_opened(
    monkeypatch: pytest.MonkeyPatch, module: Any, tmp_path: Path
) -> None:
    monkey: Any = types.ModuleType("gevent.monkey")
    patched = True

    def is_patched(name: str) -> bool:
        return patched and name == "threading"

    monkey.is_module_patched = is_patched
    monkeypatch.setitem(sys.modules, "gevent.monkey", monkey)

    async def on_asyncio() -> None:
        async with aio.open_wal(WalConfig(dir=str(tmp_path))) as wal:
            await wal.append(b"x")

    def in_threads() -> None:
        with danube_trio.blocking.open_wal(WalConfig(dir=str(tmp_path))) as wal:
            wal.append(b"x")

    def run() -> None:
        if module is aio:
            asyncio.run(on_asyncio())
        else:
            in_threads()

    with pytest.raises(RuntimeError, match="gevent has replaced them"):
        run()
    assert list(tmp_path.iterdir()) == []
    patched = False
    run()
