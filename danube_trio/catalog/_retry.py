"""How often a catalog tries, and how long it waits in between; and when it looks twice.

Whoever tries without end has an `Outage`: it says when to try again, and logs what people need.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

import attrs
import trio

from danube_trio._core.pauses import Pauses
from danube_trio.errors import CorruptDataError, StoreUnavailableError, text_of

T = TypeVar("T")


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
        longest = Pauses(self.first_seconds, self.limit_seconds).after(attempt)
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


class Outage:
    """Something that fails again and again, and is tried without end.

    The first failure of each cause is a warning, and so is that it is over; in between failures
    only count. A cause is a type of errors: texts of one cause differ, since stores put times and
    numbers of requests into them.

    Args:
        log: where to.
        what: fails, for people: ``"reading s3://bucket"``.
        backoff: the pauses; its `attempts` do not count here.

    Attributes:
        failures: since it began; 0: all is well.
        error: why it failed last; "" if all is well.
    """

    def __init__(self, log: logging.Logger, what: str, backoff: Backoff) -> None:
        self.failures = 0
        self.error = ""
        self._log = log
        self._what = what
        self._backoff = backoff
        self._began = 0.0
        self._causes: set[type[Exception]] = set()

    def failed(self, error: Exception, which: str = "") -> float:
        """It failed (`which` of it); returns how long to wait before the next try, in seconds."""
        if not self.failures:
            self._began = trio.current_time()
        self.failures += 1
        self.error = text_of(error)
        pause = self._backoff.pause_after(self.failures)
        level = logging.DEBUG if type(error) in self._causes else logging.WARNING
        self._causes.add(type(error))
        text = "%s%s failed and will be tried again in %.1f s: %s"
        self._log.log(level, text, self._what, which, pause, self.error)
        return pause

    def over(self) -> None:
        """It did not fail."""
        if self.failures:
            lasted = trio.current_time() - self._began
            self._log.warning(
                "%s works again, after %d failures in %.1f s", self._what, self.failures, lasted
            )
            self.failures, self.error = 0, ""
            self._causes.clear()


def refuse_page(where: str, data: bytes) -> None:
    """StoreUnavailableError if these are no bytes of ours but a page of HTML: of a proxy, say."""
    if data[:64].lstrip()[:1] == b"<":
        raise StoreUnavailableError(
            f"{where} answers with a page, not with what is stored: is there a proxy in between? "
            f"It begins with {data[:100]!r}"
        )


async def look_twice(read: Callable[[], Awaitable[T]]) -> T:
    """What `read` makes of an answer. One that is damaged is asked for again: proxies and memory
    damage answers too, and what is stored is damaged only if it is the second time.
    """
    try:
        return await read()
    except CorruptDataError:
        return await read()
