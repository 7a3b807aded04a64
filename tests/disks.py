"""What the tests of disks share."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from danube_trio._core.disk import File
from danube_trio.testing import CrashState, SimDisk

D = "/log"


def raises_errno(*numbers: int) -> pytest.RaisesExc[OSError]:
    """Expect an OSError with one of these numbers."""
    return pytest.RaisesExc(OSError, check=lambda error: error.errno in numbers)


def new_disk(**settings: int) -> SimDisk:
    disk = SimDisk(sector_bytes=settings.get("sector_bytes", 1), seed=settings.get("seed", 0))
    disk.make_dir(D)
    return disk


def durable_file(disk: SimDisk, data: bytes, name: str = "a") -> File:
    file = disk.open(f"{D}/{name}", "create")
    file.write_at(data, 0)
    file.sync_data()
    disk.sync_dir(D)
    return file


def trees(states: Iterable[CrashState]) -> dict[str, dict[str, bytes]]:
    return {state.name: state.disk.tree() for state in states}


def contents(states: Iterable[CrashState], name: str = "a") -> set[bytes | None]:
    return {state.disk.tree().get(f"{D}/{name}") for state in states}
