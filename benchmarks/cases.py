"""What is measured, in which order, and what each result is held against.

The targets are those of the design: a first *bar*, and a *goal*. They are printed beside the
medians; nothing fails because of one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import appending
import attrs
import dispatching
import following
import imports
import many_topics
import objects
import over_http
import peers
import reading
import through_doors
from scale import Context

__all__ = ["CASES", "Case", "Metric"]


@attrs.frozen
class Metric:
    """One number of a case.

    Attributes:
        key: its name in the JSON.
        label: what the table calls it.
        unit: ``/s``, ``x`` (a ratio), ``s``, ``ms``, ``MiB``, ``KiB``, ``MiB/s``, ``%`` or nothing.
        bar, goal: what it should reach; None if it is only there to compare with.
        at_most: whether smaller is better.
    """

    key: str
    label: str
    unit: str
    bar: float | None = None
    goal: float | None = None
    at_most: bool = False

    def meets(self, value: float, limit: float) -> bool:
        """Whether `value` is on the right side of `limit`."""
        return value <= limit if self.at_most else value >= limit

    def verdict(self, value: float) -> str:
        """``goal``, ``ok`` (the bar, but not the goal), ``below``, or nothing without a target."""
        if self.goal is not None and self.meets(value, self.goal):
            return "goal"
        if self.bar is not None:
            return "ok" if self.meets(value, self.bar) else "below"
        return "" if self.goal is None else "below"


@attrs.frozen
class Case:
    """A measurement: `run` is one round of it.

    Attributes:
        most_rounds: for what takes long and hardly varies.
    """

    name: str
    title: str
    run: Callable[[Context], Awaitable[dict[str, float]]]
    metrics: tuple[Metric, ...]
    most_rounds: int = 1000


def _device_ratio() -> Metric:
    return Metric("of_device", "of the device", "x", 0.5, 0.85)


def _replay_metrics(bar: float | None, goal: float) -> tuple[Metric, ...]:
    return (
        Metric("messages_per_s", "messages", "/s", bar, goal),
        Metric("mib_per_s", "file", "MiB/s"),
        Metric("plain_read_mib_per_s", "plain read of the same files", "MiB/s"),
        Metric("of_plain_read", "of the plain read", "x"),
    )


def _peer_metrics(goal: float | None) -> tuple[Metric, ...]:
    return (
        Metric("ours_per_s", "danube-trio", "/s"),
        Metric("lmdb_per_s", "LMDB", "/s"),
        Metric("sqlite_per_s", "SQLite (WAL, FULL)", "/s"),
        Metric("device_per_s", "device", "/s"),
        Metric("of_lmdb", "of LMDB", "x", None, goal),
        Metric("of_sqlite", "of SQLite", "x", None, goal),
    )


def _door_metrics(bar: float | None, *, blocking: bool = True) -> tuple[Metric, ...]:
    threads = (
        Metric("blocking_per_s", "blocking", "/s"),
        Metric("blocking_cost", "time, blocking", "x"),
    )
    return (
        Metric("trio_per_s", "trio", "/s"),
        Metric("anyio_per_s", "anyio on trio", "/s"),
        Metric("asyncio_per_s", "anyio on asyncio", "/s"),
        Metric("anyio_cost", "time, anyio on trio", "x"),
        Metric("asyncio_cost", "time, anyio on asyncio", "x", bar, at_most=True),
        *(threads if blocking else ()),
    )


def _http_metrics() -> tuple[Metric, ...]:
    servers = {"serve": "danube-trio serve", "uvicorn": "under uvicorn", "node": "reference server"}
    works = {"1": "1 connection", "100": "100", "1000": "1000", "batched": "batches of 100"}
    return (
        *(
            Metric(f"{server}_{work}_per_s", f"{name}, {what}", "/s")
            for work, what in works.items()
            for server, name in servers.items()
        ),
        *(
            Metric(f"serve_{work}_of_node", f"of the reference server, {what}", "x", None, goal)
            for (work, what), goal in zip(works.items(), (None, 2.0, None, None), strict=True)
        ),
        *(
            Metric(f"uvicorn_{work}_of_node", f"under uvicorn, of it, {what}", "x")
            for work, what in works.items()
        ),
    )


def _http_live_metrics() -> tuple[Metric, ...]:
    servers = {"serve": "danube-trio serve", "uvicorn": "under uvicorn", "node": "reference server"}
    return tuple(
        Metric(f"{server}_{key}", f"{name}, {what}", unit)
        for key, what, unit in (
            ("p50_ms", "POST to event, median", "ms"),
            ("p99_ms", "p99", "ms"),
            ("fan_out_per_s", "events to 100 readers", "/s"),
        )
        for server, name in servers.items()
    )


def _dispatch_metrics(bar: float | None) -> tuple[Metric, ...]:
    return (
        Metric("taken_per_s", "taken and acknowledged, one by one", "/s", bar),
        Metric("run_per_s", "handled by run()", "/s"),
        Metric("batched_per_s", "received and acknowledged in batches", "/s"),
        Metric("replayed_per_s", "plain reader", "/s"),
        Metric("of_replay", "one by one, of the plain reader", "x"),
        Metric("saves", "times the cursor was saved", ""),
    )


_ALL = (
    Case(
        "single",
        "one producer, each 1 KiB append awaited",
        appending.single,
        (
            Metric("appends_per_s", "durable appends", "/s"),
            Metric("device_per_s", "device", "/s"),
            _device_ratio(),
        ),
    ),
    Case(
        "batch",
        "batches of 1000 x 1 KiB, one at a time",
        appending.batches,
        (
            Metric("records_per_s", "durable records", "/s"),
            Metric("device_per_s", "device", "/s"),
            _device_ratio(),
        ),
    ),
    Case(
        "batch4",
        "batches of 1000 x 1 KiB, four producers",
        appending.batches_of_four,
        (
            Metric("records_per_s", "durable records", "/s"),
            Metric("device_per_s", "device", "/s"),
            _device_ratio(),
        ),
    ),
    Case(
        "concurrent",
        "1000 producers, each awaits its own 1 KiB append",
        appending.concurrent,
        (
            Metric("appends_per_s", "durable appends", "/s", 60_000, 100_000),
            Metric("device_per_s", "device, 1000 records a sync", "/s"),
            Metric("of_device", "of the device", "x"),
            Metric("appends_per_sync", "appends that share a sync", ""),
        ),
    ),
    Case(
        "live",
        "append to live reader, one producer",
        appending.live,
        (
            Metric("p50_ms", "p50", "ms"),
            Metric("p99_ms", "p99", "ms"),
            Metric("device_p50_ms", "device p50", "ms"),
            Metric("device_p99_ms", "device p99", "ms"),
            Metric("p99_over_device_ms", "p99 above the device's", "ms", 5, 1, at_most=True),
        ),
    ),
    Case(
        "follow",
        "append to a follower in another process, one producer",
        following.follow,
        (
            Metric("notified_p50_ms", "p50, by notification", "ms"),
            Metric("notified_p99_ms", "p99, by notification", "ms"),
            Metric("after_p50_ms", "p50 after append has returned", "ms", 5, 1, at_most=True),
            Metric("after_p99_ms", "p99 after append has returned", "ms"),
            Metric("polled_p50_ms", "p50, by polling", "ms"),
            Metric("polled_p99_ms", "p99, by polling", "ms"),
            Metric("device_p50_ms", "device p50", "ms"),
            Metric("device_p99_ms", "device p99", "ms"),
            Metric("notified_over_device_ms", "p50 above the device's", "ms"),
            Metric("busy_p50_ms", "p50 while the producer does not pause", "ms"),
            Metric("busy_p99_ms", "p99 then", "ms"),
            Metric("busy_syncs_per_s", "syncs then", "/s"),
            Metric("busy_looks_per_s", "the follower's looks then", "/s", 1000, at_most=True),
            Metric("busy_cpu_percent", "its processor time then", "%"),
            Metric("idle_looks_per_s", "its looks while nothing happens", "/s"),
            Metric("idle_cpu_percent", "its processor time while nothing happens", "%"),
        ),
    ),
    Case(
        "replay",
        "replay of a cold 1 GiB log, 1 KiB messages",
        reading.replay,
        _replay_metrics(300_000, 380_000),
    ),
    Case(
        "replay100",
        "replay of a cold 256 MiB log, 100-byte messages",
        reading.replay_small,
        _replay_metrics(None, 880_000),
    ),
    Case(
        "open",
        "open of a cold 1 GiB log, fresh process",
        reading.opening,
        (
            Metric("seconds", "open", "s", 1, at_most=True),
            Metric("without_checkpoint_seconds", "open, checkpoint deleted", "s", 1, at_most=True),
        ),
    ),
    Case(
        "seek",
        "first message at a random offset of a cold 1 GiB log",
        reading.seek,
        (
            Metric("median_ms", "median", "ms", 5, at_most=True),
            Metric("max_ms", "longest", "ms", 5, at_most=True),
        ),
    ),
    Case(
        "memory",
        "peak memory, 10 readers replay 1 GiB, fresh process",
        reading.memory,
        (
            Metric("peak_mib", "peak", "MiB", 256, at_most=True),
            Metric("before_mib", "before the log was opened", "MiB"),
            Metric("messages_per_s", "messages, all readers", "/s"),
        ),
        most_rounds=1,
    ),
    Case(
        "objects",
        "replay from S3 (a server on this machine), 1 KiB messages",
        objects.replay_objects,
        (
            Metric("messages_per_s", "messages", "/s", 100_000),
            Metric("gets_per_s", "plain ranged GETs, one by one", "/s"),
            Metric("gets_ahead_per_s", "plain ranged GETs, as many at once", "/s"),
            Metric("of_gets", "of the plain GETs", "x", 0.7),
            Metric("of_gets_ahead", "of as many at once", "x"),
        ),
    ),
    Case(
        "uploads",
        "one producer, each append awaited, while all of it is uploaded to S3",
        objects.appends_with_uploads,
        (
            Metric("uploading_per_s", "durable appends, uploading", "/s"),
            Metric("plain_per_s", "durable appends, no store", "/s"),
            Metric("time_ratio", "time with uploads", "x", 1.1, at_most=True),
            Metric("median_ratio", "median append with uploads", "x"),
            Metric("uploaded_mib", "uploaded", "MiB"),
        ),
    ),
    Case(
        "doors",
        "the doors: one producer, each 1 KiB append awaited",
        through_doors.door_appends,
        _door_metrics(1.5),
    ),
    Case(
        "doors_batch",
        "the doors: batches of 1000 x 1 KiB, one at a time",
        through_doors.door_batches,
        _door_metrics(1.1),
    ),
    Case(
        "doors_many",
        "the doors: 1000 producers, each awaits its own 1 KiB append",
        through_doors.door_producers,
        _door_metrics(1.5, blocking=False),
    ),
    Case(
        "imports",
        "processor time of importing, an empty interpreter taken off",
        imports.imports,
        (
            Metric("trio_ms", "trio", "ms"),
            Metric("package_ms", "danube_trio", "ms"),
            Metric("open_wal_ms", "open_wal of danube_trio", "ms"),
            Metric("package_of_trio", "danube_trio, of trio", "x", 2.0, at_most=True),
            Metric("open_wal_of_trio", "open_wal of danube_trio, of trio", "x", 2.0, at_most=True),
            Metric("anyio_of_trio", "open_wal of danube_trio.anyio, of trio", "x"),
            Metric("blocking_of_trio", "open_wal of danube_trio.blocking, of trio", "x"),
            Metric("help_of_trio", "danube-trio --help, of trio", "x"),
        ),
        most_rounds=3,
    ),
    Case(
        "topics",
        "1000 topics in one process, 100-byte messages",
        many_topics.topics,
        (
            Metric("idle_kib", "memory of an idle open topic with 10 messages", "KiB"),
            Metric("opened_kib", "of one that was just opened", "KiB"),
            Metric("open_per_s", "opened for the first time", "/s"),
            Metric("appends_per_s", "durable appends, all topics", "/s"),
            Metric("replayed_per_s", "messages replayed, all topics", "/s"),
            Metric("on_demand_per_s", "appends that close one topic and open another", "/s"),
            Metric("idle_cpu_percent", "processor with all open and idle", "%"),
        ),
        most_rounds=3,
    ),
    Case(
        "peers",
        "peers, one 1 KiB record at a time",
        peers.peer_singles,
        _peer_metrics(None),
    ),
    Case(
        "peers1000",
        "peers, batches of 1000 x 1 KiB",
        peers.peer_batches,
        _peer_metrics(1),
    ),
    Case(
        "http",
        "durable appends of 100 bytes over HTTP",
        over_http.http,
        _http_metrics(),
    ),
    Case(
        "http_live",
        "live readers over HTTP (SSE)",
        over_http.http_live,
        _http_live_metrics(),
    ),
    Case(
        "dispatch",
        "dispatch to one consumer, exclusive, window 1000, 100-byte messages",
        dispatching.exclusive,
        _dispatch_metrics(30_000),
    ),
    Case(
        "dispatch10",
        "dispatch to 10 consumers, shared",
        dispatching.shared10,
        _dispatch_metrics(None),
    ),
    Case(
        "dispatch100",
        "dispatch to 100 consumers, shared",
        dispatching.shared100,
        _dispatch_metrics(None),
    ),
)

CASES = {case.name: case for case in _ALL}
