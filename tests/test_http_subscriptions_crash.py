"""The power is cut, or the store does not answer, at every moment in the life of a subscription.

Whatever is left: a subscription that was acknowledged is there, and one that was deleted is not; no
acknowledgement is lost, and none comes true that nobody sent; no generation is given twice; and
workers get all that was not acknowledged, in the end.

`DANUBE_CRASH_SAMPLES` is the number of random states that are tried at each point (default 1).
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import Any, cast

import attrs
import pytest
import trio
import trio.testing
from http_client import ZERO, Answer, Client
from subscribers import (
    WEBHOOKS,
    Subscriber,
    Wakes,
    Work,
    code,
    make,
    open_client,
    said,
    streams_of,
)
from webhook_receiver import DONE, Receiver, open_receiver

from danube_trio import Storage
from danube_trio.http._offsets import token
from danube_trio.testing import SimClock, SimDisk, SimMetadata

SAMPLES = int(os.environ.get("DANUBE_CRASH_SAMPLES", "1"))
ROOT = "/danube/http/subscriptions"


@attrs.frozen
class Fact:
    """What was acknowledged.

    Attributes:
        there: whether there is the subscription.
        acked: how far each stream was acknowledged.
        generation: of the last wake that anybody was told.
    """

    there: bool = False
    acked: dict[str, str] = attrs.Factory(dict[str, str])
    generation: int = 0


@attrs.define(eq=False)
class History:
    """What was acknowledged, and how many operations the disk had done by then."""

    disk: SimDisk
    facts: list[tuple[int, Fact]] = attrs.Factory(lambda: [(0, Fact())])

    @property
    def now(self) -> Fact:
        return self.facts[-1][1]

    def became(self, fact: Fact) -> None:
        self.facts.append((self.disk.op_count, fact))

    def told(self, generation: int) -> None:
        self.became(attrs.evolve(self.now, generation=generation))

    def acked(self, acks: dict[str, str]) -> None:
        self.became(attrs.evolve(self.now, acked={**self.now.acked, **acks}))

    def possible(self, op_count: int) -> tuple[Fact, Fact]:
        """The last one, and what may have come true after it."""
        last = max(i for i, (at, _) in enumerate(self.facts) if at <= op_count)
        return self.facts[last][1], self.facts[min(last + 1, len(self.facts) - 1)][1]


class Worker:
    """Who works for a subscription, and writes down what it is told."""

    def __init__(self, client: Client, history: History) -> None:
        self.client = client
        self.history = history
        self.sub = Subscriber(client)
        self.wakes = Wakes(client)

    async def append(self, path: str) -> str:
        answer = await self.client.append(path, b"1", "application/json")
        assert answer.status == 204
        return answer.next

    async def woken(self) -> None:
        event = await self.wakes.next()
        self.history.told(event["generation"])

    async def claimed(self) -> Work:
        work = await self.sub.claimed()
        self.history.told(work.generation)
        return work

    async def ack(self, work: Work, acks: dict[str, str], *, done: bool = True) -> None:
        assert said(await self.sub.ack(work, acks, done=done))["ok"]
        self.history.acked(acks)

    async def made(self, **body: Any) -> None:
        made = await self.sub.made(**body)
        acked = {s["path"]: s["acked_offset"] for s in made["streams"]}
        self.history.became(Fact(there=True, acked=acked))


async def works(worker: Worker, storage: Storage) -> None:
    """Wakes, claims, heartbeats, acknowledgements, a release."""
    await make(worker.client, "wake", "s/1", "s/2")
    await worker.append("s/1")
    await worker.made(pattern="s/*", lease_ttl_ms=5000)
    end = await worker.append("s/1")
    await worker.woken()
    work = await worker.claimed()
    other = await worker.append("s/2")
    await worker.ack(work, {"s/1": end}, done=False)
    await worker.ack(work, {})
    await worker.woken()
    assert (await worker.sub.release(await worker.claimed())).status == 204
    await worker.woken()
    await make(worker.client, "s/3", body=b"[1,2]")
    await worker.ack(await worker.claimed(), {"s/2": other})
    await worker.woken()


async def links(worker: Worker, storage: Storage) -> None:
    """Streams that are named, that go, and that come again; deletion."""
    await make(worker.client, "wake")
    await make(worker.client, "s/1", "t/1", body=b"1")
    await worker.made(streams=["s/1"], lease_ttl_ms=5000)
    assert (await worker.sub.ask("POST", "/streams", {"streams": ["t/1", "t/2"]})).status == 204
    worker.history.became(attrs.evolve(worker.history.now, acked=await worker.sub.acked()))
    end = await worker.append("t/1")
    await worker.woken()
    await worker.ack(await worker.claimed(), {"t/1": end})
    assert (await worker.sub.ask("DELETE", "/streams/s/1")).status == 204
    acked = {k: v for k, v in worker.history.now.acked.items() if k != "s/1"}
    worker.history.became(attrs.evolve(worker.history.now, acked=acked))
    assert (await worker.client.delete("t/1")).status == 204
    worker.history.became(attrs.evolve(worker.history.now, acked={"t/2": ZERO}))
    await make(worker.client, "t/1", "t/2", body=b"1")
    await worker.woken()
    assert (await worker.sub.ask("DELETE")).status == 204
    worker.history.became(Fact())
    await until_clean(storage)
    await worker.made(pattern="*/*", lease_ttl_ms=5000)
    await worker.append("t/2")
    assert (await worker.sub.ask("DELETE")).status == 204
    worker.history.became(Fact())


async def until_clean(storage: Storage) -> None:
    with trio.fail_after(10_000):
        while await storage.metadata.list_entries(f"{ROOT}/trash/"):  # noqa: ASYNC110
            await trio.sleep(1)


Workload = Callable[[Worker, Storage], Awaitable[None]]


async def finish(sub: Subscriber) -> dict[str, str]:
    """Work until nothing is left. Returns how far each stream was told to go."""
    told: dict[str, str] = {}
    seen = 0
    with trio.fail_after(10_000):
        while True:
            answer = await sub.claim("another")
            if answer.status == 200:
                work = Work.of(said(answer))
                assert work.generation > seen
                seen = work.generation
                told |= work.tails
                assert said(await sub.ack(work))["ok"]
            elif code(answer) == (409, "NO_PENDING_WORK"):
                return told
            else:
                assert code(answer) in ((409, "ALREADY_CLAIMED"), (503, "UNAVAILABLE")), answer
                await trio.sleep(1)


async def check(disk: SimDisk, last: Fact, next: Fact, what: str) -> None:
    """Start anew, and look."""
    async with open_client(disk) as (client, storage):
        sub = Subscriber(client)
        there = (await sub.ask("GET")).status == 200
        assert there in (last.there, next.there), what
        await until_clean(storage)
        if there:
            await look(sub, client, last, next, what)
        for name in ("named", "cursors"):
            found = await storage.metadata.list_entries(f"{ROOT}/{name}/")
            assert there or not found, what
        events = [event["generation"] for event in await events_of(client)]
        assert len(set(events)) == len(events), what


async def events_of(client: Client) -> list[dict[str, Any]]:
    answer = await client.read("wake")
    if answer.status == 404:
        return []
    events: list[dict[str, Any]] = await Wakes(client).all()
    uid = [event for event in events if event["subscription_id"] == "sub"]
    # Of the second subscription with this id there may be the same generations.
    begin = max((i for i, event in enumerate(uid) if event["generation"] == 1), default=0)
    return uid[begin:]


async def look(sub: Subscriber, client: Client, last: Fact, next: Fact, what: str) -> None:
    await trio.sleep(0.5)  # all streams are looked at
    found = await sub.get()
    acked = await sub.acked()
    if last.there:
        assert found["generation"] >= last.generation, what
        for path, at in last.acked.items():
            if path in acked:
                assert acked[path] >= at or path not in next.acked, (what, path, acked, last)
            else:
                assert path not in next.acked or next.acked[path] < at, (what, path)
    ends: dict[str, str] = {}
    for path, at in acked.items():
        upper = max(last.acked.get(path, ZERO), next.acked.get(path, ZERO))
        if last.there and next.there:
            assert at <= upper or path not in last.acked, (what, path, at, upper)
        answer = await client.head(path)
        if answer.status == 200:
            ends[path] = answer.next
    told = await finish(sub)
    for path, end in ends.items():
        assert (told.get(path) == end) is (end > acked[path]), (what, path, told, acked, ends)
    assert {**ends, **await sub.acked()} == {**await sub.acked(), **ends}, what


async def recorded(workload: Workload) -> tuple[SimDisk, History]:
    disk = SimDisk(seed=workload.__name__, sector_bytes=64)
    history = History(disk)
    async with open_client(disk) as (client, storage):
        await workload(Worker(client, history), storage)
    return disk, history


@pytest.mark.happens
@pytest.mark.parametrize("workload", [works, links], ids=lambda w: w.__name__)
async def test_every_crash_state_goes_on(workload: Workload, autojump_clock: object) -> None:
    disk, history = await recorded(workload)
    every = 5 if SAMPLES == 1 else 1
    count = 0
    for point in disk.crash_points(samples=SAMPLES):
        last, next = history.possible(point.op_count)
        for state in point.states:
            count += 1
            if count % every == 0:
                what = f"{state.name} at operation {point.op_count}, lost: {state.lost}"
                await check(state.disk, last, next, what)
    assert count > 1000, count


# ---- a store that does not answer


async def retried(ask: Callable[[], Awaitable[Answer]], *also: int) -> Answer:
    """Ask until it is known what became of it."""
    while True:
        answer = await ask()
        if answer.status != 503:
            assert answer.status < 300 or answer.status in also, answer
            return answer
        await trio.sleep(1)


async def patient(client: Client) -> None:
    """A life in which everybody asks again."""
    sub = Subscriber(client)
    for path in ("wake", "s/1", "s/2"):
        await retried(lambda path=path: client.create(path, kind="application/json"))  # type: ignore[misc]
    body = {"pattern": "s/*", "streams": ["t/1"], "lease_ttl_ms": 5000}
    await retried(lambda: sub.put(**body))
    for path in ("s/1", "s/2", "s/1"):
        await retried(lambda path=path: client.append(path, b"1", "application/json"))  # type: ignore[misc]
        await Wakes(client).next()
        await worked(sub)
    await retried(lambda: sub.ask("POST", "/streams", {"streams": ["t/2"]}))
    await retried(lambda: sub.ask("DELETE", "/streams/t/1"))
    assert await finish(sub) == {}
    found = await sub.get()
    assert found["status"] == "active"
    two, one = token(2), token(1)
    assert await sub.acked() == {"t/2": ZERO, "s/1": two, "s/2": one}
    generations = [event["generation"] for event in await Wakes(client).all()]
    assert len(generations) == len(set(generations))
    await retried(lambda: sub.ask("DELETE"), 404)


async def worked(sub: Subscriber) -> None:
    """Claim and acknowledge, whatever it takes."""
    while True:
        answer = await sub.claim()
        if answer.status == 200:
            acked = await sub.ack(Work.of(said(answer)))
            assert acked.status == 200 or code(acked) in ((503, "UNAVAILABLE"), (409, "FENCED"))
        elif code(answer) == (409, "NO_PENDING_WORK"):
            return
        await trio.sleep(1)


@pytest.mark.happens
@pytest.mark.parametrize("kind", ["unavailable", "reply_lost"])
async def test_a_store_that_does_not_answer_once_is_found_out(
    kind: Any, autojump_clock: object
) -> None:
    metadata = SimMetadata()
    async with open_client(metadata=metadata) as (client, storage):
        first = metadata.op_count
        await patient(client)
        count = metadata.op_count - first
        await until_clean(storage)
    assert count > 20
    for nth in range(1, count + 1):
        metadata = SimMetadata()
        async with open_client(metadata=metadata) as (client, storage):
            fault = metadata.fail(None, nth, kind=kind)
            await patient(client)
            await trio.sleep(100)
            assert fault.hits == 1, nth
            await until_clean(storage)
            left = [each.key for each in await metadata.list_entries(f"{ROOT}/")]
            assert left in ([], [f"{ROOT}/secret"]), (nth, left)


# ---- webhooks


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_webhook_is_sent_after_a_crash_at_any_write(
    moment: str, mock_clock: trio.testing.MockClock
) -> None:
    """What is left of the disk and the store at that moment is started anew."""
    async with open_receiver() as receiver:
        receiver.answers(DONE)
        metadata = SimMetadata()
        async with open_client(metadata=metadata, config=WEBHOOKS) as (client, _):
            first = metadata.op_count
            await webhook(client, receiver)
            count = metadata.op_count - first
        assert count > 10
        for nth in range(count):
            await crash_and_go_on(receiver, moment, first + nth, mock_clock)


async def webhook(client: Client, receiver: Receiver) -> None:
    """A life with a webhook."""
    sub = Subscriber(client)
    await make(client, "s/1", "s/2")
    hook = {"type": "webhook", "webhook": {"url": receiver.url()}, "lease_ttl_ms": 5000}
    await sub.made(pattern="s/*", **hook)
    for path in ("s/1", "s/2"):
        await client.append(path, b"1", "application/json")
        await receiver.next()
        while (await sub.get())["pending"]:
            await trio.lowlevel.checkpoint()


async def crash_and_go_on(
    receiver: Receiver, moment: str, number: int, mock_clock: trio.testing.MockClock
) -> None:
    left: list[tuple[SimDisk, SimMetadata]] = []
    disk, clock = SimDisk(), SimClock()

    async def crash(operation: Any, when: str) -> None:
        if operation.number == number and when == moment:
            left.append((disk.crash(), metadata.clone()))

    metadata = SimMetadata(hook=crash)
    async with open_client(disk, metadata=metadata, config=WEBHOOKS, clock=clock) as (client, _):
        await webhook(client, receiver)
    ((disk, store),) = left
    while not receiver.nothing():
        await receiver.next()
    async with open_client(disk, metadata=store, config=WEBHOOKS, clock=clock) as (client, _):
        sub = Subscriber(client)
        if (await sub.ask("GET")).status == 404:
            return
        for _ in range(10):  # a lease, pauses
            await trio.testing.wait_all_tasks_blocked(0.01)
            mock_clock.jump(6)
        await trio.testing.wait_all_tasks_blocked(0.01)
        found = cast("list[dict[str, str]]", (await sub.get())["streams"])
        for each in found:
            head = await client.head(each["path"])
            assert each["acked_offset"] == head.next, (number, each)
        (numbers,) = streams_of(client).subscriptions()
        assert (numbers.phase, numbers.pending, numbers.behind) == ("idle", 0, 0), numbers
