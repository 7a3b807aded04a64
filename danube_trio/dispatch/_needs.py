"""Who needs what of a log in this program: one `Needs` for each, however many dispatches it has.

What may go of a log is one fact, so those who free and those who begin to read meet here:

* The *guard* is held while messages are freed, and by whoever looks where messages begin and then
  says that it needs them. So none of them goes in between.
* Who goes back (a seek, a new subscription) says so with the guard, in `went_back`. Retention asks
  the metadata store without it, since that one may hang, and begins anew if somebody did meanwhile.
* Readers hold what they have not handed out, whichever dispatch made them, until they are closed,
  at their end, or garbage.
* Freeing may fail, or be cancelled, and happen later all the same: until it has succeeded, nobody
  begins below `freed`.

A log is the same for two dispatches if it is the same open `Wal`, the same topic of one storage, or
the same segments.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Protocol

import trio

from danube_trio.dispatch._options import topic_parts


class _Reader(Protocol):
    @property
    def cursor(self) -> int: ...
    @property
    def finished(self) -> bool: ...


class SavedEnds(Protocol):
    """Where it is saved how far subscriptions are."""

    async def ends(self) -> list[int]:
        """Below which offset each subscription lets messages go. Asks the metadata store."""
        ...


_ALL: weakref.WeakValueDictionary[tuple[int, str], Needs] = weakref.WeakValueDictionary()


class Needs:
    """What this program needs of one log.

    Attributes:
        guard: see above.
        went_back: how often somebody did.
        freed: everything below it may be gone, or go later.
        dispatches: of each, what its subscriptions need beside what is saved, and what is.
    """

    def __init__(self, owner: object) -> None:
        self._owner = owner  # as long as this is there, nobody else gets its id
        self.guard = trio.Lock()
        self.went_back = 0
        self.freed = 0
        self.dispatches: dict[Callable[[], Iterable[int]], SavedEnds] = {}
        self._readers: weakref.WeakSet[_Reader] = weakref.WeakSet()

    @classmethod
    def of(cls, owner: object, topic: str) -> Needs:
        """Of a topic of whatever object has its messages: always the same while it is in use."""
        key = (id(owner), "/".join(topic_parts(topic)))
        found = _ALL.get(key)
        if found is None:
            found = _ALL[key] = cls(owner)
        return found

    def add_reader(self, reader: _Reader) -> None:
        """It holds what it has not handed out."""
        self._readers.add(reader)

    def forget(self, reader: _Reader) -> None:
        """It holds nothing any more."""
        self._readers.discard(reader)

    def first_read(self, otherwise: int) -> int:
        """The lowest offset that a reader has not handed out, if it is below `otherwise`."""
        return min([otherwise, *(r.cursor for r in self._readers if not r.finished)])
