"""What an open log has besides, when it has an object store.

Where objects end and begin is known in one place, `StoredObjects`. The session of the catalog tells
it in the step in which it learns of a change, whoever's call that was, and `uploaded_end`, who
waits for it, and the room for appends follow in the same step (`published`). Nobody keeps a copy.

**Who moves what, in which order.** An upload: the object, then the catalog (durable), then
`published`. A trim: the catalog, so it is durable there; then ``wal.trim``; then, in one step, the
start that readers see (`Engine.trimmed`); then who still fetches below is waited for; then files
are unlinked, and objects deleted.

========================  =====================================================================
uploader                  adds to the catalog; trims it for retention
sweeper                   deletes objects
whoever calls `trim`      trims the catalog; nothing is held meanwhile
janitor, or that caller   everything of a trim that is local, with the janitor's lock
========================  =====================================================================

So nothing local waits for a store: not the marks, not files to be removed, not the leaving.

**Ends.** Who waits for an upload, or for the store's part of a trim, is told as soon as it can no
longer be: the log is broken, fenced or left, is sealed and the offset lies beyond its end, or a
segment before it is damaged (`held`).

But for the waits, every method is one synchronous step.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio
from trio.lowlevel import checkpoint

from danube_trio._core.catalog import CatalogState
from danube_trio._core.life import Phase
from danube_trio._core.log import AppendQueue, Intake, LogState
from danube_trio._core.meters import Meters, UploadCounts
from danube_trio._core.stats import CloudStatistics
from danube_trio._engine.log.local_files import LocalFiles
from danube_trio._engine.read.objects import CloudTier
from danube_trio._engine.wait.waiters import Bells, WatchedMarks
from danube_trio.catalog import Outage
from danube_trio.config import WalConfig
from danube_trio.errors import CorruptDataError, DanubeError

log = logging.getLogger("danube_trio.engine")

T = TypeVar("T")
# What the uploader waits for the store in, and how long an answer may take before it is said that
# there is none. A guess: a few times what a slow store needs for a segment.
ASKING = frozenset({"uploading", "verifying", "cataloguing", "sweeping"})
SILENT_SECONDS = 10.0


class CloudSide:
    """The store's side of an engine.

    Attributes:
        tier: reads objects.
        objects: which ones there are.
        uploads: what the uploader counts.
        outage: of the store, as the uploader meets it.
        checksums: of whole local segments by base, as they were written.
        left_sealed: the catalog says that the log was left sealed.
        over: set when nothing will be uploaded any more, for whatever reason.
        wanted_start: retention wants the catalog to begin here.
        held: makes the error that says why the segment that comes next cannot be uploaded, nor
            what follows it: it is damaged. None if it is not.
        untidy: the sweeper has not done all that it could.
    """

    def __init__(
        self,
        tier: CloudTier,
        config: WalConfig,
        state: LogState,
        marks: WatchedMarks,
        files: LocalFiles,
        way_in: tuple[Intake, AppendQueue],
        bells: Bells,
        meters: Meters,
    ) -> None:
        self.tier = tier
        self.objects = tier.objects
        self.uploads = UploadCounts()
        self.outage: Outage | None = None
        self.checksums: dict[int, int] = {}
        self.left_sealed = False
        self.over = trio.Event()
        self.wanted_start = 0
        self.held: Callable[[], CorruptDataError] | None = None
        self._held_base = 0
        self.untidy = False
        self._waiting_peak_bytes = 0
        # (first offset of a segment, when it got its first record): of those not uploaded, and one
        # before them at most. What was here at opening waits since then.
        self._waiting_since: deque[tuple[int, float]] = deque()
        self._asking: set[trio.CancelScope] = set()
        self._state = state
        self._marks = marks
        self._files = files
        self._intake, self._queue = way_in
        self._bells = bells
        self._meters = meters
        self._limit_bytes = config.cloud.max_local_bytes
        if marks.uploaded_end < files.active.base:
            self._waiting_since.append((marks.uploaded_end, trio.current_time()))
        self.look_at_room()

    def want_uploaded(self, end: int) -> None:
        """Ask the uploader for everything below `end`."""
        if end > self._state.upload_wanted:
            self._state.upload_wanted = end
            self._bells.uploader.ring()

    def want_start(self, start: int) -> None:
        """Ask the uploader to have the catalog begin here; the janitor does the rest then.

        Each round of retention says it anew, and so takes back what the store was not told yet.
        """
        grown = start > self.wanted_start
        self.wanted_start = start
        if grown:
            self._bells.uploader.ring()

    def segment_start(self, offset: int) -> int:
        """Where the segment or object begins that holds `offset`."""
        base = self._files.segments.base_of(offset)
        if base >= 0:
            return base
        found = self.objects.find(offset)
        return found.base if found is not None else self._marks.start_offset

    @property
    def full(self) -> bool:
        """As much waits for the store as ``max_local_bytes`` allows: appends wait, too."""
        return self._intake.held_back

    @property
    def waiting_bytes(self) -> int:
        """Bytes of the local files that are not in the object store."""
        files = self._files
        return files.segments.size_from(self._marks.uploaded_end) + files.active.size_bytes

    @property
    def waiting_seconds(self) -> float:
        """The age of the oldest record that is not in the object store."""
        since = self._waiting_since
        return trio.current_time() - since[0][1] if since and self.waiting_bytes else 0.0

    @property
    def upload_error(self) -> str:
        """Why the last try to upload failed; "" if it did not."""
        if self.outage is not None and self.outage.error:
            return self.outage.error
        doing = self._meters.task("uploader").view()
        if doing.state in ASKING and doing.seconds > SILENT_SECONDS:
            return f"the store has not answered for {doing.seconds:.0f} s ({doing.state})"
        return ""

    def _look_at_peak(self) -> int:
        """The most that ever waited. It only grows until something is uploaded or trimmed."""
        self._waiting_peak_bytes = max(self._waiting_peak_bytes, self.waiting_bytes)
        return self._waiting_peak_bytes

    def look_at_room(self) -> None:
        """Whether appends have to wait for the store, or somebody waits for what is there now."""
        uploaded_end = self._marks.uploaded_end
        if self._state.upload_wanted > uploaded_end:
            self._bells.uploader.ring()
        active, since = self._files.active, self._waiting_since
        if active.size_bytes and (not since or since[-1][0] < active.base):
            since.append((active.base, trio.current_time()))
        while len(since) > 1 and since[1][0] <= uploaded_end:
            since.popleft()
        if self._limit_bytes is None:
            return
        full = self.waiting_bytes >= self._limit_bytes
        if full and not self.full:
            log.warning(
                "%s: %d bytes wait for the object store, which is all that max_local_bytes "
                "allows: appends wait",
                self._files.names.directory,
                self.waiting_bytes,
            )
            self._bells.uploader.ring()
        self._intake.held_back = full

    # ---- the catalog

    def published(self, state: CatalogState) -> None:
        """The catalog's newest state: it names more objects, or begins later."""
        self._look_at_peak()  # before less waits
        self.objects.published(state)
        if state.end > self._held_base:
            self.held = None  # it was trimmed
        if state.end > self._marks.uploaded_end:
            self._marks.uploaded(state.end)
        for base in [base for base in self.checksums if base < state.end]:
            del self.checksums[base]
        self.look_at_room()
        self._queue.look()
        self._bells.janitor.ring()
        self._bells.sweeper.ring()

    def trimmed(self, state: CatalogState, before: int) -> CatalogState:
        """The state that begins at `before`; the same one if it does already.

        Beyond what is uploaded a log can begin only where a segment does.
        """
        start = min(before, self._marks.sealed_end)
        if start > state.end:
            start = self.segment_start(start)
        return state.trimmed(start) if start > state.start_offset else state

    # ---- waits, and their ends

    async def wait_uploaded(self, end: int) -> None:
        """Wait until everything below `end` is uploaded; see `Wal.wait_uploaded`."""
        if self._marks.uploaded_end >= end:
            await checkpoint()
            return
        # Also if it is in vain: the uploader may be idle with a segment that could go.
        self.want_uploaded(min(end, self._marks.next_offset))
        error = self._never_uploaded(end)
        if error is not None:
            await checkpoint()
            raise error
        await self._marks.on_uploaded.wait(end)

    def _never_uploaded(self, end: int) -> DanubeError | None:
        phase = self._state.phase
        if phase in (Phase.BROKEN, Phase.FENCED, Phase.CLOSED):
            return self._state.refusal()
        if phase is not Phase.OPEN and end > self._marks.next_offset:
            return self._state.refusal()
        return self.held() if self.held is not None else None

    def hold(self, base: int, make_error: Callable[[], CorruptDataError]) -> None:
        """The segment that comes next is damaged: nothing is uploaded until it is as it was."""
        self.held, self._held_base = make_error, base
        self._marks.on_uploaded.fail(make_error)

    async def ask(self, call: Callable[[], Awaitable[T]]) -> T:
        """Ask the store for a caller, who gets the log's refusal if that comes first."""
        with trio.CancelScope() as scope:
            self._asking.add(scope)
            try:
                return await call()
            finally:
                self._asking.discard(scope)
        raise self._state.refusal()

    def stop_asking(self) -> None:
        """No trim will come to its end any more."""
        for scope in self._asking:
            scope.cancel()

    def statistics(self, pins: int) -> CloudStatistics:
        """Everything that can be counted, now; so many fetches are under way."""
        state, reading = self.objects.state, self.tier.statistics()
        return CloudStatistics(
            epoch=state.epoch,
            objects=len(state.segments),
            object_bytes=sum(d.size_bytes for d in state.segments),
            local_start=self._files.start,
            waiting_bytes=self.waiting_bytes,
            waiting_peak_bytes=self._look_at_peak(),
            waiting_seconds=self.waiting_seconds,
            appends_held=self.full,
            uploads=self.uploads.done,
            uploaded_bytes=self.uploads.bytes,
            upload_failures=self.uploads.failures,
            upload_error=self.upload_error,
            upload_seconds=self.uploads.seconds.view(),
            fetches=reading.fetches,
            fetched_bytes=reading.fetched_bytes,
            cached_bytes=reading.cached_bytes,
            pins=pins,
        )
