"""The tail of the log: the active segment's file and the durability mark.

Synchronous code over the `Disk` interface. The flusher runs each of these calls in the log's I/O
lane, one at a time, so they need no lock and share one hop: `commit` writes a block, syncs it, and
moves the mark without coming back to the event loop in between.

Rules (`docs/durability.md`): at most one unsynced block is in flight; a mark is written only after
the sync it speaks of; a roll syncs the old segment before the new one exists, and the directory
before anything is written to the new one. After any OSError the object must not be used again,
except for `abandon`. Before a segment is sealed or left it is looked at whether its file still has
its name (`presence`): what was acknowledged into a file without one is lost.
"""

from __future__ import annotations

import errno
import logging

from danube_trio._core.crc import crc32
from danube_trio._core.disk import Disk, File
from danube_trio._core.files import MARK_BYTES, Mark, mark_position
from danube_trio._core.segment import LogNames, Segment
from danube_trio._engine.files.presence import LostFileError, Presence

__all__ = ["MarkFile", "Tail"]

log = logging.getLogger("danube_trio.tail")

# How much of the end of a write is compared later, and of how many writes. Guesses: a truncation
# is missed only if it cuts off nothing but writes between two that are kept.
PROBE_BYTES = 16
MAX_PROBES = 256


class MarkFile:
    """`wal.mark`: two slots written in place, alternately."""

    def __init__(self, file: File, directory_crc: int, sequence: int) -> None:
        self._file = file
        self._directory_crc = directory_crc
        self._sequence = sequence
        self._synced = True

    def put(self, durable_end: int, base: int, position: int) -> None:
        """Write the next mark; it reaches the disk when the system likes, or at `sync`."""
        sequence = self._sequence + 1
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
        disk: Disk,
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
        self._preallocate = preallocate_bytes
        self._segment_bytes = segment_bytes
        self.presence = presence
        self._allocated = position
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
        end = self.position + len(data)
        if self._preallocate and end > self._allocated:
            self._extend(end)
        return end

    def _extend(self, end: int) -> None:
        step = self._preallocate
        # Whole steps, but not past the segment's limit when the data itself fits below it.
        target = max(end, min(-(-end // step) * step, self._segment_bytes))
        try:
            if self._file.allocate(target):
                self._allocated = target
                return
            log.debug("the file system cannot preallocate; going on without")
        except OSError as error:
            # Preallocation may ask for more than there is; whether the data itself fits is for the
            # write to say.
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            log.warning("no space to preallocate %d bytes; going on without", target - end)
        self._preallocate = 0

    def sync(self, durable_end: int) -> None:
        """Sync what was written, then move the mark to `durable_end`."""
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

        Raises LostFileError for all other files.
        """
        self._check()
        self.presence.check(self.names.meta)
        self.presence.check(self.names.trim)
        wrong: list[LostFileError] = []
        for segment in sealed:
            try:
                self.presence.check(self.names.segment(segment.base), segment.base)
            except LostFileError as error:
                wrong.append(error)
        return wrong

    def _check(self) -> None:
        self.presence.check_open(self._file, self.position, self.base, self._ends)
        del self._ends[:-1]
        self._mark.check(self.presence)

    def give_back(self) -> None:
        """Give back what is preallocated and not written yet."""
        if self._allocated > self.position:
            self._file.truncate(self.position)
            self._allocated = self.position

    def finish(self, end: int) -> None:
        """Cut the preallocated rest off, and make file and mark durable and exact."""
        self.give_back()
        self.sync(end)
        self._mark.sync()

    def roll(self, end: int) -> None:
        """Seal the active segment, which ends at offset `end`, and begin the next one."""
        self._check()
        self.finish(end)
        self.begin(end)

    def begin(self, end: int) -> None:
        """Begin the next segment, after `finish`. Without space for its name, nothing changed."""
        file = self.disk.open(self.names.segment(end), "create")
        old, self._file = self._file, file
        self.presence.know(old.path, old.stat())
        old.close()
        self.disk.sync_dir(self.names.directory)
        self.base, self.position, self._allocated = end, 0, 0
        self._ends.clear()
        self.sealed_crc, self.crc = self.crc, 0 if self._checksum else None

    def close(self, end: int) -> None:
        """Leave everything durable and exact."""
        try:
            self._check()
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
