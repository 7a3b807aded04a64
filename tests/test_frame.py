"""Frames: framing, scanning, and what is found again after damage.

The table of runs goes both ways: framed, and compared with frames put together by hand from
`docs/format.md`; scanned whole, piece by piece, cut at every byte, and with bytes behind it.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from functools import partial

import pytest
from golden import CODEC_OF, GOLDEN, OFFSET, sample
from hypothesis import given
from hypothesis import strategies as st

from danube_trio import MessageID, StreamMessage
from danube_trio._core.bincode import DecodeError
from danube_trio._core.codec import CODECS, get_codec
from danube_trio._core.crc import crc32
from danube_trio._core.frame import (
    HINT_BYTES,
    MAX_BODY_BYTES,
    TRAILER_BYTES,
    Batch,
    Block,
    Parts,
    batch_boundaries,
    find_frame,
    frame_time,
    scan,
)
from danube_trio._core.framing import encode_block, pieces
from danube_trio._segment_io import SegmentWalk
from danube_trio.testing import SimDisk

STANDARD = get_codec("s5-standard").encode_uint
LEGACY = get_codec("s1-legacy").encode_uint


def records(*payloads: bytes, head: bytes = b"<head>", tail: bytes = b"<tail>") -> list[Parts]:
    return [(head, payload, tail) for payload in payloads]


def frame(offset: int, message: bytes, left: int = 0, time: int = 0, marker: int = 0xD7) -> bytes:
    """A frame by hand, after docs/format.md."""
    start = struct.pack("<QI", offset, len(message) + 17)
    body = message + struct.pack("<BIQI", marker, left, time, zlib.crc32(start))
    return start + struct.pack("<I", zlib.crc32(body)) + body


def with_body(offset: int, body: bytes) -> bytes:
    """A frame whose CRC is right, whatever its body is."""
    return struct.pack("<QII", offset, len(body), zlib.crc32(body)) + body


# name -> (first offset, batches). Each boundary of the wire's integers is crossed inside a run.
RUNS: dict[str, tuple[int, list[Batch]]] = {
    "one": (0, [(7, records(b"x"), 0)]),
    "empty payload": (0, [(7, records(b""), 0)]),
    "singles": (5, [(7, records(b"a"), 0), (8, records(b"bb"), 0), (8, records(b"ccc"), 0)]),
    "a batch": (0, [(7, records(b"a", b"b", b"c"), 0)]),
    "batches": (
        1,
        [(1, records(b"a", b"b"), 0), (2, records(b"c"), 0), (3, records(b"d", b""), 0)],
    ),
    "goes on": (3, [(9, records(b"a", b"b"), 4)]),
    "offsets of one and three bytes": (248, [(7, records(*[b"x"] * 6), 0)]),
    "offsets of three and five bytes": (65_533, [(7, records(*[b"x"] * 6), 0)]),
    "offsets of five and nine bytes": (2**32 - 3, [(7, records(*[b"x"] * 6), 0)]),
    "the last offsets": (2**64 - 3, [(2**64 - 1, records(b"x", b"y"), 0)]),
    "lengths around 251": (0, [(7, records(*[bytes(n) for n in (249, 250, 251, 252, 250)]), 0)]),
    "lengths around 65536": (250, [(7, records(*[bytes(n) for n in (65_535, 65_536, 0, 3)]), 0)]),
    "heads and tails change": (
        250,
        [
            (7, [*records(b"a"), *records(b"a", head=b""), *records(b"a", tail=b"T")], 0),
            (7, [*records(b"a", head=b"<daeh>"), *records(b"b", tail=b""), *records(b"c")], 0),
        ],
    ),
}
WIRES = {"standard": STANDARD, "legacy": LEGACY}
RUN = pytest.mark.parametrize("run", RUNS)


def framed(run: str, wire: str = "standard") -> Block:
    offset, batches = RUNS[run]
    return encode_block(batches, offset, WIRES[wire])


@pytest.mark.parametrize("wire", WIRES)
@RUN
def test_frames_are_those_of_the_format(run: str, wire: str) -> None:
    offset, batches = RUNS[run]
    encode_uint = WIRES[wire]
    expected: list[bytes] = []
    for time, parts, more in batches:
        for i, (head, payload, tail) in enumerate(parts):
            message = head + encode_uint(offset + len(expected)) + encode_uint(len(payload))
            left = len(parts) - i - 1 + more
            expected.append(frame(offset + len(expected), message + payload + tail, left, time))
    block = framed(run, wire)
    assert block.data == b"".join(expected)
    assert (block.start, block.end) == (offset, offset + len(expected))
    assert [b - a for a, b in zip(block.positions, block.positions[1:], strict=False)] == [
        len(one) for one in expected
    ]
    assert (block.first_time, block.last_time) == (batches[0][0], batches[-1][0])
    assert block.size_bytes == len(block.data)


@RUN
def test_what_was_framed_scans(run: str) -> None:
    block = framed(run)
    found = scan(block.data, 0, block.start)
    assert found.positions == list(block.positions)
    assert (found.end_offset, found.reason, found.need_bytes) == (block.end, None, 16)
    assert found.left == RUNS[run][1][-1][2] - 1
    around = scan(b"before" + block.data, 6, block.start, stop_offset=block.end)
    assert around.positions == [6 + position for position in block.positions]
    assert (around.reason, around.need_bytes) == (None, 0)


@RUN
def test_a_scan_goes_on_where_the_one_before_stopped(run: str) -> None:
    block = framed(run)
    position, offset, left = 0, block.start, -1
    while offset < block.end:
        found = scan(block.data, position, offset, stop_offset=offset + 1, left=left)
        assert (found.end_offset, found.reason, found.need_bytes) == (offset + 1, None, 0)
        position, offset, left = found.positions[-1], found.end_offset, found.left
    assert position == len(block.data)


@pytest.mark.parametrize("run", [run for run in RUNS if "lengths" not in run])
def test_every_cut_leaves_the_whole_frames_and_says_what_is_missing(run: str) -> None:
    block = framed(run)
    for size in range(len(block.data)):
        found = scan(block.data[:size], 0, block.start)
        whole = [position for position in block.positions if position <= size]
        assert found.positions == whole
        assert (found.end_offset, found.reason) == (block.start + len(whole) - 1, None)
        visible = size - whole[-1]
        wanted = block.positions[len(whole)] - whole[-1] if visible >= 16 else 16
        assert found.need_bytes == wanted > visible


@pytest.mark.parametrize("trailer", [True, False])
def test_every_flipped_bit_ends_the_good_frames_where_it_is(trailer: bool) -> None:
    block = framed("batches")
    assert len(block.data) < 300
    for bit in range(len(block.data) * 8):
        damaged = bytearray(block.data)
        damaged[bit // 8] ^= 1 << bit % 8
        found = scan(bytes(damaged), 0, block.start, trailer=trailer)
        hit = sum(position <= bit // 8 for position in block.positions) - 1
        assert found.positions == list(block.positions[: hit + 1]), f"bit {bit}"
        assert found.end_offset == block.start + hit
        assert found.reason is not None or found.need_bytes > len(damaged) - block.positions[hit]


@pytest.mark.parametrize("count", [16, 17, 100, 5000])
def test_zeros_are_said_to_be_zeros_and_never_frames(count: int) -> None:
    for trailer in (True, False):
        found = scan(bytes(count), 0, 0, trailer=trailer)
        assert (found.end_offset, found.zeros) == (0, True)
        assert found.reason == "zeros instead of a frame"
    behind = framed("a batch")
    found = scan(behind.data + bytes(count), 0, 0)
    assert (found.end_offset, found.zeros) == (3, True)


def test_fewer_zeros_than_a_header_are_bytes_that_are_missing() -> None:
    found = scan(bytes(15), 0, 0)
    assert (found.reason, found.zeros, found.need_bytes) == (None, False, 16)


@pytest.mark.parametrize("said", [0, 1, 3, 1 << 40])
def test_an_offset_that_does_not_follow_is_named(said: int) -> None:
    found = scan(framed("a batch").data[:0] + frame(said, b"message"), 0, 2)
    assert found.reason == f"the header says offset {said} where 2 must follow"
    assert (found.end_offset, found.zeros) == (2, False)


def test_a_frame_that_is_doubled_or_missing_is_an_offset_that_does_not_follow() -> None:
    block = framed("singles")
    first, second = block.positions[1], block.positions[2]
    doubled = block.data[:first] + block.data
    missing = block.data[:first] + block.data[second:]
    assert scan(doubled, 0, 5).reason == "the header says offset 5 where 6 must follow"
    assert scan(missing, 0, 5).reason == "the header says offset 7 where 6 must follow"


def test_a_length_that_leaves_no_room_for_a_message_is_refused() -> None:
    for length in range(18):
        bad = with_body(1, bytes(range(1, length + 1)))
        assert scan(bad, 0, 1).reason == f"the length {length} is shorter than any message"
    assert scan(with_body(1, b""), 0, 1, trailer=False).reason is not None
    assert scan(with_body(1, b"x"), 0, 1, trailer=False).reason is None


@pytest.mark.parametrize("length", [MAX_BODY_BYTES + 1, 2**32 - 1])
def test_a_length_above_the_limit_is_refused_from_the_header_alone(length: int) -> None:
    header = struct.pack("<QII", 0, length, 1)
    found = scan(header, 0, 0)
    assert found.reason == f"the length {length} is above the limit of {MAX_BODY_BYTES}"
    assert found.need_bytes == 0
    largest = scan(struct.pack("<QII", 0, MAX_BODY_BYTES, 1), 0, 0)
    assert (largest.reason, largest.need_bytes) == (None, 16 + MAX_BODY_BYTES)


def test_a_length_above_the_limit_makes_nobody_read_or_allocate_so_much() -> None:
    disk = SimDisk()
    disk.write_file("/a", struct.pack("<QII", 0, MAX_BODY_BYTES + 1, 1) + bytes(5000))
    file = disk.open("/a", "r")
    for size in (file.size(), MAX_BODY_BYTES * 4):  # also if the file were as large as it says
        walk = SegmentWalk(file, 0, 0, size=size, chunk_bytes=1000)
        assert list(walk) == []
        assert walk.fault is not None
        assert "above the limit" in walk.fault.reason
    assert max(op.size_bytes for op in disk.operations if op.name == "read") <= 1000


def test_a_body_that_does_not_match_its_crc_is_refused() -> None:
    good = frame(0, b"message")
    bad = good[:20] + b"?" + good[21:]
    assert scan(bad, 0, 0).reason == "the body does not match its CRC"


def test_a_body_without_the_trailer_is_refused_where_there_must_be_one() -> None:
    assert scan(with_body(0, b"m" * 30), 0, 0).reason == "the trailer is missing"
    for marker in (0, 1, 0xD6):
        assert scan(frame(0, b"message", marker=marker), 0, 0).reason == "the trailer is missing"


def test_a_header_that_was_changed_to_fit_is_found_out_by_the_trailer() -> None:
    moved = struct.pack("<Q", 1) + frame(0, b"message")[8:]
    assert scan(moved, 0, 1, trailer=False).reason is None  # all that Danube could see
    reason = "the header does not match the check in the trailer"
    assert scan(moved, 0, 1).reason == reason


@pytest.mark.parametrize(("first", "second"), [(2, 0), (2, 2), (1, 5), (0, 0)])
def test_a_batch_that_is_out_of_step_is_refused(first: int, second: int) -> None:
    data = frame(0, b"message", first) + frame(1, b"message", second)
    found = scan(data, 0, 0)
    if not first:  # the second one begins a batch: anything goes
        assert (found.end_offset, found.reason) == (2, None)
        return
    assert found.end_offset == 1
    assert found.reason == (
        f"the batch is out of step ({second} records to follow, not {first - 1})"
    )
    assert scan(data[len(data) // 2 :], 0, 1, left=first - 1).reason == found.reason


# ---- Danube


@pytest.mark.parametrize("era", CODEC_OF)
def test_danube_s_own_frames_scan_without_a_trailer_and_only_so(era: str) -> None:
    data = GOLDEN[f"frame/{era}"]
    found = scan(data, 0, OFFSET, trailer=False)
    assert (found.end_offset, found.positions) == (OFFSET + 1, [0, len(data)])
    assert scan(data, 0, OFFSET).reason == "the trailer is missing"
    for size in range(len(data)):
        assert scan(data[:size], 0, OFFSET, trailer=False).need_bytes > 0
    for bit in range(len(data) * 8):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        assert scan(bytes(damaged), 0, OFFSET, trailer=False).end_offset == OFFSET


@pytest.mark.parametrize("name", sorted(CODECS))
def test_our_frames_are_danube_s_with_bytes_that_its_decoders_ignore(name: str) -> None:
    codec = CODECS[name]
    message = sample(name)
    block = encode_block([(7, [codec.encode_parts(message)] * 2, 0)], OFFSET, codec.encode_uint)
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
    block = encode_block([(1, [codec.encode_parts(message)], 0)], offset, codec.encode_uint)
    assert scan(block.data, 0, offset).end_offset == offset + 1
    message.msg_id.topic_offset = offset
    assert codec.decode(block.data[16:-TRAILER_BYTES], strict=True) == message


# ---- batches and pieces


def test_batch_boundaries_are_where_nothing_is_left() -> None:
    block = framed("batches")
    assert batch_boundaries(block.data, block.positions) == [(2, 1), (3, 2), (5, 3)]
    assert batch_boundaries(block.data, block.positions[:2]) == []
    assert batch_boundaries(block.data, block.positions[1:4]) == [(1, 1), (2, 2)]
    assert batch_boundaries(framed("goes on").data, framed("goes on").positions) == []
    assert [frame_time(block.data, end) for end in block.positions[1:]] == [1, 1, 2, 3, 3]


def test_hints_are_batch_boundaries_and_far_enough_apart() -> None:
    kib = bytes(1024)
    batches = [(time, records(*[kib] * (1 + time % 40)), 0) for time in range(1, 60)]
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
    assert all(b - a >= HINT_BYTES for a, b in zip(positions, positions[1:], strict=False))
    inside = encode_block([(7, records(kib, kib), 0)], 0, STANDARD, continues=True)
    assert inside.hints == []


@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 40)), min_size=1, max_size=12),
    st.integers(1, 400),
)
def test_pieces_hold_the_batches_in_order_and_frame_to_the_same_bytes(
    shape: list[tuple[int, int]], limit: int
) -> None:
    """`shape`: records and payload size of each batch."""
    batches: list[tuple[int, Sequence[Parts], int]] = []
    for time, (count, size) in enumerate(shape):
        parts = [(b"h", bytes([time]) * size, b"t%d" % i) for i in range(count)]
        batches.append((time, parts, sum(map(len, (b"".join(p) for p in parts)))))
    cut = list(pieces(batches, limit))
    whole = encode_block([(time, parts, 0) for time, parts, _ in batches], 0, STANDARD)
    data: list[bytes] = []
    offset, inside = 0, False
    for piece in cut:
        assert all(parts for _, parts, _ in piece)
        assert all(not left for _, _, left in piece[:-1])
        goes_on = piece[-1][2] > 0
        if goes_on or inside:
            assert len(piece) == 1  # a part of a large batch travels alone
        elif len(piece) > 1:
            assert sum(batches[time][2] for time, _, _ in piece) <= limit
        block = encode_block(piece, offset, STANDARD, continues=inside)
        data.append(block.data)
        offset, inside = block.end, goes_on
    assert not inside
    assert b"".join(data) == whole.data


# ---- finding frames after damage


def test_the_next_frame_after_damage_is_found_at_every_distance() -> None:
    block = framed("singles")
    find = partial(find_frame, lowest=5, highest=8)
    for position in range(len(block.data)):
        index = next((i for i, at in enumerate(block.positions[:-1]) if at >= position), None)
        expected = None if index is None else (block.positions[index], 5 + index)
        assert find(block.data, position) == expected
        if position:
            assert find(b"\xff" * position + block.data[position:], 0) == expected


def test_only_a_whole_and_valid_frame_with_an_offset_in_the_range_is_found() -> None:
    block = framed("singles")
    assert find_frame(block.data, 0, 6, 8) == (block.positions[1], 6)
    assert find_frame(block.data, 0, 8, 100) is None
    assert find_frame(block.data, 0, 0, 5) is None
    assert find_frame(block.data, 0, 7, 7) is None
    assert find_frame(block.data[:-1], 0, 7, 8) is None
    assert find_frame(bytes(1000), 0, 0, 10) is None
    assert find_frame(b"", 0, 0, 10) is None
    golden = GOLDEN["frame/v0.12.0"]
    assert find_frame(b"\0" * 9 + golden, 0, 1, 10**6) is None
    assert find_frame(b"\0" * 9 + golden, 0, 1, 10**6, trailer=False) == (9, OFFSET)


def test_the_first_of_two_is_found_when_the_upper_half_of_the_offset_changes() -> None:
    block = framed("offsets of five and nine bytes")
    for index, position in enumerate(block.positions[:-1]):
        found = find_frame(block.data, position, block.start, block.end)
        assert found == (position, block.start + index)
    assert find_frame(block.data, 1, 0, 1 << 40) is not None


@given(st.binary(max_size=60), st.integers(0, 2**64 - 20), st.binary(max_size=30))
def test_a_frame_is_found_behind_any_garbage(before: bytes, offset: int, after: bytes) -> None:
    block = encode_block([(1, records(b"one"), 0)], offset, STANDARD)
    found = find_frame(before + block.data + after, 0, max(0, offset - 5), offset + 5)
    assert found == (len(before), offset)


def test_our_crc_is_the_one_of_zlib() -> None:
    data = bytes(range(256)) * 9
    for size in (0, 1, 15, 16, 17, 2304):
        assert crc32(data[:size]) == zlib.crc32(data[:size])
        assert crc32(data[size:], crc32(data[:size])) == zlib.crc32(data)
