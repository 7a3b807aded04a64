"""What stands in a file that Danube's engine wrote: frames, and bytes that are none.

Such a file is read with everything in mind that the engine does to it. It appends behind a torn
tail without cutting it, starts at offset 0 again after a restart, never syncs, and leaves zeros
where a crash took the data. So a walk expects no offset, and no end at the first bad byte: it gives
every frame that is whole, with whatever offset it claims, and every stretch of bytes that is not,
so that each byte of the file is in exactly one item. What the offsets mean is for `order`.

Behind damage the next frame is looked for at every byte. A match by chance is ruled out by three
checks, cheapest first: a length within limits, the first fields of a message, the CRC. One more is
needed because a payload may itself hold frames (a copy of a log, say): where the damaged frame's
own header leads to a frame, or to the end of the file, nothing inside its body counts, unless it
leads to the same place frame by frame, which is what appending behind a torn tail looks like.

There are three formats:

=========  ==============================================  =========================================
format     a frame                                         found in
=========  ==============================================  =========================================
frames     offset u64, length u32, CRC-32 u32, body        ``wal*.log``; ``.dnb1`` since 2025-10-01
records    offset u64, length u32, body                    ``.dnb1`` before, after a header of 9
segment    the message alone, one after the other          ``segment_<id>.bin``, the first engine
=========  ==============================================  =========================================

Only the first has a CRC. In the others damage is noticed where a message no longer decodes, and a
changed payload is not noticed at all.

Synchronous code over the `Disk` interface. Memory is bounded by two windows, or one frame if that
is larger.
"""

from __future__ import annotations

import errno
import re
import struct
from collections.abc import Iterator, Sequence
from typing import Final, Literal, NamedTuple

import attrs

from danube_trio._core.bincode import DecodeError, Reader
from danube_trio._core.codec import CODECS
from danube_trio._core.crc import crc32
from danube_trio._core.disk import File
from danube_trio._core.frame import MAX_BODY_BYTES
from danube_trio._core.layout import LAYOUTS, Layout

Format = Literal["frames", "records", "segment"]

CHUNK_BYTES = 1 << 20
# The next frame is mostly near; where it is not, larger steps are quicker.
FIRST_WINDOW_BYTES = 64 << 10
WINDOW_BYTES = 4 << 20
# How far into a body its first fields are looked for; a topic's name is never that long.
PEEK_BYTES = 8 << 10
LEAST_BODY_BYTES: Final = min(codec.min_body_bytes for codec in CODECS.values())

_FRAME = struct.Struct("<QII")
_RECORD = struct.Struct("<QI")
_HEADERS: Final = {"frames": _FRAME, "records": _RECORD}


class Frame(NamedTuple):
    """A whole frame: its offset as the header says, where it is in the file, its body."""

    offset: int
    position: int
    stop: int
    body: bytes


@attrs.frozen
class Damage:
    """Bytes `[position, stop)` of the file that are no frame.

    Attributes:
        reason: why not.
        zeros: all of them are zero.
    """

    position: int
    stop: int
    reason: str
    zeros: bool = False


def layouts_of(codecs: Sequence[str]) -> list[Layout]:
    """The layouts of these codecs, one of each kind that begins alike."""
    found = {
        (layout.wire.name, layout.has_segment_id): layout
        for layout in LAYOUTS
        if layout.name in codecs
    }
    return list(found.values())


class Walk:
    """Iterates over a file's `Frame`s and `Damage`, in the order of their positions.

    Attributes:
        position: up to where the file has been given out.
    """

    def __init__(self, file: File, position: int, size: int, layouts: Sequence[Layout]) -> None:
        self._file = file
        self._size = size
        self._layouts = layouts
        self.position: int = position

    def __iter__(self) -> Iterator[Frame | Damage]:
        raise NotImplementedError

    def _read(self, position: int, size: int) -> bytes:
        """Up to `size` bytes; fewer only at the end. A file that became shorter is an error."""
        size = min(size, self._size - position)
        data = self._file.read_at(size, position)
        if len(data) < size:
            raise OSError(errno.EIO, "a read gave less than the file had", self._file.path)
        return data

    def _zeros_until(self, position: int) -> int:
        """The position of the first byte from `position` on that is not zero, or the end."""
        while position < self._size:
            data = self._read(position, CHUNK_BYTES)
            if stripped := data.lstrip(b"\0"):
                return position + len(data) - len(stripped)
            position += len(data)
        return position


class FrameWalk(Walk):
    """The walk for the formats "frames" and "records"."""

    def __init__(
        self,
        file: File,
        position: int,
        size: int,
        layouts: Sequence[Layout],
        format_: Format = "frames",
        *,
        chunk_bytes: int = CHUNK_BYTES,
    ) -> None:
        super().__init__(file, position, size, layouts)
        self._header = _HEADERS[format_]
        self._has_crc = format_ == "frames"
        self._chunk = chunk_bytes
        self._uppers = {0}
        self._reason = ""

    def __iter__(self) -> Iterator[Frame | Damage]:
        while self.position < self._size:
            yield from self._good()
            if self.position < self._size:
                damage = self._damage()
                self.position = damage.stop
                yield damage

    def _good(self) -> Iterator[Frame]:
        """Frames up to the first thing that is none; `_reason` says why that is none."""
        want = self._chunk
        while self.position < self._size:
            start = self.position
            data = self._read(start, want)
            at, need = 0, 0
            while need == 0:
                found = self._frame_in(data, at)
                if isinstance(found, str):
                    self._reason = found
                    return
                offset, end = found
                if end > len(data):
                    need = end - at
                    break
                self._uppers.add(offset >> 32)
                begin = at + self._header.size
                at = end
                self.position = start + end
                yield Frame(offset, start + begin - self._header.size, start + end, data[begin:end])
            if self.position + need > self._size:
                self._reason = "the frame reaches beyond the end of the file"
                return
            want = max(self._chunk, need)

    def _frame_in(self, data: bytes, at: int) -> tuple[int, int] | str:
        """`(offset, end)` of the frame at `at`, checked if it is all there; or why it is none."""
        begin = at + self._header.size
        if begin > len(data):
            return 0, begin
        offset, length, *crc = self._header.unpack_from(data, at)
        if not LEAST_BODY_BYTES <= length <= MAX_BODY_BYTES:
            if not length:
                return "zeros instead of a frame" if not offset else "the length is 0"
            limits = f"{LEAST_BODY_BYTES} to {MAX_BODY_BYTES}"
            return f"the length {length} is not one that a message can have ({limits})"
        end = begin + length
        if end <= len(data):
            body = data[begin:end]
            if self._has_crc:
                if crc32(body) != crc[0]:
                    return "the body does not match its CRC"
            elif not self._decodes(body):
                return "the body is not a message"
        return offset, end

    def _decodes(self, body: bytes) -> bool:
        """Stands in for a CRC: every byte is where a message must have it."""
        for layout in self._layouts:
            try:
                CODECS[layout.name].decode(body, strict=True)
            except DecodeError:
                continue
            return True
        return False

    # ---- damage

    def _damage(self) -> Damage:
        """What is at `position`, which is no frame, up to the next one."""
        position, reason = self.position, self._reason
        zeros = position
        if not any(self._read(position, self._header.size)):
            zeros = self._zeros_until(position)
        if zeros == self._size:
            return Damage(position, zeros, "zeros up to the end of the file", zeros=True)
        declared = self._declared_end(position)
        found = self._search(max(position + 1, zeros - self._header.size), declared)
        if found is None:
            found = declared if declared is not None else self._size
        return Damage(position, found, reason, zeros=found <= zeros)

    def _declared_end(self, position: int) -> int | None:
        """Where the bad frame's header says that it ends, if that is a place where one may end."""
        head = self._read(position, self._header.size)
        if len(head) < self._header.size:
            return None
        length = self._header.unpack(head)[1]
        end: int = position + self._header.size + length
        if not LEAST_BODY_BYTES <= length <= MAX_BODY_BYTES or end > self._size:
            return None
        return end if end == self._size or self._whole_at(end) is not None else None

    def _search(self, position: int, declared: int | None) -> int | None:
        """The next frame from `position` on; before `declared` only one that leads there."""
        end = self._size if declared is None else declared
        pattern, window = self._pattern(), FIRST_WINDOW_BYTES
        while position + self._header.size <= end:
            data = self._read(position, min(window, end - position))
            window = min(4 * window, WINDOW_BYTES)
            last = position + len(data) >= end
            stop = len(data) if last else len(data) - self._header.size
            for match in pattern.finditer(data, 0, len(data)):
                at = match.start()
                if at >= stop:
                    break
                if self._whole_at(position + at) is None:
                    continue
                if declared is None or self._leads_to(position + at, declared):
                    return position + at
            if last:
                return None
            position += stop
        return None

    def _pattern(self) -> re.Pattern[bytes]:
        """Matches, without taking it, what can be a header: a likely offset, a possible length.

        The upper half of an offset hardly varies. In zeros nothing matches, so they cost little.
        """
        uppers = sorted({upper + more for upper in self._uppers for more in (0, 1)})[:8]
        choice = b"|".join(re.escape(struct.pack("<I", upper & 0xFFFFFFFF)) for upper in uppers)
        return re.compile(rb"(?s)(?=.{4}(?:" + choice + rb")(?!\0{4}).{3}[\x00-\x08])")

    def _leads_to(self, position: int, end: int) -> bool:
        """Frame follows frame from `position` until exactly `end`."""
        while position < end:
            stop = self._whole_at(position)
            if stop is None:
                return False
            position = stop
        return position == end

    def _whole_at(self, position: int) -> int | None:
        """The end of the frame at `position`, if there is a whole one."""
        data = self._read(position, self._header.size + PEEK_BYTES)
        found = self._frame_in(data, 0)
        if isinstance(found, str) or found[1] > self._size - position:
            return None
        if not self._begins_a_message(data[self._header.size : found[1]], found[1]):
            return None
        if found[1] > len(data):
            found = self._frame_in(self._read(position, found[1]), 0)
            if isinstance(found, str):
                return None
        return position + found[1]

    def _begins_a_message(self, data: bytes, length: int) -> bool:
        for layout in self._layouts:
            reader = layout.wire.reader(data)
            try:
                reader.uint("request_id")
                layout.read_place(reader)
                reader.uint("topic_offset")
                payload = reader.uint("payload")
            except DecodeError:
                continue
            if reader.position + payload <= length:
                return True
        return False


class MessageWalk(Walk):
    """The walk for the format "segment": messages without anything around them.

    The offset of a frame is its number in the file, `first` for the one at `position`. The first
    message that does not decode ends the walk: without lengths, what follows cannot be found.
    """

    def __init__(
        self, file: File, position: int, size: int, layout: Layout, *, first: int = 0
    ) -> None:
        super().__init__(file, position, size, [layout])
        self._layout = layout
        self._number = first

    def __iter__(self) -> Iterator[Frame | Damage]:
        want, start, data = CHUNK_BYTES, self.position, b""
        while self.position < self._size:
            reader = self._layout.wire.reader(data, strict=True)
            at = reader.position = self.position - start
            try:
                _read_message(reader, self._layout)
            except DecodeError as error:
                whole = start + len(data) >= self._size or len(data) > MAX_BODY_BYTES
                if data and whole and not at:
                    yield Damage(self.position, self._size, f"message {self._number}: {error}")
                    self.position = self._size
                    return
                # Perhaps it goes on behind what has been read.
                want = want * 2 if data and not at else CHUNK_BYTES
                start = self.position
                data = self._read(start, want)
                continue
            self.position = start + reader.position
            frame = Frame(self._number, start + at, self.position, data[at : reader.position])
            self._number += 1
            yield frame


def _read_message(reader: Reader, layout: Layout) -> None:
    """Move the reader behind a message."""
    reader.uint("request_id")
    layout.read_place(reader)
    reader.uint("topic_offset")
    reader.blob("payload")
    reader.uint("publish_time")
    layout.read_rest(reader)
