"""Files of a metadata directory with right sums and wrong content: damage, and no other error."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable

import attrs
import pytest

from danube_trio._core.crc import crc32
from danube_trio.errors import CorruptDataError, DanubeError
from danube_trio.metadata import open_metadata_directory
from danube_trio.metadata._format import (
    BATCHES_START,
    JournalHeader,
    Mark,
    encode_snapshot,
)
from danube_trio.metadata._table import Entry
from danube_trio.testing import SimDisk

D = "/data/metadata"
HEADER = JournalHeader(b"i" * 16, 5)


def batch(body: bytes, first: int = 6, position: int = BATCHES_START) -> bytes:
    """A batch with this body, whose sum is right."""
    tied = struct.pack("<IQQI", len(body), first, position, HEADER.tie)
    return struct.pack("<IQI", len(body), first, crc32(tied + body)) + body


def put(key: bytes, ttl: float = 0.0, value: bytes = b"v") -> bytes:
    return struct.pack("<HId", len(key), len(value), ttl) + key + value


def delete(key: bytes) -> bytes:
    return struct.pack("<H", len(key)) + key


def change(*puts: bytes, deletes: Iterable[bytes] = ()) -> bytes:
    gone = list(deletes)
    return struct.pack("<HH", len(puts), len(gone)) + b"".join(puts) + b"".join(gone)


def directory(
    batches: bytes,
    *,
    snapshot: bytes | None = None,
    header: JournalHeader = HEADER,
    mark: Mark | None = None,
) -> SimDisk:
    """A directory with one entry, /a, of revision 3, and these batches below the mark."""
    disk = SimDisk()
    disk.make_dir(D)
    if snapshot is None:
        entries = [("/a", Entry(b"1", 3, None, None))]
        snapshot = encode_snapshot(header.directory_id, header.base, entries)
    mark = mark or Mark(2, BATCHES_START + len(batches), header.base + 1)
    disk.write_file(f"{D}/metadata.snapshot", snapshot)
    disk.write_file(f"{D}/metadata.{header.base:020d}.journal", header.encode(mark) + batches)
    return disk


async def opened(disk: SimDisk) -> list[str]:
    async with open_metadata_directory(D, disk=disk) as store:
        await store.put("/new", b"")
        return [entry.key for entry in await store.list_entries("/")]


async def test_what_is_forged_here_would_open_if_it_were_right() -> None:
    body = change(put(b"/b", 1.0), put(b"/c"), deletes=[delete(b"/a")])
    assert await opened(directory(batch(body))) == ["/b", "/c", "/new"]


BODIES = {
    "no change": struct.pack("<HH", 0, 0),
    "a key that is none": change(put(b"relative")),
    "an empty key": change(put(b"")),
    "a key with a zero": change(put(b"/\0")),
    "a key that is no text": change(put(b"/\xff")),
    "half of a surrogate pair": change(put("/\ud800".encode("utf-8", "surrogatepass"))),
    "a key that is too long": change(put(b"/" * 5000)),
    "a time that is no number": change(put(b"/b", math.nan)),
    "an endless time": change(put(b"/b", math.inf)),
    "a time of 1e308": change(put(b"/b", 1e308)),
    "a time below 0": change(put(b"/b", -1.0)),
    "a time that is too short": change(put(b"/b", 5e-324)),
    "one key twice": change(put(b"/b"), put(b"/b")),
    "one key put and deleted": change(put(b"/a"), deletes=[delete(b"/a")]),
    "one key deleted twice": change(deletes=[delete(b"/a"), delete(b"/a")]),
    "a delete of nothing": change(deletes=[delete(b"/none")]),
    "more puts than there are": struct.pack("<HH", 65535, 0) + put(b"/b"),
    "more deletes than there are": struct.pack("<HH", 0, 65535) + delete(b"/a"),
    "a value that is cut off": struct.pack("<HH", 1, 0)
    + struct.pack("<HId", 2, 1 << 31, 0)
    + b"/b",
    "half a change": b"\1",
    "text": b'{"puts": [[[[[[1e999]]]]]]}' * 20,
    "nested": b"[" * 100_000,
    "zeros": bytes(1000),
}


@pytest.mark.happens
@pytest.mark.parametrize("name", BODIES)
async def test_a_forged_batch_is_damage_and_nothing_is_changed(name: str) -> None:
    disk = directory(batch(BODIES[name]))
    before = disk.tree()
    with pytest.raises(CorruptDataError, match="Nothing was changed"):
        await opened(disk)
    assert {path: data for path, data in disk.tree().items() if path in before} == before


@pytest.mark.parametrize("name", BODIES)
async def test_a_forged_batch_above_the_mark_is_a_torn_tail(name: str) -> None:
    good = batch(change(put(b"/b")))
    bad = batch(BODIES[name], 7, BATCHES_START + len(good))
    mark = Mark(2, BATCHES_START + len(good), 6)
    assert await opened(directory(good + bad, mark=mark)) == ["/a", "/b", "/new"]


@pytest.mark.parametrize(
    "mark",
    [
        Mark(2, 0, 6),
        Mark(2, 512, 6),
        Mark(2, (1 << 64) - 1, 6),
        Mark((1 << 64) - 2, BATCHES_START, 5),
        Mark(2, BATCHES_START, (1 << 64) - 1),
    ],
    ids=str,
)
async def test_a_forged_mark_is_damage(mark: Mark) -> None:
    with pytest.raises(CorruptDataError):
        await opened(directory(batch(change(put(b"/b"))), mark=mark))


@pytest.mark.parametrize("base", [0, 1 << 62, (1 << 64) - 1])
async def test_a_base_that_no_store_reaches_is_damage(base: int) -> None:
    header = attrs.evolve(HEADER, base=base)
    with pytest.raises(CorruptDataError):
        await opened(directory(b"", header=header, mark=Mark(2, BATCHES_START, base)))


def entry(key: bytes, revision: int = 3, ttl: float = 0.0) -> bytes:
    return struct.pack("<HIQd", len(key), 1, revision, ttl) + key + b"v"


ENTRIES = {
    "a key that is none": [entry(b"relative")],
    "a key that is no text": [entry(b"/\xff")],
    "a revision of 0": [entry(b"/a", 0)],
    "a revision above the snapshot's": [entry(b"/a", 6)],
    "a time that is no number": [entry(b"/a", ttl=math.nan)],
    "an endless time": [entry(b"/a", ttl=math.inf)],
    "one key twice": [entry(b"/a"), entry(b"/a", 4)],
    "no order": [entry(b"/b"), entry(b"/a")],
    "an entry that is cut off": [entry(b"/a")[:-1]],
    "nonsense": [b"[" * 1000],
}


@pytest.mark.parametrize("name", ENTRIES)
@pytest.mark.parametrize("more", [0, 1 << 60], ids=["count", "huge count"])
async def test_a_forged_snapshot_is_damage_and_nothing_is_changed(name: str, more: int) -> None:
    body = b"".join(ENTRIES[name])
    head = struct.pack(
        *("<8sI16sQQQI", b"DTRMSNP\n", 1, HEADER.directory_id, HEADER.base),
        *(len(ENTRIES[name]) + more, len(body), crc32(body)),
    )
    snapshot = head + struct.pack("<I", crc32(head)) + body
    disk = directory(b"", snapshot=snapshot, mark=Mark(2, BATCHES_START, HEADER.base))
    before = disk.tree()
    with pytest.raises(CorruptDataError, match="Nothing was changed"):
        await opened(disk)
    assert {path: data for path, data in disk.tree().items() if path in before} == before


async def test_garbage_of_every_kind_raises_documented_errors_only() -> None:
    good = directory(batch(change(put(b"/b"))))
    journal = f"{D}/metadata.{HEADER.base:020d}.journal"
    kinds = [b"", b"\0" * 5000, b"[" * 100_000, b'{"revision": 1e999}', b"<html>404</html>" * 200]
    for path in (journal, f"{D}/metadata.snapshot"):
        whole = good.read_file(path)
        for garbage in [*kinds, *(whole[:n] + kind for n in (8, 12, 40, 600) for kind in kinds)]:
            if garbage == whole:
                continue
            disk = directory(batch(change(put(b"/b"))))
            disk.write_file(path, garbage)
            with pytest.raises(DanubeError):
                await opened(disk)
