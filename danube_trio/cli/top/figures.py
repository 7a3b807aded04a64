"""What is computed from snapshots: pure functions of plain data that may lack anything."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, cast

import attrs

# More than any counter can reach, and what arithmetic and formats still take.
MAX_NUMBER = 1e30
# Counters whose growth is shown, and where they are.
COUNTERS = {
    "records": ("appended_records",),
    "bytes": ("appended_bytes",),
    "writes": ("writes",),
    "syncs": ("syncs",),
    "rolls": ("rolls",),
    "looks": ("looks",),
    "uploads": ("cloud", "uploads"),
    "uploaded_bytes": ("cloud", "uploaded_bytes"),
    "fetched_bytes": ("cloud", "fetched_bytes"),
}


@attrs.frozen
class View:
    """What there is to show.

    Attributes:
        hello: what the program says about itself.
        before, now: the last two snapshots; at first there is only one.
        rows: how many readers, tasks and topics are shown at most.
        fancy: whether there may be more than ASCII.
        beside: whether small sections may stand beside each other.
    """

    hello: dict[str, Any]
    before: dict[str, Any] | None
    now: dict[str, Any]
    rows: int = 20
    fancy: bool = True
    beside: bool = False

    @property
    def found(self) -> dict[str, Any]:
        """The statistics now."""
        return as_dict(self.now.get("statistics"))


def as_dict(value: Any) -> dict[str, Any]:
    """The value, if it is a JSON object; else an empty one."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def as_list(value: Any) -> list[Any]:
    """The value, if it is a JSON array; else an empty one."""
    return list(cast("Iterable[Any]", value)) if isinstance(value, list) else []


def number(found: Any, *path: str) -> float | None:
    """A number in nested objects; None if there is none, or none that could be true."""
    for name in path:
        found = as_dict(found).get(name)
    if isinstance(found, bool) or not isinstance(found, int | float):
        return None
    return found if abs(found) <= MAX_NUMBER else None


def seconds_between(before: Any, after: Any) -> float | None:
    """How long it took from one snapshot to the next; None if that is unknown, or no time."""
    was, now = number(before, "elapsed"), number(after, "elapsed")
    return now - was if was is not None and now is not None and now > was else None


def rates(before: Any, after: Any) -> dict[str, float]:
    """What grew between two snapshots, per second; without what either lacks.

    A counter that shrank was begun anew, so its rate is unknown.
    """
    seconds = seconds_between(before, after)
    found: dict[str, float] = {}
    if seconds is None:
        return found
    for name, path in COUNTERS.items():
        was = number(before, "statistics", *path)
        now = number(after, "statistics", *path)
        if was is not None and now is not None and now >= was:
            found[name] = (now - was) / seconds
    return found


@attrs.frozen
class Histogram:
    """Counts of events in buckets; the last has no bound."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    sum: float

    @property
    def total(self) -> int:
        """All events."""
        return sum(self.counts)

    def since(self, before: Histogram | None) -> Histogram:
        """What came after another one; all of it if they do not fit together."""
        if before is None or before.bounds != self.bounds:
            return self
        counts = tuple(now - was for now, was in zip(self.counts, before.counts, strict=True))
        if min(counts) < 0:
            return self
        return Histogram(self.bounds, counts, self.sum - before.sum)

    def quantile(self, q: float) -> float:
        """The upper bound of the bucket that holds this quantile; 0.0 if empty."""
        rank, seen = q * self.total, 0
        for bound, count in zip((*self.bounds, math.inf), self.counts, strict=True):
            seen += count
            if count and seen >= rank:
                return bound
        return 0.0


def histogram(value: Any) -> Histogram | None:
    """The histogram that this value is, or None."""
    found = as_dict(value)
    bounds, counts = as_list(found.get("bounds")), as_list(found.get("counts"))
    if not bounds or len(counts) != len(bounds) + 1:
        return None
    if any(number(bound) is None for bound in bounds):
        return None
    if not all(isinstance(count, int) and 0 <= count <= MAX_NUMBER for count in counts):
        return None
    return Histogram(tuple(bounds), tuple(counts), number(found, "sum") or 0.0)
