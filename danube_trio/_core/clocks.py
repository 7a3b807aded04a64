"""Wall clocks are wrong at times: which of their times count.

Intervals run on the monotonic clock. The wall clock only labels records, and says what is old, and
there it may be wrong in four ways: it is set back, it is ahead, it gives one wrong reading, or it
begins in 1970 and is set right later. Three rules bound what that can do, by one number, how far
ahead a time is believed (`WalConfig.max_clock_ahead`):

1. *A time that is too far ahead of the clock is not believed.* The record is there like any other;
   only its time is taken for unknown: by who goes on with the log, by retention, by readers.
2. *A clock that says less than `EARLIEST` is wrong*, and so disproves nothing: a log whose records
   are of today goes on with their time while the machine thinks it is 1970.
3. *What cannot be undone waits until a jump has stood for a while* (`SteadyClock`): retention by
   age does nothing meanwhile, which costs space, and later frees the right records.

Decision 0070 has the reasons.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

# How far ahead a time is believed, in seconds, unless somebody says it. Clocks are set by an hour
# when a zone was mistaken for another; records of more than that in the future are of none.
MAX_AHEAD = 3600.0

# 2024-01-01, in seconds since 1970. This was written later, so no clock that is right says less.
EARLIEST = 1_704_067_200.0
# A time (us) that is later than any.
UNKNOWN = 1 << 64
# ``(first offset, time of its record, time of the last one)``, in us, 0 if unknown. Inside a run
# times never fall.
Run = tuple[int, int, int]
# Seconds for which the first time after an opening must stand if the log's newest record is much
# older. A guess: longer than a wrong reading, shorter than anybody waits for retention.
FIRST_SECONDS = 3.0
# Seconds. A log that was left for longer is in no hurry; more often the clock is wrong.
LONG_SECONDS = 366 * 86_400.0


def too_far_ahead(time: int, now: int, ahead: int) -> bool:
    """Whether `time` is not believed when the clock says `now`. All in us."""
    return time > now + ahead and not now < EARLIEST * 1e6 <= time


def next_time(last: int, before: int, now: int, ahead: int) -> tuple[int, int]:
    """The append time of a batch, and what `before` is for the next one. All in us.

    It does not fall when the clock goes back, unless that is behind by more than `ahead`: then it
    is what the clock says, or what it was before it got so far ahead.

    Args:
        last: of the batch before.
        before: the newest one before they got so far ahead; 0 if they did not.
    """
    if now > last:  # too far ahead? Nothing was appended for long, or the clock is wrong
        return now, last if now - last > ahead else before
    if not too_far_ahead(last, now, ahead):
        return last, before
    return max(now, before if before <= now + ahead else 0), 0


def latest_believed(time: int, now: float, ahead: float) -> int:
    """The latest append time (us) that is believed by who looks for `time` (us).

    Who looks for a time that is ahead of the clock knows better than the clock: all is believed.
    """
    latest = int((now + ahead) * 1e6)
    return latest if time <= latest else UNKNOWN


def find_time(
    runs: Iterable[Run], time: int, latest: int, end: int, found: int | None = None
) -> int:
    """Where to look for the first record at or after `time` when some times are not believed.

    Records with times above `latest` may be of any time, so they belong to what follows them: they
    are passed if that is older than `time`, or else wanted. Wanted is the first record that is at
    or after `time`, and believed, with those right before it that are not.

    Args:
        runs: in order.
        end: the answer if all is older.
        found: an offset before the runs, whose record may be the wanted one, if what follows is.

    Returns `found`, or the base of a run. If that run begins before `time` and ends after `latest`,
    the wanted record may yet be behind it: find it there, and if it is not believed, ask again.
    """
    for base, first, last in runs:
        if 0 < last < time:
            found = None
        elif first > latest:
            found = base if found is None else found
        elif 0 < first < time:
            return base
        else:
            return base if found is None else found
    return end if found is None else found


class SteadyClock:
    """The time for what cannot be undone.

    A reading that is ahead of what it can be (the last one that was believed, and what has gone by
    since on the monotonic clock) by more than `ahead` seconds is doubted, until it has stood so
    long. The first one is compared with the log's newest record. A reading that is behind is used
    at once, as it frees less, but what comes next is compared with it only when it has stood, too.

    Args:
        clock: seconds since 1970.
        monotonic: seconds.
        ahead: seconds.
        newest: when the log was written last, in seconds since 1970; 0.0 if nobody knows.

    Attributes:
        doubted: the reading that is not believed, or None: that is not worth a word.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        ahead: float,
        newest: float = 0.0,
    ) -> None:
        self._clock = clock
        self._monotonic = monotonic
        self._ahead = ahead
        self._ahead_of_monotonic = (newest if newest > 0 else clock()) - monotonic()
        self._first = newest > 0
        self._jump: tuple[float, float] | None = None
        self.doubted: float | None = None

    def now(self) -> float | None:
        """Seconds since 1970; None while that is in doubt."""
        now, elapsed = self._clock(), self._monotonic()
        by = now - elapsed - self._ahead_of_monotonic
        self.doubted = None
        if abs(by) <= self._ahead:
            self._believe(now - elapsed)
            return now
        if self._jump is None or abs(self._jump[0] - (now - elapsed)) > self._ahead:
            self._jump = now - elapsed, elapsed
        short = self._first and by <= LONG_SECONDS
        if elapsed - self._jump[1] >= (min(FIRST_SECONDS, self._ahead) if short else self._ahead):
            self._believe(now - elapsed)
            return now
        if by < 0:
            return now
        self.doubted = None if short else now
        return None

    def _believe(self, ahead_of_monotonic: float) -> None:
        self._ahead_of_monotonic = ahead_of_monotonic
        self._jump, self._first = None, False
