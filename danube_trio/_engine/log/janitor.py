"""The janitor task: everything about sealed segments that no append has to wait for.

After each roll, and every few seconds: make the durability mark itself durable, look whether the
log's files still are its own (`presence`), write the index of newly sealed segments and the
checkpoint (hints, rebuilt when missing), seal an active segment that is old enough, and free
segments past retention. It owns ``start_offset`` and `local_start`.

A round never ends the task: what fails is counted, and tried again in the next round, and what has
nothing to do with it goes on. Only the end of the log, or a broken one, ends it.

Freeing is ordered so that a crash anywhere leaves either a whole log or leftovers: with an object
store the catalog begins later first, since it is what others see; then the new start becomes
durable here; then readers are told, and fetches below it waited for; then files go, oldest first;
then the directory is synced; then objects go. The active segment never goes. Files and objects that
could not be removed are tried again each round, each by itself, and by the next opening or owner.

A full disk can be freed: to move the start takes no space where that can be avoided, and hints and
the preallocated rest are given back where it cannot (`room`). A log that broke for want of space
can be trimmed too, since what is sealed is what it was. And what retention frees of local files
without asking a store is freed before an opening ends: a program that starts again finds room.

*Pruning* frees local files that verified objects cover, down to `keep_local_bytes`: the same steps,
with `local_start` instead of the start. A local file that turned out damaged goes this way too,
with all before it, and is kept beside as ``*.corrupt``: from then on its records come from the
store.
"""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Awaitable, Callable
from functools import partial
from operator import attrgetter
from typing import TypeVar

import attrs
import trio

from danube_trio._core.catalog import CatalogState, Descriptor
from danube_trio._core.disk import Disk, Lane, replace_file
from danube_trio._core.files import Checkpoint, Trim, encode_document
from danube_trio._core.index import SparseIndex
from danube_trio._core.log import Phase
from danube_trio._core.retention import retained_start
from danube_trio._core.segment import LogNames, Segment
from danube_trio._engine.files.presence import LostFileError
from danube_trio._engine.files.room import give_back, no_space, remove_each, save_trim
from danube_trio._engine.files.segments import load_index
from danube_trio._engine.files.tail import Tail
from danube_trio._engine.log.engine import Engine
from danube_trio.catalog import CatalogSession
from danube_trio.cloud import CloudStore
from danube_trio.errors import (
    CorruptDataError,
    DanubeError,
    FencedError,
    StoreError,
    StoreUnavailableError,
    UnsupportedFormatError,
)

__all__ = ["Janitor"]

log = logging.getLogger("danube_trio.janitor")

T = TypeVar("T")

# A guess: an old mark only costs protection against damage to the newest records, and a power cut
# within these seconds of it.
ROUND_SECONDS = 5.0
# Sealed segments that one round looks at; the next one goes on there. Half a millisecond's work.
LOOK_AT = 256


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
        self._checkpointed = -1
        self._marked = -1  # the durable end for which the mark was made durable last
        self._tried: set[int] = set()
        self._looked = 0  # the base up to which sealed segments were looked at last
        self._left: list[str] = []  # files that nothing needs, and that could not be removed
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
            if not await self._keep():
                return
            doing.enter("tidying")
            await self.tidy()
            self._age_segment()
            if config.retain_age is not None:
                await self._learn_times()
            doing.enter("freeing")
            await self._free()

    async def _keep(self) -> bool:
        """Make the mark durable if it moved, and look at the files. False: the log broke."""
        engine, end = self._engine, self._engine.marks.durable_end
        sealed = self._next_to_look_at()
        try:
            wrong = await self._lane.run(self._mark_and_look, end != self._marked, sealed)
        except OSError as error:
            engine.break_(error)
            return False
        self._marked = end
        for lost in wrong:
            # What was trimmed or pruned meanwhile is gone from the list before its file goes.
            if lost.base is None or not engine.segments.first_base <= lost.base:
                continue
            segment = engine.segments.find(lost.base)
            if segment is not None and segment.end <= engine.marks.uploaded_end:
                engine.heal(segment.base, str(lost))
            else:
                engine.break_(lost)
        return not engine.log.broken

    def _next_to_look_at(self) -> list[Segment]:
        sealed = self._engine.segments.sealed()
        sealed = [segment for segment in sealed if segment.base not in self._engine.damaged]
        if len(sealed) > LOOK_AT:
            first = bisect_right(sealed, self._looked, key=attrgetter("base"))
            sealed = (sealed[first:] or sealed)[:LOOK_AT]
            self._looked = sealed[-1].base
        return sealed

    def _mark_and_look(self, moved: bool, sealed: list[Segment]) -> list[LostFileError]:
        if moved:
            self._tail.sync_mark()
        return self._tail.look(sealed)

    async def _free(self) -> None:
        """One round of removing what is left, pruning, retention, and removing of objects."""
        engine = self._engine
        if engine.log.phase is Phase.FENCED:
            return  # the log is somebody else's now; our readers still have our files
        steps: list[Callable[[], Awaitable[object]]] = [self._remove_left, self._retain]
        if self._cloud is not None:
            steps = [self._remove_left, self._prune, self._retain, self._delete_objects]
        for step in steps:
            try:
                await step()
            except (OSError, StoreError, CorruptDataError, UnsupportedFormatError) as error:
                self._failed(error)
            except FencedError as error:
                engine.fenced(error)
                return
            except DanubeError as error:
                # The log broke, is being left or was sealed while this waited. The first two end
                # the task; a sealed log goes on without retention.
                log.debug("left for another time: %s", error)
                if engine.log.broken:
                    return

    async def make_room(self) -> None:
        """Before the log is handed out: what can be freed of local files by itself."""
        try:
            await (self._retain() if self._cloud is None else self._prune())
        except (OSError, CorruptDataError) as error:
            self._failed(error)

    async def _retain(self) -> None:
        engine, config = self._engine, self._engine.config
        if engine.log.phase is not Phase.OPEN:
            return
        # A trim that was cancelled may have got as far as the catalog.
        asked = self._cloud[1].state.start_offset if self._cloud is not None else 0
        start = retained_start(
            self._extents(),
            active_bytes=engine.active.size_bytes,
            max_bytes=config.retain_bytes,
            max_age=config.retain_age,
            now=engine.clock(),
        )
        start = max(start, asked)
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
        for segment in engine.segments.sealed():
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
                if damaged:
                    await self._disk.run(_keep_damaged, self._disk, self._names, damaged)
                await self._remove(_files_of(self._names, gone))

    async def _delete_objects(self) -> None:
        """Remove what was trimmed, after the readers were told, and were waited for."""
        assert self._engine.cloud is not None
        trimmed, start = self._engine.cloud.trimmed, self._engine.marks.start_offset
        failed: StoreError | None = None
        for descriptor in [d for d in trimmed if d.end <= start]:
            try:
                await self._with_store(partial(self._delete_object, descriptor))
            except StoreUnavailableError:
                raise  # nor would the next one
            except StoreError as error:
                failed = failed or error
            else:
                trimmed.remove(descriptor)
        if failed is not None:
            raise failed

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
                await self._disk.run(_write_index, self._disk, self._names, index)
                if engine.unindexed and engine.unindexed[0] is index:
                    engine.unindexed.pop(0)
            if self._checkpointed != engine.segments.active_base:
                base = engine.segments.active_base
                checkpoint = Checkpoint.of(base, engine.segments.sealed())
                data = encode_document(checkpoint)
                await self._disk.run(replace_file, self._disk, self._names.checkpoint, data)
                self._checkpointed = base
        except OSError as error:
            self._failed(error)

    async def finish(self) -> None:
        """The last hints, and no trim any more. For the end, when the other tasks are done."""
        async with self._lock:  # a trim that began before goes to its end
            if not self._engine.log.broken:
                await self.tidy()

    async def trim(self, before: int) -> int:
        """Drop everything below `before` that is sealed. Returns the new start offset.

        Raises OSError when a file could not be written or removed: nothing is lost, the log goes
        on, and it is tried again. Raises LogBrokenError when the directory could not be synced.
        """
        engine = self._engine
        async with self._lock:
            if self._stopped or not engine.may_trim(before):
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
                await self._remove(_files_of(self._names, gone))
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
        save = partial(self._disk.run, save_trim, self._disk, self._names, trim)
        try:
            new_name = await save()
        except OSError as error:
            if not no_space(error):
                raise
            await self._give_back()
            new_name = await save()
        if new_name:
            await self._sync_directory()

    async def _give_back(self) -> None:
        """There is no space to free space: hints go, and what is preallocated."""
        if not self._engine.log.broken:
            try:
                await self._lane.run(self._tail.give_back)
            except OSError as error:
                self._engine.break_(error)
                raise self._engine.refusal() from error
        await self._disk.run(give_back, self._disk, self._names)
        self._checkpointed = -1  # to be written again

    async def _remove_left(self) -> None:
        """What could not be removed is tried again."""
        if self._left:
            async with self._lock:
                with trio.CancelScope(shield=True):
                    paths, self._left = self._left, []
                    await self._remove(paths)

    async def _remove(self, paths: list[str]) -> None:
        """Remove files that nothing needs any more, each by itself; raises the first error."""
        self._tail.presence.forget(paths)
        failed = await self._disk.run(remove_each, self._disk, paths)
        self._left += failed
        await self._sync_directory()
        for error in failed.values():
            raise error

    async def _sync_directory(self) -> None:
        try:
            await self._disk.run(self._disk.sync_dir, self._names.directory)
        except OSError as error:
            self._engine.break_(error)
            raise self._engine.refusal() from error


def _trimmed(state: CatalogState, start: int) -> CatalogState:
    return state.trimmed(start) if start > state.start_offset else state


def _write_index(disk: Disk, names: LogNames, index: SparseIndex) -> None:
    replace_file(disk, names.index(index.base), index.encode())


def _files_of(names: LogNames, segments: list[Segment]) -> list[str]:
    return [f(s.base) for s in segments for f in (names.segment, names.index)]


def _keep_damaged(disk: Disk, names: LogNames, bases: list[int]) -> None:
    """Keep the bytes of damaged segments beside; what is not renamed is removed with the rest."""
    for base in bases:
        path, kept = names.segment(base), names.cut_bytes(base, 0, "corrupt")
        try:
            disk.rename(path, kept)
        except OSError as error:
            log.warning("%s is damaged, and its bytes cannot be kept: %s", path, error)
        else:
            log.warning("%s is damaged; its records are in the store, its bytes in %s", path, kept)
