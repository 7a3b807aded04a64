"""The stores in memory and in a directory against a plain dict, by Hypothesis.

Steps are transactions, times that pass, reopenings and power cuts (of the directory); a watch that
began before them all must tell the same story as the dict's changes.

`DANUBE_MODEL_EXAMPLES` is the number of runs of each (default 60).
"""

from __future__ import annotations

import os
from contextlib import AsyncExitStack

import attrs
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from danube_trio.metadata import (
    EmbeddedMetadata,
    MemoryMetadata,
    WatchEvent,
    open_metadata_directory,
)
from danube_trio.testing import SimDisk

EXAMPLES = int(os.environ.get("DANUBE_MODEL_EXAMPLES", "60"))
KEYS = ("/a", "/a/1", "/a/2", "/b", "/ä")
keys = st.sampled_from(KEYS)
values = st.binary(max_size=300)
expectations = st.dictionaries(keys, st.sampled_from(["right", "right", "zero", "wrong"]))


@attrs.frozen
class Transact:
    expect: dict[str, str]
    put: dict[str, bytes]
    delete: list[str]


@attrs.frozen
class PutForAWhile:
    key: str
    value: bytes
    ttl: float


@attrs.frozen
class Pass:
    seconds: float


@attrs.frozen
class Reopen:
    crash: bool


transactions = st.builds(
    Transact, expectations, st.dictionaries(keys, values, max_size=3), st.lists(keys, unique=True)
).map(lambda t: attrs.evolve(t, delete=[key for key in t.delete if key not in t.put]))
steps = st.lists(
    st.one_of(
        transactions,
        transactions,
        st.builds(PutForAWhile, keys, values, st.floats(1, 10)),
        st.builds(Pass, st.floats(0, 6)),
        st.builds(Reopen, st.booleans()),
    ),
    max_size=25,
)


@attrs.define(eq=False)
class Model:
    revision: int = 1
    entries: dict[str, tuple[bytes, int]] = attrs.Factory(dict[str, tuple[bytes, int]])
    ends: dict[str, tuple[float, float]] = attrs.Factory(dict[str, tuple[float, float]])
    events: list[WatchEvent] = attrs.Factory(list[WatchEvent])

    def expire(self, now: float) -> None:
        due = sorted(key for key, (end, _) in self.ends.items() if end <= now)
        if due:
            self.change({}, due)

    def restart(self, now: float) -> None:
        self.ends = {key: (now + ttl, ttl) for key, (_, ttl) in self.ends.items()}

    def change(self, put: dict[str, bytes], delete: list[str]) -> None:
        gone = [key for key in delete if key in self.entries]
        if not put and not gone:
            return
        self.revision += 1
        for key, value in put.items():
            self.entries[key] = (value, self.revision)
            self.ends.pop(key, None)
            self.events.append(WatchEvent(key, value, self.revision))
        for key in gone:
            del self.entries[key]
            self.ends.pop(key, None)
            self.events.append(WatchEvent(key, None, self.revision))

    def expected(self, key: str, how: str) -> int:
        revision = self.entries.get(key, (b"", 0))[1]
        return {"right": revision, "zero": 0, "wrong": revision + 1}[how]


Store = MemoryMetadata | EmbeddedMetadata


async def take(store: Store, model: Model, step: object) -> None:
    now = trio.current_time()
    if isinstance(step, Transact):
        model.expire(now)
        expect = {key: model.expected(key, how) for key, how in step.expect.items()}
        holds = all(model.expected(key, "right") == number for key, number in expect.items())
        revision = await store.transact(expect, put=step.put, delete=step.delete)
        if holds:
            model.change(step.put, step.delete)
        assert revision == (model.revision if holds else None)
    elif isinstance(step, PutForAWhile):
        model.expire(now)
        model.change({step.key: step.value}, [])
        model.ends[step.key] = (now + step.ttl, step.ttl)
        assert await store.put(step.key, step.value, ttl=step.ttl) == model.revision
    elif isinstance(step, Pass):
        await trio.sleep(step.seconds)


async def compare(store: Store, model: Model) -> None:
    model.expire(trio.current_time())
    for prefix in ("/", "/a", "/a/", "/c"):
        found = [(e.key, (e.value, e.revision)) for e in await store.list_entries(prefix)]
        expected = [item for item in sorted(model.entries.items()) if item[0].startswith(prefix)]
        assert found == expected
    for key in KEYS:
        entry = await store.get(key)
        assert (entry and (entry.value, entry.revision)) == model.entries.get(key)
    for after in (1, model.revision // 2 + 1):
        if after < store.history.floor:
            continue
        told = [event for event in model.events if event.revision > after]
        async with store.watch("/", after=after) as events:
            assert [await anext(events) for _ in told] == told


async def run_in_memory(steps: list[object]) -> None:
    store, model = MemoryMetadata(), Model()
    for step in steps:
        await take(store, model, step)
        await compare(store, model)


async def run_in_a_directory(steps: list[object]) -> None:
    disk, model = SimDisk(), Model()
    stack = AsyncExitStack()

    async def open_store() -> EmbeddedMetadata:
        opening = open_metadata_directory("/store", disk=disk, journal_bytes=600)
        return await stack.enter_async_context(opening)

    async with stack:
        store = await open_store()
        for step in steps:
            if isinstance(step, Reopen):
                after = disk.crash() if step.crash else None
                await stack.aclose()
                disk = after or disk
                store = await open_store()
                model.restart(trio.current_time())
            else:
                await take(store, model, step)
            await compare(store, model)


@given(steps=steps)
@settings(max_examples=EXAMPLES)
def test_memory_is_a_dict(steps: list[object]) -> None:
    trio.run(run_in_memory, steps, clock=MockClock(autojump_threshold=0))


@given(steps=steps)
@settings(max_examples=EXAMPLES)
def test_a_directory_is_a_dict(steps: list[object]) -> None:
    trio.run(run_in_a_directory, steps, clock=MockClock(autojump_threshold=0))
