"""The words of `_doors.surface` in asyncio.

A view is of the engine's class, so the types of its methods are those of the engine's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial, wraps
from typing import Any, TypeVar, cast

from danube_trio._doors import surface

F = TypeVar("F", bound=Callable[..., Any])


def at_once(method: F, *, late: bool = False) -> F:
    """See `surface.at_once`."""
    return cast("F", surface.at_once(method, late=late))


def waits(method: F) -> F:
    """A method that awaits the engine's, which is a coroutine function."""
    name = method.__name__

    @wraps(method)
    async def call(self: Any, *args: Any, **more: Any) -> object:
        return await self.door.call(partial(getattr(self.inner, name), *args, **more))

    return cast("F", call)


def makes(method: F, view: Callable[[Any, Any], object]) -> F:
    """The same; `view` is called with the view whose method it is, and the result."""
    wait: Callable[..., Awaitable[object]] = waits(method)

    @wraps(method)
    async def make(self: Any, *args: Any, **more: Any) -> object:
        return view(self, await wait(self, *args, **more))

    return cast("F", make)
