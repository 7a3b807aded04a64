"""Reading a large object piece by piece."""

from __future__ import annotations

from danube_trio.cloud._store import CloudStore, ObjectInfo
from danube_trio.errors import PreconditionFailedError

DEFAULT_CHUNK_BYTES = 4 << 20


class ChunkReader:
    """An async iterator over bytes `[start, end)` of an object, made by `read_chunks`.

    Attributes:
        info: the object, once the first chunk was read.
    """

    def __init__(
        self, store: CloudStore, key: str, start: int, end: int | None, chunk_bytes: int
    ) -> None:
        self._store = store
        self._key = key
        self._position = start
        self._end = end
        self._chunk_bytes = chunk_bytes
        self._closed = False
        self.info: ObjectInfo | None = None

    def __aiter__(self) -> ChunkReader:
        return self

    async def __anext__(self) -> bytes:
        start, end = self._position, self._end
        if self._closed:
            raise StopAsyncIteration
        if self.info is not None and start >= (self.info.size_bytes if end is None else end):
            raise StopAsyncIteration
        stop = start + self._chunk_bytes if end is None else min(start + self._chunk_bytes, end)
        info, data = await self._store.get(self._key, start, stop)
        self._check(info)
        self.info = info
        if not data:
            raise StopAsyncIteration
        # A failed or cancelled read leaves the position, so that the next one tries again.
        self._position = start + len(data)
        return data

    def _check(self, info: ObjectInfo) -> None:
        seen = self.info
        if seen is not None and _tags(seen) != _tags(info):
            raise PreconditionFailedError(
                f"{self._store.url}: {self._key!r} was replaced while it was read: read it again"
            )

    async def aclose(self) -> None:
        """End the iteration. Nothing is held between chunks."""
        self._closed = True


def _tags(info: ObjectInfo) -> tuple[int, str | None, str | None]:
    return info.size_bytes, info.etag, info.version


def read_chunks(
    store: CloudStore,
    key: str,
    start: int = 0,
    end: int | None = None,
    *,
    chunk_bytes: int = DEFAULT_CHUNK_BYTES,
) -> ChunkReader:
    """Iterate over bytes `[start, end)` of an object: ``async for data in read_chunks(...)``.

    Each step is one read of at most `chunk_bytes`, and raises what `CloudStore.get` raises; after
    StoreUnavailableError or cancellation the iteration may go on. PreconditionFailedError if the
    tags or the size show that the object is another one than at the first step.
    """
    if chunk_bytes < 1:
        raise ValueError(f"chunk_bytes={chunk_bytes!r} must be at least 1")
    return ChunkReader(store, key, start, end, chunk_bytes)
