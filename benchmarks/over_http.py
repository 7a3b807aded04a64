"""Appends and live readers over HTTP: `danube-trio serve`, the streams under uvicorn, and a peer.

The peer is the protocol's own reference server, on Node, with its files in a directory: it makes
each append durable, too, and lets concurrent ones share a sync. It is there when the packages of
``tests/http`` are (the tests install them). All servers run beside each other, and take turns.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable, Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, TypeVar

import http_load
import trio
from device import quantile
from http_load import Target
from scale import Context

__all__ = ["http", "http_live"]

T = TypeVar("T")

JUDGES = Path(__file__).parent.parent / "tests" / "http"
CONNECTIONS = (1, 100, 1000)
BODY = b"x" * 100
BATCH = b"[" + b",".join([b'"' + BODY + b'"'] * 100) + b"]"
READERS = 100


def _commands(scratch: str) -> dict[str, list[str]]:
    """How the servers are started; each prints where it listens."""
    python = sys.executable
    serve = ["-m", "danube_trio.cli", "serve", f"{scratch}/serve", "--listen", "127.0.0.1:0"]
    commands = {
        "serve": [python, *serve, "--json", "--max-connections", "2000"],
        "uvicorn": [python, str(JUDGES / "serve.py"), "--server", "uvicorn"],
    }
    node = shutil.which("node")
    if node is not None and (JUDGES / "node_modules").is_dir():
        commands["node"] = [node, str(JUDGES / "reference.mjs")]
    for name in commands.keys() - {"serve"}:
        commands[name] += ["--dir", f"{scratch}/{name}"]
    return commands


def _address(said: IO[str]) -> str:
    """Where a server says that it listens; some say more before."""
    for line in said:
        if line.startswith("{"):
            return str(json.loads(line)["urls"][0]).rstrip("/")
        if line.startswith("listening "):
            return f"http://127.0.0.1:{line.split()[1]}"
    raise RuntimeError("the server ended before it listened")


@contextmanager
def _server(command: list[str]) -> Generator[Target]:
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            assert process.stdout is not None
            yield Target(f"{_address(process.stdout)}/v1/stream")
        finally:
            process.terminate()
            process.wait(30)


@contextmanager
def _servers(context: Context) -> Generator[dict[str, Target]]:
    with context.scratch() as scratch, ExitStack() as stack:
        commands = _commands(scratch)
        for name in commands:
            os.mkdir(os.path.join(scratch, name))
        yield {name: stack.enter_context(_server(line)) for name, line in commands.items()}


async def http(context: Context) -> dict[str, float]:
    """Durable appends of 100 bytes over some connections, and of batches of 100."""
    turns, count = context.scale.http_turns, context.scale.http_appends
    seconds: dict[str, float] = {}
    with _servers(context) as targets:
        for target in targets.values():
            await _run(http_load.put, target, "bytes", "application/octet-stream")
            await _run(http_load.put, target, "json", "application/json")
        order = list(targets.items())
        for _ in range(turns):
            for name, target in order:
                for connections in CONNECTIONS:
                    each = min(count, count * connections // 20 + 20)
                    spent = await _run(
                        *(http_load.posts, target, "bytes", BODY),
                        *("application/octet-stream", connections, each),
                    )
                    key = f"{name}_{connections}"
                    seconds[key] = seconds.get(key, 0.0) + spent / each
                spent = await _run(
                    http_load.posts, target, "json", BATCH, "application/json", 10, count // 10
                )
                key = f"{name}_batched"
                seconds[key] = seconds.get(key, 0.0) + spent / (count // 10 * 100)
            order.reverse()
    found = {f"{key}_per_s": turns / spent for key, spent in seconds.items()}
    if "node" in targets:
        for what in (*map(str, CONNECTIONS), "batched"):
            for name in ("serve", "uvicorn"):
                ratio = found[f"{name}_{what}_per_s"] / found[f"node_{what}_per_s"]
                found[f"{name}_{what}_of_node"] = ratio
    return found


async def http_live(context: Context) -> dict[str, float]:
    """From a POST to its event: with one reader, and with a hundred."""
    found: dict[str, float] = {}
    count = context.scale.http_events
    with _servers(context) as targets:
        for name, target in targets.items():
            await _run(http_load.put, target, "live", "text/plain")
            times = await _run(http_load.latencies, target, "live", count)
            found[f"{name}_p50_ms"] = 1000 * quantile(times, 0.5)
            found[f"{name}_p99_ms"] = 1000 * quantile(times, 0.99)
            events = max(1, count // 10)
            spent = await _run(http_load.fan_out, target, "live", READERS, events)
            found[f"{name}_fan_out_per_s"] = events * READERS / spent
    return found


async def _run(work: Callable[..., Awaitable[T]], *args: object) -> T:
    """Call an asyncio function in a thread: the loop here has nothing to do."""

    async def main() -> T:
        return await work(*args)

    return await trio.to_thread.run_sync(asyncio.run, main())
