"""Blocks of the engine, entered and left from asyncio: a hold in its thread. On trio themselves."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import TypeVar, cast

from trio.lowlevel import in_trio_run

from danube_trio._doors.block import FarBlock, nothing, only_door
from danube_trio._engine.thread.append_job import appender_of
from danube_trio._engine.thread.engine_thread import Hold, LeaveJob, acquire, retire, tell_nobody
from danube_trio.anyio._loop import LoopDoor
from danube_trio.anyio._views import view_of

__all__ = ["LoopBlock", "View", "loop_block", "one_call"]

T = TypeVar("T")
# Makes a view: see `FarBlock`.
View = Callable[..., object]


def loop_block(
    block: AbstractAsyncContextManager[T], name: str, view: View = view_of
) -> AbstractAsyncContextManager[T]:
    """The block as it is on trio, and through the door otherwise."""
    return block if in_trio_run() else LoopBlock(block, name, view)


async def one_call(fn: Callable[[], Awaitable[T]], name: str) -> T:
    """Call an async function of the engine, for which nothing needs to be open."""
    if in_trio_run():
        return await fn()
    found: LoopBlock[LoopDoor] = LoopBlock(nothing(), name, only_door)
    async with found as door:
        return await door.call(fn)


class LoopBlock(FarBlock[LoopDoor], AbstractAsyncContextManager[T]):
    """A block of the engine, entered and left from asyncio."""

    _statement = "async with"

    async def __aenter__(self) -> T:
        if in_trio_run():  # made outside, entered there
            return cast("T", await self._block.__aenter__())
        if self._hold is not None:
            raise RuntimeError("this block can be entered once: open another one")
        self._hold = hold = Hold(tell_nobody, self._block, self._name, appender_of)
        door = None
        try:
            self._door = door = LoopDoor(acquire(hold))
            hold.reply = door.reply
            opened = await door.run(hold)
        except BaseException:
            if door is None:
                retire(hold)
                raise
            door.engine_thread.submit(LeaveJob(tell_nobody, hold))  # whatever became of it
            door.engine_thread.join()
            raise
        self._is_open = True
        return cast("T", self._made(opened, door))

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        if self._hold is None or self._door is None:
            return await self._block.__aexit__(exc_type, exc, traceback)
        try:
            await self._door.finish(LeaveJob(self._door.reply, self._hold))
        except BaseException as error:
            self._settle(error, exc, asyncio.CancelledError)
        finally:
            self._is_open = self._is_open and not self._hold.ended
            self._door.engine_thread.join()
        return None
