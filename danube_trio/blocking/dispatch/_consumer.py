"""Consumers and single messages without async."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from types import TracebackType

from danube_trio._engine.thread.jobs import Withdrawn
from danube_trio._engine.thread.loan import Loan
from danube_trio.blocking._thread import ThreadDoor
from danube_trio.blocking._wait import Borrower, borrowed
from danube_trio.dispatch import _consumer as _engine
from danube_trio.dispatch import _delivery as _engine_delivery
from danube_trio.dispatch._afar import FarDelivery, release_all, take_many, take_one
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


class Consumer(Borrower, AbstractContextManager["Consumer"]):
    """Takes messages, in a ``with`` block; any number of threads. See `danube_trio.dispatch`."""

    def __init__(self, inner: _engine.Consumer, door: ThreadDoor, keep: object) -> None:
        self.inner = inner
        self.door = door
        self.name = inner.name
        self._keep = keep

    def __repr__(self) -> str:
        return repr(self.inner)

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

    @property
    def active(self) -> bool:
        """Whether messages come to it: in a failover subscription, to one at a time."""
        return self.door.call_now(lambda: self.inner.active)

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

    def ack(self, deliveries: Iterable[Delivery]) -> int:
        """Acknowledge many at once; returns how many counted."""
        mine = [_own(delivery) for delivery in deliveries]
        return self.door.call_now(lambda: self.inner.ack(mine), late=False)

    def ack_cumulative(self, up_to: Delivery | int) -> int:
        """Acknowledge everything that was delivered up to this message, itself included."""
        last = _own(up_to) if isinstance(up_to, Delivery) else up_to
        return self.door.call_now(lambda: self.inner.ack_cumulative(last), late=False)


def _own(delivery: Delivery) -> Delivery:
    """The engine's delivery behind one of a door."""
    return delivery.inner if isinstance(delivery, FarDelivery) else delivery
