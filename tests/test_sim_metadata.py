"""The simulated metadata store: the contract while nothing fails, and each fault."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from danube_trio.errors import AccessDeniedError, StoreUnavailableError, WatchLostError
from danube_trio.testing import MetadataOperation, SimMetadata, check_metadata


async def value(store: SimMetadata, key: str) -> bytes | None:
    entry = await store.memory.get(key)
    return entry.value if entry is not None else None


async def test_it_keeps_the_contract(autojump_clock: MockClock) -> None:
    await check_metadata(SimMetadata().client())


async def test_clients_share_one_content() -> None:
    one = SimMetadata()
    two = one.client()
    await one.put("/a", b"1")
    entry = await two.get("/a")
    assert entry is not None and entry.value == b"1"
    await one.aclose()
    with pytest.raises(StoreUnavailableError, match="closed"):
        await one.get("/a")
    assert await two.get("/a") is not None
    assert [(op.name, op.keys, op.client) for op in two.operations] == [
        ("put", ("/a",), 0),
        ("get", ("/a",), 1),
        ("get", ("/a",), 0),
        ("get", ("/a",), 1),
    ]


async def test_unavailable_does_nothing_and_a_lost_reply_does_it() -> None:
    store = SimMetadata()
    store.fail("put", kind="unavailable")
    with pytest.raises(StoreUnavailableError, match="injected unavailable in put of /a"):
        await store.put("/a", b"1")
    assert await value(store, "/a") is None
    fault = store.fail("put", 2, kind="reply_lost", key_contains="/a")
    await store.put("/a", b"1")
    await store.put("/b", b"1")
    with pytest.raises(StoreUnavailableError, match="reply_lost"):
        await store.put("/a", b"2")
    assert (await value(store, "/a"), fault.hits) == (b"2", 1)
    store.fail("transact", kind="denied")
    with pytest.raises(AccessDeniedError):
        await store.transact({}, delete=["/a"])
    assert await value(store, "/a") == b"2"


async def test_sticky_faults_last_until_they_are_cancelled() -> None:
    store = SimMetadata()
    other = store.client()
    fault = store.fail(None, sticky=True, client=0)
    for _ in range(3):
        with pytest.raises(StoreUnavailableError):
            await store.list_entries("/")
    await other.list_entries("/")
    fault.cancel()
    await store.list_entries("/")
    assert fault.hits == 3


@pytest.mark.parametrize("kind", ["hang", "hang_after"])
async def test_hanging_calls_can_be_cancelled(kind: str, autojump_clock: MockClock) -> None:
    store = SimMetadata()
    store.fail("put", kind="hang" if kind == "hang" else "hang_after")
    with trio.move_on_after(5) as scope:
        await store.put("/a", b"1")
    assert scope.cancelled_caught
    assert await value(store, "/a") == (None if kind == "hang" else b"1")


async def test_the_hook_sees_both_moments_and_may_act() -> None:
    moments: list[tuple[str, str]] = []

    async def hook(operation: MetadataOperation, moment: str) -> None:
        moments.append((operation.name, moment))
        if operation.name == "transact" and moment == "before":
            await other.memory.put("/a", b"somebody was faster")

    store = SimMetadata(hook=hook)
    other = store.client()
    await store.put("/a", b"1")
    assert await store.transact({"/a": 2}, put={"/a": b"2"}) is None
    assert moments == [
        *(("put", "before"), ("put", "after")),
        *(("transact", "before"), ("transact", "after")),
    ]
    store.hook = None
    await store.get("/a")
    assert len(moments) == 4 and store.op_count == 3


async def test_a_cut_off_client_loses_its_calls_and_watches() -> None:
    store = SimMetadata()
    other = store.client()
    ended: list[bool] = []

    async def watch() -> None:
        async with store.watch("/") as events:
            assert (await anext(events)).key == "/a"
            for _ in range(2):
                with pytest.raises(StoreUnavailableError):
                    await anext(events)
                ended.append(True)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        await wait_all_tasks_blocked()
        revision = await other.put("/a", b"")
        await wait_all_tasks_blocked()
        store.cut_off()
        with pytest.raises(StoreUnavailableError, match="cut off"):
            await store.get("/a")
    assert len(ended) == 2
    await other.put("/b", b"")
    store.reconnect()
    async with store.watch("/", after=revision) as events:
        assert (await anext(events)).key == "/b"


async def test_faults_of_watches() -> None:
    store = SimMetadata(history_events=2)
    for kind in ("unavailable", "reply_lost"):
        store.fail("watch", kind="unavailable" if kind == "unavailable" else "reply_lost")
        with pytest.raises(StoreUnavailableError):
            async with store.watch("/"):
                pass
    assert not store.memory.history._streams
    store.fail("watch_next")
    async with store.watch("/", after=0) as events:
        with pytest.raises(StoreUnavailableError):
            await anext(events)
        with pytest.raises(WatchLostError):
            await anext(events)


def test_faults_are_checked() -> None:
    store = SimMetadata()
    with pytest.raises(ValueError, match="operation must be one of delete, get"):
        store.fail("fetch")
    with pytest.raises(ValueError, match="nth counts from 1"):
        store.fail("put", 0)
    with pytest.raises(ValueError, match="kind must be one of"):
        store.fail("put", kind="slow")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


async def test_a_store_that_goes_back_gives_its_revisions_again_and_ends_watches() -> None:
    store = SimMetadata()
    first = await store.put("/a", b"1")
    earlier = store.clone()
    later = await store.put("/b", b"2")
    async with store.client().watch("/") as events:
        earlier_tree = [entry.key for entry in await earlier.list_entries("/")]
        store.go_back_to(earlier)
        with pytest.raises(StoreUnavailableError):
            await anext(events)
    assert [entry.key for entry in await store.list_entries("/")] == earlier_tree == ["/a"]
    assert await store.transact({"/a": first, "/b": 0}, put={"/b": b"3"}) == later
    assert await value(earlier, "/b") is None, "the backup is another content"
    async with store.watch("/", after=first) as events:
        assert (await anext(events)).value == b"3"


async def test_times_to_live_go_back_with_the_store(autojump_clock: MockClock) -> None:
    store = SimMetadata()
    await store.put("/a", b"1", ttl=10)
    earlier = store.clone()
    await store.delete("/a")
    store.go_back_to(earlier)
    assert await value(store, "/a") == b"1"
    await trio.sleep(11)
    assert await value(store, "/a") is None
