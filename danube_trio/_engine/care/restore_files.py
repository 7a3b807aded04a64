"""The directory that a restore builds: plain code over the `Disk` interface.

::

    TARGET.restoring/   the log, while it is built
    TARGET/             the log, by one rename, when all of it is there and durable

A segment gets its name when all its bytes are synced and verified, ``wal.meta`` comes last of all,
and without it nobody opens a directory with segments. So what an interrupted restore leaves is no
log, and what `TARGET` names is a whole one.

The next restore takes over what it finds in ``TARGET.restoring``: a segment that is byte for byte
the object which the catalog names now is kept, whoever fetched it, and everything else goes. That
needs no note about what was being restored: size and checksum say it. A name that no restore makes
is refused, and the lock keeps a second restore out.
"""

from __future__ import annotations

import errno
import uuid
from contextlib import closing
from typing import Final

import attrs

from danube_trio._core.catalog import CatalogState, Descriptor
from danube_trio._core.disk import (
    TMP_SUFFIX,
    Disk,
    File,
    OpenDirectory,
    hold,
    name_of,
    open_anew,
    parent_of,
    put_in_place,
)
from danube_trio._core.files import (
    Checkpoint,
    Mark,
    Meta,
    Trim,
    encode_document,
    encode_trim,
    mark_position,
)
from danube_trio._core.index import SparseIndex
from danube_trio._core.segment import LogNames, Segment
from danube_trio._disk.locks import this_process
from danube_trio._engine.files.directory import directory_crc
from danube_trio._engine.files.segments import build_index, file_crc
from danube_trio.errors import CorruptDataError

STAGING: Final = ".restoring"


def check_target(disk: Disk, target: str, maker: str = "a restore") -> None:
    """Refuse, with ValueError, a target that is there and not empty."""
    try:
        listing = disk.list_dir(target)
    except FileNotFoundError:
        return
    if listing:
        raise ValueError(
            f"{target} is not empty (it has {listing[0]}): {maker} makes a new log, so name a "
            f"directory that does not exist"
        )


@attrs.define(eq=False)
class Staging:
    """The log that is being built beside `target`. Every method blocks; one thread a segment."""

    disk: Disk
    target: str
    names: LogNames
    _held: OpenDirectory | None = None

    @classmethod
    def of(cls, disk: Disk, target: str, file_name: str) -> Staging:
        """ValueError if the file name cannot serve."""
        return cls(disk, target, LogNames.of(target + STAGING, file_name))

    def begin(self, objects: tuple[Descriptor, ...]) -> None:
        """Lock the directory, and leave nothing in it but what may be segments of this log.

        Raises ValueError for a target or a directory that is not ours, LogLockedError if another
        restore is at it, OSError(ENOSPC) if what is to be fetched does not fit.
        """
        check_target(self.disk, self.target)
        self.disk.make_dir(self.names.directory)
        listing = self.disk.list_dir(self.names.directory)
        strangers = [name for name in listing if not self._is_ours(name)]
        if strangers:
            raise ValueError(
                f"{self.names.directory} has {strangers[0]}, which no restore put there: move the "
                f"directory out of the way"
            )
        if self._held is None:
            self._held = hold(self.disk, self.names.lock, this_process("restore"))
        self._clean(objects)
        self._check_space(objects)

    def end(self) -> None:
        """Give up the lock."""
        if self._held is not None:
            self._held.close()
            self._held = None

    def _is_ours(self, name: str) -> bool:
        listing, names = [name.removesuffix(TMP_SUFFIX)], self.names
        small = (names.meta, names.trim, names.mark, names.checkpoint, names.lock)
        return (
            f"{names.directory}/{listing[0]}" in small
            or bool(names.segment_bases(listing))
            or bool(names.index_bases(listing))
        )

    def _clean(self, objects: tuple[Descriptor, ...]) -> None:
        """What makes it a log goes first: it is none as long as this is under way."""
        names, listing = self.names, self.disk.list_dir(self.names.directory)
        if name_of(names.meta) in listing:
            self.disk.unlink(names.meta)
            self.disk.sync_dir(names.directory)
        kept = {names.segment(d.base) for d in objects} | {names.index(d.base) for d in objects}
        kept |= {names.lock, names.meta}
        for name in listing:
            path = f"{names.directory}/{name}"
            if path not in kept:
                self.disk.unlink(path)
        self.disk.sync_dir(names.directory)

    def _check_space(self, objects: tuple[Descriptor, ...]) -> None:
        there = self.names.segment_bases(self.disk.list_dir(self.names.directory))
        wanted = sum(d.size_bytes for d in objects if d.base not in there)
        free = self.disk.free_bytes(self.names.directory)
        if wanted > free:
            raise OSError(
                errno.ENOSPC,
                f"{wanted:,} bytes are still to be fetched, and only {free:,} are free",
                self.names.directory,
            )

    # ---- segments

    def reuse(self, wanted: Descriptor, source: str) -> SparseIndex | None:
        """The index of a segment that an interrupted restore has left, if it is what is wanted."""
        try:
            file = self.disk.open(self.names.segment(wanted.base), "r")
        except FileNotFoundError:
            return None
        with closing(file):
            if file.size() != wanted.size_bytes or file_crc(file) != wanted.crc32:
                return None
            index = _verified(file, wanted, source)
        put_in_place(self.disk, self.names.index(wanted.base), index.encode())
        # Its name may have been lost by a sync that failed, and no later one makes up for that: so
        # it is given once more.
        self.disk.rename(file.path, file.path + TMP_SUFFIX)
        self.disk.rename(file.path + TMP_SUFFIX, file.path)
        return index

    def create(self, base: int) -> File:
        """A file for the bytes of a segment, under a name that does not count."""
        return open_anew(self.disk, self.names.segment(base) + TMP_SUFFIX)

    def finish(self, file: File, wanted: Descriptor, source: str, keep_bytes: int) -> SparseIndex:
        """All bytes are written: verify them, keep the first `keep_bytes`, and give the name."""
        index = _verified(file, wanted, source)
        if keep_bytes < wanted.size_bytes:
            file.truncate(keep_bytes)
            index, walk = build_index(file, wanted.base, size=keep_bytes)
            assert walk.fault is None and index.size_bytes == keep_bytes, (walk, keep_bytes)
        file.sync_data()
        file.close()
        put_in_place(self.disk, self.names.index(wanted.base), index.encode())
        self.disk.rename(file.path, self.names.segment(wanted.base))
        return index

    # ---- the end

    def publish(self, state: CatalogState, end: int, segments: list[Segment]) -> str:
        """Make it a log that ends at `end`, and give it its name. Returns its directory id."""
        disk, names = self.disk, self.names
        ends = [s.end for s in segments]
        assert [s.base for s in segments[1:]] + [end] * bool(ends) == ends, (segments, end)
        meta = Meta(directory_id=uuid.uuid4().hex, codec=state.codec, trailer=state.trailer)
        put_in_place(disk, names.segment(end), b"")  # the active one
        if state.start_offset:
            put_in_place(disk, names.trim, encode_trim(Trim(state.start_offset)))
        checkpoint = Checkpoint.of(end, segments)
        put_in_place(disk, names.checkpoint, encode_document(checkpoint))
        slot = Mark(1, end, end, 0).encode(directory_crc(meta))
        put_in_place(disk, names.mark, bytes(mark_position(1)) + slot)
        disk.sync_dir(names.directory)  # all of a log before what makes it one
        put_in_place(disk, names.meta, encode_document(meta))
        disk.sync_dir(names.directory)  # and that before the name under which it is one
        check_target(disk, self.target)  # again: all this took its time
        disk.rename(names.directory, self.target)
        disk.sync_dir(parent_of(self.target))
        return meta.directory_id


def _verified(file: File, wanted: Descriptor, source: str) -> SparseIndex:
    """Whether the bytes, whose checksum is right, are the frames that the catalog says."""
    index, walk = build_index(file, wanted.base, size=wanted.size_bytes)
    if walk.fault is None and (index.end, index.size_bytes) == (wanted.end, wanted.size_bytes):
        return index
    reason = walk.fault.reason if walk.fault is not None else "a batch is not whole"
    if walk.fault is None and walk.left < 0:
        reason = f"the records end at offset {index.end}, and the catalog says {wanted.end}"
    raise CorruptDataError(
        reason,
        path=source,
        position=walk.position,
        offset=walk.offset,
        advice="It is what was uploaded: look at `danube-trio verify --store`, and restore up to "
        "this offset",
    )
