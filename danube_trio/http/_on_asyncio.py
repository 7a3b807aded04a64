"""The streams in an asyncio program: the shell is in its loop, the work in the engine's thread."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, suppress
from typing import Any, cast

from danube_trio import Storage
from danube_trio.anyio._block import loop_block
from danube_trio.anyio._loop import LoopDoor
from danube_trio.anyio._storage import engine_storage
from danube_trio.http._app import (
    Answering,
    OpenStreams,
    Streams,
    seen_from,
)
from danube_trio.http._asgi import Authenticate, Receive, until_gone
from danube_trio.http._config import HttpConfig


class AsyncioShell:
    """The shell of one loop."""

    def __init__(self, door: LoopDoor) -> None:
        self._door = door

    async def call(self, fn: Callable[[], Awaitable[Any]]) -> Any:
        """See `Shell`."""
        return await self._door.call(fn)

    def tell(self, fn: Callable[[], object]) -> None:
        """See `Shell`."""
        self._door.engine_thread.tell(fn)

    async def within(self, seconds: float, fn: Callable[[], Awaitable[bytes]]) -> bytes | None:
        """See `Shell`."""
        try:
            async with asyncio.timeout(seconds):
                return await fn()
        except TimeoutError:
            return None

    async def while_there(self, receive: Receive, answering: Answering) -> None:
        """See `Shell`."""
        work = asyncio.ensure_future(answering())
        gone = asyncio.ensure_future(until_gone(receive))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if answering.ending:
                await asyncio.wait({work})
        finally:
            for task in (work, gone):
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task


def streams_block(
    storage: Storage,
    config: HttpConfig,
    authenticate: Authenticate | None,
    clock: Callable[[], float],
) -> AbstractAsyncContextManager[Streams]:
    """`open_streams` on asyncio."""
    block = OpenStreams(cast("Storage", engine_storage(storage)), config, authenticate, clock)

    def view(inner: Streams, door: LoopDoor, _keep: object) -> Streams:
        return seen_from(inner, AsyncioShell(door))

    return loop_block(block, "streams", view)
