"""Many writers to a metadata directory, cancelled at random: each was told the truth."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Awaitable, Callable

import attrs
import pytest
import trio
from trio.lowlevel import Task
from trio.testing import MockClock

from danube_trio.errors import StoreUnavailableError
from danube_trio.metadata import EmbeddedMetadata, open_metadata_directory
from danube_trio.testing import SimDisk

SEEDS = int(os.environ.get("DANUBE_LINE_SEEDS", "40"))


@attrs.define(eq=False)
class Story:
    """What writers were told of the keys that each of them created, once and alone."""

    done: set[str] = attrs.Factory(set[str])
    undone: set[str] = attrs.Factory(set[str])
    unknown: set[str] = attrs.Factory(set[str])


async def write(store: EmbeddedMetadata, rng: random.Random, name: str, story: Story) -> None:
    for number in range(4):
        key = f"/{name}/{number}"
        outcome = story.undone  # unless it returns
        with trio.move_on_after(rng.choice([0, 0.5, 1, 1.5, 2, 3, 100])):
            try:
                if rng.random() < 0.3:
                    await store.put(key, b"", ttl=1000)
                else:
                    assert await store.transact({key: 0}, put={key: bytes(300_000)})
                outcome = story.done
            except StoreUnavailableError as error:
                outcome = story.unknown if "not known" in str(error) else story.undone
        outcome.add(key)
        await trio.sleep(rng.choice([0, 0, 0.3, 1]))


@pytest.mark.parametrize("fault", [False, True], ids=["works", "breaks"])
async def test_what_was_cancelled_was_not_done(fault: bool, autojump_clock: MockClock) -> None:
    seen_done = seen_undone = 0
    for seed in range(SEEDS):
        rng, story, disk = random.Random(seed), Story(), SimDisk(seed=seed)
        async with open_metadata_directory("/m", disk=disk, journal_bytes=1_000_000) as store:
            disk.latency = 1.0
            if fault:
                disk.fail("sync_data", rng.randrange(1, 12))
            async with trio.open_nursery() as nursery:
                for writer in range(8):
                    own = random.Random(f"{seed}/{writer}")
                    nursery.start_soon(write, store, own, str(writer), story)
            disk.latency = 0.0
            keys = {entry.key for entry in await store.list_entries("/")}
            assert story.done <= keys <= story.done | story.unknown, seed
            assert fault or not story.unknown
        async with open_metadata_directory("/m", disk=disk) as store:
            keys = {entry.key for entry in await store.list_entries("/")}
            assert story.done <= keys <= story.done | story.unknown, seed
            assert not keys & story.undone, seed
        seen_done += len(story.done)
        seen_undone += len(story.undone)
    assert seen_done > SEEDS and seen_undone > SEEDS


# -- who leads: an end of every kind at every step


Call = Callable[[EmbeddedMetadata], Awaitable[object]]
VICTIMS: dict[str, Call] = {
    "put": lambda store: store.put("/victim", b"1"),
    "large": lambda store: store.put("/victim", bytes(900_000)),
    "put for a while": lambda store: store.put("/victim", b"1", ttl=1000),
    "look": lambda store: store.get("/ending"),
}
WRITERS = 5
PATIENCE = 1000.0


class AtStep(trio.abc.Instrument):
    """Acts just before the n-th step that is taken from now on, by one task or by all."""

    def __init__(self, step: int, act: Callable[[], object], task: Task | None) -> None:
        self.left = step
        self._act = act
        self._task = task
        trio.lowlevel.add_instrument(self)

    def before_task_step(self, task: Task) -> None:
        if self._task in (task, None) and self.left > 0:
            self.left -= 1
            if self.left == 0:
                self._act()


@attrs.define(eq=False)
class Line:
    """Writers of a key each that line up; the one at `place` does `call` instead."""

    disk: SimDisk
    call: Call = VICTIMS["put"]
    place: int = -1
    cancel_at: int = 0
    close_at: int = 0
    fails: tuple[str, int] | None = None
    told: dict[str, str] = attrs.Factory(dict[str, str])
    missed: bool = False

    async def run(self) -> None:
        """Fails if somebody waits for ever, or was not told the truth."""
        async with (
            open_metadata_directory("/m", disk=self.disk, journal_bytes=100) as store,
            trio.open_nursery() as outer,
        ):
            await store.put("/ending", b"", ttl=1)
            await trio.sleep(0.9)
            self.disk.latency = 0.3
            fault = self.disk.fail(*self.fails) if self.fails is not None else None
            close = trio.Event()
            outer.start_soon(self._close, store, close)
            closes = AtStep(self.close_at, close.set, None)
            with trio.fail_after(PATIENCE):
                async with trio.open_nursery() as nursery:
                    for number in range(WRITERS):
                        nursery.start_soon(self._write, store, number)
                        await trio.sleep(0.1)
            trio.lowlevel.remove_instrument(closes)
            self.missed = self.missed or closes.left > 0 or (fault is not None and not fault.hits)
            if fault is not None:
                fault.cancel()
            outer.cancel_scope.cancel()
            self.disk.latency = 0.0
        async with open_metadata_directory("/m", disk=self.disk) as store:
            keys = {entry.key for entry in await store.list_entries("/")} - {"/ending"}
        done = {key for key, what in self.told.items() if what == "done"}
        unknown = {key for key, what in self.told.items() if what == "not known"}
        assert done <= keys <= done | unknown, self.told

    async def _close(self, store: EmbeddedMetadata, close: trio.Event) -> None:
        await close.wait()
        await store.aclose()

    async def _write(self, store: EmbeddedMetadata, number: int) -> None:
        if number != self.place:
            await self._tell(f"/{number}", store.put(f"/{number}", b"x" * 100))
            return
        with trio.CancelScope() as scope:
            at_step = AtStep(self.cancel_at, scope.cancel, trio.lowlevel.current_task())
            try:
                await self._tell("/victim", self.call(store))
            finally:
                trio.lowlevel.remove_instrument(at_step)
                self.missed = at_step.left > 0

    async def _tell(self, name: str, call: Awaitable[object]) -> None:
        self.told[name] = "nothing was done"
        try:
            await call
            if name != "/victim" or self.call is not VICTIMS["look"]:
                self.told[name] = "done"
        except StoreUnavailableError as error:
            self.told[name] = "not known" if "not known" in str(error) else "nothing was done"


@pytest.mark.parametrize("name", VICTIMS)
async def test_one_that_is_cancelled_at_any_step_leaves_nobody_waiting(
    name: str, autojump_clock: MockClock
) -> None:
    for place in range(WRITERS):
        step = 0
        for step in range(1, 100):
            line = Line(SimDisk(), VICTIMS[name], place, cancel_at=step)
            await line.run()
            others = [what for key, what in line.told.items() if key != "/victim"]
            assert others == ["done"] * (WRITERS - 1)
            if line.missed:
                break
        assert 1 < step < 99


async def test_closing_at_any_step_leaves_nobody_waiting(autojump_clock: MockClock) -> None:
    outcomes: set[tuple[str, ...]] = set()
    step = 0
    for step in range(1, 1000):
        line = Line(SimDisk(), close_at=step)
        await line.run()
        outcomes.add(tuple(line.told.values()))
        assert "not known" not in line.told.values()
        if line.missed:
            break
    assert 10 < step < 999 and len(outcomes) > 1


@pytest.mark.parametrize("operation", ["write", "sync_data", "rename", "sync_dir", "open"])
async def test_any_failed_call_leaves_nobody_waiting(
    operation: str, autojump_clock: MockClock
) -> None:
    number = 0
    for number in range(1, 100):
        missed = True
        for close_at in (0, 5, 20):
            line = Line(SimDisk(), close_at=close_at, fails=(operation, number))
            await line.run()
            missed = missed and line.missed
        if missed:
            break
    assert 1 < number < 99


async def test_seeded_ends_leave_nobody_waiting(autojump_clock: MockClock) -> None:
    told: Counter[str] = Counter()
    for seed in range(SEEDS):
        rng = random.Random(seed)
        line = Line(
            *(SimDisk(seed=seed), rng.choice(list(VICTIMS.values())), rng.randrange(WRITERS)),
            cancel_at=rng.randrange(8),
            close_at=rng.choice([0, rng.randrange(200)]),
            fails=rng.choice([None, ("sync_data", rng.randrange(1, 9))]),
        )
        await line.run()
        told.update(line.told.values())
    assert min(told[what] for what in ("done", "nothing was done", "not known")) > 0
