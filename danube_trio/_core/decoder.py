"""Bytes to messages: whole, or late.

`Decoder.decode` reads every field in order. `Decoder.decode_block` is what replay runs on: for a
block of frames it compares each record's head with that of the record before instead of decoding
it, jumps over the offset, cuts out the payload and copies the tail undecoded; the message decodes
it when somebody asks (see `danube_trio.message`). What bounds the payload is checked at once; what
is skipped is checked when it is used. Tails repeat but for publish_time, so their rest is looked up
in a small table of decoded ones before it is decoded.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import count, repeat
from typing import Any

import attrs

from danube_trio._core.bincode import LEGACY, STANDARD_WIDTHS, DecodeError
from danube_trio._core.frame import HEADER_BYTES
from danube_trio._core.layout import Layout, keep
from danube_trio.message import MessageID, StreamMessage

_OFFSET_AND_LENGTH = struct.Struct("<8xQ")  # on the LEGACY wire; the offset is skipped


def _legacy_uint_at(data: bytes, at: int) -> tuple[int, int]:
    return int.from_bytes(data[at : at + 8], "little"), at + 8


def _standard_uint_at(data: bytes, at: int) -> tuple[int, int]:
    """The integer at `at` and the position after it, which is beyond `data` if there is none."""
    first = data[at]
    if first < 0xFB:
        return first, at + 1
    end = at + STANDARD_WIDTHS[first]
    return int.from_bytes(data[at + 1 : min(end, at + 9)], "little"), end


@attrs.define(eq=False, repr=False)
class _Head:
    """The fields of a head after request_id, and their bytes; shared by the messages with them."""

    decoder: Decoder
    encoded: bytes
    producer_id: int
    topic_name: str
    broker_addr: str
    segment_id: int

    def late_fields(self, tail: bytes, offset: int, /) -> tuple[object, ...]:
        """See `danube_trio.message`.

        Raises:
            DecodeError: with a position in `tail`.
        """
        try:
            values = self.decoder.decode_tail(tail)
        except DecodeError as error:
            reason = f"{error.reason}, counted from the end of the payload"
            raise DecodeError(error.position, reason, offset) from None
        place = MessageID(
            self.producer_id, self.topic_name, self.broker_addr, offset, self.segment_id
        )
        return (place, *values)


class Decoder:
    """The reading half of a codec."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._reader = layout.wire.reader
        self._is_legacy = layout.wire is LEGACY
        self._uint_at = _legacy_uint_at if self._is_legacy else _standard_uint_at
        self._heads: dict[bytes, _Head] = {}
        self._rests: dict[bytes, tuple[Any, ...]] = {}

    def decode(self, body: bytes, *, strict: bool = False) -> StreamMessage:
        """A whole message, with `offset` None. See `bincode` for what `strict` refuses.

        Raises:
            DecodeError: with a position in `body`.
        """
        reader = self._reader(body, strict=strict)
        request_id = reader.uint("request_id")
        producer_id, topic_name, broker_addr, segment_id = self._layout.read_place(reader)
        topic_offset = reader.uint("topic_offset")
        payload = reader.blob("payload")
        publish_time = reader.uint("publish_time")
        rest = self._layout.read_rest(reader)
        reader.finish()
        place = MessageID(producer_id, topic_name, broker_addr, topic_offset, segment_id)
        return StreamMessage(payload, request_id, place, publish_time, *rest)

    def decode_tail(self, tail: bytes) -> tuple[Any, ...]:
        """publish_time and the six fields after it; None where the layout lacks one.

        Raises:
            DecodeError: with a position in `tail`.
        """
        rest = None
        publish_time = 0
        if tail:
            publish_time, at = self._uint_at(tail, 0)
            rest = self._rests.get(tail[at:])
        if rest is None:
            reader = self._reader(tail)
            publish_time = reader.uint("publish_time")
            encoded = tail[reader.position :]
            rest = self._layout.read_rest(reader)
            keep(self._rests, encoded, rest, len(encoded))
        producer, subscription, attributes, schema_id, schema_version, routing_key = rest
        own = attributes.copy()
        return publish_time, producer, subscription, own, schema_id, schema_version, routing_key

    def decode_block(
        self,
        data: bytes,
        positions: Sequence[int],
        first_offset: int,
        start: int,
        stop: int,
        trailer_bytes: int,
    ) -> list[StreamMessage]:
        """The messages of frames `start..stop-1` of a block, decoded late.

        Args:
            data: bytes with frames in them.
            positions: byte position of each frame, then of the end of the last one.
            first_offset: offset of frame 0.
            start, stop: which frames, by index.
            trailer_bytes: how many bytes at each body's end are not the message's.

        Returns:
            Messages with `offset` set; their `msg_id.topic_offset` is the frame's offset too,
            whatever is stored there. They do not keep `data` alive.

        Raises:
            DecodeError: a head is not valid, or a payload does not fit into its body. The position
                is one in the body; the error names the offset.
        """
        if not 0 <= start <= stop < len(positions):
            raise ValueError(f"frames {start} to {stop} of a block of {len(positions) - 1}")
        # Any: this loop sets the private slots of messages, and nothing else does.
        messages: list[Any] = list(map(StreamMessage.__new__, repeat(StreamMessage, stop - start)))
        startswith = data.startswith
        widths = STANDARD_WIDTHS
        offset_and_length = _OFFSET_AND_LENGTH.unpack_from
        is_legacy = self._is_legacy
        head: _Head | None = None
        request_id = 0
        known = data  # the head before this one, with request_id; `data` itself matches nowhere
        known_bytes = 0
        offset = begin = end = 0
        try:
            for message, offset, begin, end in zip(
                messages,
                count(first_offset + start),
                positions[start:stop],
                positions[start + 1 : stop + 1],
                strict=False,  # offsets never end
            ):
                end -= trailer_bytes
                at = begin + HEADER_BYTES
                if startswith(known, at):
                    at += known_bytes
                else:
                    request_id, head, after = self._find_head(data, at, end, head)
                    known = data[at:after]
                    known_bytes = after - at
                    at = after
                if is_legacy:
                    (size,) = offset_and_length(data, at)
                    at += 16
                else:
                    at += widths[data[at]]
                    size = data[at]
                    if size < 0xFB:
                        at += 1
                    elif size == 0xFB:
                        size = data[at + 1] | data[at + 2] << 8
                        at += 3
                    else:
                        size, at = _standard_uint_at(data, at)
                payload_end = at + size
                if payload_end > end:
                    raise IndexError
                message.payload = data[at:payload_end]
                message.request_id = request_id
                message.offset = message._late_offset = offset
                message._late_head = head
                message._late_tail = data[payload_end:end]
        except (IndexError, OverflowError, struct.error, DecodeError):
            raise self._refusal(data[begin + HEADER_BYTES : end], offset) from None
        return messages

    def _find_head(
        self, data: bytes, at: int, end: int, known: _Head | None
    ) -> tuple[int, _Head, int]:
        """`(request_id, the rest of the head, position after it)` of the body at `at`."""
        uint_at = self._uint_at
        request_id, begin = uint_at(data, at)
        if known is not None:
            after = begin + len(known.encoded)
            if data.startswith(known.encoded, begin):
                return request_id, known, after
            # A place ends where its own bytes say. So another one that was met before, and has the
            # length of the last one, can be looked up without following its lengths.
            head = self._heads.get(data[begin:after])
            if head is not None:
                return request_id, head, after
        _, at = uint_at(data, begin)  # producer_id
        size, at = uint_at(data, at)  # topic_name
        size, at = uint_at(data, at + size)  # broker_addr
        at += size
        if self._layout.has_segment_id:
            _, at = uint_at(data, at)
        if at > end:
            raise IndexError
        encoded = data[begin:at]
        head = self._heads.get(encoded)
        if head is None:
            head = _Head(self, encoded, *self._layout.read_place(self._reader(encoded)))
            keep(self._heads, encoded, head, len(encoded))
        return request_id, head, at

    def _refusal(self, body: bytes, offset: int) -> DecodeError:
        """Why `decode_block` could not find the payload, said by the reader that takes its time."""
        try:
            self.decode(body)
        except DecodeError as error:
            return DecodeError(error.position, error.reason, offset)
        raise AssertionError(f"record {offset} decodes, but its payload was not found")
