"""What an open log counts while it runs; `wal.statistics()` is a view of it.

Nothing here costs more than a few hundred nanoseconds for an append, whatever there is to count: an
append is counted by two entries in two lists, and everything else once for each write.

**How long appends take** (`Ages`). At acceptance the time and the append's end are put down; when a
sync has returned, all appends below the new durable end are counted at once. Times are in order,
so whole runs of appends fall into one bucket, and each run is found by bisection. An event is one
append, be it of one record or an atomic batch; it lasts from acceptance to the step in which its
waiter is woken, whatever level the caller waits for. Waiting for room comes before acceptance and
is not in it; nor are appends that failed, or those of a log in memory, which has nothing to sync.

**What tasks are doing** (`TaskMeter`). A task says what it waits for, when it begins to: whoever
looks is another task of the same loop, so nothing else can be seen of it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from math import fsum

import attrs

from danube_trio._core.frame import Block
from danube_trio._core.stats import BYTES, RECORDS, SECONDS, HistogramView, TaskStatistics


class Histogram:
    """Events in buckets: durations, or sizes."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: tuple[float, ...] = SECONDS) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum: float = 0

    def add(self, value: float) -> None:
        """Count one event."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def add_since(self, times: Sequence[float], now: float) -> None:
        """Count the ages at `now` of events that began at these times, which ascend."""
        bounds, counts = self._bounds, self._counts
        i, count = 0, len(times)
        while i < count:
            bucket = bisect_left(bounds, now - times[i])
            # The next one that is young enough for a lower bucket.
            j = bisect_left(times, now - bounds[bucket - 1], i + 1) if bucket else count
            counts[bucket] += j - i
            i = j
        self._sum += now * count - fsum(times)  # exact: they are large numbers close together

    def view(self) -> HistogramView:
        """The state now."""
        return HistogramView(self._bounds, tuple(self._counts), sum(self._counts), self._sum)


class Ages:
    """The appends that are accepted and not durable yet, and since when.

    Args:
        now: the loop's clock, in seconds.
        seconds: where those that became durable are counted.
    """

    __slots__ = ("_ends", "_now", "_times", "seconds")

    def __init__(self, now: Callable[[], float], seconds: Histogram) -> None:
        self._now = now
        self.seconds = seconds
        # Of each append: where it ends, and when it was accepted. Both ascend.
        self._ends: list[int] = []
        self._times: list[float] = []

    def __len__(self) -> int:
        return len(self._ends)

    def accepted(self, end: int) -> None:
        """The append that ends at offset `end` was accepted now."""
        self._ends.append(end)
        self._times.append(self._now())

    def durable(self, end: int) -> None:
        """A sync returned for everything below `end`: count what it made durable."""
        count = bisect_right(self._ends, end)
        if count:
            now = self._now()
            if count == 1:
                self.seconds.add(now - self._times[0])
            else:
                self.seconds.add_since(self._times[:count], now)
            del self._ends[:count], self._times[:count]

    def discard(self) -> None:
        """The log broke: nothing becomes durable any more."""
        self._ends.clear()
        self._times.clear()

    @property
    def oldest(self) -> float:
        """The age in seconds of the oldest one; 0.0 if there is none."""
        return max(0.0, self._now() - self._times[0]) if self._times else 0.0


class TaskMeter:
    """What one task is doing."""

    __slots__ = ("_now", "name", "since", "state")

    def __init__(self, name: str, now: Callable[[], float]) -> None:
        self.name = name
        self._now = now
        self.enter("idle")

    def enter(self, state: str) -> None:
        """It begins to wait for this now."""
        self.state = state
        self.since = self._now()

    def view(self) -> TaskStatistics:
        """The state now."""
        return TaskStatistics(self.name, self.state, max(0.0, self._now() - self.since))


@attrs.define(eq=False)
class UploadCounts:
    """What the uploader counts."""

    done: int = 0
    bytes: int = 0
    failures: int = 0
    seconds: Histogram = attrs.Factory(Histogram)


class Meters:
    """The counters of one log, since it was opened. `WalStatistics` says what each means."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self.appended_records = 0
        self.appended_bytes = 0
        self.writes = 0
        self.syncs = 0
        self.rolls = 0
        self.janitor_failures = 0
        self.batch_records = Histogram(RECORDS)
        self.batch_bytes = Histogram(BYTES)
        self.write_seconds = Histogram()
        self.sync_seconds = Histogram()
        self.disk_seconds = Histogram()
        self.ages = Ages(now, Histogram())
        self._tasks: dict[str, TaskMeter] = {}

    def wrote(self, block: Block) -> None:
        """A write returned."""
        records, size = block.end - block.start, block.positions[-1]
        self.writes += 1
        self.appended_records += records
        self.appended_bytes += size
        self.batch_records.add(records)
        self.batch_bytes.add(size)

    def synced(self, seconds: float, disk_seconds: float) -> None:
        """A hop came back that ended in a sync; the disk itself took so much of it."""
        self.syncs += 1
        self.sync_seconds.add(seconds)
        self.disk_seconds.add(disk_seconds)

    def task(self, name: str) -> TaskMeter:
        """The meter of a task; made when it is first asked for."""
        meter = self._tasks.get(name)
        if meter is None:
            meter = self._tasks[name] = TaskMeter(name, self.now)
        return meter

    def ended(self, name: str) -> None:
        """The task is over."""
        if name in self._tasks:
            self._tasks[name].enter("ended")

    def tasks(self) -> tuple[TaskStatistics, ...]:
        """What all tasks are doing now."""
        return tuple(meter.view() for meter in self._tasks.values())
