"""``danube-trio info``: a directory, and what the catalog of a store says."""

from __future__ import annotations

import errno
import json
from typing import TYPE_CHECKING, Any

import attrs

from danube_trio._core.disk import Disk
from danube_trio._core.index import SparseIndex
from danube_trio._core.segment import LogNames, Segment
from danube_trio._disk.locks import find_holder
from danube_trio._disk.real import RealDisk
from danube_trio._engine.care.verify_segment import Preview, preview
from danube_trio._engine.files.directory import Directory
from danube_trio._engine.files.segments import load_index
from danube_trio._engine.read.observe import NOTHING_SEEN, Observer, View, find_log
from danube_trio.cli._say import say
from danube_trio.cli._times import time_text
from danube_trio.cli._values import columns, counted
from danube_trio.cli._where import Where

if TYPE_CHECKING:
    from danube_trio._core.catalog import CatalogState
    from danube_trio.catalog import Catalog

CUT_OFF = (".torn", ".corrupt", ".fenced")


def print_info(directory: str | None, file_name: str, where: Where, as_json: bool) -> None:
    """Run the command."""
    wanted = where.wanted(directory)
    facts: dict[str, Any] = {}
    parts: list[str] = []
    if directory is not None:
        names = LogNames.of(directory.rstrip("/") or "/", file_name)
        facts = _facts(RealDisk(), names, find_holder(names.lock))
        parts.append(_text(facts))
    if wanted:
        import trio  # the rest of this command does without

        facts["store"] = stored = trio.run(_look_at_store, where, facts.get("directory_id"))
        if stored is None and directory is None:
            raise FileNotFoundError(errno.ENOENT, "the log is not there (yet)", where.url)
        parts.append(_stored_text(stored))
    say(json.dumps(facts) if as_json else "\n\n".join(parts))


def _facts(disk: Disk, names: LogNames, holder: str | None) -> dict[str, Any]:
    directory = find_log(disk, names)
    view = Observer(disk, directory).look(NOTHING_SEEN, SparseIndex(0))
    expected = preview(disk, directory) if holder is None else None
    segments = [_sealed(disk, names, segment) for segment in view.sealed]
    if directory.bases:
        segments.append(_active(view, expected))
    listing = disk.list_dir(names.directory)
    return {
        "directory": names.directory,
        "file_name": names.file_name,
        "format": directory.meta.format,
        "trailer": directory.meta.trailer,
        "codec": directory.meta.codec,
        "directory_id": directory.meta.directory_id,
        "epochs": [list(epoch) for epoch in directory.meta.epochs],
        "start_offset": view.log_start,
        "local_start": view.start,
        "durable_end": view.end,
        "records": view.end - view.log_start,
        "size_bytes": sum(segment["size_bytes"] for segment in segments),
        "mark": attrs.asdict(view.mark) if view.mark is not None else None,
        "locked": holder is not None,
        "holder": holder,
        "segments": segments,
        "recovery": _recovery(directory, expected, holder),
        "cut_off_files": [name for name in listing if name.endswith(CUT_OFF)],
    }


def _segment(base: int, end: int, size: int, first: int, last: int, sealed: bool) -> dict[str, Any]:
    return {
        "base": base,
        "end": end,
        "size_bytes": size,
        "first_time": time_text(first),
        "last_time": time_text(last),
        "sealed": sealed,
    }


def _sealed(disk: Disk, names: LogNames, segment: Segment) -> dict[str, Any]:
    first, last = segment.first_time, segment.last_time
    if not (first and last):
        try:
            index = load_index(disk, names, segment, trailer=True)
            first, last = index.first_time, index.last_time
        except FileNotFoundError:
            first = last = 0  # trimmed just now
    return _segment(segment.base, segment.end, segment.size_bytes, first, last, sealed=True)


def _active(view: View, expected: Preview | None) -> dict[str, Any]:
    """The last segment: as far as it is durable, or, with nobody writing, as far as it is whole."""
    first = view.runs[0][3] if view.runs else 0
    last = view.runs[-1][4] if view.runs else 0
    mark, size = view.mark, 0
    if mark is not None and mark.base == view.active_base:
        size = mark.position
    if expected is not None and expected.base == view.active_base:
        first, last, size = expected.first_time, expected.last_time, expected.size_bytes
    return _segment(view.active_base, view.end, size, first, last, sealed=False)


def _recovery(
    directory: Directory, expected: Preview | None, holder: str | None
) -> dict[str, Any] | None:
    """What the next open would do, None while somebody has it open."""
    if holder is not None:
        return None
    names, found = directory.names, expected
    cut = found is not None and found.cut_bytes > 0
    return {
        "next_offset": found.next_offset if found else directory.start_offset,
        "kept_records": found.kept_records if found else 0,
        "cut_bytes": found.cut_bytes if found else 0,
        "cut_position": found.cut_position if found and cut else None,
        "cut_reason": found.cut_reason if found else None,
        "path": names.segment(found.base) if found else None,
        "damage": found.damage if found else None,
        "leftovers": [*directory.leftovers, *map(names.segment, directory.leftover_bases)],
    }


# ---- the store


async def _look_at_store(where: Where, directory_id: str | None) -> dict[str, Any] | None:
    """What the catalog says; None if nothing was ever uploaded."""
    async with where.open() as corner:
        catalog = corner.catalog()
        state = await catalog.latest()
        return _stored(catalog, state, directory_id) if state is not None else None


def _stored(catalog: Catalog, state: CatalogState, directory_id: str | None) -> dict[str, Any]:
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


# ---- text


def _text(facts: dict[str, Any]) -> str:
    mark = facts["mark"]
    lines = [
        ("directory", f"{facts['directory']} ({facts['file_name']})"),
        ("format", f"{facts['format']}, codec {facts['codec']}"),
        ("directory id", facts["directory_id"]),
        ("offsets", f"{facts['start_offset']} to {facts['durable_end']} (exclusive)"),
        ("records", f"{facts['records']:,}"),
        (
            "size",
            f"{counted(facts['size_bytes'], 'byte')} in "
            f"{counted(len(facts['segments']), 'segment')}",
        ),
        (
            "mark",
            f"durable to offset {mark['durable_end']}, byte {mark['position']} of segment "
            f"{mark['base']}"
            if mark
            else "none: without it only sealed segments are known to be durable",
        ),
        ("holder", facts["holder"] or "none"),
        ("recovery", _recovery_text(facts["recovery"])),
    ]
    if facts["cut_off_files"]:
        lines.append(("cut off", ", ".join(facts["cut_off_files"])))
    return _described(lines, facts["segments"], "")


def _described(lines: list[tuple[str, str]], parts: list[dict[str, Any]], last: str) -> str:
    """Names and values, and the table of the segments, or of the objects with their epochs."""
    rows: list[tuple[str, ...]] = [("base", "end", "bytes", "first time", "last time", last)]
    for part in parts:
        times = (part["first_time"] or "-", part["last_time"] or "-")
        numbers = (str(part["base"]), str(part["end"]), f"{part['size_bytes']:,}")
        state = str(part[last]) if last else "sealed" if part["sealed"] else "active"
        rows.append((*numbers, *times, state))
    return "\n".join([*(f"{name:<13}{value}" for name, value in lines), "", *columns(rows, 3)])


def _recovery_text(recovery: dict[str, Any] | None) -> str:
    if recovery is None:
        return "the log is open"
    if recovery.get("damage"):
        return f"would be refused: {recovery['path']}: {recovery['damage']}"
    steps = [f"goes on at offset {recovery['next_offset']}"]
    if recovery["kept_records"]:
        steps.append(f"keeps {counted(recovery['kept_records'], 'record')} above the mark")
    if recovery["cut_bytes"]:
        steps.append(
            f"cuts {counted(recovery['cut_bytes'], 'byte')} at byte {recovery['cut_position']} "
            f"({recovery['cut_reason']})"
        )
    if recovery.get("leftovers"):
        steps.append(f"removes {counted(len(recovery['leftovers']), 'leftover file')}")
    return ", ".join(steps)


def _stored_text(facts: dict[str, Any] | None) -> str:
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
    return _described(lines, facts["objects"], "epoch")
