"""A few I/O lanes for many logs.

A log asks its disk for a lane of its own, which is a thread. Of a thousand logs in one process few
write at the same moment, so here they get *shares* of a few common lanes. What a lane promises to
a log still holds: its calls run one at a time, in order. What is new is that another log's call may
be ahead of it in the same lane: a sync takes as long as both.

Each share goes to the lane that has the fewest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import attrs
import trio

from danube_trio._core.disk import Disk, Lane

T = TypeVar("T")


@attrs.define(eq=False)
class _Common:
    """A lane, and how many shares of it there are."""

    lane: Lane
    shares: int = 0


class _Share:
    """One log's share of a lane."""

    def __init__(self, common: _Common) -> None:
        self._common = common
        self._lane = common.lane
        self._closed = False
        common.shares += 1

    async def run(self, fn: Callable[..., T], /, *args: object) -> T:
        """See `Lane.run`."""
        if self._closed:
            raise trio.ClosedResourceError("the I/O lane is closed")
        return await self._lane.run(fn, *args)

    async def aclose(self) -> None:
        """Wait for the calls so far. The lane itself is for others."""
        if self._closed:
            await trio.lowlevel.cancel_shielded_checkpoint()
            return
        self._closed = True
        self._common.shares -= 1
        assert self._common.shares >= 0
        await self._lane.run(_nothing)


def _nothing() -> None:
    """Comes after everything before it."""


class SharedLanes:
    """The `Disk` that it is given, but for the lanes.

    Args:
        disk: the disk.
        lanes: how many lanes there are at most.
    """

    def __init__(self, disk: Disk, lanes: int) -> None:
        self._disk = disk
        self._limit = lanes
        self._lanes: list[_Common] = []
        # All else is the disk's.
        self.make_dir, self.list_dir, self.sync_dir = disk.make_dir, disk.list_dir, disk.sync_dir
        self.open, self.stat, self.file_size = disk.open, disk.stat, disk.file_size
        self.rename, self.link, self.unlink = disk.rename, disk.link, disk.unlink
        self.remove_dir, self.open_dir = disk.remove_dir, disk.open_dir
        self.lock, self.free_bytes = disk.lock, disk.free_bytes
        self.watch, self.run = disk.watch, disk.run

    def __repr__(self) -> str:
        return f"<SharedLanes of {self._disk!r}, {len(self._lanes)} of {self._limit}>"

    def open_lane(self) -> Lane:
        """A share of the lane that has the fewest; of a new one as long as there may be more."""
        if len(self._lanes) < self._limit and all(common.shares for common in self._lanes):
            self._lanes.append(_Common(self._disk.open_lane()))
        return _Share(min(self._lanes, key=lambda common: common.shares))

    async def aclose(self) -> None:
        """Close the lanes themselves, when all shares are closed."""
        for common in self._lanes:
            await common.lane.aclose()
