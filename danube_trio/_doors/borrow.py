"""Blocks that hold something of the engine's: a topic's log, a message, a consumer.

It is lent (`_engine.thread.loan`): a program that forgets the block has it collected, and the
engine takes back what it lent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from danube_trio._doors.afar import FarDoor
from danube_trio._engine.thread.loan import Loan

Door = TypeVar("Door", bound=FarDoor)


class FarBorrower(Generic[Door]):
    """A block that holds something of the engine's. A base class."""

    door: Door
    _what: str  # for who enters it twice
    _holding: Loan[Any] | None = None

    def _loan(self) -> Loan[Any]:
        """What is borrowed. The engine may have it for longer than this: it must not know this."""
        raise NotImplementedError

    def _given(self, lent: Any) -> Any:
        """What the block gives."""
        return lent

    def _answer(self, exc: BaseException | None) -> Callable[[], object]:
        """What tells the engine, in its thread, that the block was left, by `exc` or without.

        That thread may be the last that has it: so it knows no more than it needs.
        """
        raise NotImplementedError

    def _begin(self) -> Loan[Any]:
        if self._holding is not None:
            raise RuntimeError(f"{self._what} can be entered once: call it again")
        self._holding = loan = self._loan()
        return loan

    def _held(self) -> Loan[Any]:
        assert self._holding is not None, "a block is entered before it is left"
        return self._holding

    def __del__(self) -> None:
        if self._holding is not None and self._holding.taken:
            self.door.engine_thread.tell(self._holding.drop)
