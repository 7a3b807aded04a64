"""Locks of the real disk: flock(2), of lock files and of the directories that hold them.

POSIX locks (lockf, fcntl) are dropped as soon as *any* descriptor of the file is closed by the
process, do not exclude two logs in one process, and there are none of directories.

- *The file* says who holds it. Its lock is what older versions take, what tools look at, and all
  there is where directories cannot be locked, such as on NFS.
- *The directory* is locked by who holds it open (`RealDisk.open_dir`). A file can be removed under
  its lock, and the next one gets a new file; whoever wants in finds the directory locked then.

Two holders of different kinds may live in one directory, a log and a metadata store: each has its
own lock file, the first one the directory's lock too. So a directory that is locked keeps somebody
out unless the lock of another file in it is held, which says whose the directory's lock may be.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
import time
import weakref
from typing import Final

if sys.platform != "win32":
    import fcntl

    _FILE: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    _DIRECTORY: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY

HOLDER_BYTES = 1024
_ANOTHER = "another program"
# What a file system that cannot lock directories answers. NFS locks ranges of bytes, for which a
# file must be open for writing, as no directory is (EBADF).
NO_LOCK: Final = frozenset(
    {
        *(errno.EBADF, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOLCK),
        *(errno.EPERM, errno.EACCES, errno.EISDIR),
    }
)


class Descriptor:
    """A descriptor that may have a lock, and that a forked child has to close."""

    __slots__ = ("__weakref__", "fd")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        _descriptors.add(self)

    def close(self, *, forked: bool = False) -> None:
        """Give up the lock and close it; idempotent.

        Said aloud: a forked child has the descriptor too, and closing ours would leave the lock
        with it. The child only closes its own, which would hold the lock beyond the parent's death:
        to unlock would unlock the parent's.
        """
        fd, self.fd = self.fd, -1
        if fd >= 0:
            try:
                if not forked:
                    fcntl.flock(fd, fcntl.LOCK_UN)
            except OSError as error:
                if error.errno not in NO_LOCK:
                    raise
            finally:
                os.close(fd)

    def release(self) -> None:
        """As of a `Lock`."""
        self.close()


_descriptors: weakref.WeakSet[Descriptor] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for descriptor in _descriptors:
        descriptor.close(forked=True)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def try_lock(fd: int) -> bool:
    """Take the lock; try a few times, as a tool that looks for the holder takes it for a moment."""
    for _ in range(5):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.002)
        else:
            return True
    return False


def _is_locked(path: str, flags: int, inside: int | None = None) -> bool:
    """Whether somebody holds the lock. Who takes it in this moment sees it taken."""
    try:
        fd = os.open(path, flags, dir_fd=inside)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(fd)
    return False


def others_locked(directory: int, listing: list[str], name: str) -> bool:
    """Whether a directory may be locked by somebody of another kind, who has his own file in it."""
    others = [other for other in listing if other.endswith("lock") and other != name]
    return any(_is_locked(other, _FILE, directory) for other in others)


def this_process(doing: str = "") -> str:
    """Who holds a lock, for people: this process, and what it is doing if that is not a log."""
    return f"{doing}{', ' * bool(doing)}process {os.getpid()} on {socket.gethostname()}"


def read_holder(fd: int) -> str:
    """What a lock file says about its holder."""
    text = os.pread(fd, HOLDER_BYTES, 0).decode(errors="replace")
    return " ".join(text.split())


def write_holder(fd: int, holder: str) -> None:
    """Write who holds the lock. For people only, so a full disk must not keep a log from opening.

    Overwritten before it is cut, because cutting first would give away the block that it needs.
    """
    data = holder.encode()[:HOLDER_BYTES]
    try:
        os.pwrite(fd, data, 0)
        os.ftruncate(fd, len(data))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        os.ftruncate(fd, 0)  # nothing is better than the name of the holder before


def find_holder(path: str) -> str | None:
    """What the holder of this lock file and its directory says about itself; None: nobody holds it.

    It asks for a shared lock for a moment, which a program that opens the log in exactly that
    moment would take for a holder; there is no other way to know that works everywhere.
    """
    if sys.platform == "win32":
        return None  # there, nobody can hold one
    if not _is_locked(path, _FILE) and not _is_directory_locked(*os.path.split(path)):
        return None
    try:
        fd = os.open(path, _FILE)
    except OSError:
        return _ANOTHER
    try:
        return read_holder(fd) or _ANOTHER
    finally:
        os.close(fd)


def _is_directory_locked(directory: str, name: str) -> bool:
    directory = directory or "."
    if not _is_locked(directory, _DIRECTORY):
        return False
    fd = os.open(directory, _DIRECTORY)
    try:
        return not others_locked(fd, os.listdir(directory), name)
    finally:
        os.close(fd)
