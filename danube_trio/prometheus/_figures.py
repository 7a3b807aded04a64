"""Which metric shows which figure: one table for each kind of statistics.

The rule is that a metric is named like its field: ``statistics().cloud.uploads`` of a log is
``danube_trio_cloud_uploads_total``. The prefix says what kind of thing it is about, counters end in
``_total``, and what ends in ``_seconds`` or ``_bytes`` has that unit. What is not one number is at
the end of each table and says how it is read. `NOT_SHOWN` has the rest, and a test sees to it that
there is no other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal

import attrs

from danube_trio._core.life import Phase
from danube_trio._core.route import Tier

Kind = Literal["counter", "gauge", "histogram"]
# Values of the figure's own labels, and the number (or the HistogramView).
Value = tuple[tuple[str, ...], Any]

PHASES = tuple(phase.value for phase in Phase)
SUBSCRIPTION_PHASES = ("open", "failed", "closed")
TIERS = tuple(tier.value for tier in Tier)


@attrs.frozen
class Figure:
    """A metric, and where its value is.

    Attributes:
        kind: of metric.
        name: without prefix and ``_total``.
        help: one line.
        field: of the statistics value; a dot leads into one that may be None.
        labels: of its own, before those of the thing.
        values: makes its values of the field's; by default there is one, the field's.
    """

    kind: Kind
    name: str
    help: str
    field: str
    labels: tuple[str, ...] = ()
    values: Callable[[Any], Iterable[Value]] | None = None

    def read(self, statistics: object) -> Iterable[Value]:
        """All values; none if the thing has no such part."""
        found: Any = statistics
        for part in self.field.split("."):
            if found is None:
                return ()
            found = getattr(found, part)
        return self.values(found) if self.values is not None else (((), found),)


@attrs.frozen
class Group:
    """A kind of thing.

    Attributes:
        prefix: of its metrics.
        labels: that tell one from another; the last may be left out.
        figures: what is shown of it.
    """

    prefix: str
    labels: tuple[str, ...]
    figures: tuple[Figure, ...]


def _plain(kind: Kind, **helps: str) -> tuple[Figure, ...]:
    """Figures that are one field each. Two underscores stand for a dot."""
    return tuple(
        Figure(kind, field.replace("__", "_"), text, field.replace("__", "."))
        for field, text in helps.items()
    )


def _state(name: str, text: str, states: tuple[str, ...]) -> Figure:
    """A figure for a field that is one word of several: 1 for the one that it is."""

    def values(now: str) -> Iterable[Value]:
        return [((state,), int(state == now)) for state in states]

    return Figure("gauge", name, text, name, (name,), values)


def _count(found: Any) -> Iterable[Value]:
    return (((), len(found)),)


def _by_tier(readers: Any) -> Iterable[Value]:
    tiers = [reader.tier for reader in readers]
    return [((tier,), tiers.count(tier)) for tier in TIERS]


def _worst_lag(readers: Any) -> Iterable[Value]:
    return (((), max((reader.lag for reader in readers), default=0)),)


def _by_state(tasks: Any) -> Iterable[Value]:
    return [((task.name, task.state), task.seconds) for task in tasks]


_READERS = (
    Figure("gauge", "readers", "Open readers, by tier.", "readers", ("tier",), _by_tier),
    Figure(
        "gauge",
        "reader_lag_records",
        "Records that the slowest open reader is behind.",
        "readers",
        (),
        _worst_lag,
    ),
)

_LOG = (
    *_plain(
        "gauge",
        start_offset="First offset that still exists.",
        uploaded_end="First offset that is not in the object store.",
        sealed_end="First offset that is not in a sealed segment.",
        durable_end="First offset that is not durable.",
        written_end="First offset that is not written.",
        next_offset="Offset that the next record will get.",
        segments="Segment files, the active one included.",
        size_bytes="Frames in the local files.",
        pending_bytes="Accepted and not yet written.",
        pending_peak_bytes="The most that was ever accepted and not yet written.",
        pending_appends="Appends that are accepted and not yet durable.",
        durable_lag_seconds="Age of the oldest append that is accepted and not yet durable.",
        cached_records="Records in the replay cache.",
        cached_bytes="Bytes in the replay cache.",
        waiting_appends="Appends that wait for room.",
        waiting_peak_appends="The most appends that ever waited for room.",
    ),
    *_plain(
        "counter",
        appended_records="Records written.",
        appended_bytes="Frames written.",
        writes="Writes; each has one or more whole batches.",
        syncs="Hops to the disk that ended in a sync.",
        rolls="Segments sealed.",
        janitor_failures="Rounds of housekeeping that failed and were tried again.",
    ),
    *_plain(
        "histogram",
        append_seconds="From acceptance of an append until it was durable.",
        batch_records="Records written by one write.",
        batch_bytes="Frames written by one write.",
        write_seconds="Hops to the disk that only wrote.",
        sync_seconds="Hops to the disk that ended in a sync, as the event loop sees them.",
        disk_seconds="The same hops, as the thread at the disk sees them.",
    ),
    *_plain(
        "gauge",
        cloud__epoch="Epoch of this writer.",
        cloud__objects="Objects that the catalog names.",
        cloud__object_bytes="Bytes of the objects that the catalog names.",
        cloud__local_start="First offset that is in a local file.",
        cloud__waiting_bytes="In local files and not in the object store yet.",
        cloud__waiting_peak_bytes="The most that was ever not in the object store yet.",
        cloud__waiting_seconds="Age of the oldest records that are not in the object store yet.",
        cloud__appends_held="1 while appends wait because max_local_bytes wait for the store.",
        cloud__cached_bytes="Read from the object store and kept in memory.",
        cloud__pins="Blocks that are being fetched.",
    ),
    *_plain(
        "counter",
        cloud__uploads="Segments uploaded.",
        cloud__uploaded_bytes="Bytes of the segments uploaded.",
        cloud__upload_failures="Tries to upload that failed.",
        cloud__fetches="Reads from the object store.",
        cloud__fetched_bytes="Bytes read from the object store.",
    ),
    *_plain(
        "histogram",
        cloud__upload_seconds="Uploads, from reading the file until the catalog names the object.",
    ),
    _state("phase", "1 for the phase it is in.", PHASES),
    *_READERS,
    Figure(
        "gauge",
        "task_seconds",
        "How long a task has been in the state that it is in.",
        "tasks",
        ("task", "state"),
        _by_state,
    ),
    Figure("gauge", "notes", "What recovery had to cut or step over.", "notes", (), _count),
)

_STORAGE = (
    *_plain(
        "gauge",
        open_topics="Topics that are open.",
        pinned_topics="Open topics that are in use.",
        opening="Topics that are being opened.",
        closing="Topics that are being closed.",
        waiting="Topics that cannot be opened because max_open_topics are in use.",
        not_uploaded="Topics closed before all of theirs was in the object store.",
        given_away="Topics sealed here, or taken over by others.",
    ),
    *_plain(
        "counter",
        opens="Topics opened.",
        closes="Topics closed.",
        evictions="Topics closed to make room for others.",
        failed_opens="Topics that could not be opened.",
    ),
)

_SUBSCRIPTION = (
    *_plain(
        "gauge",
        consumers="Consumers that it has.",
        end="First offset that is not settled.",
        saved_end="First offset that is not saved as settled.",
        lag="Messages that are not settled.",
        in_flight="Messages in consumers' hands.",
        retrying="Messages that wait for redelivery.",
        blocked="Messages that PoisonPolicy.BLOCK holds back.",
        dead_lettering="Messages on their way to the dead letters.",
        unsaved="Settlements and failures that are not saved yet.",
        unsaved_failures="Messages whose failures do not fit into the saved cursor.",
    ),
    *_plain(
        "counter",
        delivered="Deliveries.",
        failed="Deliveries that failed.",
        timed_out="Deliveries that failed by timeout.",
        released="Deliveries that ended without an answer.",
        acked="Messages acknowledged.",
        dropped="Messages dropped by the poison policy.",
        dead_lettered="Messages among the dead letters.",
        lost="Messages that were gone when they should have been delivered.",
        saves="Cursors saved.",
        save_failures="Saves of the cursor that failed.",
        read_failures="Reads of the log that failed and were repeated.",
        dead_letter_failures="Appends of dead letters that failed.",
    ),
    _state("phase", "1 for the phase it is in.", SUBSCRIPTION_PHASES),
)

_FOLLOWER = (
    *_plain(
        "gauge",
        start_offset="First offset that still exists, as of the last look.",
        durable_end="First offset that is not durable, as of the last look.",
        segments="Segment files, the active one included.",
        size_bytes="Frames in the files, below the durability mark.",
    ),
    *_plain(
        "counter",
        looks="Looks at the directory.",
        notifications="Looks because the system told of a change.",
    ),
    _state("by", "1 for what those who wait for news rely on.", ("notification", "polling")),
    *_READERS,
)

_REPLICA = (
    *_plain(
        "gauge",
        start_offset="First offset that still exists, as of the last look.",
        durable_end="First offset that is not in the object store, as of the last look.",
        epoch="Epoch of the log's writer, as of the last look.",
        objects="Objects that the catalog names.",
        object_bytes="Bytes of the objects that the catalog names.",
        cached_bytes="Read from the object store and kept in memory.",
    ),
    *_plain(
        "counter",
        looks="Looks at the catalog.",
        fetches="Reads from the object store.",
        fetched_bytes="Bytes read from the object store.",
    ),
    *_READERS,
)

# By the name of the statistics class.
GROUPS = {
    "WalStatistics": Group("danube_trio_", ("log", "storage"), _LOG),
    "StorageStatistics": Group("danube_trio_storage_", ("storage",), _STORAGE),
    "SubscriptionStatistics": Group(
        "danube_trio_subscription_", ("topic", "subscription"), _SUBSCRIPTION
    ),
    "FollowerStatistics": Group("danube_trio_follower_", ("log",), _FOLLOWER),
    "ReplicaStatistics": Group("danube_trio_replica_", ("log",), _REPLICA),
}

# Words, which logging has; the cursors of readers, which have no names.
NOT_SHOWN = {
    "WalStatistics": {"cloud.upload_error"},
    "SubscriptionStatistics": {"last_error"},
    "ReaderStatistics": {"cursor"},
}

UP = Group(
    "danube_trio_",
    ("kind", "name"),
    _plain("gauge", up="1 if it could be asked now. If 0, its other metrics are left out."),
)
