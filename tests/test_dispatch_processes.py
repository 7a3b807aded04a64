"""Workers and the broker are killed with SIGKILL again and again, on the real disk: every message
is handled, and what is handled twice is bounded as documented.

`DANUBE_DISPATCH_MESSAGES` is the number of messages (default 5000).
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from dispatch_broker import MAX_UNSAVED, WINDOW, open_topic

from danube_trio.metadata import open_metadata_directory

MESSAGES = int(os.environ.get("DANUBE_DISPATCH_MESSAGES", "5000"))
WORKERS = 4
HERE = Path(__file__).parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}


@attrs.define(eq=False)
class Play:
    """What happened so far."""

    directory: Path
    chance: random.Random
    handled: list[int] = attrs.Factory(lambda: [0] * MESSAGES)
    total: int = 0
    workers_killed: int = 0
    brokers_killed: int = 0
    kill_broker_at: int = 0
    kill_broker: trio.Event = attrs.Factory(trio.Event)
    address: str | None = None
    ready: trio.Event = attrs.Factory(trio.Event)
    counted: dict[str, Any] = attrs.Factory(dict[str, Any])

    def hear(self, line: bytes) -> None:
        """A worker has handled a message."""
        offset, payload = line.split()
        assert payload == b"payload-%s" % offset
        self.handled[int(offset)] += 1
        self.total += 1
        if self.total >= self.kill_broker_at:
            self.kill_broker_at = 1 << 60
            self.kill_broker.set()


async def start(script: str, argument: object, stdin: int | None = None) -> trio.Process:
    return await trio.lowlevel.open_process(
        [sys.executable, str(HERE / script), str(argument)],
        stdin=stdin,
        stdout=subprocess.PIPE,
        env=ENVIRONMENT,
    )


async def lines_of(process: trio.Process, play: Play, most: int) -> None:
    """Hear so many lines, then kill it, and hear what else it managed to say."""
    assert process.stdout is not None
    rest, heard = b"", 0
    async for chunk in process.stdout:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            play.hear(line)
        heard += len(lines)
        if heard >= most and process.returncode is None:
            process.kill()
    if await process.wait() == -signal.SIGKILL:
        play.workers_killed += 1


async def keep_working(play: Play) -> None:
    """A worker, and another one when it is gone."""
    while True:
        await play.ready.wait()
        process = await start("dispatch_worker.py", play.address)
        try:
            await lines_of(process, play, play.chance.randrange(1, min(2 * MESSAGES // 25, 2000)))
        finally:
            if process.returncode is None:
                process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
                assert process.stdout is not None
                await process.stdout.aclose()


async def broker(play: Play, kills: int) -> None:
    """The broker, and another one each time it was killed."""
    for life in range(kills + 1):
        play.kill_broker = trio.Event()
        if life < kills:
            play.kill_broker_at = play.total + MESSAGES // (kills + 1) // 2
        process = await start("dispatch_broker.py", play.directory, stdin=subprocess.PIPE)
        assert process.stdin is not None and process.stdout is not None
        async with process.stdin, process.stdout, trio.open_nursery() as nursery:
            nursery.start_soon(kill, process, play)
            text = b""
            async for chunk in process.stdout:
                text += chunk
                if text.startswith(b"ready") and b"\n" in text and not play.ready.is_set():
                    play.address = text.split()[1].decode()
                    play.ready.set()
                if b"settled" in text and not play.kill_broker.is_set():
                    await process.stdin.aclose()
            play.ready = trio.Event()
            nursery.cancel_scope.cancel()
        if await process.wait() == 0:
            play.counted = json.loads(text.splitlines()[-1])
            return
        assert process.returncode == -signal.SIGKILL
        play.brokers_killed += 1


async def kill(process: trio.Process, play: Play) -> None:
    await play.kill_broker.wait()
    process.kill()


@pytest.mark.timeout(120 + MESSAGES // 50)
async def test_everything_is_handled_though_everybody_is_killed(tmp_path: Path) -> None:
    async with open_metadata_directory(tmp_path / "metadata") as metadata:
        async with open_topic(tmp_path, metadata) as dispatch:
            for first in range(0, MESSAGES, 1000):
                last = min(first + 1000, MESSAGES)
                await dispatch.store_batch([b"payload-%d" % o for o in range(first, last)])
    play = Play(tmp_path, random.Random(8))
    async with trio.open_nursery() as nursery:
        for _ in range(WORKERS):
            nursery.start_soon(keep_working, play)
        await broker(play, kills=max(2, MESSAGES // 20_000))
        nursery.cancel_scope.cancel()
    again = play.total - MESSAGES
    print(  # noqa: T201
        f"{MESSAGES} messages, {play.workers_killed} workers and {play.brokers_killed} brokers "
        f"killed: {again} handled again"
    )
    assert all(play.handled), "messages were lost"
    assert play.counted["lag"] == play.counted["unsaved"] == 0
    assert play.counted["end"] == play.counted["saved_end"] == MESSAGES
    assert play.workers_killed > 3 and play.brokers_killed > 0
    assert again <= play.workers_killed * WINDOW + play.brokers_killed * (WINDOW + MAX_UNSAVED)
