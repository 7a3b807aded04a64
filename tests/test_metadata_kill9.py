"""A process that writes to a metadata directory is killed again and again, on the real disk.

After each kill: of each writer the newest acknowledged transaction is there, or the one after it
that it had sent; and each is there as a whole.

`DANUBE_KILL_CYCLES` is the number of kills (default 5).
"""

from __future__ import annotations

import os
import random
from pathlib import Path

from processes import said_until_killed

from danube_trio._disk.real import RealDisk
from danube_trio.metadata import open_metadata_directory

CYCLES = int(os.environ.get("DANUBE_KILL_CYCLES", "5"))
CHILD = Path(__file__).with_name("metadata_child.py")


async def test_nothing_that_was_acknowledged_is_lost(tmp_path: Path) -> None:
    rng = random.Random(7)
    possible: dict[str, set[str]] = {}
    revision = 0
    for life in range(CYCLES):
        lines = rng.choice([1, 5, rng.randrange(2, 60), rng.randrange(60, 1500)])
        for line in await said_until_killed(CHILD, tmp_path, life, lines):
            what, *words = line.split()
            if what == "sent":
                possible.setdefault(words[0], {""}).add(words[1])
            elif what == "ack":
                possible[words[0]] = {words[1]}
        async with open_metadata_directory(tmp_path, disk=RealDisk()) as store:
            for writer, names in possible.items():
                entries = await store.list_entries(f"/w/{writer}/")
                values = {entry.value for entry in entries} or {b":"}
                assert len(values) == 1 and len(entries) in (0, 3), "a transaction is whole"
                found = values.pop().partition(b":")[0].decode()
                assert found in names, f"writer {writer}: {found!r} is none of {names}"
                possible[writer] = {found}
            assert store.revision >= revision, "revisions go back"
            revision = store.revision
    assert revision > 100
