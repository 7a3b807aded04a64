"""What the docs say to JavaScript, Python and curl runs, against a server, in the page's order.

The blocks of a page that are marked ``streams`` share a server and a directory. A console block
that is marked ``continue`` has the exports of the one before it.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from node import HERE, judges
from programs import Served
from test_docs import BLOCKS, Block

ADDRESS = "http://127.0.0.1:4437"
BLOCK_SECONDS = 60
PAGE = "docs/howto/http-clients.md"
PROGRAMS = [block for block in BLOCKS if "streams" in block.marks]


def run(command: Sequence[str | Path], folder: Path) -> str:
    """Run it, and return what it printed."""
    done = subprocess.run(
        command,
        cwd=folder,
        env=judges().environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=BLOCK_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def run_block(block: Block, url: str, folder: Path, before: list[str]) -> str:
    """Run one block; `before` has the commands of those that it continues."""
    if block.language == "console":
        assert shutil.which("curl") is not None, "the blocks for curl need curl"
        if "continue" not in block.marks:
            before.clear()
        commands = [command.replace(ADDRESS, url) for command in block.commands]
        exports = [command for command in before if command.startswith("export ")]
        before += commands
        return run(["bash", "-euo", "pipefail", "-c", "\n".join(exports + commands)], folder)
    suffix, program = {
        "javascript": (".mjs", judges().command),
        "python": (".py", Path(sys.executable)),
    }[block.language]
    file = folder / f"block{block.line}{suffix}"
    file.write_text(block.text.replace(ADDRESS, url))
    return run([program, file], folder)


def test_all_blocks_for_a_server_are_on_one_page() -> None:
    assert {block.page for block in PROGRAMS} == {PAGE}
    assert {block.language for block in PROGRAMS} == {"javascript", "python", "console"}


@pytest.mark.timeout(300)
def test_the_blocks_for_clients_do_what_they_say(tmp_path: Path) -> None:
    judges()
    (tmp_path / "node_modules").symlink_to(HERE / "node_modules")
    printed: list[str] = []
    before: list[str] = []
    folder = tmp_path / "server"
    folder.mkdir()
    with Served("hypercorn", folder) as server:
        for block in PROGRAMS:
            printed.append(run_block(block, server.url, tmp_path, before))
    orders, lines, rooms, notes, repeated = printed
    assert orders == "17 true\n18 true\n19 true\n"
    assert lines == "one\ntwo\n"
    assert rooms == "cellar 11.5\nattic 24.0\n"
    assert notes == "buy milk;call home"
    assert repeated.startswith("200 204 ")
    assert "data:buy milk;call home, write" in repeated
    assert '"streamClosed":true' in repeated
