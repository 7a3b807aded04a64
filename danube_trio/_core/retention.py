"""Which sealed segments may go: a pure function.

Retention frees whole sealed segments, oldest first, never the active one: of the whole log, whether
a segment is a local file, an object in the store, or both. By size: while the log is
larger than the limit. By age: while the segment's newest record is older than the limit. The age
uses the append times in the log itself, compared with the time that is handed in; it is the only
rule of the whole log in which a wall clock takes part. A time that cannot be right (`clocks`) does
not count: such a segment is not older than what follows it, and of now if nothing does.

A *floor* is the first offset that somebody still needs: no segment goes that has it, or lies above.
"""

from __future__ import annotations

from danube_trio._core.clocks import EARLIEST, MAX_AHEAD
from danube_trio._core.segment import Segment


def retained_start(
    segments: list[Segment],
    *,
    active_bytes: int,
    max_bytes: int | None,
    max_age: float | None,
    now: float,
    max_ahead: float = MAX_AHEAD,
    floor: int | None = None,
) -> int:
    """The start offset that retention asks for, 0 if nothing has to go.

    Args:
        segments: all sealed ones, oldest first.
        active_bytes: size of the active one, which never goes.
        max_bytes, max_age: the limits; `max_age` and `now` in seconds.
        max_ahead: how far ahead of now a time is believed, in seconds.
        floor: nothing goes from this offset on, whatever the limits; None: there is no floor.
    """
    earliest, latest = EARLIEST * 1e6 if now >= EARLIEST else 1, (now + max_ahead) * 1e6

    def believed(time: int) -> int:
        return time if earliest <= time <= latest else 0

    start = 0
    size = sum(segment.size_bytes for segment in segments) + active_bytes
    # The newest record's time; where nobody knows it, that of the next segment is not older.
    newest: list[int] = []
    known = 0
    for segment in reversed(segments):
        newest.append(believed(segment.last_time) or known)
        known = believed(segment.first_time) or newest[-1]
    for segment, last_time in zip(segments, reversed(newest), strict=True):
        too_large = max_bytes is not None and size > max_bytes
        too_old = max_age is not None and 0 < last_time / 1e6 < now - max_age
        needed = floor is not None and segment.end > floor
        if needed or not (too_large or too_old):
            break
        start = segment.end
        size -= segment.size_bytes
    return start
