"""Values in open logs: appended, read, followed, dispatched, and through every door."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import danube_trio.anyio
import danube_trio.blocking
from danube_trio import (
    Gap,
    LogClosedError,
    StartPosition,
    StorageConfig,
    StreamMessage,
    UnexpectedOffsetError,
    Wal,
    WalConfig,
    WalStorage,
    open_follower,
    open_storage,
    open_wal,
)
from danube_trio.dispatch import (
    Delivery,
    PoisonPolicy,
    ReliableDispatch,
    ReliableOptions,
    SubscriptionOptions,
)
from danube_trio.testing import SimDisk
from danube_trio.typed import (
    Schema,
    SchemaError,
    TypedMessage,
    TypedReader,
    TypedTopic,
    UnknownSchemaError,
    UnknownVersionError,
)

ROOT = Path(__file__).parent.parent
CONFIG = WalConfig(dir="/log", topic_name="/default/orders", segment_bytes=2000)


@attrs.frozen
class Placed:
    order: int
    customer: str


@attrs.frozen
class Paid:
    order: int
    cents: int


PLACED = Schema(Placed, id=1)
PAID = Schema(Paid, id=2, version=2, format="msgpack", upgrades={1: lambda tree: tree})
EVENTS = PLACED | PAID


def customer(event: Placed | Paid) -> str | None:
    return event.customer if isinstance(event, Placed) else None


async def values(reader: TypedReader[Placed | Paid]) -> list[Placed | Paid]:
    return [item.value async for item in reader]


async def test_values_are_read_as_they_were_appended_also_after_a_crash() -> None:
    disk = SimDisk()
    events: list[Placed | Paid] = [Placed(1, "ann"), Paid(1, 250), Placed(2, "bob"), Paid(2, 300)]
    acked = 0
    async with open_wal(CONFIG, disk=disk) as wal:
        topic = TypedTopic(wal, EVENTS, key=customer)
        for event in events[:2]:
            await topic.append(event, attributes={"k": "v"})
        assert await topic.append_batch(events[2:], attributes={"k": "w"}) == range(2, 4)
        acked = disk.op_count
        for _ in range(20):
            topic.append_nowait(Placed(3, "cid"))
        receipt = topic.append_batch_nowait([Placed(4, "dan")])
        assert await receipt.durable() == range(24, 25)
    for point in disk.crash_points(samples=1):
        for state in point.states if point.op_count >= acked else ():
            async with open_wal(CONFIG, disk=state.disk) as wal:
                found = await values(TypedTopic(wal, EVENTS).reader(end="current"))
                assert found[:4] == events


async def test_a_message_says_what_it_is() -> None:
    async with open_wal(WalConfig(topic_name="/default/orders")) as wal:
        topic = TypedTopic(wal, EVENTS, key=customer)
        await topic.append(Placed(1, "ann"))
        await topic.append(Paid(1, 250), routing_key="eu", attributes={"k": "v"})
        await topic.append_batch([Placed(2, "bob"), Paid(2, 3)])
        assert repr(topic).startswith("<TypedTopic of <Schemas Placed, Paid> over <Wal memory")
        messages = [message async for message in wal.reader(end="current")]
        items = [item async for item in topic.reader(end="current")]
    assert [m.schema_id for m in messages] == [1, 2, 1, 2]
    assert [m.schema_version for m in messages] == [1, 2, 1, 2]
    assert [m.routing_key for m in messages] == ["ann", "eu", "bob", None]
    assert messages[0].payload == b'{"order":1,"customer":"ann"}'
    assert messages[1].attributes == {"k": "v", "content-type": "application/msgpack"}
    assert all(m.publish_time > 1_700_000_000_000 for m in messages)
    second = items[1]
    assert isinstance(second, TypedMessage)
    assert (second.offset, second.routing_key, second.value) == (1, "eu", Paid(1, 250))
    assert (second.attributes, second.message) == (messages[1].attributes, messages[1])


async def test_what_is_refused_is_not_appended() -> None:
    async with open_wal(WalConfig()) as wal:
        topic = TypedTopic(wal, PLACED)
        bad = Placed("x", "ann")  # type: ignore[arg-type]
        with pytest.raises(SchemaError, match="order: expected int, got 'x'"):
            await topic.append(bad)
        with pytest.raises(SchemaError, match="order: expected int, got 'x'"):
            await topic.append_batch([Placed(1, "ann"), bad])
        with pytest.raises(SchemaError, match="order: expected int, got 'x'"):
            topic.append_nowait(bad)
        with pytest.raises(SchemaError, match=r"expected Placed, got Paid\("):
            topic.append_batch_nowait([Placed(1, "ann"), Paid(1, 2)])  # type: ignore[list-item]
        with pytest.raises(UnexpectedOffsetError):
            await topic.append(Placed(1, "ann"), expected_offset=3)
        assert wal.next_offset == 0
        with trio.CancelScope() as scope:
            scope.cancel()
            await topic.append(Placed(1, "ann"))
        assert wal.next_offset == 0
        assert await topic.append(Placed(1, "ann"), durability="accepted", expected_offset=0) == 0


async def with_bad_ones(wal: Wal) -> None:
    """Offsets 0, 2, 4 and 7 are events; the others are not."""
    topic = TypedTopic(wal, EVENTS)
    await topic.append(Placed(0, "ann"))
    await wal.append(b"no schema")
    await topic.append(Paid(2, 2))
    await wal.append(b"{", schema_id=1, schema_version=1)
    await topic.append(Placed(4, "ann"))
    await wal.append(b"{}", schema_id=1, schema_version=2)
    await wal.append(b"{}", schema_id=3, schema_version=1)
    await topic.append(Placed(7, "ann"))


async def test_a_message_that_cannot_be_decoded_is_told_once_and_then_comes_the_next() -> None:
    found: list[int] = []
    errors: list[SchemaError] = []
    async with open_wal(CONFIG, disk=SimDisk()) as wal:
        await with_bad_ones(wal)
        reader = TypedTopic(wal, EVENTS).reader(end="current")
        while True:
            try:
                async for item in reader:
                    found.append(item.offset)
                    assert reader.cursor == item.offset + 1
                break
            except SchemaError as error:
                errors.append(error)
                assert reader.cursor == error.offset + 1 if error.offset is not None else False
    assert found == [0, 2, 4, 7]
    assert [error.offset for error in errors] == [1, 3, 5, 6]
    assert [type(error) for error in errors] == [
        *(UnknownSchemaError, SchemaError, UnknownVersionError, UnknownSchemaError)
    ]
    assert all(error.message is not None for error in errors)
    assert errors[0].message is not None
    assert errors[0].message.payload == b"no schema"
    assert str(errors[2]) == (
        "offset 5 of /default/orders, Placed version 1: it is of version 2, newer than this "
        "program knows: update the program"
    )


async def test_messages_can_be_passed_over_by_the_kind_of_their_error() -> None:
    async with open_wal(CONFIG, disk=SimDisk()) as wal:
        await with_bad_ones(wal)
        topic = TypedTopic(wal, EVENTS)
        reader = topic.reader(end="current", skip=SchemaError)
        assert [item.offset async for item in reader] == [0, 2, 4, 7]
        assert reader.skipped == 4

        reader = topic.reader(end="current", skip=(UnknownSchemaError, UnknownVersionError))
        assert [(await anext(reader)).offset for _ in range(2)] == [0, 2]
        with pytest.raises(SchemaError, match=r"offset 3 .* the payload is no json"):
            await anext(reader)
        assert [item.offset async for item in reader] == [4, 7]
        assert reader.skipped == 3

        with pytest.raises(TypeError, match="must be SchemaError, or kinds of it"):
            topic.reader(skip=(SchemaError, ValueError))  # type: ignore[arg-type]
        one = TypedReader(wal.reader(end=3), PAID, skip=UnknownSchemaError)
        assert [item.value async for item in one] == [Paid(2, 2)]


async def test_who_wants_to_is_told_what_is_passed_over() -> None:
    told: list[int | None] = []

    def tell(error: SchemaError) -> None:
        if error.offset == 3 and 3 not in told:
            told.append(3)
            raise trio.WouldBlock
        told.append(error.offset)

    async with open_wal(CONFIG, disk=SimDisk()) as wal:
        await with_bad_ones(wal)
        reader = TypedTopic(wal, EVENTS).reader(end="current", skip=SchemaError, on_skip=tell)
        assert [item.offset for item in await reader.next_batch()] == [0, 2]
        with pytest.raises(trio.WouldBlock):
            told.remove(3)
            await reader.next_batch()
        assert (reader.cursor, reader.skipped) == (3, 1)
        assert [item.offset async for item in reader] == [4, 7]
    assert told == [1, 3, 3, 5, 6]


async def test_batches_end_before_what_cannot_be_decoded() -> None:
    batches: list[list[int] | None] = []
    async with open_wal(CONFIG, disk=SimDisk()) as wal:
        await with_bad_ones(wal)
        reader = TypedTopic(wal, EVENTS).reader(end="current", skip=UnknownSchemaError)
        while batches[-1:] != [[]]:
            try:
                batches.append([item.offset for item in await reader.next_batch()])
            except SchemaError:
                batches.append(None)
        assert batches == [[0, 2], None, [4], None, [7], []]
        assert await TypedTopic(wal, EVENTS).reader(end=0).next_batch() == []
        with pytest.raises(trio.EndOfChannel):
            await reader.receive()


async def test_a_reader_waits_for_new_values_and_can_be_cancelled_and_closed() -> None:
    got: list[Placed] = []

    async with open_wal(CONFIG, disk=SimDisk()) as wal:
        topic = TypedTopic(wal, PLACED)
        reader = topic.reader(StartPosition.latest())

        async def read(count: int) -> None:
            for _ in range(count):
                got.append((await reader.receive()).value)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read, 1)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read, 2)
            await topic.append_batch([Placed(1, "a"), Placed(2, "b"), Placed(3, "c")])
        assert got == [Placed(1, "a"), Placed(2, "b")]
        assert reader.cursor == 2
        assert repr(reader).startswith("<TypedReader of <Reader at")
        async with reader:
            await read(1)
        await reader.aclose()
        with pytest.raises(LogClosedError):
            await reader.receive()


class Given:
    """A reader of what it is given, in one batch."""

    def __init__(self, *items: StreamMessage | Gap) -> None:
        self._items: list[StreamMessage | Gap] = list(items)
        self.cursor = 100

    async def next_batch(self) -> list[StreamMessage]:
        await trio.lowlevel.checkpoint()
        items, self._items = self._items, []
        return items  # type: ignore[return-value]  # as a log's reader does with gaps

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


async def test_gaps_come_through_as_they_are() -> None:
    first = attrs.evolve(PLACED.message(Placed(1, "a")), offset=0)
    gap = Gap(1, 5, "damaged")
    reader = TypedReader(Given(first, gap), PLACED, skip=SchemaError)
    assert (await anext(reader)).value == Placed(1, "a")
    assert reader.cursor == 1
    found: object = await anext(reader)
    assert found is gap
    assert reader.cursor == 100
    assert reader.skipped == 0


async def test_a_message_is_not_lost_because_a_package_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    schema = Schema(Paid, id=2, version=2)
    reader = TypedReader(Given(PAID.message(Paid(1, 2))), schema, skip=SchemaError)
    monkeypatch.setitem(sys.modules, "msgpack", None)
    for _ in range(2):
        with pytest.raises(ModuleNotFoundError, match="pip install"):
            await anext(reader)
    monkeypatch.undo()
    assert (await anext(reader)).value == Paid(1, 2)


# ---- other logs, other doors


async def test_a_follower_and_a_topic_of_a_storage_give_values(tmp_path: Path) -> None:
    config = StorageConfig(dir=str(tmp_path))
    async with open_storage(config) as storage:
        name = "/default/orders"
        await storage.append_message(name, PLACED.message(Placed(1, "ann"), routing_key="ann"))
        async with storage.topic(name) as wal:
            await TypedTopic(wal, EVENTS).append(Paid(1, 250))
        inner = await storage.create_reader(name, StartPosition.earliest(), end="current")
        assert await values(TypedReader(inner, EVENTS)) == [Placed(1, "ann"), Paid(1, 250)]
        async with open_follower(tmp_path / "default" / "orders") as follower:
            reader = TypedReader(follower.reader(end="current"), EVENTS)
            assert await values(reader) == [Placed(1, "ann"), Paid(1, 250)]
            with pytest.raises(TypeError, match="To read only: TypedReader"):
                TypedTopic(follower, EVENTS)  # type: ignore[arg-type]


async def test_deliveries_are_decoded_and_what_cannot_be_is_rejected_at_once() -> None:
    got: list[Placed] = []
    handed: list[int] = []

    async def handle(delivery: Delivery) -> None:
        await trio.lowlevel.checkpoint()
        handed.append(delivery.offset)
        try:
            got.append(PLACED.decode(delivery.message))
        except SchemaError as error:
            delivery.reject(str(error))

    options = SubscriptionOptions(poison_policy=PoisonPolicy.DEAD_LETTER)
    async with (
        open_wal(CONFIG, disk=SimDisk()) as wal,
        open_wal(WalConfig()) as dead,
        ReliableDispatch.new_with_persistent(
            "/default/orders",
            ReliableOptions(),
            None,
            WalStorage.from_wal(wal),
            dead_letter_storage=WalStorage.from_wal(dead),
        ) as dispatch,
    ):
        await dispatch.store_message(PLACED.message(Placed(1, "ann")))
        await dispatch.store_message(StreamMessage(b"{}", schema_id=1, schema_version=1))
        await TypedTopic(wal, PLACED).append(Placed(3, "cid"))
        subscription = await dispatch.add_subscription("billing", options)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(subscription.run, handle)
            await subscription.wait_settled()
            nursery.cancel_scope.cancel()
        assert got == [Placed(1, "ann"), Placed(3, "cid")]
        letters = [letter async for letter in dead.reader(end="current")]
    (letter,) = letters
    assert handed == [0, 1, 2]
    assert "order: it is missing" in letter.attributes["x-failure-reason"]
    with pytest.raises(SchemaError, match="customer: it is missing"):
        PLACED.decode(letter)  # it has kept its schema


def test_a_topic_works_through_the_door_of_anyio(tmp_path: Path) -> None:
    async def main() -> None:
        async with danube_trio.anyio.open_wal(WalConfig(dir=str(tmp_path))) as wal:
            topic = TypedTopic(wal, EVENTS)
            await topic.append(Placed(1, "ann"))
            await asyncio.gather(*[topic.append(Paid(n, n)) for n in range(3)])
            await topic.append_batch([Placed(2, "bob")])
            receipt = topic.append_nowait(Paid(4, 4))
            await receipt.durable()
            found = await values(topic.reader(end="current"))
            assert found[0] == Placed(1, "ann")
            assert found[4:] == [Placed(2, "bob"), Paid(4, 4)]
            reader = topic.reader(StartPosition.latest())
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0):
                    await reader.receive()
            await reader.aclose()

    asyncio.run(main())


def test_a_schema_works_through_the_blocking_door(tmp_path: Path) -> None:
    with danube_trio.blocking.open_wal(WalConfig(dir=str(tmp_path))) as wal:
        wal.append(EVENTS.message(Placed(1, "ann")))
        wal.append_batch([EVENTS.message(Paid(n, n)) for n in range(2)])
        with wal.reader(end="current") as reader:
            assert list(map(EVENTS.decode, reader)) == [Placed(1, "ann"), Paid(0, 0), Paid(1, 1)]
        with pytest.raises(TypeError, match=r"With other doors: schema.message\(\)"):
            TypedTopic(wal, EVENTS)  # type: ignore[arg-type]
        assert wal.next_offset == 3


def test_the_example_reads_last_years_orders(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "typed_orders.py"), str(tmp_path / "log")],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
    )
    assert done.stdout.splitlines() == [
        "refused: Order version 2: lines[2].price: expected Decimal, got '12.50' (str)",
        "0 ann 9.50",
        "1 bob 20.00",
        "2 cid 26.20",
        "unreadable: offset 3 of /default/orders, Order version 2: number: expected int, "
        "got 'five' (str); customer: it is missing; lines: it is missing",
        "4 eve 0",
    ]
