"""The words of `_doors.surface` that wait, in threads; and blocks that borrow.

An object has the engine's in `inner`, and the way to its thread in `door`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from functools import partial, wraps
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from danube_trio._doors.block import FarBorrower
from danube_trio._engine.thread.jobs import GiveBackJob
from danube_trio._engine.thread.loan import Loan
from danube_trio.blocking._thread import ThreadDoor

__all__ = ["Borrower", "borrowed", "makes", "waits"]

P = ParamSpec("P")
T = TypeVar("T")
U = TypeVar("U")


def waits(
    method: Callable[Concatenate[Any, P], Awaitable[T]], doc: str | None = None
) -> Callable[Concatenate[Any, P], T]:
    """A method that waits for the engine's coroutine.

    Args:
        method: the engine's.
        doc: what is to be said of it here, if that is not what is said there.
    """
    name = method.__name__

    @wraps(method)
    def wait(self: Any, *args: Any, **more: Any) -> T:
        found: T = self.door.call(partial(getattr(self.inner, name), *args, **more))
        return found

    wait.__doc__ = doc or method.__doc__
    return cast("Callable[Concatenate[Any, P], T]", wait)


def makes(
    method: Callable[Concatenate[Any, P], Awaitable[T]], wrap: Callable[[Any, T], U]
) -> Callable[Concatenate[Any, P], U]:
    """The same; `wrap` is called with the object whose method it is, and the result."""
    wait: Callable[..., T] = waits(method)

    @wraps(method)
    def make(self: Any, *args: Any, **more: Any) -> U:
        return wrap(self, wait(self, *args, **more))

    return cast("Callable[Concatenate[Any, P], U]", make)


def borrowed(door: ThreadDoor, loan: Loan[T]) -> T:
    """Have the engine's thread take something; what is lost on the way is given back."""
    try:
        door.call(loan.take)
    except BaseException:
        door.engine_thread.tell(loan.drop)
        raise
    return loan.value


class Borrower(FarBorrower[ThreadDoor], AbstractContextManager[T]):
    """A block that holds something of the engine's. A base class."""

    def __enter__(self) -> T:
        lent: Any = borrowed(self.door, self._begin())
        return cast("T", self._given(lent))

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        loan, door = self._held(), self.door
        try:
            job = GiveBackJob(door.reply, lambda: loan.leave(lambda: self._answer(exc)))
            door.run(job, withdraw=False)
        except BaseException:
            door.engine_thread.tell(loan.drop)  # unless it was answered for
            raise
