"""``danube-trio restore``."""

from __future__ import annotations

import json
import os
from typing import Any

import trio

from danube_trio._disk.real import RealDisk
from danube_trio._engine.care.restore import Restored, restore_log
from danube_trio._engine.care.restore_files import STAGING, check_target
from danube_trio._engine.care.restore_plan import RestorePlan, plan_restore
from danube_trio.cli._progress import Bar, open_bar
from danube_trio.cli._say import complain, say
from danube_trio.cli._times import time_text
from danube_trio.cli._values import Start, counted
from danube_trio.cli._where import Where


def restore(
    target: str, *, where: Where, until: Start | None, dry_run: bool, file_name: str, as_json: bool
) -> None:
    """Run the command."""
    where.check_log()
    target = os.path.abspath(target)
    kind, value = until if until is not None else ("", 0.0)
    point: dict[str, Any] = {}
    if kind:
        point = {"until_offset": int(value)} if kind == "offset" else {"until_time": value}
    if dry_run:
        check_target(RealDisk(), target)
        _show(trio.run(_plan, where, point), target, as_json)
        return
    try:
        with open_bar("restoring", None) as bar:
            done = trio.run(_restore, where, target, file_name, point, bar)
    except KeyboardInterrupt:
        complain(f"interrupted: the same command goes on with what is in {target}{STAGING}")
        raise
    _show(done, target, as_json)


async def _plan(where: Where, point: dict[str, Any]) -> RestorePlan:
    async with where.open() as corner:
        return await plan_restore(corner.store, corner.catalog(), disk=RealDisk(), **point)


async def _restore(
    where: Where, target: str, file_name: str, point: dict[str, Any], bar: Bar
) -> Restored:
    async with where.open() as corner:
        return await restore_log(
            corner.store,
            target,
            catalog=corner.catalog(),
            file_name=file_name,
            expect=bar.expect,
            progress=bar.advance,
            **point,
        )


def _show(done: Restored | RestorePlan, target: str, as_json: bool) -> None:
    facts: dict[str, Any] = {
        "restored": isinstance(done, Restored),
        "target": target,
        "records": done.end_offset - done.start_offset,
        "start_offset": done.start_offset,
        "end_offset": done.end_offset,
        "last_time": time_text(done.last_time),
    }
    if isinstance(done, Restored):
        names = ("objects", "size_bytes", "fetched_bytes", "resumed_bytes", "directory_id")
        facts |= {name: getattr(done, name) for name in names}
    else:  # what would be; a restore that was interrupted may have some of it already
        facts |= {
            "objects": len(done.objects),
            "size_bytes": done.fetch_bytes - done.cut_bytes,
            "fetched_bytes": done.fetch_bytes,
            "resumed_bytes": 0,
            "directory_id": None,
        }
    say(json.dumps(facts) if as_json else _text(facts))


def _text(facts: dict[str, Any]) -> str:
    records = (
        f"{counted(facts['records'], 'record')}, offsets {facts['start_offset']} to "
        f"{facts['end_offset']} (exclusive)"
    )
    if facts["last_time"]:
        records += f", the last one appended at {facts['last_time']}"
    objects = counted(facts["objects"], "object")
    if not facts["restored"]:
        return f"would restore {records}: {counted(facts['fetched_bytes'], 'byte')} in {objects}"
    fetched = f"fetched {counted(facts['fetched_bytes'], 'byte')}"
    if facts["resumed_bytes"]:
        fetched += f", and {facts['resumed_bytes']:,} before"
    return f"restored {records}, into {facts['target']}: {objects}, {fetched}"
