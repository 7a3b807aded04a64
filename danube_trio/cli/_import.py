"""``danube-trio import-danube``."""

from __future__ import annotations

import os
from functools import partial
from typing import Any

import attrs
import trio

from danube_trio._disk.real import RealDisk
from danube_trio._engine.care.restore_files import check_target
from danube_trio._engine.danube.directory import Kind
from danube_trio._engine.danube.import_log import (
    MAKER,
    STAGING,
    Imported,
    Plan,
    import_log,
    plan_import,
)
from danube_trio._engine.danube.source import DanubeSource
from danube_trio.cli._failures import CORRUPT, PROBLEMS
from danube_trio.cli._progress import open_bar
from danube_trio.cli._report import Report
from danube_trio.cli._say import complain
from danube_trio.cli._values import counted

# Of each severity; the summary counts all.
MOST_LINES = 1000


def import_danube(
    source: str,
    target: str,
    *,
    codec: str | None,
    kind: Kind | None,
    dry_run: bool,
    on_damage: str,
    keep_offsets: bool,
    file_name: str,
    as_json: bool,
) -> int:
    """Run the command; returns the exit code."""
    disk = RealDisk()
    target = os.path.abspath(target)
    check_target(disk, target, MAKER)
    if f"{target}/".startswith(f"{os.path.abspath(source)}/"):
        raise ValueError(f"{target} is inside the source, to which nothing is written")
    report = Report(as_json)
    counts = report.counts
    with open_bar("checking", None) as bar:
        danube = DanubeSource(
            disk,
            source.rstrip("/") or "/",
            file_name=file_name,
            kind=kind,
            codec=codec,
            progress=bar.advance,
            expect=bar.expect,
        )
        for finding in danube:
            report(finding, most=MOST_LINES)
    plan = plan_import(danube)
    imported = None
    refusal = None if dry_run else _refusal(plan, counts["problem"], on_damage, keep_offsets)
    if not dry_run and refusal is None:
        with open_bar("importing", 2 * danube.payload_bytes) as bar:
            imported = _run(disk, plan, target, bar.advance)
    _show(plan, report, imported, target)
    if refusal is not None:
        complain(refusal)
        return CORRUPT
    return PROBLEMS if counts["problem"] else 0


def _run(disk: RealDisk, plan: Plan, target: str, progress: Any) -> Imported:
    try:
        return trio.run(partial(import_log, disk, plan, target, progress=progress))
    except KeyboardInterrupt:
        complain(f"interrupted: the same command goes on with what is in {target}{STAGING}")
        raise


def _refusal(plan: Plan, problems: int, on_damage: str, keep_offsets: bool) -> str | None:
    """Why the import must not be made."""
    if problems and on_damage == "refuse":
        return (
            f"nothing was imported, because of {counted(problems, 'problem')}: look at what is "
            "lost, and import all the rest with --on-damage skip"
        )
    if keep_offsets and not plan.keeps_offsets:
        return (
            "nothing was imported, because the records cannot all keep their offsets: leave "
            "--keep-offsets out, and they are numbered anew"
        )
    return None


def _show(plan: Plan, report: Report, imported: Imported | None, target: str) -> None:
    danube = plan.source
    totals: dict[str, Any] = {
        "source": danube.files.directory,
        "kind": danube.files.kind,
        "files": len(danube.files.files),
        "size_bytes": danube.size_bytes,
        "codecs": danube.codecs,
        "records": danube.records,
        "payload_bytes": danube.payload_bytes,
        "generations": len(danube.generations),
        "keeps_offsets": plan.keeps_offsets,
        "stretches": plan.stretches(),
        "damaged_bytes": danube.damaged_bytes,
        "missing_records": danube.missing_records,
        "copied_records": danube.copied_records,
        "dropped_segment_ids": danube.dropped_segment_ids,
        **{f"{kind}s": report.counts[kind] for kind in ("problem", "warning", "note")},
        "imported": attrs.asdict(imported) | {"target": target} if imported else None,
    }
    report.show({"summary": totals}, "\n".join(_text(totals)))


def _text(totals: dict[str, Any]) -> list[str]:
    read = (
        f"{counted(totals['records'], 'record')} ({', '.join(totals['codecs']) or 'no layout'}) "
        f"in {counted(totals['files'], 'file')}, {counted(totals['payload_bytes'], 'byte')} of "
        f"payload"
    )
    if totals["generations"] > 1:
        read += f", {totals['generations']} generations"
    for what in ("problem", "warning"):
        if number := totals[f"{what}s"]:
            read += f", {counted(number, what)}"
    lines = [read]
    stretches = totals["stretches"]
    for stretch in stretches[:MOST_LINES]:
        old = f"offsets {stretch['start']} to {stretch['end']} (exclusive)"
        if totals["keeps_offsets"]:
            lines.append(f"{old} are kept")
        else:
            new = f"{stretch['new_start']} to {stretch['new_end']}"
            lines.append(f"{old} of generation {stretch['generation']} become {new}")
    if len(stretches) > MOST_LINES:
        lines.append(f"and {len(stretches) - MOST_LINES:,} more ranges: --json lists all")
    if totals["dropped_segment_ids"]:
        lines.append(
            f"the segment_id of {counted(totals['dropped_segment_ids'], 'record')} is not kept"
        )
    if (imported := totals["imported"]) is not None:
        resumed = f", {imported['resumed']:,} of them before" if imported["resumed"] else ""
        lines.append(
            f"imported {counted(imported['records'], 'record')}{resumed} into "
            f"{imported['target']}, read back and compared"
        )
    return lines
