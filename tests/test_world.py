"""Random programs in a world that does things to them; see `world_model`.

How many there are is for the profile of Hypothesis to say.
"""

from __future__ import annotations

from typing import Any

import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock
from world_model import RUNNING, WORLD, Step, World

PROGRAM = ("append", "append", "upload", "sleep", "consume", "rival", "leave", "kill", "power")
FAULTS = ("fault", "outage")
STEPS = st.builds(
    Step,
    st.sampled_from([*PROGRAM, *WORLD, "keep", *RUNNING, *FAULTS]),
    st.integers(0, 30),
)
SETTINGS = st.fixed_dictionaries(
    {
        "keep_local_bytes": st.sampled_from([0, 700, 1 << 30]),
        "cache_capacity": st.sampled_from([1, 1000]),
        "preallocate_bytes": st.sampled_from([0, 4000]),
        "segment_age": st.sampled_from([None, 2.0]),
    }
)


@settings(max_examples=max(150, settings().max_examples))
@given(SETTINGS, st.booleans(), st.lists(STEPS, max_size=25))
def test_whatever_the_world_does_nothing_is_lost_in_silence(
    settings: dict[str, Any], with_store: bool, steps: list[Step]
) -> None:
    world = World(settings, with_store=with_store)
    trio.run(world.run, steps, clock=MockClock(autojump_threshold=0))
