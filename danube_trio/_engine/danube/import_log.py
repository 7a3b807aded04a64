"""Danube's messages into a log of ours, whole or not at all.

::

    TARGET.importing.json   what is being imported: written first, removed last
    TARGET.importing/       the log, while it is built and read back
    TARGET/                 the log, by one rename, when every record of it has been read back

So `TARGET` is never a log that is only half there. An import that was interrupted goes on where it
stopped: the source is read again from its beginning, and what the log has already is not appended
again. Whether it is the same source as before is asked of its files' names and sizes; whether every
byte is as it must be is found out at the end, when all records are read back from the disk and
compared, by a SHA-256 over their encoded bodies, with what was read from the source.

**Offsets.** Records without a gap, of one history, keep their offsets, wherever these begin:
cursors that consumers stored stay right. In any other case there are no offsets without holes that
are also the old ones, and all records are numbered from 0; `Plan.stretches` says which became
which.

**Times.** A record's append time, which `--from @TIME` and retention by age use, is the message's
publish time, as far as it can be believed: in the unit that its size suggests, never later than
now, and made monotone. Batches have one time, that of their latest message.

**Layout.** The log is written in the newest layout, which can hold all that the older ones say, but
for the `segment_id` of the first.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from typing import Any, Final

import attrs

from danube_trio._core.codec import CODECS, DEFAULT_CODEC
from danube_trio._core.disk import (
    Disk,
    name_of,
    parent_of,
    put_in_place,
    read_if_there,
    replace_file,
)
from danube_trio._core.files import Meta, Trim, encode_document, encode_trim
from danube_trio._core.frame import MAX_BODY_BYTES
from danube_trio._core.segment import LogNames
from danube_trio._core.times import seconds_of_any_unit
from danube_trio._engine.care.restore_files import check_target
from danube_trio._engine.care.verify_segment import ignore
from danube_trio._engine.danube.source import DanubeSource
from danube_trio._engine.log.open import open_wal
from danube_trio._engine.read.source import StartPosition
from danube_trio.config import WalConfig
from danube_trio.errors import CorruptDataError
from danube_trio.message import StreamMessage

STAGING: Final = ".importing"
NOTE: Final = ".importing.json"
NOTE_LIMIT_BYTES = 64 << 20
MAKER: Final = "an import"
# Danube's producers may be configured for larger messages than its default of 10 MiB.
LARGEST_MESSAGE_BYTES = 60 << 20

_LENGTH = struct.Struct("<I")


@attrs.frozen
class Plan:
    """What an import will do.

    Attributes:
        source: surveyed.
        first: the offset of the first record in the log.
        keeps_offsets: all records keep theirs.
    """

    source: DanubeSource
    first: int
    keeps_offsets: bool

    @property
    def end(self) -> int:
        """The offset after the last record in the log."""
        return self.first + self.source.records

    def stretches(self) -> list[dict[str, int]]:
        """Which offsets become which."""
        return [
            {
                "generation": stretch.generation,
                "start": stretch.start,
                "end": stretch.end,
                "new_start": self.first + stretch.number,
                "new_end": self.first + stretch.number + stretch.end - stretch.start,
            }
            for stretch in self.source.stretches()
        ]


@attrs.frozen
class Imported:
    """What was imported, and read back.

    Attributes:
        records: how many the log holds.
        resumed: how many of them an import before had left.
        sha256: over the encoded bodies, each after its length.
    """

    records: int
    resumed: int
    sha256: str


def plan_import(source: DanubeSource) -> Plan:
    """Decide about the offsets; the source has been surveyed."""
    stretches = source.stretches()
    keeps = len(stretches) <= 1
    first = stretches[0].start if keeps and stretches else 0
    return Plan(source, first, keeps)


async def import_log(
    disk: Disk,
    plan: Plan,
    target: str,
    *,
    clock: Callable[[], float] = time.time,
    progress: Callable[[int], object] = ignore,
) -> Imported:
    """Make the log `target`, an absolute path. `progress` is called with payload bytes, twice each.

    Raises CorruptDataError if the source changes meanwhile or the log is not what was written,
    ValueError if another import was interrupted here, and as `open_wal` and `append_batch` do.

    Cancellation: what is done so far stays in `TARGET.importing`, for the next import.
    """
    staging = target + STAGING
    await disk.run(_begin, disk, plan, target)
    config = WalConfig(
        dir=staging,
        codec=DEFAULT_CODEC,
        max_message_bytes=LARGEST_MESSAGE_BYTES,
        max_atomic_batch_bytes=MAX_BODY_BYTES,
        max_pending_bytes=8 << 20,  # a few batches, which keep the disk busy
        cache_bytes=1 << 20,  # nobody reads meanwhile
    )
    resumed, digest = await _fill(disk, config, plan, clock, progress)
    await _compare(disk, config, plan, digest, progress)
    await disk.run(_publish, disk, target)
    return Imported(plan.source.records, resumed, digest)


def _publish(disk: Disk, target: str) -> None:
    """The log is whole: give it its name."""
    check_target(disk, target, MAKER)  # again: all this took its time
    disk.rename(target + STAGING, target)
    # Before the note goes: a log under the old name and no note would be refused as nobody's.
    disk.sync_dir(parent_of(target))
    disk.unlink(target + NOTE)
    disk.sync_dir(parent_of(target))


def _begin(disk: Disk, plan: Plan, target: str) -> None:
    """Make the directory in which the log is built, or see that it is the one of this import."""
    check_target(disk, target, MAKER)
    staging, note = target + STAGING, target + NOTE
    files = [[os.path.abspath(file.path), file.size] for file in plan.source.files.files]
    stretches = plan.stretches()
    mine = json.dumps({"files": files, "first": plan.first, "stretches": stretches}).encode()
    disk.make_dir(parent_of(target))
    theirs = read_if_there(disk, note, NOTE_LIMIT_BYTES)
    if theirs is None:
        _refuse_unknown(disk, staging)
        replace_file(disk, note, mine)
    elif theirs != mine:
        raise ValueError(
            f"an import of something else into {target} was interrupted: finish it with the same "
            f"source and options, or remove {staging} and {note}"
        )
    disk.make_dir(staging)
    names = LogNames.of(staging, "wal.log")
    if name_of(names.meta) not in disk.list_dir(staging):
        _prepare(disk, names, plan.first)


def _refuse_unknown(disk: Disk, staging: str) -> None:
    with suppress(FileNotFoundError):
        disk.list_dir(staging)  # also if it is empty: somebody made it
        raise ValueError(f"{staging} is there, and no import says what it is: remove it first")


def _prepare(disk: Disk, names: LogNames, first: int) -> None:
    """An empty log that begins at `first`. The format description comes last and makes it one."""
    if first:
        put_in_place(disk, names.segment(first), b"")
        replace_file(disk, names.trim, encode_trim(Trim(first)))
    meta = Meta(directory_id=uuid.uuid4().hex, codec=DEFAULT_CODEC)
    replace_file(disk, names.meta, encode_document(meta))


# ---- filling


class _Times:
    """The clock of the log while it is filled: the publish time of what is being appended."""

    def __init__(self, first: int, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.now: float = clock()
        if first:
            self.now = min(self.now, seconds_of_any_unit(first))

    def __call__(self) -> float:
        return self.now

    def of_batch(self, messages: list[StreamMessage]) -> None:
        """Move on to these messages."""
        latest = max(seconds_of_any_unit(message.publish_time) for message in messages)
        self.now = max(self.now, min(latest, self._clock()))


async def _fill(
    disk: Disk,
    config: WalConfig,
    plan: Plan,
    clock: Callable[[], float],
    progress: Callable[[int], object],
) -> tuple[int, str]:
    """Append what is not there yet. Returns how many records were there, and the SHA-256 of all."""
    times = _Times(plan.source.publish_time, clock)
    digest = hashlib.sha256()
    # These times are no clock's: none is too far ahead of another.
    config = attrs.evolve(config, max_clock_ahead=1e10)
    async with open_wal(config, disk=disk, clock=times) as wal:
        if not plan.first <= wal.next_offset <= plan.end:
            raise ValueError(
                f"{config.dir} holds records up to {wal.next_offset}, more than the source: "
                "remove it and import again"
            )
        resumed = wal.next_offset - plan.first
        offset = plan.first
        with closing(plan.source.batches()) as batches:
            while batch := await disk.run(_next_batch, batches, digest, offset):
                new = batch[max(0, wal.next_offset - offset) :]
                offset += len(batch)
                if new:
                    times.of_batch(new)
                    first = offset - len(new)
                    await wal.append_batch(new, durability="accepted", expected_offset=first)
                progress(sum(len(message.payload) for message in batch))
        await wal.flush()
    if offset != plan.end:
        raise CorruptDataError(
            f"{plan.end - plan.first} records were surveyed, and {offset - plan.first} were read",
            path=plan.source.files.directory,
            advice="Stop the program that writes there, or copy the directory, and import again",
        )
    return resumed, digest.hexdigest()


def _next_batch(
    batches: Iterator[list[StreamMessage]], digest: Any, offset: int
) -> list[StreamMessage]:
    """The next messages, as the log can hold them; adds the bodies that they must have there."""
    codec = CODECS[DEFAULT_CODEC]
    uint = codec.encode_uint
    batch = next(batches, list[StreamMessage]())
    for number, message in enumerate(batch, offset):
        message.msg_id.segment_id = 0
        head, payload, tail = codec.encode_parts(message)
        body = b"".join((head, uint(number), uint(len(payload)), payload, tail))
        digest.update(_LENGTH.pack(len(body)))
        digest.update(body)
    return batch


async def _compare(
    disk: Disk, config: WalConfig, plan: Plan, expected: str, progress: Callable[[int], object]
) -> None:
    """Read everything back from the disk."""
    digest = hashlib.sha256()
    offset = plan.first
    async with (
        open_wal(config, disk=disk) as wal,
        wal.reader(StartPosition.earliest(), end="current", raw=True) as reader,
    ):
        start = wal.start_offset
        async for batch in reader.batches():
            for record in batch:
                assert record.offset == offset, (record.offset, offset)
                digest.update(_LENGTH.pack(len(record.body)))
                digest.update(record.body)
                offset += 1
            progress(plan.source.payload_bytes * len(batch) // plan.source.records)
    if (start, offset, digest.hexdigest()) != (plan.first, plan.end, expected):
        raise CorruptDataError(
            f"records {start} to {offset} were read back, and they are not the {plan.first} to "
            f"{plan.end} that were imported",
            path=config.dir,
            advice="Remove this directory and import again; the source was not changed",
        )
