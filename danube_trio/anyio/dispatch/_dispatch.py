"""`ReliableDispatch`, as an asyncio program sees it; on trio it opens the engine's own."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from types import TracebackType
from typing import Any, Protocol, TypeVar, cast

from trio.lowlevel import in_trio_run

from danube_trio import PersistentStorage, StartPosition
from danube_trio._doors.block import only_door
from danube_trio._doors.subscriptions import FarDispatch
from danube_trio._doors.surface import arguments_of
from danube_trio._engine.log.encode import as_it_is_now, listed
from danube_trio._engine.read.reader import Reader
from danube_trio.anyio._block import LoopBlock
from danube_trio.anyio._loop import LoopDoor
from danube_trio.anyio._storage import engine_storage
from danube_trio.anyio._views import ReaderView
from danube_trio.anyio._words import makes, waits
from danube_trio.anyio.dispatch._subscription import SubscriptionView
from danube_trio.dispatch import _dispatch as _engine
from danube_trio.dispatch._leaving import settle_dispatch
from danube_trio.dispatch._log import Message
from danube_trio.dispatch._options import ReliableOptions
from danube_trio.dispatch._store import TopicCache, TopicReader, TopicStore
from danube_trio.dispatch._subscription import Subscription
from danube_trio.metadata import MetadataStore

T = TypeVar("T")


class ViewDoor(Protocol):
    """What a view needs of its door."""

    async def call(self, fn: Callable[[], Awaitable[T]]) -> T:
        """Run an async function where the engine is."""
        ...

    def call_now(self, fn: Callable[[], T], *, late: bool = True) -> T:
        """Run a function where the engine is."""
        ...


class EngineDoor:
    """The door where there is none: on trio."""

    async def call(self, fn: Callable[[], Awaitable[T]]) -> T:
        """Call it here."""
        return await fn()

    def call_now(self, fn: Callable[[], T], *, late: bool = True) -> T:
        """Call it here."""
        return fn()


class _TopicStoreView(TopicStore):
    """The view of a topic's messages."""

    def __init__(self, inner: TopicStore, door: ViewDoor, keep: object) -> None:
        self.topic = inner.topic
        self.inner = inner
        self.door = door
        self._keep = keep

    @arguments_of(TopicStore.store_message)
    async def store_message(self, message: Message, **more: Any) -> int:
        """See `TopicStore.store_message`."""
        return await self.door.call(
            partial(self.inner.store_message, as_it_is_now(message), **more)
        )

    @arguments_of(TopicStore.store_batch)
    async def store_batch(self, messages: Iterable[Message], **more: Any) -> range:
        """See `TopicStore.store_batch`. The messages are iterated over here."""
        now = [as_it_is_now(message) for message in listed(messages)]
        return await self.door.call(partial(self.inner.store_batch, now, **more))

    create_reader = makes(TopicStore.create_reader, lambda self, made: _reader(made, self.door))
    start_offset = waits(TopicStore.start_offset)
    current_offset = waits(TopicStore.current_offset)


def _reader(inner: TopicReader, door: ViewDoor) -> TopicReader:
    """The view of a topic's reader. The engine's one knows what retention must leave alone."""
    if not isinstance(door, LoopDoor):
        return inner
    return TopicReader(ReaderView(cast("Reader[Any]", inner), door), lambda _: None)


def _engine_or_none(found: PersistentStorage | None) -> PersistentStorage | None:
    return None if found is None else engine_storage(found)


class ReliableDispatch(FarDispatch[Any, Subscription], _engine.ReliableDispatch):
    """The messages of one topic, and its subscriptions; see `danube_trio.dispatch`.

    Entered on trio it gives an engine's own `danube_trio.dispatch.ReliableDispatch`. On asyncio
    `metadata` must come from `danube_trio.anyio` (or be a MemoryMetadata), storages from there or
    from `danube_trio.anyio.WalStorage`, and `clock` is called in another thread.
    """

    _statement = "async with"

    @arguments_of(_engine.ReliableDispatch.__init__)
    def __init__(
        self, *args: Any, dead_letter_storage: PersistentStorage | None = None, **more: Any
    ) -> None:
        letters = _engine_or_none(dead_letter_storage)
        self._see(_engine.ReliableDispatch(*args, dead_letter_storage=letters, **more))

    @classmethod
    def new_with_persistent(
        cls,
        topic: str,
        options: ReliableOptions,
        cache: TopicCache | None,
        storage: PersistentStorage,
        *,
        metadata: MetadataStore | None = None,
        metadata_root: str | None = None,
        dead_letter_storage: PersistentStorage | None = None,
        clock: Callable[[], float] = time.time,
        save_grace: float = 5.0,
    ) -> ReliableDispatch:
        """See `danube_trio.dispatch.ReliableDispatch.new_with_persistent`."""
        self = cls.__new__(cls)
        self._see(
            _engine.ReliableDispatch.new_with_persistent(
                topic,
                options,
                cache,
                engine_storage(storage),
                metadata=metadata,
                metadata_root=metadata_root,
                dead_letter_storage=_engine_or_none(dead_letter_storage),
                clock=clock,
                save_grace=save_grace,
            )
        )
        return self

    def __del__(self) -> None:
        """The block itself warns."""

    async def __aenter__(self) -> _engine.ReliableDispatch:
        if in_trio_run():
            self._door = EngineDoor()
            return await self.inner.__aenter__()
        if self._block is not None:
            raise RuntimeError("a ReliableDispatch can be entered once: make another one")
        name = f"dispatch of {self.topic}"
        self._block = LoopBlock(self.inner, name, only_door, settle_dispatch)
        self._door = await self._block.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._door = None
        await (self._block or self.inner).__aexit__(exc_type, exc, traceback)

    # ---- messages

    @property
    def topic_store(self) -> TopicStore:
        """The messages of the topic."""
        return _TopicStoreView(self.inner.topic_store, self.door, self)

    @arguments_of(_engine.ReliableDispatch.store_message)
    async def store_message(self, message: Message, **more: Any) -> int:
        """See `danube_trio.dispatch.ReliableDispatch.store_message`."""
        return await self.topic_store.store_message(message, **more)

    @arguments_of(_engine.ReliableDispatch.store_batch)
    async def store_batch(self, messages: Iterable[Message], **more: Any) -> range:
        """See `danube_trio.dispatch.ReliableDispatch.store_batch`."""
        return await self.topic_store.store_batch(messages, **more)

    async def create_stream_latest(self) -> TopicReader:
        """See `danube_trio.dispatch.ReliableDispatch.create_stream_latest`."""
        return await self.topic_store.create_reader(StartPosition.latest())

    # ---- subscriptions

    def _show(self, inner: Subscription) -> Subscription:
        door = self._door
        return SubscriptionView(inner, door, self) if isinstance(door, LoopDoor) else inner

    def subscriptions(self) -> dict[str, Subscription | None]:
        """The topic's subscriptions by name; None for one that is saved and not open here.

        What others add and remove is seen when the metadata store is next asked: on entering, and
        in each round of RETAIN_UNTIL_ACK.
        """
        return self._by_name()

    add_subscription = makes(
        _engine.ReliableDispatch.add_subscription, lambda self, made: self._subscription(made)
    )
    remove_subscription = waits(_engine.ReliableDispatch.remove_subscription)
    apply_retention = waits(_engine.ReliableDispatch.apply_retention)
