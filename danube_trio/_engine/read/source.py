"""Where readers read from, and where they begin.

A `ReaderSource` is an open log, or a follower of the log of another process: marks, cache, segments
and their indexes. `resolve` turns a `StartPosition` into a cursor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import attrs

from danube_trio._core.cache import BlockCache
from danube_trio._core.clocks import Run, find_time, latest_believed
from danube_trio._core.codec import Codec
from danube_trio._core.disk import Disk
from danube_trio._core.index import KeptIndexes, SparseIndex
from danube_trio._core.log import Marks
from danube_trio._core.segment import LogNames, SegmentList
from danube_trio._core.times import microseconds
from danube_trio._engine.read.objects import CloudTier
from danube_trio._engine.wait.pins import Pins
from danube_trio.catalog import Outage
from danube_trio.config import WalConfig
from danube_trio.errors import Advice, OffsetTrimmedError, bad_argument

__all__ = ["ReaderSource", "StartPosition", "pass_by", "resolve"]


@attrs.frozen
class StartPosition:
    """Where a reader begins. Made by `earliest`, `latest`, `offset` and `timestamp`."""

    kind: str = attrs.field(
        validator=attrs.validators.in_(("earliest", "latest", "offset", "timestamp"))
    )
    value: int = 0

    @classmethod
    def earliest(cls) -> StartPosition:
        """The first record that still exists."""
        return cls("earliest")

    @classmethod
    def latest(cls) -> StartPosition:
        """The first record accepted after the call."""
        return cls("latest")

    @classmethod
    def offset(cls, offset: int) -> StartPosition:
        """This record, or, at the end of the log, the next one."""
        if isinstance(offset, bool) or not isinstance(offset, int) or offset < 0:
            raise ValueError(f"offset={offset!r} must be a whole number, 0 or more")
        return cls("offset", offset)

    @classmethod
    def timestamp(cls, seconds: float) -> StartPosition:
        """The first record appended at or after this time (seconds since 1970-01-01 UTC).

        Records whose append time is further ahead of the reader's clock than
        ``WalConfig.max_clock_ahead`` may be of any time: they are found with what follows them.
        A time in milliseconds, as a message's `publish_time` may be, is a ValueError that has the
        value in seconds.
        """
        return cls("timestamp", microseconds(seconds, "timestamp"))


class ReaderSource(Protocol):
    """What a reader reads from: an open log, or a follower of another process's log."""

    config: WalConfig
    clock: Callable[[], float]
    codec: Codec
    marks: Marks
    disk: Disk | None
    names: LogNames | None
    cache: BlockCache
    segments: SegmentList
    active: SparseIndex
    indexes: KeptIndexes
    tier: CloudTier | None
    pins: Pins
    damaged: dict[int, str]
    outage: Outage | None  # readers without an end ride it out; None: they are told

    @property
    def visible_end(self) -> int: ...
    @property
    def local_start(self) -> int: ...
    async def wait_visible(self, end: int) -> None: ...
    async def look_again(self) -> None:
        """Something that should be there is gone: see what is there now."""
        ...

    def check_ours(self) -> None:
        """Raise if the files may be another writer's by now: nothing read from them counts."""
        ...

    async def heal(self, base: int, reason: str) -> None:
        """This local segment is damaged, and its records are in the object store."""
        ...


def resolve(source: ReaderSource, start: StartPosition) -> tuple[int, int]:
    """`(cursor, time still to be found in us or 0)`."""
    marks = source.marks
    if start.kind == "earliest":
        return marks.start_offset, 0
    if start.kind == "latest":
        return marks.next_offset, 0
    if start.kind == "timestamp":
        return _cursor_for_time(source, start.value), start.value
    if start.value < marks.start_offset:
        raise OffsetTrimmedError(start.value, marks.start_offset)
    if start.value > marks.next_offset:
        what = f" is beyond the end of the log, which is {marks.next_offset}: "
        raise bad_argument("offset", start.value, what, Advice.WAIT_AT_END)
    return start.value, 0


def pass_by(source: ReaderSource, offset: int, found: int, time: int) -> int:
    """Where the search for `time` goes on at a record with the time `found`, which is not earlier.

    At its `offset` if it is the wanted one; see `find_time`.
    """
    latest = latest_believed(time, source.clock(), source.config.max_clock_ahead)
    if found <= latest:
        return offset
    runs = (run for run in _runs(source) if run[0] > offset)
    return find_time(runs, time, latest, source.visible_end, offset)


def _runs(source: ReaderSource) -> Iterator[Run]:
    """All that there is, in order, in parts in which append times do not fall."""
    if source.disk is None and source.tier is None:
        for block in source.cache.blocks():
            yield block.start, block.first_time, block.last_time
        return
    end = 0
    for descriptor in source.tier.objects if source.tier is not None else ():
        yield descriptor.base, descriptor.first_time, descriptor.last_time
        end = descriptor.end
    for segment in source.segments:
        if segment.base >= end:
            yield segment.base, segment.first_time, segment.last_time
    if len(source.active):
        yield source.active.base, source.active.first_time, source.active.last_time


def _cursor_for_time(source: ReaderSource, time: int) -> int:
    """The newest known offset that all before it is older than `time` (us)."""
    active, tier = source.active, source.tier
    in_memory = source.disk is None and tier is None
    newest = max(source.segments.latest_time, tier.latest_time if tier is not None else 0)
    latest = latest_believed(time, source.clock(), source.config.max_clock_ahead)
    if newest > latest or (in_memory and source.cache.times_fell):
        found = find_time(_runs(source), time, latest, source.visible_end)
        object_ = tier.objects.find(found) if tier is not None else None
        if tier is not None and object_ is not None:
            found = tier.before_time_in(object_, time)
    elif in_memory:  # all that there is is in memory
        found = source.cache.before_time(time)
    else:
        found = source.segments.base_for_time(time, active.first_time if len(active) else 0)
        if source.tier is not None:
            stored = source.tier.before_time(time)
            found = stored if stored is not None else max(found, source.tier.objects.state.end)
    return min(max(found, source.marks.start_offset), source.visible_end)
