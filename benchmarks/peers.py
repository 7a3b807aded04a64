"""The peers that are a package away: LMDB and SQLite, each with a sync for every transaction.

The log of this project, LMDB and SQLite take turns with the device. A peer that is not installed is
left out.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from time import perf_counter
from types import ModuleType
from typing import Protocol

import trio
from device import Device, take_turns
from scale import Context, frame_bytes, payloads

from danube_trio import WalConfig, open_wal

__all__ = ["installed", "peer_batches", "peer_singles"]

BATCH = 1000
PAYLOAD_BYTES = 1024
MAP_BYTES = 4 << 30


class Peer(Protocol):
    """Something that makes records durable."""

    def append(self, records: Sequence[bytes]) -> None:
        """Make the records durable in one transaction."""
        ...

    def close(self) -> None: ...


class Lmdb:
    """LMDB with its default, a sync at each commit; keys are offsets, appended in order."""

    def __init__(self, directory: str) -> None:
        lmdb: ModuleType = importlib.import_module("lmdb")
        self._environment = lmdb.open(os.path.join(directory, "lmdb"), map_size=MAP_BYTES)
        self._next = 0

    def append(self, records: Sequence[bytes]) -> None:
        with self._environment.begin(write=True) as transaction:
            for record in records:
                transaction.put(self._next.to_bytes(8, "big"), record, append=True)
                self._next += 1

    def close(self) -> None:
        self._environment.close()


class Sqlite:
    """SQLite with journal_mode=WAL and synchronous=FULL: a sync at each commit."""

    def __init__(self, directory: str) -> None:
        self._connection = sqlite3.connect(os.path.join(directory, "log.sqlite"))
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=FULL")
        self._connection.execute("CREATE TABLE log (id INTEGER PRIMARY KEY, body BLOB NOT NULL)")

    def append(self, records: Sequence[bytes]) -> None:
        with self._connection:
            self._connection.executemany(
                "INSERT INTO log (body) VALUES (?)", [(record,) for record in records]
            )

    def close(self) -> None:
        self._connection.close()


PEERS: dict[str, Callable[[str], Peer]] = {"lmdb": Lmdb, "sqlite": Sqlite}


def installed() -> dict[str, bool]:
    """Which peers can take part."""
    return {name: name == "sqlite" or importlib.util.find_spec(name) is not None for name in PEERS}


def _turn(peer: Peer, groups: list[list[bytes]]) -> Callable[[], Awaitable[float]]:
    async def run() -> float:
        started = perf_counter()
        for group in groups:
            peer.append(group)
        return perf_counter() - started

    return run


async def _compare(context: Context, groups: list[list[bytes]]) -> dict[str, float]:
    """Append the groups in each turn, durably one after the other, to everyone."""
    turns = context.scale.turns
    peers: dict[str, Peer] = {}
    with context.scratch() as scratch:
        async with open_wal(WalConfig(dir=os.path.join(scratch, "log"))) as wal:

            async def ours() -> float:
                started = perf_counter()
                for group in groups:
                    await wal.append_batch(group)
                return perf_counter() - started

            await ours()
            peers = {name: PEERS[name](scratch) for name, there in installed().items() if there}
            with Device(scratch, frame_bytes(wal) * len(groups[0])) as device:

                async def by_hand() -> float:
                    await trio.lowlevel.checkpoint()
                    return device.run(len(groups))

                contestants = {name: _turn(peer, groups) for name, peer in peers.items()}
                seconds = await take_turns(turns, {"device": by_hand, **contestants, "ours": ours})
            for peer in peers.values():
                peer.close()
    count = len(groups) * len(groups[0]) * turns
    rates = {f"{name}_per_s": count / spent for name, spent in seconds.items()}
    ratios = {f"of_{name}": seconds[name] / seconds["ours"] for name in peers}
    return {**rates, **ratios}


async def peer_singles(context: Context) -> dict[str, float]:
    """One record at a time."""
    each = max(1, context.scale.peer_singles // context.scale.turns)
    return await _compare(context, [[payload] for payload in payloads(each, PAYLOAD_BYTES)])


async def peer_batches(context: Context) -> dict[str, float]:
    """Batches of 1000."""
    each = max(1, context.scale.peer_batches // context.scale.turns)
    return await _compare(context, [payloads(BATCH, PAYLOAD_BYTES) for _ in range(each)])
