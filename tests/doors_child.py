"""The process that reads for `doors`: follows a directory, one request and one answer a line."""

from __future__ import annotations

import json
import sys
from typing import Any

from danube_trio import DanubeError, OffsetTrimmedError, StartPosition
from danube_trio.blocking import open_follower


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Open a follower, read, close it."""
    start = StartPosition(*request.pop("start"))
    with open_follower(request.pop("directory"), poll_seconds=0.005) as follower:
        try:
            make: Any = follower.reader
            reader = make(start, **request)
            return {"records": [[m.offset, m.payload.hex(), m.attributes] for m in reader]}
        except OffsetTrimmedError as error:
            return {"error": ["OffsetTrimmedError", [error.offset, error.start_offset]]}
        except DanubeError as error:
            return {"error": [type(error).__name__, [str(error)]]}


def main() -> None:
    """Until the input ends."""
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
