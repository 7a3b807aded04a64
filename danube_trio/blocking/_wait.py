"""Methods without async, made from the engine's own: a table instead of a hundred functions.

A class has the engine's object in `inner`, and in `door` the way to its thread::

    class Storage:
        seal = waits(engine.Storage.seal)                # waits for the coroutine's result
        statistics = at_once(engine.Storage.statistics)  # never waits, but for the hop
        create_reader = waits_for(engine.Storage.create_reader, reader_of)  # and wraps the result

They keep names, arguments and docstrings.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial, wraps
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from danube_trio._engine.thread.jobs import GiveBackJob
from danube_trio._engine.thread.loan import Loan
from danube_trio.blocking._thread import ThreadDoor

__all__ = ["Borrower", "at_once", "borrowed", "waits", "waits_for"]

P = ParamSpec("P")
T = TypeVar("T")
U = TypeVar("U")


def waits(
    method: Callable[Concatenate[Any, P], Awaitable[T]],
) -> Callable[Concatenate[Any, P], T]:
    """A method that waits for the engine's coroutine."""
    return waits_for(method, _as_it_is)


def waits_for(
    method: Callable[Concatenate[Any, P], Awaitable[T]], wrap: Callable[[Any, T], U]
) -> Callable[Concatenate[Any, P], U]:
    """The same; `wrap` is called with the object whose method it is, and the result."""
    name = method.__name__

    @wraps(method)
    def wait(self: Any, *args: Any, **more: Any) -> U:
        return wrap(self, self.door.call(partial(getattr(self.inner, name), *args, **more)))

    return cast("Callable[Concatenate[Any, P], U]", wait)


def at_once(
    method: Callable[Concatenate[Any, P], T], *, late: bool = False
) -> Callable[Concatenate[Any, P], T]:
    """A method that never waits, but for the hop.

    Args:
        method: the engine's.
        late: whether it may be called after what it belongs to was left.
    """
    name = method.__name__

    @wraps(method)
    def call(self: Any, *args: Any, **more: Any) -> object:
        return self.door.call_now(partial(getattr(self.inner, name), *args, **more), late=late)

    return cast("Callable[Concatenate[Any, P], T]", call)


def _as_it_is(_: object, result: T) -> T:
    return result


def borrowed(door: ThreadDoor, loan: Loan[T]) -> T:
    """Have the engine's thread take something; what is lost on the way is given back."""
    try:
        door.call(loan.take)
    except BaseException:
        door.engine_thread.tell(loan.drop)
        raise
    return loan.value


class Borrower:
    """A block that holds something of the engine's. A base class.

    Forgotten, it gives back what it holds. Its subclasses begin with `hold`.
    """

    _way: ThreadDoor
    _holding: Loan[Any] | None

    def hold(self, door: ThreadDoor, loan: Loan[T], what: str) -> T:
        """Take it, for this block."""
        if getattr(self, "_holding", None) is not None:
            raise RuntimeError(f"{what} can be entered once: call it again")
        self._way, self._holding = door, loan
        return borrowed(door, loan)

    def __del__(self) -> None:
        loan = getattr(self, "_holding", None)
        if loan is not None and loan.taken:
            self._way.engine_thread.tell(loan.drop)

    def give_back(self, answer: Callable[[], object]) -> None:
        """Leave the block by `answer`, whatever interrupts that."""
        loan = self._holding
        assert loan is not None
        try:
            job = GiveBackJob(self._way.reply, lambda: loan.leave(answer))
            self._way.run(job, withdraw=False)
        except BaseException:
            self._way.engine_thread.tell(loan.drop)  # unless it was answered for
            raise
