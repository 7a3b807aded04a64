"""Yjs documents that are edited in two places become the same, whatever happens to the server.

Each document is a stream of updates: one that is lost or stands before what it builds on leaves the
other documents behind. Once the documents are kept in streams directly, once through the Yjs server
that is the protocol's own, which also keeps snapshots in streams.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from node import HERE, judges
from programs import Program, Served

KILLS = 2
SEED = "1"
SECONDS = 90

pytestmark = pytest.mark.timeout(240)


@pytest.mark.happens
@pytest.mark.parametrize("through", ["streams", "yjs-server"])
def test_two_documents_become_the_same_across_kills(through: str, tmp_path: Path) -> None:
    rng = random.Random(SEED)
    node = judges()
    with Served("hypercorn", tmp_path) as server:
        order = json.dumps({"url": server.url, "seed": SEED, "through": through})
        with Program(
            [node.command, HERE / "yjs.mjs", order], tmp_path / "yjs.log", node.environment()
        ) as program:
            program.hear_word("ready", SECONDS)
            for _ in range(KILLS):
                for _ in range(rng.randrange(1, 5)):
                    program.hear_word("edited", SECONDS)
                server.restart()
            program.hear_word("edited", SECONDS)
            program.tell("stop")
            [edits] = program.hear_word("same", SECONDS)
            program.wait(SECONDS)
        assert int(edits) > 0
        assert not server.complaints()
