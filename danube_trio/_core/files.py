"""The small files beside the segments: their bytes, both ways. `docs/format.md` specifies them.

`wal.meta`, `wal.trim` and `wal.ckpt` are a line of JSON and a line with its CRC; cattrs turns them
into and out of attrs classes. `wal.mark` is binary: two slots written in place. `wal.trim` has its
document twice, for the same reason: one copy is good while the other is written.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar, cast

import attrs

from danube_trio._core.clocks import UNKNOWN
from danube_trio._core.crc import crc32
from danube_trio._core.documents import NewerFormatError, converter, omit_defaults, parse
from danube_trio._core.frame import TRAILER_VERSION
from danube_trio._core.segment import Segment

FORMAT = 1
# Each slot has a sector of its own, so that a torn write can damage only one.
_SLOT_DISTANCE = 512
_MARK = struct.Struct("<QQQQI")
_CRC = struct.Struct("<I")
MARK_BYTES = _MARK.size + _CRC.size
MARK_FILE_BYTES = _SLOT_DISTANCE + MARK_BYTES
# A mark's sequence number is its generation and a count, so the newest generation always wins, and
# a version that only counts keeps it. At 10,000 marks a second the count lasts for 890 years.
_COUNT_BITS = 48
_LAST_GENERATION = (1 << 16) - 1
# Of each copy of the trim: the document, and zeros. A sector, so that a torn write can damage one
# only, and it hardly can; one block of the file system, so that a log costs no more than before.
_TRIM_COPY_BYTES = _SLOT_DISTANCE
TRIM_COPIES = (0, _TRIM_COPY_BYTES)
TRIM_BYTES = 2 * _TRIM_COPY_BYTES

T = TypeVar("T")


def _check_numbers(what: str, rows: Iterable[tuple[int, ...]]) -> None:
    """ValueError unless all of them are offsets, sizes, times: from 0 to 2**64."""
    for row in rows:
        if not 0 <= min(row) <= max(row) <= UNKNOWN:
            raise ValueError(f"the {what} have {row}, where numbers of 64 bits are expected")


@attrs.frozen
class Meta:
    """`wal.meta`: what a directory is.

    `epochs` are (epoch, first offset written under it); `writers` are (epoch, who took it, or was
    about to) of those that the catalog may name: no two openings are called the same; `place` is
    where in the store the log is, "" if it never had one; `log` and `topic` say whose it is, ""
    where nobody said it yet (see `identity`).
    """

    directory_id: str
    codec: str
    epochs: tuple[tuple[int, int], ...] = ((0, 0),)
    format: int = FORMAT
    trailer: int = TRAILER_VERSION
    writers: tuple[tuple[int, str], ...] = ()
    place: str = ""
    log: str = ""
    topic: str = ""

    def __attrs_post_init__(self) -> None:
        _check_numbers("epochs", self.epochs)
        _check_numbers("format and trailer", ((self.format, self.trailer),))

    @property
    def epoch(self) -> int:
        """The newest of the epochs, 0 before the first."""
        return self.epochs[-1][0] if self.epochs else 0


@attrs.frozen
class Trim:
    """`wal.trim`: everything before `start_offset` is gone.

    Records from `start_offset` to `local_start`, if it is higher, are in the object store only.
    """

    start_offset: int
    local_start: int = 0

    def __attrs_post_init__(self) -> None:
        _check_numbers("offsets", ((self.start_offset, self.local_start),))

    @property
    def first_local(self) -> int:
        """The first offset that must be in a local file."""
        return max(self.start_offset, self.local_start)


@attrs.frozen
class Checkpoint:
    """`wal.ckpt`: a hint, the sealed segments as `(base, end, size, first time, last time)`.

    `exact` says that each of these files was seen to end where its last frame does; versions that
    do not say it did not look.
    """

    next_offset: int
    segments: tuple[tuple[int, int, int, int, int], ...]
    exact: bool = False

    def __attrs_post_init__(self) -> None:
        _check_numbers("segments", ((self.next_offset,), *self.segments))

    @classmethod
    def of(cls, next_offset: int, segments: list[Segment]) -> Checkpoint:
        """Describe these segments."""
        rows = tuple((s.base, s.end, s.size_bytes, s.first_time, s.last_time) for s in segments)
        return cls(next_offset, rows, exact=True)

    def by_base(self) -> dict[int, Segment]:
        """The described segments by their base offset."""
        return {row[0]: Segment(*row) for row in self.segments}


omit_defaults(Trim, "local_start")
omit_defaults(Meta, "writers", "place", "log", "topic")


def with_crc(line: bytes) -> bytes:
    """A document of one line, with the line that guards it."""
    line += b"\n"
    return line + b"crc32 %08x\n" % crc32(line)


def without_crc(data: bytes) -> bytes:
    """The guarded line of a document; ValueError if it is not exactly what was written."""
    line, newline, check = data.partition(b"\n")
    if not newline or check != b"crc32 %08x\n" % crc32(line + newline):
        raise ValueError("the document does not match its CRC")
    return line


def encode_document(value: object) -> bytes:
    """The bytes of a `Meta`, `Trim` or `Checkpoint`."""
    return with_crc(json.dumps(converter.unstructure(value), sort_keys=True).encode())


def encode_trim_copy(trim: Trim) -> bytes:
    """The bytes of one of the two copies."""
    data = encode_document(trim)
    assert len(data) <= _TRIM_COPY_BYTES, data
    return data.ljust(_TRIM_COPY_BYTES, b"\0")


def encode_trim(trim: Trim) -> bytes:
    """The whole file, both copies."""
    return 2 * encode_trim_copy(trim)


def decode_trim_copies(data: bytes) -> list[Trim | str]:
    """Both copies in the file's bytes; for one that is damaged or missing, why it is none.

    An earlier version wrote one document and nothing else, which is a first copy without a second.
    """
    copies: list[Trim | str] = []
    for part in (data[: TRIM_COPIES[1]], data[TRIM_COPIES[1] :]):
        try:
            copies.append(_decode(part.rstrip(b"\0"), Trim))
        except ValueError as error:
            copies.append(str(error))
    return copies


def decode_document(data: bytes, kind: type[T]) -> T:
    """The document in `data`; ValueError says what is wrong with it.

    Of a trim, which only ever moves up, the copy that is further: a write that was torn, or whose
    outcome is not known, leaves the other one as it was.
    """
    if kind is not Trim:
        return _decode(data, kind)
    copies = decode_trim_copies(data)
    found = [copy for copy in copies if isinstance(copy, Trim)]
    if not found:
        raise ValueError(copies[0])
    return cast("T", max(found, key=_how_far))


def _how_far(trim: Trim) -> tuple[int, int]:
    return trim.first_local, trim.start_offset


def _decode(data: bytes, kind: type[T]) -> T:
    return parse(without_crc(data), kind, check=_refuse_newer if kind is Meta else None)


def _refuse_newer(fields: dict[str, Any]) -> None:
    """Before anything else is looked at: whatever else a later format says, it is newer."""
    found = (fields.get("format", FORMAT), fields.get("trailer", TRAILER_VERSION))
    if found[0] > FORMAT or found[1] > TRAILER_VERSION:
        raise NewerFormatError(
            f"format {found[0]}, trailer {found[1]} are newer than this version knows "
            f"({FORMAT}, {TRAILER_VERSION})"
        )


@attrs.frozen
class Mark:
    """One slot of `wal.mark`: the log is durable up to here.

    Attributes:
        sequence: number of this mark; the highest valid one counts. See `next_sequence`.
        durable_end: the first offset not known to be durable.
        base: the segment that holds the end.
        position: the position in that segment up to which it is durable.
    """

    sequence: int
    durable_end: int
    base: int
    position: int

    @property
    def generation(self) -> int:
        """How often records that had been visible were taken back before this mark."""
        return self.sequence >> _COUNT_BITS

    def encode(self, directory_crc: int) -> bytes:
        """The slot's bytes; `directory_crc` ties it to its log."""
        body = _MARK.pack(self.sequence, self.durable_end, self.base, self.position, directory_crc)
        return body + _CRC.pack(crc32(body))


def mark_position(sequence: int) -> int:
    """Where in the file the mark with this sequence number stands."""
    return (sequence & 1) * _SLOT_DISTANCE


def next_sequence(sequence: int, *, taken_back: bool = False) -> int:
    """Number of the mark after this one, which goes to the other slot.

    With `taken_back` the next generation begins: records that followers may have seen are not part
    of the log any more, and others may get their offsets.
    """
    following = sequence + 1
    generation = sequence >> _COUNT_BITS
    if taken_back and generation < _LAST_GENERATION:
        following = (generation + 1) << _COUNT_BITS | following & 1
    return following


def decode_marks(data: bytes, directory_crc: int | None) -> Mark | None:
    """The newest valid mark in the file's bytes, or None; with None of whichever log it is."""
    newest: Mark | None = None
    for mark, directory in _whole_slots(data):
        ours = directory_crc in (None, directory)
        if ours and (newest is None or mark.sequence > newest.sequence):
            newest = mark
    return newest


def is_foreign_mark(data: bytes, directory_crc: int) -> bool:
    """Whether the file's bytes are a mark, and that of another directory."""
    directories = [directory for _, directory in _whole_slots(data)]
    return bool(directories) and directory_crc not in directories


def _whole_slots(data: bytes) -> Iterator[tuple[Mark, int]]:
    """The marks in the file's bytes, each with the checksum of the directory that it is tied to."""
    for position in (0, _SLOT_DISTANCE):
        slot = data[position : position + MARK_BYTES]
        if len(slot) == MARK_BYTES:
            *fields, directory = _MARK.unpack_from(slot)
            if crc32(slot[: _MARK.size]) == _CRC.unpack_from(slot, _MARK.size)[0]:
                yield Mark(*fields), directory
