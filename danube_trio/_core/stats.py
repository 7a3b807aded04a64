"""What `wal.statistics()` shows: frozen values, and the histogram they are taken from."""

from __future__ import annotations

import attrs

__all__ = [
    "CloudStatistics",
    "Histogram",
    "HistogramView",
    "ReaderStatistics",
    "StorageStatistics",
    "UploadCounts",
    "WalStatistics",
]

_FIRST_BOUND = 16e-6  # a sync below it would mean that nothing was synced
_BUCKETS = 20  # doubling from there: 8 seconds, then one bucket for all above


@attrs.frozen
class HistogramView:
    """A frozen histogram.

    Attributes:
        bounds: upper bounds of the buckets in seconds; the last bucket has none.
        counts: events in each bucket, one more than there are bounds.
        total: number of events.
        sum: sum of all durations in seconds.
    """

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: int
    sum: float

    def quantile(self, q: float) -> float:
        """The upper bound (seconds) of the bucket that holds this quantile; 0.0 if empty."""
        rank, seen = q * self.total, 0
        for i, count in enumerate(self.counts):
            seen += count
            if count and seen >= rank:
                return self.bounds[i] if i < len(self.bounds) else float("inf")
        return 0.0


class Histogram:
    """Durations in buckets that double."""

    __slots__ = ("_counts", "_sum")

    def __init__(self) -> None:
        self._counts = [0] * (_BUCKETS + 1)
        self._sum = 0.0

    def add(self, seconds: float) -> None:
        """Count one event."""
        bucket = int(seconds / _FIRST_BOUND).bit_length()
        self._counts[bucket if bucket < _BUCKETS else _BUCKETS] += 1
        self._sum += seconds

    def view(self) -> HistogramView:
        """The state now."""
        bounds = tuple(_FIRST_BOUND * 2**i for i in range(_BUCKETS))
        return HistogramView(bounds, tuple(self._counts), sum(self._counts), self._sum)


@attrs.frozen
class ReaderStatistics:
    """One reader: where it is, where it last read from, and how many records it is behind."""

    cursor: int
    tier: str
    lag: int


@attrs.define(eq=False)
class UploadCounts:
    """What the uploader counts; `error` is why its last try failed, "" after one that did not."""

    done: int = 0
    bytes: int = 0
    failures: int = 0
    error: str = ""
    seconds: Histogram = attrs.Factory(Histogram)


@attrs.frozen
class CloudStatistics:
    """The object store's part of a log at one moment. Sizes in bytes.

    Attributes:
        epoch: of this writer.
        objects, object_bytes: that the catalog names.
        local_start: the first offset that is in a local file.
        waiting_bytes: in local files and not in the store yet.
        appends_held: that is as much as ``max_local_bytes`` allows: appends wait.
        uploads, uploaded_bytes, upload_failures: since open.
        upload_error: why the last try failed; "" if it did not.
        upload_seconds: how long uploads took, from reading the file to the catalog.
        fetches, fetched_bytes, cached_bytes: reading from the store.
        pins: blocks that are being fetched, from files or the store.
    """

    epoch: int
    objects: int
    object_bytes: int
    local_start: int
    waiting_bytes: int
    appends_held: bool
    uploads: int
    uploaded_bytes: int
    upload_failures: int
    upload_error: str
    upload_seconds: HistogramView
    fetches: int
    fetched_bytes: int
    cached_bytes: int
    pins: int


@attrs.frozen
class WalStatistics:
    """A log at one moment. Offsets are exclusive ends; sizes in bytes; times in seconds.

    Attributes:
        phase: ``open``, ``sealed``, ``fenced``, ``closing``, ``closed`` or ``broken``.
        start_offset, uploaded_end, sealed_end, durable_end, written_end, next_offset: the marks.
        segments: files, the active one included.
        size_bytes: frames in them.
        pending_bytes, pending_peak_bytes: accepted and not yet written; the most there ever was.
        cached_records, cached_bytes: in the replay cache.
        appended_records, appended_bytes, writes, syncs, rolls: since open; bytes are frames.
        sync_seconds: how long the hops took that ended in a sync (write included).
        readers: the open readers.
        waiting_appends: appends that wait for room.
        janitor_failures: index and checkpoint files that could not be written (they are hints).
        notes: what recovery had to cut or step over at open.
        cloud: the object store's part, or None.
    """

    phase: str
    start_offset: int
    uploaded_end: int
    sealed_end: int
    durable_end: int
    written_end: int
    next_offset: int
    segments: int
    size_bytes: int
    pending_bytes: int
    pending_peak_bytes: int
    cached_records: int
    cached_bytes: int
    appended_records: int
    appended_bytes: int
    writes: int
    syncs: int
    rolls: int
    sync_seconds: HistogramView
    readers: tuple[ReaderStatistics, ...]
    waiting_appends: int
    janitor_failures: int
    notes: tuple[str, ...]
    cloud: CloudStatistics | None = None


@attrs.frozen
class StorageStatistics:
    """Many topics at one moment.

    Attributes:
        open_topics: that are open now; `pinned_topics`: of these, those in use, which stay open.
        opening, closing: that are on their way.
        waiting: that cannot be opened, because as many are in use as ``max_open_topics`` allows.
        opens, closes, evictions: so far; an eviction closed one to make room for another.
        failed_opens: so far.
        not_uploaded: topics that were closed to make room before all of theirs was in the object
            store; they are opened again when there is room.
        given_away: topics that were sealed here, or taken over by others.
    """

    open_topics: int
    pinned_topics: int
    opening: int
    closing: int
    waiting: int
    opens: int
    closes: int
    evictions: int
    failed_opens: int
    not_uploaded: int
    given_away: int
