"""Storage: two operations on one topic at once, each pair of them, one step apart or none."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from itertools import product

import attrs
import pytest
import trio
from test_topic_moves import CONFIG, T
from trio.testing import MockClock

from danube_trio import (
    FencedError,
    LogClosedError,
    Storage,
    open_storage,
)
from danube_trio.testing import SimDisk, SimStore

Operation = Callable[[Storage], Awaitable[object]]


async def read(storage: Storage) -> object:
    """All that is there."""
    reader = await storage.create_reader(T, end="current")
    return [message.offset async for message in reader]


OPERATIONS: dict[str, Operation] = {
    "append": lambda storage: storage.append_message(T, b"more"),
    "batch": lambda storage: storage.append_batch(T, [b"more"] * 3),
    "read": read,
    "flush": lambda storage: storage.flush(T),
    "trim": lambda storage: storage.ack_checkpoint(T, 2),
    "seal": lambda storage: storage.seal(T),
    "take_over": lambda storage: storage.take_over(T),
    "delete": lambda storage: storage.delete(T),
    "delete for good": lambda storage: storage.delete(T, for_good=True),
}
# What each may raise when another one came between: it says what to do.
DOCUMENTED = (LogClosedError, FencedError, trio.BusyResourceError)


async def run(operation: Operation, storage: Storage, steps: int, outcomes: list[object]) -> None:
    """Do it so many steps from now, and note what became of it."""
    for _ in range(steps):
        await trio.lowlevel.checkpoint()
    try:
        outcomes.append(await operation(storage))
    except DOCUMENTED as error:
        outcomes.append(error)


@pytest.mark.parametrize("state", ["open", "closed", "sealed", "back", "new"])
@pytest.mark.parametrize(
    ("one", "two"), [pair for pair in product(OPERATIONS, OPERATIONS) if pair[0] <= pair[1]]
)
async def test_any_two_operations_of_a_topic_at_once_end_and_leave_it_whole(
    autojump_clock: MockClock, one: str, two: str, state: str
) -> None:
    for latency, apart in ((0.0, 0), (0.0, 3), (0.01, 0), (0.01, 1)):
        disk, store = SimDisk(latency=latency), SimStore(latency=latency)
        outcomes: list[object] = []
        with trio.fail_after(300):
            async with open_storage(CONFIG, store=store, disk=disk) as storage:
                await prepare(storage, state, disk, store)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(run, OPERATIONS[one], storage, 0, outcomes)
                    nursery.start_soon(run, OPERATIONS[two], storage, apart, outcomes)
                sealed = [end for end in outcomes if one == two == "seal" and isinstance(end, int)]
                assert len(set(sealed)) <= 1, "both have the same answer"
                if one == two == "seal" and state != "new":
                    assert len(sealed) == 2
                await storage.take_over(T)
                end = await storage.current_offset(T)
                assert await storage.append_message(T, b"last") == end
                assert await storage.seal(T) == end + 1
        assert not storage.open_topics()
        async with open_storage(CONFIG, store=store, disk=disk) as storage:
            assert await storage.current_offset(T) == end + 1


async def prepare(storage: Storage, state: str, disk: SimDisk, store: SimStore) -> None:
    """A topic with a few records; sealed here, or sealed and sealed elsewhere in turn."""
    if state == "new":
        return
    await storage.append_batch(T, [b"%d" % i for i in range(5)])
    if state == "closed":
        await trio.sleep(60)
        assert not storage.open_topics()
    if state in ("sealed", "back"):
        await storage.seal(T)
    if state == "back":
        other = attrs.evolve(CONFIG, dir="/other")
        async with open_storage(other, store=store, disk=SimDisk()) as elsewhere:
            await elsewhere.append_message(T, b"5")
            await elsewhere.seal(T)


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("state", ["open", "sealed", "new"])
async def test_leaving_a_storage_ends_whatever_is_under_way(
    autojump_clock: MockClock, name: str, state: str
) -> None:
    for steps in (0, 1, 2, 5, 20):
        disk, store = SimDisk(latency=0.01), SimStore(latency=0.01)
        ended: list[object] = []
        with trio.fail_after(300):
            async with trio.open_nursery() as nursery:
                async with open_storage(CONFIG, store=store, disk=disk) as storage:
                    await prepare(storage, state, disk, store)
                    nursery.start_soon(run, OPERATIONS[name], storage, 0, ended)
                    for _ in range(steps):
                        await trio.lowlevel.checkpoint()
        assert len(ended) == 1
