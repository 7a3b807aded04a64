"""Every Python block in README.md and docs/ runs, and so does every console block that says so.

A comment above a block says how. A Python block is a program of its own, run in an empty directory.

- `<!-- continue -->`: it goes on where the block before it stopped, in the same directory.
- `<!-- run -->`: the commands of a console block are run by a shell. With `same`, they print
  exactly what is shown; with `fails`, the last one ends with an exit code that is not 0.
- `<!-- serve -->`: a console block starts the web service of examples/, which is then used.
- `<!-- server -->`: a console block starts a server, which prints what is shown, and goes on until
  the next one, or the end of what continues it. Its port stands for any that is free.
- `<!-- output -->`: a text block is what the Python block before it prints, exactly.
- `<!-- s3 -->`, `<!-- etcd -->`: with a server, whose address is in the environment.
- `<!-- streams -->`: it talks to a server of streams: `tests/http/test_client_docs.py` runs it.

Any `make` target and any extra that a console block names exists.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import os
import re
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import tomllib
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    page
    for page in [*ROOT.glob("README.md"), *ROOT.joinpath("docs").rglob("*.md")]
    if "_build" not in page.parts
)
BLOCK = re.compile(
    r"(?:<!-- (?P<marks>[a-z0-9 ]+) -->\n\s*)?^(?P<indent> *)```(?P<language>\w+)\n"
    r"(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
SERVERS = {"s3", "etcd"}
MARKS = {
    "python": {"continue", "streams"} | SERVERS,
    "console": {"continue", "run", "same", "fails", "serve", "server", "streams"} | SERVERS,
    "javascript": {"streams"},
    "text": {"output"},
}
COMMAND = re.compile(r"^\$ (.*)$", re.MULTILINE)
START_SECONDS = 60
SHOWN_PORT = "127.0.0.1:4437"


@attrs.frozen
class Block:
    """A fenced block: `line` is that of its first line of text, counted from 1."""

    page: str
    line: int
    language: str
    marks: frozenset[str]
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def runs(self) -> bool:
        alone = "streams" not in self.marks
        return alone and (self.language == "python" or bool({"run", "server"} & self.marks))

    @property
    def commands(self) -> list[str]:
        return COMMAND.findall(self.text.replace("\\\n", ""))


def blocks(page: Path) -> Iterator[Block]:
    source = page.read_text(encoding="utf-8")
    for match in BLOCK.finditer(source):
        line = source.count("\n", 0, match.start("text")) + 1
        text = textwrap.dedent(match["text"])
        marks = frozenset((match["marks"] or "").split())
        yield Block(page.relative_to(ROOT).as_posix(), line, match["language"], marks, text)


BLOCKS = [block for page in PAGES for block in blocks(page)]
CONSOLE = [block for block in BLOCKS if block.language == "console"]


def programs() -> list[list[Block]]:
    """What runs together: a block, those that continue it, and what they print."""
    found: list[list[Block]] = []
    for block in BLOCKS:
        more = bool(found) and found[-1][0].page == block.page
        if "output" in block.marks or (block.runs and "continue" in block.marks):
            assert more, block
            found[-1].append(block)
        elif block.runs:
            found.append([block])
    return found


@pytest.fixture
def environment(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the program of the test needs: commands on the PATH, and its servers' addresses."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    monkeypatch.setenv("PATH", path)
    monkeypatch.delenv("DANUBE_STORE", raising=False)
    program: list[Block] = request.getfixturevalue("program")
    commands = [command for block in program for command in block.commands]
    if any("curl" in command for command in commands) and shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    wanted = {mark for block in program for mark in block.marks}
    if "s3" in wanted:
        server = request.getfixturevalue("s3")
        monkeypatch.setenv("S3_ENDPOINT", server.options.endpoint)
        monkeypatch.setenv("S3_URL", f"{server.url}/{secrets.token_hex(6)}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", server.options.access_key_id)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", server.options.secret_access_key)
    if "etcd" in wanted:
        monkeypatch.setenv("ETCD_URL", request.getfixturevalue("etcd").url)


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_a_block_says_what_it_is(block: Block) -> None:
    assert block.language not in {"py", "py3", "python3", "pycon", "sh", "bash", "shell"}
    assert block.marks <= MARKS.get(block.language, set())


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize("program", programs(), ids=lambda program: str(program[0]))
def test_the_blocks_run(
    program: list[Block], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    printed, port = "", free_port()
    with contextlib.ExitStack() as servers:
        for block in program:
            block = attrs.evolve(block, text=block.text.replace(SHOWN_PORT, port))
            if "output" in block.marks:
                assert printed == block.text, block
            elif "server" in block.marks:
                servers.close()
                assert servers.enter_context(running_server(block, tmp_path)) == shown(block)
            elif block.language == "python":
                printed = run_python(block, namespace)
            else:
                printed = run_console(block, tmp_path)
                # Not every program ends its last line.
                same = printed.rstrip("\n") == shown(block).rstrip("\n")
                assert "same" not in block.marks or same, printed


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@contextlib.contextmanager
def running_server(block: Block, folder: Path) -> Generator[str]:
    """The server of a block, ready: what it printed. It ends well, and without a word."""
    (command,) = block.commands
    listen = [] if "--listen" in command else ["--listen", block.text.rpartition("://")[2].strip()]
    with subprocess.Popen(
        [*shlex.split(command), *listen],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline()
        finally:
            process.terminate()
            out, err = process.communicate(timeout=START_SECONDS)
        assert (process.returncode, out, err) == (0, "", "")


def run_python(block: Block, namespace: dict[str, Any]) -> str:
    """Run a block; returns what it printed."""
    # The empty lines make a traceback point at the line of the page.
    source = "\n" * (block.line - 1) + block.text
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(source, ROOT / block.page, "exec", dont_inherit=True), namespace)
    return printed.getvalue()


def run_console(block: Block, folder: Path) -> str:
    """Run the commands of a block; returns what they printed."""
    *first, last = block.commands
    commands = [*first, f"! {last}" if "fails" in block.marks else last]
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "\n".join(commands)],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout


def shown(block: Block) -> str:
    """The lines of a console block that are not commands."""
    lines = block.text.replace("\\\n", "").splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith("$ "))


@pytest.mark.parametrize("program", programs(), ids=lambda program: str(program[0]))
def test_console_blocks_are_about_the_tool(program: list[Block]) -> None:
    commands = [command for block in program for command in block.commands]
    assert not commands or any("danube-trio" in command for command in commands)


@pytest.mark.parametrize("block", [block for block in CONSOLE if "serve" in block.marks], ids=str)
def test_a_command_that_serves_does(block: Block, tmp_path: Path) -> None:
    port = int(free_port().rpartition(":")[2])
    (command,) = block.commands
    program, *arguments = shlex.split(os.path.expandvars(command.replace("8000", str(port))))
    # The same program as a module of this Python, so that nothing else of that name is started.
    line = [sys.executable, "-m", program, *arguments]
    env = {**os.environ, "EVENTS_DIR": str(tmp_path / "events"), "PYTHONPATH": str(ROOT)}
    log = tmp_path / "log"
    with (
        log.open("wb") as output,
        subprocess.Popen(line, cwd=ROOT, env=env, stdout=output, stderr=output) as process,
    ):
        try:
            while post(port, b"an event") != b"0\n":
                assert process.poll() is None, log.read_text()
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(START_SECONDS)


def post(port: int, body: bytes) -> bytes:
    """What the service answers; nothing while it does not."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=START_SECONDS)
    try:
        connection.request("POST", "/events", body)
        return connection.getresponse().read()
    except OSError:
        return b""
    finally:
        connection.close()


@pytest.mark.parametrize("block", CONSOLE, ids=str)
def test_what_is_named_exists(block: Block) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^(\w+):", makefile, re.MULTILINE))
    assert set(re.findall(r"^\$ make (\w+)", block.text, re.MULTILINE)) <= targets
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = ",".join(re.findall(r"danube-trio\[([\w,]+)\]", block.text)).split(",")
    assert set(filter(None, named)) <= set(project["optional-dependencies"])
