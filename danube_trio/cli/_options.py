"""The options that several commands have. Imports little more than click: `--help` waits for it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from danube_trio.cli._values import VARIABLE

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]

F = TypeVar("F", bound=Callable[..., Any])


def completed_by(what: str) -> Complete:
    """What `_complete` has under this name, which is imported when a shell asks."""

    def complete(ctx: click.Context, _: click.Parameter, begun: str) -> list[CompletionItem]:
        from danube_trio.cli import _complete

        return _complete.offered(what, ctx, begun)

    return complete


class Folder(click.Path):
    """A path that shells complete with directories. Whether it is one, the command finds out."""

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """See `click.ParamType`."""
        from click.shell_completion import CompletionItem

        return [CompletionItem(incomplete, type="dir")]


directory = click.argument("directory", metavar="DIR", type=Folder())
directory_or_store = click.argument("directory", metavar="[DIR]", type=Folder(), required=False)
file_name = click.option(
    "--file-name", default="wal.log", metavar="NAME", help="The log's file name."
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
as_raw = click.option(
    "--raw", is_flag=True, help="Print payloads, each after its length (32 bits, little endian)."
)
skip = click.option(
    "--skip-corrupt", is_flag=True, help="Step over damaged records, say so, and exit with 1."
)
without_meta = click.option(
    "--codec",
    metavar="NAME",
    shell_complete=completed_by("codecs"),
    help="The layout of the messages, for a log whose wal.meta, which says it, is lost.",
)


# ---- object stores


def _to_pairs(
    ctx: click.Context, param: click.Parameter, texts: tuple[str, ...]
) -> tuple[tuple[str, str], ...]:
    pairs: list[tuple[str, str]] = []
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            # Not the text itself, which may be a secret.
            raise click.BadParameter("it must look like KEY=VALUE", ctx, param)
        pairs.append((name.replace("-", "_"), value))
    return tuple(pairs)


_REACHING = (
    click.option(
        "--metadata", metavar="URL", default="", show_default=False,
        shell_complete=completed_by("metadata"),
        help="Where the catalogs are, if not in the store: etcd://HOST:PORT,HOST:PORT.",
    ),
    click.option(
        "--store-option", "options", metavar="KEY=VALUE", multiple=True,
        callback=_to_pairs, shell_complete=completed_by("store_options"),
        help="How to reach the store, as endpoint=URL; may be repeated.",
    ),
    click.option(
        "--store-options", "options_file", metavar="FILE", type=click.Path(),
        help="The same in a file, TOML (*.toml) or JSON: the place for secrets.",
    ),
)  # fmt: skip
_STORE_OPTIONS = (
    file_name,
    click.option(
        "--store", "url", metavar="URL", envvar=VARIABLE, show_envvar=True,
        default="", show_default=False, shell_complete=completed_by("stores"),
        help="The object store: s3://BUCKET/PREFIX, gs://, az://, or file:///PATH.",
    ),
    click.option(
        "--topic", default="", show_default=False, metavar="/NS/NAME",
        shell_complete=completed_by("topics"),
        help="The log in the store, by its topic.",
    ),
    click.option(
        "--prefix", default="", show_default=False, metavar="PREFIX",
        help="The log in the store, by the beginning of its keys.",
    ),
    *_REACHING,
)  # fmt: skip


def at_store(command: F) -> F:
    """The options of `serve` that name a store for many logs: these as one `where`.

    A store in the environment is not meant, because a directory is named.
    """

    @functools.wraps(command)  # with the parameters that are there already
    def wrapped(**values: Any) -> Any:
        from danube_trio.cli._where import Where

        names = ("url", "metadata", "options", "options_file")
        found = {name: values.pop(name) for name in names}
        return command(where=Where(explicit=True, topic="", prefix="", **found), **values)

    store = click.option(
        "--store", "url", metavar="URL", default="", show_default=False,
        shell_complete=completed_by("stores"),
        help="Where logs are uploaded to: s3://BUCKET/PREFIX, gs://, az://, or file:///PATH.",
    )  # fmt: skip
    decorated: Any = wrapped
    for option in reversed((store, *_REACHING)):
        decorated = option(decorated)
    result: F = decorated
    return result


def in_store(command: F) -> F:
    """The options that name a log's files, and the log in a store: these as one `where`."""

    @functools.wraps(command)  # with the parameters that are there already
    def wrapped(**values: Any) -> Any:
        from danube_trio.cli._where import Where

        source = click.get_current_context().get_parameter_source("url")
        explicit = source is click.core.ParameterSource.COMMANDLINE
        names = ("url", "topic", "prefix", "metadata", "options", "options_file")
        where = Where(explicit=explicit, **{name: values.pop(name) for name in names})
        return command(where=where, **values)

    decorated: Any = wrapped
    for option in reversed(_STORE_OPTIONS):
        decorated = option(decorated)
    result: F = decorated
    return result
