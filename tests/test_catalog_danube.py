"""The catalog in a metadata store: Danube's keys and values, its limits, and foreign entries."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial

import attrs
import pytest
from catalogs import (
    LIFE,
    QUICK,
    Change,
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
    trim_one,
)
from trio.testing import MockClock

from danube_trio._core.catalog import CatalogState
from danube_trio._core.codec import CODECS
from danube_trio.catalog import CatalogSession, MetadataCatalog, acquire, fresh
from danube_trio.errors import (
    CorruptDataError,
    FencedError,
    UnsupportedFormatError,
)
from danube_trio.metadata import MemoryMetadata, MetadataStore, Revised
from danube_trio.testing import MetadataOperation, SimMetadata

BASE = "/danube/storage/topics/default/orders"
NOW = 1768625254.9


def open_catalog(metadata: MetadataStore) -> MetadataCatalog:
    return MetadataCatalog(
        metadata, "/default/orders", broker_id=2**63 + 9, clock=lambda: NOW, backoff=QUICK
    )


async def tree(metadata: MetadataStore) -> dict[str, str]:
    return {
        entry.key.removeprefix(f"{BASE}/"): entry.value.decode()
        for entry in await metadata.list_entries(f"{BASE}/")
    }


# ---- what is there


async def test_danube_finds_its_keys_and_values() -> None:
    metadata = MemoryMetadata()
    catalog = open_catalog(metadata)
    state = await publish(catalog, None, begin())
    first = segment(
        state,
        30,
        object_id="first",
        created_at=1768728599,
        index=((0, 0, 7), (20, 2000, 9)),
        crc32=99,
        first_time=7,
        last_time=9,
    )
    state = await publish(catalog, state, state.committed(first))
    second = segment(state, 5, object_id="second", etag='"x"')
    state = await publish(catalog, state, state.committed(second))
    state = await publish(catalog, state, state.left_sealed())
    entries = await tree(metadata)
    head = json.loads(entries.pop("head"))
    assert entries == {
        "segments/00000000000000000000": (
            '{"completed":true,"created_at":1768728599,"end_offset":29,"etag":null,'
            '"offset_index":[[0,0],[20,2000]],"segment_id":"first","size":3000,"start_offset":0}'
        ),
        "segments/00000000000000000030": (
            '{"completed":true,"created_at":0,"end_offset":34,"etag":"\\"x\\"",'
            '"segment_id":"second","size":500,"start_offset":30}'
        ),
        "segments/cur": '{"start":"00000000000000000030"}',
        "state": (
            '{"broker_id":9223372036854775817,"last_committed_offset":34,"sealed":true,'
            '"timestamp":1768625254}'
        ),
        "details/00000000000000000000": (
            '{"crc32":99,"end":30,"epoch":1,"first_time":7,"format":1,"last_time":9,'
            '"object_id":"first","times":[7,9]}'
        ),
        "details/00000000000000000030": (
            '{"crc32":30,"end":35,"epoch":1,"first_time":0,"format":1,"last_time":0,'
            '"object_id":"second","times":[]}'
        ),
        "epoch": '{"epoch":1,"format":1,"writer":"writer a"}',
    }
    assert head["nonce"] == state.nonce
    assert (head["sequence"], head["end"], head["owner"]) == (4, 35, "a")


async def test_objects_are_where_danube_looks_for_them() -> None:
    catalog = open_catalog(MemoryMetadata())
    assert catalog.object_prefix == "storage/topics/default/orders/segments"
    assert catalog.object_key("x") == "storage/topics/default/orders/segments/x"


async def test_an_empty_log_has_no_sealed_marker() -> None:
    metadata = MemoryMetadata()
    catalog = open_catalog(metadata)
    state = await live(catalog, (CatalogState.left_sealed,))
    assert state.sealed
    assert "state" not in await tree(metadata)  # 0 would say that offset 0 was taken


async def test_a_log_that_was_trimmed_whole_has_one() -> None:
    metadata = MemoryMetadata()
    await live(open_catalog(metadata), (commit, trim_one, CatalogState.left_sealed))
    entries = await tree(metadata)
    assert json.loads(entries["state"])["last_committed_offset"] == 9
    assert "segments/cur" not in entries


@pytest.mark.parametrize("change", [take_over, CatalogState.left_deleted])
async def test_the_sealed_marker_goes_with_the_next_change(change: Change) -> None:
    metadata = MemoryMetadata()
    await live(open_catalog(metadata), (commit, CatalogState.left_sealed, change))
    assert "state" not in await tree(metadata)


async def test_trimming_and_deleting_leave_nothing_of_danube() -> None:
    metadata = MemoryMetadata()
    await live(open_catalog(metadata), (commit, commit, CatalogState.left_deleted))
    assert set(await tree(metadata)) == {"epoch", "head"}


# ---- limits


async def test_no_transaction_is_larger_than_etcd_allows() -> None:
    metadata = SimMetadata()  # which refuses larger ones
    catalog = open_catalog(metadata.client())
    state = await live(catalog, (commit,) * 200)
    state = await publish(catalog, state, state.trimmed(state.end - 15))
    assert len(await tree(metadata)) == 2 * 2 + 3
    assert await open_catalog(metadata).latest() == state


async def test_entries_that_could_not_be_removed_do_not_count_and_go_later() -> None:
    metadata = SimMetadata()
    client = metadata.client()
    catalog = open_catalog(client)
    state = await live(catalog, (commit,) * 200)
    metadata.fail("transact", 2)  # the first is the change itself
    state = await publish(catalog, state, state.trimmed(state.end - 15))
    assert len(await tree(metadata)) > 100
    assert await open_catalog(metadata).latest() == state
    metadata.fail("transact")
    assert await catalog.collect(state) == 0
    assert await catalog.collect(state) > 100
    assert len(await tree(metadata)) == 2 * 2 + 3
    assert await open_catalog(metadata).latest() == state


async def test_too_many_new_segments_at_once_are_refused() -> None:
    catalog = open_catalog(MemoryMetadata())
    state = begin()
    for _ in range(31):
        state = state.committed(segment(state))
    published = await publish(catalog, None, state)
    assert await catalog.latest() == published
    for _ in range(32):
        state = state.committed(segment(state))
    with pytest.raises(ValueError, match="32 new segments in one change: at most 31 fit"):
        await catalog.publish(published, fresh(state))


# ---- faults


async def steps() -> int:
    metadata = SimMetadata()
    await live(open_catalog(metadata))
    return len(metadata.operations)


@pytest.mark.parametrize("kind", ["unavailable", "reply_lost"])
async def test_a_fault_at_any_step_changes_nothing(kind: str, autojump_clock: MockClock) -> None:
    for nth in range(1, await steps() + 1):
        metadata = SimMetadata()
        metadata.fail(None, nth, kind="reply_lost" if kind == "reply_lost" else "unavailable")
        state = await live(open_catalog(metadata))
        assert state.sequence == len(LIFE) + 1
        assert await open_catalog(metadata).latest() == state


@pytest.mark.parametrize("kind", ["hang", "hang_after"])
async def test_cancelled_at_any_step_the_same_call_settles_it(
    kind: str, autojump_clock: MockClock
) -> None:
    for nth in range(1, await steps() + 1):
        metadata = SimMetadata()
        catalog = open_catalog(metadata)
        metadata.fail(None, nth, kind="hang" if kind == "hang" else "hang_after")
        state = await live_with_cancellation([catalog, catalog])
        assert state.sequence == len(LIFE) + 1
        assert await open_catalog(metadata).latest() == state


async def test_what_stays_unknown_is_settled_by_the_same_call(autojump_clock: MockClock) -> None:
    metadata = SimMetadata()
    catalog = open_catalog(metadata)
    await settle_the_unknown(
        catalog,
        lambda: (
            metadata.fail("transact", kind="reply_lost", sticky=True),
            metadata.fail("get", 3, sticky=True),
        ),
    )
    assert len([key for key in await tree(metadata) if key.startswith("segments/0")]) == 1


def hold(metadata: SimMetadata, client: SimMetadata, name: str) -> Gate:
    """A gate before the operations of that name of one client."""
    gate = Gate()

    async def hook(operation: MetadataOperation, moment: str) -> None:
        if (operation.client, operation.name, moment) == (client.number, name, "before"):
            await gate.wait()

    metadata.hook = hook
    return gate


async def test_a_late_transaction_meets_another_head() -> None:
    metadata = SimMetadata()
    state = await live(open_catalog(metadata), (commit,))
    client = metadata.client()
    gate = hold(metadata, client, "transact")
    sleeper = open_catalog(client)
    async with held(gate, lambda: sleeper.publish(state, fresh(commit(state)))) as outcome:
        newest = await publish(open_catalog(metadata), state, take_over(state))
    assert isinstance(outcome[0], FencedError)
    assert outcome[0].by == "writer b (epoch 2)"
    assert await sleeper.latest() == newest


# ---- reading while others write


@pytest.mark.parametrize("change", [commit, trim_one])
async def test_a_reader_that_meets_a_writer_looks_again_only_after_a_trim(
    change: Change, autojump_clock: MockClock
) -> None:
    metadata = SimMetadata()
    catalog = open_catalog(metadata)
    state = await live(catalog, (commit,) * 3)
    client = metadata.client()
    gate, reader = hold(metadata, client, "list_entries"), open_catalog(client)
    async with held(gate, reader.latest) as seen:
        newest = await publish(catalog, state, change(state))
    assert seen == [newest if change is trim_one else state]  # the newest when the call began
    assert await reader.latest() == newest


async def test_a_reader_reads_only_what_is_new() -> None:
    metadata = SimMetadata()
    writer, reader = open_catalog(metadata), open_catalog(metadata.client())
    state = await live(writer, (commit,) * 10)
    assert await reader.latest() == state
    for change in (commit, take_over, commit, trim_one, commit):
        state = await publish(writer, state, change(state))
        before = metadata.op_count
        assert await reader.latest() == state
        assert {operation.name for operation in metadata.operations[before:]} == {"get"}
    for _ in range(20):
        state = await publish(writer, state, commit(state))
    assert await reader.latest() == state
    state = await publish(writer, state, state.trimmed(state.end + 5))
    assert await reader.latest() == state
    state = await publish(writer, state, commit(state))
    assert await reader.latest() == state


async def test_a_reader_forgets_a_history_that_a_backup_took_back() -> None:
    metadata = MemoryMetadata()
    writer, reader = open_catalog(metadata), open_catalog(metadata)
    state = await live(writer, (commit,) * 3)
    backup = await metadata.list_entries(f"{BASE}/")
    lost = await publish(writer, state, commit(state))
    assert await reader.latest() == lost
    for entry in await metadata.list_entries(f"{BASE}/"):
        await metadata.delete(entry.key)
    for entry in backup:
        await metadata.put(entry.key, entry.value)
    state = await publish(open_catalog(metadata), state, take_over(state))
    state = await publish(open_catalog(metadata), state, commit(state))
    state = await publish(open_catalog(metadata), state, commit(state))
    assert await reader.latest() == state


# ---- what others wrote, and damage


async def test_entries_before_the_log_are_nobodys_business() -> None:
    metadata = MemoryMetadata()
    catalog = open_catalog(metadata)
    state = await publish(catalog, None, begin(start=100))
    state = await publish(catalog, state, commit(state))
    foreign = b'{"segment_id":"x","start_offset":0,"end_offset":9}'
    for key in ("00000000000000000000", "junk", "+1"):
        await metadata.put(f"{BASE}/segments/{key}", foreign)
    assert await open_catalog(metadata).latest() == state
    state = await publish(catalog, state, state.trimmed(105))
    await catalog.collect(state)
    assert f"segments/{0:020d}" in await tree(metadata)


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("segments/00000000000000000005", b"{}", "segments/00000000000000000005: .*missing"),
        ("segments/00000000000000000010", b"\xff", "segments/00000000000000000010"),
        ("details/00000000000000000010", b"{}", "segments/00000000000000000010"),
        ("segments/00000000000000000010", None, "10..20 are in no segment"),
        ("segments/00000000000000000020", None, "segments end at 20, the log at 30"),
        ("segments/00000000000000000000", None, "first segment"),
        ("details/00000000000000000020", None, "danube-trio did not write it"),
        ("epoch", b'{"epoch":7,"format":1,"writer":""}', "the head is of epoch 1"),
        ("epoch", b"nonsense", "epoch or head cannot be read"),
        ("epoch", None, "the epoch says None"),
        ("head", b"{}", "epoch or head cannot be read"),
        ("head", None, "there is an epoch, and no head"),
    ],
)
async def test_damage_is_named(key: str, value: bytes | None, why: str) -> None:
    metadata = MemoryMetadata()
    await live(open_catalog(metadata), (commit,) * 3)
    if value is None:
        await metadata.delete(f"{BASE}/{key}")
    else:
        await metadata.put(f"{BASE}/{key}", value)
    with pytest.raises(CorruptDataError, match=why):
        await open_catalog(metadata).latest()


async def test_a_newer_format_is_refused() -> None:
    metadata = MemoryMetadata()
    await live(open_catalog(metadata))
    await metadata.put(f"{BASE}/head", b'{"format":2}')
    with pytest.raises(UnsupportedFormatError, match="newer version of danube-trio"):
        await open_catalog(metadata).latest()


async def test_a_topic_that_danube_wrote_is_refused_untouched() -> None:
    metadata = MemoryMetadata()
    value = (
        b'{"completed":true,"created_at":1768728599,"end_offset":29,"etag":null,'
        b'"offset_index":[[0,0]],"segment_id":"data-0-29.dnb1","size":7164,"start_offset":0}'
    )
    await metadata.put(f"{BASE}/segments/{0:020d}", value)
    before = await tree(metadata)
    with pytest.raises(UnsupportedFormatError, match="Danube wrote"):
        await open_catalog(metadata).latest()
    with pytest.raises(UnsupportedFormatError, match="Danube wrote"):
        await open_catalog(metadata).publish(None, fresh(begin()))
    assert await tree(metadata) == before


async def test_an_entry_in_the_place_of_a_new_segment_is_not_overwritten() -> None:
    metadata = MemoryMetadata()
    catalog = open_catalog(metadata)
    state = await live(catalog, (commit,))
    await metadata.put(f"{BASE}/segments/{10:020d}", b"danube's")
    with pytest.raises(FencedError, match="Danube"):
        await catalog.publish(state, fresh(commit(state)))
    assert (await tree(metadata))[f"segments/{10:020d}"] == "danube's"
    assert await open_catalog(metadata).latest() == state


MARKER = b'{"broker_id":1,"last_committed_offset":%d,"sealed":true,"timestamp":1768625254}'
THEIRS = b'{"completed":true,"end_offset":29,"segment_id":"data-20-1768625254.dnb1"}'
CURRENT = b'{"start":"00000000000000000020"}'
# What Danube does to a topic of ours that ends at 20 -> the changes of keys, what undoes them.
TAKE_OVERS: dict[str, tuple[bool, dict[str, bytes | None], list[str]]] = {
    "it took a sealed topic over": (True, {"state": None}, [f"put .* at {BASE}/state"]),
    "and uploaded": (
        True,
        {"state": None, f"segments/{20:020d}": THEIRS, "segments/cur": CURRENT},
        [f"remove {BASE}/segments/{20:020d}", "0010.} there", f"put .* at {BASE}/state"],
    ),
    "and sealed it again": (
        True,
        {f"segments/{20:020d}": THEIRS, "segments/cur": CURRENT, "state": MARKER % 29},
        [f"remove {BASE}/segments/{20:020d}", "0010.} there", f"put .*19,.* at {BASE}/state"],
    ),
    "what it uploaded was freed since": (True, {"state": MARKER % 29}, [f"at {BASE}/state"]),
    "it writes beside us": (
        False,
        {f"segments/{25:020d}": THEIRS, "segments/cur": b'{"start":"00000000000000000025"}'},
        [f"remove {BASE}/segments/{25:020d}", "0010.} there"],
    ),
    "it stopped halfway": (False, {f"segments/{25:020d}": THEIRS}, ["remove .*0025"]),
    "it took an open topic over": (False, {"state": MARKER % 24}, [f"remove {BASE}/state"]),
    "its marker is unreadable": (True, {"state": b"{}"}, [f"put .* at {BASE}/state"]),
}


@pytest.mark.happens
@pytest.mark.parametrize("case", TAKE_OVERS)
async def test_a_topic_that_danube_took_over_is_refused_until_that_is_undone(case: str) -> None:
    sealed, changes, undos = TAKE_OVERS[case]
    metadata = MemoryMetadata()
    left = (CatalogState.left_sealed,) if sealed else ()
    state = await live(open_catalog(metadata), (commit, commit, *left))
    before = {key: await metadata.get(f"{BASE}/{key}") for key in changes}
    for key, value in changes.items():
        await (metadata.delete(f"{BASE}/{key}") if value is None else _put(metadata, key, value))
    there = await tree(metadata)

    async def settle(found: CatalogState | None) -> CatalogState:
        assert found is not None
        assert found == state
        return take_over(found)

    with pytest.raises(UnsupportedFormatError, match="Danube wrote to this topic") as refused:
        await acquire(open_catalog(metadata), settle)
    for undo in undos:
        assert re.search(undo, str(refused.value)), str(refused.value)
    assert await tree(metadata) == there
    for key, entry in before.items():
        await (metadata.delete(f"{BASE}/{key}") if entry is None else _put(metadata, key, entry))
    assert (await acquire(open_catalog(metadata), settle)).epoch == 2


async def _put(metadata: MetadataStore, key: str, value: bytes | Revised) -> None:
    data = value if isinstance(value, bytes) else value.value
    await metadata.put(f"{BASE}/{key}", data)


@pytest.mark.happens
async def test_a_topic_that_danube_only_held_meanwhile_is_taken_back() -> None:
    metadata = MemoryMetadata()
    state = await live(open_catalog(metadata), (commit, CatalogState.left_sealed))
    await _put(metadata, "state", MARKER % 9)  # of another broker, and a later time

    async def settle(found: CatalogState | None) -> CatalogState:
        assert found is not None
        assert found == state
        return take_over(found)

    assert (await acquire(open_catalog(metadata), settle)).epoch == 2


async def test_a_topic_that_danube_sealed_before_it_uploaded_anything_is_not_begun() -> None:
    metadata = MemoryMetadata()
    await _put(metadata, "state", MARKER % 7)
    for attempt in (
        partial(acquire, open_catalog(metadata), _begin),
        partial(open_catalog(metadata).publish, None, fresh(begin())),
    ):
        with pytest.raises((UnsupportedFormatError, FencedError), match="Danube"):
            await attempt()
    assert set(await tree(metadata)) == {"state"}


async def _begin(found: CatalogState | None) -> CatalogState:
    assert found is None
    return begin()


@pytest.mark.parametrize("late", [False, True])
async def test_danube_fences_the_writer_that_it_writes_beside(late: bool) -> None:
    """Also if it writes between the look and the transaction."""
    metadata = SimMetadata()
    state = await live(open_catalog(metadata), (commit,))
    client = metadata.client()
    gate = hold(metadata, client, "transact" if late else "get")
    catalog = open_catalog(client)
    async with held(gate, lambda: catalog.publish(state, fresh(commit(state)))) as outcome:
        await _put(metadata, f"segments/{12:020d}", THEIRS)
        await _put(metadata, "segments/cur", b'{"start":"00000000000000000012"}')
        before = await tree(metadata)
    assert isinstance(outcome[0], FencedError)
    assert outcome[0].by == f"Danube (it changed {BASE}/segments/cur)"
    assert await tree(metadata) == before
    session = CatalogSession(open_catalog(metadata), state)
    with pytest.raises(FencedError, match="by Danube"):
        await session.change(commit)
    assert session.fenced is not None
    assert session.fenced.by == outcome[0].by


async def test_a_catalog_under_danube_s_keys_refuses_every_other_layout() -> None:
    metadata = MemoryMetadata()
    for codec in CODECS:
        state = fresh(attrs.evolve(begin(), codec=codec))
        if codec != "s5-standard":
            with pytest.raises(ValueError, match=f"codec='{codec}'"):
                await open_catalog(metadata).publish(None, state)
            assert not await tree(metadata)
    await open_catalog(metadata).publish(None, fresh(begin()))


async def test_the_same_revisions_with_other_values_fence() -> None:
    """A cluster that was restored gives the same revisions again."""
    lost, restored = MemoryMetadata(), MemoryMetadata()
    state = await live(open_catalog(lost), (commit, commit))
    other = await live(open_catalog(restored), (commit, commit))
    keys = (f"{BASE}/head", f"{BASE}/epoch")
    for key in keys:
        first, second = await lost.get(key), await restored.get(key)
        assert first is not None
        assert second is not None
        assert first.revision == second.revision
    with pytest.raises(FencedError):
        await open_catalog(restored).publish(state, fresh(commit(state)))
    assert await open_catalog(restored).latest() == other


async def test_a_lower_epoch_in_a_restored_store_fences() -> None:
    metadata = MemoryMetadata()
    state = await live(open_catalog(metadata), (commit,))
    await metadata.put(f"{BASE}/epoch", b'{"epoch":2,"format":1,"writer":"later"}')
    with pytest.raises(FencedError):
        await open_catalog(metadata).publish(state, fresh(commit(state)))


def trim(state: CatalogState) -> CatalogState:
    return state.trimmed(1)


@pytest.mark.parametrize("change", [commit, trim])
async def test_a_take_over_that_looked_before_a_change_does_not_undo_it(
    change: Callable[[CatalogState], CatalogState],
) -> None:
    metadata = SimMetadata()
    ours = open_catalog(metadata)
    state = await live(ours, (commit,))
    uploaded = fresh(change(state))
    between: list[CatalogState] = []
    other = metadata.client()

    async def hook(operation: MetadataOperation, moment: str) -> None:
        if (operation.name, moment) == ("transact", "before") and not between:
            between.append(uploaded)
            between[0] = await ours.publish(state, uploaded)

    other.hook = hook
    with pytest.raises(FencedError):
        await open_catalog(other).publish(state, fresh(state.taken_over("another", "writer")))
    assert await open_catalog(metadata).latest() == between[0]
