"""A directory as an object store: for a network file system, a second disk, and tests.

`_object_files` has the rules that make it one; here is the door to it, which hands every blocking
call over to the `Disk`. Nothing handed over is abandoned, so cancelling waits for the call under
way (of an upload: for the piece being written), and unlike elsewhere a cancelled write has a known
outcome: nothing was written.
"""

from __future__ import annotations

import contextlib
import errno
import os
import warnings
from collections.abc import AsyncGenerator, Callable, Iterator
from functools import partial
from typing import TypeVar
from urllib.parse import quote

import trio

from danube_trio._core.disk import Disk
from danube_trio.cloud._closing import Closing
from danube_trio.cloud._keys import Chunks, as_bytes, check_key, check_prefix, check_range
from danube_trio.cloud._object_files import ObjectFiles, Temporary
from danube_trio.cloud._store import ObjectInfo
from danube_trio.config import directory_path
from danube_trio.errors import (
    AccessDeniedError,
    DanubeError,
    LogLockedError,
    StoreError,
    StoreUnavailableError,
)

T = TypeVar("T")
# How much of an upload is written in one hop: what cancelling waits for. A guess.
PIECE_BYTES = 4 << 20
# The lock is held for microseconds (a swap reads an object under it), so waiting is rare and short.
LOCK_RETRY_SECONDS = 0.005
_DENIED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ELOOP})


class DirectoryStore(Closing):
    """A `CloudStore` of files below a directory, which is made when something is first written.

    Any number of processes may use it, if the file system has links and flock(2). An object is a
    file with the bytes and nothing else. What differs from other stores:

    - A key cannot be an object and the beginning of other keys (``a`` and ``a/b``): ValueError.
      So is a part that begins with ``.danube-``, or is longer than the file system's names.
    - Tags are digests of the content: what reads the content gives them (`put`, `create`, `swap`,
      `upload`, `head`, and `get` of a whole object), lists and reads of a part do not. So `head`
      costs as much as reading the object.
    - `ObjectInfo.modified` is not known.
    - Lists follow no symbolic links below the directory.
    - A directory that was there and is gone (a lost mount) is not made again: every call raises
      StoreUnavailableError until it is back. Hence the file ``.danube-store`` in it.

    Args:
        path: the directory.
        disk: the disk that it is on.
    """

    def __init__(self, path: str | os.PathLike[str], disk: Disk) -> None:
        self._root = directory_path("path", path)
        self._disk = disk
        self._files = ObjectFiles(disk, self._root)
        self._placing = trio.Lock()

    def __repr__(self) -> str:
        return f"<DirectoryStore {self._root!r}>"

    def __del__(self) -> None:
        files = getattr(self, "_files", None)
        if files is not None and files.writer.registered:
            warnings.warn(f"{self!r} was not closed", ResourceWarning, source=self, stacklevel=1)
            files.writer.abandon()

    @property
    def url(self) -> str:
        return f"file://{quote(self._root)}"

    @property
    def can_swap(self) -> bool:
        return True

    async def put(self, key: str, data: bytes) -> ObjectInfo:
        check_key(key)
        write = partial(self._files.write, key, as_bytes(data))
        async with self._temporary("put", key, write) as temporary:
            return await self._place("put", temporary, None)

    async def create(self, key: str, data: bytes) -> ObjectInfo:
        check_key(key)
        return await self._run("create", key, self._files.create, key, as_bytes(data))

    async def swap(self, key: str, data: bytes, expected: ObjectInfo) -> ObjectInfo:
        check_key(key)
        if expected.etag is None:
            raise ValueError("expected has no tag: describe the object with head() or get()")
        write = partial(self._files.write, key, as_bytes(data))
        async with self._temporary("swap", key, write) as temporary:
            return await self._place("swap", temporary, expected)

    async def upload(self, key: str, chunks: Chunks) -> ObjectInfo:
        check_key(key)
        begin = partial(self._files.begin, key)
        async with self._temporary("upload", key, begin) as temporary:
            # What the iterator raises comes out as it is: that is no error of the store.
            source = await self._disk.run(chunks)
            while piece := await self._disk.run(_next_piece, source):
                await self._run("upload", key, temporary.write, *piece)
                del piece  # not in memory beside the next one
            await self._run("upload", key, temporary.finish)
            return await self._place("upload", temporary, None)

    async def get(
        self, key: str, start: int = 0, end: int | None = None
    ) -> tuple[ObjectInfo, bytes]:
        check_key(key)
        check_range(start, end)
        return await self._run("get", key, self._files.get, key, start, end)

    async def head(self, key: str) -> ObjectInfo:
        check_key(key)
        return await self._run("head", key, self._files.head, key)

    async def list_objects(self, prefix: str, *, after: str = "") -> list[ObjectInfo]:
        check_prefix(prefix)
        found: list[ObjectInfo] = []
        todo = [prefix]
        while todo:
            at = todo.pop()
            objects, below = await self._run("list", prefix, self._files.read_dir, at, after)
            found += objects
            todo += below
        return sorted(found, key=lambda info: info.key)

    async def list_children(self, prefix: str) -> list[str]:
        beginning = check_prefix(prefix)
        _, below = await self._run("list", prefix, self._files.read_dir, prefix, "")
        return sorted([at.removeprefix(beginning) for at in below if await self._holds_objects(at)])

    async def _holds_objects(self, prefix: str) -> bool:
        """Whether there is an object somewhere below: directories stay when their last one goes."""
        todo = [prefix]
        while todo:
            found, below = await self._run("list", prefix, self._files.peek, todo.pop())
            if found:
                return True
            todo += below
        return False

    async def delete(self, key: str) -> None:
        check_key(key)
        await self._exclusively("delete", key, partial(self._files.delete, key))

    async def aclose(self) -> None:
        self._closed = True
        if self._files.writer.registered:
            with trio.CancelScope(shield=True):
                await self._disk.run(self._files.close)
        await trio.lowlevel.checkpoint()  # last: who was cancelled has closed it nevertheless

    # -- how calls go to the disk

    @contextlib.asynccontextmanager
    async def _temporary(
        self, call: str, key: str, make: Callable[[], Temporary]
    ) -> AsyncGenerator[Temporary]:
        """A temporary, which goes unless it has become the object."""
        temporary = await self._run(call, key, make)
        try:
            yield temporary
        finally:
            if not temporary.gone:
                with trio.CancelScope(shield=True):
                    await self._disk.run(self._files.discard, temporary)

    async def _place(
        self, call: str, temporary: Temporary, expected: ObjectInfo | None
    ) -> ObjectInfo:
        place = partial(self._files.place, temporary, expected)
        return await self._exclusively(call, temporary.key, place)

    async def _exclusively(self, call: str, key: str, fn: Callable[[], T]) -> T:
        """Run what takes the store's lock, again and again while another process holds it."""
        async with self._placing:
            while True:
                try:
                    return await self._run(call, key, fn)
                except LogLockedError:
                    await trio.sleep(LOCK_RETRY_SECONDS)

    async def _run(self, call: str, key: str, fn: Callable[..., T], *args: object) -> T:
        """Run `fn` on the disk, and say what its errors mean for this call."""
        self.check_open()
        try:
            return await self._disk.run(fn, *args)
        except OSError as error:
            raise self._meaning(call, key, error) from error
        except StoreError as error:
            error.args = (f"{self.url}: {call}: {error}",)
            raise

    def _meaning(self, call: str, key: str, error: OSError) -> DanubeError | ValueError:
        text = f"{self.url}: {call} of {key!r}: {error}"
        if error.errno == errno.ENAMETOOLONG:
            return ValueError(f"{text}: the file system has no such long names")
        if error.errno in _DENIED:
            return AccessDeniedError(text)
        return StoreUnavailableError(text)


def _next_piece(source: Iterator[bytes]) -> list[bytes]:
    """Return the next chunks, some MiB of them; empty at the end."""
    piece: list[bytes] = []
    size = 0
    for chunk in source:
        piece.append(as_bytes(chunk))
        size += len(chunk)
        if size >= PIECE_BYTES:
            break
    return piece
