"""The picture of the layers, drawn from the list that the tests check the imports against."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from style import LIGHT, box, figure_of

__all__ = ["draw_layers"]

ROOT = Path(__file__).parents[2]

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
    levels = sorted(set(ranks.values()))
    figure, axes = figure_of(0.78 * len(levels) + 2.2)
    y = 0.0
    for level in levels:
        names = sorted(name for name, rank in ranks.items() if rank == level and name in sizes)
        rows = _rows([(name or "danube_trio", sizes[name]) for name in names])
        height = 0.6 * len(rows) + 0.5
        axes.add_patch(box(0, y, 100, height, LIGHT["card"], LIGHT["line"]))
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
    axes.set_axis_off()
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
        patch = box(x, y, width, 0.44, color, color)
        patch.set_alpha(min(0.85, 0.12 + size / 2500))
        axes.add_patch(patch)
        axes.text(x + width / 2, y + 0.21, name, ha="center", va="center", fontsize=8.5,
                  family="DejaVu Sans Mono")  # fmt: skip
        x += width + 1
