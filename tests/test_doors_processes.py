"""A log that one process writes through a door, and another one reads: rolls, trims, kill -9."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from doors import DOORS, Child, Seen

from danube_trio import OffsetTrimmedError, StartPosition
from danube_trio.blocking import open_follower

WRITER = Path(__file__).with_name("doors_writer.py")
TOPIC = "default/orders"


class Writer:
    """A process that writes through a door."""

    def __init__(self, door: str, directory: Path) -> None:
        self._command = [sys.executable, str(WRITER), door, str(directory)]
        self.start()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """(Again.)"""
        self._process = subprocess.Popen(
            self._command,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(WRITER.parent.parent)},
        )

    def wait_for(self, offset: int) -> None:
        """Until it says that this offset is durable."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if int(line) >= offset:
                return
        raise AssertionError(f"the writer ended with {self._process.wait()}")

    def kill(self) -> int:
        """Kill it; returns the last offset that it called durable."""
        said: list[str] = []
        with self._process as process:
            process.send_signal(signal.SIGKILL)
            if process.stdout is not None and not process.stdout.closed:
                said = [line for line in process.stdout if line.endswith("\n")]
        return int(said[-1]) if said else -1


class Reading(threading.Thread):
    """A live reader in a third process, which reads so many records from the start."""

    def __init__(self, directory: Path, count: int) -> None:
        super().__init__()
        self._request = (str(directory), {"count": count})
        self._child = Child()
        self.seen: list[Seen] = []
        self.start()

    def run(self) -> None:
        self.seen = self._child.read(*self._request)

    def __enter__(self) -> Reading:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._child.kill()
        self.join()
        self._child.close()


@pytest.mark.parametrize("name", [name for name, door in DOORS.items() if not door.elsewhere])
def test_readers_elsewhere_go_on_through_rolls_trims_and_the_writers_death(
    name: str, tmp_path: Path
) -> None:
    topic = tmp_path / "topics" / TOPIC
    durable = 0
    with Writer(name, tmp_path) as writer:
        writer.wait_for(50)
        with Reading(topic, 400) as reading:
            for end in (150, 300, 450):
                writer.wait_for(end)
                durable = max(end, writer.kill())
                if end < 450:
                    writer.start()
    assert [s.offset for s in reading.seen] == list(range(400))
    assert [s.payload for s in reading.seen] == [b"%d" % i * 10 for i in range(400)]
    assert len(list(topic.glob("*.log"))) > 5, "it rolled"
    _check_trimmed(tmp_path / "log", durable)
    _check_whole(topic, durable)


def _check_trimmed(directory: Path, durable: int) -> None:
    """What is left of the log is dense, and what was trimmed is called so."""
    with open_follower(directory) as follower:
        assert follower.durable_end > durable
        start = follower.start_offset
        assert 0 < start <= durable - 100
        left = [(m.offset, m.payload) for m in follower.reader(end="current")]
        assert left == [(i, b"%d" % i * 10) for i in range(start, start + len(left))]
        assert left[-1][0] >= durable
        with pytest.raises(OffsetTrimmedError) as caught:
            next(follower.reader(StartPosition.offset(start - 1)))
        assert caught.value.start_offset == start


def _check_whole(directory: Path, durable: int) -> None:
    """Everything that was called durable is there."""
    with open_follower(directory) as follower:
        found: list[Any] = [m.offset for m in follower.reader(end="current")]
        assert found == list(range(len(found)))
        assert len(found) > durable
