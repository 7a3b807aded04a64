"""The picture of the rooms, drawn from the list that the tests check the imports against."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from style import LIGHT, box, figure_of

__all__ = ["draw_layers"]

ROOT = Path(__file__).parents[2]

# What each row of rooms is, from the top; the rooms themselves are those of the test.
ROW_NAMES = (
    "the command line",
    "the log over HTTP, and metrics",
    "other ways in",
    "what they share",
    "on the public API only",
    "the public names",
    "many logs, Danube's directories, trio for other programs",
    "a running log, and the keeping of one that nobody has open",
    "reading; what users test with",
    "one log's directory, and how tasks wait",
    "which objects count",
    "object stores, and small consistent maps",
    "the machine, and settings",
    "facts: no input or output, no clock",
    "errors, messages, late names",
)


def draw_layers() -> Figure:
    """The rooms of the package in their rows, as the test has them."""
    rooms, sizes = _rooms(), _sizes()
    figure, axes = figure_of(0.78 * len(rooms) + 1.6)
    y = 0.0
    for level, row in enumerate(reversed(rooms)):
        names = [name for name in row if name in sizes]
        rows = _rows([("danube_trio" if name == "face" else name, sizes[name]) for name in names])
        height = 0.6 * len(rows) + 0.5
        axes.add_patch(box(0, y, 100, height, LIGHT["card"], LIGHT["line"]))
        title = ROW_NAMES[len(rooms) - 1 - level]
        lines = sum(sizes[name] for name in names)
        axes.text(1, y + height - 0.22, title, va="center", fontsize=9, color=LIGHT["quiet"])
        axes.text(99, y + height - 0.22, f"{lines:,} lines", va="center", ha="right", fontsize=9,
                  color=LIGHT["quiet"])  # fmt: skip
        for i, chips in enumerate(rows):
            _chips(axes, chips, y + height - 0.94 - 0.6 * i, level)
        y += height + 0.14
    axes.set_xlim(-0.5, 100.5)
    axes.set_ylim(-0.1, y)
    axes.set_axis_off()
    return figure


def _test_of_rooms() -> ModuleType:
    path = ROOT / "tests" / "test_rooms.py"
    spec = importlib.util.spec_from_file_location("test_rooms", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _rooms() -> tuple[tuple[str, ...], ...]:
    rooms: tuple[tuple[str, ...], ...] = _test_of_rooms().ROOMS
    if len(rooms) != len(ROW_NAMES):
        raise ValueError("say in ROW_NAMES what each row of tests/test_rooms.py is")
    return rooms


def _sizes() -> dict[str, int]:
    """Lines of code and comment of each room."""
    package, test = ROOT / "danube_trio", _test_of_rooms()
    sizes: dict[str, int] = {}
    for file in test.FILES:
        room = test.room(test.module_name(file))
        lines = (package / file).read_text(encoding="utf-8").count("\n")
        sizes[room] = sizes.get(room, 0) + lines
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
