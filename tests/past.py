"""A disk that was recorded while a writer worked, and that goes on while it is read."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from itertools import cycle
from typing import Self


class _PastFile:
    """A file as it was when it was opened."""

    def __init__(self, path: str, data: bytes) -> None:
        self.path = path
        self._data = data

    def read_at(self, size: int, position: int) -> bytes:
        return self._data[position : position + size]

    def size(self) -> int:
        return len(self._data)

    def close(self) -> None:
        pass


class Past:
    """A disk that was recorded after every operation of a writer, and goes on while it is read.

    Each call moves the time on by the next of `steps`; it ends with the record.
    """

    def __init__(self, record: list[dict[str, bytes]], now: int, steps: tuple[int, ...]) -> None:
        self._record = record
        self.steps: Iterator[int] = cycle(steps)
        self.now = now

    def _tree(self) -> dict[str, bytes]:
        self.now = min(self.now + next(self.steps), len(self._record) - 1)
        return self._record[self.now]

    def list_dir(self, path: str) -> list[str]:
        return sorted(name.removeprefix(f"{path}/") for name in self._tree())

    def open(self, path: str, mode: str) -> _PastFile:
        assert mode == "r"
        tree = self._tree()
        if path not in tree:
            raise FileNotFoundError(errno.ENOENT, "gone", path)
        return _PastFile(path, tree[path])

    def file_size(self, path: str) -> int:
        return self.open(path, "r").size()

    def open_dir(self, path: str) -> Self:
        return self

    def strayed(self) -> None:
        """Nobody moves a directory of the past."""

    def close(self) -> None:
        """There is nothing to close."""
