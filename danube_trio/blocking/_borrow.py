"""Blocks that hold something of the engine's, in threads: see `_doors.borrow`."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, TypeVar, cast

from danube_trio._doors.borrow import FarBorrower
from danube_trio._engine.thread.jobs import GiveBackJob
from danube_trio._engine.thread.loan import Loan
from danube_trio.blocking._thread import ThreadDoor

T = TypeVar("T")


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

    def __exit__(self, _: object, exc: BaseException | None, traceback: object) -> None:
        loan, door = self._held(), self.door
        try:
            answer = self._answer(exc)
            job = GiveBackJob(door.reply, lambda: loan.leave(answer))
            door.run(job, withdraw=False)
        except BaseException:
            door.engine_thread.tell(loan.drop)  # unless it was answered for
            raise
