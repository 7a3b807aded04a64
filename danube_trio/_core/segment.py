"""Segments: the files of a log, their names, and the list of them.

A segment's file name carries its base offset, so a listing is the truth about what exists. All
segments but the last are *sealed*: immutable, and ending exactly where the next one begins. The
last one is *active*.
"""

from __future__ import annotations

import errno
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Protocol

import attrs

from danube_trio._core.clocks import UNKNOWN
from danube_trio._core.numbers import DIGITS, number_in
from danube_trio.errors import Advice, Worded, bad_argument

_RESERVED = (
    *("idx", "meta", "trim", "mark", "ckpt", "lock", "watch"),
    *("torn", "corrupt", "fenced", "tmp"),
)
# What a socket is bound to before it gets its name.
_WATCH_TMP = ".watch.tmp"


def _numbers(pattern: re.Pattern[str], listing: list[str]) -> list[int]:
    """Those in the names that the pattern fits."""
    numbers = (number_in(match[1]) for match in map(pattern.fullmatch, listing) if match)
    return [number for number in numbers if number is not None and number < 1 << 63]


@attrs.frozen
class LogNames:
    """The file names of one log, all derived from `file_name` (for example ``wal.log``)."""

    directory: str
    file_name: str
    stem: str
    suffix: str
    segment_pattern: re.Pattern[str]

    @classmethod
    def of(cls, directory: str, file_name: str) -> LogNames:
        """Derive the names; raises ValueError for a file name that cannot serve."""
        stem, dot, suffix = file_name.rpartition(".")
        if not dot or not stem or not suffix or stem.startswith("."):
            fault = "must look like 'wal.log': a stem and a suffix"
        elif any(c in file_name for c in "/\\\0\n"):
            fault = "must not contain a separator"
        elif suffix in _RESERVED:
            fault = f"ends in the reserved suffix .{suffix}"
        elif len(file_name.encode()) > 150:
            fault = "is longer than 150 bytes"
        else:
            pattern = re.compile(rf"{re.escape(stem)}\.({DIGITS})\.{re.escape(suffix)}")
            return cls(directory, file_name, stem, suffix, pattern)
        raise bad_argument("file_name", file_name, f" {fault}")

    def no_log(self, yet: str = "") -> FileNotFoundError:
        """The error that there is none."""
        what = Worded(f"there is no log {self.file_name!r} here{yet}", Advice.FIND_LOG)
        return FileNotFoundError(errno.ENOENT, what, self.directory)

    def _path(self, name: str) -> str:
        return f"{self.directory}/{self.stem}.{name}"

    def segment(self, base: int) -> str:
        """Path of the segment that begins at offset `base`."""
        return self._path(f"{base:020d}.{self.suffix}")

    def index(self, base: int) -> str:
        """Path of that segment's sparse index."""
        return self._path(f"{base:020d}.idx")

    def cut_bytes(self, base: int, position: int, kind: str, number: int = 0) -> str:
        """Path for bytes cut off a segment at `position`; `kind` is ``torn`` or ``corrupt``."""
        again = f".{number}" if number else ""
        return f"{self.segment(base)}.{position}{again}.{kind}"

    @property
    def meta(self) -> str:
        """Path of the format description."""
        return self._path("meta")

    @property
    def trim(self) -> str:
        """Path of the durable start offset."""
        return self._path("trim")

    @property
    def mark(self) -> str:
        """Path of the durability mark."""
        return self._path("mark")

    @property
    def checkpoint(self) -> str:
        """Path of the checkpoint, a hint."""
        return self._path("ckpt")

    @property
    def lock(self) -> str:
        """Path of the lock file."""
        return self._path("lock")

    @property
    def watch(self) -> str:
        """Path of the socket that statistics are offered by, if they are."""
        return self._path("watch")

    def segment_bases(self, listing: list[str]) -> list[int]:
        """Base offsets of the segments in a directory listing, ascending."""
        return sorted(_numbers(self.segment_pattern, listing))

    def index_bases(self, listing: list[str]) -> list[int]:
        """Base offsets of the segments that have an index in a directory listing."""
        return _numbers(re.compile(rf"{re.escape(self.stem)}\.({DIGITS})\.idx"), listing)

    def leftovers(self, listing: list[str]) -> list[str]:
        """Unfinished replacements of this log's own files, and sockets: those of nobody, if this
        is asked with the lock held, before the log is open.
        """
        sockets = (f"{self.stem}.watch", _WATCH_TMP)
        return self.unfinished(listing) + [name for name in listing if name in sockets]

    def unfinished(self, listing: list[str]) -> list[str]:
        """Replacements of this log's own files that never got their name."""
        kinds = rf"(meta|trim|ckpt|{DIGITS}\.(idx|{re.escape(self.suffix)}))"
        mine = re.compile(rf"{re.escape(self.stem)}\.{kinds}\.tmp")
        return [name for name in listing if mine.fullmatch(name)]

    def other_logs(self, listing: list[str]) -> list[str]:
        """Meta files of other logs in the same directory."""
        return [n for n in listing if n.endswith(".meta") and n != f"{self.stem}.meta"]


@attrs.frozen
class Segment:
    """A sealed segment `[base, end)`.

    Attributes:
        size_bytes: size of its frames, which is the file's size.
        first_time, last_time: times (us) of its first and last record, 0 if not known yet.
    """

    base: int
    end: int
    size_bytes: int
    first_time: int = 0
    last_time: int = 0


class _Timed(Protocol):
    """A segment, or the object that it became."""

    @property
    def first_time(self) -> int: ...
    @property
    def last_time(self) -> int: ...


def latest_times(segments: Sequence[_Timed]) -> list[int]:
    """For each segment: the latest time (us) of a record in it or before it, never falling.

    Append times do not fall inside a segment. From one to the next they do when a clock was wrong
    (`clocks.find_time`). Where the time is not known, that of the next segment is not earlier;
    `UNKNOWN` for those that no known one follows.
    """
    latest = [0] * len(segments)
    following = UNKNOWN
    for i in range(len(segments) - 1, -1, -1):
        latest[i] = segments[i].last_time or following
        following = segments[i].first_time or latest[i]
    return list(accumulate(latest, max))


class SegmentList:
    """The sealed segments in order, and the base of the active one that follows them.

    Invariant: each segment ends where the next begins; the last ends at `active_base`.

    How many bytes lie behind an offset is asked for each block that is written, so it is not added
    up anew: `_before` says for each segment how many were sealed before it, since the list was
    made. Dropping from the front changes none of these numbers.
    """

    __slots__ = (
        *("_bases", "_before", "_latest", "_latest_time", "_sealed", "_sealed_bytes"),
        "active_base",
    )

    def __init__(self, sealed: list[Segment], active_base: int) -> None:
        self._sealed = sealed
        self._bases = [s.base for s in sealed]
        sums = list(accumulate((s.size_bytes for s in sealed), initial=0))
        self._before, self._sealed_bytes = sums[:-1], sums[-1]
        self._latest: list[int] | None = None  # made when it is asked for, and with it
        self._latest_time = 0
        self.active_base: int = active_base
        self._check()

    def _check(self) -> None:
        if self._sealed:
            assert self._sealed[-1].end == self.active_base, (self._sealed[-1], self.active_base)

    def __len__(self) -> int:
        return len(self._sealed)

    def __iter__(self) -> Iterator[Segment]:
        """The sealed segments, oldest first; not to be changed meanwhile."""
        return iter(self._sealed)

    def sealed(self) -> list[Segment]:
        """The sealed segments, oldest first (a copy)."""
        return list(self._sealed)

    @property
    def first_base(self) -> int:
        """Base offset of the oldest segment, sealed or active."""
        return self._bases[0] if self._bases else self.active_base

    @property
    def size_bytes(self) -> int:
        """Bytes of all sealed segments."""
        return self._sealed_bytes - self._before[0] if self._before else 0

    def seal(self, segment: Segment) -> None:
        """The active segment became `segment`; the next active one begins at its end."""
        assert segment.base == self.active_base, (segment, self.active_base)
        self._sealed.append(segment)
        self._bases.append(segment.base)
        self._before.append(self._sealed_bytes)
        self._sealed_bytes += segment.size_bytes
        self._latest = None
        self.active_base = segment.end
        self._check()

    def size_from(self, offset: int) -> int:
        """Bytes of the sealed segments that begin at or after `offset`."""
        first = bisect_left(self._bases, offset)
        return self._sealed_bytes - self._before[first] if first < len(self._before) else 0

    @property
    def latest_time(self) -> int:
        """The latest time (us) of a record that is known, 0 if there is none."""
        self._times()
        return self._latest_time

    def base_for_time(self, time: int, active_time: int) -> int:
        """Base of the first segment that may hold a record at or after `time` (us).

        `active_time` is that of the active one's first record, 0 if it has none.
        """
        latest = self._times()
        i = bisect_left(latest, time)
        if i == len(self) or (latest[i] == UNKNOWN and 0 < active_time < time):
            return self.active_base
        return self._bases[i]

    def _times(self) -> list[int]:
        if self._latest is None:
            self._latest = latest_times(self._sealed)
            self._latest_time = max((segment.last_time for segment in self._sealed), default=0)
        return self._latest

    def drop_before(self, offset: int) -> list[Segment]:
        """Forget the sealed segments that end at or before `offset`, and return them."""
        count = bisect_right(self._sealed, offset, key=lambda segment: segment.end)
        gone = self._sealed[:count]
        del self._sealed[:count], self._bases[:count], self._before[:count]
        self._latest = None
        self._check()
        return gone

    def replace(self, segment: Segment) -> None:
        """More is known about a sealed segment now (its times), if it still exists."""
        i = bisect_right(self._bases, segment.base) - 1
        if i >= 0 and self._bases[i] == segment.base:
            assert segment.size_bytes == self._sealed[i].size_bytes, segment
            self._sealed[i] = segment
            self._latest = None

    def find(self, offset: int) -> Segment | None:
        """The sealed segment that holds `offset`; None if the active one does (or would)."""
        if offset >= self.active_base:
            return None
        i = bisect_right(self._bases, offset) - 1
        if i < 0:
            raise LookupError(f"offset {offset} is before the first segment ({self.first_base})")
        return self._sealed[i]

    def base_of(self, offset: int) -> int:
        """Base of the segment that holds `offset`, or would; -1 before the first one."""
        i = bisect_right(self._bases, offset) - 1
        return self.active_base if offset >= self.active_base else self._bases[i] if i >= 0 else -1
