"""The bytes of a metadata directory, both ways. `docs/metadata-format.md` specifies them.

A *snapshot* is the whole content at one revision. A *journal* is a header, two slots for the mark,
and batches: the changes after the revision in its name. All integers are little endian.

Each CRC covers what says where the bytes belong, too: the directory's id and the journal's base
(the *tie*), a batch's position and first revision. So what is whole, but in a wrong place, is bad.

Decoders raise `FormatError` with a byte position, and `NewerError` for a later format. A CRC says
that bytes are what somebody wrote, not that it was this program: what is decoded also has to be
what the rules of the store allow, or it would fail later, somewhere else.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

import attrs

from danube_trio._core.crc import crc32
from danube_trio.metadata._rules import Put, check_key, check_ttl
from danube_trio.metadata._table import Change, Entry

FORMAT = 1
ID_BYTES = 16
# Each slot has a sector of its own, so that a torn write can damage only one.
SLOT_DISTANCE = 512
BATCHES_START = 3 * SLOT_DISTANCE
# No store gets so far. What only a forger writes must leave room for all that follow.
NUMBER_LIMIT = 1 << 62

_START = struct.Struct("<8sI")  # magic, format: stays so in every later format
_CRC = struct.Struct("<I")
_JOURNAL = struct.Struct("<8sI16sQ")  # ... directory id, base revision
_MARK = struct.Struct("<QQQI")  # sequence, position, revision, tie
_BATCH = struct.Struct("<IQI")  # length of the body, first revision, CRC
_BATCH_TIE = struct.Struct("<IQQI")  # what the CRC covers before the body: ... position, tie
_CHANGE = struct.Struct("<HH")  # puts, deletes
_PUT = struct.Struct("<HId")  # length of the key, of the value, time to live (0: none)
_DELETE = struct.Struct("<H")
_SNAPSHOT = struct.Struct("<8sI16sQQQI")  # ... id, revision, entries, length and CRC of the body
_ENTRY = struct.Struct("<HIQd")  # length of the key, of the value, revision, time to live
_JOURNAL_MAGIC = b"DTRMJNL\n"
_SNAPSHOT_MAGIC = b"DTRMSNP\n"


class FormatError(ValueError):
    """The bytes are not what was written."""

    def __init__(self, reason: str, position: int) -> None:
        self.reason = reason
        self.position = position
        super().__init__(f"{reason} at byte {position}")


class NewerError(ValueError):
    """The file was written in a later format."""


def _check_start(data: bytes, magic: bytes) -> None:
    if len(data) < _START.size or data[:8] != magic:
        raise FormatError("this is not a file of a metadata directory", 0)
    found = _START.unpack_from(data)[1]
    if found != FORMAT:
        raise NewerError(f"format {found} is not known to this version, which knows {FORMAT}")


def _check_number(number: int, position: int) -> None:
    if not 0 < number < NUMBER_LIMIT:
        raise FormatError(f"{number} is no revision", position)


@attrs.frozen
class JournalHeader:
    """What a journal belongs to."""

    directory_id: bytes
    base: int

    @property
    def tie(self) -> int:
        """Ties marks and batches to their journal."""
        return crc32(self.directory_id + self.base.to_bytes(8, "little"))

    def encode(self, mark: Mark) -> bytes:
        """A new journal's first bytes: the header, and the first mark in its slot."""
        header = _JOURNAL.pack(_JOURNAL_MAGIC, FORMAT, self.directory_id, self.base)
        data = bytearray(BATCHES_START)
        data[: len(header) + 4] = header + _CRC.pack(crc32(header))
        slot = mark.encode(self.tie)
        data[mark_position(mark.sequence) : mark_position(mark.sequence) + len(slot)] = slot
        return bytes(data)


def decode_journal_header(data: bytes) -> JournalHeader:
    """The header; `data` has at least the first `BATCHES_START` bytes, if there are as many."""
    _check_start(data, _JOURNAL_MAGIC)
    if len(data) < BATCHES_START:
        raise FormatError("the journal is too short", len(data))
    header = data[: _JOURNAL.size]
    if crc32(header) != _CRC.unpack_from(data, _JOURNAL.size)[0]:
        raise FormatError("the journal's header does not match its CRC", 0)
    _, _, directory_id, base = _JOURNAL.unpack(header)
    _check_number(base, 0)
    return JournalHeader(directory_id, base)


@attrs.frozen
class Mark:
    """One slot: the journal is durable up to here.

    Attributes:
        sequence: number of this mark; the highest valid one counts.
        position: where the first batch that is not known to be durable begins.
        revision: of the newest change before that.
    """

    sequence: int
    position: int
    revision: int

    def encode(self, tie: int) -> bytes:
        """The slot's bytes."""
        body = _MARK.pack(self.sequence, self.position, self.revision, tie)
        return body + _CRC.pack(crc32(body))


def mark_position(sequence: int) -> int:
    """Where in the journal the mark with this sequence number stands."""
    return SLOT_DISTANCE * (1 + (sequence & 1))


def decode_marks(data: bytes, tie: int) -> list[Mark]:
    """The valid marks, the newest first: two, in a young journal one; none is damage."""
    marks: list[Mark] = []
    for parity in (0, 1):
        slot = data[mark_position(parity) :][: _MARK.size + _CRC.size]
        if crc32(slot[: _MARK.size]) != _CRC.unpack_from(slot, _MARK.size)[0]:
            continue
        sequence, position, revision, found = _MARK.unpack_from(slot)
        usable = position >= BATCHES_START and max(sequence, revision) < NUMBER_LIMIT
        if found == tie and sequence & 1 == parity and usable:
            marks.append(Mark(sequence, position, revision))
    return sorted(marks, key=lambda mark: -mark.sequence)


# -- batches


def encode_batch(changes: Iterable[Change], position: int, tie: int) -> bytes:
    """The batch of these changes, as it stands at `position`; revisions follow each other."""
    parts: list[bytes] = []
    first = revision = 0
    for change in changes:
        first = first or change.revision
        assert change.revision == (revision + 1 if revision else first)
        revision = change.revision
        parts.append(_CHANGE.pack(len(change.puts), len(change.deletes)))
        for put in change.puts:
            key = put.key.encode()
            parts += (_PUT.pack(len(key), len(put.value), put.ttl or 0.0), key, put.value)
        for text in change.deletes:
            key = text.encode()
            parts += (_DELETE.pack(len(key)), key)
    body = b"".join(parts)
    crc = crc32(_BATCH_TIE.pack(len(body), first, position, tie) + body)
    return _BATCH.pack(len(body), first, crc) + body


def decode_batch(data: bytes, position: int, tie: int, revision: int) -> tuple[list[Change], int]:
    """The batch at `position`, which follows `revision`; returns its changes and where it ends."""
    start = position + _BATCH.size
    if len(data) < start:
        raise FormatError("a batch's header is cut off", position)
    length, first, crc = _BATCH.unpack_from(data, position)
    if not 0 < length <= len(data) - start:
        raise FormatError("a batch's length is wrong, or the batch is cut off", position)
    body = data[start : start + length]
    if crc32(_BATCH_TIE.pack(length, first, position, tie) + body) != crc:
        raise FormatError("a batch does not match its CRC", position)
    if first != revision + 1:
        raise FormatError(f"a batch begins at revision {first}, not {revision + 1}", position)
    return list(_changes(body, first, position)), start + length


def _changes(body: bytes, revision: int, position: int) -> Iterator[Change]:
    at = 0
    try:
        while at < len(body):
            puts: list[Put] = []
            deletes: list[str] = []
            put_count, delete_count = _CHANGE.unpack_from(body, at)
            at += _CHANGE.size
            for _ in range(put_count):
                key_size, value_size, ttl = _PUT.unpack_from(body, at)
                at += _PUT.size
                key, value, at = _key_and_value(body, at, key_size, value_size)
                puts.append(_put(key, value, ttl))
            for _ in range(delete_count):
                (key_size,) = _DELETE.unpack_from(body, at)
                key, _, at = _key_and_value(body, at + _DELETE.size, key_size, 0)
                deletes.append(key)
            keys = {*(put.key for put in puts), *deletes}
            if not keys or len(keys) != put_count + delete_count:
                raise ValueError("a change has no key, or one twice")
            yield Change(revision, tuple(puts), tuple(deletes))
            revision += 1
    except (struct.error, ValueError) as error:
        raise FormatError(f"a batch's body cannot be read: {error}", position) from error


def _put(key: str, value: bytes, ttl: float) -> Put:
    """An entry that may have been put; ValueError if not. `ttl` as stored: 0 for none."""
    check_key(key)
    lasts = ttl == 0
    check_ttl(None if lasts else ttl)
    return Put(key, value, None if lasts else ttl)


def _key_and_value(data: bytes, at: int, key_size: int, value_size: int) -> tuple[str, bytes, int]:
    middle, end = at + key_size, at + key_size + value_size
    if end > len(data):
        raise struct.error("it is cut off")
    return data[at:middle].decode(), data[middle:end], end


# -- snapshots


@attrs.frozen
class Snapshot:
    """The whole content at one revision; of each entry the key, value, revision, time to live."""

    directory_id: bytes
    revision: int
    entries: list[tuple[Put, int]]


def encode_snapshot(
    directory_id: bytes, revision: int, entries: Iterable[tuple[str, Entry]]
) -> bytes:
    """The bytes of a snapshot."""
    parts: list[bytes] = []
    for text, entry in entries:
        key = text.encode()
        head = _ENTRY.pack(len(key), len(entry.value), entry.revision, entry.ttl or 0.0)
        parts += (head, key, entry.value)
    body = b"".join(parts)
    header = _SNAPSHOT.pack(
        *(_SNAPSHOT_MAGIC, FORMAT, directory_id, revision, len(parts) // 3, len(body), crc32(body))
    )
    return header + _CRC.pack(crc32(header)) + body


def decode_snapshot(data: bytes) -> Snapshot:
    """The snapshot in these bytes."""
    _check_start(data, _SNAPSHOT_MAGIC)
    start = _SNAPSHOT.size + _CRC.size
    header = data[: _SNAPSHOT.size]
    if len(data) < start or crc32(header) != _CRC.unpack_from(data, _SNAPSHOT.size)[0]:
        raise FormatError("the snapshot's header does not match its CRC", 0)
    _, _, directory_id, revision, count, length, crc = _SNAPSHOT.unpack(header)
    _check_number(revision, 0)
    body = data[start:]
    if len(body) != length or crc32(body) != crc:
        raise FormatError("the snapshot's content does not match its length or CRC", start)
    entries: list[tuple[Put, int]] = []
    at = 0
    try:
        for _ in range(count):
            key_size, value_size, changed, ttl = _ENTRY.unpack_from(body, at)
            key, value, at = _key_and_value(body, at + _ENTRY.size, key_size, value_size)
            if not 0 < changed <= revision or (entries and key <= entries[-1][0].key):
                raise ValueError("an entry's revision is too high, or it is not in its place")
            entries.append((_put(key, value, ttl), changed))
    except (struct.error, ValueError) as error:
        raise FormatError(f"the snapshot cannot be read: {error}", start + at) from error
    return Snapshot(directory_id, revision, entries)
