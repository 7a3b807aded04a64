"""`StreamMessage` to bytes and back, in each of Danube's layouts, by name.

For the log a body has three parts, with two integers between the first two::

    body = head + uint(topic_offset) + uint(len(payload)) + payload + tail
    head = uint(request_id) + place
    tail = uint(publish_time) + rest

Place and rest repeat from record to record (see `layout`), so both are encoded once and kept in
small bounded tables. `decoder` is the other direction. A reader must be told the layout, because
the bytes do not say it, or find it out with `probe_codec`.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

from danube_trio._core.bincode import DecodeError, WriteUint, check_bytes
from danube_trio._core.decoder import Decoder
from danube_trio._core.layout import LAYOUTS, Layout, keep
from danube_trio.message import MessageID, StreamMessage


def _check_place(value: object) -> None:
    if not isinstance(value, MessageID):
        raise TypeError(f"msg_id must be a MessageID, not {reprlib.repr(value)}")


class Codec(Decoder):
    """One layout of `StreamMessage`. Stateless but for tables of repeated parts.

    Attributes:
        name: the name in `CODECS`.
        min_body_bytes: the size of the smallest message, everything empty; no body is shorter.
        encode_uint: encodes the layout's u64, which is also its length of a string, of bytes and of
            a map. Raises `TypeError` or `ValueError`: not an int from 0 to 2**64 - 1.
        encode_wide: the same for an int that is 2**32 at least, as times are; unchecked.
    """

    def __init__(self, layout: Layout) -> None:
        super().__init__(layout)
        self.name = layout.name
        self.encode_uint: WriteUint = layout.wire.uint
        self.encode_wide = layout.wire.wide
        self._places_by_fields: dict[tuple[object, ...], bytes] = {}
        self._rests_by_fields: dict[tuple[object, ...], bytes] = {}
        self.min_body_bytes = len(self.encode(StreamMessage()))

    def __repr__(self) -> str:
        return f"<Codec {self.name}>"

    def encode_head(
        self,
        request_id: int,
        producer_id: int,
        topic_name: str,
        broker_addr: str,
        segment_id: int = 0,
    ) -> bytes:
        """Everything before topic_offset.

        Raises:
            TypeError, ValueError: a field cannot be written, or is set and not in the layout.
        """
        # The classes, because True == 1 and is refused.
        key = (
            producer_id,
            topic_name,
            broker_addr,
            segment_id,
            producer_id.__class__,
            segment_id.__class__,
        )
        try:
            place = self._places_by_fields.get(key)
        except TypeError:  # unhashable: the encoder says which field
            place = None
        if place is None:
            place = self._layout.encode_place(producer_id, topic_name, broker_addr, segment_id)
            keep(self._places_by_fields, key, place, len(place))
        return self.encode_uint(request_id, "request_id") + place

    def encode_tail(
        self,
        publish_time: int,
        producer_name: str,
        subscription_name: str | None,
        attributes: Mapping[str, str],
        schema_id: int | None,
        schema_version: int | None,
        routing_key: str | None,
    ) -> bytes:
        """Everything after the payload: `encode_uint(publish_time)`, `encode_rest` of the others.

        Raises:
            TypeError, ValueError: a field cannot be written, or is set and not in the layout.
        """
        return self.encode_uint(publish_time, "publish_time") + self.encode_rest(
            producer_name, subscription_name, attributes, schema_id, schema_version, routing_key
        )

    def encode_rest(
        self,
        producer_name: str,
        subscription_name: str | None,
        attributes: Mapping[str, str],
        schema_id: int | None,
        schema_version: int | None,
        routing_key: str | None,
    ) -> bytes:
        """Everything after publish_time.

        Raises:
            TypeError, ValueError: a field cannot be written, or is set and not in the layout.
        """
        # Routing keys are many, so they are not part of the table.
        try:
            key: tuple[object, ...] = (
                producer_name,
                subscription_name,
                tuple(attributes.items()),
                schema_id,
                schema_version,
                schema_id.__class__,
                schema_version.__class__,
            )
            rest = self._rests_by_fields.get(key)
        except (AttributeError, TypeError):  # not what it should be: the encoder says which field
            key, rest = (), None
        if rest is None:
            named = (producer_name, subscription_name, attributes, schema_id, schema_version)
            rest = self._layout.encode_rest((*named, None))
            keep(self._rests_by_fields, key, rest, len(rest))
        return rest if routing_key is None else self._layout.with_routing_key(rest, routing_key)

    def encode_parts(self, message: StreamMessage) -> tuple[bytes, bytes, bytes]:
        """Head, payload and tail of a message's body.

        Raises:
            TypeError, ValueError: a field cannot be written, or is set and not in the layout.
        """
        place = message.msg_id
        if place.__class__ is not MessageID:
            _check_place(place)
        payload = message.payload
        if payload.__class__ is not bytes:
            payload = check_bytes(payload, "payload")
        head = self.encode_head(
            message.request_id,
            place.producer_id,
            place.topic_name,
            place.broker_addr,
            place.segment_id,
        )
        tail = self.encode_tail(
            message.publish_time,
            message.producer_name,
            message.subscription_name,
            message.attributes,
            message.schema_id,
            message.schema_version,
            message.routing_key,
        )
        return head, payload, tail

    def encode(self, message: StreamMessage) -> bytes:
        """A whole body, with the message's own topic_offset.

        Raises:
            TypeError, ValueError: a field cannot be written, or is set and not in the layout.
        """
        head, payload, tail = self.encode_parts(message)
        offset = self.encode_uint(message.msg_id.topic_offset, "topic_offset")
        return b"".join((head, offset, self.encode_uint(len(payload)), payload, tail))


CODECS: Final[Mapping[str, Codec]] = MappingProxyType(
    {layout.name: Codec(layout) for layout in LAYOUTS}
)
DEFAULT_CODEC: Final = "s5-standard"
# Newest first: older bytes never decode under a newer layout, newer ones have bytes left over.
_PROBED: Final = ("s5-standard", "s3-standard", "s2-standard", "s2-legacy", "s1-legacy")


def get_codec(name: str) -> Codec:
    """The codec of that name.

    Raises:
        ValueError: there is none.
    """
    codec = CODECS.get(name)
    if codec is None:
        raise ValueError(f"codec {name!r} is unknown: it must be one of {', '.join(CODECS)}")
    return codec


def _first_fit(body: bytes) -> str | None:
    for name in _PROBED:
        try:
            CODECS[name].decode(body, strict=True)
        except DecodeError:
            continue
        return name
    return None


def probe_codec(bodies: Sequence[bytes]) -> str | None:
    """Which of the layouts that Danube shipped these bodies have, or None.

    Every body must decode strictly, and the newest layout under which it does must be the same for
    all. Few or tiny bodies may fit a layout by chance: pass many. Bodies have no trailer.
    """
    found: str | None = None
    for body in bodies:
        fit = _first_fit(body)
        if fit is None or (found is not None and fit != found):
            return None
        found = fit
    return found
