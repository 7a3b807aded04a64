"""The page that stays in place on a terminal; beside `_rich` the only file that imports rich."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator

import attrs
from rich.console import Console
from rich.live import Live
from rich.text import Text

from danube_trio.cli.top.figures import View
from danube_trio.cli.top.page import page

__all__ = ["live_screen"]

STYLES = {
    "": "",
    "dim": "dim",
    "bold": "bold",
    "bar": "cyan",
    "good": "bold green",
    "warn": "yellow",
    "bad": "bold red",
}
# Lines that are not rows of readers, tasks or topics. A guess that leaves most pages whole.
OTHER_LINES = 40
MIN_ROWS = 5


@contextlib.contextmanager
def live_screen() -> Generator[Callable[[View], None]]:
    """Show pages one in place of the other while the block runs; the last one stays."""
    console = Console()
    last: list[Text] = []
    with Live(console=console, screen=True, auto_refresh=False) as live:

        def show(view: View) -> None:
            rows = max(MIN_ROWS, console.height - OTHER_LINES)
            fancy = not console.options.ascii_only
            last[:] = [_styled(attrs.evolve(view, rows=rows, fancy=fancy))]
            live.update(last[0], refresh=True)

        try:
            yield show
        finally:
            live.stop()
            if last:
                console.print(last[0])


def _styled(view: View) -> Text:
    text = Text(no_wrap=True, overflow="ellipsis")
    for i, line in enumerate(page(view)):
        if i:
            text.append("\n")
        for part, style in line:
            text.append(part, STYLES.get(style, ""))
    return text
