"""The application's message, as Danube's producers and consumers see it.

A message that the log reads back is decoded late. Replaying costs one pass over the frames that
finds each payload; the other fields stay as bytes until somebody asks for one of them, which most
consumers never do. The rules:

* `payload`, `offset` and `request_id` are always there.
* Any other field that is not set yet is looked up in the undecoded bytes. All of them are decoded
  together, and only the field that was asked for is stored: what the program assigned before is
  never overwritten.
* The undecoded bytes are a private copy. A message keeps nothing alive but itself and a small value
  that it shares with messages of the same producer and topic.

Equality, `repr`, copying and pickling ask for every field, so a message decoded late is a message
like any other. When its bytes are not what the log's codec says, the first such question raises
`DecodeError`, a `ValueError`.

The fields are those of Danube's `StreamMessage` and `MessageID` from its first write-ahead log
(2025-09) to v0.15.1; the byte layouts are in `danube_trio._core.codec`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Final, Protocol

import attrs

__all__ = ["Gap", "MessageID", "Record", "StreamMessage"]


@attrs.define
class MessageID:
    """Where a message came from and where it is: Danube's `MessageID`.

    All integers are u64. `topic_offset` is the offset in the log, which stamps it when it accepts
    the message. In the oldest layout (S1) it is Danube's `segment_offset`; only that layout has
    `segment_id`.
    """

    producer_id: int = 0
    topic_name: str = ""
    broker_addr: str = ""
    topic_offset: int = 0
    segment_id: int = 0


class UndecodedFields(Protocol):
    """Decodes what a `StreamMessage` left undecoded, in the order of `LATE_FIELDS`."""

    def late_fields(self, tail: bytes, offset: int, /) -> tuple[object, ...]: ...


LATE_FIELDS: Final = (
    "msg_id",
    "publish_time",
    "producer_name",
    "subscription_name",
    "attributes",
    "schema_id",
    "schema_version",
    "routing_key",
)
_LATE_INDEX: Final = {name: index for index, name in enumerate(LATE_FIELDS)}


class _Undecoded:
    """Slots that only a message decoded late has set. No fields: not compared, shown or pickled."""

    __slots__ = ("_late_head", "_late_offset", "_late_tail")

    _late_head: UndecodedFields
    _late_offset: int
    _late_tail: bytes | tuple[object, ...]  # the bytes after the payload; later, their values


@attrs.define
class StreamMessage(_Undecoded):
    """One message: a payload and what Danube keeps beside it.

    `request_id`, `publish_time` and `schema_id` are u64, `schema_version` is a u32. `publish_time`
    is in milliseconds or seconds, as the producer chose. `schema_id`, `schema_version` and
    `routing_key` exist in newer layouts only: setting one under an older layout is a `ValueError`
    when the message is encoded.

    `offset` is where the log that the message was read from has it, -1 for a message that was not
    read from a log. It is neither encoded nor compared.

    Raises:
        DecodeError: by the first access to a field, when the message was read from a log and its
            bytes do not fit the log's codec.
    """

    payload: bytes = b""
    request_id: int = 0
    msg_id: MessageID = attrs.Factory(MessageID)
    publish_time: int = 0
    producer_name: str = ""
    subscription_name: str | None = None
    attributes: dict[str, str] = attrs.Factory(dict[str, str])
    schema_id: int | None = None
    schema_version: int | None = None
    routing_key: str | None = None
    offset: int = attrs.field(default=-1, eq=False)

    if not TYPE_CHECKING:  # type checkers would take it as leave to use any attribute name

        def __getattr__(self, name: str) -> object:
            try:
                index = _LATE_INDEX[name]
                late = self._late_tail
            except (KeyError, AttributeError):
                reason = f"{type(self).__name__!r} object has no attribute {name!r}"
                raise AttributeError(reason, name=name, obj=self) from None
            if late.__class__ is bytes:
                late = self._late_tail = self._late_head.late_fields(late, self._late_offset)
            value = late[index]
            setattr(self, name, value)
            return value


def copied(message: StreamMessage) -> StreamMessage:
    """A message with the same fields, of which none changes with the other's.

    Fields of a wrong type are as they are: the codec says which.
    """
    payload, place, attributes = message.payload, message.msg_id, message.attributes
    return attrs.evolve(
        message,
        payload=bytes(payload) if isinstance(payload, bytearray | memoryview) else payload,
        msg_id=attrs.evolve(place) if isinstance(place, MessageID) else place,
        attributes=dict(attributes) if isinstance(attributes, Mapping) else attributes,
    )


_TAIL: Final = attrgetter("_late_tail")


def fields_bytes(messages: Sequence[StreamMessage]) -> list[int]:
    """How much each message holds beside its payload, about; nothing is decoded for that."""
    try:  # as they come from a log
        return list(map(len, map(_TAIL, messages)))
    except AttributeError:
        return [_fields_bytes(message) for message in messages]


def _fields_bytes(message: StreamMessage) -> int:
    tail = getattr(message, "_late_tail", None)
    if isinstance(tail, bytes):
        return len(tail)
    fields = (message.producer_name, message.subscription_name, message.routing_key)
    size = sum(len(field) for field in fields if field is not None)
    attributes = message.attributes
    return size + sum(map(len, attributes)) + sum(map(len, attributes.values()))


@attrs.define
class Record:
    """A record as the log keeps it, undecoded.

    Attributes:
        offset: its place in the log.
        body: the encoded message in the log's codec, without the trailer.
        append_time: when the log accepted it, in microseconds since 1970-01-01 UTC; not lower than
            that of the record before, unless that was ahead of the clock by more than
            ``WalConfig.max_clock_ahead``.
    """

    offset: int
    body: bytes
    append_time: int


@attrs.frozen
class Gap:
    """Records `[start, end)` that cannot be given; readers of a log opened with "skip" get it.

    Attributes:
        start: the first offset that is missing.
        end: the offset after the last one.
        reason: what is wrong with the stored bytes.
    """

    start: int
    end: int
    reason: str
