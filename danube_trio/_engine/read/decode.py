"""From the records of a block to what a reader hands out."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from danube_trio._core.codec import Codec
from danube_trio._core.frame import HEADER_BYTES, TRAILER_BYTES, Block, frame_time
from danube_trio.message import Record, StreamMessage


def message_decoder(codec: Codec) -> Callable[[Block, int, int], list[object]]:
    """Decode records of a block as messages."""

    def decode(block: Block, first: int, last: int) -> list[object]:
        messages: list[StreamMessage] = codec.decode_block(
            block.data, block.positions, block.start, first, last, TRAILER_BYTES
        )
        return cast("list[object]", messages)

    return decode


def raw_decoder(block: Block, first: int, last: int) -> list[object]:
    """Take records of a block as they are."""
    data, positions, start = block.data, block.positions, block.start
    return [
        Record(
            start + i,
            data[positions[i] + HEADER_BYTES : positions[i + 1] - TRAILER_BYTES],
            frame_time(data, positions[i + 1]),
        )
        for i in range(first, last)
    ]
