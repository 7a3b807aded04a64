"""Damage: every bit of a three-segment log flipped, every file cut at every byte.

The reader must give the full truth or a named error, never a silently shorter or altered log.
"""

from __future__ import annotations

import os
from typing import Any

import attrs
import pytest

from danube_trio import CorruptDataError, Gap, StreamMessage, UnsupportedFormatError, WalConfig
from danube_trio import open_wal as open_log
from danube_trio.testing import SimDisk

CONFIG = WalConfig(dir="/log", segment_bytes=12_000, preallocate_bytes=0)
# 1 flips every bit and cuts at every byte. The default are strides that reach each bit of a byte,
# and in the files beside the segments each byte.
STEP = int(os.environ.get("DANUBE_FLIP_STEP", "127"))
STEP_BESIDE = min(STEP, 7)
RECORDS = 330
HINTS = ("wal.ckpt", ".idx", "wal.lock", ".torn")


def payload(offset: int) -> bytes:
    return b"record %d " % offset * (1 + offset % 7)


async def three_segments() -> dict[str, bytes]:
    """A log of three segments, closed in order; its files."""
    disk = SimDisk()
    async with open_log(CONFIG, disk=disk) as wal:
        for offset in range(0, RECORDS, 10):
            if offset % 30:
                await wal.append_batch([payload(i) for i in range(offset, offset + 10)])
            else:
                for i in range(offset, offset + 10):
                    await wal.append(payload(i), durability="written")
    files = disk.tree()
    assert len([name for name in files if name.endswith(".log")]) == 3
    return files


def disk_with(files: dict[str, bytes]) -> SimDisk:
    disk = SimDisk()
    for path, data in files.items():
        disk.write_file(path, data)
    return disk


async def read(disk: SimDisk, config: WalConfig = CONFIG) -> list[bytes | Gap]:
    async with open_log(config, disk=disk) as wal:
        items: list[StreamMessage | Gap] = [item async for item in wal.reader(end="current")]
    return [item if isinstance(item, Gap) else item.payload for item in items]


TRUTH: list[bytes | Gap] = [payload(i) for i in range(RECORDS)]


async def verdict(files: dict[str, bytes], path: str) -> str:
    """``truth`` or ``error``; anything else fails."""
    disk = disk_with(files)
    try:
        items = await read(disk)
    except (CorruptDataError, UnsupportedFormatError) as error:
        assert isinstance(error, UnsupportedFormatError) or error.path is not None
        now = disk.tree()
        for name, data in files.items():
            if not name.endswith((*HINTS, ".mark")):
                assert now[name] == data, f"{name} was changed"
        return "error"
    assert items == TRUTH, path
    return "truth"


@pytest.mark.happens
async def test_every_flipped_bit_is_harmless_or_named() -> None:
    files = await three_segments()
    assert await verdict(files, "none") == "truth"
    for path, data in files.items():
        step = STEP if path.endswith(".log") else STEP_BESIDE
        for bit in range(0, len(data) * 8, step):
            damaged = bytearray(data)
            damaged[bit // 8] ^= 1 << bit % 8
            answer = await verdict({**files, path: bytes(damaged)}, f"{path} bit {bit}")
            if path.endswith(".log"):
                assert answer == "error", f"bit {bit} of {path} went unnoticed"
            if path.endswith(HINTS):
                assert answer == "truth", f"bit {bit} of the hint {path} mattered"


@pytest.mark.happens
async def test_every_cut_is_harmless_or_named() -> None:
    files = await three_segments()
    for path, data in files.items():
        step = STEP if path.endswith(".log") else STEP_BESIDE
        for size in range(0, len(data), step):
            answer = await verdict({**files, path: data[:size]}, f"{path} cut to {size}")
            if path.endswith(".log"):
                assert answer == "error", f"{path} cut to {size} bytes went unnoticed"


@pytest.mark.happens
async def test_every_missing_file_is_harmless_or_named() -> None:
    files = await three_segments()
    for path in files:
        answer = await verdict({p: d for p, d in files.items() if p != path}, f"{path} missing")
        if path.endswith((".log", ".meta")):
            assert answer == "error", path
        if path.endswith((*HINTS, ".mark")):
            assert answer == "truth", path


async def test_exchanged_doubled_and_inserted_bytes_are_named() -> None:
    files = await three_segments()
    logs = sorted(path for path in files if path.endswith(".log"))
    first, second, last = logs
    frame = files[last][: files[last].index(b"record", 40)]
    for changed in (
        {first: files[second], second: files[first]},
        {second: files[second] + files[second]},
        {second: files[second][:500] + files[second]},
        {last: files[last] + files[last]},
        {last: frame + files[last]},
        {first: files[first][:3000] + bytes(9000)},
        {second: bytes(len(files[second]))},
    ):
        if second in changed and changed[second].startswith(files[second]):
            continue  # bytes after a sealed segment's last frame are never looked at
        if last in changed and changed[last].startswith(files[last]):
            continue  # a torn tail
        assert await verdict({**files, **changed}, f"{list(changed)}") == "error"


@pytest.mark.happens
async def test_garbage_after_the_mark_is_a_torn_tail_and_kept_beside() -> None:
    files = await three_segments()
    last = max(path for path in files if path.endswith(".log"))
    for garbage in (b"x", b"\x01" * 500, files[last][:300], bytes(20) + b"late"):
        disk = disk_with({**files, last: files[last] + garbage})
        assert await read(disk) == TRUTH
        kept = f"{last}.{len(files[last])}.torn"
        assert disk.read_file(kept) == garbage.rstrip(b"\0")
        assert disk.read_file(last) == files[last]


async def test_zeros_to_the_end_are_the_end_of_data() -> None:
    files = await three_segments()
    last = max(path for path in files if path.endswith(".log"))
    for count in (1, 15, 16, 17, 5000):
        disk = disk_with({**files, last: files[last] + bytes(count)})
        assert await read(disk) == TRUTH
        assert not any(path.endswith(".torn") for path in disk.tree())


@pytest.mark.happens
async def test_skip_gives_gaps_and_everything_around_them() -> None:
    files = await three_segments()
    config = attrs.evolve(CONFIG, on_corruption="skip")
    for path in sorted(p for p in files if p.endswith(".log")):
        data = files[path]
        for position in range(40, len(data), len(data) // 9):
            damaged = data[:position] + bytes([data[position] ^ 0x55]) + data[position + 1 :]
            disk = disk_with({**files, path: damaged})
            for _ in range(2):  # the second time after a clean close
                items = await read(disk, config)
                gaps = [item for item in items if isinstance(item, Gap)]
                assert len(gaps) == 1
                assert path in gaps[0].reason
                expected = [*TRUTH[: gaps[0].start], gaps[0], *TRUTH[gaps[0].end :]]
                assert items == expected
                assert gaps[0].end - gaps[0].start <= 2


async def test_skip_goes_on_behind_a_lost_tail() -> None:
    files = await three_segments()
    last = max(path for path in files if path.endswith(".log"))
    disk = disk_with({**files, last: files[last][:-700]})
    config = attrs.evolve(CONFIG, on_corruption="skip")
    async with open_log(config, disk=disk) as wal:
        assert wal.next_offset == RECORDS
        assert await wal.append(b"new") == RECORDS
    items = await read(disk, config)
    assert isinstance(items[-2], Gap)
    assert items[-2].end == RECORDS
    assert items[-1] == b"new"


@pytest.mark.happens
async def test_truncate_cuts_there_and_keeps_the_bytes() -> None:
    files = await three_segments()
    last = max(path for path in files if path.endswith(".log"))
    data = files[last]
    damaged = data[:2000] + b"\xff" + data[2001:]
    disk = disk_with({**files, last: damaged})
    config = attrs.evolve(CONFIG, on_corruption="truncate")
    async with open_log(config, disk=disk) as wal:
        end = wal.next_offset
        assert 0 < end < RECORDS
        assert "damaged" in wal.statistics().notes[-1]
        assert await wal.append(b"new") == end
    assert await read(disk) == [*TRUTH[:end], b"new"]  # and it opens strictly again
    (kept,) = (path for path in disk.tree() if path.endswith(".corrupt"))
    assert disk.read_file(kept) in damaged


@pytest.mark.happens
@pytest.mark.parametrize("policy", ["refuse", "skip", "truncate"])
async def test_damage_in_a_sealed_segment_never_shortens_the_log(policy: Any) -> None:
    files = await three_segments()
    first = min(path for path in files if path.endswith(".log"))
    damaged = files[first][:5000] + b"\xff" + files[first][5001:]
    config = attrs.evolve(CONFIG, on_corruption=policy)
    disk = disk_with({**files, first: damaged})
    if policy == "skip":
        items = await read(disk, config)
        assert items[-1] == TRUTH[-1]
        return
    with pytest.raises(CorruptDataError, match="CRC") as caught:
        await read(disk, config)
    assert caught.value.path == first
    assert caught.value.position is not None
    assert caught.value.offset is not None
    async with open_log(config, disk=disk) as wal:  # what is not damaged can still be read
        reader = wal.reader(end=caught.value.offset)
        assert [m.payload async for m in reader] == TRUTH[: caught.value.offset]
