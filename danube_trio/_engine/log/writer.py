"""The writer task: turns what was accepted into framed blocks.

Takes everything pending (whole batches, up to a limit), frames it as one block, and hands it to the
flusher over a memory channel without a buffer. While the flusher's hop for one block is under way
the writer frames the next, and while that one waits to be taken, acceptance fills the intake until
it pushes back on the producers. So at most one block is in the hop, and one is ready behind it.

It ends when acceptance is closed and nothing is pending; closing its end of the channel tells the
flusher so.
"""

from __future__ import annotations

import trio

from danube_trio._core.framing import encode_block
from danube_trio._core.meters import TaskMeter
from danube_trio._engine.log.engine import Engine, Work


async def run_writer(engine: Engine, outbox: trio.MemorySendChannel[Work]) -> None:
    """Frame and hand on until acceptance closes. Returns early if the log breaks."""
    log, intake = engine.log, engine.intake
    limit = min(engine.config.max_batch_bytes, engine.config.segment_bytes)
    doing = engine.meters.task("writer")
    offset = engine.marks.written_end  # appends may have come before this task first ran
    try:
        async with outbox:
            told = 0  # the flusher knows that somebody waits for a sync up to here
            while True:
                engine.bells.writer.clear()
                batches, size = intake.take(limit)
                if batches:
                    block = encode_block(batches, offset, engine.codec.encode_uint)
                    offset = block.end
                    told = log.sync_wanted
                    await _send(outbox, (block, size), doing)
                    continue
                if not log.running:
                    return
                if log.sync_wanted > told or log.roll_wanted:
                    told = log.sync_wanted
                    await _send(outbox, None, doing)
                doing.enter("idle")
                await engine.bells.writer.wait()
    except trio.BrokenResourceError:
        return  # the flusher broke the log and left; everyone was told


async def _send(outbox: trio.MemorySendChannel[Work], work: Work, doing: TaskMeter) -> None:
    try:
        outbox.send_nowait(work)
    except trio.WouldBlock:
        doing.enter("handing over")
        await outbox.send(work)
