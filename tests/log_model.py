"""A model of a whole log: what was sent, what is known about it, and what must be true after all.

The model is a plain list (`payloads`, by offset) and a set of batches of which nobody knows whether
they were accepted, because the log broke or the process died. Whatever a log shows is checked
against it: order, density, atomic batches, append times, and that nothing which somebody was told
or has seen ever disappears.
"""

from __future__ import annotations

from itertools import count
from typing import Literal

import attrs
import trio

from danube_trio import LogBrokenError, Receipt, StartPosition, UnexpectedOffsetError, Wal
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
        self.batches: dict[int, Sent] = {}  # by first offset
        self.unknown: dict[bytes, Sent] = {}  # by first payload
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

    # ---- appending

    def make(self, sizes: list[int]) -> Sent:
        """New payloads; each is unique."""
        payloads = tuple(b"%d." % next(self._serial) + b"x" * size for size in sizes)
        return Sent(payloads, int(self.clock * 1e6))

    async def append(self, wal: Wal, sizes: list[int], level: Durability, expected: bool) -> None:
        """One append, with what its outcome tells."""
        sent = self.make(sizes)
        self.unknown[sent.payloads[0]] = sent
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
            del self.unknown[sent.payloads[0]]  # it was not accepted, and never appears
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
            return None
        assert receipt.offset == offset
        self.accepted(sent, receipt.offsets)
        return receipt

    def accepted(self, sent: Sent, offsets: range) -> None:
        """The log said that it took `sent` at these offsets."""
        assert len(offsets) == len(sent.payloads)
        self.unknown.pop(sent.payloads[0], None)
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

    async def look(self, wal: Wal, part: float) -> None:
        """Read everything that there is in every way; nothing else may be under way."""
        start, end = wal.start_offset, wal.statistics().durable_end
        if self.early:
            end = wal.statistics().written_end
        raw = [r async for r in wal.reader(end="current", raw=True)]
        assert [r.offset for r in raw] == list(range(start, end))
        self.check_times({r.offset: r.append_time for r in raw})
        messages = [m async for m in wal.reader(end="current")]
        assert [m.offset for m in messages] == list(range(start, end))
        for message in messages:
            assert message.msg_id.topic_offset == message.offset
            self.saw(message.offset, message.payload)
        at = start + int(part * (end - start))
        stop = at + (end - at) // 2
        found = [m.offset async for m in wal.reader(StartPosition.offset(at), end=stop)]
        assert found == list(range(at, stop))
        found = [m.offset async for m in wal.reader(StartPosition.offset(at), count=stop - at)]
        assert found == list(range(at, stop))
        if at < end:
            time = raw[at - start].append_time + (int(part * 97) % 3 - 1)
            timed = wal.reader(StartPosition.timestamp(time / 1e6), end="current")
            expected = [r.offset for r in raw if r.append_time >= time]
            assert [m.offset async for m in timed] == expected

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
        found = {m.offset: m.payload async for m in wal.reader(end="current")}
        first, stop = wal.start_offset, wal.next_offset
        assert list(found) == list(range(first, stop))
        offset = first
        kept: dict[int, Sent] = {}
        while offset < stop:  # whole batches only, each one that was sent, once
            payload = found[offset]
            sent = self.batches.get(offset) or self.unknown.pop(payload)
            payloads = tuple(found.get(offset + i) for i in range(len(sent.payloads)))
            assert payloads == sent.payloads, f"at offset {offset}"
            kept[offset] = sent
            offset += len(payloads)
        for at, payload in self.seen.items():
            if at >= first and (at < self.durable or end != "power" or not self.early):
                assert found.get(at) == payload, f"offset {at} was seen, and is not there now"
        self.batches = kept
        self.payloads = {offset: payload for offset, payload in found.items() if offset is not None}
        self.seen = dict(self.payloads)
        self.unknown.clear()
        self.start = first
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
            assert not self.unknown
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
        assert start <= self.start <= max(start, before)
        assert self.start <= wal.statistics().sealed_end
