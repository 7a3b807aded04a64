"""Verification counts what opening keeps, and says each position once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial

import attrs
import pytest
from test_verify import CONFIG, NAMES, Files, disk_with, segments, small_log, with_mark

from danube_trio import CorruptDataError, Gap, StartPosition, open_wal
from danube_trio._core.files import Trim, decode_document, encode_trim
from danube_trio._engine.care.verify import Verification
from danube_trio._engine.care.verify_segment import Finding

Damage = Callable[[Files], Files]


def bounds(files: Files, path: str) -> list[int]:
    """Where the frames of a segment begin, and where the last one ends."""
    file = disk_with(files).open(path, "r")
    data, at, found = files[path], 0, [0]
    while at < len(data):
        at += 16 + int.from_bytes(data[at + 8 : at + 12], "little")
        found.append(at)
    file.close()
    return found


def cut(files: Files, at: int, *, last: bool = True) -> Files:
    """The segment ends in the middle of that frame, counted from its end."""
    path = segments(files)[-1 if last else 1]
    return {**files, path: files[path][: bounds(files, path)[at - 1] + 9]}


def cut_between(files: Files, at: int) -> Files:
    path = segments(files)[-1]
    return {**files, path: files[path][: bounds(files, path)[at]]}


def damaged(files: Files, number: int, frame: int) -> Files:
    path = segments(files)[number]
    data = bytearray(files[path])
    data[bounds(files, path)[frame] + 20] ^= 1
    return {**files, path: bytes(data)}


def unmarked(files: Files) -> Files:
    return {path: data for path, data in files.items() if path != NAMES.mark}


def marked_early(files: Files) -> Files:
    """The mark is where the last segment begins."""
    base = int(segments(files)[-1].split(".")[-2])
    return with_mark(files, base, base, 0)


def trimmed(files: Files, start: int, local: int = 0) -> Files:
    return {**files, NAMES.trim: encode_trim(Trim(start, local))}


def appended(files: Files, data: bytes, *, last: bool = True) -> Files:
    path = segments(files)[-1 if last else 1]
    return {**files, path: files[path] + data}


def without(files: Files, number: int) -> Files:
    gone = segments(files)[number]
    return {path: data for path, data in files.items() if path != gone}


def chain(*steps: Damage) -> Damage:
    def all_of(files: Files) -> Files:
        for step in steps:
            files = step(files)
        return files

    return all_of


DAMAGES: dict[str, Damage] = {
    "none": dict,
    "no mark": unmarked,
    "zeros behind the end": partial(appended, data=bytes(5000)),
    "a torn frame above the mark": partial(appended, data=b"torn"),
    "the last frame is torn, above the mark": chain(marked_early, partial(cut, at=-1)),
    "a batch is cut between its frames": chain(marked_early, partial(cut_between, at=-2)),
    "a batch is cut inside a frame": chain(marked_early, partial(cut, at=-2)),
    "without a mark a batch is cut between its frames": chain(
        unmarked, partial(cut_between, at=-2)
    ),
    "a bad frame above the mark, whole ones behind it": chain(
        marked_early, partial(damaged, number=-1, frame=3)
    ),
    "a torn frame below the mark": partial(cut, at=-1),
    "a bad frame below the mark": partial(damaged, number=-1, frame=3),
    "the last frame is bad, below the mark": partial(damaged, number=-1, frame=-2),
    "a batch is cut below the mark": partial(cut_between, at=-2),
    "a bad frame in a sealed segment": partial(damaged, number=1, frame=2),
    "the last frame of a sealed segment is bad": partial(damaged, number=1, frame=-2),
    "the first frame of a sealed segment is bad": partial(damaged, number=1, frame=0),
    "a sealed segment is cut": partial(cut, at=-2, last=False),
    "bytes behind a sealed segment": partial(appended, data=b"more", last=False),
    "zeros behind a sealed segment": partial(appended, data=bytes(99), last=False),
    "trimmed inside the first segment": partial(trimmed, start=3),
    "trimmed inside a later one": partial(trimmed, start=20),
    "the front is in a store only": partial(trimmed, start=3, local=20),
    "a segment is missing": partial(without, number=1),
    "the last segment is empty": lambda files: {**marked_early(files), segments(files)[-1]: b""},
    "two segments are damaged": chain(
        partial(damaged, number=0, frame=1), partial(damaged, number=2, frame=-2)
    ),
}


async def kept(files: Files) -> tuple[int, int, bool]:
    """How many records can be read here after opening, where they end, and if that is all."""
    disk, whole = disk_with(files), True
    try:
        async with open_wal(CONFIG, disk=disk):
            pass
    except CorruptDataError:
        whole = False
    async with open_wal(attrs.evolve(CONFIG, on_corruption="skip"), disk=disk) as wal:
        start = decode_document(disk.tree()[NAMES.trim], Trim).first_local
        reader = wal.reader(StartPosition.offset(start), end="current")
        items = [item async for item in reader]
        gaps = [item for item in items if isinstance(item, Gap)]
        return len(items) - len(gaps), wal.next_offset, whole and not gaps


@pytest.mark.parametrize("case", DAMAGES)
async def test_verification_counts_what_opening_keeps(case: str) -> None:
    files = DAMAGES[case](await small_log())
    check = Verification(disk_with(files), NAMES)
    findings = list(check)
    records, end, whole = await kept(files)
    assert (check.records, check.end_offset) == (records, end)
    assert whole or any(finding.severity == "problem" for finding in findings)


@pytest.mark.parametrize("case", DAMAGES)
async def test_verification_says_each_position_once(case: str) -> None:
    findings = list(Verification(disk_with(DAMAGES[case](await small_log())), NAMES))
    places = Counter(_place(finding) for finding in findings if finding.position is not None)
    assert not [place for place, count in places.items() if count > 1], findings


def _place(finding: Finding) -> tuple[str, int | None]:
    return finding.path, finding.position
