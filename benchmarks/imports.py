"""What starting costs: interpreters that import something and end, compared by processor time.

Processor time is what a busy machine changes least. The time of an interpreter that imports nothing
is taken off, and the medians are compared.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from statistics import median

import trio
from scale import Context

__all__ = ["imports"]

ROOT = Path(__file__).parent.parent
STATEMENTS = {
    "nothing": "pass",
    "trio": "import trio",
    "package": "import danube_trio",
    "open_wal": "from danube_trio import WalConfig, open_wal",
    "anyio": "from danube_trio.anyio import open_wal",
    "blocking": "from danube_trio.blocking import open_wal",
    "help": "import sys; sys.argv[1:] = ['--help']; import danube_trio.cli as c; c.main()",
}


async def imports(context: Context) -> dict[str, float]:
    """One round."""
    return await trio.to_thread.run_sync(_measure, context.scale.turns)


def _measure(turns: int) -> dict[str, float]:
    seconds: dict[str, list[float]] = {name: [] for name in STATEMENTS}
    for _ in range(turns + 1):  # the first one also writes the byte code
        for name, statement in STATEMENTS.items():
            seconds[name].append(_processor_seconds(statement))
    found = {name: median(all_of[1:]) for name, all_of in seconds.items()}
    plain = found.pop("nothing")
    alone = found["trio"] - plain
    return {
        **{f"{name}_ms": (taken - plain) * 1e3 for name, taken in found.items()},
        **{f"{name}_of_trio": (taken - plain) / alone for name, taken in found.items()},
    }


def _processor_seconds(statement: str) -> float:
    """What a fresh interpreter needs for it, in user and system time."""
    process = subprocess.Popen(
        [sys.executable, "-c", statement],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
    )
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{statement!r} ended with {process.returncode}")
    return used.ru_utime + used.ru_stime
