"""A writer's session: taking over, pending changes, and being fenced."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
from catalogs import QUICK, Gate, begin, commit, held, live, publish, segment, take_over
from trio.testing import MockClock

from danube_trio._core.catalog import CatalogState
from danube_trio.catalog import (
    Backoff,
    Catalog,
    CatalogSession,
    ManifestCatalog,
    MetadataCatalog,
    acquire,
)
from danube_trio.errors import FencedError, StoreUnavailableError
from danube_trio.metadata import MemoryMetadata
from danube_trio.testing import SimStore

Change = Callable[[CatalogState], CatalogState]


def open_catalog(store: SimStore) -> ManifestCatalog:
    return ManifestCatalog(store, "log", backoff=QUICK)


async def open_session(store: SimStore, owner: str = "a") -> CatalogSession:
    catalog = open_catalog(store)
    return CatalogSession(catalog, await acquire(catalog, settler(owner), backoff=QUICK))


def settler(owner: str) -> Callable[[CatalogState | None], Awaitable[CatalogState]]:
    async def settle(state: CatalogState | None) -> CatalogState:
        await trio.lowlevel.checkpoint()
        return state.taken_over(owner, f"writer {owner}") if state else begin(owner)

    return settle


# ---- acquire


async def test_acquire_begins_and_takes_over() -> None:
    store = SimStore()
    first = await open_session(store)
    assert (first.state.epoch, first.state.sequence, first.state.owner) == (1, 1, "a")
    second = await open_session(store, "b")
    assert (second.state.epoch, second.state.owner_since_epoch) == (2, 2)
    again = await open_session(store, "b")
    assert (again.state.epoch, again.state.owner_since_epoch) == (3, 2)


@pytest.mark.parametrize("kind", ["store", "metadata"])
async def test_all_openers_get_through_one_after_the_other(
    kind: str, autojump_clock: MockClock
) -> None:
    store, metadata = SimStore(), MemoryMetadata()
    epochs: list[int] = []

    def make() -> Catalog:
        if kind == "store":
            return open_catalog(store.client())
        return MetadataCatalog(metadata, "/a/b", backoff=QUICK)

    async def opener(number: int) -> None:
        state = await acquire(make(), settler(f"{number}"), backoff=Backoff(attempts=50))
        epochs.append(state.epoch)

    async with trio.open_nursery() as nursery:
        for number in range(8):
            nursery.start_soon(opener, number)
    assert sorted(epochs) == list(range(1, 9))


async def test_acquire_settles_with_what_it_then_replaces(autojump_clock: MockClock) -> None:
    store = SimStore()
    other = await open_session(store)
    seen: list[int] = []

    async def settle(state: CatalogState | None) -> CatalogState:
        assert state is not None
        seen.append(state.end)
        if len(seen) == 1:
            await other.change(commit)
        return state.taken_over("b", "b")

    state = await acquire(open_catalog(store), settle, backoff=QUICK)
    assert seen == [0, 10]
    assert state.end == 10


@pytest.mark.happens
@pytest.mark.parametrize("kind", ["store", "metadata"])
async def test_a_writer_that_publishes_all_the_time_is_taken_over(
    kind: str, autojump_clock: MockClock
) -> None:
    store, metadata = SimStore(), MemoryMetadata()

    def make() -> Catalog:
        if kind == "store":
            return open_catalog(store.client())
        return MetadataCatalog(metadata, "/a/b", backoff=QUICK)

    catalog = make()
    other = CatalogSession(catalog, await acquire(catalog, settler("a")))
    settled: list[tuple[int, str]] = []

    async def settle(state: CatalogState | None) -> CatalogState:
        assert state is not None
        settled.append((state.epoch, state.owner))
        try:
            await other.change(commit)  # while we look at our directory
        except FencedError as error:
            assert (error.epoch, "(epoch 2)" in error.by) == (1, True)
        return state.taken_over("b", "b")

    state = await acquire(make(), settle, backoff=QUICK)
    assert settled == [(1, "a"), (2, "b")]
    assert (state.epoch, state.owner, state.owner_since_epoch, state.end) == (3, "b", 2, 10)
    assert other.fenced is not None


@pytest.mark.happens
async def test_acquire_gives_up_when_others_are_always_faster(autojump_clock: MockClock) -> None:
    store = SimStore()
    await open_session(store)
    settled = 0

    async def settle(state: CatalogState | None) -> CatalogState:
        nonlocal settled
        assert state is not None
        settled += 1
        await open_session(store, f"{settled}")
        return state.taken_over("b", "b")

    with pytest.raises(FencedError, match=r"writer 4 \(epoch 5\), who published before epoch 5"):
        await acquire(open_catalog(store), settle, backoff=QUICK)
    assert settled == QUICK.attempts


async def test_a_take_over_begins_a_new_epoch() -> None:
    store = SimStore()
    await open_session(store)

    async def settle(state: CatalogState | None) -> CatalogState:
        await trio.lowlevel.checkpoint()
        assert state is not None
        return commit(state)

    with pytest.raises(ValueError, match="no take-over"):
        await acquire(open_catalog(store), settle)


async def test_an_acquire_that_was_lost_can_be_made_again(autojump_clock: MockClock) -> None:
    store = SimStore()
    client = store.client()
    client.fail("create", kind="reply_lost", sticky=True)
    client.fail("get", kind="unavailable", sticky=True)
    with pytest.raises(StoreUnavailableError):
        await open_session(client)
    assert (await open_session(store)).state.epoch == 2  # the first one had happened


# ---- changes


async def test_changes_follow_one_another() -> None:
    store = SimStore()
    session = await open_session(store)
    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(session.change, commit)
    assert session.state.end == 100
    assert await open_catalog(store).latest() == session.state


async def test_nothing_to_do_is_nothing_published() -> None:
    store = SimStore()
    session = await open_session(store)
    before = store.op_count
    assert await session.change(lambda state: state) is session.state
    assert store.op_count == before


async def test_what_make_raises_changes_nothing() -> None:
    session = await open_session(SimStore())

    def make(state: CatalogState) -> CatalogState:
        raise KeyError("no")

    with pytest.raises(KeyError):
        await session.change(make)
    assert not session.pending
    assert (await session.change(commit)).end == 10


async def test_a_session_never_takes_over() -> None:
    session = await open_session(SimStore())
    with pytest.raises(ValueError, match="not the session's 1"):
        await session.change(take_over)
    assert (await session.change(commit)).end == 10


async def test_a_refused_change_is_not_pending() -> None:
    catalog = MetadataCatalog(MemoryMetadata(), "/a/b")
    session = CatalogSession(catalog, await acquire(catalog, settler("a")))

    def make(state: CatalogState) -> CatalogState:
        for _ in range(40):
            state = commit(state)
        return state

    with pytest.raises(ValueError, match="40 new segments"):
        await session.change(make)
    assert not session.pending
    assert (await session.change(commit)).end == 10


async def test_a_session_needs_a_published_state() -> None:
    with pytest.raises(ValueError, match="not published"):
        CatalogSession(open_catalog(SimStore()), begin())


async def test_a_change_whose_answer_is_lost_comes_first_next_time(
    autojump_clock: MockClock,
) -> None:
    store = SimStore()
    session = await open_session(store)
    faults = [store.fail("create", sticky=True), store.fail("get", sticky=True)]
    with pytest.raises(StoreUnavailableError):
        await session.change(commit)
    assert session.pending
    assert "pending" in repr(session)

    def never(state: CatalogState) -> CatalogState:
        raise AssertionError("the pending change comes first")

    with pytest.raises(StoreUnavailableError):
        await session.change(never)
    for fault in faults:
        fault.cancel()
    assert (await session.settle()).end == 10
    assert not session.pending
    assert (await session.change(commit)).end == 20


@pytest.mark.parametrize("kind", ["hang", "hang_after"])
async def test_a_cancelled_change_comes_first_next_time(
    kind: str, autojump_clock: MockClock
) -> None:
    for operation in ("create", "list_objects"):
        store = SimStore()
        session = await open_session(store)
        store.fail(operation, kind="hang" if kind == "hang" else "hang_after")
        with trio.move_on_after(1) as scope:
            await session.change(commit)
        assert scope.cancelled_caught
        assert session.pending
        ends: list[int] = []

        def make(state: CatalogState, ends: list[int] = ends) -> CatalogState:
            ends.append(state.end)
            return commit(state)

        assert (await session.change(make)).end == 20
        assert ends == [10]
        assert await open_catalog(store).latest() == session.state


async def test_waiting_for_another_change_can_be_cancelled(autojump_clock: MockClock) -> None:
    store = SimStore()
    session = await open_session(store)
    gate = Gate()

    async def before(_: object) -> None:
        await gate.wait()

    store.before = before
    async with held(gate, lambda: session.change(commit)):
        with trio.move_on_after(1) as scope:
            await session.change(commit)
        assert scope.cancelled_caught
    assert session.state.end == 10
    assert not session.pending


# ---- fenced


async def test_a_fenced_session_stays_fenced() -> None:
    store = SimStore()
    session = await open_session(store)
    await session.change(commit)
    await open_session(store, "b")
    made: list[CatalogState] = []

    def make(state: CatalogState) -> CatalogState:
        made.append(state)
        return commit(state)

    errors: list[FencedError] = []
    for _ in range(2):
        with pytest.raises(FencedError) as caught:
            await session.change(make)
        errors.append(caught.value)
    with pytest.raises(FencedError):
        await session.settle()
    assert len(made) == 1
    assert [(e.epoch, e.by) for e in errors] == [(1, "writer b (epoch 2)")] * 2
    assert errors[0] is not errors[1]  # each raise has its own traceback
    assert session.fenced is errors[0]
    assert session.state.end == 10
    assert await session.collect() == 0
    assert "fenced" in repr(session)


@pytest.mark.parametrize("counts", [True, False])
async def test_the_last_look_tells_whether_a_commit_counts(
    counts: bool, autojump_clock: MockClock
) -> None:
    store = SimStore()
    client = store.client()
    session = await open_session(client)
    client.fail("create", kind="hang_after" if counts else "hang")
    wanted = segment(session.state)
    with trio.move_on_after(1):
        await session.change(lambda state: state.committed(wanted))
    other = await open_session(store, "b")
    await other.change(commit)
    with pytest.raises(FencedError):
        await session.change(commit)
    assert (session.state.find(0) == wanted) is counts
    assert session.state.end == (10 if counts else 0)  # never what the other one published
    assert session.state.epoch == 1
    assert not session.pending


@pytest.mark.parametrize("counts", [True, False])
async def test_the_last_look_tells_whether_a_trim_counts(
    counts: bool, autojump_clock: MockClock
) -> None:
    store = SimStore()
    client = store.client()
    session = await open_session(client)
    await session.change(commit)
    client.fail("create", kind="hang_after" if counts else "hang")
    with trio.move_on_after(1):
        await session.change(lambda state: state.trimmed(7))
    await open_session(store, "b")
    with pytest.raises(FencedError):
        await session.settle()
    assert session.state.start_offset == (7 if counts else 0)


async def test_a_commit_that_was_trimmed_by_the_next_owner_does_not_count(
    autojump_clock: MockClock,
) -> None:
    store = SimStore()
    client = store.client()
    session = await open_session(client)
    client.fail("create", kind="hang_after")
    with trio.move_on_after(1):
        await session.change(commit)
    other = await open_session(store, "b")
    await other.change(lambda state: state.trimmed(state.end))
    with pytest.raises(FencedError):
        await session.settle()
    assert session.state.end == 0


async def test_a_last_look_that_fails_is_made_again(autojump_clock: MockClock) -> None:
    store = SimStore()
    client = store.client()
    session = await open_session(client)
    client.fail("create", kind="hang_after")
    with trio.move_on_after(1):
        await session.change(commit)
    await open_session(store, "b")
    # number 2 is found to be ours, then number 3; the last look begins with the next listing
    client.fail("list_objects", 2)
    with pytest.raises(StoreUnavailableError):
        await session.settle()
    assert session.fenced is None
    assert session.pending
    with pytest.raises(FencedError):
        await session.settle()
    assert session.state.end == 10


async def test_collecting_is_for_the_session_too() -> None:
    store = SimStore()
    catalog = ManifestCatalog(store, "log", keep=1)
    state = await live(catalog, (commit,) * 5)
    session = CatalogSession(catalog, state)
    assert session.catalog is catalog
    assert await session.collect() == 5
    assert await publish(catalog, state, commit(state))
