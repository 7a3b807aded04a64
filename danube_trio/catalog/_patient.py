"""A store whose refusals are ridden out: one answer that did not come decides nothing.

An open log tries again whatever its store refuses. Whoever opens one, looks at one or restores one
has to do the same, or a store at which every fifth answer fails could be written to for years and
hardly be opened. So calls that can be repeated are: reads, lists, deletes, and writes that replace
what is there. `create`, too: a repeated one may meet its own first try, but PreconditionFailedError
never means more than "read, and compare" (see `CloudStore`).

`upload` and `swap` are not: the uploader has rules of its own, and a swap cannot tell.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import TypeVar

import trio

from danube_trio._core.catalog import CatalogState
from danube_trio._core.documents import NewerFormatError
from danube_trio.catalog._base import Catalog
from danube_trio.catalog._retry import Backoff, Tries, look_twice, refuse_page
from danube_trio.cloud import CloudStore, ObjectInfo
from danube_trio.errors import (
    CorruptDataError,
    ObjectNotFoundError,
    StoreUnavailableError,
    UnsupportedFormatError,
)

T = TypeVar("T")


async def ride_out(call: Callable[[], Awaitable[T]], backoff: Backoff, what: str) -> T:
    """Call until there is an answer. StoreUnavailableError: `backoff` allows no more tries."""
    tries = Tries(backoff, what)
    while True:
        try:
            return await call()
        except StoreUnavailableError as error:
            await tries.again(error)


async def latest_state(catalog: Catalog, backoff: Backoff | None = None) -> CatalogState | None:
    """`Catalog.latest`, whoever made the catalog. Raises as that does."""
    return await ride_out(catalog.latest, backoff or Backoff(), f"reading {catalog.url}")


async def read_document(
    store: CloudStore,
    key: str,
    decode: Callable[[bytes], T],
    damaged: Callable[[str], CorruptDataError],
) -> T | None:
    """What is stored under a key, looked at twice if it is damaged; None if there is nothing.

    `damaged` makes the error of what `decode` says. Raises StoreUnavailableError also if a proxy
    answers; UnsupportedFormatError.
    """

    async def read() -> T:
        _, data = await store.get(key)
        try:
            return decode(data)
        except NewerFormatError as error:
            where = f"{store.url.rstrip('/')}/{key}"
            advice = "Use a newer version of danube-trio"
            raise UnsupportedFormatError(where, str(error), advice) from error
        except ValueError as error:
            refuse_page(store.url, data)
            raise damaged(str(error)) from error

    try:
        return await look_twice(read)
    except ObjectNotFoundError:
        return None


async def each(fn: Callable[[T], Awaitable[object]], items: Iterable[T], at_a_time: int) -> None:
    """Call it for each item, some at a time. The first error ends it, and is raised as it is."""
    left, failures = iter(items), list[Exception]()

    async def work(scope: trio.CancelScope) -> None:
        try:
            for item in left:
                await fn(item)
        except Exception as error:
            failures.append(error)
            scope.cancel()

    try:
        async with trio.open_nursery() as nursery:
            for _ in range(at_a_time):
                nursery.start_soon(work, nursery.cancel_scope)
    except BaseExceptionGroup as group:
        if group.subgroup(KeyboardInterrupt) is None:
            raise
        raise KeyboardInterrupt from group
    if failures:
        raise failures[0]


class PatientStore:
    """A `CloudStore` in front of another one, which stays the caller's.

    Args:
        store: the other one; if it is patient already, that is enough.
        backoff: how often to try, and the pauses.
    """

    def __init__(self, store: CloudStore, backoff: Backoff | None = None) -> None:
        self._store: CloudStore = store._store if isinstance(store, PatientStore) else store
        self._backoff = backoff or Backoff()

    def __repr__(self) -> str:
        return f"<PatientStore {self.url}>"

    @property
    def url(self) -> str:
        """See `CloudStore`, as for all others."""
        return self._store.url

    @property
    def can_swap(self) -> bool:
        return self._store.can_swap

    async def _ride(self, what: str, key: str, call: Callable[[], Awaitable[T]]) -> T:
        return await ride_out(call, self._backoff, f"{self.url}: {what} of {key!r}")

    async def put(self, key: str, data: bytes) -> ObjectInfo:
        return await self._ride("put", key, lambda: self._store.put(key, data))

    async def create(self, key: str, data: bytes) -> ObjectInfo:
        return await self._ride("create", key, lambda: self._store.create(key, data))

    async def swap(self, key: str, data: bytes, expected: ObjectInfo) -> ObjectInfo:
        return await self._store.swap(key, data, expected)

    async def upload(self, key: str, chunks: Callable[[], Iterator[bytes]]) -> ObjectInfo:
        return await self._store.upload(key, chunks)

    async def get(
        self, key: str, start: int = 0, end: int | None = None
    ) -> tuple[ObjectInfo, bytes]:
        return await self._ride("get", key, lambda: self._store.get(key, start, end))

    async def head(self, key: str) -> ObjectInfo:
        return await self._ride("head", key, lambda: self._store.head(key))

    async def list_objects(self, prefix: str, *, after: str = "") -> list[ObjectInfo]:
        return await self._ride(
            "list", prefix, lambda: self._store.list_objects(prefix, after=after)
        )

    async def list_children(self, prefix: str) -> list[str]:
        return await self._ride("list", prefix, lambda: self._store.list_children(prefix))

    async def delete(self, key: str) -> None:
        await self._ride("delete", key, lambda: self._store.delete(key))

    async def aclose(self) -> None:
        await self._store.aclose()
