"""What a shell is offered for the word under the cursor. Asks no server, opens no log: an answer is
wanted before the next key is pressed.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    add_completion_class,
    get_completion_class,
)
from click.shell_completion import split_arg_string as split

from danube_trio.cli._values import COMPLETE, SHELLS, TOPICS

STORES = ("s3://", "gs://", "az://", "file:///")
FILE = "file://"
MOST = 200


def offered(what: str, ctx: click.Context, begun: str) -> list[CompletionItem]:
    """What begins so, of what this option takes; not more than anybody reads."""
    items = (
        item if isinstance(item, CompletionItem) else CompletionItem(item)
        for item in _SOURCES[what](ctx, begun)
    )
    return [item for item in items if item.value.startswith(begun)][:MOST]


Offers = Iterable[str | CompletionItem]


def _names(folder: Path) -> list[str]:
    """The directories in it; none if there is no such thing, or it may not be looked at."""
    with contextlib.suppress(OSError, ValueError):
        return sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    return []


def _positions(ctx: click.Context, _: str) -> Offers:
    """Where to begin: words, today, and where the segments of DIR begin."""
    today = f"@{datetime.now(UTC):%Y-%m-%d}"
    time = CompletionItem(today, help="a time: ISO 8601, or seconds since 1970")
    return ["earliest", "latest", time, *_bases(ctx)]


def _points(ctx: click.Context, _: str) -> Offers:
    """Where to end: the current end, and where the segments of DIR begin."""
    return ["current", *_bases(ctx)]


def _bases(ctx: click.Context) -> list[CompletionItem]:
    # Click has not assigned the arguments when an option still lacks its value.
    directory = ctx.params.get("directory") or next(iter(ctx.args), None)
    file_name = ctx.params.get("file_name") or "wal.log"
    if not directory:
        return []
    from danube_trio._core.segment import LogNames

    with contextlib.suppress(OSError, ValueError):
        names = LogNames.of(str(directory), str(file_name))
        bases = names.segment_bases([entry.name for entry in Path(str(directory)).iterdir()])
        return [CompletionItem(str(base), help="where a segment begins") for base in bases]
    return []


def _stores(_: click.Context, begun: str) -> Offers:
    """Schemes, and the directories of a store that is one."""
    from urllib.parse import quote, unquote

    if not begun.startswith("file:///"):
        return STORES
    folder, _slash, inside = begun.removeprefix(FILE).rpartition("/")
    below = [f"{FILE}{folder}/{quote(name)}/" for name in _names(Path(unquote(folder) or "/"))]
    return below if inside else [begun, *below]


def _topics(ctx: click.Context, _: str) -> Offers:
    """The topics of a store that is a directory."""
    from urllib.parse import unquote

    url = str(ctx.params.get("url") or "")
    if not url.startswith(f"{FILE}/"):
        return []
    root = Path(unquote(url.removeprefix(FILE)), ctx.params.get("prefix") or TOPICS)
    return (f"/{space}/{name}" for space in _names(root) for name in _names(root / space))


def _store_options(_: click.Context, __: str) -> Offers:
    """The names of the options; not their values, which may be secrets."""
    import attrs

    from danube_trio.cloud import StoreOptions

    return (f"{field.name}=" for field in attrs.fields(StoreOptions))


def _codecs(_: click.Context, __: str) -> Offers:
    """The names of the message layouts."""
    from danube_trio._core.codec import CODECS

    return CODECS


_SOURCES: dict[str, Callable[[click.Context, str], Offers]] = {
    "codecs": _codecs,
    "metadata": lambda _ctx, _begun: ("etcd://", "etcds://"),
    "points": _points,
    "positions": _positions,
    "store_options": _store_options,
    "stores": _stores,
    "topics": _topics,
}


# ---- bash

# Bash cuts words at colons, too, and click's own script does not put them together again: `--store
# s3://` would be three words. This one hands over the line, and gets what follows the last cut.
_BASH = """\
%(complete_func)s() {
    local kind value
    COMPREPLY=()
    while IFS=, read -r kind value; do
        case $kind in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            nospace) compopt -o nospace; COMPREPLY+=("$value") ;;
            plain) COMPREPLY+=("$value") ;;
        esac
    done < <(COMP_LINE="${COMP_LINE:0:COMP_POINT}" COMP_WORDBREAKS=$COMP_WORDBREAKS \\
        %(complete_var)s=bash_complete "$1" 2>/dev/null)
}

complete -o nosort -F %(complete_func)s %(prog_name)s
"""


class Bash(BashComplete):
    """Completion for bash, also of words with a colon or an equals sign in them."""

    source_template = _BASH

    def source(self) -> str:
        """The script."""
        return self.source_template % self.source_vars()

    def get_completion_args(self) -> tuple[list[str], str]:
        """The words before the cursor, and the one at it."""
        line = os.environ.get("COMP_LINE", "")
        words = split(line)
        while words and not words[0].endswith(self.prog_name):
            del words[0]  # what stands before the command, as an assignment does
        del words[:1]
        incomplete = words.pop() if words and not line[-1:].isspace() else ""
        self._cut = self._already_there(incomplete)
        return words, incomplete

    def _already_there(self, incomplete: str) -> int:
        """How much of the word bash does not replace."""
        breaks = set(os.environ.get("COMP_WORDBREAKS", "")) & set(":=")
        return max((i + 1 for i, c in enumerate(incomplete) if c in breaks), default=0)

    def format_completion(self, item: CompletionItem) -> str:
        """A line for the script."""
        kind = item.type
        if kind == "plain":
            # What is only begun by it goes on without a space.
            kind = "nospace" if item.value.endswith(("/", "=")) else "plain"
        return f"{kind},{item.value[self._cut :]}"


add_completion_class(Bash)


def print_script(app: click.Command, shell: str | None, as_json: bool) -> None:
    """Run ``danube-trio completion``. Without a shell it is the one that the user has."""
    name = shell or os.environ.get("SHELL", "").rpartition("/")[2]
    kind = get_completion_class(name) if name in SHELLS else None
    if kind is None:
        raise ValueError(f"say for which shell: danube-trio completion {'|'.join(SHELLS)}")
    script = kind(app, {}, "danube-trio", COMPLETE).source()
    if as_json:
        click.echo(json.dumps({"shell": name, "script": script}))
    else:
        click.echo(script, nl=False)
