"""A metadata store in this process's memory: for tests, and for what may end with the process.

It has no task and no thread. Times to live run on trio's clock, virtual time included, and end when
somebody looks: each call looks first, and a watch looks when the next one is over.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import trio
from trio.lowlevel import checkpoint

from danube_trio.errors import StoreUnavailableError
from danube_trio.metadata._history import HISTORY_BYTES, HISTORY_EVENTS, History, Watch
from danube_trio.metadata._rules import (
    Transaction,
    check_after,
    check_key,
    check_prefix,
    transaction,
)
from danube_trio.metadata._store import Revised
from danube_trio.metadata._table import FIRST_REVISION, Decision, Draft, Table

__all__ = ["MemoryMetadata", "copy_of"]


class MemoryMetadata:
    """A `MetadataStore` in memory. Cancellation: a call that raises Cancelled did nothing.

    Args:
        history_events: how many changes are kept for watches; one that falls behind them gets
            WatchLostError.
        history_bytes: how many bytes these may take.
    """

    def __init__(
        self, *, history_events: int = HISTORY_EVENTS, history_bytes: int = HISTORY_BYTES
    ) -> None:
        history = History(FIRST_REVISION, max_events=history_events, max_bytes=history_bytes)
        self._table = Table(history)
        self._closed = False

    def __repr__(self) -> str:
        state = "closed, " if self._closed else ""
        return f"<MemoryMetadata {state}{len(self._table)} entries, revision {self.revision}>"

    @property
    def url(self) -> str:
        """Where it is, for people."""
        return "memory:"

    @property
    def revision(self) -> int:
        """The revision of the newest change; 1 in a new store."""
        return self._table.revision

    @property
    def history(self) -> History:
        """What watches read."""
        return self._table.history

    async def get(self, key: str) -> Revised | None:
        """See `MetadataStore.get`."""
        check_key(key)
        await checkpoint()
        return self._look().revised(key, trio.current_time())

    async def list_entries(self, prefix: str) -> list[Revised]:
        """See `MetadataStore.list_entries`."""
        check_prefix(prefix)
        await checkpoint()
        return self._look().select(prefix, trio.current_time())

    async def put(self, key: str, value: bytes, *, ttl: float | None = None) -> int:
        """See `MetadataStore.put`."""
        wanted = transaction({}, put={key: value}, ttl=ttl)
        await checkpoint()
        revision = self._write(wanted).revision
        assert revision is not None
        return revision

    async def delete(self, key: str) -> bool:
        """See `MetadataStore.delete`."""
        wanted = transaction({}, delete=[key])
        await checkpoint()
        return self._write(wanted).deleted > 0

    async def transact(
        self,
        expect: Mapping[str, int],
        *,
        put: Mapping[str, bytes] | None = None,
        delete: Iterable[str] = (),
    ) -> int | None:
        """See `MetadataStore.transact`."""
        wanted = transaction(expect, put=put, delete=delete)
        await checkpoint()
        return self._write(wanted).revision

    def watch(self, prefix: str, *, after: int | None = None) -> Watch:
        """See `MetadataStore.watch`."""
        check_prefix(prefix)
        check_after(after)
        return Watch(self, prefix, after, self._expire)

    async def aclose(self) -> None:
        """End the store and its watches; idempotent. The content is gone."""
        self._closed = True
        self._table.history.wake_all()
        await checkpoint()

    # -- what watches ask

    def next_deadline(self) -> float | None:
        """When the next time to live ends, or None."""
        return self._table.next_deadline()

    def check_watchable(self) -> None:
        """Raise StoreUnavailableError if the store was closed."""
        if self._closed:
            raise StoreUnavailableError(f"the store {self.url} was closed; nothing was done")

    async def _expire(self) -> None:
        if not self._closed:
            self._look()

    # -- the content

    def _look(self) -> Table:
        """The table, without what has no time left."""
        self.check_watchable()
        now = trio.current_time()
        while self._table.is_due(now):
            self._apply(Draft(self._table, now), now)
        return self._table

    def _write(self, wanted: Transaction) -> Decision:
        self.check_watchable()
        now = trio.current_time()
        draft = Draft(self._table, now)
        decision = draft.decide(wanted)
        self._apply(draft, now)
        return decision

    def _apply(self, draft: Draft, now: float) -> None:
        for change in draft.changes:
            self._table.apply(change, now)


def copy_of(memory: MemoryMetadata) -> MemoryMetadata:
    """Another store with the same entries and revision, and no watches."""
    copy = MemoryMetadata()
    copy._table = memory._table.copy()  # pyright: ignore[reportPrivateUsage]
    return copy
