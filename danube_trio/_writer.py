"""The writer task: turns what was accepted into framed blocks.

Takes everything pending (up to one batch's limit), frames it, and hands the block to the flusher
over a memory channel without a buffer. While the flusher's hop for one block is under way the
writer frames the next, and while that one waits to be taken, acceptance fills the intake until it
pushes back on the producers. So at most one block is in the hop, and one is ready behind it.

It ends when acceptance is closed and nothing is pending; closing its end of the channel tells the
flusher so.
"""

from __future__ import annotations

import trio

from danube_trio._core.frame import encode_block
from danube_trio._core.log import Phase
from danube_trio._engine import Engine, Work

__all__ = ["run_writer"]


async def run_writer(engine: Engine, outbox: trio.MemorySendChannel[Work]) -> None:
    """Frame and hand on until acceptance closes. Returns early if the log breaks."""
    log, intake = engine.log, engine.intake
    limit = min(engine.config.max_batch_bytes, engine.config.segment_bytes)
    encode_uint = engine.codec.encode_uint
    offset = engine.marks.written_end  # appends may have come before this task first ran
    async with outbox:
        while log.phase is not Phase.BROKEN:
            batches, size = intake.take(limit)
            work: Work = None
            if batches:
                block = encode_block(batches, offset, encode_uint)
                offset = block.end
                work = (block, size)
            elif log.phase is not Phase.OPEN:
                return
            else:
                await engine.writer_bell.wait()
                if len(intake) or not (log.sync_due or log.roll_wanted):
                    continue
            try:
                outbox.send_nowait(work)
            except trio.WouldBlock:
                try:
                    await outbox.send(work)
                except trio.BrokenResourceError:
                    return  # the flusher broke the log and left; everyone was told
            except trio.BrokenResourceError:
                return
