"""A writer in a process of its own, on a real disk: appends, and is killed or leaves.

Arguments: a JSON object with the directory, the store's URL or null, `WalConfig` settings, the text
and the number of the records, and whether to stay until it is killed. Prints the end of the log.
"""

from __future__ import annotations

import json
import sys
from contextlib import AsyncExitStack
from typing import Any

import trio

from danube_trio import CloudConfig, WalConfig, open_wal
from danube_trio._disk.real import RealDisk
from danube_trio.cloud import CloudStore, open_store


async def main(given: dict[str, Any]) -> None:
    config = WalConfig(
        dir=given["dir"],
        segment_bytes=2000,
        preallocate_bytes=0,
        cloud=CloudConfig(prefix="log", upload_interval=None, keep_local_bytes=1 << 20),
        **given["settings"],
    )
    async with AsyncExitStack() as stack:
        store: CloudStore | None = None
        if given["store"]:
            store = open_store(given["store"], disk=RealDisk())
            stack.push_async_callback(store.aclose)
        wal = await stack.enter_async_context(open_wal(config, store=store))
        for _ in range(given["count"]):
            await wal.append(f"{given['text']} {wal.next_offset}".encode())
        if given["uploaded"]:
            await wal.wait_uploaded(wal.next_offset)
        print(wal.next_offset, flush=True)
        if given["stay"]:
            await trio.sleep_forever()


if __name__ == "__main__":
    trio.run(main, json.loads(sys.argv[1]))
