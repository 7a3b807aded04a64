"""The topics of a storage and their figures, looked at once for all who look.

A *look* asks every open topic, a few between two checkpoints, and keeps what it says. From two
looks come rates. Which topics there are beside the open ones says the storage's own list, which
costs disk or store: it is asked for again after a rest of many times what it took.

A topic that is not open has the figures of the last look at which it was.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import attrs
import trio

from danube_trio._core.stats import WalStatistics
from danube_trio.errors import DanubeError, text_of
from danube_trio.http._page.shown import ShownStream, StreamList, topic_path
from danube_trio.http._request import Refusal, Rights
from danube_trio.storage import Storage

# Topics that are looked at between two checkpoints; rest after a look, so many times what it took,
# but a view should still move.
STEP = 16
REST = 20
MAX_REST_SECONDS = 2.0
# Counters that were seen longer ago give no rate: it would be one of a time that nobody asks for.
STALE_SECONDS = 30.0
# The order by rate follows rates of about so many seconds, so that rows do not jump. A guess.
CALM_SECONDS = 10.0
# The list of topics is that old at least, and at most, before it is asked for again. Guesses.
LIST_SECONDS = 2.0
MAX_LIST_SECONDS = 300.0
# Where a topic begins and ends is known for so long after it was closed; then it is opened to see.
# Longer than the time that an idle topic stays open, so that looking does not keep it so.
ENDS_SECONDS = 300.0

MARKS = ("start_offset", "uploaded_end", "sealed_end", "durable_end", "written_end", "next_offset")
FIGURES = ("phase", *MARKS, "size_bytes", "pending_bytes", "durable_lag_seconds")
COUNTERS = ("appended_records", "appended_bytes", "syncs")
RATES = ("records", "bytes", "syncs")


@attrs.define(eq=False)
class Row:
    """One topic.

    Attributes:
        topic: its name.
        stream: whose data it has, or None.
        is_open: now.
        figures: what the last look found, by the names of `WalStatistics`; empty before that.
        rates: growth of the counters per second, where it is known.
        calm: the rate of records that the order follows.
        counters: at the last look, and its time.
    """

    topic: str
    stream: ShownStream | None = None
    is_open: bool = False
    figures: dict[str, Any] = attrs.Factory(dict[str, Any])
    rates: dict[str, float] = attrs.Factory(dict[str, float])
    calm: float = 0.0
    counters: tuple[float, tuple[int, ...]] | None = None

    @property
    def name(self) -> str:
        """What people call it: the path of the stream, or the topic."""
        return self.stream.name if self.stream is not None else self.topic

    @property
    def right(self) -> str:
        """The path by which rights to it are asked for."""
        return self.stream.path if self.stream is not None else topic_path(self.topic)

    def saw(self, found: WalStatistics, now: float) -> None:
        """It is open, and this is what it says."""
        counters = tuple(getattr(found, name) for name in COUNTERS)
        before, self.counters = self.counters, (now, counters)
        self.is_open, self.rates = True, {}
        self.figures = {name: getattr(found, name) for name in FIGURES}
        self.figures["readers"] = len(found.readers)
        self.figures["waiting_bytes"] = found.cloud.waiting_bytes if found.cloud is not None else 0
        self.figures["has_store"] = found.cloud is not None
        if before is None or not 0 < now - before[0] <= STALE_SECONDS:
            return
        seconds = now - before[0]
        # What shrank was begun anew: its rate is not known.
        if all(is_now >= was for is_now, was in zip(counters, before[1], strict=True)):
            grown = zip(RATES, counters, before[1], strict=True)
            self.rates = {name: (is_now - was) / seconds for name, is_now, was in grown}
            part = 1 - math.exp(-seconds / CALM_SECONDS)
            self.calm += part * (self.rates["records"] - self.calm)

    def closed(self) -> None:
        """It is not open: nothing grows."""
        self.is_open, self.rates, self.calm, self.counters = False, {}, 0.0, None

    def shown(self) -> dict[str, Any]:
        """As plain data."""
        stream = self.stream.data() if self.stream is not None else None
        about = {"topic": self.topic, "stream": stream, "open": self.is_open}
        return {**about, **self.figures, "rates": self.rates}


def _figure(name: str, *, of_closed: bool = True) -> Callable[[Row], float]:
    """By a figure; what is not known comes below 0."""

    def key(row: Row) -> float:
        found: float = row.figures.get(name, -1) if row.is_open or of_closed else -1
        return found

    return key


def _phase(row: Row) -> str:
    return str(row.figures.get("phase", "")) if row.is_open else ""


def _rate(name: str) -> Callable[[Row], float]:
    return lambda row: row.rates.get(name, 0.0)


# By what rows are put in order.
SORTS: dict[str, Callable[[Row], str | float]] = {
    "name": lambda row: row.name,
    "phase": _phase,
    "records": lambda row: row.calm,
    "bytes": _rate("bytes"),
    "syncs": _rate("syncs"),
    "start": _figure("start_offset"),
    "uploaded": _figure("uploaded_end"),
    "durable": _figure("durable_end"),
    "next": _figure("next_offset"),
    "size": _figure("size_bytes"),
    "readers": _figure("readers", of_closed=False),
    "waiting": _figure("waiting_bytes"),
}
KINDS = ("all", "topics", "streams", "open")


@attrs.frozen(kw_only=True)
class Wanted:
    """Which rows somebody wants to see.

    Attributes:
        sort, descending: the order; rows that are equal in it are in that of their names.
        text: that is in the name, in any case.
        kind: one of `KINDS`.
        first, count: which of them.
    """

    sort: str = "records"
    descending: bool = True
    text: str = ""
    kind: str = "all"
    first: int = 0
    count: int = 50

    def has(self, row: Row) -> bool:
        """Whether the row is among them."""
        if self.kind == "open" and not row.is_open:
            return False
        if self.kind in ("topics", "streams") and (row.stream is None) == (self.kind == "streams"):
            return False
        return self.text in row.name.lower()


class Topics:
    """What there is to see of a storage.

    Args:
        streams: the streams that some of its topics are, or None.
        interval: seconds between two looks, at least.
    """

    def __init__(self, storage: Storage, streams: StreamList | None, interval: float) -> None:
        self._storage = storage
        self._streams = streams
        self._interval = interval
        self._rows: dict[str, Row] = {}
        self._listed: frozenset[str] = frozenset()
        self._ends: dict[str, tuple[float, int, int]] = {}  # when it was seen, and what
        self._turn, self._list_turn = trio.Lock(), trio.Lock()
        self._next_look = self._next_list = -math.inf
        self._is_listed = False
        self._listing_error = ""
        self.time = 0.0

    # ---- looking

    async def look(self) -> None:
        """Look at all open topics, if the last look is not of just now.

        Whoever comes while somebody looks waits for that one.
        """
        async with self._turn:
            if trio.current_time() < self._next_look:
                return
            began = step_began = trio.current_time()
            spent = 0.0  # by looking, and not by others meanwhile
            names = self._storage.open_topics()
            for i, name in enumerate(names):
                if i % STEP == STEP - 1:
                    spent += trio.current_time() - step_began
                    await trio.lowlevel.checkpoint()
                    step_began = trio.current_time()
                found = self._storage.topic_statistics(name)
                if found is not None:
                    self._row(name).saw(found, trio.current_time())
            self._forget(names)
            self._find_streams()
            self.time = now = trio.current_time()
            rest = min(REST * (spent + now - step_began), MAX_REST_SECONDS)
            # A little less than the interval: feeds come at that pace, and none shall find it old.
            self._next_look = max(began + 0.9 * self._interval, now + rest)

    def _row(self, name: str) -> Row:
        row = self._rows.get(name)
        if row is None:
            row = self._rows[name] = Row(name)
        return row

    def _forget(self, names: list[str]) -> None:
        """Close what is not open, and drop what is not there."""
        now_open = frozenset(names)
        for name in self._listed:
            self._row(name)
        for name in [name for name in self._rows if name not in now_open]:
            if name in self._listed:
                self._rows[name].closed()
            else:
                del self._rows[name]

    def _find_streams(self) -> None:
        if self._streams is None:
            return
        for row in self._rows.values():
            row.stream = None
        for stream in self._streams.shown():
            self._row(stream.topic).stream = stream

    async def keep_list(self) -> None:
        """Ask the storage which topics there are, again and again, until cancelled."""
        while True:
            await self._list()
            await trio.sleep_until(self._next_list)

    async def _list(self) -> None:
        """Ask it, if that was not just now. Whoever comes meanwhile waits for that answer."""
        async with self._list_turn:
            began = trio.current_time()
            if began < self._next_list:
                return
            try:
                self._listed = frozenset(await self._storage.list_topics())
                self._is_listed, self._listing_error = True, ""
            except DanubeError as error:
                self._listing_error = text_of(error)
            took = trio.current_time() - began
            rest = min(max(LIST_SECONDS, REST * took), MAX_LIST_SECONDS)
            self._next_list = trio.current_time() + rest

    # ---- one topic

    def stream_of(self, topic: str) -> ShownStream | None:
        """The stream whose data a topic has, now."""
        return self._streams.of_topic(topic) if self._streams is not None else None

    def right_of(self, topic: str) -> str:
        """The path by which rights to a topic are asked for, whether it is there or not."""
        stream = self.stream_of(topic)
        return stream.path if stream is not None else topic_path(topic)

    async def has(self, topic: str) -> bool:
        """Whether there is such a topic. Of others than streams as of the last list.

        Nobody may open one that is not there: that would make it. Raises Refusal if it cannot
        be told now.
        """
        await trio.lowlevel.checkpoint()
        if self._is_of_streams(topic):
            return self.stream_of(topic) is not None
        if self._storage.topic_statistics(topic) is not None:
            return True
        await self._list()
        if self._listing_error and topic not in self._listed:
            text = f"which topics there are cannot be asked now: {self._listing_error}"
            raise Refusal(503, text, {"retry-after": "5"})
        return topic in self._listed

    async def ends(self, topic: str) -> tuple[int, int]:
        """Where a topic that is there begins and ends. What it was a while ago, if it is not open.

        Raises what opening it raises.
        """
        now = trio.current_time()
        found = self._storage.topic_statistics(topic)
        if found is None:
            known = self._ends.get(topic)
            if known is not None and now - known[0] < ENDS_SECONDS:
                await trio.lowlevel.checkpoint()
                return known[1:]
            async with self._storage.topic(topic) as wal:
                found = wal.statistics()
        else:
            await trio.lowlevel.checkpoint()
        recent = {name: seen for name, seen in self._ends.items() if now - seen[0] < ENDS_SECONDS}
        self._ends = {**recent, topic: (now, found.start_offset, found.next_offset)}
        return found.start_offset, found.next_offset

    def row(self, topic: str) -> Row | None:
        """What the last look found of a topic."""
        return self._rows.get(topic)

    # ---- all topics

    def seen_by(self, rights: Rights) -> list[Row]:
        """All topics that somebody may read."""
        return [
            row
            for row in self._rows.values()
            if not self._is_leftover(row) and rights.may("read", row.right)
        ]

    def _is_leftover(self, row: Row) -> bool:
        """Whether it is the data of no stream: one that is being made, or deleted."""
        return row.stream is None and self._is_of_streams(row.topic)

    def _is_of_streams(self, topic: str) -> bool:
        return self._streams is not None and topic.startswith(f"/{self._streams.namespace}/")

    def shown(self, rights: Rights, wanted: Wanted) -> dict[str, Any]:
        """The rows that somebody wants to see, and sums over all that he may."""
        seen = self.seen_by(rights)
        found = [row for row in seen if wanted.has(row)]
        found.sort(key=lambda row: row.name)
        found.sort(
            key=cast("Callable[[Row], float]", SORTS[wanted.sort]), reverse=wanted.descending
        )
        first = max(0, min(wanted.first, (len(found) - 1) // wanted.count * wanted.count))
        rates = {name: sum(row.rates.get(name, 0.0) for row in seen) for name in RATES}
        return {
            "total": len(seen),
            "open": sum(row.is_open for row in seen),
            "size_bytes": sum(row.figures.get("size_bytes", 0) for row in seen),
            "rates": rates,
            "matching": len(found),
            "first": first,
            "has_store": any(row.figures.get("has_store") for row in seen),
            "rows": [row.shown() for row in found[first : first + wanted.count]],
            "listed": self._is_listed,
            "listing_error": self._listing_error,
        }
