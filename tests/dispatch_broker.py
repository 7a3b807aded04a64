"""The process that `test_dispatch_processes` kills: a topic on the real disk, served at a socket.

Each connection is a consumer of the one subscription. It gets lines ``<offset> <payload>`` and
answers with ``<offset>`` for each message that it has handled. When it goes, however, what it has
not answered is released. Says ``ready`` when it listens, ``settled`` when everything is; ends when
its input does, and says what it counted, as JSON.
"""

from __future__ import annotations

import json
import os
import sys
from functools import partial
from pathlib import Path

import attrs
import trio

from danube_trio.dispatch import (
    Delivery,
    FileStorage,
    ReliableDispatch,
    ReliableOptions,
    Subscription,
    SubscriptionOptions,
    SubscriptionType,
    TopicCache,
)
from danube_trio.metadata import MetadataStore, open_metadata_directory

__all__ = ["MAX_UNSAVED", "WINDOW", "open_topic"]

WINDOW = 200
MAX_UNSAVED = 500


def open_topic(directory: Path, metadata: MetadataStore) -> ReliableDispatch:
    """The topic in its directory."""
    cache = TopicCache(FileStorage(directory / "topics", durability="written"))
    return ReliableDispatch("/default/work", ReliableOptions(1), cache, metadata=metadata)


async def serve(subscription: Subscription, stream: trio.SocketStream) -> None:
    """One consumer, until its connection ends."""
    async with subscription.consumer() as consumer, stream, trio.open_nursery() as nursery:
        held: dict[bytes, Delivery] = {}

        async def hear() -> None:
            rest = b""
            try:
                async for chunk in stream:
                    *lines, rest = (rest + chunk).split(b"\n")
                    for line in lines:
                        held.pop(line).ack()
            except trio.BrokenResourceError:
                pass
            nursery.cancel_scope.cancel()

        nursery.start_soon(hear)
        try:
            while True:
                batch = await consumer.receive(20)
                held.update((b"%d" % d.offset, d) for d in batch)
                await stream.send_all(b"".join(b"%d %s\n" % (d.offset, d.payload) for d in batch))
        except trio.BrokenResourceError:
            nursery.cancel_scope.cancel()


def say(text: str) -> None:
    os.write(1, text.encode() + b"\n")


async def tell_settled(subscription: Subscription) -> None:
    await subscription.wait_settled()
    await subscription.flush()
    say("settled")


async def main(directory: Path) -> None:
    """Serve until standard input ends."""
    options = SubscriptionOptions(
        type=SubscriptionType.SHARED,
        max_unacked_messages=WINDOW,
        max_unsaved_acks=MAX_UNSAVED,
        save_interval=0.2,
    )
    async with open_metadata_directory(directory / "metadata") as metadata:
        async with open_topic(directory, metadata) as dispatch:
            subscription = await dispatch.add_subscription("workers", options)
            with trio.socket.socket(trio.socket.AF_UNIX) as listening:
                await listening.bind(str(directory / f"socket-{os.getpid()}"))
                listening.listen()
                async with trio.open_nursery() as nursery:
                    listener = trio.SocketListener(listening)
                    handler = partial(serve, subscription)
                    nursery.start_soon(trio.serve_listeners, handler, [listener])
                    nursery.start_soon(tell_settled, subscription)
                    say(f"ready {directory}/socket-{os.getpid()}")
                    await trio.to_thread.run_sync(sys.stdin.read)
                    nursery.cancel_scope.cancel()
            say(json.dumps(attrs.asdict(await subscription.statistics())))


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]))
