"""What user code hands in: exceptions, buffers, wrong types, calls from elsewhere."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import trio
from doors import DOORS, Door
from topics import TOPIC, Metadata, open_backing, store
from trio.testing import MockClock

from danube_trio import StreamMessage, WalConfig
from danube_trio.dispatch import (
    Delivery,
    PoisonPolicy,
    ReliableDispatch,
    SubscriptionOptions,
)
from danube_trio.errors import DanubeError, describe, text_of

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


def nested(depth: int) -> Exception:
    error: Exception = Wordless()
    for _ in range(depth):
        error = ExceptionGroup("one", [error])
    return error


BAD = [Wordless(), Odd(), Exits(), Nameless(), nested(5000), Exception()]


# ---- exceptions


@pytest.mark.parametrize("error", BAD[:-1], ids=lambda error: type.__repr__(type(error)))
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


BUFFERS: list[Any] = [
    lambda data: data,
    memoryview,
    lambda data: memoryview(data)[::2],
    StreamMessage,
    lambda data: StreamMessage(memoryview(data)),  # type: ignore[arg-type]
]


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


async def test_reasons_of_failures_are_short_and_counted(autojump_clock: MockClock) -> None:
    async with open_backing("segments") as backing, backing.dispatch(Metadata()) as dispatch:
        for _ in range(4):
            await store(dispatch, 1000)
        found = await fill(dispatch, "x" * 1_000_000, max_buffered_bytes=1_000_000)
        assert 1000 <= found.retrying < 2100


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
