"""Methods of views, made from the engine's own: a table instead of a hundred functions.

A view has the engine's object in `inner`, and in `way` the door to its thread::

    class _StorageView(Storage):
        seal = hop(Storage.seal)                       # a coroutine: awaits a hop
        statistics = hop_now(Storage.statistics)       # not one: blocks for a hop
        create_reader = hop(Storage.create_reader, reader_of)   # its result becomes a view

They keep names, arguments, types and docstrings.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial, wraps
from typing import Any, Protocol, TypeVar, cast

from danube_trio._engine.thread.loan import Loan
from danube_trio.anyio._loop import LoopDoor

__all__ = ["EngineDoor", "LoopBorrower", "ViewDoor", "borrowed", "hop", "hop_now"]

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


def hop(method: F, wrap: Callable[[Any, Any], object] | None = None) -> F:
    """A method that awaits the engine's.

    Args:
        method: the engine's, which is a coroutine function.
        wrap: makes a view of its result; called with the view whose method it is, and the result.
    """
    name = method.__name__

    @wraps(method)
    async def call(self: Any, *args: Any, **more: Any) -> object:
        result = await self.way.call(partial(getattr(self.inner, name), *args, **more))
        return result if wrap is None else wrap(self, result)

    return cast("F", call)


def hop_now(
    method: F, wrap: Callable[[Any, Any], object] | None = None, *, late: bool = False
) -> F:
    """A method that blocks for a hop to the engine's, which never waits.

    Args:
        method, wrap: as for `hop`.
        late: whether it may be called after what it belongs to was left.
    """
    name = method.__name__

    @wraps(method)
    def call_now(self: Any, *args: Any, **more: Any) -> object:
        call = partial(getattr(self.inner, name), *args, **more)
        result = self.way.call_now(call, late=late)
        return result if wrap is None else wrap(self, result)

    return cast("F", call_now)


async def borrowed(door: LoopDoor, loan: Loan[T]) -> T:
    """Have the engine's thread take something; what is lost on the way is given back."""
    try:
        await door.call(loan.take)
    except BaseException:
        door.engine_thread.tell(loan.drop)
        raise
    return loan.value


class LoopBorrower:
    """A block that holds something of the engine's. A base class of views.

    Forgotten, it gives back what it holds. Its subclasses begin with `hold`.
    """

    _way: LoopDoor
    _holding: Loan[Any] | None

    async def hold(self, door: LoopDoor, loan: Loan[T], what: str) -> T:
        """Take it, for this block."""
        if getattr(self, "_holding", None) is not None:
            raise RuntimeError(f"{what} can be entered once: call it again")
        self._way, self._holding = door, loan
        return await borrowed(door, loan)

    def __del__(self) -> None:
        loan = getattr(self, "_holding", None)
        if loan is not None and loan.taken:
            self._way.engine_thread.tell(loan.drop)

    async def give_back(self, exc: BaseException | None, answer: Callable[[], object]) -> None:
        """Leave the block by `answer`, whatever cancels that.

        A coroutine that is being closed cannot wait any more: then it is dropped.
        """
        loan = self._holding
        assert loan is not None
        if isinstance(exc, GeneratorExit):
            self._way.engine_thread.tell(loan.drop)
        else:
            await self._way.give_back(loan, answer)
