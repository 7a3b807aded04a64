"""Decoding a block of frames late: the same messages, only later."""

from __future__ import annotations

import copy
import gc
import pickle
import struct
import sys
import weakref
import zlib
from array import array
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import pytest
from golden import CODEC_OF, GOLDEN, OFFSET, sample
from hypothesis import given
from hypothesis import strategies as st

from danube_trio._core.bincode import DecodeError
from danube_trio._core.codec import CODECS, get_codec
from danube_trio.message import LATE_FIELDS, MessageID, StreamMessage

every_codec = pytest.mark.parametrize("name", CODECS)
TRAILER = b"\xd7" + bytes(range(16))


def block_of(bodies: Sequence[bytes], trailer: bytes = TRAILER) -> tuple[bytes, list[int]]:
    """Frames around the bodies, with something before and after them, and their positions."""
    data = b"before"
    positions = [len(data)]
    for number, body in enumerate(bodies):
        stored = body + trailer
        data += struct.pack("<QII", number, len(stored), zlib.crc32(stored)) + stored
        positions.append(len(data))
    return data + b"\1\1\1\1 and after", positions


def numbered(
    name: str,
    count: int,
    first: int = OFFSET,
    change: Callable[[int], dict[str, Any]] = lambda _number: {},
) -> list[StreamMessage]:
    """Messages at offsets from `first` on, otherwise alike but for their payload and `change`."""
    found: list[StreamMessage] = []
    for number in range(count):
        message = attrs.evolve(sample(name), payload=b"%d" % number, **change(number))
        place = attrs.evolve(message.msg_id, topic_offset=first + number)
        found.append(attrs.evolve(message, msg_id=place, offset=first + number))
    return found


def decode(
    name: str, messages: Sequence[StreamMessage], first: int = OFFSET, trailer: bytes = TRAILER
) -> list[StreamMessage]:
    codec = get_codec(name)
    data, positions = block_of([codec.encode(message) for message in messages], trailer)
    return codec.decode_block(data, positions, first, 0, len(messages), len(trailer))


def late(name: str = "s5-standard") -> StreamMessage:
    return decode(name, numbered(name, 1))[0]


@pytest.mark.parametrize("era", CODEC_OF)
def test_a_frame_vector_has_the_header_that_danube_writes(era: str) -> None:
    frame, body = GOLDEN[f"frame/{era}"], GOLDEN[f"msg/{era}"]
    assert frame[16:] == body
    assert struct.unpack_from("<QII", frame) == (OFFSET, len(body), zlib.crc32(body))


@pytest.mark.parametrize("era", CODEC_OF)
def test_a_frame_vector_decodes_late(era: str) -> None:
    name = CODEC_OF[era]
    frame = GOLDEN[f"frame/{era}"]
    (message,) = get_codec(name).decode_block(frame, [0, len(frame)], OFFSET, 0, 1, 0)
    assert (message.offset, message.payload) == (OFFSET, b"hello")
    assert message == sample(name)


@every_codec
@given(data=st.data())
def test_a_message_decoded_late_is_the_message(name: str, data: st.DataObject) -> None:
    first = data.draw(st.sampled_from([0, 245, 65530, 2**32 - 5, 2**63]))
    text = st.sampled_from(["", "a", "topic", "ü" * 130])
    place = st.builds(MessageID, st.sampled_from([0, 1, 250, 251, 70000]), text, text)
    some = st.builds(
        StreamMessage,
        payload=st.integers(0, 300).map(bytes),
        request_id=st.sampled_from([0, 1, 251, 2**64 - 1]),
        msg_id=place,
        publish_time=st.sampled_from([0, 250, 1758383000123]),
        producer_name=text,
        subscription_name=st.none() | text,
        attributes=st.dictionaries(text, text, max_size=2),
    )
    messages = data.draw(st.lists(some, min_size=1, max_size=12))
    for number, message in enumerate(messages):
        message.msg_id.topic_offset = first + number
    bodies = [get_codec(name).encode(message) for message in messages]
    block, positions = block_of(bodies)
    start = data.draw(st.integers(0, len(messages)))
    stop = data.draw(st.integers(start, len(messages)))
    found = get_codec(name).decode_block(block, positions, first, start, stop, len(TRAILER))
    assert [message.offset for message in found] == list(range(first + start, first + stop))
    assert found == messages[start:stop]
    assert found == [get_codec(name).decode(body) for body in bodies[start:stop]]


@every_codec
@pytest.mark.parametrize("size", [0, 1, 250, 251, 255, 256, 65535, 65536, 70000])
@pytest.mark.parametrize("trailer", [b"", TRAILER])
def test_a_payload_of_any_size_is_found(name: str, size: int, trailer: bytes) -> None:
    messages = numbered(name, 3, change=lambda number: {"publish_time": number})
    for message in messages:
        message.payload = b"p" * size
    found = decode(name, messages, trailer=trailer)
    assert [message.payload for message in found] == [b"p" * size] * 3
    assert found == messages


@every_codec
@pytest.mark.parametrize("producers", [1, 2, 7, 600])
@pytest.mark.parametrize("topic", ["t", "a topic whose head is too long to remember " * 40])
def test_heads_may_change_from_record_to_record(name: str, producers: int, topic: str) -> None:
    def change(number: int) -> dict[str, Any]:
        producer = number % producers
        return {
            "msg_id": MessageID(producer, topic + "x" * (producer % 3), "b" * (producer % 2)),
            "request_id": number // 2,
        }

    messages = numbered(name, 1300 if producers == 600 else 40, change=change)
    assert decode(name, messages) == messages


def test_positions_may_be_any_sequence() -> None:
    messages = numbered("s5-standard", 5)
    data, positions = block_of([get_codec("s5-standard").encode(message) for message in messages])
    for kind in (tuple(positions), array("Q", positions)):
        found = get_codec("s5-standard").decode_block(data, kind, OFFSET, 1, 4, len(TRAILER))
        assert found == messages[1:4]


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (2, 1), (0, 4)])
def test_frames_that_the_block_lacks_are_refused(start: int, stop: int) -> None:
    data, positions = block_of([GOLDEN["msg/v0.12.0"]] * 3)
    with pytest.raises(ValueError, match=f"frames {start} to {stop} of a block of 3"):
        get_codec("s5-standard").decode_block(data, positions, OFFSET, start, stop, len(TRAILER))


def test_an_integer_that_is_not_in_its_shortest_form_is_accepted() -> None:
    body = b"\xfb\1\0" + b"\0\1t\1b" + b"\xfc\7\0\0\0" + b"\xfb\5\0hello" + b"\xfb\1\0" + b"\1p"
    body += bytes(5)
    data, positions = block_of([body, body])
    found = get_codec("s5-standard").decode_block(data, positions, 7, 0, 2, len(TRAILER))
    assert found[0] == get_codec("s5-standard").decode(body)
    assert [message.msg_id.topic_offset for message in found] == [7, 8]


@pytest.mark.parametrize("era", CODEC_OF)
def test_the_offset_is_the_frames_whatever_the_message_says(era: str) -> None:
    data, positions = block_of([GOLDEN[f"msg/{era}"]] * 2)
    found = get_codec(CODEC_OF[era]).decode_block(data, positions, 5, 0, 2, len(TRAILER))
    assert [(message.offset, message.msg_id.topic_offset) for message in found] == [(5, 5), (6, 6)]


@pytest.mark.parametrize("era", CODEC_OF)
@pytest.mark.parametrize("before", [0, 1])
def test_a_body_cut_at_any_byte_is_refused_at_once_or_when_its_rest_is_asked_for(
    era: str, before: int
) -> None:
    codec = get_codec(CODEC_OF[era])
    whole = GOLDEN[f"msg/{era}"]
    head, payload, _ = codec.encode_parts(sample(codec.name))
    payload_end = len(head) + len(codec.encode_uint(OFFSET) + codec.encode_uint(5)) + len(payload)
    for size in range(len(whole)):
        data, positions = block_of([whole] * before + [whole[:size], whole])
        count = before + 2
        if size < payload_end:
            with pytest.raises(DecodeError) as caught:
                codec.decode_block(data, positions, OFFSET, 0, count, len(TRAILER))
            assert caught.value.position <= size
        else:
            found = codec.decode_block(data, positions, OFFSET, 0, count, len(TRAILER))
            assert found[before].payload == b"hello"
            with pytest.raises(DecodeError, match="counted from the end of the payload") as caught:
                str(found[before].attributes)
            assert caught.value.position <= size - payload_end
            assert found[before + 1].attributes == {"k": "v"}
        assert caught.value.offset == OFFSET + before
        assert str(caught.value).startswith(f"record {OFFSET + before}: ")


@every_codec
@given(data=st.data())
def test_any_bytes_are_refused_or_mean_what_they_mean_to_the_other_decoder(
    name: str, data: st.DataObject
) -> None:
    codec = get_codec(name)
    body = data.draw(st.binary(max_size=120))
    block, positions = block_of([codec.encode(sample(name)), body])
    try:
        expected = codec.decode(body)
        expected.msg_id.topic_offset = 1
    except DecodeError:
        with pytest.raises(DecodeError):
            repr(codec.decode_block(block, positions, 0, 0, 2, len(TRAILER)))
    else:
        assert codec.decode_block(block, positions, 0, 0, 2, len(TRAILER))[1] == expected


@pytest.mark.parametrize("mark", [b"\xfe", b"\xff"])
def test_a_mark_that_begins_no_integer_is_named(mark: bytes) -> None:
    place = b"\0\0\1t\1b"
    for body, field in ((place + mark, "topic_offset"), (place + b"\0" + mark, "payload")):
        data, positions = block_of([body + bytes(40)])
        with pytest.raises(DecodeError, match=f"record 9: {field} starts with 0x"):
            get_codec("s5-standard").decode_block(data, positions, 9, 0, 1, len(TRAILER))


def test_a_message_does_not_keep_its_block() -> None:
    codec = get_codec("s5-standard")
    data, positions = block_of([GOLDEN["msg/v0.12.0"]] * 3)
    references = sys.getrefcount(data)
    messages = codec.decode_block(data, positions, OFFSET, 0, 3, len(TRAILER))
    assert sys.getrefcount(data) == references
    assert all(data is not held for message in messages for held in gc.get_referents(message))
    assert type(messages[0].payload) is bytes
    repr(messages)
    assert sys.getrefcount(data) == references


@every_codec
def test_it_looks_like_any_other(name: str) -> None:
    (message,) = numbered(name, 1)
    assert repr(late(name)) == repr(message)
    assert type(late(name)) is StreamMessage
    assert late(name) == message
    assert message == late(name)
    assert late(name) != attrs.evolve(message, publish_time=1)
    assert attrs.asdict(late(name)) == attrs.asdict(message)
    assert get_codec(name).encode(late(name)) == get_codec(name).encode(message)
    assert weakref.ref(message)() is message


@pytest.mark.parametrize("field", ["payload", "request_id", "offset", *LATE_FIELDS])
def test_each_field_can_be_the_first_to_be_asked_for(field: str) -> None:
    (message,) = numbered("s5-standard", 1)
    assert getattr(late(), field) == getattr(message, field)


def test_it_can_be_copied_and_pickled() -> None:
    for copied in (
        copy.copy(late()),
        copy.deepcopy(late()),
        pickle.loads(pickle.dumps(late())),
        attrs.evolve(late()),
    ):
        assert copied == late()
        assert copied.offset == OFFSET
        assert repr(copied) == repr(late())


@pytest.mark.parametrize("name", ["paylaod", "_late_trail", "__len__"])
def test_a_mistyped_attribute_is_an_attribute_error(name: str) -> None:
    for message in (late(), StreamMessage()):
        assert not hasattr(message, name)
        with pytest.raises(AttributeError, match=f"'StreamMessage' .* no attribute '{name}'"):
            getattr(message, name)
        with pytest.raises(AttributeError, match=name):
            setattr(message, name, 5)


def test_a_deleted_field_is_an_attribute_error() -> None:
    message = StreamMessage()
    del message.producer_name
    with pytest.raises(AttributeError, match="no attribute 'producer_name'"):
        str(message.producer_name)


def test_what_was_assigned_stays() -> None:
    message = late()
    message.publish_time = 7
    message.offset = -1
    assert message.producer_name == "p1"
    assert message.publish_time == 7
    assert message.msg_id.topic_offset == OFFSET
    message.routing_key = None
    assert message.routing_key is None


def test_messages_do_not_share_what_can_change() -> None:
    one, two = decode("s5-standard", numbered("s5-standard", 2))
    one.attributes["k"] = "changed"
    one.msg_id.topic_name = "changed"
    assert two.attributes == {"k": "v"}
    assert two.msg_id.topic_name == "/default/orders"
    assert late().attributes == {"k": "v"}
    assert one.attributes == {"k": "changed"}


def test_what_a_decoder_remembers_is_bounded() -> None:
    codec = get_codec("s5-standard")
    for first in range(0, 600, 100):

        def change(number: int, first: int = first) -> dict[str, Any]:
            return {
                "msg_id": MessageID(topic_name=f"t{first + number}"),
                "producer_name": f"p{first + number}" * (300 if number % 9 == 0 else 1),
            }

        for message in decode(codec.name, numbered(codec.name, 100, change=change)):
            assert message.producer_name
    for table in (codec._heads, codec._rests):
        assert 0 < len(table) <= 256
        assert max(map(len, table)) <= 1024
