"""The disk that a follower's readers get: it refuses every change.

After each piece of work, and in the same thread, it has the follower check whether what was read is
still of the log that it follows. When a file is gone, it has the follower look again before it says
so: most likely retention took the file, and the reader compares its cursor with the start next.
"""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable
from typing import NoReturn, TypeVar

from danube_trio._core.disk import Disk, File, FileStat, OpenMode

T = TypeVar("T")


class ReadOnlyDisk:
    """A disk without its changes.

    Args:
        disk: the disk.
        refresh: has the follower look again.
        check: raises if what was read just now must not be believed.
    """

    def __init__(
        self, disk: Disk, refresh: Callable[[], Awaitable[object]], check: Callable[[], None]
    ) -> None:
        self._disk = disk
        self._refresh = refresh
        self._check = check
        self.list_dir, self.free_bytes, self.watch = disk.list_dir, disk.free_bytes, disk.watch
        self.file_size = disk.file_size
        self.make_dir = self.unlink = self.sync_dir = self.open_dir = self.lock = _refuse
        self.remove_dir = _refuse
        self.rename = self.link = _refuse_two
        self.open_lane = _refuse_lane

    async def run(self, fn: Callable[..., T], /, *args: object) -> T:
        try:
            return await self._disk.run(self._checked, fn, *args)
        except FileNotFoundError:
            await self._refresh()
            raise

    def _checked(self, fn: Callable[..., T], *args: object) -> T:
        try:
            return fn(*args)
        finally:
            self._check()

    def open(self, path: str, mode: OpenMode) -> File:
        return self._disk.open(path, mode) if mode == "r" else _refuse(path)

    def stat(self, path: str) -> FileStat:
        return self._disk.stat(path)


def _refuse(path: str, holder: str = "") -> NoReturn:
    raise OSError(errno.EROFS, "a follower changes nothing", path)


def _refuse_two(source: str, target: str) -> NoReturn:
    _refuse(target)


def _refuse_lane() -> NoReturn:
    _refuse("a lane")
