"""`InMemoryStorage`: the segments of topics in memory, gone with the process.

A topic is a list of segments, each a list of messages that begins at the segment's base offset. The
last one is written to; when it is full, a new one begins. Retention drops whole segments, never the
last. What is handed in is checked as a log checks it, by the same code (`storage.Checks`), and is
copied as far as it can change. Whoever reads gets copies: what a consumer does to a message is its
own affair.

It is no `Wal` without a directory: that ends with its block and its run, which these topics
outlive, and has no segments, which are what retention frees.
"""

from __future__ import annotations

import time
import uuid
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager

import attrs
import trio

from danube_trio import StartPosition
from danube_trio._core.clocks import MAX_AHEAD, find_time, latest_believed, next_time
from danube_trio.config import Durability
from danube_trio.dispatch._log import CacheLimits, End, Message, TopicLog
from danube_trio.dispatch._options import ReliableOptions
from danube_trio.errors import LogClosedError, OffsetTrimmedError
from danube_trio.message import MessageID, StreamMessage
from danube_trio.storage import Checks

READ_MESSAGES = 1024
MAX_AHEAD_US = int(MAX_AHEAD * 1e6)
FOREVER = 1 << 63


@attrs.define(eq=False)
class _Segment:
    """Messages `[base, base + len(messages))` and when they were stored, in microseconds."""

    base: int
    messages: list[StreamMessage] = attrs.Factory(list[StreamMessage])
    times: list[int] = attrs.Factory(list[int])
    size_bytes: int = 0

    @property
    def end(self) -> int:
        return self.base + len(self.messages)


class InMemoryStorage:
    """A `SegmentStorage` of memory. Topics live as long as this object."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._topics: dict[str, MemoryLog] = {}

    def __repr__(self) -> str:
        return f"<InMemoryStorage of {len(self._topics)} topics>"

    @asynccontextmanager
    async def open_topic(
        self, topic: str, options: ReliableOptions, cache: CacheLimits
    ) -> AsyncGenerator[TopicLog]:
        """See `SegmentStorage`. There is nothing to cache."""
        await trio.lowlevel.checkpoint()
        log = self._topics.setdefault(topic, MemoryLog(topic, self._clock))
        log.segment_bytes = options.segment_bytes
        yield log


class MemoryLog:
    """A topic in memory."""

    def __init__(self, topic: str, clock: Callable[[], float]) -> None:
        self._topic = topic
        self.log_id: str = uuid.uuid4().hex
        self._clock = clock
        self._checks = Checks(topic, clock)
        self._segments = [_Segment(0)]
        self._last_time = self._time_before = 0
        self._more: trio.Event | None = None
        self.segment_bytes = 1 << 20

    @property
    def first(self) -> int:
        """The first offset that still exists."""
        return self._segments[0].base

    @property
    def next(self) -> int:
        """The offset that the next message will get."""
        return self._segments[-1].end

    async def append(
        self,
        messages: Sequence[Message],
        *,
        durability: Durability | None = None,
        expected_offset: int | None = None,
    ) -> range:
        """See `TopicLog`. There is one level of durability."""
        await trio.lowlevel.checkpoint()
        first = self.next
        records, size_bytes = self._checks.taken(messages, durability, expected_offset, first)
        stamped = [
            self._stamp(message, payload, first + i)
            for i, (message, (_, payload, _)) in enumerate(zip(messages, records, strict=True))
        ]
        if stamped:
            self._store(stamped, size_bytes)
        return range(first, first + len(stamped))

    def _store(self, messages: list[StreamMessage], size: int) -> None:
        segment = self._segments[-1]
        now, self._time_before = next_time(
            *(self._last_time, self._time_before, round(self._clock() * 1e6), MAX_AHEAD_US)
        )
        full = segment.size_bytes + size > self.segment_bytes
        if segment.messages and (full or now < self._last_time):
            segment = _Segment(segment.end)
            self._segments.append(segment)
        self._last_time = now
        segment.messages.extend(messages)
        segment.times.extend([now] * len(messages))
        segment.size_bytes += size
        self.wake()

    def _stamp(self, message: Message, payload: bytes, offset: int) -> StreamMessage:
        """As it is kept: its payload is the one that was checked, which nobody can change."""
        if isinstance(message, StreamMessage):
            return _copy(message, payload, offset)
        place = MessageID(topic_name=self._topic, topic_offset=offset)
        time_ms = round(self._clock() * 1e3)
        return StreamMessage(payload, msg_id=place, publish_time=time_ms, offset=offset)

    async def reader(
        self, start: StartPosition, *, end: End = None, count: int | None = None
    ) -> MemoryReader:
        await trio.lowlevel.checkpoint()
        self._checks.wanted(start, end, count)
        if start.kind == "offset" and start.value < self.first:
            raise OffsetTrimmedError(start.value, self.first)
        if start.kind == "offset" and start.value > self.next:
            raise ValueError(
                f"offset={start.value} is beyond the end of the topic, which is {self.next}"
            )
        cursors = {"earliest": self.first, "latest": self.next, "offset": start.value}
        cursor = cursors.get(start.kind)
        stop = self.next if end == "current" else FOREVER if end is None else end
        return MemoryReader(
            self,
            cursor if cursor is not None else self._at_time(start.value),
            start.value if start.kind == "timestamp" else 0,
            stop,
            FOREVER if count is None else count,
        )

    def _at_time(self, time_us: int) -> int:
        """The first message that was stored at or after this time, or the end."""
        latest = latest_believed(time_us, self._clock(), MAX_AHEAD)
        for i, segment in enumerate(self._segments):
            at = bisect_left(segment.times, time_us)
            if at < len(segment.times):
                found = segment.base + at
                later = [(s.base, s.times[0], s.times[-1]) for s in self._segments[i + 1 :]]
                if segment.times[at] <= latest or (
                    find_time(later, time_us, latest, self.next, found) == found
                ):
                    return found
        return self.next

    async def start_offset(self) -> int:
        await trio.lowlevel.checkpoint()
        return self.first

    async def current_offset(self) -> int:
        await trio.lowlevel.checkpoint()
        return self.next

    def end_now(self) -> int | None:
        """See `KnowsEnd`."""
        return self.next

    @property
    def reads_durable(self) -> bool:
        """See `TopicLog`. Nothing in memory is more durable than the rest."""
        return True

    async def make_durable(self, end: int) -> None:
        await trio.lowlevel.checkpoint()

    async def free(self, up_to: int) -> None:
        await trio.lowlevel.checkpoint()
        while len(self._segments) > 1 and self._segments[0].end <= up_to:
            del self._segments[0]
        self.wake()  # readers that were overtaken

    def slice(self, start: int, end: int, count: int) -> list[StreamMessage]:
        """Copies of messages from `start` on, at least one if there is one below `end`."""
        at = bisect_right(self._segments, start, key=lambda segment: segment.base) - 1
        segment = self._segments[at]
        first = start - segment.base
        last = min(first + min(count, READ_MESSAGES), end - segment.base)
        found = segment.messages[first:last]
        return [_copy(message, message.payload, start + i) for i, message in enumerate(found)]

    def wake(self) -> None:
        """Let everybody who waits look again."""
        if self._more is not None:
            self._more.set()
            self._more = None

    async def wait(self) -> None:
        """Wait until there may be something new."""
        if self._more is None:
            self._more = trio.Event()
        await self._more.wait()


class MemoryReader:
    """Reads a topic in memory. One task at a time."""

    def __init__(self, log: MemoryLog, cursor: int, time_us: int, end: int, count: int) -> None:
        self._log = log
        self._cursor = cursor
        self._time = time_us
        self._end = end
        self._count = count
        self._items: deque[StreamMessage] = deque()
        self._closed = False

    def __repr__(self) -> str:
        return f"<MemoryReader at {self.cursor}{', closed' if self._closed else ''}>"

    @property
    def cursor(self) -> int:
        """The offset of the next message that it will hand out."""
        return self._cursor - len(self._items)

    @property
    def finished(self) -> bool:
        """Whether it will hand out nothing more: it is closed, or at its end."""
        at_end = self._cursor >= self._end or self._count <= 0
        return self._closed or (at_end and not self._items)

    def __aiter__(self) -> MemoryReader:
        return self

    async def __anext__(self) -> StreamMessage:
        if not self._items:
            self._items.extend(await self._fetch())
        if not self._items:
            raise StopAsyncIteration
        return self._items.popleft()

    async def next_batch(self) -> list[StreamMessage]:
        """The next messages, at least one; empty at the reader's end."""
        items, self._items = list(self._items), deque()
        return items or await self._fetch()

    async def _fetch(self) -> list[StreamMessage]:
        await trio.lowlevel.checkpoint()
        log = self._log
        while True:
            if self._closed:
                raise LogClosedError("the reader is closed: make another one")
            if self._cursor >= self._end or self._count <= 0:
                return []
            if self._cursor < log.first:
                if not self._time:
                    raise OffsetTrimmedError(self._cursor, log.first)
                self._cursor = log.first
            elif self._cursor < log.next:
                found = log.slice(self._cursor, self._end, self._count)
                self._cursor += len(found)
                self._count -= len(found)
                self._time = 0
                return found
            else:
                await log.wait()

    async def aclose(self) -> None:
        """Close it: who waits in it, or asks later, gets LogClosedError. Idempotent."""
        self._closed = True
        self._items.clear()
        self._log.wake()
        await trio.lowlevel.checkpoint()


def _copy(message: StreamMessage, payload: bytes, offset: int) -> StreamMessage:
    return attrs.evolve(
        message,
        payload=payload,
        attributes=dict(message.attributes),
        msg_id=attrs.evolve(message.msg_id, topic_offset=offset),
        offset=offset,
    )
