"""What the tests of frames share: frames by hand, and a table of runs of frames."""

from __future__ import annotations

import struct
import zlib

import pytest

from danube_trio._core.codec import get_codec
from danube_trio._core.frame import Batch, Block, Parts
from danube_trio._core.framing import encode_block

STANDARD = get_codec("s5-standard").encode_uint
LEGACY = get_codec("s1-legacy").encode_uint


def records(*payloads: bytes, head: bytes = b"<head>", tail: bytes = b"<tail>") -> list[Parts]:
    return [(head, payload, tail) for payload in payloads]


def frame(offset: int, message: bytes, left: int = 0, time: int = 0, marker: int = 0xD7) -> bytes:
    """A frame by hand, after docs/format.md."""
    start = struct.pack("<QI", offset, len(message) + 17)
    body = message + struct.pack("<BIQI", marker, left, time, zlib.crc32(start))
    return start + struct.pack("<I", zlib.crc32(body)) + body


def with_body(offset: int, body: bytes) -> bytes:
    """A frame whose CRC is right, whatever its body is."""
    return struct.pack("<QII", offset, len(body), zlib.crc32(body)) + body


# name -> (first offset, batches). Each boundary of the wire's integers is crossed inside a run.
RUNS: dict[str, tuple[int, list[Batch]]] = {
    "one": (0, [(7, records(b"x"))]),
    "empty payload": (0, [(7, records(b""))]),
    "singles": (5, [(7, records(b"a")), (8, records(b"bb")), (8, records(b"ccc"))]),
    "a batch": (0, [(7, records(b"a", b"b", b"c"))]),
    "batches": (
        1,
        [(1, records(b"a", b"b")), (2, records(b"c")), (3, records(b"d", b""))],
    ),
    "offsets of one and three bytes": (248, [(7, records(*[b"x"] * 6))]),
    "offsets of three and five bytes": (65_533, [(7, records(*[b"x"] * 6))]),
    "offsets of five and nine bytes": (2**32 - 3, [(7, records(*[b"x"] * 6))]),
    "the last offsets": (2**64 - 3, [(2**64 - 1, records(b"x", b"y"))]),
    "lengths around 251": (0, [(7, records(*[bytes(n) for n in (249, 250, 251, 252, 250)]))]),
    "lengths around 65536": (250, [(7, records(*[bytes(n) for n in (65_535, 65_536, 0, 3)]))]),
    "heads and tails change": (
        250,
        [
            (7, [*records(b"a"), *records(b"a", head=b""), *records(b"a", tail=b"T")]),
            (7, [*records(b"a", head=b"<daeh>"), *records(b"b", tail=b""), *records(b"c")]),
        ],
    ),
}
WIRES = {"standard": STANDARD, "legacy": LEGACY}
RUN = pytest.mark.parametrize("run", RUNS)


def framed(run: str, wire: str = "standard") -> Block:
    offset, batches = RUNS[run]
    return encode_block(batches, offset, WIRES[wire])
