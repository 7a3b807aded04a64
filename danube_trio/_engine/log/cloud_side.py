"""What an open log has besides, when it has an object store.

Like the engine's own, every method is one synchronous step. The uploader and the janitor report
here what the catalog says now; `uploaded_end`, the readers' CLOUD tier and the room for appends
follow in the same step.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from danube_trio._core.catalog import CatalogState, Descriptor
from danube_trio._core.log import Phase
from danube_trio._core.stats import CloudStatistics, UploadCounts
from danube_trio._engine.read.objects import CloudTier

if TYPE_CHECKING:
    from danube_trio._engine.log.engine import Engine

__all__ = ["CloudSide"]

log = logging.getLogger("danube_trio.engine")


class CloudSide:
    """The store's side of an engine.

    Attributes:
        tier: reads objects, and holds the catalog's newest state.
        uploads: what the uploader counts.
        checksums: of whole local segments by base, as they were written.
        left_sealed: the catalog says that the log was left sealed.
        over: set when nothing will be uploaded any more, for whatever reason.
        trimmed: objects that the catalog does not name any more, still to be removed.
        full: as much waits for the store as ``max_local_bytes`` allows.
    """

    def __init__(self, engine: Engine, tier: CloudTier) -> None:
        self.tier = tier
        self.uploads = UploadCounts()
        self.checksums: dict[int, int] = {}
        self.left_sealed = False
        self.over = trio.Event()
        self.full = False
        self._waiting_peak_bytes = 0
        self.trimmed: list[Descriptor] = []
        self._engine = engine
        self.look_at_room()

    def want_uploaded(self, end: int) -> None:
        """Ask the uploader for everything below `end`."""
        engine = self._engine
        if end > engine.log.upload_wanted:
            engine.log.upload_wanted = end
            engine.uploader_bell.ring()

    def seal(self) -> None:
        """The log accepts nothing more; what it has goes to the object store, all of it."""
        engine = self._engine
        if engine.log.phase is not Phase.OPEN:
            return
        engine.log.phase = Phase.SEALED
        engine.log.want_durable(engine.marks.next_offset)
        self.want_uploaded(engine.marks.next_offset)
        engine.tell_who_waits_beyond_the_end()
        engine.ring_all()

    @property
    def waiting_bytes(self) -> int:
        """Bytes of the local files that are not in the object store."""
        engine = self._engine
        return engine.segments.size_from(engine.marks.uploaded_end) + engine.active.size_bytes

    def _look_at_peak(self) -> int:
        """The most that ever waited. It only grows until something is uploaded or trimmed."""
        self._waiting_peak_bytes = max(self._waiting_peak_bytes, self.waiting_bytes)
        return self._waiting_peak_bytes

    def look_at_room(self) -> None:
        """Whether appends have to wait for the store, or somebody waits for what is there now."""
        if self._engine.log.upload_wanted > self._engine.marks.uploaded_end:
            self._engine.uploader_bell.ring()
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

    def committed(self, state: CatalogState) -> None:
        """The catalog's newest state: it names more objects, or begins later."""
        engine, marks = self._engine, self._engine.marks
        self._look_at_peak()
        before, self.tier.state = self.tier.state, state
        self.trimmed += [d for d in before.segments if d.end <= state.start_offset]
        if state.end > marks.uploaded_end:
            marks.uploaded(state.end)
        engine.uploaded.release(marks.uploaded_end)
        for base in [base for base in self.checksums if base < state.end]:
            del self.checksums[base]
        self.look_at_room()
        engine.room.look()
        engine.janitor_bell.ring()

    def statistics(self) -> CloudStatistics:
        """Everything that can be counted, now."""
        state, reading = self.tier.state, self.tier.statistics()
        return CloudStatistics(
            epoch=state.epoch,
            objects=len(state.segments),
            object_bytes=sum(d.size_bytes for d in state.segments),
            local_start=self._engine.local_start,
            waiting_bytes=self.waiting_bytes,
            waiting_peak_bytes=self._look_at_peak(),
            appends_held=self.full,
            uploads=self.uploads.done,
            uploaded_bytes=self.uploads.bytes,
            upload_failures=self.uploads.failures,
            upload_error=self.uploads.error,
            upload_seconds=self.uploads.seconds.view(),
            fetches=reading.fetches,
            fetched_bytes=reading.fetched_bytes,
            cached_bytes=reading.cached_bytes,
            pins=len(self._engine.pins),
        )
