"""Leaving a block that owns tasks: to the end, and with the right exception."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager

import trio


async def to_its_end(step: Callable[[], Awaitable[object]]) -> KeyboardInterrupt | None:
    """Run a step of leaving, whatever happens; a KeyboardInterrupt is for afterwards.

    Trio raises it into the main task's waits, through shields. A wait is repeated; a call to the
    disk goes to its end before it raises.
    """
    interrupt: KeyboardInterrupt | None = None
    while True:
        try:
            await step()
        except KeyboardInterrupt as error:
            interrupt = error
        else:
            return interrupt


async def leave_nursery(
    manager: AbstractAsyncContextManager[trio.Nursery],
    bugs: Sequence[BaseException],
    exc: BaseException | None,
) -> None:
    """Leave a nursery around a body, whose tasks are done.

    What the body raised (`exc`) is for the caller to let out as it is, not in a group, unless there
    was a bug in a task: then that is raised, with the other as its cause.
    """
    if not bugs:
        await manager.__aexit__(None, None, None)
        return
    try:
        await manager.__aexit__(
            type(exc) if exc is not None else None,
            exc,
            exc.__traceback__ if exc is not None else None,
        )
    except BaseExceptionGroup:
        raise bugs[0] from (None if isinstance(exc, trio.Cancelled) else exc)
