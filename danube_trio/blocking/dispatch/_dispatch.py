"""`ReliableDispatch` without async."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any

from danube_trio import PersistentStorage, StartPosition
from danube_trio._doors.block import only_door
from danube_trio._doors.subscriptions import FarDispatch
from danube_trio._doors.surface import method_arguments_of
from danube_trio.blocking._block import Block
from danube_trio.blocking._storage import Storage, WalStorage, engine_storage
from danube_trio.blocking._thread import ThreadDoor
from danube_trio.blocking._words import makes, waits
from danube_trio.blocking.dispatch._store import TopicReader, TopicStore
from danube_trio.blocking.dispatch._subscription import Subscription
from danube_trio.dispatch import _dispatch as _engine
from danube_trio.dispatch import _subscription as _engine_subscription
from danube_trio.dispatch._leaving import settle_dispatch
from danube_trio.dispatch._log import Message
from danube_trio.dispatch._options import ReliableOptions
from danube_trio.dispatch._saving import DANUBE_ROOT
from danube_trio.dispatch._store import TopicCache
from danube_trio.metadata import MetadataStore

AnyStorage = Storage | WalStorage | PersistentStorage


class ReliableDispatch(FarDispatch[ThreadDoor, Subscription]):
    """The messages of one topic, and its subscriptions: ``with ReliableDispatch(...) as dispatch``.

    Any thread may use it. See `danube_trio.dispatch.ReliableDispatch` for its arguments; storages
    and `metadata` come from `danube_trio.blocking` (or `metadata` is a MemoryMetadata), and `clock`
    is called in another thread.
    """

    def __init__(
        self,
        topic: str,
        options: ReliableOptions,
        cache: TopicCache | None,
        *,
        metadata: MetadataStore | None = None,
        metadata_root: str = DANUBE_ROOT,
        dead_letter_storage: AnyStorage | None = None,
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
        storage: AnyStorage,
        *,
        metadata: MetadataStore | None = None,
        metadata_root: str | None = None,
        dead_letter_storage: AnyStorage | None = None,
        clock: Callable[[], float] = time.time,
        save_grace: float = 5.0,
    ) -> ReliableDispatch:
        """Over a log, usually ``WalStorage.from_wal(wal)``, which stays its opener's."""
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

    def __enter__(self) -> ReliableDispatch:
        if self._block is not None:
            raise RuntimeError("a ReliableDispatch can be entered once: make another one")
        self._block = Block(self.inner, f"dispatch of {self.topic}", only_door, settle_dispatch)
        self._door = self._block.__enter__()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._block is not None, "a block is entered before it is left"
        self._door = None
        self._block.__exit__(exc_type, exc, traceback)

    def close(self) -> None:
        """Save the cursors and close it, as leaving the block does. Any thread. Idempotent.

        Takes that wait in other threads end with SubscriptionClosedError. Raises what leaving the
        block raises.
        """
        if self._door is not None:
            self._block.close()

    # ---- messages

    @property
    def topic_store(self) -> TopicStore:
        """The messages of the topic."""
        return TopicStore(self.inner.topic_store, self.door, self)

    @method_arguments_of(_engine.ReliableDispatch.store_message)
    def store_message(self, message: Message, **more: Any) -> int:
        """Store one message and return its offset; see `danube_trio.Wal.append`."""
        return self.topic_store.store_message(message, **more)

    @method_arguments_of(_engine.ReliableDispatch.store_batch)
    def store_batch(self, messages: Iterable[Message], **more: Any) -> range:
        """Store messages as one atomic batch; see `danube_trio.Wal.append_batch`."""
        return self.topic_store.store_batch(messages, **more)

    def create_stream_latest(self) -> TopicReader:
        """A reader of the messages that are stored after this call. Nothing is acknowledged."""
        return self.topic_store.create_reader(StartPosition.latest())

    # ---- subscriptions

    def _show(self, inner: _engine_subscription.Subscription) -> Subscription:
        return Subscription(inner, self.door, self)

    def subscriptions(self) -> dict[str, Subscription | None]:
        """The topic's subscriptions by name; None for one that is saved and not open here."""
        return self._by_name()

    add_subscription = makes(
        _engine.ReliableDispatch.add_subscription, lambda self, made: self._subscription(made)
    )
    remove_subscription = waits(_engine.ReliableDispatch.remove_subscription)
    apply_retention = waits(_engine.ReliableDispatch.apply_retention)


def _engine_or_none(found: AnyStorage | None) -> PersistentStorage | None:
    return None if found is None else engine_storage(found)
