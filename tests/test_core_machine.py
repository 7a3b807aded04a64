"""The core as a log without tasks and files: a state machine with a plain list as its model.

What the tasks do one after the other in real life is one rule each here, in any order that the
marks allow: accept, write, sync, roll, trim, read.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from danube_trio._core.cache import BlockCache
from danube_trio._core.codec import get_codec
from danube_trio._core.frame import Block, batch_boundaries, frame_time, scan
from danube_trio._core.framing import encode_block
from danube_trio._core.index import SparseIndex
from danube_trio._core.log import Intake, Marks
from danube_trio._core.route import Tier, route
from danube_trio._core.segment import Segment, SegmentList

CODEC = get_codec("s5-standard")
HEAD = CODEC.encode_head(0, 0, "", "")
TAIL = CODEC.encode_tail(0, "", None, {}, None, None, None)
LIMIT = 2000
CACHED_RECORDS, CACHED_BYTES = 12, 1500


@attrs.define(eq=False)
class File:
    """The bytes of a segment, by base."""

    data: bytes = b""
    index: SparseIndex = attrs.Factory(lambda: SparseIndex(0))


class CoreMachine(RuleBasedStateMachine):
    """`payloads` and `times` are the model: everything ever accepted."""

    def __init__(self) -> None:
        super().__init__()
        self.payloads: list[bytes] = []
        self.times: list[int] = []
        self.batch_ends = {0}
        self.clock = 1000
        self.marks = Marks()
        self.intake = Intake(LIMIT, 0)
        self.cache = BlockCache(CACHED_RECORDS, CACHED_BYTES, 0)
        self.segments = SegmentList([], 0)
        self.files = {0: File()}
        self.unsynced: list[Block] = []

    # ---- what the tasks do

    @rule(sizes=st.lists(st.integers(0, 300), min_size=1, max_size=6), later=st.integers(-50, 50))
    def accept(self, sizes: list[int], later: int) -> None:
        self.clock += later
        payloads = [(b"%d." % (len(self.payloads) + i)).ljust(n, b".") for i, n in enumerate(sizes)]
        parts = [(HEAD, payload, TAIL) for payload in payloads]
        size = sum(map(len, payloads)) + 80 * len(payloads)
        room = self.intake.has_room(size)
        assert room == (self.intake.held_bytes + size <= LIMIT or not self.intake.held_bytes)
        if not room:
            return
        assert self.marks.accept(len(parts)) == len(self.payloads)
        self.intake.put(parts, size, self.clock)
        self.payloads += payloads
        self.times += [max(self.clock, *self.times[-1:], 0)] * len(payloads)
        self.batch_ends.add(len(self.payloads))

    @precondition(lambda self: len(self.intake) > 0)
    @rule(limit=st.integers(1, 1500))
    def write(self, limit: int) -> None:
        batches, size = self.intake.take(limit)
        block = encode_block(batches, self.marks.written_end, CODEC.encode_uint)
        file = self.files[self.segments.active_base]
        file.data += block.data
        file.index.add_block(block)
        self.marks.written(block.end)
        self.unsynced.append(block)
        assert self.intake.held_bytes >= size >= block.size_bytes
        self.intake.release(size)

    @rule()
    def sync(self) -> None:
        self.marks.durable(self.marks.written_end)
        for block in self.unsynced:
            self.cache.add(block)
        self.unsynced.clear()

    @precondition(lambda self: not self.unsynced and self.marks.sealed_end < self.marks.durable_end)
    @rule()
    def roll(self) -> None:
        base, end = self.segments.active_base, self.marks.durable_end
        index = self.files[base].index
        times = (index.first_time, index.last_time)
        self.segments.seal(Segment(base, end, len(self.files[base].data), *times))
        self.files[end] = File(index=SparseIndex(end))
        self.marks.sealed(end)

    @rule(part=st.floats(0, 1))
    def trim(self, part: float) -> None:
        start = min(int(part * len(self.payloads)), self.marks.sealed_end)
        if start <= self.marks.start_offset:
            return
        self.marks.trimmed(start)
        self.cache.trim(start)
        for segment in self.segments.drop_before(start):
            del self.files[segment.base]

    # ---- what readers see

    @rule(part=st.floats(0, 1), limit=st.integers(1, 2000))
    def read(self, part: float, limit: int) -> None:
        offset = int(part * (len(self.payloads) + 1))
        tier = route(
            offset,
            start_offset=self.marks.start_offset,
            local_start=self.segments.first_base,
            cache_start=self.cache.start,
            visible_end=self.marks.durable_end,
        )
        assert (tier is Tier.TRIMMED) == (offset < self.marks.start_offset)
        assert (tier is Tier.LIVE) == (offset >= self.marks.durable_end)
        if tier is Tier.CACHE:
            blocks = self.cache.blocks_from(offset, limit)
            assert blocks[0].start <= offset < blocks[0].end
            for block in blocks:
                self.check(block.data, block.positions, block.start)
            assert sum(block.size_bytes for block in blocks[:-1]) < limit
        if tier is Tier.FILE:
            self.read_file(offset)

    def read_file(self, offset: int) -> None:
        segment = self.segments.find(offset)
        base = segment.base if segment is not None else self.segments.active_base
        file = self.files[base]
        start, position = file.index.before_offset(offset)
        assert base <= start <= offset
        assert start in self.batch_ends
        found = scan(file.data, position, start, stop_offset=self.marks.durable_end)
        assert found.reason is None
        assert found.end_offset == (segment.end if segment else self.marks.durable_end)
        self.check(file.data, found.positions, start)

    def check(self, data: bytes, ends: Sequence[int], start: int) -> None:
        end = start + len(ends) - 1
        messages = CODEC.decode_block(data, ends, start, 0, end - start, 17)
        assert [m.payload for m in messages] == self.payloads[start:end]
        assert [m.msg_id.topic_offset for m in messages] == list(range(start, end))
        assert [frame_time(data, at) for at in ends[1:]] == self.times[start:end]
        boundaries = {start + i for i, _ in batch_boundaries(data, ends)}
        assert boundaries == {e for e in self.batch_ends if start < e <= end}

    # ---- what is always true

    @invariant()
    def nothing_is_lost_on_the_way(self) -> None:
        assert self.marks.next_offset == len(self.payloads)
        queued = sum(len(batch.records) for batch in self.intake._queue)
        assert self.marks.written_end + queued == len(self.payloads)
        unsynced = sum(block.end - block.start for block in self.unsynced)
        assert self.marks.durable_end + unsynced == self.marks.written_end
        assert self.cache.end == self.marks.durable_end

    @invariant()
    def everything_is_bounded(self) -> None:
        assert self.intake.peak_bytes <= max(LIMIT, 6 * 380)
        newest = self.cache.blocks_from(self.cache.end - 1, 1)
        if self.cache.start < self.cache.end and newest[0].start > self.cache.start:
            assert self.cache.end - self.cache.start <= CACHED_RECORDS
            assert self.cache.size_bytes <= CACHED_BYTES

    @invariant()
    def segments_follow_each_other(self) -> None:
        ends = [segment.end for segment in self.segments.sealed()]
        bases = [segment.base for segment in self.segments.sealed()]
        assert [*bases[1:], self.segments.active_base][: len(ends)] == ends
        assert set(self.files) == {*bases, self.segments.active_base}
        sizes = [len(self.files[base].data) for base in bases]
        assert self.segments.size_bytes == sum(sizes)
        assert [segment.size_bytes for segment in self.segments.sealed()] == sizes
        for offset in {0, self.marks.start_offset, *bases, *ends, self.marks.next_offset}:
            behind = sum(n for base, n in zip(bases, sizes, strict=True) if base >= offset)
            assert self.segments.size_from(offset) == behind
        assert set(ends) <= self.batch_ends


TestCoreMachine = CoreMachine.TestCase
