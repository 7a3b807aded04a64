"""Consumers and single messages, as an asyncio program sees them."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType

from danube_trio._engine.thread.jobs import Withdrawn
from danube_trio._engine.thread.loan import Loan
from danube_trio.anyio._hop import LoopBorrower, borrowed
from danube_trio.anyio._loop import LoopDoor
from danube_trio.dispatch._afar import FarDelivery, release_all, take_many, take_one
from danube_trio.dispatch._consumer import Consumer
from danube_trio.dispatch._delivery import Delivery, Take

__all__ = ["ConsumerView", "TakeView"]


class TakeView(LoopBorrower, Take):
    """A block around one message. Entering and leaving it are a hop each."""

    def __init__(self, inner: Take, door: LoopDoor, keep: object) -> None:
        self.inner = inner
        self.way = door
        self.keep = keep

    async def __aenter__(self) -> Delivery:
        inner, way = self.inner, self.way
        loan = Loan(lambda: take_one(inner, way), lambda _: inner.leave(Withdrawn()))
        return await self.hold(way, loan, "take()")

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.give_back(exc, lambda: self.inner.leave(exc))

    def leave(self, exc: BaseException | None) -> None:
        """See `Take.leave`. Blocks for a hop."""
        self.way.call_now(lambda: self.inner.leave(exc), late=False)


class ConsumerView(LoopBorrower, Consumer):
    """The view of a consumer."""

    def __init__(self, inner: Consumer, door: LoopDoor, keep: object) -> None:
        self.inner = inner
        self.way = door
        self.keep = keep
        self.name = inner.name
        self.ordered = inner.ordered

    def __repr__(self) -> str:
        return repr(self.inner)

    async def __aenter__(self) -> Consumer:
        inner = self.inner
        loan = Loan(inner.__aenter__, lambda _: inner.leave())
        await self.hold(self.way, loan, "a consumer")
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.give_back(exc, self.inner.leave)

    def enter(self) -> None:
        """See `Consumer.enter`. Blocks for a hop."""
        self.way.call_now(self.inner.enter, late=False)

    def leave(self) -> None:
        """See `Consumer.leave`. Blocks for a hop."""
        self.way.call_now(self.inner.leave, late=False)

    @property
    def active(self) -> bool:
        """See `Consumer.active`. Blocks for a hop."""
        return self.way.call_now(lambda: self.inner.active)

    def take(self) -> Take:
        """See `Consumer.take`."""
        return TakeView(self.inner.take(), self.way, self)

    async def receive(self, max_messages: int = 100) -> list[Delivery]:
        """See `Consumer.receive`. One hop for all."""
        inner, way = self.inner, self.way
        loan = Loan(lambda: take_many(inner, max_messages, way), release_all)
        found = await borrowed(way, loan)
        return [*found]

    async def receive_one(self) -> Delivery:
        """See `Consumer.receive_one`."""
        return (await self.receive(1))[0]

    def ack(self, deliveries: Iterable[Delivery]) -> int:
        """See `Consumer.ack`. Blocks for one hop, for all."""
        mine = [own(delivery) for delivery in deliveries]
        return self.way.call_now(lambda: self.inner.ack(mine), late=False)

    def ack_cumulative(self, up_to: Delivery | int) -> int:
        """See `Consumer.ack_cumulative`. Blocks for a hop."""
        last = own(up_to) if isinstance(up_to, Delivery) else up_to
        return self.way.call_now(lambda: self.inner.ack_cumulative(last), late=False)


def own(delivery: Delivery) -> Delivery:
    """The engine's delivery behind one of a door."""
    return delivery.inner if isinstance(delivery, FarDelivery) else delivery
