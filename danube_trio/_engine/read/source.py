"""Where readers read from, and where they begin.

A `ReaderSource` is an open log, a follower of the log of another process, or a replica: marks, and
the shelves that it has. `resolve` turns a `StartPosition` into a cursor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import attrs

from danube_trio._core.clocks import Run, find_time, latest_believed
from danube_trio._core.codec import Codec
from danube_trio._core.log import Marks
from danube_trio._core.times import microseconds
from danube_trio._engine.read.file_shelf import FileShelf
from danube_trio._engine.read.objects import CloudTier
from danube_trio._engine.read.shelf import MemoryShelf, Shelf
from danube_trio._engine.wait.pins import Pins
from danube_trio.config import WalConfig
from danube_trio.errors import Advice, OffsetTrimmedError, bad_argument


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
    """What a reader reads from: an open log, or a follower of another process's log, or a replica.

    It has the shelves that there are: see `shelf`.
    """

    config: WalConfig
    clock: Callable[[], float]
    codec: Codec
    pins: Pins

    @property
    def marks(self) -> Marks: ...
    @property
    def memory(self) -> MemoryShelf | None: ...
    @property
    def files(self) -> FileShelf | None: ...
    @property
    def tier(self) -> CloudTier | None: ...
    @property
    def visible_end(self) -> int: ...
    async def wait_visible(self, end: int) -> None: ...
    async def look_again(self) -> None:
        """Something that should be there is gone: see what is there now."""


def local_start(source: ReaderSource) -> int:
    """The first offset that is not in objects only."""
    if source.files is not None:
        return source.files.start
    return source.memory.start if source.memory is not None else source.visible_end


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
    shelves: list[Shelf | None] = [source.tier, source.files]
    if source.files is None and source.tier is None:
        shelves = [source.memory]  # else it has only copies
    end = 0
    for shelf in shelves:
        if shelf is not None:
            yield from (run for run in shelf.runs() if run[0] >= end)
            end = shelf.end


def _cursor_for_time(source: ReaderSource, time: int) -> int:
    """The newest known offset that all before it is older than `time` (us)."""
    memory, files, tier = source.memory, source.files, source.tier
    newest = max(shelf.latest_time if shelf is not None else 0 for shelf in (files, tier))
    latest = latest_believed(time, source.clock(), source.config.max_clock_ahead)
    if files is None and tier is None:
        assert memory is not None  # a source has a shelf
        found = (
            find_time(_runs(source), time, latest, source.visible_end)
            if memory.times_fell
            else memory.before_time(time)
        )
    elif newest > latest:
        found = find_time(_runs(source), time, latest, source.visible_end)
        object_ = tier.objects.find(found) if tier is not None else None
        if tier is not None and object_ is not None:
            found = tier.before_time_in(object_, time)
    else:
        found = files.base_for_time(time) if files is not None else 0
        if tier is not None:
            stored = tier.before_time(time)
            found = stored if stored is not None else max(found, tier.end)
    return min(max(found, source.marks.start_offset), source.visible_end)
