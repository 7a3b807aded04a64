"""The command line tool ``danube-trio``; `docs/cli.md` describes it.

What a command needs is imported when it runs, so that ``--help`` and a typing error are answered at
once.
"""

from __future__ import annotations

import os
import sys

__all__ = ["main"]

# Set by the completion script of a shell; click derives the name from the program's.
COMPLETE = "_DANUBE_TRIO_COMPLETE"


def main() -> None:
    """Run the command line of this process, and exit."""
    try:
        from danube_trio.cli._app import app
    except ModuleNotFoundError as error:
        if error.name != "click":
            raise
        sys.exit("danube-trio: this command needs click: pip install 'danube-trio[cli]'")
    if COMPLETE in os.environ:
        from danube_trio.cli import _complete  # registers what click lacks

        assert _complete
    app(prog_name="danube-trio")
