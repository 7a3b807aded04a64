"""Dispatch in hands outside of the engine's thread: what is the same for all doors."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from danube_trio._doors.afar import FarDoor
from danube_trio._doors.borrow import FarBorrower
from danube_trio._doors.surface import at_once
from danube_trio._engine.thread.jobs import Withdrawn
from danube_trio._engine.thread.loan import Loan
from danube_trio.dispatch._afar import AnswerDoor, FarDelivery, take_one
from danube_trio.dispatch._consumer import Consumer
from danube_trio.dispatch._delivery import Delivery, Take
from danube_trio.dispatch._dispatch import ReliableDispatch
from danube_trio.dispatch._errors import SubscriptionClosedError
from danube_trio.dispatch._options import ReliableOptions, SubscriptionOptions
from danube_trio.dispatch._subscription import Subscription


class TakingDoor(FarDoor, AnswerDoor, Protocol):
    """A door for messages."""


Door = TypeVar("Door", bound=TakingDoor)
Shown = TypeVar("Shown")


class FarTake(FarBorrower[Door]):
    """A block around one message. Entering and leaving it are a hop each."""

    _what = "take()"

    def __init__(self, inner: Take, door: Door, keep: object) -> None:
        self.inner: Take = inner
        self.door = door
        self._keep = keep

    def _loan(self) -> Loan[FarDelivery]:
        inner, door = self.inner, self.door
        return Loan(lambda: take_one(inner, door), lambda _: inner.leave(Withdrawn()))

    def _answer(self, exc: BaseException | None) -> Callable[[], object]:
        return partial(self.inner.leave, exc)


class FarConsumer(FarBorrower[Door]):
    """A consumer, which is its own block."""

    _what = "a consumer"

    def __init__(self, inner: Consumer, door: Door, keep: object) -> None:
        self.inner: Consumer = inner
        self.door = door
        self.name: str = inner.name
        self._keep = keep

    def _loan(self) -> Loan[Consumer]:
        inner = self.inner
        return Loan(inner.__aenter__, lambda _: inner.leave())

    def _given(self, lent: Consumer) -> Any:
        return self

    def _answer(self, exc: BaseException | None) -> Callable[[], object]:
        return self.inner.leave

    def __repr__(self) -> str:
        return repr(self.inner)

    @property
    def active(self) -> bool:
        """Whether messages come to it: in a failover subscription, to one at a time."""
        return self.door.call_now(lambda: self.inner.active)

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


class FarSubscription(Generic[Door]):
    """A subscription."""

    def __init__(self, inner: Subscription, door: Door, keep: object) -> None:
        self.inner: Subscription = inner
        self.door: Door = door
        self.name: str = inner.name
        self.options: SubscriptionOptions = inner.options
        self._keep: object = keep

    def __repr__(self) -> str:
        return f"<Subscription {self.name!r} {self.options.type.value}>"

    pause = at_once(Subscription.pause)
    resume = at_once(Subscription.resume)
    blocked = at_once(Subscription.blocked)
    retry_blocked = at_once(Subscription.retry_blocked)
    drop_blocked = at_once(Subscription.drop_blocked)
    statistics_nowait = at_once(Subscription.statistics_nowait, late=True)

    @property
    def topic(self) -> str:
        """The topic whose messages it delivers."""
        return self.inner.topic

    @property
    def paused(self) -> bool:
        """Whether it is paused."""
        return self.inner.paused

    @property
    def end(self) -> int:
        """Every message below it is settled."""
        return self.door.call_now(lambda: self.inner.end)

    @property
    def saved_end(self) -> int:
        """Every message below it is settled, and that is saved."""
        return self.inner.saved_end

    @property
    def kept_from(self) -> int:
        """What retention is to leave alone: messages at and above it."""
        return self.door.call_now(lambda: self.inner.kept_from)

    @property
    def is_open(self) -> bool:
        """Whether messages can be had: it has neither failed nor been closed."""
        return self.inner.is_open


class FarDispatch(Generic[Door, Shown]):
    """The messages of one topic, and its subscriptions, each shown as the door's `Shown`."""

    _statement = "with"

    def _see(self, inner: ReliableDispatch) -> None:
        self.inner: ReliableDispatch = inner
        self.topic: str = inner.topic
        self.options: ReliableOptions = inner.options
        self._block: Any = None
        self._door: Door | None = None  # inside the block
        # One view for each, as long as somebody has it: its runs are in it.
        self._shown: weakref.WeakValueDictionary[Subscription, Any] = weakref.WeakValueDictionary()

    def __repr__(self) -> str:
        state = "open" if self._door is not None else "not open"
        return f"<ReliableDispatch {self.topic} {state}>"

    @property
    def door(self) -> Door:
        """The way to the engine's thread, inside the block."""
        if self._door is None:
            raise SubscriptionClosedError(f"{self!r}: use it inside its '{self._statement}' block")
        return self._door

    def _show(self, inner: Subscription) -> Shown:
        """The door's own for a subscription of the engine."""
        raise NotImplementedError

    def _subscription(self, inner: Subscription) -> Shown:
        shown: Shown | None = self._shown.get(inner)
        if shown is None:
            shown = self._show(inner)
            if shown is not inner:  # else its own entry would keep it
                self._shown[inner] = shown
        return shown

    def _by_name(self) -> dict[str, Shown | None]:
        """See `ReliableDispatch.subscriptions`."""
        found = self.door.call_now(self.inner.subscriptions, late=False)
        return {name: None if s is None else self._subscription(s) for name, s in found.items()}
