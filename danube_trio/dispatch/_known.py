"""The subscriptions of a topic that a metadata store knows, and what they let retention free.

The store is asked each time: others add, move and remove subscriptions, too. What is remembered is
what was found out about a saved cursor, so that each is decoded and compared with the log once, and
not in each round. (By its revision and its bytes: a store that was put back gives revisions again.)

Nothing of a log may go for a subscription whose cursor cannot be read, or does not fit the log
(`_opening`): what it needs is not known. Opening it tells the reason, and removing it helps.

*Doubts* are subscriptions whose first save has an unknown outcome. Until the store shows them, what
they would begin with is kept here.
"""

from __future__ import annotations

import logging

import trio

from danube_trio.dispatch._cursor import CursorState
from danube_trio.dispatch._opening import unfit
from danube_trio.dispatch._saving import subscriptions_prefix
from danube_trio.dispatch._store import TopicStore
from danube_trio.errors import CorruptDataError, StoreError
from danube_trio.metadata import MetadataStore, Revised

log = logging.getLogger("danube_trio.dispatch")

# Decoding more than this takes longer than handing it to a thread and back (a guess).
LARGE_BYTES = 64 << 10


class KnownSubscriptions:
    """Those of one topic in one metadata store, under one root.

    Attributes:
        names: those that are saved, as of the last look.
        doubts: by name, the first offset that one needs which may be saved yet.
    """

    def __init__(self, store: TopicStore, metadata: MetadataStore, root: str) -> None:
        self._store = store
        self._metadata = metadata
        self._prefix = subscriptions_prefix(store.topic, root)
        # Where older versions had them, and some may be still: see `_saving`.
        self._former = subscriptions_prefix(store.topic)
        self.names: set[str] = set()
        self.doubts: dict[str, int] = {}
        self._ends: dict[tuple[str, int, int], int] = {}  # by key, revision, and hash of the bytes
        self._told: dict[str, str] = {}  # by name: why it lets nothing free
        self._threads = trio.CapacityLimiter(1)

    @classmethod
    def of(cls, store: TopicStore, metadata: MetadataStore, root: str) -> KnownSubscriptions:
        """What another dispatch of this log has already, so that each round asks once."""
        prefix = subscriptions_prefix(store.topic, root)
        for known in store.needs.dispatches.values():
            if not isinstance(known, KnownSubscriptions) or known._prefix != prefix:
                continue
            if known._metadata is metadata:
                return known
        return cls(store, metadata, root)

    async def look(self) -> dict[str, Revised]:
        """Ask the store; returns the better one of the entries that each subscription has.

        Raises StoreError.
        """
        found: dict[str, Revised] = {}
        if self._former != self._prefix:  # first: one that moves meanwhile is seen in either place
            for name, entry in (await self._list(self._former)).items():
                if not await self._says_its_log(entry):
                    found[name] = entry
        found |= await self._list(self._prefix)
        self.names = set(found)
        for name in found:
            self.doubts.pop(name, None)
        return found

    async def _list(self, prefix: str) -> dict[str, Revised]:
        found: dict[str, Revised] = {}
        for entry in await self._metadata.list_entries(prefix):
            name, _, what = entry.key.removeprefix(prefix).partition("/")
            if what in ("cursor", "danube-trio"):  # in this order, and the later one is better
                found[name] = entry
        return found

    async def _says_its_log(self, entry: Revised) -> bool:
        """Whether a cursor below no root is that of a storage with Danube's root."""
        try:
            return bool((await self._decoded(entry)).log)
        except CorruptDataError:
            return False

    async def _decoded(self, entry: Revised) -> CursorState:
        if entry.key.endswith("/cursor"):
            return CursorState.from_danube(entry.value, entry.key)
        if len(entry.value) < LARGE_BYTES:
            return CursorState.decode(entry.value, entry.key)
        return await trio.to_thread.run_sync(
            CursorState.decode, entry.value, entry.key, limiter=self._threads
        )

    async def ends(self) -> list[int]:
        """Ask the store; below which offset each subscription lets messages go.

        Raises StoreError, and what reading the log raises, but for damage.
        """
        before, self._ends = self._ends, {}
        told, self._told = self._told, {}
        ends: list[int] = []
        for name, entry in (await self.look()).items():
            which = entry.key, entry.revision, hash(entry.value)
            end = before[which] if which in before else await self._end_of(entry)
            if isinstance(end, int):
                self._ends[which] = end
                ends.append(end)
                continue
            if told.get(name) != end:
                log.warning("retention stands still: subscription %s: %s", name, end)
            self._told[name] = end
            ends.append(0)
        return ends

    async def _end_of(self, entry: Revised) -> int | str:
        """Below which offset it lets messages go, or why that is not known."""
        try:
            cursor = await self._decoded(entry)
            reason = await unfit(self._store, cursor) if cursor.end else None
        except CorruptDataError as error:
            return str(error)
        except StoreError as error:
            return f"it cannot be compared with the log now ({error})"
        return cursor.end if reason is None else reason
