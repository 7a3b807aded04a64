"""Framing: the bytes of `docs/format.md`, batches, and what Danube makes of them."""

from __future__ import annotations

import zlib
from itertools import pairwise

import pytest
from frames import RUN, RUNS, STANDARD, WIRES, frame, framed, records
from golden import OFFSET, sample
from hypothesis import given
from hypothesis import strategies as st

from danube_trio import MessageID, StreamMessage
from danube_trio._core.bincode import DecodeError
from danube_trio._core.codec import CODECS
from danube_trio._core.crc import crc32
from danube_trio._core.frame import (
    HINT_BYTES,
    TRAILER_BYTES,
    Batch,
    batch_boundaries,
    frame_time,
    scan,
)
from danube_trio._core.framing import encode_block


def by_hand(batches: list[Batch], offset: int, wire: str) -> list[bytes]:
    """The same frames, put together after docs/format.md."""
    encode_uint = WIRES[wire]
    frames: list[bytes] = []
    for time, parts in batches:
        for left, (head, payload, tail) in zip(reversed(range(len(parts))), parts, strict=True):
            at = offset + len(frames)
            message = head + encode_uint(at) + encode_uint(len(payload)) + payload + tail
            frames.append(frame(at, message, left, time))
    return frames


@pytest.mark.parametrize("wire", WIRES)
@RUN
def test_frames_are_those_of_the_format(run: str, wire: str) -> None:
    offset, batches = RUNS[run]
    expected = by_hand(batches, offset, wire)
    block = framed(run, wire)
    assert block.data == b"".join(expected)
    assert (block.start, block.end) == (offset, offset + len(expected))
    assert [b - a for a, b in pairwise(block.positions)] == [len(one) for one in expected]
    assert (block.first_time, block.last_time) == (batches[0][0], batches[-1][0])
    assert block.size_bytes == len(block.data)


@given(
    st.lists(
        st.tuples(
            st.integers(1, 300),  # records
            st.sampled_from([b"", b"head", b"another", bytes(300)]),
            st.sampled_from([0, 1, 83, 84, 200]),  # repeats of its number in a payload
            st.sampled_from([b"", b"tail", b"liat", bytes(90)]),
        ),
        min_size=1,
        max_size=5,
    ),
    st.sampled_from([0, 255, 256, 2**16 - 260, 2**32 - 260, 2**63, 2**64 - 1501]),
    st.integers(0, 1),
    st.sampled_from(sorted(WIRES)),
)
def test_any_run_is_framed_as_the_format_says(
    shape: list[tuple[int, bytes, int, bytes]], offset: int, uneven: int, wire: str
) -> None:
    """What is carried over from one record to the next is never carried too far."""
    batches: list[Batch] = []
    for time, (count, head, repeats, tail) in enumerate(shape):
        payloads = [b"%d" % i * (repeats + uneven * (i % 2)) for i in range(count)]
        batches.append((time, [(head, payload, tail) for payload in payloads]))
    block = encode_block(batches, offset, WIRES[wire])
    assert block.data == b"".join(by_hand(batches, offset, wire))


@pytest.mark.parametrize("name", sorted(CODECS))
def test_our_frames_are_danube_s_with_bytes_that_its_decoders_ignore(name: str) -> None:
    codec = CODECS[name]
    message = sample(name)
    block = encode_block([(7, [codec.encode_parts(message)] * 2)], OFFSET, codec.encode_uint)
    assert scan(block.data, 0, OFFSET, trailer=False).end_offset == OFFSET + 2
    for i in range(2):
        message.msg_id.topic_offset = OFFSET + i
        body = block.data[block.positions[i] + 16 : block.positions[i + 1]]
        assert codec.decode(body) == message  # as a tolerant decoder reads it
        assert codec.decode(body[:-TRAILER_BYTES], strict=True) == message
        assert body[:-TRAILER_BYTES] == codec.encode(message)
        with pytest.raises(DecodeError):
            codec.decode(body, strict=True)


@given(
    st.builds(
        StreamMessage,
        payload=st.binary(max_size=300),
        request_id=st.integers(0, 2**64 - 1),
        msg_id=st.builds(MessageID, st.integers(0, 2**64 - 1), st.text(max_size=20)),
        publish_time=st.integers(0, 2**64 - 1),
        producer_name=st.text(max_size=20),
        subscription_name=st.none() | st.text(max_size=5),
        attributes=st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3),
    ),
    st.integers(0, 2**64 - 2),
    st.sampled_from(sorted(CODECS)),
)
def test_any_message_goes_through_a_frame(message: StreamMessage, offset: int, name: str) -> None:
    codec = CODECS[name]
    block = encode_block([(1, [codec.encode_parts(message)])], offset, codec.encode_uint)
    assert scan(block.data, 0, offset).end_offset == offset + 1
    message.msg_id.topic_offset = offset
    assert codec.decode(block.data[16:-TRAILER_BYTES], strict=True) == message


def test_batch_boundaries_are_where_nothing_is_left() -> None:
    block = framed("batches")
    assert batch_boundaries(block.data, block.positions) == [(2, 1), (3, 2), (5, 3)]
    assert batch_boundaries(block.data, block.positions[:2]) == []
    assert batch_boundaries(block.data, block.positions[1:4]) == [(1, 1), (2, 2)]
    assert [frame_time(block.data, end) for end in block.positions[1:]] == [1, 1, 2, 3, 3]


def test_hints_are_batch_boundaries_and_far_enough_apart() -> None:
    kib = bytes(1024)
    batches = [(time, records(*[kib] * (1 + time % 40))) for time in range(1, 60)]
    block = encode_block(batches, 10, STANDARD)
    starts = {10: 0} | {
        10 + i: block.positions[i] for i, _ in batch_boundaries(block.data, block.positions)
    }
    assert len(block.hints) > 5
    assert block.hints[0] == (10, 0, 1)
    for offset, position, time in block.hints:
        assert starts[offset] == position
        assert frame_time(block.data, block.positions[offset - 10 + 1]) == time
    positions = [position for _, position, _ in block.hints]
    assert all(b - a >= HINT_BYTES for a, b in pairwise(positions))


def test_our_crc_is_the_one_of_zlib() -> None:
    data = bytes(range(256)) * 9
    for size in (0, 1, 15, 16, 17, 2304):
        assert crc32(data[:size]) == zlib.crc32(data[:size])
        assert crc32(data[size:], crc32(data[:size])) == zlib.crc32(data)
