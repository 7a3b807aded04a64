"""Which objects hold a log's records: the one place that knows, and everybody else asks it.

An object goes one way::

    named --the catalog begins later--> dropped --the log begins later--> free --> deleted

- *named* by the newest state of the catalog;
- *dropped*: the catalog names it no more, which is durable, but the log's own start is not beyond
  it yet: whoever reads there still finds it;
- *free*: the log begins behind it, so no fetch from it begins any more. When those that began
  before are done, it may be deleted.

A writer is told of each change in the step in which its session learns of it (`published`), so
there is no moment at which two of its parts know different states. A replica or a follower only
looks on: it puts the newest state in, and deletes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

from danube_trio._core.catalog import CatalogState, Descriptor


class StoredObjects:
    """The objects of one log.

    Attributes:
        state: the newest state of the catalog that is known here.
    """

    __slots__ = ("_dropped", "state")

    def __init__(self, state: CatalogState) -> None:
        self.state = state
        self._dropped: list[Descriptor] = []  # oldest first; all of them before those named

    def __iter__(self) -> Iterator[Descriptor]:
        """All that can be read, oldest first."""
        yield from self._dropped
        yield from self.state.segments

    def find(self, offset: int) -> Descriptor | None:
        """The object that holds `offset`."""
        named = self.state.find(offset)
        if named is not None or not self._dropped or offset >= self._dropped[-1].end:
            return named
        return next((d for d in self._dropped if d.base <= offset < d.end), None)

    def published(self, state: CatalogState) -> None:
        """This writer's newest state: it names more objects, or begins later."""
        self._dropped += [d for d in self.state.segments if d.end <= state.start_offset]
        self.state = state

    def free(self, start_offset: int) -> list[Descriptor]:
        """Those that a log with this start needs no more, oldest first."""
        return [d for d in self._dropped if d.end <= start_offset]

    def deleted(self, descriptor: Descriptor) -> None:
        """It is gone, or left to the next owner."""
        self._dropped.remove(descriptor)
