"""Progress bars: on a terminal only, with rich, which is imported only then."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Generator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn


class Bar:
    """Shows how far something is, if there is anything to show it with."""

    def __init__(self, progress: Progress | None, what: str, total_bytes: int | None) -> None:
        self._progress = progress
        if progress is not None:
            self._task = progress.add_task(what, total=total_bytes)

    def advance(self, size_bytes: int, /) -> None:
        """So many bytes more are done."""
        if self._progress is not None:
            self._progress.advance(self._task, size_bytes)

    def expect(self, total_bytes: int, /) -> None:
        """This is how many there are."""
        if self._progress is not None:
            self._progress.update(self._task, total=total_bytes)


@contextlib.contextmanager
def open_bar(
    what: str, total_bytes: int | None, *, in_bytes: bool = True, wanted: bool = True
) -> Generator[Bar]:
    """A bar on stderr while the block runs, if stderr is a terminal and rich is there.

    With `in_bytes` false it counts something else than bytes, and shows how far it is only.
    """
    progress = None
    if wanted and sys.stderr is not None and sys.stderr.isatty():
        with contextlib.suppress(ModuleNotFoundError):
            progress = _progress(in_bytes)
    with progress or contextlib.nullcontext():
        yield Bar(progress, what, total_bytes)


def _progress(in_bytes: bool) -> Progress:
    from rich import progress
    from rich.console import Console

    columns: list[ProgressColumn] = [progress.TextColumn("{task.description}")]
    columns.append(progress.BarColumn())
    if in_bytes:
        columns += [progress.DownloadColumn(binary_units=True), progress.TransferSpeedColumn()]
    else:
        columns.append(progress.TaskProgressColumn())
    columns.append(progress.TimeRemainingColumn())
    return progress.Progress(*columns, console=Console(stderr=True), transient=True)
