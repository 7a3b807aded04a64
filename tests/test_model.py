"""Random programs on a whole log, against a model that is a plain list (`log_model`).

A program is a list of steps, one life of the log after another: appends of all kinds, readers,
trims, retention; then the log is left, its process killed, the power cut, or the disk fails; and it
is opened again. Everything runs on the simulated disk in virtual time, with tiny segments, caches
and blocks, so that each program crosses many of their borders.
"""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any

import attrs
import trio
from hypothesis import event, given, settings
from hypothesis import strategies as st
from log_model import End, Model
from trio.testing import MockClock

from danube_trio import (
    LogBrokenError,
    LogClosedError,
    OffsetTrimmedError,
    Reader,
    Receipt,
    StartPosition,
    StreamMessage,
    Wal,
    WalConfig,
    open_wal,
)
from danube_trio.testing import CrashState, Fault, Operation, SimDisk

SIZES = st.lists(st.integers(0, 250), min_size=1, max_size=7)
LEVELS = st.sampled_from(["accepted", "written", "fsync"])
PART = st.floats(0, 1)
APPEND = st.tuples(SIZES, LEVELS, st.booleans())

SETTINGS = st.fixed_dictionaries(
    {
        "segment_bytes": st.sampled_from([300, 900, 4000]),
        "cache_capacity": st.sampled_from([1, 4, 1000]),
        "cache_bytes": st.sampled_from([1, 800, 100_000]),
        "read_block_bytes": st.sampled_from([1, 300, 100_000]),
        "preallocate_bytes": st.sampled_from([0, 64, 5000]),
        "max_pending_bytes": st.sampled_from([1, 800, 100_000]),
        "max_batch_bytes": st.sampled_from([1, 500, 100_000]),
        "fsync_interval_ms": st.sampled_from([1, 5, 1000]),
        "visibility": st.sampled_from(["durable", "durable", "written"]),
        "codec": st.sampled_from(["s5-standard", "s1-legacy"]),
        "retain_bytes": st.sampled_from([None, None, 1500]),
        "segment_age": st.sampled_from([None, None, 3.0]),
    }
)
LATENCIES = st.sampled_from([0.0, 0.002, 0.7])

QUIET = [
    st.tuples(st.just("nothing"), st.none()),
    st.tuples(st.just("append"), APPEND),
    st.tuples(st.just("append"), APPEND),
    st.tuples(st.just("nowait"), SIZES),
    st.tuples(st.just("receipt"), LEVELS),
    st.tuples(st.just("burst"), st.tuples(st.lists(APPEND, max_size=6), st.integers(0, 12))),
    st.tuples(st.just("flush"), st.none()),
    st.tuples(st.just("sleep"), st.sampled_from([0.001, 0.02, 12.0])),
    st.tuples(st.just("clock"), st.sampled_from([-3.0, 0.001, 1.0, 100.0])),
    st.tuples(st.just("tail"), st.tuples(PART, st.sampled_from([None, 0.0, 0.05]))),
    st.tuples(st.just("open reader"), st.tuples(PART, st.none() | st.integers(0, 9))),
    st.tuples(st.just("read"), st.integers(1, 9)),
    st.tuples(st.just("look"), PART),
    st.tuples(st.just("trim"), PART),
    st.tuples(st.just("leave"), st.none()),
]
DEATH = st.tuples(st.integers(1, 15), st.none() | st.integers(0, 30))
CRASHES = [
    st.tuples(st.just("kill"), st.none()),
    st.tuples(st.just("power"), st.integers(0, 30)),
    st.tuples(st.just("die later"), DEATH),
    st.tuples(st.just("die opening"), DEATH),
]
FAULT = st.tuples(
    st.sampled_from(
        ["write", "sync_data", "create", "sync_dir", "rename", "truncate", "unlink", "read", "open"]
    ),
    st.integers(1, 8),
    st.sampled_from([errno.EIO, errno.ENOSPC, errno.EMFILE]),
)
FAULTS = [st.tuples(st.just("fault"), FAULT), st.tuples(st.just("fault opening"), FAULT)]
Step = tuple[str, Any]


@attrs.define(eq=False)
class Life:
    """One open log, and what goes with it."""

    disk: SimDisk
    wal: Wal = attrs.field(init=False)
    nursery: trio.Nursery = attrs.field(init=False)
    killed: bool = False
    receipts: list[Receipt] = attrs.Factory(list[Receipt])
    readers: list[list[Any]] = attrs.Factory(list[list[Any]])  # reader, cursor, records to come
    faults: list[Fault] = attrs.Factory(list[Fault])

    @property
    def failed(self) -> bool:
        return any(fault.hits for fault in self.faults)

    def kill(self) -> None:
        self.killed = True
        self.disk.kill()


class Program:
    """Runs the steps."""

    def __init__(self, settings: dict[str, Any], latency: float, steps: list[Step]) -> None:
        self.model = Model()
        self.model.retains = settings["retain_bytes"] is not None
        self.model.early = settings["visibility"] == "written"
        self.config = WalConfig(dir="/data/log", **settings)
        self.disk = SimDisk(latency=latency, sector_bytes=64)
        self.steps = steps
        self.at_open: Callable[[Life], Awaitable[None]] | None = None  # a fault or a death to come
        self.power_at_death: int | None = None
        self.cut: tuple[Model, list[CrashState]] | None = None

    async def run(self) -> None:
        steps = iter([*self.steps, ("leave", None), ("look", 0.5)])
        end: End | None = "left"
        while end is not None:
            end = await self.live(steps, end)

    async def live(self, steps: Iterator[Step], before: End) -> End | None:
        """One life: open, check, go on until a step ends it. None when there are no more steps."""
        life = Life(self.disk.process())
        arm, self.at_open = self.at_open, None
        end: End | None = None
        try:
            if arm is not None:
                await arm(life)
            async with open_wal(self.config, disk=life.disk, clock=self.model.now) as life.wal:
                await self.model.recovered(life.wal, before)
                before = "left"
                async with trio.open_nursery() as life.nursery:
                    for step in steps:
                        end = await self.take(life, *step)
                        if end is not None:
                            break
                    life.nursery.cancel_scope.cancel()
        except* LogBrokenError:
            assert life.killed or life.failed, "it broke by itself"
        except* OSError:
            assert life.killed or life.failed
        self.disk.on_operation = None
        for fault in life.faults:
            fault.cancel()
        if end != "power" and (life.killed or life.failed):
            worse: End = "killed" if life.killed else "failed"
            end = "power" if before == "power" else worse
        if self.power_at_death is not None and life.killed and end is not None:
            end = await self.power(life, self.power_at_death)
        self.power_at_death = None
        if self.cut is not None:
            (self.model, states), self.cut = self.cut, None  # what was told after it never was
            for state in states:  # one goes on, the others are looked at
                async with open_wal(self.config, disk=state.disk, clock=self.model.now) as wal:
                    await self.model.copy().recovered(wal, "power")
        event(f"ended: {end}")
        return end

    async def take(self, life: Life, name: str, argument: Any) -> End | None:
        step: Callable[[Life, Any], Awaitable[End | None]]
        step = getattr(self, name.replace(" ", "_"))
        end = await step(life, argument)
        self.model.check_marks(life.wal)
        return end

    # ---- writing

    async def append(self, life: Life, how: Any) -> None:
        await self.model.append(life.wal, *how)

    async def nowait(self, life: Life, sizes: list[int]) -> None:
        receipt = self.model.append_nowait(life.wal, sizes)
        if receipt is not None:
            life.receipts.append(receipt)

    async def receipt(self, life: Life, level: Any) -> None:
        if life.receipts:
            await self.model.receipt(life.receipts.pop(0), level)

    async def burst(self, life: Life, how: tuple[list[Any], int]) -> None:
        """Concurrent appends, every other one cancelled after so many checkpoints."""
        appends, patience = how
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:

                async def one(how: Any, *, patient: bool) -> None:
                    sizes, level, _ = how
                    with trio.CancelScope(shield=patient):
                        await self.model.append(life.wal, sizes, level, False)

                for number, how_one in enumerate(appends):
                    nursery.start_soon(partial(one, how_one, patient=number % 2 == 0))
                for _ in range(patience):
                    await trio.lowlevel.checkpoint()
                scope.cancel()

    async def flush(self, life: Life, _: None) -> None:
        end = life.wal.next_offset
        await life.wal.flush()
        self.model.told_durable(end)

    async def nothing(self, life: Life, _: None) -> None:
        """What a shorter program is filled up with."""

    async def sleep(self, life: Life, seconds: float) -> None:
        await trio.sleep(seconds)

    async def clock(self, life: Life, seconds: float) -> None:
        self.model.clock += seconds

    async def trim(self, life: Life, part: float) -> None:
        await self.model.trim(life.wal, part)

    # ---- reading

    def visible_end(self, wal: Wal) -> int:
        marks = wal.statistics()
        return marks.written_end if self.model.early else marks.durable_end

    def position(self, wal: Wal, part: float) -> int:
        return wal.start_offset + int(part * (wal.next_offset - wal.start_offset))

    async def open_reader(self, life: Life, how: tuple[float, int | None]) -> None:
        part, count = how
        at = self.position(life.wal, part)
        start = StartPosition.offset(at) if part < 1 else StartPosition.latest()
        life.readers.append([life.wal.reader(start, count=count), at, count])

    async def read(self, life: Life, steps: int) -> None:
        """A few records from the reader that has waited longest, unless it would have to wait."""
        if not life.readers:
            return
        entry = life.readers.pop(0)
        reader: Reader[StreamMessage] = entry[0]
        for _ in range(steps):
            assert reader.cursor == entry[1]
            if entry[1] >= self.visible_end(life.wal) and entry[2] != 0:
                break
            try:
                message = await reader.__anext__()
            except OffsetTrimmedError:
                assert entry[1] < life.wal.start_offset
                return
            except StopAsyncIteration:
                assert entry[2] == 0
                return
            assert message.offset == entry[1]
            self.model.saw(message.offset, message.payload)
            entry[1] += 1
            entry[2] = None if entry[2] is None else entry[2] - 1
        life.readers.append(entry)

    async def tail(self, life: Life, how: tuple[float, float | None]) -> None:
        """A live reader to the end of this life, maybe a slow one."""
        part, pause = how
        at = self.position(life.wal, part)
        reader = life.wal.reader(StartPosition.offset(at))

        async def follow() -> None:
            cursor = at
            try:
                async for message in reader:
                    assert message.offset == cursor
                    self.model.saw(message.offset, message.payload)
                    cursor += 1
                    assert cursor <= self.visible_end(life.wal)
                    if pause is not None:
                        await trio.sleep(pause)
            except OffsetTrimmedError:
                assert cursor < life.wal.start_offset
            except (LogBrokenError, LogClosedError):
                return

        life.nursery.start_soon(follow)

    async def look(self, life: Life, part: float) -> None:
        await life.wal.flush()
        await self.model.look(life.wal, part)

    # ---- the end of a life

    async def leave(self, life: Life, _: None) -> End:
        return "left"

    async def kill(self, life: Life, _: None) -> End:
        life.kill()
        return "killed"

    async def die_later(self, life: Life, how: tuple[int, int | None]) -> None:
        """The process dies at an operation of the disk, wherever that is; maybe by a power cut."""
        left, self.power_at_death = how

        def count(_: Operation) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                life.kill()

        life.disk.on_operation = count

    async def die_opening(self, life: Life, how: tuple[int, int | None]) -> End:
        self.at_open = lambda after: self.die_later(after, how)
        return "left"

    async def power(self, life: Life, number: int) -> End:
        """The power is cut, here and now; `number` chooses what was kept."""
        states = list(self.disk.crash_states(samples=4))
        self.disk = states.pop(number % len(states)).disk
        self.cut = (self.model.copy(), states)
        return "power"

    async def fault(self, life: Life, how: tuple[str, int, int]) -> None:
        operation, nth, number = how
        life.faults.append(life.disk.fail(operation, nth, error=number))

    async def fault_opening(self, life: Life, how: tuple[str, int, int]) -> End:
        self.at_open = lambda after: self.fault(after, how)
        return "left"


def run(settings: dict[str, Any], latency: float, steps: list[Step]) -> None:
    program = Program(settings, latency, steps)
    trio.run(program.run, clock=MockClock(autojump_threshold=0))


LONG = settings().max_examples > 100
MORE = settings(max_examples=(2 if LONG else 1) * settings().max_examples)


def programs(*steps: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Step]]:
    return st.lists(st.one_of(*steps), min_size=10, max_size=50)


@given(SETTINGS, LATENCIES, programs(*QUIET))
def test_any_program(settings: dict[str, Any], latency: float, steps: list[Step]) -> None:
    run(settings, latency, steps)


@MORE
@given(SETTINGS, LATENCIES, programs(*QUIET, *CRASHES))
def test_any_program_that_crashes(
    settings: dict[str, Any], latency: float, steps: list[Step]
) -> None:
    run(settings, latency, steps)


@MORE
@given(SETTINGS, LATENCIES, programs(*QUIET, *CRASHES, *FAULTS))
def test_any_program_on_a_disk_that_fails(
    settings: dict[str, Any], latency: float, steps: list[Step]
) -> None:
    run(settings, latency, steps)
