"""More commands and their options: object stores, the machine, the shell. See `_app`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from danube_trio.cli._failures import EXIT_CODES, PROBLEMS, Command
from danube_trio.cli._options import (
    Folder,
    as_json,
    completed_by,
    directory,
    directory_or_store,
    file_name,
    in_store,
)
from danube_trio.cli._values import to_point

if TYPE_CHECKING:
    from danube_trio.cli._where import Where

__all__ = ["SHELLS", "bench", "completion", "restore", "top", "topics", "upload"]

SHELLS = ("bash", "zsh", "fish")


def command(function: Callable[..., None]) -> Command:
    """The command that this function is."""
    return click.command(cls=Command, epilog=EXIT_CODES)(function)


# ---- object stores


@command
@directory
@click.option(
    "--seal",
    is_flag=True,
    help="Hand the log over: say in the catalog that nothing is anywhere else. Local files may go.",
)
@click.option("--dry-run", is_flag=True, help="Print what would be uploaded; take nothing over.")
@click.option(
    "--take-over",
    is_flag=True,
    help="Also if the log was taken over by another directory. Its writer is fenced, and what this "
    "directory has beyond the catalog's end is set aside.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0.1),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="Give up when nothing was uploaded for so many seconds.",
)
@as_json
@file_name
@in_store
def upload(where: Where, **options: Any) -> None:
    """Upload what is not in the store yet.

    All of it, also the segment that is still being filled. Opens the log as its writer, so no other
    program can hold DIR meanwhile, and any writer elsewhere is fenced: it takes the log over. Local
    files stay without --seal.
    """
    from danube_trio.cli._upload import upload as run

    run(where=where, **options)


@command
@click.argument("target", type=Folder())
@click.option(
    "--until",
    callback=to_point,
    shell_complete=completed_by("points"),
    metavar="OFFSET|@TIME",
    help="Restore only records before this offset, or appended before this time: seconds since "
    "1970 or ISO 8601 (UTC). It ends at the end of a batch.",
)
@click.option("--dry-run", is_flag=True, help="Print what would be fetched, and where it ends.")
@as_json
@file_name
@in_store
def restore(where: Where, **options: Any) -> None:
    """Make a log of what a store holds.

    Of all of it, or up to a point. TARGET must not exist, or be empty. It becomes a log of its own,
    which is used without the store; nothing in the store is changed.
    """
    from danube_trio.cli._restore import restore as run

    run(where=where, **options)


@command
@directory_or_store
@as_json
@file_name
@in_store
def topics(where: Where, **options: Any) -> None:
    """List the logs in a store, or in a directory.

    In a directory they are in DIR/NAMESPACE/NAME. --prefix is what the keys of all of them begin
    with, if that is not storage/topics.
    """
    from danube_trio.cli._topics import print_topics

    if print_topics(where=where, **options):
        click.get_current_context().exit(PROBLEMS)


# ---- the machine, and the shell


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
    from danube_trio.cli._top import watch

    watch(**options)
