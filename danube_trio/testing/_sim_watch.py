"""A watch of the simulated disk: it tells once for each arming, as those of a real disk do."""

from __future__ import annotations

import errno
from collections.abc import Callable

import trio


class SimWatch:
    """A `Watch`.

    Args:
        path: the directory.
        find: one operation of the disk: gives the inodes to hear of, and lists the watch there.
    """

    def __init__(self, path: str, find: Callable[[SimWatch], set[int]]) -> None:
        self._path = path
        self._find = find
        self._idents: set[int] = set()
        self._told = trio.Event()
        self._changed = False
        self._open = True

    @property
    def changed(self) -> bool:
        return self._changed

    def arm(self) -> None:
        if not self._open:
            raise OSError(errno.EBADF, "the watch is closed", self._path)
        self._changed = False
        self._idents = self._find(self)

    def hear(self, ident: int) -> bool:
        """Something happened to this inode; True if that ends the arming."""
        if ident not in self._idents:
            return not self._idents
        self._idents = set()
        self._changed = True
        self._told.set()
        return True

    async def wait_changed(self) -> None:
        await trio.lowlevel.checkpoint()
        while not self._changed:
            self._told = trio.Event()
            await self._told.wait()

    def close(self) -> None:
        self._open = False
        self._idents = set()
