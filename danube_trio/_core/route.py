"""Where a read is served from: a pure function of the cursor and the marks.

::

    trimmed | ... CLOUD ... | ... FILE ... | ... CACHE ... | LIVE
            start_offset    local_start    cache_start     visible_end

A reader asks again for every block, so there is no splice to get wrong: whatever happened to the
tiers meanwhile (retention, eviction, a slow consumer), the next block comes from wherever its
cursor now is.

A segment that turned out damaged is none, when its records are in the store.
"""

from __future__ import annotations

import enum


class Tier(enum.Enum):
    """Where a read is served from."""

    TRIMMED = "trimmed"
    CLOUD = "cloud"
    FILE = "file"
    CACHE = "cache"
    LIVE = "live"


def route(
    cursor: int,
    *,
    start_offset: int,
    local_start: int,
    cache_start: int,
    visible_end: int,
    damaged: bool = False,
) -> Tier:
    """The tier that holds `cursor`; LIVE when it must be waited for.

    `damaged`: its segment's file is not to be read, and an object has the same records.
    """
    if cursor < start_offset:
        return Tier.TRIMMED
    if cursor >= visible_end:
        return Tier.LIVE
    if cursor >= cache_start:
        return Tier.CACHE
    if cursor >= local_start and not damaged:
        return Tier.FILE
    return Tier.CLOUD
