"""Commands about this machine: its disk, its programs, its shell. See `_app`."""

from __future__ import annotations

from typing import Any

import click

from danube_trio.cli._failures import command
from danube_trio.cli._options import as_json, directory, directory_or_store, file_name

__all__ = ["SHELLS", "bench", "completion", "top"]

SHELLS = ("bash", "zsh", "fish")


@command
@directory
@click.option(
    "--seconds",
    type=click.FloatRange(0.01, 3600),
    default=4.0,
    show_default=True,
    metavar="SECONDS",
    help="How long each of the four measurements takes.",
)
@click.option(
    "--size",
    type=click.IntRange(0, 1 << 20),
    default=1024,
    show_default=True,
    metavar="BYTES",
    help="Bytes of payload in a record.",
)
@click.option(
    "--batch",
    type=click.IntRange(1, 10_000),
    default=1000,
    show_default=True,
    metavar="N",
    help="Records in a batch.",
)
@click.option(
    "--producers",
    type=click.IntRange(1, 10_000),
    default=1000,
    show_default=True,
    metavar="N",
    help="How many append at the same time.",
)
@as_json
def bench(**options: Any) -> None:
    """Measure the disk of DIR, and a log on it.

    Works in a new directory below DIR, which is removed at the end.
    """
    from danube_trio.cli._bench import run_bench

    run_bench(**options)


@command
@click.argument("shell", type=click.Choice(SHELLS), required=False)
@as_json
def completion(shell: str | None, as_json: bool) -> None:
    """Print the script that completes words in a shell.

    \b
    Put this into ~/.bashrc, or with zsh into ~/.zshrc:
      source <(danube-trio completion bash)
    """
    from danube_trio.cli._completion import print_script

    print_script(shell, as_json)


@command
@directory_or_store
@click.option("--once", is_flag=True, help="Show it once, and end.")
@click.option("--count", type=click.IntRange(1), metavar="N", help="End after so many snapshots.")
@click.option(
    "--interval",
    type=click.FloatRange(0.05, 3600.0),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="Seconds between snapshots.",
)
@click.option("--wait", is_flag=True, help="Wait for a program, also after one has ended.")
@as_json
@file_name
def top(**options: Any) -> None:
    """Watch a log while a program works with it.

    Marks, rates, syncs, readers, uploads. The program must offer it: WalConfig(watch=True), or
    StorageConfig(watch=True) for many topics. DIR is the directory of a log or of many, or a socket
    that a program was told to make; the default is the current one. Where several are offered,
    they are listed.
    """
    from danube_trio.cli.top.command import watch

    watch(**options)
