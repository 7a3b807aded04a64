"""Which loop runs here? The openers ask before they await anything of trio's.

Trio awaits by yielding to its own loop. In another loop that ends with "Task got bad yield", which
does not say what to do.
"""

from __future__ import annotations

import trio

__all__ = ["require_trio"]


def require_trio(name: str, door: str) -> None:
    """Raise RuntimeError unless a trio task calls.

    Args:
        name: the opener, for the message.
        door: the module with the same opener for other loops.
    """
    if trio.lowlevel.in_trio_task():
        return
    raise RuntimeError(f"this {name}() needs trio's event loop: on asyncio import it from {door}")
