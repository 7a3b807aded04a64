"""The table for people, and the document for programs, of the same results."""

from __future__ import annotations

import importlib.util
import statistics
import sys
from collections.abc import Mapping, Sequence

import attrs
from cases import CASES, Case, Metric

__all__ = ["Results", "document", "print_table"]

# By name of the case: the numbers of each round.
Results = Mapping[str, Sequence[Mapping[str, float]]]


@attrs.frozen
class Row:
    """A line of the table."""

    label: str
    median: str
    spread: str
    bar: str
    goal: str
    verdict: str


HEADINGS = Row("", "median", "lowest to highest", "bar", "goal", "")


def _number(value: float, unit: str) -> str:
    if unit == "/s" or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.2f}"


def _limit(metric: Metric, value: float | None) -> str:
    if value is None:
        return ""
    return f"{'<=' if metric.at_most else '>='} {value:,g}"


def _values(metric: Metric, rounds: Sequence[Mapping[str, float]]) -> list[float]:
    return [found[metric.key] for found in rounds if metric.key in found]


def _row(metric: Metric, values: list[float]) -> Row:
    median = statistics.median(values)
    unit = f" {metric.unit}" if metric.unit else ""
    spread = f"{_number(min(values), metric.unit)} to {_number(max(values), metric.unit)}"
    return Row(
        metric.label,
        _number(median, metric.unit) + unit,
        spread if len(values) > 1 else "",
        _limit(metric, metric.bar),
        _limit(metric, metric.goal),
        metric.verdict(median),
    )


def _rows(case: Case, rounds: Sequence[Mapping[str, float]]) -> list[Row]:
    return [_row(metric, values) for metric in case.metrics if (values := _values(metric, rounds))]


def print_table(results: Results) -> None:
    """Print the results, with rich where it is installed and stdout is a terminal."""
    tables = [(CASES[name], _rows(CASES[name], rounds)) for name, rounds in results.items()]
    if sys.stdout.isatty() and importlib.util.find_spec("rich") is not None:
        _print_rich(tables)
    else:
        _print_plain(tables)


def _print_plain(tables: Sequence[tuple[Case, list[Row]]]) -> None:
    everything = [attrs.astuple(row) for _, rows in tables for row in (HEADINGS, *rows)]
    widths = [max(map(len, column)) for column in zip(*everything, strict=True)]
    for case, rows in tables:
        print(f"\n{case.title} ({case.name})")
        for row in (HEADINGS, *rows):
            cells = attrs.astuple(row)
            padded = [
                cell.ljust(width) if i in (0, 5) else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
            ]
            print(f"  {'  '.join(padded)}".rstrip())


def _print_rich(tables: Sequence[tuple[Case, list[Row]]]) -> None:
    from rich.console import Console
    from rich.table import Table

    colors = {"goal": "green", "ok": "yellow", "below": "red"}
    console = Console()
    for case, rows in tables:
        table = Table(title=f"{case.title} ({case.name})", title_justify="left")
        for i, heading in enumerate(attrs.astuple(HEADINGS)):
            table.add_column(heading, justify="left" if i in (0, 5) else "right")
        for row in rows:
            table.add_row(*attrs.astuple(row), style=colors.get(row.verdict, ""))
        console.print(table)


def document(results: Results) -> dict[str, object]:
    """The results as plain data."""
    return {
        name: {
            "title": CASES[name].title,
            "rounds": [dict(found) for found in rounds],
            "medians": {
                metric.key: statistics.median(values)
                for metric in CASES[name].metrics
                if (values := _values(metric, rounds))
            },
            "targets": [
                {
                    "metric": metric.key,
                    "unit": metric.unit,
                    "bar": metric.bar,
                    "goal": metric.goal,
                    "at_most": metric.at_most,
                    "verdict": metric.verdict(statistics.median(values)),
                }
                for metric in CASES[name].metrics
                if (metric.bar is not None or metric.goal is not None)
                and (values := _values(metric, rounds))
            ],
        }
        for name, rounds in results.items()
    }
