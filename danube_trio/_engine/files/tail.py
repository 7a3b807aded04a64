"""The tail of the log: the active segment's file and the durability mark.

Synchronous code over the `Disk` interface. The flusher runs each of these calls in the log's I/O
lane, one at a time, so they need no lock and share one hop: `commit` writes a block, syncs it, and
moves the mark without coming back to the event loop in between.

Rules (`docs/durability.md`): at most one unsynced block is in flight; a mark is written only after
the sync it speaks of; a roll syncs the old segment before the new one exists, and the directory
before anything is written to the new one. After any OSError the object must not be used again,
except for `abandon`.
"""

from __future__ import annotations

import errno
import logging

from danube_trio._core.crc import crc32
from danube_trio._core.disk import Disk, File
from danube_trio._core.files import Mark, mark_position, next_sequence
from danube_trio._core.segment import LogNames
from danube_trio._engine.files.directory import read_mark

__all__ = ["MarkFile", "Tail"]

log = logging.getLogger("danube_trio.tail")


class MarkFile:
    """`wal.mark`: two slots written in place, alternately."""

    def __init__(self, file: File, directory_crc: int, sequence: int) -> None:
        self._file = file
        self._directory_crc = directory_crc
        self._sequence = sequence
        self._synced = True

    @classmethod
    def open(cls, disk: Disk, names: LogNames, directory_crc: int) -> MarkFile:
        """Go on with the file that is there, or make one."""
        newest = read_mark(disk, names, directory_crc)
        try:
            file = disk.open(names.mark, "rw")
        except FileNotFoundError:
            file = disk.open(names.mark, "create")
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
        *,
        base: int,
        position: int,
        preallocate_bytes: int,
        segment_bytes: int,
        checksum: bool = False,
    ) -> None:
        self._disk = disk
        self._names = names
        self._file = file
        self._mark = mark
        self._preallocate = preallocate_bytes
        self._segment_bytes = segment_bytes
        self._allocated = position
        self._unsynced = False
        self.base = base
        self.position = position
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

    def finish(self, end: int) -> None:
        """Cut the preallocated rest off, and make file and mark durable and exact."""
        if self._allocated > self.position:
            self._file.truncate(self.position)
            self._allocated = self.position
        self.sync(end)
        self._mark.sync()

    def roll(self, end: int) -> None:
        """Seal the active segment, which ends at offset `end`, and begin the next one."""
        self.finish(end)
        file = self._disk.open(self._names.segment(end), "create")
        old, self._file = self._file, file
        old.close()
        self._disk.sync_dir(self._names.directory)
        self.base, self.position, self._allocated = end, 0, 0
        self.sealed_crc, self.crc = self.crc, 0 if self._checksum else None

    def close(self, end: int) -> None:
        """Leave everything durable and exact."""
        try:
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
