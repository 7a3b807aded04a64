"""The directory of a directory store: made once, and missed when it is gone.

A mount point whose file system is lost is an empty directory, or none. Whoever makes the store
again there acknowledges uploads into it, and the log deletes its own files. So:

- The directory has a marker, ``.danube-store``, with an identity: made before the first object, by
  link(2), so that of any number of writers one gives the identity; durable; never removed.
- Only a store object that has not seen the directory makes it, with its first write, and only if
  it does not exist. One that has seen it, by a read or a write, never does so again: if it is gone,
  or its marker is, or another one is there, every call raises StoreUnavailableError until it is
  back. Reading a store that never was makes nothing, and finds nothing.
- A directory without a marker, made by hand or by an older version, is adopted by the first write.
  Until then it is told by what is in it: if that was something, and is nothing, it is gone.

`check` follows what is read, and both precedes and follows what is written: an answer is given only
if the directory was still there afterwards. What cannot be told: a new store object, for example of
a new process, that finds an empty directory takes it for a new store.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections.abc import Callable
from contextlib import closing

from danube_trio._core.disk import Disk, read_file
from danube_trio.cloud._leftovers import RESERVED, Writer
from danube_trio.errors import CorruptDataError, StoreUnavailableError

MARKER = f"{RESERVED}store"
MARKER_BYTES = 256


class Root:
    """The directory at `path`. Every method blocks, and may be called in any thread."""

    def __init__(self, disk: Disk, path: str, sync: Callable[[str], None]) -> None:
        self._disk = disk
        self._sync = sync  # makes the names in a directory durable, and knows when that failed
        self._path = path
        self._marker = f"{path}/{MARKER}"
        self._preparing = threading.Lock()
        self._prepared = False
        # What was seen of it. The identity is set once; the others count only until then.
        self._identity: bytes | None = None
        self._seen = False
        self._filled = False

    def check(self) -> None:
        """Raise StoreUnavailableError if the directory was seen, and is gone now."""
        # What was known before it looks: meanwhile another thread may make what it does not find.
        known, seen, filled = self._identity, self._seen, self._filled
        found = self._read()
        if found is not None and known in (None, found):
            self._identity = found
        elif found is not None:
            raise StoreUnavailableError(
                f"another store is at {self._path} now: is the right file system mounted? "
                "If so, open the store again"
            )
        elif known is not None:
            raise self._gone()
        else:
            self._check_unmarked(seen, filled)

    def _check_unmarked(self, seen: bool, filled: bool) -> None:
        try:
            names = self._disk.list_dir(self._path)
        except FileNotFoundError:
            if seen:
                raise self._gone() from None
            return
        if any(not name.startswith(RESERVED) for name in names):
            self._filled = True
        elif filled:
            raise self._gone()
        self._seen = True

    def prepare(self, writer: Writer) -> None:
        """Make the directory, unless it was seen, and its marker, and register the writer."""
        with self._preparing:
            self.check()
            if not self._prepared:
                # Also if it is there: whoever made it may not have synced its name.
                self._disk.make_dir(self._path)
            writer.register()
            if not self._prepared:
                if self._identity is None:
                    self._mark(writer)
                # Also if the marker was there: its maker may not have come to this.
                self._sync(self._path)
                self.check()
                self._prepared = True

    def _mark(self, writer: Writer) -> None:
        """Make the marker, unless another writer does."""
        temporary = f"{self._path}/{writer.new_name()}"
        file = self._disk.open(temporary, "create")
        try:
            with closing(file):
                file.write_at(f"danube-trio {secrets.token_hex(16)}\n".encode(), 0)
                file.sync_data()
            with contextlib.suppress(FileExistsError):
                self._disk.link(temporary, self._marker)
        finally:
            with contextlib.suppress(OSError):  # then it is a leftover
                self._disk.unlink(temporary)

    def _read(self) -> bytes | None:
        try:
            return read_file(self._disk, self._marker, MARKER_BYTES)
        except FileNotFoundError:
            return None
        except NotADirectoryError:
            if self._seen or self._identity is not None:
                raise self._gone() from None
            raise
        except CorruptDataError as error:
            raise StoreUnavailableError(f"{self._marker} is no marker of a store") from error

    def _gone(self) -> StoreUnavailableError:
        return StoreUnavailableError(
            f"the directory {self._path} is gone: is its file system mounted?"
        )
