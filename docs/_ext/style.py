"""How the pictures look: colors, fonts, sizes."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

__all__ = ["DARK", "LIGHT", "STYLE", "WIDTH", "box", "figure_of"]

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
STYLE: dict[Any, Any] = {
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


def figure_of(height: float) -> tuple[Figure, Axes]:
    """A figure of the usual width, in inches, and what to draw on."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.add_subplot()


def box(x: float, y: float, width: float, height: float, face: str, edge: str) -> FancyBboxPatch:
    """A card with round corners."""
    style = "round,pad=0,rounding_size=0.12"
    return FancyBboxPatch(
        (x, y), width, height, boxstyle=style, facecolor=face, edgecolor=edge, linewidth=0.8,
        mutation_aspect=0.5,
    )  # fmt: skip
