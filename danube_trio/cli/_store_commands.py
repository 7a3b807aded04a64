"""Commands about what is in an object store, and their options. See `_app`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from danube_trio.cli._failures import PROBLEMS, command
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

__all__ = ["restore", "topics", "upload"]


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
