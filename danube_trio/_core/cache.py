"""The replay cache: the newest blocks of the log, so that hot reads never touch a file.

Holds whole blocks, contiguous, newest at the end. Bounded by records and by bytes; when over either
bound, the oldest blocks go (one block always stays, whatever its size). Readers only look. A block
that was written before readers may see it is held back until they may, in the same place.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from operator import attrgetter

from danube_trio._core.frame import Block

_start = attrgetter("start")
_first_time = attrgetter("first_time")


class BlockCache:
    """Contiguous blocks `[start, end)`, bounded."""

    __slots__ = (
        *("_blocks", "_first", "_held", "capacity_bytes", "capacity_records", "end", "size_bytes"),
        "times_fell",
    )

    def __init__(self, capacity_records: int, capacity_bytes: int, end: int) -> None:
        self.capacity_records = capacity_records
        self.capacity_bytes = capacity_bytes
        self._blocks: list[Block] = []
        self._first = 0  # blocks before it are gone; compacted now and then
        self._held: list[Block] = []
        self.end = end
        self.size_bytes = 0
        self.times_fell = False  # from one block to the next, ever

    @property
    def start(self) -> int:
        """Offset of the oldest cached record; `end` if there is none."""
        return self._blocks[self._first].start if self._first < len(self._blocks) else self.end

    def add(self, block: Block) -> None:
        """Add the next block, which must begin where the cache ends."""
        assert block.start == self.end, (block.start, self.end)
        if self._blocks and block.first_time < self._blocks[-1].last_time:
            self.times_fell = True
        self._blocks.append(block)
        self.end = block.end
        self.size_bytes += len(block.data)
        newest = len(self._blocks) - 1
        while self._first < newest and (
            self.end - self._blocks[self._first].start > self.capacity_records
            or self.size_bytes > self.capacity_bytes
        ):
            self._drop_first()
        # Amortised: each block is moved at most once for every block that went.
        if self._first > 64 and self._first * 2 > len(self._blocks):
            del self._blocks[: self._first]
            self._first = 0

    def hold(self, block: Block) -> None:
        """Keep the next block, which readers may not see yet."""
        self._held.append(block)

    def show(self) -> None:
        """Readers may see what was held back."""
        for block in self._held:
            self.add(block)
        self._held.clear()

    def discard_held(self) -> None:
        """What was held back will never be seen."""
        self._held.clear()

    def _drop_first(self) -> None:
        self.size_bytes -= len(self._blocks[self._first].data)
        self._blocks[self._first] = _GONE
        self._first += 1

    def trim(self, before: int) -> None:
        """Drop the blocks that lie wholly below `before`."""
        while self._first < len(self._blocks) and self._blocks[self._first].end <= before:
            self._drop_first()

    def blocks_from(self, offset: int, limit_bytes: int) -> list[Block]:
        """The blocks from the one that holds `offset` on, up to about `limit_bytes`; maybe none."""
        if not self.start <= offset < self.end:
            return []
        i = bisect_right(self._blocks, offset, lo=self._first, key=_start) - 1
        found: list[Block] = []
        size = 0
        while i < len(self._blocks) and (not found or size < limit_bytes):
            found.append(self._blocks[i])
            size += len(self._blocks[i].data)
            i += 1
        return found

    def blocks(self) -> Sequence[Block]:
        """All blocks, oldest first."""
        return self._blocks[self._first :]

    def before_time(self, time: int) -> int:
        """Offset of the last cached block whose first record is older than `time` (us)."""
        i = bisect_left(self._blocks, time, lo=self._first, key=_first_time) - 1
        i = max(i, self._first)
        return self._blocks[i].start if i < len(self._blocks) else self.end


_GONE = Block(0, 0, b"", (0,))
