"""One process's view of a simulated disk: open files, locks, lanes, and the calls of `Disk`.

`_sim_disk` has the theory and the public class.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import posixpath
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import trio

from danube_trio._core.disk import FileStat, Stray, parent_of
from danube_trio.errors import LogLockedError
from danube_trio.testing._sim_faults import Fault, Operation, ProcessKilledError
from danube_trio.testing._sim_model import Cut, Grow, Link, Rename, Unlink
from danube_trio.testing._sim_store import Paths, Store, os_error
from danube_trio.testing._sim_watch import SimWatch

if TYPE_CHECKING:
    from danube_trio._core.disk import Lane, OpenMode

T = TypeVar("T")


class _Process:
    """What the open files and locks of a process share with it."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.alive = True
        self.files: set[_SimFile] = set()
        self.locks: set[_SimLock] = set()

    def perform(
        self,
        name: str,
        path: str,
        effect: Callable[[], T],
        partial: Callable[[Fault], T] | None = None,
        position: int = 0,
        size: int = 0,
    ) -> T:
        def check_alive() -> None:
            if not self.alive:
                raise ProcessKilledError(path)

        check_alive()  # what the dead try is not counted
        operation = Operation(name, path, position, size)
        return self.store.perform(operation, check_alive, effect, partial)

    def stat(self, path: str, ident: int) -> FileStat:
        """No operation: a log looks at its files all the time, and nothing comes of it."""
        if not self.alive:
            raise ProcessKilledError(path)
        return self.store.stat(ident)


class _SimFile:
    """An open file of one process."""

    def __init__(self, process: _Process, ident: int, path: str, *, writable: bool) -> None:
        self._process, self._store, self._ident = process, process.store, ident
        self._writable, self._closed = writable, False
        self.path = path
        self._store.open_counts[ident] += 1

    def read_at(self, size: int, position: int) -> bytes:
        def read(fault: Fault | None = None) -> bytes:
            limit = size if fault is None else min(size, fault.short or 0)
            return self._store.model.inodes[self._ident].visible.read(limit, position)

        return self._do("read", read, read, position, size)

    def write_at(self, data: bytes | bytearray | memoryview, position: int) -> None:
        copy = bytes(data)

        def write(fault: Fault | None = None) -> None:
            part = copy if fault is None else copy[: fault.short or 0]
            self._store.write(self._ident, self.path, part, position)

        self._do("write", write, write, position, len(copy), change=True)

    def write_durable_at(self, data: bytes, position: int) -> None:
        # Two operations, so that a crash can come between, and a fault hit either.
        def sync(fault: Fault | None = None) -> None:
            self._store.sync(self._ident, fault, since)

        since = self._store.model.serial
        self.write_at(data, position)
        self._do("sync_data", sync, sync)

    def size(self) -> int:
        return self._do("size", lambda: self._store.model.inodes[self._ident].visible.size)

    def stat(self) -> FileStat:
        self._check_open()
        return self._process.stat(self.path, self._ident)

    def holds(self, data: bytes, position: int) -> bool:
        """No operation, like `stat`."""
        self._check_open()
        visible = self._store.model.inodes[self._ident].visible
        return visible.read(len(data), position) == data

    def _check_open(self) -> None:
        if not self._process.alive:
            raise ProcessKilledError(self.path)
        if self._closed:
            raise os_error(errno.EBADF, self.path)

    def allocate(self, end: int) -> bool:
        def allocate(fault: Fault | None = None) -> bool:
            size = self._store.model.inodes[self._ident].visible.size
            wanted = end if fault is None else min(end, size + (fault.short or 0))
            fits = min(wanted, size + self._store.room_bytes())
            self._store.resize(self._ident, self.path, max(size, fits), Grow)
            if fits < wanted:
                raise os_error(errno.ENOSPC, self.path)
            return True

        return self._do("allocate", allocate, allocate, end, change=True)

    def truncate(self, size: int) -> None:
        resize = functools.partial(self._store.resize, self._ident, self.path, size, Cut)
        self._do("truncate", resize, None, size, change=True)

    def sync_data(self) -> None:
        def sync(fault: Fault | None = None) -> None:
            self._store.sync(self._ident, fault)

        self._do("sync_data", sync, sync)

    def close(self) -> None:
        if not self._closed:
            try:
                self._do("close", lambda: None)
            finally:
                self.forget()

    def forget(self) -> None:
        """Close it without a word, as the end of its process does."""
        if not self._closed:
            self._closed = True
            self._process.files.discard(self)
            self._store.open_counts[self._ident] -= 1

    def _do(
        self,
        name: str,
        effect: Callable[[], T],
        partial: Callable[[Fault], T] | None = None,
        position: int = 0,
        size: int = 0,
        *,
        change: bool = False,
    ) -> T:
        if (self._closed and self._process.alive) or (change and not self._writable):
            raise os_error(errno.EBADF, self.path)
        return self._process.perform(name, self.path, effect, partial, position, size)


class _SimLock:
    def __init__(self, process: _Process, ident: int) -> None:
        self._process, self._ident = process, ident

    def release(self) -> None:
        locks = self._process.store.locks
        if locks.get(self._ident) is self:
            del locks[self._ident]
        self._process.locks.discard(self)


class _SimLane:
    """Runs calls inline, one at a time, in order."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._turn = trio.StrictFIFOLock()
        self._closed = False

    async def run(self, fn: Callable[..., T], /, *args: object) -> T:
        if self._closed:
            raise trio.ClosedResourceError("the I/O lane is closed")
        with trio.CancelScope(shield=True):
            # A checkpoint; the place in the line is taken before it.
            await self._turn.acquire()
        try:
            if self._store.latency:
                with trio.CancelScope(shield=True):
                    await trio.sleep(self._store.latency)
            return fn(*args)
        finally:
            self._turn.release()

    async def aclose(self) -> None:
        self._closed = True
        with trio.CancelScope(shield=True):
            async with self._turn:
                pass


class SimProcess:
    """The calls of `Disk`, on a store that other processes may use too."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._process = _Process(store)
        self._paths = Paths(store)

    # -- Disk

    def make_dir(self, path: str) -> None:
        missing: list[str] = []
        found = path
        while not self._paths.exists(found):
            missing.append(found)
            found = parent_of(found)
        self._process.perform("make_dir", found, functools.partial(self._paths.find_dir, found))
        self.sync_dir(parent_of(found))
        for name in reversed(missing):
            self._process.perform(
                "make_dir", name, functools.partial(self._paths.make, name, is_dir=True)
            )
            try:
                self.sync_dir(parent_of(name))
            except OSError:
                with contextlib.suppress(OSError):
                    self.remove_dir(name)
                raise

    def list_dir(self, path: str) -> list[str]:
        store = self._store
        return self._process.perform(
            "list_dir", path, lambda: sorted(store.model.inodes[self._paths.find_dir(path)].names)
        )

    def open(self, path: str, mode: OpenMode) -> _SimFile:
        if mode == "create":
            make = functools.partial(self._paths.make, path, is_dir=False)
            ident = self._process.perform("create", path, make)
        else:
            ident = self._process.perform(
                "open", path, functools.partial(self._paths.find_file, path)
            )
        file = _SimFile(self._process, ident, path, writable=mode != "r")
        self._process.files.add(file)
        return file

    def file_size(self, path: str) -> int:
        store = self._store
        return self._process.perform(
            "file_size", path, lambda: store.model.inodes[self._paths.find_file(path)].visible.size
        )

    def stat(self, path: str) -> FileStat:
        return self._process.stat(path, self._paths.find_file(path))

    def rename(self, source: str, target: str) -> None:
        def rename() -> None:
            ident = self._paths.find(source)
            (parent, old), (target_parent, new) = map(self._paths.find_parent, (source, target))
            if parent != target_parent:
                raise os_error(errno.EXDEV, target)
            replaced = store.model.inodes[parent].names.get(new)
            if replaced is not None and store.model.inodes[replaced].is_dir:
                raise os_error(errno.EISDIR, target)
            if replaced != ident:
                names = store.model.inodes[parent].names.items()
                others = frozenset(n for n, i in names if i == ident and n not in (old, new))
                store.apply(Rename(parent, target, store.model.serial, old, new, ident, others))

        store = self._store
        self._process.perform("rename", target, rename)

    def link(self, source: str, target: str) -> None:
        def link() -> None:
            ident = self._paths.find(source)
            if store.model.inodes[ident].is_dir:
                raise os_error(errno.EPERM, source)
            parent, name = self._paths.find_parent(target)
            if name in store.model.inodes[parent].names:
                raise os_error(errno.EEXIST, target)
            store.apply(Link(parent, target, store.model.serial, name, ident))

        store = self._store
        self._process.perform("link", target, link)

    def unlink(self, path: str) -> None:
        def unlink() -> None:
            ident = self._paths.find(path)
            if store.model.inodes[ident].is_dir:
                raise os_error(errno.EISDIR, path)
            parent, name = self._paths.find_parent(path)
            store.apply(Unlink(parent, path, store.model.serial, name, ident))

        store = self._store
        self._process.perform("unlink", path, unlink)

    def remove_dir(self, path: str) -> None:
        def remove() -> None:
            parent, name = self._paths.find_parent(path)
            ident = store.model.inodes[parent].names.get(name)
            if ident is None:
                raise os_error(errno.ENOENT, path)
            if not store.model.inodes[ident].is_dir:
                raise os_error(errno.ENOTDIR, path)
            if store.model.inodes[ident].names:
                raise os_error(errno.ENOTEMPTY, path)
            self._paths.remove_dir(path, ident)

        store = self._store
        self._process.perform("remove_dir", path, remove)

    def sync_dir(self, path: str) -> None:
        def sync(fault: Fault | None = None) -> None:
            self._store.sync(self._paths.find_dir(path), fault)

        self._process.perform("sync_dir", path, sync, sync)

    def open_dir(self, path: str) -> _SimDirectory:
        return _SimDirectory(self, self._process, path, self._paths.find_dir(path))

    def lock(self, path: str, holder: str) -> _SimLock:
        def lock() -> _SimLock:
            ident = (
                self._paths.find_file(path)
                if self._paths.exists(path)
                else self._paths.make(path, is_dir=False)
            )
            if ident in store.locks:
                text = store.model.inodes[ident].visible.read(1 << 20, 0)
                raise LogLockedError(path, text.decode(errors="replace"))
            store.resize(ident, path, 0, Cut)
            with contextlib.suppress(OSError):  # on a full disk the lock is as good without it
                store.write(ident, path, holder.encode(), 0)
            return self._take(ident)

        store = self._store
        return self._process.perform("lock", path, lock)

    def _take(self, ident: int) -> _SimLock:
        taken = _SimLock(self._process, ident)
        self._store.locks[ident] = taken
        self._process.locks.add(taken)
        return taken

    def free_bytes(self, path: str) -> int:
        return self._process.perform("free_bytes", path, self._store.room_bytes)

    async def watch(self, path: str, file: str) -> SimWatch | None:
        def find(watch: SimWatch) -> set[int]:
            idents = {self._paths.find_dir(path)}
            if self._paths.exists(file):
                idents.add(self._paths.find_file(file))
            if watch not in store.watches:
                store.watches.append(watch)
            return idents

        store = self._store
        await trio.lowlevel.checkpoint()
        return SimWatch(
            path, lambda watch: self._process.perform("watch", path, lambda: find(watch))
        )

    async def run(self, fn: Callable[..., T], /, *args: object) -> T:
        await trio.lowlevel.checkpoint_if_cancelled()
        with trio.CancelScope(shield=True):
            await trio.sleep(self.latency)
        return fn(*args)

    def open_lane(self) -> Lane:
        return _SimLane(self._store)

    # -- the process itself

    @property
    def latency(self) -> float:
        """Seconds that a call by `run` or on a lane takes. Can be changed at any time."""
        return self._store.latency

    @latency.setter
    def latency(self, value: float) -> None:
        self._store.latency = value

    @property
    def open_paths(self) -> list[str]:
        """The paths of the files that this process has open, sorted."""
        return sorted(file.path for file in self._process.files)

    def kill(self) -> None:
        """Kill this process: its files and locks are closed, all its calls ProcessKilledError.

        Everything it has written stays, unsynced changes as unsynced changes. Idempotent.
        """
        self._process.alive = False
        for file in list(self._process.files):
            file.forget()
        for lock in list(self._process.locks):
            lock.release()


class _SimDirectory(SimProcess):
    """An `OpenDirectory`: a failed sync is told to each that was open when it failed."""

    def __init__(self, disk: SimProcess, process: _Process, path: str, ident: int) -> None:
        self._disk, self._process, self._store = disk, process, process.store
        self._path = path.rstrip("/") or "/"
        self._paths = Paths(self._store, self._path, ident)
        self._root = Paths(self._store)
        self._told = self._store.failed_syncs[ident]
        self._locks: list[_SimLock] = []

    def sync_dir(self, path: str) -> None:
        ident, failed = self._paths.ident, self._store.failed_syncs
        told = self._told
        try:
            super().sync_dir(path)
        finally:
            if own := self._paths.is_held(path):
                self._told = failed[ident]
        if own and self._told != told:
            raise os_error(errno.EIO, path)

    def lock(self, path: str, holder: str) -> _SimLock:
        if parent_of(path) == self._path:
            self._lock_itself(path)
        lock = super().lock(path, holder)
        self._locks.append(lock)
        return lock

    def _lock_itself(self, path: str) -> None:
        """The file's lock is the operation; this one is taken with it."""
        ident, locks, inodes = self._paths.ident, self._store.locks, self._store.model.inodes
        if ident not in locks:
            self._locks.append(self._take(ident))
            return
        names, own = inodes[ident].names, posixpath.basename(path)
        others = [other for name, other in names.items() if name.endswith("lock") and name != own]
        if not any(other in locks for other in others) and locks[ident] not in self._locks:
            visible = inodes[names[own]].visible if own in names else None
            text = visible.read(1 << 20, 0) if visible is not None else b""
            raise LogLockedError(path, text.decode(errors="replace"))

    def strayed(self) -> Stray | None:
        """No operation, like `stat`."""
        if not self._process.alive:
            raise ProcessKilledError(self._path)
        found = None
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            found = self._root.find(self._path)
        if found == self._paths.ident:
            return None
        removed = self._paths.ident in self._store.gone
        place = None if removed else self._store.place_of(self._paths.ident)
        return Stray(removed, place, found is not None)

    def close(self) -> None:
        while self._locks:
            self._locks.pop().release()
        self._paths.closed = True

    # -- as the disk has it, whoever changed it

    async def watch(self, path: str, file: str) -> SimWatch | None:
        return await self._disk.watch(path, file)

    async def run(self, fn: Callable[..., T], /, *args: object) -> T:
        return await self._disk.run(fn, *args)

    def open_lane(self) -> Lane:
        return self._disk.open_lane()
