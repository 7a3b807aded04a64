"""Fetching one block of a segment's file: synchronous code that runs off the event loop."""

from __future__ import annotations

from contextlib import closing

import attrs

from danube_trio._core.disk import Disk
from danube_trio._core.frame import Block, frame_time
from danube_trio._engine.files.segments import SegmentWalk, find_after
from danube_trio.errors import CorruptDataError
from danube_trio.message import Gap

__all__ = ["Fetched", "fetch_block"]


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
