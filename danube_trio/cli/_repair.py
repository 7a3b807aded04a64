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

from danube_trio._core.disk import Disk, OpenDirectory, hold
from danube_trio._core.segment import LogNames
from danube_trio._disk.locks import find_holder
from danube_trio._disk.real import RealDisk
from danube_trio._engine.care.repair import apply_repair
from danube_trio._engine.care.repair_plan import Plan, Policy, Step, plan_repair
from danube_trio._engine.care.rescue import Rescue, rescue
from danube_trio._engine.care.verify import Verification
from danube_trio._engine.files.directory import refuse_foreign
from danube_trio.cli._adopt import Adopted, adopt_lost
from danube_trio.cli._failures import CORRUPT, PROBLEMS
from danube_trio.cli._heal import heal_log, plan_healing
from danube_trio.cli._progress import open_bar
from danube_trio.cli._say import complain, say
from danube_trio.cli._values import counted
from danube_trio.cli._where import Where
from danube_trio.cli._words import reworded
from danube_trio.errors import LogLockedError

__all__ = ["repair_log"]

ADOPTED = "repaired: the catalog names the objects again"
REPAIRED = "repaired, and verified: no problems"
NOT_AGREED = "nothing was changed: run it again with --yes"


def repair_log(
    directory: str | None,
    *,
    where: Where,
    policy: Policy | None,
    yes: bool,
    file_name: str,
    as_json: bool,
    codec: str | None = None,
) -> int:
    """Run the command; returns the exit code."""
    disk = RealDisk()
    wanted = where.wanted(directory)
    names = LogNames.of(directory.rstrip("/") or "/", file_name) if directory else None
    if names is not None and (holder := find_holder(names.lock)) is not None:
        raise LogLockedError(names.lock, holder)
    if wanted and codec is not None:
        raise ValueError("--codec and --store exclude each other: first make it a log again")
    adopted: Adopted = "nothing to do"
    if wanted:
        adopted = adopt_lost(disk, names, where, lambda: yes or _agreed(as_json), as_json=as_json)
        if adopted == "not agreed":
            _summary(NOT_AGREED, 1, as_json)
        if adopted not in ("nothing to do", "done"):
            return CORRUPT if adopted == "impossible" else PROBLEMS
    if names is None or (adopted == "done" and not _has_log(disk, names)):
        done = adopted == "done"
        _summary(ADOPTED if done else "nothing to repair", int(done), as_json, repaired=done)
        return 0
    return _repair_directory(
        disk, names, where if wanted else None, policy, codec, yes=yes, as_json=as_json
    )


def _has_log(disk: Disk, names: LogNames) -> bool:
    try:
        return names.meta.rpartition("/")[2] in disk.list_dir(names.directory)
    except FileNotFoundError:
        return False


def _repair_directory(
    disk: Disk,
    names: LogNames,
    where: Where | None,
    policy: Policy | None,
    codec: str | None,
    *,
    yes: bool,
    as_json: bool,
) -> int:
    heal = plan_healing(disk, names, where, as_json=as_json) if where is not None else None
    if heal is not None:
        steps = len(heal.lines())
        if not yes and not _agreed(as_json):
            _summary(NOT_AGREED, steps, as_json)
            return PROBLEMS
        if not heal_log(heal, lambda: _hold(disk, names), as_json=as_json):
            return PROBLEMS
    plan, _ = _plan(disk, names, policy, codec)
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
    return _repair(disk, names, plan, codec, as_json)


def _plan(
    disk: Disk, names: LogNames, policy: Policy | None, codec: str | None
) -> tuple[Plan, Rescue | None]:
    """The plan; with a codec, as for a log that has the meta that it lost."""
    found = rescue(disk, names, codec) if codec is not None else None
    if found is not None:
        disk = found.seen_on(disk)
    with open_bar("verifying", None) as bar:
        plan = plan_repair(disk, names, policy, progress=bar.advance, expect=bar.expect)
    if found is not None:
        reason = (
            f"it is lost; it is written anew, with the codec {codec}. The log gets a new id: a "
            "store and cursors that know the old one refuse it"
        )
        plan = attrs.evolve(plan, steps=(Step("rebuild", names.meta, reason), *plan.steps))
    return plan, found


def _repair(disk: Disk, names: LogNames, shown: Plan, codec: str | None, as_json: bool) -> int:
    """Do it, if under the lock everything is still as it was shown; then verify."""
    if codec is None:
        refuse_foreign(disk, names)
    held = _hold(disk, names)
    try:
        plan, found = _plan(held, names, shown.policy, codec)
        if plan.steps != shown.steps:
            complain("the log was changed meanwhile: nothing was repaired, run it again")
            return PROBLEMS
        if found is not None:
            found.write(held)
            note = f"{names.meta}: written anew"
            say(json.dumps({"done": note}) if as_json else f"done: {note}")
        for note in apply_repair(held, plan):
            say(json.dumps({"done": note}) if as_json else f"done: {note}")
        counts: Counter[str] = Counter()
        for finding in Verification(held, names):
            counts[finding.severity] += 1
            if finding.severity != "note":
                say(_line(finding, as_json))
    finally:
        held.close()
    left = counts["problem"]
    text = REPAIRED if not left else f"{counted(left, 'problem')} left"
    _summary(text, len(plan.steps), as_json, repaired=True, problems=left)
    return PROBLEMS if left else 0


def _hold(disk: Disk, names: LogNames) -> OpenDirectory:
    return hold(disk, names.lock, f"repair, process {os.getpid()} on {socket.gethostname()}")


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
    return json.dumps(attrs.asdict(finding)) if as_json else f"{finding.severity}: {finding}"


def _show_plan(plan: Plan, as_json: bool) -> None:
    for finding in plan.findings:
        say(_line(finding, as_json))
    for step in plan.steps:
        told = attrs.evolve(step, reason=reworded(step.reason))
        say(json.dumps({"step": attrs.asdict(step)}) if as_json else f"plan: {told}")


def _summary(
    text: str, steps: int, as_json: bool, *, repaired: bool = False, problems: int | None = None
) -> None:
    """The last line. `problems` are those that are left; None where nobody has looked."""
    facts = {"repaired": repaired, "steps": steps, "problems": problems}
    say(json.dumps({"summary": facts}) if as_json else text)
