"""The words of `_doors.surface` that wait, in threads.

An object has the engine's in `inner`, and the way to its thread in `door`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial, wraps
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

P = ParamSpec("P")
T = TypeVar("T")
U = TypeVar("U")


def waits(
    method: Callable[Concatenate[Any, P], Awaitable[T]], doc: str | None = None
) -> Callable[Concatenate[Any, P], T]:
    """A method that waits for the engine's coroutine.

    Args:
        method: the engine's.
        doc: what is to be said of it here, if that is not what is said there.
    """
    name = method.__name__

    @wraps(method)
    def wait(self: Any, *args: Any, **more: Any) -> T:
        found: T = self.door.call(partial(getattr(self.inner, name), *args, **more))
        return found

    wait.__doc__ = doc or method.__doc__
    return cast("Callable[Concatenate[Any, P], T]", wait)


def makes(
    method: Callable[Concatenate[Any, P], Awaitable[T]], wrap: Callable[[Any, T], U]
) -> Callable[Concatenate[Any, P], U]:
    """The same; `wrap` is called with the object whose method it is, and the result."""
    wait: Callable[..., T] = waits(method)

    @wraps(method)
    def make(self: Any, *args: Any, **more: Any) -> U:
        return wrap(self, wait(self, *args, **more))

    return cast("Callable[Concatenate[Any, P], U]", make)
