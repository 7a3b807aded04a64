"""Sections of a page: the object store, the topics of a storage, and whatever else there is."""

from __future__ import annotations

from typing import Any

from danube_trio.cli.top.figures import View, as_dict, as_list, histogram, number, seconds_between
from danube_trio.cli.top.words import Line, amount, clean, duration, per_second, size, table

__all__ = ["cloud_lines", "rest_lines", "topic_lines"]

# What other sections show.
SHOWN = {
    *("phase", "start_offset", "uploaded_end", "sealed_end", "durable_end", "written_end"),
    *("next_offset", "appended_records", "appended_bytes", "writes", "syncs", "rolls", "looks"),
    *("readers", "tasks", "cloud"),
}
SHOWN_OF_CLOUD = {"uploads", "uploaded_bytes", "fetched_bytes"}
HELD = ("pending_", "waiting_", "cached_")
BAD = ("failures", "error", "failed", "held", "lost")
PAIRS = 3  # in a line


def cloud_lines(view: View) -> list[Line]:
    """The object store's part."""
    cloud = as_dict(view.found.get("cloud"))
    pairs = [(name, value) for name, value in cloud.items() if name not in SHOWN_OF_CLOUD]
    return _pairs("object store", pairs)


def rest_lines(view: View) -> list[Line]:
    """What no other section shows."""
    pairs = [
        (name, value)
        for name, value in view.found.items()
        if name not in SHOWN and not (name.startswith(HELD) and number(value) is not None)
    ]
    notes = as_list(view.found.get("notes"))
    lines = _pairs("and", [pair for pair in pairs if pair[0] != "notes"])
    lines += [[(f"note: {clean(note)}", "warn")] for note in notes[: view.rows]]
    return lines


def _pairs(title: str, pairs: list[tuple[str, Any]]) -> list[Line]:
    """Names and values, some in a line; those that tell of trouble on lines of their own."""
    calm: list[str] = []
    trouble: list[Line] = []
    for name, value in pairs:
        shown = _value(name, value)
        if shown is None:
            continue
        text = f"{clean(name).replace('_', ' ')} {shown}"
        if value and any(word in name for word in BAD):
            trouble.append([(f"  {text}", "bad")])
        else:
            calm.append(text)
    if not calm and not trouble:
        return []
    lines: list[Line] = [[(title, "dim")]]
    for i in range(0, len(calm), PAIRS):
        lines.append([("  " + ",  ".join(calm[i : i + PAIRS]), "")])
    return lines + trouble


def _value(name: str, value: Any) -> str | None:
    """The value as text; None for what is shown elsewhere, or is nothing."""
    if histogram(value) is not None or value is None or value == "" or value == []:
        return None
    if isinstance(value, bool):
        return "yes" if value else "no"
    if number(value) is not None:
        if name.endswith("bytes"):
            return size(value)
        return duration(value) if name.endswith("seconds") else amount(value)
    return clean(value)[:200]


# ---- topics


def topic_lines(view: View) -> list[Line]:
    """The topics of a storage, the busiest first."""
    topics = [as_dict(topic) for topic in as_list(view.now.get("topics"))]
    if "topics" not in view.now:
        return []
    if not topics:
        return [[("topics  none is open", "dim")]]
    before = {
        clean(topic.get("topic")): topic
        for topic in map(as_dict, as_list(as_dict(view.before).get("topics")))
    }
    seconds = seconds_between(view.before, view.now)
    found = [_topic(topic, before, seconds) for topic in topics]
    found.sort(key=lambda entry: (-entry[0], entry[1][0]))
    head = ["topics", "phase", "next", "durable", "records", "bytes", "size", "readers", "waiting"]
    if not any(number(topic, "waiting_bytes") for topic in topics):
        head = head[:-1]  # without a store it is always 0, and 80 columns are soon full
    shown = found[: view.rows]
    styles = ["" if row[1] == "open" else "warn" for _, row in shown]
    lines = table([head, *(row[: len(head)] for _, row in shown)], left=2, styles=styles)
    more = len(found) - len(shown) + int(number(view.now, "topics_left_out") or 0)
    return [*lines, [(f"and {amount(more)} more", "dim")]] if more > 0 else lines


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
