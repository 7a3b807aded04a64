"""What user code hands in: exceptions, buffers, wrong types, calls from elsewhere."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import trio
from doors import DOORS, Door
from topics import TOPIC, Metadata, open_backing, store
from trio.testing import MockClock

from danube_trio import StreamMessage
from danube_trio.dispatch import (
    Delivery,
    PoisonPolicy,
    ReliableDispatch,
    SubscriptionOptions,
)
from danube_trio.errors import describe, text_of

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
