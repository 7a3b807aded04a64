"""Consumers and single messages without async."""

from __future__ import annotations

from contextlib import AbstractContextManager
from types import TracebackType

from danube_trio._doors.subscriptions import FarConsumer
from danube_trio._engine.thread.jobs import Withdrawn
from danube_trio._engine.thread.loan import Loan
from danube_trio.blocking._thread import ThreadDoor
from danube_trio.blocking._wait import Borrower, borrowed
from danube_trio.dispatch import _delivery as _engine_delivery
from danube_trio.dispatch._afar import release_all, take_many, take_one
from danube_trio.dispatch._delivery import Delivery

__all__ = ["Consumer", "Take"]


class Take(Borrower, AbstractContextManager[Delivery]):
    """``with subscription.take() as message``: the block answers for the message.

    Leaving it acknowledges. An `Exception` nacks, and goes on. What else there is (Ctrl-C)
    releases: no attempt is burned. What the block itself answered first counts.
    """

    def __init__(self, inner: _engine_delivery.Take, door: ThreadDoor, keep: object) -> None:
        self._inner = inner
        self._door = door
        self._keep = keep

    def __enter__(self) -> Delivery:
        inner, door = self._inner, self._door
        loan = Loan(lambda: take_one(inner, door), lambda _: inner.leave(Withdrawn()))
        return self.hold(door, loan, "take()")

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.give_back(lambda: self._inner.leave(exc))


class Consumer(Borrower, FarConsumer[ThreadDoor], AbstractContextManager["Consumer"]):
    """Takes messages, in a ``with`` block; any number of threads. See `danube_trio.dispatch`."""

    def __enter__(self) -> Consumer:
        inner = self.inner
        loan = Loan(inner.__aenter__, lambda _: inner.leave())
        self.hold(self.door, loan, "a consumer")
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.give_back(self.inner.leave)

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
