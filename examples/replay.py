"""Print a log from an offset on, while a program writes it or not. Usage: replay.py DIR [OFFSET]"""

import sys

import trio

from danube_trio import StartPosition, open_follower


async def main(directory: str, offset: int) -> None:
    async with open_follower(directory) as follower:
        print(f"offsets {follower.start_offset} to {follower.durable_end}", file=sys.stderr)
        start = StartPosition.offset(max(offset, follower.start_offset))
        async for batch in follower.reader(start, end="current").batches():
            for message in batch:
                print(message.offset, message.payload.decode(errors="replace"))


if len(sys.argv) not in (2, 3):
    sys.exit(__doc__)
trio.run(main, sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 0)
