"""The pictures of the documentation, drawn from the code, from real runs and from measurements.

``python docs/pictures.py FOLDER`` writes them as files, light and dark. In the pages they are inline
SVG whose colors are variables of the page's style (`docs/_static/site.css`).
"""

from __future__ import annotations

import ast
import html
import importlib.util
import io
import json
import logging
import re
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

import runs

__all__ = ["PICTURES", "svg"]

ROOT = Path(__file__).parent.parent
MEASURED = ROOT / "docs" / "data" / "benchmarks.json"

# Each color stands for a variable of the style; the values are for files.
LIGHT = {
    "text": "#24292f",
    "quiet": "#6b7683",
    "line": "#d5dbe1",
    "card": "#f6f8fa",
    "a": "#1f6fb2",
    "b": "#2a9d6f",
    "c": "#e08a1e",
    "d": "#8a5fbf",
    "e": "#c8423b",
    "f": "#5a7d9a",
}
DARK = {
    "text": "#dfe4ea",
    "quiet": "#98a3af",
    "line": "#3a424c",
    "card": "#1d232a",
    "a": "#62aee8",
    "b": "#56c596",
    "c": "#f0ad4e",
    "d": "#b592e0",
    "e": "#ee7b74",
    "f": "#8fb0cb",
}
STYLE = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.edgecolor": LIGHT["line"],
    "axes.labelcolor": LIGHT["quiet"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "text.color": LIGHT["text"],
    "xtick.color": LIGHT["quiet"],
    "ytick.color": LIGHT["quiet"],
    "grid.color": LIGHT["line"],
    "grid.linewidth": 0.6,
}
WIDTH = 8.4


def _figure(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.add_subplot()


def _bare(axes: Axes) -> None:
    axes.set_axis_off()


# ---- the marks


def draw_marks() -> Figure:
    """The marks of a log over time, from `statistics()`."""
    samples = runs.marks()
    times = [sample.time for sample in samples]
    line = {name: [sample.marks[name] for sample in samples] for name in runs.MARKS}
    figure, axes = _figure(4.6)
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
    figure, axes = _figure(4.0)
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
    axes.barh(row, end - start, left=start, height=height, color=color, alpha=0.45 if waits else 0.9)
    if waits:
        axes.plot([end], [row], marker="D", color=color, markersize=6)
        axes.text(end - 1.2 if end > 40 else end + 1.2, row + 0.2, "has it", fontsize=8.5,
                  ha="right" if end > 40 else "left", va="center")  # fmt: skip
    elif event.where == "producer":
        axes.text(end + 0.9, row, "append() returns", va="center", fontsize=8.5)
    else:
        axes.axvline(end, ymin=0, ymax=0, color=color)
        axes.text((start + end) / 2, row + 0.28, STEPS.get(first, first), ha="center", va="center",
                  fontsize=8)  # fmt: skip
        axes.plot([end, end], [row - 0.17, row + 0.17], color=LIGHT["card"], linewidth=1.5)


# ---- the layers

RANK_NAMES = (
    "facts: no I/O, no clock",
    "one thing each: disk, stores, reading",
    "the tasks, and what they share",
    "the open log; checking and repairing it",
    "wired to the real disk",
    "many topics; the engine's thread",
    "the public names",
    "built on the public names",
    "the command line",
)


def draw_layers() -> Figure:
    """The parts of the package by rank, as the test of the layering has them."""
    ranks, sizes = _ranks(), _sizes()
    levels = sorted({rank for rank in ranks.values()})
    figure, axes = _figure(0.78 * len(levels) + 2.2)
    y = 0.0
    for level in levels:
        names = sorted(name for name, rank in ranks.items() if rank == level and name in sizes)
        rows = _rows([(name or "danube_trio", sizes[name]) for name in names])
        height = 0.6 * len(rows) + 0.5
        axes.add_patch(_box(0, y, 100, height, LIGHT["card"], LIGHT["line"]))
        title = RANK_NAMES[level] if level < len(RANK_NAMES) else ""
        lines = sum(sizes[name] for name in names)
        axes.text(1, y + height - 0.22, title, va="center", fontsize=9, color=LIGHT["quiet"])
        axes.text(99, y + height - 0.22, f"{lines:,} lines", va="center", ha="right", fontsize=9,
                  color=LIGHT["quiet"])  # fmt: skip
        for i, row in enumerate(rows):
            _chips(axes, row, y + height - 0.94 - 0.6 * i, level)
        y += height + 0.14
    axes.set_xlim(-0.5, 100.5)
    axes.set_ylim(-0.1, y)
    _bare(axes)
    return figure


def _ranks() -> dict[str, int]:
    path = ROOT / "tests" / "test_layering.py"
    spec = importlib.util.spec_from_file_location("test_layering", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    ranks: dict[str, int] = module.RANKS
    return ranks


def _sizes() -> dict[str, int]:
    """Lines of code and comment of each part."""
    package = ROOT / "danube_trio"
    sizes: dict[str, int] = {}
    for path in package.rglob("*.py"):
        first = path.relative_to(package).parts[0].removesuffix(".py")
        name = "" if first == "__init__" else first
        sizes[name] = sizes.get(name, 0) + path.read_text(encoding="utf-8").count("\n")
    return sizes


def _width(name: str) -> float:
    return 1.28 * len(name) + 2.6


def _rows(parts: list[tuple[str, int]]) -> list[list[tuple[str, int]]]:
    rows: list[list[tuple[str, int]]] = [[]]
    used = 1.0
    for name, size in parts:
        if used + _width(name) > 99:
            rows.append([])
            used = 1.0
        rows[-1].append((name, size))
        used += _width(name) + 1
    return rows


def _chips(axes: Axes, row: list[tuple[str, int]], y: float, level: int) -> None:
    color = LIGHT["abcdef"[level % 6]]
    x = 1.0
    for name, size in row:
        width = _width(name)
        patch = _box(x, y, width, 0.44, color, color)
        patch.set_alpha(min(0.85, 0.12 + size / 2500))
        axes.add_patch(patch)
        axes.text(x + width / 2, y + 0.21, name, ha="center", va="center", fontsize=8.5,
                  family="DejaVu Sans Mono")  # fmt: skip
        x += width + 1


def _box(x: float, y: float, width: float, height: float, face: str, edge: str) -> FancyBboxPatch:
    style = "round,pad=0,rounding_size=0.12"
    return FancyBboxPatch(
        (x, y), width, height, boxstyle=style, facecolor=face, edgecolor=edge, linewidth=0.8,
        mutation_aspect=0.5,
    )  # fmt: skip


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
    figure, axes = _figure(3.7)
    boxes: dict[str, FancyBboxPatch] = {}
    for name in known:
        x, y = PLACES[name]
        color = LIGHT[PHASE_COLORS.get(name, "a")]
        half = 0.38 if name == "closed" else 0.68
        boxes[name] = patch = _box(x - half, y - 0.24, 2 * half, 0.48, color, color)
        patch.set_alpha(0.28)
        axes.add_patch(patch)
        axes.text(x, y + 0.07, name, ha="center", va="center", fontsize=11, weight="bold")
        axes.text(x, y - 0.11, MEANINGS[name], ha="center", va="center", fontsize=7.5,
                  color=LIGHT["quiet"])  # fmt: skip
    for start, end, why in runs.phases():
        _arrow(axes, boxes, start, end, why)
    axes.set_xlim(-0.75, 7.0)
    axes.set_ylim(-0.4, 2.4)
    _bare(axes)
    return figure


def _phase_names() -> list[str]:
    """The values of `Phase`, from its source."""
    tree = ast.parse((ROOT / "danube_trio" / "_core" / "log.py").read_text(encoding="utf-8"))
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


# ---- the benchmarks

PEERS = {"ours": "danube-trio", "lmdb": "LMDB", "sqlite": "SQLite"}
PEER_COLORS = {"ours": "b", "lmdb": "a", "sqlite": "c"}


def measured() -> dict[str, Any]:
    """The results of `benchmarks/run.py` that the pictures and the comparison show."""
    found: dict[str, Any] = json.loads(MEASURED.read_text(encoding="utf-8"))
    return found


def table() -> list[str]:
    """The rows of the table on the page that compares; a test looks whether they are there."""
    cases, rows = measured()["cases"], []
    names = {"peers": "one record, one sync", "peers1000": "batches of 1000, one sync each"}
    for case, name in names.items():
        for key, label in PEERS.items():
            rounds = cases[case]["rounds"]
            ratios = sorted(found[f"{key}_per_s"] / found["device_per_s"] for found in rounds)
            rate = statistics.median(found[f"{key}_per_s"] for found in rounds)
            low, high = (statistics.quantiles(ratios, n=4)[i] for i in (0, 2))
            rows.append(
                f"| {name} | {label} | {statistics.median(ratios):.2f} | {low:.2f} to {high:.2f} "
                f"| {rate:,.0f} |"
            )
    return rows


def draw_peers() -> Figure:
    """The log and its peers as a part of the device, every round a dot."""
    cases = measured()["cases"]
    figure = Figure(figsize=(WIDTH, 2.9), layout="constrained")
    titles = {"peers": "one record, one sync", "peers1000": "batches of 1000, one sync each"}
    for i, (case, title) in enumerate(titles.items()):
        axes = figure.add_subplot(1, 2, i + 1)
        rounds = cases[case]["rounds"]
        for row, (key, label) in enumerate(reversed(PEERS.items())):
            values = [found[f"{key}_per_s"] / found["device_per_s"] for found in rounds]
            _row(axes, row, values, label, LIGHT[PEER_COLORS[key]])
        _ratios(axes, len(PEERS))
        axes.set_title(title, fontsize=10, loc="left", color=LIGHT["text"])
    return figure


def _row(axes: Axes, row: int, values: list[float], label: str, color: str) -> None:
    median = statistics.median(values)
    axes.barh(row, median, height=0.46, color=color, alpha=0.6)
    axes.plot(values, [row] * len(values), "o", color=color, markersize=3.5, alpha=0.9)
    axes.text(0, row + 0.38, f"{label}: {median:.2f}", fontsize=9, va="center")


def _ratios(axes: Axes, rows: int) -> None:
    axes.axvline(1, color=LIGHT["f"], linewidth=1.2)
    axes.set_yticks([])
    axes.set_ylim(-0.45, rows - 0.3)
    axes.set_xlim(0, None)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("of the device in the same round (1 = as fast)")
    axes.grid(axis="x")
    axes.set_axisbelow(True)


RATIOS = {
    "single": "one producer, each append awaited",
    "batch": "batches of 1000, one at a time",
    "batch4": "batches of 1000, four producers",
}


def draw_device() -> Figure:
    """Our own figures as a part of what the device does in the same round."""
    cases = measured()["cases"]
    figure, axes = _figure(2.2)
    for row, (case, label) in enumerate(reversed(RATIOS.items())):
        _row(axes, row, [found["of_device"] for found in cases[case]["rounds"]], label, LIGHT["b"])
    _ratios(axes, len(RATIOS))
    return figure


# ---- out


PICTURES: dict[str, Callable[[], Figure]] = {
    "marks": draw_marks,
    "journey": draw_journey,
    "layers": draw_layers,
    "phases": draw_phases,
    "peers": draw_peers,
    "device": draw_device,
}


def draw(name: str) -> Figure:
    """A picture by its name."""
    log = logging.getLogger("danube_trio")
    if not log.handlers:
        log.addHandler(logging.NullHandler())  # what the runs provoke is not for the reader
    with mpl.rc_context({**STYLE, "svg.hashsalt": name}):
        return PICTURES[name]()


def svg(name: str, alt: str) -> str:
    """A picture as an element for a page, with the colors of the page."""
    with mpl.rc_context({**STYLE, "svg.hashsalt": name}):
        buffer = io.StringIO()
        draw(name).savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    # Ids are used by other pictures of the page, too.
    text = re.sub(r'id="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", text)
    text = text.replace("<svg", f'<svg role="img" aria-label="{html.escape(alt)}"', 1)
    for variable, color in LIGHT.items():
        text = text.replace(color, f"var(--drawing-{variable})")
    return re.sub(r"'DejaVu Sans( Mono)?'(, [^;\"]*)?", _family, text)


def _family(found: re.Match[str]) -> str:
    return "var(--font-stack--monospace)" if found[1] else "var(--font-stack)"


def main(folder: str) -> None:
    """Write all pictures as files, as they look on white and on black."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name in PICTURES:
        with mpl.rc_context({**STYLE, "svg.hashsalt": name}):
            buffer = io.StringIO()
            figure = draw(name)
            figure.savefig(buffer, format="svg")
            figure.savefig(Path(folder) / f"{name}.png", dpi=110, facecolor="white")
        dark = buffer.getvalue()
        for variable, color in LIGHT.items():
            dark = dark.replace(color, DARK[variable])
        (Path(folder) / f"{name}.svg").write_text(buffer.getvalue(), encoding="utf-8")
        (Path(folder) / f"{name}-dark.svg").write_text(dark, encoding="utf-8")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main(sys.argv[1])
