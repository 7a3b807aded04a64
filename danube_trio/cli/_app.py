"""The commands and their options. What they do is in the other files of this package.

`--help` and completion import this file and no more, so a command is imported when it runs. What
it returns is the exit code.
"""

from __future__ import annotations

from typing import Any

import click
from click import Choice, FloatRange, IntRange

from danube_trio._version import __version__
from danube_trio.cli._failures import EXIT_CODES, Commands
from danube_trio.cli._options import (
    Folder,
    as_json,
    as_raw,
    at_store,
    completed_by,
    directory,
    directory_or_store,
    file_name,
    in_store,
    skip,
    without_meta,
)
from danube_trio.cli._serve_options import serve_options
from danube_trio.cli._values import FORMATS, SHELLS, to_point, to_start, to_until


@click.group(
    cls=Commands,
    epilog=EXIT_CODES,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "max_content_width": 100,
        "show_default": True,
    },
)
@click.version_option(__version__, prog_name="danube-trio")
@click.option("-v", "--verbose", is_flag=True, help="Log to stderr what is done.")
def app(verbose: bool) -> None:
    """Append to, read, check and repair durable logs.

    \b
      printf 'one\\ntwo\\n' | danube-trio append ./log
      danube-trio tail -f ./log

    DIR is the directory of a log, and for serve of many. All commands but append, repair, upload,
    restore, import-danube, serve and bench read only, take no lock, and work while a program holds
    the log. With --store they read what the log has in an object store, beside DIR or without it.
    Data goes to stdout, everything else to stderr.
    """


@app.command()
@directory
@click.option(
    "--format", "input_format", type=Choice(list(FORMATS)), default="lines",
    help="lines: one payload each. ndjson: one message each, as replay --json prints it. "
    "length-prefixed: payloads, each after its length (32 bits, little endian).",
)  # fmt: skip
@click.option(
    "--batch", type=IntRange(1, 100_000), default=1000, metavar="N",
    help="Most records in one atomic batch. What has arrived is appended without waiting for more.",
)  # fmt: skip
@click.option(
    "--codec", metavar="NAME", shell_complete=completed_by("codecs"),
    help="The message layout of a new log.",
)  # fmt: skip
@click.option("--acks", is_flag=True, help="Print the offsets of each batch once it is durable.")
@file_name
@as_json
def append(**options: Any) -> None:
    """Append what comes on stdin, durably.

    Prints how many records that were, and their offsets. Makes the directory if it is missing.
    """
    from danube_trio.cli._append import append_stdin

    append_stdin(**options)


@app.command()
@directory_or_store
@click.option(
    "--from", "start", callback=to_start, shell_complete=completed_by("positions"),
    default="earliest", metavar="OFFSET|@TIME|WORD",
    help="earliest, latest, an offset, or @ and a time: seconds since 1970 or ISO 8601 (UTC).",
)  # fmt: skip
@click.option(
    "--until", callback=to_until, shell_complete=completed_by("points"), default="current",
    metavar="OFFSET", help="Stop before this offset; current: where the log ends now.",
)  # fmt: skip
@click.option("--count", type=IntRange(0), metavar="N", help="Stop after so many records.")
@without_meta
@as_json
@as_raw
@skip
@in_store
def replay(**options: Any) -> bool:
    """Print messages, from any offset or time on.

    The payloads as lines, or all fields with --json.
    """
    from danube_trio.cli._read import print_records

    return print_records(**options)


@app.command()
@directory_or_store
@click.option("-f", "--follow", is_flag=True, help="Go on with what is appended later.")
@click.option(
    "-n", "--lines", "last", type=IntRange(0), default=10, metavar="N",
    help="How many messages to begin with.",
)  # fmt: skip
@click.option(
    "--from", "start", callback=to_start, shell_complete=completed_by("positions"),
    metavar="OFFSET|@TIME|WORD",
    help="Where to begin instead: earliest, latest, an offset, or @ and a time, as for replay.",
)  # fmt: skip
@click.option("--count", type=IntRange(0), metavar="N", help="Stop after so many records.")
@as_json
@as_raw
@skip
@in_store
def tail(**options: Any) -> bool:
    """Print the last messages, and follow the log.

    With -f it goes on with what is appended: through rolls, restarts of the writer, and retention.
    """
    from danube_trio.cli._read import print_records

    given = click.get_current_context().get_parameter_source("last")
    if options["start"] is not None and given is click.core.ParameterSource.COMMANDLINE:
        raise click.UsageError("--lines and --from exclude each other: both say where to begin")
    return print_records(**options)


@app.command()
@directory_or_store
@as_json
@in_store
def info(**options: Any) -> None:
    """Show how far a log is, and what it is made of.

    Its marks, segments and holder, and what opening it would do.
    """
    from danube_trio.cli._info import print_info

    print_info(**options)


@app.command()
@directory_or_store
@as_json
@in_store
def verify(**options: Any) -> bool:
    """Check every byte of a log, and change nothing.

    Every frame and message, and that all files fit together. Prints what it finds: problems (exit
    code 1), warnings, and notes.
    """
    from danube_trio.cli._check import print_findings

    return print_findings(**options)


@app.command()
@directory_or_store
@click.option("--yes", is_flag=True, help="Do it, without asking.")
@click.option(
    "--policy", type=Choice(["truncate", "skip"]),
    help="What to do about damaged records. truncate: the log ends before the first. "
    "skip: they stay, and readers that allow it get a gap.",
)  # fmt: skip
@without_meta
@as_json
@in_store
def repair(**options: Any) -> int:
    """Say what is wrong, and mend it with --yes.

    Prints a plan first: what can be done, and what would be lost. Refuses while a program holds the
    log. Nothing is thrown away: what is cut off is kept beside. With --store, damaged segments
    whose records are in verified objects are given up for these, and a catalog that is gone, or
    older than its objects, is made anew of them; for that alone DIR can be left out.
    """
    from danube_trio.cli._repair import repair_log

    return repair_log(**options)


@app.command("import-danube")
@click.argument("source", type=Folder())
@click.argument("target", type=Folder())
@click.option(
    "--codec", metavar="NAME", shell_complete=completed_by("codecs"),
    help="The layout of all messages; without it, it is found out.",
)  # fmt: skip
@click.option(
    "--kind", type=Choice(["wal", "objects", "segments"]),
    help="What to read, if SOURCE holds several: wal*.log, data-*.dnb1 or segment_*.bin.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Check SOURCE and print what would be done.")
@click.option(
    "--on-damage", type=Choice(["refuse", "skip"]), default="refuse",
    help="refuse: import nothing if anything is lost. skip: import all that can be read.",
)  # fmt: skip
@click.option(
    "--keep-offsets", is_flag=True, help="Import nothing unless every record keeps its offset."
)
@click.option(
    "--file-name", default="wal.log", metavar="NAME", help="The name of Danube's first file."
)
@as_json
def import_danube(**options: Any) -> int:
    """Make a log of what Danube itself wrote.

    SOURCE is the directory of one topic, which is only read; stop Danube first. TARGET must not
    exist, or be empty.
    """
    from danube_trio.cli._import import import_danube as run

    return run(**options)


# ---- the store


@app.command()
@directory
@click.option(
    "--seal", is_flag=True,
    help="Hand the log over: say in the catalog that nothing is anywhere else. Local files may go.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Print what would be uploaded; take nothing over.")
@click.option(
    "--take-over", is_flag=True,
    help="Also if the log was taken over by another directory. Its writer is fenced, and what this "
    "directory has beyond the catalog's end is set aside.",
)  # fmt: skip
@click.option(
    "--timeout", type=FloatRange(min=0.1), default=60.0, metavar="SECONDS",
    help="Give up when nothing was uploaded for so many seconds.",
)  # fmt: skip
@as_json
@in_store
def upload(**options: Any) -> None:
    """Upload what is not in the store yet.

    All of it, also the segment that is still being filled. Opens the log as its writer, so no other
    program can hold DIR meanwhile, and any writer elsewhere is fenced: it takes the log over. Local
    files stay without --seal.
    """
    from danube_trio.cli._upload import upload as run

    run(**options)


@app.command()
@click.argument("target", type=Folder())
@click.option(
    "--until", callback=to_point, shell_complete=completed_by("points"), metavar="OFFSET|@TIME",
    help="Restore only records before this offset, or appended before this time: seconds since "
    "1970 or ISO 8601 (UTC). It ends at the end of a batch.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Print what would be fetched, and where it ends.")
@as_json
@in_store
def restore(**options: Any) -> None:
    """Make a log of what a store holds.

    Of all of it, or up to a point. TARGET must not exist, or be empty. It becomes a log of its own,
    which is used without the store; nothing in the store is changed.
    """
    from danube_trio.cli._restore import restore as run

    run(**options)


@app.command()
@directory_or_store
@as_json
@in_store
def topics(**options: Any) -> bool:
    """List the logs in a store, or in a directory.

    In a directory they are in DIR/NAMESPACE/NAME. --prefix is what the keys of all of them begin
    with, if that is not storage/topics.
    """
    from danube_trio.cli._topics import print_topics

    return print_topics(**options)


# ---- the network


@app.command()
@directory
@serve_options
@at_store
@as_json
def serve(**options: Any) -> None:
    """Give logs to every language, browser and agent, over HTTP.

    \b
      danube-trio serve ./data
      curl -X PUT --json '[]' http://127.0.0.1:4437/v1/stream/orders
      curl --json '{"order": 17}' http://127.0.0.1:4437/v1/stream/orders
      curl 'http://127.0.0.1:4437/v1/stream/orders?offset=-1'

    Speaks Durable Streams: each stream below /v1/stream/ is a log in DIR, which is made if it is
    missing. HTTP/1.1 and 2. /healthz and /readyz say how it is. Other programs may follow the logs
    meanwhile (`danube-trio tail -f`), and look at them (`danube-trio top DIR`). SIGTERM and SIGINT
    end it: whoever waits is answered, requests under way end, and what was acknowledged is durable,
    as it always is. A second signal waits for nothing. SIGHUP reads the token file and the
    certificate anew.
    """
    try:
        from danube_trio.cli._serve import serve as run
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "danube_trio"):
            raise
        raise ValueError(f"serve needs {package}: pip install 'danube-trio[serve]'") from error

    run(**options)


# ---- this machine: its programs, its disk, its shell


@app.command()
@directory_or_store
@click.option("--once", is_flag=True, help="Show it once, and end.")
@click.option("--count", type=IntRange(1), metavar="N", help="End after so many snapshots.")
@click.option(
    "--interval", type=FloatRange(0.05, 3600.0), default=1.0, metavar="SECONDS",
    help="Seconds between snapshots.",
)  # fmt: skip
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

    try:
        watch(**options)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "rich":
            raise
        raise ValueError("top needs rich: pip install 'danube-trio[cli]'") from error


@app.command()
@directory
@click.option(
    "--seconds", type=FloatRange(0.01, 3600), default=4.0, metavar="SECONDS",
    help="How long each of the four measurements takes.",
)  # fmt: skip
@click.option(
    "--size", type=IntRange(0, 1 << 20), default=1024, metavar="BYTES",
    help="Bytes of payload in a record.",
)  # fmt: skip
@click.option(
    "--batch", type=IntRange(1, 10_000), default=1000, metavar="N", help="Records in a batch."
)
@click.option(
    "--producers", type=IntRange(1, 10_000), default=1000, metavar="N",
    help="How many append at the same time.",
)  # fmt: skip
@as_json
def bench(**options: Any) -> None:
    """Measure the disk of DIR, and a log on it.

    Works in a new directory below DIR, which is removed at the end.
    """
    from danube_trio.cli._bench import run_bench

    run_bench(**options)


@app.command()
@click.argument("shell", type=Choice(SHELLS), required=False)
@as_json
def completion(shell: str | None, as_json: bool) -> None:
    """Print the script that completes words in a shell.

    \b
    Put this into ~/.bashrc, or with zsh into ~/.zshrc:
      source <(danube-trio completion bash)
    """
    from danube_trio.cli._complete import print_script

    print_script(app, shell, as_json)
