"""What the engine's thread lends to somebody elsewhere: a topic's pin, a message, a consumer.

Whoever asked for it may be interrupted at any step, and its result get lost between the threads.
So it is put aside here, by the engine's thread, and given back by it: when the block was left, or
when nobody can ever leave it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar, cast

T = TypeVar("T")


class Loan(Generic[T]):
    """Something that is taken, and must be given back unless it was answered for.

    `take`, `leave` and `drop` run in the engine's thread, in the order in which they were handed
    over.

    Args:
        take: takes it. If that is cancelled, nothing was taken.
        give_back: undoes it, without waiting.
    """

    __slots__ = ("_dropped", "_give_back", "_take", "_value", "taken")

    def __init__(self, take: Callable[[], Awaitable[T]], give_back: Callable[[T], object]) -> None:
        self._take = take
        self._give_back = give_back
        self._value: T | None = None
        self._dropped = False
        self.taken = False

    @property
    def value(self) -> T:
        """What was taken."""
        return cast("T", self._value)

    async def take(self) -> None:
        """Take it; at once given back, if it was dropped meanwhile."""
        value = await self._take()
        if self._dropped:
            self._give_back(value)
        else:
            self._value, self.taken = value, True

    def leave(self, answer: Callable[[], object]) -> None:
        """Its holder answers for it, which gives it back; unless it was dropped before."""
        if self.taken:
            self.taken = False
            answer()

    def drop(self) -> None:
        """Nobody holds it (any more): give it back. Idempotent."""
        self._dropped = True
        if self.taken:
            self.taken = False
            self._give_back(self.value)
