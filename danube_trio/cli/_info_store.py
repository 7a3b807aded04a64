"""``danube-trio info --store``: what the catalog of a log says."""

from __future__ import annotations

from typing import Any

import trio

from danube_trio._core.catalog import CatalogState
from danube_trio.catalog import Catalog
from danube_trio.cli._times import time_text
from danube_trio.cli._values import columns, counted
from danube_trio.cli._where import Where

__all__ = ["look_at_store", "stored_text"]


def look_at_store(where: Where, directory_id: str | None) -> dict[str, Any] | None:
    """The facts; None if nothing was ever uploaded."""
    return trio.run(_look, where, directory_id)


async def _look(where: Where, directory_id: str | None) -> dict[str, Any] | None:
    async with where.open() as corner:
        catalog = corner.catalog()
        state = await catalog.latest()
        return _facts(catalog, state, directory_id) if state is not None else None


def _facts(catalog: Catalog, state: CatalogState, directory_id: str | None) -> dict[str, Any]:
    return {
        "url": catalog.url,
        "codec": state.codec,
        "start_offset": state.start_offset,
        "end_offset": state.end,
        "records": state.end - state.start_offset,
        "size_bytes": sum(d.size_bytes for d in state.segments),
        "epoch": state.epoch,
        "writer": state.writer,
        "owner": state.owner,
        "owner_since_epoch": state.owner_since_epoch,
        "owned_by_directory": None if directory_id is None else directory_id == state.owner,
        "sealed": state.sealed,
        "deleted": state.deleted,
        "sequence": state.sequence,
        "objects": [
            {
                "base": d.base,
                "end": d.end,
                "size_bytes": d.size_bytes,
                "first_time": time_text(d.first_time),
                "last_time": time_text(d.last_time),
                "key": catalog.object_key(d.object_id),
                "epoch": d.epoch,
                "crc32": f"{d.crc32:08x}",
            }
            for d in state.segments
        ],
    }


def stored_text(facts: dict[str, Any] | None) -> str:
    """The facts for people."""
    if facts is None:
        return f"{'store':<13}nothing was uploaded yet"
    owner = facts["owner"]
    if facts["owned_by_directory"] is not None:
        owner += ", this directory" if facts["owned_by_directory"] else ", another directory"
    left = "deleted" if facts["deleted"] else "left sealed" if facts["sealed"] else ""
    lines = [
        ("store", facts["url"] + (f" ({left})" if left else "")),
        ("codec", facts["codec"]),
        ("offsets", f"{facts['start_offset']} to {facts['end_offset']} (exclusive)"),
        ("records", f"{facts['records']:,}"),
        (
            "size",
            f"{counted(facts['size_bytes'], 'byte')} in {counted(len(facts['objects']), 'object')}",
        ),
        ("writer", f"{facts['writer']} (epoch {facts['epoch']})"),
        ("owner", f"{owner}, since epoch {facts['owner_since_epoch']}"),
    ]
    rows: list[tuple[str, ...]] = [("base", "end", "bytes", "first time", "last time", "epoch")]
    rows += [
        (
            str(d["base"]),
            str(d["end"]),
            f"{d['size_bytes']:,}",
            d["first_time"] or "-",
            d["last_time"] or "-",
            str(d["epoch"]),
        )
        for d in facts["objects"]
    ]
    return "\n".join([*(f"{name:<13}{value}" for name, value in lines), "", *columns(rows, 3)])
