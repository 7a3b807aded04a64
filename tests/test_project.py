"""What the project says about itself in more than one place, and what it must not say at all."""

from __future__ import annotations

import hashlib
import importlib.metadata
import inspect
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import danube_trio
from danube_trio._version import __version__

ROOT = Path(__file__).parent.parent
LOCKS = sorted((ROOT / "requirements").glob("*.lock"))
# Spelled so that this file does not hold what it looks for.
REGISTRY_HOST = re.compile(
    r"p[y]pi\.(org|io)|python[h]osted\.|registry\.n[p]mjs|npm[j]s\.(org|com)|(deb|security)\.de[b]ian\."
)
NOT_SOURCE = {"__pycache__", "build", "dist", "node_modules"}


def project_files(folder: Path = ROOT) -> Iterator[Path]:
    """Every file of the checkout that is neither generated nor git's own."""
    for path in folder.iterdir():
        hidden = path.name.startswith(".") and path.name not in {".ci", ".gitignore"}
        if hidden or path.name in NOT_SOURCE:
            continue
        if path.is_dir():
            yield from project_files(path)
        else:
            yield path


def settings() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def pins(lock: Path) -> dict[str, str]:
    """Name -> the rest of its entry, of a lock file."""
    text = lock.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.lstrip().startswith("#")]
    return {re.split(r"[^\w.-]", line, maxsplit=1)[0]: line for line in lines}


def test_the_installed_version_is_the_one_in_the_source() -> None:
    assert importlib.metadata.version("danube-trio") == __version__


def test_the_changelog_has_this_version_or_is_open_for_it() -> None:
    headings = re.findall(
        r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert {"Unreleased", __version__} & set(headings)


def test_the_license_is_apache_2_verbatim() -> None:
    digest = hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest()
    assert digest == "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"
    assert settings()["project"]["license"] == "Apache-2.0"


def test_the_wheel_tells_type_checkers_that_it_is_typed() -> None:
    wheel = settings()["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel == {"packages": ["danube_trio"]}  # the whole folder, nothing excluded
    assert (ROOT / "danube_trio" / "py.typed").is_file()


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_a_lock_pins_and_hashes_everything(lock: Path) -> None:
    entries = pins(lock)
    assert entries
    for entry in entries.values():
        assert re.match(r"[\w.-]+==\S+ .*--hash=sha256:[0-9a-f]{64}", entry), entry
    assert "://" not in lock.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["run", "test", "dev"])
def test_a_lock_holds_every_dependency(name: str) -> None:
    project = settings()["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["cli"]]
    locked = pins(ROOT / "requirements" / f"{name}.lock")
    assert not [spec for spec in wanted if re.split(r"[^\w-]", spec)[0] not in locked]


def test_the_locks_agree() -> None:
    versions: dict[str, set[str]] = {}
    for lock in LOCKS:
        for name, entry in pins(lock).items():
            versions.setdefault(name, set()).add(entry.split()[0])
    assert not {name: found for name, found in versions.items() if len(found) > 1}


def test_no_file_names_the_host_of_a_package_registry() -> None:
    found = [
        path
        for path in project_files()
        if REGISTRY_HOST.search(path.read_bytes().decode("utf-8", errors="replace"))
    ]
    assert not found


@pytest.mark.parametrize("name", danube_trio.__all__)
def test_a_public_name_has_a_docstring(name: str) -> None:
    value = getattr(danube_trio, name)
    if inspect.isclass(value):
        assert (vars(value).get("__doc__") or "").strip()
    elif callable(value):
        assert (value.__doc__ or "").strip()
