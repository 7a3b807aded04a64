"""The message layouts, as tables that are run both ways."""

from __future__ import annotations

import pickle
from enum import IntEnum
from typing import Any

import attrs
import pytest
from golden import CODEC_OF, GOLDEN, empty, sample
from hypothesis import given
from hypothesis import strategies as st

from danube_trio._core.bincode import LEGACY, STANDARD, DecodeError, Wire
from danube_trio._core.codec import CODECS, DEFAULT_CODEC, get_codec, probe_codec
from danube_trio.message import MessageID, StreamMessage

VECTORS = [
    pytest.param(CODEC_OF[era], message(CODEC_OF[era]), GOLDEN[f"{kind}/{era}"], id=f"{kind}/{era}")
    for kind, message in (("msg", sample), ("msg-empty", empty))
    for era in CODEC_OF
]
vectors = pytest.mark.parametrize(("name", "message", "body"), VECTORS)
every_codec = pytest.mark.parametrize("name", CODECS)

U64 = st.integers(0, 2**64 - 1) | st.sampled_from([0, 250, 251, 65535, 65536, 2**32 - 1, 2**32])
TEXT = st.text(max_size=300)


@st.composite
def messages(draw: st.DrawFn, name: str) -> StreamMessage:
    schema = int(name[1])
    return StreamMessage(
        payload=draw(st.binary(max_size=300) | st.integers(0, 70000).map(bytes)),
        request_id=draw(U64),
        msg_id=MessageID(
            draw(U64), draw(TEXT), draw(TEXT), draw(U64), draw(U64) if schema == 1 else 0
        ),
        publish_time=draw(U64),
        producer_name=draw(TEXT),
        subscription_name=draw(st.none() | TEXT),
        attributes=draw(st.dictionaries(TEXT, TEXT, max_size=4)),
        schema_id=draw(st.none() | U64) if schema >= 3 else None,
        schema_version=draw(st.none() | st.integers(0, 2**32 - 1)) if schema >= 3 else None,
        routing_key=draw(st.none() | TEXT) if schema >= 5 else None,
    )


def test_every_vector_has_a_test() -> None:
    kinds = {"msg", "msg-empty", "frame"}
    assert {row for row in GOLDEN if not row.startswith("ckpt/")} == {
        f"{kind}/{era}" for kind in kinds for era in CODEC_OF
    }
    assert set(CODEC_OF.values()) == set(CODECS)


@vectors
def test_a_vector_decodes(name: str, message: StreamMessage, body: bytes) -> None:
    assert get_codec(name).decode(body, strict=True) == message
    assert get_codec(name).decode(body) == message


@vectors
def test_a_vector_is_what_its_message_encodes_to(
    name: str, message: StreamMessage, body: bytes
) -> None:
    assert get_codec(name).encode(message) == body


@vectors
def test_the_parts_make_the_body(name: str, message: StreamMessage, body: bytes) -> None:
    codec = get_codec(name)
    head, payload, tail = codec.encode_parts(message)
    place, uint = message.msg_id, codec.encode_uint
    assert head + uint(place.topic_offset) + uint(len(payload)) + payload + tail == body
    assert head == codec.encode_head(
        message.request_id, place.producer_id, place.topic_name, place.broker_addr
    )
    rest = (
        message.producer_name,
        message.subscription_name,
        message.attributes,
        message.schema_id,
        message.schema_version,
        message.routing_key,
    )
    assert tail == codec.encode_tail(message.publish_time, *rest)
    assert tail == uint(message.publish_time) + codec.encode_rest(*rest)


@vectors
def test_a_vector_cut_at_any_byte_is_refused(
    name: str, message: StreamMessage, body: bytes
) -> None:
    for size in range(len(body)):
        with pytest.raises(DecodeError) as caught:
            get_codec(name).decode(body[:size])
        assert caught.value.position <= size


@vectors
@pytest.mark.parametrize("extra", [b"\0", b"\xd7" + bytes(16), b"x" * 300])
def test_bytes_after_the_message_are_refused_by_strict_decoding_only(
    name: str, message: StreamMessage, body: bytes, extra: bytes
) -> None:
    assert get_codec(name).decode(body + extra) == message
    with pytest.raises(DecodeError, match=f"{len(extra)} bytes follow the last field") as caught:
        get_codec(name).decode(body + extra, strict=True)
    assert caught.value.position == len(body)


@vectors
def test_a_vector_with_any_byte_changed_is_refused_or_means_exactly_itself(
    name: str, message: StreamMessage, body: bytes
) -> None:
    codec = get_codec(name)
    for position in range(len(body)):
        for flip in (1, 2, 4, 8, 16, 32, 64, 128, 255):
            changed = bytearray(body)
            changed[position] ^= flip
            try:
                decoded = codec.decode(bytes(changed), strict=True)
            except DecodeError:
                continue
            assert decoded != message
            assert codec.encode(decoded) == changed


@every_codec
@given(data=st.data())
def test_any_message_survives(name: str, data: st.DataObject) -> None:
    message = data.draw(messages(name))
    codec = get_codec(name)
    body = codec.encode(message)
    assert codec.decode(body, strict=True) == message
    assert len(body) >= codec.min_body_bytes


@every_codec
@given(data=st.data())
def test_any_bytes_are_refused_or_mean_exactly_themselves(name: str, data: st.DataObject) -> None:
    codec = get_codec(name)
    body = data.draw(st.binary(max_size=200) | st.builds(bytes, st.integers(0, 200)))
    try:
        decoded = codec.decode(body, strict=True)
    except DecodeError:
        return
    assert codec.encode(decoded) == body


def test_the_shortest_bodies_are_danubes() -> None:
    assert get_codec("s1-legacy").min_body_bytes == 81
    assert get_codec("s2-standard").min_body_bytes == 10
    assert get_codec("s5-standard").min_body_bytes == 13


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        (0, "00"),
        (250, "fa"),
        (251, "fbfb00"),
        (65535, "fbffff"),
        (65536, "fc00000100"),
        (2**32 - 1, "fcffffffff"),
        (2**32, "fd0000000001000000"),
        (2**64 - 1, "fdffffffffffffffff"),
    ],
)
def test_an_integer_takes_its_shortest_form(value: int, encoded: str) -> None:
    data = bytes.fromhex(encoded)
    assert STANDARD.uint(value) == data
    assert STANDARD.reader(data, strict=True).uint("x") == value
    assert LEGACY.uint(value) == value.to_bytes(8, "little")
    for size in range(len(data)):
        with pytest.raises(DecodeError, match="unexpected end in x"):
            STANDARD.reader(data[:size]).uint("x")


@pytest.mark.parametrize("longer", ["fb0100", "fc01000000", "fd0100000000000000"])
def test_an_integer_that_is_not_in_its_shortest_form_is_refused_by_strict_decoding_only(
    longer: str,
) -> None:
    data = bytes.fromhex(longer)
    assert STANDARD.reader(data).uint("x") == 1
    with pytest.raises(DecodeError, match=rf"x has 1 in {len(data)} bytes, not its shortest"):
        STANDARD.reader(data, strict=True).uint("x")


# What the body begins with up to the field in question, what is there, and what is said about it.
PLACE = b"\0\0\1t\1b"
BEFORE_PAYLOAD = PLACE + b"\0"
AFTER_NAME = BEFORE_PAYLOAD + b"\0\0\1p"
BAD_BODIES = [
    (b"", b"", 0, "unexpected end in request_id: 1 bytes wanted, 0 left"),
    (b"", b"\xfd\0\0", 1, "unexpected end in request_id: 8 bytes wanted, 2 left"),
    (b"", b"\xfe" + bytes(16), 0, "request_id starts with 0xFE, which begins no u64"),
    (b"\0", b"\xff" + bytes(16), 1, "producer_id starts with 0xFF, which begins no u64"),
    (b"\0\0", b"\5abcd", 2, "topic_name claims 5 bytes where 4 are left"),
    (b"\0\0", b"\xfd" + b"\xff" * 8, 2, f"topic_name claims {2**64 - 1} bytes where 0 are left"),
    (b"\0\0", b"\2a\xff\0", 4, "topic_name is not UTF-8: invalid start byte"),
    (b"\0\0", b"\3\xed\xa0\x80\0", 3, "topic_name is not UTF-8: invalid continuation byte"),
    (b"\0\0\1t", b"\2b", 4, "broker_addr claims 2 bytes where 1 are left"),
    (PLACE, b"\xff", 6, "topic_offset starts with 0xFF, which begins no u64"),
    (BEFORE_PAYLOAD, b"\xfc\0\0\0\x80abc", 7, f"payload claims {2**31} bytes where 3 are left"),
    (AFTER_NAME, b"\2", 11, "subscription_name has the Option tag 2, not 0 or 1"),
    (AFTER_NAME, b"\1", 12, "unexpected end in subscription_name"),
    (AFTER_NAME + b"\0", b"\4\1k\1v\0\0", 12, "attributes claims 4 items where 6 bytes are left"),
    (AFTER_NAME + b"\0", b"\1\1k", 15, "unexpected end in attributes"),
    (AFTER_NAME + b"\0\0", b"\xff", 13, "schema_id has the Option tag 255, not 0 or 1"),
    (AFTER_NAME + b"\0\0\0", b"\1\xfd" + bytes(8), 15, "schema_version is wider than a u32"),
    (AFTER_NAME + b"\0\0\0\0", b"\1\1\x80", 17, "routing_key is not UTF-8: invalid start byte"),
    (AFTER_NAME + b"\0\0\0\0", b"", 15, "unexpected end in routing_key: 1 bytes wanted, 0 left"),
]


@pytest.mark.parametrize(("before", "bad", "position", "reason"), BAD_BODIES)
def test_a_bad_field_is_named_with_its_place_and_the_reason(
    before: bytes, bad: bytes, position: int, reason: str
) -> None:
    with pytest.raises(DecodeError) as caught:
        get_codec("s5-standard").decode(before + bad)
    error = caught.value
    assert isinstance(error, ValueError)
    assert error.reason.startswith(reason)
    assert error.position == position
    assert str(error) == f"{error.reason} (at byte {position})"
    assert error.offset is None
    copied = pickle.loads(pickle.dumps(error))
    assert (copied.position, copied.reason, copied.offset) == (position, error.reason, None)


def test_a_key_that_is_there_twice_counts_once_and_is_refused_by_strict_decoding() -> None:
    body = AFTER_NAME + b"\0" + b"\2\1k\1a\1k\1b" + b"\0\0\0"
    assert get_codec("s5-standard").decode(body).attributes == {"k": "b"}
    with pytest.raises(DecodeError, match="attributes has the key 'k' twice") as caught:
        get_codec("s5-standard").decode(body, strict=True)
    assert caught.value.position == 17


def test_newer_bytes_under_an_older_layout_lose_their_tail_and_are_refused_by_strict_decoding() -> (
    None
):
    body = GOLDEN["msg/v0.12.0"]
    assert get_codec("s2-standard").decode(body) == sample("s2-standard")
    with pytest.raises(DecodeError, match="follow the last field"):
        get_codec("s2-standard").decode(body, strict=True)


def test_older_bytes_under_a_newer_layout_are_refused() -> None:
    with pytest.raises(DecodeError, match="unexpected end in schema_id"):
        get_codec("s5-standard").decode(GOLDEN["msg/v0.5.1"])


class Number(IntEnum):
    SEVEN = 7


@every_codec
@pytest.mark.parametrize("payload", [b"hello", bytearray(b"hello"), memoryview(b"hXeXlXlXoX")[::2]])
def test_a_payload_may_be_any_bytes(name: str, payload: Any) -> None:
    encoded = get_codec(name).encode_parts(attrs.evolve(sample(name), payload=payload))[1]
    assert type(encoded) is bytes
    assert encoded == bytes(payload)


def test_an_int_enum_is_an_int() -> None:
    message = StreamMessage(request_id=Number.SEVEN, schema_id=Number.SEVEN)
    codec = get_codec("s5-standard")
    assert codec.decode(codec.encode(message), strict=True) == message


ANY_BYTES: Any = b"t"
BAD_FIELDS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"request_id": -1}, ValueError, "request_id must be between 0 and .*, not -1"),
    ({"request_id": 2**64}, ValueError, f"request_id must be .* {2**64 - 1}, not {2**64}"),
    ({"request_id": True}, TypeError, "request_id must be an int, not True"),
    ({"publish_time": 1.0}, TypeError, "publish_time must be an int, not 1.0"),
    ({"publish_time": None}, TypeError, "publish_time must be an int, not None"),
    ({"payload": "text"}, TypeError, "payload must be bytes, not 'text'"),
    ({"payload": 5}, TypeError, "payload must be bytes, not 5"),
    ({"producer_name": None}, TypeError, "producer_name must be a str, not None"),
    ({"producer_name": ["p"]}, TypeError, r"producer_name must be a str, not \['p'\]"),
    ({"producer_name": "\ud800"}, ValueError, "producer_name .* lone surrogate at character 0"),
    ({"subscription_name": b"s"}, TypeError, "subscription_name must be a str, not b's'"),
    ({"attributes": None}, TypeError, "attributes must be a mapping, not None"),
    ({"attributes": ()}, TypeError, r"attributes must be a mapping, not \(\)"),
    ({"attributes": {1: "v"}}, TypeError, "a key of attributes must be a str, not 1"),
    ({"attributes": {"k": 1}}, TypeError, r"attributes\['k'\] must be a str, not 1"),
    ({"attributes": {"k": []}}, TypeError, r"attributes\['k'\] must be a str, not \[\]"),
    ({"attributes": {"\udfff": "v"}}, ValueError, "a key of attributes .* lone surrogate"),
    ({"schema_id": True}, TypeError, "schema_id must be an int, not True"),
    ({"schema_id": -1}, ValueError, "schema_id must be between"),
    ({"schema_version": 2**32}, ValueError, f"schema_version must be .* {2**32 - 1}, not {2**32}"),
    ({"schema_version": False}, TypeError, "schema_version must be an int, not False"),
    ({"routing_key": 7}, TypeError, "routing_key must be a str, not 7"),
    ({"msg_id": None}, TypeError, "msg_id must be a MessageID, not None"),
    ({"msg_id": MessageID(producer_id=True)}, TypeError, "producer_id must be an int, not True"),
    ({"msg_id": MessageID(producer_id=2**64)}, ValueError, "producer_id must be between"),
    ({"msg_id": MessageID(topic_offset=-1)}, ValueError, "topic_offset must be between"),
    ({"msg_id": MessageID(topic_name=ANY_BYTES)}, TypeError, "topic_name must be a str, not b't'"),
    ({"msg_id": MessageID(broker_addr="\ud8ff")}, ValueError, "broker_addr .* lone surrogate"),
    ({"msg_id": MessageID(segment_id=1)}, ValueError, "segment_id is 1, but the layout .* no such"),
]


@pytest.mark.parametrize(("fields", "error", "reason"), BAD_FIELDS)
@pytest.mark.parametrize("name", ["s5-standard", "s5-legacy"])
def test_a_field_that_cannot_be_encoded_is_named_with_its_value(
    name: str, fields: dict[str, Any], error: type[Exception], reason: str
) -> None:
    codec = get_codec(name)
    # What has equal fields of the right types must not vouch for those of the wrong types.
    codec.encode(StreamMessage(schema_id=1, schema_version=0, msg_id=MessageID(producer_id=1)))
    codec.encode(StreamMessage())
    with pytest.raises(error, match=reason):
        codec.encode(attrs.evolve(StreamMessage(), **fields))


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("s1-legacy", "schema_id", 5),
        ("s2-standard", "schema_version", 0),
        ("s2-legacy", "routing_key", "eu"),
        ("s3-standard", "routing_key", ""),
    ],
)
def test_a_field_that_the_layout_lacks_is_not_dropped(name: str, field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{field} is {value!r}, but the layout {name} has no"):
        get_codec(name).encode(attrs.evolve(empty(name), **{field: value}))


def test_only_the_first_schema_has_segments() -> None:
    codec = get_codec("s1-legacy")
    message = StreamMessage(msg_id=MessageID(topic_offset=7, segment_id=3))
    assert codec.decode(codec.encode(message)).msg_id == message.msg_id


@pytest.mark.parametrize("wire", [LEGACY, STANDARD], ids=lambda wire: wire.name)
def test_an_encoded_integer_is_a_u64(wire: Wire) -> None:
    for value in (-1, 2**64):
        with pytest.raises(ValueError, match="the integer must be between 0 and"):
            wire.uint(value)


@pytest.mark.parametrize(
    ("era", "found"),
    [
        ("seed", "s1-legacy"),
        ("v0.5.0", "s2-legacy"),
        ("v0.5.1", "s2-standard"),
        ("v0.6.0", "s3-standard"),
        ("v0.12.0", "s5-standard"),
        ("s1-standard", None),
        ("s5-legacy", None),
    ],
)
def test_the_layouts_that_danube_shipped_are_told_apart(era: str, found: str | None) -> None:
    assert probe_codec([GOLDEN[f"msg/{era}"], GOLDEN[f"msg-empty/{era}"]]) == found


def test_bodies_of_two_layouts_are_of_no_layout() -> None:
    assert probe_codec([GOLDEN["msg/v0.12.0"], GOLDEN["msg/v0.6.0"]]) is None


def test_no_bodies_are_of_no_layout() -> None:
    assert probe_codec([]) is None
    assert probe_codec([b""]) is None


def test_a_codec_has_a_name() -> None:
    assert get_codec(DEFAULT_CODEC).name == "s5-standard"
    assert repr(get_codec("s1-legacy")) == "<Codec s1-legacy>"
    with pytest.raises(ValueError, match=r"codec 's4' is unknown: .* s1-legacy, .*s5-legacy"):
        get_codec("s4")


def test_what_a_codec_remembers_is_bounded() -> None:
    codec = get_codec("s5-standard")
    for number in range(1000):
        place = MessageID(number, f"topic {number}")
        message = StreamMessage(msg_id=place, producer_name=f"p{number}", attributes={"n": "x"})
        codec.encode(message)
        large = StreamMessage(msg_id=MessageID(number, "t" * 2000), producer_name="p" * 2000)
        codec.encode(large)
    for table in (codec._places_by_fields, codec._rests_by_fields):
        assert 0 < len(table) <= 256
        assert max(map(len, table.values())) <= 1024
