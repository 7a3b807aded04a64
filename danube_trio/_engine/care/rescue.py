"""A log whose `wal.meta` is lost or damaged: what is whole can be read, and opened again.

Nothing else says which codec the messages have, so whoever rescues the log names it, and it is
compared with the messages: older bytes never fit a newer layout, and newer ones have bytes left
over. The directory gets a new id. The mark is tied to the old one by a checksum, which stands in
the mark itself, so it counts, and is written again under the new id: then a lost end does not look
like a torn tail. That is done before the meta, which makes it a log again; a crash in between
changes nothing.

What is lost is whose log it was: a store or a cursor that knows it by its old id refuses it.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from contextlib import closing
from typing import Any, cast

import attrs

from danube_trio._core.bincode import DecodeError
from danube_trio._core.codec import CODECS
from danube_trio._core.disk import (
    Disk,
    File,
    OpenMode,
    free_path,
    read_file,
    read_if_there,
    replace_file,
)
from danube_trio._core.files import MARK_FILE_BYTES, Mark, Meta, decode_marks, encode_document
from danube_trio._core.frame import HEADER_BYTES, TRAILER_BYTES
from danube_trio._core.segment import LogNames
from danube_trio._engine.files.directory import DOCUMENT_LIMIT_BYTES, directory_crc, refuse_foreign
from danube_trio._engine.files.segments import SegmentWalk
from danube_trio._engine.files.tail import put_mark
from danube_trio.errors import CorruptDataError, bad_argument

# Whose first messages are decoded. A guess: they had one codec from the first to the last.
MOST_SEGMENTS = 64


@attrs.frozen
class Rescue:
    """The small files that a log is to have. Nothing is written before `write`.

    Attributes:
        mark: what the old one says; None if there is none that is whole.
    """

    names: LogNames
    meta: Meta
    mark: Mark | None

    def seen_on(self, disk: Disk) -> Disk:
        """The disk as if they were there already, for reading only."""
        files = {self.names.meta: encode_document(self.meta)}
        if self.mark is not None:
            slot = self.mark.encode(directory_crc(self.meta))
            files[self.names.mark] = slot.ljust(MARK_FILE_BYTES, b"\0")
        return cast("Disk", _DiskWith(disk, files))

    def write(self, disk: Disk) -> None:
        """Write them, durably; a damaged meta is kept beside. The caller has the lock."""
        meta = self.names.meta
        if self.mark is not None:
            mark = self.mark
            place = (mark.durable_end, mark.base, mark.position)
            put_mark(disk, self.names, directory_crc(self.meta), *place, newest=mark)
        damaged = read_if_there(disk, meta, DOCUMENT_LIMIT_BYTES)
        if damaged is not None:
            listing = disk.list_dir(self.names.directory)
            kept = free_path(listing, lambda number: f"{meta}.{number}.corrupt")
            replace_file(disk, kept, damaged)
        replace_file(disk, meta, encode_document(self.meta))


def rescue(disk: Disk, names: LogNames, codec: str) -> Rescue | None:
    """What a log without a readable meta, whose messages have this codec, is to have.

    None if the meta is there and says the same. Changes nothing. Raises FileNotFoundError if there
    are no segments, ValueError if the messages, or the meta, say another codec,
    UnsupportedFormatError and OSError.
    """
    try:
        _, meta = refuse_foreign(disk, names)
    except CorruptDataError:
        meta = None
    if meta is not None:
        if meta.codec != codec:
            raise bad_argument("codec", codec, f": {names.meta} is whole, and says {meta.codec!r}")
        return None
    if not names.segment_bases(disk.list_dir(names.directory)):
        raise names.no_log()
    fits = fitting_codecs(disk, names)
    if codec not in fits:
        what = f"they fit {', '.join(fits)}" if fits else "they fit no codec, or several"
        raise bad_argument("codec", codec, f": the messages are in another one: {what}")
    data = b""
    with contextlib.suppress(FileNotFoundError, CorruptDataError):
        data = read_file(disk, names.mark, MARK_FILE_BYTES)
    return Rescue(names, Meta(uuid.uuid4().hex, codec), decode_marks(data, None))


def fitting_codecs(disk: Disk, names: LogNames) -> list[str]:
    """The codecs under which all messages that are looked at decode, strictly."""
    fits = list(CODECS)
    bases = names.segment_bases(disk.list_dir(names.directory))
    step = max(1, len(bases) // MOST_SEGMENTS)
    for base in [*bases[::step], *bases[-1:]]:
        with closing(disk.open(names.segment(base), "r")) as file:
            for offset, body in _first_bodies(file, base):
                fits = [name for name in fits if _fits(name, offset, body)]
    return fits


def _first_bodies(file: File, base: int) -> Iterator[tuple[int, bytes]]:
    for stretch in SegmentWalk(file, 0, base, size=file.size()):
        positions = stretch.scan.positions
        for i in range(len(positions) - 1):
            frame = stretch.data[positions[i] : positions[i + 1]]
            yield stretch.offset + i, frame[HEADER_BYTES:-TRAILER_BYTES]
        return


def _fits(codec: str, offset: int, body: bytes) -> bool:
    try:
        return CODECS[codec].decode(body, strict=True).msg_id.topic_offset == offset
    except DecodeError:
        return False


class _DiskWith:
    """A disk, and some files that are not on it, for reading."""

    def __init__(self, disk: Disk, files: dict[str, bytes]) -> None:
        self._disk = disk
        self._files = files

    def __getattr__(self, name: str) -> Any:
        return getattr(self._disk, name)

    def open(self, path: str, mode: OpenMode) -> Any:
        data = self._files.get(path)
        return self._disk.open(path, mode) if data is None else _FileOf(path, data)

    def open_dir(self, path: str) -> Any:
        return _DiskWith(self._disk.open_dir(path), self._files)

    def list_dir(self, path: str) -> list[str]:
        here = (name.rpartition("/") for name in self._files)
        there = {name for directory, _, name in here if directory == path}
        return sorted(there.union(self._disk.list_dir(path)))


class _FileOf:
    """What `read_file` and `read_mark` need of a file."""

    def __init__(self, path: str, data: bytes) -> None:
        self.path = path
        self._data = data

    def size(self) -> int:
        return len(self._data)

    def read_at(self, size: int, position: int) -> bytes:
        return self._data[position : position + size]

    def close(self) -> None:
        """There is nothing to close."""
