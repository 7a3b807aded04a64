"""The newest changes of a store, and the watches that read them.

There is one buffer for everybody. A watch is a cursor in it, not a queue of its own, so any number
of watches need no more memory than the history has, a slow one never blocks a writer, and "changes
since revision r" and "changes from now on" are the same thing with two starting points.

Events have places 0, 1, 2 ... in the order of their changes. `[first, end)` are still there. When
an event is dropped, a cursor that stands on it moves on if the event is not under its prefix;
if it is, that watch is lost, and says so. `floor` is the revision of the newest dropped change:
whoever has seen it, or a later one, misses nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from types import TracebackType
from typing import Protocol

import trio
from trio.lowlevel import checkpoint

from danube_trio.errors import StoreUnavailableError, WatchLostError
from danube_trio.metadata._store import WatchEvent

__all__ = ["HISTORY_BYTES", "HISTORY_EVENTS", "History", "Watch", "Watched"]

# Guesses: minutes of a busy store, in a few megabytes at most.
HISTORY_EVENTS = 10_000
HISTORY_BYTES = 16 << 20
_EVENT_BYTES = 200  # what an event takes besides key and value; measured roughly


class History:
    """The newest changes.

    Args:
        floor: the revision that the history begins after.
        max_events: how many changes of single keys are kept.
        max_bytes: how many bytes they may take.
    """

    def __init__(
        self, floor: int, *, max_events: int = HISTORY_EVENTS, max_bytes: int = HISTORY_BYTES
    ) -> None:
        for name, value in (("history_events", max_events), ("history_bytes", max_bytes)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value!r}")
        self.floor = floor
        self.revision = floor  # of the newest change
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._events: deque[WatchEvent] = deque()
        self._first = 0
        self._size_bytes = 0
        self._cursors: set[Cursor] = set()

    @property
    def end(self) -> int:
        """The place of the next event."""
        return self._first + len(self._events)

    def at(self, place: int) -> WatchEvent:
        """The event at that place."""
        return self._events[place - self._first]

    def append(self, events: Iterable[WatchEvent]) -> None:
        """Add the events of one change, drop what is too much, wake those who want them."""
        woken: set[Cursor] = set()
        for event in events:
            self.revision = event.revision
            self._events.append(event)
            self._size_bytes += _size(event)
            woken.update(c for c in self._cursors if event.key.startswith(c.prefix))
        while len(self._events) > self._max_events or self._size_bytes > self._max_bytes:
            self._drop()
        for cursor in woken:
            cursor.wake()

    def _drop(self) -> None:
        event = self._events.popleft()
        self._size_bytes -= _size(event)
        self.floor = event.revision
        for cursor in self._cursors:
            if cursor.place == self._first:
                cursor.place += 1
                cursor.lost = cursor.lost or event.key.startswith(cursor.prefix)
        self._first += 1

    def open(self, prefix: str, after: int | None) -> Cursor:
        """A cursor after that revision, or after the newest one."""
        cursor = Cursor(self, prefix, self.end)
        if after is not None:
            cursor.lost = not self.floor <= after <= self.revision
            for event in reversed(self._events):
                if event.revision <= after:
                    break
                cursor.place -= 1
        self._cursors.add(cursor)
        return cursor

    def close(self, cursor: Cursor) -> None:
        """Forget a cursor; idempotent."""
        self._cursors.discard(cursor)
        cursor.wake()

    def wake_all(self) -> None:
        """Let every watch look again: the store has ended, or broken."""
        for cursor in self._cursors:
            cursor.wake()


def _size(event: WatchEvent) -> int:
    return len(event.key) + len(event.value or b"") + _EVENT_BYTES


class Cursor:
    """Where a watch stands; what it gives is `take`n one by one."""

    def __init__(self, history: History, prefix: str, place: int) -> None:
        self._history = history
        self._bell = trio.Event()
        self.prefix = prefix
        self.place = place
        self.lost = False

    def take(self) -> WatchEvent | None:
        """The next event, or None if there is none yet. Raises WatchLostError."""
        history = self._history
        if self.lost:
            raise WatchLostError(
                f"changes under {self.prefix!r} were missed: the store keeps those after revision "
                f"{history.floor}, up to {history.revision}. List the entries, and watch again"
            )
        while self.place < history.end:
            event = history.at(self.place)
            self.place += 1
            if event.key.startswith(self.prefix):
                return event
        self._bell = trio.Event()
        return None

    def wake(self) -> None:
        """Something has changed."""
        self._bell.set()

    async def wait(self) -> None:
        """Wait for a `wake` since the last `take` that gave None."""
        await self._bell.wait()


class Watched(Protocol):
    """What a watch needs of its store."""

    @property
    def history(self) -> History:
        """The changes."""
        ...

    def next_deadline(self) -> float | None:
        """When the next time to live ends, or None."""
        ...

    def check_watchable(self) -> None:
        """Raise StoreUnavailableError if no change will come any more."""
        ...


class Watch:
    """A watch: the context manager, and the iterator that it gives.

    A time to live ends when somebody looks. A watch that waits looks when the next one is over, by
    calling `expire`.
    """

    def __init__(
        self,
        store: Watched,
        prefix: str,
        after: int | None,
        expire: Callable[[], Awaitable[None]],
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

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def close(self) -> None:
        """End the watch; idempotent."""
        if self._cursor is not None:
            self._store.history.close(self._cursor)
            self._cursor = None

    async def aclose(self) -> None:
        """End the watch; idempotent. Ends it also when it raises Cancelled."""
        self.close()
        await checkpoint()

    def __aiter__(self) -> Watch:
        return self

    async def __anext__(self) -> WatchEvent:
        await checkpoint()
        while True:
            if (cursor := self._cursor) is None:
                raise StoreUnavailableError("the watch is closed: open another one")
            if (event := cursor.take()) is not None:
                return event
            self._store.check_watchable()
            deadline = self._store.next_deadline()
            if deadline is None:
                await cursor.wait()
                continue
            with trio.move_on_at(deadline):
                await cursor.wait()
            await self._expire()
