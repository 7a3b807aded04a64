"""The measurements of following: from append in one process to the hands of a reader in another.

The follower is a child (`follower_child.py`), which says for each record when it had it; both read
the same clock (CLOCK_MONOTONIC). First appends with pauses of no particular length, because polling
is slow or fast depending on when they come; then, by notification, appends as fast as they go, for
what a busy writer costs a follower; then nothing, for what waiting costs.
"""

from __future__ import annotations

import json
import os
import random
import struct
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from time import perf_counter

import trio
from device import Device, quantile
from scale import Context, frame_bytes, payloads

from danube_trio import Wal, WalConfig, open_wal

__all__ = ["follow"]

CHILD = os.path.join(os.path.dirname(os.path.abspath(__file__)), "follower_child.py")
PAYLOAD_BYTES = 1024
PAUSE_SECONDS = 0.01  # on average
TIME = struct.Struct("<d")


class _Follower:
    """The child. It is asked by a line for each thing."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._rest = b""

    async def seen(self, count: int) -> list[float]:
        """When it had the next so many records."""
        data = await self._read(count * TIME.size)
        return [when for (when,) in TIME.iter_unpack(data)]

    async def costs(self) -> dict[str, float]:
        """Its clock, processor time, and looks so far."""
        stdin = self._process.stdin
        assert stdin is not None
        await stdin.send_all(b"costs\n")
        stderr = self._process.stderr
        assert stderr is not None
        text = b""
        while not text.endswith(b"\n"):
            text += await stderr.receive_some()
        if not text.startswith(b"{"):
            while data := await stderr.receive_some():
                text += data
            raise RuntimeError(f"the follower failed: {text.decode()}")
        found: dict[str, float] = json.loads(text)
        return found

    async def _read(self, size: int) -> bytes:
        stdout = self._process.stdout
        assert stdout is not None
        while len(self._rest) < size:
            data = await stdout.receive_some()
            if not data:
                raise RuntimeError(f"the follower ended: {self._process.returncode}")
            self._rest += data
        data, self._rest = self._rest[:size], self._rest[size:]
        return data


@asynccontextmanager
async def _following(directory: str, *, notify: bool) -> AsyncGenerator[_Follower]:
    process = await trio.lowlevel.open_process(
        [sys.executable, CHILD, directory, "notify" if notify else "poll"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    async with process.stdin, process.stdout, process.stderr:
        try:
            follower = _Follower(process)
            await follower.costs()  # it is there
            yield follower
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()


class _Latencies:
    """From the call of append, and from its return, to the follower's hands."""

    def __init__(self) -> None:
        self.all: list[float] = []
        self.after: list[float] = []

    async def measure(self, wal: Wal, follower: _Follower, count: int, *, pauses: bool) -> None:
        """Append so many, and wait until they have been seen."""
        times: list[tuple[float, float]] = []
        for message in payloads(count, PAYLOAD_BYTES):
            if pauses:
                await trio.sleep(random.uniform(0, 2 * PAUSE_SECONDS))
            began = perf_counter()
            await wal.append(message)
            times.append((began, perf_counter()))
        for (began, done), seen in zip(times, await follower.seen(count), strict=True):
            self.all.append(seen - began)
            self.after.append(seen - done)


def _rate(before: dict[str, float], after: dict[str, float], key: str) -> float:
    return (after[key] - before[key]) / (after["clock"] - before["clock"])


async def follow(context: Context) -> dict[str, float]:
    """By notification and by polling, in turns with the device's syncs."""
    scale = context.scale
    each = max(1, scale.follow_appends // scale.turns)
    lone = {True: _Latencies(), False: _Latencies()}
    busy = _Latencies()
    by_hand: list[float] = []
    with context.scratch() as scratch:
        directory = os.path.join(scratch, "log")
        async with open_wal(WalConfig(dir=directory)) as wal:
            await wal.append_batch(payloads(50, PAYLOAD_BYTES))
            with Device(scratch, frame_bytes(wal)) as device:
                for notify in (True, False):
                    async with _following(directory, notify=notify) as follower:
                        await _Latencies().measure(wal, follower, 5, pauses=True)  # warm
                        for _ in range(scale.turns):
                            by_hand += device.latencies(each)
                            await lone[notify].measure(wal, follower, each, pauses=True)
            async with _following(directory, notify=True) as follower:
                before = await follower.costs()
                await busy.measure(wal, follower, scale.live_appends, pauses=False)
                after = await follower.costs()
                await trio.sleep(scale.idle_seconds / 4)
                idle = await follower.costs()
    found: dict[str, float] = {}
    for name, times in {
        "notified": lone[True].all,
        "polled": lone[False].all,
        "device": by_hand,
        "after": lone[True].after,
        "busy": busy.all,
    }.items():
        found[f"{name}_p50_ms"] = quantile(times, 0.5) * 1e3
        found[f"{name}_p99_ms"] = quantile(times, 0.99) * 1e3
    return {
        **found,
        "notified_over_device_ms": found["notified_p50_ms"] - found["device_p50_ms"],
        "busy_syncs_per_s": scale.live_appends / (after["clock"] - before["clock"]),
        "busy_looks_per_s": _rate(before, after, "looks"),
        "busy_cpu_percent": _rate(before, after, "cpu") * 100,
        "idle_looks_per_s": _rate(after, idle, "looks"),
        "idle_cpu_percent": _rate(after, idle, "cpu") * 100,
    }
