"""The console blocks of docs/cli.md, in their order in one directory: they print what they show.

Times, sizes that depend on them, ids, process numbers and rates may differ; every line has to be
there, and a command that ends with an error has to show it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from test_docs import ROOT, Block, blocks

PAGE = ROOT / "docs" / "cli.md"
CONSOLE = [block for block in blocks(PAGE) if block.language == "console"]
MARK = "-- end of a command --"
# What differs from run to run. A number with a comma or a point in it is a measurement.
VARIES = re.compile(
    r"\d{4}-\d\d-\d\dT[\d:.]+Z|\b[0-9a-f]{32}\b|process \d+ on [\w.-]+(, opening [0-9a-f]+)?"
    r"|(?<=\"publish_time\":)\d+"
)
MEASURED = re.compile(r"\s*-?[\d,.]+( [um]s)?\b|\s+-(?=\s)")


class Command:
    """A command, and the lines that it prints on the page."""

    def __init__(self, text: str) -> None:
        first, _, rest = text.partition("\n")
        self.text = first
        self.expected = rest.rstrip("\n")


def commands(block: Block) -> list[Command]:
    return [Command(text) for text in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]]


def printed(block: Block, directory: Path) -> list[str]:
    """What each command of the block prints, on stdout and stderr."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    script = "exec 2>&1\n" + "".join(
        f"{command.text}\necho '{MARK}'\n" for command in commands(block)
    )
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=directory,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    return [text.rstrip("\n") for text in done.stdout.split(f"{MARK}\n")[:-1]]


def comparable(text: str, directory: Path, *, measured: bool) -> list[str]:
    """The lines, without what differs from run to run."""
    text = VARIES.sub("~", text.replace(str(directory), "/tmp"))
    lines = [" ".join(line.split()) for line in text.splitlines()]
    return [MEASURED.sub("", line).strip() for line in lines] if measured else lines


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, list[str]]]:
    directory = tmp_path_factory.mktemp("page")
    return {str(block): (directory, printed(block, directory)) for block in CONSOLE}


@pytest.mark.parametrize("block", CONSOLE, ids=str)
def test_a_command_of_the_page_prints_what_it_shows(
    block: Block, outputs: dict[str, tuple[Path, list[str]]]
) -> None:
    directory, found = outputs[str(block)]
    assert len(found) == len(commands(block)) > 0
    for command, text in zip(commands(block), found, strict=True):
        measured = " bench " in command.text
        assert comparable(text, directory, measured=measured) == comparable(
            command.expected, directory, measured=measured
        ), f"$ {command.text}"
