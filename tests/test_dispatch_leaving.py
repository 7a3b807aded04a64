"""Dispatch: it is left while something else is under way; each pair, in the engine and by a door.

What is under way stands still at a gate: of the metadata store, or of the log's disk. Then the
dispatch is left. It must end, the other call must end, and nothing that was taken is lost, burned,
or left behind.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import trio
from doors import DOORS, Door
from topics import TOPIC, Metadata, open_backing, store
from trio.testing import MockClock, wait_all_tasks_blocked

from danube_trio import StartPosition, Wal, WalConfig, WalStorage, open_wal
from danube_trio.dispatch import (
    Delivery,
    PoisonPolicy,
    ReliableDispatch,
    ReliableOptions,
    Subscription,
    SubscriptionClosedError,
    SubscriptionOptions,
)
from danube_trio.errors import LogClosedError, StoreUnavailableError
from danube_trio.metadata import MemoryMetadata
from danube_trio.testing import SimDisk

OPTIONS = SubscriptionOptions(
    poison_policy=PoisonPolicy.DEAD_LETTER, save_interval=1000, max_unacked_messages=100
)
CRASHES = SubscriptionOptions(count_crashes=True, save_interval=1000)


class Gated(WalStorage):
    """Dead letters behind a gate."""

    gate: trio.Event | None = None

    async def current_offset(self, topic: str) -> int:
        """When the gate is open."""
        if self.gate is not None:
            await self.gate.wait()
        return await super().current_offset(topic)


async def handle(message: Delivery) -> None:
    await trio.sleep(5)


async def take(subscription: Subscription) -> None:
    async with subscription.take():
        await trio.sleep_forever()


Call = Callable[[ReliableDispatch, Subscription, Subscription], Awaitable[object]]
# Of the dispatch, a subscription in use, and one that counts crashes.
CALLS: dict[str, Call] = {
    "add": lambda dispatch, one, two: dispatch.add_subscription("new"),
    "add_again": lambda dispatch, one, two: dispatch.add_subscription(one.name, OPTIONS),
    "remove": lambda dispatch, one, two: dispatch.remove_subscription(one.name),
    "remove_idle": lambda dispatch, one, two: dispatch.remove_subscription("idle"),
    "redrive": lambda dispatch, one, two: one.redrive(),
    "flush": lambda dispatch, one, two: one.flush(),
    "seek": lambda dispatch, one, two: one.seek(StartPosition.latest()),
    "receive_counted": lambda dispatch, one, two: two.consumer().__aenter__(),
    "wait_settled": lambda dispatch, one, two: one.wait_settled(100),
    "run": lambda dispatch, one, two: one.run(handle, concurrency=3),
    "store": lambda dispatch, one, two: dispatch.store_message(b"late"),
    "retention": lambda dispatch, one, two: dispatch.apply_retention(),
}


async def receive_counted(subscription: Subscription) -> None:
    async with subscription.consumer() as consumer:
        await consumer.receive(1)


CALLS["receive_counted"] = lambda dispatch, one, two: receive_counted(two)
ENDS = (SubscriptionClosedError, LogClosedError, StoreUnavailableError)


@asynccontextmanager
async def dead_letters() -> AsyncGenerator[Gated]:
    async with open_wal(WalConfig()) as wal:
        yield Gated(wal, None)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("gate", ["metadata", "letters", "none"])
async def test_leaving_ends_and_so_does_whatever_is_under_way(
    autojump_clock: MockClock, name: str, gate: str
) -> None:
    metadata = Metadata()
    async with open_backing("segments") as backing, dead_letters() as letters:
        async with trio.open_nursery() as nursery:
            ended = trio.Event()
            outcome: list[object] = []

            async def call() -> None:
                try:
                    outcome.append(await CALLS[name](dispatch, one, two))
                except ENDS as error:
                    outcome.append(error)
                ended.set()

            dispatch = backing.dispatch(metadata, dead_letter_storage=letters, save_grace=7)
            opened = trio.Event()
            start = trio.current_time()
            with trio.fail_after(60):
                try:
                    async with dispatch:
                        await store(dispatch, 5)
                        await dispatch.add_subscription("idle")
                        one = await dispatch.add_subscription("billing", OPTIONS)
                        two = await dispatch.add_subscription("counting", CRASHES)
                        async with one.take():
                            pass  # something to save
                        metadata.gate = opened if gate == "metadata" else None
                        letters.gate = opened if gate == "letters" else None
                        nursery.start_soon(call)
                        await wait_all_tasks_blocked()
                except TimeoutError:
                    assert gate == "metadata", "the cursors could not be saved"
                assert trio.current_time() - start <= 7
                await ended.wait()
            assert len(outcome) == 1
            opened.set()
            metadata.gate = letters.gate = None
        with pytest.raises(SubscriptionClosedError):
            await dispatch.add_subscription("later")
        # What was taken is there again, with its first attempt, and what was settled is not.
        async with backing.dispatch(metadata, dead_letter_storage=letters) as dispatch:
            for known, options in (("billing", OPTIONS), ("counting", CRASHES)):
                again = await dispatch.add_subscription(known, options)
                if again.end < 5:
                    async with again.take() as message:
                        assert message.attempt == 1 or gate == "metadata"


async def test_a_subscription_that_is_being_added_while_the_dispatch_is_left_is_not_kept(
    autojump_clock: MockClock,
) -> None:
    metadata = Metadata()
    async with open_backing("segments") as backing, trio.open_nursery() as nursery:
        dispatch = backing.dispatch(metadata)

        async def add() -> None:
            with pytest.raises(SubscriptionClosedError):
                await dispatch.add_subscription("two")

        async with dispatch:
            one = await dispatch.add_subscription("one", SubscriptionOptions(save_interval=500))
            await store(dispatch, 1)
            async with one.take():
                pass
            metadata.gate = trio.Event()
            nursery.start_soon(add)
            await wait_all_tasks_blocked()
            nursery.start_soon(open_later, metadata.gate)
        assert one.saved_end == 1
        with pytest.raises(SubscriptionClosedError):
            await one.flush()
    # The one that saved it is gone, and it can be opened.
    metadata.gate = None
    async with open_backing("segments") as backing, backing.dispatch(metadata) as dispatch:
        await store(dispatch, 1)
        assert (await dispatch.add_subscription("two")).is_open


async def open_later(gate: trio.Event) -> None:
    await trio.sleep(1)
    gate.set()


@pytest.mark.parametrize("name", ["store", "retention", "seek", "add", "run"])
async def test_a_log_whose_disk_stands_still_does_not_keep_calls_when_it_goes_on(
    autojump_clock: MockClock, name: str
) -> None:
    disk, metadata = SimDisk(latency=0.5), Metadata()
    async with open_wal(WalConfig(dir="/log"), disk=disk) as wal, dead_letters() as letters:
        async with trio.open_nursery() as nursery:
            outcome: list[object] = []

            async def call() -> None:
                try:
                    outcome.append(await CALLS[name](dispatch, one, one))
                except ENDS as error:
                    outcome.append(error)

            dispatch = over(wal, metadata, letters)
            with trio.fail_after(100):
                async with dispatch:
                    await store(dispatch, 5)
                    one = await dispatch.add_subscription("billing", OPTIONS)
                    nursery.start_soon(call)
                    await trio.sleep(0.1)
        assert len(outcome) == 1
        again = over(wal, metadata, letters)
        async with again:
            subscription = await again.add_subscription("billing", OPTIONS)
            assert subscription.end in ((0, 5, 6) if name == "seek" else (0,))


def over(wal: Wal, metadata: Metadata, letters: WalStorage) -> ReliableDispatch:
    storage = WalStorage.from_wal(wal, TOPIC)
    return ReliableDispatch.new_with_persistent(
        TOPIC, ReliableOptions(), None, storage, metadata=metadata, dead_letter_storage=letters
    )


# ---- through the doors


class Hanging(MemoryMetadata):
    """A store in memory that does not answer writes while it is told so. Any thread may tell."""

    hang = False
    waiting = 0

    async def transact(self, *args: Any, **more: Any) -> int | None:
        """Not now, if it hangs."""
        if self.hang:
            self.waiting += 1
            await trio.sleep_forever()
        return await super().transact(*args, **more)


DOOR_CALLS: dict[str, Callable[[Any, Any], Awaitable[object]]] = {
    "add": lambda dispatch, one: dispatch.add_subscription("new"),
    "remove": lambda dispatch, one: dispatch.remove_subscription("billing"),
    "flush": lambda dispatch, one: one.flush(),
    "seek": lambda dispatch, one: one.seek(StartPosition.latest()),
}


@pytest.mark.parametrize("call", DOOR_CALLS)
@pytest.mark.parametrize("name", [name for name in DOORS if not DOORS[name].elsewhere])
def test_by_every_door_leaving_ends_what_is_under_way(name: str, call: str) -> None:
    async def scenario(door: Door) -> None:
        metadata = Hanging()
        outcomes: list[BaseException | None] = []

        async def under_way(dispatch: Any, one: Any) -> None:
            try:
                await DOOR_CALLS[call](dispatch, one)
                outcomes.append(None)
            except (SubscriptionClosedError, LogClosedError) as error:
                outcomes.append(error)

        async with anyio.create_task_group() as tasks:
            try:
                async with door.dispatch(TOPIC, metadata=metadata, save_grace=0.05) as dispatch:
                    options = SubscriptionOptions(save_interval=1000)
                    one = await dispatch.add_subscription("billing", options)
                    await dispatch.store_batch([b"0", b"1"])
                    async with one.take():
                        pass
                    metadata.hang = True
                    tasks.start_soon(under_way, dispatch, one)
                    while not metadata.waiting:
                        await anyio.lowlevel.checkpoint()
            except TimeoutError:
                pass  # the cursor could not be saved
            while not outcomes:
                await anyio.lowlevel.checkpoint()
        assert isinstance(outcomes[0], SubscriptionClosedError)

    DOORS[name].run(scenario)


@pytest.mark.parametrize("name", [name for name in DOORS if not DOORS[name].elsewhere])
def test_by_every_door_a_paused_run_begins_nothing_and_gives_back_what_it_took(name: str) -> None:
    async def scenario(door: Door) -> None:
        begun: list[tuple[int, int]] = []
        entered, go = anyio.Event(), anyio.Event()

        async def handler(message: Delivery) -> None:
            begun.append((message.offset, message.attempt))
            if message.offset == 20:
                entered.set()
                await go.wait()

        async with door.dispatch(TOPIC) as dispatch:
            await dispatch.store_batch([b"%d" % i for i in range(100)])
            options = SubscriptionOptions(max_unacked_messages=50, max_redeliveries=0)
            one = await dispatch.add_subscription("billing", options)
            async with door.running(one, handler):
                await entered.wait()
                one.pause()
                assert (await one.statistics()).in_flight == 1, "what is being handled"
                go.set()
                while (await one.statistics()).in_flight:
                    await anyio.lowlevel.checkpoint()
                assert len(begun) == 21
                assert one.end == 21
                one.resume()
                await one.wait_settled()
            assert sorted(begun) == [(offset, 1) for offset in range(100)]

    DOORS[name].run(scenario)
