"""A metadata store in this process's memory: for tests, and for what may end with the process.

It has no task and no thread. Times to live run on trio's clock, virtual time included, and end when
somebody looks: each call looks first, and a watch looks when the next one is over.
"""

from __future__ import annotations

import trio
from trio.lowlevel import checkpoint

from danube_trio.errors import StoreUnavailableError
from danube_trio.metadata._history import HISTORY_BYTES, HISTORY_EVENTS, History
from danube_trio.metadata._rules import Transaction
from danube_trio.metadata._table import FIRST_REVISION, Decision, Draft, Table
from danube_trio.metadata._tabled import TabledMetadata


class MemoryMetadata(TabledMetadata):
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
        super().__init__(Table(history))
        self._closed = False

    def __repr__(self) -> str:
        state = "closed, " if self._closed else ""
        return f"<MemoryMetadata {state}{len(self._table)} entries, revision {self.revision}>"

    @property
    def url(self) -> str:
        """Where it is, for people."""
        return "memory:"

    async def aclose(self) -> None:
        """End the store and its watches; idempotent. The content is gone."""
        self._closed = True
        self._table.history.wake_all()
        await checkpoint()

    def check_watchable(self) -> None:
        """Raise StoreUnavailableError if the store was closed."""
        if self._closed:
            raise StoreUnavailableError(f"the store {self.url} was closed; nothing was done")

    async def _look(self) -> float:
        self.check_watchable()
        now = trio.current_time()
        while self._table.is_due(now):
            self._apply(Draft(self._table, now), now)
        return now

    async def _expire(self) -> None:
        if not self._closed:
            await self._look()

    async def _write(self, wanted: Transaction) -> Decision:
        await checkpoint()
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
