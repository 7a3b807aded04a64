"""Pins: what is being fetched is not deleted, and deleting waits for no longer than that."""

from __future__ import annotations

import trio
import trio.testing

from danube_trio._engine.wait.pins import Pins


async def test_several_wait_for_the_same_fetch() -> None:
    pins = Pins()
    done: list[int] = []

    async def wait(below: int) -> None:
        await pins.released(below, stored=True)
        done.append(below)

    async with trio.open_nursery() as nursery:
        with pins.pin(5, stored=False):
            nursery.start_soon(wait, 6)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(wait, 10)  # a trim, while objects are being removed
            nursery.start_soon(wait, 5)  # not held by anything below
            await trio.testing.wait_all_tasks_blocked()
            assert done == [5]
            with pins.pin(3, stored=False):
                await trio.testing.wait_all_tasks_blocked()
    assert sorted(done) == [5, 6, 10]


async def test_fetches_that_begin_later_are_not_waited_for() -> None:
    pins = Pins()
    done = trio.Event()

    async def wait() -> None:
        await pins.released(10, stored=True)
        done.set()

    async with trio.open_nursery() as nursery:
        with pins.pin(1, stored=False):
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            later = pins.pin(2, stored=False)
            later.__enter__()
        await done.wait()
        assert len(pins) == 1
        later.__exit__(None, None, None)
