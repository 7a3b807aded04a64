"""Pictures of what a log does, drawn from real runs (`runs`): marks, journey, phases."""

from __future__ import annotations

import ast
from pathlib import Path

import runs
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from style import LIGHT, box, figure_of

__all__ = ["draw_journey", "draw_marks", "draw_phases"]

ROOT = Path(__file__).parents[2]


def draw_marks() -> Figure:
    """The marks of a log over time, from `statistics()`."""
    samples = runs.marks()
    times = [sample.time for sample in samples]
    line = {name: [sample.marks[name] for sample in samples] for name in runs.MARKS}
    figure, axes = figure_of(4.6)
    bands = [
        ("start_offset", "uploaded_end", "a", "uploaded: survives the loss of the directory"),
        ("uploaded_end", "sealed_end", "f", "sealed: in a file that never changes again"),
        ("sealed_end", "durable_end", "b", "durable: on the disk, visible to readers"),
        ("durable_end", "written_end", "c", "written: survives a crash of the process"),
        ("written_end", "next_offset", "e", "accepted: in memory"),
    ]
    for low, high, color, label in bands:
        axes.fill_between(
            times,
            line[low],
            line[high],
            step="post",
            color=LIGHT[color],
            alpha=0.55,
            linewidth=0,
            label=label,
        )
    for name in runs.MARKS:
        axes.step(times, line[name], where="post", color=LIGHT["text"], linewidth=0.9)
    end = times[-1]
    axes.text(end, line["start_offset"][-1], " start_offset", va="center", color=LIGHT["text"])
    axes.text(end, line["next_offset"][-1], " next_offset", va="center", color=LIGHT["text"])
    late = len(times) * 8 // 10
    trimmed = line["start_offset"][late] / 2
    axes.text(times[late], trimmed, "trimmed: gone", ha="center", color=LIGHT["quiet"])
    axes.set_xlim(0, end)
    axes.set_ylim(0, None)
    axes.set_xlabel("seconds (of virtual time)")
    axes.set_ylabel("offset")
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], labels[::-1], loc="upper left", frameon=False, fontsize=9)
    return figure


# ---- the journey

LANES = ("producer", "marks", "disk", "reader here", "object store", "replica elsewhere")
LANE_COLORS = {
    "producer": "e",
    "disk": "b",
    "reader here": "c",
    "object store": "a",
    "replica elsewhere": "d",
}
STEPS = {
    "upload": "upload",
    "get": "read back",
    "create": "catalog",
    "list_objects": "look: mine?",
}


def draw_journey() -> Figure:
    """Where one record was when, from a traced run."""
    events = [event for event in runs.journey() if event.end >= 0]
    last = max(event.end for event in events if event.where == "replica elsewhere")
    figure, axes = figure_of(4.0)
    rows = {name: len(LANES) - 1 - i for i, name in enumerate(LANES)}
    for name, row in rows.items():
        axes.axhspan(row - 0.42, row + 0.42, color=LIGHT["card"], linewidth=0)
        axes.text(-2.4, row, name, ha="right", va="center", color=LIGHT["text"])
    for event in events:
        if event.start > last - 1e-6:
            continue
        row = rows[event.where]
        start, end = max(0.0, event.start * 1e3), event.end * 1e3
        if event.where == "marks":
            _mark(axes, row, end, event.what)
        else:
            _bar(axes, row, start, end, event, LIGHT[LANE_COLORS[event.where]])
    axes.set_xlim(-20, last * 1e3 + 3)
    axes.set_ylim(-0.6, len(LANES) - 0.4)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_xticks(range(0, int(last * 1e3) + 3, 10))
    axes.set_xlabel("milliseconds since append() was called")
    axes.grid(axis="x")
    axes.set_axisbelow(True)
    return figure


def _mark(axes: Axes, row: int, at: float, name: str) -> None:
    above = {"accepted": 0.24, "written": 0.0, "durable": -0.24, "sealed": 0.24}.get(name, 0.0)
    axes.plot([at], [row + above], marker="o", color=LIGHT["text"], markersize=4)
    axes.text(at + 0.9, row + above, name, va="center", fontsize=8.5, color=LIGHT["text"])


def _bar(axes: Axes, row: int, start: float, end: float, event: runs.Event, color: str) -> None:
    first = event.what.split()[0]
    if event.where == "disk":
        offset = 0.13 if first == "write" else -0.13
        axes.barh(row + offset, end - start, left=start, height=0.2, color=color)
        if start == 0:
            text = {"write": "write", "sync": "sync; another one when the segment is sealed"}[first]
            axes.text(2 * end + 0.9, row + offset, text, va="center", fontsize=8.5)
        return
    waits = first == "waits"
    height = 0.34 if not waits else 0.1
    axes.barh(
        row, end - start, left=start, height=height, color=color, alpha=0.45 if waits else 0.9
    )
    if waits:
        axes.plot([end], [row], marker="D", color=color, markersize=6)
        axes.text(end - 1.2 if end > 40 else end + 1.2, row + 0.2, "has it", fontsize=8.5,
                  ha="right" if end > 40 else "left", va="center")  # fmt: skip
    elif event.where == "producer":
        axes.text(end + 0.9, row, "append() returns", va="center", fontsize=8.5)
    else:
        axes.text((start + end) / 2, row + 0.28, STEPS.get(first, first), ha="center", va="center",
                  fontsize=8)  # fmt: skip
        axes.plot([end, end], [row - 0.17, row + 0.17], color=LIGHT["card"], linewidth=1.5)


# ---- the phases

PLACES = {
    "open": (0.0, 1.0),
    "sealed": (2.4, 2.1),
    "fenced": (2.4, -0.1),
    "closing": (4.75, 1.0),
    "closed": (6.55, 1.0),
    "broken": (0.0, 2.1),
}
MEANINGS = {
    "open": "appends, and readers",
    "sealed": "readers; all is uploaded",
    "fenced": "readers of what is here",
    "closing": "what was accepted drains",
    "closed": "nothing",
    "broken": "readers of what is durable",
}
# Where the label of a change stands, from its middle; and how it is aligned there.
LABELS = {
    ("open", "broken"): (-0.06, 0.0, "right"),
    ("open", "sealed"): (0.1, -0.06, "left"),
    ("open", "fenced"): (0.1, 0.08, "left"),
    ("sealed", "closing"): (0.1, 0.08, "left"),
    ("fenced", "closing"): (0.1, -0.06, "left"),
}
PHASE_COLORS = {"open": "b", "broken": "e", "fenced": "c", "closed": "f"}


def draw_phases() -> Figure:
    """The phases of a log, and the changes between them that real logs went through."""
    known = _phase_names()
    assert set(known) == set(PLACES), known
    figure, axes = figure_of(3.7)
    boxes: dict[str, FancyBboxPatch] = {}
    for name in known:
        x, y = PLACES[name]
        color = LIGHT[PHASE_COLORS.get(name, "a")]
        half = 0.38 if name == "closed" else 0.68
        boxes[name] = patch = box(x - half, y - 0.24, 2 * half, 0.48, color, color)
        patch.set_alpha(0.28)
        axes.add_patch(patch)
        axes.text(x, y + 0.07, name, ha="center", va="center", fontsize=11, weight="bold")
        axes.text(x, y - 0.11, MEANINGS[name], ha="center", va="center", fontsize=7.5,
                  color=LIGHT["quiet"])  # fmt: skip
    for start, end, why in runs.phases():
        _arrow(axes, boxes, start, end, why)
    axes.set_xlim(-0.75, 7.0)
    axes.set_ylim(-0.4, 2.4)
    axes.set_axis_off()
    return figure


def _phase_names() -> list[str]:
    """The values of `Phase`, from its source."""
    tree = ast.parse((ROOT / "danube_trio" / "_core" / "life.py").read_text(encoding="utf-8"))
    phase = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "Phase")
    return [ast.literal_eval(n.value) for n in phase.body if isinstance(n, ast.Assign)]


def _arrow(axes: Axes, boxes: dict[str, FancyBboxPatch], start: str, end: str, why: str) -> None:
    (x1, y1), (x2, y2) = PLACES[start], PLACES[end]
    arrow = FancyArrowPatch(
        (x1, y1), (x2, y2), arrowstyle="-|>", mutation_scale=13, patchA=boxes[start],
        patchB=boxes[end], shrinkA=2, shrinkB=2, color=LIGHT["quiet"], linewidth=1.1,
    )  # fmt: skip
    axes.add_patch(arrow)
    x, y, align = LABELS.get((start, end), (0.0, 0.1, "center"))
    if (start, end) in (("sealed", "broken"), ("open", "broken")):
        why = why.replace(" or ", " or\n")
    axes.text((x1 + x2) / 2 + x, (y1 + y2) / 2 + y, why, ha=align, fontsize=8.5,
              va="bottom" if align == "center" else "center")  # fmt: skip
