"""How often a catalog tries, and how long it waits in between."""

from __future__ import annotations

import random
from collections.abc import Callable

import attrs
import trio

from danube_trio.errors import StoreUnavailableError

__all__ = ["Backoff", "Tries"]


@attrs.frozen
class Backoff:
    """Pauses that double, each shortened at random so that rivals do not keep meeting.

    Attributes:
        attempts: how often something is tried at most.
        first_seconds: the longest first pause.
        limit_seconds: the longest pause of all.
        chance: gives numbers in ``[0, 1)``.
    """

    attempts: int = attrs.field(default=6, validator=attrs.validators.ge(1))
    first_seconds: float = attrs.field(default=0.1, validator=attrs.validators.ge(0))
    limit_seconds: float = attrs.field(default=5.0, validator=attrs.validators.ge(0))
    chance: Callable[[], float] = attrs.field(default=random.random, eq=False, repr=False)

    def pause_after(self, attempt: int) -> float:
        """How long to wait after this attempt (1, 2, ...), in seconds."""
        assert attempt >= 1, attempt
        longest = min(self.limit_seconds, self.first_seconds * 2.0 ** min(attempt - 1, 60))
        return longest * (0.5 + 0.5 * self.chance())

    def for_reading(self) -> Backoff:
        """Of a read that others overtook: each time they got on, so it is soon tried again."""
        return attrs.evolve(self, attempts=self.attempts * 4, limit_seconds=self.first_seconds)


class Tries:
    """Counts the attempts at one thing."""

    def __init__(self, backoff: Backoff, what: str) -> None:
        self._backoff = backoff
        self._what = what
        self._made = 0

    async def again(self, error: Exception | None) -> None:
        """Wait before the next attempt, after one that failed with `error` (None: overtaken).

        Raises StoreUnavailableError when that was the last one.
        """
        self._made += 1
        if self._made >= self._backoff.attempts:
            why = f"{error}" if error is not None else "others kept changing it"
            raise StoreUnavailableError(
                f"{self._what}: not settled after {self._made} attempts ({why}); try again later"
            ) from error
        await trio.sleep(self._backoff.pause_after(self._made))
