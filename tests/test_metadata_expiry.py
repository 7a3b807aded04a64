"""What has ended is not there: for every call, however many end together, wherever they meet."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from danube_trio.metadata import (
    MemoryMetadata,
    MetadataStore,
    open_metadata_directory,
)
from danube_trio.metadata._history import History
from danube_trio.metadata._rules import transaction
from danube_trio.metadata._table import MAX_EXPIRED, Draft, Entry, Table
from danube_trio.testing import SimDisk, SimMetadata

D = "/data/metadata"
MANY = 2 * MAX_EXPIRED + 500
KEYS = [f"/lock/{n:05}" for n in range(MANY)]


async def put_all(store: MetadataStore) -> dict[str, int]:
    """Many entries whose times end together; returns their revisions."""
    revisions: dict[str, int] = {}

    async def put(key: str) -> None:
        revisions[key] = await store.put(key, b"me", ttl=5)

    async with trio.open_nursery() as nursery:
        for key in KEYS:
            nursery.start_soon(put, key)
    return revisions


@asynccontextmanager
async def in_memory() -> AsyncGenerator[MetadataStore]:
    yield MemoryMetadata()


@asynccontextmanager
async def simulated() -> AsyncGenerator[MetadataStore]:
    yield SimMetadata()


@asynccontextmanager
async def in_a_directory() -> AsyncGenerator[MetadataStore]:
    async with open_metadata_directory(D, disk=SimDisk()) as store:
        yield store


STORES = pytest.mark.parametrize("opened", [in_memory, simulated, in_a_directory])
Opened = Callable[[], AbstractAsyncContextManager[MetadataStore]]


async def not_there_for_a_create(store: MetadataStore, key: str, revision: int) -> None:
    assert await store.transact({key: 0}, put={key: b"you"})


async def not_there_for_a_swap(store: MetadataStore, key: str, revision: int) -> None:
    assert await store.transact({key: revision}, put={key: b"you"}) is None


async def not_there_for_a_delete(store: MetadataStore, key: str, revision: int) -> None:
    assert await store.delete(key) is False


async def not_there_for_a_get(store: MetadataStore, key: str, revision: int) -> None:
    assert await store.get(key) is None


async def not_there_for_a_list(store: MetadataStore, key: str, revision: int) -> None:
    assert await store.list_entries(key) == []


async def ended_before_a_refresh(store: MetadataStore, key: str, revision: int) -> None:
    await store.put(key, b"beat", ttl=5)
    async with store.watch(key, after=revision) as events:
        assert [(await anext(events)).value for _ in range(2)] == [None, b"beat"]


CALLS: list[Callable[[MetadataStore, str, int], Awaitable[None]]] = [
    *(not_there_for_a_create, not_there_for_a_swap, not_there_for_a_delete),
    *(not_there_for_a_get, not_there_for_a_list, ended_before_a_refresh),
]


@STORES
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("place", [0, MAX_EXPIRED, MANY - 1])
async def test_the_first_call_after_the_end_finds_nothing(
    opened: Opened,
    call: Callable[[MetadataStore, str, int], Awaitable[None]],
    place: int,
    autojump_clock: MockClock,
) -> None:
    async with opened() as store:
        revisions = await put_all(store)
        await trio.sleep(6)
        await call(store, KEYS[place], revisions[KEYS[place]])


async def test_what_ended_after_reopening_is_not_there(autojump_clock: MockClock) -> None:
    disk = SimDisk()
    async with open_metadata_directory(D, disk=disk) as store:
        revisions = await put_all(store)
        await trio.sleep(4)
    async with open_metadata_directory(D, disk=disk) as store:
        await trio.sleep(4)
        assert await store.get(KEYS[0]) is not None  # its time began anew
        await trio.sleep(2)
        assert await store.delete(KEYS[-1]) is False
        assert await store.transact({KEYS[-2]: revisions[KEYS[-2]]}) is None
        assert await store.transact({KEYS[-2]: 0}, put={KEYS[-2]: b"you"})
    async with open_metadata_directory(D, disk=disk) as store:
        entry = await store.get(KEYS[-2])
        assert entry is not None and entry.value == b"you"


async def test_what_ends_while_others_are_written_is_not_there_for_the_next_batch(
    autojump_clock: MockClock,
) -> None:
    disk = SimDisk()
    results: dict[str, object] = {}

    async def note(name: str, call: Callable[[], Awaitable[object]]) -> None:
        results[name] = await call()

    async with open_metadata_directory(D, disk=disk) as store:
        revisions = await put_all(store)
        await trio.sleep(4.5)
        disk.latency = 1.0
        async with trio.open_nursery() as nursery:
            key = KEYS[-1]
            # Decided before the end, durable after it.
            swap = partial(store.transact, {KEYS[-2]: revisions[KEYS[-2]]}, put={KEYS[-2]: b"on"})
            nursery.start_soon(note, "swap in time", swap)
            await wait_all_tasks_blocked()
            calls: dict[str, Callable[[], Awaitable[object]]] = {
                "swap": partial(store.transact, {key: revisions[key]}, put={key: b"!"}),
                "delete": partial(store.delete, key),
                "create": partial(store.transact, {key: 0}, put={key: b"first"}),
                "late create": partial(store.transact, {key: 0}, put={key: b"second"}),
            }
            for name, call in calls.items():
                nursery.start_soon(note, name, call)
                await wait_all_tasks_blocked()
        assert results["swap in time"] is not None
        assert results["swap"] is None and results["delete"] is False
        assert results["create"] is not None and results["late create"] is None
        left = {entry.key: entry.value for entry in await store.list_entries("/")}
        assert left == {KEYS[-2]: b"on", key: b"first"}


@STORES
async def test_a_watch_hears_of_each_end_once(opened: Opened, autojump_clock: MockClock) -> None:
    async with opened() as store, store.watch("/lock/") as events:
        await put_all(store)
        for _ in KEYS:
            assert (await anext(events)).value == b"me"
        await trio.sleep(6)
        await store.transact({KEYS[-1]: 0}, put={"/other": b""})
        ended = [await anext(events) for _ in KEYS]
        assert sorted(event.key for event in ended) == KEYS
        assert {event.value for event in ended} == {None}
        changes = [event.revision for event in ended]
        assert changes == sorted(changes)
        assert max(changes.count(revision) for revision in set(changes)) == MAX_EXPIRED
        await store.put("/lock/end", b"end")
        assert (await anext(events)).value == b"end"


@pytest.mark.happens
async def test_the_wall_clock_neither_ends_nor_keeps_an_entry(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """Set back or ahead by years, before and after opening: only time that passes counts."""
    real, real_ns = time.time, time.time_ns
    years = 10 * 365 * 86_400

    def set_clock(by: int) -> None:
        monkeypatch.setattr(time, "time", lambda: real() + by)
        monkeypatch.setattr(time, "time_ns", lambda: real_ns() + by * 10**9)

    disk = SimDisk()
    for by in (-years, years):
        async with open_metadata_directory(D, disk=disk) as store:
            await store.put("/lease", b"", ttl=100)
            set_clock(by)
            await trio.sleep(99)
            assert await store.get("/lease") is not None
        async with open_metadata_directory(D, disk=disk) as store:
            set_clock(-by)
            await trio.sleep(99)
            assert await store.get("/lease") is not None
            await trio.sleep(1)
            assert await store.get("/lease") is None
            assert await store.transact({"/lease": 0}) is not None


# -- decisions that see each other: one batch, several transactions


def table() -> Table:
    return Table(History(1))


def test_a_draft_decides_by_what_it_has_decided() -> None:
    draft = Draft(table(), 0.0)
    assert draft.decide(transaction({"/a": 0}, put={"/a": b"1"})).revision == 2
    assert draft.decide(transaction({"/a": 0}, put={"/a": b"2"})).revision is None
    assert draft.decide(transaction({"/a": 2}, put={"/a": b"3"})).revision == 3
    assert draft.decide(transaction({"/a": 2}, put={"/a": b"4"})).revision is None
    assert draft.decide(transaction({"/a": 3}, delete=["/a"])).deleted == 1
    assert draft.decide(transaction({}, delete=["/a"])).deleted == 0
    assert draft.decide(transaction({"/a": 3})).revision is None
    assert draft.decide(transaction({"/a": 0}, put={"/a": b"5"})).revision == 5
    assert [change.revision for change in draft.changes] == [2, 3, 4, 5]


def test_a_draft_sees_what_has_ended_as_gone_until_it_puts_it() -> None:
    store = table()
    draft = Draft(store, 0.0)
    draft.decide(transaction({}, put={"/a": b"1"}, ttl=5))
    draft.decide(transaction({}, put={"/b": b"1"}, ttl=6))
    for change in draft.changes:
        store.apply(change, 0.0)
    draft = Draft(store, 5.5)
    assert draft.decide(transaction({"/a": 2})).revision is None
    assert draft.decide(transaction({"/b": 3})).revision is not None
    assert draft.decide(transaction({"/a": 0}, put={"/a": b"2"}, ttl=5)).revision == 5
    assert draft.decide(transaction({"/a": 0})).revision is None
    assert draft.decide(transaction({"/a": 5})).revision == 5
    assert [(c.revision, [p.key for p in c.puts], c.deletes) for c in draft.changes] == [
        (4, [], ("/a",)),
        (5, ["/a"], ()),
    ]


RACERS = 5


@pytest.mark.parametrize("there", [False, True], ids=["create", "swap"])
async def test_in_one_batch_compare_and_swap_has_one_winner(
    there: bool, autojump_clock: MockClock
) -> None:
    disk = SimDisk()
    winners: list[int] = []

    async def race(number: int, revision: int) -> None:
        put = {"/a": b"%d" % number, f"/own/{number}": b""}
        if await store.transact({"/a": revision}, put=put) is not None:
            winners.append(number)

    async with open_metadata_directory(D, disk=disk) as store:
        revision = await store.put("/a", b"") if there else 0
        disk.latency = 1.0
        writes = sum(op.name == "sync_data" for op in disk.operations)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.put, "/leads", b"")
            await wait_all_tasks_blocked()
            for number in range(RACERS):
                nursery.start_soon(race, number, revision)
        assert sum(op.name == "sync_data" for op in disk.operations) == writes + 2  # one for all
        assert len(winners) == 1
        entry = await store.get("/a")
        assert entry is not None and entry.value == b"%d" % winners[0]
        assert len(await store.list_entries("/own/")) == 1
    async with open_metadata_directory(D, disk=disk) as store:
        assert await store.get("/a") == entry


async def test_in_one_batch_a_delete_counts_once_and_counters_count_exactly(
    autojump_clock: MockClock,
) -> None:
    disk = SimDisk()
    deleted: list[bool] = []

    async def delete() -> None:
        deleted.append(await store.delete("/a"))

    async def count() -> None:
        while True:
            entry = await store.get("/n")
            assert entry is not None
            new = {"/n": b"%d" % (int(entry.value) + 1)}
            if await store.transact({"/n": entry.revision}, put=new):
                break

    async with open_metadata_directory(D, disk=disk) as store:
        await store.transact({}, put={"/a": b"", "/n": b"0"})
        disk.latency = 0.1
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.put, "/leads", b"")
            await wait_all_tasks_blocked()
            for _ in range(RACERS):
                nursery.start_soon(delete)
                nursery.start_soon(count)
        assert sorted(deleted) == [False] * (RACERS - 1) + [True]
        entry = await store.get("/n")
        assert entry is not None and entry.value == b"%d" % RACERS


def test_an_entry_has_ended_at_its_deadline() -> None:
    entry = Entry(b"", 2, 1.0, 5.0)
    assert [entry.has_ended(now) for now in (4.9, 5.0, 5.1)] == [False, True, True]
