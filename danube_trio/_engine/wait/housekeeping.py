"""Calls that nobody made: a task looks after things, and swallows what goes wrong.

What a log's call raises counts as told to a caller, who need not be told again on leaving. But the
caller may be a task that only counts failures, and tries again. In a `housekeeping` block, and in
tasks that are started in it, what a call raises is told to nobody.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar

_KEEPING_HOUSE = ContextVar("danube_trio keeping house", default=False)


@contextmanager
def housekeeping() -> Generator[None, None, None]:
    """The block of calls that are on nobody's behalf."""
    token = _KEEPING_HOUSE.set(True)
    try:
        yield
    finally:
        _KEEPING_HOUSE.reset(token)


def keeping_house() -> bool:
    """Whether the call is one of those."""
    return _KEEPING_HOUSE.get()
