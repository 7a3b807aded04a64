"""Processes that race for one directory store, on the real disk."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from itertools import chain
from pathlib import Path

import store_child

from danube_trio._disk.real import RealDisk
from danube_trio.cloud import DirectoryStore

CREATORS = 16
COUNTERS = 4


def race(directory: Path, work: str, processes: int) -> list[list[int]]:
    """Let the processes begin at the same moment; return the numbers that each printed."""
    command = [sys.executable, store_child.__file__, str(directory), work]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    children = [
        subprocess.Popen(
            [*command, str(number)], stdout=subprocess.PIPE, text=True, env=environment
        )
        for number in range(processes)
    ]
    try:
        deadline = time.monotonic() + 100
        while len(list(directory.glob("ready-*"))) < processes:
            assert time.monotonic() < deadline
            assert not any(child.poll() for child in children)
            time.sleep(0.01)
        (directory / "go").touch()
        printed = [child.communicate(timeout=100)[0] for child in children]
    finally:
        for child in children:
            child.kill()
            child.communicate()
    assert [child.returncode for child in children] == [0] * processes
    return [[int(line) for line in output.split()] for output in printed]


async def test_of_sixteen_processes_that_create_one_succeeds(tmp_path: Path) -> None:
    won = race(tmp_path, "create", CREATORS)
    assert sorted(chain.from_iterable(won)) == list(range(store_child.KEYS))
    async with DirectoryStore(tmp_path / "store", RealDisk()) as store:
        for winner, numbers in enumerate(won):
            for number in numbers:
                _, data = await store.get(f"race/{number}")
                assert data == f"{number} {winner}".encode() * 500
        assert len(await store.list_objects("race")) == store_child.KEYS
    left = sorted(path.name for path in tmp_path.glob("store/**/.danube-*"))
    assert left == [".danube-store"]


async def test_swaps_of_several_processes_lose_nothing(tmp_path: Path) -> None:
    async with DirectoryStore(tmp_path / "store", RealDisk()) as store:
        await store.put("number", b"0")
        race(tmp_path, "count", COUNTERS)
        assert (await store.get("number"))[1] == b"%d" % (COUNTERS * store_child.INCREMENTS)
