"""Consumers and single messages, as an asyncio program sees them."""

from __future__ import annotations

from danube_trio._doors.subscriptions import FarConsumer, FarTake
from danube_trio._engine.thread.loan import Loan
from danube_trio.anyio._borrow import LoopBorrower, borrowed
from danube_trio.anyio._loop import LoopDoor
from danube_trio.anyio._words import at_once
from danube_trio.dispatch._afar import release_all, take_many
from danube_trio.dispatch._consumer import Consumer
from danube_trio.dispatch._delivery import Delivery, Take


class TakeView(LoopBorrower[Delivery], FarTake[LoopDoor], Take):
    """A block around one message."""

    leave = at_once(Take.leave)


class ConsumerView(LoopBorrower[Consumer], FarConsumer[LoopDoor], Consumer):
    """The view of a consumer."""

    def __init__(self, inner: Consumer, door: LoopDoor, keep: object) -> None:
        super().__init__(inner, door, keep)
        self.ordered = inner.ordered

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
