"""Bringing dead letters back to the topic that they came from.

A dead letter topic may be shared, by subscriptions and by topics; and a storage that is one log
answers to every name, so that everybody's dead letters are together there. So each subscription
goes through all letters, with a position of its own in the metadata store, and brings back those
that it wrote: what stands on them tells.
"""

from __future__ import annotations

import json
import logging
from typing import cast

from danube_trio import StartPosition
from danube_trio._core.plain import from_json
from danube_trio.dispatch._cursor import MAX_OFFSET, Witness
from danube_trio.dispatch._dead_letters import DeadLetters, redriven
from danube_trio.dispatch._saving import CursorKeeper
from danube_trio.dispatch._store import TopicStore
from danube_trio.errors import CorruptDataError, MessageTooLargeError
from danube_trio.message import Gap, StreamMessage, fields_bytes

log = logging.getLogger("danube_trio.dispatch")

# Letters that are read, appended and noted at once; a crash brings back so many twice (a guess).
BATCH = 100
BATCH_BYTES = 4 << 20  # or so many, but one at least


async def redrive(
    letters: DeadLetters, keeper: CursorKeeper, store: TopicStore, limit: int | None
) -> int:
    """Append a subscription's dead letters to its topic again; see `Subscription.redrive`.

    Cancellation: what was noted stays brought back; up to one batch may come back twice.
    """
    storage, topic = letters.storage, letters.topic
    start, end = await storage.start_offset(topic), await storage.current_offset(topic)
    at = max(await _position(letters, keeper, start, end), start)
    done = 0
    while at < end and (limit is None or done < limit):
        found, stop = await _read(letters, at, min(end, at + BATCH))
        mine = [letter for letter in found if _is_of(letter, letters)]
        if limit is not None and len(mine) > limit - done:
            mine = mine[: limit - done]
            stop = mine[-1].offset + 1
        brought = await _bring_back(store, mine)
        last = next((letter for letter in reversed(found) if letter.offset == stop - 1), None)
        await keeper.save_redriven(_encode(topic, stop, Witness.of(last) if last else None))
        done += brought
        at = stop
    return done


async def _bring_back(store: TopicStore, mine: list[StreamMessage]) -> int:
    """Append them to their topic, in batches that it takes; how many it took.

    What its limits are only the topic knows. One that fits no more stays where it is.
    """
    if not mine:
        return 0
    try:
        await store.store_batch([redriven(letter) for letter in mine])
    except MessageTooLargeError as error:
        if len(mine) == 1:
            log.warning(
                "dead letter %d is too large to be brought back to %s, and stays: %s",
                mine[0].offset,
                store.topic,
                error,
            )
            return 0
        half = len(mine) // 2
        return await _bring_back(store, mine[:half]) + await _bring_back(store, mine[half:])
    return len(mine)


async def _read(letters: DeadLetters, start: int, end: int) -> tuple[list[StreamMessage], int]:
    """Letters from `start` on, as many as are brought back at once; and where the others begin."""
    position = StartPosition.offset(start)
    found: list[StreamMessage] = []
    size = 0
    async with await letters.storage.create_reader(letters.topic, position, end=end) as reader:
        async for letter in reader:
            if isinstance(letter, Gap):
                continue
            size += len(letter.payload) + sum(fields_bytes([letter]))
            if found and size > BATCH_BYTES:
                return found, letter.offset
            found.append(letter)
    return found, end


async def _position(letters: DeadLetters, keeper: CursorKeeper, start: int, end: int) -> int:
    """Where to go on, in letters from `start` to `end`."""
    value = await keeper.redriven()
    if value is None:
        return 0
    topic, offset, checksum = _decode(value, keeper.redriven_key)
    if topic not in ("", letters.topic):
        return 0  # of another dead letter topic
    there: Witness | None = None
    if checksum is not None and start < offset <= end:
        there = next(map(Witness.of, (await _read(letters, offset - 1, offset))[0]), None)
    if offset > end or (there is not None and there.checksum != checksum):
        log.warning(
            "the dead letters in %s are not those of which subscription %s brought back %d: all "
            "that are there are brought back",
            letters.topic,
            letters.subscription,
            offset,
        )
        return 0
    return offset


def _encode(topic: str, offset: int, last: Witness | None) -> bytes:
    document: dict[str, object] = {"offset": offset, "topic": topic}
    if last is not None:
        document["checksum"] = last.checksum
    return json.dumps(document, separators=(",", ":"), sort_keys=True).encode("ascii")


def redriven_position(value: bytes, key: str) -> tuple[str, int]:
    """The topic that letters were brought back from ("" if it is not known), and the next one.

    Of what `redrive` has noted. Raises CorruptDataError, which names `key`.
    """
    topic, offset, _ = _decode(value, key)
    return topic, offset


def _decode(value: bytes, key: str) -> tuple[str, int, int | None]:
    try:
        found: object = from_json(value)
        if not isinstance(found, dict):
            found = {"offset": found}
        document = cast("dict[str, object]", found)
        topic, checksum = document.get("topic", ""), document.get("checksum")
        offset = document["offset"]
        if isinstance(topic, str) and type(offset) is int and 0 <= offset <= MAX_OFFSET:
            return topic, offset, checksum if type(checksum) is int else None
        raise ValueError("it has no topic or no offset")
    except (ValueError, KeyError) as error:
        raise CorruptDataError(
            f"{value[:40]!r} does not say which dead letters were brought back",
            path=key,
            advice="Restore the key from a copy of the metadata store, or delete it: then all are "
            "brought back again",
        ) from error


def _is_of(letter: StreamMessage, letters: DeadLetters) -> bool:
    """Whether this subscription wrote it. What cannot be decoded is nobody's: letters can."""
    try:
        attributes = letter.attributes
    except ValueError:  # a DecodeError
        return False
    return (
        attributes.get("x-original-topic", "").removeprefix("/")
        == letters.original_topic.removeprefix("/")
        and attributes.get("x-original-subscription") == letters.subscription
    )
