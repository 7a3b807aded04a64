"""The files of a metadata directory: one journal that is written to, and the snapshot before it.

Synchronous code over the `Disk` interface, run in one I/O lane: one call at a time. After any
OSError that a method lets out, only `abandon` may be called; opening again recovers.

**Where it is.** The directory is held open and locked; all calls go through what is held. Each
commit looks first whether its path still leads there, and whether the journal still has its name:
what is written where nobody finds it is not acknowledged.

**Committing.** A batch is written after the last one, synced, and then the mark is moved in place.
The mark is not synced by itself: the next batch's sync takes it along. So it never claims too much,
and after a power cut it may be one batch old, never older. One batch at most is unsynced.

**Starting over.** When the journal has grown, the content becomes a snapshot with a journal of its
own, which is empty:

1. both are written to temporary files and synced; if that fails, these are removed, the old
   journal goes on, and it is tried again later;
2. the new journal is renamed into its place, and the directory synced;
3. the snapshot is renamed into its place (from here on the new journal counts), and the directory
   synced; then the old journal goes.

If 2 or 3 fails, nobody knows which of the two counts after a crash, so nothing more is written.

**Telling torn tails from damage.** Bytes of the journal below the mark were synced: bad ones there
are damage. Those above it are one batch that was being written: bad ones are cut off. A journal
without a valid mark is damaged, for only one of its two slots is ever not durable.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import re
from collections.abc import Iterable

import attrs

from danube_trio._core.disk import Disk, File, OpenDirectory, open_anew
from danube_trio._core.numbers import DIGITS, number_in
from danube_trio.metadata._format import (
    BATCHES_START,
    JournalHeader,
    Mark,
    encode_batch,
    encode_snapshot,
    mark_position,
)
from danube_trio.metadata._table import Change, Entry

log = logging.getLogger("danube_trio.metadata")

_STEM = "metadata"
_JOURNAL = re.compile(rf"{_STEM}\.({DIGITS})\.journal")


class Names:
    """The files of a metadata directory.

    Attributes:
        directory: its path.
        lock: held by who has it open.
        snapshot: the content at the revision where the journal begins.
        snapshot_tmp, journal_tmp: those that are not in their places yet.
    """

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.lock = f"{directory}/{_STEM}.lock"
        self.snapshot = f"{directory}/{_STEM}.snapshot"
        self.snapshot_tmp = f"{self.snapshot}.tmp"
        self.journal_tmp = f"{directory}/{_STEM}.journal.tmp"

    def journal(self, base: int) -> str:
        """The journal of the changes after revision `base`."""
        return f"{self.directory}/{_STEM}.{base:020d}.journal"

    def bases(self, listing: Iterable[str]) -> list[int]:
        """The bases of the journals in a listing, ascending."""
        numbers = (number_in(match[1]) for match in map(_JOURNAL.fullmatch, listing) if match)
        return sorted(number for number in numbers if number is not None)


class Journal:
    """The journal that is written to.

    Attributes:
        position: where the next batch goes.
        revision: of the newest change in it.
    """

    def __init__(
        self, disk: OpenDirectory, names: Names, header: JournalHeader, file: File, mark: Mark
    ) -> None:
        self._disk = disk
        self._names = names
        self._header = header
        self._file = file
        self._sequence = mark.sequence
        self.position = mark.position
        self.revision = mark.revision

    @property
    def base(self) -> int:
        """The revision after which it begins."""
        return self._header.base

    @property
    def size_bytes(self) -> int:
        """How much the batches take."""
        return self.position - BATCHES_START

    def commit(self, changes: list[Change]) -> None:
        """Write the changes as one batch; they are durable when this returns."""
        assert changes[0].revision == self.revision + 1
        self._look()
        data = encode_batch(changes, self.position, self._header.tie)
        self._file.write_at(data, self.position)
        self._file.sync_data()
        self.position += len(data)
        self.revision = changes[-1].revision
        self._put_mark(self._sequence + 1)

    def _look(self) -> None:
        """Raises OSError if what is written would not be found."""
        what = self._disk.strayed()
        if what is None and not self._file.stat().links:
            raise OSError(
                errno.ESTALE,
                "somebody removed or replaced the journal of the running store: restore the "
                "directory from a copy",
                self._file.path,
            )
        if what is not None:
            raise OSError(
                errno.ESTALE,
                f"somebody changed the directory of the running store: it {what}; move it back, or "
                f"open it where it is",
                self._names.directory,
            )

    def _put_mark(self, sequence: int) -> None:
        mark = Mark(sequence, self.position, self.revision)
        self._file.write_at(mark.encode(self._header.tie), mark_position(sequence))
        self._sequence = sequence

    def repair(self, tail: bytes, sequence: int) -> None:
        """Make what recovery found the durable truth: `tail` are the bytes above the old mark.

        They are written again, for a sync that failed may have left them in the page cache only,
        where later syncs do not look for them. What follows them is cut off.
        """
        if tail:
            self._file.write_at(tail, self.position - len(tail))
        self._file.truncate(self.position)
        self._file.sync_data()
        self._put_mark(sequence)
        self._file.sync_data()

    def start_over(self, entries: list[tuple[str, Entry]]) -> bool:
        """Make this content a snapshot, and begin a new journal after it.

        Returns False if that was not possible now, for example for want of space: nothing has
        changed then. Raises OSError if nobody knows whether it happened.
        """
        snapshot = encode_snapshot(self._header.directory_id, self.revision, entries)
        header = attrs.evolve(self._header, base=self.revision)
        try:
            file, mark = install(self._disk, self._names, header, snapshot)
        except NotInstalledError as error:
            log.warning("%s: no new snapshot for now: %s", self._names.directory, error)
            return False
        old, old_base = self._file, self._header.base
        self._file, self._header = file, header
        self._sequence, self.position = mark.sequence, mark.position
        _close(old)
        # A leftover, if that fails; the next open removes it.
        with contextlib.suppress(OSError):
            self._disk.unlink(self._names.journal(old_base))
        return True

    def close(self) -> None:
        """Make the mark durable too, and close the file."""
        try:
            self._file.sync_data()
            self._look()
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Close the file as it is; recovery does the rest."""
        _close(self._file)


class NotInstalledError(Exception):
    """Snapshot and journal could not be written, and nothing has changed; `error` says why."""

    def __init__(self, error: OSError) -> None:
        self.error = error
        super().__init__(str(error))


def install(disk: Disk, names: Names, header: JournalHeader, snapshot: bytes) -> tuple[File, Mark]:
    """Put a snapshot and its empty journal in their places; the module's text has the order.

    Each by renaming, for both may be there already. Raises NotInstalledError, or OSError if nobody
    knows whether it happened.
    """
    mark = Mark(2, BATCHES_START, header.base)
    try:
        _write_new(disk, names.journal_tmp, header.encode(mark))
        _write_new(disk, names.snapshot_tmp, snapshot)
    except OSError as error:
        # They hold space that somebody needs; the first error counts.
        for path in (names.journal_tmp, names.snapshot_tmp):
            with contextlib.suppress(OSError):
                disk.unlink(path)
        raise NotInstalledError(error) from error
    disk.rename(names.journal_tmp, names.journal(header.base))
    disk.sync_dir(names.directory)
    disk.rename(names.snapshot_tmp, names.snapshot)
    disk.sync_dir(names.directory)
    return disk.open(names.journal(header.base), "rw"), mark


def _write_new(disk: Disk, path: str, data: bytes) -> None:
    """Make a file with this content, synced (its name is not); replaces a leftover."""
    file = open_anew(disk, path)
    try:
        file.write_at(data, 0)
        file.sync_data()
    finally:
        _close(file)


def _close(file: File) -> None:
    try:
        file.close()
    except OSError as error:  # it is being given up, or all of it is durable
        log.warning("closing failed: %s", error)
