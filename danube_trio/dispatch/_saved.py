"""Subscriptions as a metadata store has them, for who looks at them from outside.

Looking takes nothing over. A program that has a subscription open keeps it, and is ahead of what is
saved by what it has not saved yet; what is in its consumers' hands only it can tell.

Nor does redriving take over. It needs the cursor of the dead letters, which is not that of the
subscription and has no owner. But two that redrive the same subscription at the same time may bring
letters back twice. So who has the subscription open asks that one instead (`Subscription.redrive`),
and no two calls of `redrive_saved` for one subscription may overlap.
"""

from __future__ import annotations

import time

import attrs
import trio

from danube_trio import Storage
from danube_trio.dispatch._cursor import CursorState
from danube_trio.dispatch._dead_letters import DeadLetters
from danube_trio.dispatch._log import PersistentLog
from danube_trio.dispatch._redrive import redrive, redriven_position
from danube_trio.dispatch._saving import (
    DANUBE,
    DANUBE_ROOT,
    OURS,
    REDRIVEN,
    CursorKeeper,
    subscriptions_prefix,
)
from danube_trio.dispatch._store import TopicStore
from danube_trio.errors import CorruptDataError
from danube_trio.metadata import MetadataStore, Revised

# Decoding more than this takes longer than handing it to a thread and back (a guess).
LARGE_BYTES = 64 << 10


@attrs.frozen(kw_only=True)
class SavedSubscription:
    """One subscription, as it was last saved.

    Attributes:
        topic: whose messages it delivers.
        name: its own.
        end: every message below it is settled.
        edge: no message at or above it is.
        holes: messages between the two that are not settled.
        failed: messages that are not settled, and have failed.
        letters: the topic of its dead letters: where some were brought back from, else the one that
            it has unless its options say another.
        redriven: the first of them that was not brought back.
        moves: whether it is saved where older versions did that, until it is opened.
        fault: why its cursor cannot be read; "" if it can. Then the numbers are 0.
    """

    topic: str
    name: str
    end: int = 0
    edge: int = 0
    holes: int = 0
    failed: int = 0
    letters: str
    redriven: int = 0
    moves: bool = False
    fault: str = ""

    def lag(self, log_end: int) -> int:
        """How many messages of the topic, which ends at `log_end`, are not settled."""
        return self.holes + max(0, log_end - self.edge)


async def saved_subscriptions(
    metadata: MetadataStore, root: str, topic: str | None = None
) -> list[SavedSubscription]:
    """The subscriptions of a topic, or of all topics, by topic and name.

    Args:
        root: of the storage, see ``StorageConfig.metadata_root``.

    Raises StoreError; ValueError for a bad topic or root.
    """
    limiter = trio.CapacityLimiter(1)
    found: dict[tuple[str, str], SavedSubscription] = {}
    for place in dict.fromkeys((DANUBE_ROOT, root)):  # its own root last: that one is better
        moves = place != root
        for (where, name), entries in (await _entries(metadata, place, topic)).items():
            saved, log_id = await _decoded(where, name, entries, limiter)
            if not (moves and log_id):  # else it is of a storage with Danube's root
                found[where, name] = attrs.evolve(saved, moves=moves)
    return [found[key] for key in sorted(found)]


async def _entries(
    metadata: MetadataStore, root: str, topic: str | None
) -> dict[tuple[str, str], dict[str, Revised]]:
    """What there is of each subscription below one root, by the last part of the key."""
    prefix = subscriptions_prefix(topic if topic is not None else "/any/any", root)
    top = prefix.removesuffix("any/any/subscriptions/") if topic is None else prefix
    known: dict[tuple[str, str], dict[str, Revised]] = {}
    for entry in await metadata.list_entries(top):
        parts = entry.key.removeprefix(top).split("/")
        if topic is not None:
            namespace_and_name = topic.removeprefix("/").split("/")
            parts = [*namespace_and_name, "subscriptions", *parts]
        if len(parts) != 5 or parts[2] != "subscriptions":
            continue
        namespace, title, _, name, what = parts
        known.setdefault((f"/{namespace}/{title}", name), {})[what] = entry
    return {key: parts for key, parts in known.items() if OURS in parts or DANUBE in parts}


async def _decoded(
    topic: str, name: str, entries: dict[str, Revised], limiter: trio.CapacityLimiter
) -> tuple[SavedSubscription, str]:
    """The subscription, and the id of its log if the cursor has one."""
    usual = f"{topic}-{name}-dead"
    try:
        cursor = await _cursor(entries, limiter)
        letters, redriven = "", 0
        if REDRIVEN in entries:
            letters, redriven = redriven_position(entries[REDRIVEN].value, entries[REDRIVEN].key)
    except CorruptDataError as error:
        return SavedSubscription(topic=topic, name=name, letters=usual, fault=str(error)), ""
    saved = SavedSubscription(
        topic=topic,
        name=name,
        end=cursor.end,
        edge=cursor.edge,
        holes=len(cursor.holes),
        failed=len(cursor.attempts),
        letters=letters or usual,
        redriven=redriven,
    )
    return saved, cursor.log


async def _cursor(entries: dict[str, Revised], limiter: trio.CapacityLimiter) -> CursorState:
    entry = entries.get(OURS)
    if entry is None:
        return CursorState.from_danube(entries[DANUBE].value, entries[DANUBE].key)
    if len(entry.value) < LARGE_BYTES:
        return CursorState.decode(entry.value, entry.key)
    return await trio.to_thread.run_sync(
        CursorState.decode, entry.value, entry.key, limiter=limiter
    )


async def redrive_saved(
    storage: Storage, subscription: SavedSubscription, letters: str, limit: int
) -> int:
    """Append its dead letters to its topic again, oldest first; how many. See the rules above.

    Args:
        letters: the topic that they are in, which must be there: it is opened.
        limit: at most so many.

    Raises ValueError for a subscription that moves, or for letters that are in its own topic;
    CorruptDataError if it is not known which were brought back; and like the storage.
    """
    topic, name = subscription.topic, subscription.name
    if subscription.moves:
        raise ValueError(
            f"subscription {name!r} of {topic} is saved where older versions did that: have its "
            f"program open it once, then it moves"
        )
    if letters.removeprefix("/") == topic.removeprefix("/"):
        raise ValueError(f"{letters!r} is the topic that the messages come from")
    store = TopicStore(topic, await PersistentLog.opened(storage, topic))
    keeper = CursorKeeper(storage.metadata, topic, name, root=storage.config.metadata_root)
    where = DeadLetters(storage, letters, topic, name, time.time, None)
    return await redrive(where, keeper, store, limit)
