"""Which loop runs here? The openers ask before they await anything of trio's.

Trio awaits by yielding to its own loop. In another loop that ends with "Task got bad yield", which
does not say what to do.

What was opened belongs to its run. A call from the run of another thread would find a trio to await
in, and wake tasks of the one run in the other, which wrecks both. So each call that may wait, or
wake somebody, asks first. A run has its thread for itself: the thread's number says which it is.
"""

from __future__ import annotations

from _thread import get_ident

import trio

BELONGS = (
    "it belongs to the trio run that opened it, and nothing was changed: from another thread use "
    "trio.from_thread.run(wal.append, ...) and the like, or open it with danube_trio.blocking or "
    "danube_trio.anyio"
)


class OwnRun:
    """The run in whose thread this was made."""

    __slots__ = ("_thread",)

    def __init__(self) -> None:
        self._thread = get_ident()

    def check(self) -> None:
        """Raise RuntimeError in another thread, before anything is changed."""
        if get_ident() != self._thread:
            raise RuntimeError(BELONGS)


def require_trio(name: str, door: str) -> None:
    """Raise RuntimeError unless a trio task calls.

    Args:
        name: the opener, for the message.
        door: the module with the same opener for other loops.
    """
    if trio.lowlevel.in_trio_task():
        return
    raise RuntimeError(f"this {name}() needs trio's event loop: on asyncio import it from {door}")
