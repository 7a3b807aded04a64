"""Dead letters: where poison goes, what is written on it, and the way back.

A dead letter is the message itself, with these attributes beside its own:

    x-original-topic, x-original-offset    where it was
    x-original-subscription                whose consumers it failed
    x-failure-reason                       the last failure, in words
    x-failure-count                        how many deliveries failed
    x-failure-time                         when it was given up, in milliseconds since 1970

Of a message whose own fields cannot be decoded it has the payload, and nothing else. It is appended
first and settled after that, so a crash in between gives it twice; topic, offset and subscription
tell that it is the same. Redriving appends it to its topic again, without these
attributes, with ``x-redriven`` (how often that happened).
"""

from __future__ import annotations

from collections.abc import Callable

import attrs

from danube_trio import PersistentStorage, WalStorage
from danube_trio._core.numbers import number_in
from danube_trio.dispatch._ack_retention import Retention
from danube_trio.dispatch._ledger import Entry
from danube_trio.dispatch._log import PersistentLog, TopicLog
from danube_trio.dispatch._options import (
    PoisonPolicy,
    RetentionPolicy,
    SubscriptionOptions,
    topic_parts,
)
from danube_trio.dispatch._store import TopicStore
from danube_trio.message import StreamMessage

# How often old letters are looked for: ten times in their period, within these seconds (a guess).
LOOK_LEAST, LOOK_MOST = 10.0, 3600.0
REDRIVEN = "x-redriven"
HEADERS = (
    "x-original-topic",
    "x-original-offset",
    "x-original-subscription",
    "x-failure-reason",
    "x-failure-count",
    "x-failure-time",
)


def dead_letter(entry: Entry, topic: str, subscription: str, now: float) -> StreamMessage:
    """The message as it goes to the dead letters."""
    values = (
        topic,
        str(entry.offset),
        subscription,
        entry.reason.encode("utf-8", "replace").decode(),
        str(entry.failures),
        str(round(now * 1000)),
    )
    message = entry.message
    headers: dict[str, str] = dict(zip(HEADERS, values, strict=True))
    try:
        return attrs.evolve(message, attributes={**message.attributes, **headers})
    except ValueError:  # a DecodeError: these two can be had of every message
        return StreamMessage(message.payload, message.request_id, attributes=headers)


def redriven(message: StreamMessage) -> StreamMessage:
    """A dead letter as it goes back to its topic."""
    attributes = {k: v for k, v in message.attributes.items() if k not in HEADERS}
    attributes[REDRIVEN] = str((number_in(attributes.get(REDRIVEN, "")) or 0) + 1)
    return attrs.evolve(message, attributes=attributes, offset=-1)


@attrs.define(eq=False)
class DeadLetters:
    """Where the dead letters of one subscription go."""

    storage: PersistentStorage
    topic: str
    original_topic: str
    subscription: str
    clock: Callable[[], float]
    period: float | None

    async def bury(self, entry: Entry) -> int:
        """Append a message; returns its offset there. Raises like the storage."""
        letter = dead_letter(entry, self.original_topic, self.subscription, self.clock())
        return await self.storage.append_message(self.topic, letter)

    async def keep_young(self) -> None:
        """Free those that are older than the period, until cancelled."""
        if self.period is None:
            return
        interval = min(max(LOOK_LEAST, self.period / 10), LOOK_MOST)
        store = TopicStore(self.topic, PersistentLog(self.storage, self.topic))
        policy = RetentionPolicy.RETAIN_UNTIL_EXPIRE
        retention = Retention(store, policy, self.period, interval, self.clock, handed_in=True)
        await retention.run(at_once=True)


async def letters_of(
    storage: PersistentStorage | None,
    options: SubscriptionOptions,
    store: TopicStore,
    subscription: str,
    clock: Callable[[], float],
) -> DeadLetters | None:
    """Where the subscription's dead letters go, if it has any.

    Raises ValueError if there is no place for them.
    """
    if options.poison_policy is not PoisonPolicy.DEAD_LETTER:
        return None
    if storage is None:
        raise ValueError(
            "poison_policy=PoisonPolicy.DEAD_LETTER needs a dead_letter_storage, such as the "
            "WalStorage of another log"
        )
    topic = store.topic
    _refuse_own_log(storage, store.log)
    target = options.dead_letter_topic or f"{topic}-{subscription}-dead"
    if topic_parts(target) == topic_parts(topic):
        raise ValueError(f"dead_letter_topic={target!r} is the topic that the messages come from")
    await storage.current_offset(target)  # a topic that the storage refuses is told now
    period = options.dead_letter_period
    return DeadLetters(storage, target, topic, subscription, clock, period)


def _refuse_own_log(dead: PersistentStorage, log: TopicLog) -> None:
    """Raise ValueError if the dead letters would go to the very log that they came from."""
    if not isinstance(dead, WalStorage) or not isinstance(log, PersistentLog):
        return
    if isinstance(log.storage, WalStorage) and log.storage.wal is dead.wal:
        raise ValueError(
            "dead_letter_storage is the log of the topic itself, from which dead letters would be "
            "delivered again: hand in the WalStorage of another log"
        )
