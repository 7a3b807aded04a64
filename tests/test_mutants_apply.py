"""Every mutant still applies: its text stands in its file once, and its tests are there.

Whoever changes such a line adapts the mutant, and runs it: ``make mutants ARGS="a word of it"``.
"""

from __future__ import annotations

from collections import Counter

import pytest
from mutants.mutant import Mutant
from mutants.table import MUTANTS


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_text_of_a_mutant_stands_once_where_it_says(mutant: Mutant) -> None:
    assert not mutant.wrong()
    assert mutant.old != mutant.new


def test_there_are_at_least_sixty_mutants_of_different_names() -> None:
    assert len([mutant for mutant in MUTANTS if not mutant.equivalent]) >= 60
    assert not [name for name, count in Counter(m.name for m in MUTANTS).items() if count > 1]
