"""Worker threads for one purpose: only so many at a time, counted against nobody else's limit."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeVar

import trio

T = TypeVar("T")


class Threads:
    """At most `limit` threads at a time in each event loop run; `name` is for debuggers."""

    def __init__(self, limit: int, name: str) -> None:
        self._limit = limit
        # A limiter is not thread-safe and remembers tasks: each event loop run has its own.
        self._limiter: trio.lowlevel.RunVar[trio.CapacityLimiter] = trio.lowlevel.RunVar(name)

    async def run(self, fn: Callable[..., T], /, *args: object, abandon: bool = False) -> T:
        """Run `fn(*args)` in a thread; with `abandon` nobody waits for it once it is cancelled."""
        try:
            limiter = self._limiter.get()
        except LookupError:
            limiter = trio.CapacityLimiter(self._limit)
            self._limiter.set(limiter)
        return await trio.to_thread.run_sync(
            partial(fn, *args), abandon_on_cancel=abandon, limiter=limiter
        )
