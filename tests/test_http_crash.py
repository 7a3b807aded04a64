"""The power is cut at every moment in the life of some streams.

Whatever state the disk is left in, the next start has every effect that was acknowledged, the one
that was under way whole or not at all, and nothing besides: no topic that no stream needs, no
producer that could send twice.

`DANUBE_CRASH_SAMPLES` is the number of random states that are tried at each point (default 1).
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import attrs
from http_client import Client, sent, until_tidy

from danube_trio import Storage, StorageConfig, WalConfig, open_storage
from danube_trio.http import HttpConfig, open_streams
from danube_trio.testing import SimDisk

SAMPLES = int(os.environ.get("DANUBE_CRASH_SAMPLES", "1"))
NOW = 1_800_000_000.0

State = dict[str, tuple[bytes, bool]]  # of each path: what it has, and whether it is closed


@attrs.define(eq=False)
class History:
    """The states that were acknowledged, and how many operations the disk had done by then."""

    disk: SimDisk
    states: list[tuple[int, State]] = attrs.Factory(lambda: [(0, {})])
    now: dict[str, tuple[bytes, bool]] = attrs.Factory(dict[str, tuple[bytes, bool]])

    def became(self, **paths: tuple[bytes, bool] | None) -> None:
        """An operation was acknowledged, which changed these."""
        for path, state in paths.items():
            if state is None:
                self.now.pop(path, None)
            else:
                self.now[path] = state
        self.states.append((self.disk.op_count, dict(self.now)))

    def possible(self, op_count: int) -> list[State]:
        """What may be there after a crash: the last acknowledged state, or the one after it."""
        last = max(i for i, (at, _) in enumerate(self.states) if at <= op_count)
        return [state for _, state in self.states[last : last + 2]]


@asynccontextmanager
async def open_all(disk: SimDisk, now: float = NOW) -> AsyncGenerator[tuple[Storage, Client]]:
    config = StorageConfig(dir="/data", wal=WalConfig(preallocate_bytes=0))
    async with (
        open_storage(config, disk=disk, clock=lambda: now) as storage,
        open_streams(storage, HttpConfig(), clock=lambda: now) as streams,
    ):
        yield storage, Client(streams)


async def appends(client: Client, history: History) -> None:
    """Creation, appends with a producer, closing."""
    assert (await client.create("a")).status == 201
    history.became(a=(b"", False))
    assert (await client.append("a", b"one", **sent("p", 0, 0))).status == 200
    history.became(a=(b"one", False))
    assert (await client.append("a", b"two", **sent("p", 0, 1))).status == 200
    history.became(a=(b"onetwo", False))
    assert (await client.create("b", b"whole", stream_closed="true")).status == 201
    history.became(b=(b"whole", True))
    assert (await client.close("a", b"end", **sent("p", 0, 2))).status == 200
    history.became(a=(b"onetwoend", True))
    assert (await client.delete("b")).status == 204
    history.became(b=None)
    assert (await client.create("b", b"new")).status == 201
    history.became(b=(b"new", False))
    assert (await client.close("b")).status == 204
    history.became(b=(b"new", True))


async def forks(client: Client, history: History) -> None:
    """Forks, also inside a record; hidden streams, and what goes with the last fork."""
    first = (await client.create("a", b"hello")).next
    history.became(a=(b"hello", False))
    assert (await client.append("a", b"world")).status == 204
    history.became(a=(b"helloworld", False))
    inside = {"stream_fork_offset": first, "stream_fork_sub_offset": "2"}
    assert (await client.fork("b", "a", b"!", **inside)).status == 201
    history.became(b=(b"hellowo!", False))
    assert (await client.fork("c", "b")).status == 201
    history.became(c=(b"hellowo!", False))
    assert (await client.delete("a")).status == 204
    history.became(a=None)
    assert (await client.append("c", b"?")).status == 204
    history.became(c=(b"hellowo!?", False))
    assert (await client.delete("b")).status == 204
    history.became(b=None)
    assert (await client.delete("c")).status == 204
    history.became(c=None)


Workload = Callable[[Client, History], Awaitable[None]]


async def check(disk: SimDisk, possible: list[State], now: float = NOW) -> State:
    """Start anew and compare. Returns what was there."""
    async with open_all(disk, now) as (storage, client):
        found: State = {}
        for path in "abc":
            head = await client.head(path)
            if head.status != 200:
                assert head.status in (404, 410), head
                continue
            found[path] = (await client.read_all(path), head.closed)
        assert found in possible, (found, possible)
        await until_tidy(storage)
        topics = await storage.list_topics()
        documents = await storage.metadata.list_entries("/danube/http/streams/")
        assert len(topics) <= len(documents)
        assert all(any(t.encode() in d.value for d in documents) for t in topics)
        return found


async def every_crash(workload: Workload) -> int:
    disk = SimDisk(seed=8, sector_bytes=64)
    history = History(disk)
    async with open_all(disk) as (storage, client):
        await workload(client, history)
        await until_tidy(storage)
    tried = 0
    for point in disk.crash_points(samples=SAMPLES):
        for state in point.states:
            await check(state.disk, history.possible(point.op_count))
            tried += 1
    return tried


async def test_appends_survive_every_crash(autojump_clock: object) -> None:
    assert await every_crash(appends) > 100


async def test_forks_survive_every_crash(autojump_clock: object) -> None:
    assert await every_crash(forks) > 100


async def test_a_producer_that_sends_again_after_a_crash_is_told_what_became_of_it(
    autojump_clock: object,
) -> None:
    disk = SimDisk(seed=9, sector_bytes=64)
    acked: list[int] = []
    async with open_all(disk) as (_, client):
        await client.create("a")
        for seq in range(4):
            await client.append("a", b"%d" % seq, **sent("p", 0, seq))
            acked.append(disk.op_count)
    tried = 0
    for point in disk.crash_points(samples=SAMPLES, start=acked[0]):
        known = sum(at <= point.op_count for at in acked)
        for state in point.states:
            async with open_all(state.disk) as (_, client):
                statuses = [
                    (await client.append("a", b"%d" % seq, **sent("p", 0, seq))).status
                    for seq in range(4)
                ]
                found = statuses.count(204)
                assert found >= known
                assert statuses == [204] * found + [200] * (4 - found)
                assert await client.read_all("a") == b"0123"
            tried += 1
    assert tried > 10


async def test_what_has_expired_goes_whole_whenever_the_power_is_cut(
    autojump_clock: object,
) -> None:
    disk = SimDisk(seed=10, sector_bytes=64)
    async with open_all(disk) as (_, client):
        await client.create("a", b"kept")
        await client.create("b", b"old", stream_ttl="60")
    later, first = NOW + 600, disk.op_count
    async with open_all(disk, later) as (storage, client):
        assert (await client.head("b")).status == 404
        await until_tidy(storage)
        assert len(await storage.list_topics()) == 1
    for point in disk.crash_points(samples=SAMPLES, start=first):
        for state in point.states:
            await check(state.disk, [{"a": (b"kept", False)}], later)
