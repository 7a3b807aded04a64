"""Objects in memory: `ObjectMap`, which does what a store does, and `MemoryStore` around it.

The map is plain synchronous code, so each call is atomic among tasks. `danube_trio.testing` builds
its simulated store on the same map: what they answer cannot differ.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from itertools import takewhile

import trio

from danube_trio._disk.threads import Threads
from danube_trio.cloud._closing import Closing
from danube_trio.cloud._keys import (
    Chunks,
    as_bytes,
    check_key,
    check_prefix,
    check_range,
    key_after,
    next_parts,
    start_of,
)
from danube_trio.cloud._store import ObjectInfo
from danube_trio.errors import ObjectNotFoundError, PreconditionFailedError

# Iterators of uploads may read files, so they run in threads; a guess.
UPLOAD_THREADS = 4


class ObjectMap:
    """Keys, and what is under them, the most recently written last.

    Args:
        tag: makes the tag of some content; called once per write.
        clock: gives the time of a write, in seconds since 1970.
        where: what errors call the store.
    """

    def __init__(self, tag: Callable[[bytes], str], clock: Callable[[], float], where: str) -> None:
        self._tag = tag
        self._clock = clock
        self._where = where
        self.objects: dict[str, tuple[ObjectInfo, bytes]] = {}

    def copy(self) -> ObjectMap:
        """Return another map with the same objects."""
        new = ObjectMap(self._tag, self._clock, self._where)
        new.objects = dict(self.objects)
        return new

    def put(self, key: str, data: bytes) -> ObjectInfo:
        info = ObjectInfo(key, len(data), self._tag(data), None, self._clock())
        self.objects.pop(key, None)
        self.objects[key] = info, data
        return info

    def create(self, key: str, data: bytes) -> ObjectInfo:
        if key in self.objects:
            raise PreconditionFailedError(f"{self._where}: {key!r} exists already")
        return self.put(key, data)

    def swap(self, key: str, data: bytes, expected: ObjectInfo) -> ObjectInfo:
        found = self.objects.get(key)
        if found is None or expected.key != key or found[0].etag != expected.etag:
            now = "gone" if found is None else "another one"
            raise PreconditionFailedError(f"{self._where}: {key!r} is {now} now: read it again")
        return self.put(key, data)

    def get(self, key: str, start: int, end: int | None) -> tuple[ObjectInfo, bytes]:
        info = self.head(key)
        data = self.objects[key][1]
        return info, data[start_of(key, start, len(data)) : end]

    def head(self, key: str) -> ObjectInfo:
        if key not in self.objects:
            raise ObjectNotFoundError(f"{self._where}: there is no {key!r}")
        return self.objects[key][0]

    def list_objects(self, beginning: str, after: str) -> list[ObjectInfo]:
        return [self.objects[key][0] for key in key_after(self.objects, beginning, after)]

    def list_children(self, beginning: str) -> list[str]:
        return next_parts(self.objects, beginning)

    def delete(self, key: str) -> None:
        self.objects.pop(key, None)


class MemoryStore(Closing):
    """A `CloudStore` in memory. Whoever holds the object shares its contents; they end with it.

    Every write has a tag of its own, also of the same bytes.
    """

    def __init__(self) -> None:
        tags = itertools.count(1)
        self._content = ObjectMap(lambda _: str(next(tags)), time.time, self.url)
        self._threads = Threads(UPLOAD_THREADS, "danube-trio memory store uploads")

    def __repr__(self) -> str:
        return f"<MemoryStore, objects: {len(self._content.objects)}>"

    @property
    def _map(self) -> ObjectMap:
        self.check_open()
        return self._content

    @property
    def url(self) -> str:
        return "memory:"

    @property
    def can_swap(self) -> bool:
        return True

    async def put(self, key: str, data: bytes) -> ObjectInfo:
        check_key(key)
        await trio.lowlevel.checkpoint()
        return self._map.put(key, as_bytes(data))

    async def create(self, key: str, data: bytes) -> ObjectInfo:
        check_key(key)
        await trio.lowlevel.checkpoint()
        return self._map.create(key, as_bytes(data))

    async def swap(self, key: str, data: bytes, expected: ObjectInfo) -> ObjectInfo:
        check_key(key)
        await trio.lowlevel.checkpoint()
        return self._map.swap(key, as_bytes(data), expected)

    async def upload(self, key: str, chunks: Chunks) -> ObjectInfo:
        check_key(key)
        given_up = threading.Event()  # the thread goes on when its caller was cancelled
        try:
            data = await self._threads.run(_collect, chunks, given_up, abandon=True)
        finally:
            given_up.set()
        return self._map.put(key, data)

    async def get(
        self, key: str, start: int = 0, end: int | None = None
    ) -> tuple[ObjectInfo, bytes]:
        check_key(key)
        check_range(start, end)
        await trio.lowlevel.checkpoint()
        return self._map.get(key, start, end)

    async def head(self, key: str) -> ObjectInfo:
        check_key(key)
        await trio.lowlevel.checkpoint()
        return self._map.head(key)

    async def list_objects(self, prefix: str, *, after: str = "") -> list[ObjectInfo]:
        beginning = check_prefix(prefix)
        await trio.lowlevel.checkpoint()
        return self._map.list_objects(beginning, after)

    async def list_children(self, prefix: str) -> list[str]:
        beginning = check_prefix(prefix)
        await trio.lowlevel.checkpoint()
        return self._map.list_children(beginning)

    async def delete(self, key: str) -> None:
        check_key(key)
        await trio.lowlevel.checkpoint()
        self._map.delete(key)

    async def aclose(self) -> None:
        self._closed = True
        await trio.lowlevel.checkpoint()


def _collect(chunks: Chunks, given_up: threading.Event) -> bytes:
    """The bytes of an upload, as far as somebody wants them."""
    wanted = takewhile(lambda _: not given_up.is_set(), chunks())
    return b"".join(as_bytes(chunk) for chunk in wanted)
