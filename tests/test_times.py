"""Finding a time in a log: exact, whatever is known of them, and without reading through it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from danube_trio import CloudConfig, StartPosition, WalConfig, open_wal
from danube_trio._core.cache import BlockCache
from danube_trio._core.catalog import CatalogState, Descriptor
from danube_trio._core.codec import get_codec
from danube_trio._core.framing import encode_block
from danube_trio._core.index import SparseIndex
from danube_trio._core.segment import LogNames, Segment, SegmentList
from danube_trio._core.stored import StoredObjects
from danube_trio._engine.read.objects import CloudTier
from danube_trio.testing import SimDisk, SimStore

NAMES = LogNames.of("/log", "wal.log")
CONFIG = WalConfig(dir="/log", preallocate_bytes=0, cache_capacity=1, topic_name="/default/t")
Times = list[list[int]]


def segments_of(times: Times, unknown: set[int]) -> SegmentList:
    """One segment for each list, one record for each time; some were never looked at."""
    sealed: list[Segment] = []
    base = 0
    for i, found in enumerate(times):
        known = (0, 0) if i in unknown else (found[0], found[-1])
        sealed.append(Segment(base, base + len(found), 10, *known))
        base += len(found)
    return SegmentList(sealed, base)


TIMES = st.lists(st.lists(st.integers(1, 30), min_size=1, max_size=4).map(sorted), max_size=8)


@given(TIMES, st.integers(1, 31))
def test_the_segment_of_a_time_is_found_also_where_times_fell(times: Times, wanted: int) -> None:
    """From one segment to the next, as logs of earlier versions have it."""
    found = segments_of(times, set()).base_for_time(wanted, 0)
    records = [time for segment in times for time in segment]
    first = next((i for i, time in enumerate(records) if time >= wanted), len(records))
    ends = [0, *(segment.end for segment in segments_of(times, set()))]
    assert found == max(base for base in ends if base <= first)


@given(st.lists(st.integers(1, 30), max_size=20).map(sorted), st.data(), st.integers(1, 31))
def test_nothing_is_passed_where_times_are_not_known(
    records: list[int], data: st.DataObject, wanted: int
) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(1, 19))))
    bounds = [0, *(cut for cut in cuts if cut < len(records)), len(records)]
    times = [records[a:b] for a, b in pairwise(bounds) if a < b]
    unknown = data.draw(st.sets(st.integers(0, 7)))
    some: bool = data.draw(st.booleans())
    active = times.pop() if times and some else []
    found = segments_of(times, unknown).base_for_time(wanted, active[0] if active else 0)
    assert all(time < wanted for time in records[:found])


@given(TIMES, st.integers(1, 31), st.integers(0, 9), st.lists(st.integers(1, 30), max_size=3))
def test_what_changes_in_a_log_changes_the_answer(
    times: Times, wanted: int, dropped: int, more: list[int]
) -> None:
    found = segments_of(times, set())
    found.base_for_time(wanted, 0)
    found.drop_before(dropped)
    if more:
        more.sort()
        base = found.active_base
        found.seal(Segment(base, base + len(more), 10, more[0], more[-1]))
    again = SegmentList(found.sealed(), found.active_base)
    assert found.base_for_time(wanted, 0) == again.base_for_time(wanted, 0)
    assert found.size_bytes == again.size_bytes == 10 * len(again)


def test_the_cache_finds_a_time() -> None:
    codec = get_codec("s5-standard")
    cache = BlockCache(100, 1 << 20, 0)
    assert cache.before_time(5) == 0
    head, tail = codec.encode_head(0, 0, "", ""), codec.encode_uint(0)
    for offset, time in enumerate((10, 20, 20, 30)):
        cache.add(encode_block([(time, [(head, b"x", tail)])], offset, codec.encode_uint))
    assert [cache.before_time(t) for t in (5, 10, 11, 20, 21, 30, 31)] == [0, 0, 0, 0, 2, 2, 3]


# ---- a log whose times fall


async def fallen_log(times: Times) -> SimDisk:
    """A directory as an earlier version left it, when another machine's clock was behind."""
    disk = SimDisk()
    async with open_wal(CONFIG, disk=disk) as wal:
        codec = get_codec(wal.codec)
    for path in (NAMES.segment(0), NAMES.mark):
        disk.unlink(path)
    head = codec.encode_head(0, 0, "", "")
    tail = codec.encode_tail(0, "", None, {}, None, None, None)
    base = 0
    for found in times:
        index = SparseIndex(base)
        for time in found:
            batch = (time, [(head, b"%d" % time, tail)])
            block = encode_block([batch], index.end, codec.encode_uint)
            old = disk.tree().get(NAMES.segment(base), b"")
            disk.write_file(NAMES.segment(base), old + block.data)
            index.add_block(block)
        if found is not times[-1]:
            disk.write_file(NAMES.index(base), index.encode())
        base = index.end
    disk.sync_dir("/log")
    return disk


@pytest.mark.parametrize("where", ["files", "objects"])
async def test_the_first_record_at_or_after_a_time_is_found_also_where_times_fell(
    where: str,
) -> None:
    times = [[10, 20, 30], [5, 6], [25, 40], [7, 8], [60, 61], [50, 70]]
    records = [time for found in times for time in found]
    disk = await fallen_log(times)
    config = attrs.evolve(CONFIG, cloud=CloudConfig(upload_interval=None, keep_local_bytes=0))
    store = SimStore() if where == "objects" else None
    async with open_wal(config, disk=disk, store=store) as wal:
        if store is not None:
            await wal.wait_uploaded(wal.next_offset)
        for wanted in range(1, 75):
            start = StartPosition.timestamp(wanted / 1e6)
            found = [m.msg_id.topic_offset async for m in wal.reader(start, end="current")]
            first = next((i for i, time in enumerate(records) if time >= wanted), len(records))
            assert found == list(range(first, len(records))), wanted


# ---- what it costs


class Counted(tuple[Any, ...]):
    """Counts who looks into it."""

    looks = 0

    def __getitem__(self, key: Any) -> Any:
        Counted.looks += 1
        return super().__getitem__(key)

    def __iter__(self) -> Iterator[Any]:
        Counted.looks += len(self)
        return super().__iter__()


async def test_a_time_is_found_in_many_objects_without_looking_through_their_indexes() -> None:
    entries = 1000
    descriptors: list[Descriptor] = []
    for i in range(200):
        base = i * entries
        index = Counted((base + j, 100 * j, 1 + base + j) for j in range(entries))
        descriptors.append(
            Descriptor(
                base,
                base + entries,
                100 * entries,
                f"o{i}",
                0,
                None,
                0,
                0,
                1 + base,
                base + entries,
                index,
            )
        )
    state = CatalogState(segments=tuple(descriptors), end=200 * entries)

    async def run(*_: object) -> None:
        raise AssertionError

    tier = CloudTier(SimStore(), str, StoredObjects(state), run=run, cache_bytes=1, readahead=0)
    Counted.looks = 0
    for wanted in (1, 2, 77_777, 200 * entries):
        assert tier.before_time(wanted) == max(0, wanted - 2)
    assert tier.before_time(200 * entries + 1) is None
    assert Counted.looks < 4 * 20
