"""Objects as files: the blocking half of `DirectoryStore`, over the `Disk` interface.

**Names.** The object ``a/b`` is the file ``a/b`` below the root, with its bytes and nothing else.
Names that begin with ``.danube-`` are the store's own and cannot be parts of keys:

- ``.danube-tmp-<token>-<n>``, beside the object that it will become;
- ``.danube-lock``, at the root: held, with the root itself, for the moment in which a name changes
  what it means.
- ``.danube-writer-<token>``, at the root: see `_leftovers`;
- ``.danube-store``, at the root: see `_root`, and for what happens when the directory is lost.

**Writing.** The bytes go into a temporary and are synced. Then the name appears in one step:
link(2) for `create`, which never replaces anything and which one of any number of processes wins;
rename(2) for all else. Then the directory is synced, and only then the call returns. So a crash
leaves a whole object or none, and an answer is always about something durable: an object that is in
the way of a `create` has its name synced before the caller hears of it. (Readers may see an object
whose writer has not returned yet, and which a power cut may then take back.)

**Changing.** `swap` reads, compares and renames under the lock; `put` and `delete` take it too, so
that nothing changes in between. `create` needs none: while the object is there it does nothing, and
while the lock is held for a `swap` the object is there.

**Leftovers** of writers that died are not listed, and go as `_leftovers` says.

**A failed sync of a directory** says that any name that was changed there since the last one may be
lost in a power cut although everybody sees it, and no later sync makes up for it. So this store
answers nothing more about that directory: otherwise a caller that reads to find out whether its
write happened would be told yes. And syncs of one directory come one after the other: one that
worked counts only if none has failed since the change that it is for.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from functools import partial
from itertools import accumulate

import attrs

from danube_trio._core.disk import Disk, File, hold, list_if_there, parent_of
from danube_trio.cloud._keys import is_key, start_of
from danube_trio.cloud._leftovers import RESERVED, Writer
from danube_trio.cloud._root import Root
from danube_trio.cloud._store import ObjectInfo
from danube_trio.errors import ObjectNotFoundError, PreconditionFailedError

LOCK = f"{RESERVED}lock"
HOLDER = "a write of danube-trio"
PIECE_BYTES = 1 << 20
# The sync was not even tried: it may be, later.
_NOT_TRIED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
# What is found at a path that is no object.
_NO_OBJECT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EINVAL, errno.EISDIR})


class _Tag:
    """The tag of an object: a digest of its content."""

    def __init__(self, data: bytes = b"") -> None:
        self._hash = hashlib.blake2b(data, digest_size=16)
        self.add = self._hash.update

    def __str__(self) -> str:
        return self._hash.hexdigest()


@attrs.define(eq=False)
class Temporary:
    """An object that is being written, under a name that nobody looks at."""

    key: str
    path: str
    target: str
    file: File
    tag: _Tag
    size_bytes: int = 0
    gone: bool = False

    @property
    def info(self) -> ObjectInfo:
        return ObjectInfo(self.key, self.size_bytes, str(self.tag))

    def write(self, *chunks: bytes) -> None:
        """Write the next bytes."""
        for data in chunks:
            self.file.write_at(data, self.size_bytes)
            self.tag.add(data)
            self.size_bytes += len(data)

    def finish(self) -> None:
        """Make the bytes durable."""
        self.file.sync_data()
        self.file.close()


class ObjectFiles:
    """The files of one directory store. Every method blocks, and may be called in any thread."""

    def __init__(self, disk: Disk, root: str) -> None:
        self._disk = disk
        self._root = root
        self._place = Root(disk, root, self._sync)
        self.writer = Writer(disk, root)
        self._ready: set[str] = set()
        self._syncing: dict[str, threading.Lock] = {}
        self._failed: dict[str, OSError] = {}

    def close(self) -> None:
        """Give up the lock; a later write takes another one."""
        self._ready.clear()  # first: its temporaries have the token that ends now
        self.writer.unregister()

    def path_of(self, key: str) -> str:
        """Return the path of an object, or of the directory of a prefix; "" is the root.

        ValueError if a part of the key is a name of the store's own.
        """
        if any(part.startswith(RESERVED) for part in key.split("/")):
            raise ValueError(f"key={key!r} has a part that begins with {RESERVED!r}: reserved")
        return f"{self._root}/{key}" if key else self._root

    # -- writing

    def begin(self, key: str) -> Temporary:
        """Make a temporary for the object, in its directory."""
        target = self.path_of(key)
        directory = parent_of(target)
        self._settle(directory)
        self._place.check()
        try:
            self._prepare(directory)
            file = self._open_temporary(directory)
        except FileNotFoundError:
            # It was there before: somebody has removed the directory, or it is not mounted.
            self._ready.discard(directory)
            self._prepare(directory)
            file = self._open_temporary(directory)
        return Temporary(key, file.path, target, file, _Tag())

    def _open_temporary(self, directory: str) -> File:
        return self._disk.open(f"{directory}/{self.writer.new_name()}", "create")

    def write(self, key: str, data: bytes) -> Temporary:
        """Write the bytes of an object into a temporary, durably."""
        temporary = self.begin(key)
        try:
            temporary.write(data)
            temporary.finish()
        except BaseException:
            self.discard(temporary)
            raise
        return temporary

    def discard(self, temporary: Temporary) -> None:
        """Remove the temporary, if it is still there. What does not go now is a leftover."""
        if not temporary.gone:
            temporary.gone = True
            with contextlib.suppress(OSError):
                temporary.file.close()
            with contextlib.suppress(OSError):
                self._disk.unlink(temporary.path)

    def create(self, key: str, data: bytes) -> ObjectInfo:
        """Write the object if there is none."""
        target = self.path_of(key)
        self._settle(parent_of(target))
        if not self._is_object(target):
            temporary = self.write(key, data)
            try:
                with contextlib.suppress(FileExistsError):
                    self._disk.link(temporary.path, target)
                    self._sync_names(parent_of(target))
                    return temporary.info
            finally:
                self.discard(temporary)
            if self._size(target) is None and not self._is_link(target):
                self._disk.list_dir(target)  # NotADirectoryError of what is no directory either
                raise _collision(key)
        self._sync_names(parent_of(target))
        raise PreconditionFailedError(f"{key!r} exists already")

    def place(self, temporary: Temporary, expected: ObjectInfo | None) -> ObjectInfo:
        """Let the temporary become the object, if that still is `expected`.

        Raises LogLockedError, and has done nothing, if another process is at this just now.
        """
        target = temporary.target
        with self._lock():
            if expected is not None:
                self._compare(temporary.key, expected)
            try:
                self._disk.rename(temporary.path, target)
            except IsADirectoryError:
                raise _collision(temporary.key) from None
            temporary.gone = True
        self._sync_names(parent_of(target))
        return temporary.info

    def _compare(self, key: str, expected: ObjectInfo) -> None:
        try:
            now = self.head(key)
        except ObjectNotFoundError:
            now = None
        if now != expected:
            what = "gone" if now is None else "another one"
            raise PreconditionFailedError(f"{key!r} is {what} now: read it again")

    def delete(self, key: str) -> None:
        """Remove the object, if there is one. Raises LogLockedError as `place`."""
        target = self.path_of(key)
        directory = parent_of(target)
        self._settle(directory)
        if self._is_object(target):
            self._place.prepare(self.writer)  # a marker, before what else tells the root goes
            with self._lock(), contextlib.suppress(FileNotFoundError):
                self._disk.unlink(target)
        # Also when it was gone: then the removal may be another one's, and not durable yet.
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            self._sync_names(directory)
        self._place.check()

    # -- reading

    def get(self, key: str, start: int, end: int | None) -> tuple[ObjectInfo, bytes]:
        """Read `[start, end)`; the tag is known when that is everything."""
        with self._open(key) as file:
            size = file.size()
            stop = size if end is None else min(end, size)
            length = max(0, stop - start_of(key, start, size))
            data = file.read_at(length, start)
        if len(data) != length:
            raise OSError(errno.EIO, f"only {len(data)} of {length} bytes could be read", file.path)
        return ObjectInfo(key, size, str(_Tag(data)) if length == size else None), data

    def head(self, key: str) -> ObjectInfo:
        """Read everything, because of the tag."""
        tag = _Tag()
        with self._open(key) as file:
            size = file.size()
            for position in range(0, size, PIECE_BYTES):
                tag.add(file.read_at(min(PIECE_BYTES, size - position), position))
        return ObjectInfo(key, size, str(tag))

    @contextlib.contextmanager
    def _open(self, key: str) -> Generator[File]:
        path = self.path_of(key)
        self._settle(parent_of(path))
        try:
            file = self._disk.open(path, "r")
        except OSError as error:
            if error.errno not in _NO_OBJECT:
                raise
            self._place.check()
            raise ObjectNotFoundError(f"there is no {key!r}") from None
        with closing(file):
            self._place.check()
            yield file

    def read_dir(self, prefix: str, after: str) -> tuple[list[ObjectInfo], list[str]]:
        """Return the objects and the prefixes one level below a prefix, as far as above `after`."""
        objects: list[ObjectInfo] = []
        prefixes: list[str] = []
        for key, size in self._look(prefix):
            if f"{key}0" <= after:  # "0" comes after "/": so is everything below it
                continue
            size_bytes = size()
            if size_bytes is None:
                prefixes.append(key)
            elif size_bytes >= 0 and key > after:
                objects.append(ObjectInfo(key, size_bytes))
        return objects, prefixes

    def peek(self, prefix: str) -> tuple[bool, list[str]]:
        """Return whether there is an object one level below, and, if not, the prefixes there."""
        prefixes: list[str] = []
        for key, size in self._look(prefix):
            size_bytes = size()
            if size_bytes is None:
                prefixes.append(key)
            elif size_bytes >= 0:
                return True, []
        return False, prefixes

    def _look(self, prefix: str) -> Iterator[tuple[str, Callable[[], int | None]]]:
        """Yield what may be keys in a directory, each with a way to ask for its size.

        None means a directory, or what is neither that nor a file and has nothing in it; -1 that
        it is gone. Only the root may be a symbolic link.
        """
        path = self.path_of(prefix)
        self._settle(path)
        names: list[str] = []
        if not any(self._is_link(self.path_of(above)) for above in _way_to(prefix)):
            names = list_if_there(self._disk, path)
        for name in names:
            key = f"{prefix}/{name}" if prefix else name
            if not name.startswith(RESERVED) and is_key(key):
                yield key, partial(self._size, f"{path}/{name}")
        self._place.check()

    def _size(self, path: str) -> int | None:
        try:
            return self._disk.file_size(path)
        except FileNotFoundError:
            return -1
        except OSError as error:
            if error.errno == errno.EINVAL:
                return None
            raise

    def _is_link(self, path: str) -> bool:
        """Whether it is a symbolic link, which lists do not follow: out of the store, or around."""
        try:
            self._disk.open(path, "r").close()
        except OSError as error:
            return error.errno == errno.ELOOP  # what `Disk.open` says of links, and of nothing else
        return False

    def _is_object(self, path: str) -> bool:
        try:
            self._disk.file_size(path)
        except OSError as error:
            if error.errno in _NO_OBJECT:
                return False
            raise
        return True

    # -- names that are durable, or known not to be

    def _sync_names(self, directory: str) -> None:
        self._sync(directory)
        self._place.check()

    def _sync(self, directory: str) -> None:
        """Make the names in the directory durable. Raises OSError if nobody knows of some."""
        with self._lock_of(directory):
            self._refuse(directory)
            try:
                self._disk.sync_dir(directory)
            except (FileNotFoundError, NotADirectoryError):
                raise
            except OSError as error:
                self._failed[directory] = error
                raise
            self._failed.pop(directory, None)

    def _lock_of(self, directory: str) -> threading.Lock:
        return self._syncing.setdefault(directory, threading.Lock())

    def _refuse(self, directory: str) -> None:
        """Raise OSError if a sync of the directory failed."""
        error = self._failed.get(directory)
        if error is not None and error.errno not in _NOT_TRIED:
            raise OSError(
                error.errno,
                "a sync of the directory failed, so nobody knows which of its names are durable; "
                "look after the disk, then open the store again",
                directory,
            ) from error

    def _settle(self, directory: str) -> None:
        """Raise OSError if it is not known what of the directory is durable."""
        self._refuse(directory)
        if directory in self._failed:  # it was not even tried
            self._sync_names(directory)

    @contextlib.contextmanager
    def _lock(self) -> Generator[None]:
        self._place.check()  # before it makes a file
        held = hold(self._disk, f"{self._root}/{LOCK}", HOLDER)
        with closing(held):
            yield

    def _prepare(self, directory: str) -> None:
        """Make the directory, durably, and remove the leftovers there; once."""
        if directory not in self._ready:
            self._place.prepare(self.writer)
            try:
                self._make_dir(directory)
            except NotADirectoryError:
                self._refuse_below_object(directory)
                raise
            self.writer.sweep(directory)
            self._ready.add(directory)

    def _make_dir(self, directory: str) -> None:
        """Make the directory and those above it, one by one: to know whose sync has failed."""
        if directory == self._root or directory in self._ready:
            return
        above = parent_of(directory)
        self._make_dir(above)
        # It syncs these two, the upper one because somebody may have made the lower one just now.
        with self._lock_of(parent_of(above)), self._lock_of(above):
            self._refuse(above)
            try:
                self._disk.make_dir(directory)
            except (FileNotFoundError, NotADirectoryError):
                raise
            except OSError as error:
                if error.filename not in (None, directory):
                    self._failed[error.filename] = error
                raise

    def _refuse_below_object(self, directory: str) -> None:
        """Raise ValueError if an object is where the directory, or one above it, would be."""
        while directory not in (self._root, "/"):
            if self._is_object(directory):
                raise _collision(directory.removeprefix(f"{self._root}/"))
            directory = parent_of(directory)


def _way_to(prefix: str) -> Iterator[str]:
    """Yield the prefix and those above it, the highest first: of "a/b", "a" and "a/b"."""
    parts = prefix.split("/") if prefix else []
    return accumulate(parts, "{}/{}".format)


def _collision(key: str) -> ValueError:
    return ValueError(
        f"key={key!r} is an object and the beginning of other keys: a directory cannot hold both"
    )
