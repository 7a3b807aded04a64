"""Context variables of handlers: each message has a copy of those that the caller of `run` has.

So a handler sees what its caller has set (a request's id, a tracer), and what it sets itself is
gone with its message: nothing that one message leaves behind is seen by the next. A task for each
message would do that as well, and costs more than most handlers.

On trio, `_run` gives its task another context; an asyncio task keeps the one that it was made with,
and is what this is for.
"""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from contextvars import Context
from types import coroutine
from typing import Any, TypeVar

__all__ = ["in_context"]

T = TypeVar("T")


@coroutine
def in_context(context: Context, work: Coroutine[Any, Any, T]) -> Generator[Any, Any, T]:
    """Await a coroutine, each of its steps in this context.

    What it waits for, and what is sent or thrown into it, goes through: to the loop it is a part of
    the task that awaits this.
    """
    step: Any = work.send
    value: Any = None
    try:
        while True:
            try:
                wanted = context.run(step, value)
            except StopIteration as end:
                result: T = end.value
                return result
            try:
                value = yield wanted
                step = work.send
            except GeneratorExit:
                context.run(work.close)
                raise
            except BaseException as error:
                value, step = error, work.throw
    finally:
        del value  # an error, whose traceback has this frame
