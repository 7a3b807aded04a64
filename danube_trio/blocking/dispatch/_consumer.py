"""Consumers and single messages without async."""

from __future__ import annotations

from danube_trio._doors.subscriptions import FarConsumer, FarTake
from danube_trio._engine.thread.loan import Loan
from danube_trio.blocking._borrow import Borrower, borrowed
from danube_trio.blocking._thread import ThreadDoor
from danube_trio.dispatch._afar import release_all, take_many
from danube_trio.dispatch._delivery import Delivery


class Take(Borrower[Delivery], FarTake[ThreadDoor]):
    """``with subscription.take() as message``: the block answers for the message.

    Leaving it acknowledges. An `Exception` nacks, and goes on. What else there is (Ctrl-C)
    releases: no attempt is burned. What the block itself answered first counts.
    """


class Consumer(Borrower["Consumer"], FarConsumer[ThreadDoor]):
    """Takes messages, in a ``with`` block; any number of threads. See `danube_trio.dispatch`."""

    def take(self) -> Take:
        """A block around one message: ``with consumer.take() as message``."""
        return Take(self.inner.take(), self.door, self)

    def receive(self, max_messages: int = 100) -> list[Delivery]:
        """Wait for messages and take those that are at hand; see `danube_trio.dispatch.Consumer`.

        Interrupted: nothing was taken, or it was released.
        """
        inner, door = self.inner, self.door
        loan = Loan(lambda: take_many(inner, max_messages, door), release_all)
        return [*borrowed(door, loan)]
