"""Reliable dispatch: subscriptions that never lose a message and never get stuck.

A topic is a log. A subscription is a named cursor in it that persists and moves by
acknowledgements: every message is delivered until it is acknowledged, dropped by the policy that
the subscription names, or among the dead letters. `ReliableDispatch` holds a topic and its
subscriptions together; docs/dispatch.md tells the whole of it.
"""

from danube_trio.dispatch._consumer import Consumer
from danube_trio.dispatch._delivery import Delivery, Take
from danube_trio.dispatch._dispatch import ReliableDispatch
from danube_trio.dispatch._errors import (
    CursorTooLargeError,
    SubscriptionBusyError,
    SubscriptionClosedError,
)
from danube_trio.dispatch._log import CacheLimits, Message, MessageReader, SegmentStorage, TopicLog
from danube_trio.dispatch._memory import InMemoryStorage
from danube_trio.dispatch._options import (
    PoisonPolicy,
    ReliableOptions,
    RetentionPolicy,
    SubscriptionOptions,
    SubscriptionType,
)
from danube_trio.dispatch._statistics import Blocked, SubscriptionStatistics
from danube_trio.dispatch._store import FileStorage, TopicCache, TopicReader, TopicStore
from danube_trio.dispatch._subscription import Subscription

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
