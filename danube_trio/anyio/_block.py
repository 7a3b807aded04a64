"""Blocks of the engine, entered and left from asyncio: a hold in its thread. On trio themselves."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType
from typing import Any, TypeVar, cast

from trio.lowlevel import in_trio_run

from danube_trio._engine.thread.append_job import appender_of
from danube_trio._engine.thread.engine_thread import (
    Hold,
    LeaveJob,
    acquire,
    retire,
    settle_leaving,
    tell_nobody,
)
from danube_trio.anyio._loop import LoopDoor
from danube_trio.anyio._views import view_of

__all__ = ["LoopBlock", "Settle", "View", "loop_block", "one_call"]

T = TypeVar("T")
# Makes a view: of what the engine's block gave, what its thread made of it, door and block.
View = Callable[[Any, Any, LoopDoor, object], object]
# What leaving raised, what the body raised, and how its world says that it was cancelled.
Settle = Callable[[BaseException, BaseException | None, type[BaseException] | None], None]


def loop_block(
    block: AbstractAsyncContextManager[T], name: str, view: View = view_of
) -> AbstractAsyncContextManager[T]:
    """The block as it is on trio, and through the door otherwise."""
    return block if in_trio_run() else LoopBlock(block, name, view)


async def one_call(fn: Callable[[], Awaitable[T]], name: str) -> T:
    """Call an async function of the engine, for which nothing needs to be open."""
    if in_trio_run():
        return await fn()
    async with LoopBlock(_nothing(), name, lambda _thing, _appender, door, _keep: door) as found:
        door: LoopDoor = found
        return await door.call(fn)


@asynccontextmanager
async def _nothing() -> AsyncGenerator[Any]:
    yield None


class LoopBlock(AbstractAsyncContextManager[T]):
    """A block of the engine, entered and left from asyncio.

    It knows its hold, but nothing that lives as long as the hold knows it: so it is collected when
    the program has forgotten it and what it gave.

    Args:
        block: the engine's.
        name: for the warning if it is never left.
        view: makes what the block gives.
        settle: raises what leaving it raised, as the engine's own block does.
    """

    def __init__(
        self,
        block: AbstractAsyncContextManager[T],
        name: str,
        view: View,
        settle: Settle = settle_leaving,
    ) -> None:
        self._block = block
        self._name = name
        self._view = view
        self._settle = settle
        self._door: LoopDoor | None = None
        self._hold: Hold | None = None
        self._is_open = False

    def __del__(self) -> None:
        if self._is_open and self._door is not None and self._hold is not None:
            self._is_open = False
            if not self._hold.ended:
                self._door.engine_thread.submit(LeaveJob(tell_nobody, self._hold))
                text = f"{self._name} was never closed: leave its 'async with' block"
                warnings.warn(text, ResourceWarning, stacklevel=2, source=self)

    async def __aenter__(self) -> T:
        if in_trio_run():  # made outside, entered there
            return await self._block.__aenter__()
        if self._hold is not None:
            raise RuntimeError("this block can be entered once: open another one")
        self._hold = hold = Hold(tell_nobody, self._block, self._name, appender_of)
        door = None
        try:
            self._door = door = LoopDoor(acquire(hold))
            hold.reply = door.reply
            thing, appender = await door.run(hold)
        except BaseException:
            if door is None:
                retire(hold)
                raise
            door.engine_thread.submit(LeaveJob(tell_nobody, hold))  # whatever became of it
            door.engine_thread.join()
            raise
        self._is_open = True
        return cast("T", self._view(thing, appender, door, self))

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
