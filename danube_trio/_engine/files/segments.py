"""Reading segments: plain synchronous code over the `Disk` interface, in bounded memory.

It runs off the event loop, for recovery, readers, followers and `verify` alike. A read error is an
error here, never "end of file".
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator
from contextlib import closing

import attrs

from danube_trio._core.crc import crc32
from danube_trio._core.disk import Disk, Readable, pieces_of, read_file
from danube_trio._core.frame import (
    ANY_LEFT,
    HEADER_BYTES,
    Block,
    Scan,
    batch_boundaries,
    find_frame,
    frame_time,
    scan,
)
from danube_trio._core.index import SparseIndex, index_limit_bytes
from danube_trio._core.segment import LogNames, Segment
from danube_trio.errors import CorruptDataError
from danube_trio.message import Gap

log = logging.getLogger("danube_trio.segment")

CHUNK_BYTES = 1 << 20
# Each try more needs a writer that closes and a next one that opens within microseconds. A guess.
READ_ATTEMPTS = 20


@attrs.frozen
class Fault:
    """Bytes that are no frame.

    Attributes:
        position: where they begin in the file.
        offset: the offset that a frame there must have.
        reason: why they are no frame.
        only_zeros: nothing but zeros up to the end of the file: the end of data, not damage.
    """

    position: int
    offset: int
    reason: str
    only_zeros: bool


@attrs.frozen
class Stretch:
    """Good frames in one chunk; positions in `scan` count from `position` in the file."""

    position: int
    offset: int
    data: bytes
    scan: Scan


class SegmentWalk:
    """Iterates over the good frames of a segment from a given one, chunk by chunk.

    When the iteration is over, `position` and `offset` say where the good frames end, `left`
    whether a batch is unfinished there (it is 0 or more), and `fault` what came instead of a frame
    (None: the file, or the range asked for, simply ended).
    """

    def __init__(
        self,
        file: Readable,
        position: int,
        offset: int,
        *,
        size: int,
        stop_offset: int | None = None,
        trailer: bool = True,
        chunk_bytes: int = CHUNK_BYTES,
    ) -> None:
        self._file = file
        self._size: int = size
        self._stop = stop_offset
        self._trailer = trailer
        self._chunk = chunk_bytes
        self.position: int = position
        self.offset: int = offset
        self.left: int = ANY_LEFT
        self.fault: Fault | None = None

    def __iter__(self) -> Iterator[Stretch]:
        want = self._chunk
        while self.position < self._size:
            remaining = self._size - self.position
            data = self._read(min(want, remaining))
            remaining = self._size - self.position
            result = scan(
                data, 0, self.offset, stop_offset=self._stop, left=self.left, trailer=self._trailer
            )
            start, first = self.position, self.offset
            self.position += result.positions[-1]
            self.offset = result.end_offset
            self.left = result.left
            if len(result.positions) > 1:
                yield Stretch(start, first, data, result)
            remaining -= result.positions[-1]
            if result.reason is None and not result.need_bytes:
                return  # stop_offset
            if result.reason is None and not remaining:
                return
            if result.reason is None and result.need_bytes <= remaining:
                want = max(self._chunk, result.need_bytes)
                continue
            reason = result.reason or "the frame reaches beyond the end of the file"
            zeros = result.zeros or (remaining < HEADER_BYTES and result.reason is None)
            zeros = zeros and only_zeros(self._file, self.position, self._size)
            self.fault = Fault(self.position, self.offset, reason, zeros)
            return

    def to_end(self) -> SegmentWalk:
        """Go over all of it; returns itself."""
        for _ in self:
            pass
        return self

    def _read(self, size: int) -> bytes:
        data: bytes
        for _ in range(READ_ATTEMPTS):
            data = self._file.read_at(size, self.position)
            if len(data) == size:
                return data
            # A writer may just have cut the preallocated end off, and the next one may have made it
            # longer again. Anything else is a failed read.
            self._size = min(self._size, self._file.size())
            left: int = max(0, self._size - self.position)
            size = min(size, left)
            if len(data) >= size:
                return data[:size]
        raise OSError(errno.EIO, "a read gave less than the file has", self._file.path)


def only_zeros(file: Readable, position: int, end: int) -> bool:
    """Whether `[position, end)` holds nothing else."""
    return all(data.count(0) == len(data) for _, data in pieces_of(file, position, end))


def find_after(
    file: Readable, position: int, lowest: int, *, size: int, trailer: bool = True
) -> tuple[int, int] | None:
    """The next valid frame after damage at `position`: `(position, offset)`; None if there is none.

    A frame that straddles two windows is found by letting them overlap by half.
    """
    window = 8 * CHUNK_BYTES
    # Even the smallest frame takes bytes, which bounds the offsets that can still follow.
    highest = lowest + (size - position) // HEADER_BYTES + 1
    while position < size:
        data = file.read_at(min(window, size - position), position)
        base = position

        def read(count: int, at: int, base: int = base) -> bytes:
            return file.read_at(count, base + at) if base + at + count <= size else b""

        found = find_frame(data, 0, lowest, highest, trailer=trailer, read=read)
        if found is not None:
            return position + found[0], found[1]
        if len(data) < window:
            return None
        position += window // 2
    return None


def readable_after(
    file: Readable, walk: SegmentWalk, *, size: int, trailer: bool = True
) -> Iterator[tuple[int, int]]:
    """The ranges of offsets that can be read behind the damage at which a walk has ended."""
    position, offset = walk.position, walk.offset
    while (found := find_after(file, position + 1, offset, size=size, trailer=trailer)) is not None:
        onward = SegmentWalk(file, *found, size=size, trailer=trailer).to_end()
        yield found[1], onward.offset
        position, offset = onward.position, onward.offset


@attrs.frozen
class Fetched:
    """A block or a gap, and where to go on in the file."""

    found: Block | Gap
    next_offset: int
    next_position: int


def fetch_block(
    disk: Disk, path: str, position: int, offset: int, stop: int, limit: int, skip: bool
) -> Fetched:
    """Read and verify one block of `[offset, stop)`; all of these records must be there."""
    with closing(disk.open(path, "r")) as file:
        size = file.size()
        walk = SegmentWalk(file, position, offset, size=size, stop_offset=stop, chunk_bytes=limit)
        for stretch in walk:
            positions = stretch.scan.positions
            block = Block(
                offset,
                walk.offset,
                stretch.data,
                positions,
                frame_time(stretch.data, positions[1]),
                frame_time(stretch.data, positions[-1]),
            )
            return Fetched(block, walk.offset, walk.position)
        reason = walk.fault.reason if walk.fault is not None else "the file ends too early"
        if not skip:
            raise CorruptDataError(reason, path=path, position=walk.position, offset=offset)
        found = find_after(file, walk.position + 1, offset + 1, size=size)
        onward, end = found if found is not None else (size, stop)
        gap = Gap(offset, min(end, stop), f"{path}: {reason} at byte {walk.position}")
        return Fetched(gap, end, onward)


def build_index(
    file: Readable, base: int, *, size: int, trailer: bool = True
) -> tuple[SparseIndex, SegmentWalk]:
    """Scan a whole segment: its index up to the last whole batch, and the finished walk."""
    index = SparseIndex(base)
    walk = SegmentWalk(file, 0, base, size=size, trailer=trailer)
    start_offset, start_position, start_time = base, 0, 0
    for stretch in walk:
        positions = stretch.scan.positions
        if not trailer:
            end = stretch.position + positions[-1]
            index.add_batch(stretch.offset, walk.offset, end - start_position, 0, 0)
            start_position = end
            continue
        start_time = start_time or frame_time(stretch.data, positions[1])
        for i, time in batch_boundaries(stretch.data, positions):
            offset, position = stretch.offset + i, stretch.position + positions[i]
            index.add_batch(start_offset, offset, position - start_position, start_time, time)
            start_offset, start_position, start_time = offset, position, 0
            if i + 1 < len(positions):
                start_time = frame_time(stretch.data, positions[i + 1])
    return index, walk


def scan_segment(
    disk: Disk, path: str, base: int, *, size: int | None = None, trailer: bool = True
) -> tuple[SparseIndex, SegmentWalk]:
    """`build_index` of a file, or of its first `size` bytes."""
    with closing(disk.open(path, "r")) as file:
        end = file.size() if size is None else size
        return build_index(file, base, size=end, trailer=trailer)


def reach(disk: Disk, names: LogNames, base: int, *, trailer: bool = True) -> int:
    """The offset after the last whole batch that can be read from the beginning of a segment."""
    return scan_segment(disk, names.segment(base), base, trailer=trailer)[0].end


def load_index(disk: Disk, names: LogNames, segment: Segment, *, trailer: bool) -> SparseIndex:
    """The index of a sealed segment: from its file, or by scanning the segment."""
    index = _read_index(disk, names, segment)
    if index is not None and index.size_bytes == segment.size_bytes:
        return index
    log.info("rebuilding the sparse index %s", names.index(segment.base))
    return scan_segment(disk, names.segment(segment.base), segment.base, trailer=trailer)[0]


def read_index(disk: Disk, names: LogNames, base: int, segment_bytes: int) -> SparseIndex | None:
    """What the index file says, if there is a whole one. It is bounded by its segment's size."""
    try:
        data = read_file(disk, names.index(base), index_limit_bytes(segment_bytes))
    except (FileNotFoundError, CorruptDataError):
        return None
    index = SparseIndex.decode(data, base)
    return index if index is not None and index.is_sound() else None


def _read_index(disk: Disk, names: LogNames, segment: Segment) -> SparseIndex | None:
    """What the index file says, if it is one of this segment."""
    index = read_index(disk, names, segment.base, segment.size_bytes)
    return index if index is not None and index.end == segment.end else None


def describe(disk: Disk, names: LogNames, segment: Segment, *, trailer: bool) -> Segment:
    """What is known of a sealed segment that no checkpoint vouches for.

    Its times, if it has an index. And if zeros follow its last frame, they are cut off, durably:
    versions before this one left them when they got a part of what they wanted to reserve. Only
    zeros behind all the records that must be there are cut; anything else is for whoever reads it.
    """
    try:
        index = _read_index(disk, names, segment)
        if index is None or index.size_bytes != segment.size_bytes:
            index = _before_zeros(disk, names, segment, trailer=trailer)
    except OSError as error:
        log.warning("looking at a sealed segment failed: %s", error)
        return segment
    if index is None:
        return segment
    if index.size_bytes < segment.size_bytes:
        _cut(disk, names.segment(segment.base), segment.size_bytes, index.size_bytes)
    return index.segment()


def _before_zeros(
    disk: Disk, names: LogNames, segment: Segment, *, trailer: bool
) -> SparseIndex | None:
    """The index of the records, if they are all there and zeros follow them; else None."""
    with closing(disk.open(names.segment(segment.base), "r")) as file:
        size = segment.size_bytes
        # The last four bytes of a frame are a checksum: of 256 segments one ends in a zero.
        if not size or file.read_at(1, size - 1) != b"\0":
            return None
        index, walk = build_index(file, segment.base, size=size, trailer=trailer)
        zeros = walk.fault is not None and walk.fault.only_zeros and walk.left < 0
        return index if zeros and index.end == segment.end else None


def _cut(disk: Disk, path: str, size: int, end: int) -> None:
    with closing(disk.open(path, "rw")) as file:
        file.truncate(end)
        file.sync_data()
    log.info("%s: cut %d zero bytes off, which no record had filled", path, size - end)


def file_crc(file: Readable, end: int = 1 << 63) -> int:
    """CRC-32 of what is in the file, or of its first `end` bytes."""
    crc = 0
    for _, data in pieces_of(file, 0, end):
        crc = crc32(data, crc)
    return crc
