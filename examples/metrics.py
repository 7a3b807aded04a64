"""Append a record each second, and serve the log's metrics. Usage: metrics.py DIR [PORT]"""

import contextlib
import sys

import trio
from prometheus_client import REGISTRY

from danube_trio import WalConfig, open_wal
from danube_trio.prometheus import DanubeCollector, open_metrics_server


async def main(directory: str, port: int) -> None:
    collector = DanubeCollector()
    REGISTRY.register(collector)
    async with open_wal(WalConfig(dir=directory)) as wal:
        with collector.add_log("seconds", wal):
            await wal.append(b"started")
            async with open_metrics_server(port) as port:
                print(f"http://127.0.0.1:{port}/metrics", flush=True)
                while True:
                    await trio.sleep(1)
                    await wal.append(b"tick")


if len(sys.argv) not in (2, 3):
    sys.exit(__doc__)
with contextlib.suppress(KeyboardInterrupt):
    trio.run(main, sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 9464)
