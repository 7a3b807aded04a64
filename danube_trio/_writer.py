"""The writer task: turns what was accepted into framed blocks.

Takes everything pending (up to one batch's limit), frames it piece by piece, and hands each piece
to the flusher over a memory channel without a buffer. While the flusher's hop for one piece is
under way the writer frames the next, and while that one waits to be taken, acceptance fills the
intake until it pushes back on the producers. So at most one piece is in the hop, and one is ready
behind it. A large batch takes several pieces; the mark and the readers move after its last one.

It ends when acceptance is closed and nothing is pending; closing its end of the channel tells the
flusher so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import trio

from danube_trio._core.frame import Parts
from danube_trio._core.framing import encode_block, pieces
from danube_trio._core.log import Phase
from danube_trio._engine import Engine, Piece, Work

__all__ = ["run_writer"]

# Framing 512 KiB takes about as long as writing and syncing it (0.4 ms each, measured), so the
# pieces of a large batch keep both sides busy.
PIECE_BYTES = 512 << 10


async def run_writer(engine: Engine, outbox: trio.MemorySendChannel[Work]) -> None:
    """Frame and hand on until acceptance closes. Returns early if the log breaks."""
    log, intake = engine.log, engine.intake
    limit = min(engine.config.max_batch_bytes, engine.config.segment_bytes)
    offset = engine.marks.written_end  # appends may have come before this task first ran
    try:
        async with outbox:
            told = 0  # the flusher knows that somebody waits for a sync up to here
            while True:
                engine.writer_bell.clear()
                batches = intake.take(limit)
                for piece in _frame(engine, batches, offset):
                    offset = piece.block.end
                    told = log.sync_wanted
                    await _send(outbox, piece)
                if batches:
                    continue
                if log.phase is not Phase.OPEN:
                    return
                if log.sync_wanted > told or log.roll_wanted:
                    told = log.sync_wanted
                    await _send(outbox, None)
                await engine.writer_bell.wait()
    except trio.BrokenResourceError:
        return  # the flusher broke the log and left; everyone was told


def _frame(
    engine: Engine, batches: list[tuple[int, Sequence[Parts], int]], offset: int
) -> Iterator[Piece]:
    """Frame batches piece by piece, each only when the one before was handed on."""
    encode_uint = engine.codec.encode_uint
    inside = False  # a batch that began in the piece before
    done = 0
    for piece in pieces(batches, PIECE_BYTES):
        block = encode_block(piece, offset, encode_uint, continues=inside)
        offset = block.end
        goes_on = piece[-1][2] > 0
        size = batches[done][2] if goes_on or inside else block.size_bytes
        released = 0
        if not goes_on:
            released = sum(batch[2] for batch in batches[done : done + len(piece)])
            done += len(piece)
        yield Piece(block, goes_on, 0 if inside else size, released)
        inside = goes_on


async def _send(outbox: trio.MemorySendChannel[Work], work: Work) -> None:
    try:
        outbox.send_nowait(work)
    except trio.WouldBlock:
        await outbox.send(work)
