"""What an exception of a handler means for the message that it handled."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

__all__ = ["describe", "is_failure", "leaves"]


def leaves(exc: BaseException) -> Iterator[BaseException]:
    """The exceptions in a group, and in its groups; or the exception itself."""
    if isinstance(exc, BaseExceptionGroup):
        for inner in cast("BaseExceptionGroup[BaseException]", exc).exceptions:
            yield from leaves(inner)
    else:
        yield exc


def is_failure(exc: BaseException) -> bool:
    """Whether it says that the message could not be handled.

    `trio.Cancelled`, KeyboardInterrupt and what else is not an `Exception` says nothing about it.
    """
    return any(isinstance(leaf, Exception) for leaf in leaves(exc))


def describe(exc: BaseException) -> str:
    """Its first failure in words."""
    failure = next((leaf for leaf in leaves(exc) if isinstance(leaf, Exception)), exc)
    text = str(failure)
    return f"{type(failure).__name__}: {text}" if text else type(failure).__name__
