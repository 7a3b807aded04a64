"""Times as they are typed and shown: ISO 8601, in UTC unless another zone is named."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from danube_trio._core.times import microseconds

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def seconds_of(text: str) -> float:
    """Seconds since 1970 of a time that was typed, as seconds or as ISO 8601. Raises ValueError."""
    try:
        seconds = float(text)
    except ValueError:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            reason = f"{text!r} is neither seconds since 1970 nor ISO 8601"
            raise ValueError(reason) from None
        seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    microseconds(seconds, "time")  # refuses what is no time
    return seconds


def time_text(microseconds: int) -> str | None:
    """ISO 8601 in UTC; None for 0, which stands for unknown."""
    if not microseconds:
        return None
    try:
        moment = EPOCH + timedelta(microseconds=microseconds)
    except OverflowError:
        return f"{microseconds} us after 1970"
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
