"""Following: a read-only view of a log that another process writes, or nobody any more.

A follower takes no lock and changes nothing; `observe` says how it looks at the directory, and why
what it shows stays, or else is told. Its readers are the log's own: they only have another source.

**Waiting.** The writer knows nothing of its followers: it may run on another machine, or be dead.
So whoever waits for new records has the directory looked at again and again: when the system tells
that it is worth it, where it can (`Disk.watch`), else every `poll_seconds` (see `poller`). What is
watched are the durability mark, which is written after each sync, and the names in the
directory: segments come and go, and the mark may be made anew. Writes to segments are not: they
come before their sync, when there is nothing to see yet.

**Retention** may take a file between a look and the fetch from it. The fetch fails, the follower
looks again before the reader hears of it, and the reader finds its cursor below the start.
"""

from __future__ import annotations

import logging
import os
import time
import weakref
from contextlib import AbstractAsyncContextManager
from typing import Any, Literal

import attrs

from danube_trio._core.catalog import CatalogState
from danube_trio._core.codec import CODECS
from danube_trio._core.disk import Disk, OpenDirectory, Watch
from danube_trio._core.identity import check_log
from danube_trio._core.index import SparseIndex
from danube_trio._core.log import Marks
from danube_trio._core.segment import LogNames, SegmentList
from danube_trio._core.stats import ReaderStatistics
from danube_trio._disk.read_only import ReadOnlyDisk
from danube_trio._disk.real import RealDisk
from danube_trio._engine.files.directory import Directory
from danube_trio._engine.read.file_shelf import FileShelf
from danube_trio._engine.read.objects import CloudTier
from danube_trio._engine.read.observe import NOTHING_SEEN, Observer, View, find_log
from danube_trio._engine.read.poller import Poller
from danube_trio._engine.read.readable import Observed
from danube_trio._engine.read.reader import Reader
from danube_trio._engine.wait.pins import Pins
from danube_trio._engine.wait.running import require_trio
from danube_trio.catalog import Backoff, Catalog, Outage
from danube_trio.catalog._default import default_catalog
from danube_trio.catalog._patient import latest_state
from danube_trio.cloud import CloudStore
from danube_trio.config import CloudConfig, WalConfig

log = logging.getLogger("danube_trio.follow")


@attrs.frozen
class FollowerStatistics:
    """A follower at one moment. Offsets are exclusive ends; sizes in bytes.

    Attributes:
        start_offset, durable_end: the marks, as of the last look.
        segments: files, the active one included.
        size_bytes: frames in them, below the durability mark.
        looks: how often the directory was looked at.
        notifications: how many of them because the system told of a change to those who waited.
        by: what those who wait for news rely on now, ``notification`` or ``polling``.
        readers: the open readers.
    """

    start_offset: int
    durable_end: int
    segments: int
    size_bytes: int
    looks: int
    notifications: int
    by: Literal["notification", "polling"]
    readers: tuple[ReaderStatistics, ...]


@attrs.frozen
class _Waiting:
    """How to wait for news; see `open_follower`."""

    notify: bool
    poll_seconds: float
    recheck_seconds: float

    def __attrs_post_init__(self) -> None:
        for name in ("poll_seconds", "recheck_seconds"):
            value = getattr(self, name)
            if isinstance(value, bool) or not 0 < value <= 3600:
                raise ValueError(f"{name}={value!r} must be above 0 and at most 3600")


class _FollowedFiles(FileShelf):
    """The files as the last look found them."""

    def __init__(
        self,
        disk: OpenDirectory,
        names: LogNames,
        poller: Poller,
        observer: Observer,
        fetch_bytes: int,
    ) -> None:
        self.view = NOTHING_SEEN
        self._poller = poller
        self._observer = observer
        super().__init__(
            ReadOnlyDisk(disk, poller.look, self._check),
            names,
            SegmentList([], 0),
            SparseIndex(0),
            fetch_bytes=fetch_bytes,
        )

    def _check(self) -> None:
        """In the thread that has read: what was read is of what was followed."""
        self._observer.check(self.view)

    def check_ours(self) -> None:
        """What is read is checked where it is read; when this is left, nothing is."""
        self._poller.check()

    async def heal(self, base: int, reason: str) -> None:
        """Nothing is changed here; readers go on with the store, if that has the same log."""
        await self._poller.look()
        await super().heal(base, reason)

    def apply(self, view: View) -> None:
        """Record what was seen."""
        before, self.view = self.view, view
        if view.active_base != self.active.base:
            self.active = SparseIndex(view.active_base)
        for run in view.runs:
            self.active.add_batch(*run)
        if view.active_base != before.active_base or view.sealed is not before.sealed:
            self.segments = SegmentList(list(view.sealed), view.active_base)
            self.indexes.drop_before(self.segments.first_base)


class _FollowedSource:
    """The `ReaderSource` of a follower: what was seen last, and the ways to see more."""

    memory = None

    def __init__(
        self,
        config: WalConfig,
        disk: OpenDirectory,
        directory: Directory,
        waiting: _Waiting,
        watch: Watch | None,
        cloud: tuple[CloudStore, Catalog] | None,
    ) -> None:
        self.config = config
        self.clock = time.time
        self.codec = CODECS[directory.meta.codec]
        self.pins = Pins()
        self.readers: weakref.WeakSet[Reader[Any]] = weakref.WeakSet()
        self.looks = 0
        self.marks = Marks()
        self._meta = directory.meta
        self._disk = disk
        self._observer = Observer(disk, directory, disk.strayed)
        self.poller = Poller(
            self._look,
            waiting.poll_seconds,
            "follower",
            watch=watch,
            recheck_seconds=waiting.recheck_seconds,
        )
        self.files = _FollowedFiles(
            disk, directory.names, self.poller, self._observer, config.read_block_bytes
        )
        self._catalog = cloud[1] if cloud is not None else None
        self.tier: CloudTier | None = None
        if cloud is not None:
            outage = Outage(log, f"reading {cloud[1].url}", Backoff())
            # Nobody runs its task, so nothing is fetched ahead: a follower has no tasks of its own.
            self.tier = CloudTier.of(*cloud, CatalogState(), config.cloud, disk.run, outage)

    @property
    def visible_end(self) -> int:
        return self.marks.durable_end

    async def look_again(self) -> None:
        """See what the writer did."""
        await self.poller.look()
        if self._catalog is not None:
            await self._look_at_catalog()

    async def _look(self) -> bool:
        before = self.files.view
        view = await self._disk.run(self._arm_and_look, before, self.files.active)
        self.looks += 1
        self.marks = Marks(
            view.log_start, max(view.start, view.active_base), view.end, uploaded_end=view.start
        )
        self.files.apply(view)
        return view.mark != before.mark or view.active_base != before.active_base

    def _arm_and_look(self, before: View, index: SparseIndex) -> View:
        """First be told of what changes from now on, then look: nothing falls in between."""
        self.poller.arm()
        return self._observer.look(before, index)

    async def _look_at_catalog(self) -> None:
        """Not part of a look: who waits for what is local must not wait for a store."""
        assert self._catalog is not None
        assert self.tier is not None
        state = await latest_state(self._catalog)
        if state is not None:
            check_log(self._meta, state, self.files.names.meta)
            self.tier.objects.state = state

    async def wait_visible(self, end: int) -> None:
        """Wait until the record before `end` may be seen; raises LogClosedError on leaving."""
        await self.poller.wait(lambda: self.visible_end >= end)

    def close(self) -> None:
        """Wake everybody who waits; they are told."""
        self.poller.close()
        self._disk.close()
        if self.tier is not None:
            self.tier.close()


class Follower(Observed):
    """A log seen from outside, read-only. Made by `open_follower`; belongs to one trio run.

    It shows what the last look at the directory found. Readers that wait have it look again and
    again; anybody else may call `refresh`.
    """

    def __init__(self, source: _FollowedSource, path: str) -> None:
        super().__init__(source, source.poller, source.readers)
        self._source = source
        self._path = path

    def __repr__(self) -> str:
        state = "closed" if self._source.poller.closed else "open"
        return f"<Follower of {self._path} {state}, {self.start_offset} to {self.durable_end}>"

    def statistics(self) -> FollowerStatistics:
        """Everything that can be counted, at this moment."""
        source = self._source
        return FollowerStatistics(
            start_offset=self.start_offset,
            durable_end=self.durable_end,
            segments=len(source.files.segments) + 1,
            size_bytes=source.files.size_bytes,
            looks=source.looks,
            notifications=source.poller.notifications,
            by=source.poller.by,
            readers=tuple(r.statistics() for r in source.readers if not r.closed),
        )


def open_follower(
    dir: str | os.PathLike[str],
    *,
    file_name: str = "wal.log",
    disk: Disk | None = None,
    store: CloudStore | None = None,
    prefix: str = "",
    catalog: Catalog | None = None,
    notify: bool = True,
    poll_seconds: float = 0.05,
    recheck_seconds: float = 1.0,
    on_corruption: Literal["refuse", "skip"] = "refuse",
) -> AbstractAsyncContextManager[Follower]:
    """Follow a log read-only: ``async with open_follower(dir) as follower:``.

    Works while another process has the log open, and also when none has. Takes no lock, changes
    nothing, and shows only what is durable: up to the durability mark, or, if there is none, the
    sealed segments.

    Args:
        dir: the log's directory.
        file_name: as in its `WalConfig`.
        disk: the file system; for tests, see `danube_trio.testing`.
        store: the log's object store, to read what the directory does not hold any more. Without
            it, reading there raises StoreUnavailableError.
        prefix: as in its `CloudConfig`; or `catalog`, as for `open_wal`.
        notify: have the system tell of changes, if it can: Linux, with the package of the extra
            ``danube-trio[notify]``. False: poll.
        poll_seconds: how often to look for new records while somebody waits for them, and nobody
            tells of changes.
        recheck_seconds: how often to look although no change was told: for what another machine
            did to a network file system. Not more often than every `poll_seconds`.
        on_corruption: ``refuse`` raises `CorruptDataError`; ``skip`` gives readers `Gap` items.

    Raises, on entering:
        FileNotFoundError: there is no log, or not yet.
        CorruptDataError: damage, with the file, position and offset.
        UnsupportedFormatError: the directory is Danube's own, or of a later version.
        OSError, ValueError: the directory cannot be used.
    """
    if on_corruption not in ("refuse", "skip"):
        raise ValueError(f"on_corruption={on_corruption!r} must be one of refuse, skip")
    if not isinstance(dir, str | os.PathLike):
        raise TypeError(f"dir={dir!r} must be the path of a log's directory: open_follower(path)")
    waiting = _Waiting(notify, poll_seconds, recheck_seconds)
    config = WalConfig(
        dir=os.fspath(dir),
        file_name=file_name,
        on_corruption=on_corruption,
        cloud=CloudConfig(prefix=prefix),
    )
    cloud = None
    if store is not None:
        cloud = (store, catalog if catalog is not None else default_catalog(config, store))
    return _OpenFollower(config, disk if disk is not None else RealDisk(), waiting, cloud)


class _OpenFollower(AbstractAsyncContextManager[Follower]):
    """The block. Leaving ends the watch, closes the directory, and tells those who wait."""

    def __init__(
        self,
        config: WalConfig,
        disk: Disk,
        waiting: _Waiting,
        cloud: tuple[CloudStore, Catalog] | None,
    ) -> None:
        self._config = config
        self._cloud = cloud
        self._disk = disk
        self._waiting = waiting
        self._source: _FollowedSource | None = None

    async def __aenter__(self) -> Follower:
        if self._source is not None:
            raise RuntimeError("open_follower(...) can be entered once: call it again")
        require_trio("open_follower", "danube_trio.anyio")
        path = self._config.dir
        assert path is not None
        names = LogNames.of(path, self._config.file_name)
        held = await self._disk.run(self._disk.open_dir, path)
        try:
            directory = await self._disk.run(find_log, held, names)
            watch = await self._disk.watch(path, names.mark) if self._waiting.notify else None
        except BaseException:
            held.close()
            raise
        self._source = _FollowedSource(
            self._config, held, directory, self._waiting, watch, self._cloud
        )
        try:
            await self._source.look_again()  # at the catalog too: it may have what is damaged here
        except BaseException:
            self._source.close()  # nobody leaves what was not entered
            raise
        return Follower(self._source, path)

    async def __aexit__(self, *_: object) -> None:
        assert self._source is not None
        self._source.close()
