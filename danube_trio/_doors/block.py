"""Blocks that are entered and left elsewhere than in the engine's thread: what all doors share.

Nothing that lives as long as the engine knows such a block, but only its hold: a program that
forgets it, and what it gave, has it collected; then the engine's thread leaves it.
"""

from __future__ import annotations

import warnings
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Generic, TypeVar

from danube_trio._doors.afar import FarDoor
from danube_trio._engine.thread.append_job import Appender
from danube_trio._engine.thread.engine_thread import Hold, LeaveJob, settle_leaving
from danube_trio._engine.thread.jobs import tell_nobody

Door = TypeVar("Door", bound=FarDoor)
# What leaving raised, what the body raised, and how its world says that it was cancelled.
Settle = Callable[[BaseException, BaseException | None, type[BaseException] | None], None]


class FarBlock(Generic[Door]):
    """A block of the engine, in hands elsewhere.

    Args:
        block: the engine's.
        name: for the warning if it is never left.
        make: makes what the block gives: of what the engine's gave, the door, and this block, which
            must live as long; and of an appender, if it is a log to append to.
        settle: raises what leaving it raised, as the engine's own block does.
    """

    _statement = "with"

    def __init__(
        self,
        block: AbstractAsyncContextManager[Any],
        name: str,
        make: Callable[..., Any],
        settle: Settle = settle_leaving,
    ) -> None:
        self._block = block
        self._name = name
        self._make = make
        self._settle = settle
        self._door: Door | None = None
        self._hold: Hold | None = None
        self._is_open = False

    def _made(self, opened: tuple[Any, Appender | None], door: Door) -> Any:
        """What the block gives, of the outcome of its hold."""
        thing, appender = opened
        more = () if appender is None else (appender,)
        return self._make(thing, door, self, *more)

    def __del__(self) -> None:
        if self._is_open and self._door is not None and self._hold is not None:
            self._is_open = False
            if not self._hold.ended:
                self._door.engine_thread.submit(LeaveJob(tell_nobody, self._hold))
                text = f"{self._name} was never closed: leave its '{self._statement}' block"
                warnings.warn(text, ResourceWarning, stacklevel=2, source=self)


@asynccontextmanager
async def nothing() -> AsyncGenerator[object]:
    """A block of the engine in which there is nothing but its thread."""
    yield None


def only_door(_thing: object, door: Door, _keep: object) -> Door:
    """What a block gives of which only the way to the engine's thread is wanted."""
    return door
