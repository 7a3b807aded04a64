"""Random lives of a subscription, beside a model that fits on a page.

The model knows what each stream has and how far it was acknowledged, who holds the last wake and
until when. Restarts give a lease its whole time anew; nothing else changes with them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import attrs
import trio
import trio.testing
from http_client import Client
from hypothesis import given, settings
from hypothesis import strategies as st
from subscribers import Subscriber, Wakes, Work, code, make, open_client, said, write

from danube_trio.http._offsets import parse, token
from danube_trio.testing import SimClock, SimDisk

LEASE = 10.0
PATHS = ("s/0", "s/1", "t/2")


@attrs.define(eq=False)
class Model:
    """What must be so.

    Attributes:
        ends, acked: of each stream that there is.
        held: the wake that somebody has; None: nobody.
        until: when its lease ends.
        told: everything that was ever given, also what is over.
        new: the streams that were made while it is held.
    """

    ends: dict[str, int] = attrs.Factory(dict[str, int])
    acked: dict[str, int] = attrs.Factory(dict[str, int])
    held: Work | None = None
    until: float = 0.0
    told: list[Work] = attrs.Factory(list[Work])
    new: set[str] = attrs.Factory(set[str])

    @property
    def pending(self) -> dict[str, int]:
        return {path: end for path, end in self.ends.items() if end > self.acked[path]}

    def is_current(self, work: Work) -> bool:
        return work is self.held and trio.current_time() < self.until

    def take(self, work: Work) -> None:
        self.told.append(work)
        self.held, self.until = work, trio.current_time() + LEASE
        self.new = set()


class Life:
    """A subscription, its streams and its workers."""

    def __init__(self) -> None:
        self.model = Model()
        self.disk = SimDisk()
        self.clock = SimClock()
        self.stack = AsyncExitStack()
        self.client: Client
        self.sub: Subscriber

    async def start(self) -> None:
        opened = open_client(self.disk, clock=self.clock)
        self.client, _ = await self.stack.enter_async_context(opened)
        self.sub = Subscriber(self.client)

    async def begin(self) -> None:
        await self.start()
        await make(self.client, "wake")
        await self.sub.made(pattern="s/*", streams=["t/2"], lease_ttl_ms=int(LEASE * 1000))

    # ---- what may happen

    async def append(self, path: str) -> None:
        model = self.model
        if path not in model.ends:
            await make(self.client, path, body=b"1")
            model.ends[path], model.acked[path] = 1, 0
            model.new.add(path)
        else:
            await write(self.client, path)
            model.ends[path] += 1

    async def remove(self, path: str) -> None:
        answer = await self.client.delete(path)
        assert (answer.status == 204) is (path in self.model.ends)
        self.model.ends.pop(path, None)
        self.model.acked.pop(path, None)

    async def claim(self) -> None:
        model, answer = self.model, await self.sub.claim()
        if model.held is not None and trio.current_time() < model.until:
            assert code(answer) == (409, "ALREADY_CLAIMED")
        elif not model.pending:
            assert code(answer) == (409, "NO_PENDING_WORK")
            model.held = None
        else:
            assert answer.status == 200, answer
            work = Work.of(said(answer))
            assert all(work.generation > other.generation for other in model.told)
            assert work.tails == {path: token(end) for path, end in model.pending.items()}
            model.take(work)

    async def acknowledge(self, which: int, share: int, done: bool) -> None:
        model = self.model
        if not model.told:
            return
        work = model.told[-1 - which % len(model.told)]
        acks = {path: at for n, (path, at) in enumerate(work.tails.items()) if n % 3 < share}
        # An offset that a stream with this path does not have any more is refused.
        beyond = [p for p in acks if p in model.ends and p not in model.new]
        assert all(parse(acks[p]) <= model.ends[p] for p in beyond)
        answer = await self.sub.ack(work, acks, done=done)
        if not model.is_current(work):
            assert (answer.status, said(answer)) == (409, {"error": {"code": "FENCED"}})
            return
        assert answer.status == 200
        for path, at in acks.items():
            if path in model.ends and path not in model.new:
                model.acked[path] = max(model.acked[path], parse(at))
        if done:
            assert said(answer) == {"ok": True, "next_wake": bool(model.pending)}
            model.held = None
        else:
            model.until = trio.current_time() + LEASE

    async def release(self, which: int) -> None:
        model = self.model
        if not model.told:
            return
        work = model.told[-1 - which % len(model.told)]
        answer = await self.sub.release(work)
        assert answer.status == (204 if model.is_current(work) else 409)
        if answer.status == 204:
            model.held = None

    async def wait(self, seconds: float) -> None:
        await trio.sleep(seconds)

    async def restart(self, orderly: bool, step: float) -> None:
        left = self.disk.crash()
        await self.stack.aclose()
        self.disk = self.disk if orderly else left
        self.clock.step(step)
        await self.start()
        await trio.sleep(0.25)  # what there is to do is looked up
        if self.model.held is not None and trio.current_time() < self.model.until + 0.25:
            self.model.until = trio.current_time() - 0.25 + LEASE

    async def check(self) -> None:
        """What the subscription says is what the model says."""
        model = self.model
        acked = {p: token(n) for p, n in model.acked.items()}
        assert {"t/2": token(0), **acked} == await self.sub.acked()
        found = await self.sub.get()
        assert found["pending"] == len(model.pending)

    async def end(self) -> None:
        """Everybody is woken for what is left, and gets it."""
        model = self.model
        await trio.sleep(LEASE + 80)
        if model.pending:
            events = [event["generation"] for event in await Wakes(self.client).all()]
            assert len(set(events)) == len(events)
            assert events[-1] == (await self.sub.get())["generation"]
        await self.claim()
        await self.acknowledge(0, 3, True)
        await self.check()
        if model.pending:  # of streams that were made while the last one was held
            await self.claim()
            await self.acknowledge(0, 3, True)
        assert not model.pending


PATH = st.sampled_from(PATHS)
STEPS = st.one_of(
    st.tuples(st.just("append"), PATH),
    st.tuples(st.just("append"), PATH),
    st.tuples(st.just("claim")),
    st.tuples(st.just("claim")),
    st.tuples(st.just("acknowledge"), st.integers(0, 2), st.integers(0, 3), st.booleans()),
    st.tuples(st.just("acknowledge"), st.just(0), st.integers(0, 3), st.booleans()),
    st.tuples(st.just("release"), st.integers(0, 2)),
    st.tuples(st.just("remove"), PATH),
    st.tuples(st.just("wait"), st.sampled_from([0.1, 3.0, 11.0])),
    st.tuples(st.just("restart"), st.booleans(), st.sampled_from([0.0, -1e4, 1e4])),
)


async def live(steps: list[tuple[Any, ...]]) -> None:
    life = Life()
    async with life.stack:
        await life.begin()
        for name, *arguments in steps:
            do: Callable[..., Awaitable[None]] = getattr(life, name)
            await do(*arguments)
            await life.check()
        await life.end()


@settings(max_examples=60)
@given(st.lists(STEPS, max_size=25))
def test_a_subscription_is_what_the_model_says(steps: list[tuple[Any, ...]]) -> None:
    trio.run(live, steps, clock=trio.testing.MockClock(autojump_threshold=0))
