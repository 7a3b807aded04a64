"""The words of `_doors.surface` in asyncio, and blocks that borrow.

A view is of the engine's class, so the types of its methods are those of the engine's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial, wraps
from types import TracebackType
from typing import Any, Protocol, TypeVar, cast

from danube_trio._doors import surface
from danube_trio._doors.block import FarBorrower
from danube_trio._engine.thread.loan import Loan
from danube_trio.anyio._loop import LoopDoor

__all__ = ["EngineDoor", "LoopBorrower", "ViewDoor", "at_once", "borrowed", "makes", "waits"]

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


class ViewDoor(Protocol):
    """What a view needs of its door."""

    async def call(self, fn: Callable[[], Awaitable[T]]) -> T:
        """Run an async function where the engine is."""
        ...

    def call_now(self, fn: Callable[[], T], *, late: bool = True) -> T:
        """Run a function where the engine is."""
        ...


class EngineDoor:
    """The door where there is none: on trio."""

    async def call(self, fn: Callable[[], Awaitable[T]]) -> T:
        """Call it here."""
        return await fn()

    def call_now(self, fn: Callable[[], T], *, late: bool = True) -> T:
        """Call it here."""
        return fn()


def at_once(method: F, *, late: bool = False) -> F:
    """See `surface.at_once`."""
    return cast("F", surface.at_once(method, late=late))


def waits(method: F) -> F:
    """A method that awaits the engine's, which is a coroutine function."""
    name = method.__name__

    @wraps(method)
    async def call(self: Any, *args: Any, **more: Any) -> object:
        return await self.door.call(partial(getattr(self.inner, name), *args, **more))

    return cast("F", call)


def makes(method: F, view: Callable[[Any, Any], object]) -> F:
    """The same; `view` is called with the view whose method it is, and the result."""
    wait: Callable[..., Awaitable[object]] = waits(method)

    @wraps(method)
    async def make(self: Any, *args: Any, **more: Any) -> object:
        return view(self, await wait(self, *args, **more))

    return cast("F", make)


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

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        loan = self._held()
        if isinstance(exc, GeneratorExit):  # a coroutine that is closed cannot wait any more
            self.door.engine_thread.tell(loan.drop)
        else:
            await self.door.give_back(loan, lambda: self._answer(exc))
