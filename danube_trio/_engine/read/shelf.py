"""What a *shelf* is: records `[start, end)` of a log in one place, and the way to fetch them.

=========  ====================================================  ==================================
shelf      where                                                 who has it
=========  ====================================================  ==================================
memory     `MemoryShelf`: the newest blocks, framed              an open log
files      `FileShelf`: the segments of a directory              an open log, a follower
objects    `CloudTier`: the verified objects that a catalog      an open log with a store; a
           names                                                 follower with one; a replica
=========  ====================================================  ==================================

A shelf knows what it holds, and only it edits its lists. Which one a reader's cursor is on is said
by `route`, for every block anew; see `shelves`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import attrs
from trio.lowlevel import checkpoint

from danube_trio._core.cache import BlockCache
from danube_trio._core.clocks import Run
from danube_trio._core.frame import Block
from danube_trio.message import Gap


@attrs.frozen
class Passed:
    """A search by time needs nothing of `[start, end)`: all of it is older, or was trimmed."""

    start: int
    end: int


Piece = Block | Gap | Passed


class Shelf(Protocol):
    """Records `[start, end)` in one place."""

    @property
    def start(self) -> int: ...
    @property
    def end(self) -> int: ...
    def runs(self) -> Iterator[Run]:
        """What there is, in order, in parts in which append times do not fall."""
        ...

    async def fetch(self, cursor: int, stop: int, time: int) -> Sequence[Piece]:
        """What there is at the cursor, below `stop`; nothing if it must be asked again.

        Always a checkpoint.

        Args:
            cursor: the offset that is wanted.
            stop: readers may not see records from here on.
            time: what is older (us) need not be given; 0: all is wanted.
        """
        ...


class MemoryShelf(BlockCache):
    """The newest blocks, framed. Nothing here is verified again.

    Args:
        capacity_records, capacity_bytes: how much is kept.
        end: where the first block will begin.
        fetch_bytes: about as much is given at a time.
    """

    __slots__ = ("_fetch_bytes",)

    def __init__(
        self, capacity_records: int, capacity_bytes: int, end: int, *, fetch_bytes: int
    ) -> None:
        super().__init__(capacity_records, capacity_bytes, end)
        self._fetch_bytes = fetch_bytes

    def runs(self) -> Iterator[Run]:
        """See `Shelf`."""
        for block in self.blocks():
            yield block.start, block.first_time, block.last_time

    async def fetch(self, cursor: int, stop: int, time: int) -> Sequence[Piece]:
        """See `Shelf`."""
        await checkpoint()
        # In the checkpoint it may have moved on: then `route` says where to ask.
        return self.blocks_from(cursor, self._fetch_bytes)
