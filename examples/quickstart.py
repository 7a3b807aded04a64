"""Append durably, atomically and in passing; read it back live. Usage: quickstart.py DIR"""

import sys

import trio

from danube_trio import Reader, StartPosition, StreamMessage, WalConfig, open_wal


async def show(reader: Reader[StreamMessage]) -> None:
    async for message in reader:
        print(message.offset, message.payload.decode(), message.attributes)


async def main(directory: str) -> None:
    async with open_wal(WalConfig(dir=directory)) as wal, trio.open_nursery() as nursery:
        nursery.start_soon(show, wal.reader(StartPosition.latest(), count=5))  # live
        await wal.append(b"on disk when this returns", attributes={"unit": "C"})
        await wal.append(b"in the page cache, on disk soon", durability="written")
        await wal.append_batch([b"both of these", b"or none"])  # atomic
        receipt = wal.append_nowait(b"accepted at once")
        await receipt.durable()
    async with open_wal(WalConfig(dir=directory)) as wal:  # what was acknowledged is still there
        print(len([message async for message in wal.reader(end="current")]), "messages")


if len(sys.argv) != 2:
    sys.exit(__doc__)
trio.run(main, sys.argv[1])
