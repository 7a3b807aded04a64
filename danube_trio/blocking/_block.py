"""Blocks of the engine, entered and left from any thread: a hold in its thread."""

from __future__ import annotations

import warnings
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager
from types import TracebackType
from typing import Any, TypeVar

from danube_trio._engine.thread.append_job import appender_of
from danube_trio._engine.thread.engine_thread import (
    Hold,
    LeaveJob,
    acquire,
    retire,
    settle_leaving,
    tell_nobody,
)
from danube_trio.blocking._thread import ThreadDoor

__all__ = ["Block", "Settle", "as_it_is", "one_call"]

T = TypeVar("T")
# What leaving raised, what the body raised, and how its world says that it was cancelled.
Settle = Callable[[BaseException, BaseException | None, type[BaseException] | None], None]


def one_call(fn: Callable[[], Awaitable[T]], name: str) -> T:
    """Call an async function of the engine, for which nothing needs to be open."""
    with Block(_nothing(), name, _door_of) as door:
        return door.call(fn)


@asynccontextmanager
async def _nothing() -> AsyncGenerator[object]:
    yield None


def _door_of(thing: Any, appender: Any, door: ThreadDoor, hold: Hold, keep: object) -> ThreadDoor:
    return door


def as_it_is(thing: Any, appender: Any, door: ThreadDoor, hold: Hold, keep: object) -> Any:
    """For a block that gives what the engine's gives: only the engine calls its methods."""
    return thing


class Block(AbstractContextManager[T]):
    """A block of the engine, entered and left from any thread.

    It knows its hold, but nothing that lives as long as the hold knows it: so it is collected when
    the program has forgotten it and what it gave.

    Args:
        block: the engine's.
        name: for the warning if it is never left.
        wrap: makes what the block gives, of what the engine's gave and what its thread made of it.
        settle: raises what leaving it raised, as the engine's own block does.
    """

    def __init__(
        self,
        block: AbstractAsyncContextManager[object],
        name: str,
        wrap: Callable[[Any, Any, ThreadDoor, Hold, object], T],
        settle: Settle = settle_leaving,
    ) -> None:
        self._block = block
        self._name = name
        self._wrap = wrap
        self._settle = settle
        self._door: ThreadDoor | None = None
        self._hold: Hold | None = None
        self._is_open = False

    def __del__(self) -> None:
        if self._is_open and self._door is not None and self._hold is not None:
            self._is_open = False
            if not self._hold.ended:
                self._door.engine_thread.submit(LeaveJob(tell_nobody, self._hold))
                text = f"{self._name} was never closed: leave its 'with' block"
                warnings.warn(text, ResourceWarning, stacklevel=2, source=self)

    def __enter__(self) -> T:
        if self._hold is not None:
            raise RuntimeError("this block can be entered once: open another one")
        hold = self._hold = Hold(ThreadDoor.reply, self._block, self._name, appender_of)
        try:
            self._door = door = ThreadDoor(acquire(hold))
            thing, appender = door.run(hold)
            self._is_open = True
            return self._wrap(thing, appender, door, hold, self)
        except BaseException as error:  # an interrupt may come at any step: nothing may be left
            self._is_open = False
            self._undo(hold, error)
            raise

    def _undo(self, hold: Hold, error: BaseException) -> None:
        """Leave what was opened, if it was, or will be."""
        door = self._door
        if door is None:
            retire(hold)
            return
        door.engine_thread.cancel(hold)  # also one that was not submitted; an open one stays
        try:
            door.run(LeaveJob(door.reply, hold), withdraw=False)
        except Exception as leaving:
            error.add_note(f"leaving {self._name} raised {leaving!r}")
        finally:
            door.engine_thread.join()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        door, hold = self._door, self._hold
        assert door is not None
        assert hold is not None
        try:
            door.run(LeaveJob(door.reply, hold), withdraw=False)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            self._settle(error, exc, None)
        finally:
            door.engine_thread.join()
