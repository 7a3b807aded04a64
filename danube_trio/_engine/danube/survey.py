"""One pass over a file that Danube wrote: its runs of consecutive records, and what is odd.

A `Run` is a stretch of frames that follow each other in the file and in their offsets, in one
layout. A file in good order is one run. A restart of the engine, damage, an upgrade in between and
frames written out of order each begin another one.

**Which layout** a message has, nothing says. The one of the message before is tried first, then all
that Danube shipped, newest first, strictly, so that nothing fits by chance; with a codec that the
caller names, only that one, and then bytes behind the last field (of a later Danube?) are allowed
and reported.

**Which offset** a frame has, its header says, and nothing protects the header. Since v0.5.0 (S2 and
later) the message repeats the offset, inside the CRC. Where they differ, the offset that continues
the run is right; where neither does, the message's, unless messages in this file disagree with
their headers all the time. In the first layout a lone frame whose header does not fit between its
neighbours in the file, or before the second record, has the offset that is missing there.

Memory is bounded by the runs, of which there may be `MOST_RUNS`, and one chunk of the file.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import Final

import attrs

from danube_trio._core.bincode import DecodeError
from danube_trio._core.codec import CODECS, probe_codec
from danube_trio._core.disk import Disk, File
from danube_trio._engine.care.verify_segment import Finding, Limit, Severity, ignore
from danube_trio._engine.danube.directory import DNB1_HEADER_BYTES, SourceFile
from danube_trio._engine.danube.frames import (
    Damage,
    Frame,
    FrameWalk,
    MessageWalk,
    Walk,
    layouts_of,
)
from danube_trio.errors import CorruptDataError
from danube_trio.message import StreamMessage

# What Danube wrote; the two other layouts must be asked for.
SHIPPED: Final = ("s1-legacy", "s2-legacy", "s2-standard", "s3-standard", "s5-standard")
MOST_RUNS = 100_000
MOST_FINDINGS = 100
HINT_BYTES = 1 << 20
# How far around it in the file an offset that looks missing is searched for.
NEIGHBOURS = 64

_COUNT = struct.Struct("<I")
_SEGMENT_HEADER = struct.Struct("<QQQ")
_SEGMENT_END = struct.Struct("<QQ")


@attrs.define(eq=False)
class Run:
    """Records `[start, end)` in bytes `[position, stop)` of a file.

    Attributes:
        codec: the layout of all of them.
        claimed: the offset in the header of the first.
        hints: `(offset, position)` of some frames, ascending, about a MiB apart.
    """

    file: SourceFile
    codec: str
    claimed: int
    start: int
    end: int
    position: int
    stop: int
    hints: list[tuple[int, int]] = attrs.field(factory=list[tuple[int, int]], repr=False)

    def add(self, stop: int) -> None:
        """One more record, which ends at `stop`."""
        last = self.hints[-1][1] if self.hints else self.position
        if self.stop - last >= HINT_BYTES:
            self.hints.append((self.end, self.stop))
        self.end += 1
        self.stop = stop

    def hint(self, offset: int) -> tuple[int, int]:
        """`(offset, position)` of the last known frame that is not behind `offset`."""
        before = [hint for hint in self.hints if hint[0] <= offset]
        return before[-1] if before else (self.start, self.position)


def open_walk(
    file: File,
    source: SourceFile,
    codecs: Sequence[str],
    *,
    position: int | None = None,
    stop: int | None = None,
    first: int = 0,
) -> Walk:
    """The walk over a file, or over the whole frames `[position, stop)` of it."""
    start = source.header_bytes if position is None else position
    size = source.size if stop is None else stop
    if source.format == "segment":
        if stop is None:
            size = max(start, size - _SEGMENT_END.size)
        return MessageWalk(file, start, size, CODECS_LAYOUT[codecs[0]], first=first)
    return FrameWalk(file, start, size, layouts_of(codecs), source.format)


CODECS_LAYOUT: Final = {layout.name: layout for name in CODECS for layout in layouts_of([name])}


class FileSurvey:
    """Surveys one file: iterate over it for the findings; afterwards it knows the rest.

    Attributes:
        runs: in the order of their positions.
        records: how many there are in the runs.
        payload_bytes: the size of their payloads.
        dropped_segment_ids: how many messages have a `segment_id`, which newer layouts lack.
        damaged_bytes: how many bytes are neither frames nor zeros.
        publish_time: the first one that is set, or 0.
    """

    def __init__(
        self,
        source: SourceFile,
        codec: str | None = None,
        *,
        begin_with: str = SHIPPED[-1],
        progress: Callable[[int], object] = ignore,
    ) -> None:
        self.runs: list[Run] = []
        self.records = 0
        self.payload_bytes = 0
        self.dropped_segment_ids = 0
        self.damaged_bytes = 0
        self.publish_time = 0
        self.last_codec: str = codec or begin_with
        self._source = source
        self._codec = codec
        self._progress = progress
        self._trailing = 0
        self._disagreed = False

    def run(self, disk: Disk) -> Iterator[Finding]:
        """Read the file. Raises OSError, CorruptDataError if it is all in pieces."""
        source = self._source
        if source.size <= source.header_bytes and source.format == "frames":
            return  # the engine leaves empty files behind when it rotates
        with closing(disk.open(source.path, "r")) as file:
            codecs = (self._codec,) if self._codec is not None else SHIPPED
            if source.format == "segment":
                codecs = (self._segment_codec(file),)
            limit = Limit(MOST_FINDINGS)
            for item in open_walk(file, source, codecs):
                for finding in self._item(item):
                    yield from limit(finding)
            yield from self._heal()
            yield from self._ends(file)

    def _item(self, item: Frame | Damage) -> Iterator[Finding]:
        size = item.stop - item.position
        if isinstance(item, Frame):
            yield from self._frame(item)
        elif item.zeros and item.stop == self._source.size:
            reason = f"{size} zero bytes at the end: what a crash leaves where data was not synced"
            yield self._finding("warning", reason, item.position)
        else:
            self.damaged_bytes += size
            yield self._finding("problem", f"{item.reason}: {size} bytes lost", item.position)
        self._progress(size)

    def _finding(
        self, severity: Severity, reason: str, position: int, offset: int | None = None
    ) -> Finding:
        return Finding(severity, reason, self._source.path, position, offset)

    # ---- frames

    def _frame(self, frame: Frame) -> Iterator[Finding]:
        found = self._decode(frame.body)
        if found is None:
            self.damaged_bytes += frame.stop - frame.position
            reason = "the frame is whole, but the message in it has none of Danube's layouts"
            if self._codec is not None:
                reason = f"the frame is whole, but the message in it is not {self._codec}"
            yield self._finding("problem", reason, frame.position, frame.offset)
            return
        codec, message = found
        run = self.runs[-1] if self.runs and self.runs[-1].stop == frame.position else None
        if codec != self.last_codec and self.runs:
            reason = f"from here on the layout is {codec}, before it is {self.last_codec}"
            yield self._finding("note", reason, frame.position, frame.offset)
        self.last_codec = codec
        expected = run.end if run is not None else None
        offset, reason = self._offset_of(frame.offset, message, codec, expected)
        if reason:
            yield self._finding("warning", reason, frame.position, offset)
        if run is None or codec != run.codec or offset != run.end:
            if len(self.runs) >= MOST_RUNS:
                raise CorruptDataError(
                    f"more than {MOST_RUNS} pieces that do not follow each other",
                    path=self._source.path,
                    advice="Name the right layout with --codec, or leave this file out",
                )
            at = frame.position
            run = Run(self._source, codec, frame.offset, offset, offset, at, at)
            self.runs.append(run)
        run.add(frame.stop)
        self.records += 1
        self.payload_bytes += len(message.payload)
        self.publish_time = self.publish_time or message.publish_time
        self.dropped_segment_ids += message.msg_id.segment_id != 0

    def _decode(self, body: bytes) -> tuple[str, StreamMessage] | None:
        try:
            return self.last_codec, CODECS[self.last_codec].decode(body, strict=True)
        except DecodeError:
            if self._codec is None:
                name = probe_codec([body])
                return None if name is None else (name, CODECS[name].decode(body, strict=True))
        try:
            message = CODECS[self._codec].decode(body)
        except DecodeError:
            return None
        self._trailing += 1
        return self._codec, message

    def _offset_of(
        self, claimed: int, message: StreamMessage, codec: str, expected: int | None
    ) -> tuple[int, str]:
        """The offset of a frame, and a reason if there is doubt; see the module's text."""
        stamp = message.msg_id.topic_offset
        if self._source.format == "segment" or codec.startswith("s1-"):
            return claimed, ""
        before, self._disagreed = self._disagreed, stamp != claimed
        if stamp == claimed:
            return claimed, ""
        if claimed == expected or (stamp != expected and before):
            return claimed, f"the message says that its offset is {stamp}, the header {claimed}"
        return stamp, f"the header says offset {claimed}, the message, which has a CRC, {stamp}"

    def _heal(self) -> Iterator[Finding]:
        """Give lone frames the offset that their neighbours in the file lack; see the text above.

        A lone frame at the start of many whose headers are right was taken for what it says itself.
        """
        runs, healed = self.runs, list[Run]()
        if self._is_misplaced_first():
            reason = f"the header says offset {runs[0].start} before record 1: taken for 0"
            yield self._finding("warning", reason, runs[0].position, 0)
            runs[0].claimed = 0  # which is then found to be right
        i = 0
        while i < len(runs):
            run, after = runs[i], runs[i + 1] if i + 1 < len(runs) else None
            before = healed[-1] if healed else None
            if before is not None and after is not None and self._is_misplaced(i, before, after):
                reason = (
                    f"the header says offset {run.start} between {before.end - 1} and "
                    f"{after.start}: taken for {before.end}"
                )
                yield self._finding("warning", reason, run.position, before.end)
                before.end, before.stop = after.end, after.stop
                before.hints += [(after.start, after.position), *after.hints]
                i += 2
                continue
            if after is not None and _was_claimed_rightly(run, after):
                after.start, after.position = run.claimed, run.position
            else:
                healed.append(run)
            i += 1
        self.runs = healed

    def _is_misplaced_first(self) -> bool:
        if len(self.runs) < 2:
            return False
        run, after = self.runs[:2]
        return (
            run.codec.startswith("s1-")
            and run.position == self._source.header_bytes
            and run.end - run.start == 1
            and run.start != 0
            and (after.start, after.position, after.codec) == (1, run.stop, run.codec)
        )

    def _is_misplaced(self, i: int, before: Run, after: Run) -> bool:
        run = self.runs[i]
        return (
            run.end - run.start == 1
            and {before.codec, run.codec, after.codec} == {run.codec}
            and run.codec.startswith("s1-")
            and before.stop == run.position
            and run.stop == after.position
            and after.start == before.end + 1
            and not any(
                other.start <= before.end < other.end
                for other in self.runs[max(0, i - NEIGHBOURS) : i + NEIGHBOURS]
            )
        )

    # ---- the formats with a header

    def _segment_codec(self, file: File) -> str:
        """The layout under which a segment has as many messages as it says, or reads farthest."""
        if self._codec is not None:
            return self._codec
        header = file.read_at(_SEGMENT_HEADER.size, 0)
        promised = _SEGMENT_HEADER.unpack(header)[2] if len(header) == _SEGMENT_HEADER.size else 0
        scores: dict[str, tuple[bool, int]] = {}
        for name in ("s1-legacy", "s2-legacy"):
            count, position = 0, 0
            for item in open_walk(file, self._source, (name,)):
                if isinstance(item, Frame):
                    count, position = count + 1, item.stop
            scores[name] = (count == promised, position)
        self.last_codec = max(scores, key=lambda name: scores[name])
        return self.last_codec

    def _ends(self, file: File) -> Iterator[Finding]:
        """What the file says about itself against what was found."""
        if self._trailing:
            reason = f"{self._trailing} messages have bytes after the last field of {self._codec}"
            yield self._finding("warning", f"{reason}, which are not kept", 0)
        if self._source.format == "records":
            (count,) = _COUNT.unpack(file.read_at(_COUNT.size, DNB1_HEADER_BYTES - _COUNT.size))
            if count != self.records:
                reason = f"the header promises {count} records, and {self.records} can be read"
                yield self._finding("problem", reason, 5)
        elif self._source.format == "segment":
            yield from self._segment_ends(file)

    def _segment_ends(self, file: File) -> Iterator[Finding]:
        source = self._source
        head = file.read_at(_SEGMENT_HEADER.size, 0)
        if source.size < _SEGMENT_HEADER.size + _SEGMENT_END.size:
            self.damaged_bytes += source.size
            yield self._finding("problem", "the file is shorter than an empty segment", 0)
            return
        count = _SEGMENT_HEADER.unpack(head)[2]
        end = source.size - _SEGMENT_END.size
        size, _ = _SEGMENT_END.unpack(file.read_at(_SEGMENT_END.size, end))
        if count != self.records:
            reason = f"the header promises {count} messages, and {self.records} can be read"
            yield self._finding("problem", reason, 16)
        if size != self.payload_bytes:
            reason = f"payloads of {size} bytes are promised, and {self.payload_bytes} are here"
            yield self._finding("problem", reason, end)


def _was_claimed_rightly(run: Run, after: Run) -> bool:
    return (
        run.claimed != run.start == run.end - 1
        and run.claimed + 1 == after.start
        and (run.codec, run.stop) == (after.codec, after.position)
    )
