"""The simulated object store: every way to fail does what it says, and nothing else."""

from __future__ import annotations

from typing import cast

import pytest
import trio
import trio.testing

from danube_trio.errors import (
    AccessDeniedError,
    ObjectNotFoundError,
    PreconditionFailedError,
    StoreUnavailableError,
)
from danube_trio.testing import SimStore, StoreFaultKind, StoreOperation


async def test_unavailable_did_nothing_and_a_lost_reply_did_it() -> None:
    store = SimStore()
    store.fail("put", kind="unavailable")
    with pytest.raises(StoreUnavailableError, match=r"put of 'a'.*unknown"):
        await store.put("a", b"1")
    assert store.tree() == {}
    store.fail("put", kind="reply_lost")
    with pytest.raises(StoreUnavailableError):
        await store.put("a", b"1")
    assert store.tree() == {"a": b"1"}
    await store.put("a", b"2")
    assert store.history == [("put", "a")] * 3
    assert [operation.error for operation in store.operations] == ["StoreUnavailableError"] * 2 + [
        None
    ]


async def test_the_reply_of_a_refusal_can_be_lost_too() -> None:
    store = SimStore()
    await store.create("a", b"1")
    store.fail("create", kind="reply_lost")
    with pytest.raises(StoreUnavailableError):
        await store.create("a", b"2")
    store.fail("get", kind="reply_lost")
    with pytest.raises(StoreUnavailableError):
        await store.get("none")
    assert store.tree() == {"a": b"1"}


async def test_a_late_request_is_carried_out_some_operations_later() -> None:
    store = SimStore()
    other = store.client("other")
    fault = store.fail("create", kind="late", late_by=3)
    with pytest.raises(StoreUnavailableError):
        await store.create("a", b"late")
    for _ in range(2):
        assert await other.list_objects("") == []
    assert (await other.get("a"))[1] == b"late"
    assert fault.hits == 1


async def test_a_late_request_keeps_its_condition() -> None:
    store = SimStore()
    store.fail("create", kind="late", late_by=100)
    with pytest.raises(StoreUnavailableError):
        await store.create("a", b"late")
    await store.create("a", b"first")
    store.settle()
    assert store.tree() == {"a": b"first"}


async def test_a_late_upload_carries_its_bytes() -> None:
    store = SimStore()
    store.fail("upload", kind="late")
    with pytest.raises(StoreUnavailableError):
        await store.upload("a", lambda: iter([b"1", b"2"]))
    store.settle()
    assert store.tree() == {"a": b"12"}


async def test_denied() -> None:
    store = SimStore()
    store.fail(None, kind="denied", sticky=True, key_contains="secret")
    await store.put("open", b"")
    for _ in range(2):
        with pytest.raises(AccessDeniedError):
            await store.get("secret/a")


@pytest.mark.parametrize(("kind", "there"), [("hang", False), ("hang_after", True)])
async def test_a_hanging_call_returns_when_it_is_cancelled(
    kind: StoreFaultKind, there: bool, autojump_clock: trio.testing.MockClock
) -> None:
    store = SimStore()
    store.fail("put", kind=kind)
    with trio.move_on_after(1000) as scope:
        await store.put("a", b"")
    assert scope.cancelled_caught
    assert ("a" in store.tree()) is there


async def test_conflicts_that_are_none() -> None:
    store = SimStore()
    store.fail("create", kind="false_conflict")
    with pytest.raises(PreconditionFailedError):
        await store.create("a", b"1")
    assert store.tree() == {}
    store.fail("create", kind="own_conflict")
    with pytest.raises(PreconditionFailedError):
        await store.create("a", b"1")
    assert store.tree() == {"a": b"1"}
    store.fail("create", kind="own_conflict")
    with pytest.raises(PreconditionFailedError):
        await store.create("a", b"another")
    assert store.tree() == {"a": b"1"}


async def test_stale_lists_miss_the_newest_keys() -> None:
    store = SimStore()
    for key in ("n/c", "n/a", "n/b"):
        await store.put(key, b"")
    store.stale_keys = 2
    assert [info.key for info in await store.list_objects("n")] == ["n/c"]
    assert (await store.head("n/b")).key == "n/b"
    assert [info.key for info in await store.client().list_objects("n")] == ["n/a", "n/b", "n/c"]
    store.stale_keys = 3
    assert await store.list_children("") == []


async def test_a_liar_overwrites() -> None:
    store = SimStore(create_overwrites=True)
    await store.create("a", b"1")
    await store.create("a", b"2")
    assert store.tree() == {"a": b"2"}


async def test_tags_come_back_with_the_content() -> None:
    store = SimStore()
    first = await store.put("a", b"A")
    await store.put("a", b"B")
    await store.put("a", b"A")
    await store.swap("a", b"C", first)
    with pytest.raises(NotImplementedError):
        await SimStore(can_swap=False).swap("a", b"C", first)


async def test_hooks_stop_a_client_before_and_after_each_effect() -> None:
    store = SimStore()
    seen: list[tuple[str, str, bool]] = []

    async def note(when: str, operation: StoreOperation) -> None:
        seen.append((when, operation.name, "a" in store.tree()))

    async def before(operation: StoreOperation) -> None:
        await note("before", operation)

    async def after(operation: StoreOperation) -> None:
        await note("after", operation)

    store.before, store.after = before, after
    await store.put("a", b"")
    with pytest.raises(ObjectNotFoundError):
        await store.head("b")
    assert seen == [
        ("before", "put", False),
        ("after", "put", True),
        ("before", "head", True),
        ("after", "head", True),
    ]


async def test_a_killed_client_does_nothing_more_and_hears_nothing_more(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = SimStore()
    other = store.client()
    answers: list[object] = []

    async def kill(operation: StoreOperation) -> None:
        if operation.key == "b":
            store.kill()

    async def work() -> None:
        for key in ("a", "b", "c"):
            answers.append(await store.put(key, b""))

    store.after = kill
    with trio.move_on_after(10) as scope:
        await work()
    assert scope.cancelled_caught
    assert len(answers) == 1
    assert sorted(other.tree()) == ["a", "b"]


async def test_a_clone_shares_nothing() -> None:
    store = SimStore()
    await store.put("a", b"1")
    store.fail("put", kind="late", late_by=9)
    with pytest.raises(StoreUnavailableError):
        await store.put("a", b"2")
    clone = store.clone()
    await clone.put("b", b"")
    clone.settle()
    assert clone.tree() == {"a": b"1", "b": b""}
    assert store.tree() == {"a": b"1"}
    assert clone.op_count == 1


async def test_the_seed_repeats_the_weather() -> None:
    async def outcomes(seed: int) -> list[str]:
        store = SimStore(seed=seed)
        store.fail_sometimes(0.5)
        for number in range(60):
            try:
                await store.create(f"{number}", b"")
            except (StoreUnavailableError, PreconditionFailedError):
                continue
        return [str(operation.error) for operation in store.operations] + sorted(store.tree())

    assert await outcomes(1) == await outcomes(1) != await outcomes(2)
    errors = {error for error in await outcomes(1) if not error.isdigit()}
    assert errors == {"None", "StoreUnavailableError", "PreconditionFailedError"}


async def test_time_is_virtual(autojump_clock: trio.testing.MockClock) -> None:
    store = SimStore(latency=10.0, clock=trio.current_time)
    start = trio.current_time()
    assert (await store.put("a", b"")).modified == start + 10
    assert trio.current_time() == start + 10


def test_faults_that_mean_nothing_are_refused() -> None:
    store = SimStore()
    with pytest.raises(ValueError, match=r"operation must be one of create.*'write'"):
        store.fail("write")
    with pytest.raises(ValueError, match="kind must be one of"):
        store.fail("put", kind=cast(StoreFaultKind, "explode"))
    with pytest.raises(ValueError, match="'get' has no fault of the kind 'late'"):
        store.fail("get", kind="late")
    with pytest.raises(ValueError, match="nth counts from 1"):
        store.fail("get", 0)
    with pytest.raises(ValueError, match="late_by"):
        store.fail("put", kind="late", late_by=0)


async def test_a_cancelled_fault_is_repaired() -> None:
    store = SimStore()
    fault = store.fail(None, sticky=True)
    for _ in range(2):
        with pytest.raises(StoreUnavailableError):
            await store.list_objects("")
    fault.cancel()
    assert await store.list_objects("") == []
    assert fault.hits == 2


async def test_a_backup_that_is_put_back_changes_what_is_below_its_prefix() -> None:
    store = SimStore()
    await store.put("a/1", b"old")
    await store.put("b/1", b"old")
    earlier = store.clone()
    await store.put("a/1", b"new")
    await store.put("a/2", b"new")
    await store.put("b/1", b"new")
    store.client().go_back_to(earlier, "a/")
    assert store.tree() == {"a/1": b"old", "b/1": b"new"}
    await store.put("a/3", b"later")
    store.go_back_to(earlier)
    assert store.tree() == earlier.tree() == {"a/1": b"old", "b/1": b"old"}
