"""The tail of the log: the active segment's file and the durability mark.

Synchronous code over the `Disk` interface. The flusher runs each of these calls in the log's I/O
lane, one at a time, so they need no lock and share one hop: `commit` writes a block, syncs it, and
moves the mark without coming back to the event loop in between.

Rules (`docs/durability.md`): at most one unsynced block is in flight; a mark is written only after
the sync it speaks of; a roll syncs the old segment before the new one exists, and the directory
before anything is written to the new one. After any OSError the object must not be used again,
except for `abandon`. Before a segment is sealed or left it is looked at whether its file still has
its name (`presence`): what was acknowledged into a file without one is lost.

The directory is synced here only, also for the janitor. One that fails takes with it, in silence,
whatever name anybody has made there since the last one, and the next one succeeds: so they come one
after the other with the rolls, and after a failed one nothing is written any more. If somebody else
syncs the directory, and that fails, it is told here too, because the directory is held open, by who
has its lock.

Reserving space ahead makes a sync cheaper, and no more. It never decides whether a record fits, so
it takes only what is plenty, gives back what it got in part, is tried again a step later, and
leaves nothing: whoever seals or closes cuts the file where its last frame ends.
"""

from __future__ import annotations

import errno
import logging
from contextlib import closing
from functools import partial

from danube_trio._core.crc import crc32
from danube_trio._core.disk import Disk, File, OpenDirectory
from danube_trio._core.files import MARK_BYTES, Mark, mark_position, next_sequence
from danube_trio._core.segment import LogNames, Segment
from danube_trio._engine.files.directory import read_mark
from danube_trio._engine.files.presence import LostFileError, Presence
from danube_trio._engine.files.space import has_room, unshare, with_room

log = logging.getLogger("danube_trio.tail")

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Of what is free, at most this part is reserved at once: the rest is for records, of whatever log.
# A guess.
PLENTY = 8
# How much of the end of a write is compared later, and of how many writes. Guesses: a truncation
# is missed only if it cuts off nothing but writes between two that are kept.
PROBE_BYTES = 16
MAX_PROBES = 256


def put_mark(
    disk: Disk,
    names: LogNames,
    directory_crc: int,
    end: int,
    base: int,
    position: int,
    *,
    taken_back: bool = False,
    newest: Mark | None = None,
) -> None:
    """Say durably where the log ends, in both slots, so that no old mark can win later.

    With `taken_back` a generation begins. `newest` is the mark that is there, if it is tied to
    another directory's id.
    """
    with closing(MarkFile.open(disk, names, directory_crc, newest)) as file:
        file.put(end, base, position, taken_back=taken_back)
        file.put(end, base, position)
        file.sync()


class MarkFile:
    """`wal.mark`: two slots written in place, alternately."""

    def __init__(self, file: File, directory_crc: int, sequence: int) -> None:
        self._file = file
        self._directory_crc = directory_crc
        self._sequence = sequence
        self._synced = True

    @classmethod
    def open(
        cls, disk: Disk, names: LogNames, directory_crc: int, newest: Mark | None = None
    ) -> MarkFile:
        """Go on with the file that is there, or make one."""
        newest = newest or read_mark(disk, names, directory_crc)
        try:
            unshare(disk, names.mark)
            file = disk.open(names.mark, "rw")
        except FileNotFoundError:
            file = with_room(disk, names, partial(disk.open, names.mark, "create"))
        return cls(file, directory_crc, newest.sequence if newest is not None else 0)

    def put(self, durable_end: int, base: int, position: int, *, taken_back: bool = False) -> None:
        """Write the next mark; it reaches the disk when the system likes, or at `sync`.

        With `taken_back` a generation begins. Synced before what was visible is touched.
        """
        sequence = next_sequence(self._sequence, taken_back=taken_back)
        mark = Mark(sequence, durable_end, base, position)
        self._file.write_at(mark.encode(self._directory_crc), mark_position(sequence))
        self._sequence = sequence
        self._synced = False

    def check(self, presence: Presence) -> None:
        """Raises LostFileError if the file is not the one of its name any more."""
        presence.check_open(self._file, MARK_BYTES)

    def sync(self) -> None:
        """Make the newest mark durable."""
        if not self._synced:
            self._file.sync_data()
            self._synced = True

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Tail:
    """The active segment `[base, ...)`, written at `position`."""

    def __init__(
        self,
        disk: OpenDirectory,
        names: LogNames,
        file: File,
        mark: MarkFile,
        presence: Presence,
        *,
        base: int,
        position: int,
        preallocate_bytes: int,
        segment_bytes: int,
        checksum: bool = False,
    ) -> None:
        self.disk = disk
        self.names = names
        self._file = file
        self._mark = mark
        self._step = preallocate_bytes
        self._segment_bytes = segment_bytes
        self.presence = presence
        self._reserve_at = position  # what goes beyond it asks for more space first
        self._failed: OSError | None = None  # a sync of the directory
        self._unsynced = False
        self.base = base
        self.position = position
        # Ends of what was written since it was looked at last, the latest always: see `presence`.
        self._ends: list[tuple[bytes, int]] = []
        if position:
            size = min(position, PROBE_BYTES)
            self._ends.append((file.read_at(size, position - size), position))
        self._checksum = checksum
        # Of all bytes of the active segment; None if it is not kept, or began before this run.
        self.crc: int | None = 0 if checksum and not position else None
        self.sealed_crc: int | None = None  # of the segment that was rolled last

    def know_small_files(self) -> None:
        """From here on whoever touches them is noticed: nobody replaces them any more."""
        self.presence.know(self.names.meta)
        if has_room(self.disk, self.names):
            self.presence.know(self.names.trim)

    def write(self, data: bytes) -> None:
        """Append `data`; it is in the page cache then."""
        end = self._make_room(data)
        self._file.write_at(data, self.position)
        self._wrote(data, end)
        self._unsynced = True

    def _wrote(self, data: bytes, end: int) -> None:
        self.position = end
        self._ends.append((data[-PROBE_BYTES:], end))
        if len(self._ends) > MAX_PROBES:
            del self._ends[-2::-2]
        if self.crc is not None:
            self.crc = crc32(data, self.crc)

    def _make_room(self, data: bytes) -> int:
        self._check_synced()
        end = self.position + len(data)
        if self._step and end > self._reserve_at:
            self._reserve(end)
        return end

    def _reserve(self, end: int) -> None:
        step = self._step
        # Whole steps, but not past the segment's limit when the data itself fits below it. If there
        # is no space for this one, the next one is tried when the records have come so far.
        self._reserve_at = max(end, min(-(-end // step) * step, self._segment_bytes))
        size = self._file.size()
        if (self._reserve_at - size) * PLENTY > self._free_bytes():
            return
        try:
            if not self._file.allocate(self._reserve_at):
                log.debug("the file system cannot preallocate; going on without")
                self._step = 0
        except OSError as error:
            # It asks for more than there may be; whether the data itself fits is for the write to
            # say. What it got before it failed would be missed there.
            self._file.truncate(size)
            if error.errno not in NO_SPACE:
                raise
            log.info("no space to preallocate %d bytes: %s", self._reserve_at - size, error)

    def _free_bytes(self) -> int:
        try:
            return self.disk.free_bytes(self.names.directory)
        except OSError as error:
            log.debug("nobody knows how much space is free: %s", error)
            return 0

    def _check_synced(self) -> None:
        if self._failed is not None:
            raise self._failed

    def sync_directory(self) -> None:
        """Make every name in the directory durable. If that fails the log must be broken."""
        self._check_synced()
        try:
            self.disk.sync_dir(self.names.directory)
        except OSError as error:
            self._failed = error
            raise

    def sync(self, durable_end: int) -> None:
        """Sync what was written, then move the mark to `durable_end`."""
        self._check_synced()
        self._file.sync_data()
        self._unsynced = False
        self._mark.put(durable_end, self.base, self.position)

    def commit(self, data: bytes, durable_end: int) -> None:
        """Write and sync in one hop, and move the mark to `durable_end`.

        With one call of the system where there is one, because after each call the thread must take
        the interpreter's lock back from the loop, which may be busy framing the next block.
        """
        if self._unsynced:  # a durable write speaks only for its own bytes
            self.write(data)
            self.sync(durable_end)
        else:
            end = self._make_room(data)
            self._file.write_durable_at(data, self.position)
            self._wrote(data, end)
            self._mark.put(durable_end, self.base, self.position)

    def sync_mark(self) -> None:
        """Make the mark itself durable (every few seconds, and at each roll and close)."""
        self._mark.sync()

    def look(self, sealed: list[Segment]) -> list[LostFileError]:
        """Look whether the files still are ours; returns what is wrong with these segments.

        Raises LostFileError for all other files, and for the directory.
        """
        self._check_files()
        self.presence.check(self.names.meta)
        self.presence.check(self.names.trim)
        wrong: list[LostFileError] = []
        for segment in sealed:
            try:
                self.presence.check(self.names.segment(segment.base), segment.base)
            except LostFileError as error:
                wrong.append(error)
        return wrong

    def _check_files(self) -> None:
        self.presence.check_directory()
        self.presence.check_open(self._file, self.position, self.base, self._ends)
        del self._ends[:-1]
        self._mark.check(self.presence)

    def give_back(self) -> None:
        """Cut off what no frame has filled: space that was reserved ahead."""
        self._check_synced()
        if self._file.size() != self.position:
            self._file.truncate(self.position)
        self._reserve_at = self.position

    def finish(self, end: int) -> None:
        """Make file and mark durable and exact."""
        self.give_back()
        self.sync(end)
        self._mark.sync()

    def roll(self, end: int) -> None:
        """Seal the active segment, which ends at offset `end`, and begin the next one."""
        self._check_files()  # first: once it is sealed and closed, nobody can tell any more
        self.finish(end)
        self._begin(end)
        self.sync_directory()

    def roll_with_room(self, end: int) -> None:
        """The same for openings, also on a full disk."""
        self.finish(end)
        with_room(self.disk, self.names, partial(self._begin, end))
        self.sync_directory()

    def _begin(self, end: int) -> None:
        """Begin the next segment. Without space for its name, nothing changed."""
        assert end >= self.base, (end, self.base)
        file = self.disk.open(self.names.segment(end), "create")
        old, self._file = self._file, file
        self.presence.know(old.path, old.stat())
        old.close()
        self.base, self.position, self._reserve_at = end, 0, 0
        self._ends.clear()
        self.sealed_crc, self.crc = self.crc, 0 if self._checksum else None

    def close(self, end: int) -> None:
        """Leave everything durable and exact."""
        try:
            self._check_files()
            self.finish(end)
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Close the files as they are; recovery does the rest."""
        for file in (self._file, self._mark):
            try:
                file.close()
            except OSError as error:  # it was broken before, or is being closed as it is
                log.warning("closing failed: %s", error)
