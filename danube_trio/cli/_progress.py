"""Progress bars: on a terminal only, with rich, which is imported only then."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Generator
from typing import Protocol

__all__ = ["Bar", "NoBar", "open_bar"]


class Bar(Protocol):
    """Shows how far something is."""

    def advance(self, size_bytes: int, /) -> None:
        """So many bytes more are done."""
        ...

    def expect(self, total_bytes: int, /) -> None:
        """This is how many there are."""
        ...


class NoBar:
    """Shows nothing."""

    def advance(self, size_bytes: int) -> None: ...

    def expect(self, total_bytes: int) -> None: ...


@contextlib.contextmanager
def open_bar(
    what: str, total_bytes: int | None, *, in_bytes: bool = True, wanted: bool = True
) -> Generator[Bar]:
    """A bar on stderr while the block runs, if stderr is a terminal and rich is there.

    With `in_bytes` false it counts something else than bytes, and shows how far it is only.
    """
    if not wanted or sys.stderr is None or not sys.stderr.isatty():
        yield NoBar()
        return
    try:
        from danube_trio.cli._rich import rich_bar
    except ModuleNotFoundError:
        yield NoBar()
        return
    with rich_bar(what, total_bytes, in_bytes=in_bytes) as bar:
        yield bar
