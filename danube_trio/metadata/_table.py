"""The content of a store that keeps everything in memory: entries, revisions, times to live.

Synchronous, and without a clock: times are arguments. A write has two halves, so that a durable
store can put its journal between them:

1. A `Draft` decides, at one moment. It stands on a table and sees what earlier transactions of the
   same draft will do. Each transaction that changes something becomes a `Change` with the next
   revision.
2. `Table.apply` makes a change visible, to reads and to watches, all of it in one step.

Between the two nobody else may apply anything: there is one draft at a time.

**What has ended is not there**, for reads and for decisions, however many have ended together. An
entry whose time to live has ended stays in the table until a change removes it, a deletion like any
other, with a revision and an event. The draft makes these changes: first of many that have ended,
as far as they fit into one, and then of each other one before it decides about its key.

Revisions begin at 1, that of an empty store, as etcd's do: so 0 always means "is not there".
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections.abc import Iterable

import attrs

from danube_trio.metadata._history import History
from danube_trio.metadata._rules import Put, Transaction
from danube_trio.metadata._store import Revised, WatchEvent

FIRST_REVISION = 1
# Bounds a change that no caller has bounded; what it leaves is for the next draft.
MAX_EXPIRED = 1000


@attrs.frozen
class Change:
    """What one transaction, or the end of some entries' time, does. Not empty.

    Attributes:
        revision: its number; the next one to that of the change before.
        puts: new values.
        deletes: keys that were there and go.
    """

    revision: int
    puts: tuple[Put, ...]
    deletes: tuple[str, ...]

    def events(self) -> list[WatchEvent]:
        """What watches say about it."""
        events = [WatchEvent(put.key, put.value, self.revision) for put in self.puts]
        return events + [WatchEvent(key, None, self.revision) for key in self.deletes]


@attrs.frozen
class Entry:
    """A value, its revision, its time to live (seconds, or None), and when that ends."""

    value: bytes
    revision: int
    ttl: float | None
    deadline: float | None

    def has_ended(self, now: float) -> bool:
        """Whether its time is over: it is not there any more."""
        return self.deadline is not None and self.deadline <= now


class Table:
    """The entries, and the history of their changes."""

    def __init__(self, history: History, revision: int = FIRST_REVISION) -> None:
        self.history = history
        self.revision = revision
        self.size_bytes = 0  # of keys and values
        self._entries: dict[str, Entry] = {}
        self._keys: list[str] = []  # sorted: by code points, which is the order of the UTF-8 bytes
        # May hold deadlines of entries that were put again since; see `_tidy`.
        self._deadlines: list[tuple[float, int, str]] = []
        self._mortal = 0

    def copy(self) -> Table:
        """Another table with the same entries, whose history begins now."""
        other = Table(self.history.begun_anew(), self.revision)
        other.size_bytes = self.size_bytes
        other._entries = dict(self._entries)
        other._keys = list(self._keys)
        other._deadlines = list(self._deadlines)
        other._mortal = self._mortal
        return other

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: str) -> Entry | None:
        """The entry, or None."""
        return self._entries.get(key)

    def items(self) -> list[tuple[str, Entry]]:
        """All entries, by key."""
        return [(key, self._entries[key]) for key in self._keys]

    def revised(self, key: str, now: float) -> Revised | None:
        """The entry as callers see it; None if its time has ended."""
        entry = self._entries.get(key)
        if entry is None or entry.has_ended(now):
            return None
        return Revised(key, entry.value, entry.revision)

    def select(self, prefix: str, now: float) -> list[Revised]:
        """The entries under a prefix, by key, without those whose time has ended."""
        found: list[Revised] = []
        for place in range(bisect_left(self._keys, prefix), len(self._keys)):
            key = self._keys[place]
            if not key.startswith(prefix):
                break
            revised = self.revised(key, now)
            if revised is not None:
                found.append(revised)
        return found

    def next_deadline(self) -> float | None:
        """When the next time to live ends, or None."""
        while self._deadlines:
            deadline, revision, key = self._deadlines[0]
            entry = self._entries.get(key)
            if entry is not None and entry.revision == revision:
                return deadline
            heapq.heappop(self._deadlines)
        return None

    def is_due(self, now: float) -> bool:
        """Whether there are entries whose time has ended."""
        deadline = self.next_deadline()
        return deadline is not None and deadline <= now

    def due(self, now: float) -> list[str]:
        """Keys of entries whose time has ended, sorted; not more than fit into one change."""
        found: list[tuple[float, int, str]] = []
        while len(found) < MAX_EXPIRED and self.is_due(now):
            found.append(heapq.heappop(self._deadlines))
        for deadline in found:  # they are gone when a change has removed them
            heapq.heappush(self._deadlines, deadline)
        return sorted(key for _, _, key in found)

    def apply(self, change: Change, now: float) -> None:
        """Make a change visible. Times to live begin `now`."""
        assert change.revision == self.revision + 1
        self.revision = change.revision
        for put in change.puts:
            self.load(put, change.revision, now)
        for key in change.deletes:
            self._remove(key)
        self.history.append(change.events())

    def load(self, put: Put, revision: int, now: float) -> None:
        """Set an entry, of a change or of a stored content, and tell nobody."""
        if put.key in self._entries:
            self._forget(put.key)
        else:
            insort(self._keys, put.key)
        deadline = None if put.ttl is None else now + put.ttl
        self._entries[put.key] = Entry(put.value, revision, put.ttl, deadline)
        self.size_bytes += len(put.key) + len(put.value)
        if deadline is not None:
            earliest = self.next_deadline()
            self._mortal += 1
            heapq.heappush(self._deadlines, (deadline, revision, put.key))
            self._tidy()
            if earliest is None or deadline < earliest:
                self.history.wake_lookout()

    def _remove(self, key: str) -> None:
        self._forget(key)
        del self._entries[key]
        del self._keys[bisect_left(self._keys, key)]

    def _forget(self, key: str) -> None:
        old = self._entries[key]
        self.size_bytes -= len(key) + len(old.value)
        self._mortal -= old.deadline is not None

    def _tidy(self) -> None:
        """A heartbeat leaves a deadline behind with each beat: bound them by the entries."""
        if len(self._deadlines) <= 2 * self._mortal + 64:
            return
        self._deadlines = [
            (entry.deadline, entry.revision, key)
            for key, entry in self._entries.items()
            if entry.deadline is not None
        ]
        heapq.heapify(self._deadlines)


class Draft:
    """Transactions that are decided at one moment, and not applied yet."""

    def __init__(self, table: Table, now: float) -> None:
        self._table = table
        self._now = now
        self._revisions: dict[str, int] = {}  # of the keys that this draft changes; 0: deleted
        self.revision = table.revision
        self.changes: list[Change] = []
        self._end(table.due(now))

    def _end(self, keys: Iterable[str]) -> None:
        """Remove those of these keys whose time has ended, if this draft has not changed them."""
        ended: list[str] = []
        for key in keys:
            entry = self._table.get(key)
            if entry is not None and entry.has_ended(self._now) and key not in self._revisions:
                ended.append(key)
        if ended:
            self._add((), tuple(sorted(set(ended))))

    def _revision_of(self, key: str) -> int:
        revision = self._revisions.get(key)
        if revision is None:
            entry = self._table.get(key)
            revision = entry.revision if entry is not None else 0
        return revision

    def decide(self, wanted: Transaction) -> Decision:
        """Check the expectations; if they hold, note the change."""
        self._end((*wanted.expect, *(put.key for put in wanted.puts), *wanted.deletes))
        for key, revision in wanted.expect.items():
            if self._revision_of(key) != revision:
                return Decision(None, 0)
        deletes = tuple(key for key in wanted.deletes if self._revision_of(key))
        if wanted.puts or deletes:
            self._add(wanted.puts, deletes)
        return Decision(self.revision, len(deletes))

    def _add(self, puts: tuple[Put, ...], deletes: tuple[str, ...]) -> None:
        self.revision += 1
        self._revisions.update({put.key: self.revision for put in puts})
        self._revisions.update(dict.fromkeys(deletes, 0))
        self.changes.append(Change(self.revision, puts, deletes))


@attrs.frozen
class Decision:
    """What becomes of a transaction.

    Attributes:
        revision: of its change; of the store, if it changes nothing; None if an expectation failed.
        deleted: how many of the keys to delete were there.
    """

    revision: int | None
    deleted: int
