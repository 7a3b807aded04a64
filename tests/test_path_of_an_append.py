"""How much code one durable append runs through, as modules: what a reader of it has to open.

Counted on the thread of the loop, of a log that is warm. A coroutine that goes on, such as the task
of the writer, is not entered by it: it was before.
"""

from __future__ import annotations

import dis
import os
import sys
from pathlib import Path
from types import FrameType

import danube_trio
from danube_trio import WalConfig, open_wal

RESUME = dis.opmap["RESUME"]
MOST = 14


def goes_on(frame: FrameType) -> bool:
    """Whether a coroutine goes on after an await."""
    code, at = frame.f_code.co_code, frame.f_lasti
    return at >= 0 and code[at] == RESUME and code[at + 1] & 3 != 0


async def test_a_durable_append_enters_few_modules(tmp_path: Path) -> None:
    home = os.path.dirname(danube_trio.__file__) + os.sep
    entered: dict[str, set[str]] = {}

    def hook(frame: FrameType, event: str, _: object) -> None:
        file = frame.f_code.co_filename
        if event == "call" and file.startswith(home) and not goes_on(frame):
            entered.setdefault(file.removeprefix(home), set()).add(frame.f_code.co_name)

    async with open_wal(WalConfig(dir=str(tmp_path / "log"))) as wal:
        for _ in range(3):
            await wal.append(b"one like it")
        before = sys.getprofile()
        sys.setprofile(hook)
        try:
            await wal.append(b"one like it")
        finally:
            sys.setprofile(before)
    for file, functions in sorted(entered.items()):
        sys.stdout.write(f"{file:32} {' '.join(sorted(functions))}\n")
    assert {"_engine/log/wal.py", "_engine/log/engine.py", "_disk/lane.py"} <= set(entered)
    assert len(entered) <= MOST, sorted(entered)
