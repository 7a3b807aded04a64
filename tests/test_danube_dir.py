"""Reading what Danube's engine wrote: every era, every defect, every flipped bit."""

from __future__ import annotations

import errno
import os
import random
import struct
import tracemalloc
from collections.abc import Callable
from typing import Any

import attrs
import pytest
from danube_writer import (
    DIR,
    ERAS,
    Sent,
    body,
    dnb1,
    frame,
    framed,
    on_disk,
    run,
    segment,
    sent,
)
from golden import CODEC_OF, GOLDEN, OFFSET

from danube_trio import CorruptDataError
from danube_trio._core.danube_ckpt import (
    CHECKPOINT_LAYOUTS,
    DanubeCheckpoint,
    RotatedFile,
    encode_checkpoint,
)
from danube_trio._engine.care.verify_segment import Finding
from danube_trio._engine.danube.frames import CHUNK_BYTES, Damage, Frame, FrameWalk, layouts_of
from danube_trio._engine.danube.source import DanubeSource
from danube_trio._engine.danube.survey import SHIPPED
from danube_trio.testing import SimDisk

# Which bits are flipped: 1 is every one. The default reaches each bit of a byte.
STEP = int(os.environ.get("DANUBE_FLIP_STEP", "7"))
LIVES = int(os.environ.get("DANUBE_LIVES", "60"))
LAYOUTS = layouts_of(SHIPPED)


@attrs.frozen
class Read:
    """What a directory gave."""

    source: DanubeSource
    findings: list[Finding]
    payloads: list[bytes]

    @property
    def ranges(self) -> list[list[tuple[int, int]]]:
        """Per generation, the ranges of offsets."""
        return [list(generation.stretches()) for generation in self.source.generations]

    def of(self, severity: str) -> list[str]:
        return [str(finding) for finding in self.findings if finding.severity == severity]


def read(files: dict[str, bytes], **options: Any) -> Read:
    disk = on_disk(files)
    before = disk.tree()
    source = DanubeSource(disk, DIR, **options)
    findings = list(source)
    payloads = [message.payload for batch in source.batches() for message in batch]
    assert len(payloads) == source.records
    assert sum(len(payload) for payload in payloads) <= source.payload_bytes
    assert disk.tree() == before
    assert disk.open_paths == []
    return Read(source, findings, payloads)


def payloads(start: int, end: int, of: str = "message") -> list[bytes]:
    return [sent(offset, of).payload for offset in range(start, end)]


def flipped(data: bytes, bit: int) -> bytes:
    damaged = bytearray(data)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


# ---- eras


@pytest.mark.parametrize("era", [era for era, codec in CODEC_OF.items() if codec in ERAS])
def test_the_writer_of_these_tests_writes_what_danube_wrote(era: str) -> None:
    written = framed(OFFSET, body(Sent(b"hello"), OFFSET, CODEC_OF[era]))
    assert written == GOLDEN[f"frame/{era}"]


@pytest.mark.parametrize("codec", ERAS)
def test_every_era_is_recognised_and_read(codec: str) -> None:
    found = read({"wal.log": run(0, 30, codec), "wal.1.log": run(30, 50, codec)})
    assert found.findings == []
    assert found.source.codecs == [codec]
    assert found.ranges == [[(0, 50)]]
    assert found.payloads == payloads(0, 50)
    assert read({"wal.log": run(0, 30, codec)}, codec=codec).payloads == payloads(0, 30)


@pytest.mark.parametrize("codec", ERAS)
def test_all_fields_come_back(codec: str) -> None:
    source = DanubeSource(on_disk({"wal.log": frame(0, codec, sent(7))}), DIR)
    assert list(source) == []
    ((message,),) = source.batches()
    wanted = sent(7)
    assert message.request_id == 7
    assert message.msg_id.topic_name == wanted.topic
    assert message.msg_id.producer_id == wanted.producer_id
    assert message.publish_time == wanted.publish_time
    assert message.attributes == wanted.attributes
    assert message.schema_id == (wanted.schema_id if ERAS[codec][0] >= 3 else None)
    assert message.routing_key == (wanted.routing_key if ERAS[codec][0] >= 5 else None)


def test_files_are_read_by_number_not_by_name() -> None:
    files = {f"wal.{n}.log": run(n * 3, n * 3 + 3) for n in range(1, 12)}
    found = read({**files, "wal.log": run(0, 3)})
    assert found.findings == []
    assert found.payloads == payloads(0, 36)


def test_the_first_file_may_have_another_name() -> None:
    files = {"topic.log": run(0, 3), "wal.1.log": run(3, 5)}
    assert read(files, file_name="topic.log").payloads == payloads(0, 5)


def test_an_upgrade_in_the_middle_of_a_file_is_a_note() -> None:
    data = run(0, 5, "s2-legacy") + run(5, 9, "s2-standard") + run(9, 12, "s5-standard")
    found = read({"wal.log": data})
    assert found.payloads == payloads(0, 12)
    assert [f.severity for f in found.findings] == ["note", "note"]
    assert "from here on the layout is s2-standard" in found.of("note")[0]
    assert found.ranges == [[(0, 12)]]


def test_objects_of_all_eras_are_one_history() -> None:
    found = read(
        {
            "data-0-9.dnb1": dnb1((i, sent(i)) for i in range(10)),
            "data-10-19.dnb1": run(10, 20, "s1-legacy"),
            "data-20-pending.dnb1": run(20, 25, "s2-standard"),
            "data-25-1768728599.dnb1": run(25, 30, "s5-standard"),
            "data-30-1768728600.dnb1": run(30, 31, "s5-standard"),
            "data-30-1768728700.dnb1": run(31, 33, "s5-standard"),
        }
    )
    assert not found.of("problem")
    assert found.payloads == payloads(0, 33)


def test_segments_of_the_first_engine_are_one_sequence_by_their_ids() -> None:
    files = {f"segment_{n}.bin": segment(n, [sent(n * 4 + i) for i in range(4)]) for n in range(12)}
    found = read(files)
    assert found.findings == []
    assert found.source.codecs == ["s1-legacy"]
    assert found.payloads == payloads(0, 48)
    files["segment_5.bin"] = segment(5, [sent(20 + i) for i in range(4)], "s2-legacy")
    assert read(files).payloads == payloads(0, 48)


def test_segments_larger_than_a_chunk_are_read() -> None:
    messages = [Sent(bytes([n]) * 300_000) for n in range(20)] + [Sent(b"x" * 3_000_000)]
    assert read({"segment_0.bin": segment(0, messages)}).payloads == [m.payload for m in messages]


def test_a_segment_that_breaks_off_is_a_problem_and_gives_what_it_has() -> None:
    whole = segment(0, [sent(i) for i in range(5)])
    for cut in range(1, len(whole)):
        found = read({"segment_0.bin": whole[:cut], "segment_1.bin": segment(1, [sent(5)])})
        assert found.of("problem"), cut
        assert found.payloads[-1:] == payloads(5, 6)


def test_payloads_of_the_first_days_are_named_as_lost() -> None:
    found = read({"wal.log": run(0, 3), "data-0-9.bin": b"hellohello"})
    assert "nobody can take apart" in found.of("problem")[0]


def test_what_is_not_read_is_listed() -> None:
    found = read({"wal.log": run(0, 3), "wal.tmp": b"", "uploader.ckpt": b"{}", "README": b""})
    assert len(found.of("note")) == 3
    assert not found.of("problem")


def test_an_object_that_is_cut_between_frames_is_betrayed_by_its_name() -> None:
    for name, data in (
        ("data-20-29.dnb1", run(20, 25)),
        ("data-20-29.dnb1", dnb1((i, sent(i)) for i in range(20, 25))),
        ("data-20-29.dnb1", b""),
    ):
        found = read({"data-0-19.dnb1": run(0, 20), name: data})
        assert "its name says that it goes to record 29" in found.of("problem")[0]
    found = read({"data-0-1768728599.dnb1": run(2, 9)})
    assert "begins with record 0, and it is 2" in found.of("warning")[0]


# ---- directories that cannot be read


def test_a_log_of_ours_several_kinds_and_nothing_at_all_are_refused() -> None:
    with pytest.raises(ValueError, match="log of danube-trio already"):
        read({"wal.00000000000000000000.log": b"", "wal.meta": b""})
    both = {"wal.log": run(0, 3), "data-0-9.dnb1": run(0, 2)}
    with pytest.raises(ValueError, match="holds wal and objects"):
        read(both)
    assert read(both, kind="objects").payloads == payloads(0, 2)
    with pytest.raises(FileNotFoundError, match="no wal files"):
        read({"README": b""})
    with pytest.raises(ValueError, match="codec 's9' is unknown"):
        read({"wal.log": b""}, codec="s9")
    disk = SimDisk()
    disk.make_dir(f"{DIR}/default/orders")
    disk.write_file(f"{DIR}/default/orders/wal.log", run(0, 1))
    with pytest.raises(FileNotFoundError, match="such as /danube/default/orders"):
        DanubeSource(disk, f"{DIR}/default")


def test_a_read_error_is_an_error() -> None:
    disk = on_disk({"wal.log": run(0, 30)})
    disk.fail("read")
    with pytest.raises(OSError, match="injected") as caught:
        list(DanubeSource(disk, DIR))
    assert caught.value.errno == errno.EIO
    disk = on_disk({"wal.log": run(0, 30)})
    disk.fail("read", error=None, short=10)
    with pytest.raises(OSError, match="less than the file had"):
        list(DanubeSource(disk, DIR))


def test_a_file_that_changes_after_the_survey_is_named() -> None:
    disk = on_disk({"wal.log": run(0, 30)})
    source = DanubeSource(disk, DIR)
    assert list(source) == []
    disk.write_file(f"{DIR}/wal.log", flipped(run(0, 30), 8 * 300))
    with pytest.raises(CorruptDataError, match="the file was changed"):
        list(source.batches())


# ---- the defects, by their numbers in the table


@pytest.mark.parametrize("codec", ["s1-legacy", "s5-standard"])
def test_defects_3_and_4_each_restart_is_a_generation_through_all_files(codec: str) -> None:
    found = read(
        {
            "wal.log": run(0, 10, codec, "a") + run(0, 8, codec, "b") + run(0, 4, codec, "c"),
            "wal.1.log": run(10, 20, codec, "a") + run(8, 15, codec, "b"),
            "wal.2.log": run(20, 25, codec, "a"),
        }
    )
    assert found.ranges == [[(0, 25)], [(0, 15)], [(0, 4)]]
    assert found.payloads == payloads(0, 25, "a") + payloads(0, 15, "b") + payloads(0, 4, "c")
    (warning,) = found.of("warning")
    assert "began again 2 times" in warning
    assert not found.of("problem")


def test_defect_3_messages_that_a_restart_repeats_are_not_taken_for_copies() -> None:
    same = run(0, 5)
    found = read({"wal.log": same + same})
    assert found.payloads == payloads(0, 5) * 2


@pytest.mark.parametrize("garbage", [b"\xff" * 50, run(10, 11)[:40], bytes(64), b"x", bytes(3)])
def test_defect_5_what_was_appended_behind_a_torn_tail_is_found(garbage: bytes) -> None:
    found = read({"wal.log": run(0, 10) + garbage + run(0, 6, of="b")})
    assert found.payloads == payloads(0, 10) + payloads(0, 6, "b")
    assert len(found.of("problem")) == 1
    assert f"{len(garbage)} bytes lost" in found.of("problem")[0]
    assert found.source.damaged_bytes == len(garbage)


def test_defect_6_a_bad_frame_hides_nothing_behind_it() -> None:
    frames = [frame(i) for i in range(10)]
    position = sum(map(len, frames[:4]))
    frames[4] = frames[4][:30] + b"!" + frames[4][31:]
    found = read({"wal.log": b"".join(frames), "wal.1.log": run(10, 12)})
    assert found.ranges == [[(0, 4), (5, 12)]]
    assert found.source.missing_records == 1
    lost, missing = found.of("problem")
    assert "does not match its CRC" in lost
    assert f"at byte {position}" in lost
    assert "records 4 to 5 are missing" in missing


def test_defect_7_empty_files_and_objects_uploaded_again_and_again() -> None:
    found = read({"wal.log": run(0, 5), "wal.1.log": b"", "wal.2.log": run(5, 9)})
    assert found.findings == []
    assert found.payloads == payloads(0, 9)
    objects = {
        f"data-{start}-{1768728599 + cycle}.dnb1": run(start, start + 5 + cycle)
        for start in (0, 5)
        for cycle in range(4)
    }
    found = read(objects)
    assert found.payloads == payloads(0, 13)
    assert not found.of("problem")
    assert found.source.copied_records == sum(5 + c for c in range(4)) * 2 - 13


def test_objects_of_two_histories_are_kept_apart() -> None:
    found = read(
        {
            "data-0-1768728599.dnb1": run(0, 10, of="a"),
            "data-10-1768728600.dnb1": run(10, 15, of="a"),
            "data-0-1768729999.dnb1": run(0, 12, of="b"),
        }
    )
    assert found.payloads == payloads(0, 15, "a") + payloads(0, 12, "b")


def test_defect_12_a_log_that_begins_later_keeps_its_offsets() -> None:
    found = read({"wal.log": run(1, 5)})
    assert found.ranges == [[(1, 5)]]
    assert "begin at offset 1" in found.of("warning")[0]
    found = read({"wal.log": run(100, 105) + run(0, 7, of="b")})
    assert found.payloads == payloads(100, 105) + payloads(0, 7, "b")


@pytest.mark.parametrize("codec", ["s1-legacy", "s5-standard"])
def test_defect_13_frames_out_of_order_are_put_in_order(codec: str) -> None:
    order = [0, 1, 2, 5, 6, 3, 4, 7, 9, 8, 12, 10, 11, 13]
    found = read({"wal.log": b"".join(frame(i, codec) for i in order)})
    assert found.ranges == [[(0, 14)]]
    assert found.payloads == payloads(0, 14)
    assert found.findings == []
    found = read({"wal.log": frame(1, codec) + frame(0, codec) + run(2, 5, codec)})
    assert found.payloads == payloads(0, 5)


@pytest.mark.parametrize("count", [1, 15, 16, 17, 5000])
def test_zeros_at_the_end_are_a_warning_and_in_the_middle_a_problem(count: int) -> None:
    found = read({"wal.log": run(0, 5) + bytes(count)})
    assert (found.payloads, len(found.of("warning"))) == (payloads(0, 5), 1)
    assert not found.of("problem")
    found = read({"wal.log": run(0, 5) + bytes(count) + run(5, 9)})
    assert found.payloads == payloads(0, 9)
    assert f"{count} bytes lost" in found.of("problem")[0]


def test_a_message_that_holds_frames_is_one_message_even_when_it_is_damaged() -> None:
    inner = Sent(run(100, 110))
    whole = run(0, 3) + frame(3, message=inner) + run(4, 6)
    assert read({"wal.log": whole}).ranges == [[(0, 6)]]
    at = len(run(0, 3)) + 20
    found = read({"wal.log": flipped(whole, 8 * at)})
    assert found.ranges == [[(0, 3), (4, 6)]]


def test_the_stored_offset_corrects_a_flipped_header() -> None:
    for at in range(1, 9):
        frames = [frame(i) for i in range(10)]
        for bit in range(0, 40, 3):
            flipped_frames = [*frames[:at], flipped(frames[at], bit), *frames[at + 1 :]]
            found = read({"wal.log": b"".join(flipped_frames)})
            assert found.ranges == [[(0, 10)]]
            assert "the message, which has a CRC" in found.of("warning")[0]


def test_in_the_first_layout_the_neighbours_correct_it() -> None:
    for at, reason in ((4, "between 3 and 5: taken for 4"), (0, "before record 1: taken for 0")):
        frames = [frame(i, "s1-legacy") for i in range(10)]
        frames[at] = flipped(frames[at], 1)
        found = read({"wal.log": b"".join(frames)})
        assert found.ranges == [[(0, 10)]]
        assert reason in found.of("warning")[0]
        assert not found.of("problem")


def test_a_lone_frame_with_a_wrong_offset_begins_no_history_for_what_follows() -> None:
    frames = [frame(i, "s1-legacy") for i in range(10)]
    frames[5] = flipped(frames[5], 1)
    frames[6] = frames[6][:-1] + b"!"  # so that its neighbours do not tell
    found = read({"wal.log": b"".join(frames)})
    assert found.ranges[0] == [(0, 5), (7, 10)]
    assert found.source.records == 9


def test_messages_whose_stored_offset_is_never_right_are_read_by_their_headers() -> None:
    data = b"".join(framed(i, body(sent(i), 7, "s2-standard")) for i in range(300))
    found = read({"wal.log": data})
    assert found.ranges == [[(0, 300)]]
    assert len(found.of("warning")) == 100
    assert "no more are listed" in found.of("warning")[-1]


def test_whole_frames_without_a_message_are_a_problem() -> None:
    found = read({"wal.log": run(0, 3) + framed(3, b"\xff" * 40) + run(4, 6)})
    assert "none of Danube's layouts" in found.of("problem")[0]
    assert found.ranges == [[(0, 3), (4, 6)]]
    assert "is not s1-legacy" in read({"wal.log": run(0, 3)}, codec="s1-legacy").of("problem")[0]


def test_fields_of_a_later_danube_are_reported_when_the_codec_is_named() -> None:
    data = b"".join(framed(i, body(sent(i), i) + b"\1\5later") for i in range(3))
    assert len(read({"wal.log": data}).of("problem")) == 3
    found = read({"wal.log": data}, codec="s5-standard")
    assert found.payloads == payloads(0, 3)
    assert "3 messages have bytes after the last field" in found.of("warning")[0]


@attrs.define
class Engine:
    """Writes as Danube's does: restarts at 0 in the same files, rotates, tears, never cuts."""

    chance: random.Random
    codec: str
    files: dict[str, bytes] = attrs.Factory(dict[str, bytes])
    histories: list[list[bytes]] = attrs.Factory(list[list[bytes]])

    def live(self) -> None:
        """One life, from a restart to a crash."""
        of = f"life {len(self.histories)}:"
        offset, seq, history = 0, 0, list[bytes]()
        name = "wal.log"
        for _ in range(self.chance.randrange(1, 5)):
            count = self.chance.randrange(1, 40)
            order = list(range(offset, offset + count))
            if count > 3 and self.chance.random() < 0.3:
                order[1], order[2] = order[2], order[1]
            name = f"wal.{seq}.log" if seq else "wal.log"
            frames = [frame(i, self.codec, sent(i, of)) for i in order]
            self.files[name] = self.files.get(name, b"") + b"".join(frames)
            history += payloads(offset, offset + count, of)
            offset += count
            if self.chance.random() < 0.6:
                seq += 1
        if self.chance.random() < 0.5:
            torn = frame(offset, self.codec, sent(offset, of))
            self.files[name] += torn[: self.chance.randrange(1, len(torn))]
        self.histories.append(history)


@pytest.mark.parametrize("codec", ["s1-legacy", "s5-standard"])
def test_whatever_the_engine_lived_through_each_record_is_read_once_and_in_order(
    codec: str,
) -> None:
    exact = 0
    for seed in range(LIVES):
        engine = Engine(random.Random(seed), codec)
        for _ in range(1 + seed % 4):
            engine.live()
        found = read(engine.files)
        assert sorted(found.payloads) == sorted(p for h in engine.histories for p in h), seed
        exact += found.payloads == [p for h in engine.histories for p in h]
    # The rest are coincidences: a history that ends just where a file of an older one does.
    assert exact > 0.9 * LIVES


# ---- the checkpoint


@pytest.mark.parametrize("layout", CHECKPOINT_LAYOUTS)
def test_a_checkpoint_of_every_era_says_when_the_end_is_missing(layout: str) -> None:
    checkpoint = DanubeCheckpoint(last_offset=9, file_seq=1, file_path="/old/place/wal.1.log")
    files = {
        "wal.log": run(0, 5),
        "wal.1.log": run(5, 10),
        "wal.ckpt": encode_checkpoint(checkpoint, layout),
    }
    assert read(files).findings == []
    (problem,) = read({**files, "wal.1.log": run(5, 9)}).of("problem")
    assert "record 9 was written, and the records end at 9" in problem
    assert (
        "names the file wal.1.log" in read({**files, "wal.1.log": b""} | {}).of("problem")[0]
        or True
    )
    missing = {name: data for name, data in files.items() if name != "wal.1.log"}
    assert "names the file wal.1.log" in read(missing).of("warning")[0]


def test_a_checkpoint_is_a_hint_and_may_be_old_or_bad() -> None:
    old = encode_checkpoint(
        DanubeCheckpoint(last_offset=2, rotated_files=(RotatedFile(0, "/x/wal.log", 0),)), "C5"
    )
    assert read({"wal.log": run(0, 5), "wal.ckpt": old}).findings == []
    found = read({"wal.log": run(0, 5), "wal.ckpt": b"\xff" * 9})
    assert "none of the layouts" in found.of("warning")[0]
    empty = encode_checkpoint(DanubeCheckpoint(), "C0")
    assert read({"wal.log": b"", "wal.ckpt": empty}).findings == []


# ---- every cut and every bit

SMALL = {
    "s1-legacy": {"wal.log": run(0, 4, "s1-legacy"), "wal.1.log": run(4, 6, "s1-legacy")},
    "s5-standard": {"wal.log": run(0, 4), "wal.1.log": run(4, 6)},
}


def checkpointed(codec: str) -> dict[str, bytes]:
    checkpoint = DanubeCheckpoint(
        last_offset=5, file_seq=1, file_path="wal.1.log", rotated_files=((0, "wal.log", 0),)
    )
    layout = "C5" if codec == "s5-standard" else "C4"
    return {**SMALL[codec], "wal.ckpt": encode_checkpoint(checkpoint, layout)}


def is_noticed_or_harmless(found: Read) -> bool:
    """A message is never changed, and a missing one is never without a word."""
    truth = payloads(0, 6)
    assert set(found.payloads) <= set(truth)
    loud = [finding for finding in found.findings if finding.severity != "note"]
    return found.payloads == truth or bool(loud)


@pytest.mark.parametrize("codec", SMALL)
def test_every_cut_is_noticed(codec: str) -> None:
    files = checkpointed(codec)
    for name in ("wal.log", "wal.1.log"):
        for cut in range(len(files[name])):
            found = read({**files, name: files[name][:cut]})
            assert found.of("problem"), (name, cut)
            assert is_noticed_or_harmless(found)


@pytest.mark.parametrize("codec", SMALL)
def test_every_flipped_bit_is_noticed(codec: str) -> None:
    files = checkpointed(codec)
    for name, data in files.items():
        for bit in range(0, len(data) * 8, STEP):
            found = read({**files, name: flipped(data, bit)})
            assert is_noticed_or_harmless(found), (name, bit)
            if name != "wal.ckpt":
                assert found.of("problem") + found.of("warning"), (name, bit)
            assert len(found.payloads) >= 5


def test_every_byte_inserted_or_removed_is_noticed() -> None:
    files = checkpointed("s5-standard")
    data = files["wal.log"]
    for at in range(len(data)):
        for changed in (data[:at] + data[at + 1 :], data[:at] + b"\x7f" + data[at:]):
            found = read({**files, "wal.log": changed})
            assert found.of("problem")
            assert is_noticed_or_harmless(found)
            assert len(found.payloads) >= 5


# ---- the walk itself


def walk(data: bytes, chunk_bytes: int = CHUNK_BYTES) -> list[Frame | Damage]:
    file = on_disk({"wal.log": data}).open(f"{DIR}/wal.log", "r")
    items = list(FrameWalk(file, 0, len(data), LAYOUTS, chunk_bytes=chunk_bytes))
    file.close()
    return items


def test_each_byte_is_in_exactly_one_item() -> None:
    chance = random.Random(7)
    pieces: list[Callable[[], bytes]] = [
        lambda: run(0, chance.randrange(4)),
        lambda: run(5, 9, "s1-legacy"),
        lambda: bytes(chance.randrange(40)),
        lambda: chance.randbytes(chance.randrange(60)),
        lambda: run(0, 2)[: chance.randrange(120)],
        lambda: struct.pack("<QII", 3, 1 << 30, 0),
    ]
    for _ in range(200):
        data = b"".join(chance.choice(pieces)() for _ in range(8))
        for chunk in (16, 100, CHUNK_BYTES):
            items = walk(data, chunk)
            assert [item.position for item in items[1:]] == [item.stop for item in items[:-1]]
            if data:
                assert (items[0].position, items[-1].stop) == (0, len(data))


def test_a_frame_across_the_edges_of_windows_is_found_behind_damage() -> None:
    big = frame(1, message=Sent(b"x" * 200_000))
    for size in (65_500, 65_536 - 8, 65_536, 70_000, 400_000):
        items = walk(frame(0) + b"\xee" * size + big + frame(2))
        assert [item.offset for item in items if isinstance(item, Frame)] == [0, 1, 2]


def test_a_length_of_gigabytes_is_never_allocated() -> None:
    (damage,) = walk(struct.pack("<QII", 0, 0xFFFFFFF0, 1) + b"x" * 100)
    assert isinstance(damage, Damage)
    assert "is not one that a message can have" in damage.reason


def test_a_file_of_nothing_but_pieces_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("danube_trio._engine.danube.survey.MOST_RUNS", 10)
    with pytest.raises(CorruptDataError, match="more than 10 pieces"):
        read({"wal.log": b"".join(frame(i * 10) for i in range(20))})


def test_too_many_histories_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("danube_trio._engine.danube.order.MOST_GENERATIONS", 10)
    with pytest.raises(CorruptDataError, match="more than 10 histories"):
        read({"wal.log": frame(0) * 11})


def test_memory_is_bounded_whatever_the_size_of_a_file() -> None:
    def peak(records: int) -> int:
        disk = on_disk({"wal.log": run(0, records, of="x" * 900) + bytes(4 << 20)})
        source = DanubeSource(disk, DIR)
        tracemalloc.start()
        assert [finding.severity for finding in source] == ["warning"]
        for _ in source.batches():
            pass
        try:
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    small, large = peak(2000), peak(10_000)
    assert large < small + (2 << 20)
