"""The catalog in an object store: every fault at every step, revenants, pages, collection."""

from __future__ import annotations

import attrs
import pytest
import trio
import trio.testing
from catalogs import (
    LIFE,
    QUICK,
    Gate,
    begin,
    commit,
    held,
    live,
    live_with_cancellation,
    publish,
    segment,
    settle_the_unknown,
    take_over,
)
from trio.testing import MockClock

from danube_trio._core.files import with_crc
from danube_trio._core.manifest import decode_manifest
from danube_trio.catalog import ManifestCatalog, fresh
from danube_trio.errors import (
    AccessDeniedError,
    CorruptDataError,
    FencedError,
    StoreUnavailableError,
    UnsupportedFormatError,
)
from danube_trio.testing import SimStore, StoreFaultKind, StoreOperation

KINDS: tuple[StoreFaultKind, ...] = (
    *("unavailable", "reply_lost", "late", "false_conflict", "own_conflict"),
)


def open_catalog(store: SimStore, *, fold: int = 2, keep: int = 1) -> ManifestCatalog:
    return ManifestCatalog(store, "log", fold_segments=fold, keep=keep, backoff=QUICK)


def manifest(number: int) -> str:
    return f"log/manifest/{number:020d}"


def pages(store: SimStore) -> list[str]:
    return [key for key in store.tree() if key.startswith("log/pages/")]


async def steps() -> int:
    store = SimStore()
    await live(open_catalog(store))
    return store.op_count


# ---- every fault at every step


@pytest.mark.parametrize("kind", KINDS)
async def test_a_fault_at_any_step_changes_nothing(
    kind: StoreFaultKind, autojump_clock: MockClock
) -> None:
    for nth in range(1, await steps() + 1):
        store = SimStore()
        client = store.client()
        client.fail(None, nth, kind=kind, late_by=4)
        state = await live(open_catalog(client))
        assert state.sequence == len(LIFE) + 1
        store.settle()
        assert await open_catalog(store).latest() == state


@pytest.mark.parametrize("kind", ["hang", "hang_after"])
async def test_cancelled_at_any_step_the_same_call_settles_it(
    kind: StoreFaultKind, autojump_clock: MockClock
) -> None:
    for nth in range(1, await steps() + 1):
        store = SimStore()
        client = store.client()
        catalog = open_catalog(client)
        client.fail(None, nth, kind=kind)
        state = await live_with_cancellation([catalog, catalog, open_catalog(store)])
        assert state.sequence == len(LIFE) + 1
        assert await open_catalog(store).latest() == state


async def test_what_stays_unknown_is_settled_by_the_same_call(autojump_clock: MockClock) -> None:
    store = SimStore()
    catalog = open_catalog(store)
    await settle_the_unknown(
        catalog,
        lambda: (
            store.fail("create", kind="reply_lost", sticky=True),
            store.fail("get", sticky=True),
        ),
    )
    assert [key for key in store.tree() if "manifest" in key] == [manifest(1), manifest(2)]


async def test_a_refusal_is_raised_as_it_is() -> None:
    store = SimStore()
    catalog = open_catalog(store)
    store.fail("create", kind="denied")
    with pytest.raises(AccessDeniedError):
        await catalog.publish(None, fresh(begin()))


# ---- revenants


def abandoned_create(store: SimStore) -> tuple[SimStore, Gate]:
    """A client whose creates wait at a gate."""
    client, gate = store.client("zombie"), Gate()

    async def before(operation: StoreOperation) -> None:
        if operation.name == "create":
            await gate.wait()

    client.before = before
    return client, gate


async def test_a_number_that_was_collected_is_created_again_in_vain() -> None:
    store = SimStore()
    catalog = open_catalog(store)
    state = await live(catalog, (commit,))
    zombie, gate = abandoned_create(store)
    sleeper = open_catalog(zombie)
    assert await sleeper.latest() == state
    async with held(gate, lambda: sleeper.publish(state, fresh(commit(state)))) as outcome:
        newest = await publish(catalog, state, take_over(state))
        for _ in range(3):
            newest = await publish(catalog, newest, commit(newest))
        assert await catalog.collect(newest) > 0
        assert manifest(3) not in store.tree()
    assert manifest(3) in store.tree()  # created again, and it does not count:
    assert isinstance(outcome[0], FencedError)
    for handle in (catalog, sleeper, open_catalog(store)):
        assert await handle.latest() == newest
    assert await catalog.collect(newest) == 1
    assert manifest(3) not in store.tree()


class LooksOnce(ManifestCatalog):
    async def _superseded(self, sequence: int) -> bool:
        await trio.lowlevel.checkpoint()
        return False


@pytest.mark.parametrize("kind", [ManifestCatalog, LooksOnce])
async def test_a_reader_does_not_take_a_revenant_for_the_newest(
    kind: type[ManifestCatalog],
) -> None:
    store = SimStore()
    catalog = open_catalog(store)
    state = await live(catalog, (commit,))
    zombie, gate = abandoned_create(store)
    revenant = fresh(commit(state))
    client, reading = store.client("reader"), Gate()

    async def before(operation: StoreOperation) -> None:
        if operation.name == "get" and not reading.open.is_set():
            await reading.wait()

    client.before = before
    reader = kind(client, "log", backoff=QUICK)
    sleeper = open_catalog(zombie)
    async with held(gate, lambda: sleeper.publish(state, revenant)) as written:
        newest = await publish(catalog, state, commit(state))
        async with held(reading, reader.latest) as seen:  # it has listed number 3
            for _ in range(3):
                newest = await publish(catalog, newest, commit(newest))
            await catalog.collect(newest)
            gate.open.set()
            await trio.testing.wait_all_tasks_blocked()
            assert isinstance(written[0], FencedError)
    if kind is ManifestCatalog:
        assert seen == [newest]
    else:  # without the second look, this test would find what it is for
        assert seen == [attrs.evolve(revenant, sequence=3)]


async def test_a_reader_whose_manifest_was_collected_looks_again() -> None:
    store = SimStore()
    catalog = open_catalog(store)
    state = await live(catalog, (commit,))
    client, reading = store.client("reader"), Gate()

    async def before(operation: StoreOperation) -> None:
        if operation.name == "get" and not reading.open.is_set():
            await reading.wait()

    client.before = before
    async with held(reading, open_catalog(client).latest) as seen:
        newest = await publish(catalog, state, commit(state))
        await catalog.collect(newest)
    assert seen == [newest]


# ---- what it costs


async def test_looking_again_costs_one_listing() -> None:
    store = SimStore()
    catalog = open_catalog(store)
    state = await live(catalog)
    await catalog.latest()
    assert await catalog.latest() == state
    assert store.history[-1] == ("list_objects", "log/manifest")
    assert store.history[-2] == ("list_objects", "log/manifest")


async def test_publishing_costs_one_create_and_one_listing() -> None:
    store = SimStore()
    catalog = open_catalog(store)
    state = await live(catalog, (commit,))
    before = store.op_count
    await publish(catalog, state, commit(state))
    assert [name for name, _ in store.history[before:]] == ["create", "list_objects"]


# ---- pages


async def test_the_segments_of_a_long_log_are_in_pages() -> None:
    store = SimStore()
    catalog = open_catalog(store, fold=10)
    state = await live(catalog, (commit,) * 95)
    last = decode_manifest(store.tree()[manifest(96)], 96)
    assert [page.count for page in last.pages] == [10] * 9
    assert len(last.segments) == 5
    assert len(pages(store)) == 9  # each was written once
    other = open_catalog(store, fold=10)
    assert await other.latest() == state
    before = store.op_count
    after = await publish(catalog, state, commit(state))
    assert await other.latest() == after  # and is read once
    names = [name for name, key in store.history[before:] if "pages" in key or name == "get"]
    assert names == ["get"]


async def test_pages_are_read_several_at_a_time(autojump_clock: MockClock) -> None:
    store = SimStore(latency=1.0)
    state = await live(open_catalog(store, fold=1), (commit,) * 41)
    start = trio.current_time()
    assert await open_catalog(store).latest() == state
    assert trio.current_time() - start == 3 + 40 / 8


async def test_a_page_that_cannot_be_read_is_an_error_of_its_own() -> None:
    store = SimStore()
    state = await live(open_catalog(store, fold=1), (commit,) * 20)
    client = store.client()
    client.fail("get", 7)
    client.fail("get", 9, kind="denied")
    with pytest.raises(StoreUnavailableError):
        await open_catalog(client).latest()
    assert await open_catalog(store).latest() == state


async def test_manifests_stay_small_also_when_descriptors_are_large() -> None:
    store = SimStore()
    catalog = ManifestCatalog(store, "log", fold_bytes=20_000)
    state = await publish(catalog, None, begin())
    for _ in range(20):
        index = tuple((state.end + i, 100 * i, i) for i in range(500))
        state = await publish(catalog, state, state.committed(segment(state, 500, index=index)))
    sizes = [len(data) for key, data in store.tree().items() if "manifest" in key]
    assert max(sizes) < 50_000
    assert await ManifestCatalog(store, "log").latest() == state


async def test_a_trimmed_page_is_collected() -> None:
    store = SimStore()
    catalog = open_catalog(store, fold=3)
    state = await live(catalog, (commit,) * 10)
    assert len(pages(store)) == 3
    state = await publish(catalog, state, state.trimmed(state.segments[4].end - 1))
    await catalog.collect(state)
    assert len(pages(store)) == 2
    assert await open_catalog(store).latest() == state
    state = await publish(catalog, state, state.left_deleted())
    await catalog.collect(state)
    assert pages(store) == []


async def test_a_handle_that_did_not_see_the_pages_makes_its_own() -> None:
    store = SimStore()
    first = open_catalog(store, fold=3)
    state = await live(first, (commit,) * 10)
    after = fresh(commit(state))
    second = open_catalog(store, fold=4)
    published = await second.publish(state, after)
    assert await first.publish(state, after) == published  # it is the same, in other pages
    assert await first.collect(published) > 0
    assert await open_catalog(store).latest() == published
    assert await first.latest() == published
    assert await first.collect(published) > 0  # now it knows them
    assert await open_catalog(store).latest() == published
    final = await publish(first, published, commit(published))
    await first.collect(final)
    assert await open_catalog(store).latest() == final


async def test_pages_of_a_publication_on_its_way_are_not_collected() -> None:
    store = SimStore()
    catalog = open_catalog(store, fold=3)
    state = await live(catalog, (commit,) * 3)
    client, gate = abandoned_create(store)
    async with held(
        gate, lambda: open_catalog(client, fold=3).publish(state, fresh(commit(state)))
    ):
        assert await catalog.latest() == state
        await catalog.collect(state)
    found = await open_catalog(store).latest()
    assert found is not None
    assert found.sequence == state.sequence + 1


# ---- damage


async def damaged(key: str, data: bytes | None, error: type[Exception]) -> str:
    """What a reader says when an object has these bytes, or is gone."""
    store = SimStore()
    await live(open_catalog(store), (commit,) * 5)
    key = next(found for found in store.tree() if found.startswith(key))
    if data is None:
        await store.delete(key)
    else:
        await store.put(key, data)
    with pytest.raises(error) as caught:
        await open_catalog(store).latest()
    return str(caught.value)


async def test_damage_is_named() -> None:
    assert "CRC" in await damaged(manifest(6), b"nonsense", CorruptDataError)
    assert manifest(6) in await damaged(manifest(6), b"", CorruptDataError)
    assert "is missing" in await damaged("log/pages", None, CorruptDataError)
    assert "log/pages" in await damaged("log/pages", b"nonsense", CorruptDataError)


async def test_a_newer_format_is_refused() -> None:
    line = with_crc(b'{"format":2}')
    assert "format 2 is newer" in await damaged(manifest(6), line, UnsupportedFormatError)


async def test_a_history_that_ends_before_what_was_seen_is_corruption() -> None:
    store = SimStore()
    catalog = open_catalog(store)
    await live(catalog, (commit,))
    await store.delete(manifest(2))
    with pytest.raises(CorruptDataError, match="manifest 2 was the newest"):
        await catalog.latest()


# ---- collecting


async def test_collecting_keeps_the_newest_few_and_what_is_not_ours() -> None:
    store = SimStore()
    catalog = open_catalog(store, keep=3)
    state = await live(catalog, (commit,) * 9)
    await store.put("log/manifest/readme", b"")
    await store.put("log/segments/x", b"")
    await store.put(f"log/pages/{0:020d}", b"")
    assert await catalog.collect(state) == 7
    left = [key for key in store.tree() if "manifest" in key]
    assert left == [*map(manifest, (8, 9, 10)), "log/manifest/readme"]
    assert {"log/segments/x", f"log/pages/{0:020d}"} < set(store.tree())


async def test_collecting_that_fails_is_no_error() -> None:
    store = SimStore()
    catalog = open_catalog(store)
    state = await live(catalog, (commit,) * 5)
    store.fail("delete", 3, kind="denied")
    assert await catalog.collect(state) == 2
    store.fail("list_objects")
    assert await catalog.collect(state) == 0
    assert await catalog.latest() == state


@pytest.mark.parametrize("prefix", ["", "/log", "log/"])
def test_a_bad_prefix_is_refused(prefix: str) -> None:
    with pytest.raises(ValueError, match="prefix="):
        ManifestCatalog(SimStore(), prefix)


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="keep must be at least 1"):
        ManifestCatalog(SimStore(), "log", keep=0)
    with pytest.raises(ValueError, match="fold_segments must be at least 1"):
        ManifestCatalog(SimStore(), "log", fold_segments=0)
