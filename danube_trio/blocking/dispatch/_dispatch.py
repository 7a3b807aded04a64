"""`ReliableDispatch` without async."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any

from danube_trio import PersistentStorage, StartPosition
from danube_trio._engine.thread.engine_thread import Hold, LeaveJob
from danube_trio.blocking._block import Block
from danube_trio.blocking._storage import Storage, WalStorage, engine_storage
from danube_trio.blocking._thread import ThreadDoor
from danube_trio.blocking._wait import waits, waits_for
from danube_trio.blocking.dispatch._store import TopicReader, TopicStore
from danube_trio.blocking.dispatch._subscription import Subscription
from danube_trio.config import Durability
from danube_trio.dispatch import _dispatch as _engine
from danube_trio.dispatch import _subscription as _engine_subscription
from danube_trio.dispatch._errors import SubscriptionClosedError
from danube_trio.dispatch._leaving import settle_dispatch
from danube_trio.dispatch._log import Message
from danube_trio.dispatch._options import ReliableOptions
from danube_trio.dispatch._saving import DANUBE_ROOT
from danube_trio.dispatch._store import TopicCache
from danube_trio.metadata import MetadataStore

__all__ = ["ReliableDispatch"]

AnyStorage = Storage | WalStorage | PersistentStorage


class ReliableDispatch:
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

    def _see(self, inner: _engine.ReliableDispatch) -> None:
        self.inner = inner
        self.topic = inner.topic
        self.options = inner.options
        self._block: Block[tuple[ThreadDoor, Hold]] | None = None
        self._open: tuple[ThreadDoor, Hold] | None = None
        self._views: weakref.WeakValueDictionary[_engine_subscription.Subscription, Subscription]
        self._views = weakref.WeakValueDictionary()

    def __repr__(self) -> str:
        state = "open" if self._open is not None else "not open"
        return f"<ReliableDispatch {self.topic} {state}>"

    def __enter__(self) -> ReliableDispatch:
        if self._block is not None:
            raise RuntimeError("a ReliableDispatch can be entered once: make another one")
        self._block = Block(self.inner, f"dispatch of {self.topic}", _opened, settle_dispatch)
        self._open = self._block.__enter__()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._block is not None
        self._open = None
        self._block.__exit__(exc_type, exc, traceback)

    def close(self) -> None:
        """Save the cursors and close it, as leaving the block does. Any thread. Idempotent.

        Takes that wait in other threads end with SubscriptionClosedError. Raises what leaving the
        block raises.
        """
        if self._open is not None:
            door, hold = self._open
            door.run(LeaveJob(door.reply, hold), withdraw=False)

    @property
    def door(self) -> ThreadDoor:
        """The way to the engine's thread, inside the block."""
        if self._open is None:
            raise SubscriptionClosedError(f"{self!r}: use it inside its 'with' block")
        return self._open[0]

    # ---- messages

    @property
    def topic_store(self) -> TopicStore:
        """The messages of the topic."""
        return TopicStore(self.inner.topic_store, self.door, self)

    def store_message(
        self,
        message: Message,
        *,
        durability: Durability | None = None,
        expected_offset: int | None = None,
    ) -> int:
        """Store one message and return its offset; see `danube_trio.Wal.append`."""
        return self.topic_store.store_message(
            message, durability=durability, expected_offset=expected_offset
        )

    def store_batch(
        self,
        messages: Iterable[Message],
        *,
        durability: Durability | None = None,
        expected_offset: int | None = None,
    ) -> range:
        """Store messages as one atomic batch; see `danube_trio.Wal.append_batch`."""
        return self.topic_store.store_batch(
            messages, durability=durability, expected_offset=expected_offset
        )

    def create_stream_latest(self) -> TopicReader:
        """A reader of the messages that are stored after this call. Nothing is acknowledged."""
        return self.topic_store.create_reader(StartPosition.latest())

    # ---- subscriptions

    def _subscription(self, inner: _engine_subscription.Subscription) -> Subscription:
        view = self._views.get(inner)
        if view is None:
            self._views[inner] = view = Subscription(inner, self.door, self)
        return view

    def subscriptions(self) -> dict[str, Subscription | None]:
        """The topic's subscriptions by name; None for one that is saved and not open here."""
        found = self.door.call_now(self.inner.subscriptions, late=False)
        return {name: None if s is None else self._subscription(s) for name, s in found.items()}

    add_subscription = waits_for(
        _engine.ReliableDispatch.add_subscription, lambda self, made: self._subscription(made)
    )
    remove_subscription = waits(_engine.ReliableDispatch.remove_subscription)
    apply_retention = waits(_engine.ReliableDispatch.apply_retention)


def _engine_or_none(found: AnyStorage | None) -> PersistentStorage | None:
    return None if found is None else engine_storage(found)


def _opened(
    thing: Any, appender: Any, door: ThreadDoor, hold: Hold, keep: object
) -> tuple[ThreadDoor, Hold]:
    return door, hold
