"""Blocks of the engine, entered and left from any thread: a hold in its thread."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from typing import Any, TypeVar, cast

from danube_trio._doors.block import FarBlock, nothing, only_door
from danube_trio._engine.thread.append_job import appender_of
from danube_trio._engine.thread.engine_thread import Hold, LeaveJob, acquire, retire
from danube_trio.blocking._thread import ThreadDoor

T = TypeVar("T")


def one_call(fn: Callable[[], Awaitable[T]], name: str) -> T:
    """Call an async function of the engine, for which nothing needs to be open."""
    found: Block[ThreadDoor] = Block(nothing(), name, only_door)
    with found as door:
        return door.call(fn)


def as_it_is(thing: Any, _door: ThreadDoor, _keep: object) -> Any:
    """For a block that gives what the engine's gives: only the engine calls its methods."""
    return thing


class Block(FarBlock[ThreadDoor], AbstractContextManager[T]):
    """A block of the engine, entered and left from any thread."""

    def __enter__(self) -> T:
        if self._hold is not None:
            raise RuntimeError("this block can be entered once: open another one")
        hold = self._hold = Hold(ThreadDoor.reply, self._block, self._name, appender_of)
        try:
            self._door = door = ThreadDoor(acquire(hold))
            opened = door.run(hold)
            self._is_open = True
            return cast("T", self._made(opened, door))
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
            self.close()
        except Exception as leaving:
            error.add_note(f"leaving {self._name} raised {leaving!r}")
        finally:
            door.engine_thread.join()

    def close(self) -> None:
        """Leave it, from any thread. Idempotent; raises what leaving raised."""
        assert self._door is not None, "it was entered"
        assert self._hold is not None, "it was entered"
        self._door.run(LeaveJob(self._door.reply, self._hold), withdraw=False)

    def __exit__(self, _: object, exc: BaseException | None, traceback: object) -> None:
        assert self._door is not None, "a block is entered before it is left"
        try:
            self.close()
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            self._settle(error, exc, None)
        finally:
            self._door.engine_thread.join()
