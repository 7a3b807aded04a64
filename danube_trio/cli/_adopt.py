"""``danube-trio repair --store``: a catalog that is gone, or older than its objects."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Literal

import trio

from danube_trio._core.disk import Disk
from danube_trio._core.segment import LogNames
from danube_trio._engine.care.adopt import Adoption, adopt_objects, plan_adoption
from danube_trio._engine.files.directory import Directory, look
from danube_trio.catalog import Catalog
from danube_trio.cli._progress import open_bar
from danube_trio.cli._say import complain, say
from danube_trio.cli._where import Where
from danube_trio.cloud import CloudStore
from danube_trio.errors import CorruptDataError, FencedError

__all__ = ["Adopted", "adopt_lost"]

Adopted = Literal["nothing to do", "done", "impossible", "not agreed", "changed"]


def adopt_lost(
    disk: Disk, names: LogNames | None, where: Where, agreed: Callable[[], bool], *, as_json: bool
) -> Adopted:
    """Print what can be adopted, and adopt it if that is agreed."""
    directory = _look(disk, names) if names is not None else None
    return trio.run(_adopt, directory, where, agreed, as_json)


def _look(disk: Disk, names: LogNames) -> Directory | None:
    try:
        return look(disk, names, complete=False)
    except (CorruptDataError, FileNotFoundError):  # the rest of the repair speaks of it
        return None


async def _adopt(
    directory: Directory | None, where: Where, agreed: Callable[[], bool], as_json: bool
) -> Adopted:
    async with where.open() as corner:
        catalog = corner.catalog()
        with open_bar("verifying objects", None) as bar:
            plan = await plan_adoption(corner.store, catalog, directory, progress=bar.advance)
        if plan is None:
            return "nothing to do"
        _show("note", plan.left, as_json)
        if plan.refused or not plan.added:
            _show("impossible", plan.refused, as_json)
            complain("the objects make no log: nothing was changed")
            return "impossible"
        _show("adopt", plan.lines(catalog), as_json)
        if not agreed():
            return "not agreed"
        return await _carry_out(plan, corner.store, catalog, as_json)


async def _carry_out(plan: Adoption, store: CloudStore, catalog: Catalog, as_json: bool) -> Adopted:
    try:
        state = await adopt_objects(store, catalog, plan)
    except FencedError:
        complain("the catalog was changed meanwhile: nothing was adopted, run it again")
        return "changed"
    note = f"the catalog names {len(plan.added)} objects more, and ends at {state.end}"
    say(json.dumps({"done": note}) if as_json else f"done: {note}")
    return "done"


def _show(action: str, lines: Iterable[tuple[str, str]], as_json: bool) -> None:
    for path, reason in lines:
        step = {"action": action, "path": path, "reason": reason, "lost": None}
        say(json.dumps({"step": step}) if as_json else f"plan: {action}: {path}: {reason}")
