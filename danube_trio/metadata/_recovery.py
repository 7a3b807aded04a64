"""Opening a metadata directory: what is there, what it means, and what must be made good.

`docs/metadata-format.md` has the files. The rules, each of which a crash at the wrong moment has
taught somebody:

1. The snapshot says which journal counts. Journals of other bases are leftovers: of a start-over
   that was not finished (they have no batch), or of one that was (they are older).
2. Without a snapshot there is nothing, or what the making of the directory left: a journal without
   a batch. Anything else has lost its snapshot, and is refused.
3. Bad bytes in the journal above its mark are a torn tail; below it they are damage (`_journal`).
4. While the journal has no batch, nothing shows that its name and the snapshot's are durable: a
   failed sync of the directory may have left them in memory only. They are put in place again.
   A batch shows it, for none is written before.
5. Nothing is changed before everything was read and found good.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import secrets

import attrs

from danube_trio._core.disk import Disk, OpenDirectory, read_file
from danube_trio.errors import CorruptDataError, UnsupportedFormatError
from danube_trio.metadata._format import (
    BATCHES_START,
    ID_BYTES,
    SLOT_DISTANCE,
    FormatError,
    JournalHeader,
    Mark,
    NewerError,
    Snapshot,
    decode_batch,
    decode_journal_header,
    decode_marks,
    decode_snapshot,
    encode_snapshot,
)
from danube_trio.metadata._journal import Journal, Names, NotInstalledError, install
from danube_trio.metadata._table import FIRST_REVISION, Change

log = logging.getLogger("danube_trio.metadata")

# A file above this is not one of ours, or has outgrown a store that is kept in memory.
FILE_LIMIT_BYTES = 4 << 30
ADVICE = "Nothing was changed. Restore the directory from a copy"


@attrs.frozen
class Content:
    """What was found: the snapshot, the changes since, and the journal to go on with."""

    snapshot: Snapshot
    changes: list[Change]
    journal: Journal


@attrs.frozen
class _Scan:
    """A journal that was read.

    Attributes:
        marks: the valid ones, the newest first.
        end: where the last whole batch ends.
        size: of the file; more than `end` if there is a torn tail.
        tail: the bytes from the newest mark to `end`.
    """

    header: JournalHeader
    marks: list[Mark]
    changes: list[Change]
    end: int
    size: int
    tail: bytes


def recover(disk: OpenDirectory, names: Names, *, distrust: bool = False) -> Content:
    """Read the directory, finish what a crash has interrupted, open the journal.

    Args:
        distrust: a write or sync has failed in this process, so that what is read may be in the
            page cache only, where later syncs do not look for it: whatever is not known to be on
            disk is written again.

    Raises CorruptDataError or UnsupportedFormatError, with nothing changed, or OSError.
    """
    listing = disk.list_dir(names.directory)
    bases = names.bases(listing)
    try:
        data = read_file(disk, names.snapshot, FILE_LIMIT_BYTES)
        snapshot = decode_snapshot(data)
    except FileNotFoundError:
        _check_nothing_is_lost(disk, names, bases)
        return _make(disk, names, listing)
    except (FormatError, NewerError) as error:
        raise _refusal(names.snapshot, error) from error
    base = snapshot.revision
    if base not in bases:
        raise CorruptDataError("the journal is missing", path=names.journal(base), advice=ADVICE)
    _check_nothing_is_lost(disk, names, [other for other in bases if other > base])
    path = names.journal(base)
    try:
        scan = _scan(read_file(disk, path, FILE_LIMIT_BYTES), snapshot)
    except (FormatError, NewerError) as error:
        raise _refusal(path, error) from error
    journal = _renewed(disk, names, scan, data, distrust=distrust)
    _remove(disk, names, listing, keep=base)
    return Content(snapshot, scan.changes, journal)


def _renewed(
    disk: OpenDirectory, names: Names, scan: _Scan, snapshot: bytes, *, distrust: bool
) -> Journal:
    """The journal; one without a batch is made anew, with its snapshot.

    Their names may not be durable. On a full disk those that are there must do: what is in the
    store says what may be freed.
    """
    if not scan.changes:
        try:
            return _put_in_place(disk, names, scan.header, snapshot)
        except OSError as error:
            # In a store that is open already it can wait: its names must be durable.
            if distrust or error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            log.warning("%s: no space to write the journal again", names.directory)
    return _open(disk, names, scan, distrust=distrust)


def _refusal(path: str, error: FormatError | NewerError) -> Exception:
    if isinstance(error, FormatError):
        return CorruptDataError(error.reason, path=path, position=error.position, advice=ADVICE)
    return UnsupportedFormatError(path, str(error), "Open it with the version that wrote it")


def _check_nothing_is_lost(disk: Disk, names: Names, bases: list[int]) -> None:
    """Journals that no snapshot has led to: they have no batch, or the snapshot is gone, or old."""
    for base in bases:
        if disk.file_size(names.journal(base)) > BATCHES_START:
            raise CorruptDataError(
                f"the snapshot of revision {base} is missing, but its journal has changes",
                path=names.snapshot,
                advice=ADVICE,
            )


def _make(disk: OpenDirectory, names: Names, listing: list[str]) -> Content:
    directory_id = secrets.token_bytes(ID_BYTES)
    header = JournalHeader(directory_id, FIRST_REVISION)
    journal = _put_in_place(disk, names, header, encode_snapshot(directory_id, FIRST_REVISION, []))
    _remove(disk, names, listing, keep=FIRST_REVISION)
    return Content(Snapshot(directory_id, FIRST_REVISION, []), [], journal)


def _put_in_place(
    disk: OpenDirectory, names: Names, header: JournalHeader, snapshot: bytes
) -> Journal:
    try:
        file, mark = install(disk, names, header, snapshot)
    except NotInstalledError as error:
        raise error.error from None
    return Journal(disk, names, header, file, mark)


def _scan(data: bytes, snapshot: Snapshot) -> _Scan:
    """Read a journal. Raises FormatError for damage, and cuts a torn tail off."""
    header = decode_journal_header(data)
    if (header.directory_id, header.base) != (snapshot.directory_id, snapshot.revision):
        raise FormatError("the journal belongs to another snapshot", 0)
    marks = decode_marks(data, header.tie)
    if not marks:
        raise FormatError("the journal has no valid mark", SLOT_DISTANCE)
    mark = marks[0]
    changes: list[Change] = []
    there = {put.key for put, _ in snapshot.entries}
    at, revision = BATCHES_START, header.base
    while True:
        if at == mark.position and revision != mark.revision:
            raise FormatError(f"revision {mark.revision} was synced here, not {revision}", at)
        if at == len(data):
            break
        try:
            batch, end = decode_batch(data, at, header.tie, revision)
            _follow(batch, there, at)
        except FormatError:
            if at >= mark.position:
                break  # a torn tail
            raise  # what is behind the loop would refuse it, too, but not say why
        if at < mark.position < end:
            raise FormatError("a batch crosses the mark", at)
        changes += batch
        at, revision = end, batch[-1].revision
    if at < mark.position:
        raise FormatError(f"the journal was synced up to byte {mark.position}, and ends", at)
    return _Scan(header, marks, changes, at, len(data), data[mark.position : at])


def _follow(batch: list[Change], there: set[str], position: int) -> None:
    """Which keys are there after the batch; FormatError if it deletes what is not."""
    for change in batch:
        if not there.issuperset(change.deletes):
            raise FormatError("a batch deletes what is not there", position)
        there.difference_update(change.deletes)
        there.update(put.key for put in change.puts)


def _open(disk: OpenDirectory, names: Names, scan: _Scan, *, distrust: bool) -> Journal:
    """Open a journal for more batches, and repair what its mark does not vouch for."""
    newest = scan.marks[0]
    revision = scan.changes[-1].revision if scan.changes else scan.header.base
    mark = attrs.evolve(newest, position=scan.end, revision=revision)
    file = disk.open(names.journal(scan.header.base), "rw")
    journal = Journal(disk, names, scan.header, file, mark)
    if scan.size == newest.position and len(scan.marks) == 2 and not distrust:
        return journal
    if scan.size > scan.end:
        log.warning(
            "%s: %d bytes of a change that was never acknowledged were cut off",
            file.path,
            scan.size - scan.end,
        )
    try:
        # A torn write of the mark must leave a valid one: not in the other slot, if that is valid.
        journal.repair(scan.tail, newest.sequence + len(scan.marks))
    except OSError:
        journal.abandon()
        raise
    return journal


def _remove(disk: Disk, names: Names, listing: list[str], *, keep: int) -> None:
    """Remove what a crash left. What cannot be removed now, the next open removes."""
    leftovers = [names.journal(base) for base in names.bases(listing) if base != keep]
    for path in (names.snapshot_tmp, names.journal_tmp):
        if path.rpartition("/")[2] in listing:
            leftovers.append(path)
    for path in leftovers:
        with contextlib.suppress(OSError):
            disk.unlink(path)
