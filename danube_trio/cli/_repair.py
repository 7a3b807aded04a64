"""``danube-trio repair``."""

from __future__ import annotations

import sys

import attrs
import click

from danube_trio._core.disk import Disk, OpenDirectory, hold
from danube_trio._core.segment import LogNames
from danube_trio._disk.locks import find_holder, this_process
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
from danube_trio.cli._report import Report
from danube_trio.cli._say import complain
from danube_trio.cli._values import counted
from danube_trio.cli._where import Where
from danube_trio.errors import LogLockedError

ADOPTED = "repaired: the catalog names the objects again"
REPAIRED = "repaired, and verified: no problems"
NOT_AGREED = "nothing was changed: run it again with --yes"
UNDECIDED = "nothing was changed: say with --policy what to do, and look at the plan again"


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
    disk, report = RealDisk(), Report(as_json)
    wanted = where.wanted(directory)
    names = LogNames.of(directory.rstrip("/") or "/", file_name) if directory else None
    if names is not None and (holder := find_holder(names.lock)) is not None:
        raise LogLockedError(names.lock, holder)
    if wanted and codec is not None:
        raise ValueError("--codec and --store exclude each other: first make it a log again")
    adopted: Adopted = "nothing to do"
    if wanted:
        adopted = adopt_lost(disk, names, where, lambda: yes or _agreed(report), report)
        if adopted == "not agreed":
            _summary(report, NOT_AGREED, 1)
        if adopted not in ("nothing to do", "done"):
            return CORRUPT if adopted == "impossible" else PROBLEMS
    if names is None or (adopted == "done" and not _has_log(disk, names)):
        done = adopted == "done"
        _summary(report, ADOPTED if done else "nothing to repair", int(done), repaired=done)
        return 0
    return _Repair(disk, names, policy, codec, yes, report).run(where if wanted else None)


def _has_log(disk: Disk, names: LogNames) -> bool:
    try:
        return names.meta.rpartition("/")[2] in disk.list_dir(names.directory)
    except FileNotFoundError:
        return False


@attrs.frozen
class _Repair:
    """Of a directory. What is done is what was shown, or nothing."""

    disk: Disk
    names: LogNames
    policy: Policy | None
    codec: str | None
    yes: bool
    report: Report

    def run(self, where: Where | None) -> int:
        """Heal it from the store, if there is one, then repair what is left; the exit code."""
        report, healed = self.report, 0
        heal = plan_healing(self.disk, self.names, where, report) if where is not None else None
        if heal is not None:
            healed = len(heal.lines())
            if not self._agreed():
                _summary(report, NOT_AGREED, healed)
                return PROBLEMS
            if not heal_log(heal, self._hold, report):
                return PROBLEMS
        plan, _ = self._plan(self.disk)
        for finding in plan.findings:
            report(finding)
        for step in plan.steps:
            report.step(step.action, step.path, step.reason, step.lost)
        if not plan.steps:
            text = REPAIRED if healed else "nothing to repair"
            _summary(report, text, healed, repaired=bool(healed), problems=0)
            return _code(plan) if healed else 0
        problems = sum(finding.severity == "problem" for finding in plan.findings)
        if not plan.changes:
            reason = "nothing that a repair could change"
            if any(step.action == "undecided" for step in plan.steps):
                reason = UNDECIDED
            _summary(report, reason, len(plan.steps), problems=problems)
            return _code(plan)
        if not self._agreed():
            _summary(report, NOT_AGREED, len(plan.steps), problems=problems)
            return _code(plan) or PROBLEMS
        return self._carry_out(plan)

    def _plan(self, disk: Disk) -> tuple[Plan, Rescue | None]:
        """The plan; with a codec, as for a log that has the meta that it lost."""
        found = rescue(disk, self.names, self.codec) if self.codec is not None else None
        if found is not None:
            disk = found.seen_on(disk)
        with open_bar("verifying", None) as bar:
            plan = plan_repair(
                disk, self.names, self.policy, progress=bar.advance, expect=bar.expect
            )
        if found is not None:
            reason = (
                f"it is lost; it is written anew, with the codec {self.codec}. The log gets a new "
                "id: a store and cursors that know the old one refuse it"
            )
            plan = attrs.evolve(plan, steps=(Step("rebuild", self.names.meta, reason), *plan.steps))
        return plan, found

    def _carry_out(self, shown: Plan) -> int:
        """Do it, if under the lock everything is still as it was shown; then verify."""
        if self.codec is None:
            refuse_foreign(self.disk, self.names)
        held = self._hold()
        try:
            plan, found = self._plan(held)
            if plan.steps != shown.steps:
                complain("the log was changed meanwhile: nothing was repaired, run it again")
                return PROBLEMS
            if found is not None:
                found.write(held)
                self.report.done(f"{self.names.meta}: written anew")
            for note in apply_repair(held, plan):
                self.report.done(note)
            left = 0
            for finding in Verification(held, self.names):
                left += finding.severity == "problem"
                if finding.severity != "note":
                    self.report(finding)
        finally:
            held.close()
        text = REPAIRED if not left else f"{counted(left, 'problem')} left"
        _summary(self.report, text, len(plan.steps), repaired=True, problems=left)
        return PROBLEMS if left else 0

    def _hold(self) -> OpenDirectory:
        return hold(self.disk, self.names.lock, this_process("repair"))

    def _agreed(self) -> bool:
        return self.yes or _agreed(self.report)


def _agreed(report: Report) -> bool:
    """Ask, at a terminal only."""
    if report.as_json or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    return click.confirm("Do this?", err=True)


def _code(plan: Plan) -> int:
    if any(step.action in ("impossible", "undecided") for step in plan.steps):
        return CORRUPT
    return PROBLEMS if any(f.severity == "problem" for f in plan.findings) else 0


def _summary(
    report: Report, text: str, steps: int, *, repaired: bool = False, problems: int | None = None
) -> None:
    """The last line. `problems` are those that are left; None where nobody has looked."""
    facts = {"repaired": repaired, "steps": steps, "problems": problems}
    report.show({"summary": facts}, text)
