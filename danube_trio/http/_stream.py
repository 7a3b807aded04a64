"""A stream in memory: its document, how far it goes, who waits for it, and when it ends.

A stream is *live*, *hidden* (it was deleted, or expired, and forks read its data), or *gone*.

**How far it goes** (`seen`) is what is durable and may be told to anybody: the end of the data, and
whether it is closed. It only ever moves on. It is known without opening the log once somebody has
looked, so whoever waits at the end holds no log open.

**When it ends.** A time to live runs on the monotonic clock from the last use on. What goes on over
a restart has only the wall clock: the absolute time of ``Stream-Expires-At``, and the last use that
was written down. The latter is late by `renewal_step` at most, which is added, so no stream ends
too early because of a crash. A wall clock may lie: a stream that is over by it cannot be used, and
comes back when the clock does; its data goes only when the clock is believed (see `_keeper`).
"""

from __future__ import annotations

from collections.abc import Iterator

import attrs
import trio

from danube_trio.http._entries import Entry
from danube_trio.http._fields import kind, moment

# How many forks deep a stream's data may come from. A read walks them, and so does a deletion.
MAX_DEPTH = 32
# How soon after its last use a stream's document says so, at the latest, in seconds.
SAVE_SECONDS = 5.0


def renewal_step(ttl: int) -> float:
    """How old what is written down of a stream's last use may be, in seconds."""
    return max(1.0, ttl / 8)


@attrs.frozen
class Part:
    """A piece of a stream's data: offsets ``[start, end)``, in a topic that begins at `base`.

    The last part of a stream is its own, and has no end.
    """

    topic: str
    base: int
    start: int
    end: int | None


@attrs.define(eq=False)
class Stream:
    """A stream. `_streams` makes and changes it.

    Attributes:
        entry: its document, as it was stored last.
        revision: of the document.
        source: the stream that it was forked from.
        forks: how many were forked from it, hidden ones too.
        seen: the end of the durable data, and whether the stream is closed there; None if nobody
            has looked yet.
        begun: the end of the data when somebody looked first; None before.
        changed: set, and made anew, whenever `seen` moves or the stream ends.
        noted: below this offset of its topic's log retention may free what it wants.
        gone: nothing is left of it but records to be removed.
        idle_end: when its time to live ends, by trio's clock; None before its first use.
        wall_end: when it ends by the wall clock; None: never.
        lock: held by who changes the document.
    """

    entry: Entry
    revision: int
    source: Stream | None = None
    forks: int = 0
    seen: tuple[int, bool] | None = None
    begun: int | None = None
    changed: trio.Event = attrs.Factory(trio.Event)
    noted: int = 0
    gone: bool = False
    idle_end: float | None = None
    wall_end: float | None = None
    lock: trio.Lock = attrs.Factory(trio.Lock)
    kind: str = ""

    def __attrs_post_init__(self) -> None:
        entry = self.entry
        self.kind = kind(entry.content_type)
        if entry.expires_at is not None:
            self.wall_end = moment(entry.expires_at, "expires_at")
        elif entry.ttl is not None:
            self.wall_end = entry.renewed_at + entry.ttl + renewal_step(entry.ttl) + SAVE_SECONDS

    @property
    def path(self) -> str:
        """Its canonical path."""
        return self.entry.path

    @property
    def topic(self) -> str:
        """Its own topic."""
        return self.entry.topic

    @property
    def live(self) -> bool:
        """Whether it can be used, unless it has expired."""
        return not (self.gone or self.entry.deleted)

    def over(self, now: float, wall: float) -> bool:
        """Whether its time is over: by trio's clock, or by the wall clock."""
        if self.idle_end is not None:
            return now >= self.idle_end
        return self.wall_end is not None and wall >= self.wall_end

    def used(self, now: float) -> None:
        """Its time to live begins anew."""
        if self.entry.ttl is not None:
            self.idle_end = now + self.entry.ttl

    def moved(self, end: int, closed: bool) -> bool:
        """Data up to `end` is durable. Returns whether that is news."""
        before = self.seen
        if before is None:
            self.begun = end
        elif (end, closed) <= before:
            return False
        self.seen = (end, closed)
        self.wake()
        return True

    def wake(self) -> None:
        """Have everybody look who waits."""
        changed, self.changed = self.changed, trio.Event()
        changed.set()

    @property
    def depth(self) -> int:
        """How many streams its data comes from."""
        return sum(1 for _ in self.lineage())

    def lineage(self) -> Iterator[Stream]:
        """The stream, what it was forked from, and so on."""
        stream: Stream | None = self
        while stream is not None:
            yield stream
            stream = stream.source

    def parts(self) -> list[Part]:
        """Where its data is, in order."""
        found: list[Part] = []
        end: int | None = None
        for stream in self.lineage():
            base = stream.entry.base
            if end is None or base < end:
                found.append(Part(stream.topic, base, base, end))
                end = base
            if base == 0:
                break
        found.reverse()
        return found
