"""What Prometheus is told is what `statistics()` says."""

from __future__ import annotations

import errno
import gc
import importlib
import math
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import attrs
import pytest
import trio
from cloud_model import CONFIG, World
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families as parse_text
from trio.testing import MockClock, wait_all_tasks_blocked

import danube_trio.anyio
import danube_trio.blocking
from danube_trio import (
    StorageConfig,
    WalConfig,
    WalStorage,
    open_follower,
    open_replica,
    open_storage,
    open_wal,
)
from danube_trio._core.stats import (
    CloudStatistics,
    HistogramView,
    ReaderStatistics,
    StorageStatistics,
    WalStatistics,
)
from danube_trio._engine.read.follow import FollowerStatistics
from danube_trio._engine.read.replica import ReplicaStatistics
from danube_trio.dispatch import ReliableDispatch, ReliableOptions, SubscriptionStatistics
from danube_trio.prometheus import DanubeCollector, open_metrics_server
from danube_trio.prometheus._figures import GROUPS, NOT_SHOWN, UP, Figure, Group
from danube_trio.prometheus._serve import MAX_CONNECTIONS
from danube_trio.testing import SimDisk

TOPIC = "/default/orders"
PAGE = Path(__file__).parent.parent / "docs" / "metrics.md"
CLASSES: tuple[type[Any], ...] = (
    *(WalStatistics, StorageStatistics, SubscriptionStatistics),
    *(FollowerStatistics, ReplicaStatistics),
)

# Much of it has no types.
client: Any = importlib.import_module("prometheus_client")
make_asgi_app: Any = client.make_asgi_app
parse_openmetrics: Any = importlib.import_module(
    "prometheus_client.openmetrics.parser"
).text_string_to_metric_families
to_openmetrics: Any = importlib.import_module(
    "prometheus_client.openmetrics.exposition"
).generate_latest
go_string: Any = importlib.import_module("prometheus_client.utils").floatToGoString

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture
def collector() -> DanubeCollector:
    return DanubeCollector()


@pytest.fixture
def registry(collector: DanubeCollector) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(collector)
    return registry


def samples_of(families: Iterable[Any]) -> Samples:
    found: Samples = {}
    for family in families:
        assert family.documentation
        for sample in family.samples:
            key = sample.name, frozenset(sample.labels.items())
            assert key not in found, key
            found[key] = sample.value
    return found


def scrape(registry: CollectorRegistry) -> Samples:
    """Both expositions, parsed: they must agree."""
    families = list(registry.collect())  # looked at once, so that both are of one moment
    frozen = CollectorRegistry()
    frozen.register(_Frozen(families))
    text = samples_of(parse_text(generate_latest(frozen).decode()))
    strict = samples_of(parse_openmetrics(to_openmetrics(frozen).decode()))
    assert text == strict
    return text


class _Frozen:
    def __init__(self, families: list[Any]) -> None:
        self._families = families

    def collect(self) -> list[Any]:
        return self._families


def get(samples: Samples, name: str, /, **labels: str) -> float:
    return samples[f"danube_trio_{name}", frozenset(labels.items())]


def names(samples: Samples) -> set[str]:
    return {name.removeprefix("danube_trio_") for name, _ in samples}


def expected(group: Group, labels: Mapping[str, str], statistics: object) -> Samples:
    """What must be there, worked out from the table and the statistics by another way."""
    found: Samples = {}

    def put(name: str, value: float, **own: str) -> None:
        found[f"{group.prefix}{name}", frozenset({**labels, **own}.items())] = value

    for figure in group.figures:
        value: Any = statistics
        for part in figure.field.split("."):
            value = getattr(value, part) if value is not None else None
        if value is None:
            continue
        if isinstance(value, HistogramView):
            assert figure.kind == "histogram"
            for i, bound in enumerate((*value.bounds, math.inf)):
                text = "+Inf" if bound == math.inf else go_string(bound)
                put(f"{figure.name}_bucket", sum(value.counts[: i + 1]), le=text)
            put(f"{figure.name}_count", sum(value.counts))
            put(f"{figure.name}_sum", value.sum)
        elif figure.field == "phase":
            phases = {dict(key)["phase"] for key in _phases(group)}
            for phase in phases:
                put("phase", phase == value, phase=phase)
            assert value in phases
        elif figure.field == "by":
            for way in ("notification", "polling"):
                put("by", way == value, by=way)
        elif figure.field == "tasks":
            for task in value:
                put("task_seconds", task.seconds, task=task.name, state=task.state)
        elif figure.name == "readers":
            for tier in ("trimmed", "cloud", "file", "cache", "live"):
                put("readers", sum(reader.tier == tier for reader in value), tier=tier)
        elif figure.name == "reader_lag_records":
            put("reader_lag_records", max([0, *(reader.lag for reader in value)]))
        elif figure.field == "notes":
            put("notes", len(value))
        else:
            put(figure.name + "_total" * (figure.kind == "counter"), float(value))
    return found


def _phases(group: Group) -> list[frozenset[tuple[str, str]]]:
    figure = next(figure for figure in group.figures if figure.field == "phase")
    assert figure.values is not None
    return [frozenset({("phase", own[0])}) for own, _ in figure.values("")]


def of(samples: Samples, group: Group, **labels: str) -> Samples:
    """The samples of one thing."""
    about = {
        (name, key): value
        for (name, key), value in samples.items()
        if labels.items() <= dict(key).items()
        and any(name.startswith(f"{group.prefix}{figure.name}") for figure in group.figures)
        and set(group.labels) & set(dict(key)) == set(labels)
    }
    return {key: value for key, value in about.items() if key[0] != "danube_trio_up"}


def group_of(statistics: object) -> Group:
    return GROUPS[type(statistics).__name__]


# ---- the table


@pytest.mark.parametrize("kind", CLASSES)
def test_every_figure_is_shown_or_said_not_to_be(kind: type[Any]) -> None:
    fields: set[str] = set()
    for field in attrs.fields_dict(kind):
        nested = CloudStatistics if field == "cloud" else None
        fields |= {f"cloud.{f}" for f in attrs.fields_dict(nested)} if nested else {field}
    shown = {figure.field for figure in GROUPS[kind.__name__].figures}
    hidden = NOT_SHOWN.get(kind.__name__, set())
    assert not shown & hidden
    assert shown | hidden == fields


def test_what_readers_say_is_shown_or_said_not_to_be() -> None:
    hidden = NOT_SHOWN["ReaderStatistics"]
    assert set(attrs.fields_dict(ReaderStatistics)) == {"tier", "lag"} | hidden


def test_a_metric_is_named_like_its_field() -> None:
    for group in GROUPS.values():
        for figure in group.figures:
            if figure.name != "reader_lag_records" and figure.name != "task_seconds":
                assert figure.name == figure.field.replace(".", "_")
            assert figure.help.endswith(".") and "\n" not in figure.help


def test_the_registry_knows_every_name_before_anything_is_shown(
    collector: DanubeCollector, registry: CollectorRegistry
) -> None:
    with pytest.raises(ValueError, match="Duplicated"):
        registry.register(DanubeCollector())
    described = [family.name for family in collector.describe()]
    assert len(set(described)) == len(described)
    assert scrape(registry) == {}
    registry.unregister(collector)
    registry.register(DanubeCollector())


# ---- logs


async def test_every_figure_of_a_log_is_the_one_of_statistics(
    collector: DanubeCollector, registry: CollectorRegistry, autojump_clock: MockClock
) -> None:
    world = World.new("manifests")
    world.store._world.latency = 0.01
    async with world.open(CONFIG) as wal:
        collector.add_log("orders", wal)
        reader = wal.reader()
        for number in range(20):
            await wal.append(bytes(50 * number))
        await wal.append_batch([b"a", b"b"], durability="uploaded")
        wal.append_nowait(b"not durable yet")
        await reader.__anext__()
        await wait_all_tasks_blocked()
        statistics = wal.statistics()
        samples = scrape(registry)
        assert statistics.pending_appends == 1
        assert statistics.cloud is not None and statistics.cloud.uploads > 1
        found = of(samples, GROUPS["WalStatistics"], log="orders")
        assert found == expected(GROUPS["WalStatistics"], {"log": "orders"}, statistics)
        assert get(samples, "up", kind="log", name="orders") == 1
        # Some of it once more, by name: the table itself may be wrong.
        assert get(samples, "append_seconds_count", log="orders") == 21
        assert get(samples, "appended_records_total", log="orders") == 23
        assert get(samples, "next_offset", log="orders") == 23
        assert get(samples, "batch_records_sum", log="orders") == 23
        assert get(samples, "cloud_upload_seconds_count", log="orders") == statistics.cloud.uploads
        assert get(samples, "phase", log="orders", phase="open") == 1
        assert get(samples, "reader_lag_records", log="orders") == statistics.readers[0].lag > 0
        await reader.aclose()


async def test_histograms_are_cumulative(
    collector: DanubeCollector, registry: CollectorRegistry
) -> None:
    async with open_wal(WalConfig(dir="/log"), disk=SimDisk()) as wal:
        collector.add_log("orders", wal)
        for count in (1, 1, 2, 3, 100_000):
            await wal.append_batch([b""] * count)
        samples = scrape(registry)

        def bucket(le: str) -> float:
            return get(samples, "batch_records_bucket", log="orders", le=le)

        assert [bucket(le) for le in ("1.0", "2.0", "4.0", "65536.0", "+Inf")] == [2, 3, 4, 4, 5]
        assert get(samples, "batch_records_sum", log="orders") == 100_007


async def test_a_log_without_a_store_has_no_figures_of_one(
    collector: DanubeCollector, registry: CollectorRegistry
) -> None:
    async with open_wal(WalConfig()) as wal:
        collector.add_log("memory", wal)
        await wal.append(b"a")
        found = names(scrape(registry))
        assert "appended_records_total" in found
        assert not [name for name in found if name.startswith(("cloud", "task", "storage"))]


async def test_two_logs_are_told_apart_and_removed_one_by_one(
    collector: DanubeCollector, registry: CollectorRegistry
) -> None:
    async with open_wal(WalConfig()) as one, open_wal(WalConfig()) as two:
        await two.append(b"a")
        with collector.add_log("one", one):
            with collector.add_log("two", two) as shown:
                with pytest.raises(ValueError, match="'two' already"):
                    collector.add_log("two", one)
                samples = scrape(registry)
                assert get(samples, "next_offset", log="one") == 0
                assert get(samples, "next_offset", log="two") == 1
                assert shown.name in repr(shown)
            shown.remove()
            samples = scrape(registry)
            assert {dict(key).get("log", "one") for _, key in samples} == {"one"}
            with collector.add_log("two", two):
                shown.remove()  # it is not the one that is shown now
                assert get(scrape(registry), "next_offset", log="two") == 1
        assert scrape(registry) == {}


async def test_names_with_odd_letters_are_escaped(
    collector: DanubeCollector, registry: CollectorRegistry
) -> None:
    async with open_wal(WalConfig()) as wal:
        odd = 'C:\\new "log"\nü'
        collector.add_log(odd, wal)
        assert get(scrape(registry), "next_offset", log=odd) == 0


async def test_what_is_added_is_looked_at(collector: DanubeCollector) -> None:
    async with open_wal(WalConfig()) as wal:
        with pytest.raises(ValueError, match="name=''"):
            collector.add_log("", wal)
        for add in (collector.add_log, collector.add_storage):
            with pytest.raises(TypeError, match="must be"):
                add("name", object())  # type: ignore[arg-type]  # that is the point
        with pytest.raises(TypeError, match="ReliableDispatch"):
            collector.add_dispatch(wal)  # type: ignore[arg-type]  # that is the point
        outside = partial(collector.add_log, "orders", wal)
        caught = await trio.to_thread.run_sync(_error_of, outside)
        assert isinstance(caught, RuntimeError)
    with pytest.raises(ValueError, match="timeout=0"):
        DanubeCollector(timeout=0)


def _error_of(call: Any) -> BaseException | None:
    result: list[BaseException] = []

    def run() -> None:  # a thread of its own: those of trio know their run
        try:
            call()
        except Exception as error:
            result.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return result[0] if result else None


# ---- closed, broken, busy


async def test_a_closed_log_shows_its_last_figures(
    collector: DanubeCollector, registry: CollectorRegistry
) -> None:
    async with open_wal(WalConfig(dir="/log"), disk=SimDisk()) as wal:
        collector.add_log("orders", wal)
        await wal.append(b"a")
    samples = await trio.to_thread.run_sync(scrape, registry)
    assert get(samples, "phase", log="orders", phase="closed") == 1
    assert get(samples, "append_seconds_count", log="orders") == 1
    assert get(samples, "up", kind="log", name="orders") == 1


async def test_a_broken_log_says_so(
    collector: DanubeCollector, registry: CollectorRegistry
) -> None:
    disk = SimDisk()
    async with open_wal(WalConfig(dir="/log"), disk=disk) as wal:
        collector.add_log("orders", wal)
        for operation in ("write", "sync_data"):
            disk.fail(operation, error=errno.EIO, sticky=True)
        with pytest.raises(danube_trio.LogBrokenError):
            await wal.append(b"a")
        samples = scrape(registry)
        assert get(samples, "phase", log="orders", phase="broken") == 1
        assert get(samples, "phase", log="orders", phase="open") == 0


def test_a_log_whose_run_has_ended_shows_its_last_figures(
    collector: DanubeCollector, registry: CollectorRegistry
) -> None:
    async def main() -> None:
        async with open_wal(WalConfig(dir="/log"), disk=SimDisk()) as wal:
            collector.add_log("orders", wal)
            await wal.append(b"a")

    trio.run(main)
    samples = scrape(registry)
    assert get(samples, "phase", log="orders", phase="closed") == 1
    assert get(samples, "next_offset", log="orders") == 1


async def test_a_busy_loop_makes_no_scrape_wait_for_ever_or_fail(
    caplog: pytest.LogCaptureFixture,
) -> None:
    collector, registry = DanubeCollector(timeout=0.01), CollectorRegistry()
    registry.register(collector)
    async with open_wal(WalConfig()) as wal:
        collector.add_log("busy", wal)
        blocking_log = _Fixed(wal.statistics())
        collector.add_log("other", blocking_log)
        found: list[Samples] = []
        thread = threading.Thread(target=lambda: found.append(scrape(registry)))
        thread.start()
        thread.join()  # the loop does nothing else meanwhile
        assert get(found[0], "up", kind="log", name="busy") == 0
        assert get(found[0], "up", kind="log", name="other") == 1
        assert {dict(key).get("log", "other") for _, key in found[0]} == {"other"}
        await trio.lowlevel.checkpoint()  # the question comes too late, and is dropped
        assert get(scrape(registry), "up", kind="log", name="busy") == 1
    assert "did not answer" in caplog.text


class _Fixed:
    def __init__(self, statistics: WalStatistics | None) -> None:
        self._statistics = statistics

    def statistics(self) -> WalStatistics:
        assert self._statistics is not None, "it cannot be asked"
        return self._statistics


async def test_what_cannot_be_asked_does_not_hide_the_others(
    collector: DanubeCollector, registry: CollectorRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    collector.add_log("bad", _Fixed(None))
    async with open_wal(WalConfig()) as wal:
        collector.add_log("good", wal)
        samples = scrape(registry)
        assert get(samples, "up", kind="log", name="bad") == 0
        assert get(samples, "up", kind="log", name="good") == 1
        assert get(samples, "next_offset", log="good") == 0
    assert "it cannot be asked" in caplog.text


async def test_scrapes_of_threads_while_appending(
    collector: DanubeCollector, registry: CollectorRegistry
) -> None:
    async with open_wal(WalConfig(dir="/log"), disk=SimDisk()) as wal:
        collector.add_log("orders", wal)
        stop = trio.Event()

        async def append() -> None:
            while not stop.is_set():
                await wal.append(b"a")

        async def look() -> None:
            before: Samples = {}
            for _ in range(15):
                now = await trio.to_thread.run_sync(scrape, registry)
                for key, value in now.items():
                    if key[0].endswith(("_total", "_count", "_bucket")):
                        assert value >= before.get(key, 0)
                # Of one moment, so it all agrees.
                written = get(now, "batch_records_sum", log="orders")
                assert written == get(now, "appended_records_total", log="orders")
                assert written == get(now, "written_end", log="orders")
                accepted = get(now, "append_seconds_count", log="orders") + get(
                    now, "pending_appends", log="orders"
                )
                assert accepted == get(now, "next_offset", log="orders")
                before = now

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(append)
            async with trio.open_nursery() as looking:
                for _ in range(3):
                    looking.start_soon(look)
            stop.set()


# ---- other things


async def test_followers_and_replicas(
    collector: DanubeCollector, registry: CollectorRegistry, autojump_clock: MockClock
) -> None:
    world = World.new("manifests")
    async with world.open(CONFIG) as wal:
        for _ in range(10):
            await wal.append(bytes(1000), durability="uploaded")
        follower_block = open_follower(CONFIG.dir or "", disk=world.disk.process())
        replica_block = open_replica(
            world.store, topic=CONFIG.topic_name, prefix=CONFIG.cloud.prefix
        )
        async with follower_block as follower, replica_block as replica:
            collector.add_log("follower", follower)
            collector.add_log("replica", replica)
            reader = replica.reader()
            await reader.__anext__()
            samples = scrape(registry)
            for name, log in (("follower", follower), ("replica", replica)):
                statistics = log.statistics()
                group = group_of(statistics)
                wanted = expected(group, {"log": name}, statistics)
                assert wanted.items() <= samples.items()
                assert statistics.durable_end == 10
            await reader.aclose()
    samples = scrape(registry)
    assert get(samples, "follower_durable_end", log="follower") == 10


async def test_a_storage_and_its_topics_up_to_a_limit(
    collector: DanubeCollector, registry: CollectorRegistry, autojump_clock: MockClock
) -> None:
    async with open_storage(StorageConfig(dir="/root"), disk=SimDisk()) as storage:
        collector.add_storage("main", storage, topics=2)
        topics = [f"/default/{name}" for name in ("c", "a", "b")]
        for number, topic in enumerate(topics):
            for _ in range(number + 1):
                await storage.append_message(topic, b"x")
        assert storage.open_topics() == topics
        samples = scrape(registry)
        group = GROUPS["StorageStatistics"]
        wanted = expected(group, {"storage": "main"}, storage.statistics())
        assert wanted.items() <= samples.items()
        assert get(samples, "storage_open_topics", storage="main") == 3
        shown = {dict(key)["log"] for _, key in samples if "log" in dict(key)}
        assert shown == set(topics[:2])  # those that were used first, and they stay
        for topic in topics[:2]:
            labels = {"log": topic, "storage": "main"}
            found = of(samples, GROUPS["WalStatistics"], **labels)
            wanted = expected(GROUPS["WalStatistics"], labels, storage.topic_statistics(topic))
            few = {
                key: value
                for key, value in wanted.items()
                if dict(key[1]).get("le", "+Inf") == "+Inf"
            }
            assert found == few
        with pytest.raises(ValueError, match="topics=-1"):
            collector.add_storage("other", storage, topics=-1)
        collector.add_storage("all", storage, buckets=True)
        samples = scrape(registry)
        labels = {"log": topics[2], "storage": "all"}
        wanted = expected(GROUPS["WalStatistics"], labels, storage.topic_statistics(topics[2]))
        assert wanted.items() <= samples.items()
    assert get(scrape(registry), "storage_open_topics", storage="main") == 0


async def test_a_scrape_opens_no_topic(
    collector: DanubeCollector, registry: CollectorRegistry, autojump_clock: MockClock
) -> None:
    config = StorageConfig(dir="/root", idle_seconds=1.0)
    async with open_storage(config, disk=SimDisk()) as storage:
        collector.add_storage("main", storage)
        await storage.append_message(TOPIC, b"x")
        await trio.sleep(5)
        samples = scrape(registry)
        assert get(samples, "storage_open_topics", storage="main") == 0
        assert get(samples, "storage_closes_total", storage="main") == 1
        assert not [name for name in names(samples) if name == "next_offset"]


async def test_subscriptions_come_and_go(
    collector: DanubeCollector, registry: CollectorRegistry
) -> None:
    async with open_wal(WalConfig()) as wal:
        storage = WalStorage.from_wal(wal)
        dispatch = ReliableDispatch.new_with_persistent(TOPIC, ReliableOptions(), None, storage)
        async with dispatch:
            collector.add_dispatch(dispatch)
            assert names(scrape(registry)) == {"up"}
            billing = await dispatch.add_subscription("billing")
            audit = await dispatch.add_subscription("audit")
            for _ in range(5):
                await dispatch.store_message(b"x")
            async with billing.take():
                pass
            with pytest.raises(KeyError):
                async with audit.take():
                    raise KeyError
            await wait_all_tasks_blocked()
            samples = scrape(registry)
            for name, subscription in (("billing", billing), ("audit", audit)):
                statistics = await subscription.statistics()
                wanted = expected(
                    group_of(statistics), {"topic": TOPIC, "subscription": name}, statistics
                )
                assert wanted.items() <= samples.items()
            labels = {"topic": TOPIC, "subscription": "billing"}
            assert get(samples, "subscription_lag", **labels) == 4
            assert get(samples, "subscription_acked_total", **labels) == 1
            await dispatch.remove_subscription("audit")
            samples = scrape(registry)
            assert {dict(key).get("subscription", "billing") for _, key in samples} == {"billing"}
        assert get(scrape(registry), "subscription_phase", phase="closed", **labels) == 1


# ---- other doors, and servers


def test_a_log_of_threads(
    collector: DanubeCollector, registry: CollectorRegistry, tmp_path: Path
) -> None:
    with danube_trio.blocking.open_wal(WalConfig(dir=str(tmp_path))) as wal:
        collector.add_log("orders", wal)
        wal.append(b"a")
        samples = scrape(registry)
        assert get(samples, "append_seconds_count", log="orders") == 1
        assert get(samples, "phase", log="orders", phase="open") == 1
    assert get(scrape(registry), "phase", log="orders", phase="closed") == 1


def test_a_log_of_asyncio(
    collector: DanubeCollector, registry: CollectorRegistry, tmp_path: Path
) -> None:
    async def main() -> None:
        async with danube_trio.anyio.open_wal(WalConfig(dir=str(tmp_path))) as wal:
            collector.add_log("orders", wal)
            await wal.append(b"a")
            here = scrape(registry)
            there = await anyio.to_thread.run_sync(scrape, registry)
            for samples in (here, there):
                assert get(samples, "append_seconds_count", log="orders") == 1

    anyio.run(main, backend="asyncio")
    assert get(scrape(registry), "phase", log="orders", phase="closed") == 1


def fetch(port: int, accept: str) -> tuple[str, str]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/metrics", headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=60) as response:
        return response.headers["Content-Type"], response.read().decode()


async def test_a_server_for_a_block(
    collector: DanubeCollector, registry: CollectorRegistry
) -> None:
    async with open_wal(WalConfig(dir="/log"), disk=SimDisk()) as wal:
        collector.add_log("orders", wal)
        await wal.append(b"a")
        async with open_metrics_server(0, registry=registry) as port:
            kind, text = await trio.to_thread.run_sync(fetch, port, "text/plain")
            assert kind.startswith("text/plain")
            assert get(samples_of(parse_text(text)), "next_offset", log="orders") == 1
            kind, text = await trio.to_thread.run_sync(
                fetch, port, "application/openmetrics-text; version=1.0.0"
            )
            assert kind.startswith("application/openmetrics-text")
            assert get(samples_of(parse_openmetrics(text)), "next_offset", log="orders") == 1
            with pytest.raises(OSError, match="in use"):
                async with open_metrics_server(port, registry=registry):
                    pass
        with pytest.raises(urllib.error.URLError):
            await trio.to_thread.run_sync(fetch, port, "text/plain")
    gc.collect()  # nothing was left open: it would be a ResourceWarning


async def test_a_cancelled_block_leaves_no_server(registry: CollectorRegistry) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        async with open_metrics_server(0, registry=registry):
            raise AssertionError("it was cancelled before")
    ports: list[int] = []
    with trio.CancelScope() as scope:
        async with open_metrics_server(0, registry=registry) as port:
            ports.append(port)
            scope.cancel()
            await trio.sleep_forever()
    with pytest.raises(urllib.error.URLError):
        await trio.to_thread.run_sync(fetch, ports[0], "text/plain")
    block = open_metrics_server(0, registry=registry)
    async with block:
        pass
    with pytest.raises(RuntimeError, match="once"):
        async with block:
            pass


async def test_an_asgi_server_on_trio_asks_in_the_loop_itself(
    collector: DanubeCollector, registry: CollectorRegistry
) -> None:
    sent: list[Any] = []

    async def receive() -> dict[str, str]:
        await trio.lowlevel.checkpoint()
        return {"type": "http.request"}

    async def send(event: Any) -> None:
        await trio.lowlevel.checkpoint()
        sent.append(event)

    async with open_wal(WalConfig()) as wal:
        collector.add_log("orders", wal)
        app = make_asgi_app(registry, disable_compression=True)
        await app({"type": "http", "headers": []}, receive, send)
    samples = samples_of(parse_text(sent[1]["body"].decode()))
    assert get(samples, "up", kind="log", name="orders") == 1


# ---- the page


def table(group: Group) -> list[str]:
    lines = ["| metric | type | more labels | |", "|---|---|---|---|"]
    for figure in group.figures:
        lines.append(_row(group, figure))
    return lines


def _row(group: Group, figure: Figure) -> str:
    name = f"{group.prefix}{figure.name}" + "_total" * (figure.kind == "counter")
    own = ", ".join(f"`{label}`" for label in figure.labels)
    return f"| `{name}` | {figure.kind} | {own} | {figure.help} |"


@pytest.mark.parametrize("group", [UP, *GROUPS.values()], ids=lambda group: group.prefix)
def test_the_page_has_every_metric(group: Group) -> None:
    page = PAGE.read_text(encoding="utf-8")
    wanted = "\n".join(table(group))
    assert wanted in page, f"docs/metrics.md must have:\n\n{wanted}\n"


def test_the_page_names_no_metric_that_there_is_not() -> None:
    known: set[str] = set()
    for group in (UP, *GROUPS.values()):
        for figure in group.figures:
            name = f"{group.prefix}{figure.name}"
            suffixes = {"counter": ["_total"], "gauge": [""]}
            histogram = ["", "_bucket", "_sum", "_count"]
            known |= {name + suffix for suffix in suffixes.get(figure.kind, histogram)}
    named = set(re.findall(r"\bdanube_trio_[a-z_]+\b", PAGE.read_text(encoding="utf-8")))
    assert named <= known | {group.prefix for group in GROUPS.values()}


async def test_a_connection_that_asks_for_nothing_is_left(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("danube_trio.prometheus._serve.IDLE_SECONDS", 0.05)
    async with open_metrics_server(0, registry=CollectorRegistry()) as port:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        async with stream:
            assert await stream.receive_some() == b""
    assert capfd.readouterr().err == ""


class Crowd:
    """A collector that counts who asks at once, and lets nobody go before the bound is reached."""

    def __init__(self) -> None:
        self.most = 0
        self._inside = 0
        self._lock = threading.Lock()
        self._full = threading.Event()

    def collect(self) -> Iterable[Metric]:
        with self._lock:
            self._inside += 1
            self.most = max(self.most, self._inside)
            if self._inside >= MAX_CONNECTIONS:
                self._full.set()
        self._full.wait()
        with self._lock:
            self._inside -= 1
        return ()


async def test_no_more_connections_than_their_bound_have_a_thread_and_a_descriptor() -> None:
    """The others wait in the system's queue, and are answered when there is a place."""
    crowd, registry = Crowd(), CollectorRegistry(auto_describe=False)
    async with open_metrics_server(0, registry=registry) as port, trio.open_nursery() as nursery:
        registry.register(crowd)
        threads = trio.CapacityLimiter(2 * MAX_CONNECTIONS)
        for _ in range(2 * MAX_CONNECTIONS):
            ask = partial(fetch, port, "text/plain")
            nursery.start_soon(partial(trio.to_thread.run_sync, ask, limiter=threads))
    assert crowd.most == MAX_CONNECTIONS
