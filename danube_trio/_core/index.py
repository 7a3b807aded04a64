"""The sparse index of one segment: where to start reading for an offset or a time.

Entries point at batch boundaries only, at least `HINT_BYTES` apart, so a recovery or a reader
that starts at one sees whole batches. The index is a hint in the sense that every frame read
through it is verified again (offset, CRC, trailer); a wrong or missing one is rebuilt.

The writer's task appends to the index of the active segment; readers search it. In the file
(`docs/format.md`) it stands once, after the seal.
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from operator import lt

from danube_trio._core.crc import crc32
from danube_trio._core.frame import HINT_BYTES, Block
from danube_trio._core.segment import Segment

MAGIC = b"DTRIDX1\n"
_HEADER = struct.Struct("<8sQQQQI")
_CRC = struct.Struct("<I")
ENTRY_BYTES = 24
# Whether this machine's order of bytes is not the file's.
BIG_ENDIAN = struct.pack("=H", 1) == b"\0\1"
# Of all sealed segments of a log together: 64 of them at 64 MiB a segment. An index takes about so
# much even if it is empty. Guesses.
KEPT_BYTES = 64 * 25_000
INDEX_BYTES = 1000


def index_limit_bytes(segment_bytes: int) -> int:
    """How large the index file of a segment of this size can be: a larger one is none."""
    return _HEADER.size + _CRC.size + ENTRY_BYTES * (segment_bytes // HINT_BYTES + 1)


class SparseIndex:
    """Offsets, byte positions and times (us) of some frames of the segment `base`.

    Also knows the segment's end, as far as it was told: `end`, `size_bytes`, `last_time`.
    """

    __slots__ = ("base", "end", "last_time", "offsets", "positions", "size_bytes", "times")

    def __init__(self, base: int) -> None:
        self.base = base
        self.end = base
        self.size_bytes = 0
        self.last_time = 0
        self.offsets: array[int] = array("Q")
        self.positions: array[int] = array("Q")
        self.times: array[int] = array("Q")

    def __len__(self) -> int:
        return len(self.offsets)

    @property
    def first_time(self) -> int:
        """Time (us) of the first record, 0 if there is none."""
        return self.times[0] if self.times else 0

    def segment(self) -> Segment:
        """The segment that this index describes, to its end."""
        return Segment(self.base, self.end, self.size_bytes, self.first_time, self.last_time)

    def thinned(self, distance_bytes: int) -> list[tuple[int, int, int]]:
        """Entries at least so far apart, as `(offset, position, time)`; the first is kept."""
        kept: list[tuple[int, int, int]] = []
        for entry in self.entries():
            if not kept or entry[1] - kept[-1][1] >= distance_bytes:
                kept.append(entry)
        return kept

    def add_block(self, block: Block) -> None:
        """A block was appended at the segment's end. Its data begin with its first frame."""
        for offset, position, time in block.hints:
            self._hint(offset, self.size_bytes + position, time)
        self._grow(block.end, block.positions[-1], block.last_time)

    def add_batch(
        self, start: int, end: int, size_bytes: int, first_time: int, last_time: int
    ) -> None:
        """A batch (or several) `[start, end)` of `size_bytes` follows at the segment's end."""
        self._hint(start, self.size_bytes, first_time)
        self._grow(end, size_bytes, last_time)

    def _hint(self, offset: int, position: int, time: int) -> None:
        if not self.positions or position - self.positions[-1] >= HINT_BYTES:
            self.offsets.append(offset)
            self.positions.append(position)
            self.times.append(time)

    def _grow(self, end: int, size_bytes: int, last_time: int) -> None:
        self.end = end
        self.size_bytes += size_bytes
        self.last_time = last_time

    def before_offset(self, offset: int) -> tuple[int, int]:
        """`(offset, position)` of the last entry at or below `offset`."""
        i = bisect_right(self.offsets, offset) - 1
        return (self.offsets[i], self.positions[i]) if i >= 0 else (self.base, 0)

    def before_time(self, time: int) -> tuple[int, int]:
        """`(offset, position)` of the last entry whose time is below `time` (us)."""
        i = bisect_left(self.times, time) - 1
        return (self.offsets[i], self.positions[i]) if i >= 0 else (self.base, 0)

    def entries(self) -> Sequence[tuple[int, int, int]]:
        """All entries as `(offset, position, time)`."""
        return list(zip(self.offsets, self.positions, self.times, strict=True))

    def encode(self) -> bytes:
        """The bytes of the index file."""
        flat = array("Q", bytes(ENTRY_BYTES * len(self)))
        flat[0::3], flat[1::3], flat[2::3] = self.offsets, self.positions, self.times
        _swap_if_big(flat)
        body = (
            _HEADER.pack(MAGIC, self.base, self.end, self.size_bytes, self.last_time, len(self))
            + flat.tobytes()
        )
        return body + _CRC.pack(crc32(body))

    @classmethod
    def decode(cls, data: bytes, base: int) -> SparseIndex | None:
        """The index in `data`, or None if it is damaged or belongs to another segment."""
        if len(data) < _HEADER.size + _CRC.size:
            return None
        body, (crc,) = data[: -_CRC.size], _CRC.unpack_from(data, len(data) - _CRC.size)
        if crc32(body) != crc:
            return None
        magic, found, end, size, last_time, count = _HEADER.unpack_from(body)
        if magic != MAGIC or found != base or len(body) != _HEADER.size + ENTRY_BYTES * count:
            return None
        index = cls(base)
        flat = array("Q", body[_HEADER.size :])
        _swap_if_big(flat)
        index.offsets, index.positions, index.times = flat[0::3], flat[1::3], flat[2::3]
        index.end, index.size_bytes, index.last_time = end, size, last_time
        return index

    def is_sound(self) -> bool:
        """Whether the entries ascend within the segment, from its first byte on."""
        if not self.positions:
            return True
        columns = ((self.base, self.offsets, self.end), (0, self.positions, self.size_bytes))
        return self.positions[0] == 0 and all(
            low <= column[0] and column[-1] < high and all(map(lt, column, column[1:]))
            for low, column, high in columns
        )


def _swap_if_big(flat: array[int]) -> None:
    if BIG_ENDIAN:
        flat.byteswap()


class KeptIndexes:
    """Indexes of sealed segments in memory, the latest used, in bounded memory.

    Whoever misses one loads it from its file, or builds it: to keep it only saves that.
    """

    __slots__ = ("_indexes", "_size_bytes")

    def __init__(self) -> None:
        self._indexes: dict[int, SparseIndex] = {}  # the latest used last
        self._size_bytes = 0

    def __len__(self) -> int:
        return len(self._indexes)

    def get(self, base: int) -> SparseIndex | None:
        """The index of the segment `base`, if it is kept."""
        index = self._indexes.pop(base, None)
        if index is not None:
            self._indexes[base] = index
        return index

    def keep(self, index: SparseIndex) -> None:
        """Keep this one, and no longer those used longest ago that do not fit beside it."""
        self.drop(index.base)
        self._indexes[index.base] = index
        self._size_bytes += _memory_of(index)
        while self._size_bytes > KEPT_BYTES and len(self._indexes) > 1:
            self.drop(next(iter(self._indexes)))

    def drop(self, base: int) -> None:
        """Forget the index of the segment `base`."""
        index = self._indexes.pop(base, None)
        if index is not None:
            self._size_bytes -= _memory_of(index)

    def drop_before(self, offset: int) -> None:
        """Forget those of segments that begin before `offset`."""
        for base in [base for base in self._indexes if base < offset]:
            self.drop(base)


def _memory_of(index: SparseIndex) -> int:
    return INDEX_BYTES + ENTRY_BYTES * len(index)
