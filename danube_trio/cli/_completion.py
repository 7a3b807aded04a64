"""``danube-trio completion``: the script that teaches a shell the words of this command."""

from __future__ import annotations

import json
import os

import click
from click.shell_completion import get_completion_class

from danube_trio.cli import COMPLETE, _complete

__all__ = ["print_script"]

assert _complete  # importing it registers bash's class


def print_script(shell: str | None, as_json: bool) -> None:
    """Run the command. Without a shell it is the one that the user has."""
    from danube_trio.cli._app import app
    from danube_trio.cli._machine_commands import SHELLS

    name = shell or os.environ.get("SHELL", "").rpartition("/")[2]
    kind = get_completion_class(name) if name in SHELLS else None
    if kind is None:
        raise ValueError(f"say for which shell: danube-trio completion {'|'.join(SHELLS)}")
    script = kind(app, {}, "danube-trio", COMPLETE).source()
    if as_json:
        click.echo(json.dumps({"shell": name, "script": script}))
    else:
        click.echo(script, nl=False)
