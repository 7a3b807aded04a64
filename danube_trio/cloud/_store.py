"""What a log asks of an object store, as a Protocol: nothing here touches one.

The rules that every backend keeps, and that `danube_trio.testing.check_store` checks:

- A key is a relative path, ``a/b/c``: no empty part, no ``.`` or ``..``, no control characters, no
  backslash (some servers make it a slash), at most 900 bytes of UTF-8. An object is replaced as a
  whole or not at all: nobody ever reads half of one.
- After a write returned, every read and every list shows it, and it survives a power cut.
- `create` is atomic: of any number of callers, in any number of processes, one succeeds.
- Tags (`ObjectInfo.etag`, `ObjectInfo.version`) are opaque: equal tags of one key mean equal
  bytes, and nothing else is ever concluded from them.

**Unknown outcomes.** A call that raises StoreUnavailableError, or is cancelled, may have happened
and may yet happen. A library that retries by itself can answer PreconditionFailedError to one's
own success. So after a failed conditional write only reading and comparing tells who won.

Errors: ObjectNotFoundError, PreconditionFailedError, AccessDeniedError, StoreUnavailableError
(retry later), ValueError for a bad key or range. No other exception of a client library gets out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import attrs


@attrs.frozen
class ObjectInfo:
    """One object, as the store describes it.

    Attributes:
        key: its key.
        size_bytes: its size.
        etag: an opaque tag of its content, or None where a store has none.
        version: another opaque tag, where a store's conditional writes need it (GCS: generation).
        modified: when it was written, in seconds since 1970 by the store's clock; 0.0 if unknown.
    """

    key: str
    size_bytes: int
    etag: str | None = None
    version: str | None = None
    modified: float = attrs.field(default=0.0, eq=False)


class CloudStore(Protocol):
    """An object store. Cancelling any call returns at once; a write's outcome is unknown then."""

    @property
    def url(self) -> str:
        """Where it is, for people: ``s3://bucket/prefix``, ``file:///path``, ``memory:``."""
        ...

    @property
    def can_swap(self) -> bool:
        """Whether `swap` works here. The log itself needs `create` only."""
        ...

    async def put(self, key: str, data: bytes) -> ObjectInfo:
        """Write the object, whatever was there before."""
        ...

    async def create(self, key: str, data: bytes) -> ObjectInfo:
        """Write the object if there is none; PreconditionFailedError if there is."""
        ...

    async def swap(self, key: str, data: bytes, expected: ObjectInfo) -> ObjectInfo:
        """Replace the object if it still is `expected`, as an earlier call described it.

        A list, or a read of a part, may leave out the tag that is needed here: then ValueError.
        Raises PreconditionFailedError if it is another one now, or gone; NotImplementedError if
        the backend has no such operation (`can_swap`).
        """
        ...

    async def upload(self, key: str, chunks: Callable[[], Iterator[bytes]]) -> ObjectInfo:
        """Write an object of any size in bounded memory, whatever was there before.

        `chunks()` begins a new run over its bytes; it is called, and iterated over, off the event
        loop, and may be called again for another try. Nothing is visible until all of it is
        there. An exception of the iterator is raised here, and nothing is written.
        """
        ...

    async def get(
        self, key: str, start: int = 0, end: int | None = None
    ) -> tuple[ObjectInfo, bytes]:
        """Read bytes `[start, end)` of the object, to its end if `end` is None or beyond it.

        ``info.size_bytes`` is the size of the whole object. ObjectNotFoundError; ValueError if
        `start` is beyond the end of the object.
        """
        ...

    async def head(self, key: str) -> ObjectInfo:
        """Describe the object. ObjectNotFoundError."""
        ...

    async def list_objects(self, prefix: str, *, after: str = "") -> list[ObjectInfo]:
        """Describe every object whose key begins with `prefix` + "/", sorted by key.

        Args:
            prefix: whole parts of a key; "" for all.
            after: only keys that are greater than this one.
        """
        ...

    async def list_children(self, prefix: str) -> list[str]:
        """The distinct next parts of the keys below `prefix` + "/" that have more parts, sorted.

        What a file system would call its subdirectories; reads no more than it must. A server
        that keeps directories may still name one after its last object went.
        """
        ...

    async def delete(self, key: str) -> None:
        """Remove the object; no error if there is none."""

    async def aclose(self) -> None:
        """Give up what it holds; idempotent."""
