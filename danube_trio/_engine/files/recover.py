"""Recovery: from what a directory holds to the exact state of its log.

Synchronous code over the `Disk` interface; the lock is held meanwhile. The steps, in an order that
allows a crash anywhere (running it again gives the same state):

1. *Look*: listing, meta, trim, mark, checkpoint. Refuse what is not ours or newer, untouched; and,
   as the policy says, segments that do not tile the log (`tiling`).
2. *Scan* the last segment, in bounded memory.
3. *Judge* the first thing in it that is no frame: zeros to the end are the end of data; at or above
   the mark it is a torn tail; below the mark it is corruption, and the policy decides.
4. *Cut*: copy the cut bytes aside, lower the mark if the cut goes below it, truncate.
5. *Sync* segment, mark and directory. Only now may anything be served: otherwise a kill, a restart,
   a read and a power cut would take back a record that somebody has seen.
6. *Clean*: unfinished replacements, and segments below the start offset. What cannot be removed
   stays until the next opening.

A full disk must not keep a log from being opened, since opening it is how it is freed: `space` has
what is given back for the few bytes and names that are needed here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from functools import partial
from itertools import pairwise

import attrs

from danube_trio._core.disk import (
    Disk,
    File,
    FileStat,
    OpenDirectory,
    free_path,
    pieces_of,
    put_in_place,
    replace_file,
)
from danube_trio._core.files import Mark, Meta, Trim, encode_document
from danube_trio._core.identity import check_topic, named
from danube_trio._core.index import SparseIndex
from danube_trio._core.segment import LogNames, Segment, SegmentList
from danube_trio._engine.files.directory import Directory, look
from danube_trio._engine.files.presence import Presence
from danube_trio._engine.files.segments import (
    SegmentWalk,
    build_index,
    describe,
    load_index,
    readable_after,
)
from danube_trio._engine.files.space import (
    no_space,
    put_trim,
    remove_each,
    renew_trim,
    unshare,
    with_room,
)
from danube_trio._engine.files.tail import MarkFile, Tail, put_mark
from danube_trio._engine.files.tiling import check_tiling
from danube_trio.config import WalConfig
from danube_trio.errors import CorruptDataError

log = logging.getLogger("danube_trio.recover")


@attrs.define(eq=False)
class Recovered:
    """An opened log, ready to be written: its directory, tail and marks."""

    directory: Directory
    segments: SegmentList
    active: SparseIndex
    tail: Tail
    next_offset: int
    last_time: int
    notes: list[str]
    unindexed: list[SparseIndex]

    def check(self) -> None:
        """Assert what holds of every log that is opened."""
        active, tail, segments = self.active, self.tail, self.segments
        assert active.base == tail.base == segments.active_base, self
        assert (active.end, active.size_bytes) == (self.next_offset, tail.position), self
        # The local files have the first record that is not in objects only.
        first = max(self.directory.start_offset, self.directory.local_start)
        assert segments.first_base <= first, self


@attrs.frozen
class Cover:
    """What an object store says of the log that a directory belongs to.

    Attributes:
        end: verified objects hold everything below it that still exists; the log goes on there
            if the directory knows less.
        start_offset: where the log begins.
        codec: the message layout of the log, for a new directory; "" to take the settings'.
        log: its id; "" if the catalog does not know it yet.
    """

    end: int = 0
    start_offset: int = 0
    codec: str = ""
    log: str = ""


def recover(
    disk: OpenDirectory, config: WalConfig, directory_id: str, cover: Cover | None = None
) -> Recovered:
    """Open the log in `config.dir`, or make a new one with `directory_id`.

    The directory is held, and locked, by the caller.
    With a `cover` the log's active segment is empty afterwards, for a new epoch to begin in.

    Raises CorruptDataError (by policy), UnsupportedFormatError, ValueError, OSError.
    """
    recovered = _Recovery(disk, config, cover).run(directory_id)
    recovered.check()
    for note in recovered.notes:
        log.warning("%s", note)
    return recovered


class _Recovery:
    """One opening: what is known of the directory so far, and what is to be told."""

    directory: Directory

    def __init__(self, disk: OpenDirectory, config: WalConfig, cover: Cover | None) -> None:
        assert config.dir is not None
        self.disk = disk
        self.config = config
        self.cover = cover
        self.covered_end = cover.end if cover is not None else 0
        self.names = LogNames.of(config.dir, config.file_name)
        self.skip = config.on_corruption == "skip"
        self.notes: list[str] = []

    def run(self, directory_id: str) -> Recovered:
        disk, names = self.disk, self.names
        fresh = self._look(directory_id)
        if not fresh and not self.directory.bases:
            # Whoever made it was killed, or its sync failed: its name may not be durable, and must
            # be before that of the first segment is.
            replace_file(disk, names.meta, encode_document(self.directory.meta))
        self.directory, found = check_tiling(
            disk, self.directory, self.covered_end, self.notes, skip=self.skip
        )
        with ExitStack() as undo:
            recovered = self._recover_tail(found, undo)
            if recovered.next_offset < self.covered_end:
                recovered.tail.abandon()
                self._continue_at(self.covered_end)
                recovered = self._recover_tail({}, undo)
            if not fresh:
                meta = encode_document(self.directory.meta)
                self._renew(names.meta, partial(put_in_place, disk, names.meta, meta))
            # Else nobody knows that what is below the start may go.
            if self._renew(names.trim, partial(put_trim, disk, names, self._trim)):
                self._remove_leftovers()
            undo.pop_all()
        return recovered

    def _look(self, directory_id: str) -> bool:
        """Look at the directory; begin a log if there is none, and return whether."""
        disk, config, names, cover = self.disk, self.config, self.names, self.cover
        log_id = cover.log if cover is not None else ""
        found = look(disk, names, skip=self.skip, covered_end=self.covered_end)
        fresh = found is None
        if found is None:
            codec = (cover.codec if cover is not None else "") or config.codec
            meta = named(Meta(directory_id=directory_id, codec=codec), log_id, config.topic_name)
            replace_file(disk, names.meta, encode_document(meta))
            found = look(disk, names, covered_end=self.covered_end)
            assert found is not None
        else:
            check_topic(config.topic_name, found.meta.topic, names.directory)
            found = attrs.evolve(found, meta=named(found.meta, log_id, config.topic_name))
        if cover is not None:
            start, local_start = max(found.start_offset, cover.start_offset), found.local_start
            if not found.bases:
                local_start = max(local_start, start, cover.end)
            found = attrs.evolve(found, start_offset=start, local_start=local_start)
        self.directory = found
        return fresh

    def _continue_at(self, end: int) -> None:
        """Objects hold more of the log than the directory does: its files may go, all of them."""
        gone = [*self.directory.leftover_bases, *self.directory.bases]
        self.directory = attrs.evolve(
            self.directory, local_start=end, bases=[], leftover_bases=gone
        )
        renew_trim(self.disk, self.names, self._trim)
        log.info("%s: the log continues at %d, as the catalog says", self.names.directory, end)

    @property
    def _trim(self) -> Trim:
        start, local = self.directory.start_offset, self.directory.local_start
        return Trim(start, local if local > start else 0)

    def _renew(self, path: str, put: Callable[[], None]) -> bool:
        """Replace a small file by itself: its name may not be durable either. False: no space."""
        try:
            put()
        except OSError as error:
            if not no_space(error):
                raise
            self.notes.append(f"{path}: no space to write it again")
            return False
        # Beyond the `except`: if this fails, for whatever reason, nobody knows what is durable.
        self.disk.sync_dir(self.names.directory)
        return True

    def _remove_leftovers(self) -> None:
        names = self.names
        gone = [f"{names.directory}/{name}" for name in self.directory.leftovers]
        for base in self.directory.leftover_bases:
            gone += names.segment(base), names.index(base)
        for path, error in remove_each(self.disk, gone).items():
            text = f"{path}: nothing needs it any more, and it cannot be removed: {error}"
            self.notes.append(text)
        if gone:
            self.disk.sync_dir(names.directory)

    # ---- the last segment

    def _recover_tail(self, found: dict[int, FileStat], undo: ExitStack) -> Recovered:
        """Scan, judge, cut and sync it. `undo` closes the files if opening fails."""
        disk, config, names, directory = self.disk, self.config, self.names, self.directory
        base = directory.bases[-1] if directory.bases else directory.local_start
        file = self._open_last(base)
        with ExitStack() as files:
            files.callback(file.close)
            size = file.size()
            index, walk = build_index(file, base, size=size, trailer=directory.trailer)
            next_offset = self._settle(file, size, index, walk)
            self._write_again(file, index)
            file.sync_data()
            presence = Presence(disk, names.directory)
            segments = self._sealed_segments(found, base, presence)
            last_time = index.last_time or self._last_sealed_time(segments)
            mark_file = MarkFile.open(disk, names, directory.directory_crc)
            files.callback(mark_file.close)
            # Before the mark speaks of a segment, its directory entry must be durable.
            disk.sync_dir(names.directory)
            tail = Tail(
                disk,
                names,
                file,
                mark_file,
                presence,
                base=base,
                position=index.size_bytes,
                preallocate_bytes=config.preallocate_bytes,
                segment_bytes=config.segment_bytes,
                checksum=self.cover is not None,
            )
            unindexed: list[SparseIndex] = []
            if next_offset != index.end:
                # Damage stays where it is (policy "skip"): the log goes on in a new segment.
                segments.seal(Segment(base, next_offset, size, index.first_time, index.last_time))
                tail.position = size
            elif self.cover is not None and index.size_bytes:
                segments.seal(index.segment())
                unindexed.append(index)
            if segments.active_base == base:
                mark_file.put(next_offset, base, index.size_bytes)
                mark_file.sync()
            else:
                tail.roll_with_room(next_offset)
                index = SparseIndex(next_offset)
            files.pop_all()
            undo.callback(tail.abandon)
        return Recovered(
            directory, segments, index, tail, next_offset, last_time, self.notes, unindexed
        )

    def _open_last(self, base: int) -> File:
        """Open the last segment. An empty one is made anew, since its name may not be durable.

        After a sync of the directory that failed at the roll, one that succeeds later proves
        nothing.
        """
        disk, names, path = self.disk, self.names, self.names.segment(base)
        if not self.directory.bases:
            return with_room(disk, names, partial(disk.open, path, "create"))
        if not disk.file_size(path):
            # By renaming: the name must never be gone in between.
            with_room(disk, names, partial(put_in_place, disk, path, b""))
        unshare(disk, path)
        return disk.open(path, "rw")

    def _write_again(self, file: File, index: SparseIndex) -> None:
        """Write what the mark does not vouch for once more, in place, before the sync.

        After a failed sync the kernel takes the pages for clean: they can be read, they are not on
        disk, and the next sync succeeds without writing them. Written again, they are dirty again.
        """
        mark = self.directory.mark
        begin = mark.position if mark is not None and mark.base == index.base else 0
        for position, data in pieces_of(file, begin, index.size_bytes):
            file.write_at(data, position)

    def _last_sealed_time(self, segments: SegmentList) -> int:
        """Time of the newest record when the active segment has none: append times never fall."""
        if not len(segments):
            return 0
        newest = segments.sealed()[-1]
        if newest.last_time:
            return newest.last_time
        return load_index(self.disk, self.names, newest, trailer=self.directory.trailer).last_time

    def _sealed_segments(
        self, stats: dict[int, FileStat], active_base: int, presence: Presence
    ) -> SegmentList:
        directory, sealed = self.directory, list[Segment]()
        for base, end in pairwise(directory.bases):
            path, size = self.names.segment(base), stats[base].size_bytes
            presence.know(path, stats[base])
            known = directory.checkpoint.get(base) if directory.exact else None
            if known is None or (known.end, known.size_bytes) != (end, size):
                named_so = Segment(base, end, size)
                known = describe(self.disk, self.names, named_so, trailer=directory.trailer)
                if known.size_bytes != size:
                    presence.know(path)  # zeros were cut off
            sealed.append(known)
        return SegmentList(sealed, active_base)

    def _settle(self, file: File, size: int, index: SparseIndex, walk: SegmentWalk) -> int:
        """Judge what follows the last whole batch; cut it if that is right. Returns next_offset."""
        mark, fault, cut = self.directory.mark, walk.fault, index.size_bytes
        here = mark if mark is not None and mark.base == index.base else None
        if here is not None and (cut < here.position or index.end < here.durable_end):
            covered = self._lost_below_mark(here, file.path, walk)
            if self.skip and not covered:
                behind = readable_after(file, walk, size=size, trailer=self.directory.trailer)
                return max(walk.offset, here.durable_end, *(end for _, end in behind))
            self._save_cut_bytes(file, index, "corrupt")
            crc, place = self.directory.directory_crc, (index.end, index.base, cut)
            # Before the cut, so that a crash in between leaves a torn tail and not damage.
            put_mark(self.disk, self.names, crc, *place, taken_back=not covered)
        elif mark is not None and mark.base < index.base and index.end < mark.durable_end:
            self._miss_before_mark(mark, file.path, index)
            return max(index.end, mark.durable_end) if self.skip else index.end
        elif fault is None and walk.left < 0:
            return index.end
        elif fault is None or not fault.only_zeros or walk.left >= 0:
            self._save_cut_bytes(file, index, "torn")
        file.truncate(cut)
        return index.end

    def _save_cut_bytes(self, file: File, index: SparseIndex, kind: str) -> None:
        place = (index.base, index.size_bytes)
        save_cut_bytes(self.disk, self.names, file, *place, kind, self.notes)

    def _lost_below_mark(self, mark: Mark, path: str, walk: SegmentWalk) -> bool:
        """What is below the mark is not whole. Raises, unless the policy or a cover allows it.

        Returns whether objects hold what is lost.
        """
        reason = "the file is shorter than the durability mark"
        if walk.fault is not None:
            reason = walk.fault.reason
        elif walk.left >= 0:
            reason = "a batch is not whole"
        problem = CorruptDataError(
            f"{reason} (below the durability mark at byte {mark.position})",
            path=path,
            position=walk.position,
            offset=walk.offset,
        )
        covered = mark.durable_end <= self.covered_end
        if self.config.on_corruption == "refuse" and not covered:
            raise problem
        self.notes.append(f"{problem}{' (healed from the object store)' if covered else ''}")
        return covered

    def _miss_before_mark(self, mark: Mark, path: str, index: SparseIndex) -> None:
        """The log ends below the mark, and in another segment than it names: nothing may be cut."""
        problem = CorruptDataError(
            f"records {index.end} to {mark.durable_end} are in no segment, and were durable",
            path=path,
            position=index.size_bytes,
            offset=index.end,
            advice="Restore the directory from a copy, all of its files from the same one",
        )
        if not self.skip and mark.durable_end > self.covered_end:
            raise problem
        self.notes.append(str(problem))


def save_cut_bytes(
    disk: Disk, names: LogNames, file: File, base: int, position: int, kind: str, notes: list[str]
) -> None:
    """Copy what is cut to a file beside, durably, in bounded memory; without zeros at the end."""
    path_of = partial(names.cut_bytes, base, position, kind)
    target = free_path(disk.list_dir(names.directory), path_of)
    what = f"{file.path}: cut at byte {position}"
    try:
        kept = _copy_to(disk, file, position, target)
    except OSError as error:
        with suppress(FileNotFoundError):
            disk.unlink(target)
        # What was never acknowledged must not keep a full disk from being opened, and trimmed.
        if kind != "torn" or not no_space(error):
            raise
        notes.append(f"{what} (never acknowledged as durable); no space to keep the bytes")
        return
    disk.sync_dir(names.directory)
    why = "never acknowledged as durable" if kind == "torn" else "damaged"
    notes.append(f"{what} ({why}); the {kept} bytes are kept in {target}")


def _copy_to(disk: Disk, file: File, position: int, target: str) -> int:
    with closing(disk.open(target, "create")) as copy:
        kept = 0
        for at, data in pieces_of(file, position):
            copy.write_at(data, at - position)
            if stripped := data.rstrip(b"\0"):
                kept = at - position + len(stripped)
        copy.truncate(kept)
        copy.sync_data()
    return kept
