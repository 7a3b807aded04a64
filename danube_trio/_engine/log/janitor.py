"""The janitor task: everything about sealed segments that no append has to wait for.

After each roll, and every few seconds: write the index of newly sealed segments and the checkpoint
(hints, rebuilt when missing), make the durability mark itself durable, seal an active segment that
is old enough, and free segments past retention. It owns ``start_offset`` and `local_start`.

What a roll costs here does not grow with the log. The checkpoint lists all segments, so it is
written when it lacks a part of them, and opening looks at those that it lacks. Hints sync no
directory: that of the next roll does it, or the last one on leaving.

Freeing is ordered so that a crash anywhere leaves either a whole log or leftovers: with an object
store the catalog begins later first, since it is what others see; then the new start becomes
durable here; then readers are told, and fetches below it waited for; then files go, oldest first;
then the directory is synced; then objects go. The active segment never goes. Objects that could not
be removed are tried again each round, and by the next owner.

*Pruning* frees local files that verified objects cover, down to `keep_local_bytes`: the same steps,
with `local_start` instead of the start. A local file that turned out damaged goes this way too,
with all before it, and is kept beside as ``*.corrupt``: from then on its records come from the
store.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable, Collection
from functools import partial
from typing import TypeVar

import attrs
import trio

from danube_trio._core.catalog import CatalogState, Descriptor
from danube_trio._core.disk import Disk, Lane, put_in_place
from danube_trio._core.files import Checkpoint, Trim, encode_document
from danube_trio._core.index import SparseIndex
from danube_trio._core.log import Phase
from danube_trio._core.retention import retained_start
from danube_trio._core.segment import LogNames, Segment
from danube_trio._engine.files.segments import load_index
from danube_trio._engine.files.tail import Tail
from danube_trio._engine.log.engine import Engine
from danube_trio.catalog import CatalogSession
from danube_trio.cloud import CloudStore
from danube_trio.errors import (
    CorruptDataError,
    DanubeError,
    FencedError,
    LogBrokenError,
    StoreError,
    UnsupportedFormatError,
)

__all__ = ["Janitor"]

log = logging.getLogger("danube_trio.janitor")

T = TypeVar("T")

# A guess: an old mark only costs protection against damage to the newest records, and a power cut
# within these seconds of it.
ROUND_SECONDS = 5.0
# The checkpoint is written when it does not describe one segment in so many. A guess: on average so
# many rows are written for each roll, and so few segments are looked at when a log is opened.
DESCRIBED = 64


class Janitor:
    """The task, and `trim`, which callers may use at any time."""

    def __init__(
        self,
        engine: Engine,
        disk: Disk,
        names: LogNames,
        lane: Lane,
        tail: Tail,
        cloud: tuple[CloudStore, CatalogSession] | None = None,
    ) -> None:
        self._cloud = cloud
        self._stopped = False
        self._scopes: set[trio.CancelScope] = set()  # of what is under way with the store
        self._engine = engine
        self._disk = disk
        self._names = names
        self._lane = lane
        self._tail = tail
        self._lock = trio.Lock()
        self._hinted = False  # the name of a hint may not be durable
        self._marked = -1  # the durable end for which the mark was made durable last
        self._tried: set[int] = set()
        self._meter = engine.meters.task("janitor")

    async def run(self) -> None:
        """Go round until the log leaves the OPEN phase."""
        engine, doing = self._engine, self._meter
        while engine.log.running:
            doing.enter("idle")
            config = engine.config
            age = self._segment_age
            pause = min(ROUND_SECONDS, max(age if age is not None else ROUND_SECONDS, 0.05))
            with trio.move_on_after(pause):
                await engine.janitor_bell.wait()
            if not engine.log.running:
                return
            doing.enter("marking")
            if not await self._sync_mark():
                return
            doing.enter("tidying")
            await self.tidy()
            self._age_segment()
            if config.retain_age is not None:
                await self._learn_times()
            doing.enter("freeing")
            try:
                await self._free()
            except (OSError, StoreError, CorruptDataError, UnsupportedFormatError) as error:
                self._failed(error)
            except FencedError as error:
                engine.fenced(error)
            except DanubeError:
                return  # the log broke, or is being left

    async def _sync_mark(self) -> bool:
        """Make the mark durable if it moved: of a thousand logs most are idle. False: it failed."""
        end = self._engine.marks.durable_end
        if end == self._marked:
            return True
        try:
            await self._lane.run(self._tail.sync_mark)
        except OSError as error:
            self._engine.break_(error)
            return False
        self._marked = end
        return True

    async def _free(self) -> None:
        """One round of retention, pruning, and removing of objects."""
        engine = self._engine
        if engine.log.phase is Phase.FENCED:
            return  # the log is somebody else's now; our readers still have our files
        if self._cloud is not None:
            await self._prune()
        if engine.log.phase is Phase.OPEN:
            await self._retain()
        if self._cloud is not None:
            await self._delete_objects()

    async def _retain(self) -> None:
        engine, config = self._engine, self._engine.config
        # A trim that was cancelled may have got as far as the catalog.
        asked = self._cloud[1].state.start_offset if self._cloud is not None else 0
        start = asked
        if config.retain_bytes is not None or config.retain_age is not None:
            kept_from = retained_start(
                self._extents(),
                active_bytes=engine.active.size_bytes,
                max_bytes=config.retain_bytes,
                max_age=config.retain_age,
                now=engine.clock(),
            )
            start = max(start, kept_from)
        if start > engine.marks.start_offset:
            await self.trim(start)

    def _extents(self) -> list[Segment]:
        """Every sealed segment once, wherever it is, oldest first."""
        engine = self._engine
        local = engine.segments.sealed()
        if engine.tier is None:
            return local
        end = engine.tier.state.end
        stored = [
            Segment(d.base, d.end, d.size_bytes, d.first_time, d.last_time)
            for d in engine.tier.state.segments
        ]
        return stored + [segment for segment in local if segment.base >= end]

    async def _prune(self) -> None:
        """Free local files that verified objects cover."""
        engine = self._engine
        keep = engine.config.cloud.keep_local_bytes
        if engine.cloud is not None and engine.cloud.left_sealed:
            keep = 0  # whoever opens it next has the objects
        start = engine.segments.first_base
        total = engine.segments.size_bytes
        last_damaged = max(engine.damaged, default=-1)
        for segment in engine.segments:
            covered = segment.end <= engine.marks.uploaded_end
            if not covered or (total <= keep and segment.base > last_damaged):
                break
            total -= segment.size_bytes
            start = segment.end
        if start == engine.segments.first_base:
            return
        async with self._lock:
            with trio.CancelScope(shield=True):
                damaged = [base for base in engine.damaged if base < start]
                await self._save_trim(engine.marks.start_offset, start)
                gone = engine.pruned(start)
                await engine.pins.released(start, stored=False)
                remove = partial(_unlink, damaged=damaged)
                await self._disk.run(remove, self._disk, self._names, gone)
                await self._sync_directory()

    async def _delete_objects(self) -> None:
        """Remove what was trimmed, after the readers were told, and were waited for."""
        assert self._engine.cloud is not None
        gone = self._engine.cloud.trimmed
        while gone and gone[0].end <= self._engine.marks.start_offset:
            await self._with_store(partial(self._delete_object, gone[0]))
            gone.pop(0)

    async def _delete_object(self, descriptor: Descriptor) -> None:
        assert self._cloud is not None
        store, session = self._cloud
        await self._engine.pins.released(descriptor.end, stored=True)
        await store.delete(session.catalog.object_key(descriptor.object_id))

    def stop(self) -> None:
        """Give up what is under way with the store: the log is being left."""
        self._stopped = True
        for scope in self._scopes:
            scope.cancel()

    async def _with_store(self, call: Callable[[], Awaitable[T]]) -> T:
        """Ask the store something; the refusal of the log if it is left meanwhile."""
        with trio.CancelScope() as scope:
            if self._stopped:
                scope.cancel()
            self._scopes.add(scope)
            try:
                return await call()
            finally:
                self._scopes.discard(scope)
        raise self._engine.refusal()

    async def _learn_times(self) -> None:
        """Find the times of sealed segments that no checkpoint described; each is tried once."""
        engine = self._engine
        for segment in engine.segments.sealed():
            if segment.last_time or segment.base in self._tried:
                continue
            if not engine.log.running:
                return
            self._tried.add(segment.base)
            load = partial(load_index, trailer=True)
            try:
                index = await self._disk.run(load, self._disk, self._names, segment)
            except OSError as error:
                self._failed(error)
                return
            engine.segments.replace(
                attrs.evolve(segment, first_time=index.first_time, last_time=index.last_time)
            )
            engine.undescribed += 1

    def _failed(self, error: Exception) -> None:
        self._engine.meters.janitor_failures += 1
        log.warning("housekeeping failed and will be tried again: %s", error)

    def _age_segment(self) -> None:
        """Ask the flusher to seal an active segment that is old enough."""
        engine = self._engine
        age, first = self._segment_age, engine.active.first_time
        if age is not None and first and engine.clock() - first / 1e6 >= age:
            engine.ask_for_roll()

    @property
    def _segment_age(self) -> float | None:
        config = self._engine.config
        ages = [config.segment_age]
        if self._cloud is not None:
            ages.append(config.cloud.upload_interval)
        return min((age for age in ages if age is not None), default=None)

    async def tidy(self) -> None:
        """Write the hints that are due. A failure here costs a later open some time, no more."""
        engine = self._engine
        try:
            while engine.unindexed:
                index = engine.unindexed[0]
                self._hinted = True
                await self._disk.run(_write_index, self._disk, self._names, index)
                if engine.unindexed and engine.unindexed[0] is index:
                    engine.unindexed.popleft()
            lacks = engine.undescribed
            if lacks and lacks * DESCRIBED >= len(engine.segments):
                self._hinted = True
                base, sealed = engine.segments.active_base, engine.segments.sealed()
                await self._disk.run(_write_checkpoint, self._disk, self._names, base, sealed)
                engine.undescribed -= lacks
        except OSError as error:
            self._failed(error)

    async def finish(self) -> None:
        """The last hints, and no trim any more. For the end, when the other tasks are done."""
        async with self._lock:  # a trim that began before goes to its end
            if not self._engine.log.broken:
                await self.tidy()
            if self._hinted and not self._engine.log.broken:
                with contextlib.suppress(LogBrokenError):  # nothing of it was acknowledged
                    await self._sync_directory()

    async def trim(self, before: int) -> int:
        """Drop everything below `before` that is sealed. Returns the new start offset.

        Raises OSError when a file could not be written or removed: nothing is lost, and the log
        goes on. Raises LogBrokenError when the directory could not be synced.
        """
        engine = self._engine
        async with self._lock:
            if engine.log.phase is not Phase.OPEN:
                raise engine.refusal()
            start = min(before, engine.marks.sealed_end)
            if self._cloud is not None:
                start = self._aligned(start)
            if start <= engine.marks.start_offset:
                return engine.marks.start_offset
            if self._cloud is not None:
                await self._trim_catalog(start)
            # From here on not to be interrupted: the durable start and ours must agree.
            with trio.CancelScope(shield=True):
                await self._save_trim(start, max(start, engine.segments.first_base))
                gone = engine.trimmed(start)
                if self._cloud is not None and engine.cloud is not None:
                    engine.cloud.committed(self._cloud[1].state)  # objects go in the next round
                await engine.pins.released(start, stored=False)
                # What cannot be removed now is a leftover, which the next open removes.
                await self._disk.run(_unlink, self._disk, self._names, gone)
                await self._sync_directory()
            return start

    def _aligned(self, start: int) -> int:
        """Beyond what is uploaded, a log can begin only where a segment does."""
        engine = self._engine
        return start if start <= engine.marks.uploaded_end else engine.segment_start(start)

    async def _trim_catalog(self, start: int) -> None:
        assert self._cloud is not None
        change = partial(self._cloud[1].change, partial(_trimmed, start=start))
        try:
            await self._with_store(change)
        except FencedError as error:
            self._engine.fenced(error)
            raise

    async def _save_trim(self, start: int, local_start: int) -> None:
        """Make the new start durable. Before anything that lies below it is removed."""
        trim = Trim(start, local_start if local_start > start else 0)
        await self._disk.run(put_in_place, self._disk, self._names.trim, encode_document(trim))
        await self._sync_directory()

    async def _sync_directory(self) -> None:
        try:
            # In the lane: see `Tail`.
            await self._lane.run(self._tail.sync_directory)
        except OSError as error:
            self._engine.break_(error)
            raise self._engine.refusal() from error


def _trimmed(state: CatalogState, start: int) -> CatalogState:
    return state.trimmed(start) if start > state.start_offset else state


def _write_index(disk: Disk, names: LogNames, index: SparseIndex) -> None:
    put_in_place(disk, names.index(index.base), index.encode())


def _write_checkpoint(disk: Disk, names: LogNames, base: int, sealed: list[Segment]) -> None:
    put_in_place(disk, names.checkpoint, encode_document(Checkpoint.of(base, sealed)))


def _unlink(
    disk: Disk, names: LogNames, segments: list[Segment], damaged: Collection[int] = ()
) -> None:
    for segment in segments:
        path = names.segment(segment.base)
        if segment.base in damaged:
            kept = names.cut_bytes(segment.base, 0, "corrupt")
            log.warning("%s is damaged; its records are in the store, its bytes in %s", path, kept)
            with contextlib.suppress(FileNotFoundError):
                disk.rename(path, kept)
        else:
            _unlink_if_there(disk, path)
        _unlink_if_there(disk, names.index(segment.base))


def _unlink_if_there(disk: Disk, path: str) -> None:
    try:
        disk.unlink(path)
    except FileNotFoundError:
        log.debug("%s was gone already", path)
