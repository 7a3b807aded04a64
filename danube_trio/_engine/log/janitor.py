"""The janitor task: everything about sealed segments that no append has to wait for.

After each roll, and every few seconds: write the index of newly sealed segments and the checkpoint
(hints, rebuilt when missing), make the durability mark itself durable, seal an active segment that
is old enough, and free segments past retention. It owns ``start_offset`` and `local_start`.

What a roll costs here does not grow with the log. The checkpoint lists all segments, so it is
written when it lacks a part of them, and opening looks at those that it lacks. Hints sync no
directory: that of the next roll does it, or the last one on leaving.

Freeing is ordered so that a crash anywhere leaves either a whole log or leftovers: the new start
becomes durable; then readers are told, and fetches below it waited for; then files go, oldest
first; then the directory is synced. The active segment never goes.

With an object store the catalog begins later before all that, since it is what others see, and
objects go after it (`cloud_side`). Neither is done here: this task waits for no store, and finds in
each round whether the catalog begins later than the log. So it also finishes a trim whose caller
was cancelled when the catalog knew of it.

*Pruning* frees local files that verified objects cover, down to `keep_local_bytes`: the same steps,
with `local_start` instead of the start. A local file that turned out damaged goes this way too,
with all before it, and is kept beside as ``*.corrupt``: from then on its records come from the
store.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection
from functools import partial

import attrs
import trio

from danube_trio._core.disk import Disk, Lane, put_in_place
from danube_trio._core.files import Checkpoint, Trim, encode_document
from danube_trio._core.index import SparseIndex
from danube_trio._core.log import Phase
from danube_trio._core.retention import retained_start
from danube_trio._core.segment import LogNames, Segment
from danube_trio._engine.files.segments import load_index
from danube_trio._engine.files.tail import Tail
from danube_trio._engine.log.cloud_side import CloudSide
from danube_trio._engine.log.engine import Engine
from danube_trio.catalog import CatalogSession
from danube_trio.errors import DanubeError, FencedError, LogBrokenError

__all__ = ["Janitor"]

log = logging.getLogger("danube_trio.janitor")

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
        session: CatalogSession | None = None,
    ) -> None:
        self._session = session
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
            except OSError as error:
                self._failed(error)
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
        """One round of retention and pruning."""
        engine, cloud = self._engine, self._engine.cloud
        if engine.log.phase is Phase.FENCED:
            return  # the log is somebody else's now; our readers still have our files
        if cloud is not None:
            async with self._lock:
                await self._follow_catalog(cloud)
                await self._prune(cloud)
            if cloud.untidy:
                engine.uploader_bell.ring()
        if engine.log.phase is Phase.OPEN:
            await self._retain()

    async def _retain(self) -> None:
        engine, config = self._engine, self._engine.config
        if config.retain_bytes is None and config.retain_age is None:
            return
        start = retained_start(
            self._extents(),
            active_bytes=engine.active.size_bytes,
            max_bytes=config.retain_bytes,
            max_age=config.retain_age,
            now=engine.clock(),
        )
        if start <= engine.marks.start_offset:
            return
        if engine.cloud is not None:
            engine.cloud.want_start(start)
        else:
            await self.trim(start)

    def _extents(self) -> list[Segment]:
        """Every sealed segment once, wherever it is, oldest first."""
        engine = self._engine
        local = engine.segments.sealed()
        if engine.cloud is None:
            return local
        end = engine.cloud.objects.state.end
        stored = [
            Segment(d.base, d.end, d.size_bytes, d.first_time, d.last_time)
            for d in engine.cloud.objects
        ]
        return stored + [segment for segment in local if segment.base >= end]

    async def _prune(self, cloud: CloudSide) -> None:
        """Free local files that verified objects cover. With the lock held."""
        engine = self._engine
        if cloud.objects.state.start_offset > engine.marks.start_offset:
            return  # trimmed meanwhile: no object holds what has to be trimmed here first
        keep = engine.config.cloud.keep_local_bytes
        if cloud.left_sealed:
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
        with trio.CancelScope(shield=True):
            damaged = [base for base in engine.damaged if base < start]
            await self._save_trim(engine.marks.start_offset, start)
            gone = engine.pruned(start)
            await engine.pins.released(start, stored=False)
            remove = partial(_unlink, damaged=damaged)
            await self._disk.run(remove, self._disk, self._names, gone)
            await self._sync_directory()

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
        if self._session is not None:
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
        engine, cloud = self._engine, self._engine.cloud
        if cloud is not None:
            await self._trim_catalog(cloud, before)
        async with self._lock:
            if engine.log.phase is not Phase.OPEN:
                raise engine.refusal()
            if cloud is not None:
                await self._follow_catalog(cloud)
            elif before > engine.marks.start_offset:
                await self._begin_at(min(before, engine.marks.sealed_end))
            return engine.marks.start_offset

    async def _trim_catalog(self, cloud: CloudSide, before: int) -> None:
        """Nothing is held meanwhile, so that nothing here waits for the store with the caller."""
        assert self._session is not None
        trimmed = partial(cloud.trimmed, before=before)
        if trimmed(cloud.objects.state) is cloud.objects.state:
            return
        try:
            await cloud.ask(partial(self._session.change, trimmed))
        except FencedError as error:
            self._engine.fenced(error)
            raise

    async def _follow_catalog(self, cloud: CloudSide) -> None:
        """Begin where the catalog does. With the lock held."""
        start = cloud.objects.state.start_offset
        if start > self._engine.marks.start_offset:
            await self._begin_at(start)
            self._engine.uploader_bell.ring()  # there may be objects to delete

    async def _begin_at(self, start: int) -> None:
        """The local part of a trim. With the lock held.

        Not to be interrupted: the durable start and ours must agree.
        """
        engine = self._engine
        if start <= engine.marks.start_offset:
            return
        with trio.CancelScope(shield=True):
            await self._save_trim(start, max(start, engine.segments.first_base))
            gone = engine.trimmed(start)
            await engine.pins.released(start, stored=False)
            # What cannot be removed now is a leftover, which the next open removes.
            await self._disk.run(_unlink, self._disk, self._names, gone)
            await self._sync_directory()

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
