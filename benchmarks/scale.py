"""How much each measurement does, and the logs that the reading ones share.

`FULL` is what the targets are about: a log of 1 GiB, thousands of syncs. `QUICK` runs everything
once in a few seconds and proves that it works; its numbers mean nothing.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Generator
from contextlib import contextmanager

import attrs

from danube_trio import Wal, WalConfig, open_wal

__all__ = ["FULL", "LARGE", "QUICK", "SMALL", "Context", "Scale", "build_log", "payloads"]

KIB = 1 << 10
MIB = 1 << 20

# The two prepared logs: their directories' names and their payload sizes.
LARGE = ("log-1kib", KIB)
SMALL = ("log-100b", 100)


@attrs.frozen(kw_only=True)
class Scale:
    """Sizes of one round.

    Attributes:
        turns: how often the contestants of one measurement take turns.
        single_appends: appends of the one producer, in all turns together.
        batches: batches of 1000 records, likewise.
        producers: concurrent producers; appends_each: of each of them, in one turn.
        live_appends: appends with a live reader, or a busy follower.
        follow_appends: appends with pauses, with a follower in another process.
        log_bytes: size of the log of 1 KiB messages; small_log_bytes: of that of 100 bytes.
        readers: concurrent readers, for memory.
        seeks: random offsets.
        warm_bytes: space that is written once before anything is measured.
        object_bytes: size of the log that is replayed from an object store.
        upload_appends: appends of the one producer whose log is uploaded.
        topics: topics in one process; topic_appends: to each; idle_seconds: with all of them open.
        peer_singles, peer_batches: as `single_appends` and `batches`, against the peers.
        dispatched: messages that are taken and acknowledged.
        http_turns: how often the servers take turns; http_appends: requests to each in a turn;
            http_events: events that a live reader waits for.
    """

    turns: int = 10
    single_appends: int = 2000
    batches: int = 80
    producers: int = 1000
    appends_each: int = 5
    live_appends: int = 3000
    follow_appends: int = 500
    log_bytes: int = 1 << 30
    small_log_bytes: int = 256 * MIB
    readers: int = 10
    seeks: int = 300
    warm_bytes: int = 512 * MIB
    object_bytes: int = 128 * MIB
    upload_appends: int = 40_000
    topics: int = 1000
    topic_appends: int = 10
    idle_seconds: float = 20.0
    peer_singles: int = 600
    peer_batches: int = 40
    dispatched: int = 100_000
    http_turns: int = 3
    http_appends: int = 4000
    http_events: int = 500


FULL = Scale()
QUICK = Scale(
    turns=2,
    single_appends=20,
    batches=8,
    producers=20,
    appends_each=2,
    live_appends=20,
    follow_appends=4,
    log_bytes=4 * MIB,
    small_log_bytes=MIB,
    readers=3,
    object_bytes=2 * MIB,
    upload_appends=40,
    seeks=10,
    warm_bytes=MIB,
    topics=20,
    topic_appends=3,
    idle_seconds=0.1,
    peer_singles=4,
    peer_batches=2,
    dispatched=400,
    http_turns=1,
    http_appends=40,
    http_events=10,
)


@attrs.frozen
class Context:
    """Where one measurement works: `directory` has the prepared logs."""

    directory: str
    scale: Scale

    def log_dir(self, log: tuple[str, int]) -> str:
        """The directory of a prepared log."""
        return os.path.join(self.directory, log[0])

    @contextmanager
    def scratch(self) -> Generator[str]:
        """An empty directory that goes away afterwards."""
        with tempfile.TemporaryDirectory(prefix="scratch-", dir=self.directory) as path:
            yield path


def payloads(number: int, size_bytes: int) -> list[bytes]:
    """Random payloads, all different: the same one over and over would sit in the CPU's cache."""
    noise = os.urandom(number * size_bytes)
    return [noise[at : at + size_bytes] for at in range(0, len(noise), size_bytes)]


async def build_log(directory: str, log: tuple[str, int], log_bytes: int) -> None:
    """Write a log of about `log_bytes` of frames."""
    name, payload_bytes = log
    batch = payloads(1000, payload_bytes)
    async with open_wal(WalConfig(dir=os.path.join(directory, name))) as wal:
        while wal.statistics().size_bytes < log_bytes:
            await wal.append_batch(batch, durability="written")


def frame_bytes(wal: Wal) -> int:
    """What a record that was appended since the log was opened takes on disk, on average."""
    statistics = wal.statistics()
    return round(statistics.appended_bytes / statistics.appended_records)
