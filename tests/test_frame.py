"""Scanning: what is a frame, what is none and why, and what is found again after damage.

Each run of the table is scanned whole, piece by piece, cut at every byte, and with bytes around it.
"""

from __future__ import annotations

import struct
from functools import partial

import pytest
from frames import RUN, RUNS, STANDARD, frame, framed, records, with_body
from golden import CODEC_OF, GOLDEN, OFFSET
from hypothesis import given
from hypothesis import strategies as st

from danube_trio._core.frame import MAX_BODY_BYTES, find_frame, scan
from danube_trio._core.framing import encode_block
from danube_trio._engine.files.segments import SegmentWalk
from danube_trio.testing import SimDisk


@RUN
def test_what_was_framed_scans(run: str) -> None:
    block = framed(run)
    found = scan(block.data, 0, block.start)
    assert found.positions == list(block.positions)
    assert (found.end_offset, found.reason, found.need_bytes) == (block.end, None, 16)
    assert found.left == -1
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
    found = scan(frame(said, b"message"), 0, 2)
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


def test_a_walk_reads_again_when_the_end_was_cut_and_grew_between_its_read_and_its_look() -> None:
    """As a follower sees it while one writer closes and the next one preallocates."""
    disk = SimDisk()
    block = framed("singles")
    disk.write_file("/a", block.data + bytes(5000))
    file = disk.open("/a", "r")
    disk.fail("read", error=None, short=len(block.data))
    walk = SegmentWalk(file, 0, block.start, size=file.size(), stop_offset=block.end)
    assert sum(len(stretch.scan.positions) - 1 for stretch in walk) == block.end - block.start
    assert (walk.offset, walk.fault) == (block.end, None)

    disk.fail("read", error=None, short=len(block.data), sticky=True)
    walk = SegmentWalk(file, 0, block.start, size=file.size(), stop_offset=block.end)
    with pytest.raises(OSError, match="gave less than"):
        list(walk)


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
    block = encode_block([(1, records(b"one"))], offset, STANDARD)
    found = find_frame(before + block.data + after, 0, max(0, offset - 5), offset + 5)
    assert found == (len(before), offset)
