"""What importing the package brings along: nothing that was not asked for."""

from __future__ import annotations

import json
import subprocess
import sys
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
    assert set(danube_trio._HOMES) == set(names) - {"__version__"}
    with pytest.raises(AttributeError, match="no attribute 'open_whale'"):
        _ = danube_trio.open_whale  # type: ignore[attr-defined]  # that is the point
