"""Dispatch: a subscription is taken over from a program that is alive and busy."""

from __future__ import annotations

from contextlib import suppress

import pytest
import trio
from topics import CURSOR, open_backing, store

from danube_trio.dispatch import Subscription, SubscriptionOptions
from danube_trio.dispatch._cursor import CursorState
from danube_trio.dispatch._dispatch import TAKE_OVER_TRIES
from danube_trio.errors import FencedError
from danube_trio.testing import MetadataOperation, SimMetadata

OWNER = CURSOR.rpartition("/")[0] + "/owner"
OLD, NEW = 0, 1


class Busy:
    """The program that has the subscription: it works and saves whenever the other one writes."""

    def __init__(self) -> None:
        self.subscription: Subscription | None = None
        self.settled = 0  # and saved

    async def hook(self, operation: MetadataOperation, moment: str) -> None:
        """Before a write of the other program."""
        here = (operation.client, operation.name, moment) == (NEW, "transact", "before")
        if here and self.subscription is not None:
            with suppress(FencedError):
                async with self.subscription.take():
                    pass
                await self.subscription.flush()
                self.settled += 1


@pytest.mark.parametrize("options", [{}, {"save_interval": 0}, {"count_crashes": True}])
async def test_a_program_that_saves_between_any_two_steps_is_fenced_all_the_same(
    options: dict[str, float],
) -> None:
    settings = SubscriptionOptions(**options)  # type: ignore[arg-type]
    busy = Busy()
    metadata = SimMetadata(hook=busy.hook)
    async with open_backing("segments") as backing, backing.dispatch(metadata) as old:
        await store(old, 20)
        busy.subscription = await old.add_subscription("billing", settings)
        async with backing.dispatch(metadata.client()) as new:
            taken = await new.add_subscription("billing", settings)
            assert busy.settled, "it was busy"
            assert taken.end == busy.settled, "and what it saved counts"
            async with taken.take() as message:
                assert message.offset == busy.settled
            await taken.flush()
            with pytest.raises(FencedError):
                await busy.subscription.flush()


async def test_who_is_told_by_a_flush_is_not_told_again_when_the_own_task_had_it_first(
    autojump_clock: object,
) -> None:
    slow = False

    async def hook(operation: MetadataOperation, moment: str) -> None:
        """A store that takes its time: the flush comes while the subscription's task saves."""
        if slow and (operation.client, operation.name, moment) == (OLD, "transact", "before"):
            await trio.sleep(1)

    settings = SubscriptionOptions(save_interval=0)
    metadata = SimMetadata(hook=hook)
    async with open_backing("segments") as backing, backing.dispatch(metadata) as old:
        await store(old, 20)
        mine = await old.add_subscription("billing", settings)
        await mine.flush()
        async with backing.dispatch(metadata.client()) as new:
            await new.add_subscription("billing", settings)
            slow = True
            async with mine.take():
                pass
            await trio.sleep(0.5)  # its own task is at it
            with pytest.raises(FencedError):
                await mine.flush()
            slow = False


class OldVersion:
    """A program that knows no owner, and saves in between so many times."""

    def __init__(self, times: int) -> None:
        self.times = times
        self.saves = 1
        self.metadata = SimMetadata(hook=self.hook)

    async def hook(self, operation: MetadataOperation, moment: str) -> None:
        """Before a save of the other program."""
        mine = operation.client != NEW or CURSOR not in operation.keys
        if mine or (operation.name, moment) != ("transact", "before") or not self.times:
            return
        self.times -= 1
        await self.save()

    async def save(self) -> None:
        """One message more is settled."""
        state = CursorState.at(self.saves, owner="old", saves=self.saves)
        await self.metadata.put(CURSOR, state.encode())
        self.saves += 1


@pytest.mark.parametrize("times", [1, 5, TAKE_OVER_TRIES - 1])
async def test_an_older_version_that_is_busy_is_tried_against_until_it_is_done(times: int) -> None:
    old = OldVersion(times)
    await old.save()
    async with open_backing("segments") as backing:
        async with backing.dispatch(old.metadata.client()) as new:
            await store(new, 200)
            taken = await new.add_subscription("billing")
            assert taken.end == times + 1, "all that it settled"


async def test_trying_ends() -> None:
    old = OldVersion(1_000_000)
    await old.save()
    async with open_backing("segments") as backing:
        async with backing.dispatch(old.metadata.client()) as new:
            await store(new, 200)
            with pytest.raises(FencedError):
                await new.add_subscription("billing")
            assert old.saves == TAKE_OVER_TRIES + 2
            old.times = 0
            assert (await new.add_subscription("billing")).is_open


async def test_of_many_that_open_it_at_once_one_has_it_and_the_others_are_told() -> None:
    async with open_backing("segments") as backing, trio.open_nursery() as nursery:
        first = SimMetadata()
        outcomes: list[object] = []
        done = trio.Event()

        async def open_and_save(metadata: SimMetadata) -> None:
            try:
                async with backing.dispatch(metadata) as dispatch:
                    subscription = await dispatch.add_subscription("billing")
                    outcomes.append(subscription)
                    await done.wait()
                    async with subscription.take():
                        pass
                    await subscription.flush()
                    outcomes.append("has it")
            except FencedError as error:
                outcomes.append(error)

        async with backing.dispatch(first) as dispatch:
            await store(dispatch, 10)
        for _ in range(5):
            nursery.start_soon(open_and_save, first.client())
        await trio.testing.wait_all_tasks_blocked()
        done.set()
        await trio.testing.wait_all_tasks_blocked()
        assert outcomes.count("has it") == 1
        assert sum(isinstance(found, FencedError) for found in outcomes) == 4


async def test_who_is_cancelled_while_taking_over_leaves_a_subscription_that_can_be_opened(
    autojump_clock: trio.testing.MockClock,
) -> None:
    busy = Busy()
    metadata = SimMetadata(hook=busy.hook)
    async with open_backing("segments") as backing, backing.dispatch(metadata) as old:
        await store(old, 20)
        busy.subscription = await old.add_subscription("billing")
        hang = metadata.fail("transact", nth=2, kind="hang_after", client=NEW)
        async with backing.dispatch(metadata.client()) as new:
            with trio.move_on_after(1) as scope:
                await new.add_subscription("billing")
            assert scope.cancelled_caught
            hang.cancel()
            settled, again = busy.settled, await new.add_subscription("billing")
            assert again.end >= settled
            with pytest.raises(FencedError):
                await busy.subscription.flush()


async def test_removing_a_subscription_leaves_no_owner_behind() -> None:
    metadata = SimMetadata()
    async with open_backing("segments") as backing, backing.dispatch(metadata) as dispatch:
        await dispatch.add_subscription("billing")
        assert await metadata.get(OWNER) is not None
        await dispatch.remove_subscription("billing")
        assert await metadata.list_entries("/topics/") == []
