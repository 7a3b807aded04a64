"""How long to wait before what failed is tried again: the one rule, for everybody who tries again.

Pauses double from the first one up to a limit. What passes by itself within a moment is soon over;
who is overrun, or away, is asked ever more seldom; and the limit says how long it may take at most
until its return is noticed. The pause depends on nothing but the failures in a row, so whoever
waits keeps one number, and a success sets it to zero.

Many who lost the same store at the same moment would come back at the same moments: who is one of
many cuts his pauses by chance (`catalog.Backoff`).
"""

from __future__ import annotations

import attrs


@attrs.frozen
class Pauses:
    """Pauses that double, in seconds.

    Attributes:
        first: after the first failure.
        limit: the longest one.
    """

    first: float
    limit: float

    def after(self, failures: int) -> float:
        """The pause after so many failures in a row; none after none."""
        assert failures >= 0, failures
        if not failures:
            return 0.0
        # The power is bounded: no count of failures makes a float overflow.
        return min(self.limit, self.first * 2.0 ** min(failures - 1, 64))
