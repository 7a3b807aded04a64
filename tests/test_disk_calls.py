"""Handing calls over to a disk, by `run` and by lanes: one suite for the real and the simulated."""

from __future__ import annotations

import pytest
import trio

from danube_trio._core.disk import Disk, Lane
from danube_trio._disk.real import RealDisk
from danube_trio.testing import SimDisk


@pytest.fixture(params=["real", "simulated"])
def disk(request: pytest.FixtureRequest) -> Disk:
    return RealDisk() if request.param == "real" else SimDisk()


def fail(text: str) -> None:
    raise ValueError(text)


async def test_run_returns_and_raises(disk: Disk) -> None:
    assert await disk.run(divmod, 7, 2) == (3, 1)
    with pytest.raises(ValueError, match="wrong") as caught:
        await disk.run(fail, "wrong")
    assert caught.traceback[-1].name == "fail"


async def test_run_is_cancelled_before_it_begins_or_not_at_all(disk: Disk) -> None:
    calls: list[int] = []
    with trio.CancelScope() as scope:
        scope.cancel()
        await disk.run(calls.append, 1)
    assert scope.cancelled_caught
    assert calls == []
    with trio.CancelScope() as scope:

        async def cancel_later() -> None:
            scope.cancel()

        async with trio.open_nursery() as nursery:
            with trio.CancelScope(shield=True):
                nursery.start_soon(cancel_later)
                await disk.run(calls.append, 2)
    assert calls == [2]


async def test_a_lane_returns_and_raises(disk: Disk) -> None:
    lane = disk.open_lane()
    assert await lane.run(divmod, 7, 2) == (3, 1)
    with pytest.raises(ValueError, match="wrong") as caught:
        await lane.run(fail, "wrong")
    assert caught.traceback[-1].name == "fail"
    assert await lane.run(int) == 0
    await lane.aclose()


async def test_a_lane_runs_calls_in_the_order_in_which_they_came(disk: Disk) -> None:
    lane = disk.open_lane()
    called: list[int] = []
    done: list[int] = []
    running = 0

    def call(number: int) -> int:
        nonlocal running
        running += 1
        assert running == 1
        called.append(number)
        running -= 1
        return number

    async def caller(number: int) -> None:
        order.append(number)
        assert await lane.run(call, number) == number
        done.append(number)

    order: list[int] = []
    async with trio.open_nursery() as nursery:
        for number in range(100):
            nursery.start_soon(caller, number)
    assert called == order  # trio starts tasks in any order
    assert sorted(done) == sorted(order)
    await lane.aclose()


async def test_a_lane_never_raises_cancelled(disk: Disk) -> None:
    lane = disk.open_lane()
    calls: list[int] = []
    with trio.CancelScope() as scope:
        scope.cancel()
        await lane.run(calls.append, 1)
        await lane.run(calls.append, 2)
        assert calls == [1, 2]
        await trio.lowlevel.checkpoint()
    assert scope.cancelled_caught
    with trio.CancelScope() as scope:
        scope.cancel()
        await lane.aclose()
    assert not scope.cancelled_caught


async def test_a_lane_is_a_schedule_point(disk: Disk) -> None:
    lane = disk.open_lane()
    others = 0

    async def other() -> None:
        nonlocal others
        while not stopped:
            others += 1
            await trio.lowlevel.checkpoint()

    stopped = False
    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        for _ in range(100):
            await lane.run(int)
        stopped = True
    assert others >= 99  # the first call may come before the other task starts
    await lane.aclose()


async def test_a_closed_lane_takes_no_calls(disk: Disk) -> None:
    used, unused = disk.open_lane(), disk.open_lane()
    await used.run(int)
    for lane in (used, unused):
        await lane.aclose()
        await lane.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await lane.run(int)


async def test_closing_a_lane_waits_for_the_calls_handed_over(disk: Disk) -> None:
    lane = disk.open_lane()
    calls: list[int] = []
    async with trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(lane.run, calls.append, number)
        for _ in range(2):
            await trio.lowlevel.checkpoint()  # the first may end before all of them have started
        await close_all(lane)
        assert len(calls) == 5


async def close_all(lane: Lane) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(lane.aclose)
