"""The cursor: its saved form, its bounds, and what is left of it after a crash."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncGenerator

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from topics import CURSOR, DANUBE_CURSOR, Metadata, open_backing, settle, store
from trio.testing import MockClock, wait_all_tasks_blocked

from danube_trio import StartPosition
from danube_trio.dispatch import (
    CursorTooLargeError,
    Delivery,
    PoisonPolicy,
    ReliableDispatch,
    SubscriptionOptions,
)
from danube_trio.dispatch._cursor import CursorState, pack_offsets, unpack_offsets
from danube_trio.dispatch._ledger import Ledger
from danube_trio.errors import CorruptDataError, FencedError, StoreUnavailableError
from danube_trio.message import StreamMessage

offset_lists = st.lists(st.integers(0, 1 << 62), unique=True, max_size=30).map(sorted)


@pytest.fixture
def metadata() -> Metadata:
    return Metadata()


@pytest.fixture
async def dispatch(metadata: Metadata) -> AsyncGenerator[ReliableDispatch]:
    async with open_backing("wal") as backing, backing.dispatch(metadata) as dispatch:
        yield dispatch


async def saved_cursor(metadata: Metadata) -> CursorState:
    found = await metadata.get(CURSOR)
    assert found is not None
    return CursorState.decode(found.value, CURSOR)


# -- the saved form


@pytest.mark.parametrize(
    ("state", "holes"),
    [
        (CursorState(), []),
        (CursorState.at(7), []),
        (CursorState(end=0, edge=3, holes=[0]), [0]),
        (CursorState(end=1000, edge=1007, holes=[1000, 1003, 1005]), [1000, 1003, 1005]),
        (CursorState(end=5, edge=1 << 62, holes=[5, 1 << 61]), [5, 1 << 61]),
        (CursorState(end=2, edge=9, holes=[2, 4], attempts={2: 3, 4: 1, 100: 7}), [2, 4]),
        (CursorState(end=3, edge=3, owner="me", saves=12), []),
    ],
)
def test_a_cursor_is_read_as_it_was_saved(state: CursorState, holes: list[int]) -> None:
    value = state.encode()
    assert CursorState.decode(value, "key") == state
    document = json.loads(value)
    assert list(document) == sorted(document)
    assert unpack_offsets(document["holes"]) == holes


def test_the_saved_form_is_what_its_documentation_says() -> None:
    assert CursorState.at(7, owner="me", saves=2).encode() == (
        b'{"attempts":"","edge":7,"end":7,"holes":"","owner":"me","saves":2,"version":1}'
    )


@given(offset_lists)
def test_offsets_are_unpacked_as_they_were_packed(offsets: list[int]) -> None:
    assert unpack_offsets(pack_offsets(offsets)) == offsets


@given(offset_lists.filter(bool), st.data())
def test_damaged_offsets_are_an_error_or_other_offsets(
    offsets: list[int], data: st.DataObject
) -> None:
    packed = pack_offsets(offsets)
    at = data.draw(st.integers(0, len(packed) - 1))
    damaged = packed[:at] + data.draw(st.text(max_size=1)) + packed[at + 1 :]
    try:
        found = unpack_offsets(damaged)
    except ValueError:
        return
    assert found == sorted(set(found))


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"", "JSONDecodeError"),
        (b"17", "TypeError"),
        (b"{}", "KeyError"),
        (b'{"version":2}', "version 2 is not known"),
        (CursorState.at(7).encode().replace(b'"end":7', b'"end":8'), "contradicts"),
        (CursorState.at(7).encode().replace(b'"end":7', b'"end":-1'), "no offset"),
        (CursorState.at(7).encode().replace(b'"holes":""', b'"holes":"x"'), "packed offsets"),
        (CursorState.at(7).encode().replace(b'"holes":""', b'"holes":"AAAA"'), "0 bytes"),
        (CursorState.at(7).encode().replace(b'"owner":""', b'"owner":1'), "no text"),
    ],
)
def test_a_cursor_that_cannot_be_read_names_its_key(value: bytes, reason: str) -> None:
    with pytest.raises(CorruptDataError, match=reason) as caught:
        CursorState.decode(value, "/the/key")
    assert caught.value.path == "/the/key"
    assert "add it again" in str(caught.value)


@pytest.mark.happens
@pytest.mark.parametrize(
    ("value", "end"), [(b"0", 1), (b"1", 2), (b"17", 18), (b"9007199254740993", 9007199254740994)]
)
def test_danubes_cursor_is_inclusive_and_its_zero_is_message_0(value: bytes, end: int) -> None:
    assert CursorState.from_danube(value, DANUBE_CURSOR) == CursorState.at(end)


# -- bounds


def test_a_million_holes_fit() -> None:
    chance = random.Random(5)
    ledger = Ledger(CursorState())
    settled = bytearray(2_000_000)
    message = StreamMessage()
    for offset in range(len(settled)):
        message.offset = offset
        entry = ledger.enter(message)
        if chance.random() < 0.5:
            ledger.settle(entry)
            settled[offset] = 1
    state = ledger.snapshot(in_flight_failed=False)
    fitted, value = state.fitted(SubscriptionOptions().max_cursor_bytes)
    assert fitted is state and len(value) < 700_000
    holes = set(state.holes)
    assert len(holes) == pytest.approx(1_000_000, rel=0.01)
    assert all(settled[o] == (o not in holes) for o in range(state.edge))
    assert not any(settled[state.edge :])
    assert CursorState.decode(value, "key") == state


@given(offset_lists.filter(lambda holes: len(holes) > 3), st.integers(100, 600))
def test_what_does_not_fit_is_left_out_from_the_end(holes: list[int], limit: int) -> None:
    state = CursorState(
        end=holes[0], edge=holes[-1] + 2, holes=holes, attempts=dict.fromkeys(holes[::3], 2)
    )
    fitted, value = state.fitted(limit)
    assert CursorState.decode(value, "key") == fitted
    assert len(value) <= limit or fitted.edge == fitted.end
    assert fitted.end == state.end
    for offset in {*holes, *(hole + 1 for hole in holes)}:
        assert state.is_settled(offset) or not fitted.is_settled(offset)


@pytest.mark.happens
async def test_a_cursor_that_is_too_large_holds_new_messages_back_and_loses_nothing(
    dispatch: ReliableDispatch, metadata: Metadata
) -> None:
    options = SubscriptionOptions(
        max_unacked_messages=10_000, max_cursor_bytes=1024, max_unsaved_acks=None
    )
    subscription = await dispatch.add_subscription("billing", options)
    await store(dispatch, 12_000)
    chance = random.Random(3)
    async with subscription.consumer() as consumer:
        held: list[Delivery] = []
        while len(held) < 10_000:
            held += await consumer.receive(10_000)
        acked = [d for d in held if chance.random() < 0.5 and d.ack()]
        with pytest.raises(CursorTooLargeError) as caught:
            await subscription.flush()
        saved = await saved_cursor(metadata)
        assert saved.edge == caught.value.unsaved_from
        assert not [d.offset for d in held if saved.is_settled(d.offset) and d not in acked]
        more: list[Delivery] = []

        async def receive() -> None:
            more.extend(await consumer.receive(1))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            await wait_all_tasks_blocked()
            assert not more
            consumer.ack(held)
            await subscription.flush()
            assert subscription.saved_end == 10_000
        assert more[0].offset == 10_000


# -- crashes


@pytest.mark.happens
async def test_a_crash_redelivers_what_was_not_saved_and_nothing_else(
    metadata: Metadata, autojump_clock: MockClock
) -> None:
    options = SubscriptionOptions(max_unacked_messages=100)
    after = metadata
    async with open_backing("wal") as backing:
        try:
            async with backing.dispatch(metadata) as dispatch:
                await store(dispatch, 50)
                subscription = await dispatch.add_subscription("billing", options)
                async with subscription.consumer() as consumer:
                    held = await consumer.receive(40)
                    consumer.ack(held[::2])
                    await subscription.flush()
                    consumer.ack(held[:10])
                    after = metadata.left_behind()
        except StoreUnavailableError:
            pass  # the killed process could not save on leaving
        async with backing.dispatch(after) as dispatch:
            subscription = await dispatch.add_subscription("billing", options)
            assert await subscription.lag() == 30
            assert await settle(subscription, 30) == [*range(1, 40, 2), *range(40, 50)]
            await subscription.flush()
            assert subscription.saved_end == 50


async def test_attempts_survive_a_crash(metadata: Metadata, autojump_clock: MockClock) -> None:
    options = SubscriptionOptions(max_redeliveries=4, poison_policy=PoisonPolicy.DROP)
    async with open_backing("wal") as backing:
        for attempt in range(1, 6):
            try:
                async with backing.dispatch(metadata) as dispatch:
                    if attempt == 1:
                        await store(dispatch, 1)
                    subscription = await dispatch.add_subscription("billing", options)
                    async with subscription.take() as message:
                        assert message.attempt == attempt
                        message.nack()
                    await trio.sleep(0.5)  # saved, though nothing was acknowledged
                    assert (await subscription.statistics()).dropped == (attempt == 5)
                    metadata = metadata.left_behind()
            except StoreUnavailableError:
                pytest.fail("there was nothing left to save")


@pytest.mark.happens
async def test_poison_is_still_poison_after_a_crash(
    metadata: Metadata, autojump_clock: MockClock
) -> None:
    options = SubscriptionOptions(max_redeliveries=0)
    async with open_backing("wal") as backing:
        async with backing.dispatch(metadata) as dispatch:
            await store(dispatch, 2)
            subscription = await dispatch.add_subscription("billing", options)
            async with subscription.take() as message:
                message.nack(reason="bad")
        async with backing.dispatch(metadata) as dispatch:
            subscription = await dispatch.add_subscription("billing", options)
            with trio.move_on_after(10) as scope:
                async with subscription.take():
                    pass
            assert scope.cancelled_caught
            (blocked,) = subscription.blocked()
            assert (blocked.offset, blocked.failures) == (0, 1)


@pytest.mark.parametrize(("counted", "attempt"), [(False, 1), (True, 2)])
async def test_a_crash_is_a_failure_only_if_it_shall_count(
    metadata: Metadata, counted: bool, attempt: int
) -> None:
    options = SubscriptionOptions(count_crashes=counted)
    after = metadata
    async with open_backing("wal") as backing:
        try:
            async with backing.dispatch(metadata) as dispatch:
                await store(dispatch, 2)
                subscription = await dispatch.add_subscription("billing", options)
                async with subscription.take():
                    after = metadata.left_behind()
        except StoreUnavailableError:
            pass
        async with backing.dispatch(after) as dispatch:
            subscription = await dispatch.add_subscription("billing", options)
            async with subscription.take() as message:
                assert (message.offset, message.attempt) == (0, attempt)
            async with subscription.take() as message:
                assert (message.offset, message.attempt) == (1, 1)


async def test_a_hand_out_that_was_cancelled_is_no_crash(metadata: Metadata) -> None:
    options = SubscriptionOptions(count_crashes=True)
    async with open_backing("wal") as backing:
        for _ in range(3):
            async with backing.dispatch(metadata) as dispatch:
                if not await dispatch.topic_store.current_offset():
                    await store(dispatch, 1)
                subscription = await dispatch.add_subscription("billing", options)
                with trio.CancelScope() as scope:
                    async with subscription.take() as message:
                        assert message.attempt == 1
                        scope.cancel()
                        await trio.lowlevel.checkpoint()


async def test_a_hand_out_that_cannot_be_recorded_is_taken_back(metadata: Metadata) -> None:
    options = SubscriptionOptions(count_crashes=True)
    async with open_backing("wal") as backing, backing.dispatch(metadata) as dispatch:
        await store(dispatch, 1)
        subscription = await dispatch.add_subscription("billing", options)
        metadata.down = True
        with pytest.raises(StoreUnavailableError):
            async with subscription.take():
                pass
        metadata.down = False
        async with subscription.take() as message:
            assert message.attempt == 1


async def test_unsaved_acknowledgements_are_bounded(
    dispatch: ReliableDispatch, metadata: Metadata, autojump_clock: MockClock
) -> None:
    options = SubscriptionOptions(max_unsaved_acks=5, save_interval=1000)
    subscription = await dispatch.add_subscription("billing", options)
    await store(dispatch, 20)
    metadata.down = True
    assert await settle(subscription, 5) == [0, 1, 2, 3, 4]
    with trio.move_on_after(3) as scope:
        await settle(subscription, 1)
    assert scope.cancelled_caught
    assert (await subscription.statistics()).save_failures > 1
    with pytest.raises(StoreUnavailableError):
        await subscription.flush()
    metadata.down = False
    assert await settle(subscription, 15) == list(range(5, 20))


async def test_saving_is_batched(
    dispatch: ReliableDispatch, metadata: Metadata, autojump_clock: MockClock
) -> None:
    subscription = await dispatch.add_subscription(
        "billing", SubscriptionOptions(save_interval=0.5, max_unsaved_acks=None)
    )
    await store(dispatch, 1000)
    before = metadata.writes
    await settle(subscription, 1000)
    assert metadata.writes == before
    await trio.sleep(1)
    assert metadata.writes == before + 1
    assert subscription.saved_end == 1000


async def test_what_is_acknowledged_during_a_save_is_saved_by_the_next_one(
    dispatch: ReliableDispatch, metadata: Metadata, autojump_clock: MockClock
) -> None:
    subscription = await dispatch.add_subscription("billing", SubscriptionOptions(save_interval=5))
    await store(dispatch, 2)
    async with subscription.consumer() as consumer:
        first, second = await consumer.receive(2)
        first.ack()
        metadata.gate = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(subscription.flush)
            await wait_all_tasks_blocked()
            second.ack()
            metadata.gate.set()
        assert subscription.saved_end == 1
        await subscription.flush()
        assert subscription.saved_end == 2


async def test_a_lost_answer_is_found_out(
    dispatch: ReliableDispatch, metadata: Metadata, autojump_clock: MockClock
) -> None:
    subscription = await dispatch.add_subscription("billing")
    await store(dispatch, 3)
    await settle(subscription, 2)
    metadata.lost_answers = 1
    with pytest.raises(StoreUnavailableError, match="lost"):
        await subscription.flush()
    await settle(subscription, 1)
    await subscription.flush()
    saved = await saved_cursor(metadata)
    assert saved.end == 3


@pytest.mark.happens
async def test_another_program_that_opens_it_takes_it_over(metadata: Metadata) -> None:
    async with open_backing("wal") as backing:
        async with backing.dispatch(metadata) as first, backing.dispatch(metadata) as second:
            await store(first, 3)
            old = await first.add_subscription("billing")
            await settle(old, 1)
            new = await second.add_subscription("billing")
            async with old.take() as message:
                assert message.offset == 1
            with pytest.raises(FencedError):
                await old.flush()
            with pytest.raises(FencedError):
                async with old.take():
                    pass
            assert (await old.statistics()).phase == "failed"
            assert await settle(new, 3) == [0, 1, 2]


async def test_leaving_saves(metadata: Metadata) -> None:
    async with open_backing("wal") as backing:
        async with backing.dispatch(metadata) as dispatch:
            await store(dispatch, 3)
            await settle(await dispatch.add_subscription("billing"), 2)
        async with backing.dispatch(metadata) as dispatch:
            assert dispatch.subscriptions() == {"billing": None}
            assert await settle(await dispatch.add_subscription("billing"), 1) == [2]


async def test_a_cancelled_program_saves_too(metadata: Metadata) -> None:
    async with open_backing("wal") as backing:
        with trio.CancelScope() as scope:
            async with backing.dispatch(metadata) as dispatch:
                await store(dispatch, 3)
                await settle(await dispatch.add_subscription("billing"), 2)
                scope.cancel()
                await trio.sleep_forever()
        assert scope.cancelled_caught
        async with backing.dispatch(metadata) as dispatch:
            assert (await dispatch.add_subscription("billing")).end == 2


@pytest.mark.happens
async def test_leaving_tells_that_it_could_not_save(metadata: Metadata) -> None:
    async with open_backing("wal") as backing:
        with pytest.raises(StoreUnavailableError, match="out of reach"):
            async with backing.dispatch(metadata) as dispatch:
                await store(dispatch, 3)
                await settle(await dispatch.add_subscription("billing"), 2)
                metadata.down = True
        metadata.down = False
        with pytest.raises(ZeroDivisionError) as caught:
            async with backing.dispatch(metadata) as dispatch:
                await settle(await dispatch.add_subscription("billing"), 1)
                metadata.down = True
                raise ZeroDivisionError
        assert "were not saved" in caught.value.__notes__[0]


@pytest.mark.happens
async def test_a_metadata_store_that_hangs_does_not_hold_leaving_up(
    autojump_clock: MockClock,
) -> None:
    class Hanging(Metadata):
        hangs = False

        async def transact(self, *args: object, **kwargs: object) -> int | None:
            if self.hangs:
                await trio.sleep_forever()
            return await super().transact(*args, **kwargs)  # type: ignore[arg-type] # as given

    metadata = Hanging()
    async with open_backing("wal") as backing:
        with pytest.raises(TimeoutError, match="billing"):
            async with backing.dispatch(metadata, save_grace=3) as dispatch:
                await store(dispatch, 3)
                await settle(await dispatch.add_subscription("billing"), 2)
                metadata.hangs = True


# -- Danube's own key


async def test_danubes_key_follows(dispatch: ReliableDispatch, metadata: Metadata) -> None:
    subscription = await dispatch.add_subscription("billing")
    assert await metadata.get(DANUBE_CURSOR) is None
    await store(dispatch, 5)
    await settle(subscription, 4)
    await subscription.flush()
    there = await metadata.get(DANUBE_CURSOR)
    assert there is not None and there.value == b"3"
    await subscription.seek(StartPosition.earliest())
    assert await metadata.get(DANUBE_CURSOR) is None


async def test_a_subscription_moves_over_from_danube(
    dispatch: ReliableDispatch, metadata: Metadata
) -> None:
    await store(dispatch, 5)
    await metadata.put(DANUBE_CURSOR, b"2")
    subscription = await dispatch.add_subscription("billing")
    assert await settle(subscription, 2) == [3, 4]


async def test_a_cursor_of_another_log_is_refused(metadata: Metadata) -> None:
    async with open_backing("wal") as backing, backing.dispatch(metadata) as dispatch:
        await store(dispatch, 5)
        await settle(await dispatch.add_subscription("billing"), 5)
    async with open_backing("wal") as other, other.dispatch(metadata) as dispatch:
        await store(dispatch, 3)
        with pytest.raises(CorruptDataError, match="do not belong together"):
            await dispatch.add_subscription("billing")
        assert await dispatch.remove_subscription("billing")
        assert (await dispatch.add_subscription("billing")).end == 0


# -- what a resumed cursor knows of messages that were not read yet

RESUMED = CursorState(end=0, edge=9, holes=[0, 3, 5], attempts={0: 1, 5: 2, 20: 4}, rejected=[5])


def test_what_a_resumed_cursor_knows_is_in_its_first_save() -> None:
    saved = Ledger(RESUMED).snapshot(False)
    assert (saved.end, saved.edge, list(saved.holes)) == (0, 9, [0, 3, 5])
    assert (saved.attempts, saved.rejected) == (RESUMED.attempts, [5])
    again = CursorState.decode(saved.encode(), CURSOR)
    assert (again.attempts, again.rejected) == (RESUMED.attempts, [5])


def test_what_is_gone_from_the_log_is_gone_from_a_resumed_cursor() -> None:
    ledger = Ledger(RESUMED)
    assert ledger.lose(0, 4) == 2
    ledger.pass_to(4)
    saved = ledger.snapshot(False)
    assert (saved.end, saved.edge, list(saved.holes)) == (5, 9, [5])
    assert saved.attempts == {5: 2, 20: 4}
