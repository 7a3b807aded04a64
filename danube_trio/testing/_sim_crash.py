"""Which of the changes that were not durable does a crash keep? See `_sim_disk` for the theory.

A *plan* maps inodes to the changes that are kept, in their order; a torn write is kept as smaller
writes. The plans with a name are the crashes that programs get wrong, the samples are all others.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence

import attrs

from danube_trio.testing._sim_model import (
    Change,
    Cut,
    Data,
    Effect,
    Grow,
    Link,
    Model,
    Rename,
    Unlink,
)

Pending = Mapping[int, Sequence[Change]]


@attrs.frozen(eq=False)
class Crash:
    """A disk after a crash, and how it came about."""

    name: str
    model: Model
    pending: Pending
    kept: Pending

    def lost(self) -> Iterator[str]:
        """Say what was lost, in the order in which it had been done."""
        kept = {id(change) for changes in self.kept.values() for change in changes}
        parts: dict[int, list[Change]] = {}
        for changes in self.kept.values():
            for change in changes:
                parts.setdefault(change.serial, []).append(change)
        every = [change for changes in self.pending.values() for change in changes]
        for change in sorted(every, key=lambda change: change.serial):
            if id(change) not in kept:
                rest = ", ".join(map(str, parts.get(change.serial, [])))
                yield f"{change.path}: {change}" + (f", of which {rest} was kept" if rest else "")


def crashes(
    model: Model,
    following: Sequence[Effect],
    *,
    sector_bytes: int,
    samples: int,
    rng: Callable[[], random.Random],
) -> Iterator[Crash]:
    """Yield the crashes of `model`, the process being about to apply the effects `following`."""
    pending = model.pending()
    yield Crash("synced only", model.crashed({}), pending, {})
    yield Crash("everything written", model.copy(), pending, pending)
    yield from _killed_writing(model, following, sector_bytes)
    if not pending:
        return
    seen: set[object] = {_key({})}
    for name, plan in _named_plans(pending, sector_bytes):
        key = _key(plan)
        if key not in seen:
            seen.add(key)
            yield Crash(name, model.crashed(plan), pending, plan)
    random_plan = rng()
    for number in range(samples):
        plan = _sample(random_plan, pending, sector_bytes)
        key = _key(plan)
        if key not in seen:
            seen.add(key)
            yield Crash(f"sample {number}", model.crashed(plan), pending, plan)


def _killed_writing(
    model: Model, following: Sequence[Effect], sector_bytes: int
) -> Iterator[Crash]:
    """The process is killed in the middle of a write: its first part is in the page cache."""
    write = following[0] if following else None
    if not isinstance(write, Data):
        return
    cuts = _boundaries(write, sector_bytes)
    if cuts:
        cut = cuts[len(cuts) // 2]
        killed = model.copy()
        killed.apply(write.part(write.position, cut))
        if cut > killed.inodes[write.ident].visible.size:
            killed.apply(Grow(write.ident, write.path, write.serial + 1, cut))
        pending = killed.pending()
        done = cut - write.position
        yield Crash(f"killed in the next write at {done}", killed, pending, pending)


def _named_plans(pending: Pending, sector_bytes: int) -> Iterator[tuple[str, Pending]]:
    # Written back by the operating system in time, though nobody asked for it.
    yield "everything kept", pending
    yield "sizes without data", _keep(pending, lambda change: not isinstance(change, Data))
    yield (
        "data without directory entries",
        _keep(pending, lambda change: isinstance(change, Data | Grow | Cut)),
    )
    yield (
        "directory entries without data",
        _keep(pending, lambda change: isinstance(change, Link | Unlink | Rename)),
    )
    yield "removals only", _keep(pending, lambda change: isinstance(change, Unlink))
    writes = [c for changes in pending.values() for c in changes if isinstance(c, Data)]
    if writes:
        writes.sort(key=lambda write: write.serial)
        yield from _torn_plans(pending, writes[-1], sector_bytes)
        yield "first write lost", _keep(pending, lambda change: change is not writes[0])


def _torn_plans(pending: Pending, write: Data, sector_bytes: int) -> Iterator[tuple[str, Pending]]:
    cuts = _boundaries(write, sector_bytes)
    for cut in sorted({cuts[0], cuts[len(cuts) // 2], cuts[-1]} if cuts else ()):
        done = cut - write.position
        yield f"last write torn at {done}", _tear(pending, write, cut, keep_size=False)
    if cuts:
        cut = cuts[len(cuts) // 2]
        done = cut - write.position
        plan = _tear(pending, write, cut, keep_size=True)
        yield f"last write torn at {done}, size kept", plan


def _keep(pending: Pending, wanted: Callable[[Change], bool]) -> Pending:
    return {ident: [c for c in changes if wanted(c)] for ident, changes in pending.items()}


def _tear(pending: Pending, write: Data, cut: int, *, keep_size: bool) -> Pending:
    """Keep everything, but of one write only what is before `cut`."""
    changes: list[Change] = []
    for change in pending[write.ident]:
        if change is write:
            changes.append(write.part(write.position, cut))
        elif isinstance(change, Grow) and change.serial == write.serial + 1 and not keep_size:
            changes.append(Grow(change.ident, change.path, change.serial, cut))
        else:
            changes.append(change)
    return {**pending, write.ident: changes}


def _sample(rng: random.Random, pending: Pending, sector_bytes: int) -> Pending:
    return {ident: _sample_changes(rng, pending[ident], sector_bytes) for ident in sorted(pending)}


def _sample_changes(
    rng: random.Random, changes: Sequence[Change], sector_bytes: int
) -> Sequence[Change]:
    """Choose for one inode: all, nothing, a beginning, or anything at all."""
    way = rng.random()
    if way < 0.15:
        return changes
    if way < 0.3:
        return ()
    if way < 0.5:
        return changes[: rng.randrange(len(changes) + 1)]
    kept: list[Change] = []
    for change in changes:
        fate = rng.random()
        if isinstance(change, Data) and fate < 0.3:
            kept += _tear_anywhere(rng, change, sector_bytes)
        elif fate < 0.65:
            kept.append(change)
    return kept


def _tear_anywhere(rng: random.Random, write: Data, sector_bytes: int) -> Iterator[Data]:
    """Keep every other run of sectors, with one to three seams at random places."""
    inner = _boundaries(write, sector_bytes)
    seams = sorted(rng.sample(inner, min(len(inner), rng.randint(1, 3))))
    starts, ends = [write.position, *seams], [*seams, write.end]
    keep = rng.random() < 0.5
    for start, end in zip(starts, ends, strict=True):
        if keep:
            yield write.part(start, end)
        keep = not keep


def _boundaries(write: Data, sector_bytes: int) -> range:
    """Return the positions inside a write at which a crash can tear it."""
    first = (write.position // sector_bytes + 1) * sector_bytes
    return range(first, write.end, sector_bytes)


def _key(plan: Pending) -> object:
    """Return the same value for plans that keep the same, so that no disk is made twice."""
    return frozenset((ident, tuple(map(_change_key, kept))) for ident, kept in plan.items() if kept)


def _change_key(change: Change) -> tuple[int, int, int]:
    if isinstance(change, Data):
        return change.serial, change.position, change.end
    if isinstance(change, Grow):
        return change.serial, change.size, -1
    return change.serial, -1, -1
