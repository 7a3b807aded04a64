"""Pins: nothing is deleted while a block of it is being fetched.

A reader holds a pin on the offset that it fetches, for one fetch. Who deletes moves the start
first, so that no new fetch begins below it, and then waits for the pins below to go. A fetch is
bounded by the timeouts of disk and store, and so is the wait.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import trio

__all__ = ["Pins"]


class Pins:
    """Offsets that are being fetched."""

    __slots__ = ("_changed", "_held")

    def __init__(self) -> None:
        self._held: dict[int, int] = {}
        self._changed = trio.Event()

    def __len__(self) -> int:
        return sum(self._held.values())

    @contextmanager
    def hold(self, offset: int) -> Iterator[None]:
        """Keep everything from `offset` on where it is."""
        self._held[offset] = self._held.get(offset, 0) + 1
        try:
            yield
        finally:
            self._held[offset] -= 1
            if not self._held[offset]:
                del self._held[offset]
            self._changed.set()

    async def released(self, below: int) -> None:
        """Wait until nothing below this offset is being fetched. Not always a checkpoint."""
        while any(offset < below for offset in self._held):
            self._changed = trio.Event()
            await self._changed.wait()
