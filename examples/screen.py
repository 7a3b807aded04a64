"""Progress on stderr, if that is a terminal, and a table on stdout."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Any

__all__ = ["Bar", "print_table"]


class Bar:
    """A progress bar: rich's where it is installed, a line with a number elsewhere."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._state = ("", -1)
        self._rich: Any = None
        self._task: Any = None
        self._plain = sys.stderr.isatty()

    def __enter__(self) -> Bar:
        if self._plain and importlib.util.find_spec("rich") is not None:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

            self._rich = Progress(
                TextColumn("{task.description:<34}"),
                BarColumn(),
                MofNCompleteColumn(),
                console=Console(stderr=True),
            )
            self._rich.start()
            self._task = self._rich.add_task("", total=self._total)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._rich is not None:
            self._rich.stop()
        elif self._plain:
            print(file=sys.stderr)

    def show(self, label: str, done: int) -> None:
        """What is going on, and how far it is."""
        state = (label, 100 * done // max(1, self._total))
        if state == self._state:
            return
        self._state = state
        if self._rich is not None:
            self._rich.update(self._task, description=label, completed=done)
        elif self._plain:
            line = f"\r\x1b[K{label:<34} {done:,} of {self._total:,}"
            print(line, end="", file=sys.stderr, flush=True)


def print_table(rows: Sequence[tuple[str, str]]) -> None:
    """Two columns, the second one to the right."""
    left = max(len(label) for label, _ in rows)
    right = max(len(value) for _, value in rows)
    for label, value in rows:
        print(f"{label:<{left}}  {value:>{right}}")
