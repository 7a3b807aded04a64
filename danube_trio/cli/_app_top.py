"""The command ``top`` and its options. What it does is in `_top`, imported when it runs."""

from __future__ import annotations

from typing import Any

import click

__all__ = ["top"]


@click.command()
@click.argument("directory", metavar="[DIR]", type=click.Path(), required=False)
@click.option("--once", is_flag=True, help="Show it once, and end.")
@click.option("--count", type=click.IntRange(1), help="End after so many snapshots.")
@click.option(
    "--interval",
    type=click.FloatRange(0.05, 3600.0),
    default=1.0,
    show_default=True,
    help="Seconds between snapshots.",
)
@click.option("--wait", is_flag=True, help="Wait for a program, also after one has ended.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, a line for each snapshot.")
@click.option("--file-name", default="wal.log", show_default=True, help="The log's file name.")
def top(**options: Any) -> None:
    """Watch a log while a program works with it: marks, rates, syncs, readers, uploads.

    The program must offer it: WalConfig(watch=True), or StorageConfig(watch=True) for many topics.
    DIR is the directory of a log or of many, or a socket that a program was told to make; the
    default is the current one. Where several are offered, they are listed.
    """
    from danube_trio.cli._top import watch

    watch(**options)
