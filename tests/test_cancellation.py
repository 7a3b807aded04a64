"""Cancellation is exact: an append that raises Cancelled was never accepted."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import attrs
import pytest
import trio
from trio.lowlevel import Task, checkpoint
from trio.testing import MockClock, wait_all_tasks_blocked

from danube_trio import LogClosedError, StartPosition, Wal, WalConfig, open_wal
from danube_trio.testing import SimDisk

CONFIG = WalConfig(dir="/log", segment_bytes=1500, preallocate_bytes=0, max_pending_bytes=2000)


class CancelAtStep(trio.abc.Instrument):
    """Cancels a scope just before the task takes its n-th step."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.steps = 0
        self.scope = trio.CancelScope()
        self.task: Task | None = None

    def before_task_step(self, task: Task) -> None:
        if task is self.task:
            self.steps += 1
            if self.steps == self.step:
                self.scope.cancel()


Call = Callable[[Wal], Awaitable[object]]
CALLS: dict[str, Call] = {
    "append": lambda wal: wal.append(b"x" * 300),
    "append accepted": lambda wal: wal.append(b"x" * 300, durability="accepted"),
    "append written": lambda wal: wal.append(b"x" * 300, durability="written"),
    "append_batch": lambda wal: wal.append_batch([b"x" * 300] * 3),
}


@pytest.mark.happens
@pytest.mark.parametrize("crowded", [False, True])
@pytest.mark.parametrize("call", CALLS)
async def test_a_cancelled_append_never_appears_and_any_other_does(
    call: str, crowded: bool
) -> None:
    cancelled_early = finished = 0
    for step in range(12):
        disk = SimDisk()
        async with open_wal(CONFIG, disk=disk) as wal:
            async with trio.open_nursery() as nursery:
                if crowded:
                    for i in range(9):
                        nursery.start_soon(wal.append, b"%d" % i * 400)
                    await wait_all_tasks_blocked() if step % 2 else await checkpoint()
                instrument = CancelAtStep(step)
                outcomes: list[str] = []

                async def run(
                    instrument: CancelAtStep = instrument, outcomes: list[str] = outcomes
                ) -> None:
                    instrument.task = trio.lowlevel.current_task()
                    with instrument.scope:
                        if instrument.step == 0:
                            instrument.scope.cancel()
                        await CALLS[call](wal)
                        outcomes.append("accepted")

                trio.lowlevel.add_instrument(instrument)
                nursery.start_soon(run)
            trio.lowlevel.remove_instrument(instrument)
            outcome = outcomes[0] if outcomes else "cancelled"
            await wal.flush()
            appended = wal.next_offset - (9 if crowded else 0)
        count = 3 if "batch" in call else 1
        assert appended == (count if outcome == "accepted" else 0), (step, outcome)
        async with open_wal(CONFIG, disk=disk) as wal:
            found = [m.payload async for m in wal.reader(end="current")]
            assert found.count(b"x" * 300) == appended
        cancelled_early += outcome == "cancelled"
        finished += outcome == "accepted"
    assert cancelled_early
    assert finished


async def test_an_append_that_waits_for_room_can_be_cancelled(autojump_clock: MockClock) -> None:
    async with open_wal(CONFIG, disk=SimDisk(latency=1)) as wal, trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(wal.append, bytes(1500))
        await wait_all_tasks_blocked()
        with trio.move_on_after(0.1) as scope:
            await wal.append(b"never")
        assert scope.cancelled_caught
        assert wal.statistics().waiting_appends == 2
        assert await wal.append(b"later") == 3


async def test_the_wait_for_durability_is_bounded_by_the_batch_in_flight_and_its_own(
    autojump_clock: MockClock,
) -> None:
    async with open_wal(CONFIG, disk=SimDisk(latency=1)) as wal, trio.open_nursery() as nursery:
        nursery.start_soon(wal.append, b"in flight")
        await trio.sleep(0.5)
        started = trio.current_time()
        with trio.move_on_after(0.1) as scope:
            assert await wal.append(b"mine") == 1
            assert trio.current_time() - started == pytest.approx(1.5)
        assert not scope.cancelled_caught


async def test_cancelling_everything_resolves_every_wait(autojump_clock: MockClock) -> None:
    """The log's own scope is cancelled: accepted records drain, and nobody hangs."""
    outcomes: dict[str, str] = {}
    disk = SimDisk(latency=0.5)

    async def attempt(name: str, call: Callable[[], Awaitable[object]]) -> None:
        outcomes[name] = "cancelled"
        try:
            await call()
            outcomes[name] = "ok"
        except LogClosedError:
            outcomes[name] = "closed"

    async with trio.open_nursery() as nursery:
        accepted = -1
        wal: Wal | None = None
        with trio.CancelScope() as scope:
            async with open_wal(CONFIG, disk=disk) as wal:
                for i in range(5):
                    nursery.start_soon(attempt, f"append {i}", lambda: wal.append(bytes(900)))
                nursery.start_soon(attempt, "future", lambda: wal.wait_durable(99))
                await wait_all_tasks_blocked()
                accepted = wal.next_offset
                nursery.start_soon(attempt, "tail", wal.reader(StartPosition.latest()).__anext__)
                await wait_all_tasks_blocked()
                scope.cancel()
                await trio.sleep_forever()
        assert scope.cancelled_caught
        assert wal is not None
        assert wal.durable_end == accepted
    assert outcomes["future"] == outcomes["tail"] == "closed"
    appends = [outcomes[f"append {i}"] for i in range(5)]
    assert appends.count("ok") == accepted
    assert set(appends) <= {"ok", "closed"}


async def test_a_cancelled_reader_loses_nothing() -> None:
    config = attrs.evolve(CONFIG, cache_capacity=2, read_block_bytes=700)
    async with open_wal(config, disk=SimDisk()) as wal:
        for i in range(40):
            await wal.append(b"%d" % i * 50)
        reader = wal.reader(end="current")
        seen: list[int | None] = []
        for step in range(2000):
            with trio.CancelScope() as scope:
                instrument = CancelAtStep(step % 4)
                instrument.task = trio.lowlevel.current_task()
                instrument.scope = scope
                trio.lowlevel.add_instrument(instrument)
                try:
                    if step % 4 == 0:
                        scope.cancel()
                    seen.append((await reader.__anext__()).offset)
                except StopAsyncIteration:
                    break
                finally:
                    trio.lowlevel.remove_instrument(instrument)
        assert seen == list(range(40))
