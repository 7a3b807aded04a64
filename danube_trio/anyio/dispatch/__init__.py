"""Reliable dispatch for programs that run on anyio or asyncio; under trio it is the engine's own.

::

    from danube_trio.anyio import WalStorage, open_wal
    from danube_trio.anyio.dispatch import ReliableDispatch, ReliableOptions

Names and arguments are those of `danube_trio.dispatch`. Handlers, and the bodies of ``take()``, run
in the caller's loop; `docs/doors.md` has what differs.
"""

from __future__ import annotations

from danube_trio.anyio.dispatch._dispatch import ReliableDispatch
from danube_trio.dispatch import (
    Blocked,
    CacheLimits,
    Consumer,
    CursorTooLargeError,
    Delivery,
    FileStorage,
    InMemoryStorage,
    Message,
    MessageReader,
    PoisonPolicy,
    ReliableOptions,
    RetentionPolicy,
    SegmentStorage,
    Subscription,
    SubscriptionBusyError,
    SubscriptionClosedError,
    SubscriptionOptions,
    SubscriptionStatistics,
    SubscriptionType,
    Take,
    TopicCache,
    TopicLog,
    TopicReader,
    TopicStore,
)

__all__ = [
    "Blocked",
    "CacheLimits",
    "Consumer",
    "CursorTooLargeError",
    "Delivery",
    "FileStorage",
    "InMemoryStorage",
    "Message",
    "MessageReader",
    "PoisonPolicy",
    "ReliableDispatch",
    "ReliableOptions",
    "RetentionPolicy",
    "SegmentStorage",
    "Subscription",
    "SubscriptionBusyError",
    "SubscriptionClosedError",
    "SubscriptionOptions",
    "SubscriptionStatistics",
    "SubscriptionType",
    "Take",
    "TopicCache",
    "TopicLog",
    "TopicReader",
    "TopicStore",
]
