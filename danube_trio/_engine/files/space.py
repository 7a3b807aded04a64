"""Freeing space must not need any: `wal.trim` in place, and what is given back for the rest.

**The start in place.** `wal.trim` has two copies of its document, in a block that is allocated from
the beginning, so to move the start takes no space where the file system writes in place (ext4, xfs,
tmpfs; btrfs and zfs need some, and keep a reserve). At rest both say the same. `save_trim` writes
one, syncs it, then the other, and syncs that; so at any moment one copy is whole and durable:

- the write of the first is torn: the other says the old start, and nothing was removed yet;
- it is whole, and a crash follows: the further one counts. It was asked for, and nothing below it
  was needed any more.

The copy that is in doubt goes first: one that is damaged, or the further one if they differ, since
that one is visible and may not be durable (a sync failed). An opening makes the file anew, if it
can: the name of this one may not be durable either (`renew_trim`).

**What is given back.** Whoever needs a name or a few bytes to free many (a log without a `wal.trim`
of this shape, a new segment's name, `wal.meta` under a new epoch) uses `with_room`: where there is
no space, hints go first, and then it is tried once more. Hints are the checkpoint, the indexes,
and replacements that were never finished: all of them are rebuilt when they are missing.

A sync of the directory is never among what is tried again: when one fails, for want of space too,
nobody knows which names are durable, and one that succeeds later proves nothing.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterable
from contextlib import closing
from functools import partial
from typing import TypeVar

from danube_trio._core.disk import Disk, pieces_of, put_in_place, put_parts_in_place, read_if_there
from danube_trio._core.files import (
    TRIM_BYTES,
    TRIM_COPIES,
    Trim,
    decode_trim_copies,
    encode_trim,
    encode_trim_copy,
)
from danube_trio._core.segment import LogNames

log = logging.getLogger("danube_trio.disk")

T = TypeVar("T")


def no_space(error: BaseException | None) -> bool:
    """Whether it is for want of space, of bytes or of names."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def save_trim(disk: Disk, names: LogNames, trim: Trim) -> bool:
    """Make the start durable; before anything below it is removed. For one caller at a time.

    Returns whether the file was made anew, which is durable when the directory is synced. If this
    raises OSError, the outcome is not known: the start is the old one or this one, whole.
    """
    data = read_if_there(disk, names.trim, TRIM_BYTES) or b""
    if len(data) < TRIM_BYTES:
        put_in_place(disk, names.trim, encode_trim(trim))
        return True
    unshare(disk, names.trim)
    copy = encode_trim_copy(trim)
    with closing(disk.open(names.trim, "rw")) as file:
        for position in _in_doubt_first(data):
            file.write_at(copy, position)
            file.sync_data()
    return False


def renew_trim(disk: Disk, names: LogNames, trim: Trim) -> None:
    """Make the start durable when nobody knows whether the file's name is; or else in place.

    A name whose sync failed is visible, and a sync that succeeds later proves nothing of it. Only a
    new file has a new name; on a full disk the one that is there must do.
    """
    put_trim(disk, names, trim)
    disk.sync_dir(names.directory)


def put_trim(disk: Disk, names: LogNames, trim: Trim) -> None:
    """`renew_trim` without its last step, the sync of the directory."""
    try:
        put_in_place(disk, names.trim, encode_trim(trim))
    except OSError as error:
        if not no_space(error):
            raise
        with_room(disk, names, partial(save_trim, disk, names, trim))


def replace_with_room(disk: Disk, names: LogNames, path: str, data: bytes) -> None:
    """`replace_file`, and without space once more without hints."""
    with_room(disk, names, partial(put_in_place, disk, path, data))
    disk.sync_dir(names.directory)


def has_room(disk: Disk, names: LogNames) -> bool:
    """Whether the start can be moved in place."""
    try:
        return disk.file_size(names.trim) >= TRIM_BYTES
    except FileNotFoundError:
        return False


def _in_doubt_first(data: bytes) -> tuple[int, int]:
    first, second = TRIM_COPIES
    one, other = decode_trim_copies(data)
    if isinstance(other, str):
        return second, first
    if isinstance(one, str) or one == other:
        return first, second
    further = one.first_local, one.start_offset
    return (first, second) if further > (other.first_local, other.start_offset) else (second, first)


def give_back(disk: Disk, names: LogNames, *, unfinished: bool = False) -> bool:
    """Remove what is only a hint. Returns whether anything went.

    With `unfinished` replacements too, which is for openings: later they are being written.
    """
    listing = disk.list_dir(names.directory)
    hints = [names.checkpoint, *map(names.index, names.index_bases(listing))]
    present = {f"{names.directory}/{name}" for name in listing}
    if unfinished:
        hints += [f"{names.directory}/{name}" for name in names.unfinished(listing)]
    gone = [path for path in hints if path in present]
    failed = remove_each(disk, gone)
    given = len(gone) - len(failed)
    if given:
        log.warning("%s: no space; %d hints were given back", names.directory, given)
    return given > 0


def with_room(disk: Disk, names: LogNames, call: Callable[[], T]) -> T:
    """For openings: the result of `call`; without space, that of a second try without hints.

    `call` syncs no directory.
    """
    try:
        return call()
    except OSError as error:
        if not no_space(error) or not give_back(disk, names, unfinished=True):
            raise
    return call()


def unshare(disk: Disk, path: str) -> None:
    """Before a file is written in place: if it has other names, give this one a copy of its own.

    Somebody made hard links (``cp -al``) for a copy of the log, which must not change with it.
    """
    links = disk.stat(path).links
    if links <= 1:
        return
    log.warning(
        "%s has %d names (hard links): it is copied, and they keep what it was", path, links
    )
    with closing(disk.open(path, "r")) as file:
        put_parts_in_place(disk, path, (data for _, data in pieces_of(file)))


def remove_each(disk: Disk, paths: Iterable[str]) -> dict[str, OSError]:
    """Unlink files, each by itself; returns those that are still there, and why."""
    failed: dict[str, OSError] = {}
    for path in paths:
        try:
            disk.unlink(path)
        except FileNotFoundError:
            log.debug("%s was gone already", path)
        except OSError as error:
            failed[path] = error
    return failed
