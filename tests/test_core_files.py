"""The small files: documents and the slots of the mark, damaged in every way."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from danube_trio._core.crc import crc32
from danube_trio._core.documents import NewerFormatError
from danube_trio._core.files import (
    MARK_BYTES,
    MARK_FILE_BYTES,
    Checkpoint,
    Mark,
    Meta,
    Trim,
    decode_document,
    decode_marks,
    encode_document,
    mark_position,
)
from danube_trio._core.segment import Segment

U64 = st.integers(0, 2**64 - 1)
DOCUMENTS = [
    Meta("0123456789abcdef" * 2, "s5-standard"),
    Meta("", "s1-legacy", ((0, 0), (3, 70))),
    Trim(0),
    Trim(2**64 - 1),
    Checkpoint(0, ()),
    Checkpoint.of(25, [Segment(0, 10, 500, 7, 8), Segment(10, 25, 600)]),
]


def document(text: str) -> bytes:
    """A line with its CRC, whatever is in it."""
    line = text.encode() + b"\n"
    return line + b"crc32 %08x\n" % crc32(line)


@pytest.mark.parametrize("value", DOCUMENTS, ids=str)
def test_a_document_comes_back(value: object) -> None:
    data = encode_document(value)
    assert decode_document(data, type(value)) == value
    first, second, rest = data.split(b"\n")
    fields = json.loads(first)
    assert list(fields) == sorted(fields)
    assert (second, rest) == (b"crc32 %08x" % crc32(first + b"\n"), b"")


@pytest.mark.parametrize("value", DOCUMENTS, ids=str)
def test_a_document_that_is_damaged_anywhere_is_refused(value: object) -> None:
    data = encode_document(value)
    damaged = [data[:size] for size in range(len(data))] + [data + b"\n", data + b"x", data * 2]
    for bit in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        damaged.append(bytes(flipped))
    for one in damaged:
        with pytest.raises(ValueError, match="does not match its CRC"):
            decode_document(one, type(value))


def test_a_document_of_another_kind_names_the_field() -> None:
    with pytest.raises(ValueError, match="start_offset"):
        decode_document(encode_document(Checkpoint(0, ())), Trim)
    with pytest.raises(ValueError, match="next_offset"):
        decode_document(document('{"next_offset": "many", "segments": []}'), Checkpoint)
    with pytest.raises(ValueError, match="segments"):
        decode_document(document('{"next_offset": 1, "segments": [[1, 2]]}'), Checkpoint)


@pytest.mark.parametrize("newer", [{"format": 2}, {"trailer": 2}, {"format": 9, "more": True}])
def test_a_newer_format_is_said_to_be_newer(newer: dict[str, object]) -> None:
    fields = {"codec": "s6", "directory_id": "x", "epochs": 7, "format": 1, "trailer": 1, **newer}
    with pytest.raises(NewerFormatError, match=r"are newer than this version knows \(1, 1\)"):
        decode_document(document(json.dumps(fields)), Meta)


def test_a_field_that_a_later_version_added_is_ignored() -> None:
    text = '{"codec": "c", "directory_id": "x", "epochs": [], "format": 1, "trailer": 1, "k": 1}'
    assert decode_document(document(text), Meta) == Meta("x", "c", ())


def test_a_checkpoint_is_found_by_base() -> None:
    segments = [Segment(0, 10, 500, 7, 8), Segment(10, 25, 600)]
    assert Checkpoint.of(25, segments).by_base() == {0: segments[0], 10: segments[1]}


# ---- the mark

DIRECTORY = 0xABCD


def mark_file(*marks: Mark, directory: int = DIRECTORY) -> bytes:
    data = bytearray(MARK_FILE_BYTES)
    for mark in marks:
        at = mark_position(mark.sequence)
        data[at : at + MARK_BYTES] = mark.encode(directory)
    return bytes(data)


@given(U64, U64, U64, U64)
def test_a_mark_comes_back(sequence: int, end: int, base: int, position: int) -> None:
    mark = Mark(sequence, end, base, position)
    assert len(mark.encode(DIRECTORY)) == MARK_BYTES == 40
    assert decode_marks(mark_file(mark), DIRECTORY) == mark


def test_the_two_slots_are_a_sector_apart_and_taken_in_turn() -> None:
    assert [mark_position(sequence) for sequence in range(4)] == [0, 512, 0, 512]


def test_the_valid_slot_with_the_higher_number_counts() -> None:
    old, new = Mark(6, 10, 0, 100), Mark(7, 12, 0, 120)
    assert decode_marks(mark_file(old, new), DIRECTORY) == new
    assert decode_marks(mark_file(Mark(8, 14, 0, 140), new), DIRECTORY) == Mark(8, 14, 0, 140)
    assert decode_marks(mark_file(new), DIRECTORY) == new


@pytest.mark.parametrize("sequence", [6, 7])
def test_a_slot_that_is_damaged_or_torn_anywhere_leaves_the_other(sequence: int) -> None:
    marks = {6: Mark(6, 10, 0, 100), 7: Mark(7, 12, 0, 120)}
    data = mark_file(*marks.values())
    at = mark_position(sequence)
    other = marks[13 - sequence]
    for bit in range(at * 8, (at + MARK_BYTES) * 8):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        assert decode_marks(bytes(damaged), DIRECTORY) == other
    following = Mark(sequence + 2, 14, 0, 140).encode(DIRECTORY)
    for done in range(MARK_BYTES + 1):
        torn = data[:at] + following[:done] + data[at + done :]
        found = decode_marks(torn, DIRECTORY)
        assert found in (*marks.values(), Mark(sequence + 2, 14, 0, 140))
        assert found is not None


def test_no_mark_is_found_where_there_is_none() -> None:
    for data in (b"", bytes(39), bytes(MARK_FILE_BYTES), b"\xff" * MARK_FILE_BYTES):
        assert decode_marks(data, DIRECTORY) is None
    data = mark_file(Mark(6, 10, 0, 100))
    assert decode_marks(data[: MARK_BYTES - 1], DIRECTORY) is None
    assert decode_marks(data[:MARK_BYTES], DIRECTORY) == Mark(6, 10, 0, 100)


def test_the_mark_of_another_log_is_ignored() -> None:
    assert decode_marks(mark_file(Mark(6, 10, 0, 100), directory=1), DIRECTORY) is None
    mixed = mark_file(Mark(6, 10, 0, 100))[:512] + mark_file(Mark(7, 9, 0, 1), directory=1)[512:]
    assert decode_marks(mixed, DIRECTORY) == Mark(6, 10, 0, 100)
