"""``danube-trio repair --store``: the part that needs the object store."""

from __future__ import annotations

from collections.abc import Callable

import trio

from danube_trio._core.disk import Disk, OpenDirectory
from danube_trio._core.segment import LogNames
from danube_trio._engine.care.heal import Heal, apply_heal, plan_heal
from danube_trio._engine.care.verify_objects import verify_objects
from danube_trio._engine.care.verify_segment import Finding
from danube_trio.catalog._default import readable_state
from danube_trio.cli._progress import Bar, open_bar
from danube_trio.cli._report import Report
from danube_trio.cli._say import complain
from danube_trio.cli._where import Where


def plan_healing(disk: Disk, names: LogNames, where: Where, report: Report) -> Heal | None:
    """What the store can heal, after a look at every byte that this relies on; printed."""
    with open_bar("verifying objects", None) as bar:
        heal, findings = trio.run(_plan, disk, names, where, bar)
    for finding in findings:
        report(finding)
    if heal is None:
        return None
    if any(finding.severity == "problem" for finding in findings):
        complain("what is damaged here cannot be healed, because the objects are not whole either")
        return None
    for path, reason in heal.lines():
        report.step("heal", path, reason)
    return heal


async def _plan(
    disk: Disk, names: LogNames, where: Where, bar: Bar
) -> tuple[Heal | None, list[Finding]]:
    findings: list[Finding] = []
    async with where.open() as corner:
        catalog = corner.catalog()
        state = await readable_state(catalog)
        heal = await trio.to_thread.run_sync(plan_heal, disk, names, state)
        if heal is not None:
            verified = await verify_objects(
                corner.store,
                catalog,
                state,
                findings.append,
                wanted=heal.needs,
                expect=bar.expect,
                progress=bar.advance,
            )
            if not verified.objects:  # trimmed meanwhile
                heal = None
    return heal, findings


def heal_log(shown: Heal, hold: Callable[[], OpenDirectory], report: Report) -> bool:
    """Do it, if under the lock everything is still as it was shown."""
    held = hold()
    try:
        if plan_heal(held, shown.directory.names, shown.state) != shown:
            complain("the log was changed meanwhile: nothing was repaired, run it again")
            return False
        for note in apply_heal(held, shown):
            report.done(note)
    finally:
        held.close()
    return True
