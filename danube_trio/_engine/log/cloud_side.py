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
from typing import TYPE_CHECKING, TypeVar

import trio
from trio.lowlevel import checkpoint

from danube_trio._core.catalog import CatalogState
from danube_trio._core.life import Phase
from danube_trio._core.stats import CloudStatistics, UploadCounts
from danube_trio._engine.read.objects import CloudTier
from danube_trio.catalog import Outage
from danube_trio.errors import CorruptDataError, DanubeError

if TYPE_CHECKING:
    from danube_trio._engine.log.engine import Engine

__all__ = ["CloudSide"]

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
        full: as much waits for the store as ``max_local_bytes`` allows.
        wanted_start: retention wants the catalog to begin here.
        held: makes the error that says why the segment that comes next cannot be uploaded, nor
            what follows it: it is damaged. None if it is not.
        untidy: the sweeper has not done all that it could.
    """

    def __init__(self, engine: Engine, tier: CloudTier) -> None:
        self.tier = tier
        self.objects = tier.objects
        self.uploads = UploadCounts()
        self.outage: Outage | None = None
        self.checksums: dict[int, int] = {}
        self.left_sealed = False
        self.over = trio.Event()
        self.full = False
        self.wanted_start = 0
        self.held: Callable[[], CorruptDataError] | None = None
        self._held_base = 0
        self.untidy = False
        self._waiting_peak_bytes = 0
        # (first offset of a segment, when it got its first record): of those not uploaded, and one
        # before them at most. What was here at opening waits since then.
        self._waiting_since: deque[tuple[int, float]] = deque()
        self._asking: set[trio.CancelScope] = set()
        self._engine = engine
        if engine.marks.uploaded_end < engine.active.base:
            self._waiting_since.append((engine.marks.uploaded_end, trio.current_time()))
        self.look_at_room()

    def want_uploaded(self, end: int) -> None:
        """Ask the uploader for everything below `end`."""
        engine = self._engine
        if end > engine.log.upload_wanted:
            engine.log.upload_wanted = end
            engine.uploader_bell.ring()

    def want_start(self, start: int) -> None:
        """Ask the uploader to have the catalog begin here; the janitor does the rest then."""
        if start > self.wanted_start:
            self.wanted_start = start
            self._engine.uploader_bell.ring()

    def seal(self) -> None:
        """The log accepts nothing more; what it has goes to the object store, all of it."""
        engine = self._engine
        if not engine.log.seal():
            return
        engine.log.want_durable(engine.marks.next_offset)
        self.want_uploaded(engine.marks.next_offset)
        engine.tell_who_waits_in_vain()

    @property
    def waiting_bytes(self) -> int:
        """Bytes of the local files that are not in the object store."""
        engine = self._engine
        return engine.segments.size_from(engine.marks.uploaded_end) + engine.active.size_bytes

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
        doing = self._engine.meters.task("uploader").view()
        if doing.state in ASKING and doing.seconds > SILENT_SECONDS:
            return f"the store has not answered for {doing.seconds:.0f} s ({doing.state})"
        return ""

    def _look_at_peak(self) -> int:
        """The most that ever waited. It only grows until something is uploaded or trimmed."""
        self._waiting_peak_bytes = max(self._waiting_peak_bytes, self.waiting_bytes)
        return self._waiting_peak_bytes

    def look_at_room(self) -> None:
        """Whether appends have to wait for the store, or somebody waits for what is there now."""
        if self._engine.log.upload_wanted > self._engine.marks.uploaded_end:
            self._engine.uploader_bell.ring()
        active, since = self._engine.active, self._waiting_since
        if active.size_bytes and (not since or since[-1][0] < active.base):
            since.append((active.base, trio.current_time()))
        while len(since) > 1 and since[1][0] <= self._engine.marks.uploaded_end:
            since.popleft()
        limit = self._engine.config.cloud.max_local_bytes
        if limit is None:
            return
        full = self.waiting_bytes >= limit
        if full and not self.full:
            log.warning(
                "%s: %d bytes wait for the object store, which is all that max_local_bytes "
                "allows: appends wait",
                self._engine.config.dir,
                self.waiting_bytes,
            )
            self._engine.uploader_bell.ring()
        self.full = full

    # ---- the catalog

    def published(self, state: CatalogState) -> None:
        """The catalog's newest state: it names more objects, or begins later."""
        engine, marks = self._engine, self._engine.marks
        self._look_at_peak()
        self.objects.published(state)
        if state.end > self._held_base:
            self.held = None  # it was trimmed
        if state.end > marks.uploaded_end:
            marks.uploaded(state.end)
        engine.uploaded.release(marks.uploaded_end)
        for base in [base for base in self.checksums if base < state.end]:
            del self.checksums[base]
        self.look_at_room()
        engine.append_queue.look()
        engine.janitor_bell.ring()
        engine.sweeper_bell.ring()

    def trimmed(self, state: CatalogState, before: int) -> CatalogState:
        """The state that begins at `before`; the same one if it does already.

        Beyond what is uploaded a log can begin only where a segment does.
        """
        start = min(before, self._engine.marks.sealed_end)
        if start > state.end:
            start = self._engine.segment_start(start)
        return state.trimmed(start) if start > state.start_offset else state

    # ---- waits, and their ends

    async def wait_uploaded(self, end: int) -> None:
        """Wait until everything below `end` is uploaded; see `Wal.wait_uploaded`."""
        engine = self._engine
        if engine.marks.uploaded_end >= end:
            await checkpoint()
            return
        self.want_uploaded(min(end, engine.marks.next_offset))
        error = self._never_uploaded(end)
        if error is not None:
            await checkpoint()
            raise error
        await engine.uploaded.wait(end)

    def _never_uploaded(self, end: int) -> DanubeError | None:
        engine = self._engine
        if engine.log.phase in (Phase.BROKEN, Phase.FENCED, Phase.CLOSED):
            return engine.log.refusal()
        if engine.log.phase is not Phase.OPEN and end > engine.marks.next_offset:
            return engine.log.refusal()
        return self.held() if self.held is not None else None

    def hold(self, base: int, make_error: Callable[[], CorruptDataError]) -> None:
        """The segment that comes next is damaged: nothing is uploaded until it is as it was."""
        self.held, self._held_base = make_error, base
        self._engine.uploaded.fail(make_error)

    async def ask(self, call: Callable[[], Awaitable[T]]) -> T:
        """Ask the store for a caller, who gets the log's refusal if that comes first."""
        with trio.CancelScope() as scope:
            self._asking.add(scope)
            try:
                return await call()
            finally:
                self._asking.discard(scope)
        raise self._engine.log.refusal()

    def stop_asking(self) -> None:
        """No trim will come to its end any more."""
        for scope in self._asking:
            scope.cancel()

    def statistics(self) -> CloudStatistics:
        """Everything that can be counted, now."""
        state, reading = self.objects.state, self.tier.statistics()
        return CloudStatistics(
            epoch=state.epoch,
            objects=len(state.segments),
            object_bytes=sum(d.size_bytes for d in state.segments),
            local_start=self._engine.local_start,
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
            pins=len(self._engine.pins),
        )
