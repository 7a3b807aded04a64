"""Danube's own checkpoint file, as tables that are run both ways."""

from __future__ import annotations

import json
from typing import Any

import attrs
import pytest
from golden import GOLDEN
from hypothesis import given
from hypothesis import strategies as st

from danube_trio._core.bincode import DecodeError
from danube_trio._core.danube_ckpt import (
    CHECKPOINT_LAYOUTS,
    DanubeCheckpoint,
    RotatedFile,
    decode_checkpoint,
    encode_checkpoint,
)

FOLDER = "/wal/default/orders"
SMALL = DanubeCheckpoint(last_offset=70000, file_seq=2, file_path=f"{FOLDER}/wal.2.log")
FULL = attrs.evolve(
    SMALL,
    rotated_files=[(0, f"{FOLDER}/wal.log", 0), (1, f"{FOLDER}/wal.1.log", 300)],
    active_file_name="wal.2.log",
    active_file_first_offset=65536,
)
WITHOUT_OFFSETS = attrs.evolve(
    FULL,
    rotated_files=[(seq, path) for seq, path, _ in FULL.rotated_files],
    active_file_first_offset=None,
)
SEED = b'{"last_offset":2,"file_seq":0,"file_path":"/var/wal/a/wal.log"}'


def u64(value: int) -> bytes:
    return value.to_bytes(8, "little")


def text(value: str) -> bytes:
    return u64(len(value)) + value.encode()


C1 = u64(70000) + u64(2) + text(f"{FOLDER}/wal.2.log")
C2 = (
    C1
    + (u64(2) + u64(0) + text(f"{FOLDER}/wal.log") + u64(1) + text(f"{FOLDER}/wal.1.log"))
    + (b"\1" + text("wal.2.log") + b"\0")
)
# C1 to C3 are by the rules of the format; the others were written by Danube's own crates or code.
CASES = [
    ("C0", SMALL, GOLDEN["ckpt/C0"]),
    ("C0", DanubeCheckpoint(0, 2, 0, "/var/wal/a/wal.log"), SEED),
    ("C1", SMALL, C1),
    ("C2", WITHOUT_OFFSETS, C2),
    ("C3", attrs.evolve(WITHOUT_OFFSETS, start_offset=5), u64(5) + C2),
    ("C4", FULL, GOLDEN["ckpt/C4"]),
    ("C5", FULL, GOLDEN["ckpt/C5"]),
]
cases = pytest.mark.parametrize(("layout", "checkpoint", "data"), CASES)

U64 = st.integers(0, 2**64 - 1) | st.sampled_from([250, 251, 65535, 65536, 2**32 - 1, 2**32])


@st.composite
def checkpoints(draw: st.DrawFn, layout: str) -> DanubeCheckpoint:
    known = int(layout[1])
    small = DanubeCheckpoint(0, draw(U64), draw(U64), draw(st.text()))
    if known < 2:
        return small
    first_offset = U64 if known >= 4 else st.none()
    return attrs.evolve(
        small,
        start_offset=draw(U64) if known >= 3 else 0,
        rotated_files=draw(st.lists(st.tuples(U64, st.text(), first_offset), max_size=4)),
        active_file_name=draw(st.none() | st.text()),
        last_rotation_at=draw(st.none() | U64),
        active_file_first_offset=draw(st.none() | U64) if known >= 4 else None,
    )


def test_every_vector_and_every_layout_has_a_test() -> None:
    data = [data for _, _, data in CASES]
    assert all(vector in data for name, vector in GOLDEN.items() if name.startswith("ckpt/"))
    assert sorted({layout for layout, _, _ in CASES}) == sorted(CHECKPOINT_LAYOUTS)


@cases
def test_a_checkpoint_is_the_bytes_both_ways(
    layout: str, checkpoint: DanubeCheckpoint, data: bytes
) -> None:
    assert decode_checkpoint(data, layout, strict=True) == checkpoint
    assert decode_checkpoint(data, layout) == checkpoint
    assert encode_checkpoint(checkpoint, layout) == data


@cases
def test_a_checkpoint_cut_at_any_byte_is_refused(
    layout: str, checkpoint: DanubeCheckpoint, data: bytes
) -> None:
    for size in range(len(data)):
        with pytest.raises(DecodeError) as caught:
            decode_checkpoint(data[:size], layout)
        assert caught.value.position <= size


@cases
def test_bytes_after_the_checkpoint_are_refused_by_strict_decoding(
    layout: str, checkpoint: DanubeCheckpoint, data: bytes
) -> None:
    with pytest.raises(DecodeError) as caught:
        decode_checkpoint(data + b"\0", layout, strict=True)
    assert caught.value.position == len(data)
    if layout != "C0":  # what follows JSON was never tolerated
        assert decode_checkpoint(data + b"\0", layout) == checkpoint


@cases
def test_a_checkpoint_with_any_byte_changed_is_refused_or_means_exactly_itself(
    layout: str, checkpoint: DanubeCheckpoint, data: bytes
) -> None:
    for position in range(len(data)):
        for flip in (1, 2, 4, 8, 16, 32, 64, 128, 255):
            changed = bytearray(data)
            changed[position] ^= flip
            try:
                decoded = decode_checkpoint(bytes(changed), layout, strict=True)
            except DecodeError:
                continue
            if layout != "C0":  # JSON has many spellings
                assert decoded != checkpoint
                assert encode_checkpoint(decoded, layout) == changed


@pytest.mark.parametrize("layout", CHECKPOINT_LAYOUTS)
@given(data=st.data())
def test_any_checkpoint_survives(layout: str, data: st.DataObject) -> None:
    checkpoint = data.draw(checkpoints(layout))
    encoded = encode_checkpoint(checkpoint, layout)
    assert decode_checkpoint(encoded, layout, strict=True) == checkpoint


@pytest.mark.parametrize("layout", CHECKPOINT_LAYOUTS)
@given(data=st.binary(max_size=120))
def test_any_bytes_are_refused_or_a_checkpoint(layout: str, data: bytes) -> None:
    try:
        decoded = decode_checkpoint(data, layout)
    except DecodeError:
        return
    assert decode_checkpoint(encode_checkpoint(decoded, layout), layout) == decoded


def test_strict_decoding_tells_the_layouts_apart() -> None:
    for written, _, data in CASES:
        for layout in CHECKPOINT_LAYOUTS:
            if layout != written:
                with pytest.raises(DecodeError):
                    decode_checkpoint(data, layout, strict=True)


@pytest.mark.parametrize(
    ("data", "position", "reason"),
    [
        (b"", 0, "the JSON is not valid: Expecting value"),
        (b"[]", 0, "the JSON is not an object"),
        (b"7", 0, "the JSON is not an object"),
        (b"{}", 0, "last_offset is missing"),
        (b'{"last_offset":2,"file_seq":0}', 0, "file_path is missing"),
        (SEED.replace(b"2", b"2.0", 1), 0, "last_offset must be an int, not 2.0"),
        (SEED.replace(b"2", b"true", 1), 0, "last_offset must be an int, not True"),
        (SEED.replace(b"2", b'"2"', 1), 0, "last_offset must be an int, not '2'"),
        (SEED.replace(b":0", b":-1"), 0, "file_seq must be between 0 and"),
        (SEED.replace(b"2", b"18446744073709551616", 1), 0, "last_offset must be between 0 and"),
        (SEED.replace(b"2", b"9" * 5000, 1), 0, "the JSON is not a checkpoint: a number has 5000"),
        (SEED.replace(b'"/var', b'["/var').replace(b"}", b"]}"), 0, "file_path must be a str"),
        (SEED.replace(b"/var", rb"\ud800"), 0, "the JSON is not a checkpoint: a text has a lone"),
        (SEED.replace(b"/var", b"\xff"), 43, "the JSON is not UTF-8: invalid start byte"),
        (SEED.replace(b"/var", "/ü".encode()) + b"x", 62, "the JSON is not valid: Extra data"),
        (b'{"file_seq":1,' + SEED[1:], 0, "the JSON is not a checkpoint: the key 'file_seq' is"),
        (b'{"more":' + b"[" * 100_000, 0, "the JSON is not a checkpoint: its brackets"),
    ],
)
def test_a_seed_checkpoint_that_is_none_is_refused_with_the_reason(
    data: bytes, position: int, reason: str
) -> None:
    with pytest.raises(DecodeError) as caught:
        decode_checkpoint(data, "C0")
    assert caught.value.reason.startswith(reason)
    assert caught.value.position == position


def test_a_key_that_is_not_known_is_refused_by_strict_decoding_only() -> None:
    data = json.dumps({"more": {"file_seq": [1]}, **json.loads(SEED)}).encode()
    assert decode_checkpoint(data, "C0") == decode_checkpoint(SEED, "C0")
    with pytest.raises(DecodeError, match="the key 'more' is unknown"):
        decode_checkpoint(data, "C0", strict=True)


def test_a_count_beyond_the_file_is_refused_before_anything_is_read() -> None:
    data = GOLDEN["ckpt/C5"].replace(b"\2\0\x1b", b"\xfd" + b"\xff" * 8 + b"\0\x1b")
    with pytest.raises(DecodeError, match=f"rotated_files claims {2**64 - 1} items"):
        decode_checkpoint(data, "C5")


BAD_FIELDS: list[tuple[str, dict[str, Any], type[Exception], str]] = [
    ("C0", {"start_offset": 1}, ValueError, "start_offset is 1, but this .* no such field"),
    ("C2", {"start_offset": 1}, ValueError, "start_offset is 1, but this .* no such field"),
    ("C1", {"rotated_files": [(0, "a")]}, ValueError, r"rotated_files is \(RotatedFile"),
    ("C1", {"active_file_name": ""}, ValueError, "active_file_name is '', but this"),
    ("C3", {"active_file_first_offset": 0}, ValueError, "active_file_first_offset is 0, but"),
    ("C3", {"rotated_files": [(0, "a", 0)]}, ValueError, r"files\[0\].first_offset is 0, but"),
    ("C5", {"rotated_files": [(0, "a")]}, TypeError, r"files\[0\].first_offset must be an int"),
    ("C5", {"rotated_files": [(True, "a", 0)]}, TypeError, r"files\[0\].seq must be an int"),
    ("C5", {"rotated_files": [(0, b"a", 0)]}, TypeError, r"rotated_files\[0\].path must be a str"),
    ("C5", {"last_rotation_at": -1}, ValueError, "last_rotation_at must be between"),
    ("C0", {"last_offset": 2**64}, ValueError, "last_offset must be between"),
    ("C0", {"file_seq": None}, TypeError, "file_seq must be an int, not None"),
    ("C0", {"file_path": "\udcff"}, ValueError, "file_path must be text that UTF-8 can carry"),
    ("C4", {"file_path": b"wal.log"}, TypeError, "file_path must be a str"),
]


@pytest.mark.parametrize(("layout", "fields", "error", "reason"), BAD_FIELDS)
def test_a_field_that_cannot_be_encoded_is_named_with_its_value(
    layout: str, fields: dict[str, Any], error: type[Exception], reason: str
) -> None:
    with pytest.raises(error, match=reason):
        encode_checkpoint(DanubeCheckpoint(**fields), layout)


def test_an_unknown_layout_is_named() -> None:
    for call in (
        lambda: encode_checkpoint(FULL, "C6"),
        lambda: decode_checkpoint(b"", "C6"),
    ):
        with pytest.raises(ValueError, match=r"checkpoint layout 'C6' is unknown: .* C0, .*C5"):
            call()


def test_rotated_files_are_named_tuples() -> None:
    assert FULL.rotated_files[1] == RotatedFile(1, f"{FOLDER}/wal.1.log", 300)
    assert FULL.rotated_files[1].first_offset == 300
