"""Frames: a record's bytes on disk, in memory and in a store.

::

    frame   = [u64 offset][u32 length][u32 crc32 of the body][body]        Danube's, little endian
    body    = encoded message + trailer
    trailer = [u8 0xD7][u32 left][u64 append time, us][u32 crc32 of the frame's first 12 bytes]

The CRC in the header covers the body only, so the trailer (which Danube's decoders skip, because
they ignore bytes after the message) carries what the header lacks: a check of offset and length,
the append time, and how many records of the same batch follow. `docs/format.md` is the
specification.

A `Block` is a run of whole frames. It is the unit in which records travel between tasks, sit in
the cache and come back from files: one object for many records.

`scan` is the only place that decides whether bytes are frames. Its answers are *whole frames up to
here*, plus one of: all of it; more bytes are needed; these bytes are bad, for this reason. Whether
bad bytes are a torn tail or corruption is not visible in them: `recovery` decides that with the
durability mark.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import attrs

from danube_trio._core.crc import crc32

HEADER_BYTES = 16
TRAILER_BYTES = 17
TRAILER_VERSION = 1
TRAILER_MARKER = 0xD7
# The largest body that a frame may claim. The broker's default payload limit is 10 MiB; ten times
# that leaves room, and bounds what a corrupt length can make a reader allocate.
MAX_BODY_BYTES = 128 << 20
ANY_LEFT: int = -1
# Distance of a block's hints. A scan of 64 KiB costs about 0.05 ms at 1 KiB a record; the index of
# 10 GiB has 160,000 entries of 24 bytes.
HINT_BYTES = 64 << 10

_HEADER = struct.Struct("<QII")
_TRAILER = struct.Struct("<BIQI")
_U32 = struct.Struct("<I")

# head (the encoding before the offset), payload, tail (the encoding after the payload)
Parts = tuple[bytes, bytes, bytes]


class Records(Protocol):
    """The records of a batch: they are counted, and iterated over once."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Parts]: ...


# append time (us), records
Batch = tuple[int, Records]


@attrs.define(eq=False)
class Block:
    """A run of whole frames, `[start, end)`.

    Attributes:
        start: offset of the first record.
        end: offset after the last record.
        data: the frames' bytes, possibly with other bytes around them.
        positions: byte position in `data` of each frame, and of the end of the last one.
        first_time, last_time: append times in microseconds since the epoch, 0 if unknown.
        hints: some batch boundaries for the sparse index, `(offset, position in data, time)`.
    """

    start: int
    end: int
    data: bytes
    positions: Sequence[int]
    first_time: int = 0
    last_time: int = 0
    hints: Sequence[tuple[int, int, int]] = ()

    @property
    def size_bytes(self) -> int:
        """Bytes of the frames."""
        return self.positions[-1] - self.positions[0]


@attrs.define(eq=False)
class Scan:
    """What `scan` found.

    Attributes:
        positions: positions of the good frames, and the end of the last (one more than records).
        end_offset: the offset after the last good frame.
        left: what the next frame's `left` must be, or -1 when any will do.
        reason: why the bytes after the last good frame are no frame; None if they may be.
        need_bytes: with no fault, how many bytes the next frame takes (header included);
            0 when the scan stopped because it was asked to.
        zeros: the bytes after the last good frame begin with a header of zeros.
    """

    positions: list[int]
    end_offset: int
    left: int = ANY_LEFT
    reason: str | None = None
    need_bytes: int = 0
    zeros: bool = False


def scan(
    data: bytes,
    position: int,
    offset: int,
    *,
    stop_offset: int | None = None,
    left: int = ANY_LEFT,
    trailer: bool = True,
) -> Scan:
    """Verify the frames in `data` from `position`, the first of which must have `offset`.

    Stops before `stop_offset`, at the first bad frame, or where bytes run out. `left` continues a
    batch across calls (the `left` of the scan before). Without `trailer` (files that Danube wrote)
    only offset, length and CRC can be checked.
    """
    read_header = _HEADER.unpack_from
    read_trailer = _TRAILER.unpack_from
    size = len(data)
    least = TRAILER_BYTES + 1 if trailer else 1
    positions = [position]
    add = positions.append
    stop = stop_offset if stop_offset is not None else 1 << 64
    reason: str | None = None
    need = 0
    zeros = False
    while offset < stop:
        body = position + HEADER_BYTES
        if body > size:
            need = HEADER_BYTES
            break
        found, length, crc = read_header(data, position)
        end = body + length
        if found != offset or length < least or length > MAX_BODY_BYTES:
            zeros = not (found or length or crc)
            reason = _bad_header(found, length, crc, offset, least)
            break
        if end > size:
            need = HEADER_BYTES + length
            break
        if crc32(data[body:end]) != crc:
            reason = "the body does not match its CRC"
            break
        if trailer:
            marker, after, _, check = read_trailer(data, end - TRAILER_BYTES)
            if marker != TRAILER_MARKER:
                reason = "the trailer is missing"
                break
            if crc32(data[position : position + 12]) != check:
                reason = "the header does not match the check in the trailer"
                break
            if left >= 0 and after != left:
                reason = f"the batch is out of step ({after} records to follow, not {left})"
                break
            left = after - 1
        position = end
        add(end)
        offset += 1
    return Scan(positions, offset, left, reason, need, zeros)


def _bad_header(found: int, length: int, crc: int, offset: int, least: int) -> str:
    if not (found or length or crc):
        return "zeros instead of a frame"
    if found != offset:
        return f"the header says offset {found} where {offset} must follow"
    if length < least:
        return f"the length {length} is shorter than any message"
    return f"the length {length} is above the limit of {MAX_BODY_BYTES}"


def frame_time(data: bytes, frame_end: int) -> int:
    """The append time (us) in the trailer of the frame that ends at `frame_end`."""
    time: int = _TRAILER.unpack_from(data, frame_end - TRAILER_BYTES)[2]
    return time


def with_time(frame: bytes, time: int) -> bytes:
    """The same whole frame with another append time (us)."""
    offset, length, _ = _HEADER.unpack_from(frame)
    marker, left, _, check = _TRAILER.unpack_from(frame, len(frame) - TRAILER_BYTES)
    body = frame[HEADER_BYTES:-TRAILER_BYTES] + _TRAILER.pack(marker, left, time, check)
    return _HEADER.pack(offset, length, crc32(body)) + body


def batch_boundaries(data: bytes, positions: Sequence[int]) -> list[tuple[int, int]]:
    """For each frame after which a batch is complete: `(index of the next frame, its time in us)`.

    The time is that of the completing frame.
    """
    read = _TRAILER.unpack_from
    found: list[tuple[int, int]] = []
    for index in range(1, len(positions)):
        _, left, time, _ = read(data, positions[index] - TRAILER_BYTES)
        if not left:
            found.append((index, time))
    return found


def _may_end(data: bytes, position: int, read: Callable[[int, int], bytes] | None) -> bool:
    """Whether a trailer that checks this header is where the header says that its frame ends.

    Looked at before the body: the CRCs of all bodies that damaged headers claim could take for
    ever.
    """
    if position + HEADER_BYTES > len(data):
        return False
    end = position + HEADER_BYTES + _HEADER.unpack_from(data, position)[1]
    found = data[end - TRAILER_BYTES : end]
    if end > len(data):
        found = read(TRAILER_BYTES, end - TRAILER_BYTES) if read is not None else b""
    if len(found) < TRAILER_BYTES:
        return False
    marker, _, _, check = _TRAILER.unpack(found)
    return bool(marker == TRAILER_MARKER and check == crc32(data[position : position + 12]))


def find_frame(
    data: bytes,
    position: int,
    lowest: int,
    highest: int,
    *,
    trailer: bool = True,
    read: Callable[[int, int], bytes] | None = None,
) -> tuple[int, int] | None:
    """Look for the next valid frame after damage: `(position, offset)`, or None.

    Tries every byte from `position` on; the frame's offset must be in `[lowest, highest)` and the
    frame must be whole and valid, which a random match is not. `read(size, position)` gives bytes
    of a frame that reaches beyond `data`.
    """
    read_offset = struct.Struct("<Q").unpack_from
    # The upper half of an offset hardly varies within a segment: let bytes.find do the stepping.
    # No frame begins in zeros that go on to the end (a preallocated tail, which is long).
    stop = len(data.rstrip(b"\0")) + 4
    uppers = {(lowest >> 32), (max(lowest, highest - 1) >> 32)}
    best: tuple[int, int] | None = None
    for upper in uppers:
        pattern = _U32.pack(upper)
        at = data.find(pattern, position + 4, stop)
        while at >= 0 and (best is None or at - 4 < best[0]):
            offset: int = read_offset(data, at - 4)[0]
            if lowest <= offset < highest and (not trailer or _may_end(data, at - 4, read)):
                result = scan(data, at - 4, offset, stop_offset=offset + 1, trailer=trailer)
                if read is not None and result.need_bytes > HEADER_BYTES:
                    whole = read(result.need_bytes, at - 4)
                    result = scan(whole, 0, offset, stop_offset=offset + 1, trailer=trailer)
                if result.end_offset > offset:
                    best = (at - 4, offset)
                    break
            at = data.find(pattern, at + 1, stop)
    return best
