"""The other process of `following`: `follower_child.py DIR notify|poll`, from now on.

For each record eight bytes on stdout: when it was there. For each line on stdin a line of JSON on
stderr: what it has cost so far.
"""

from __future__ import annotations

import json
import struct
import sys
from time import perf_counter, process_time

import trio

from danube_trio import Follower, StartPosition, open_follower

TIME = struct.Struct("<d")


async def _tell(follower: Follower) -> None:
    while True:
        line = await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True)
        if not line:
            return
        costs = {
            "clock": perf_counter(),
            "cpu": process_time(),
            "looks": follower.statistics().looks,
        }
        print(json.dumps(costs), file=sys.stderr, flush=True)


async def main(directory: str, *, notify: bool) -> None:
    """Until it is killed."""
    out = sys.stdout.buffer
    async with open_follower(directory, notify=notify) as follower:
        reader = follower.reader(StartPosition.latest())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_tell, follower)
            async for batch in reader.batches():
                out.write(TIME.pack(perf_counter()) * len(batch))
                out.flush()


if __name__ == "__main__":
    trio.run(lambda: main(sys.argv[1], notify=sys.argv[2] == "notify"))
