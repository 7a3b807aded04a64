"""The progress bar itself; beside `top.terminal` the only file that imports rich."""

from __future__ import annotations

import contextlib
from collections.abc import Generator

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

__all__ = ["rich_bar"]


class _RichBar:
    def __init__(self, progress: Progress, what: str, total_bytes: int | None) -> None:
        self._progress = progress
        self._task = progress.add_task(what, total=total_bytes)

    def advance(self, size_bytes: int) -> None:
        self._progress.advance(self._task, size_bytes)

    def expect(self, total_bytes: int) -> None:
        self._progress.update(self._task, total=total_bytes)


@contextlib.contextmanager
def rich_bar(what: str, total_bytes: int | None, *, in_bytes: bool = True) -> Generator[_RichBar]:
    """Show a bar on stderr while the block runs."""
    columns: list[ProgressColumn] = [TextColumn("{task.description}"), BarColumn()]
    if in_bytes:
        columns += [DownloadColumn(binary_units=True), TransferSpeedColumn()]
    else:
        columns.append(TaskProgressColumn())
    columns.append(TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield _RichBar(progress, what, total_bytes)
