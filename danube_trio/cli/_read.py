"""``danube-trio replay`` and ``tail``: records to stdout."""

from __future__ import annotations

import base64
import contextlib
import errno
import json
import re
import struct
import sys
from collections.abc import AsyncGenerator, Callable
from functools import partial
from operator import attrgetter
from typing import Any

import attrs
import trio

from danube_trio._core.codec import CODECS, Codec
from danube_trio._core.disk import Disk
from danube_trio._core.files import Mark
from danube_trio._core.segment import LogNames
from danube_trio._disk.real import RealDisk
from danube_trio._engine.care.rescue import rescue
from danube_trio._engine.care.verify_segment import preview
from danube_trio._engine.files.directory import look
from danube_trio._engine.read.follow import Follower, open_follower
from danube_trio._engine.read.reader import Reader
from danube_trio._engine.read.replica import Replica, open_replica
from danube_trio._engine.read.source import StartPosition
from danube_trio.cli._input import OPTIONAL, PLACE
from danube_trio.cli._output import NAME, wait_reader_gone
from danube_trio.cli._progress import Bar, open_bar
from danube_trio.cli._say import complain, on_terminal, shown_bytes
from danube_trio.cli._times import time_text
from danube_trio.cli._values import Start
from danube_trio.cli._where import Where
from danube_trio.errors import OffsetTrimmedError
from danube_trio.message import Gap, Record

_LENGTH = struct.Struct("<I")
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_OBEYED = re.compile("[\x7f-\x9f]")  # by terminals; JSON itself escapes what is below a space

# In the order in which they are printed, beside the payload.
_NAMES = (
    *("request_id", "producer_id", "topic_name", "broker_addr", "segment_id", "publish_time"),
    *("producer_name", "subscription_name", "attributes"),
    *("schema_id", "schema_version", "routing_key"),
)
_values_of = attrgetter(*(f"msg_id.{name}" if name in PLACE else name for name in _NAMES))

Format = Callable[[list[Any]], bytes]


@attrs.frozen(kw_only=True)
class _Wanted:
    """What to print: from `start`, or the `last` so many records; at most `count`."""

    start: Start | None = None
    last: int = 0
    until: int | None = None
    count: int | None = None
    follow: bool = False
    as_json: bool = False
    raw: bool = False
    skip_corrupt: bool = False


def print_records(
    directory: str | None, file_name: str, where: Where, codec: str | None = None, **wanted: Any
) -> bool:
    """Run either command; True if damaged records were stepped over."""
    what = _Wanted(**wanted)
    if codec is not None and directory is None:
        raise ValueError("--codec needs DIR: it stands in for its wal.meta")
    if what.as_json and what.raw:
        raise ValueError("--json and --raw exclude each other")
    return trio.run(_print_records, directory, file_name, where, codec, what)


@contextlib.asynccontextmanager
async def _open(
    directory: str | None, file_name: str, where: Where, codec: str | None, *, skip: bool
) -> AsyncGenerator[Follower | Replica]:
    """The log in a directory, with its store beside, or in a store alone."""
    policy: Any = "skip" if skip else "refuse"
    async with contextlib.AsyncExitStack() as stack:
        corner = None
        if where.wanted(directory):
            corner = await stack.enter_async_context(where.open())
        if directory is not None:
            store, catalog = (corner.store, corner.catalog()) if corner is not None else (None,) * 2
            follower = open_follower(
                directory,
                file_name=file_name,
                disk=_without_meta(directory, file_name, codec),
                on_corruption=policy,
                store=store,
                catalog=catalog,
            )
            yield await stack.enter_async_context(follower)
            return
        assert corner is not None
        if skip:
            raise ValueError("--skip-corrupt needs DIR: a store has no way around damage")
        replica = open_replica(corner.store, catalog=corner.catalog())
        yield await stack.enter_async_context(replica)


def _without_meta(directory: str, file_name: str, codec: str | None) -> Disk | None:
    """The directory with the meta that it lost, and a mark behind all that is whole."""
    if codec is None:
        return None
    disk, names = RealDisk(), LogNames.of(directory.rstrip("/") or "/", file_name)
    found = rescue(disk, names, codec)
    if found is None:
        return None
    if found.mark is None:
        directory_found = look(found.seen_on(disk), names, complete=False)
        end = preview(disk, directory_found) if directory_found is not None else None
        if end is not None:
            mark = Mark(1, end.next_offset, end.base, end.size_bytes)
            found = attrs.evolve(found, mark=mark)
    return found.seen_on(disk)


async def _print_records(
    directory: str | None, file_name: str, where: Where, codec: str | None, wanted: _Wanted
) -> bool:
    if sys.stdout is None:
        raise ValueError("stdout is closed: there is nowhere to print to")
    async with _open(directory, file_name, where, codec, skip=wanted.skip_corrupt) as follower:
        # Where the records go to a file, it takes as long as they are many, and nothing is seen.
        to_file = not wanted.follow and sys.stdout.seekable()
        with open_bar("replaying", None, in_bytes=False, wanted=to_file) as bar:
            printer = _Printer(follower, wanted, bar)
            return await (_run_while_read(printer) if wanted.follow else printer.run())


async def _run_while_read(printer: _Printer) -> bool:
    """Print until the end, or until nobody reads it: there may be nothing to print for days."""

    gaps = gone = False

    async def watch() -> None:
        nonlocal gone
        await wait_reader_gone()
        gone = True
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        gaps = await printer.run()
        nursery.cancel_scope.cancel()
    if gone:
        raise BrokenPipeError(errno.EPIPE, "nobody reads it any more", NAME)
    return gaps


@attrs.define(eq=False)
class _Printer:
    follower: Follower | Replica
    wanted: _Wanted
    bar: Bar
    printed: int = 0
    gaps: bool = False

    async def run(self) -> bool:
        """Print everything; True if something was left out."""
        reader = _reader(self.follower, self.wanted)
        while True:
            try:
                await self._print_all(reader)
                return self.gaps
            except OffsetTrimmedError as error:
                if not self.wanted.follow:
                    raise
                self._say_trimmed(error)
                left, start = self.wanted.count, ("offset", error.start_offset)
                left = None if left is None else left - self.printed
                reader = _reader(self.follower, attrs.evolve(self.wanted, start=start, count=left))

    async def _print_all(self, reader: Reader[Any]) -> None:
        out = sys.stdout.buffer
        to_bytes = _format(self.wanted, CODECS[self.follower.codec])
        async with contextlib.aclosing(reader):
            async for batch in reader.batches():
                if not self.printed:
                    self._expect(batch[0])
                self.printed += len(batch)
                self.bar.advance(len(batch))
                if self.wanted.skip_corrupt and any(isinstance(item, Gap) for item in batch):
                    self.gaps = True
                    batch = _without_gaps(batch, keep=self.wanted.as_json)
                out.write(to_bytes(batch))
                if self.wanted.follow:
                    out.flush()
        out.flush()

    def _expect(self, first: Any) -> None:
        start = first.start if isinstance(first, Gap) else first.offset
        until, count = self.wanted.until, self.wanted.count
        total = (self.follower.durable_end if until is None else until) - start
        self.bar.expect(total if count is None else min(total, count))

    def _say_trimmed(self, error: OffsetTrimmedError) -> None:
        """Retention was faster than whoever reads what is printed here: it goes on behind it."""
        self.gaps = True
        complain(
            f"offsets {error.offset} to {error.start_offset} (exclusive) were trimmed before they "
            f"could be printed"
        )
        if self.wanted.as_json:
            gap = Gap(error.offset, error.start_offset, "trimmed")
            sys.stdout.buffer.write(_gap_line(gap).encode())


def _reader(follower: Follower | Replica, wanted: _Wanted) -> Reader[Any]:
    end: Any = None if wanted.follow else "current"
    if wanted.until is not None:
        if wanted.until > follower.durable_end:
            raise ValueError(
                f"--until {wanted.until} is beyond the end of the log, which is "
                f"{follower.durable_end}"
            )
        end = wanted.until
    if wanted.start is None:
        first = max(follower.start_offset, follower.durable_end - wanted.last)
        start = StartPosition.offset(first)
    else:
        start = _position(*wanted.start)
    if wanted.as_json:
        return follower.reader(start, end=end, count=wanted.count, raw=True)
    return follower.reader(start, end=end, count=wanted.count)


def _position(kind: str, value: float) -> StartPosition:
    match kind:
        case "offset":
            return StartPosition.offset(int(value))
        case "timestamp":
            return StartPosition.timestamp(value)
        case _:
            return StartPosition.earliest() if kind == "earliest" else StartPosition.latest()


def _without_gaps(batch: list[Any], *, keep: bool) -> list[Any]:
    """Say what is missing; JSON has it in its place, too."""
    for item in batch:
        if isinstance(item, Gap):
            what = f"offsets {item.start} to {item.end} (exclusive) cannot be read"
            complain(f"{what}: {item.reason}")
    return [item for item in batch if keep or not isinstance(item, Gap)]


# ---- output


def _format(wanted: _Wanted, codec: Codec) -> Format:
    to_bytes: Format = _raw if wanted.raw else _lines
    if wanted.as_json:
        to_bytes = partial(_json_lines, codec)
    return (lambda batch: shown_bytes(to_bytes(batch))) if on_terminal() else to_bytes


def _to_json(fields: dict[str, Any]) -> str:
    text = _encode(fields)
    if text.isascii() and "\x7f" not in text:
        return text
    return _OBEYED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _lines(batch: list[Any]) -> bytes:
    payloads: list[bytes] = [message.payload for message in batch]
    payloads.append(b"")
    return b"\n".join(payloads)


def _raw(batch: list[Any]) -> bytes:
    parts: list[bytes] = []
    for message in batch:
        payload: bytes = message.payload
        parts.append(_LENGTH.pack(len(payload)))
        parts.append(payload)
    return b"".join(parts)


def _json_lines(codec: Codec, batch: list[Any]) -> bytes:
    return "".join([_json_line(item, codec) for item in batch]).encode()


def _gap_line(gap: Gap) -> str:
    return _to_json({"gap": [gap.start, gap.end], "reason": gap.reason}) + "\n"


def _json_line(item: Record | Gap, codec: Codec) -> str:
    if isinstance(item, Gap):
        return _gap_line(item)
    message = codec.decode(item.body)
    fields: dict[str, Any] = {"offset": item.offset, "append_time": time_text(item.append_time)}
    try:
        fields["payload"] = message.payload.decode()
    except UnicodeDecodeError:
        fields["base64"] = base64.b64encode(message.payload).decode()
    # What is not set is left out; an optional field may be set to nothing.
    for name, value in zip(_NAMES, _values_of(message), strict=True):
        if value or (value is not None and name in OPTIONAL):
            fields[name] = value
    return _to_json(fields) + "\n"
