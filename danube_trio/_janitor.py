"""The janitor task: everything about sealed segments that no append has to wait for.

After each roll, and every few seconds: write the index of newly sealed segments and the checkpoint
(hints, rebuilt when missing), make the durability mark itself durable, seal an active segment that
is old enough, and free segments past retention. It owns ``start_offset``.

Freeing is ordered so that a crash anywhere leaves either a whole log or leftovers: the new start
offset becomes durable first; then readers are told; then files go, oldest first; then the directory
is synced. The active segment never goes.
"""

from __future__ import annotations

import logging
from functools import partial

import attrs
import trio

from danube_trio._core.disk import Disk, Lane, replace_file
from danube_trio._core.files import Checkpoint, Trim, encode_document
from danube_trio._core.index import SparseIndex
from danube_trio._core.log import Phase
from danube_trio._core.retention import retained_start
from danube_trio._core.segment import LogNames, Segment
from danube_trio._engine import Engine
from danube_trio._segment_io import load_index
from danube_trio._tail import Tail

__all__ = ["Janitor"]

log = logging.getLogger("danube_trio.janitor")

# A guess: an old mark only costs protection against damage to the newest records, and a power cut
# within these seconds of it.
ROUND_SECONDS = 5.0


class Janitor:
    """The task, and `trim`, which callers may use at any time."""

    def __init__(self, engine: Engine, disk: Disk, names: LogNames, lane: Lane, tail: Tail) -> None:
        self._engine = engine
        self._disk = disk
        self._names = names
        self._lane = lane
        self._tail = tail
        self._lock = trio.Lock()
        self._checkpointed = -1

    async def run(self) -> None:
        """Go round until the log leaves the OPEN phase."""
        engine = self._engine
        while engine.log.phase is Phase.OPEN:
            config = engine.config
            pause = min(ROUND_SECONDS, config.segment_age or ROUND_SECONDS)
            with trio.move_on_after(pause):
                await engine.janitor_bell.wait()
            if engine.log.phase is not Phase.OPEN:
                return
            try:
                await self._lane.run(self._tail.sync_mark)
            except OSError as error:
                engine.break_(error)
                return
            await self.tidy()
            self._age_segment()
            if config.retain_age is not None:
                await self._learn_times()
            now = engine.clock()
            start = retained_start(
                engine.segments,
                active_bytes=engine.active.size_bytes,
                max_bytes=config.retain_bytes,
                max_age=config.retain_age,
                now=now,
            )
            if start > engine.marks.start_offset:
                await self.trim(start)

    async def _learn_times(self) -> None:
        """Find the times of sealed segments that no checkpoint described."""
        engine = self._engine
        for segment in engine.segments.sealed():
            if segment.last_time:
                continue
            load = partial(load_index, trailer=True)
            try:
                index = await self._disk.run(load, self._disk, self._names, segment)
            except OSError as error:
                self._failed(error)
                return
            engine.segments.replace(
                attrs.evolve(segment, first_time=index.first_time, last_time=index.last_time)
            )

    def _failed(self, error: OSError) -> None:
        self._engine.janitor_failures += 1
        log.warning("an index or checkpoint could not be read or written, later again: %s", error)

    def _age_segment(self) -> None:
        """Ask the flusher to seal an active segment that is old enough."""
        engine = self._engine
        age, first = engine.config.segment_age, engine.active.first_time
        if age is not None and first and engine.clock() - first / 1e6 >= age:
            engine.log.roll_wanted = True
            engine.writer_bell.ring()

    async def tidy(self) -> None:
        """Write the hints that are due. A failure here costs a later open some time, no more."""
        engine = self._engine
        try:
            while engine.unindexed:
                index = engine.unindexed[0]
                await self._disk.run(_write_index, self._disk, self._names, index)
                if engine.unindexed and engine.unindexed[0] is index:
                    engine.unindexed.pop(0)
            if self._checkpointed != engine.segments.active_base:
                base = engine.segments.active_base
                checkpoint = Checkpoint.of(base, engine.segments.sealed())
                data = encode_document(checkpoint)
                await self._disk.run(replace_file, self._disk, self._names.checkpoint, data)
                self._checkpointed = base
        except OSError as error:
            self._failed(error)

    async def trim(self, before: int) -> int:
        """Drop everything below `before` that is sealed. Returns the new start offset."""
        engine = self._engine
        async with self._lock:
            start = min(before, engine.marks.sealed_end)
            if start <= engine.marks.start_offset:
                return engine.marks.start_offset
            # From here on not to be interrupted: the durable start and ours must agree.
            with trio.CancelScope(shield=True):
                data = encode_document(Trim(start))
                try:
                    await self._disk.run(replace_file, self._disk, self._names.trim, data)
                    gone = engine.trimmed(start)
                    await self._disk.run(_unlink, self._disk, self._names, gone)
                except OSError as error:
                    engine.break_(error)
                    raise engine.refusal() from error
            return start


def _write_index(disk: Disk, names: LogNames, index: SparseIndex) -> None:
    replace_file(disk, names.index(index.base), index.encode())


def _unlink(disk: Disk, names: LogNames, segments: list[Segment]) -> None:
    for segment in segments:
        disk.unlink(names.segment(segment.base))
        try:
            disk.unlink(names.index(segment.base))
        except FileNotFoundError:
            log.debug("segment %d had no index file", segment.base)
    if segments:
        disk.sync_dir(names.directory)
