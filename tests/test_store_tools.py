"""What is built on any store: the probe for liars, and reading piece by piece."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from danube_trio.cloud import MemoryStore, probe_store, read_chunks
from danube_trio.errors import (
    AccessDeniedError,
    DishonestStoreError,
    ObjectNotFoundError,
    PreconditionFailedError,
    StoreUnavailableError,
)
from danube_trio.testing import SimStore, StoreOperation, check_store

# -- the probe


async def test_an_honest_store_passes_and_keeps_nothing() -> None:
    for store in (SimStore(), SimStore(can_swap=False)):
        await probe_store(store)
        await probe_store(store, prefix="a/b")
        assert store.tree() == {}
    keys = [key for name, key in store.history if name == "create"]
    assert len(set(keys)) == 2
    assert keys[-1].startswith("a/b/")


async def test_a_store_whose_create_overwrites_is_refused() -> None:
    store = SimStore(create_overwrites=True)
    with pytest.raises(DishonestStoreError, match=r"^sim: lets create overwrite an object"):
        await probe_store(store)
    assert store.tree() == {}


async def test_a_store_whose_lists_are_stale_is_refused() -> None:
    store = SimStore()
    store.stale_keys = 1
    with pytest.raises(DishonestStoreError, match="does not list an object that it has"):
        await probe_store(store)
    assert store.tree() == {}


async def test_a_store_that_invents_objects_is_refused() -> None:
    store = SimStore()
    store.fail("create", kind="false_conflict")
    with pytest.raises(DishonestStoreError, match="that nobody has made"):
        await probe_store(store)


async def test_a_store_that_forgets_is_refused() -> None:
    store = SimStore()
    other = store.client()

    async def forget(operation: StoreOperation) -> None:
        if operation.name == "get":
            await other.delete(operation.key)

    store.before = forget
    with pytest.raises(DishonestStoreError, match="the first one is gone"):
        await probe_store(store)


async def test_ones_own_first_try_in_the_way_is_no_lie() -> None:
    store = SimStore()
    store.fail("create", kind="own_conflict")
    await probe_store(store)


@pytest.mark.parametrize("operation", ["create", "get", "list_objects"])
async def test_a_store_that_is_not_there_is_no_liar(operation: str) -> None:
    store = SimStore()
    store.fail(operation, kind="reply_lost")
    with pytest.raises(StoreUnavailableError):
        await probe_store(store)
    assert store.tree() == {}
    store.fail(operation, kind="denied")
    with pytest.raises(AccessDeniedError):
        await probe_store(store)


async def test_a_probe_that_cannot_be_removed_stays() -> None:
    store = SimStore()
    store.fail("delete", kind="denied")
    await probe_store(store)
    assert len(store.tree()) == 1


async def test_a_cancelled_probe_cleans_up_if_it_can(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = SimStore()
    store.fail("get", kind="hang")
    with trio.move_on_after(10) as scope:
        await probe_store(store)
    assert scope.cancelled_caught
    assert store.tree() == {}
    store.fail("get", kind="hang")
    store.fail("delete", kind="hang")
    start = trio.current_time()
    with trio.move_on_after(10) as scope:
        await probe_store(store)
    assert scope.cancelled_caught
    assert trio.current_time() == start + 12


# -- the check


async def test_the_check_finds_a_liar() -> None:
    with pytest.raises(AssertionError, match=r"create of an object that is there"):
        await check_store(SimStore(create_overwrites=True))


async def test_the_check_finds_stale_lists() -> None:
    store = SimStore()
    store.stale_keys = 1
    with pytest.raises(AssertionError, match="one object was put, 0 are listed"):
        await check_store(store)


# -- reading


async def read(store: MemoryStore, start: int = 0, end: int | None = None) -> list[bytes]:
    return [data async for data in read_chunks(store, "key", start, end, chunk_bytes=10)]


async def test_an_object_is_read_piece_by_piece() -> None:
    store, data = MemoryStore(), bytes(range(25))
    await store.put("key", data)
    assert await read(store) == [data[:10], data[10:20], data[20:]]
    assert await read(store, 5, 20) == [data[5:15], data[15:20]]
    assert await read(store, 20, 100) == [data[20:]]
    assert await read(store, 25) == await read(store, 5, 5) == []
    with pytest.raises(ValueError, match="beyond the end"):
        await read(store, 26)
    await store.put("key", b"")
    assert await read(store) == []
    with pytest.raises(ObjectNotFoundError):
        await read_chunks(store, "none").__anext__()
    with pytest.raises(ValueError, match="chunk_bytes"):
        read_chunks(store, "key", chunk_bytes=0)


async def test_an_object_that_is_replaced_while_it_is_read_is_an_error() -> None:
    store = MemoryStore()
    info = await store.put("key", bytes(25))
    chunks = read_chunks(store, "key", chunk_bytes=10)
    await anext(chunks)
    assert chunks.info == info
    await store.put("key", bytes(25))
    with pytest.raises(PreconditionFailedError, match="replaced while it was read"):
        await anext(chunks)


async def test_reading_goes_on_after_a_failure() -> None:
    store, data = SimStore(), bytes(range(25))
    await store.put("key", data)
    store.fail("get", 2)
    chunks = read_chunks(store, "key", chunk_bytes=10)
    got = await anext(chunks)
    with pytest.raises(StoreUnavailableError):
        await anext(chunks)
    async for more in chunks:
        got += more
    assert got == data


async def test_a_closed_reader_ends() -> None:
    store = MemoryStore()
    await store.put("key", bytes(25))
    chunks = read_chunks(store, "key", chunk_bytes=10)
    await anext(chunks)
    await chunks.aclose()
    assert [data async for data in chunks] == []
    unused = read_chunks(store, "key")
    await unused.aclose()
    await unused.aclose()
    assert [data async for data in unused] == []
