"""Verification finds every damage, says where it is, and takes nothing else for damage."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any, cast

import attrs
import pytest
from past import Past

from danube_trio import StreamMessage, UnsupportedFormatError, WalConfig, open_wal
from danube_trio._core.codec import CODECS
from danube_trio._core.crc import crc32
from danube_trio._core.files import (
    MARK_BYTES,
    Checkpoint,
    Mark,
    Meta,
    Trim,
    decode_document,
    decode_trim_copies,
    encode_document,
)
from danube_trio._core.frame import HINT_BYTES
from danube_trio._core.framing import encode_block
from danube_trio._core.index import SparseIndex
from danube_trio._core.segment import LogNames
from danube_trio._engine.care.verify import Verification
from danube_trio._engine.care.verify_segment import MOST_PER_SEGMENT, Finding, Preview, preview
from danube_trio._engine.files.directory import look
from danube_trio.testing import SimDisk

DIR = "/log"
NAMES = LogNames.of(DIR, "wal.log")
CONFIG = WalConfig(dir=DIR, segment_bytes=1500, preallocate_bytes=0)
# Which bits are flipped: 1 is every one. The default reaches each bit of a byte.
STEP = int(os.environ.get("DANUBE_FLIP_STEP", "37"))
RECORDS = 60

Files = dict[str, bytes]


def payload(offset: int) -> bytes:
    return b"record %d " % offset * (1 + offset % 4)


async def small_log(config: WalConfig = CONFIG, records: int = RECORDS) -> Files:
    """A log of several segments with batches, closed in order; its files."""
    disk = SimDisk()
    async with open_wal(config, disk=disk) as wal:
        while (start := wal.next_offset) < records:
            end = min(records, start + 1 + start % 4)
            await wal.append_batch([payload(offset) for offset in range(start, end)])
    return disk.tree()


def disk_with(files: Files) -> SimDisk:
    disk = SimDisk()
    for path, data in files.items():
        disk.write_file(path, data)
    return disk


def check(files: Files, *, live: bool = False) -> list[Finding]:
    return list(Verification(disk_with(files), NAMES, live=live))


def problems(files: Files, *, live: bool = False) -> list[Finding]:
    return [finding for finding in check(files, live=live) if finding.severity == "problem"]


def segments(files: Files) -> list[str]:
    return sorted(path for path in files if path.endswith(".log"))


def flipped(data: bytes, bit: int) -> bytes:
    damaged = bytearray(data)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


def with_mark(files: Files, end: int, base: int, position: int) -> Files:
    meta = decode_document(files[NAMES.meta], Meta)
    mark = Mark(99, end, base, position).encode(crc32(meta.directory_id.encode()))
    return {**files, NAMES.mark: bytes(512) + mark}


# ---- logs without damage


async def test_a_clean_log_has_no_findings() -> None:
    files = await small_log()
    assert len(segments(files)) > 3
    for live in (False, True):
        done: list[int] = []
        expected: list[int] = []
        verification = Verification(
            disk_with(files), NAMES, live=live, progress=done.append, expect=expected.append
        )
        assert list(verification) == []
        assert verification.records == verification.end_offset == RECORDS
        assert verification.segments == len(segments(files))
        assert expected == [sum(done)] == [verification.total_bytes]


@pytest.mark.parametrize("codec", sorted(CODECS))
async def test_every_codec_is_decoded_strictly(codec: str) -> None:
    assert check(await small_log(attrs.evolve(CONFIG, codec=codec))) == []


async def test_frames_larger_than_a_chunk_and_long_indexes_are_checked() -> None:
    disk = SimDisk()
    config = WalConfig(dir=DIR, segment_bytes=6 << 20)
    async with open_wal(config, disk=disk) as wal:
        await wal.append(bytes(3 << 20))
        await wal.append_batch([bytes(10)] * 30_000)
        for _ in range(30):
            await wal.append_batch([b"x" * 1000] * 100)
    index = SparseIndex.decode(disk.read_file(NAMES.index(0)), 0)
    assert index is not None
    assert len(index) > 1
    assert list(Verification(disk, NAMES)) == []


async def test_a_live_log_is_clean_whenever_it_is_looked_at() -> None:
    disk = SimDisk()
    record: list[Files] = []
    config = WalConfig(dir=DIR, segment_bytes=300, preallocate_bytes=512)
    async with open_wal(config, disk=disk) as wal:
        disk.on_operation = lambda operation: record.append(disk.tree())
        for round_ in range(8):
            await wal.append_batch([payload(round_), payload(round_)])
            await wal.append(payload(round_), durability="written")
            await wal.trim(max(0, wal.next_offset - 6))
    for steps in ((1,), (0, 1), (2, 0, 5)):
        for begin in range(len(record)):
            past = cast("Any", Past(record, begin, steps))
            found = list(Verification(past, NAMES, live=True))
            assert not [finding for finding in found if finding.severity != "note"]


async def test_what_is_above_the_mark_is_not_looked_at_while_the_log_is_live() -> None:
    files = await small_log()
    last = segments(files)[-1]
    assert check({**files, last: files[last] + b"being written"}, live=True) == []


async def test_nothing_is_changed() -> None:
    files = await small_log()
    first = segments(files)[0]
    disk = disk_with({**files, first: flipped(files[first], 300), f"{DIR}/wal.meta.tmp": b"x"})
    before, number = disk.tree(), disk.op_count
    assert list(Verification(disk, NAMES))
    assert disk.tree() == before
    assert disk.open_paths == []
    harmless = {"open", "close", "list_dir", "read", "size", "file_size"}
    assert {operation.name for operation in disk.operations[number:]} <= harmless


# ---- damage


@pytest.mark.parametrize("live", [False, True])
async def test_every_flipped_bit_is_found_or_harmless(live: bool) -> None:
    files = await small_log()
    for path, data in files.items():
        for bit in range(0, len(data) * 8, STEP):
            found = check({**files, path: flipped(data, bit)}, live=live)
            severities = {finding.severity for finding in found}
            where = f"bit {bit} of {path}"
            if path.endswith((".log", ".meta")):
                assert "problem" in severities, where
                assert all(f.path == path for f in found if f.severity == "problem"), where
            elif path == NAMES.mark:
                in_a_slot = bit // 8 < MARK_BYTES or bit // 8 >= 512
                assert severities == ({"warning"} if in_a_slot else set()), where
            elif path.endswith((".ckpt", ".idx", ".trim")):
                assert severities == {"warning"}, where
                assert {finding.path for finding in found} == {path}
            else:
                assert path == NAMES.lock
                assert found == []


@pytest.mark.parametrize("live", [False, True])
async def test_every_cut_is_found_or_harmless(live: bool) -> None:
    files = await small_log()
    for path, data in files.items():
        for size in range(0, len(data), 1 if len(data) < 400 else 5):
            found = check({**files, path: data[:size]}, live=live)
            severities = {finding.severity for finding in found}
            harmless = path == NAMES.trim and any(
                isinstance(copy, Trim) for copy in decode_trim_copies(data[:size])
            )
            if path.endswith((".log", ".meta", ".trim")) and not harmless:
                assert "problem" in severities, f"{path} cut to {size}"
            else:
                assert "problem" not in severities, f"{path} cut to {size}"


async def test_the_finding_says_where_it_is_and_the_check_goes_on() -> None:
    files = await small_log()
    first, second = segments(files)[:2]
    found = problems(
        {
            **files,
            first: flipped(flipped(files[first], 8 * 30), 8 * 600),
            second: flipped(files[second], 8 * 50),
        }
    )
    assert [finding.path for finding in found] == [first, first, second]
    assert (found[0].position, found[0].offset) == (0, 0)
    assert found[0].reason == "the body does not match its CRC (readable behind it: offset 1 on)"
    assert str(found[0]) == f"{first}: {found[0].reason} at byte 0, offset 0"
    assert found[1].position is not None
    assert found[1].position <= 600


Damage = Callable[[Files], Files]


def without(path: str) -> Damage:
    return lambda files: {name: data for name, data in files.items() if name != path}


def swapped(files: Files) -> Files:
    first, second = segments(files)[:2]
    return {**files, first: files[second], second: files[first]}


def doubled(files: Files) -> Files:
    first = segments(files)[0]
    return {**files, first: files[first] * 2}


def without_the_second_segment(files: Files) -> Files:
    return without(segments(files)[1])(without(NAMES.checkpoint)(files))


def zeros_in_the_middle(files: Files) -> Files:
    first = segments(files)[0]
    return {**files, first: files[first][:400] + bytes(200) + files[first][600:]}


def zeros_to_the_end(files: Files) -> Files:
    first = segments(files)[0]
    return {**files, first: files[first][:400] + bytes(len(files[first]) - 400)}


def empty_at_the_end(files: Files) -> Files:
    last = segments(files)[-1]
    return {**files, last: b""}


def another_codec(files: Files) -> Files:
    meta = decode_document(files[NAMES.meta], Meta)
    return {**files, NAMES.meta: encode_document(attrs.evolve(meta, codec="s1-legacy"))}


def mark_beyond_its_segment(files: Files) -> Files:
    return with_mark(files, RECORDS, 0, len(files[segments(files)[0]]))


def mark_beyond_the_end(files: Files) -> Files:
    last = segments(files)[-1]
    return with_mark(files, RECORDS + 1, int(last.split(".")[1]), len(files[last]) + 50)


def mark_beside_a_frame(files: Files) -> Files:
    last = segments(files)[-1]
    return with_mark(files, RECORDS, int(last.split(".")[1]), len(files[last]) - 1)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (without(NAMES.segment(0)), "the segment is missing"),
        (without(NAMES.meta), "the file is missing although there are segments"),
        (without_the_second_segment, "the segment ends at offset .*, but the next one begins at"),
        (swapped, "the header says offset"),
        (doubled, "the header says offset 0 where"),
        (zeros_in_the_middle, r"readable behind it: offset"),
        (zeros_to_the_end, "the segment ends at offset"),
        (empty_at_the_end, "the file has 0 bytes; the durability mark is at byte"),
        (another_codec, "the message is not what s1-legacy says"),
        (mark_beyond_its_segment, "the durability mark says that the segment goes on to 60"),
        (mark_beyond_the_end, "the file has .* bytes; the durability mark is at byte"),
        (mark_beside_a_frame, "the records end at offset 59"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
async def test_what_does_not_fit_together_is_a_problem(damage: Damage, reason: str) -> None:
    files = damage(await small_log())
    for live in (False, True):
        if damage is mark_beyond_its_segment and live:
            continue  # then the segments after it are taken for newer ones
        found = problems(files, live=live)
        assert any(re.search(reason, finding.reason) for finding in found), found


async def test_a_segment_that_the_checkpoint_lists_is_missed() -> None:
    files = await small_log()
    second = segments(files)[1]
    found = problems(without(second)(files))
    assert [f.reason for f in found if f.path == second] == ["the segment is missing"]


async def test_a_wrong_codec_does_not_fill_the_screen() -> None:
    files = another_codec(await small_log(WalConfig(dir=DIR), records=1000))
    found = problems(files)
    assert len(found) == MOST_PER_SEGMENT
    assert "no more are listed" in found[-1].reason


# ---- indexes and hints


def lying_index(files: Files, **changes: Any) -> Files:
    """The first segment's index, changed, with a CRC that fits."""
    index = SparseIndex.decode(files[NAMES.index(0)], 0)
    assert index is not None
    for name, value in changes.items():
        setattr(index, name, value)
    return {**files, NAMES.index(0): index.encode()}


async def test_an_index_that_lies_is_a_problem() -> None:
    config = WalConfig(dir=DIR, segment_bytes=3 * HINT_BYTES, preallocate_bytes=0)
    files = await small_log(config, 9000)
    honest = SparseIndex.decode(files[NAMES.index(0)], 0)
    assert honest is not None
    assert len(honest) == 3
    assert check(files) == []
    for name in ("offsets", "positions", "times"):
        column = getattr(honest, name)[:]
        column[1] += 1
        (found,) = check(lying_index(files, **{name: column}))
        assert (found.severity, found.path) == ("problem", NAMES.index(0))
        assert "an entry points at" in found.reason
    column = honest.offsets[:]
    column[2] = honest.end + 5
    assert [f.path for f in problems(lying_index(files, offsets=column))] == [NAMES.index(0)]
    (found,) = check(lying_index(files, last_time=5))
    assert "time of the last record" in found.reason


async def test_hints_that_are_of_no_use_are_warnings_or_notes() -> None:
    files = await small_log()
    (found,) = check(lying_index(files, size_bytes=5))
    assert (found.severity, found.path) == ("warning", NAMES.index(0))
    (found,) = check(without(NAMES.index(0))(files))
    assert (found.severity, found.path) == ("note", NAMES.index(0))
    assert check(without(NAMES.index(0))(files), live=True) == []
    assert check(without(NAMES.checkpoint)(files)) == []
    checkpoint = decode_document(files[NAMES.checkpoint], Checkpoint)
    rows = ((*checkpoint.segments[0][:3], 1, 2), *checkpoint.segments[1:])
    wrong = encode_document(Checkpoint(checkpoint.next_offset, rows))
    (found,) = check({**files, NAMES.checkpoint: wrong})
    assert (found.severity, found.path) == ("warning", NAMES.checkpoint)


async def test_a_log_without_a_mark_is_a_warning() -> None:
    files = without(NAMES.mark)(await small_log())
    (found,) = check(files)
    assert (found.severity, found.path) == ("warning", NAMES.mark)
    last = segments(files)[-1]
    _, found = check({**files, last: files[last][:-1]})
    assert (found.severity, found.path) == ("warning", last)
    assert "without a mark nobody can tell" in found.reason


async def test_zeros_after_a_sealed_segment_are_a_warning() -> None:
    files = without(NAMES.checkpoint)(await small_log())
    first = segments(files)[0]
    found = check({**files, first: files[first] + bytes(100)})
    assert {finding.severity for finding in found} == {"warning"}
    assert "100 zero bytes follow the last record" in [finding.reason for finding in found]


async def test_other_files_are_notes() -> None:
    files = await small_log()
    others = {
        f"{DIR}/wal.meta.tmp": "never finished",
        f"{NAMES.segment(0)}.300.torn": "an open cut off",
        f"{DIR}/notes.txt": "no file of this log",
        NAMES.index(RECORDS + 1): "an index without its segment",
    }
    found = check({**files, **dict.fromkeys(others, b"x")})
    assert {finding.severity for finding in found} == {"note"}
    assert {finding.path for finding in found} == set(others)
    assert all(others[finding.path] in finding.reason for finding in found)


async def test_trimmed_segments_that_are_still_there_are_notes() -> None:
    files = await small_log()
    base = int(segments(files)[2].split(".")[1])
    files = {**files, NAMES.trim: encode_document(Trim(base))}
    found = check(files)
    assert [(f.severity, f.path) for f in found] == [("note", path) for path in segments(files)[:2]]
    (found_missing,) = problems(
        {name: data for name, data in files.items() if name not in segments(files)[:3]}
    )
    assert found_missing.offset == base


async def test_a_log_that_ends_before_its_start_is_a_problem() -> None:
    files = await small_log()
    files = {**files, NAMES.trim: encode_document(Trim(RECORDS + 5))}
    (found,) = problems(files)
    assert (found.path, found.offset) == (NAMES.trim, RECORDS)
    assert f"trimmed up to {RECORDS + 5}" in found.reason


# ---- what a frame says


def handmade(files: Files, data: bytes, end: int) -> Files:
    """A log of one segment with this content, durable to its end."""
    return with_mark({NAMES.meta: files[NAMES.meta], NAMES.segment(0): data}, end, 0, len(data))


async def test_a_message_that_repeats_another_offset_is_a_problem() -> None:
    files = await small_log()
    codec = CODECS["s5-standard"]
    block = encode_block([(7, [codec.encode_parts(StreamMessage(b"x"))])], 0, codec.encode_uint)
    assert check(handmade(files, block.data, 1)) == []
    # The frame's own checks agree with a body that says 5.
    lie = encode_block([(7, [codec.encode_parts(StreamMessage(b"x"))])], 5, codec.encode_uint)
    body = bytearray(lie.data[16:])
    header = (0).to_bytes(8, "little") + len(body).to_bytes(4, "little")
    body[-4:] = crc32(header).to_bytes(4, "little")
    data = header + crc32(bytes(body)).to_bytes(4, "little") + bytes(body)
    (found,) = check(handmade(files, data, 1))
    assert found == Finding(
        "problem", "the message says that its offset is 5", NAMES.segment(0), 0, 0
    )


async def test_an_append_time_that_falls_is_a_warning() -> None:
    files = await small_log()
    codec = CODECS["s5-standard"]
    parts = [codec.encode_parts(StreamMessage(b"x"))]
    block = encode_block([(9, parts), (8, parts)], 0, codec.encode_uint)
    (found,) = check(handmade(files, block.data, 2))
    assert (found.severity, found.offset) == ("warning", 1)
    assert "append time is lower" in found.reason


async def test_a_batch_that_is_not_whole_at_the_mark_is_a_problem() -> None:
    files = await small_log()
    codec = CODECS["s5-standard"]
    parts = [codec.encode_parts(StreamMessage(b"x"))] * 3
    block = encode_block([(9, parts)], 0, codec.encode_uint)
    (found,) = check(handmade(files, block.data[: block.positions[2]], 2))
    assert found.severity == "problem"
    assert "inside a batch" in found.reason


# ---- what is no log


def test_a_directory_without_a_log_is_an_error() -> None:
    disk = SimDisk()
    with pytest.raises(FileNotFoundError, match="log"):
        list(Verification(disk, NAMES))
    disk.make_dir(DIR)
    with pytest.raises(FileNotFoundError, match=r"no log 'wal\.log'"):
        list(Verification(disk, NAMES))


async def test_a_log_that_is_danubes_or_newer_is_refused() -> None:
    files = await small_log()
    with pytest.raises(UnsupportedFormatError):
        check({**files, f"{DIR}/wal.log": b""})
    meta = decode_document(files[NAMES.meta], Meta)
    with pytest.raises(UnsupportedFormatError):
        check({**files, NAMES.meta: encode_document(attrs.evolve(meta, format=2))})
    with pytest.raises(UnsupportedFormatError, match="'s9-standard' is unknown"):
        check({**files, NAMES.meta: encode_document(attrs.evolve(meta, codec="s9-standard"))})
    with pytest.raises(ValueError, match="already holds"):
        check({**files, f"{DIR}/other.meta": b""})


# ---- what the next open would do


def preview_of(files: Files) -> Preview:
    disk = disk_with(files)
    directory = look(disk, NAMES)
    assert directory is not None
    found = preview(disk, directory)
    assert found is not None
    return found


async def opened_end(files: Files) -> int:
    async with open_wal(CONFIG, disk=disk_with(files)) as wal:
        return wal.next_offset


async def test_a_torn_tail_is_a_note_and_the_preview_says_what_is_cut() -> None:
    files = await small_log()
    last = segments(files)[-1]
    for garbage in (b"torn", b"\x01" * 300, files[last][:40]):
        torn = {**files, last: files[last] + garbage}
        (found,) = check(torn)
        assert (found.severity, found.path, found.position) == ("note", last, len(files[last]))
        assert f"cuts {len(garbage)} bytes" in found.reason
        expected = preview_of(torn)
        assert expected.next_offset == await opened_end(torn) == RECORDS
        assert (expected.cut_position, expected.cut_bytes) == (len(files[last]), len(garbage))
        assert expected.damage is None
    assert check({**files, last: files[last] + bytes(1000)}) == []
    assert preview_of({**files, last: files[last] + bytes(1000)}).cut_bytes == 0


async def test_records_above_the_mark_are_a_note_and_stay() -> None:
    files = await small_log()
    last = segments(files)[-1]
    base = int(last.split(".")[1])
    old = with_mark(files, base, base, 0)
    (found,) = check(old)
    assert (found.severity, found.offset) == ("note", base)
    assert f"records {base} to {RECORDS} are above the durability mark" in found.reason
    expected = preview_of(old)
    assert expected.kept_records == RECORDS - base
    assert expected.next_offset == await opened_end(old) == RECORDS
    assert check(old, live=True) == []


async def test_damage_below_the_mark_is_what_the_preview_warns_of() -> None:
    files = await small_log()
    last = segments(files)[-1]
    expected = preview_of({**files, last: flipped(files[last], 8 * 30)})
    assert expected.damage is not None
    assert "below the durability mark" in expected.damage
    expected = preview_of({**files, last: files[last][:-1]})
    assert expected.damage is not None
