"""Reliable dispatch for scripts and threads, without any async.

::

    from danube_trio.blocking import WalStorage, open_wal
    from danube_trio.blocking.dispatch import ReliableDispatch, ReliableOptions

Names and arguments are those of `danube_trio.dispatch`. Handlers, and the bodies of ``take()``, run
in the caller's threads; `docs/doors.md` has what differs.
"""

from __future__ import annotations

from danube_trio.blocking.dispatch._consumer import Consumer, Take
from danube_trio.blocking.dispatch._dispatch import ReliableDispatch
from danube_trio.blocking.dispatch._store import TopicReader, TopicStore
from danube_trio.blocking.dispatch._subscription import Subscription
from danube_trio.dispatch import (
    Blocked,
    CursorTooLargeError,
    Delivery,
    FileStorage,
    InMemoryStorage,
    Message,
    PoisonPolicy,
    ReliableOptions,
    RetentionPolicy,
    SubscriptionBusyError,
    SubscriptionClosedError,
    SubscriptionOptions,
    SubscriptionStatistics,
    SubscriptionType,
    TopicCache,
)

__all__ = [
    "Blocked",
    "Consumer",
    "CursorTooLargeError",
    "Delivery",
    "FileStorage",
    "InMemoryStorage",
    "Message",
    "PoisonPolicy",
    "ReliableDispatch",
    "ReliableOptions",
    "RetentionPolicy",
    "Subscription",
    "SubscriptionBusyError",
    "SubscriptionClosedError",
    "SubscriptionOptions",
    "SubscriptionStatistics",
    "SubscriptionType",
    "Take",
    "TopicCache",
    "TopicReader",
    "TopicStore",
]
