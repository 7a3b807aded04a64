"""A model of a whole log: what was sent, what is known about it, and what must be true after all.

The model is a plain list (`payloads`, by offset), and the batches of which nobody knows whether
they were accepted, because the log broke or the process died. Whatever a log shows is checked
against it: order, density, atomic batches, append times, and that nothing which somebody was told
or has seen ever disappears.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from itertools import count
from typing import Literal, cast

import attrs
import trio

from danube_trio import (
    LogBrokenError,
    OffsetTrimmedError,
    Reader,
    Receipt,
    Record,
    StartPosition,
    StreamMessage,
    UnexpectedOffsetError,
    Wal,
)
from danube_trio._core.codec import get_codec
from danube_trio.config import Durability

__all__ = ["End", "Model", "Sent"]

# How a life of the log ended: left; its process killed; the power cut; broken by a fault.
End = Literal["left", "killed", "power", "failed"]


@attrs.frozen(eq=False)
class Sent:
    """A batch that was handed to the log."""

    payloads: tuple[bytes, ...]
    time: int
    """The clock at that moment in microseconds."""


class Model:
    """What is known about one log."""

    def __init__(self) -> None:
        self.clock = 1_000_000.0
        self.payloads: dict[int, bytes] = {}  # accepted, and not trimmed as far as known
        self.batches: dict[int, Sent] = {}  # accepted, by first offset
        self.possible: dict[bytes, Sent] = {}  # accepted, or nobody knows; by each payload
        self.seen: dict[int, bytes] = {}  # what a reader has handed out
        self.start = 0  # the log starts here or later
        self.trimmed = 0  # and here or earlier, unless `retains`
        self.retains = False
        self.written = 0  # told to be written (durable) below these
        self.durable = 0
        self.early = False  # readers see what is written
        self._serial = count()

    def now(self) -> float:
        """The clock of the log."""
        return self.clock

    def copy(self) -> Model:
        """The same knowledge, to go on with elsewhere."""
        other = copy(self)
        for name, value in vars(self).items():
            if isinstance(value, dict):
                setattr(other, name, copy(cast("dict[object, object]", value)))
        return other

    # ---- appending

    def make(self, sizes: list[int]) -> Sent:
        """New payloads; each is unique."""
        payloads = tuple(b"%d." % next(self._serial) + b"x" * size for size in sizes)
        sent = Sent(payloads, int(self.clock * 1e6))
        self.possible |= dict.fromkeys(payloads, sent)
        return sent

    def refused(self, sent: Sent) -> None:
        """It was not accepted, and never appears."""
        for payload in sent.payloads:
            del self.possible[payload]

    async def append(self, wal: Wal, sizes: list[int], level: Durability, expected: bool) -> None:
        """One append, with what its outcome tells."""
        sent = self.make(sizes)
        offset = wal.next_offset if expected else None
        try:
            if len(sizes) == 1:
                first = await wal.append(sent.payloads[0], durability=level, expected_offset=offset)
                offsets = range(first, first + 1)
            else:
                offsets = await wal.append_batch(
                    sent.payloads, durability=level, expected_offset=offset
                )
        except (trio.Cancelled, UnexpectedOffsetError):
            self.refused(sent)
            raise
        self.accepted(sent, offsets)
        if level == "fsync":
            self.told_durable(offsets.stop)
            assert wal.durable_end >= offsets.stop
        if level == "written":
            self.written = max(self.written, offsets.stop)
            assert wal.statistics().written_end >= offsets.stop

    def append_nowait(self, wal: Wal, sizes: list[int]) -> Receipt | None:
        """The same without waiting; None if there was no room."""
        sent = self.make(sizes)
        offset = wal.next_offset
        try:
            if len(sizes) == 1:
                receipt = wal.append_nowait(sent.payloads[0])
            else:
                receipt = wal.append_batch_nowait(sent.payloads)
        except trio.WouldBlock:
            assert wal.next_offset == offset
            self.refused(sent)
            return None
        assert receipt.offset == offset
        self.accepted(sent, receipt.offsets)
        return receipt

    def accepted(self, sent: Sent, offsets: range) -> None:
        """The log said that it took `sent` at these offsets."""
        assert len(offsets) == len(sent.payloads)
        self.batches[offsets.start] = sent
        for offset, payload in zip(offsets, sent.payloads, strict=True):
            assert offset not in self.payloads, "an offset was given twice"
            self.payloads[offset] = payload
            assert self.seen.get(offset, payload) == payload

    def told_durable(self, end: int) -> None:
        self.durable = max(self.durable, end)
        self.written = max(self.written, end)

    # ---- reading

    def saw(self, offset: int | None, payload: bytes) -> None:
        """A reader handed out a record."""
        assert offset is not None
        assert self.payloads.get(offset, payload) == payload
        assert self.seen.get(offset, payload) == payload
        self.seen[offset] = payload
        if not self.early:
            self.told_durable(offset + 1)

    async def all_records(self, wal: Wal) -> dict[int, Record]:
        """Everything that there is, undecoded."""
        start = wal.start_offset
        try:
            records = [r async for r in wal.reader(end="current", raw=True)]
        except OffsetTrimmedError:
            assert self.retains and start < wal.start_offset
            return await self.all_records(wal)
        offsets = [r.offset for r in records]
        assert offsets == list(range(offsets[0], offsets[0] + len(offsets))) if offsets else True
        assert not offsets or start <= offsets[0] <= wal.start_offset
        return {r.offset: r for r in records}

    async def look(self, wal: Wal, part: float) -> None:
        """Read everything in every way; the log is at rest, but for retention."""
        raw = await self.all_records(wal)
        self.check_times({offset: record.append_time for offset, record in raw.items()})
        start, end = min(raw, default=wal.next_offset), wal.next_offset
        assert len(raw) == end - start
        at = start + int(part * (end - start))
        stop = at + (end - at) // 2
        time = max(0, (raw[at].append_time if at in raw else 0) + int(part * 97) % 3 - 1)
        ways: dict[str, Callable[[], Reader[StreamMessage]]] = {
            "all": lambda: wal.reader(StartPosition.offset(start), end="current"),
            "end": lambda: wal.reader(StartPosition.offset(at), end=stop),
            "count": lambda: wal.reader(StartPosition.offset(at), count=stop - at),
            "time": lambda: wal.reader(StartPosition.timestamp(time / 1e6), end="current"),
        }
        expected: dict[str, list[int]] = {
            "all": list(range(start, end)),
            "end": list(range(at, stop)),
            "count": list(range(at, stop)),
            "time": [offset for offset, record in raw.items() if record.append_time >= time],
        }
        for way, open_reader in ways.items():
            try:
                messages = [m async for m in open_reader()]
            except OffsetTrimmedError:
                assert self.retains and start < wal.start_offset
                return
            for message in messages:
                assert message.msg_id.topic_offset == message.offset
                self.saw(message.offset, message.payload)
            found = [m.offset for m in messages]
            if self.retains and way == "time":  # it begins where the log does
                expected[way] = [o for o in expected[way] if o >= min(wal.start_offset, *found)]
            assert found == expected[way], way

    def check_times(self, times: dict[int, int]) -> None:
        """Each is the clock at acceptance, made monotone."""
        before = 0
        sent_at = {
            offset + i: sent.time
            for offset, sent in self.batches.items()
            for i in range(len(sent.payloads))
        }
        for offset in sorted(times):
            if before and offset in sent_at:
                assert times[offset] == max(before, sent_at[offset]), offset
            assert times[offset] >= max(before, sent_at.get(offset, 0)), offset
            before = times[offset]

    # ---- the marks

    def check_marks(self, wal: Wal) -> None:
        """The order of the marks, and what has been promised about each."""
        s = wal.statistics()
        ends = (s.start_offset, s.uploaded_end, s.sealed_end, s.durable_end, s.written_end)
        assert [*ends, s.next_offset] == sorted([*ends, s.next_offset])
        assert s.durable_end >= self.durable
        assert s.start_offset >= self.start
        self.start = s.start_offset
        assert self.retains or self.start <= self.trimmed

    # ---- the next life

    async def recovered(self, wal: Wal, end: End) -> None:
        """The log was opened again: everything that must be there is, and nothing else."""
        self.check_opened(wal, end)
        decode = get_codec(wal._engine.codec.name).decode
        found = {o: decode(r.body).payload for o, r in (await self.all_records(wal)).items()}
        stop = wal.next_offset
        first = min(found, default=stop)
        assert len(found) == stop - first
        self.batches.clear()
        offset = first
        while offset < stop:  # whole batches, each one that was sent
            sent = self.possible[found[offset]]
            done = sent.payloads.index(found[offset])
            assert done == 0 or offset == first  # trimmed up to there
            self.batches[offset - done] = sent
            for payload in sent.payloads[done:]:
                assert found.get(offset) == payload == self.payloads.get(offset, payload)
                offset += 1
        for at, payload in self.seen.items():
            if at >= first and (at < self.durable or end != "power" or not self.early):
                assert found.get(at) == payload, f"offset {at} was seen, and is not there now"
        self.payloads = found
        self.seen = dict(found)
        self.possible = {p: sent for sent in self.batches.values() for p in sent.payloads}
        self.start = wal.start_offset
        self.written = self.durable = stop  # served, so it must stay

    def check_opened(self, wal: Wal, end: End) -> None:
        s = wal.statistics()
        assert s.durable_end == s.written_end == s.next_offset
        assert s.start_offset >= self.start
        assert self.retains or s.start_offset <= self.trimmed
        assert s.next_offset >= self.durable, "what was durable is gone"
        if end != "power":
            assert s.next_offset >= self.written, "what was written is gone"
        accepted = max(self.payloads, default=-1) + 1
        if end == "left":
            assert s.next_offset == max(accepted, self.start)

    async def receipt(self, receipt: Receipt, level: Durability) -> None:
        """Wait for a receipt of this life."""
        if level == "accepted":
            assert await receipt.accepted() == receipt.offsets
        elif level == "written":
            assert await receipt.written() == receipt.offsets
            self.written = max(self.written, receipt.offsets.stop)
        else:
            assert await receipt.durable() == receipt.offsets
            self.told_durable(receipt.offsets.stop)

    async def trim(self, wal: Wal, part: float) -> None:
        """Trim somewhere; the outcome of a failed one is unknown."""
        start = wal.start_offset
        before = start + int(part * (wal.next_offset - start))
        self.trimmed = max(self.trimmed, before)
        try:
            self.start = await wal.trim(before)
        except LogBrokenError:
            self.check_marks(wal)
            raise
        assert start <= self.start
        assert self.retains or self.start <= max(start, before)
        assert self.start <= wal.statistics().sealed_end
