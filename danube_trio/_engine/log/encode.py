"""From what callers hand in to the encoded parts of records.

Everything that can be wrong with a message is found here, before anything is accepted. A plain
payload costs almost nothing: what surrounds it is encoded once, but for the publish time, which is
encoded once a millisecond.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import repeat
from typing import cast

from danube_trio._core.bincode import U32_MAX, U64_MAX
from danube_trio._core.codec import Codec
from danube_trio._core.frame import HEADER_BYTES, TRAILER_BYTES, Parts, Records
from danube_trio.config import WalConfig
from danube_trio.errors import MessageTooLargeError
from danube_trio.message import StreamMessage, copied

Appendable = bytes | bytearray | memoryview | StreamMessage

# What a frame adds to head, payload and tail: header, trailer, and two integers at their widest.
FRAME_EXTRA_BYTES = HEADER_BYTES + TRAILER_BYTES + 9 + 9
NOTHING = (None, None, None, None)


def listed(messages: Iterable[Appendable]) -> list[Appendable]:
    """The messages of a batch. Raises TypeError for a single one."""
    if isinstance(messages, str | bytes | bytearray | memoryview | StreamMessage):
        raise TypeError(
            f"messages must be a list of messages, not one {type(messages).__name__}: "
            f"append() takes one"
        )
    return list(messages)


def as_it_is_now(message: Appendable) -> Appendable:
    """A message that nobody changes until it is encoded, for who cannot do that at the call.

    What is wrong with it is said when it is encoded.
    """
    if isinstance(message, bytearray | memoryview):
        return bytes(message)
    return copied(message) if isinstance(message, StreamMessage) else message


class Encoder:
    """Encodes for one log. Any thread may call it."""

    def __init__(self, config: WalConfig, codec: Codec, clock: Callable[[], float]) -> None:
        self._codec = codec
        self._clock = clock
        self._message_limit = config.max_message_bytes
        self._batch_limit = config.max_atomic_batch_bytes
        self._producer = config.producer_name
        self._head = codec.encode_head(0, 0, config.topic_name, config.broker_addr)
        self._rest = codec.encode_rest(config.producer_name, None, {}, None, None, None)
        # One value: threads encode, too, and must not see the time of one tail with another.
        self._tail = (-1, b"")

    def _plain_tail(self) -> bytes:
        """Publish time in milliseconds, and what follows it in a plain message."""
        now = int(self._clock() * 1000)
        time, tail = self._tail
        if now != time:
            wide = U32_MAX < now <= U64_MAX
            encode = self._codec.encode_wide if wide else self._codec.encode_uint
            tail = encode(now) + self._rest
            self._tail = (now, tail)
        return tail

    def one(self, message: Appendable) -> Parts:
        """The parts of a payload or message. Raises MessageTooLargeError, TypeError, ValueError."""
        parts: Parts
        if isinstance(message, bytes):
            parts = (self._head, message, self._plain_tail())
        elif isinstance(message, StreamMessage):
            parts = self._codec.encode_parts(message)
        elif isinstance(message, bytearray | memoryview):
            parts = (self._head, bytes(message), self._plain_tail())
        else:
            raise TypeError(
                f"a message must be bytes or a StreamMessage, not {type(message).__name__}: "
                f"encode it first"
            )
        self._check(parts)
        return parts

    def dressed(
        self,
        message: Appendable,
        attributes: Mapping[str, str] | None,
        routing_key: str | None,
        schema_id: int | None,
        schema_version: int | None,
    ) -> Parts:
        """The parts of a plain payload with fields of its own."""
        if (attributes, routing_key, schema_id, schema_version) == NOTHING:
            return self.one(message)
        if isinstance(message, StreamMessage):
            raise TypeError(
                "attributes, routing_key, schema_id and schema_version go with a plain payload: "
                "set them in the StreamMessage"
            )
        head, payload, _ = self.one(message)
        tail = self._codec.encode_tail(
            int(self._clock() * 1000),
            self._producer,
            None,
            attributes or {},
            schema_id,
            schema_version,
            routing_key,
        )
        parts = (head, payload, tail)
        self._check(parts)
        return parts

    def _check(self, parts: Parts) -> None:
        head, payload, tail = parts
        limit = self._message_limit
        if len(payload) > limit or len(head) + len(tail) > limit:
            size = max(len(payload), len(head) + len(tail))
            raise MessageTooLargeError(size, self._message_limit, "max_message_bytes")

    def batch(self, messages: Iterable[Appendable]) -> tuple[Records, int]:
        """The parts of all messages, and an upper bound of their frames' bytes."""
        batch = listed(messages)
        if set(map(type, batch)) == {bytes}:
            records, size = self._plain(cast("list[bytes]", batch))
        else:
            records = [self.one(message) for message in batch]
            size = sum(map(parts_bytes, records))
        if size > self._batch_limit:
            raise MessageTooLargeError(size, self._batch_limit, "max_atomic_batch_bytes")
        return records, size

    def _plain(self, payloads: list[bytes]) -> tuple[Records, int]:
        sizes = list(map(len, payloads))
        largest = max(sizes)
        if largest > self._message_limit:
            raise MessageTooLargeError(largest, self._message_limit, "max_message_bytes")
        head, tail = self._head, self._plain_tail()
        around = FRAME_EXTRA_BYTES + len(head) + len(tail)
        return _PlainRecords(head, payloads, tail), sum(sizes) + around * len(payloads)


class _PlainRecords:
    """Plain payloads with the same head and tail, without an object for each."""

    __slots__ = ("_head", "_payloads", "_tail")

    def __init__(self, head: bytes, payloads: list[bytes], tail: bytes) -> None:
        self._head = head
        self._payloads = payloads
        self._tail = tail

    def __len__(self) -> int:
        return len(self._payloads)

    def __iter__(self) -> Iterator[Parts]:
        return zip(repeat(self._head), self._payloads, repeat(self._tail), strict=False)


def parts_bytes(parts: Parts) -> int:
    """An upper bound of the frame's bytes."""
    head, payload, tail = parts
    return len(head) + len(payload) + len(tail) + FRAME_EXTRA_BYTES
