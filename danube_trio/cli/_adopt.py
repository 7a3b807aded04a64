"""``danube-trio repair --store``: a catalog that is gone, or older than its objects."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import trio

from danube_trio._core.disk import Disk
from danube_trio._core.segment import LogNames
from danube_trio._engine.care.adopt import Adoption, adopt_objects, plan_adoption
from danube_trio._engine.files.directory import Directory, look
from danube_trio.catalog import Catalog
from danube_trio.cli._progress import open_bar
from danube_trio.cli._report import Report
from danube_trio.cli._say import complain
from danube_trio.cli._where import Where
from danube_trio.cloud import CloudStore
from danube_trio.errors import CorruptDataError, FencedError

Adopted = Literal["nothing to do", "done", "impossible", "not agreed", "changed"]


def adopt_lost(
    disk: Disk, names: LogNames | None, where: Where, agreed: Callable[[], bool], report: Report
) -> Adopted:
    """Print what can be adopted, and adopt it if that is agreed."""
    directory = _look(disk, names) if names is not None else None
    return trio.run(_adopt, directory, where, agreed, report)


def _look(disk: Disk, names: LogNames) -> Directory | None:
    try:
        return look(disk, names, complete=False)
    except (CorruptDataError, FileNotFoundError):  # the rest of the repair speaks of it
        return None


async def _adopt(
    directory: Directory | None, where: Where, agreed: Callable[[], bool], report: Report
) -> Adopted:
    async with where.open() as corner:
        catalog = corner.catalog()
        with open_bar("verifying objects", None) as bar:
            plan = await plan_adoption(corner.store, catalog, directory, progress=bar.advance)
        if plan is None:
            return "nothing to do"
        for path, reason in plan.left:
            report.step("note", path, reason)
        if plan.refused or not plan.added:
            for path, reason in plan.refused:
                report.step("impossible", path, reason)
            complain("the objects make no log: nothing was changed")
            return "impossible"
        for path, reason in plan.lines(catalog):
            report.step("adopt", path, reason)
        if not agreed():
            return "not agreed"
        return await _carry_out(plan, corner.store, catalog, report)


async def _carry_out(
    plan: Adoption, store: CloudStore, catalog: Catalog, report: Report
) -> Adopted:
    try:
        state = await adopt_objects(store, catalog, plan)
    except FencedError:
        complain("the catalog was changed meanwhile: nothing was adopted, run it again")
        return "changed"
    report.done(f"the catalog names {len(plan.added)} objects more, and ends at {state.end}")
    return "done"
