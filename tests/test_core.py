"""The facts of a log, each alone: index, names, segments, cache, route, retention, counting."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from danube_trio._core.cache import BlockCache
from danube_trio._core.frame import HINT_BYTES, Block
from danube_trio._core.index import SparseIndex
from danube_trio._core.log import Intake, LogState, Marks
from danube_trio._core.meters import Histogram
from danube_trio._core.retention import retained_start
from danube_trio._core.route import Tier, route
from danube_trio._core.segment import LogNames, Segment, SegmentList

# ---- the sparse index

# (records, size in bytes, microseconds since the batch before)
BATCHES = st.lists(
    st.tuples(st.integers(1, 50), st.integers(1, 3 * HINT_BYTES), st.integers(0, 9)), max_size=20
)


def index_of(batches: list[tuple[int, int, int]], base: int = 100) -> SparseIndex:
    index = SparseIndex(base)
    time = 1000
    for count, size, later in batches:
        time += later
        index.add_batch(index.end, index.end + count, size, time, time + 5)
        time += 5
    return index


@given(BATCHES)
def test_an_index_gives_the_last_entry_before_what_is_asked_for(
    batches: list[tuple[int, int, int]],
) -> None:
    index = index_of(batches)
    entries = index.entries()
    assert len(index) == len(entries)
    if batches:
        assert entries[0] == (100, 0, 1000 + batches[0][2])
        assert index.first_time == entries[0][2]
    for offset in range(100, index.end + 1, 7):
        expected = max((e[:2] for e in entries if e[0] <= offset), default=(100, 0))
        assert index.before_offset(offset) == expected
    for time in range(995, index.last_time + 5, 3):
        expected = max((e[:2] for e in entries if e[2] < time), default=(100, 0))
        assert index.before_time(time) == expected
    positions = [position for _, position, _ in entries]
    assert all(b - a >= HINT_BYTES for a, b in pairwise(positions))


@given(BATCHES)
def test_an_index_comes_back_from_its_file(batches: list[tuple[int, int, int]]) -> None:
    index = index_of(batches)
    again = SparseIndex.decode(index.encode(), 100)
    assert again is not None
    assert again.entries() == index.entries()
    for field in ("base", "end", "size_bytes", "last_time"):
        assert getattr(again, field) == getattr(index, field)
    assert SparseIndex.decode(index.encode(), 101) is None


def test_an_index_file_that_is_damaged_anywhere_is_no_index() -> None:
    data = index_of([(5, HINT_BYTES, 1)] * 3).encode()
    for size in range(len(data)):
        assert SparseIndex.decode(data[:size], 100) is None
    assert SparseIndex.decode(data + b"\0", 100) is None
    for bit in range(len(data) * 8):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        assert SparseIndex.decode(bytes(damaged), 100) is None


def test_an_index_takes_hints_from_blocks_and_knows_the_end() -> None:
    index = SparseIndex(7)
    index.add_block(Block(7, 9, b"", (0, 50, 100), 5, 6, [(7, 0, 5)]))
    index.add_block(Block(9, 20, b"", (0, 2 * HINT_BYTES), 7, 8, [(9, 0, 7), (15, HINT_BYTES, 8)]))
    assert index.entries() == [(7, 0, 5), (15, 100 + HINT_BYTES, 8)]
    assert (index.end, index.size_bytes, index.last_time) == (20, 100 + 2 * HINT_BYTES, 8)


# ---- names and segments


def test_all_names_come_from_the_file_name() -> None:
    names = LogNames.of("/d", "orders.v1.log")
    assert names.segment(7) == "/d/orders.v1.00000000000000000007.log"
    assert names.index(7) == "/d/orders.v1.00000000000000000007.idx"
    assert names.cut_bytes(7, 99, "torn") == names.segment(7) + ".99.torn"
    assert names.cut_bytes(7, 99, "corrupt", 2) == names.segment(7) + ".99.2.corrupt"
    small = [names.meta, names.trim, names.mark, names.checkpoint, names.lock]
    assert [path.removeprefix("/d/orders.v1.") for path in small] == [
        "meta",
        "trim",
        "mark",
        "ckpt",
        "lock",
    ]
    assert len(names.segment(2**64 - 1)) == len(names.segment(0))


def test_a_listing_is_sorted_into_what_is_ours_and_what_is_not() -> None:
    names = LogNames.of("/d", "wal.log")
    ours = [f"wal.{n:020d}.log" for n in (200, 9, 9 * 10**18)]
    tmp = ["wal.meta.tmp", "wal.00000000000000000009.idx.tmp"]
    danube = ["wal.log", "wal.1.log", "wal.12.log"]
    other = [
        "wal.log.bak",
        "wal.00000000000000000009.log.5.torn",
        "xwal.00000000000000000001.log",
        "wal.0000000000000000001x.log",
        "wal.000000000000000000001.log",  # 21 digits
        f"wal.{2**63:020d}.log",  # no offset goes so far
        "walX00000000000000000001.log",
        "wal.a.b.tmp",
        "other.tmp",
        "wal.00000000000000000009.idx",
    ]
    listing = [*other, *ours, *tmp, *danube, "orders.meta", "wal.meta"]
    assert names.segment_bases(listing) == [9, 200, 9 * 10**18]
    assert names.leftovers(listing) == tmp
    assert names.other_logs(listing) == ["orders.meta"]


@pytest.mark.parametrize(
    ("file_name", "text"),
    [
        ("wal", "must look like"),
        (".log", "must look like"),
        ("wal.", "must look like"),
        ("..log", "must look like"),
        (".hidden.log", "must look like"),
        ("a/b.log", "separator"),
        ("a\\b.log", "separator"),
        ("a\0.log", "separator"),
        ("wal.idx", "reserved suffix .idx"),
        ("wal.mark", "reserved suffix .mark"),
        ("wal.tmp", "reserved suffix .tmp"),
        ("ä" * 80 + ".log", "longer than 150 bytes"),
    ],
)
def test_a_file_name_that_cannot_serve_is_refused(file_name: str, text: str) -> None:
    with pytest.raises(ValueError, match=text) as caught:
        LogNames.of("/d", file_name)
    assert repr(file_name) in str(caught.value)


def segments(*ends: int) -> SegmentList:
    starts = (0, *ends)
    sealed = [
        Segment(a, b, (b - a) * 10, a, b - 1) for a, b in zip(starts, ends[:-1], strict=False)
    ]
    return SegmentList(sealed, starts[len(sealed)])


def test_a_segment_list_finds_the_segment_of_an_offset() -> None:
    found = segments(10, 15, 30, 31)
    assert [s.end for s in found.sealed()] == [10, 15, 30]
    for offset in range(40):
        segment = found.find(offset)
        assert (segment is None) == (offset >= 30)
        assert segment is None or segment.base <= offset < segment.end
    assert [s.base for s in found.drop_before(10)] == [0]
    with pytest.raises(LookupError, match="offset 9 is before the first segment"):
        found.find(9)
    assert (len(found), found.first_base, found.size_bytes) == (2, 10, 200)


def test_a_segment_list_has_no_holes() -> None:
    with pytest.raises(AssertionError):
        SegmentList([Segment(0, 10, 100)], 11)
    with pytest.raises(AssertionError):
        segments(10, 20).seal(Segment(11, 20, 90))
    empty = SegmentList([], 5)
    assert (len(empty), empty.first_base, empty.find(5)) == (0, 5, None)
    empty.seal(Segment(5, 8, 30))
    assert (empty.first_base, empty.active_base, empty.size_bytes) == (5, 8, 30)


# ---- the marks


MOVES: dict[str, Callable[[Marks], Any]] = {
    "written beyond what was accepted": lambda m: m.written(51),
    "written back": lambda m: m.written(39),
    "durable beyond what was written": lambda m: m.durable(41),
    "durable back": lambda m: m.durable(29),
    "sealed beyond what is durable": lambda m: m.sealed(31),
    "sealed back": lambda m: m.sealed(19),
    "trimmed beyond what is sealed": lambda m: m.trimmed(21),
    "trimmed back": lambda m: m.trimmed(9),
}


def marks() -> Marks:
    made = Marks(10, 20, 30)
    made.accept(20)
    made.written(40)
    return made


@pytest.mark.parametrize("move", MOVES)
def test_a_mark_that_would_leave_the_order_is_a_bug(move: str) -> None:
    with pytest.raises(AssertionError):
        MOVES[move](marks())


def test_marks_move_right() -> None:
    made = marks()
    assert (made.accept(3), made.next_offset) == (50, 53)
    made.written(53)
    made.durable(45)
    made.sealed(45)
    made.trimmed(45)
    assert (made.start_offset, made.uploaded_end, made.sealed_end, made.durable_end) == (45,) * 4
    made.settle_in_memory(47)
    assert (made.start_offset, made.durable_end, made.written_end) == (47, 53, 53)
    made.settle_in_memory(0)
    assert made.start_offset == 47
    assert "start_offset=47" in repr(made)
    with pytest.raises(AssertionError):
        Marks(5, 4, 9)


def test_a_sync_is_due_when_somebody_waits_for_it() -> None:
    state = LogState(marks())
    assert not state.sync_due
    state.want_durable(35)
    state.want_durable(31)
    assert (state.sync_wanted, state.sync_due) == (35, True)
    state.marks.durable(35)
    assert not state.sync_due


# ---- the intake

ONE = [(b"", b"x", b"")]


def test_the_intake_gives_whole_batches_up_to_the_limit_and_at_least_one() -> None:
    intake = Intake(1000, 0)
    for time, size in enumerate((50, 30, 30, 400)):
        intake.put(ONE, size, time)
    assert intake.take(80) == ([(0, ONE), (1, ONE)], 80)
    assert intake.take(0) == ([(2, ONE)], 30)
    assert intake.take(10) == ([(3, ONE)], 400)
    assert intake.take(10) == ([], 0)
    assert (len(intake), intake.queued_bytes, intake.held_bytes) == (0, 0, 510)
    intake.release(510)
    assert (intake.held_bytes, intake.peak_bytes) == (0, 510)


def test_the_intake_makes_time_monotone() -> None:
    intake = Intake(1000, 500)
    for now in (400, 600, 550, 601):
        intake.put(ONE, 1, now)
    assert [time for time, _ in intake.take(99)[0]] == [500, 600, 600, 601]


def test_the_intake_has_room_up_to_its_limit_and_for_anything_when_it_holds_nothing() -> None:
    intake = Intake(100, 0)
    assert intake.has_room(5000)
    intake.put(ONE, 60, 0)
    assert intake.has_room(40)
    assert not intake.has_room(41)
    intake.take(100)
    assert not intake.has_room(41)  # taken is not written
    intake.release(60)
    assert intake.has_room(5000)
    intake.put(ONE, 60, 0)
    intake.discard()
    assert (len(intake), intake.held_bytes, intake.queued_bytes) == (0, 0, 0)


# ---- the cache, the route, retention


def block(start: int, count: int, size: int, time: int = 0) -> Block:
    return Block(start, start + count, bytes(size), tuple(range(count + 1)), time, time)


def test_a_cache_keeps_the_newest_blocks_within_both_bounds() -> None:
    cache = BlockCache(10, 1000, 5)
    assert (cache.start, cache.end, cache.blocks_from(5, 10)) == (5, 5, [])
    for start in (5, 9, 13):
        cache.add(block(start, 4, 100))
    assert (cache.start, cache.end, cache.size_bytes) == (9, 17, 200)
    cache.add(block(17, 1, 950))
    assert (cache.start, cache.size_bytes) == (17, 950)
    cache.add(block(18, 50, 5000))  # the newest stays, whatever its size
    assert (cache.start, cache.end, cache.size_bytes) == (18, 68, 5000)
    cache.trim(67)
    assert cache.start == 18
    cache.trim(68)
    assert (cache.start, cache.end, cache.size_bytes) == (68, 68, 0)


def test_a_cache_gives_blocks_from_an_offset_up_to_about_a_limit() -> None:
    cache = BlockCache(1000, 10_000, 0)
    blocks = [block(i * 3, 3, 100, time=i) for i in range(300)]
    for one in blocks:
        cache.add(one)
    assert cache.start == 600  # by bytes
    assert cache.blocks_from(899, 1) == blocks[-1:]
    assert cache.blocks_from(601, 250) == blocks[200:203]
    assert cache.blocks_from(890, 10**9) == blocks[296:]
    assert cache.blocks_from(599, 10) == cache.blocks_from(900, 10) == []
    with pytest.raises(AssertionError):
        cache.add(block(901, 1, 1))


def test_a_cache_knows_the_last_block_before_a_time_or_else_its_first() -> None:
    cache = BlockCache(1000, 100, 0)
    for i in range(10):
        cache.add(block(i * 3, 3, 20, time=100 + 10 * (i // 2)))
    assert cache.start == 15
    assert [cache.before_time(t) for t in (0, 120, 121, 131, 999)] == [15, 15, 15, 21, 27]
    assert BlockCache(1, 1, 9).before_time(5) == 9


def test_the_route_goes_through_the_tiers_in_order() -> None:
    ends: dict[str, Any] = {"start_offset": 2, "local_start": 4, "cache_start": 6, "visible_end": 8}
    tiers = [route(cursor, **ends) for cursor in range(10)]
    order = (Tier.TRIMMED, Tier.CLOUD, Tier.FILE, Tier.CACHE, Tier.LIVE)
    assert tiers == [tier for tier in order for _ in range(2)]
    assert route(0, start_offset=0, local_start=0, cache_start=0, visible_end=0) is Tier.LIVE


@given(
    st.lists(st.integers(1, 9), max_size=6),
    st.integers(0, 100),
    st.none() | st.integers(0, 300),
    st.none() | st.integers(0, 40),
    st.integers(0, 60),
    st.none() | st.integers(0, 40),
)
def test_retention_frees_the_oldest_segments_while_there_is_a_reason(
    sizes: list[int],
    active: int,
    max_bytes: int | None,
    max_age: int | None,
    now: int,
    floor: int | None,
) -> None:
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    sealed = [
        Segment(e - n, e, n * 10, (e - n) * 10**6, e * 10**6)
        for e, n in zip(ends, sizes, strict=True)
    ]
    start = retained_start(
        sealed, active_bytes=active, max_bytes=max_bytes, max_age=max_age, now=now, floor=floor
    )
    assert start in {0, *ends}  # never into a segment, never the active one
    assert floor is None or start <= floor

    def goes(segment: Segment) -> bool:
        total = sum(s.size_bytes for s in sealed) + active - segment.base * 10
        old = max_age is not None and segment.end < now - max_age
        needed = floor is not None and segment.end > floor
        return not needed and (old or (max_bytes is not None and total > max_bytes))

    kept = [segment for segment in sealed if segment.base >= start]
    assert all(goes(segment) for segment in sealed if segment.base < start)
    assert not kept or not goes(kept[0])


def test_a_log_that_is_just_as_large_as_it_may_be_stays() -> None:
    sealed = [Segment(0, 1, 100, 0, 0), Segment(1, 2, 100, 0, 0)]
    for limit, start in ((250, 0), (249, 1)):
        assert start == retained_start(
            sealed, active_bytes=50, max_bytes=limit, max_age=None, now=0.0
        )


# ---- counting


def test_a_histogram_counts_in_buckets_that_double() -> None:
    histogram = Histogram()
    assert histogram.view().quantile(0.5) == 0.0
    for seconds in (0.0, 15e-6, 17e-6, 0.001, 0.001, 100.0):
        histogram.add(seconds)
    view = histogram.view()
    assert view.total == 6
    assert view.sum == pytest.approx(100.002032)
    assert [view.counts[i] for i in (0, 1, 6, 20)] == [2, 1, 2, 1]
    assert len(view.counts) == len(view.bounds) + 1
    assert view.quantile(0.1) == 16e-6
    assert view.bounds[5] < 0.001 <= view.quantile(0.7) == view.bounds[6]
    assert view.quantile(1.0) == float("inf")


@given(st.floats(0, 1000))
def test_an_event_is_in_the_first_bucket_whose_bound_it_does_not_exceed(seconds: float) -> None:
    histogram = Histogram()
    histogram.add(seconds)
    view = histogram.view()
    expected = next((i for i, bound in enumerate(view.bounds) if seconds <= bound), 20)
    assert view.counts.index(1) == expected
