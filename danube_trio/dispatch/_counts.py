"""What a subscription counts."""

from __future__ import annotations

import attrs

__all__ = ["Counts"]


@attrs.define(eq=False)
class Counts:
    """What happened since the subscription was opened."""

    delivered: int = 0
    acked: int = 0
    failed: int = 0
    timed_out: int = 0
    released: int = 0
    dropped: int = 0
    dead_lettered: int = 0
    lost: int = 0
