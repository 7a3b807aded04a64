"""The fields of Danube's `StreamMessage`, layout by layout.

Danube changed the fields three times and the integer encoding once, without a version number in the
bytes. A layout is one schema on one wire (see `bincode`):

======  ============================================================================================
schema  fields in order
======  ============================================================================================
S1      request_id, producer_id, topic_name, broker_addr, *segment_id*, topic_offset, payload,
        publish_time, producer_name, subscription_name?, attributes
S2      S1 without segment_id
S3      S2, then schema_id?, schema_version?
S5      S3, then routing_key?
======  ============================================================================================

S1 LEGACY is the first write-ahead log, S2 LEGACY v0.5.0, S2 STANDARD v0.5.1, S3 STANDARD v0.6.0, S5
STANDARD v0.12.0 to v0.15.1. S1 STANDARD and S5 LEGACY never shipped. (S4 changed no bytes.) Older
bytes never decode under a newer schema; newer bytes under an older one do, with bytes left over.

Two runs of fields repeat from message to message, and have names here: the *place* is producer_id
to segment_id, the *rest* is producer_name to the end.
"""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from itertools import repeat
from typing import Any, Final, TypeVar

import attrs

from danube_trio._core.bincode import LEGACY, STANDARD, Field, Reader, Wire

# Entries of a table of repeated parts, and the longest part that it keeps. Guesses: room for the
# producers of a busy topic, at most 256 KiB a table.
_TABLE_ENTRIES = 256
_TABLE_BYTES = 1024

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


_REST: Final = (
    Field("producer_name", Reader.text, Wire.text),
    Field("subscription_name", Reader.option_text, Wire.option_text),
    Field("attributes", Reader.text_map, Wire.text_map),
    Field("schema_id", Reader.option_uint, Wire.option_uint),
    Field("schema_version", Reader.option_u32, Wire.option_u32),
    Field("routing_key", Reader.option_text, Wire.option_text),
)


@attrs.frozen
class Layout:
    """One schema on one wire.

    Attributes:
        name: the codec's name.
        wire: the encoding of integers.
        rest_fields: how many of the six fields of the rest there are.
        has_segment_id: whether the place ends in a segment_id.
    """

    name: str
    wire: Wire
    rest_fields: int
    has_segment_id: bool = False

    def encode_place(
        self, producer_id: int, topic_name: str, broker_addr: str, segment_id: int
    ) -> bytes:
        """The place's bytes.

        Raises:
            TypeError, ValueError: a field cannot be written, or is set and not in the layout.
        """
        wire = self.wire
        place = wire.uint(producer_id, "producer_id")
        place += wire.text(topic_name, "topic_name") + wire.text(broker_addr, "broker_addr")
        encoded_segment_id = wire.uint(segment_id, "segment_id")
        if self.has_segment_id:
            return place + encoded_segment_id
        if segment_id:
            raise self._no_such_field("segment_id", segment_id)
        return place

    def read_place(self, reader: Reader) -> tuple[int, str, str, int]:
        """producer_id, topic_name, broker_addr and segment_id, 0 where the layout lacks it."""
        producer_id = reader.uint("producer_id")
        topic_name = reader.text("topic_name")
        broker_addr = reader.text("broker_addr")
        segment_id = reader.uint("segment_id") if self.has_segment_id else 0
        return producer_id, topic_name, broker_addr, segment_id

    def encode_rest(self, values: Sequence[object]) -> bytes:
        """The bytes of the rest; `values` are all six fields.

        Raises:
            TypeError, ValueError: a field cannot be written, or is set and not in the layout.
        """
        known = self.rest_fields
        for field, value in zip(_REST[known:], values[known:], strict=True):
            if value is not None:
                raise self._no_such_field(field.name, value)
        fields = zip(_REST[:known], values[:known], strict=True)
        return b"".join([field.write(self.wire, value, field.name) for field, value in fields])

    def with_routing_key(self, rest: bytes, routing_key: str) -> bytes:
        """A rest that was encoded without routing_key, with one.

        Raises:
            TypeError, ValueError: it cannot be written, or is not in the layout.
        """
        if self.rest_fields < len(_REST):
            raise self._no_such_field("routing_key", routing_key)
        # It is the last field, and unset it is one byte.
        return rest[:-1] + self.wire.option_text(routing_key, "routing_key")

    def read_rest(self, reader: Reader) -> tuple[Any, ...]:
        """All six fields of the rest, None where the layout lacks one."""
        known = self.rest_fields
        values = [field.read(reader, field.name) for field in _REST[:known]]
        return (*values, *repeat(None, len(_REST) - known))

    def _no_such_field(self, field: str, value: object) -> ValueError:
        return ValueError(
            f"{field} is {reprlib.repr(value)}, but the layout {self.name} has no such field: "
            f"leave it unset, or write with a newer layout"
        )


def keep(table: dict[_Key, _Value], key: _Key, value: _Value, size_bytes: int) -> None:
    """Enter a repeated part. A full table starts again: what repeats comes back at once."""
    if size_bytes <= _TABLE_BYTES:
        if len(table) >= _TABLE_ENTRIES:
            table.clear()
        table[key] = value


LAYOUTS: Final = (
    Layout("s1-legacy", LEGACY, 3, has_segment_id=True),
    Layout("s1-standard", STANDARD, 3, has_segment_id=True),
    Layout("s2-legacy", LEGACY, 3),
    Layout("s2-standard", STANDARD, 3),
    Layout("s3-standard", STANDARD, 5),
    Layout("s5-standard", STANDARD, 6),
    Layout("s5-legacy", LEGACY, 6),
)
