"""Pins: nothing is deleted while a block of it is being fetched.

A reader holds a pin on the offset that it fetches, for one fetch. Who deletes moves the start
first, so that no new fetch begins below it, and then waits for the pins below that are held at that
moment. (Later ones there are of readers that read the same records from elsewhere; however many
there are, nobody waits for them.) Who removes files does not wait for those who read objects: a
store may take long, and must not hold up what is done here. A fetch is bounded by the timeouts of
disk and store, and so is the wait.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import attrs

from danube_trio._engine.wait.waiters import repeated_event


class Pins:
    """Offsets that are being fetched."""

    __slots__ = ("_changed", "_pins")

    def __init__(self) -> None:
        self._pins: set[_Pin] = set()
        self._changed = repeated_event()

    def __len__(self) -> int:
        return len(self._pins)

    @contextmanager
    def pin(self, offset: int, *, stored: bool) -> Generator[None]:
        """Nothing from `offset` on goes meanwhile; `stored`: in objects, not in files."""
        pin = _Pin(offset, stored)
        self._pins.add(pin)
        try:
            yield
        finally:
            self._pins.discard(pin)
            self._changed.set()

    async def released(self, below: int, *, stored: bool) -> None:
        """Wait until nothing is held any more of what is held below this offset now.

        With `stored` also those who read objects. Not always a checkpoint.
        """
        waited_for = {p for p in self._pins if p.offset < below and (stored or not p.stored)}
        while not waited_for.isdisjoint(self._pins):
            await self._changed.wait()

    def hold_objects(self, below: int) -> bool:
        """Whether somebody reads objects from an offset below this one now."""
        return any(pin.stored and pin.offset < below for pin in self._pins)


@attrs.frozen(eq=False)
class _Pin:
    offset: int
    stored: bool
