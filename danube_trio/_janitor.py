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

from danube_trio._core.disk import Disk, Lane, put_in_place, replace_file
from danube_trio._core.files import Checkpoint, Trim, encode_document
from danube_trio._core.index import SparseIndex
from danube_trio._core.log import Phase
from danube_trio._core.retention import retained_start
from danube_trio._core.segment import LogNames, Segment
from danube_trio._engine import Engine
from danube_trio._segment_io import load_index
from danube_trio._tail import Tail
from danube_trio.errors import DanubeError

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
        self._tried: set[int] = set()

    async def run(self) -> None:
        """Go round until the log leaves the OPEN phase."""
        engine = self._engine
        while engine.log.phase is Phase.OPEN:
            config = engine.config
            pause = min(ROUND_SECONDS, max(config.segment_age or ROUND_SECONDS, 0.05))
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
            try:
                if start > engine.marks.start_offset:
                    await self.trim(start)
            except OSError as error:
                self._failed(error)
            except DanubeError:
                return  # the log broke, or is being left

    async def _learn_times(self) -> None:
        """Find the times of sealed segments that no checkpoint described; each is tried once."""
        engine = self._engine
        for segment in engine.segments.sealed():
            if segment.last_time or segment.base in self._tried:
                continue
            if engine.log.phase is not Phase.OPEN:
                return
            self._tried.add(segment.base)
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
        log.warning("housekeeping failed and will be tried again: %s", error)

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

    async def finish(self) -> None:
        """The last hints, and no trim any more. For the end, when the other tasks are done."""
        async with self._lock:  # a trim that began before goes to its end
            if not self._engine.log.broken:
                await self.tidy()

    async def trim(self, before: int) -> int:
        """Drop everything below `before` that is sealed. Returns the new start offset.

        Raises OSError when a file could not be written or removed: nothing is lost, and the log
        goes on. Raises LogBrokenError when the directory could not be synced.
        """
        engine = self._engine
        async with self._lock:
            if engine.log.phase is not Phase.OPEN:
                raise engine.refusal()
            start = min(before, engine.marks.sealed_end)
            if start <= engine.marks.start_offset:
                return engine.marks.start_offset
            # From here on not to be interrupted: the durable start and ours must agree.
            with trio.CancelScope(shield=True):
                data = encode_document(Trim(start))
                await self._disk.run(put_in_place, self._disk, self._names.trim, data)
                await self._sync_directory()
                gone = engine.trimmed(start)
                # What cannot be removed now is a leftover, which the next open removes.
                await self._disk.run(_unlink, self._disk, self._names, gone)
                await self._sync_directory()
            return start

    async def _sync_directory(self) -> None:
        try:
            await self._disk.run(self._disk.sync_dir, self._names.directory)
        except OSError as error:
            self._engine.break_(error)
            raise self._engine.refusal() from error


def _write_index(disk: Disk, names: LogNames, index: SparseIndex) -> None:
    replace_file(disk, names.index(index.base), index.encode())


def _unlink(disk: Disk, names: LogNames, segments: list[Segment]) -> None:
    for segment in segments:
        for path in (names.segment(segment.base), names.index(segment.base)):
            try:
                disk.unlink(path)
            except FileNotFoundError:
                log.debug("%s was gone already", path)
