"""Sections of a page: tasks, readers, topics, the object store, and whatever else there is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from danube_trio.cli.top.figures import View, as_dict, as_list, histogram, number, seconds_between
from danube_trio.cli.top.words import amount, clean, duration, in_unit, per_second, size

Section = list[RenderableType]  # empty: there is nothing to say

WARN, BAD = "yellow", "bold red"

# What other sections show.
SHOWN = {
    *("phase", "start_offset", "uploaded_end", "sealed_end", "durable_end", "written_end"),
    *("next_offset", "appended_records", "appended_bytes", "writes", "syncs", "rolls", "looks"),
    *("readers", "tasks", "cloud", "notes"),
}
SHOWN_OF_CLOUD = {"uploads", "uploaded_bytes", "fetched_bytes"}
HELD = ("pending_", "waiting_", "cached_")
TROUBLE = ("failures", "error", "failed", "held", "lost")
PAIRS = 3  # in a line


def line(*parts: str | tuple[str, str]) -> Text:
    """A line that is cut where the screen ends; a part may have a style."""
    return Text.assemble(*parts, no_wrap=True, overflow="ellipsis")


def table(
    head: str,
    rows: Sequence[Sequence[str]],
    *,
    left: int = 1,
    styles: Sequence[str] = (),
    more: float = 0,
    none: str = "",
) -> Section:
    """Rows below their head, whose words are apart by two spaces.

    Args:
        left: how many columns are aligned to the left.
        styles: one for each row.
        more: so many rows are left out.
        none: what is said if there are no rows.
    """
    if not rows:
        return [line((none, "dim"))] if none else []
    found = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for i, name in enumerate(head.split("  ")):
        found.add_column(name, justify="left" if i < left else "right", no_wrap=True)
    for i, row in enumerate(rows):
        found.add_row(*row, style=styles[i] if styles else None)
    return [found, line((f"and {amount(more)} more", "dim"))] if more > 0 else [found]


# ---- tasks and readers


def tasks(view: View) -> Section:
    """What the tasks do."""
    found = [as_dict(task) for task in as_list(view.found.get("tasks"))]
    rows: list[tuple[str, ...]] = []
    for task in found[: view.rows] if any(found) else ():
        name, state = clean(task.get("name", "?")), clean(task.get("state", "?"))
        rows.append((name, state, duration(number(task, "seconds"))))
    return table("tasks  state  since", rows, left=2, more=len(found) - len(rows))


def readers(view: View) -> Section:
    """The readers, the slowest first."""
    if not isinstance(view.found.get("readers"), list):
        return []
    found = [as_dict(reader) for reader in as_list(view.found.get("readers"))]
    found.sort(key=lambda reader: -(number(reader, "lag") or 0))
    rows: list[tuple[str, ...]] = []
    for i, reader in enumerate(found[: view.rows]):
        cursor, lag = amount(number(reader, "cursor")), amount(number(reader, "lag"))
        rows.append((str(i + 1), clean(reader.get("tier", "?")), cursor, lag))
    more = len(found) - len(rows)
    return table("readers  tier  cursor  lag", rows, left=2, more=more, none="readers  none")


# ---- names and values


def cloud(view: View) -> Section:
    """The object store's part."""
    found = as_dict(view.found.get("cloud"))
    return _pairs("object store", {n: v for n, v in found.items() if n not in SHOWN_OF_CLOUD})


def rest(view: View) -> Section:
    """What no other section shows."""
    others = {
        name: value
        for name, value in view.found.items()
        if name not in SHOWN | {"notes"}
        and not (name.startswith(HELD) and number(value) is not None)
    }
    notes = as_list(view.found.get("notes"))[: view.rows]
    return _pairs("and", others) + [line((f"note: {clean(note)}", WARN)) for note in notes]


def _pairs(title: str, pairs: dict[str, Any]) -> Section:
    """Names and values, some in a line; those that tell of trouble on lines of their own."""
    calm: list[str] = []
    trouble: Section = []
    for name, value in pairs.items():
        shown = _value(name, value)
        if shown is None:
            continue
        text = f"{clean(name).replace('_', ' ')} {shown}"
        if value and any(word in name for word in TROUBLE):
            trouble.append(line((f"  {text}", BAD)))
        else:
            calm.append(text)
    lines = [line("  " + ",  ".join(calm[i : i + PAIRS])) for i in range(0, len(calm), PAIRS)]
    return [line((title, "dim")), *lines, *trouble] if lines or trouble else []


def _value(name: str, value: Any) -> str | None:
    """The value as text; None for what is shown elsewhere, or is nothing."""
    if histogram(value) is not None or value is None or value == "" or value == []:
        return None
    if isinstance(value, bool):
        return "yes" if value else "no"
    return in_unit(name, value) if number(value) is not None else clean(value)[:200]


# ---- topics


def topics(view: View) -> Section:
    """The topics of a storage, the busiest first."""
    if "topics" not in view.now:
        return []
    found = [as_dict(topic) for topic in as_list(view.now.get("topics"))]
    before = {
        clean(topic.get("topic")): topic
        for topic in map(as_dict, as_list(as_dict(view.before).get("topics")))
    }
    seconds = seconds_between(view.before, view.now)
    rows = [_topic(topic, before, seconds) for topic in found]
    rows.sort(key=lambda entry: (-entry[0], entry[1][0]))
    head = "topics  phase  next  durable  records  bytes  size  readers  waiting"
    cells = 9
    if not any(number(topic, "waiting_bytes") for topic in found):
        # Without a store it is always 0, and 80 columns are soon full.
        head, cells = head.removesuffix("  waiting"), 8
    shown = [row[:cells] for _, row in rows[: view.rows]]
    styles = ["" if row[1] == "open" else WARN for row in shown]
    more = len(rows) - len(shown) + int(number(view.now, "topics_left_out") or 0)
    none = "topics  none is open"
    return table(head, shown, left=2, styles=styles, more=more, none=none)


def _topic(
    topic: dict[str, Any], before: dict[str, dict[str, Any]], seconds: float | None
) -> tuple[float, list[str]]:
    """How busy it is, and its row."""
    name = clean(topic.get("topic"))
    records = _growth(topic, before.get(name), "appended_records", seconds)
    row = [
        name,
        clean(topic.get("phase", "?")),
        amount(number(topic, "next_offset")),
        amount(number(topic, "durable_end")),
        per_second(records),
        per_second(_growth(topic, before.get(name), "appended_bytes", seconds), "bytes"),
        size(number(topic, "size_bytes")),
        amount(number(topic, "readers")),
        size(number(topic, "waiting_bytes")),
    ]
    return records or 0.0, row


def _growth(
    now: dict[str, Any], before: dict[str, Any] | None, name: str, seconds: float | None
) -> float | None:
    was, there = number(before, name), number(now, name)
    if seconds is None or was is None or there is None or there < was:
        return None
    return (there - was) / seconds
