"""Pictures of what was measured, and the table that has the same figures."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from style import LIGHT, WIDTH, figure_of

__all__ = ["draw_device", "draw_peers", "table"]

MEASURED = Path(__file__).parents[1] / "data" / "benchmarks.json"

PEERS = {"ours": "danube-trio", "lmdb": "LMDB", "sqlite": "SQLite"}
PEER_COLORS = {"ours": "b", "lmdb": "a", "sqlite": "c"}


def measured() -> dict[str, Any]:
    """The results of `benchmarks/run.py` that the pictures and the comparison show."""
    found: dict[str, Any] = json.loads(MEASURED.read_text(encoding="utf-8"))
    return found


def table() -> list[str]:
    """The rows of the table on the page that compares; a test looks whether they are there."""
    cases = measured()["cases"]
    rows: list[str] = []
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
    figure, axes = figure_of(2.2)
    for row, (case, label) in enumerate(reversed(RATIOS.items())):
        _row(axes, row, [found["of_device"] for found in cases[case]["rounds"]], label, LIGHT["b"])
    _ratios(axes, len(RATIOS))
    return figure
