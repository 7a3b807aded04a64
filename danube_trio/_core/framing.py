"""Framing: from accepted batches to blocks of frames. The hottest loop of writing.

Nearly everything about a frame repeats from one record to the next: what is encoded before the
offset, the width of the offset's encoding, the length of the payload's length, what follows the
payload. So a frame is three chunks (front, payload, after), front and after are each one call of a
`struct.Struct` made for their *shape*, and the CRC begins from that of the part that repeats.

From one record to the next the offset changes by one, mostly in its low byte. A CRC is linear: what
a change of one byte does to it depends only on the change and on how many bytes follow, not on the
others. So the CRCs of header and numbers are computed once for 256 offsets, with a low byte of 0,
and the others come from a table by exclusive or. At 1 KiB framing takes 0.5 us a record.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Callable, Iterable
from functools import lru_cache
from operator import itemgetter

from danube_trio._core.crc import crc32
from danube_trio._core.frame import (
    HEADER_BYTES,
    HINT_BYTES,
    TRAILER_BYTES,
    TRAILER_MARKER,
    Batch,
    Block,
)

_HEADER_START = struct.Struct("<QI")
# By the width of an encoded integer: the bytes before the number proper, its struct code, and the
# first number that has another shape. Both of Danube's wires fit: fixed u64, and one byte or a mark
# and a u16, u32 or u64.
_SHAPES = {
    1: (0, "B", 251),
    3: (1, "H", 1 << 16),
    5: (1, "I", 1 << 32),
    8: (0, "Q", 1 << 64),
    9: (1, "Q", 1 << 64),
}


_first = itemgetter(0)


@lru_cache
def _shapes_of(encode_uint: Callable[[int], bytes]) -> list[tuple[int, bytes, str, int]]:
    """Of each shape: the first number that has another one, what comes before, code and width."""
    shapes: list[tuple[int, bytes, str, int]] = []
    number = 0
    while number < 1 << 64:
        encoded = encode_uint(number)
        mark_bytes, code, number = _SHAPES[len(encoded)]
        shapes.append((number, encoded[:mark_bytes], code, len(encoded)))
    return shapes


@lru_cache(maxsize=4096)
def _length_of(encode_uint: Callable[[int], bytes], payload_bytes: int) -> bytes:
    return encode_uint(payload_bytes)


@lru_cache(maxsize=512)
def _packers(
    fixed_bytes: int, code: str, length_bytes: int, tail_bytes: int
) -> tuple[Callable[..., bytes], Callable[..., bytes], Callable[..., bytes]]:
    """What packs the front of such a frame, the numbers at its end again, and what comes after."""
    numbers = f"{code}{length_bytes}s"
    return (
        struct.Struct(f"<QII{fixed_bytes}s{numbers}").pack,
        struct.Struct(f"<{numbers}").pack,
        struct.Struct(f"<{tail_bytes}sBIQI").pack,
    )


@lru_cache(maxsize=64)
def _crc_steps(message_bytes: int) -> tuple[int, ...]:
    """By how much the CRC of a message changes when its first byte, 0, becomes each other byte."""
    rest = bytes(message_bytes - 1)
    zero = crc32(bytes(message_bytes))
    return tuple(crc32(bytes([byte]) + rest) ^ zero for byte in range(256))


_HEADER_STEPS = _crc_steps(_HEADER_START.size)


def encode_block(
    batches: Iterable[Batch], offset: int, encode_uint: Callable[[int], bytes]
) -> Block:
    """Frame batches.

    The first record gets `offset`, the others follow densely. `encode_uint` is the codec's integer
    encoding, for the stamped offset and the payload's length.
    """
    header_start = _HEADER_START.pack
    chunks: list[bytes] = []
    add = chunks.append
    positions = [0]
    mark = positions.append
    position = 0
    start = offset
    first_time = time = 0
    hints: list[tuple[int, int, int]] = []
    next_hint = 0

    shapes = _shapes_of(encode_uint)
    known_head: bytes | None = None
    known_payload_bytes = known_tail_bytes = length_bytes = -1
    known_shape: tuple[int, str, int, int] | None = None
    new_shape_at = offset_bytes = 0  # from that offset on its encoding has another shape
    length = fixed = offset_mark = b""
    code = ""
    around_bytes = seed = 0  # of the body: everything but the payload; the CRC of `fixed`
    header_steps = middle_steps = _HEADER_STEPS
    header_crc = middle_crc = 0  # for the low byte 0
    new_crcs_at = offset
    pack_front: Callable[..., bytes]
    pack_front = pack_middle = pack_after = header_start

    for time, records in batches:
        first_time = first_time or time
        if position >= next_hint:
            hints.append((offset, position, time))
            next_hint = position + HINT_BYTES
        left = len(records)
        for head, payload, tail in records:
            left -= 1
            payload_bytes = len(payload)
            tail_bytes = len(tail)
            if payload_bytes != known_payload_bytes:
                known_payload_bytes = payload_bytes
                length = _length_of(encode_uint, payload_bytes)
                new_crcs_at = offset
                if len(length) != length_bytes:
                    length_bytes = len(length)
                    known_head = None  # another shape
            if head is not known_head or tail_bytes != known_tail_bytes or offset >= new_shape_at:
                known_head, known_tail_bytes = head, tail_bytes
                if offset >= new_shape_at:
                    found = bisect_right(shapes, offset, key=_first)
                    new_shape_at, offset_mark, code, offset_bytes = shapes[found]
                fixed = head + offset_mark
                seed = crc32(fixed)
                shape = (len(fixed), code, length_bytes, tail_bytes)
                if shape != known_shape:
                    known_shape = shape
                    pack_front, pack_middle, pack_after = _packers(*shape)
                    middle_steps = _crc_steps(len(pack_middle(0, length)))
                new_crcs_at = offset
                around_bytes = len(head) + offset_bytes + length_bytes + tail_bytes + TRAILER_BYTES
            body_bytes = around_bytes + payload_bytes
            low = offset & 0xFF
            if offset >= new_crcs_at:
                new_crcs_at = (offset | 0xFF) + 1
                header_crc = crc32(header_start(offset - low, body_bytes))
                middle_crc = crc32(pack_middle(offset - low, length), seed)
            check = header_crc ^ header_steps[low]
            after = pack_after(tail, TRAILER_MARKER, left, time, check)
            crc = crc32(after, crc32(payload, middle_crc ^ middle_steps[low]))
            add(pack_front(offset, body_bytes, crc, fixed, offset, length))
            add(payload)
            add(after)
            position += HEADER_BYTES + body_bytes
            mark(position)
            offset += 1
    return Block(start, offset, b"".join(chunks), positions, first_time, time, hints)
