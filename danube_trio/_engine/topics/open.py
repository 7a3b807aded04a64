"""`open_storage`: what many topics share, and the end of all of them.

::

    open  --> metadata store, lanes, housekeeping --> body; topics open as they are used
    leave --> nothing opens any more --> each topic drains and closes, some at a time
          --> housekeeping ends --> whoever watches is told --> metadata store and lanes close
"""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from functools import partial

import trio
from trio.lowlevel import enable_ki_protection

from danube_trio._core.disk import Disk, OpenDirectory
from danube_trio._disk.real import RealDisk
from danube_trio._disk.shared_lanes import SharedLanes
from danube_trio._engine.topics.hosts import TopicHosts
from danube_trio._engine.topics.opening import TopicOpener
from danube_trio._engine.topics.storage import Storage
from danube_trio._engine.wait.leaving import leave_nursery, to_its_end
from danube_trio._engine.wait.running import require_trio
from danube_trio._engine.watch.offer import StorageSource, offer_storage
from danube_trio._engine.watch.serve import Watch
from danube_trio._engine.watch.socket import Offer
from danube_trio.cloud import CloudStore
from danube_trio.config import StorageConfig
from danube_trio.errors import add_note
from danube_trio.metadata import MetadataStore, open_metadata_directory

if sys.platform != "win32":
    import resource

log = logging.getLogger("danube_trio.storage")

# Below the root, beside the namespaces, of which none begins with a dot.
METADATA_DIRECTORY = ".metadata"
# Of an open topic: directory, lock, segment and mark; and of everything else in a program. The
# second is a guess.
FILES_OF_A_TOPIC = 4
OTHER_FILES = 100


def open_storage(
    config: StorageConfig,
    *,
    store: CloudStore | None = None,
    metadata: MetadataStore | None = None,
    disk: Disk | None = None,
    clock: Callable[[], float] = time.time,
) -> AbstractAsyncContextManager[Storage]:
    """Open many topics: ``async with open_storage(StorageConfig(dir=...)) as storage:``.

    Leaving closes all topics, each as `open_wal` does; what was accepted is durable then.

    Args:
        config: the settings.
        store: where sealed segments go; see `open_wal`. It stays the caller's.
        metadata: has the catalogs of all topics then, under Danube's keys, and the cursors of
            subscriptions; it stays the caller's. Without it, catalogs are manifests in `store`, and
            cursors are in a metadata store in ``<dir>/.metadata``.
        disk: the file system; for tests, see `danube_trio.testing`.
        clock: seconds since 1970.

    Raises, on entering: LogLockedError if another process has the embedded metadata store,
    CorruptDataError, UnsupportedFormatError or OSError if it cannot be opened.

    Raises, on leaving: what leaving a topic raised and no caller was told; several of these as an
    ExceptionGroup.
    """
    if not isinstance(config, StorageConfig):
        raise TypeError(
            f"config={config!r} must be a StorageConfig: open_storage(StorageConfig(dir=...))"
        )
    if store is None and config.wal.durability == "uploaded":
        raise ValueError(
            "durability='uploaded' needs an object store: open_storage(..., store=...)"
        )
    return _OpenStorage(config, store, metadata, disk, clock)


class _OpenStorage(AbstractAsyncContextManager[Storage]):
    """The block: everything that must be undone on leaving."""

    def __init__(
        self,
        config: StorageConfig,
        store: CloudStore | None,
        metadata: MetadataStore | None,
        disk: Disk | None,
        clock: Callable[[], float],
    ) -> None:
        self._config = config
        self._store = store
        self._given = metadata
        self._clock = clock
        self._real = disk is None
        self._disk = SharedLanes(disk if disk is not None else RealDisk(), config.io_threads)
        self._resources = AsyncExitStack()
        self._nursery: AbstractAsyncContextManager[trio.Nursery] | None = None
        self._housekeeping = trio.CancelScope(shield=True)
        self._bugs: list[BaseException] = []
        self._offer: Offer | None = None
        self._watch: Watch | None = None
        self._hosts: TopicHosts | None = None
        self._root: OpenDirectory | None = None

    @enable_ki_protection
    async def __aenter__(self) -> Storage:
        if self._hosts is not None:
            raise RuntimeError("open_storage(...) can be entered once: call it again")
        require_trio("open_storage", "danube_trio.anyio")
        await trio.lowlevel.checkpoint()
        config = self._config
        if self._real:
            _look_at_limits(config)
        try:
            metadata = self._given
            if metadata is None:
                path = f"{config.dir}/{METADATA_DIRECTORY}"
                embedded = open_metadata_directory(path, disk=self._disk)
                metadata = await self._resources.enter_async_context(embedded)
            with contextlib.suppress(FileNotFoundError):  # then the first topic makes it
                self._root = await self._disk.run(self._disk.open_dir, config.dir)
            if config.watch:
                self._offer = await self._disk.run(offer_storage, self._disk, config.dir)
            self._nursery = trio.open_nursery()
            nursery = await self._nursery.__aenter__()
        except BaseException:
            if self._offer is not None:
                self._offer.close()
            await self._close()
            raise
        door = TopicOpener(config, self._disk, self._root, self._store, self._given, self._clock)
        self._hosts = hosts = TopicHosts(
            nursery,
            door.open_log,
            door.admit,
            door.fenced,
            limit=config.max_open_topics,
            idle_seconds=config.idle_seconds,
            uploads=self._store is not None and config.wal.cloud.upload_interval is not None,
        )
        nursery.start_soon(self._keep_house, hosts, name="danube_trio storage housekeeping")
        storage = Storage(config, door, hosts, self._disk, metadata)
        if self._offer is not None:
            source = StorageSource(config.dir, storage)
            self._watch = Watch(self._offer, source, self._disk.run)
            self._watch.start(nursery)
        return storage

    async def _close(self) -> None:
        with trio.CancelScope(shield=True):
            if self._watch is not None:
                await self._watch.aclose("the storage was left")
            await to_its_end(self._resources.aclose)
            if self._root is not None:
                await to_its_end(partial(self._disk.run, self._root.close))
            await to_its_end(self._disk.aclose)

    @enable_ki_protection
    async def _keep_house(self, hosts: TopicHosts) -> None:
        try:
            with self._housekeeping:
                await hosts.keep_house()
        except BaseException as bug:
            self._bugs.append(bug)
            raise

    @enable_ki_protection
    async def __aexit__(self, _: object, exc: BaseException | None, traceback: object) -> None:
        hosts = self._hosts
        assert hosts is not None
        assert self._nursery is not None
        hosts.leave()
        interrupt: KeyboardInterrupt | None = None
        with trio.CancelScope(shield=True):
            interrupt = await to_its_end(hosts.wait_empty)
        self._housekeeping.cancel()
        await self._close()
        await leave_nursery(self._nursery, self._bugs, exc)
        untold = list(hosts.untold.values())
        if untold and (exc is None or isinstance(exc, trio.Cancelled)):
            if len(untold) == 1:
                raise untold[0]
            raise ExceptionGroup("leaving topics failed, and no caller was told", untold)
        if exc is not None:
            for error in untold:
                add_note(exc, str(error))
        if interrupt is not None:
            raise interrupt


def _look_at_limits(config: StorageConfig) -> None:
    """Say it now if this process may not have as many open files as the settings allow topics."""
    if sys.platform == "win32":
        return
    needed = config.max_open_topics * FILES_OF_A_TOPIC + OTHER_FILES
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed != resource.RLIM_INFINITY and allowed < needed:
        log.warning(
            "max_open_topics=%d may need %d open files, and this process may have %d: lower the "
            "setting, or raise the limit (ulimit -n)",
            config.max_open_topics,
            needed,
            allowed,
        )
