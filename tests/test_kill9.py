"""A process under load is killed again and again, on the real disk, and its log goes on.

After each kill the log is opened here: everything that was acknowledged is there, in order,
unaltered, dense; everything that is there was sent, once, and whole batches only. Then the next
life goes on with it.

`DANUBE_KILL_CYCLES` is the number of kills (default 8).
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import attrs
import pytest
from kill9_child import config, payload
from processes import said_until_killed

from danube_trio import open_wal

CYCLES = int(os.environ.get("DANUBE_KILL_CYCLES", "8"))
CHILD = Path(__file__).with_name("kill9_child.py")


@attrs.define(eq=False)
class Journal:
    """What the children said."""

    sent: dict[str, tuple[int, int]] = attrs.Factory(dict[str, tuple[int, int]])  # count, size
    acked: dict[int, str] = attrs.Factory(dict[int, str])  # first offset -> name
    trimmed: int = 0
    found: dict[str, int] = attrs.Factory(dict[str, int])  # where an earlier life found a batch
    records: int = 0

    def hear(self, line: str) -> None:
        what, *words = line.split()
        if what == "sent":
            self.sent[words[0]] = (int(words[1]), int(words[2]))
        elif what == "ack":
            assert int(words[1]) not in self.acked
            self.acked[int(words[1])] = words[0]
        elif what == "trim":
            self.trimmed = max(self.trimmed, int(words[0]))


async def verify(directory: Path, journal: Journal) -> None:
    """Open the log that was left behind, and look at everything in it."""
    async with open_wal(config(str(directory))) as wal:
        start, end = wal.start_offset, wal.next_offset
        found = [(m.offset, m.payload) async for m in wal.reader(end="current")]
    assert [offset for offset, _ in found] == list(range(start, end))
    assert start <= journal.trimmed
    batches: dict[int, str] = {}
    last = -1
    for offset, data in found:
        name, _, place = data[: data.index(b":")].decode().rpartition("/")
        count, size = journal.sent[name]
        assert data == payload(f"{name}/{place}", size), f"offset {offset} is altered"
        if int(place) == 0 or offset == start:
            assert last == -1 or last == journal.sent[batches[max(batches)]][0] - 1
            batches[offset - int(place)] = name
        else:
            assert int(place) == last + 1
        assert int(place) < count
        last = int(place)
    assert last == -1 or last == journal.sent[batches[max(batches)]][0] - 1, "half a batch"
    assert len(set(batches.values())) == len(batches), "a batch is there twice"
    for offset, name in batches.items():
        assert journal.found.setdefault(name, offset) == offset, "a batch moved"
    for offset, name in journal.acked.items():
        if offset + journal.sent[name][0] > start:
            assert batches.get(offset) == name, f"{name} was acknowledged at {offset}"
    journal.acked = {offset: name for offset, name in batches.items() if offset >= start}
    journal.records = max(journal.records, end)


@pytest.mark.happens
async def test_nothing_that_was_acknowledged_is_lost_or_altered(tmp_path: Path) -> None:
    rng = random.Random(9)
    journal = Journal()
    for life in range(CYCLES):
        lines = rng.choice([1, 2, rng.randrange(1, 60), rng.randrange(60, 1500)])
        for line in await said_until_killed(CHILD, tmp_path, life, lines):
            journal.hear(line)
        await verify(tmp_path, journal)
    print(f"{CYCLES} kills, {journal.records} records, {len(journal.sent)} batches sent")  # noqa: T201
    assert journal.records > 100
