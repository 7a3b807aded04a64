"""What the log and its subscriptions ask of a metadata store, as a Protocol.

A metadata store is a small, consistent map from keys to values. Keys are absolute paths
(``/danube/storage/topics/default/orders/epoch``), values are bytes (JSON, by Danube's custom). Each
change of the store has a *revision*, a number that grows with every one; an entry carries the
revision of its last change. The rules that `danube_trio.testing.check_metadata` checks:

- After a write returned, every read shows it. In a store that is not of memory it survives a
  power cut.
- `transact` is atomic, and the only conditional operation: compare-and-swap of one key is a
  transaction with one expectation.
- An entry with a time to live is gone at the latest a second or two after it ended, unless it was
  put again. A lease says when somebody may take over, never that nobody else is still working.
- What has ended is not there. The end of a time to live is a change like any other, and has one
  moment: before it all calls and watches see the entry, after it none does, however many end
  together. So who was told "is not there" may expect revision 0.
- A watch misses nothing: it begins at a revision, and what it cannot replay it says.

**Resuming a watch.** A transaction that changes several keys is one revision, and several events. A
program that stops, or loses its watch, may have seen some of them only. It goes on with
``watch(prefix, after=event.resume_after)`` of the last event that it has dealt with, or with
``after=revision`` of a list or write of its own, whose revision is whole. Then nothing is missed,
and what is repeated is at most the beginning of the one change that it was in.

Errors: StoreUnavailableError (the outcome of a write is unknown), AccessDeniedError, ValueError for
a bad key. No other exception of a client library gets out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Protocol, Self

import attrs
import trio
from trio.lowlevel import checkpoint


@attrs.frozen
class Revised:
    """A value, and the revision of its last change."""

    key: str
    value: bytes
    revision: int


@attrs.frozen
class WatchEvent:
    """A change of one key.

    Attributes:
        key: which.
        value: the new value; None when it was deleted, or its time to live ended.
        revision: of the change.
        last: whether nothing more of this change follows under the watch's prefix.
    """

    key: str
    value: bytes | None
    revision: int
    last: bool = attrs.field(default=True, eq=False)

    @property
    def resume_after(self) -> int:
        """The `after` of a watch that goes on when this event has been dealt with.

        Its revision, if the change is over; else the one before, so that the change comes again.
        """
        return self.revision if self.last else self.revision - 1


class WatchBlock(ABC):
    """A watch's block, and the iterator that it gives: for one task at a time."""

    _busy = False

    @abstractmethod
    async def _next(self) -> WatchEvent: ...

    @abstractmethod
    async def aclose(self) -> None:
        """End the watch; idempotent. Ends it also when it raises Cancelled."""

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> WatchEvent:
        if self._busy:
            raise trio.BusyResourceError("another task is iterating this watch")
        self._busy = True
        try:
            await checkpoint()
            return await self._next()
        finally:
            self._busy = False


class MetadataStore(Protocol):
    """A metadata store. Cancelling any call returns at once; a write's outcome is unknown then."""

    @property
    def url(self) -> str:
        """Where it is, for people."""
        ...

    async def get(self, key: str) -> Revised | None:
        """The entry, or None."""
        ...

    async def put(self, key: str, value: bytes, *, ttl: float | None = None) -> int:
        """Write an entry and return the revision.

        `ttl`: it vanishes so many seconds (at least 1) after its last put. A put without it lasts.
        """
        ...

    async def delete(self, key: str) -> bool:
        """Remove an entry; returns whether there was one."""
        ...

    async def list_entries(self, prefix: str) -> list[Revised]:
        """All entries whose key begins with `prefix` (plain text, not whole parts), by key."""
        ...

    async def transact(
        self,
        expect: Mapping[str, int],
        *,
        put: Mapping[str, bytes] | None = None,
        delete: Iterable[str] = (),
    ) -> int | None:
        """Change all of these entries if each key of `expect` has that revision (0: is not there).

        Returns the revision of the change, or None if an expectation failed; nothing was changed
        then. The keys of `put` and `delete` are distinct.
        """
        ...

    def watch(
        self, prefix: str, *, after: int | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[WatchEvent]]:
        """Changes of keys that begin with `prefix`: ``async with store.watch(p) as events:``.

        Args:
            after: also those since this revision, `WatchEvent.resume_after` of the last one that
                was seen; None: those after the block was entered.

        One task iterates at a time (trio.BusyResourceError). Cancelling loses nothing. The
        iteration raises WatchLostError (a StoreError) when changes in between cannot be
        replayed any more: list, and watch again. StoreUnavailableError when the store is gone.
        """
        ...

    async def aclose(self) -> None:
        """Give up what it holds; idempotent."""
