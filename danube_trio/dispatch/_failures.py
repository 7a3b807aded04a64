"""What an exception of a handler means for the message that it handled, and what is said of it.

The answer is given first, and nothing that is said of an exception can fail: see `errors.describe`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from danube_trio.errors import describe


def leaves(exc: BaseException) -> Iterator[BaseException]:
    """The exceptions in a group, and in its groups; or the exception itself."""
    left = [exc]
    while left:  # no recursion: who nests them too deeply must not keep a message from its answer
        inner = left.pop()
        if isinstance(inner, BaseExceptionGroup):
            left.extend(reversed(cast("BaseExceptionGroup[BaseException]", inner).exceptions))
        else:
            yield inner


def is_failure(exc: BaseException) -> bool:
    """Whether it says that the message could not be handled.

    `trio.Cancelled`, KeyboardInterrupt and what else is not an `Exception` says nothing about it.
    """
    return any(isinstance(leaf, Exception) for leaf in leaves(exc))


def first_failure(exc: BaseException) -> BaseException:
    """The first leaf that says so; else the exception itself."""
    return next((leaf for leaf in leaves(exc) if isinstance(leaf, Exception)), exc)


def describe_failure(exc: BaseException) -> str:
    """Its first failure in words. Never raises."""
    return describe(first_failure(exc))
