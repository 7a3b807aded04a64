"""The command line tool ``danube-trio``; `docs/cli.md` describes it.

What a command needs is imported when it runs, so that ``--help`` and a typing error are answered at
once.
"""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line of this process, and exit."""
    try:
        from danube_trio.cli._app import app
    except ModuleNotFoundError as error:
        if error.name != "click":
            raise
        sys.exit("danube-trio: this command needs click: pip install 'danube-trio[cli]'")
    app(prog_name="danube-trio")
