"""``danube-trio verify``."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import attrs
import click

from danube_trio._core.segment import LogNames
from danube_trio._disk import RealDisk
from danube_trio._verify import Finding, Verification
from danube_trio.cli._holder import find_holder
from danube_trio.cli._progress import open_bar
from danube_trio.cli._values import counted

__all__ = ["print_findings"]


def print_findings(directory: str, file_name: str, as_json: bool) -> bool:
    """Run the command; True if there are problems."""
    names = LogNames.of(directory.rstrip("/") or "/", file_name)
    counts: Counter[str] = Counter()
    holder = find_holder(names.lock)
    with open_bar("verifying", None) as bar:
        check = Verification(
            RealDisk(), names, live=holder is not None, progress=bar.advance, expect=bar.expect
        )
        for finding in check:
            counts[finding.severity] += 1
            click.echo(_line(finding, as_json))
    totals: dict[str, Any] = {
        "records": check.records,
        "segments": check.segments,
        "start_offset": check.start_offset,
        "end_offset": check.end_offset,
        "size_bytes": check.total_bytes,
        "holder": holder,
        "problems": counts["problem"],
        "warnings": counts["warning"],
        "notes": counts["note"],
    }
    click.echo(json.dumps({"summary": totals}) if as_json else _summary(totals))
    return counts["problem"] > 0


def _line(finding: Finding, as_json: bool) -> str:
    return json.dumps(attrs.asdict(finding)) if as_json else f"{finding.severity}: {finding}"


def _summary(totals: dict[str, Any]) -> str:
    problems, warnings = totals["problems"], totals["warnings"]
    verdict = counted(problems, "problem") if problems else "clean"
    if warnings:
        verdict += f", {counted(warnings, 'warning')}"
    held = f"; held by {totals['holder']}, so checked up to the durability mark"
    return (
        f"{verdict}: {counted(totals['records'], 'record')}, "
        f"offsets {totals['start_offset']} to {totals['end_offset']} (exclusive), "
        f"{counted(totals['segments'], 'segment')}, {counted(totals['size_bytes'], 'byte')}"
        f"{held if totals['holder'] else ''}"
    )
