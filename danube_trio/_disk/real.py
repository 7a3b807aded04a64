"""The disk of the operating system: the only file of the package that touches the file system.

What it promises is written at `danube_trio._core.disk`; `docs/format.md` says what is kept in the
files. Chosen here:

- **Sync** is fdatasync(2), which flushes data and size, on Linux, and F_FULLFSYNC on macOS, where
  fsync(2) leaves the data in the drive's cache. Nobody has looked at what other systems promise, so
  there everything that writes raises OSError(ENOTSUP).
- **Locks** are flock(2). POSIX locks (lockf, fcntl) are dropped as soon as *any* descriptor of the
  file is closed by the process, and do not exclude two logs in one process.
- **Opening** uses O_NOFOLLOW, so that nobody can make a log write elsewhere through a link, and
  O_NONBLOCK, so that a FIFO in the way is refused instead of waited for; for regular files it
  means nothing. Modes are 0600 and 0700: messages are nobody else's business.
- **Watches** are inotify's, on Linux, if the package `inotify_simple` is there; see `inotify`.
- **EINTR** is Python's affair (PEP 475).
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import stat
import sys
import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Concatenate, Final, ParamSpec, Protocol, TypeVar

import trio

from danube_trio._core.disk import FileStat, parent_of
from danube_trio._disk.inotify import open_watch
from danube_trio._disk.lane import ThreadLane
from danube_trio.errors import LogLockedError

if TYPE_CHECKING:
    from danube_trio._core.disk import OpenMode, Watch

__all__ = ["RealDisk"]

T = TypeVar("T")
P = ParamSpec("P")


class _HasPath(Protocol):
    path: str


_Pathed = TypeVar("_Pathed", bound=_HasPath)
FILE_MODE = 0o600
DIR_MODE = 0o700
HOLDER_BYTES = 1024
# Reads block on the device, so more threads than cores are useful. A guess.
DEFAULT_THREADS = 8

CAN_WRITE: Final = sys.platform in ("linux", "darwin")
_CLOEXEC = getattr(os, "O_CLOEXEC", 0)
_OPEN_FLAGS = _CLOEXEC | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
_MODE_FLAGS = {
    "r": os.O_RDONLY,
    "rw": os.O_RDWR,
    "create": os.O_RDWR | os.O_CREAT | os.O_EXCL,
}
# What a system answers to a call or flag that it has not, before it does anything: the file system,
# an older kernel, or a sandbox (EPERM). All that is asked for only if it is there can be done
# without, and whoever does so asks for the real thing next, which says what is really wrong.
_NOT_HERE = frozenset({errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL, errno.EPERM})

if sys.platform == "darwin":
    import fcntl

    def _sync(fd: int) -> None:
        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)

    _sync_dir = _sync
elif sys.platform == "linux":
    import fcntl

    _sync = os.fdatasync
    _sync_dir = os.fsync

# The flag of a write that is its own fdatasync; 0 where Python has none (macOS, older musl).
_DURABLE_WRITE: int = getattr(os, "RWF_DSYNC", 0)
# A large write goes in parts of this size: 12 % less time for 1 MiB than in one (measured).
_EARLY_BYTES = 384 << 10


def _naming(method: Callable[Concatenate[_Pathed, P], T]) -> Callable[Concatenate[_Pathed, P], T]:
    """What a call on a descriptor raises does not say which file that is: now it does."""

    @functools.wraps(method)
    def call(self: _Pathed, /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return method(self, *args, **kwargs)
        except OSError as error:
            if error.filename is None:
                error.filename = self.path
            raise

    return call


class _RealFile:
    __slots__ = ("_fd", "path")

    def __init__(self, fd: int, path: str) -> None:
        self._fd = fd
        self.path = path

    def __repr__(self) -> str:
        return f"<file {self.path!r}, {'closed' if self._fd < 0 else 'open'}>"

    @_naming
    def read_at(self, size: int, position: int) -> bytes:
        data = os.pread(self._fd, size, position)
        if len(data) == size or not data:
            return data
        parts = [data]
        missing = size - len(data)
        while missing and (data := os.pread(self._fd, missing, position + size - missing)):
            parts.append(data)
            missing -= len(data)
        return b"".join(parts)

    @_naming
    def write_at(self, data: bytes | bytearray | memoryview, position: int) -> None:
        view = memoryview(data).cast("B")
        written = os.pwrite(self._fd, view, position)
        while written < len(view):
            more = os.pwrite(self._fd, view[written:], position + written)
            if more == 0:
                raise OSError(errno.EIO, "a write wrote nothing", self.path)
            written += more

    @_naming
    def write_durable_at(self, data: bytes, position: int) -> None:
        view = memoryview(data)
        if len(view) > 2 * _EARLY_BYTES and hasattr(os, "posix_fadvise"):
            self._write_early(view, position)
            self.sync_data()
            return
        written = self._write_flagged(view, position)
        if written < len(view):
            # Without the flag it is a write and a sync, never a write alone.
            self.write_at(view[written:], position + written)
            self.sync_data()

    def _write_flagged(self, view: memoryview, position: int) -> int:
        """Write with the flag that makes it durable; returns how much, less if it is not here."""
        written = 0
        while _DURABLE_WRITE and written < len(view):
            try:
                more = os.pwritev(self._fd, [view[written:]], position + written, _DURABLE_WRITE)
            except OSError as error:
                if error.errno not in _NOT_HERE:
                    raise
                break
            if more == 0:
                raise OSError(errno.EIO, "a write wrote nothing", self.path)
            written += more
        return written

    def _write_early(self, view: memoryview, position: int) -> None:
        """Write in parts, and let the device begin with each while the next is being copied."""
        for start in range(0, len(view), _EARLY_BYTES):
            part = view[start : start + _EARLY_BYTES]
            self.write_at(part, position + start)
            # What the advice does to dirty pages is to start writing them. A hint: it may fail.
            with contextlib.suppress(OSError):
                os.posix_fadvise(self._fd, position + start, len(part), os.POSIX_FADV_DONTNEED)

    @_naming
    def size(self) -> int:
        return os.fstat(self._fd).st_size

    @_naming
    def stat(self) -> FileStat:
        return _stat_of(os.fstat(self._fd))

    def holds(self, data: bytes, position: int) -> bool:
        return self.read_at(len(data), position) == data

    @_naming
    def allocate(self, end: int) -> bool:
        size = self.size()
        if end <= size:
            return True
        if not hasattr(os, "posix_fallocate"):
            return False
        try:
            os.posix_fallocate(self._fd, size, end - size)
        except OSError as error:
            if error.errno in _NOT_HERE:
                return False
            raise
        return True

    @_naming
    def truncate(self, size: int) -> None:
        os.ftruncate(self._fd, size)

    @_naming
    def sync_data(self) -> None:
        if self._fd < 0:  # Python has an opinion about this one: ValueError
            raise OSError(errno.EBADF, "the file is closed", self.path)
        _sync(self._fd)

    @_naming
    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class _RealDirectory:
    """Linux tells a failed write-back once to each descriptor that was open when it failed."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | _CLOEXEC)

    @_naming
    def sync(self) -> None:
        if self._fd < 0:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        _sync_dir(self._fd)

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class _RealLock:
    __slots__ = ("__weakref__", "_fd")

    def __init__(self, fd: int) -> None:
        self._fd = fd
        _held_locks.add(self)

    def after_fork(self) -> None:
        """In the child: close the descriptor, which would hold the lock beyond the parent's death.

        Only close it: to unlock would unlock the parent's.
        """
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def release(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            try:
                # Said aloud: a forked child has the descriptor too, and closing ours would leave
                # the lock with it.
                fcntl.flock(fd, fcntl.LOCK_UN)
            finally:
                os.close(fd)


_held_locks: weakref.WeakSet[_RealLock] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for lock in _held_locks:
        lock.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


class RealDisk:
    """The `Disk` of the operating system. It has no state but a limit, so one serves all logs.

    Args:
        threads: how many calls of `run` may be in their threads at a time, per event loop run.
            They are not counted against trio's own limiter, so user threads starve no read.
    """

    def __init__(self, *, threads: int = DEFAULT_THREADS) -> None:
        if threads < 1:
            raise ValueError(f"threads must be at least 1, got {threads!r}")
        self._threads = threads
        # A limiter is not thread-safe and remembers tasks: each event loop run has its own.
        self._limiter: trio.lowlevel.RunVar[trio.CapacityLimiter] = trio.lowlevel.RunVar(
            "danube-trio disk threads"
        )

    def __repr__(self) -> str:
        return f"RealDisk(threads={self._threads})"

    def make_dir(self, path: str) -> None:
        _check_can_write(path)
        missing: list[str] = []
        found = path
        while not os.path.isdir(found):
            if os.path.lexists(found):
                if os.path.isdir(found):
                    break  # somebody has made it since
                raise NotADirectoryError(errno.ENOTDIR, "not a directory", found)
            missing.append(found)
            found = parent_of(found)
        # A parent that we may not even open: then somebody else made the directory that is there,
        # and made it durable or not.
        with contextlib.suppress(PermissionError):
            self.sync_dir(parent_of(found))
        for name in reversed(missing):
            try:
                os.mkdir(name, DIR_MODE)
            except FileExistsError:
                if not os.path.isdir(name):
                    raise NotADirectoryError(errno.ENOTDIR, "not a directory", name) from None
            try:
                self.sync_dir(parent_of(name))
            except OSError:
                # A sync that works later says nothing of this name: it must be made anew then.
                with contextlib.suppress(OSError):  # somebody else has something in it
                    os.rmdir(name)
                raise

    def list_dir(self, path: str) -> list[str]:
        return sorted(os.listdir(path))

    def open(self, path: str, mode: OpenMode) -> _RealFile:
        if mode != "r":
            _check_can_write(path)
        return _RealFile(_open_regular(path, _MODE_FLAGS[mode]), path)

    def file_size(self, path: str) -> int:
        found = os.stat(path, follow_symlinks=False)
        if not stat.S_ISREG(found.st_mode):
            raise _not_regular(path)
        return found.st_size

    def stat(self, path: str) -> FileStat:
        found = os.stat(path, follow_symlinks=False)
        if not stat.S_ISREG(found.st_mode):
            raise _not_regular(path)
        return _stat_of(found)

    def rename(self, source: str, target: str) -> None:
        _check_can_write(target)
        os.rename(source, target)

    def link(self, source: str, target: str) -> None:
        _check_can_write(target)
        os.link(source, target, follow_symlinks=False)

    def unlink(self, path: str) -> None:
        _check_can_write(path)
        os.unlink(path)

    def sync_dir(self, path: str) -> None:
        _check_can_write(path)
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | _CLOEXEC)
        try:
            _sync_dir(fd)
        except OSError as error:
            raise OSError(error.errno, error.strerror, path) from error
        finally:
            os.close(fd)

    def open_dir(self, path: str) -> _RealDirectory:
        return _RealDirectory(path)

    def lock(self, path: str, holder: str) -> _RealLock:
        _check_can_write(path)
        fd = _open_regular(path, os.O_RDWR | os.O_CREAT)
        try:
            if not _try_lock(fd):
                text = os.pread(fd, HOLDER_BYTES, 0).decode(errors="replace")
                raise LogLockedError(path, text)
            _write_holder(fd, holder.encode()[:HOLDER_BYTES])
        except BaseException as error:
            os.close(fd)
            if isinstance(error, OSError) and error.filename is None:
                error.filename = path
            raise
        return _RealLock(fd)

    def free_bytes(self, path: str) -> int:
        found = os.statvfs(path)
        return found.f_bavail * found.f_frsize

    async def watch(self, path: str, file: str) -> Watch | None:
        return await open_watch(path, file, self.run) if sys.platform == "linux" else None

    async def run(self, fn: Callable[..., T], /, *args: object) -> T:
        try:
            limiter = self._limiter.get()
        except LookupError:
            limiter = trio.CapacityLimiter(self._threads)
            self._limiter.set(limiter)
        return await trio.to_thread.run_sync(
            functools.partial(fn, *args), abandon_on_cancel=False, limiter=limiter
        )

    def open_lane(self) -> ThreadLane:
        return ThreadLane()


def _open_regular(path: str, flags: int) -> int:
    try:
        fd = os.open(path, flags | _OPEN_FLAGS, FILE_MODE)
    except OSError as error:
        # What opening a directory for writing, or a socket, gives.
        if error.errno in (errno.EISDIR, errno.ENXIO):
            raise _not_regular(path) from None
        raise
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise _not_regular(path)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _stat_of(found: os.stat_result) -> FileStat:
    ident = (found.st_dev, found.st_ino)
    return FileStat(ident, found.st_size, found.st_nlink, found.st_mtime_ns)


def _not_regular(path: str) -> OSError:
    return OSError(errno.EINVAL, "not a regular file; move it out of the way", path)


def _check_can_write(path: str) -> None:
    if not CAN_WRITE:
        raise OSError(
            errno.ENOTSUP,
            f"danube-trio writes on Linux and macOS only: what a sync promises on {sys.platform} "
            "is unknown; open the log read-only there",
            path,
        )


def _try_lock(fd: int) -> bool:
    """Take the lock; try a few times, as a tool that looks for the holder takes it for a moment."""
    for _ in range(5):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.002)
        else:
            return True
    return False


def _write_holder(fd: int, holder: bytes) -> None:
    """Write who holds the lock. For people only, so a full disk must not keep a log from opening.

    Overwritten before it is cut, because cutting first would give away the block that it needs.
    """
    try:
        os.pwrite(fd, holder, 0)
        os.ftruncate(fd, len(holder))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        os.ftruncate(fd, 0)  # nothing is better than the name of the holder before
