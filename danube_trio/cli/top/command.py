"""``danube-trio top``: a live view of what a program offers to be watched.

On a terminal the page stays in place; elsewhere one page follows another, and with
``--json`` one line. The program's end is the view's end, unless it is to wait for the next one.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from typing import Any

import attrs

from danube_trio.cli._say import complain, say
from danube_trio.cli.top.feed import Feed, NotOfferedError, find_offers
from danube_trio.cli.top.figures import View, as_dict, number, rates
from danube_trio.cli.top.words import amount, clean

# How often to look whether a program is there; a guess.
WAIT_SECONDS = 0.5
PLAIN_ROWS = 20
# Lines that are not rows of readers, tasks or topics. A guess that leaves most pages whole.
OTHER_LINES = 40
MIN_ROWS = 5

Show = Callable[[View], None]


@attrs.frozen
class Wanted:
    """What the options say; `count` is of snapshots, None for all that come."""

    directory: str
    count: int | None
    file_name: str
    interval: float
    wait: bool
    as_json: bool


def watch(directory: str | None, count: int | None, once: bool, **options: Any) -> None:
    """Run the command."""
    if once and count is not None:
        raise ValueError("--once and --count exclude each other")
    wanted = Wanted(directory or ".", 1 if once else count, **options)
    while True:
        feeds = _find(wanted)
        with contextlib.ExitStack() as stack:
            for feed in feeds:
                stack.callback(feed.close)
            if len(feeds) > 1:
                _print_list(feeds, wanted)
                return
            shown = _follow(feeds[0], wanted)
        left = wanted.count - shown if wanted.count is not None else None
        if left is not None and left <= 0:
            return
        complain(f"{feeds[0].hello.get('name', '?')}: {feeds[0].ending or 'the program has ended'}")
        if not wanted.wait:
            return
        wanted = attrs.evolve(wanted, count=left)


def _find(wanted: Wanted) -> list[Feed]:
    told = False
    while True:
        try:
            return find_offers(wanted.directory, wanted.file_name)
        except (NotOfferedError, FileNotFoundError) as error:
            if not wanted.wait:
                raise
            if not told:
                complain(f"waiting for a program ({error})")
                told = True
        time.sleep(WAIT_SECONDS)


def _follow(feed: Feed, wanted: Wanted) -> int:
    """Show snapshots until there are no more; returns how many there were."""
    feed.ask(wanted.interval, wanted.count)
    shown = 0
    with _screen(wanted) as show:
        before: dict[str, Any] | None = None
        while (now := feed.read()) is not None:
            show(View(feed.hello, before, now))
            before = now
            shown += 1
            if shown == wanted.count:
                break  # without waiting for it to say so
    return shown


# ---- output


def _screen(wanted: Wanted) -> AbstractContextManager[Show]:
    if wanted.as_json:
        return contextlib.nullcontext(_print_json)
    if sys.stdout.isatty() and wanted.count != 1 and not _is_dumb():
        return _live_screen()
    return contextlib.nullcontext(_print_page)


@contextlib.contextmanager
def _live_screen() -> Generator[Show]:
    """Show pages one in place of the other while the block runs; the last one stays."""
    from rich.live import Live

    from danube_trio.cli.top.page import new_console, page

    console = new_console()
    last: list[Any] = []
    with Live(console=console, screen=True, auto_refresh=False) as live:

        def show(view: View) -> None:
            rows = max(MIN_ROWS, console.height - OTHER_LINES)
            fancy = not console.options.ascii_only
            last[:] = [page(attrs.evolve(view, rows=rows, fancy=fancy, beside=True))]
            live.update(last[0], refresh=True)

        try:
            yield show
        finally:
            live.stop()
            if last:
                console.print(*last)


def _is_dumb() -> bool:
    """Whether the terminal cannot move its cursor."""
    return os.environ.get("TERM", "dumb").lower() in ("dumb", "unknown")


def _print_json(view: View) -> None:
    about = {name: view.hello.get(name) for name in ("kind", "name", "pid")}
    line = {**about, **view.now, "rates": rates(view.before, view.now)}
    say(json.dumps(line))
    sys.stdout.flush()


def _print_page(view: View) -> None:
    from danube_trio.cli.top.page import page, plain

    fancy = _can_show_blocks()
    if view.before is not None:
        say("\n" + "-" * 60 + "\n")
    say(plain(page(attrs.evolve(view, rows=PLAIN_ROWS, fancy=fancy))))
    sys.stdout.flush()


def _can_show_blocks() -> bool:
    try:
        "█▏▓▒░·".encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


# ---- several


def _print_list(feeds: list[Feed], wanted: Wanted) -> None:
    """What is offered below a directory, one line each."""
    rows: list[list[str]] = []
    for feed, now in _first_snapshots(feeds):
        hello, found = feed.hello, as_dict(now.get("statistics"))
        if wanted.as_json:
            about = {name: hello.get(name) for name in ("kind", "name", "pid")}
            say(json.dumps({**about, "path": feed.place.path, **now}))
            continue
        row = [
            hello.get("kind", "?"),
            found.get("phase", "-"),
            hello.get("pid", "?"),
            amount(number(found, "start_offset")),
            amount(number(found, "next_offset")),
            hello.get("name", "?"),
            f"danube-trio top {feed.place.path}",
        ]
        rows.append([clean(cell) for cell in row])
    if rows:
        from danube_trio.cli.top.page import plain
        from danube_trio.cli.top.sections import table

        say(plain(*table("kind  phase  process  start  next  name  watch with", rows, left=7)))


def _first_snapshots(feeds: list[Feed]) -> Generator[tuple[Feed, dict[str, Any]]]:
    for feed in feeds:
        try:
            feed.ask(1.0, 1)
            now = feed.read()
        except (OSError, NotOfferedError) as error:
            complain(str(error))
            continue
        if now is not None:
            yield feed, now
