"""The metadata store in memory: the contract, its watches, and times to live in virtual time."""

from __future__ import annotations

from collections.abc import Awaitable

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from danube_trio.errors import StoreUnavailableError, WatchLostError
from danube_trio.metadata import MemoryMetadata, MetadataStore, WatchEvent
from danube_trio.testing import check_metadata


async def test_it_keeps_the_contract(autojump_clock: MockClock) -> None:
    await check_metadata(MemoryMetadata())


async def test_a_conformance_check_names_the_broken_rule(autojump_clock: MockClock) -> None:
    class Forgetful(MemoryMetadata):
        async def delete(self, key: str) -> bool:
            await super().delete(key)
            return True

    with pytest.raises(AssertionError, match="deleting nothing returns False"):
        await check_metadata(Forgetful())


async def test_a_conformance_check_does_not_hang(autojump_clock: MockClock) -> None:
    class Deaf(MemoryMetadata):
        async def get(self, key: str) -> None:
            await trio.sleep_forever()

    with pytest.raises(AssertionError, match="entries_are_read_back was not over in 60"):
        await check_metadata(Deaf())


async def test_times_to_live_end_in_virtual_time(autojump_clock: MockClock) -> None:
    store = MemoryMetadata()
    await store.put("/a", b"", ttl=10)
    await store.put("/b", b"", ttl=2.5)
    await trio.sleep(2.4)
    assert len(await store.list_entries("/")) == 2
    await trio.sleep(0.1)
    assert [e.key for e in await store.list_entries("/")] == ["/a"]
    await store.put("/a", b"", ttl=10)
    await trio.sleep(9.9)
    assert await store.get("/a") is not None
    await trio.sleep(0.1)
    assert await store.get("/a") is None
    assert await store.delete("/a") is False


async def test_entries_that_end_together_are_one_change(autojump_clock: MockClock) -> None:
    store = MemoryMetadata()
    async with store.watch("/") as events:
        for key in ("/b", "/a", "/c"):
            await store.put(key, b"", ttl=5)
            await anext(events)
        ended = [await anext(events) for _ in range(3)]
    assert ended == [WatchEvent(key, None, store.revision) for key in ("/a", "/b", "/c")]
    assert trio.current_time() == 5


async def test_a_waiting_watch_hears_of_a_time_that_begins_later(autojump_clock: MockClock) -> None:
    store = MemoryMetadata()
    seen: list[WatchEvent] = []

    async def watch() -> None:
        async with store.watch("/a") as events:
            async for event in events:
                seen.append(event)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        await wait_all_tasks_blocked()
        await store.put("/a", b"", ttl=1000)
        await wait_all_tasks_blocked()
        await store.put("/b", b"", ttl=3)  # not the watch's business
        await store.put("/a", b"", ttl=5)
        await trio.sleep(5.5)
        nursery.cancel_scope.cancel()
    assert [(e.key, e.value) for e in seen] == [("/a", b""), ("/a", b""), ("/a", None)]


async def test_heartbeats_leave_nothing_behind(autojump_clock: MockClock) -> None:
    store = MemoryMetadata()
    for _ in range(1000):
        await store.put("/alive", b"", ttl=3600)
    assert len(store._table._deadlines) < 100


@pytest.mark.happens
async def test_a_watch_that_falls_behind_says_so_and_blocks_nobody() -> None:
    store = MemoryMetadata(history_events=10)
    async with store.watch("/a") as slow, store.watch("/b") as other:
        await store.put("/a/0", b"")
        for n in range(50):
            await store.put("/c", b"%d" % n)
        with pytest.raises(WatchLostError, match="List the entries"):
            await anext(slow)
        with pytest.raises(WatchLostError):
            await anext(slow)
        await store.put("/b/0", b"")
        assert (await anext(other)).key == "/b/0"  # nothing under its prefix was dropped
    assert len(store.history._events) == 10


async def test_the_history_is_bounded_in_bytes() -> None:
    store = MemoryMetadata(history_bytes=10_000)
    first = await store.put("/a", b"")
    for _ in range(30):
        await store.put("/a", bytes(1000))
    assert sum(len(e.value or b"") for e in store.history._events) < 10_000
    async with store.watch("/", after=first) as events:
        with pytest.raises(WatchLostError):
            await anext(events)
    async with store.watch("/", after=store.history.floor) as events:
        assert (await anext(events)).revision == store.history.floor + 1


async def test_a_revision_that_the_store_has_not_reached_is_lost() -> None:
    """The store was reset, or restored from an old copy: what happened since is not known."""
    store = MemoryMetadata()
    async with store.watch("/", after=100) as events:
        with pytest.raises(WatchLostError):
            await anext(events)


async def test_a_cancelled_write_did_nothing() -> None:
    store = MemoryMetadata()
    await store.put("/a", b"1")
    calls: list[Awaitable[object]] = [
        store.put("/a", b"2"),
        store.delete("/a"),
        store.transact({}, put={"/a": b"2"}),
    ]
    for call in calls:
        with trio.CancelScope() as scope:
            scope.cancel()
            await call
        assert scope.cancelled_caught
    entry = await store.get("/a")
    assert entry is not None and entry.value == b"1" and store.revision == 2


async def test_closing_ends_waiting_watches_and_refuses_calls() -> None:
    store = MemoryMetadata()
    ended: list[str] = []

    async def watch() -> None:
        async with store.watch("/") as events:
            with pytest.raises(StoreUnavailableError):
                await anext(events)
            ended.append("watch")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        await wait_all_tasks_blocked()
        await store.aclose()
        await store.aclose()
    assert ended == ["watch"]
    with pytest.raises(StoreUnavailableError, match="closed"):
        await store.get("/a")
    with pytest.raises(StoreUnavailableError, match="closed"):
        await store.put("/a", b"")
    with pytest.raises(StoreUnavailableError, match="closed"):
        async with store.watch("/"):
            pass


async def test_a_watch_is_used_once_and_closed_watches_are_forgotten() -> None:
    store = MemoryMetadata()
    watch = store.watch("/")
    async with watch:
        with pytest.raises(RuntimeError, match="once"):
            await watch.__aenter__()
    assert not store.history._streams
    with pytest.raises(StoreUnavailableError, match="closed"):
        await anext(watch)


@pytest.mark.parametrize(
    ("settings", "name"),
    [({"history_events": 0}, "history_events"), ({"history_bytes": 0}, "history_bytes")],
)
def test_bad_settings_are_named(settings: dict[str, int], name: str) -> None:
    with pytest.raises(ValueError, match=name):
        MemoryMetadata(**settings)


async def test_too_much_for_one_change_is_refused() -> None:
    store = MemoryMetadata()
    with pytest.raises(ValueError, match="1048577 bytes where at most 1048576"):
        await store.put("/a", bytes((1 << 20) - 1))
    with pytest.raises(ValueError, match="129 changes where at most 128"):
        await store.transact({}, put={f"/{n}": b"" for n in range(129)})
    with pytest.raises(ValueError, match="129 expectations where at most 128"):
        await store.transact({f"/{n}": 0 for n in range(129)})
    with pytest.raises(ValueError, match="key has 4097 bytes"):
        await store.get("/" + 4096 * "x")
    with pytest.raises(TypeError, match="must be bytes, got 'text'"):
        await store.put("/a", "text")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="list of keys"):
        await store.transact({}, delete="/a")


def takes_a_store(store: MetadataStore) -> None:
    """Checked by the type checkers only."""


def test_it_is_a_metadata_store() -> None:
    takes_a_store(MemoryMetadata())
