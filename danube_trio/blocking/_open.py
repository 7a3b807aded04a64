"""Opening through the blocking door: a hold on the host, entered and left by a ``with`` block."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from types import TracebackType
from typing import Any, Literal, TypeVar

from danube_trio import _follow, _open, _replica
from danube_trio._core.disk import Disk
from danube_trio._host import Hold, LeaveJob, acquire, settle_leaving, tell_nobody
from danube_trio._line import line_of
from danube_trio.blocking._log import Follower, Replica, Wal
from danube_trio.blocking._thread import ThreadDoor
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
) -> AbstractContextManager[Wal]:
    """Open a log for appending and reading; see `danube_trio.open_wal`.

    `store` must come from this module's `open_store`, and `clock` is called in several threads.
    """
    block = _open.open_wal(config, store=store, catalog=catalog, disk=disk, clock=clock)
    return _Block(block, f"log {config.dir or 'in memory'}", _log)


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
) -> AbstractContextManager[Follower]:
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
    return _Block(block, f"follower of {os.fspath(dir)}", _follower)


def open_replica(
    store: CloudStore,
    *,
    topic: str = "",
    prefix: str = "",
    catalog: Catalog | None = None,
    poll_seconds: float = 5.0,
    settings: CloudConfig | None = None,
) -> AbstractContextManager[Replica]:
    """Read a log from its object store; see `danube_trio.open_replica`."""
    block = _replica.open_replica(
        store,
        topic=topic,
        prefix=prefix,
        catalog=catalog,
        poll_seconds=poll_seconds,
        settings=settings,
    )
    return _Block(block, f"replica of {topic or prefix or 'a log'}", _replica_of)


def open_store(
    url: str,
    options: StoreOptions | None = None,
    *,
    disk: Disk | None = None,
    **more: object,
) -> AbstractContextManager[CloudStore]:
    """Open an object store, to be handed to the functions above; see `danube_trio.cloud`.

    Its own methods are for the engine only.
    """
    store = open_engine_store(url, options, disk=disk, **more)
    return _Block(store, f"store {url}", _the_same)


class _Block(AbstractContextManager[T]):
    """A block of the engine, entered and left from any thread.

    It knows its hold, but nothing that lives as long as the hold knows it: so it is collected when
    the program has forgotten it and what it gave.

    Args:
        block: the engine's.
        name: for the warning if it is never left.
        wrap: makes what the block gives, from what the engine's gave and what the host made of it.
    """

    def __init__(
        self,
        block: AbstractAsyncContextManager[object],
        name: str,
        wrap: Callable[[Any, Any, ThreadDoor, Hold, object], T],
    ) -> None:
        self._block = block
        self._name = name
        self._wrap = wrap
        self._door: ThreadDoor | None = None
        self._hold: Hold | None = None
        self._is_open = False

    def __del__(self) -> None:
        if self._is_open and self._door is not None and self._hold is not None:
            self._is_open = False
            if not self._hold.ended.is_set():
                self._door.host.submit(LeaveJob(tell_nobody, self._hold))
                text = f"{self._name} was never closed: leave its 'with' block"
                warnings.warn(text, ResourceWarning, stacklevel=2, source=self)

    def __enter__(self) -> T:
        if self._hold is not None:
            raise RuntimeError("this block can be entered once: open another one")
        self._door = door = ThreadDoor(acquire())
        self._hold = hold = Hold(door.reply, self._block, self._name, line_of)
        try:
            thing, line = door.run(hold)
        except BaseException:
            door.host.submit(LeaveJob(tell_nobody, hold))  # whatever became of it
            door.host.join()
            raise
        self._is_open = True
        return self._wrap(thing, line, door, hold, self)

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        door, hold = self._door, self._hold
        assert door is not None
        assert hold is not None
        try:
            door.run(LeaveJob(door.reply, hold), withdraw=False)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            settle_leaving(error, exc, None)
        finally:
            door.host.join()


def _log(thing: Any, line: Any, door: ThreadDoor, hold: Hold, keep: object) -> Wal:
    return Wal(thing, door, hold, keep, line)


def _follower(thing: Any, line: Any, door: ThreadDoor, hold: Hold, keep: object) -> Follower:
    return Follower(thing, door, hold, keep)


def _replica_of(thing: Any, line: Any, door: ThreadDoor, hold: Hold, keep: object) -> Replica:
    return Replica(thing, door, hold, keep)


def _the_same(thing: Any, line: Any, door: ThreadDoor, hold: Hold, keep: object) -> CloudStore:
    store: CloudStore = thing
    return store
