"""The flusher task: gets blocks to the disk, and owns the written, durable and sealed marks.

For each block one hop to the log's I/O lane: write alone, or, when somebody waits for durability,
when `max_batch_bytes` wait unsynced or the interval is over, write + sync + mark together. After
the hop, in one synchronous step: the marks, the cache, the acks, the live readers.

States, by what is unsynced: *clean* (waits for work without a timer), *dirty* (waits until
`fsync_interval_ms` after the first unsynced write, then syncs by itself). A block holds whole
batches; one that does not fit into the active segment rolls first, so a batch never crosses
segments.

Any failure of the disk breaks the log: nothing is retried on the same bytes. When the log was
broken from elsewhere (a failed trim), the hop under way ends and reports nothing any more.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

import trio

from danube_trio._core.disk import Lane
from danube_trio._core.frame import Block
from danube_trio._engine.files.tail import Tail
from danube_trio._engine.log.engine import Engine, Work

NEVER = float("inf")


async def run_flusher(
    engine: Engine, inbox: trio.MemoryReceiveChannel[Work], lane: Lane, tail: Tail
) -> None:
    """Write and sync until the channel ends, then leave the files exact and durable."""
    flusher = _Flusher(engine, lane, tail)
    async with inbox:
        try:
            await flusher.serve(inbox)
        except OSError as error:
            engine.break_(error)
            await lane.run(tail.abandon)


class _Flusher:
    def __init__(self, engine: Engine, lane: Lane, tail: Tail) -> None:
        assert engine.files is not None
        self._engine = engine
        self._files = engine.files
        self._lane = lane
        self._tail = tail
        self._interval = engine.config.fsync_interval_ms / 1000
        self._batch_limit = engine.config.max_batch_bytes
        self._segment_limit = engine.config.segment_bytes
        self._unsynced_bytes = 0
        self._sync_at = NEVER
        self._meters = engine.meters
        self._meter = engine.meters.task("flusher")

    async def serve(self, inbox: trio.MemoryReceiveChannel[Work]) -> None:
        """Handle work until the channel ends."""
        tail, log, doing = self._tail, self._engine.log, self._meter
        while not log.broken:
            work: Work = None
            try:
                if self._sync_at == NEVER:
                    doing.enter("idle")
                    work = await inbox.receive()
                else:
                    doing.enter("unsynced")
                    with trio.move_on_at(self._sync_at):
                        work = await inbox.receive()
            except trio.EndOfChannel:
                if log.broken:
                    break
                doing.enter("closing")
                await self._lane.run(tail.close, self._engine.marks.written_end)
                self._engine.synced()
                return
            if work is not None:
                block, accepted_bytes = work
                full = tail.position + len(block.data) > self._segment_limit
                falls = block.first_time < self._files.active.last_time
                if falls:
                    self._files.times_fall(block.first_time)
                if tail.position and (full or falls or log.roll_wanted):
                    await self._roll()
                await self._write(block, accepted_bytes)
            elif log.roll_wanted:
                await self._roll()
            elif self._unsynced_bytes and (log.sync_due or trio.current_time() >= self._sync_at):
                await self._sync()
        await self._lane.run(tail.abandon)

    async def _write(self, block: Block, accepted_bytes: int) -> None:
        engine, size = self._engine, len(block.data)
        if engine.log.sync_due or self._unsynced_bytes + size >= self._batch_limit:
            started = self._begin("syncing")
            seconds = await self._lane.run(_timed, self._tail.commit, block.data, block.end)
            engine.block_written(block, accepted_bytes)
            self._synced(started, seconds)
        else:
            started = self._begin("writing")
            await self._lane.run(self._tail.write, block.data)
            engine.block_written(block, accepted_bytes)
            self._meters.write_seconds.add(self._meters.now() - started)
            self._unsynced_bytes += size
            if self._sync_at == NEVER:
                self._sync_at = started + self._interval

    async def _sync(self) -> None:
        started = self._begin("syncing")
        end = self._engine.marks.written_end
        seconds = await self._lane.run(_timed, self._tail.sync, end)
        self._synced(started, seconds)

    def _begin(self, state: str) -> float:
        """Enter the state; returns the time."""
        self._meter.enter(state)
        return self._meter.since

    def _synced(self, started: float, disk_seconds: float) -> None:
        self._engine.synced()
        self._meters.synced(self._meters.now() - started, disk_seconds)
        self._unsynced_bytes = 0
        self._sync_at = NEVER

    async def _roll(self) -> None:
        """Seal the active segment: after its sync, it is immutable."""
        if not self._tail.position:
            self._engine.log.roll_wanted = False
            return
        started = self._begin("rolling")
        seconds = await self._lane.run(_timed, self._tail.roll, self._engine.marks.written_end)
        self._synced(started, seconds)
        self._engine.rolled(self._tail.sealed_crc)


def _timed(call: Callable[..., None], *args: object) -> float:
    """In the lane's thread: how many seconds the call took there."""
    started = perf_counter()
    call(*args)
    return perf_counter() - started
