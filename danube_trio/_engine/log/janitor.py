"""The janitor task: everything about sealed segments that no append has to wait for.

After each roll, and every few seconds: make the durability mark itself durable, look whether the
log's files still are its own (`presence`), write the index of newly sealed segments and the
checkpoint (hints, rebuilt when missing), seal an active segment that is old enough, and free
segments past retention. It owns ``start_offset`` and `local_start`.

A round never ends the task: what fails is counted, and tried again in the next round, and what has
nothing to do with it goes on. Only the end of the log, or a broken one, ends it.

What a roll costs here does not grow with the log. The checkpoint lists all segments, so it is
written when it lacks a part of them, and opening looks at those that it lacks. Hints sync no
directory: that of the next roll does it, or the last one on leaving.

Freeing is ordered so that a crash anywhere leaves either a whole log or leftovers: the new start
becomes durable; then readers are told, and fetches below it waited for; then files go, oldest
first; then the directory is synced. The active segment never goes. Files that could not be removed
are tried again each round, each by itself, and by the next opening.

A full disk can be freed: to move the start takes no space where that can be avoided, and hints and
the reserved rest are given back where it cannot (`space`). A log that broke for want of space can
be trimmed too, since what is sealed is what it was. And what retention frees of local files without
asking a store is freed before an opening ends: a program that starts again finds room.

With an object store the catalog begins later before all that, since it is what others see, and
objects go after it (`cloud_side`). Neither is done here: this task waits for no store, and finds in
each round whether the catalog begins later than the log. So it also finishes a trim whose caller
was cancelled when the catalog knew of it.

*Pruning* frees local files that verified objects cover, down to `keep_local_bytes`: the same steps,
with `local_start` instead of the start. A local file that turned out damaged goes this way too,
with all before it, and is kept beside as ``*.corrupt``: from then on its records come from the
store.

Retention asks the *floor* each time: the offset from which on a program needs the records, see
`Storage.retain_from`. It binds neither pruning nor a `trim` that somebody calls.
"""

from __future__ import annotations

import contextlib
import logging
from bisect import bisect_right
from collections.abc import Awaitable, Callable
from functools import partial
from operator import attrgetter

import attrs
import trio

from danube_trio._core.clocks import SteadyClock
from danube_trio._core.disk import Disk, Lane, put_in_place
from danube_trio._core.files import Checkpoint, Trim, encode_document
from danube_trio._core.index import SparseIndex
from danube_trio._core.life import Phase
from danube_trio._core.retention import retained_start
from danube_trio._core.segment import LogNames, Segment
from danube_trio._core.times import moment
from danube_trio._engine.files.presence import LostFileError
from danube_trio._engine.files.space import give_back, no_space, remove_each, save_trim
from danube_trio._engine.files.tail import Tail
from danube_trio._engine.log.cloud_side import CloudSide
from danube_trio._engine.log.engine import Engine
from danube_trio._engine.log.local_files import LocalFiles
from danube_trio.catalog import CatalogSession
from danube_trio.errors import DanubeError, FencedError, LogBrokenError, describe

log = logging.getLogger("danube_trio.janitor")

# A guess: an old mark only costs protection against damage to the newest records, and a power cut
# within these seconds of it.
ROUND_SECONDS = 5.0
# The checkpoint is written when it does not describe one segment in so many. A guess: on average so
# many rows are written for each roll, and so few segments are looked at when a log is opened.
DESCRIBED = 64
# Sealed segments that one round looks at; the next one goes on there. Half a millisecond's work.
LOOK_AT = 256

Floor = Callable[[], int | None]


class Janitor:
    """The task, and `trim`, which callers may use at any time.

    Args:
        floor: retention frees nothing from the offset on that it returns; None: there is no floor.
    """

    def __init__(
        self,
        engine: Engine,
        files: LocalFiles,
        lane: Lane,
        tail: Tail,
        session: CatalogSession | None,
        floor: Floor,
    ) -> None:
        self._session = session
        self._floor = floor
        self._engine = engine
        self._files = files
        self._disk = files.disk
        self._names = files.names
        self._lane = lane
        self._tail = tail
        self._lock = trio.Lock()
        self._hinted = False  # the name of a hint may not be durable
        self._marked = -1  # the durable end for which the mark was made durable last
        self._tried: set[int] = set()
        self._looked = 0  # the base up to which sealed segments were looked at last
        self._left: list[str] = []  # files that nothing needs, and that could not be removed
        self._finished = False  # no trim any more
        self._meter = engine.meters.task("janitor")
        self._clock: SteadyClock | None = None
        if engine.config.retain_age is not None:
            ahead, newest = engine.config.max_clock_ahead, engine.intake.last_time / 1e6
            self._clock = SteadyClock(engine.clock, engine.meters.now, ahead, newest)
        if self._segment_age is not None and files.active.size_bytes:
            # What an earlier opening began: of its age only the wall clock knows, and may be wrong.
            age = max(0.0, engine.clock() - files.active.first_time / 1e6)
            files.active_since = engine.meters.now() - age

    async def run(self) -> None:
        """Go round until the log leaves the OPEN phase."""
        engine, doing = self._engine, self._meter
        while engine.log.running:
            doing.enter("idle")
            config = engine.config
            age = self._segment_age
            pause = min(ROUND_SECONDS, max(age if age is not None else ROUND_SECONDS, 0.05))
            with trio.move_on_after(pause):
                await engine.bells.janitor.wait()
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
            if lost.base is None or not self._files.start <= lost.base:
                continue
            segment = self._files.segments.find(lost.base)
            if segment is not None and segment.end <= engine.marks.uploaded_end:
                await self._files.heal(segment.base, str(lost))
            else:
                engine.break_(lost)
        return not engine.log.broken

    def _next_to_look_at(self) -> list[Segment]:
        sealed = self._files.segments.sealed()
        sealed = [segment for segment in sealed if segment.base not in self._files.damaged]
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
        """One round of removing what is left, pruning and retention."""
        engine, cloud = self._engine, self._engine.cloud
        if engine.log.phase is Phase.FENCED:
            return  # the log is somebody else's now; our readers still have our files
        steps: list[Callable[[], Awaitable[object]]] = [self._remove_left, self._retain]
        if cloud is not None:
            steps.insert(1, partial(self._follow_and_prune, cloud))
        for step in steps:
            try:
                await step()
            except OSError as error:
                self._failed(error)
            except DanubeError as error:
                # The log broke, is being left or was sealed while this waited. The first two end
                # the task; a sealed log goes on without retention.
                log.debug("left for another time: %s", error)
                if engine.log.broken:
                    return
        if cloud is not None and cloud.untidy:
            engine.bells.sweeper.ring()

    async def _follow_and_prune(self, cloud: CloudSide) -> None:
        async with self._lock:
            await self._follow_catalog(cloud)
            await self._prune(cloud)

    async def make_room(self) -> None:
        """Before the log is handed out: what can be freed of local files by itself."""
        cloud = self._engine.cloud
        try:
            await (self._retain() if cloud is None else self._prune(cloud))
        except OSError as error:
            self._failed(error)

    async def _retain(self) -> None:
        engine, config = self._engine, self._engine.config
        if engine.log.phase is not Phase.OPEN:
            return
        if config.retain_bytes is None and config.retain_age is None:
            return
        now = self._now()
        start = retained_start(
            self._extents(),
            active_bytes=self._files.active.size_bytes,
            max_bytes=config.retain_bytes,
            max_age=config.retain_age if now is not None else None,
            now=now or 0.0,
            max_ahead=config.max_clock_ahead,
            floor=self._ask_floor(),
        )
        if engine.cloud is not None:
            engine.cloud.want_start(start)
        elif start > engine.marks.start_offset:
            await self.trim(start)

    def _ask_floor(self) -> int | None:
        """The floor now; 0, so that nothing goes, if the program cannot say."""
        try:
            floor = self._floor()
            if floor is not None and not isinstance(floor, int):
                raise TypeError(f"floor_of must return an offset, or None; it returned {floor!r}")
        except Exception as error:  # somebody else's code, and no reason to end the log
            self._engine.meters.janitor_failures += 1
            log.warning(
                "%s: retention frees nothing, since floor_of does not say what is needed: %s",
                *(self._engine.config.dir, describe(error)),
            )
            return 0
        return floor

    def _now(self) -> float | None:
        """The time for retention by age, if it is believed."""
        clock = self._clock
        if clock is None:
            return None
        doubted, now = clock.doubted, clock.now()
        if clock.doubted is not None and doubted is None:
            log.warning(
                "%s: the clock says %s, which is far ahead of what it can be: retention by age "
                "waits until that has stood for a while",
                *(self._engine.config.dir, moment(clock.doubted)),
            )
        return now

    def _extents(self) -> list[Segment]:
        """Every sealed segment once, wherever it is, oldest first."""
        engine = self._engine
        local = self._files.segments.sealed()
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
        start = self._files.start
        total = self._files.segments.size_bytes
        last_damaged = max(self._files.damaged, default=-1)
        for segment in self._files.segments:
            covered = segment.end <= engine.marks.uploaded_end
            if not covered or (total <= keep and segment.base > last_damaged):
                break
            total -= segment.size_bytes
            start = segment.end
        if start == self._files.start:
            return
        with trio.CancelScope(shield=True):
            damaged = [base for base in self._files.damaged if base < start]
            await self._save_trim(engine.marks.start_offset, start)
            # What goes is in verified objects, or else it would be nowhere.
            assert start <= engine.marks.uploaded_end, (start, engine.marks)
            gone = self._files.drop_before(start)
            await engine.pins.released(start, stored=False)
            if damaged:
                await self._disk.run(_keep_damaged, self._disk, self._names, damaged)
            await self._remove(_files_of(self._names, gone))

    async def _learn_times(self) -> None:
        """Find the times of sealed segments that no checkpoint described; each is tried once."""
        files = self._files
        for segment in files.segments.sealed():
            if segment.last_time or segment.base in self._tried:
                continue
            if not self._engine.log.running:
                return
            self._tried.add(segment.base)
            try:
                index = await files.load_index(segment)
            except OSError as error:
                self._failed(error)
                return
            files.segments.replace(
                attrs.evolve(segment, first_time=index.first_time, last_time=index.last_time)
            )
            files.undescribed += 1

    def _failed(self, error: Exception) -> None:
        self._engine.meters.janitor_failures += 1
        log.warning("housekeeping failed and will be tried again: %s", error)

    def _age_segment(self) -> None:
        """Ask the flusher to seal an active segment that is old enough."""
        engine, files, age = self._engine, self._files, self._segment_age
        if age is None or not files.active.size_bytes:
            return
        if engine.meters.now() - files.active_since >= age:
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
        files = self._files
        try:
            while files.unindexed:
                index = files.unindexed[0]
                self._hinted = True
                await self._disk.run(_write_index, self._disk, self._names, index)
                if files.unindexed and files.unindexed[0] is index:
                    files.unindexed.popleft()
            lacks = files.undescribed
            if lacks and lacks * DESCRIBED >= len(self._files.segments):
                self._hinted = True
                base, sealed = self._files.segments.active_base, self._files.segments.sealed()
                await self._disk.run(_write_checkpoint, self._disk, self._names, base, sealed)
                files.undescribed -= lacks
        except OSError as error:
            self._failed(error)

    async def finish(self) -> None:
        """The last hints, and no trim any more. For the end, when the other tasks are done."""
        async with self._lock:  # a trim that began before goes to its end
            self._finished = True
            if not self._engine.log.broken:
                await self.tidy()
            # Tidying may have found the disk broken.
            if self._hinted and not self._engine.log.broken:
                with contextlib.suppress(LogBrokenError):  # nothing of it was acknowledged
                    await self._sync_directory()

    async def trim(self, before: int) -> int:
        """Drop everything below `before` that is sealed. Returns the new start offset.

        Raises OSError when a file could not be written or removed: nothing is lost, the log goes
        on, and it is tried again. Raises LogBrokenError when the directory could not be synced.
        """
        engine, cloud = self._engine, self._engine.cloud
        if cloud is not None:
            await self._trim_catalog(cloud, before)
        async with self._lock:
            sealed = cloud is not None and engine.log.phase is Phase.SEALED
            # Asked again: the lock, and the catalog, may have taken long.
            if self._finished or not (sealed or engine.may_trim(before)):
                raise engine.log.refusal()
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
            self._engine.bells.sweeper.ring()  # there may be objects to delete

    async def _begin_at(self, start: int) -> None:
        """The local part of a trim. With the lock held.

        Not to be interrupted: the durable start and ours must agree.
        """
        engine = self._engine
        if start <= engine.marks.start_offset:
            return
        with trio.CancelScope(shield=True):
            await self._save_trim(start, max(start, self._files.start))
            gone = engine.trimmed(start)
            # No new fetch begins below the start, so these are the last ones.
            await engine.pins.released(start, stored=False)
            await self._remove(_files_of(self._names, gone))

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
        """There is no space to free space: hints go, and what is reserved."""
        if not self._engine.log.broken:
            try:
                await self._lane.run(self._tail.give_back)
            except OSError as error:
                self._engine.break_(error)
                raise self._engine.log.refusal() from error
        await self._disk.run(give_back, self._disk, self._names)
        self._files.undescribed = len(self._files.segments)  # to be written again

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
        # Also if some stayed: those that went must not come back with a power cut.
        await self._sync_directory()
        for error in failed.values():
            raise error

    async def _sync_directory(self) -> None:
        try:
            # In the lane: see `Tail`.
            await self._lane.run(self._tail.sync_directory)
        except OSError as error:
            self._engine.break_(error)
            raise self._engine.log.refusal() from error


def _write_index(disk: Disk, names: LogNames, index: SparseIndex) -> None:
    put_in_place(disk, names.index(index.base), index.encode())


def _write_checkpoint(disk: Disk, names: LogNames, base: int, sealed: list[Segment]) -> None:
    put_in_place(disk, names.checkpoint, encode_document(Checkpoint.of(base, sealed)))


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
