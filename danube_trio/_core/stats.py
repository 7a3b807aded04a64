"""What `wal.statistics()` shows: frozen values. `meters` counts them."""

from __future__ import annotations

import attrs

__all__ = [  # what the reference shows
    "CloudStatistics",
    "HistogramView",
    "ReaderStatistics",
    "TaskStatistics",
    "WalStatistics",
]

# Upper bounds of buckets, each twice the one before; above the last there is one bucket for all.
# From 16 us, below which nothing can have been synced, to 8 s.
SECONDS = tuple(16e-6 * 2**i for i in range(20))
RECORDS = tuple(2**i for i in range(17))  # 1 to 65,536
BYTES = tuple(2**i for i in range(8, 27))  # 256 B, about the smallest frame, to 64 MiB


@attrs.frozen
class HistogramView:
    """A frozen histogram.

    Attributes:
        bounds: upper bounds of the buckets, inclusive; the last bucket has none.
        counts: events in each bucket, one more than there are bounds.
        total: number of events.
        sum: sum of all events: seconds, records or bytes.
    """

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: int
    sum: float

    def quantile(self, q: float) -> float:
        """The upper bound of the bucket that holds this quantile; 0.0 if empty."""
        rank, seen = q * self.total, 0
        for i, count in enumerate(self.counts):
            seen += count
            if count and seen >= rank:
                return self.bounds[i] if i < len(self.bounds) else float("inf")
        return 0.0


@attrs.frozen
class TaskStatistics:
    """What one task of a log is doing: what it waits for, and since how many seconds.

    ===========  ======================================================================
    task         states
    ===========  ======================================================================
    writer       idle; handing over (the flusher has not taken the last block yet)
    flusher      idle; unsynced (idle until the interval is over); writing; syncing
                 (with or without a write before); rolling; closing
    janitor      idle; marking; tidying; freeing
    uploader     idle; reading; uploading; verifying; cataloguing; sweeping (what failed
                 is removed); pausing (the last try failed)
    sweeper      idle; sweeping (objects that nothing needs)
    each         ended
    ===========  ======================================================================
    """

    name: str
    state: str
    seconds: float


@attrs.frozen
class ReaderStatistics:
    """One reader: where it is, where it last read from, and how many records it is behind."""

    cursor: int
    tier: str
    lag: int


@attrs.frozen
class CloudStatistics:
    """The object store's part of a log at one moment. Sizes in bytes.

    Attributes:
        epoch: of this writer.
        objects, object_bytes: that the catalog names.
        local_start: the first offset that is in a local file.
        waiting_bytes, waiting_peak_bytes: in local files and not in the store yet; the most there
            ever was.
        waiting_seconds: the age of the oldest of these records, by segment and since open.
        appends_held: that is as much as ``max_local_bytes`` allows: appends wait.
        uploads, uploaded_bytes, upload_failures: since open.
        upload_error: why the last try failed, or that the store does not answer the one that is
            under way; "" if all is well.
        upload_seconds: how long uploads took that succeeded, from reading the file to the
            catalog.
        fetches, fetched_bytes, cached_bytes: reading from the store.
        pins: blocks that are being fetched, from files or the store.
    """

    epoch: int
    objects: int
    object_bytes: int
    local_start: int
    waiting_bytes: int
    waiting_peak_bytes: int
    waiting_seconds: float
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
        pending_appends: accepted and not yet durable; an atomic batch is one.
        durable_lag_seconds: the age of the oldest of them.
        cached_records, cached_bytes: in the replay cache.
        appended_records, appended_bytes, writes, syncs, rolls: since open; bytes are frames.
        append_seconds: how long appends took from acceptance until they were durable, whatever
            they waited for. An atomic batch is one event. Waiting for room is not in it.
        batch_records, batch_bytes: written by one call.
        write_seconds: how long the hops took that only wrote.
        sync_seconds: how long the hops took that ended in a sync (write included), as the loop
            sees it; disk_seconds: how much of that was spent in the I/O lane's thread. The rest are
            the hand-over between threads, and a loop that was busy.
        readers: the open readers.
        waiting_appends, waiting_peak_appends: that wait for room; the most there ever were.
        janitor_failures: index and checkpoint files that could not be written (they are hints).
        tasks: what each is doing.
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
    pending_appends: int
    durable_lag_seconds: float
    cached_records: int
    cached_bytes: int
    appended_records: int
    appended_bytes: int
    writes: int
    syncs: int
    rolls: int
    append_seconds: HistogramView
    batch_records: HistogramView
    batch_bytes: HistogramView
    write_seconds: HistogramView
    sync_seconds: HistogramView
    disk_seconds: HistogramView
    readers: tuple[ReaderStatistics, ...]
    waiting_appends: int
    waiting_peak_appends: int
    janitor_failures: int
    tasks: tuple[TaskStatistics, ...]
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
