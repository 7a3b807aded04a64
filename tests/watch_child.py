"""A program that holds logs which are offered to be watched, until its stdin ends or it is killed.

Usage: ``watch_child.py KIND DIR``. It prints a line when it is ready; each line on stdin has it
append a record (or, of a storage, one to each topic), and it prints a line when that is durable.
"""

from __future__ import annotations

import os
import signal
import sys

import trio

import danube_trio.blocking
from danube_trio import StorageConfig, WalConfig, open_follower, open_storage, open_wal
from danube_trio.watch import serve_statistics

TOPICS = ("/default/orders", "/default/returns")


def say(text: str) -> None:
    """A line on stdout."""
    print(text, flush=True)


async def lines() -> trio.abc.ReceiveStream:
    """Stdin."""
    return trio.lowlevel.FdStream(os.dup(0))


async def log(directory: str, *, watch: bool) -> None:
    """One log."""
    async with open_wal(WalConfig(dir=directory, watch=watch)) as wal:
        await wal.append_batch([b"first", b"second", b"third"])
        reader = wal.reader()
        await reader.receive()
        say("ready")
        async for _ in await lines():
            await wal.append(b"more")
            say("done")
        await reader.aclose()


async def storage(root: str) -> None:
    """Two topics."""
    async with open_storage(StorageConfig(dir=root, watch=True)) as topics:
        for name in TOPICS:
            await topics.append_message(name, b"first")
        say("ready")
        async for _ in await lines():
            for name in TOPICS:
                await topics.append_message(name, b"more")
            say("done")


async def follower(directory: str) -> None:
    """A follower, offered beside the log that it follows."""
    async with (
        open_wal(WalConfig(dir=directory)) as wal,
        open_follower(directory) as follower,
        serve_statistics(follower, f"{directory}.watch", name="my follower"),
    ):
        await wal.append(b"first")
        await follower.refresh()
        say("ready")
        async for _ in await lines():
            say("done")


def forked(directory: str) -> None:
    """Leaves a forked child behind, which lives as long as stdin, and is killed itself."""
    with danube_trio.blocking.open_wal(WalConfig(dir=directory, watch=True)):
        if os.fork() == 0:
            say("ready")
            sys.stdin.read()
            os._exit(0)
        sys.stdin.close()
        signal.pause()


if __name__ == "__main__":
    kind, where = sys.argv[1:]
    if kind == "forked":
        forked(where)
    elif kind == "storage":
        trio.run(storage, where)
    elif kind == "follower":
        trio.run(follower, where)
    else:
        trio.run(lambda: log(where, watch=kind == "watched"))
