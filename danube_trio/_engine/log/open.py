"""`open_wal`: recover the directory, start the tasks, wire the channel between them; and the end.

::

    open  --> lock --> recover --> [ writer --channel--> flusher ]  janitor  --> body
    leave --> acceptance closes --> writer drains and closes its channel
          --> flusher syncs and closes the files --> janitor writes its hints
          --> whoever watches is told --> unlock

The tasks live in a nursery around the body, each behind a shield: cancelling the body closes
acceptance, and what was accepted still drains. A failing disk breaks the log and ends the tasks
without an exception; only a bug in a task cancels the body.
"""

from __future__ import annotations

import logging
import os
import time
import uuid
import warnings
import weakref
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack
from functools import partial

import trio
from trio.lowlevel import enable_ki_protection

from danube_trio._core.clocks import too_far_ahead
from danube_trio._core.codec import get_codec
from danube_trio._core.disk import Disk, Lane, OpenDirectory
from danube_trio._core.life import Phase
from danube_trio._core.segment import LogNames
from danube_trio._core.times import LATEST_US, moment
from danube_trio._disk.locks import this_process
from danube_trio._disk.real import RealDisk
from danube_trio._engine.files.directory import refuse_foreign
from danube_trio._engine.files.presence import LostFileError
from danube_trio._engine.files.recover import Recovered, recover
from danube_trio._engine.log.attach import take_over
from danube_trio._engine.log.cloud_side import CloudSide
from danube_trio._engine.log.engine import Engine, Work
from danube_trio._engine.log.flusher import run_flusher
from danube_trio._engine.log.janitor import Floor, Janitor
from danube_trio._engine.log.local_files import LocalFiles
from danube_trio._engine.log.uploader import Uploader
from danube_trio._engine.log.wal import Wal
from danube_trio._engine.log.writer import run_writer
from danube_trio._engine.read.objects import CloudTier
from danube_trio._engine.wait.leaving import leave_nursery, to_its_end
from danube_trio._engine.wait.running import require_trio
from danube_trio._engine.wait.waiters import WatchedMarks
from danube_trio._engine.watch.offer import offer_log
from danube_trio._engine.watch.serve import StatisticsSource, Watch
from danube_trio._engine.watch.socket import Offer
from danube_trio.catalog import Catalog, CatalogSession
from danube_trio.catalog._default import default_catalog
from danube_trio.cloud import CloudStore
from danube_trio.config import WalConfig
from danube_trio.errors import DanubeError, LogBrokenError, add_note

log = logging.getLogger("danube_trio.open")

_open_engines: weakref.WeakSet[Engine] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    """The child has the parent's descriptors, but none of its tasks and threads."""
    for engine in _open_engines:
        engine.log.fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def open_wal(
    config: WalConfig,
    *,
    store: CloudStore | None = None,
    catalog: Catalog | None = None,
    disk: Disk | None = None,
    clock: Callable[[], float] = time.time,
) -> AbstractAsyncContextManager[Wal]:
    """Open a log for appending and reading: ``async with open_wal(WalConfig(dir=...)) as wal:``.

    Makes the directory if it is missing, recovers the log in it, and holds its lock until the
    block is left. Leaving drains and syncs what was accepted.

    Args:
        config: the settings; ``WalConfig()`` is a log in memory.
        store: where sealed segments go. Opening takes the log over from any other writer: its next
            change of the catalog is refused. The store stays the caller's.
        catalog: says which objects there are; by default numbered manifests in the store itself.
        disk: the file system; for tests, see `danube_trio.testing`.
        clock: seconds since 1970, for append and publish times and for retention by age.

    Raises, on entering:
        LogLockedError: another process or block holds the log.
        StoreUnavailableError, AccessDeniedError: the store or catalog does not answer, or not
            within ``CloudConfig.open_timeout``.
        DishonestStoreError: the store lets two writers create the same object.
        FencedError: other writers take the log over again and again.
        CorruptDataError: damage, with the file, position and offset; nothing was changed.
        UnsupportedFormatError: the directory is Danube's own, or of a later version; or Danube
            wrote to the topic in the catalog.
        OSError, ValueError: the directory cannot be used.

    Raises, on leaving:
        LogBrokenError: the disk failed, and accepted records were lost of which no caller was told.
        FencedError: another writer took the log over, and no caller was told: what was not
            uploaded is kept here, and will not be part of the log.
    """
    return open_log(
        config, store=store, catalog=catalog, disk=disk, clock=clock, floor=lambda: None
    )


def open_log(
    config: WalConfig,
    *,
    store: CloudStore | None,
    catalog: Catalog | None,
    disk: Disk | None,
    clock: Callable[[], float],
    floor: Floor,
) -> AbstractAsyncContextManager[Wal]:
    """`open_wal`, for a storage, which says besides what retention must keep: see `Janitor`."""
    if not isinstance(config, WalConfig):
        raise TypeError(f"config={config!r} must be a WalConfig: open_wal(WalConfig(dir=...))")
    if store is not None and not hasattr(store, "list_objects"):
        raise TypeError(f"store={store!r} must be an object store, such as open_store(url) gives")
    if store is None and catalog is not None:
        raise ValueError("catalog: a catalog of objects needs a store to keep them in")
    if store is None and config.durability == "uploaded":
        raise ValueError("durability='uploaded' needs an object store: open_wal(..., store=...)")
    if store is not None and config.dir is None:
        raise ValueError("dir=None: a log with an object store needs a directory too")
    if config.watch and config.dir is None:
        raise ValueError(
            "watch=True needs a directory for its socket: a log in memory can be offered with "
            "danube_trio.watch.serve_statistics(wal, path)"
        )
    if config.dir is None:
        return _OpenWal(partial(_in_memory, config, clock))
    disk = disk if disk is not None else RealDisk()
    cloud = None
    if store is not None:
        cloud = (store, catalog if catalog is not None else default_catalog(config, store))
    return _OpenWal(partial(_in_directory, config, clock, disk, cloud, floor))


class _OpenWal(AbstractAsyncContextManager[Wal]):
    """The block: entering it makes the log, by its recipe, and leaving takes it down."""

    def __init__(self, recipe: Callable[[], Awaitable[_InMemory | _InDirectory]]) -> None:
        self._recipe = recipe
        self._made: _InMemory | _InDirectory | None = None

    @enable_ki_protection
    async def __aenter__(self) -> Wal:
        if self._made is not None:
            raise RuntimeError("open_wal(...) can be entered once: call it again")
        require_trio("open_wal", "danube_trio.anyio")
        await trio.lowlevel.checkpoint()
        self._made = made = await self._recipe()
        return made.wal

    @enable_ki_protection
    async def __aexit__(self, _: object, exc: BaseException | None, traceback: object) -> None:
        assert self._made is not None
        engine = self._made.engine
        engine.close_acceptance()
        interrupt = await self._made.leave(exc)
        untold = _untold(engine)
        if untold is not None:
            if exc is None or isinstance(exc, trio.Cancelled):
                raise untold
            add_note(exc, str(untold))
        if interrupt is not None:
            raise interrupt


def _untold(engine: Engine) -> DanubeError | None:
    """What a caller should know, and none was told."""
    if engine.log.lost:
        error = LogBrokenError(
            f"{engine.log.lost} accepted records may be lost, and no caller was told: "
            f"{engine.log.failure}. Append what is missing again after reopening",
            lost=engine.log.lost,
        )
        error.__cause__ = engine.log.failure
        return error
    failure = engine.log.untold_failure
    if isinstance(failure, LostFileError) and failure.moved:
        # Nothing is lost, and nobody would look for it where it is.
        return engine.log.refusal()
    return engine.untold_fence


class _Made:
    """What entering the block made. The tasks that it has keep it, as long as they run."""

    def __init__(self, engine: Engine, wal: Wal) -> None:
        self.engine = engine
        self.wal = wal

    def __del__(self) -> None:
        if self.engine.log.phase is Phase.OPEN:
            warnings.warn(
                f"log {self.engine.config.dir} was never closed: leave its 'async with' block",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )


# ---- in memory


class _InMemory(_Made):
    async def leave(self, exc: BaseException | None) -> KeyboardInterrupt | None:
        self.engine.closed()
        await trio.lowlevel.checkpoint()
        return None


async def _in_memory(config: WalConfig, clock: Callable[[], float]) -> _InMemory:
    engine = Engine(config, get_codec(config.codec), WatchedMarks(), clock=clock)
    return _InMemory(engine, Wal(engine, None, uuid.uuid4().hex))


# ---- in a directory, with or without a store


class _InDirectory(_Made):
    """A log with its tasks, each behind a shield."""

    def __init__(
        self,
        engine: Engine,
        wal: Wal,
        janitor: Janitor,
        lane: Lane,
        directory: OpenDirectory,
        nursery: AbstractAsyncContextManager[trio.Nursery],
    ) -> None:
        super().__init__(engine, wal)
        self._janitor = janitor
        self._lane = lane
        self._directory = directory
        self._nursery = nursery
        self._running = 0
        self._bugs: list[BaseException] = []
        self._drained = trio.Event()
        # What makes tasks end that do not end by themselves when acceptance does; then, when all
        # are done, what is left to do before the lock is given back.
        self.stops: list[Callable[[], None]] = []
        self.last_steps: list[Callable[[], Awaitable[object]]] = []

    def start(self, nursery: trio.Nursery, name: str, task: Callable[[], Awaitable[None]]) -> None:
        self._running += 1
        nursery.start_soon(
            self._supervise, name, task, name=f"danube_trio {name} {self.engine.config.dir}"
        )

    # Ctrl-C is for the body, not for a task in the middle of a block: the log then drains.
    @enable_ki_protection
    async def _supervise(self, name: str, task: Callable[[], Awaitable[None]]) -> None:
        try:
            with trio.CancelScope(shield=True):
                await task()
        except BaseException as bug:
            self._bugs.append(bug)
            self.engine.break_(bug)
            raise
        finally:
            self.engine.meters.ended(name)
            self._running -= 1
            if not self._running:
                self._drained.set()

    async def leave(self, exc: BaseException | None) -> KeyboardInterrupt | None:
        for stop in self.stops:
            stop()
        steps: list[Callable[[], Awaitable[object]]] = [
            self._drained.wait,
            self._janitor.finish,
            *self.last_steps,
            partial(self._lane.run, self._release),
            self._lane.aclose,
        ]
        interrupt: KeyboardInterrupt | None = None
        with trio.CancelScope(shield=True):
            for step in steps:
                interrupt = await to_its_end(step) or interrupt
        self.engine.closed()
        await leave_nursery(self._nursery, self._bugs, exc)
        return interrupt

    def _release(self) -> None:
        assert self.engine.files is not None
        self.engine.files.unlocked = True  # before it is so: our readers read our files only
        self._directory.close()


async def _in_directory(
    config: WalConfig,
    clock: Callable[[], float],
    disk: Disk,
    cloud: tuple[CloudStore, Catalog] | None,
    floor: Floor,
) -> _InDirectory:
    lane = disk.open_lane()
    # In the lane, as all that it undoes: a call there goes to its end when Ctrl-C strikes, and what
    # it returns is lost then.
    undo = ExitStack()
    try:
        held = await lane.run(_hold, disk, config, undo)
        session = None
        if cloud is None:
            recovered = await lane.run(_recover, held, config, undo)
        else:
            recovered, session = await take_over(lane, held, config, cloud, this_process())
            undo.callback(recovered.tail.abandon)
        engine, files = _engine_of(config, clock, held, recovered, cloud, session)
        janitor = Janitor(engine, files, lane, recovered.tail, session, floor)
        uploader = None
        if cloud is not None and session is not None and engine.cloud is not None:
            session.on_change = engine.cloud.published
            uploader = Uploader(engine, engine.cloud, files, cloud[0], session)
        wal = Wal(engine, janitor, recovered.directory.meta.log)
        # While nobody can append yet: a full disk is freed before it is written to.
        await janitor.make_room()
        offer = None
        if config.watch:
            offer = await lane.run(_offer, files.names, undo)
        # Last, since it cannot be undone like the others: from here on the tasks are left.
        block = trio.open_nursery()
        nursery = await block.__aenter__()
    except BaseException:
        await lane.run(undo.close)
        await lane.aclose()
        raise
    made = _InDirectory(engine, wal, janitor, lane, held, block)
    _open_engines.add(engine)
    send, receive = trio.open_memory_channel[Work](0)
    made.start(nursery, "writer", lambda: run_writer(engine, send))
    made.start(nursery, "flusher", lambda: run_flusher(engine, receive, lane, recovered.tail))
    made.start(nursery, "janitor", janitor.run)
    if uploader is not None and engine.tier is not None:
        made.start(nursery, "uploader", uploader.run)
        made.start(nursery, "sweeper", uploader.sweeper.run)
        made.start(nursery, "readahead", engine.tier.serve)
        made.stops += [uploader.stop, engine.tier.close]
    if offer is not None:
        source = StatisticsSource("wal", files.names.directory, wal.statistics)
        watch = Watch(offer, source, lane.run)
        watch.start(nursery)
        made.last_steps.append(partial(watch.aclose, "the log was left"))
    return made


def _hold(disk: Disk, config: WalConfig, undo: ExitStack) -> OpenDirectory:
    """Hold the directory, and lock it: from here on paths in it are names in what is held."""
    assert config.dir is not None
    names = LogNames.of(config.dir, config.file_name)
    disk.make_dir(config.dir)
    held = disk.open_dir(config.dir)
    try:
        refuse_foreign(held, names)  # before the lock file could be made
        held.lock(names.lock, this_process())
    except BaseException:
        held.close()
        raise
    undo.callback(held.close)
    return held


def _recover(disk: OpenDirectory, config: WalConfig, undo: ExitStack) -> Recovered:
    recovered = recover(disk, config, uuid.uuid4().hex)
    undo.callback(recovered.tail.abandon)
    recovered.tail.know_small_files()
    if place := recovered.directory.meta.place:
        log.warning(
            "%s: opened without the object store that has its objects, below %s. What is "
            "appended is set aside if another directory, or a copy, uses the store meanwhile",
            *(config.dir, place),
        )
    return recovered


def _offer(names: LogNames, undo: ExitStack) -> Offer | None:
    offer = offer_log(names.watch)
    if offer is not None:
        undo.callback(offer.close)
    return offer


def _engine_of(
    config: WalConfig,
    clock: Callable[[], float],
    disk: OpenDirectory,
    recovered: Recovered,
    cloud: tuple[CloudStore, Catalog] | None,
    session: CatalogSession | None,
) -> tuple[Engine, LocalFiles]:
    """The engine of what was recovered, with its shelves."""
    directory, segments = recovered.directory, recovered.segments
    tier = None
    if session is not None and cloud is not None:
        tier = CloudTier.of(*cloud, session.state, config.cloud, disk.run)
    marks = WatchedMarks(
        directory.start_offset,
        segments.active_base,
        recovered.next_offset,
        # What is in a store only is not ours to free without it; nobody uploads then.
        uploaded_end=tier.end if tier is not None else directory.local_start,
        early_visible=config.visibility == "written",
    )
    last_time = _believed(_times(recovered, tier), config, clock)
    codec = get_codec(directory.meta.codec)
    engine = Engine(config, codec, marks, clock=clock, last_time=last_time)
    files = engine.files = LocalFiles(
        disk,
        directory.names,
        segments,
        recovered.active,
        fetch_bytes=config.read_block_bytes,
        state=engine.log,
        janitor_bell=engine.bells.janitor,
        unindexed=recovered.unindexed,
        undescribed=directory.undescribed(segments),
        notes=recovered.notes,
    )
    assert files.start <= marks.sealed_end == files.active.base, (files.start, marks)
    assert files.end == marks.next_offset, (files.end, marks)
    if tier is not None:
        way_in = engine.intake, engine.queue
        engine.cloud = CloudSide(
            tier, config, engine.log, marks, files, way_in, engine.bells, engine.meters
        )
    return engine, files


def _times(recovered: Recovered, tier: CloudTier | None) -> list[int]:
    """Append times (us) of the log, as far as they are known without reading."""
    runs = [*recovered.segments, recovered.active, *(tier.objects if tier is not None else ())]
    times = [time for run in runs for time in (run.first_time, run.last_time)]
    return [time for time in (recovered.last_time, *times) if time]


def _believed(times: Sequence[int], config: WalConfig, clock: Callable[[], float]) -> int:
    """The newest of these append times (us) that the log can go on from."""
    if not times:
        return 0
    now, newest, ahead = clock(), max(times), config.max_clock_ahead
    if not 0 <= now < LATEST_US / 1e6:
        return newest  # no time at all: appends will be refused
    now_us, ahead_us = round(now * 1e6), round(ahead * 1e6)
    believed = max((t for t in times if not too_far_ahead(t, now_us, ahead_us)), default=0)
    if believed < newest:
        logging.getLogger("danube_trio.engine").warning(
            "%s: records have append times up to %s, and the clock says %s: those further "
            "ahead of it than max_clock_ahead=%s s are taken for unknown. If it is the clock "
            "that is wrong, set it; if it was, `danube-trio repair` mends what is only here",
            *(config.dir, moment(newest / 1e6), moment(now), ahead),
        )
    return believed
