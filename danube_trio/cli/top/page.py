"""A snapshot as a page of rich: pure, so that what is shown can be tested without a terminal.

A page is made of sections, each for some fields that may be there or not. Fields that no section
knows come last, as they are, so that nothing that a later version counts is hidden.
"""

from __future__ import annotations

import io
from datetime import UTC, datetime
from functools import partial

from rich.columns import Columns
from rich.console import Console, Group, RenderableType

from danube_trio.cli._values import counted
from danube_trio.cli.top.figures import (
    COUNTERS,
    Histogram,
    View,
    as_dict,
    histogram,
    number,
    rates,
    seconds_between,
)
from danube_trio.cli.top.sections import (
    BAD,
    HELD,
    WARN,
    Section,
    cloud,
    line,
    readers,
    rest,
    table,
    tasks,
    topics,
)
from danube_trio.cli.top.words import amount, bar, clean, duration, in_unit, per_second

MARKS = ("start_offset", "uploaded_end", "sealed_end", "durable_end", "written_end", "next_offset")
# From what is safest to what is not: below each mark but the first, what the records there are.
FILLS = ("█", "▓", "▒", "░", "·")
PLAIN_FILLS = ("#", "=", "-", ":", ".")
PHASES = {"open": "bold green", "broken": BAD, "fenced": BAD, "failed": BAD}
BAR_CELLS = 40
BAR_ROWS = 14
WIDEST = 10_000  # where nothing is cut


# A screen, on which a program's text is text, and no markup.
new_console = partial(Console, markup=False, emoji=False, highlight=False)


def plain(*parts: RenderableType) -> str:
    """A page as text without styles."""
    file = io.StringIO()
    console = new_console(file=file, width=WIDEST, color_system=None, force_terminal=False)
    console.print(*parts, sep="\n")
    return "\n".join(text.rstrip() for text in file.getvalue().rstrip("\n").split("\n"))


def page(view: View) -> Group:
    """All that there is to see."""
    rows: tuple[tuple[Section, ...], ...] = (
        ([_head(view)],),
        (_marks(view),),
        (_rates(view), _held(view)),
        (topics(view),),
        (_histograms(view),),
        (tasks(view), readers(view)),
        (cloud(view),),
        (_bars(view),),
        (rest(view),),
    )
    parts: list[RenderableType] = []
    for row in rows:
        found: list[RenderableType] = [Group(*section) for section in row if section]
        for part in [Columns(found, padding=(0, 6))] if view.beside and len(found) > 1 else found:
            parts += ["", part] if parts else [part]
    return Group(*parts)


def _head(view: View) -> RenderableType:
    hello, now = view.hello, view.now
    phase = clean(view.found.get("phase", ""))
    program = clean(hello.get("program", ""))
    about = f"  process {clean(hello.get('pid', '?'))}" + (f" ({program})" if program else "")
    about += f"  watched for {duration(number(now, 'elapsed'))}"
    at = number(now, "time")
    if at is not None and 0 <= at < 1e11:
        about += f"  {datetime.fromtimestamp(at, UTC):%H:%M:%S} UTC"
    return line(
        (clean(now.get("topic") or hello.get("name", "?")), "bold"),
        f"  {'topic' if now.get('topic') else clean(hello.get('kind', '?'))}",
        (f"  {phase}" if phase else "", PHASES.get(phase, WARN)),
        (about, "dim"),
    )


# ---- marks


def _marks(view: View) -> Section:
    known = [(name, at) for name in MARKS if (at := number(view.found, name)) is not None]
    if view.found.get("cloud") is None:  # then this one only follows the start
        known = [entry for entry in known if entry[0] != "uploaded_end"]
    if len(known) < 2:
        return []
    names = [name.removesuffix("_offset").removesuffix("_end") for name, _ in known]
    lines = table("  ".join(["marks", *names]), [["", *(amount(at) for _, at in known)]])
    lines += _mark_bar(known, fancy=view.fancy)
    durable, end = number(view.found, "durable_end"), number(view.found, "next_offset")
    if durable is not None and end is not None and end > durable:
        missing = counted(int(end - durable), "record")
        lines.append(line((f"       not durable yet: {missing}", WARN)))
    return lines


def _mark_bar(known: list[tuple[str, float]], *, fancy: bool) -> Section:
    """The log from start to end, each cell filled as the records at its end are."""
    start, end = known[0][1], known[-1][1]
    if end <= start:
        return []
    fills: dict[str, str] = dict(zip(MARKS[1:], FILLS if fancy else PLAIN_FILLS, strict=True))
    cells = ""
    for i in range(BAR_CELLS):
        at = start + (end - start) * (i + 1) / BAR_CELLS
        name = next((name for name, mark in known[1:] if at <= mark), known[-1][0])
        cells += fills.get(name, " ")
    shown = ", ".join(
        f"{fill} {name.removesuffix('_end') if name != 'next_offset' else 'accepted'}"
        for name, fill in fills.items()
        if fill in cells
    )
    return [line("       ", (f"{cells}  {shown}", "cyan"))]


# ---- figures


def _rates(view: View) -> Section:
    grown = rates(view.before, view.now)
    totals = {name: number(view.found, *path) for name, path in COUNTERS.items()}
    rows = [
        (name.replace("_", " "), per_second(grown.get(name), name), in_unit(name, total))
        for name, total in totals.items()
        if total is not None
    ]
    return table("rates  now  in all", rows)


def _held(view: View) -> Section:
    """What is in memory or waits, and the most that ever did."""
    rows: list[tuple[str, ...]] = []
    for name, value in view.found.items():
        if name.startswith(HELD) and "_peak" not in name and number(value) is not None:
            what, _, unit = name.rpartition("_")
            peak = number(view.found, f"{what}_peak_{unit}")
            rows.append((name.replace("_", " "), in_unit(unit, value), in_unit(unit, peak)))
    return table("held  now  peak", rows)


def _histograms(view: View) -> Section:
    rows: list[tuple[str, ...]] = []
    for name, whole, recent in _all_histograms(view):
        unit = name if name.endswith("seconds") else "bytes" if "bytes" in name else ""
        figures = [
            found.quantile(q) if found is not None and found.total else None
            for found in (recent, whole)
            for q in (0.5, 0.99)
        ]
        figures.append(whole.sum / whole.total if whole.total else None)
        label = name.removesuffix("_seconds").replace("_", " ")
        rows.append((label, *(in_unit(unit, each) for each in figures), amount(whole.total)))
    return table("how long, how much  p50 now  p99 now  p50  p99  mean  events", rows)


def _all_histograms(view: View) -> list[tuple[str, Histogram, Histogram | None]]:
    """Name, all events, and those since the last snapshot, if that is known."""
    found: list[tuple[str, Histogram, Histogram | None]] = []
    before = as_dict(as_dict(view.before).get("statistics"))
    known = seconds_between(view.before, view.now) is not None
    for now, was in (
        (view.found, before),
        (as_dict(view.found.get("cloud")), as_dict(before.get("cloud"))),
    ):
        for name, value in now.items():
            whole = histogram(value)
            if whole is not None:
                recent = whole.since(histogram(was.get(name))) if known else None
                found.append((clean(name), whole, recent))
    return found


def _bars(view: View) -> Section:
    """The syncs, now if there were any, else all of them."""
    for name, whole, recent in _all_histograms(view):
        if name == "sync_seconds" and whole.total:
            shown, when = (recent, "now") if recent and recent.total else (whole, "in all")
            return [line((f"syncs {when}", "dim")), *_bar_lines(shown, fancy=view.fancy)]
    return []


def _bar_lines(shown: Histogram, *, fancy: bool) -> Section:
    filled = [i for i, count in enumerate(shown.counts) if count]
    first, last = max(filled[0], filled[-1] - BAR_ROWS + 1), filled[-1]
    most = max(shown.counts)
    below = sum(shown.counts[:first])
    lines: Section = [line((f"{'less':>12}  {amount(below)}", "dim"))] if below else []
    for i in range(first, last + 1):
        count = shown.counts[i]
        label = f"<= {duration(shown.bounds[i])}" if i < len(shown.bounds) else "longer"
        drawn = bar(count / most, BAR_CELLS, fancy=fancy)
        lines.append(line(f"{label:>12}  ", (drawn, "cyan"), f" {amount(count)}"))
    return lines
