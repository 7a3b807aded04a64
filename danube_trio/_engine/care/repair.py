"""Doing what a repair's plan says. The lock is held meanwhile.

Nothing is taken away before it has been kept beside, durably, and the order of the steps allows a
crash anywhere: what is left then is damaged as before, or repaired, and a repair again goes on. To
truncate a log before damage:

1. write the checkpoint, a hint, without the segments that go;
2. copy the bytes from there to the end of the damaged segment to ``*.corrupt``;
3. lower the durability mark, both slots, synced. From here on those bytes are a torn tail;
4. rename the later segments to ``*.corrupt``, the last one first;
5. cut the segment.

Then `recover` does what opening does: torn tail, leftovers, mark. Append times are mended when
all else is whole (`retime`). What is rebuilt comes last.
"""

from __future__ import annotations

from contextlib import closing
from functools import partial
from itertools import pairwise
from typing import Literal

import attrs

from danube_trio._core.disk import Disk, free_path, name_of, read_file, replace_file
from danube_trio._core.files import MARK_FILE_BYTES, Checkpoint, encode_document
from danube_trio._core.segment import LogNames, Segment
from danube_trio._engine.care.repair_plan import Plan
from danube_trio._engine.care.repair_scan import Damage
from danube_trio._engine.care.retime import retime
from danube_trio._engine.files.directory import DOCUMENT_LIMIT_BYTES, Directory, look, read_mark
from danube_trio._engine.files.recover import recover, save_cut_bytes
from danube_trio._engine.files.segments import scan_segment
from danube_trio._engine.files.space import unshare
from danube_trio._engine.files.tail import put_mark
from danube_trio.config import WalConfig


def apply_repair(disk: Disk, plan: Plan) -> list[str]:
    """Repair what the plan, made under this lock, says can be repaired. Returns what was done.

    Raises OSError: then do it again.
    """
    directory = plan.directory
    if directory is None:
        return []
    notes: list[str] = []
    names = directory.names
    for stray in directory.strays:
        set_segment_aside(disk, names, stray, notes)
    for path in sorted(plan.rebuild):
        _keep_beside(disk, names, directory.directory_crc, path, notes)
    if plan.damage is not None and any(step.action == "truncate" for step in plan.steps):
        _truncate(disk, directory, plan.damage, notes)
    for base, position in plan.tails:
        _cut_behind(disk, names, base, position, notes)
    if plan.reopen is not None:
        _reopen(disk, names, plan.reopen, notes)
    wanted = plan.rebuild
    if plan.late:
        bases = directory.bases
        notes += retime(disk, names, bases, plan.late, plan.latest_time, plan.first_time)
        wanted |= {names.checkpoint, *map(names.index, plan.late)}
    _rebuild(disk, names, wanted, notes)
    return notes


def _keep_beside(
    disk: Disk, names: LogNames, directory_crc: int, path: str, notes: list[str]
) -> None:
    """Rename a damaged small file. A mark that is right in part stays, and is copied."""
    listing = disk.list_dir(names.directory)
    if name_of(path) not in listing:
        return
    target = free_path(listing, lambda number: f"{path}.{number}.corrupt")
    if path == names.mark and read_mark(disk, names, directory_crc) is not None:
        data = read_file(disk, path, DOCUMENT_LIMIT_BYTES)
        replace_file(disk, target, data)
        if len(data) > MARK_FILE_BYTES:
            replace_file(disk, path, data[:MARK_FILE_BYTES])
    else:
        disk.rename(path, target)
        disk.sync_dir(names.directory)
    notes.append(f"{path}: kept in {target}")


def _truncate(disk: Disk, directory: Directory, damage: Damage, notes: list[str]) -> None:
    """End the log before the damage. See the module's text for the order."""
    names = directory.names
    later = [base for base in directory.bases if base > damage.base]
    hints = [
        hint
        for base, hint in sorted(directory.checkpoint.items())
        if base < damage.base and hint.end <= damage.base
    ]
    # Nobody has looked at these files since the checkpoint was written.
    checkpoint = attrs.evolve(Checkpoint.of(damage.base, hints), exact=directory.exact)
    replace_file(disk, names.checkpoint, encode_document(checkpoint))
    path = names.segment(damage.base)
    unshare(disk, path)
    with closing(disk.open(path, "rw")) as file:
        if file.size() > damage.position:
            save_cut_bytes(disk, names, file, damage.base, damage.position, "corrupt", notes)
        place = (damage.end, damage.base, damage.position)
        put_mark(disk, names, directory.directory_crc, *place, taken_back=True)
        disk.sync_dir(names.directory)  # the mark may be a new file
        for base in reversed(later):  # so that no hole is left by a crash in between
            set_segment_aside(disk, names, base, notes)
        file.truncate(damage.position)
        file.sync_data()


def _cut_behind(disk: Disk, names: LogNames, base: int, position: int, notes: list[str]) -> None:
    """Cut what is behind the last record of a sealed segment."""
    try:
        unshare(disk, names.segment(base))
        file = disk.open(names.segment(base), "rw")
    except FileNotFoundError:
        return  # the log was truncated before it
    with closing(file):
        save_cut_bytes(disk, names, file, base, position, "corrupt", notes)
        file.truncate(position)
        file.sync_data()


def set_segment_aside(disk: Disk, names: LogNames, base: int, notes: list[str]) -> None:
    """Keep a segment beside, durably, under a name that does not count."""
    path_of = partial(names.cut_bytes, base, 0, "corrupt")
    target = free_path(disk.list_dir(names.directory), path_of)
    disk.rename(names.segment(base), target)
    disk.sync_dir(names.directory)
    notes.append(f"{names.segment(base)}: kept in {target}")


def _reopen(
    disk: Disk, names: LogNames, policy: Literal["refuse", "skip"], notes: list[str]
) -> None:
    """Open and close the log, as its program would."""
    config = WalConfig(
        dir=names.directory, file_name=names.file_name, on_corruption=policy, preallocate_bytes=0
    )
    with closing(disk.open_dir(names.directory)) as held:
        recovered = recover(held, config, "")
        recovered.tail.close(recovered.next_offset)
    notes += recovered.notes


def _rebuild(disk: Disk, names: LogNames, wanted: frozenset[str], notes: list[str]) -> None:
    """Indexes, and the checkpoint, from the segments that are whole."""
    directory = look(disk, names, complete=False)
    if directory is None or not directory.bases:
        return
    hints: list[Segment] = []
    for base, end in pairwise(directory.bases):
        path = names.index(base)
        if names.checkpoint not in wanted and path not in wanted:
            continue
        index, walk = scan_segment(disk, names.segment(base), base)
        size = disk.file_size(names.segment(base))
        if index.end != end or walk.left >= 0 or index.size_bytes != size:
            continue  # what is not whole is read without an index
        hints.append(Segment(base, end, size, index.first_time, index.last_time))
        if path in wanted:
            replace_file(disk, path, index.encode())
            notes.append(f"{path}: written anew")
    if names.checkpoint in wanted:
        checkpoint = Checkpoint.of(directory.bases[-1], hints)
        replace_file(disk, names.checkpoint, encode_document(checkpoint))
        notes.append(f"{names.checkpoint}: written anew")
