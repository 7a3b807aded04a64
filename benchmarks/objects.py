"""The measurements with an object store: a real S3 server on this machine, in a process of its own.

The server takes its share of the processors. So what is measured against it is a ratio: replay to
plain ranged reads of the same objects, appends with uploads to appends without.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from time import perf_counter

import attrs
import trio
from device import quantile, take_turns
from scale import Context, payloads

from danube_trio import CloudConfig, Wal, WalConfig, open_replica, open_wal
from danube_trio.catalog import ManifestCatalog
from danube_trio.cloud import CloudStore, StoreOptions, open_store

__all__ = ["appends_with_uploads", "installed", "replay_objects"]

MIB = 1 << 20
PAYLOAD_BYTES = 1024
BUCKET = "benchmark"
START_SECONDS = 30


def installed() -> bool:
    """Whether there is an S3 server to measure with."""
    return _program() is not None


def _program() -> str | None:
    return shutil.which("ministack", path=str(Path(sys.executable).parent)) or shutil.which(
        "ministack"
    )


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def _answers(url: str, method: str) -> bool:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=5):
            return True
    except urllib.error.HTTPError as error:
        with error:
            return error.code < 500
    except OSError:
        return False


@contextmanager
def _server(scratch: str) -> Generator[tuple[str, StoreOptions]]:
    """An S3 server with an empty bucket, until the end of the block."""
    program = _program()
    assert program is not None
    port = _free_port()
    root = f"http://127.0.0.1:{port}"
    environment = {"BIND_HOST": "127.0.0.1", "SERVICES": "s3", "GATEWAY_PORT": str(port)}
    with open(os.path.join(scratch, "server.log"), "wb") as log:
        process = subprocess.Popen(
            [program], stdout=log, stderr=log, env={**os.environ, **environment}, cwd=scratch
        )
        try:
            give_up = time.monotonic() + START_SECONDS
            while not _answers(root, "GET"):
                if process.poll() is not None or time.monotonic() > give_up:
                    raise RuntimeError("the S3 server did not start")
                time.sleep(0.05)
            _answers(f"{root}/{BUCKET}", "PUT")
            yield (
                f"s3://{BUCKET}",
                StoreOptions(
                    endpoint=root,
                    region="us-east-1",
                    access_key_id="benchmark",
                    secret_access_key="benchmark",
                    allow_http=True,
                ),
            )
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
            process.wait()


@asynccontextmanager
async def _store(scratch: str) -> AsyncGenerator[CloudStore]:
    with _server(scratch) as (url, options):
        async with open_store(url, options) as store:
            yield store


async def _fill(store: CloudStore, scratch: str, size: int) -> int:
    """Upload a log of about this size; returns its records."""
    config = WalConfig(
        dir=os.path.join(scratch, "log"),
        segment_bytes=16 * MIB,
        cloud=CloudConfig(prefix="replay"),
    )
    batch = payloads(1000, PAYLOAD_BYTES)
    async with open_wal(config, store=store) as wal:
        for _ in range(max(1, size // PAYLOAD_BYTES // len(batch))):
            await wal.append_batch(batch)
        await wal.wait_uploaded(wal.next_offset)
        return wal.next_offset


async def _plain_gets(store: CloudStore, at_once: int) -> float:
    """Seconds for reading every object of the log in ranges, so many at once."""
    catalog = ManifestCatalog(store, "replay")
    state = await catalog.latest()
    assert state is not None
    ranges = [
        (catalog.object_key(d.object_id), start, min(start + MIB, d.size_bytes))
        for d in state.segments
        for start in range(0, d.size_bytes, MIB)
    ]
    todo = iter(ranges)

    async def read() -> None:
        for key, start, end in todo:
            _, data = await store.get(key, start, end)
            assert len(data) == end - start

    started = perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(at_once):
            nursery.start_soon(read)
    return perf_counter() - started


async def replay_objects(context: Context) -> dict[str, float]:
    """Replay a log from S3 through a replica; beside it, plain ranged GETs of the same bytes."""
    settings = CloudConfig()
    with context.scratch() as scratch:
        async with _store(scratch) as store:
            records = await _fill(store, scratch, context.scale.object_bytes)

            async def replay() -> float:
                started = perf_counter()
                count = size = 0
                async with open_replica(store, prefix="replay") as replica:
                    async for message in replica.reader(end="current"):
                        assert message.offset == count
                        size += len(message.payload)
                        count += 1
                assert (count, size) == (records, records * PAYLOAD_BYTES)
                return perf_counter() - started

            async def one_by_one() -> float:
                return await _plain_gets(store, 1)

            async def ahead() -> float:
                return await _plain_gets(store, 1 + settings.readahead)

            turns = max(1, context.scale.turns // 3)
            seconds = await take_turns(
                turns, {"gets": one_by_one, "ahead": ahead, "replay": replay}
            )
    messages = records * turns
    return {
        "messages_per_s": messages / seconds["replay"],
        "gets_per_s": messages / seconds["gets"],
        "gets_ahead_per_s": messages / seconds["ahead"],
        "of_gets": seconds["gets"] / seconds["replay"],
        "of_gets_ahead": seconds["ahead"] / seconds["replay"],
    }


async def appends_with_uploads(context: Context) -> dict[str, float]:
    """One producer, each append awaited, with all of it being uploaded, and without a store."""
    scale = context.scale
    turns = max(1, scale.turns // 2)
    each = max(1, scale.upload_appends // turns)
    messages = payloads(each, PAYLOAD_BYTES)
    times: dict[str, list[float]] = {"plain": [], "uploading": []}

    async def run(name: str, wal: Wal) -> float:
        started = before = perf_counter()
        for message in messages:
            await wal.append(message)
            now = perf_counter()
            times[name].append(now - before)
            before = now
        return before - started

    with context.scratch() as scratch:
        plain = WalConfig(dir=os.path.join(scratch, "plain"), segment_bytes=MIB)
        cloudy = attrs.evolve(
            plain, dir=os.path.join(scratch, "cloudy"), cloud=CloudConfig(prefix="uploads")
        )
        async with _store(scratch) as store, open_wal(plain) as one:
            async with open_wal(cloudy, store=store) as other:

                async def uploading() -> float:
                    seconds = await run("uploading", other)
                    # What is left to upload must not fall into the other's turn.
                    await other.wait_uploaded(other.next_offset)
                    return seconds

                seconds = await take_turns(
                    turns, {"plain": lambda: run("plain", one), "uploading": uploading}
                )
                found = other.statistics().cloud
                assert found is not None
    return {
        "plain_per_s": each * turns / seconds["plain"],
        "uploading_per_s": each * turns / seconds["uploading"],
        "time_ratio": seconds["uploading"] / seconds["plain"],
        "median_ratio": quantile(times["uploading"], 0.5) / quantile(times["plain"], 0.5),
        "uploaded_mib": found.uploaded_bytes / MIB,
    }
