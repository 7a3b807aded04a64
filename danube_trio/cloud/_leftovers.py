"""Whose temporary files are these? Leftovers of dead writers in a directory store.

A writer takes a random token when it first writes, and holds the lock of the file
``.danube-writer-<token>`` for life; its temporaries carry the token. A temporary whose token nobody
holds belongs to a dead writer, and goes when another one first uses that directory. Nobody looks at
clocks or process ids, which other hosts and containers do not share.

- The lock file of a live writer always exists: it is removed only by its owner, or by somebody who
  holds its lock. So where there is no such file, the writer is dead.
- Between making the file and locking it, a writer may lose it to somebody who takes it for dead. So
  it reads its own text back by name, and takes another token unless it finds it.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import secrets
import threading

from danube_trio._core.disk import Disk, Lock, read_file
from danube_trio.errors import CorruptDataError, LogLockedError

log = logging.getLogger("danube_trio.cloud")

RESERVED = ".danube-"
TEMPORARY = f"{RESERVED}tmp-"
WRITER = f"{RESERVED}writer-"
# A full disk cannot hold the text. Others that look for leftovers come once in a blue moon.
TRIES = 8
HOLDER_BYTES = 1024


class Writer:
    """One writer below `root`. Every method blocks, and may be called in any thread."""

    def __init__(self, disk: Disk, root: str) -> None:
        self._disk = disk
        self._root = root
        self._registering = threading.Lock()
        self._numbers = itertools.count()
        self._token = ""
        self._lock: Lock | None = None

    @property
    def registered(self) -> bool:
        """Whether it holds a lock, which `unregister` gives up."""
        return self._lock is not None

    def register(self) -> None:
        """Take a token, unless it has one, and remove what dead writers left at the root.

        The root must exist. It is not this one's affair to make it.
        """
        with self._registering:
            if self._lock is not None:
                return
            for _ in range(TRIES):
                self._token = secrets.token_hex(8)
                if self._take():
                    break
            else:
                raise OSError(errno.EAGAIN, "cannot write a lock file of one's own", self._root)
        self.sweep(self._root)

    def _take(self) -> bool:
        path = self._lock_path(self._token)
        holder = f"danube-trio {self._token}"
        try:
            lock = self._disk.lock(path, holder)
        except LogLockedError:
            return False
        with contextlib.suppress(FileNotFoundError, CorruptDataError):
            if read_file(self._disk, path, HOLDER_BYTES) == holder.encode():
                self._lock = lock
                return True
        lock.release()
        return False

    def unregister(self) -> None:
        """Give the token up. Idempotent; the next `register` takes another one."""
        with self._registering:
            lock, self._lock = self._lock, None
            if lock is not None:
                with contextlib.suppress(OSError):  # then it is a leftover
                    self._disk.unlink(self._lock_path(self._token))
                lock.release()

    def abandon(self) -> None:
        """Give the lock up without a word to the disk, as the end of the process does."""
        if self._lock is not None:
            self._lock.release()

    def new_name(self) -> str:
        """Return the name of a new temporary."""
        return f"{TEMPORARY}{self._token}-{next(self._numbers)}"

    def sweep(self, directory: str) -> None:
        """Remove what dead writers left in a directory; their lock files too, if it is the root."""
        for name in self._disk.list_dir(directory):
            if name.startswith(TEMPORARY):
                token = name.removeprefix(TEMPORARY).partition("-")[0]
            elif name.startswith(WRITER):
                token = name.removeprefix(WRITER)
            else:
                continue
            if token != self._token and self._is_dead(token):
                self._remove(f"{directory}/{name}")

    def _remove(self, path: str) -> None:
        try:
            self._disk.unlink(path)
        except FileNotFoundError:
            log.debug("%s was gone already", path)
        except OSError as error:
            log.warning("a leftover stays: %s", error)  # not a reason for a write to fail

    def _is_dead(self, token: str) -> bool:
        """Whether the writer is dead; if so, remove its lock file."""
        path = self._lock_path(token)
        try:
            self._disk.file_size(path)
            lock = self._disk.lock(path, "somebody who looks for leftovers")
        except FileNotFoundError:
            return True
        except LogLockedError:
            return False
        except OSError as error:
            log.warning("not known whether a leftover is one: %s", error)
            return False
        try:
            self._remove(path)
        finally:
            lock.release()
        return True

    def _lock_path(self, token: str) -> str:
        return f"{self._root}/{WRITER}{token}"
