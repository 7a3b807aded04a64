"""Watches of the stores that keep their own history: what a change costs, resuming, the lookout."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from danube_trio.errors import StoreUnavailableError, WatchLostError
from danube_trio.metadata import (
    EmbeddedMetadata,
    MemoryMetadata,
    WatchEvent,
    open_metadata_directory,
)
from danube_trio.testing import SimDisk

D = "/data/metadata"
Store = MemoryMetadata | EmbeddedMetadata


@asynccontextmanager
async def in_memory(history_events: int = 10_000) -> AsyncGenerator[Store]:
    yield MemoryMetadata(history_events=history_events)


@asynccontextmanager
async def in_a_directory(history_events: int = 10_000) -> AsyncGenerator[Store]:
    async with open_metadata_directory(D, disk=SimDisk(), history_events=history_events) as store:
        yield store


STORES = pytest.mark.parametrize("opened", [in_memory, in_a_directory])
Opened = Callable[..., AbstractAsyncContextManager[Store]]


# -- what a change costs


async def steps_of(act: Callable[[], Awaitable[object]]) -> int:
    """How many functions, those in C too, are called meanwhile: work that no clock disturbs."""
    steps = 0

    def count(frame: object, event: str, arg: object) -> None:
        nonlocal steps
        steps += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        await act()
    finally:
        sys.setprofile(before)
    return steps


async def changes(store: Store, name: str) -> None:
    for n in range(20):
        await store.put(f"/{name}/a", b"%d" % n)
        await store.put(f"/{name}/b", b"", ttl=5)
    await store.transact({}, put={f"/{name}/c": b"", f"/{name}/d": b""}, delete=[f"/{name}/a"])
    await trio.sleep(6)
    await store.get(f"/{name}/a")  # lets b end


@STORES
@pytest.mark.parametrize("waiting", [False, True], ids=["idle", "waiting"])
async def test_a_change_costs_nothing_for_watches_of_other_prefixes(
    opened: Opened, waiting: bool, autojump_clock: MockClock
) -> None:
    """The history is full, so that each change drops another one too."""
    cost: dict[int, int] = {}
    for others in (10, 2000):
        async with opened(history_events=10) as store, AsyncExitStack() as stack:
            nursery = await stack.enter_async_context(trio.open_nursery())
            for n in range(others):
                events = await stack.enter_async_context(store.watch(f"/other{n:05}/"))
                if waiting:
                    nursery.start_soon(events.__anext__)
            await changes(store, "warm")
            await wait_all_tasks_blocked()
            cost[others] = await steps_of(lambda: changes(store, "mine"))
            nursery.cancel_scope.cancel()
    # With equal work in both, but for what the scheduler does in its own order.
    assert cost[2000] < 1.1 * cost[10], cost


@STORES
async def test_a_watch_is_not_woken_by_other_prefixes_or_their_times(
    opened: Opened, autojump_clock: MockClock
) -> None:
    class Steps(trio.abc.Instrument):
        def __init__(self) -> None:
            self.of: dict[trio.lowlevel.Task, int] = {}

        def before_task_step(self, task: trio.lowlevel.Task) -> None:
            if task in self.of:
                self.of[task] += 1

    steps = Steps()

    async def wait(prefix: str) -> None:
        async with store.watch(prefix) as events:
            await wait_all_tasks_blocked()
            steps.of[trio.lowlevel.current_task()] = 0
            await anext(events)

    async with opened() as store, trio.open_nursery() as nursery:
        for n in range(50):
            nursery.start_soon(wait, f"/other{n:02}/")
        await trio.sleep(1)
        trio.lowlevel.add_instrument(steps)
        for _ in range(30):
            await store.put("/mine/a", b"", ttl=1)
            await trio.sleep(2)
        trio.lowlevel.remove_instrument(steps)
        nursery.cancel_scope.cancel()
    busy = [count for count in steps.of.values() if count]
    assert len(steps.of) == 50 and len(busy) == 1  # the lookout


async def test_a_watch_looks_only_at_events_of_its_prefix() -> None:
    cost: dict[int, int] = {}
    for others in (10, 2000):
        store = MemoryMetadata()
        async with store.watch("/w/") as events:
            for n in range(others):
                await store.put(f"/other/{n}", b"")
            await store.put("/w/a", b"")
            cost[others] = await steps_of(events.__anext__)
        assert not store.history._streams and not store.history._lengths
    assert cost[10] == cost[2000]


async def test_prefixes_of_all_lengths_get_what_is_theirs() -> None:
    store = MemoryMetadata()
    prefixes = ["/", "/a", "/a/", "/a/b", "/a/b/c", "/ab", "/b", "/a/b/c/d", "/\U0001f600"]
    keys = ["/a", "/a/", "/a/b", "/a/b/c", "/a/bc", "/ab", "/abc", "/b", "/\U0001f600/x", "/c"]
    async with AsyncExitStack() as stack:
        watches = [await stack.enter_async_context(store.watch(p)) for p in prefixes * 2]
        for key in keys:
            await store.put(key, b"")
        for prefix, events in zip(prefixes * 2, watches, strict=True):
            expected = [key for key in keys if key.startswith(prefix)]
            assert [(await anext(events)).key for _ in expected] == expected
            with trio.move_on_after(0) as scope:
                await anext(events)
            assert scope.cancelled_caught


async def test_a_second_watch_of_a_prefix_may_begin_earlier() -> None:
    store = MemoryMetadata(history_events=50)
    revisions = [await store.put(f"/{'wx'[n % 2]}/a", b"%d" % n) for n in range(20)]
    async with store.watch("/w/", after=revisions[9]) as late:
        async with store.watch("/w/", after=revisions[3]) as early:
            seen = [(await anext(early)).value for _ in range(8)]
            assert seen == [b"%d" % n for n in range(4, 20, 2)]
        async with store.watch("/w/", after=revisions[15]) as later:
            assert (await anext(later)).value == b"16"
        assert (await anext(late)).value == b"10"
        for n in range(60):
            await store.put("/x/a", b"%d" % n)
        with pytest.raises(WatchLostError):
            await anext(late)
        async with store.watch("/w/", after=revisions[3]) as lost:
            with pytest.raises(WatchLostError):
                await anext(lost)
        async with store.watch("/w/", after=store.history.floor) as whole:
            await store.put("/w/a", b"new")
            assert (await anext(whole)).value == b"new"


# -- resuming


@STORES
async def test_a_watch_resumes_within_a_change_that_was_half_dropped_or_says_so(
    opened: Opened,
) -> None:
    async with opened(history_events=5) as store:
        await store.put("/a", b"")
        base = await store.put("/a", b"")
        revision = await store.transact({}, put={f"/w/{n}": b"" for n in range(4)})
        async with store.watch("/w/", after=base) as events:
            half = [await anext(events) for _ in range(2)]
        assert [event.last for event in half] == [False, False]
        assert half[1].resume_after == base
        async with store.watch("/w/", after=half[1].resume_after) as events:
            whole = [await anext(events) for _ in range(4)]
        assert whole == [WatchEvent(f"/w/{n}", b"", revision or 0) for n in range(4)]
        assert [event.last for event in whole] == [False, False, False, True]
        await store.put("/b", b"")
        await store.put("/b", b"")  # drops the change's first event
        async with store.watch("/w/", after=half[1].resume_after) as events:
            with pytest.raises(WatchLostError):
                await anext(events)
        async with store.watch("/b", after=whole[3].resume_after) as events:
            assert (await anext(events)).key == "/b"


async def test_a_watch_resumes_within_a_change_after_reopening() -> None:
    disk = SimDisk()
    async with open_metadata_directory(D, disk=disk) as store:
        base = await store.put("/a", b"")
        await store.transact({}, put={"/w/a": b"", "/w/b": b""}, delete=["/a"])
        async with store.watch("/w/", after=base) as events:
            first = await anext(events)
    async with open_metadata_directory(D, disk=disk.crash()) as store:
        async with store.watch("/w/", after=first.resume_after) as events:
            assert [(await anext(events)).key for _ in range(2)] == ["/w/a", "/w/b"]


# -- one task at a time


@STORES
async def test_a_second_task_that_iterates_a_watch_is_refused_and_takes_nothing(
    opened: Opened,
) -> None:
    seen: list[WatchEvent] = []

    async def take() -> None:
        seen.append(await anext(events))

    async with opened() as store, store.watch("/") as events:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(take)
            await wait_all_tasks_blocked()
            with pytest.raises(trio.BusyResourceError, match="another task is iterating"):
                await anext(events)
            await store.put("/a", b"1")
            await wait_all_tasks_blocked()
        assert [event.value for event in seen] == [b"1"]
        await store.put("/a", b"2")
        assert (await anext(events)).value == b"2"


async def test_closing_a_watch_ends_the_task_that_waits_in_it() -> None:
    store = MemoryMetadata()
    watch = store.watch("/")
    ended: list[bool] = []

    async def wait() -> None:
        with pytest.raises(StoreUnavailableError, match="closed"):
            await anext(watch)
        ended.append(True)

    async with watch, store.watch("/") as other, trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        await watch.aclose()
        await wait_all_tasks_blocked()
        assert ended
        await store.put("/a", b"")
        assert (await anext(other)).key == "/a"


# -- the lookout


@STORES
async def test_times_end_for_watches_whoever_of_them_leaves(
    opened: Opened, autojump_clock: MockClock
) -> None:
    """The lookout is cancelled, gets an event, or is closed: another one must look."""
    seen: list[tuple[str, float]] = []

    async def wait(key: str, scope: trio.CancelScope) -> None:
        with scope:
            async with store.watch(key) as events:
                while (await anext(events)).value is not None:
                    pass
                seen.append((key, trio.current_time()))

    async with opened() as store, trio.open_nursery() as nursery:
        scopes = [trio.CancelScope() for _ in range(6)]
        for n, scope in enumerate(scopes):
            nursery.start_soon(wait, f"/{n}", scope)
            await wait_all_tasks_blocked()
        for n in range(6):
            await store.put(f"/{n}", b"", ttl=10 + n)
        await trio.sleep(1)
        scopes[0].cancel()
        await store.put("/1", b"more")  # wakes the next lookout, for an event
        await trio.sleep(1)
        scopes[1].cancel()
        scopes[2].cancel()
        await store.put("/5", b"", ttl=2)  # ends before all others: the alarm is set anew
    assert seen == [("/5", 4.0), ("/3", 13.0), ("/4", 14.0)]


async def test_a_lookout_that_is_cancelled_while_it_writes_hands_on(
    autojump_clock: MockClock,
) -> None:
    disk = SimDisk()
    seen: list[str] = []

    async def wait(key: str, scope: trio.CancelScope) -> None:
        with scope:
            async with store.watch(key) as events:
                await anext(events)
                seen.append(key)

    async with open_metadata_directory(D, disk=disk) as store:
        await store.put("/a", b"", ttl=5)
        await store.put("/b", b"", ttl=5)
        scopes = [trio.CancelScope() for _ in range(3)]
        async with trio.open_nursery() as nursery:
            for key, scope in zip(("/z", "/a", "/b"), scopes, strict=True):
                nursery.start_soon(wait, key, scope)
                await wait_all_tasks_blocked()
            disk.latency = 1.0
            nursery.start_soon(store.put, "/y", b"1")
            await trio.sleep(4.5)
            nursery.start_soon(store.put, "/y", b"2")  # the lookout stands in the line behind it
            await trio.sleep(0.6)
            scopes[0].cancel()
    assert seen == ["/a", "/b"]
