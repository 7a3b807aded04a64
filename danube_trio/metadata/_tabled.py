"""The calls of a store whose content is a `Table`: what one in memory and one in a directory share,
and its watches.

They differ in two steps. *Looking* lets what has ended go, before anything is shown; *writing*
decides about a transaction and makes it visible. Each is given by the store, as is what there is to
say when it is closed.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Mapping

import trio
from trio.lowlevel import checkpoint

from danube_trio.errors import StoreUnavailableError
from danube_trio.metadata._history import Cursor, History
from danube_trio.metadata._rules import (
    Transaction,
    check_after,
    check_key,
    check_prefix,
    transaction,
)
from danube_trio.metadata._store import Revised, WatchBlock, WatchEvent
from danube_trio.metadata._table import Decision, Table


class TabledMetadata(ABC):
    """A `MetadataStore` over a table, but for the two steps, and its end."""

    def __init__(self, table: Table) -> None:
        self._table = table

    @abstractmethod
    async def _look(self) -> float:
        """Let what has ended go; returns the time for which that holds. May be no checkpoint."""

    @abstractmethod
    async def _expire(self) -> object:
        """Let what has ended go, if that can be done now; for watches, which say the rest."""

    @abstractmethod
    async def _write(self, wanted: Transaction) -> Decision:
        """Do a checked transaction. A checkpoint before anything is done."""

    @abstractmethod
    def check_watchable(self) -> None:
        """Raise StoreUnavailableError if no change will come any more."""

    @property
    def revision(self) -> int:
        """The revision of the newest change that is visible (and durable); 1 in a new store."""
        return self._table.revision

    @property
    def history(self) -> History:
        """What watches read."""
        return self._table.history

    def next_deadline(self) -> float | None:
        """When the next time to live ends, or None."""
        return self._table.next_deadline()

    async def get(self, key: str) -> Revised | None:
        """See `MetadataStore.get`."""
        check_key(key)
        await checkpoint()
        now = await self._look()
        return self._table.revised(key, now)

    async def list_entries(self, prefix: str) -> list[Revised]:
        """See `MetadataStore.list_entries`."""
        check_prefix(prefix)
        await checkpoint()
        now = await self._look()
        return self._table.select(prefix, now)

    async def put(self, key: str, value: bytes, *, ttl: float | None = None) -> int:
        """See `MetadataStore.put`."""
        decision = await self._write(transaction({}, put={key: value}, ttl=ttl))
        assert decision.revision is not None  # it expects nothing that could fail
        return decision.revision

    async def delete(self, key: str) -> bool:
        """See `MetadataStore.delete`."""
        return (await self._write(transaction({}, delete=[key]))).deleted > 0

    async def transact(
        self,
        expect: Mapping[str, int],
        *,
        put: Mapping[str, bytes] | None = None,
        delete: Iterable[str] = (),
    ) -> int | None:
        """See `MetadataStore.transact`."""
        return (await self._write(transaction(expect, put=put, delete=delete))).revision

    def watch(self, prefix: str, *, after: int | None = None) -> Watch:
        """See `MetadataStore.watch`. `after` reaches back as far as the history does: in a
        directory that was opened anew, to its last snapshot.
        """
        check_prefix(prefix)
        check_after(after)
        return Watch(self, prefix, after, self._expire)


class Watch(WatchBlock):
    """A watch: the context manager, and the iterator that it gives.

    `expire` is the store's step.
    """

    def __init__(
        self,
        store: TabledMetadata,
        prefix: str,
        after: int | None,
        expire: Callable[[], Awaitable[object]],
    ) -> None:
        self._store = store
        self._prefix = prefix
        self._after = after
        self._expire = expire
        self._cursor: Cursor | None = None
        self._entered = False

    def __repr__(self) -> str:
        state = "open" if self._cursor is not None else "closed"
        return f"<Watch of {self._prefix!r}, {state}>"

    async def __aenter__(self) -> Watch:
        if self._entered:
            raise RuntimeError("a watch is used once: call watch() again")
        await checkpoint()
        await self._expire()
        self._store.check_watchable()
        self._entered = True
        self._cursor = self._store.history.open(self._prefix, self._after)
        return self

    def close(self) -> None:
        """End the watch; idempotent."""
        if self._cursor is not None:
            self._store.history.close(self._cursor)
            self._cursor = None

    async def aclose(self) -> None:
        """End the watch; idempotent. Ends it also when it raises Cancelled."""
        self.close()
        await checkpoint()

    async def _next(self) -> WatchEvent:
        event = self._look()
        return event if event is not None else await self._wait()

    def _look(self) -> WatchEvent | None:
        if self._cursor is None:
            raise StoreUnavailableError("the watch is closed: open another one")
        event = self._cursor.take()
        if event is None:
            self._store.check_watchable()
        return event

    async def _wait(self) -> WatchEvent:
        """Wait for an event; the lookout ends what is over, which makes some."""
        history, cursor = self._store.history, self._cursor
        assert cursor is not None
        # It stays in its place however often it is woken: a lookout that left would wake the next.
        with history.waiting(cursor):
            while True:
                deadline = self._store.next_deadline() if history.is_lookout(cursor) else None
                with trio.move_on_at(math.inf if deadline is None else deadline) as alarm:
                    await cursor.wait()
                if alarm.cancelled_caught:
                    await self._expire()
                if (event := self._look()) is not None:
                    return event
