"""A reader as one of anyio's streams."""

from __future__ import annotations

from typing import TypeVar

import anyio
import trio
from anyio.abc import ObjectReceiveStream

from danube_trio._engine.read.reader import Reader

T_co = TypeVar("T_co", covariant=True)


class ReaderStream(ObjectReceiveStream[T_co]):
    """A reader for code that wants an `anyio.abc.ObjectReceiveStream`.

    (A reader is a `trio.abc.ReceiveChannel` by itself; what differs is only how the end is told.)
    What else a reader raises goes through as it is.

    Args:
        reader: becomes the stream's: closing the stream closes it.
    """

    def __init__(self, reader: Reader[T_co]) -> None:
        self._reader = reader

    def __repr__(self) -> str:
        return f"<ReaderStream of {self._reader!r}>"

    async def receive(self) -> T_co:
        """The next record. Raises anyio.EndOfStream at the end."""
        try:
            return await self._reader.receive()
        except trio.EndOfChannel:
            raise anyio.EndOfStream from None

    async def aclose(self) -> None:
        """Close the reader."""
        await self._reader.aclose()
