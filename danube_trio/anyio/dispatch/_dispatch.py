"""`ReliableDispatch`, as an asyncio program sees it; on trio it opens the engine's own."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, cast

from trio.lowlevel import in_trio_run

from danube_trio import PersistentStorage, StartPosition
from danube_trio._engine.log.encode import as_it_is_now, listed
from danube_trio._engine.read.reader import Reader
from danube_trio.anyio._block import LoopBlock
from danube_trio.anyio._hop import EngineDoor, ViewDoor, hop, hop_now
from danube_trio.anyio._loop import LoopDoor
from danube_trio.anyio._storage import engine_storage
from danube_trio.anyio._views import reader_view
from danube_trio.anyio.dispatch._subscription import SubscriptionView
from danube_trio.config import Durability
from danube_trio.dispatch import _dispatch as _engine
from danube_trio.dispatch._errors import SubscriptionClosedError
from danube_trio.dispatch._leaving import settle_dispatch
from danube_trio.dispatch._log import Message
from danube_trio.dispatch._options import ReliableOptions
from danube_trio.dispatch._saving import DANUBE_ROOT
from danube_trio.dispatch._store import TopicCache, TopicReader, TopicStore
from danube_trio.dispatch._subscription import Subscription
from danube_trio.metadata import MetadataStore

__all__ = ["ReliableDispatch"]


def _engine_or_none(found: PersistentStorage | None) -> PersistentStorage | None:
    return None if found is None else engine_storage(found)


class _TopicStoreView(TopicStore):
    """The view of a topic's messages."""

    def __init__(self, inner: TopicStore, way: ViewDoor, keep: object) -> None:
        self.topic = inner.topic
        self.inner = inner
        self.way = way
        self.keep = keep

    async def store_message(
        self,
        message: Message,
        *,
        durability: Durability | None = None,
        expected_offset: int | None = None,
    ) -> int:
        """See `TopicStore.store_message`."""
        now = as_it_is_now(message)
        return await self.way.call(
            lambda: self.inner.store_message(
                now, durability=durability, expected_offset=expected_offset
            )
        )

    async def store_batch(
        self,
        messages: Iterable[Message],
        *,
        durability: Durability | None = None,
        expected_offset: int | None = None,
    ) -> range:
        """See `TopicStore.store_batch`. The messages are iterated over here."""
        now = [as_it_is_now(message) for message in listed(messages)]
        return await self.way.call(
            lambda: self.inner.store_batch(
                now, durability=durability, expected_offset=expected_offset
            )
        )

    create_reader = hop(TopicStore.create_reader, lambda self, made: _reader(made, self.way))
    start_offset = hop(TopicStore.start_offset)
    current_offset = hop(TopicStore.current_offset)


def _reader(inner: TopicReader, way: ViewDoor) -> TopicReader:
    """The view of a topic's reader. The engine's one knows what retention must leave alone."""
    if not isinstance(way, LoopDoor):
        return inner
    return TopicReader(reader_view(cast("Reader[Any]", inner), way), lambda _: None)


class ReliableDispatch(_engine.ReliableDispatch):
    """The messages of one topic, and its subscriptions; see `danube_trio.dispatch`.

    Entered on trio it gives an engine's own `danube_trio.dispatch.ReliableDispatch`. On asyncio
    `metadata` must come from `danube_trio.anyio` (or be a MemoryMetadata), storages from there or
    from `danube_trio.anyio.WalStorage`, and `clock` is called in another thread.
    """

    def __init__(
        self,
        topic: str,
        options: ReliableOptions,
        cache: TopicCache | None,
        *,
        metadata: MetadataStore | None = None,
        metadata_root: str = DANUBE_ROOT,
        dead_letter_storage: PersistentStorage | None = None,
        clock: Callable[[], float] = time.time,
        save_grace: float = 5.0,
    ) -> None:
        self._see(
            _engine.ReliableDispatch(
                topic,
                options,
                cache,
                metadata=metadata,
                metadata_root=metadata_root,
                dead_letter_storage=_engine_or_none(dead_letter_storage),
                clock=clock,
                save_grace=save_grace,
            )
        )

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

    def _see(self, inner: _engine.ReliableDispatch) -> None:
        self.inner = inner
        self.topic = inner.topic
        self.options = inner.options
        self._block: LoopBlock[Any] | None = None
        self._way: ViewDoor | None = None
        self._views: weakref.WeakValueDictionary[Subscription, SubscriptionView]
        self._views = weakref.WeakValueDictionary()

    def __repr__(self) -> str:
        state = "open" if self._way is not None else "not open"
        return f"<ReliableDispatch {self.topic} {state}>"

    def __del__(self) -> None:
        """The block itself warns."""

    @property
    def way(self) -> ViewDoor:
        """The door, inside the block."""
        if self._way is None:
            raise SubscriptionClosedError(f"{self!r}: use it inside its 'async with' block")
        return self._way

    async def __aenter__(self) -> _engine.ReliableDispatch:
        if in_trio_run():
            self._way = EngineDoor()
            return await self.inner.__aenter__()
        if self._block is not None:
            raise RuntimeError("a ReliableDispatch can be entered once: make another one")
        name = f"dispatch of {self.topic}"
        self._block = LoopBlock(self.inner, name, lambda _t, _l, door, _k: door, settle_dispatch)
        self._way = await self._block.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._way = None
        if self._block is None:
            await self.inner.__aexit__(exc_type, exc, traceback)
        else:
            await self._block.__aexit__(exc_type, exc, traceback)

    # ---- messages

    @property
    def topic_store(self) -> TopicStore:
        """The messages of the topic."""
        return _TopicStoreView(self.inner.topic_store, self.way, self)

    async def store_message(
        self,
        message: Message,
        *,
        durability: Durability | None = None,
        expected_offset: int | None = None,
    ) -> int:
        """See `danube_trio.dispatch.ReliableDispatch.store_message`."""
        return await self.topic_store.store_message(
            message, durability=durability, expected_offset=expected_offset
        )

    async def store_batch(
        self,
        messages: Iterable[Message],
        *,
        durability: Durability | None = None,
        expected_offset: int | None = None,
    ) -> range:
        """See `danube_trio.dispatch.ReliableDispatch.store_batch`."""
        return await self.topic_store.store_batch(
            messages, durability=durability, expected_offset=expected_offset
        )

    async def create_stream_latest(self) -> TopicReader:
        """See `danube_trio.dispatch.ReliableDispatch.create_stream_latest`."""
        return await self.topic_store.create_reader(StartPosition.latest())

    # ---- subscriptions

    def _subscription(self, inner: Subscription) -> Subscription:
        if not isinstance(self._way, LoopDoor):
            return inner
        view = self._views.get(inner)
        if view is None:
            self._views[inner] = view = SubscriptionView(inner, self._way, self)
        return view

    add_subscription = hop(
        _engine.ReliableDispatch.add_subscription, lambda self, made: self._subscription(made)
    )
    subscriptions = hop_now(
        _engine.ReliableDispatch.subscriptions,
        lambda self, found: {
            name: None if s is None else self._subscription(s) for name, s in found.items()
        },
    )
    remove_subscription = hop(_engine.ReliableDispatch.remove_subscription)
    apply_retention = hop(_engine.ReliableDispatch.apply_retention)
