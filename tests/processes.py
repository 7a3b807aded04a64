"""Other processes for the tests: one that is killed while it speaks, one that holds a log."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from subprocess import PIPE, Popen

import trio

__all__ = ["holding", "said_until_killed"]

HERE = Path(__file__).parent


async def said_until_killed(child: Path, directory: Path, life: int, lines: int) -> list[str]:
    """Start a child, hear so many lines, kill it, and hear what else it managed to say."""
    process = await trio.lowlevel.open_process(
        [sys.executable, str(child), str(directory), str(life)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )
    assert process.stdout is not None
    text = b""
    try:
        while text.count(b"\n") < lines:
            chunk = await process.stdout.receive_some()
            assert chunk, f"the child ended by itself: {process.returncode}"
            text += chunk
    finally:
        process.kill()
    async for chunk in process.stdout:
        text += chunk
    assert await process.wait() == -signal.SIGKILL
    return text.decode().splitlines()


def holding(kind: str, directory: Path) -> Popen[str]:
    """A program of `watch_child` that holds a log, ready; it ends when its stdin does."""
    program = Popen(
        [sys.executable, str(HERE / "watch_child.py"), kind, str(directory)],
        stdin=PIPE,
        stdout=PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(HERE.parent)},
    )
    assert program.stdout is not None
    assert program.stdout.readline() == "ready\n"
    return program
