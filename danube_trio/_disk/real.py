"""The disk of the operating system: with `locks`, what of the package touches the file system.

What it promises is written at `danube_trio._core.disk`; `docs/format.md` says what is kept in the
files. Chosen here:

- **Sync** is fdatasync(2), which flushes data and size, on Linux, and F_FULLFSYNC on macOS, where
  fsync(2) leaves the data in the drive's cache. Nobody has looked at what other systems promise, so
  there everything that writes raises OSError(ENOTSUP).
- **Locks** are flock(2); see `locks`.
- **Directories** that are held open are what openat(2) and its like begin at.
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
import logging
import os
import stat
import sys
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Concatenate, Final, ParamSpec, Protocol, TypeVar

from danube_trio._core.disk import FileStat, Stray, parent_of
from danube_trio._disk.inotify import open_watch
from danube_trio._disk.lane import ThreadLane
from danube_trio._disk.locks import (
    NO_LOCK,
    Descriptor,
    others_locked,
    read_holder,
    try_lock,
    write_holder,
)
from danube_trio._disk.threads import Threads
from danube_trio.errors import LogLockedError

if TYPE_CHECKING:
    from danube_trio._core.disk import OpenMode, Watch

T = TypeVar("T")
P = ParamSpec("P")


class _HasPath(Protocol):
    path: str


_Pathed = TypeVar("_Pathed", bound=_HasPath)
FILE_MODE = 0o600
DIR_MODE = 0o700
# Reads block on the device, so more threads than cores are useful. A guess.
DEFAULT_THREADS = 8

CAN_WRITE: Final = sys.platform in ("linux", "darwin")
_CLOEXEC = getattr(os, "O_CLOEXEC", 0)
_DIR_FLAGS = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | _CLOEXEC
_OPEN_FLAGS = _CLOEXEC | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
_MODE_FLAGS = {"r": os.O_RDONLY, "rw": os.O_RDWR, "create": os.O_RDWR | os.O_CREAT | os.O_EXCL}
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

log = logging.getLogger("danube_trio.disk")

_warned: set[str] = set()  # directories that everybody may write to
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


@contextlib.contextmanager
def _named(path: str) -> Generator[None]:
    """What the system raises names a file in its directory, or none: now it has the path."""
    try:
        yield
    except OSError as error:
        error.filename = path
        raise


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


class RealDisk:
    """The `Disk` of the operating system. It has no state but a limit, so one serves all logs.

    Args:
        threads: how many calls of `run` may be in their threads at a time, per event loop run.
            They are not counted against trio's own limiter, so user threads starve no read.
    """

    def __init__(self, *, threads: int = DEFAULT_THREADS) -> None:
        if threads < 1:
            raise ValueError(f"threads must be at least 1, got {threads!r}")
        self._limit = threads
        self._threads = Threads(threads, "danube-trio disk threads")

    def __repr__(self) -> str:
        return f"RealDisk(threads={self._limit})"

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

    def _at(self, path: str) -> tuple[str, int | None]:
        """The name that a call of the system takes for this path, and the directory it is in."""
        return path, None

    def list_dir(self, path: str) -> list[str]:
        return sorted(os.listdir(path))

    def open(self, path: str, mode: OpenMode) -> _RealFile:
        if mode != "r":
            _check_can_write(path)
        return _RealFile(self._open(path, _MODE_FLAGS[mode]), path)

    def _open(self, path: str, flags: int) -> int:
        name, inside = self._at(path)
        try:
            fd = os.open(name, flags | _OPEN_FLAGS, FILE_MODE, dir_fd=inside)
        except OSError as error:
            # What opening a directory for writing, or a socket, gives.
            if error.errno in (errno.EISDIR, errno.ENXIO):
                raise _not_regular(path) from None
            error.filename = path
            raise
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise _not_regular(path)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def file_size(self, path: str) -> int:
        return self._stat(path).st_size

    def stat(self, path: str) -> FileStat:
        return _stat_of(self._stat(path))

    def _stat(self, path: str) -> os.stat_result:
        name, inside = self._at(path)
        with _named(path):
            found = os.stat(name, dir_fd=inside, follow_symlinks=False)
        if not stat.S_ISREG(found.st_mode):
            raise _not_regular(path)
        return found

    def rename(self, source: str, target: str) -> None:
        _check_can_write(target)
        self._two(os.rename, source, target)

    def link(self, source: str, target: str) -> None:
        _check_can_write(target)
        self._two(functools.partial(os.link, follow_symlinks=False), source, target)

    def _two(self, call: Callable[..., None], source: str, target: str) -> None:
        (old, old_in), (new, new_in) = self._at(source), self._at(target)
        try:
            call(old, new, src_dir_fd=old_in, dst_dir_fd=new_in)
        except OSError as error:
            error.filename, error.filename2 = source, target
            raise

    def unlink(self, path: str) -> None:
        _check_can_write(path)
        name, inside = self._at(path)
        with _named(path):
            os.unlink(name, dir_fd=inside)

    def remove_dir(self, path: str) -> None:
        _check_can_write(path)
        name, inside = self._at(path)
        with _named(path):
            os.rmdir(name, dir_fd=inside)

    def sync_dir(self, path: str) -> None:
        _check_can_write(path)
        fd = _open_dir(path)
        try:
            _sync_named(fd, path)
        finally:
            os.close(fd)

    def open_dir(self, path: str) -> _RealDirectory | _UnheldDirectory:
        if not CAN_WRITE:
            return _UnheldDirectory(self, path)
        return _RealDirectory(self, path, _open_dir(path))

    def lock(self, path: str, holder: str) -> Descriptor:
        _check_can_write(path)
        fd = self._open(path, os.O_RDWR | os.O_CREAT)
        try:
            with _named(path):
                if not try_lock(fd):
                    raise LogLockedError(path, read_holder(fd))
                write_holder(fd, holder)
        except BaseException:
            os.close(fd)
            raise
        return Descriptor(fd)

    def free_bytes(self, path: str) -> int:
        return _free_bytes(path)

    async def watch(self, path: str, file: str) -> Watch | None:
        return await open_watch(path, file, self.run) if sys.platform == "linux" else None

    async def run(self, fn: Callable[..., T], /, *args: object) -> T:
        return await self._threads.run(fn, *args)

    def open_lane(self) -> ThreadLane:
        return ThreadLane()


class _UnheldDirectory(RealDisk):
    """For followers on other systems, which can hold no directory: all goes by path."""

    def __init__(self, disk: RealDisk, path: str) -> None:
        os.listdir(path)  # says what is wrong with it
        self._disk = disk

    def strayed(self) -> Stray | None:
        return None

    def close(self) -> None:
        """Nothing is held."""

    async def run(self, fn: Callable[..., T], /, *args: object) -> T:
        return await self._disk.run(fn, *args)


class _RealDirectory(RealDisk):
    """An `OpenDirectory`.

    Linux tells a failed write-back once to each descriptor that was open when it failed.
    """

    def __init__(self, disk: RealDisk, path: str, fd: int) -> None:
        self._disk = disk
        self._path = path.rstrip("/") or "/"
        self._place = os.path.abspath(path)  # what it means now, whatever directory we work in then
        self._descriptor = Descriptor(fd)
        self._locks: list[Descriptor] = []

    def __repr__(self) -> str:
        return f"<directory {self._path!r}, {'closed' if self._descriptor.fd < 0 else 'open'}>"

    def _is_own(self, path: str) -> bool:
        return (path.rstrip("/") or "/") == self._path

    @property
    def _fd(self) -> int:
        if self._descriptor.fd < 0:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF), self._path)
        return self._descriptor.fd

    def _at(self, path: str) -> tuple[str, int | None]:
        if parent_of(path) == self._path:
            return path.rpartition("/")[2], self._fd
        return path, None

    def list_dir(self, path: str) -> list[str]:
        if not self._is_own(path):
            return super().list_dir(path)
        fd = self._open_again(path)
        try:
            return sorted(os.listdir(fd))
        finally:
            os.close(fd)

    def _open_again(self, path: str) -> int:
        """Another descriptor: one has one place in its listing, which threads would share."""
        with _named(path):
            return os.open(".", _DIR_FLAGS, dir_fd=self._fd)

    def open_dir(self, path: str) -> _RealDirectory | _UnheldDirectory:
        if self._is_own(path):
            return _RealDirectory(self._disk, path, self._open_again(path))
        return super().open_dir(path)

    def sync_dir(self, path: str) -> None:
        if self._is_own(path):
            _sync_named(self._fd, path)
        else:
            super().sync_dir(path)

    def free_bytes(self, path: str) -> int:
        return _free_bytes(self._fd) if self._is_own(path) else super().free_bytes(path)

    def lock(self, path: str, holder: str) -> Descriptor:
        _check_can_write(path)
        name, inside = self._at(path)
        if inside is not None and not self._lock_itself(name):
            raise LogLockedError(path, self._holder(path))
        self._warn_of_others()
        lock = super().lock(path, holder)
        self._locks.append(lock)
        return lock

    def _warn_of_others(self) -> None:
        """Once for each directory: who may write there can put files in and take them away."""
        if os.fstat(self._fd).st_mode & stat.S_IWOTH and self._place not in _warned:
            _warned.add(self._place)
            log.warning(
                "%s: everybody may write to this directory, and so remove or replace what is in "
                "it: chmod o-w",
                self._place,
            )

    def _lock_itself(self, name: str) -> bool:
        try:
            return try_lock(self._fd) or others_locked(self._fd, self.list_dir(self._path), name)
        except OSError as error:
            if error.errno not in NO_LOCK:
                raise
            return True

    def _holder(self, path: str) -> str:
        """What the lock file says, if there is one; the lock itself needs none."""
        try:
            fd = self._open(path, os.O_RDONLY)
        except OSError:
            return ""
        try:
            return read_holder(fd)
        finally:
            os.close(fd)

    def strayed(self) -> Stray | None:
        ours = os.fstat(self._fd)
        found = None
        try:
            found = os.stat(self._place)
        except PermissionError:
            return None  # it cannot be asked, so nothing is known to be wrong
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise
        if found is not None and os.path.samestat(found, ours):
            return None
        return Stray(not ours.st_nlink, self._place_now(ours), found is not None)

    def _place_now(self, ours: os.stat_result) -> str | None:
        with contextlib.suppress(OSError):  # Linux knows
            place = os.readlink(f"/proc/self/fd/{self._fd}")
            if os.path.samestat(os.stat(place), ours):
                return place
        return None

    def close(self) -> None:
        while self._locks:
            self._locks.pop().release()
        self._descriptor.close()

    # -- as the disk has it, whoever changed it

    async def watch(self, path: str, file: str) -> Watch | None:
        return await self._disk.watch(path, file)

    async def run(self, fn: Callable[..., T], /, *args: object) -> T:
        return await self._disk.run(fn, *args)

    def open_lane(self) -> ThreadLane:
        return self._disk.open_lane()


def _open_dir(path: str) -> int:
    return os.open(path, _DIR_FLAGS)


def _sync_named(fd: int, path: str) -> None:
    with _named(path):
        _sync_dir(fd)


def _free_bytes(place: str | int) -> int:
    found = os.statvfs(place)
    return found.f_bavail * found.f_frsize


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
