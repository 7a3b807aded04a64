"""The commands and their options. What they do is in the other files of this package.

`--help` and completion import this file and no more, so a command is imported when it runs.
"""

from __future__ import annotations

from typing import Any

import click

from danube_trio._version import __version__
from danube_trio.cli._failures import EXIT_CODES, PROBLEMS, Commands
from danube_trio.cli._machine_commands import bench, completion, top
from danube_trio.cli._options import (
    Folder,
    as_json,
    as_raw,
    completed_by,
    directory,
    directory_or_store,
    file_name,
    in_store,
    skip,
    without_meta,
)
from danube_trio.cli._store_commands import restore, topics, upload
from danube_trio.cli._values import FORMATS, Start, to_start, to_until

__all__ = ["app"]


@click.group(
    cls=Commands,
    epilog=EXIT_CODES,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="danube-trio")
@click.option("-v", "--verbose", is_flag=True, help="Log to stderr what is done.")
def app(verbose: bool) -> None:
    """Append to, read, check and repair durable logs.

    \b
      printf 'one\\ntwo\\n' | danube-trio append ./log
      danube-trio tail -f ./log

    DIR is the directory of a log. All commands but append, repair, upload, restore, import-danube
    and bench read only, take no lock, and work while a program holds the log. With --store they
    read what the log has in an object store, beside DIR or without it. Data goes to stdout,
    everything else to stderr.
    """


@app.command(epilog=EXIT_CODES)
@directory
@click.option(
    "--format",
    "input_format",
    type=click.Choice(list(FORMATS)),
    default="lines",
    show_default=True,
    help="lines: one payload each. ndjson: one message each, as replay --json prints it. "
    "length-prefixed: payloads, each after its length (32 bits, little endian).",
)
@click.option(
    "--batch",
    type=click.IntRange(1, 100_000),
    default=1000,
    show_default=True,
    metavar="N",
    help="Most records in one atomic batch. What has arrived is appended without waiting for more.",
)
@click.option(
    "--codec",
    metavar="NAME",
    shell_complete=completed_by("codecs"),
    help="The message layout of a new log.",
)
@click.option("--acks", is_flag=True, help="Print the offsets of each batch once it is durable.")
@file_name
@as_json
def append(**options: Any) -> None:
    """Append what comes on stdin, durably.

    Prints how many records that were, and their offsets. Makes the directory if it is missing.
    """
    from danube_trio.cli._append import append_stdin

    append_stdin(**options)


@app.command(epilog=EXIT_CODES)
@directory_or_store
@click.option(
    "--from",
    "start",
    callback=to_start,
    shell_complete=completed_by("positions"),
    default="earliest",
    show_default=True,
    metavar="OFFSET|@TIME|WORD",
    help="earliest, latest, an offset, or @ and a time: seconds since 1970 or ISO 8601 (UTC).",
)
@click.option(
    "--until",
    callback=to_until,
    shell_complete=completed_by("points"),
    default="current",
    show_default=True,
    metavar="OFFSET",
    help="Stop before this offset; current: where the log ends now.",
)
@click.option("--count", type=click.IntRange(0), metavar="N", help="Stop after so many records.")
@without_meta
@as_json
@as_raw
@skip
@file_name
@in_store
def replay(start: Start, until: int | None, count: int | None, **options: Any) -> None:
    """Print messages, from any offset or time on.

    The payloads as lines, or all fields with --json.
    """
    from danube_trio.cli._read import print_records

    if print_records(start=start, until=until, count=count, **options):
        click.get_current_context().exit(PROBLEMS)


@app.command(epilog=EXIT_CODES)
@directory_or_store
@click.option("-f", "--follow", is_flag=True, help="Go on with what is appended later.")
@click.option(
    "-n",
    "--lines",
    "last",
    type=click.IntRange(0),
    default=10,
    show_default=True,
    metavar="N",
    help="How many messages to begin with.",
)
@click.option(
    "--from",
    "start",
    callback=to_start,
    shell_complete=completed_by("positions"),
    metavar="OFFSET|@TIME|WORD",
    help="Where to begin instead: earliest, latest, an offset, or @ and a time, as for replay.",
)
@click.option("--count", type=click.IntRange(0), metavar="N", help="Stop after so many records.")
@as_json
@as_raw
@skip
@file_name
@in_store
def tail(start: Start | None, last: int, follow: bool, **options: Any) -> None:
    """Print the last messages, and follow the log.

    With -f it goes on with what is appended: through rolls, restarts of the writer, and retention.
    """
    from danube_trio.cli._read import print_records

    given = click.get_current_context().get_parameter_source("last")
    if start is not None and given is click.core.ParameterSource.COMMANDLINE:
        raise click.UsageError("--lines and --from exclude each other: both say where to begin")
    if print_records(start=start, last=last, follow=follow, **options):
        click.get_current_context().exit(PROBLEMS)


@app.command(epilog=EXIT_CODES)
@directory_or_store
@as_json
@file_name
@in_store
def info(**options: Any) -> None:
    """Show how far a log is, and what it is made of.

    Its marks, segments and holder, and what opening it would do.
    """
    from danube_trio.cli._info import print_info

    print_info(**options)


@app.command(epilog=EXIT_CODES)
@directory_or_store
@as_json
@file_name
@in_store
def verify(**options: Any) -> None:
    """Check every byte of a log, and change nothing.

    Every frame and message, and that all files fit together. Prints what it finds: problems (exit
    code 1), warnings, and notes.
    """
    from danube_trio.cli._check import print_findings

    if print_findings(**options):
        click.get_current_context().exit(PROBLEMS)


@app.command(epilog=EXIT_CODES)
@directory_or_store
@click.option("--yes", is_flag=True, help="Do it, without asking.")
@click.option(
    "--policy",
    type=click.Choice(["truncate", "skip"]),
    help="What to do about damaged records. truncate: the log ends before the first. "
    "skip: they stay, and readers that allow it get a gap.",
)
@without_meta
@as_json
@file_name
@in_store
def repair(**options: Any) -> None:
    """Say what is wrong, and mend it with --yes.

    Prints a plan first: what can be done, and what would be lost. Refuses while a program holds the
    log. Nothing is thrown away: what is cut off is kept beside. With --store, damaged segments
    whose records are in verified objects are given up for these, and a catalog that is gone, or
    older than its objects, is made anew of them; for that alone DIR can be left out.
    """
    from danube_trio.cli._repair import repair_log

    if code := repair_log(**options):
        click.get_current_context().exit(code)


@app.command("import-danube", epilog=EXIT_CODES)
@click.argument("source", type=Folder())
@click.argument("target", type=Folder())
@click.option(
    "--codec",
    metavar="NAME",
    shell_complete=completed_by("codecs"),
    help="The layout of all messages; without it, it is found out.",
)
@click.option(
    "--kind",
    type=click.Choice(["wal", "objects", "segments"]),
    help="What to read, if SOURCE holds several: wal*.log, data-*.dnb1 or segment_*.bin.",
)
@click.option("--dry-run", is_flag=True, help="Check SOURCE and print what would be done.")
@click.option(
    "--on-damage",
    type=click.Choice(["refuse", "skip"]),
    default="refuse",
    show_default=True,
    help="refuse: import nothing if anything is lost. skip: import all that can be read.",
)
@click.option(
    "--keep-offsets", is_flag=True, help="Import nothing unless every record keeps its offset."
)
@click.option(
    "--file-name",
    default="wal.log",
    show_default=True,
    metavar="NAME",
    help="The name of Danube's first file.",
)
@as_json
def import_danube(**options: Any) -> None:
    """Make a log of what Danube itself wrote.

    SOURCE is the directory of one topic, which is only read; stop Danube first. TARGET must not
    exist, or be empty.
    """
    from danube_trio.cli._import import import_danube as run

    if code := run(**options):
        click.get_current_context().exit(code)


for _command in (upload, restore, topics, top, bench, completion):
    app.add_command(_command)
