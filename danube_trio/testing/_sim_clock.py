"""A simulated wall clock: it goes on with trio's clock, and steps on command.

Hand it to whatever takes a `clock`: ``open_wal(config, disk=disk, clock=clock)``. Under trio's
``MockClock`` it costs no time, and whatever runs by intervals goes on while it steps.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import trio


class SimClock:
    """Seconds since 1970, by a clock that can be wrong.

    Args:
        start: what it says when it is read first, in seconds since 1970.
    """

    def __init__(self, start: float = 1_800_000_000.0) -> None:
        self._start = start
        self._ahead: float | None = None  # of trio's clock

    def __repr__(self) -> str:
        return f"<SimClock, begun at {self._start}>"

    def __call__(self) -> float:
        """The time now. Only inside a trio run."""
        if self._ahead is None:
            self._ahead = self._start - trio.current_time()
        return trio.current_time() + self._ahead

    def set(self, seconds: float) -> None:
        """Set it to this time, from which it goes on."""
        self._ahead = seconds - trio.current_time()

    def step(self, seconds: float) -> None:
        """Set it ahead by so many seconds, or, if they are below 0, back."""
        self.set(self() + seconds)

    @contextmanager
    def off_by(self, seconds: float) -> Generator[None]:
        """In the block it is wrong by so many seconds, and afterwards right again."""
        self.step(seconds)
        try:
            yield
        finally:
            self.step(-seconds)
