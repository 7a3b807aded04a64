"""Values that options take and that output shows: positions, counts, tables.

Imports little, because `--help` waits for this file.
"""

from __future__ import annotations

from typing import Final

import click

from danube_trio._core.numbers import number_in

FORMATS: Final = ("lines", "ndjson", "length-prefixed")
SHELLS: Final = ("bash", "zsh", "fish")
VARIABLE: Final = "DANUBE_STORE"  # of the environment: the store, if none is named
# Where the logs are in a store: Danube's own place, which a log with a topic name has, too.
TOPICS: Final = "storage/topics"
# Set by the completion script of a shell; click derives the name from the program's.
COMPLETE: Final = "_DANUBE_TRIO_COMPLETE"

# ("earliest", 0), ("latest", 0), ("offset", n) or ("timestamp", seconds)
Start = tuple[str, float]


def to_start(ctx: click.Context, param: click.Parameter, text: str | None) -> Start | None:
    """The value of ``--from``; None if there is none."""
    if text in ("earliest", "latest"):
        return text, 0
    fault = (
        "neither earliest, latest, an offset nor @TIME (seconds since 1970 or ISO 8601, as "
        "@2026-01-31T12:00)"
    )
    return _point(ctx, param, text, fault)


def to_until(ctx: click.Context, param: click.Parameter, text: str) -> int | None:
    """The value of ``--until``; None is the current end."""
    if text == "current":
        return None
    if (offset := number_in(text)) is not None:
        return offset
    raise click.BadParameter(f"{text!r} is neither current nor an offset", ctx, param)


def to_point(ctx: click.Context, param: click.Parameter, text: str | None) -> Start | None:
    """The value of a restore's ``--until``: an offset or a time; None is everything."""
    return _point(ctx, param, text, "neither an offset nor @TIME")


def _point(
    ctx: click.Context, param: click.Parameter, text: str | None, fault: str
) -> Start | None:
    if text is None:
        return None
    if text.startswith("@"):
        from danube_trio.cli._times import seconds_of

        try:
            return "timestamp", seconds_of(text[1:])
        except ValueError as error:
            raise click.BadParameter(str(error), ctx, param) from None
    if (offset := number_in(text)) is not None:
        return "offset", offset
    raise click.BadParameter(f"{text!r} is {fault}", ctx, param)


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
