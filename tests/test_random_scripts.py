"""Random scripts on whole logs, against plain lists; see `log_scripts`.

`DANUBE_SCRIPTS` says how many.
"""

from __future__ import annotations

import os

import pytest
from log_scripts import run_script

SCRIPTS = int(os.environ.get("DANUBE_SCRIPTS", "100"))
CHUNK = 10 if SCRIPTS <= 100 else 100


@pytest.mark.parametrize("first", range(0, SCRIPTS, CHUNK))
def test_whatever_happens_to_a_log_its_readers_see_one_history(first: int) -> None:
    for seed in range(first, min(first + CHUNK, SCRIPTS)):
        run_script(seed)


def test_a_seed_repeats_its_script() -> None:
    for seed in range(12):
        first, second = run_script(seed), run_script(seed)
        assert first.steps == second.steps
        assert first.histories == second.histories
