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
import secrets
import socket
import time
import uuid
import warnings
import weakref
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from types import TracebackType

import trio
from trio.lowlevel import enable_ki_protection

from danube_trio._core.catalog import CatalogState
from danube_trio._core.codec import get_codec
from danube_trio._core.disk import Disk, Lane, OpenDirectory
from danube_trio._core.life import Phase
from danube_trio._core.log import Marks
from danube_trio._core.segment import LogNames
from danube_trio._disk.real import RealDisk
from danube_trio._engine.files.directory import refuse_foreign
from danube_trio._engine.files.presence import LostFileError
from danube_trio._engine.files.recover import Recovered, recover
from danube_trio._engine.files.space import has_room
from danube_trio._engine.files.tail import Tail
from danube_trio._engine.log.attach import attach
from danube_trio._engine.log.engine import Engine, Work
from danube_trio._engine.log.flusher import run_flusher
from danube_trio._engine.log.janitor import Janitor
from danube_trio._engine.log.uploader import Uploader
from danube_trio._engine.log.wal import Wal
from danube_trio._engine.log.writer import run_writer
from danube_trio._engine.read.objects import CloudTier
from danube_trio._engine.wait.leaving import leave_nursery, to_its_end
from danube_trio._engine.wait.running import require_trio
from danube_trio._engine.watch.offer import offer_log
from danube_trio._engine.watch.serve import StatisticsSource, Watch
from danube_trio._engine.watch.socket import Offer
from danube_trio.catalog import Catalog, CatalogSession, acquire
from danube_trio.catalog._claim import claim_prefix, refuse_beginning, refuse_older
from danube_trio.catalog._default import default_catalog, probe_once
from danube_trio.cloud import CloudStore
from danube_trio.config import WalConfig
from danube_trio.errors import DanubeError, LogBrokenError, StoreUnavailableError, add_note

__all__ = ["open_wal"]

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
    if store is not None and catalog is None:
        catalog = default_catalog(config, store)
    cloud = (store, catalog) if store is not None and catalog is not None else None
    return _OpenWal(config, disk, clock, cloud)


class _OpenWal(AbstractAsyncContextManager[Wal]):
    """The block: everything that must be undone on leaving."""

    def __init__(
        self,
        config: WalConfig,
        disk: Disk | None,
        clock: Callable[[], float],
        cloud: tuple[CloudStore, Catalog] | None,
    ) -> None:
        self._config = config
        self._cloud = cloud
        self._asking = trio.CancelScope()
        self._uploader: Uploader | None = None
        self._disk = disk
        self._clock = clock
        self._engine: Engine | None = None
        self._janitor: Janitor | None = None
        self._lane: Lane | None = None
        self._directory: OpenDirectory | None = None  # held, and locked
        self._recovered: Recovered | None = None
        self._offer: Offer | None = None
        self._watch: Watch | None = None
        self._running = 0
        self._bugs: list[BaseException] = []
        self._drained = trio.Event()
        self._nursery: AbstractAsyncContextManager[trio.Nursery] | None = None

    def __del__(self) -> None:
        if self._engine is not None and self._engine.log.phase is Phase.OPEN:
            warnings.warn(
                f"log {self._config.dir} was never closed: leave its 'async with' block",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )

    @enable_ki_protection
    async def __aenter__(self) -> Wal:
        if self._engine is not None:
            raise RuntimeError("open_wal(...) can be entered once: call it again")
        require_trio("open_wal", "danube_trio.anyio")
        await trio.lowlevel.checkpoint()
        config = self._config
        if config.dir is None:
            codec = get_codec(config.codec)
            own = uuid.uuid4().hex
            self._engine = Engine(config, codec, Marks(), clock=self._clock, log_id=own)
            return Wal(self._engine, None)
        disk = self._disk if self._disk is not None else RealDisk()
        self._lane = lane = disk.open_lane()
        try:
            # From here on it is the disk: paths in the directory are names in what is held.
            disk = held = await lane.run(self._acquire, disk)
            session = None
            if self._cloud is None:
                await lane.run(self._recover, held)
            else:
                session = await self._take_over(lane, held, self._cloud)
            assert self._recovered is not None
            engine = self._engine_of(disk, session)
            names, tail = self._recovered.directory.names, self._recovered.tail
            janitor = Janitor(engine, disk, names, lane, tail, session)
            if self._cloud is not None and session is not None and engine.cloud is not None:
                session.on_change = engine.cloud.published
                self._uploader = Uploader(engine, disk, names, self._cloud[0], session)
            wal = Wal(engine, janitor)
            await janitor.make_room()
            if config.watch:
                self._offer = await lane.run(offer_log, names.watch)
            self._nursery = trio.open_nursery()
            nursery = await self._nursery.__aenter__()
        except BaseException:
            await lane.run(self._give_up)
            await lane.aclose()
            raise
        self._engine, self._janitor = engine, janitor
        _open_engines.add(engine)
        self._start(nursery, engine, janitor, lane, tail)
        if self._offer is not None:
            source = StatisticsSource("wal", names.directory, wal.statistics)
            self._watch = Watch(self._offer, source, lane.run)
            self._watch.start(nursery)
        return wal

    async def _take_over(
        self, lane: Lane, disk: OpenDirectory, cloud: tuple[CloudStore, Catalog]
    ) -> CatalogSession:
        """Have the log be this directory's, in store and catalog."""
        timeout = self._config.cloud.open_timeout
        self._asking.deadline = trio.current_time() + timeout
        with self._asking:
            await probe_once(cloud[0])
            state = await acquire(cloud[1], partial(self._settle, lane, disk))
            if not state.place:
                await claim_prefix(*cloud, state)
            return CatalogSession(cloud[1], state)
        raise StoreUnavailableError(
            f"opening {self._config.dir}: {cloud[0].url} and {cloud[1].url} did not answer within "
            f"cloud.open_timeout={timeout:g} s; open it again when they do"
        )

    def _acquire(self, disk: Disk) -> OpenDirectory:
        """Hold the directory, and lock it; runs in the lane."""
        config = self._config
        assert config.dir is not None
        names = LogNames.of(config.dir, config.file_name)
        disk.make_dir(config.dir)
        self._directory = held = disk.open_dir(config.dir)
        refuse_foreign(held, names)  # before the lock file could be made
        held.lock(names.lock, _holder())
        return held

    def _recover(self, disk: OpenDirectory) -> None:
        self._recovered = recover(disk, self._config, uuid.uuid4().hex)
        if place := self._recovered.directory.meta.place:
            log.warning(
                "%s: opened without the object store that has its objects, below %s. What is "
                "appended is set aside if another directory, or a copy, uses the store meanwhile",
                *(self._config.dir, place),
            )
        self._know_small_files()

    def _know_small_files(self) -> None:
        """From here on whoever touches them is noticed: nobody replaces them any more."""
        assert self._recovered is not None
        tail = self._recovered.tail
        tail.presence.know(tail.names.meta)
        if has_room(tail.disk, tail.names):
            tail.presence.know(tail.names.trim)

    async def _settle(
        self, lane: Lane, disk: OpenDirectory, state: CatalogState | None
    ) -> CatalogState:
        """Make the directory agree with this state; returns the one that takes the next epoch."""
        assert self._cloud is not None
        if state is None:
            await refuse_beginning(*self._cloud)
        else:
            await refuse_older(*self._cloud, state)
            if state.log and not state.place:
                await claim_prefix(*self._cloud, state)
        left = self._asking.deadline - trio.current_time()
        self._asking.deadline = float("inf")
        try:
            return await lane.run(self._attach, disk, state)
        finally:
            self._asking.deadline = trio.current_time() + left

    def _attach(self, disk: OpenDirectory, state: CatalogState | None) -> CatalogState:
        told: list[str] = []
        if self._recovered is not None:  # somebody published meanwhile: all of it again
            told = self._recovered.notes
            self._recovered.tail.abandon()
            self._recovered = None
        directory_id, tag = uuid.uuid4().hex, secrets.token_hex(4)
        holder = f"{_holder()}, opening {tag}"
        assert self._cloud is not None
        catalog = self._cloud[1]
        self._recovered, after = attach(disk, self._config, directory_id, holder, catalog, state)
        self._recovered.notes[:0] = told
        self._know_small_files()
        return after

    def _give_up(self) -> None:
        """Close what opening opened; runs in the lane."""
        if self._recovered is not None:
            self._recovered.tail.abandon()
        if self._offer is not None:
            self._offer.close()
        self._release()

    def _engine_of(self, disk: Disk, session: CatalogSession | None) -> Engine:
        recovered, config = self._recovered, self._config
        assert recovered is not None
        directory, tier, uploaded_end = recovered.directory, None, 0
        if session is not None and self._cloud is not None:
            store, catalog = self._cloud
            tier = CloudTier.of(store, catalog, session.state, config.cloud, disk.run)
            uploaded_end = session.state.end
        else:
            # What is in a store only is not ours to free; nobody uploads.
            uploaded_end = directory.local_start
        marks = Marks(
            directory.start_offset,
            recovered.segments.active_base,
            recovered.next_offset,
            uploaded_end=uploaded_end,
        )
        engine = Engine(
            config,
            get_codec(directory.meta.codec),
            marks,
            clock=self._clock,
            disk=disk,
            names=directory.names,
            segments=recovered.segments,
            active=recovered.active,
            times=_times(recovered, tier),
            notes=recovered.notes,
            tier=tier,
            log_id=directory.meta.log,
        )
        for index in recovered.unindexed:
            engine.unindexed.append(index)
            engine.indexes.keep(index)
        engine.undescribed = directory.undescribed(recovered.segments)
        return engine

    def _start(
        self, nursery: trio.Nursery, engine: Engine, janitor: Janitor, lane: Lane, tail: Tail
    ) -> None:
        send, receive = trio.open_memory_channel[Work](0)
        tasks: list[tuple[str, Callable[[], Awaitable[None]]]] = [
            ("writer", lambda: run_writer(engine, send)),
            ("flusher", lambda: run_flusher(engine, receive, lane, tail)),
            ("janitor", janitor.run),
        ]
        if self._uploader is not None and engine.tier is not None:
            tasks += [
                ("uploader", self._uploader.run),
                ("sweeper", self._uploader.sweeper.run),
                ("readahead", engine.tier.serve),
            ]
        for name, task in tasks:
            self._running += 1
            nursery.start_soon(
                self._supervise, name, task, name=f"danube_trio {name} {engine.config.dir}"
            )

    # Ctrl-C is for the body, not for a task in the middle of a block: the log then drains.
    @enable_ki_protection
    async def _supervise(self, name: str, task: Callable[[], Awaitable[None]]) -> None:
        assert self._engine is not None
        try:
            with trio.CancelScope(shield=True):
                await task()
        except BaseException as bug:
            self._bugs.append(bug)
            self._engine.break_(bug)
            raise
        finally:
            self._engine.meters.ended(name)
            self._running -= 1
            if not self._running:
                self._drained.set()

    @enable_ki_protection
    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        engine = self._engine
        assert engine is not None
        engine.close_acceptance()
        if self._uploader is not None and engine.tier is not None:
            self._uploader.stop()
            engine.tier.close()
        interrupt: KeyboardInterrupt | None = None
        if self._lane is not None and self._janitor is not None:
            steps = (
                self._drained.wait,
                self._janitor.finish,
                self._end_watch,
                partial(self._lane.run, self._release),
                self._lane.aclose,
            )
            with trio.CancelScope(shield=True):
                for step in steps:
                    interrupt = await to_its_end(step) or interrupt
        engine.closed()
        if self._lane is not None:
            assert self._nursery is not None
            await leave_nursery(self._nursery, self._bugs, exc)
        else:
            await trio.lowlevel.checkpoint()
        untold = self._untold(engine)
        if untold is not None:
            if exc is None or isinstance(exc, trio.Cancelled):
                raise untold
            add_note(exc, str(untold))
        if interrupt is not None:
            raise interrupt

    async def _end_watch(self) -> None:
        if self._watch is not None:
            await self._watch.aclose("the log was left")

    def _release(self) -> None:
        if self._engine is not None:
            self._engine.unlocked = True  # before it is so: our readers read our files only
        if self._directory is not None:
            self._directory.close()

    def _untold(self, engine: Engine) -> DanubeError | None:
        """What a caller should know, and none was told."""
        if engine.log.lost:
            return self._lost(engine)
        failure = engine.log.untold_failure
        if isinstance(failure, LostFileError) and failure.moved:
            # Nothing is lost, and nobody would look for it where it is.
            return engine.log.refusal()
        return engine.untold_fence

    def _lost(self, engine: Engine) -> LogBrokenError:
        error = LogBrokenError(
            f"{engine.log.lost} accepted records may be lost, and no caller was told: "
            f"{engine.log.failure}. Append what is missing again after reopening",
            lost=engine.log.lost,
        )
        error.__cause__ = engine.log.failure
        return error


def _times(recovered: Recovered, tier: CloudTier | None) -> list[int]:
    """Append times (us) of the log, as far as they are known without reading."""
    runs = [*recovered.segments, recovered.active, *(tier.objects if tier is not None else ())]
    times = [time for run in runs for time in (run.first_time, run.last_time)]
    return [time for time in (recovered.last_time, *times) if time]


def _holder() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"
