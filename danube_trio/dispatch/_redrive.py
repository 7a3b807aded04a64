"""Bringing dead letters back to the topic that they came from.

A dead letter topic may be shared, by subscriptions and by topics; and a storage that is one log
answers to every name, so that everybody's dead letters are together there. So each subscription
goes through all letters, with a position of its own in the metadata store, and brings back those
that it wrote: what stands on them tells.
"""

from __future__ import annotations

from danube_trio import StartPosition
from danube_trio.dispatch._dead_letters import DeadLetters, redriven
from danube_trio.dispatch._saving import CursorKeeper
from danube_trio.dispatch._store import TopicStore
from danube_trio.message import Gap, StreamMessage

__all__ = ["redrive"]

# Letters that are read, appended and noted at once; a crash brings back so many twice (a guess).
BATCH = 100


async def redrive(
    letters: DeadLetters, keeper: CursorKeeper, store: TopicStore, limit: int | None
) -> int:
    """Append a subscription's dead letters to its topic again; see `Subscription.redrive`.

    Cancellation: what was noted stays brought back; up to one batch may come back twice.
    """
    storage, topic = letters.storage, letters.topic
    at = max(await keeper.redriven(), await storage.start_offset(topic))
    end = await storage.current_offset(topic)
    done = 0
    while at < end and (limit is None or done < limit):
        stop = min(end, at + BATCH)
        reader = await storage.create_reader(topic, StartPosition.offset(at), end=stop)
        async with reader:
            found = [letter async for letter in reader]
        mine = [letter for letter in found if _is_of(letter, letters)]
        if limit is not None and len(mine) > limit - done:
            mine = mine[: limit - done]
            stop = mine[-1].offset + 1
        if mine:
            await store.store_batch([redriven(letter) for letter in mine])
        await keeper.save_redriven(stop)
        done += len(mine)
        at = stop
    return done


def _is_of(letter: StreamMessage, letters: DeadLetters) -> bool:
    """Whether this subscription wrote it.

    A gap (damage in the dead letter log) is nobody's, nor is what cannot be decoded: letters can.
    """
    if isinstance(letter, Gap):
        return False
    try:
        attributes = letter.attributes
    except ValueError:  # a DecodeError
        return False
    return (
        attributes.get("x-original-topic", "").removeprefix("/")
        == letters.original_topic.removeprefix("/")
        and attributes.get("x-original-subscription") == letters.subscription
    )
