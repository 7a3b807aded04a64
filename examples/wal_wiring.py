"""A log, dispatch over it, and three ways to read. Usage: wal_wiring.py DIR

Wires a durable log to a topic, stores messages, and reads them by a stream (what is stored from now
on), by a subscription (until acknowledged), and by a replay from an offset. Run it again: the
subscription goes on where it was.
"""

from __future__ import annotations

import os
import sys

import trio

from danube_trio import StartPosition, StreamMessage, WalConfig, WalStorage, open_wal
from danube_trio.dispatch import ReliableDispatch, ReliableOptions, RetentionPolicy
from danube_trio.metadata import open_metadata_directory

TOPIC = "/default/wal-example"


async def main(directory: str) -> None:
    """Store, tail, consume, replay."""
    config = WalConfig(
        dir=os.path.join(directory, "log"),
        cache_capacity=1024,
        fsync_interval_ms=5,
        max_batch_bytes=8 * 1024,
        topic_name=TOPIC,
    )
    options = ReliableOptions(1, RetentionPolicy.RETAIN_UNTIL_ACK, 60)
    async with (
        open_wal(config) as wal,
        open_metadata_directory(os.path.join(directory, "metadata")) as metadata,
        ReliableDispatch.new_with_persistent(
            TOPIC, options, None, WalStorage.from_wal(wal, TOPIC), metadata=metadata
        ) as dispatch,
    ):
        stream = await dispatch.create_stream_latest()
        first = await dispatch.store_message(b"hello")
        await dispatch.store_message(StreamMessage(b"world", routing_key="eu"))
        for _ in range(2):
            message = await anext(stream)
            print("streamed:", message.payload.decode())
        await stream.aclose()

        subscription = await dispatch.add_subscription("example")
        while await subscription.lag():
            async with subscription.take() as delivery:
                print(f"delivered: {delivery.offset} {delivery.payload.decode()}")

        reader = await dispatch.topic_store.create_reader(
            StartPosition.offset(first), end="current"
        )
        print("replayed:", [message.payload.decode() async for message in reader])
        await reader.aclose()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    trio.run(main, sys.argv[1])
