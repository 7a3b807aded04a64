"""Offering statistics to ``danube-trio top``, for what `WalConfig(watch=True)` does not cover.

A log is watched with that setting, a storage of many topics with ``StorageConfig(watch=True)``,
through every door. `serve_statistics` is for all else that has `statistics()`: followers, replicas,
logs in memory, subscriptions, or objects of the program itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Protocol

import trio
from trio.lowlevel import enable_ki_protection

from danube_trio._engine.topics.storage import Storage
from danube_trio._engine.wait.leaving import leave_nursery
from danube_trio._engine.watch.offer import StorageSource
from danube_trio._engine.watch.serve import Source, StatisticsSource, Watch
from danube_trio._engine.watch.socket import listen, tmp_name

__all__ = ["HasStatistics", "serve_statistics"]

SUFFIX = ".watch"


class HasStatistics(Protocol):
    """What can be watched."""

    def statistics(self) -> object:
        """A value (an attrs class, or plain data), or something to await for it."""
        ...


def serve_statistics(
    source: HasStatistics, path: str | os.PathLike[str], *, name: str = ""
) -> AbstractAsyncContextManager[str]:
    """Offer statistics while the block runs: ``async with serve_statistics(follower, path):``.

    Makes a Unix domain socket that only this user may use, and removes it on leaving; one of a
    program that is gone is replaced. ``danube-trio top PATH`` shows it, and so does
    ``danube-trio top`` with the directory that it is in.

    Args:
        source: what to watch; the block must be inside the one that it is open in.
        path: of the socket; must end in ``.watch``, and its directory must exist.
        name: of what is watched, for people; by default the path.

    Raises, on entering: OSError with errno EADDRINUSE if another program is watched by this path,
    EEXIST if something else has it, ENOTSUP where there are no such sockets, and what making it
    raises. A ValueError for a path that does not end in ``.watch``.
    """
    if not callable(getattr(source, "statistics", None)):
        raise TypeError(f"source={source!r} must have a method statistics()")
    found = os.fspath(path)
    if not isinstance(found, str) or not found.endswith(SUFFIX) or "\0" in found:
        raise ValueError(f"path={path!r} must be a path that ends in {SUFFIX}")
    return _ServeStatistics(source, os.path.abspath(found), name)


def _source_of(source: HasStatistics, name: str) -> Source:
    if isinstance(source, Storage):
        return StorageSource(name, source)
    return StatisticsSource(type(source).__name__.lower(), name, source.statistics)


class _ServeStatistics(AbstractAsyncContextManager[str]):
    """The block; gives the path of the socket."""

    def __init__(self, source: HasStatistics, path: str, name: str) -> None:
        self._source = _source_of(source, name or path)
        self._path = path
        self._nursery = trio.open_nursery()
        self._watch: Watch | None = None
        self._entered = False
        self._limiter = trio.CapacityLimiter(1)

    @enable_ki_protection
    async def __aenter__(self) -> str:
        if self._entered:
            raise RuntimeError("serve_statistics(...) can be entered once: call it again")
        self._entered = True
        nursery = await self._nursery.__aenter__()
        try:
            offer = await trio.to_thread.run_sync(
                partial(listen, self._path, tmp_name()), limiter=self._limiter
            )
        except BaseException as error:
            await leave_nursery(self._nursery, (), error)
            raise
        self._watch = Watch(offer, self._source, self._run)
        self._watch.start(nursery)
        return self._path

    async def _run(self, fn: Callable[[], None]) -> None:
        await trio.to_thread.run_sync(fn, limiter=self._limiter)

    @enable_ki_protection
    async def __aexit__(self, _: object, exc: BaseException | None, traceback: object) -> None:
        assert self._watch is not None
        await self._watch.aclose("the block was left")
        await leave_nursery(self._nursery, (), exc)
