"""Whether the files of a running log are still the ones that it opened.

A descriptor outlives its name. Who replaces, renames, removes or truncates a file of a running log
makes it write, sync and acknowledge into nothing, without one error from the system; and what it
opens by name later is somebody else's. So a log knows its files by device and inode, from when it
opened or made them, and compares: every few seconds in housekeeping, before each roll, and before
it is left. What was acknowledged since the last look is what such an accident can cost.

- The directory, which is held open: its path still leads to it. All that the log does goes through
  what it holds (`_core.disk`), so nothing is written elsewhere, not even between two looks; what
  was acknowledged in a directory that was moved is in it, and can be opened at its new place.
- A file that is held open: the name still leads to it, it has at least what was written, and the
  last bytes of the latest writes are in it: one that was truncated grows again with the next write,
  with zeros where records were.
- A file that is opened by name: it is there, it is the same, and it has not become smaller. Some
  network file systems number files anew when nobody holds them, so here "the same" is the inode or
  the time of the last change.

Our own removals are no alarm: who asks compares the answer with what the log still names, and files
are removed only after the log stopped naming them.

All calls but `forget` are made in the log's lane.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterable

from danube_trio._core.disk import File, FileStat, OpenDirectory, Stray

log = logging.getLogger("danube_trio.presence")

_ADVICE = (
    "Leave the log, put its files back from a copy or its object store, look at them with "
    "'danube-trio verify', and open it again"
)
_MOVED = (
    "All that was acknowledged is in it, and nothing was written elsewhere: leave the log, and "
    "move the directory back, or open the log where it is now"
)


class LostFileError(OSError):
    """A file of a running log was taken away from it, or its directory.

    Attributes:
        what: became of it.
        base: of the segment that it was, None if it is none.
        everything: all files were, and what is in no object is nowhere.
        moved: only the path was: what was acknowledged is where the directory is now.
    """

    def __init__(
        self, path: str, what: str, base: int | None = None, stray: Stray | None = None
    ) -> None:
        thing = "a file" if stray is None else "the directory"
        self.what, self.base, self._stray = what, base, stray
        self.everything = stray is not None and stray.removed
        self.moved = stray is not None and not stray.removed
        advice = _MOVED if self.moved else _ADVICE
        text = f"somebody changed {thing} of the running log: it {what}. {advice}"
        super().__init__(errno.ESTALE, text, path)

    def __reduce__(self) -> tuple[object, ...]:
        facts = (self.filename, self.what, self.base, self._stray)
        return LostFileError, facts, self.__dict__


class Presence:
    """What is known of the files of one log."""

    def __init__(self, disk: OpenDirectory, directory: str) -> None:
        self._disk = disk
        self._directory = directory
        self._known: dict[str, FileStat] = {}
        self._linked: set[str] = set()  # told of once

    def know(self, path: str, found: FileStat | None = None) -> None:
        """The file of this name is ours, as it is now."""
        self._known[path] = found if found is not None else self._disk.stat(path)

    def forget(self, paths: Iterable[str]) -> None:
        """These files are no part of the log any more."""
        for path in paths:
            self._known.pop(path, None)

    def check_directory(self) -> None:
        """Raises LostFileError if the path does not lead to the directory any more."""
        stray = self._disk.strayed()
        if stray is not None:
            raise LostFileError(self._directory, str(stray), stray=stray)

    def check_open(
        self,
        file: File,
        size_bytes: int,
        base: int | None = None,
        written: Iterable[tuple[bytes, int]] = (),
    ) -> None:
        """Raises LostFileError if the name does not lead to this file, or something was cut off.

        `written` are bytes that must be in it, each with the position where they end.
        """
        ours = file.stat()
        found = self._stat(file.path, base)
        if found.ident != ours.ident:
            raise LostFileError(file.path, "was replaced by another one", base)
        if not ours.links:
            raise LostFileError(file.path, "was removed", base)
        if ours.links > 1 and file.path not in self._linked:
            self._linked.add(file.path)
            log.warning(
                "%s has %d names: a hard link is no copy, and changes with the log until it rolls. "
                "Copy the bytes of the last segment and of the small files",
                file.path,
                ours.links,
            )
        if ours.size_bytes < size_bytes:
            what = f"has {ours.size_bytes} bytes where {size_bytes} were written"
            raise LostFileError(file.path, what, base)
        for data, end in written:
            if not file.holds(data, end - len(data)):
                what = f"was truncated or overwritten: what ends at byte {end} is not there"
                raise LostFileError(file.path, what, base)

    def check(self, path: str, base: int | None = None) -> None:
        """Raises LostFileError if the file of this name is not what is known."""
        known = self._known.get(path)
        if known is None:
            return
        found = self._stat(path, base)
        if found.ident != known.ident and found.changed != known.changed:
            raise LostFileError(path, "was replaced by another one", base)
        if found.size_bytes < known.size_bytes:
            what = f"has {found.size_bytes} bytes where {known.size_bytes} were written"
            raise LostFileError(path, what, base)

    def _stat(self, path: str, base: int | None) -> FileStat:
        try:
            return self._disk.stat(path)
        except OSError as error:
            if error.errno == errno.EINVAL:
                raise LostFileError(path, "is no regular file any more", base) from error
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                raise LostFileError(path, "is not there any more", base) from error
            raise
