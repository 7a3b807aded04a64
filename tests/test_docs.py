"""Every Python block in README.md and docs/ runs, and so does every console block that says so.

A Python block is a program of its own, run in an empty directory; after `<!-- continue -->` it goes
on where the block before it stopped. A console block after `<!-- run -->` has its commands run by a
shell. Any `make` target that a console block names exists.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("README.md"), *ROOT.joinpath("docs").rglob("*.md")])
BLOCK = re.compile(
    r"(?:<!-- (?P<mark>[a-z]+) -->\n\s*)?^(?P<indent> *)```(?P<language>\w+)\n"
    r"(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
MARKS = {"python": {"", "continue"}, "console": {"", "run"}}
COMMAND = re.compile(r"^\$ (.*)$", re.MULTILINE)


@attrs.frozen
class Block:
    """A fenced block: `line` is that of its first line of text, counted from 1."""

    page: str
    line: int
    language: str
    mark: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    source = page.read_text(encoding="utf-8")
    for match in BLOCK.finditer(source):
        line = source.count("\n", 0, match.start("text")) + 1
        text = textwrap.dedent(match["text"])
        mark = match["mark"] or ""
        yield Block(page.relative_to(ROOT).as_posix(), line, match["language"], mark, text)


BLOCKS = [block for page in PAGES for block in blocks(page)]
CONSOLE = [block for block in BLOCKS if block.language == "console"]


def programs() -> list[list[Block]]:
    found: list[list[Block]] = []
    for block in BLOCKS:
        if block.language == "python":
            if block.mark == "continue" and found and found[-1][0].page == block.page:
                found[-1].append(block)
            else:
                found.append([block])
    return found


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_a_block_says_what_it_is(block: Block) -> None:
    assert block.language not in {"py", "py3", "python3", "pycon", "sh", "bash", "shell"}
    assert block.mark in MARKS.get(block.language, {""})


@pytest.mark.parametrize("program", programs(), ids=lambda program: str(program[0]))
def test_a_python_block_runs(
    program: list[Block], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "__main__"}
    for block in program:
        # The empty lines make a traceback point at the line of the page.
        source = "\n" * (block.line - 1) + block.text
        # And it has only those features of the future that it asks for.
        exec(compile(source, ROOT / block.page, "exec", dont_inherit=True), namespace)


@pytest.mark.parametrize("block", [block for block in CONSOLE if block.mark == "run"], ids=str)
def test_a_console_block_runs(block: Block, tmp_path: Path) -> None:
    commands = COMMAND.findall(block.text)
    assert commands
    assert all("danube-trio" in command for command in commands)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "\n".join(commands)],
        cwd=tmp_path,
        env={**os.environ, "PATH": path},
        stdin=subprocess.DEVNULL,
        check=True,
    )


@pytest.mark.parametrize("block", CONSOLE, ids=str)
def test_a_make_target_that_is_named_exists(block: Block) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^(\w+):", makefile, re.MULTILINE))
    named = re.findall(r"^\$ make (\w+)", block.text, re.MULTILINE)
    assert set(named) <= targets
