"""`restore_log` as the doors have it."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from danube_trio._core.disk import Disk
from danube_trio._engine.care import restore as _engine
from danube_trio._engine.care.restore import Restored
from danube_trio.catalog import Catalog
from danube_trio.cloud import CloudStore

__all__ = ["restore_log"]


async def restore_log(
    store: CloudStore,
    dir: str | os.PathLike[str],
    *,
    topic: str = "",
    prefix: str = "",
    catalog: Catalog | None = None,
    until_offset: int | None = None,
    until_time: float | None = None,
    file_name: str = "wal.log",
    disk: Disk | None = None,
    expect: Callable[[int], object] | None = None,
    progress: Callable[[int], object] | None = None,
) -> Restored:
    """See `danube_trio.restore_log`. Whom it need not tell is None."""
    told: dict[str, Any] = {"expect": expect, "progress": progress}
    return await _engine.restore_log(
        store,
        dir,
        topic=topic,
        prefix=prefix,
        catalog=catalog,
        until_offset=until_offset,
        until_time=until_time,
        file_name=file_name,
        disk=disk,
        **{name: fn for name, fn in told.items() if fn is not None},
    )
