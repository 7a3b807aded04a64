"""The newest changes of a store, for the watches that read them.

There is one buffer for everybody, so any number of watches need no more memory than the history
has, a slow one never blocks a writer, and "changes since revision r" and "changes from now on" are
the same thing with two starting points. A change costs what the watches of its prefixes cost,
however many others there are:

- For each prefix that is watched there is a *stream*: those of the events that begin so, numbered
  `[first, end)`. A watch is a *cursor* in the stream of its prefix. A key's streams are found by
  its own beginnings, one look for each length that a watched prefix has.
- When an event is dropped, the streams that begin with it drop it too. A cursor that stands before
  the first event of its stream is lost, and says so.
- `floor` is the revision of the newest dropped change: whoever has seen it, or a later one, misses
  nothing.

**Times to live** end when somebody looks. Of all watches that wait, the one that has waited longest
is the *lookout*: it looks when the next time is over. When it stops waiting, for whatever reason,
the next one is woken and takes its place; when a time begins that ends sooner than all others, the
lookout is woken and sets its alarm anew.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict, deque
from collections.abc import Generator, Iterable

import attrs
import trio

from danube_trio.errors import WatchLostError
from danube_trio.metadata._store import WatchEvent

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
        self._size_bytes = 0
        self._streams: dict[str, _Stream] = {}  # by their prefix
        self._lengths: dict[int, int] = {}  # of these prefixes, and how many have it
        self._waiting: OrderedDict[Cursor, None] = OrderedDict()  # the first one is the lookout

    def begun_anew(self) -> History:
        """A history with the same limits, which begins after the newest change."""
        return History(self.revision, max_events=self._max_events, max_bytes=self._max_bytes)

    def append(self, events: Iterable[WatchEvent]) -> None:
        """Add the events of one change, drop what is too much, wake those who want them."""
        woken: set[_Stream] = set()
        for event in events:
            self.revision = event.revision
            self._events.append(event)
            self._size_bytes += _size(event)
            for stream in self._streams_of(event.key):
                stream.events.append(event)
                woken.add(stream)
        while len(self._events) > self._max_events or self._size_bytes > self._max_bytes:
            self._drop()
        for stream in woken:
            for cursor in stream.cursors:
                cursor.wake()

    def _drop(self) -> None:
        event = self._events.popleft()
        self._size_bytes -= _size(event)
        self.floor = event.revision
        for stream in self._streams_of(event.key):
            stream.drop(event)

    def _streams_of(self, key: str) -> list[_Stream]:
        """Those of the watched prefixes that this key begins with."""
        return [
            stream
            for length in self._lengths
            if length <= len(key) and (stream := self._streams.get(key[:length])) is not None
        ]

    def open(self, prefix: str, after: int | None) -> Cursor:
        """A cursor after that revision, or after the newest one."""
        stream = self._streams.get(prefix)
        if stream is None:
            stream = self._streams[prefix] = _Stream(prefix, self.revision)
            self._lengths[len(prefix)] = self._lengths.get(len(prefix), 0) + 1
        cursor = Cursor(self, stream)
        if after is not None:
            cursor.lost = not self.floor <= after <= self.revision
            if not cursor.lost:
                stream.reach_back(after, self._events)
                cursor.place = stream.place_after(after)
        stream.cursors.add(cursor)
        return cursor

    def close(self, cursor: Cursor) -> None:
        """Forget a cursor; idempotent."""
        stream = cursor.stream
        if cursor not in stream.cursors:
            return
        stream.cursors.discard(cursor)
        if not stream.cursors:
            length = len(stream.prefix)
            del self._streams[stream.prefix]
            self._lengths[length] -= 1
            if not self._lengths[length]:
                del self._lengths[length]
        cursor.wake()

    @contextlib.contextmanager
    def waiting(self, cursor: Cursor) -> Generator[None]:
        """While this cursor's watch waits: it may be, or become, the lookout."""
        self._waiting[cursor] = None
        try:
            yield
        finally:
            led = self.is_lookout(cursor)
            del self._waiting[cursor]
            if led:
                self.wake_lookout()

    def is_lookout(self, cursor: Cursor) -> bool:
        """Whether this one, which waits, is to look when the next time to live is over."""
        return next(iter(self._waiting)) is cursor

    def wake_lookout(self) -> None:
        """Let the lookout ask again when the next time is over, if anybody waits at all."""
        if self._waiting:
            next(iter(self._waiting)).wake()

    def wake_all(self) -> None:
        """Let every watch look again: the store has ended, or broken."""
        for cursor in self._waiting:
            cursor.wake()


def _size(event: WatchEvent) -> int:
    return len(event.key) + len(event.value or b"") + _EVENT_BYTES


class _Stream:
    """The events under a prefix that is watched, as far as one of its cursors may want them.

    Attributes:
        floor: it has those after this revision.
        first: the number of its first event.
        cursors: of the watches of this very prefix.
    """

    def __init__(self, prefix: str, floor: int) -> None:
        self.prefix = prefix
        self.floor = floor
        self.first = 0
        self.events: deque[WatchEvent] = deque()
        self.cursors: set[Cursor] = set()

    @property
    def end(self) -> int:
        """The number of the next event."""
        return self.first + len(self.events)

    def at(self, place: int) -> WatchEvent:
        """The event with that number."""
        return self.events[place - self.first]

    def drop(self, event: WatchEvent) -> None:
        """The history has dropped this one, the oldest."""
        if self.events and self.events[0] is event:
            self.events.popleft()
            self.first += 1

    def reach_back(self, after: int, history: deque[WatchEvent]) -> None:
        """Take those after this revision from the history too."""
        for event in reversed(history):
            if event.revision <= after:
                break
            if event.revision <= self.floor and event.key.startswith(self.prefix):
                self.events.appendleft(event)
                self.first -= 1
        self.floor = min(self.floor, after)

    def place_after(self, revision: int) -> int:
        """Where the events after this revision begin."""
        place = self.end
        for event in reversed(self.events):
            if event.revision <= revision:
                break
            place -= 1
        return place


class Cursor:
    """Where a watch stands; what it gives is `take`n one by one."""

    def __init__(self, history: History, stream: _Stream) -> None:
        self._history = history
        self._bell = trio.Event()
        self.stream = stream
        self.place = stream.end
        self.lost = False

    def take(self) -> WatchEvent | None:
        """The next event, or None if there is none yet. Raises WatchLostError."""
        stream = self.stream
        self.lost = self.lost or self.place < stream.first
        if self.lost:
            history = self._history
            raise WatchLostError(
                f"changes under {stream.prefix!r} were missed: the store keeps those after "
                f"revision {history.floor}, up to {history.revision}. List the entries, and watch "
                f"again"
            )
        if self.place == stream.end:
            return None
        event = stream.at(self.place)
        self.place += 1
        # The events of a change are appended together: what does not follow now never will.
        more = self.place < stream.end and stream.at(self.place).revision == event.revision
        return attrs.evolve(event, last=False) if more else event

    def wake(self) -> None:
        """Something has changed."""
        self._bell.set()

    async def wait(self) -> None:
        """Wait for a `wake`. Nothing may be awaited between looking and this."""
        self._bell = trio.Event()
        await self._bell.wait()
