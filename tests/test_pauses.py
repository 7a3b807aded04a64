"""The one rule for how long to wait before what failed is tried again."""

from __future__ import annotations

import pytest

from danube_trio._core.pauses import Pauses
from danube_trio.catalog import Backoff


def test_pauses_double_up_to_their_limit() -> None:
    pauses = Pauses(0.1, 2.0)
    assert [pauses.after(n) for n in range(7)] == pytest.approx([0, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0])
    assert pauses.after(10**9) == 2.0


def test_a_first_pause_of_nothing_stays_nothing() -> None:
    assert Pauses(0.0, 5.0).after(100) == 0.0


@pytest.mark.parametrize(("chance", "share"), [(0.0, 0.5), (1.0, 1.0)])
def test_chance_cuts_a_pause_by_half_at_most(chance: float, share: float) -> None:
    backoff = Backoff(first_seconds=0.1, limit_seconds=2.0, chance=lambda: chance)
    for failures in range(1, 10):
        whole = Pauses(0.1, 2.0).after(failures)
        assert backoff.pause_after(failures) == pytest.approx(share * whole)
