"""`ReliableDispatch`: a topic, its subscriptions, and what keeps them going.

::

    enter --> open the log (of a TopicCache) --> look which subscriptions are saved --> retention
    leave --> calls that come are refused --> no more takes --> last cursors are saved
          --> calls under way end --> tasks end --> the log is closed

Each subscription has a few tasks in one nursery around the body. They are shielded, so that a
cancelled body still saves its cursors. What befalls one subscription is its own: its consumers get
the error; other subscriptions and the body go on. Only a bug in a task cancels the body.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AsyncExitStack
from types import TracebackType

import trio
from trio.lowlevel import enable_ki_protection

from danube_trio import PersistentStorage, StartPosition, Storage
from danube_trio.config import Durability
from danube_trio.dispatch._ack_retention import Retention
from danube_trio.dispatch._core import DispatchCore
from danube_trio.dispatch._dead_letters import DeadLetters, letters_of
from danube_trio.dispatch._errors import SubscriptionClosedError
from danube_trio.dispatch._known import KnownSubscriptions
from danube_trio.dispatch._leaving import Calls
from danube_trio.dispatch._log import Message, PersistentLog, TopicLog
from danube_trio.dispatch._opening import cursor_of, keeper_of
from danube_trio.dispatch._options import (
    ReliableOptions,
    RetentionPolicy,
    SubscriptionOptions,
    check_name,
)
from danube_trio.dispatch._saving import DANUBE_ROOT, subscriptions_prefix
from danube_trio.dispatch._store import TopicCache, TopicReader, TopicStore
from danube_trio.dispatch._subscription import Subscription
from danube_trio.errors import FencedError, add_note, text_of
from danube_trio.metadata import MemoryMetadata, MetadataStore
from danube_trio.storage import housekeeping

# How often a subscription is tried to be taken over from a busy program. Two do, unless it is of an
# older version, and saves in between each time (a guess at how often that may be).
TAKE_OVER_TRIES = 100


class ReliableDispatch:
    """The messages of one topic, and its subscriptions: ``async with ReliableDispatch(...) as d``.

    Made of a `TopicCache` (segments), or by `new_with_persistent` over a log. Both do the same.

    Args:
        topic: ``/namespace/name``.
        options: segments and retention.
        cache: where the segments are.
        metadata: where cursors are kept, open as long as this is; None: gone with this object.
        metadata_root: what their keys begin with; see `danube_trio.StorageConfig`. Programs with
            topics of one name share a metadata store under different roots.
        dead_letter_storage: where dead letters are appended, under the topic that each
            subscription names; None: the storage that the topic is in.
        clock: seconds since 1970, for retention by age, and on dead letters.
        save_grace: how many seconds leaving waits for a metadata store that does not answer.

    Raises, on entering:
        StoreError: the metadata store could not be read.
        What `open_wal` raises, if the segments are in files.

    Raises, on leaving:
        StoreError, TimeoutError: cursors could not be saved: what was acknowledged last will be
            delivered again.
        FencedError: the same, since another program took a subscription over, and no caller was
            told.
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
        subscriptions_prefix(topic, metadata_root)  # refuses what cannot be either
        self.topic = topic
        self.options = options
        self._cache = cache
        self._storage: PersistentStorage | None = None
        self._metadata = metadata if metadata is not None else MemoryMetadata()
        self._root = metadata_root
        self._dead_letter_storage = dead_letter_storage
        self._clock = clock
        self._grace = save_grace
        self._store: TopicStore | None = None
        self._retention: Retention | None = None
        self._subscriptions: dict[str, Subscription] = {}
        self._known: KnownSubscriptions | None = None
        self._adding = False  # a subscription that begins nobody knows where
        self._lock = trio.Lock()
        self._calls = Calls(f"the dispatch of {topic}")
        self._stack = AsyncExitStack()
        self._nursery: trio.Nursery | None = None
        self._bugs: list[BaseException] = []

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
        """Over a log, usually ``WalStorage.from_wal(wal)``, which stays its opener's.

        So nothing of it is freed, unless the options have a `RetentionPolicy` that does.

        Over an open `Storage`, `metadata` and `metadata_root` are its own unless given. `cache` is
        Danube's; not used.
        """
        if isinstance(storage, Storage):
            metadata = metadata if metadata is not None else storage.metadata
            metadata_root = metadata_root or storage.config.metadata_root
        dispatch = cls(
            topic,
            options,
            cache,
            metadata=metadata,
            metadata_root=metadata_root or DANUBE_ROOT,
            dead_letter_storage=dead_letter_storage,
            clock=clock,
            save_grace=save_grace,
        )
        dispatch._storage = storage
        return dispatch

    def __repr__(self) -> str:
        state = "open" if self._nursery is not None else "not open"
        return f"<ReliableDispatch {self.topic} {state}, {len(self._subscriptions)} subscriptions>"

    def __del__(self) -> None:
        if getattr(self, "_nursery", None) is not None:
            warnings.warn(
                f"dispatch of {self.topic} was never closed: leave its 'async with' block",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )

    # ---- coming and going

    @enable_ki_protection
    async def __aenter__(self) -> ReliableDispatch:
        if self._store is not None:
            raise RuntimeError("a ReliableDispatch can be entered once: make another one")
        try:
            if self._storage is not None:
                topic_log: TopicLog = await PersistentLog.opened(self._storage, self.topic)
            elif self._cache is not None:
                opening = self._cache.open_topic(self.topic, self.options)
                topic_log = await self._stack.enter_async_context(opening)
            else:
                raise ValueError("cache=None needs a storage: see new_with_persistent()")
            store = TopicStore(self.topic, topic_log)
            known = KnownSubscriptions.of(store, self._metadata, self._root)
            await known.look()
            self._manager = trio.open_nursery()
            nursery = await self._manager.__aenter__()
        except BaseException:
            await self._stack.aclose()
            raise
        self._store, self._known = store, known
        store.needs.dispatches[self._held] = known
        self._retention = self._retention_of(store)
        self._nursery = nursery
        nursery.start_soon(self._supervise, self._retention.run, name="danube_trio retention")
        return self

    def _retention_of(self, store: TopicStore) -> Retention:
        options, handed_in = self.options, self._storage is not None
        policy = options.retention_policy
        if policy is None:
            policy = RetentionPolicy.KEEP if handed_in else RetentionPolicy.RETAIN_UNTIL_ACK
        period, interval = options.retention_period, options.retention_interval
        return Retention(store, policy, period, interval, self._clock, handed_in)

    @enable_ki_protection
    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        nursery, self._nursery = self._nursery, None
        assert nursery is not None
        errors: list[BaseException] = []
        with trio.CancelScope(shield=True):
            errors += await self._finish_all()
            await self._calls.end()
        assert self._store is not None
        del self._store.needs.dispatches[self._held]
        nursery.cancel_scope.cancel()
        try:
            await self._leave_nursery(exc_type, exc, traceback)
        finally:
            await self._stack.aclose()  # a log shields what must not be cut short
        if errors:
            if exc is None:
                raise errors[0]
            for error in errors:
                add_note(exc, f"cursors were not saved: {text_of(error)}")

    async def _finish_all(self) -> list[BaseException]:
        errors: list[BaseException] = []

        async def finish(subscription: Subscription) -> None:
            error = await subscription.finish(self._grace) or subscription.untold_fence
            if error is not None:
                errors.append(error)

        async with trio.open_nursery() as nursery:
            for subscription in self._subscriptions.values():
                nursery.start_soon(finish, subscription)
        return errors

    async def _leave_nursery(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """What the body raised goes out as it is, unless there was a bug in a task."""
        if not self._bugs:
            await self._manager.__aexit__(None, None, None)
            return
        try:
            await self._manager.__aexit__(exc_type, exc, traceback)
        except BaseExceptionGroup:
            cause = None if isinstance(exc, trio.Cancelled) else exc
            raise self._bugs[0] from cause

    async def _supervise(self, task: Callable[[], Awaitable[None]]) -> None:
        try:
            with housekeeping():  # what its calls raise is counted, or kept: nobody is told yet
                await task()
        except trio.Cancelled:
            raise
        except BaseException as bug:
            self._bugs.append(bug)
            raise

    def _open_store(self) -> TopicStore:
        if self._store is None or self._nursery is None:
            raise SubscriptionClosedError(f"{self!r}: use it inside its 'async with' block")
        return self._store

    # ---- messages

    @property
    def topic_store(self) -> TopicStore:
        """The messages of the topic."""
        return self._open_store()

    async def store_message(
        self,
        message: Message,
        *,
        durability: Durability | None = None,
        expected_offset: int | None = None,
    ) -> int:
        """Store one message and return its offset; see `danube_trio.Wal.append`."""
        return await self._open_store().store_message(
            message, durability=durability, expected_offset=expected_offset
        )

    async def store_batch(
        self,
        messages: Iterable[Message],
        *,
        durability: Durability | None = None,
        expected_offset: int | None = None,
    ) -> range:
        """Store messages as one atomic batch; see `danube_trio.Wal.append_batch`."""
        return await self._open_store().store_batch(
            messages, durability=durability, expected_offset=expected_offset
        )

    async def create_stream_latest(self) -> TopicReader:
        """A reader of the messages that are stored after this call. Nothing is acknowledged."""
        return await self._open_store().create_reader(StartPosition.latest())

    # ---- subscriptions

    def subscriptions(self) -> dict[str, Subscription | None]:
        """The topic's subscriptions by name; None for one that is saved and not open here.

        What others add and remove is seen when the metadata store is next asked: on entering, and
        in each round of RETAIN_UNTIL_ACK.
        """
        known = self._known
        saved = sorted(known.names | known.doubts.keys()) if known is not None else ()
        return {**dict.fromkeys(saved), **self._subscriptions}

    async def add_subscription(
        self,
        name: str,
        options: SubscriptionOptions | None = None,
        *,
        start: StartPosition = StartPosition.earliest(),  # noqa: B008 (frozen)
    ) -> Subscription:
        """Open a subscription, and make it if it is new. Idempotent.

        An existing one goes on where its cursor is. Opening it takes it over: a program that had
        it open gets `FencedError` at its next save. One that has failed here is opened anew.

        Args:
            options: defaults to ``SubscriptionOptions()``.
            start: where a new one begins. The default misses nothing that is still there.

        Raises:
            ValueError: a bad name; or it is open with other options; or there is no place for
                dead letters.
            OffsetTrimmedError: `start` is not there any more.
            CorruptDataError: its cursor cannot be read, or is not of this log.
            StoreError: the metadata store did not answer; calling again is safe.
            FencedError: somebody else opened it at the same moment; calling again takes it over.
                (However busy a program is that has it open: that one is fenced.)
            TimeoutError: it had failed here, and the cursor of then could not be saved.
            What the log raises: LogBrokenError, LogClosedError, ...

        Cancellation: as StoreError. In both cases retention leaves it what it may need.
        """
        check_name(name, "subscription")
        self._open_store()
        options = options if options is not None else SubscriptionOptions()
        return await self._calls.run(self._add, name, options, start)

    async def _add(
        self, name: str, options: SubscriptionOptions, start: StartPosition
    ) -> Subscription:
        async with self._lock:
            store = self._open_store()
            there = self._subscriptions.get(name)
            if there is not None and there.is_open:
                if there.options != options:
                    raise ValueError(f"subscription {name!r} is open with other options")
                return there
            if there is not None:
                await self._put_away(there)
            letters = await letters_of(
                self._dead_letter_storage or self._storage, options, store, name, self._clock
            )
            async with store.needs.guard:  # a round that is freeing comes to its end first
                self._adding = True
                store.needs.went_back += 1
            try:
                subscription = await self._taken_over(name, options, letters, start)
                self._open_store()  # not if it was left meanwhile: nobody would end its tasks
                self._subscriptions[name] = subscription
            finally:
                self._adding = False
            assert self._nursery is not None
            task = f"danube_trio subscription {name}"
            self._nursery.start_soon(self._supervise, subscription.run_tasks, name=task)
            return subscription

    async def _taken_over(
        self,
        name: str,
        options: SubscriptionOptions,
        letters: DeadLetters | None,
        start: StartPosition,
    ) -> Subscription:
        """Load or make its cursor, and save it as our own. Retention stands still meanwhile."""
        store, known = self._store, self._known
        assert store is not None and known is not None
        keeper = keeper_of(store, self._metadata, self._root, name)
        tries = 0
        while True:
            cursor = await cursor_of(store, keeper, start)
            subscription = Subscription(name, DispatchCore(options, cursor), keeper, store, letters)
            # It may be saved from here on, whatever the answer is.
            known.doubts[name] = min(cursor.end, known.doubts.get(name, cursor.end))
            try:
                await subscription.take_over()
                break
            except FencedError:
                known.doubts.pop(name, None)
                tries += 1
                if tries == 1:
                    await keeper.claim()
                elif tries == TAKE_OVER_TRIES or not await keeper.is_claimed():
                    raise
        known.names.add(name)
        known.doubts.pop(name, None)
        return subscription

    async def remove_subscription(self, name: str) -> bool:
        """Close a subscription and forget its cursor; returns whether it was there.

        Of one that is not open here, too: a program that has it open gets FencedError at its next
        save. What it held goes in the next round of retention.

        Raises:
            StoreError: it is closed, but may still be saved; call again.
            CorruptDataError: it is saved where older versions did that, and it cannot be told
                whether it is this storage's.
        """
        check_name(name, "subscription")
        self._open_store()
        return await self._calls.run(self._remove, name)

    async def _remove(self, name: str) -> bool:
        async with self._lock:
            store = self._open_store()  # not if it was left meanwhile: it is being saved
            known = self._known
            assert known is not None
            there = self._subscriptions.pop(name, None)
            if there is not None:
                with trio.CancelScope(shield=True):
                    await there.close_unsaved()
            found = await keeper_of(store, self._metadata, self._root, name).remove()
            found = known.doubts.pop(name, None) is not None or found
            known.names.discard(name)
            return found or there is not None

    async def _put_away(self, failed: Subscription) -> None:
        """Close a subscription that has failed, so that it can be opened again."""
        error: BaseException | None = None
        with trio.CancelScope(shield=True):
            error = await failed.finish(self._grace)
        if error is not None:
            raise error  # it stays, and holds what it was moved back to: see `_held`
        del self._subscriptions[failed.name]

    # ---- retention

    def _held(self) -> list[int]:
        """What subscriptions need that the metadata store does not show, or not yet."""
        held = [0] if self._adding else []
        if self._known is not None:
            held += self._known.doubts.values()
        found = (subscription.held_from for subscription in self._subscriptions.values())
        return held + [offset for offset in found if offset is not None]

    async def apply_retention(self) -> int:
        """Free now what may go; returns the first offset that still exists.

        It is done every ``retention_interval`` anyway. Raises like the log and metadata store.
        """
        self._open_store()
        assert self._retention is not None
        return await self._calls.run(self._retention.apply)
