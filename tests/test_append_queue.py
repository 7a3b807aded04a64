"""Appends that wait for room: each is accepted once or not at all, in order, and is told so.

`DANUBE_STORM_APPENDS` is how many each door makes (default 5,000).
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import re
import signal
import threading
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio
import attrs
import pytest
import trio
from doors import DOORS, Door, GatedDisk
from hypothesis import given
from hypothesis import strategies as st
from test_blocking_door import InterruptError, Thread
from trio.testing import MockClock, wait_all_tasks_blocked

import danube_trio.anyio
import danube_trio.blocking
from danube_trio import LogBrokenError, LogClosedError, StorageConfig, WalConfig, open_wal
from danube_trio._core.codec import get_codec
from danube_trio._core.index import SparseIndex
from danube_trio._core.segment import LogNames, SegmentList
from danube_trio._engine.log.engine import Engine
from danube_trio._engine.log.local_files import LocalFiles
from danube_trio._engine.wait.waiters import WatchedMarks
from danube_trio.testing import SimDisk

APPENDS = int(os.environ.get("DANUBE_STORM_APPENDS", "5000"))
# How many producers there are in each round: of few, all may have left the queue before it moves.
ROUNDS = (20, 2, 3, 20, 4, 2)
LIMIT_BYTES = 2000
LEVELS: list[Any] = ["accepted", "written", "fsync"]


# ---- the queue alone


@attrs.define(eq=False)
class Comer:
    """An append as the queue sees it, and what it was told."""

    size_bytes: int
    count: int = 1
    expected_offset: int | None = None
    first: int | None = None
    error: BaseException | None = None
    left: bool = False

    @property
    def records(self) -> Any:
        return [(b"", b"", b"")] * self.count

    @property
    def told(self) -> bool:
        return self.first is not None or self.error is not None

    def accepted(self, first: int) -> None:
        assert not self.told and not self.left
        self.first = first

    def refused(self, error: BaseException) -> None:
        assert not self.told and not self.left
        self.error = error


Step = tuple[str, int]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("comes"), st.integers(1, 1500)),
        st.tuples(st.just("comes with an offset"), st.integers(0, 9)),
        st.tuples(st.just("leaves"), st.integers(0, 9)),
        st.tuples(st.just("is written"), st.integers(1, 2000)),
        st.tuples(st.just("clock fails"), st.integers(0, 1)),
    ),
    max_size=40,
)


@given(STEPS, st.sampled_from(["close_acceptance", "break_", None]))
async def test_the_queue_keeps_the_order_and_tells_everybody_once(
    steps: list[Step], end: str | None
) -> None:
    clock_fails = False

    def clock() -> float:
        if clock_fails:
            raise ZeroDivisionError
        return 1.0

    config = WalConfig(dir="/log", max_pending_bytes=LIMIT_BYTES)
    engine = Engine(config, get_codec(config.codec), WatchedMarks(), clock=clock)
    names, bell = LogNames.of("/log", config.file_name), engine.bells.janitor
    segments, active = SegmentList([], 0), SparseIndex(0)
    engine.files = LocalFiles(
        *(SimDisk(), names, segments, active),
        fetch_bytes=config.read_block_bytes,
        state=engine.log,
        janitor_bell=bell,
    )
    room, intake = engine.queue, engine.intake
    comers: list[Comer] = []
    waiting: list[Comer] = []  # the model

    def check() -> None:
        waiting[:] = [comer for comer in waiting if not comer.told]
        assert len(room) == len(waiting) <= room.peak
        assert not waiting or not intake.has_room(waiting[0].size_bytes)
        accepted = [comer for comer in comers if comer.first is not None]
        assert [c.first for c in accepted] == [
            sum(c.count for c in accepted[:i]) for i in range(len(accepted))
        ], "dense, and in the order of the calls"
        decided = [comer.told for comer in comers if not comer.left]
        assert decided == sorted(decided, reverse=True), "nobody was overtaken"

    for what, number in steps:
        if what.startswith("comes"):
            comer = Comer(number) if what == "comes" else Comer(700, 2, number)
            comers.append(comer)
            room.enter(comer)
            waiting.append(comer)
        elif what == "leaves" and number < len(waiting):
            waiting[number].left = True
            assert room.leave(waiting.pop(number))
        elif what == "is written":
            _, size = intake.take(number)
            intake.release(size)
            room.look()
        elif what == "clock fails":
            clock_fails = number == 1
        check()
    for comer in comers:
        assert comer in waiting or not room.leave(comer), "it is over"
    if end is not None:
        getattr(engine, end)(*([OSError()] if end == "break_" else []))
        assert len(room) == 0
        assert all(isinstance(c.error, LogClosedError | LogBrokenError) for c in waiting)
        late = Comer(9999)
        room.enter(late)
        assert late.error is not None


CANCELLING = ["trio", "anyio-trio", "anyio-asyncio"]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", CANCELLING)
def test_whoever_comes_after_one_that_left_is_written_once(
    name: str, level: Any, tmp_path: Path
) -> None:
    async def scenario(door: Door) -> None:
        disk = GatedDisk()
        config = WalConfig(dir=str(tmp_path), max_pending_bytes=LIMIT_BYTES)
        found: list[int] = []

        async def call(message: bytes) -> None:
            found.append(await wal.append(message + bytes(900), durability=level))

        async with door.open_wal(config, disk=disk) as wal:
            # They leave before, while and after they come to the queue, which is empty then.
            for leavers, steps in itertools.product((1, 2, 3), range(6)):
                await wal.flush()
                disk.gate.clear()
                end = wal.next_offset + 1
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(wal.append, bytes(1900))
                    while wal.next_offset != end:
                        await anyio.lowlevel.checkpoint()
                    with anyio.CancelScope() as scope:
                        async with anyio.create_task_group() as leaving:
                            for _ in range(leavers):
                                leaving.start_soon(call, b"never")
                            for _ in range(steps):
                                await anyio.lowlevel.checkpoint()
                            scope.cancel()
                            tasks.start_soon(call, b"next")
                    while wal.statistics().waiting_appends != 1:
                        await anyio.lowlevel.checkpoint()
                    disk.gate.set()
        assert found == [*range(1, 36, 2)]
        expected = [bytes(4), b"next"] * 18
        assert [payload[:4] for _, payload in in_log(tmp_path)] == expected

    DOORS[name].run(scenario)


@pytest.mark.parametrize("name", [*CANCELLING, "blocking"])
def test_when_the_log_breaks_everybody_in_the_queue_is_told(name: str) -> None:
    async def scenario(door: Door) -> None:
        disk, told = SimDisk(), list[BaseException]()

        async def call(level: Any) -> None:
            with pytest.raises(LogBrokenError) as caught:
                await wal.append(bytes(900), durability=level)
            told.append(caught.value)

        config = WalConfig(dir="/log", max_pending_bytes=LIMIT_BYTES)
        async with door.open_wal(config, disk=disk) as wal:
            disk.fail("write", path_contains=".log")
            async with anyio.create_task_group() as tasks:
                for number in range(12):
                    tasks.start_soon(call, ["written", "fsync"][number % 2])
            assert len(told) == 12
            assert wal.statistics().waiting_appends == 0

    DOORS[name].run(scenario)


# ---- the order, whatever the levels and the ways


@pytest.mark.parametrize("name", ["trio", "anyio-asyncio"])
def test_no_level_and_no_way_overtakes_another(name: str, tmp_path: Path) -> None:
    async def scenario(door: Door) -> None:
        topic, disk = "/default/t", GatedDisk()
        config = StorageConfig(dir=str(tmp_path), wal=WalConfig(max_pending_bytes=LIMIT_BYTES))
        async with (
            door.open("open_store", "memory:") as store,
            door.open("open_storage", config, store=store, disk=disk) as storage,
            storage.topic(topic) as one,
            storage.topic(topic) as another,
        ):
            ways: list[Callable[[], Awaitable[Any]]] = [
                lambda: one.append(bytes(600), durability="uploaded"),
                lambda: another.append(bytes(600), durability="accepted"),
                lambda: storage.append_message(topic, bytes(600), durability="written"),
                lambda: another.append_batch([bytes(600)] * 2),
                lambda: one.append(bytes(600), durability="written"),
                lambda: storage.append_batch(topic, [bytes(600)], durability="accepted"),
            ]
            rng, found = random.Random(0), dict[int, int]()

            async def call(number: int, way: Callable[[], Awaitable[Any]]) -> None:
                result = await way()
                found[number] = result if isinstance(result, int) else result.start

            disk.gate.clear()
            async with anyio.create_task_group() as tasks:
                for number in range(60):
                    tasks.start_soon(call, number, rng.choice(ways))
                    waits, end = one.statistics().waiting_appends, one.next_offset
                    while (one.statistics().waiting_appends, one.next_offset) == (waits, end):
                        await anyio.lowlevel.checkpoint()  # the order of the calls is known
                with pytest.raises(trio.WouldBlock):
                    another.append_nowait(b"")
                disk.gate.set()
            offsets = [found[number] for number in range(60)]
            assert offsets == sorted(offsets)

    DOORS[name].run(scenario)


def test_calls_of_one_loop_are_accepted_in_their_order(tmp_path: Path) -> None:
    async def main() -> None:
        topic = "/default/t"
        async with danube_trio.anyio.open_storage(StorageConfig(dir=str(tmp_path))) as storage:
            await storage.append_message(topic, b"")
            async with storage.topic(topic) as wal:
                for seed in range(20):
                    rng = random.Random(seed)
                    calls = [
                        wal.append(b"", durability=rng.choice(LEVELS))
                        if rng.random() < 0.5
                        else storage.append_message(topic, b"", durability=rng.choice(LEVELS))
                        for _ in range(30)
                    ]
                    offsets = await asyncio.gather(*calls)
                    assert offsets == sorted(offsets)

    asyncio.run(main())


# ---- storms


@attrs.define
class Story:
    """What producers were told: of each message where it is, or that it is not there."""

    accepted: dict[bytes, int] = attrs.Factory(dict[bytes, int])
    withdrawn: set[bytes] = attrs.Factory(set[bytes])
    unknown: set[bytes] = attrs.Factory(set[bytes])

    def check(self, found: list[tuple[int, bytes]]) -> None:
        """Compare with what is in the log."""
        there = {payload: offset for offset, payload in found}
        assert len(there) == len(found), "each once"
        assert [offset for offset, _ in found] == [*range(len(found))]
        assert self.accepted.items() <= there.items()
        assert not self.withdrawn & there.keys()
        assert there.keys() <= self.accepted.keys() | self.unknown
        assert self.accepted and self.withdrawn
        order: dict[bytes, int] = {}
        for _, payload in found:
            producer, number, _ = payload.split(b" ", 2)
            assert int(number) > order.get(producer, -1), "a producer's own order"
            order[producer] = int(number)


def message_of(rng: random.Random, producer: object, number: int) -> bytes:
    return f"{producer} {number} ".encode() + bytes(rng.randrange(100, 900))


def config_of(path: Path) -> WalConfig:
    return WalConfig(dir=str(path), max_pending_bytes=LIMIT_BYTES, segment_bytes=1 << 20)


def in_log(path: Path) -> list[tuple[int, bytes]]:
    with danube_trio.blocking.open_wal(WalConfig(dir=str(path))) as wal:
        return [(m.offset, m.payload) for m in wal.reader(end="current")]


async def append(wal: Any, rng: random.Random, message: bytes) -> int:
    level = rng.choice(LEVELS)
    if rng.random() < 0.8:
        offset: int = await wal.append(message, durability=level)
        return offset
    offsets: range = await wal.append_batch([message], durability=level)
    return offsets.start


def each_of(producers: int) -> int:
    return APPENDS // len(ROUNDS) // producers


def check_quiet(wal: Any) -> None:
    """It was left, so nothing waits."""
    found = wal.statistics()
    assert (found.waiting_appends, found.pending_bytes, found.pending_appends) == (0, 0, 0)


class Tide(threading.Thread):
    """Has a disk stand still now and then, so that the log is full for a while."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.disk = GatedDisk()
        self._rng = random.Random(seed)
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.is_set():
            self.disk.gate.clear()
            self._over.wait(self._rng.random() * 0.004)
            self.disk.gate.set()
            self._over.wait(self._rng.random() * 0.004)

    def __enter__(self) -> GatedDisk:
        self.start()
        return self.disk

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()


@pytest.mark.parametrize("name", CANCELLING)
def test_a_storm_of_cancelled_appends(name: str, tmp_path: Path) -> None:
    story = Story()

    async def produce(wal: Any, producer: str, each: int, tasks: Any) -> None:
        rng = random.Random(producer)
        for number in range(each):
            message = message_of(rng, producer, number)
            how = rng.randrange(4)
            with anyio.CancelScope() as scope:
                if how == 0:
                    scope.deadline = anyio.current_time() + rng.choice([0, 0.0001, 0.001])
                elif how == 1:
                    tasks.start_soon(cancel_later, scope, rng.randrange(6))
                try:
                    story.accepted[message] = await append(wal, rng, message)
                except LogClosedError:
                    story.withdrawn.add(message)
                    return
            if message not in story.accepted:
                story.withdrawn.add(message)

    async def cancel_later(scope: anyio.CancelScope, steps: int) -> None:
        for _ in range(steps):
            await anyio.lowlevel.checkpoint()
        scope.cancel()

    async def scenario(door: Door) -> None:
        async with door.open_wal(WalConfig()) as other:
            for turn, producers in enumerate(ROUNDS):
                async with AsyncExitStack() as stack:
                    disk = stack.enter_context(Tide(turn))
                    cancellers = await stack.enter_async_context(anyio.create_task_group())
                    late = await stack.enter_async_context(anyio.create_task_group())
                    opening = door.open_wal(config_of(tmp_path), disk=disk)
                    wal = await stack.enter_async_context(opening)
                    tasks = await stack.enter_async_context(anyio.create_task_group())
                    left_early = turn == 3  # while they append, and wait
                    each = each_of(producers)
                    for number in range(producers):
                        group = late if left_early else tasks
                        group.start_soon(produce, wal, f"{turn}-{number}", each, cancellers)
                    end = wal.next_offset + each
                    while left_early and not (
                        wal.next_offset > end and wal.statistics().waiting_appends
                    ):
                        await anyio.lowlevel.checkpoint()
                check_quiet(wal)
                assert await other.append(b"") == turn, "the engine lives"

    DOORS[name].run(scenario)
    story.check(in_log(tmp_path))


def test_a_storm_of_cancellations_and_timeouts_of_asyncios_own(tmp_path: Path) -> None:
    story = Story()

    async def one(wal: Any, rng: random.Random, message: bytes) -> None:
        story.accepted[message] = await append(wal, rng, message)

    async def produce(wal: Any, producer: str, each: int) -> None:
        rng = random.Random(producer)
        for number in range(each):
            message = message_of(rng, producer, number)
            try:
                if rng.random() < 0.5:
                    async with asyncio.timeout(rng.choice([0, 0.0001, 0.001, 10])):
                        await one(wal, rng, message)
                else:
                    task = asyncio.create_task(one(wal, rng, message))
                    for _ in range(rng.randrange(8)):
                        await asyncio.sleep(0)
                    if rng.random() < 0.7:
                        task.cancel()
                    await asyncio.wait([task])
                    assert task.cancelled() or not task.exception()
            except TimeoutError:
                pass
            if message not in story.accepted:  # also of a task that never ran
                story.withdrawn.add(message)

    async def main() -> None:
        async with danube_trio.anyio.open_wal(WalConfig()) as other:
            for turn, producers in enumerate(ROUNDS):
                with Tide(turn) as disk:
                    block = danube_trio.anyio.open_wal(config_of(tmp_path), disk=disk)
                    async with block as wal:
                        names = [f"{turn}-{i}" for i in range(producers)]
                        each = each_of(producers)
                        await asyncio.gather(*[produce(wal, name, each) for name in names])
                check_quiet(wal)
                assert await other.append(b"") == turn, "the engine lives"

    asyncio.run(main())
    story.check(in_log(tmp_path))


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="needs signals to threads")
def test_a_storm_of_threads_closings_and_interrupts(tmp_path: Path) -> None:
    """The main thread is interrupted; the others append until the log is closed under them."""
    story, in_call = Story(), False

    def interrupt(*_: object) -> None:
        nonlocal in_call
        if in_call:
            in_call = False  # at once: the next signal may come before the first is dealt with
            raise InterruptError

    def append_now(wal: Any, rng: random.Random, message: bytes) -> None:
        if rng.random() < 0.8:
            story.accepted[message] = wal.append(message, durability=rng.choice(LEVELS))
        else:
            offsets = wal.append_batch([message], durability=rng.choice(LEVELS))
            story.accepted[message] = offsets.start

    def produce(wal: Any, producer: str, each: int) -> None:
        rng = random.Random(producer)
        for number in range(each):
            message = message_of(rng, producer, number)
            try:
                append_now(wal, rng, message)
            except LogClosedError:
                story.withdrawn.add(message)
                return

    def be_interrupted(wal: Any, producer: str, each: int, stop: threading.Event) -> None:
        nonlocal in_call
        rng = random.Random(producer)
        for number in range(each):
            message = message_of(rng, producer, number)
            try:
                in_call = True
                append_now(wal, rng, message)
                in_call = False
            except InterruptError as error:
                for note in getattr(error, "__notes__", []):
                    story.accepted[message] = int(re.findall(r"\d+", note)[0])
                if message not in story.accepted:
                    story.unknown.add(message)  # no effect, or it struck just after the call
            except LogClosedError:
                in_call = False
                story.withdrawn.add(message)
                break
        stop.set()

    def disturb(stop: threading.Event) -> None:
        main = threading.main_thread().ident or 0
        while not stop.wait(0.002):
            signal.pthread_kill(main, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with danube_trio.blocking.open_wal(WalConfig()) as other:
            for turn, producers in enumerate(ROUNDS):
                each, stop = each_of(producers), threading.Event()
                with (
                    Tide(turn) as disk,
                    danube_trio.blocking.open_wal(config_of(tmp_path), disk=disk) as wal,
                ):
                    names = [f"{turn}-{i}" for i in range(producers)]
                    threads = [Thread(produce, wal, name, each) for name in names[1:]]
                    disturber = Thread(disturb, stop)
                    be_interrupted(wal, names[0], each, stop)
                    disturber.join()
                    if turn % 2:
                        wal.close()
                    for thread in threads:
                        thread.join()
                        assert thread.error is None
                check_quiet(wal)
                assert other.append(b"") == turn, "the engine lives"
    finally:
        signal.signal(signal.SIGUSR1, before)
    story.check(in_log(tmp_path))


async def test_what_would_fit_does_not_overtake_what_waits(autojump_clock: MockClock) -> None:
    config = WalConfig(dir="/log", max_pending_bytes=1000)
    async with open_wal(config, disk=SimDisk(latency=1)) as wal, trio.open_nursery() as nursery:
        wal.append_nowait(bytes(600))
        nursery.start_soon(wal.append, bytes(600))
        await wait_all_tasks_blocked()
        assert wal.statistics().waiting_appends == 1
        with pytest.raises(trio.WouldBlock):
            wal.append_nowait(b"small")
