"""What a log asks of a disk, as Protocols: nothing here touches one.

`danube_trio._disk.real.RealDisk` is the operating system's, `danube_trio.testing.SimDisk` one that
forgets what was not synced. Everything that reads or writes files takes a `Disk` as an argument,
so each rule about crashes and faults can be tested by itself, and virtual time needs no threads.

Calls are plain and blocking. A task never makes one directly; it hands a function over:

- `Disk.run` for reads and housekeeping: any number at a time, in no order;
- a `Lane` for one log's writes and syncs: one at a time, in order, with the cheapest hop there is.

Handed-over calls are never abandoned. A write or sync of which nobody knows whether it still runs
would be a second writer of the same bytes.

Three promises, and nothing more, are made about a crash (a power cut; a killed process loses
nothing that a call has done):

- `File.sync_data` makes the bytes and the size of that file durable, not its name;
- `Disk.sync_dir` makes the names in that directory durable, not what they name;
- `Disk.rename` is atomic: afterwards the target is the old file or the new one; so is `Disk.link`:
  the name is there or not.

Everything else may be lost, kept, torn or reordered. Errors are `OSError` with the errno of the
operating system. A sync that failed once says nothing when it succeeds the next time.

**A path names a thing only at the moment of opening it**; afterwards the descriptor does. Who works
in a directory for longer than a call, and alone, opens it first (`Disk.open_dir`). What that gives
is the same disk, seen from there, so that paths stay what they are for everybody:

- *held*: a path whose parent is that directory is a name in it, wherever it has been moved to and
  whatever stands at its path by now. Nothing is ever made, renamed or removed in another one.
- *locked*: `OpenDirectory.lock` locks the directory itself and the lock file, since a file can be
  removed ("it looked stale"). Older versions and people look at the file, so both count.
- *strayed*: the path leads elsewhere, or nowhere. That is asked for, and cheap. What was durable in
  it still is, and nothing that is written will be found where everybody looks for it.

A `Watch` tells of changes that anybody makes, where the system can. It is a hint: it may come for
nothing, and a change that another machine made to a network file system may come without one.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from itertools import count
from typing import Literal, Protocol, TypeVar

import attrs

from danube_trio.errors import CorruptDataError

OpenMode = Literal["r", "rw", "create"]
TMP_SUFFIX = ".tmp"
PIECE_BYTES = 1 << 20  # of what is read to the end, a piece at a time
T = TypeVar("T")


@attrs.frozen
class FileStat:
    """What the system says of a regular file.

    Attributes:
        ident: device and inode: the same for two names of one file, and for no two files that exist
            at the same time.
        size_bytes: its size.
        links: how many names it has; 0 once it was removed or replaced while it is open.
        changed: when its content changed last, in the system's own units; only good to compare.
    """

    ident: tuple[int, int]
    size_bytes: int
    links: int
    changed: int


@attrs.frozen
class Stray:
    """A directory that is held open, and is not at its path any more.

    Attributes:
        removed: it has no name any more, and so nothing in it has.
        place: where it is now, as far as known.
        replaced: another one is at its path.
    """

    removed: bool
    place: str | None = None
    replaced: bool = False

    def __str__(self) -> str:
        what = f"was moved to {self.place}" if self.place else "is not at its path any more"
        if self.removed:
            what = "was removed"
        return what + (", and another one is in its place" if self.replaced else "")


class Readable(Protocol):
    """What reading takes. A file has it, and an object that is read like one."""

    @property
    def path(self) -> str:
        """The path it was opened with."""
        ...

    def read_at(self, size: int, position: int) -> bytes:
        """Read exactly `size` bytes; fewer only where the file ends. Loops on short reads."""
        ...

    def size(self) -> int:
        """Return the size in bytes."""
        ...


class File(Readable, Protocol):
    """An open regular file. Positions and sizes are in bytes; there is no current position.

    Every method raises `OSError`; with errno EBADF after `close`, and for a change to a file that
    was opened with mode "r".
    """

    def write_at(self, data: bytes | bytearray | memoryview, position: int) -> None:
        """Write all of `data`, extending the file (with zeros before `position`) as needed.

        Loops on short writes; a write of nothing is an error. When it raises, any part of the
        data may have been written.
        """

    def write_durable_at(self, data: bytes, position: int) -> None:
        """Write all of `data` like `write_at`, and return when these bytes are durable.

        The same as a write and a sync, in one call of the system where it has one. It speaks of
        these bytes and the size only: what was written before may still be lost.
        """

    def stat(self) -> FileStat:
        """Return what this file is, whatever its name leads to by now."""
        ...

    def holds(self, data: bytes, position: int) -> bool:
        """Return whether these bytes are there now."""
        ...

    def allocate(self, end: int) -> bool:
        """Reserve space up to `end` and extend the size to it with zeros; never shrinks.

        Returns False where the file system cannot do that: then nothing changed. A full disk is
        OSError(ENOSPC), and then the file may have grown by what there was.
        """
        ...

    def truncate(self, size: int) -> None:
        """Set the size: cut, or extended with zeros."""

    def sync_data(self) -> None:
        """Return when all data and the size are durable. Never retry it after an error."""

    def close(self) -> None:
        """Close the file; idempotent, also when it raises."""


class Lock(Protocol):
    """A held lock."""

    def release(self) -> None:
        """Give it up; idempotent. The lock file stays."""


class Lane(Protocol):
    """A serial executor: calls run one at a time, in the order in which `run` was called."""

    async def run(self, fn: Callable[..., T], /, *args: object) -> T:
        """Run `fn(*args)` off the event loop; return its result or raise its exception.

        Cancellation: none. Calling hands over, so `Cancelled` is never raised here; a cancelled
        caller sees it at its next checkpoint. Always a schedule point. trio.ClosedResourceError
        once `aclose` was called.
        """
        ...

    async def aclose(self) -> None:
        """Wait for the calls handed over so far, then free everything; idempotent.

        Cancellation: none.
        """


class Watch(Protocol):
    """Tells of changes in one directory, whoever makes them. Made by `Disk.watch`.

    One arming tells once, so a busy writer costs nothing until the next one::

        await disk.run(watch.arm)  # first, so that nothing that comes later is missed
        ...  # look
        await watch.wait_changed()
    """

    @property
    def changed(self) -> bool:
        """Whether anything changed since `arm` was called last."""
        ...

    def arm(self) -> None:
        """Tell of the next change. Blocking; what calls it runs off the event loop.

        Raises OSError when that is impossible, now: the directory is gone (ENOENT, ENOTDIR), there
        are too many watches (ENOSPC), it was closed (EBADF).
        """

    async def wait_changed(self) -> None:
        """Return when something changed since `arm` was called last; at once, if it has.

        For one task at a time. Can be cancelled; holds no thread.
        """

    def close(self) -> None:
        """Watch no more; idempotent. In the event loop."""


class Disk(Protocol):
    """The file system. Paths are `str` with "/"; every method raises `OSError` as usual."""

    def make_dir(self, path: str) -> None:
        """Make the directory with mode 0700, and its parents, unless they exist; durably.

        Syncs the parent of every directory that it makes, and of the deepest one that it finds: a
        killed process may have made that one and synced nothing. If such a sync fails, what was
        made goes again: nothing would make its name durable later. NotADirectoryError if a file
        is in the way.
        """

    def list_dir(self, path: str) -> list[str]:
        """Return the names in the directory, sorted. FileNotFoundError, NotADirectoryError."""
        ...

    def open(self, path: str, mode: OpenMode) -> File:
        """Open a regular file: "r", "rw", or "create" (mode 0600; FileExistsError if it exists).

        Never follows a symbolic link (errno ELOOP), is not inherited by child processes, refuses
        all but regular files (errno EINVAL). "create" makes a name that a crash may take back
        until `sync_dir`.
        """
        ...

    def file_size(self, path: str) -> int:
        """Return the size of a regular file in bytes. FileNotFoundError; EINVAL as for `open`."""
        ...

    def stat(self, path: str) -> FileStat:
        """Return what file the name leads to. FileNotFoundError; EINVAL as for `open`."""
        ...

    def rename(self, source: str, target: str) -> None:
        """Rename within one directory, atomically replacing `target`; durable by `sync_dir`."""

    def link(self, source: str, target: str) -> None:
        """Give the file `source` the further name `target`, atomically; durable by `sync_dir`.

        FileExistsError if anything has that name: of all who try, one succeeds. The content must
        be durable before, because the name may be at any time. An `OSError` where the file system
        has no such thing (EPERM, EOPNOTSUPP). Never follows a symbolic link.
        """

    def unlink(self, path: str) -> None:
        """Remove the name of a file; durable by `sync_dir`. FileNotFoundError."""

    def remove_dir(self, path: str) -> None:
        """Remove the name of an empty directory; durable by `sync_dir` of its parent.

        FileNotFoundError, NotADirectoryError; errno ENOTEMPTY if anything is in it.
        """

    def sync_dir(self, path: str) -> None:
        """Return when every name made, changed and removed in the directory so far is durable.

        If it fails (`OSError.filename` is the directory, also inside `make_dir`), any of them may
        be lost, and a later one that works says nothing of them.
        """

    def open_dir(self, path: str) -> OpenDirectory:
        """Hold a directory open. FileNotFoundError, NotADirectoryError."""
        ...

    def lock(self, path: str, holder: str) -> Lock:
        """Take the exclusive lock of the lock file, made if missing; write `holder` into it.

        Raises LogLockedError, with the text found there, if anybody holds it, be it in this
        process. The lock ends with `release` or with the process, however that ends.
        """
        ...

    def free_bytes(self, path: str) -> int:
        """Return how many bytes are free for an ordinary user on the file system of `path`."""
        ...

    async def watch(self, path: str, file: str) -> Watch | None:
        """Return a watch, not armed yet, or None where changes are not told.

        It tells when a name in the directory `path` is made, changed or removed, when the content
        of `file` changes, which is a path in that directory and may be missing, and when the
        directory itself goes. It belongs to the event loop run that it is made in.

        Cancellation: then there is none.
        """
        ...

    async def run(self, fn: Callable[..., T], /, *args: object) -> T:
        """Run `fn(*args)` off the event loop; return its result or raise its exception.

        Cancellation: `Cancelled` is raised only before the call begins, never after.
        """
        ...

    def open_lane(self) -> Lane:
        """Return a new lane, for the writes and syncs of one log."""
        ...


class OpenDirectory(Disk, Protocol):
    """A directory that is held open, and the disk as seen from it. See the module's text.

    A path whose parent is the directory, as it was given, is a name in it; all other paths are the
    disk's. It hears of failures that a name alone would not tell: `sync_dir` of the directory
    raises OSError also if a sync of it by anybody else, in whatever thread or process, failed since
    this one was opened, or synced last.
    """

    def lock(self, path: str, holder: str) -> Lock:
        """Like `Disk.lock`; for a file in the directory, the directory itself is locked too.

        Where the file system cannot lock directories the file's lock is all there is. The same if
        a lock file of another kind is held here, as by a metadata store in a log's directory.
        """
        ...

    def strayed(self) -> Stray | None:
        """Say what became of the directory if its path does not lead to it any more, else None."""
        ...

    def close(self) -> None:
        """Give up the locks that were taken through it, and close it; idempotent."""


def parent_of(path: str) -> str:
    """Return the directory that holds `path`: what to sync after a change of that name."""
    head, slash, _ = path.rstrip("/").rpartition("/")
    return (head.rstrip("/") or "/") if slash or path.startswith("/") else "."


def name_of(path: str) -> str:
    """Return the name that `path` has in its directory."""
    return path.rpartition("/")[2]


def free_path(listing: Iterable[str], path_of: Callable[[int], str]) -> str:
    """Return the first of the paths for 0, 1, 2 and so on whose name is not in the listing."""
    taken = set(listing)
    return next(path for path in map(path_of, count()) if name_of(path) not in taken)


def hold(disk: Disk, path: str, holder: str) -> OpenDirectory:
    """Open the directory of the lock file `path`, and lock both. Raises as `OpenDirectory.lock`."""
    held = disk.open_dir(parent_of(path))
    try:
        held.lock(path, holder)
    except BaseException:
        held.close()
        raise
    return held


def read_file(disk: Disk, path: str, limit: int) -> bytes:
    """Return the whole content of a small file.

    Raises CorruptDataError, before anything is allocated, if it is larger than `limit` bytes, and
    OSError(EIO) if it ends before the size that it had when it was opened.
    """
    with closing(disk.open(path, "r")) as file:
        size = file.size()
        if size > limit:
            raise CorruptDataError(
                f"the file has {size} bytes where at most {limit} are expected", path=path
            )
        data = file.read_at(size, 0)
    if len(data) != size:
        raise OSError(errno.EIO, f"only {len(data)} of {size} bytes could be read", path)
    return data


def read_if_there(disk: Disk, path: str, limit: int) -> bytes | None:
    """`read_file`; None if there is no such file."""
    try:
        return read_file(disk, path, limit)
    except FileNotFoundError:
        return None


def list_if_there(disk: Disk, path: str) -> list[str]:
    """The names in a directory; none if there is no such directory."""
    try:
        return disk.list_dir(path)
    except (FileNotFoundError, NotADirectoryError):
        return []


def pieces_of(
    file: Readable, position: int = 0, end: int = 1 << 63, size: int = PIECE_BYTES
) -> Iterator[tuple[int, bytes]]:
    """What is in `[position, end)` of a file, in order, each piece with its position."""
    while position < end and (data := file.read_at(min(size, end - position), position)):
        yield position, data
        position += len(data)


def open_anew(disk: Disk, path: str) -> File:
    """Create a file whose name a crash, or a try before, may have left.

    It is a new one: the old one may have unsynced writes of its own.
    """
    with suppress(FileExistsError):
        return disk.open(path, "create")
    disk.unlink(path)
    return disk.open(path, "create")


def replace_file(disk: Disk, path: str, data: bytes) -> None:
    """Make `data` the whole content of `path`, durably: after a crash it is the old or the new.

    Writes `path + ".tmp"`, syncs it, renames it, syncs the directory: the only sequence that keeps
    this promise on every file system. Delete what the file replaces only after this returned. On
    an error before the rename the old content stays.
    """
    put_in_place(disk, path, data)
    disk.sync_dir(parent_of(path))


def put_in_place(disk: Disk, path: str, data: bytes) -> None:
    """`replace_file` without its last step: if this raises, nothing has changed."""
    put_parts_in_place(disk, path, (data,))


def put_parts_in_place(disk: Disk, path: str, parts: Iterable[bytes | memoryview]) -> None:
    """`put_in_place` for content that need not be in memory all at once."""
    temporary = path + TMP_SUFFIX
    file = open_anew(disk, temporary)
    try:
        with closing(file):
            position = 0
            for part in parts:
                file.write_at(part, position)
                position += len(part)
            file.sync_data()
        disk.rename(temporary, path)
    except OSError:
        # On a full disk the temporary holds space that somebody needs; the first error counts.
        with suppress(OSError):
            disk.unlink(temporary)
        raise
