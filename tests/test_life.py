"""The life of a log: which turn leads where, and who is told that acknowledged records are lost.

What a call of the user's raises need not be said again. What a task got that swallows it (uploading
idle topics, retention, a subscription that nobody takes from) was told to nobody: leaving says it.
"""

from __future__ import annotations

import ast
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import product
from pathlib import Path

import attrs
import pytest
import trio
from cloud_model import CONFIG, World
from topics import Metadata, settle
from trio.testing import MockClock, wait_all_tasks_blocked

import danube_trio
from danube_trio import (
    FencedError,
    LogBrokenError,
    LogClosedError,
    StartPosition,
    Storage,
    StorageConfig,
    Wal,
    WalConfig,
    WalStorage,
    open_storage,
    open_wal,
)
from danube_trio._core.life import TURNS, Life, Phase, Turn
from danube_trio.dispatch import (
    PoisonPolicy,
    ReliableDispatch,
    ReliableOptions,
    RetentionPolicy,
    SubscriptionOptions,
)
from danube_trio.testing import SimDisk, SimStore

PACKAGE = Path(danube_trio.__file__).parent
QUIET = attrs.evolve(CONFIG, cloud=attrs.evolve(CONFIG.cloud, upload_interval=None))
FENCE = FencedError(1, "another")
TOPIC = "/default/t"

# ---- the table


def take(life: Life, turn: Turn) -> None:
    turns: dict[Turn, Callable[[], object]] = {
        Turn.SEAL: life.seal,
        Turn.FENCE: lambda: life.fenced(FENCE),
        Turn.BREAK: lambda: life.break_(OSError("disk"), range(3, 5)),
        Turn.LEAVE: life.leave,
        Turn.END: life.end,
        Turn.FORK: life.fork,
    }
    turns[turn]()


WAYS: dict[Phase, tuple[Turn, ...]] = {
    Phase.OPEN: (),
    Phase.SEALED: (Turn.SEAL,),
    Phase.FENCED: (Turn.FENCE,),
    Phase.CLOSING: (Turn.LEAVE,),
    Phase.CLOSED: (Turn.LEAVE, Turn.END),
    Phase.BROKEN: (Turn.BREAK,),
}
# Where the turns lead, in the order of `Turn`; a dot is a turn that changes nothing.
LEADS = {
    Phase.OPEN: "sealed fenced broken closing . closed",
    Phase.SEALED: ". fenced broken closing . closed",
    Phase.FENCED: ". . broken closing . closed",
    Phase.CLOSING: ". . broken . closed closed",
    Phase.CLOSED: ". . . . . .",
    Phase.BROKEN: ". . . . . closed",
}


def in_phase(phase: Phase) -> Life:
    life = Life()
    for turn in WAYS[phase]:
        take(life, turn)
    assert life.phase is phase
    return life


@pytest.mark.parametrize(("phase", "turn"), list(product(Phase, Turn)))
def test_each_turn_leads_from_each_phase_where_the_table_says(phase: Phase, turn: Turn) -> None:
    life = in_phase(phase)
    there = LEADS[phase].split()[list(Turn).index(turn)]
    take(life, turn)
    assert life.phase.value == (phase.value if there == "." else there)
    assert TURNS[phase].get(turn, phase) is life.phase


def test_nothing_but_the_life_of_a_log_sets_its_phase() -> None:
    found: list[str] = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Attribute)
                and node.attr == "phase"
                and not isinstance(node.ctx, ast.Load)
            ):
                found.append(path.relative_to(PACKAGE).as_posix())
    # A subscription has a life of its own.
    assert set(found) == {"_core/life.py", "dispatch/_state.py"}


def test_asking_why_tells_nobody() -> None:
    life = in_phase(Phase.FENCED)
    first, second = life.refusal(), life.refusal()
    assert isinstance(first, FencedError)
    assert first is not second
    assert life.untold_fence is FENCE
    life.told(LogClosedError("the log is closed"))
    assert life.untold_fence is FENCE
    life.leave()
    life.end()
    assert isinstance(life.refusal(), LogClosedError)
    assert life.untold_fence is FENCE, "it stays when the log is left"
    life.told(first)
    assert life.untold_fence is None


def test_only_the_first_failure_counts_and_says_what_may_be_lost() -> None:
    life = Life()
    first = OSError("first")
    assert life.break_(first, range(30, 50))
    assert not life.break_(OSError("second"), range(30, 60))
    assert (life.phase, life.failure, life.lost) == (Phase.BROKEN, first, 20)
    error = life.refusal()
    assert isinstance(error, LogBrokenError)
    assert (error.__cause__, life.lost) == (first, 20)
    for told, left in (((45, 48), 17), ((0, 31), 16), ((45, 47), 16), ((30, 99), 0)):
        life.told(error, range(*told))
        assert life.lost == left  # offsets 30 to 50, each counted once


def test_records_that_vanished_count_until_somebody_is_told_that_the_log_broke() -> None:
    life = Life()
    life.break_(OSError("gone"), range(8, 10), vanished=5, explained=True)
    assert life.lost == 7
    assert str(life.refusal()) == "the log is broken: gone"
    life.told(FENCE)
    assert life.lost == 7
    life.told(life.refusal())
    assert life.lost == 2


# ---- a fence that cuts off what was acknowledged


@asynccontextmanager
async def cut_off() -> AsyncGenerator[Wal]:
    """A log with an acknowledged record that another writer's take-over has cut off.

    The log does not know it yet.
    """
    world = World.new("manifests")
    async with world.open(QUIET) as wal:
        for i in range(20):
            await wal.append(b"%d" % i * 40)
        await wal.wait_uploaded(20)
        await wal.append(b"acknowledged")
        async with world.process(SimDisk()).open(QUIET) as other:
            await other.append(b"theirs", durability="uploaded")
        yield wal


async def meets_the_fence(wal: Wal) -> None:
    """Something that is no call of the user's."""
    engine = wal._engine
    assert engine.cloud is not None
    engine.cloud.want_uploaded(engine.marks.next_offset)
    await trio.sleep(10)
    assert wal.phase == "fenced"


@pytest.mark.happens
async def test_leaving_tells_of_a_fence_that_only_housekeeping_met(
    autojump_clock: MockClock,
) -> None:
    with pytest.raises(FencedError):
        async with cut_off() as wal:
            await meets_the_fence(wal)


async def take_all(wal: Wal) -> None:
    async for _ in wal.reader(StartPosition.latest()):
        pass


USERS: dict[str, Callable[[Wal], Awaitable[object]]] = {
    "append": lambda wal: wal.append(b"x"),
    "append for the store": lambda wal: wal.append(b"x", durability="uploaded"),
    "append_batch": lambda wal: wal.append_batch([]),
    "append_nowait": lambda wal: trio.to_thread.run_sync(
        lambda: trio.from_thread.run_sync(wal.append_nowait, b"x")
    ),
    "wait_durable": lambda wal: wal.wait_durable(100),
    "wait_uploaded": lambda wal: wal.wait_uploaded(21),
    "seal": lambda wal: wal.seal(),
    "trim": lambda wal: wal.trim(1),
    "a reader": take_all,
}


@pytest.mark.parametrize("call", USERS)
async def test_leaving_does_not_repeat_a_fence_that_a_call_raised(
    call: str, autojump_clock: MockClock
) -> None:
    async with cut_off() as wal:
        await meets_the_fence(wal)
        with pytest.raises(FencedError):
            await USERS[call](wal)


@pytest.mark.parametrize("call", ["append for the store", "wait_uploaded", "seal", "a reader"])
async def test_nor_one_that_came_while_the_call_waited(
    call: str, autojump_clock: MockClock
) -> None:
    async with cut_off() as wal, trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _() -> None:
            with pytest.raises(FencedError):
                await USERS[call](wal)

        await wait_all_tasks_blocked()
        if wal.phase == "open":
            await meets_the_fence(wal)


async def test_nor_one_that_a_receipt_or_a_trim_was_the_first_to_meet(
    autojump_clock: MockClock,
) -> None:
    async with cut_off() as wal:
        receipt = wal.append_nowait(b"x")
        with pytest.raises(FencedError):
            await receipt.uploaded()
    async with cut_off() as wal:
        with pytest.raises(FencedError):
            await wal.trim(19)
        assert wal.phase == "fenced"


async def test_an_append_that_waited_for_room_was_told(autojump_clock: MockClock) -> None:
    world = World.new("manifests")
    cloud = attrs.evolve(QUIET.cloud, max_local_bytes=1000)
    async with world.open(attrs.evolve(QUIET, cloud=cloud)) as wal:
        world.store.fail(None, sticky=True)
        await wal.append(bytes(1000))
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def _() -> None:
                with pytest.raises(FencedError):
                    await wal.append(b"x")

            await wait_all_tasks_blocked()
            assert wal.statistics().waiting_appends == 1
            wal._engine.fenced(FENCE)


@pytest.mark.happens
async def test_a_cancelled_body_does_not_hide_the_fence(autojump_clock: MockClock) -> None:
    with pytest.raises(FencedError):
        with trio.move_on_after(100):
            async with cut_off() as wal:
                await meets_the_fence(wal)
                await trio.sleep_forever()


@pytest.mark.happens
async def test_what_the_body_raised_has_the_fence_as_a_note(autojump_clock: MockClock) -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        async with cut_off() as wal:
            await meets_the_fence(wal)
            raise ZeroDivisionError
    assert any("was fenced by" in note for note in caught.value.__notes__)


# ---- topics


QUIET_TOPIC = WalConfig(segment_bytes=4000, preallocate_bytes=0)


@asynccontextmanager
async def topic_cut_off(dispatched: ReliableOptions | None = None) -> AsyncGenerator[Storage]:
    """A storage whose topic was taken over, and closed since for being idle."""
    store = SimStore()
    one = StorageConfig(dir="/data", wal=QUIET_TOPIC, idle_seconds=1.0)
    two = attrs.evolve(one, idle_seconds=1000.0)
    async with AsyncExitStack() as stack:
        opening = open_storage(one, store=store, disk=SimDisk())
        storage = await stack.enter_async_context(opening)
        await storage.append_message(TOPIC, b"one", durability="uploaded")
        if dispatched is not None:
            dispatch = ReliableDispatch.new_with_persistent(TOPIC, dispatched, None, storage)
            await stack.enter_async_context(dispatch)
        async with open_storage(two, store=store.client(), disk=SimDisk()) as other:
            await storage.append_message(TOPIC, b"acknowledged")
            await other.append_message(TOPIC, b"theirs", durability="uploaded")
            await trio.sleep(60)
            assert storage.open_topics() == []
            yield storage


@pytest.mark.happens
async def test_a_topic_that_is_idle_and_fenced_is_told_of_on_leaving(
    autojump_clock: MockClock,
) -> None:
    with pytest.raises(FencedError):
        async with topic_cut_off():
            pass


async def test_a_topic_that_is_idle_and_fenced_is_told_of_once(autojump_clock: MockClock) -> None:
    async with topic_cut_off() as storage:
        with pytest.raises(FencedError):
            await storage.append_message(TOPIC, b"x")


async def test_retention_of_a_closed_topic_does_not_take_the_answer_away(
    autojump_clock: MockClock,
) -> None:
    options = ReliableOptions(
        retention_policy=RetentionPolicy.RETAIN_UNTIL_EXPIRE, retention_interval=100.0
    )
    with pytest.raises(FencedError):
        async with topic_cut_off(options):
            await trio.sleep(100)


# ---- dispatch


def over(wal: Wal, options: ReliableOptions | None = None) -> ReliableDispatch:
    return ReliableDispatch.new_with_persistent(
        TOPIC, options or ReliableOptions(), None, WalStorage.from_wal(wal), metadata=Metadata()
    )


async def test_a_fence_that_only_retention_met_is_told_on_leaving(
    autojump_clock: MockClock,
) -> None:
    options = ReliableOptions(
        retention_policy=RetentionPolicy.RETAIN_UNTIL_ACK, retention_interval=1.0
    )
    with pytest.raises(FencedError):
        async with cut_off() as wal, over(wal, options) as dispatch:
            await settle(await dispatch.add_subscription("billing"), 18)
            await trio.sleep(60)
            assert wal.phase == "fenced"


async def test_a_fence_that_only_the_retention_call_met_was_told(
    autojump_clock: MockClock,
) -> None:
    options = ReliableOptions(
        retention_policy=RetentionPolicy.RETAIN_UNTIL_ACK, retention_interval=1000.0
    )
    async with cut_off() as wal, over(wal, options) as dispatch:
        subscription = await dispatch.add_subscription("billing")
        await settle(subscription, 18)
        await subscription.flush()
        with pytest.raises(FencedError):
            await dispatch.apply_retention()


@pytest.mark.happens
async def test_a_fence_that_only_a_subscription_met_is_told_on_leaving(
    autojump_clock: MockClock,
) -> None:
    with pytest.raises(FencedError):
        async with cut_off() as wal, over(wal) as dispatch:
            await settle(await dispatch.add_subscription("billing"), 21)  # it waits for more
            await wait_all_tasks_blocked()
            await meets_the_fence(wal)


@pytest.mark.happens
async def test_a_fence_that_only_dead_letters_met_is_told_on_leaving(
    autojump_clock: MockClock,
) -> None:
    options = SubscriptionOptions(
        poison_policy=PoisonPolicy.DEAD_LETTER, max_redeliveries=0, dead_letter_topic="/default/d"
    )
    with pytest.raises(FencedError):
        async with cut_off() as letters, open_wal(WalConfig()) as wal:
            await meets_the_fence(letters)
            dispatch = ReliableDispatch.new_with_persistent(
                TOPIC,
                ReliableOptions(),
                None,
                WalStorage.from_wal(wal),
                dead_letter_storage=WalStorage.from_wal(letters),
            )
            async with dispatch:
                await dispatch.store_message(b"poison")
                subscription = await dispatch.add_subscription("billing", options)
                async with subscription.take() as message:
                    message.nack()
                await trio.sleep(60)
                assert (await subscription.statistics()).dead_letter_failures


async def taken_over(told: bool) -> None:
    """A program has acknowledged, and another takes the subscription before that is saved."""
    metadata = Metadata()
    slow = SubscriptionOptions(save_interval=5.0)
    async with open_wal(WalConfig()) as wal:

        def dispatch() -> ReliableDispatch:
            storage = WalStorage.from_wal(wal)
            options = ReliableOptions()
            return ReliableDispatch.new_with_persistent(
                TOPIC, options, None, storage, metadata=metadata
            )

        async with dispatch() as one, dispatch() as two:
            await one.store_batch([b"0", b"1"])
            subscription = await one.add_subscription("billing", slow)
            await settle(subscription, 1)
            await two.add_subscription("billing", slow)
            await trio.sleep(10)
            if told:
                with pytest.raises(FencedError):
                    await settle(subscription, 1)


@pytest.mark.happens
async def test_acknowledgements_that_a_take_over_lost_are_told_of(
    autojump_clock: MockClock,
) -> None:
    with pytest.raises(FencedError):
        await taken_over(told=False)
    await taken_over(told=True)
