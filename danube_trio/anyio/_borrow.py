"""Blocks that hold something of the engine's, in asyncio: see `_doors.borrow`."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar, cast

from danube_trio._doors.borrow import FarBorrower
from danube_trio._engine.thread.loan import Loan
from danube_trio.anyio._loop import LoopDoor

T = TypeVar("T")


async def borrowed(door: LoopDoor, loan: Loan[T]) -> T:
    """Have the engine's thread take something; what is lost on the way is given back."""
    try:
        await door.call(loan.take)
    except BaseException:
        door.engine_thread.tell(loan.drop)
        raise
    return loan.value


class LoopBorrower(FarBorrower[LoopDoor], AbstractAsyncContextManager[T]):
    """A block that holds something of the engine's. A base class of views."""

    async def __aenter__(self) -> T:
        lent: Any = await borrowed(self.door, self._begin())
        return cast("T", self._given(lent))

    async def __aexit__(self, _: object, exc: BaseException | None, traceback: object) -> None:
        loan = self._held()
        if isinstance(exc, GeneratorExit):  # a coroutine that is closed cannot wait any more
            self.door.engine_thread.tell(loan.drop)
        else:
            await self.door.give_back(loan, self._answer(exc))
