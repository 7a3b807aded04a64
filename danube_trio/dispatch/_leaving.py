"""Leaving: what becomes of calls that are under way, and of what leaving raised.

Other tasks may be anywhere in a call when a dispatch is left, or a subscription removed. So that
leaving ends, that they end, and that none of them goes on with what is closed, in this order:

1. From the first step of leaving on, calls that come are refused.
2. Subscriptions close, each in one step: deliveries are over (released, no attempt is burned), who
   waits for a message is told. Then what was settled is saved, within the grace.
3. What is still under way then waits for something that is not ours: it is cancelled, and raises
   SubscriptionClosedError. Leaving waits for that.

A call that takes something, and was not cancelled, looks whether it was left before it keeps it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from danube_trio.dispatch._errors import SubscriptionClosedError
from danube_trio.errors import DanubeError, add_note, text_of

T = TypeVar("T")


class Calls:
    """Calls that are under way, of whatever tasks.

    Args:
        what: whose they are, for the error.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._scopes: set[trio.CancelScope] = set()
        self._none_left: trio.Event | None = None
        self._ended = False

    async def run(self, fn: Callable[..., Awaitable[T]], *args: object) -> T:
        """Await a call. Raises SubscriptionClosedError when it was ended."""
        if self._ended:
            raise self._closed()
        scope = trio.CancelScope()
        self._scopes.add(scope)
        try:
            with scope:
                return await fn(*args)
        finally:
            self._scopes.remove(scope)
            if not self._scopes and self._none_left is not None:
                self._none_left.set()
        raise self._closed()

    async def end(self) -> None:
        """Refuse new ones, cancel the others, and wait until they are gone. Not to be cancelled."""
        self._ended = True
        for scope in self._scopes:
            scope.cancel()
        if self._scopes:
            if self._none_left is None:
                self._none_left = trio.Event()
            await self._none_left.wait()

    def _closed(self) -> SubscriptionClosedError:
        return SubscriptionClosedError(
            f"{self._what} was closed meanwhile, and it is not known what the call has done: open "
            f"it again to continue"
        )


def settle_dispatch(
    error: BaseException, body: BaseException | None, cancelled: type[BaseException] | None
) -> None:
    """As `ReliableDispatch` itself does it: what the body raised goes out, with a note.

    Args:
        error: from leaving.
        body: what the block's body raised.
        cancelled: how the body's world says that it was cancelled; that is no different here.
    """
    if body is None:
        raise error
    if isinstance(error, DanubeError | TimeoutError):
        add_note(body, f"cursors were not saved: {text_of(error)}")
    else:
        raise error from body
