"""Values that options take and that output shows: positions, times, input formats."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Final

import click

__all__ = [
    "FORMATS",
    "Start",
    "columns",
    "counted",
    "time_text",
    "to_point",
    "to_start",
    "to_until",
]

FORMATS: Final = ("lines", "ndjson", "length-prefixed")
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

# ("earliest", 0), ("latest", 0), ("offset", n) or ("timestamp", seconds)
Start = tuple[str, float]


def to_start(ctx: click.Context, param: click.Parameter, text: str) -> Start:
    """The value of ``--from``."""
    if text in ("earliest", "latest"):
        return text, 0
    if text.startswith("@"):
        return "timestamp", _seconds(ctx, param, text[1:])
    if text.isascii() and text.isdigit():
        return "offset", int(text)
    raise click.BadParameter(
        f"{text!r} is neither earliest, latest, an offset nor @TIME", ctx, param
    )


def _seconds(ctx: click.Context, param: click.Parameter, text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            reason = f"{text!r} is neither seconds since 1970 nor ISO 8601"
            raise click.BadParameter(reason, ctx, param) from None
        seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    if not (math.isfinite(seconds) and seconds >= 0):
        raise click.BadParameter(f"{text!r} is before 1970, or no time at all", ctx, param)
    return seconds


def to_until(ctx: click.Context, param: click.Parameter, text: str) -> int | None:
    """The value of ``--until``; None is the current end."""
    if text == "current":
        return None
    if text.isascii() and text.isdigit():
        return int(text)
    raise click.BadParameter(f"{text!r} is neither current nor an offset", ctx, param)


def to_point(ctx: click.Context, param: click.Parameter, text: str | None) -> Start | None:
    """The value of a restore's ``--until``: an offset or a time; None is everything."""
    if text is None:
        return None
    if text.startswith("@"):
        return "timestamp", _seconds(ctx, param, text[1:])
    if text.isascii() and text.isdigit():
        return "offset", int(text)
    raise click.BadParameter(f"{text!r} is neither an offset nor @TIME", ctx, param)


def time_text(microseconds: int) -> str | None:
    """ISO 8601 in UTC; None for 0, which stands for unknown."""
    if not microseconds:
        return None
    try:
        moment = EPOCH + timedelta(microseconds=microseconds)
    except OverflowError:
        return f"{microseconds} us after 1970"
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def counted(number: int, thing: str) -> str:
    """A number and what it counts: 1 record, 2 records."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def columns(rows: list[tuple[str, ...]], numbers: int) -> list[str]:
    """The lines of a table; its first `numbers` columns are right-aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if i < numbers else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
