"""Repairing a log's directory from its object store: what is damaged here is read from there.

A damaged or missing segment whose records are in objects need not be given up: the local files
begin behind it then, and readers get what comes before from the store, as they do for segments that
were freed to save space. So a repair does what an open log does when it meets such damage:

1. the damaged segments are kept beside, as ``*.corrupt``;
2. ``wal.trim`` says that the local files begin at the first segment behind the last one of them;
3. the whole segments before that one, which are copies of objects, are removed.

A crash in between leaves a segment missing that objects cover, or leftovers: the same repair again
goes on. Only a directory whose log it still is may rely on the catalog, and only objects that were
just read and verified, every byte of them, cover anything.

The last segment is not healed here, because nothing follows it: opening the log with its store does
that.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import pairwise

import attrs

from danube_trio._core.catalog import CatalogState, Descriptor
from danube_trio._core.disk import Disk
from danube_trio._core.files import Trim
from danube_trio._core.identity import check_log
from danube_trio._core.segment import LogNames
from danube_trio._engine.care.repair import set_segment_aside
from danube_trio._engine.care.repair_scan import SegmentScan
from danube_trio._engine.files.directory import Directory, look
from danube_trio._engine.files.set_aside import belongs, went_on_apart
from danube_trio._engine.files.space import remove_each, renew_trim


@attrs.frozen
class Heal:
    """What would be healed. Offsets are exclusive ends.

    Attributes:
        state: of the catalog.
        directory: as it is.
        local_start: where the local files would begin.
        gaps: the ranges of offsets that cannot be read here.
        damaged: bases of the segments that are kept beside.
        copies: bases of the whole segments that are removed.
    """

    state: CatalogState
    directory: Directory
    local_start: int
    gaps: tuple[tuple[int, int], ...]
    damaged: tuple[int, ...]
    copies: tuple[int, ...]

    def needs(self, descriptor: Descriptor) -> bool:
        """Whether an object must be whole for this."""
        first = max(self.directory.start_offset, self.directory.local_start)
        return descriptor.end > first and descriptor.base < self.local_start

    def lines(self) -> list[tuple[str, str]]:
        """Path and text of each step."""
        names = self.directory.names
        kept = "it is damaged, and kept beside"
        lines = [(names.segment(base), kept) for base in self.damaged]
        ranges = ", ".join(f"{low} to {high}" for low, high in self.gaps)
        text = (
            f"records {ranges} cannot be read here, and are in the store: the local files begin "
            f"at {self.local_start}"
        )
        if self.copies:
            text += f", and copies of objects before that go ({len(self.copies)} segments)"
        return [*lines, (names.trim, text)]


def plan_heal(disk: Disk, names: LogNames, state: CatalogState) -> Heal | None:
    """What objects of this state can heal; None if nothing. Changes nothing.

    Raises CorruptDataError if meta or trim are damaged or of another log, UnsupportedFormatError,
    OSError; ValueError if the log is not this directory's any more, or went on apart from it.
    """
    directory = look(disk, names, complete=False)
    if directory is None:
        return None
    meta = directory.meta
    check_log(meta, state, names.meta)
    if not belongs(meta, state):
        raise ValueError(
            f"{state.writer} took the log over, for another directory: what the store has is no "
            f"copy of what was here. Repair it without --store"
        )
    if went_on_apart(disk, names, meta, state):
        raise ValueError(
            "the store has other records at the offsets of those that are here: the directory and "
            "a copy of it went on apart, or it was restored from a copy. Repair it without --store"
        )
    scan = SegmentScan(disk, directory)
    damage = scan.run()
    if damage is None:
        return None
    bases = directory.bases
    # The first segment behind the gap, up to which objects must reach.
    behind = [(gap, bisect_left(bases, gap[1])) for gap in damage.gaps]
    covered = [(gap, bases[i]) for gap, i in behind if i < len(bases) and bases[i] <= state.end]
    if not covered:
        return None
    local_start = max(start for _, start in covered)
    gaps = tuple(gap for gap, _ in covered)
    assert local_start in bases, (local_start, bases)
    gone = [(base, after) for base, after in pairwise(bases) if base < local_start]
    damaged = tuple(
        base
        for base, after in gone
        if base not in scan.sound and any(low < after and base < high for low, high in gaps)
    )
    copies = tuple(base for base, _ in gone if base not in damaged)
    return Heal(state, directory, local_start, gaps, damaged, copies)


def apply_heal(disk: Disk, heal: Heal) -> list[str]:
    """Do it; the log's lock is held, and the objects were verified. Returns what was done."""
    directory = heal.directory
    names = directory.names
    notes: list[str] = []
    for base in reversed(heal.damaged):
        set_segment_aside(disk, names, base, notes)
    # Before the copies go: a missing segment at or above the start would be corruption.
    trim = Trim(directory.start_offset, heal.local_start)
    renew_trim(disk, names, trim)
    notes.append(f"{names.trim}: the local files begin at {heal.local_start}")
    indexes = set(names.index_bases(disk.list_dir(names.directory)))
    copies = [names.segment(base) for base in heal.copies]
    orphans = sorted(indexes.intersection([*heal.copies, *heal.damaged]))
    failed = remove_each(disk, [*copies, *map(names.index, orphans)])
    for path in copies:
        if path not in failed:
            notes.append(f"{path}: removed, a copy of what is in the store")
    for path, error in failed.items():
        notes.append(f"{path}: nothing needs it any more, and it cannot be removed: {error}")
    disk.sync_dir(names.directory)
    return notes
