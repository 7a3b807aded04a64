"""One round of one case, in a process of its own: `worker.py NAME`, the context as JSON on stdin.

The numbers come out as one JSON object on stdout.
"""

from __future__ import annotations

import json
import sys
from typing import Any, cast

import trio
from cases import CASES
from scale import Context, Scale


def main() -> None:
    """Measure, and print."""
    given = cast("dict[str, Any]", json.load(sys.stdin))
    directory = str(given.pop("directory"))
    context = Context(directory, Scale(**given))
    found = trio.run(CASES[sys.argv[1]].run, context)
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
