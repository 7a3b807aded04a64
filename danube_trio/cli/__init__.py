"""The command line tool ``danube-trio``; `docs/cli.md` describes it.

What a command needs is imported when it runs, so that ``--help`` and a typing error are answered at
once.
"""

from __future__ import annotations

import os
import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line of this process, and exit."""
    try:
        from danube_trio.cli._app import app
        from danube_trio.cli._failures import finish
        from danube_trio.cli._output import name_stdout
        from danube_trio.cli._values import COMPLETE
    except ModuleNotFoundError as error:
        if error.name != "click":
            raise
        sys.exit("danube-trio: this command needs click: pip install 'danube-trio[cli]'")
    if COMPLETE in os.environ:
        from danube_trio.cli import _complete  # registers what click lacks

        assert _complete
    name_stdout()
    try:
        app(prog_name="danube-trio")
    except SystemExit as end:
        sys.exit(finish(end.code))
    except OSError as error:  # of a completion, which comes before any command
        sys.exit(finish(error))
