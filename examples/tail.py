"""Print what another process appends, from now on. Ends with Ctrl-C. Usage: tail.py DIR"""

import contextlib
import sys

import trio

from danube_trio import StartPosition, open_follower


async def main(directory: str) -> None:
    async with open_follower(directory) as follower:
        print(f"waiting for offset {follower.durable_end}", flush=True)
        async for message in follower.reader(StartPosition.latest()):
            print(message.offset, message.payload.decode(errors="replace"), flush=True)


if len(sys.argv) != 2:
    sys.exit(__doc__)
with contextlib.suppress(KeyboardInterrupt):
    trio.run(main, sys.argv[1])
