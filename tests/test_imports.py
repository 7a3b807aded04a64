"""What importing the package brings along: nothing that was not asked for."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

import danube_trio

ROOT = Path(__file__).parent.parent
SCRIPT = """
import json, sys
{}
print(json.dumps(sorted(sys.modules)))
"""


def loaded(statement: str) -> set[str]:
    """The modules that are there after it, in a fresh process."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(statement)],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(ROOT)},
    )
    return set(json.loads(done.stdout))


OPTIONAL = {
    *("anyio", "asyncio", "click", "httpx2", "obstore", "prometheus_client", "rich", "uvicorn"),
}
PARTS = ("anyio", "blocking", "cli", "dispatch", "metadata", "prometheus", "testing", "typed")


@pytest.mark.parametrize(
    ("statement", "without"),
    [
        ("import danube_trio", {"trio", "cattrs", "attrs", *OPTIONAL}),
        ("from danube_trio import WalConfig, LogClosedError, Gap", {"trio", "cattrs", *OPTIONAL}),
        ("from danube_trio import open_wal", OPTIONAL),
        ("from danube_trio import open_follower, open_replica", OPTIONAL),
        ("import danube_trio.blocking", OPTIONAL),
        ("import danube_trio.anyio", OPTIONAL - {"anyio", "asyncio"}),
    ],
)
def test_nothing_is_imported_that_was_not_asked_for(statement: str, without: set[str]) -> None:
    modules = loaded(statement)
    assert not modules & without
    asked = statement.rpartition(".")[2]
    parts = {f"danube_trio.{part}" for part in PARTS if part != asked}
    assert not modules & parts


def test_every_public_name_is_there() -> None:
    names = danube_trio.__all__
    assert dir(danube_trio) == sorted(names)
    assert all(getattr(danube_trio, name) is not None for name in names)
    late = {name for homes in danube_trio._HOMES.values() for name in homes}
    assert late == set(names) - {"__version__"}
    with pytest.raises(AttributeError, match="no attribute 'open_whale'"):
        _ = danube_trio.open_whale  # type: ignore[attr-defined]  # that is the point


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *ROOT.glob("examples/*.py")]
STATEMENT = re.compile(r"^ *(?:from|import) danube_trio\b(?:[^\n(]*\([^)]*\)|[^\n]*)", re.M)
# How the reference says where the names below are from, and which they are.
DIRECTIVE = re.compile(
    r"^\.\. (?:py:)?(module|currentmodule|auto(?:function|class|exception)|public-names):: (\S+)",
    re.M,
)


def imported(page: Path) -> Iterator[tuple[str, str]]:
    """Modules, and the names that a page imports from them; "" for the module itself."""
    for statement in STATEMENT.findall(page.read_text(encoding="utf-8")):
        for node in ast.parse(statement.strip()).body:
            if isinstance(node, ast.ImportFrom):
                yield from ((str(node.module), alias.name) for alias in node.names)
            elif isinstance(node, ast.Import):
                yield from ((alias.name, "") for alias in node.names)


def referred_to(page: Path) -> Iterator[tuple[str, str]]:
    """Modules, and the names in them that a page of the reference describes."""
    module = ""
    for kind, name in DIRECTIVE.findall(page.read_text(encoding="utf-8")):
        if kind.endswith("module"):
            module = name
        elif kind == "public-names":
            yield from ((name, each) for each in import_module(name).__all__)
        elif name.startswith("danube_trio."):
            yield name.rpartition(".")[0], name.rpartition(".")[2]
        else:
            yield module, name


def value_of(module: str, name: str) -> object:
    found = import_module(module)
    if not name or hasattr(found, name):
        return getattr(found, name) if name else found
    return import_module(f"{module}.{name}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_documented_name_is_where_it_is_said_to_be(page: Path) -> None:
    for module, name in imported(page):
        assert not any(part.startswith("_") for part in module.split("."))
        assert value_of(module, name) is not None
    for module, name in referred_to(page):
        assert value_of(module, name) is not None


def test_the_reference_has_all_that_the_package_shows() -> None:
    described = {name for page in PAGES for _, name in referred_to(page)}
    assert set(danube_trio.__all__) - {"__version__"} <= described
    assert len(described) > 150
