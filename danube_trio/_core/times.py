"""Times that people hand in, and their units.

Seconds since 1970 reach 1e11 in the year 5138, milliseconds did in March 1973. So a number says its
unit by its size, for any time that a log can have seen: Danube's `publish_time` is read that way,
and a time that should be in seconds, and is not, is refused.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

# A larger number of microseconds was no number of seconds before.
LATEST_US: Final = 100_000_000_000_000_000

# Numbers below the limit are in this unit, of which so many are a second.
_UNITS: Final = (
    (1e11, 1.0, "seconds"),
    (1e14, 1e3, "milliseconds"),
    (1e17, 1e6, "microseconds"),
    (float("inf"), 1e9, "nanoseconds"),
)


def seconds_of_any_unit(time: float) -> float:
    """Seconds since 1970 of a time in seconds, milliseconds, microseconds or nanoseconds."""
    return next(time / scale for limit, scale, _ in _UNITS if time < limit)


def moment(seconds: float) -> str:
    """A time for people."""
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat()
    except (OverflowError, ValueError, OSError):
        return f"{seconds} s after 1970"


def microseconds(seconds: float, name: str) -> int:
    """Microseconds since 1970, at least 1: 0 stands for no time.

    Raises ValueError, with `name` and what it may have meant, unless it is a time in seconds.
    """
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds >= 0:
        raise ValueError(f"{name}={seconds!r} must be seconds since 1970, 0 or more")
    if seconds == float("inf"):
        raise ValueError(f"{name}={seconds!r} must be a time: seconds since 1970")
    for limit, scale, unit in _UNITS:
        if seconds < limit:
            if scale > 1:
                raise ValueError(
                    f"{name}={seconds!r} must be in seconds since 1970, and looks like {unit}: "
                    f"{name}={seconds / scale!r}"
                )
            break
    return max(1, round(seconds * 1e6))
