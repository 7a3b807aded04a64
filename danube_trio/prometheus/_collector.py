"""`DanubeCollector`: what Prometheus asks. Each scrape reads `statistics()` and counts nothing.

One collector shows any number of things, since a registry takes each metric from one collector
only. Everything that belongs to one trio run is looked at in one step of that run, so what is said
of two of its logs is of the same moment. The logs of `danube_trio.blocking`, and those of
`danube_trio.anyio` on asyncio, may be asked by any thread themselves.

What belongs to a trio run may be looked at in its thread only, between two steps of its tasks. A
scrape comes in another thread, so it *hops*: the question is put into the run's queue, and the
thread waits for the answer, but not for ever, because a program that keeps its loop busy must not
pile up threads that wait. In the run's own thread (an ASGI server on trio) it is asked at once. A
run that has ended changes nothing any more, so its things can be asked anywhere.

What cannot be asked (its loop is busy for longer than `timeout`) is left out, and
``danube_trio_up`` of it is 0; a scrape never fails for it. What was closed says so in its phase,
and shows its last figures until it is removed.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from functools import partial
from typing import Any, Protocol, TypeVar, cast

import attrs
import trio
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString  # pyright: ignore[reportUnknownVariableType]  # it has no types

from danube_trio import Follower, Replica, Storage, Wal
from danube_trio._core.stats import HistogramView, WalStatistics
from danube_trio._engine.read.follow import FollowerStatistics
from danube_trio._engine.read.replica import ReplicaStatistics
from danube_trio.dispatch import ReliableDispatch
from danube_trio.prometheus._figures import GROUPS, UP, Figure, Group

log = logging.getLogger("danube_trio.prometheus")

T = TypeVar("T")

Family = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily
_FAMILIES: dict[str, Callable[..., Family]] = {
    "counter": CounterMetricFamily,
    "gauge": GaugeMetricFamily,
    "histogram": HistogramMetricFamily,
}
_le = cast("Callable[[float], str]", floatToGoString)  # numbers as OpenMetrics wants them


class Log(Protocol):
    """A log, through whatever door."""

    def statistics(self) -> WalStatistics | FollowerStatistics | ReplicaStatistics:
        """Everything that can be counted."""
        ...


@attrs.frozen
class _Seen:
    """Statistics, the labels of what they are about, and whether histograms have all buckets."""

    labels: tuple[str, ...]
    statistics: Any
    buckets: bool = True


@attrs.frozen
class _Up:
    up: int


class Shown:
    """A thing that a collector shows; as a block, for as long as the block is open."""

    def __init__(
        self,
        kind: str,
        name: str,
        run: trio.lowlevel.TrioToken | None,
        look: Callable[[], list[_Seen]],
        remove: Callable[[Shown], None],
    ) -> None:
        self.kind = kind
        self.name = name
        self.run = run  # in which it may be looked at; None: anywhere
        self.look = look
        self._remove = remove

    def __repr__(self) -> str:
        return f"<Shown {self.kind} {self.name!r}>"

    def remove(self) -> None:
        """Show it no more. Idempotent; any thread."""
        self._remove(self)

    def __enter__(self) -> Shown:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


class DanubeCollector(Collector):
    """Shows logs, storages and subscriptions to Prometheus.

    ::

        collector = DanubeCollector()
        REGISTRY.register(collector)
        async with open_wal(WalConfig(dir="events")) as wal:
            with collector.add_log("events", wal):
                ...

    Args:
        timeout: how many seconds a scrape waits for a trio run to answer.
    """

    def __init__(self, *, timeout: float = 2.0) -> None:
        if isinstance(timeout, bool) or not 0 < timeout <= 3600:
            raise ValueError(f"timeout={timeout!r} must be above 0 and at most 3600")
        self._timeout = timeout
        self._lock = threading.Lock()
        self._shown: dict[tuple[str, str], Shown] = {}

    def __repr__(self) -> str:
        return f"<DanubeCollector of {len(self._shown)} things>"

    # ---- what is shown

    def add_log(self, name: str, log: Log) -> Shown:
        """Show a log: a `Wal`, a `Follower` or a `Replica`, of any door.

        Args:
            name: the value of the label ``log``.
            log: one of `danube_trio` must be added in the trio run that it belongs to.

        Raises ValueError if there is a log of that name, RuntimeError outside of its trio run.
        """
        if not callable(getattr(log, "statistics", None)):
            raise TypeError(f"log={log!r} must be an open log")
        # Views of other doors are classes of their own, and cross to the engine's thread.
        bound = type(log) in (Wal, Follower, Replica)
        return self._add("log", name, bound, lambda: [_Seen((name,), log.statistics())])

    def add_storage(
        self, name: str, storage: Storage, *, topics: int = 100, buckets: bool = False
    ) -> Shown:
        """Show a storage, and as logs the topics that are open in it.

        A topic has about 60 series, and a look at it takes about 50 us of the loop's time, so there
        is a limit. Which topics are shown does not change as long as they stay open.

        Args:
            name: the value of the label ``storage``; topics have it too, beside ``log``.
            storage: to be added in the trio run that it belongs to.
            topics: show at most so many of them, those that were used first; 0: none.
            buckets: whether their histograms have all buckets (three times as many series) or only
                count and sum, which give the mean.

        Raises like `add_log`.
        """
        if not isinstance(storage, Storage):
            raise TypeError(f"storage={storage!r} must be what open_storage() gives")
        if isinstance(topics, bool) or not isinstance(topics, int) or topics < 0:
            raise ValueError(f"topics={topics!r} must be a whole number, 0 or more")

        def look() -> list[_Seen]:
            seen = [_Seen((name,), storage.statistics())]
            for topic in storage.open_topics()[:topics]:
                found = storage.topic_statistics(topic)
                if found is not None:
                    seen.append(_Seen((topic, name), found, buckets))
            return seen

        return self._add("storage", name, True, look)

    def add_dispatch(self, dispatch: ReliableDispatch) -> Shown:
        """Show the subscriptions of a topic that are open, now and later.

        Raises ValueError if the topic has a dispatch already, RuntimeError outside of its trio run.
        """
        if not isinstance(dispatch, ReliableDispatch):
            raise TypeError(f"dispatch={dispatch!r} must be a ReliableDispatch")

        def look() -> list[_Seen]:
            return [
                _Seen((dispatch.topic, name), subscription.statistics_nowait())
                for name, subscription in dispatch.subscriptions().items()
                if subscription is not None
            ]

        return self._add("dispatch", dispatch.topic, True, look)

    def _add(self, kind: str, name: str, bound: bool, look: Callable[[], list[_Seen]]) -> Shown:
        if not isinstance(name, str) or not name:
            raise ValueError(f"name={name!r} must be a text that is not empty")
        run = _current_run() if bound else None
        if bound and run is None:
            raise RuntimeError(f"{kind} {name!r} must be added in the trio run that it belongs to")
        shown = Shown(kind, name, run, look, self._remove)
        with self._lock:
            if (kind, name) in self._shown:
                raise ValueError(f"there is a {kind} {name!r} already: give it another name")
            self._shown[kind, name] = shown
        return shown

    def _remove(self, shown: Shown) -> None:
        with self._lock:
            if self._shown.get((shown.kind, shown.name)) is shown:
                del self._shown[shown.kind, shown.name]

    # ---- what Prometheus asks

    def describe(self) -> Iterator[Family]:
        """Every metric that there may be, without values: the registry wants to know the names."""
        for group in (UP, *GROUPS.values()):
            for figure in group.figures:
                yield _family(group, figure)

    def collect(self) -> Iterator[Family]:
        """Every metric that there is, with its values now. Any thread, several at a time."""
        with self._lock:
            shown = list(self._shown.values())
        ups: list[_Seen] = []
        found: dict[str, list[_Seen]] = {}
        for thing, seen in self._look(shown):
            ups.append(_Seen((thing.kind, thing.name), _Up(int(seen is not None))))
            for each in seen or ():
                found.setdefault(type(each.statistics).__name__, []).append(each)
        yield from _families(UP, ups)
        for name, group in GROUPS.items():
            yield from _families(group, found.get(name, []))

    def _look(self, shown: Iterable[Shown]) -> list[tuple[Shown, list[_Seen] | None]]:
        """Everything that can be seen now; all of one run in one step. None: it cannot."""
        by_run: dict[trio.lowlevel.TrioToken | None, list[Shown]] = {}
        for thing in shown:
            by_run.setdefault(thing.run, []).append(thing)
        looks: list[tuple[Shown, list[_Seen] | None]] = []
        for run, things in by_run.items():
            if run is None:
                looks += _look_at(things)
                continue
            try:
                looks += _ask(run, partial(_look_at, things), self._timeout)
            except TimeoutError:
                log.warning("a trio run did not answer within %s seconds", self._timeout)
                looks += [(thing, None) for thing in things]
        return looks


def _look_at(things: Iterable[Shown]) -> list[tuple[Shown, list[_Seen] | None]]:
    looks: list[tuple[Shown, list[_Seen] | None]] = []
    for thing in things:
        try:
            looks.append((thing, thing.look()))
        except Exception:  # whatever it is, the others are shown
            log.exception("%r could not be asked", thing)
            looks.append((thing, None))
    return looks


def _family(group: Group, figure: Figure) -> Family:
    name = f"{group.prefix}{figure.name}"
    unit = next((unit for unit in ("seconds", "bytes") if name.endswith(f"_{unit}")), "")
    labels = (*figure.labels, *group.labels)
    return _FAMILIES[figure.kind](name, figure.help, labels=labels, unit=unit)


def _families(group: Group, things: list[_Seen]) -> Iterator[Family]:
    """The metrics of this group that have values."""
    for figure in group.figures:
        family = _family(group, figure)
        for seen in things:
            for own, value in figure.read(seen.statistics):
                labels = (*own, *seen.labels)  # a last one that is missing is left out
                if isinstance(family, HistogramMetricFamily):
                    family.add_metric(labels, _buckets(value, seen.buckets), value.sum)
                else:
                    family.add_metric(labels, value)
        if family.samples:
            yield family


def _buckets(view: HistogramView, every: bool) -> list[tuple[str, float]]:
    """Cumulative, the last one without a bound."""
    buckets: list[tuple[str, float]] = []
    seen = 0
    if every:
        for bound, count in zip(view.bounds, view.counts, strict=False):
            seen += count
            buckets.append((_le(bound), seen))
    return [*buckets, ("+Inf", view.total)]


# ---- asking in a trio run


def _current_run() -> trio.lowlevel.TrioToken | None:
    """The trio run of this thread; None if there is none."""
    try:
        return trio.lowlevel.current_trio_token()
    except RuntimeError:
        return None


def _ask(run: trio.lowlevel.TrioToken, question: Callable[[], T], timeout: float) -> T:
    """The answer of a function that never waits, called in the run's thread.

    Raises what it raises, and TimeoutError if the run did not get to it in so many seconds.
    """
    if _current_run() is run:
        return question()
    answer: Future[T] = Future()

    def put() -> None:
        if not answer.set_running_or_notify_cancel():
            return  # nobody waits any more
        try:
            answer.set_result(question())
        except BaseException as error:
            answer.set_exception(error)  # all of them: here they would end the run

    try:
        run.run_sync_soon(put)
    except trio.RunFinishedError:
        return question()
    try:
        return answer.result(timeout)
    finally:
        answer.cancel()  # does nothing once it is answered
