"""Watches of the real disk: inotify(7), by the package `inotify_simple`, where there are both.

One inotify instance serves all watches of an event loop run, because a user has 128 of them (Linux'
default) for everything that he runs. It is opened with the first watch and closed with the last; a
system task waits for it in between, which costs nothing while nothing happens.

**One shot.** The system removes a watch (IN_ONESHOT) when it has told once. So a writer that syncs
5000 times a second makes one event, and then none until somebody has looked and armed again; the
queue never holds more than four events for each watch; and nobody who does not look is woken. What
is armed are two inodes: the directory, for its names, and the one file whose content counts. A
watch of the directory alone would also tell of every write to every other file there.

**What is heard while arming.** Arming is a path lookup, so it runs in a worker thread, and the loop
may read the event of a watch before that thread knows its number. Therefore every watch that is
being armed collects the numbers that are heard meanwhile, and looks for its own there. Numbers are
not used again, but for one case: arming an inode that is still armed gives the number that it has.
If its one shot is just being fired, the new arming goes with it; but then its IN_IGNORED comes
after, and that counts as a change, like any event of a number that somebody waits for.

**Overflow** (IN_Q_OVERFLOW), should it happen, is a change for all. So are the end of the directory
(IN_DELETE_SELF), its move (IN_MOVE_SELF) and that of its file system (IN_UNMOUNT, IN_IGNORED): who
looks then is told by the look. That of a directory above it makes no event.

The lock guards the sets, which both threads use, and holds for no call that can block.
"""

from __future__ import annotations

import errno
import logging
import threading
from collections.abc import Awaitable, Callable, Iterable
from importlib import import_module
from typing import Any, Protocol, cast

import trio

log = logging.getLogger("danube_trio.disk")

# inotify.h; `inotify_simple` has the same, but it may be missing when this is imported.
MODIFY = 0x2
MOVED_FROM, MOVED_TO, CREATE, DELETE = 0x40, 0x80, 0x100, 0x200
DELETE_SELF, MOVE_SELF = 0x400, 0x800
Q_OVERFLOW = 0x4000
ONLYDIR, DONT_FOLLOW, ONESHOT = 0x1000000, 0x2000000, 0x80000000

OF_DIRECTORY = MOVED_FROM | MOVED_TO | CREATE | DELETE | DELETE_SELF | MOVE_SELF | ONLYDIR | ONESHOT
OF_FILE = MODIFY | DONT_FOLLOW | ONESHOT


class _Event(Protocol):
    @property
    def wd(self) -> int: ...
    @property
    def mask(self) -> int: ...


class _INotify(Protocol):
    """What is used of `inotify_simple.INotify`, which has no types."""

    def fileno(self) -> int: ...
    def add_watch(self, path: str, mask: int) -> int: ...
    def rm_watch(self, wd: int) -> None: ...
    def read(self, timeout: int) -> Iterable[_Event]: ...
    def close(self) -> None: ...


Run = Callable[[Callable[[], _INotify | None]], Awaitable[_INotify | None]]
_shared: trio.lowlevel.RunVar[_Instance | None] = trio.lowlevel.RunVar("danube-trio inotify", None)
_complained = False


async def open_watch(directory: str, file: str, run: Run) -> _InotifyWatch | None:
    """A watch of the names in the directory and the content of that file, or None; see `Disk`.

    Args:
        run: as of `Disk`: the package looks for the C library, which takes a child process.
    """
    await trio.lowlevel.checkpoint()
    if _shared.get() is None:
        inotify = await run(_open_inotify)
        if inotify is None:
            return None
        if _shared.get() is None:
            instance = _Instance(inotify)
            _shared.set(instance)
            trio.lowlevel.spawn_system_task(instance.serve, name="danube-trio inotify")
        else:  # somebody else was faster
            inotify.close()
    shared = _shared.get()
    assert shared is not None
    return _InotifyWatch(shared, directory, file)


def _open_inotify() -> _INotify | None:
    try:
        module: Any = import_module("inotify_simple")
        return cast("_INotify", module.INotify(nonblocking=True))
    except ModuleNotFoundError:
        _complain(logging.INFO, "inotify_simple is not installed (danube-trio[notify])")
    except Exception as error:  # without a C library that can be found, whatever it happens to be
        _complain(logging.WARNING, f"inotify cannot be used: {error}")
    return None


def _complain(level: int, text: str) -> None:
    """Once in a process: what is missing for one follower is missing for all."""
    global _complained
    if not _complained:
        _complained = True
        log.log(level, "%s: followers look for changes by themselves", text)


class _Instance:
    """One inotify instance: which watch waits for which number."""

    def __init__(self, inotify: _INotify) -> None:
        self._inotify = inotify
        self._lock = threading.Lock()
        self._token = trio.lowlevel.current_trio_token()
        self._scope = trio.CancelScope()
        self._watches: set[_InotifyWatch] = set()
        self._waiting: dict[int, set[_InotifyWatch]] = {}
        self._numbers: dict[_InotifyWatch, list[int]] = {}  # of its last arming
        self._arming: dict[_InotifyWatch, set[int]] = {}
        self._users = 1  # the system task, and threads in a call
        self._closed = False

    async def serve(self) -> None:
        """Hear events, until the last watch is closed or the run ends."""
        try:
            with self._scope:
                while True:
                    await trio.lowlevel.wait_readable(self._inotify.fileno())
                    self._hear(self._inotify.read(timeout=0))
        except OSError:
            # A system task must not end with an error. Nobody is told any more; everybody polls.
            log.exception("inotify failed: followers look for changes by themselves")
        finally:
            self._close()
            self._leave()

    def add(self, watch: _InotifyWatch) -> None:
        """The watch may be armed from now on."""
        self._watches.add(watch)

    def remove(self, watch: _InotifyWatch) -> None:
        """The watch was closed; the last one closes the instance."""
        self._watches.discard(watch)
        with self._lock:
            lost = self._forget(watch, keep=())
            closed = self._closed
        if not closed:
            self._unwatch(lost)
        if not self._watches:
            self._close()
            self._scope.cancel()

    def arm(self, watch: _InotifyWatch, directory: str, file: str) -> None:
        """Watch both until something changes. In a worker thread."""
        with self._lock:
            if self._closed or watch not in self._watches:
                raise OSError(errno.EBADF, "the watch is closed", directory)
            self._users += 1
            heard = self._arming[watch] = set()
        found: list[int] = []
        try:
            # The directory first: a file that is made in between is a change of it.
            found.append(self._inotify.add_watch(directory, OF_DIRECTORY))
            try:
                found.append(self._inotify.add_watch(file, OF_FILE))
            except FileNotFoundError:
                log.debug("%s is not there yet", file)
        except OSError as error:
            raise OSError(error.errno, f"cannot be watched: {error.strerror}", directory) from None
        finally:
            self._armed(watch, found, heard)
            self._leave()

    def _armed(self, watch: _InotifyWatch, found: list[int], heard: set[int]) -> None:
        with self._lock:
            if self._arming.get(watch) is heard:
                del self._arming[watch]
            lost = self._forget(watch, keep=found)
            if watch in self._watches:
                self._numbers[watch] = found
                for wd in found:
                    self._waiting.setdefault(wd, set()).add(watch)
            else:
                lost += [wd for wd in found if wd not in self._waiting]
            missed = not heard.isdisjoint(found)
        self._unwatch(lost)
        if missed:
            self._token.run_sync_soon(watch.tell)

    def _forget(self, watch: _InotifyWatch, keep: Iterable[int]) -> list[int]:
        """What it waits for no more, and nobody else waits for."""
        lost: list[int] = []
        for wd in self._numbers.pop(watch, ()):
            watches = self._waiting.get(wd)
            if watches is not None:
                watches.discard(watch)
                if not watches:
                    del self._waiting[wd]
                    if wd not in keep:
                        lost.append(wd)
        return lost

    def _unwatch(self, numbers: Iterable[int]) -> None:
        for wd in numbers:
            try:
                self._inotify.rm_watch(wd)
            except OSError as error:  # it has told, or its inode is gone
                log.debug("watch %d was not there any more: %s", wd, error)

    def _hear(self, events: Iterable[_Event]) -> None:
        told: set[_InotifyWatch] = set()
        with self._lock:
            for event in events:
                if event.mask & Q_OVERFLOW:
                    log.debug("events were lost: everybody looks")
                    told |= self._watches
                    continue
                told |= self._waiting.pop(event.wd, set())
                for heard in self._arming.values():
                    heard.add(event.wd)
        for watch in told:
            watch.tell()

    def _close(self) -> None:
        """No more arming. The next watch opens a new instance."""
        with self._lock:
            self._closed = True
        if _shared.get() is self:
            _shared.set(None)
        for watch in self._watches:
            watch.tell()  # who waits here must go and poll

    def _leave(self) -> None:
        """The last one out closes it; sooner, its number could be another file's already."""
        with self._lock:
            self._users -= 1
            last = not self._users
        if last:
            self._inotify.close()


class _InotifyWatch:
    """A `Watch`; `_Instance` does the work."""

    def __init__(self, instance: _Instance, directory: str, file: str) -> None:
        self._instance = instance
        self._directory = directory
        self._file = file
        self._told = trio.Event()
        self._changed = False
        self._open = True
        instance.add(self)

    def __repr__(self) -> str:
        return f"<watch of {self._directory!r}, {'open' if self._open else 'closed'}>"

    @property
    def changed(self) -> bool:
        return self._changed

    def arm(self) -> None:
        self._changed = False
        self._instance.arm(self, self._directory, self._file)

    def tell(self) -> None:
        """Something changed. In the event loop."""
        self._changed = True
        self._told.set()

    async def wait_changed(self) -> None:
        await trio.lowlevel.checkpoint()
        while not self._changed:
            self._told = trio.Event()
            await self._told.wait()

    def close(self) -> None:
        if self._open:
            self._open = False
            self._instance.remove(self)
