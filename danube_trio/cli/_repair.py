"""``danube-trio repair``."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections import Counter
from typing import Any

import attrs
import click

from danube_trio._core.disk import Disk, Lock
from danube_trio._core.segment import LogNames
from danube_trio._disk.real import RealDisk
from danube_trio._engine.care.repair import apply_repair
from danube_trio._engine.care.repair_plan import Plan, Policy, plan_repair
from danube_trio._engine.care.verify import Verification
from danube_trio._engine.files.directory import refuse_foreign
from danube_trio.cli._failures import CORRUPT, PROBLEMS
from danube_trio.cli._heal import heal_log, plan_healing
from danube_trio.cli._holder import find_holder
from danube_trio.cli._progress import open_bar
from danube_trio.cli._say import complain, say
from danube_trio.cli._values import counted
from danube_trio.cli._where import Where
from danube_trio.cli._words import reworded
from danube_trio.errors import LogLockedError

__all__ = ["repair_log"]

REPAIRED = "repaired, and verified: no problems"
NOT_AGREED = "nothing was changed: run it again with --yes"


def repair_log(
    directory: str,
    *,
    where: Where,
    policy: Policy | None,
    yes: bool,
    file_name: str,
    as_json: bool,
) -> int:
    """Run the command; returns the exit code."""
    disk = RealDisk()
    wanted = where.wanted(directory)
    names = LogNames.of(directory.rstrip("/") or "/", file_name)
    if (holder := find_holder(names.lock)) is not None:
        raise LogLockedError(names.lock, holder)
    heal = plan_healing(disk, names, where, as_json=as_json) if wanted else None
    if heal is not None:
        steps = len(heal.lines())
        if not yes and not _agreed(as_json):
            _summary(NOT_AGREED, steps, as_json)
            return PROBLEMS
        if not heal_log(disk, heal, lambda: _lock(disk, names), as_json=as_json):
            return PROBLEMS
    plan = _plan(disk, names, policy)
    _show_plan(plan, as_json)
    if not plan.steps:
        if heal is None:
            _summary("nothing to repair", 0, as_json, problems=0)
            return 0
        _summary(REPAIRED, len(heal.lines()), as_json, repaired=True, problems=0)
        return _code(plan)
    problems = sum(finding.severity == "problem" for finding in plan.findings)
    if not plan.changes:
        reason = "nothing that a repair could change"
        if any(step.action == "undecided" for step in plan.steps):
            reason = "nothing was changed: say with --policy what to do, and look at the plan again"
        _summary(reason, len(plan.steps), as_json, problems=problems)
        return _code(plan)
    if not yes and not _agreed(as_json):
        _summary(NOT_AGREED, len(plan.steps), as_json, problems=problems)
        return _code(plan) or PROBLEMS
    return _repair(disk, names, plan, as_json)


def _plan(disk: Disk, names: LogNames, policy: Policy | None) -> Plan:
    with open_bar("verifying", None) as bar:
        return plan_repair(disk, names, policy, progress=bar.advance, expect=bar.expect)


def _repair(disk: Disk, names: LogNames, shown: Plan, as_json: bool) -> int:
    """Do it, if under the lock everything is still as it was shown; then verify."""
    refuse_foreign(disk, names)
    lock = _lock(disk, names)
    try:
        plan = _plan(disk, names, shown.policy)
        if plan.steps != shown.steps:
            complain("the log was changed meanwhile: nothing was repaired, run it again")
            return PROBLEMS
        for note in apply_repair(disk, plan):
            say(json.dumps({"done": note}) if as_json else f"done: {note}")
        counts: Counter[str] = Counter()
        for finding in Verification(disk, names):
            counts[finding.severity] += 1
            if finding.severity != "note":
                say(_line(finding, as_json))
    finally:
        lock.release()
    left = counts["problem"]
    text = REPAIRED if not left else f"{counted(left, 'problem')} left"
    _summary(text, len(plan.steps), as_json, repaired=True, problems=left)
    return PROBLEMS if left else 0


def _lock(disk: Disk, names: LogNames) -> Lock:
    return disk.lock(names.lock, f"repair, process {os.getpid()} on {socket.gethostname()}")


def _agreed(as_json: bool) -> bool:
    """Ask, at a terminal only."""
    if as_json or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    return click.confirm("Do this?", err=True)


def _code(plan: Plan) -> int:
    if any(step.action in ("impossible", "undecided") for step in plan.steps):
        return CORRUPT
    return PROBLEMS if any(f.severity == "problem" for f in plan.findings) else 0


def _line(finding: Any, as_json: bool) -> str:
    return (
        json.dumps(attrs.asdict(finding)) if as_json else reworded(f"{finding.severity}: {finding}")
    )


def _show_plan(plan: Plan, as_json: bool) -> None:
    for finding in plan.findings:
        say(_line(finding, as_json))
    for step in plan.steps:
        say(json.dumps({"step": attrs.asdict(step)}) if as_json else reworded(f"plan: {step}"))


def _summary(
    text: str, steps: int, as_json: bool, *, repaired: bool = False, problems: int | None = None
) -> None:
    """The last line. `problems` are those that are left; None where nobody has looked."""
    facts = {"repaired": repaired, "steps": steps, "problems": problems}
    say(json.dumps({"summary": facts}) if as_json else text)
