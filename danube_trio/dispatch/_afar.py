"""Deliveries that are in hands outside of the engine's thread; for `anyio` and `blocking`.

Messages cross the threads in batches. A *run* takes some ahead of its handlers, so that a fast one
does not cost a hop for each message. Those that were taken ahead do not time out: they are nobody's
yet, and when the run ends, or the subscription is paused, they are released, which burns no
attempt. How many there are adapts to the handlers: slow ones find few, so that other consumers get
them.

They are in `Consumer.ahead`, where the engine's thread puts them in the step in which it takes
them. Whoever takes one out has it: a worker that begins it, or the engine's thread that releases
it. So no message is begun after a pause, and none is both begun and released.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar

from danube_trio.dispatch._consumer import Consumer
from danube_trio.dispatch._delivery import Delivery, Take
from danube_trio.errors import LogClosedError

T = TypeVar("T")

# A batch that was handled within this time could have been larger. Guesses, as is the largest.
SHORT_SECONDS = 0.01
MOST_AHEAD = 256


class AnswerDoor(Protocol):
    """What an answer needs of the door."""

    def call_now(self, fn: Callable[[], T], *, late: bool = True) -> T:
        """Run a function in the engine's thread, and block until it returned."""
        ...

    def time(self, engine_time: float) -> float:
        """A time of trio's clock by the clock of the door's users."""
        ...

    def now(self) -> float:
        """The time by the clock of the door's users, who call it where they may."""
        ...


class Limit(Protocol):
    """A cancel scope of the door's world."""

    @property
    def deadline(self) -> float:
        """When it cancels."""
        ...

    @deadline.setter
    def deadline(self, value: float) -> None: ...


class FarDelivery(Delivery):
    """A delivery in another thread. Each answer blocks for a hop to the engine's and back.

    Made in the engine's thread.

    Attributes:
        inner: the engine's.
        limit: cancels the handler of a `run`, and keeps its time; None if it has none.
    """

    __slots__ = ("_door", "inner", "limit")

    def __init__(self, inner: Delivery, door: AnswerDoor) -> None:
        super().__init__(inner._state, inner._entry)
        self.inner = inner
        self.limit: Limit | None = None
        self._door = door

    @property
    def deadline(self) -> float:
        """When the delivery times out: by the loop's clock on asyncio, else by time.monotonic."""
        return self.limit.deadline if self.limit else self._door.time(self._entry.deadline)

    def _answer(self, answer: Callable[[], bool]) -> bool:
        """Have it given. False when there is no engine any more: the delivery ended with it."""
        try:
            return self._door.call_now(answer, late=False)
        except LogClosedError:
            if self.is_current:  # it has not: the engine's thread ends by a bug
                raise
            return False

    def ack(self) -> bool:
        """See `Delivery.ack`."""
        return self._answer(self.inner.ack)

    def nack(self, delay: float | None = None, *, reason: str = "") -> bool:
        """See `Delivery.nack`."""
        return self._answer(lambda: self.inner.nack(delay, reason=reason))

    def reject(self, reason: str) -> bool:
        """See `Delivery.reject`."""
        return self._answer(lambda: self.inner.reject(reason))

    def release(self) -> bool:
        """See `Delivery.release`."""
        return self._answer(self.inner.release)

    def extend(self, seconds: float | None = None) -> bool:
        """See `Delivery.extend`."""
        limit = self.limit
        if limit is None:
            return self._answer(lambda: self.inner.extend(seconds))
        timeout = self._state.core.options.ack_timeout if seconds is None else seconds
        if timeout is not None and self.is_current:
            limit.deadline = max(limit.deadline, self._door.now() + timeout)
        return self.is_current


class Pace:
    """How many messages a run takes at a time.

    Args:
        concurrency: of its handlers.
        window: of the subscription.
        one_by_one: whether each that is taken costs something if the process is killed.
    """

    def __init__(self, concurrency: int, window: int, *, one_by_one: bool) -> None:
        self._least = 1 if one_by_one else concurrency
        self._most = self._least if one_by_one else max(concurrency, min(window, MOST_AHEAD))
        self._size = self._least
        self._since = 0.0

    def next(self) -> int:
        """The last batch is used up: how large the next one shall be."""
        fast = time.monotonic() - self._since < SHORT_SECONDS
        self._size = min(self._size * 2, self._most) if fast else max(self._size // 2, self._least)
        return self._size

    def got(self) -> None:
        """A batch has come."""
        self._since = time.monotonic()


def next_ahead(consumer: Consumer) -> FarDelivery | None:
    """One of those that were taken ahead, for the caller to handle; None: there is none."""
    while True:
        try:
            delivery = consumer.ahead.popleft()
        except IndexError:
            return None
        # Not if the subscription was moved or closed meanwhile.
        if isinstance(delivery, FarDelivery) and delivery.is_current:
            return delivery


# ---- in the engine's thread


async def take_many(consumer: Consumer, most: int, door: AnswerDoor) -> list[FarDelivery]:
    """Wait for messages, as `Consumer.receive`."""
    return [FarDelivery(delivery, door) for delivery in await consumer.receive(most)]


async def take_ahead(consumer: Consumer, most: int, door: AnswerDoor) -> None:
    """The same, for a run: they do not time out, and are put into `Consumer.ahead`."""
    found = await take_many(consumer, most, door)
    for delivery in found:
        delivery.hold()
    consumer.ahead.extend(found)


async def take_one(take: Take, door: AnswerDoor) -> FarDelivery:
    """Enter a block around one message."""
    return FarDelivery(await take.__aenter__(), door)


def release_all(deliveries: Iterable[FarDelivery]) -> None:
    """Nobody has them."""
    for delivery in deliveries:
        delivery.inner.release()
