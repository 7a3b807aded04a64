"""A snapshot as a page of text: pure, so that what is shown can be tested without a terminal.

A page is made of sections, each for some fields that may be there or not. Fields that no section
knows come last, as they are, so that nothing that a later version counts is hidden.
"""

from __future__ import annotations

from datetime import UTC, datetime

from danube_trio.cli._values import counted
from danube_trio.cli.top.figures import (
    COUNTERS,
    Histogram,
    View,
    as_dict,
    as_list,
    histogram,
    number,
    rates,
    seconds_between,
)
from danube_trio.cli.top.sections import cloud_lines, rest_lines, topic_lines
from danube_trio.cli.top.words import (
    Line,
    amount,
    bar,
    clean,
    duration,
    per_second,
    size,
    table,
)

__all__ = ["page", "plain"]

MARKS = ("start_offset", "uploaded_end", "sealed_end", "durable_end", "written_end", "next_offset")
# From what is safest to what is not: below each mark but the first, what the records there are.
FILLS = ("█", "▓", "▒", "░", "·")
PLAIN_FILLS = ("#", "=", "-", ":", ".")
PHASES = {"open": "good", "broken": "bad", "fenced": "bad", "failed": "bad"}
BAR_CELLS = 40
BAR_ROWS = 14


def plain(lines: list[Line]) -> str:
    """Lines as text without styles."""
    return "\n".join("".join(text for text, _ in line).rstrip() for line in lines)


def page(view: View) -> list[Line]:
    """All that there is to see."""
    sections = (
        [_head(view)],
        _marks(view),
        _rates(view),
        _held(view),
        topic_lines(view),
        _histograms(view),
        _tasks(view),
        _readers(view),
        cloud_lines(view),
        _bars(view),
        rest_lines(view),
    )
    lines: list[Line] = []
    for section in sections:
        if section:
            lines += [[]] if lines else []
            lines += section
    return lines


def _head(view: View) -> Line:
    hello, now = view.hello, view.now
    phase = clean(view.found.get("phase", ""))
    line: Line = [(clean(now.get("topic") or hello.get("name", "?")), "bold")]
    line.append((f"  {'topic' if now.get('topic') else clean(hello.get('kind', '?'))}", ""))
    if phase:
        line.append((f"  {phase}", PHASES.get(phase, "warn")))
    program = clean(hello.get("program", ""))
    line.append((f"  process {clean(hello.get('pid', '?'))}", "dim"))
    line.append((f" ({program})" if program else "", "dim"))
    line.append((f"  watched for {duration(number(now, 'elapsed'))}", "dim"))
    at = number(now, "time")
    if at is not None and 0 <= at < 1e11:
        line.append((f"  {datetime.fromtimestamp(at, UTC):%H:%M:%S} UTC", "dim"))
    return line


# ---- marks


def _marks(view: View) -> list[Line]:
    known = [(name, at) for name in MARKS if (at := number(view.found, name)) is not None]
    if view.found.get("cloud") is None:  # then this one only follows the start
        known = [entry for entry in known if entry[0] != "uploaded_end"]
    if len(known) < 2:
        return []
    names = [name.removesuffix("_offset").removesuffix("_end") for name, _ in known]
    lines = table([["marks", *names], ["", *(amount(at) for _, at in known)]], left=1)
    drawn = _mark_bar(known, fancy=view.fancy)
    if drawn:
        lines.append([("       ", ""), (drawn, "bar")])
    durable, end = number(view.found, "durable_end"), number(view.found, "next_offset")
    if durable is not None and end is not None and end > durable:
        missing = counted(int(end - durable), "record")
        lines.append([(f"       not durable yet: {missing}", "warn")])
    return lines


def _mark_bar(known: list[tuple[str, float]], *, fancy: bool) -> str:
    """The log from start to end, each cell filled as the records at its end are."""
    start, end = known[0][1], known[-1][1]
    if end <= start:
        return ""
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
    return f"{cells}  {shown}"


# ---- figures


def _rates(view: View) -> list[Line]:
    grown = rates(view.before, view.now)
    rows: list[list[str]] = [["rates", "now", "in all"]]
    for name, path in COUNTERS.items():
        total = number(view.found, *path)
        if total is not None:
            shown = size(total) if name.endswith("bytes") else amount(total)
            rows.append([name.replace("_", " "), per_second(grown.get(name), name), shown])
    return table(rows, left=1) if len(rows) > 1 else []


def _held(view: View) -> list[Line]:
    """What is in memory or waits, and the most that ever did."""
    found = view.found
    rows: list[list[str]] = [["held", "now", "peak"]]
    for name, value in found.items():
        if name.startswith(("pending_", "waiting_", "cached_")) and "_peak" not in name:
            what, _, unit = name.rpartition("_")
            if number(value) is None:
                continue
            show = size if unit == "bytes" else duration if unit == "seconds" else amount
            peak = number(found, f"{what}_peak_{unit}")
            rows.append([name.replace("_", " "), show(value), show(peak)])
    return table(rows, left=1) if len(rows) > 1 else []


def _histograms(view: View) -> list[Line]:
    rows = [["how long, how much", "p50 now", "p99 now", "p50", "p99", "mean", "events"]]
    for name, whole, recent in _all_histograms(view):
        show = duration if name.endswith("seconds") else size if "bytes" in name else amount
        now = ["-", "-"]
        if recent is not None and recent.total:
            now = [show(recent.quantile(0.5)), show(recent.quantile(0.99))]
        mean = whole.sum / whole.total if whole.total else None
        ever = [show(whole.quantile(q)) if whole.total else "-" for q in (0.5, 0.99)]
        label = name.removesuffix("_seconds").replace("_", " ")
        rows.append([label, *now, *ever, show(mean), amount(whole.total)])
    return table(rows, left=1) if len(rows) > 1 else []


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


def _bars(view: View) -> list[Line]:
    """The syncs, now if there were any, else all of them."""
    for name, whole, recent in _all_histograms(view):
        if name == "sync_seconds" and whole.total:
            shown, when = (recent, "now") if recent and recent.total else (whole, "in all")
            return [[(f"syncs {when}", "dim")], *_bar_lines(shown, fancy=view.fancy)]
    return []


def _bar_lines(shown: Histogram, *, fancy: bool) -> list[Line]:
    filled = [i for i, count in enumerate(shown.counts) if count]
    first, last = max(filled[0], filled[-1] - BAR_ROWS + 1), filled[-1]
    most = max(shown.counts)
    lines: list[Line] = []
    for i in range(first, last + 1):
        count = shown.counts[i]
        label = f"<= {duration(shown.bounds[i])}" if i < len(shown.bounds) else "longer"
        drawn = bar(count / most, BAR_CELLS, fancy=fancy)
        lines.append([(f"{label:>12}  ", ""), (drawn, "bar"), (f" {amount(count)}", "")])
    below = sum(shown.counts[:first])
    if below:
        lines.insert(0, [(f"{'less':>12}  {amount(below)}", "dim")])
    return lines


# ---- tasks and readers


def _tasks(view: View) -> list[Line]:
    tasks = [as_dict(task) for task in as_list(view.found.get("tasks"))]
    if not any(tasks):
        return []
    rows = [["tasks", "state", "since"]]
    for task in tasks[: view.rows]:
        name, state = clean(task.get("name", "?")), clean(task.get("state", "?"))
        rows.append([name, state, duration(number(task, "seconds"))])
    return _cut(table(rows, left=2), len(tasks) - view.rows)


def _readers(view: View) -> list[Line]:
    readers = view.found.get("readers")
    if not isinstance(readers, list):
        return []
    found = sorted(
        (as_dict(reader) for reader in as_list(view.found.get("readers"))),
        key=lambda reader: -(number(reader, "lag") or 0),
    )
    if not found:
        return [[("readers  none", "dim")]]
    rows = [["readers", "tier", "cursor", "lag"]]
    for i, reader in enumerate(found[: view.rows]):
        cursor, lag = amount(number(reader, "cursor")), amount(number(reader, "lag"))
        rows.append([str(i + 1), clean(reader.get("tier", "?")), cursor, lag])
    return _cut(table(rows, left=2), len(found) - view.rows)


def _cut(lines: list[Line], more: int) -> list[Line]:
    return [*lines, [(f"and {amount(more)} more", "dim")]] if more > 0 else lines
