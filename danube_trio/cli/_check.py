"""``danube-trio verify``."""

from __future__ import annotations

from typing import Any

import trio

from danube_trio._core.segment import LogNames
from danube_trio._disk.locks import find_holder
from danube_trio._disk.real import RealDisk
from danube_trio._engine.care.verify import Verification
from danube_trio._engine.care.verify_objects import compare, note_strangers, verify_objects
from danube_trio._engine.care.verify_segment import Finding
from danube_trio._engine.read.observe import find_log
from danube_trio.catalog._base import SharedCatalog
from danube_trio.catalog._default import readable_state
from danube_trio.cli._progress import open_bar
from danube_trio.cli._report import Report
from danube_trio.cli._values import counted
from danube_trio.cli._where import Where
from danube_trio.errors import CorruptDataError, UnsupportedFormatError


def print_findings(directory: str | None, file_name: str, where: Where, as_json: bool) -> bool:
    """Run the command; True if there are problems."""
    wanted = where.wanted(directory)
    report = Report(as_json)
    totals: dict[str, Any] = {}
    names = None
    if directory is not None:
        names = LogNames.of(directory.rstrip("/") or "/", file_name)
        totals = _check_directory(names, report)
    if wanted:
        with open_bar("verifying objects", None) as bar:
            totals["store"] = trio.run(_check_store, where, names, report, bar)
    totals |= {f"{kind}s": report.counts[kind] for kind in ("problem", "warning", "note")}
    report.show({"summary": totals}, _summary(totals))
    return report.counts["problem"] > 0


def _check_directory(names: LogNames, report: Report) -> dict[str, Any]:
    holder = find_holder(names.lock)
    with open_bar("verifying", None) as bar:
        check = Verification(
            RealDisk(), names, live=holder is not None, progress=bar.advance, expect=bar.expect
        )
        for finding in check:
            report(finding)
    return {
        "records": check.records,
        "segments": check.segments,
        "start_offset": check.start_offset,
        "end_offset": check.end_offset,
        "size_bytes": check.total_bytes,
        "holder": holder,
    }


async def _check_store(
    where: Where, names: LogNames | None, report: Report, bar: Any
) -> dict[str, Any]:
    async with where.open() as corner:
        catalog = corner.catalog()
        state = await readable_state(catalog)
        if names is not None:
            await trio.to_thread.run_sync(_compare, names, state, report)
        verified = await verify_objects(
            corner.store, catalog, state, report, expect=bar.expect, progress=bar.advance
        )
        await note_strangers(corner.store, catalog, state, report)
        if isinstance(catalog, SharedCatalog):
            try:
                await catalog.refuse_others(state)
            except UnsupportedFormatError as error:
                report(Finding("problem", error.found, catalog.url))
    return {
        "url": catalog.url,
        "records": verified.records,
        "objects": verified.objects,
        "start_offset": state.start_offset,
        "end_offset": state.end,
        "size_bytes": verified.size_bytes,
        "epoch": state.epoch,
    }


def _compare(names: LogNames, state: Any, report: Report) -> None:
    try:
        directory = find_log(disk := RealDisk(), names)
    except CorruptDataError:
        return  # the directory's own check has said so
    for finding in compare(disk, directory, state):
        report(finding)


def _summary(totals: dict[str, Any]) -> str:
    problems, warnings = totals["problems"], totals["warnings"]
    verdict = counted(problems, "problem") if problems else "clean"
    if warnings:
        verdict += f", {counted(warnings, 'warning')}"
    parts = [_part(totals, "segment")] if "records" in totals else []
    if "store" in totals:
        stored = _part(totals["store"], "object")
        parts.append(f"in the store {stored}" if parts else stored)
    text = f"{verdict}: {'; '.join(parts)}"
    if totals.get("holder"):
        text += f"; held by {totals['holder']}, so checked up to the durability mark"
    return text


def _part(totals: dict[str, Any], what: str) -> str:
    return (
        f"{counted(totals['records'], 'record')}, "
        f"offsets {totals['start_offset']} to {totals['end_offset']} (exclusive), "
        f"{counted(totals[f'{what}s'], what)}, {counted(totals['size_bytes'], 'byte')}"
    )
