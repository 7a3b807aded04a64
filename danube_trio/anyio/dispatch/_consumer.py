"""Consumers and single messages, as an asyncio program sees them."""

from __future__ import annotations

from types import TracebackType

from danube_trio._doors.subscriptions import FarConsumer
from danube_trio._engine.thread.jobs import Withdrawn
from danube_trio._engine.thread.loan import Loan
from danube_trio.anyio._hop import LoopBorrower, at_once, borrowed
from danube_trio.anyio._loop import LoopDoor
from danube_trio.dispatch._afar import release_all, take_many, take_one
from danube_trio.dispatch._consumer import Consumer
from danube_trio.dispatch._delivery import Delivery, Take

__all__ = ["ConsumerView", "TakeView"]


class TakeView(LoopBorrower, Take):
    """A block around one message. Entering and leaving it are a hop each."""

    def __init__(self, inner: Take, door: LoopDoor, keep: object) -> None:
        self.inner = inner
        self.door = door
        self._keep = keep

    async def __aenter__(self) -> Delivery:
        inner, door = self.inner, self.door
        loan = Loan(lambda: take_one(inner, door), lambda _: inner.leave(Withdrawn()))
        return await self.hold(door, loan, "take()")

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.give_back(exc, lambda: self.inner.leave(exc))

    leave = at_once(Take.leave)


class ConsumerView(LoopBorrower, FarConsumer[LoopDoor], Consumer):
    """The view of a consumer."""

    def __init__(self, inner: Consumer, door: LoopDoor, keep: object) -> None:
        super().__init__(inner, door, keep)
        self.ordered = inner.ordered

    async def __aenter__(self) -> Consumer:
        inner = self.inner
        loan = Loan(inner.__aenter__, lambda _: inner.leave())
        await self.hold(self.door, loan, "a consumer")
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.give_back(exc, self.inner.leave)

    enter = at_once(Consumer.enter)
    leave = at_once(Consumer.leave)

    def take(self) -> Take:
        """See `Consumer.take`."""
        return TakeView(self.inner.take(), self.door, self)

    async def receive(self, max_messages: int = 100) -> list[Delivery]:
        """See `Consumer.receive`. One hop for all."""
        inner, door = self.inner, self.door
        loan = Loan(lambda: take_many(inner, max_messages, door), release_all)
        return [*await borrowed(door, loan)]

    async def receive_one(self) -> Delivery:
        """See `Consumer.receive_one`."""
        return (await self.receive(1))[0]
