"""Opening through the anyio door: the engine's own blocks on trio, a hold on the host otherwise."""

from __future__ import annotations

import asyncio
import os
import time
import warnings
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Literal, TypeVar, cast

from trio.lowlevel import in_trio_run

from danube_trio import _follow, _open, _replica
from danube_trio._core.disk import Disk
from danube_trio._follow import Follower
from danube_trio._host import Hold, LeaveJob, acquire, settle_leaving, tell_nobody
from danube_trio._line import line_of
from danube_trio._replica import Replica
from danube_trio._wal import Wal
from danube_trio.anyio._loop import LoopDoor
from danube_trio.anyio._views import view_of
from danube_trio.catalog import Catalog
from danube_trio.cloud import CloudStore, StoreOptions
from danube_trio.cloud import open_store as open_engine_store
from danube_trio.config import CloudConfig, WalConfig

__all__ = ["open_follower", "open_replica", "open_store", "open_wal"]

T = TypeVar("T")


def open_wal(
    config: WalConfig,
    *,
    store: CloudStore | None = None,
    catalog: Catalog | None = None,
    disk: Disk | None = None,
    clock: Callable[[], float] = time.time,
) -> AbstractAsyncContextManager[Wal]:
    """Open a log for appending and reading; see `danube_trio.open_wal`.

    On asyncio `store` must come from this module's `open_store`, and `clock` is called in several
    threads.
    """
    block = _open.open_wal(config, store=store, catalog=catalog, disk=disk, clock=clock)
    return _door(block, f"log {config.dir or 'in memory'}")


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
    """Follow a log read-only; see `danube_trio.open_follower`."""
    block = _follow.open_follower(
        dir,
        file_name=file_name,
        disk=disk,
        store=store,
        prefix=prefix,
        catalog=catalog,
        notify=notify,
        poll_seconds=poll_seconds,
        recheck_seconds=recheck_seconds,
        on_corruption=on_corruption,
    )
    return _door(block, f"follower of {os.fspath(dir)}")


def open_replica(
    store: CloudStore,
    *,
    topic: str = "",
    prefix: str = "",
    catalog: Catalog | None = None,
    poll_seconds: float = 5.0,
    settings: CloudConfig | None = None,
) -> AbstractAsyncContextManager[Replica]:
    """Read a log from its object store; see `danube_trio.open_replica`."""
    block = _replica.open_replica(
        store,
        topic=topic,
        prefix=prefix,
        catalog=catalog,
        poll_seconds=poll_seconds,
        settings=settings,
    )
    return _door(block, f"replica of {topic or prefix or 'a log'}")


def open_store(
    url: str,
    options: StoreOptions | None = None,
    *,
    disk: Disk | None = None,
    **more: object,
) -> AbstractAsyncContextManager[CloudStore]:
    """Open an object store, to be handed to the functions above; see `danube_trio.cloud`.

    On asyncio its own methods are for the engine only.
    """
    block = cast(
        "AbstractAsyncContextManager[CloudStore]",
        open_engine_store(url, options, disk=disk, **more),
    )
    return _door(block, f"store {url}")


def _door(block: AbstractAsyncContextManager[T], name: str) -> AbstractAsyncContextManager[T]:
    return block if in_trio_run() else _LoopBlock(block, name)


class _LoopBlock(AbstractAsyncContextManager[T]):
    """A block of the engine, entered and left from asyncio.

    It knows its hold, but nothing that lives as long as the hold knows it: so it is collected when
    the program has forgotten it and what it gave.
    """

    def __init__(self, block: AbstractAsyncContextManager[T], name: str) -> None:
        self._block = block
        self._name = name
        self._door: LoopDoor | None = None
        self._hold: Hold | None = None
        self._is_open = False

    def __del__(self) -> None:
        if self._is_open and self._door is not None and self._hold is not None:
            self._is_open = False
            if not self._hold.ended.is_set():
                self._door.host.submit(LeaveJob(tell_nobody, self._hold))
                text = f"{self._name} was never closed: leave its 'async with' block"
                warnings.warn(text, ResourceWarning, stacklevel=2, source=self)

    async def __aenter__(self) -> T:
        if in_trio_run():  # made outside, entered there
            return await self._block.__aenter__()
        if self._hold is not None:
            raise RuntimeError("this block can be entered once: open another one")
        self._door = door = LoopDoor(acquire())
        self._hold = hold = Hold(door.reply, self._block, self._name, line_of)
        try:
            thing, line = await door.run(hold)
        except BaseException:
            door.host.submit(LeaveJob(tell_nobody, hold))  # whatever became of it
            door.host.join()
            raise
        self._is_open = True
        return cast("T", view_of(thing, door, self, line))

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        if self._hold is None or self._door is None:
            return await self._block.__aexit__(exc_type, exc, traceback)
        try:
            await self._door.finish(LeaveJob(self._door.reply, self._hold))
        except BaseException as error:
            settle_leaving(error, exc, asyncio.CancelledError)
        finally:
            self._is_open = self._is_open and not self._hold.ended.is_set()
            self._door.host.join()
        return None
