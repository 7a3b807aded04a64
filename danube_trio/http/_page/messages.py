"""Reading what is in a topic, a little at a time.

All of it is by offsets, so nothing is remembered between two answers. Each reads a *span*, records
``[first, next)``, and lets go of the topic. How much one may read and hold is bounded: of a message
only a preview is kept, and when the bytes are more than an answer may read it ends earlier. A span
that goes back from an offset ends there, so that one is read again, shorter, if it was too much.

A search looks at whole messages. It first looks for the text in the record's bytes, where every
field is as it is, and decodes only what has it.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio

from danube_trio import Gap, Record, StartPosition, StreamMessage, Wal
from danube_trio._core.codec import Codec, get_codec
from danube_trio.errors import CorruptDataError, text_of
from danube_trio.http._page.answers import Say
from danube_trio.http._page.config import PageConfig
from danube_trio.http._page.topics import Topics
from danube_trio.http._request import Refusal
from danube_trio.storage import Storage

# Records that a search going back reads at once, and matches in one answer.
SEARCH_STEP = 2000
MAX_MATCHES = 50
# How often a span that goes back is read shorter before it is one record.
SHORTER = 4
# Fields of a message, beside payload and attributes, in the order of `danube-trio replay --json`.
PLACE = ("producer_id", "topic_name", "broker_addr", "segment_id")
BEFORE = ("publish_time", "producer_name", "subscription_name")
AFTER = ("schema_id", "schema_version", "routing_key")
# Attributes of one message that are shown.
ATTRIBUTES_BYTES = 64 << 10

Item = dict[str, Any]


def too_slow(seconds: float) -> Refusal:
    """What somebody gets who waited long enough."""
    return Refusal(504, f"reading the topic takes longer than {seconds:g} seconds")


@attrs.frozen(kw_only=True)
class Where:
    """Which messages somebody wants: one of these, or the last ones.

    Attributes:
        start: from this offset on.
        before: those just before this offset.
        time: from the first that was appended at or after this time (seconds since 1970).
    """

    start: int | None = None
    before: int | None = None
    time: float | None = None


class Messages:
    """Reads the topics of a storage for those who look at them."""

    def __init__(self, storage: Storage, topics: Topics, config: PageConfig) -> None:
        self._storage = storage
        self._topics = topics
        self._config = config
        self._turns = trio.CapacityLimiter(config.reads)

    @asynccontextmanager
    async def _reading(self, topic: str) -> AsyncGenerator[Wal]:
        """A topic's log, for who reads it at once. Raises Refusal when that takes too long."""
        try:
            with trio.fail_after(self._config.read_seconds):
                async with self._turns, self._storage.topic(topic) as wal:
                    yield wal
        except trio.TooSlowError:
            raise too_slow(self._config.read_seconds) from None

    # ---- a list

    async def span(self, topic: str, where: Where, count: int) -> dict[str, Any]:
        """Some messages, which they are (``first``, ``next``), and the topic's own start and end.

        Raises what reading the log raises; Refusal for a time that is none, or when it takes
        too long.
        """
        async with self._reading(topic) as wal:
            return await self._span(wal, where, count)

    async def _span(self, wal: Wal, where: Where, count: int) -> dict[str, Any]:
        if where.time is not None:
            return await self._span_from(wal, await _offset_at(wal, where.time), count)
        if where.start is not None:
            return await self._span_from(wal, where.start, count)
        before = wal.durable_end if where.before is None else where.before
        return await self._span_before(wal, before, count)

    async def _span_from(self, wal: Wal, first: int, count: int) -> dict[str, Any]:
        first = min(max(first, wal.start_offset), wal.durable_end)
        items, stop = await self._read(wal, first, min(first + count, wal.durable_end))
        return _span(wal, first, stop, items)

    async def _span_before(self, wal: Wal, before: int, count: int) -> dict[str, Any]:
        end = min(max(before, wal.start_offset), wal.durable_end)
        while True:
            first = max(wal.start_offset, end - count)
            items, stop = await self._read(wal, first, end)
            if stop >= end or count == 1:
                return _span(wal, first, stop, items)
            count = max(1, count // SHORTER)

    async def _read(self, wal: Wal, first: int, end: int) -> tuple[list[Item], int]:
        """Previews of records from `first` on, and where they end: at `end`, or before it."""
        items: list[Item] = []
        codec = get_codec(wal.codec)
        stop = first

        def take(batch: list[Record | Gap]) -> None:
            nonlocal stop
            items.extend(self._item(codec, each) for each in batch)
            stop = _end_of(batch[-1])

        try:
            await _each_batch(wal, first, end, self._config.read_bytes, take)
        except CorruptDataError as error:
            items.append({"offset": stop, "next": stop, "fault": text_of(error)})
        return items, stop

    def _item(self, codec: Codec, record: Record | Gap) -> Item:
        if isinstance(record, Gap):
            return {"offset": record.start, "next": record.end, "fault": record.reason}
        item: Item = {"offset": record.offset, "append_time": record.append_time}
        try:
            message = codec.decode(record.body)
        except ValueError as error:  # a DecodeError
            head = record.body[: self._config.preview_bytes]
            about = {"size": len(record.body), "fault": f"its fields cannot be decoded: {error}"}
            return {**item, **about, "head": _base64(head), "attributes": []}
        attributes, cut = _attributes(message, self._config.preview_bytes)
        return {
            **item,
            "size": len(message.payload),
            "head": _base64(message.payload[: self._config.preview_bytes]),
            "key": message.routing_key,
            "attributes": attributes,
            "attributes_cut": cut,
        }

    # ---- a live tail

    async def tail(self, topic: str, start: int, say: Say) -> None:
        """Say what comes at and after an offset, until cancelled.

        The topic is opened only to read what is there. Of more than one answer may have, the last
        ones are said, and how many were passed over.
        """
        count, cursor, pause = self._config.messages, start, self._config.tail_interval
        spoken = trio.current_time()
        while True:
            end = await self._end_now(topic, cursor)
            if end is None or end < cursor:  # deleted, and perhaps made again
                await say("gone", {})
                return
            if end > cursor:
                spoken = trio.current_time()
                after = await self._tell(topic, cursor, max(cursor, end - count), say)
                if after == cursor:
                    return  # it cannot be read, which was said
                cursor = after
            elif trio.current_time() >= spoken + self._config.send_seconds / 2:
                spoken = trio.current_time()
                await say("still", {"next": cursor})  # so that who is gone is found out
            await trio.sleep(pause)

    async def _end_now(self, topic: str, otherwise: int) -> int | None:
        """Where the topic ends, `otherwise` if it is not open; None if it is not there."""
        found = self._storage.topic_statistics(topic)
        if found is not None:
            return found.durable_end
        return otherwise if await self._topics.has(topic) else None

    async def _tell(self, topic: str, cursor: int, first: int, say: Say) -> int:
        """Say the messages from `first` on; returns where they end."""
        span = await self.span(topic, Where(start=first), self._config.messages)
        if span["first"] > cursor:
            await say("passed", {"from": cursor, "to": span["first"]})
        await say("messages", span)
        after: int = span["next"]
        return after

    # ---- a search

    async def search(self, topic: str, text: str, before: int | None) -> dict[str, Any]:
        """Messages that have a text, from an offset (None: the end) back to the start.

        It ends when it found some, or has read or taken enough: ``next`` says where to go on, which
        is at ``start`` when there is no more.
        """
        async with self._reading(topic) as wal:
            return await self._search(wal, _Needle(text), before)

    async def _search(self, wal: Wal, needle: _Needle, before: int | None) -> dict[str, Any]:
        config, codec = self._config, get_codec(wal.codec)
        found: list[Item] = []
        faults: list[Item] = []
        began = end = wal.durable_end if before is None else min(before, wal.durable_end)
        deadline = trio.current_time() + config.search_seconds
        left, step = config.search_bytes, SEARCH_STEP
        while end > wal.start_offset and len(found) < MAX_MATCHES:
            if end < began and (left <= 0 or trio.current_time() >= deadline):
                break
            first = max(wal.start_offset, end - step)
            seen = _Matches(needle, codec, self._item)
            try:
                await _each_batch(wal, first, end, config.read_bytes, seen.take)
            except CorruptDataError as error:
                at = max(first, seen.end)
                faults.append({"offset": at, "next": end, "fault": text_of(error)})
            else:
                if seen.end < end and step > 1:  # too much: what is nearer to the end comes first
                    left, step = left - seen.size_bytes, max(1, step // SHORTER)
                    continue
            left, step = left - seen.size_bytes, min(SEARCH_STEP, 2 * step)
            end, room = first, MAX_MATCHES - len(found)
            if len(seen.found) > room:  # what is left out is found when it goes on
                end = seen.found[-room]["offset"]
            found += reversed(seen.found[-room:])
        end = min(began, max(end, wal.start_offset))
        return {**_span(wal, end, end, found), "scanned": began - end, "faults": faults}

    # ---- one message

    async def message(self, topic: str, offset: int, at: int) -> dict[str, Any]:
        """All fields of one message, and a part of its payload, from byte `at` on.

        Raises Refusal if it is not there.
        """
        record, codec = await self._record(topic, offset)
        size = self._config.payload_bytes
        facts = {"offset": record.offset, "append_time": record.append_time, "codec": codec.name}
        try:
            message = codec.decode(record.body)
        except ValueError as error:  # a DecodeError
            fault = f"its fields cannot be decoded: {error}"
            return {**facts, **_part(record.body, at, size), "fault": fault, "attributes": []}
        attributes, cut = _attributes(message, ATTRIBUTES_BYTES)
        fields: list[list[str]] = []
        place = message.msg_id
        for owner, names in ((message, ("request_id",)), (place, PLACE), (message, BEFORE + AFTER)):
            for name in names:
                value = getattr(owner, name)
                if value or (value is not None and name in AFTER):
                    fields.append([name, str(value)])
        about = {"fields": fields, "attributes": attributes, "attributes_cut": cut}
        return {**facts, **_part(message.payload, at, size), **about}

    async def payload(self, topic: str, offset: int) -> bytes:
        """The whole payload of one message; of what cannot be decoded, the record's body."""
        record, codec = await self._record(topic, offset)
        try:
            return codec.decode(record.body).payload
        except ValueError:  # a DecodeError
            return record.body

    async def _record(self, topic: str, offset: int) -> tuple[Record, Codec]:
        async with self._reading(topic) as wal:
            return await _record_at(wal, offset), get_codec(wal.codec)


# ---- reading


async def _each_batch(
    wal: Wal, first: int, end: int, most_bytes: int, take: Callable[[list[Record | Gap]], None]
) -> None:
    """Hand over records from `first` to `end`, but end when they are `most_bytes`."""
    if first >= end:
        return
    size = 0
    async with wal.reader(StartPosition.offset(first), end=end, raw=True) as reader:
        while size < most_bytes:
            batch: list[Record | Gap] = [*await reader.next_batch()]
            if not batch:
                return
            take(batch)
            size += sum(len(each.body) for each in batch if isinstance(each, Record))


async def _record_at(wal: Wal, offset: int) -> Record:
    """One record. Raises Refusal if it is not there."""
    if not wal.start_offset <= offset < wal.durable_end:
        what = f"the topic has offsets {wal.start_offset} to {wal.durable_end} (exclusive)"
        raise Refusal(404, f"there is no offset {offset}: {what}")
    async with wal.reader(StartPosition.offset(offset), end=offset + 1, raw=True) as reader:
        found: list[Record | Gap] = [*await reader.next_batch()]
    if not found or isinstance(found[0], Gap):
        reason = found[0].reason if found and isinstance(found[0], Gap) else "it is gone"
        raise Refusal(404, f"offset {offset} cannot be read: {reason}")
    return found[0]


def _end_of(item: Record | Gap) -> int:
    return item.end if isinstance(item, Gap) else item.offset + 1


async def _offset_at(wal: Wal, time: float) -> int:
    """The first offset at or after a time; the end of the log if there is none."""
    try:
        start = StartPosition.timestamp(time)
    except ValueError as error:
        raise Refusal(400, text_of(error)) from None
    async with wal.reader(start, end="current", count=1, raw=True) as reader:
        found: list[Record | Gap] = [*await reader.next_batch()]
    if not found:
        return wal.durable_end
    return found[0].start if isinstance(found[0], Gap) else found[0].offset


def _span(wal: Wal, first: int, stop: int, items: list[Item]) -> dict[str, Any]:
    marks = {"start": wal.start_offset, "end": wal.durable_end}
    return {"first": first, "next": stop, **marks, "items": items}


# ---- searching


class _Needle:
    """A text that is looked for, in any case."""

    def __init__(self, text: str) -> None:
        self.text = text.lower()
        # Of ASCII, bytes can be compared as they are.
        self._bytes = self.text.encode() if text.isascii() else None

    def is_in(self, data: bytes) -> bool:
        """Whether it is in these bytes, as text."""
        if self._bytes is not None:
            return self._bytes in data.lower()
        return self.text in data.decode("utf-8", "replace").lower()

    def places(self, message: StreamMessage) -> list[str]:
        """In which of the fields that are searched it is."""
        found = ["payload"] if self.is_in(message.payload) else []
        if message.routing_key is not None and self.text in message.routing_key.lower():
            found.append("key")
        for name, value in message.attributes.items():
            if self.text in name.lower() or self.text in value.lower():
                found.append("attributes")
                break
        return found


class _Matches:
    """What a search found in one part of a log. `size_bytes` is how much it has seen."""

    def __init__(
        self, needle: _Needle, codec: Codec, item: Callable[[Codec, Record], Item]
    ) -> None:
        self._needle = needle
        self._codec = codec
        self._item = item
        self.found: list[Item] = []
        self.size_bytes = 0
        self.end = 0

    def take(self, batch: list[Record | Gap]) -> None:
        """Look at some records."""
        self.end = _end_of(batch[-1])
        for record in batch:
            if isinstance(record, Gap):
                continue
            self.size_bytes += len(record.body)
            if not self._needle.is_in(record.body):
                continue
            try:
                places = self._needle.places(self._codec.decode(record.body))
            except ValueError:  # a DecodeError
                places = ["payload"]
            if places:
                self.found.append({**self._item(self._codec, record), "places": places})


# ---- fields


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _part(data: bytes, at: int, size: int) -> dict[str, Any]:
    return {"size": len(data), "at": at, "part": _base64(data[at : at + size])}


def _attributes(message: StreamMessage, most_bytes: int) -> tuple[list[list[str]], bool]:
    """Names and values, by name, and whether some were left out."""
    found: list[list[str]] = []
    size = 0
    for name, value in sorted(message.attributes.items()):
        size += len(name) + len(value)
        if size > most_bytes:
            return found, True
        found.append([name, value])
    return found, False
