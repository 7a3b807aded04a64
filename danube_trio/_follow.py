"""Following: a read-only view of a log that another process writes, or nobody any more.

A follower takes no lock and changes nothing; `_observe` says how it looks at the directory, and why
what it shows never goes away. Its readers are the log's own: they only have another source.

**Polling.** There is nobody to wake a follower: the writer is another process that knows nothing of
it, may run on another machine (a network file system), or be dead; and change notifications of the
operating system exist neither everywhere nor for all file systems. So whoever waits for new records
sleeps between looks. Among all who wait one polls and the others wait for it; when nobody waits,
nothing is looked at.

**Retention** may take a file between a look and the fetch from it. The fetch fails, the follower
looks again before the reader hears of it, and the reader finds its cursor below the start.
"""

from __future__ import annotations

import errno
import os
import weakref
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Literal, NoReturn, TypeVar

import attrs
import trio

from danube_trio._core.cache import BlockCache
from danube_trio._core.catalog import CatalogState
from danube_trio._core.codec import CODECS
from danube_trio._core.disk import Disk, File, Lane, Lock, OpenMode
from danube_trio._core.index import SparseIndex
from danube_trio._core.log import Marks
from danube_trio._core.segment import LogNames, SegmentList
from danube_trio._core.stats import ReaderStatistics
from danube_trio._directory import Directory
from danube_trio._disk import RealDisk
from danube_trio._observe import NOTHING_SEEN, Observer, View, find_log
from danube_trio._pins import Pins
from danube_trio._readable import Poller, Readable
from danube_trio._reader import Reader
from danube_trio._stores import default_catalog
from danube_trio._tier import CloudTier
from danube_trio.catalog import Catalog
from danube_trio.cloud import CloudStore
from danube_trio.config import CloudConfig, WalConfig

__all__ = ["Follower", "FollowerStatistics", "open_follower"]

T = TypeVar("T")


@attrs.frozen
class FollowerStatistics:
    """A follower at one moment. Offsets are exclusive ends; sizes in bytes.

    Attributes:
        start_offset, durable_end: the marks, as of the last look.
        segments: files, the active one included.
        size_bytes: frames in them, below the durability mark.
        looks: how often the directory was looked at.
        readers: the open readers.
    """

    start_offset: int
    durable_end: int
    segments: int
    size_bytes: int
    looks: int
    readers: tuple[ReaderStatistics, ...]


class _FollowedSource:
    """The `ReaderSource` of a follower: what was seen last, and the ways to see more."""

    def __init__(
        self,
        config: WalConfig,
        disk: Disk,
        directory: Directory,
        poll_seconds: float,
        cloud: tuple[CloudStore, Catalog] | None,
    ) -> None:
        self.config = config
        self._catalog = cloud[1] if cloud is not None else None
        self.codec = CODECS[directory.meta.codec]
        self.names: LogNames | None = directory.names
        self.disk: Disk | None = _ReadOnlyDisk(disk, self.refresh)
        self.cache = BlockCache(1, 1, 1 << 63)  # empty, and it begins beyond any offset
        self.indexes: dict[int, SparseIndex] = {}
        # Nobody runs its task, so nothing is fetched ahead: a follower has no tasks of its own.
        self.tier = CloudTier.of(*cloud, CatalogState(), config.cloud, disk.run) if cloud else None
        self.pins = Pins()
        self.damaged: dict[int, str] = {}
        self.readers: weakref.WeakSet[Reader[Any]] = weakref.WeakSet()
        self.looks = 0
        self._own_disk = disk
        self._observer = Observer(disk, directory)
        self.poller = Poller(self._look, poll_seconds, "follower")
        self._view = NOTHING_SEEN
        self.marks = Marks()
        self.segments = SegmentList([], 0)
        self.active = SparseIndex(0)

    @property
    def visible_end(self) -> int:
        return self.marks.durable_end

    @property
    def local_start(self) -> int:
        return self.segments.first_base

    async def look_again(self) -> None:
        """See what the writer did."""
        await self.refresh()
        if self._catalog is not None:
            await self._look_at_catalog()

    def heal(self, base: int, reason: str) -> None:
        """A follower changes nothing; it just goes on with the store."""
        self.damaged[base] = reason

    async def refresh(self) -> None:
        """Look at the directory now."""
        await self.poller.look()

    async def _look(self) -> None:
        self._apply(await self._own_disk.run(self._observer.look, self._view, self.active))
        view = self._view
        if self._catalog is not None and self._stored_end < view.start > view.log_start:
            await self._look_at_catalog()

    async def _look_at_catalog(self) -> None:
        """The local files begin later than what is known of the store."""
        assert self._catalog is not None
        assert self.tier is not None
        state = await self._catalog.latest()
        if state is not None:
            self.tier.state = state

    @property
    def _stored_end(self) -> int:
        return self.tier.state.end if self.tier is not None else 0

    def _apply(self, view: View) -> None:
        """Record what was seen, in one step."""
        before, self._view = self._view, view
        self.looks += 1
        self.marks = Marks(
            view.log_start, max(view.start, view.active_base), view.end, uploaded_end=view.start
        )
        if view.active_base != self.active.base:
            self.active = SparseIndex(view.active_base)
        for run in view.runs:
            self.active.add_batch(*run)
        if view.active_base != before.active_base or view.sealed is not before.sealed:
            self.segments = SegmentList(list(view.sealed), view.active_base)
            kept = {segment.base for segment in view.sealed}
            for base in self.indexes.keys() - kept:
                del self.indexes[base]

    async def wait_visible(self, end: int) -> None:
        """Wait until the record before `end` may be seen; raises LogClosedError on leaving."""
        await self.poller.wait(lambda: self.visible_end >= end)

    def close(self) -> None:
        """Wake everybody who waits; they are told."""
        self.poller.close()
        if self.tier is not None:
            self.tier.close()


class Follower(Readable):
    """A log seen from outside, read-only. Made by `open_follower`; belongs to one trio run.

    It shows what the last look at the directory found. Readers that wait have it look again and
    again; anybody else may call `refresh`.
    """

    def __init__(self, source: _FollowedSource, path: str) -> None:
        super().__init__(source, source.readers)
        self._source = source
        self._path = path

    def __repr__(self) -> str:
        state = "closed" if self._source.poller.closed else "open"
        return f"<Follower of {self._path} {state}, {self.start_offset} to {self.durable_end}>"

    async def refresh(self) -> None:
        """Look at the directory now.

        Raises CorruptDataError if it contradicts itself, holds another log now, or was cut back
        below what was visible before; OSError if it cannot be read.
        """
        self._check_readable()
        await self._source.refresh()

    async def wait_durable(self, end: int) -> None:
        """Wait until everything below offset `end` is durable, now or in the future.

        Can be cancelled. Raises LogClosedError when the follower is left meanwhile, and as
        `refresh` does.
        """
        await trio.lowlevel.checkpoint()
        await self._source.wait_visible(end)

    def statistics(self) -> FollowerStatistics:
        """Everything that can be counted, at this moment."""
        source = self._source
        return FollowerStatistics(
            start_offset=self.start_offset,
            durable_end=self.durable_end,
            segments=len(source.segments) + 1,
            size_bytes=source.segments.size_bytes + source.active.size_bytes,
            looks=source.looks,
            readers=tuple(r.statistics() for r in source.readers if not r.closed),
        )

    def _check_readable(self) -> None:
        self._source.poller.check()


def open_follower(
    dir: str | os.PathLike[str],
    *,
    file_name: str = "wal.log",
    disk: Disk | None = None,
    store: CloudStore | None = None,
    prefix: str = "",
    catalog: Catalog | None = None,
    poll_seconds: float = 0.05,
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
        poll_seconds: how often to look for new records while somebody waits for them.
        on_corruption: ``refuse`` raises `CorruptDataError`; ``skip`` gives readers `Gap` items.

    Raises, on entering:
        FileNotFoundError: there is no log, or not yet.
        CorruptDataError: damage, with the file, position and offset.
        UnsupportedFormatError: the directory is Danube's own, or of a later version.
        OSError, ValueError: the directory cannot be used.
    """
    if on_corruption not in ("refuse", "skip"):
        raise ValueError(f"on_corruption={on_corruption!r} must be one of refuse, skip")
    if isinstance(poll_seconds, bool) or not 0 < poll_seconds <= 3600:
        raise ValueError(f"poll_seconds={poll_seconds!r} must be above 0 and at most 3600")
    config = WalConfig(
        dir=os.fspath(dir),
        file_name=file_name,
        on_corruption=on_corruption,
        cloud=CloudConfig(prefix=prefix),
    )
    cloud = None
    if store is not None:
        cloud = (store, catalog if catalog is not None else default_catalog(config, store))
    return _OpenFollower(config, disk if disk is not None else RealDisk(), poll_seconds, cloud)


class _OpenFollower(AbstractAsyncContextManager[Follower]):
    """The block. It keeps nothing open: leaving only tells those who wait."""

    def __init__(
        self,
        config: WalConfig,
        disk: Disk,
        poll_seconds: float,
        cloud: tuple[CloudStore, Catalog] | None,
    ) -> None:
        self._config = config
        self._cloud = cloud
        self._disk = disk
        self._poll_seconds = poll_seconds
        self._source: _FollowedSource | None = None

    async def __aenter__(self) -> Follower:
        if self._source is not None:
            raise RuntimeError("open_follower(...) can be entered once: call it again")
        path = self._config.dir
        assert path is not None
        names = LogNames.of(path, self._config.file_name)
        directory = await self._disk.run(find_log, self._disk, names)
        self._source = _FollowedSource(
            self._config, self._disk, directory, self._poll_seconds, self._cloud
        )
        await self._source.look_again()  # at the catalog too: it may have what is damaged here
        return Follower(self._source, path)

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._source is not None
        self._source.close()


class _ReadOnlyDisk:
    """The disk that a follower's readers get: it refuses every change.

    When a file is gone, it has the follower look again before it says so: most likely retention
    took the file, and the reader compares its cursor with the start next.
    """

    def __init__(self, disk: Disk, refresh: Callable[[], Awaitable[None]]) -> None:
        self._disk = disk
        self._refresh = refresh
        self.list_dir = disk.list_dir
        self.file_size = disk.file_size
        self.free_bytes = disk.free_bytes

    async def run(self, fn: Callable[..., T], /, *args: object) -> T:
        try:
            return await self._disk.run(fn, *args)
        except FileNotFoundError:
            await self._refresh()
            raise

    def open(self, path: str, mode: OpenMode) -> File:
        return self._disk.open(path, mode) if mode == "r" else _refuse(path)

    def make_dir(self, path: str) -> None:
        _refuse(path)

    def rename(self, source: str, target: str) -> None:
        _refuse(target)

    def link(self, source: str, target: str) -> None:
        _refuse(target)

    def unlink(self, path: str) -> None:
        _refuse(path)

    def sync_dir(self, path: str) -> None:
        _refuse(path)

    def lock(self, path: str, holder: str) -> Lock:
        _refuse(path)

    def open_lane(self) -> Lane:
        _refuse("a lane")


def _refuse(path: str) -> NoReturn:
    raise OSError(errno.EROFS, "a follower changes nothing", path)
