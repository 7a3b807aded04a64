"""A writer in a process of its own: appends to a log in a store until it is fenced.

Arguments: a JSON object with the directory, the topic, the store's URL and options, and the etcd
endpoint or null. Prints a line for each record that is acknowledged as uploaded, and how it ended.
"""

from __future__ import annotations

import json
import sys
from contextlib import AsyncExitStack
from typing import Any

import trio

from danube_trio import CloudConfig, FencedError, WalConfig, open_wal
from danube_trio._disk.real import RealDisk
from danube_trio.catalog import Catalog, MetadataCatalog
from danube_trio.cloud import CloudStore, StoreOptions, open_store
from danube_trio.metadata import EtcdConfig, open_etcd


async def main(given: dict[str, Any]) -> None:
    config = WalConfig(
        dir=given["dir"],
        topic_name=given["topic"],
        segment_bytes=4000,
        preallocate_bytes=0,
        cloud=CloudConfig(keep_local_bytes=0, retry_seconds=0.2),
    )
    async with AsyncExitStack() as stack:
        options = StoreOptions(**given["options"])
        store: CloudStore = open_store(given["store"], options, disk=RealDisk())
        stack.push_async_callback(store.aclose)
        catalog: Catalog | None = None
        if given["etcd"]:
            metadata = await stack.enter_async_context(
                open_etcd(EtcdConfig(endpoints=(given["etcd"],)))
            )
            catalog = MetadataCatalog(metadata, given["topic"])
        try:
            async with open_wal(config, store=store, catalog=catalog) as wal:
                print("open", wal.next_offset, flush=True)
                number = 0
                while True:
                    text = f"{given['dir'][-1]}{number}"
                    offset = await wal.append(text.encode(), durability="uploaded")
                    print("acked", offset, text, flush=True)
                    number += 1
        except FencedError as error:
            print("fenced", error.epoch, flush=True)


if __name__ == "__main__":
    trio.run(main, json.loads(sys.argv[1]))
