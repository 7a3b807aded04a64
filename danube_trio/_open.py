"""`open_wal`: recover the directory, start the tasks, wire the channel between them; and the end.

::

    open  --> lock --> recover --> [ writer --channel--> flusher ]  janitor  --> body
    leave --> acceptance closes --> writer drains and closes its channel
          --> flusher syncs and closes the files --> janitor writes its hints --> unlock

The tasks live in a nursery around the body, each behind a shield: cancelling the body closes
acceptance, and what was accepted still drains. A failing disk breaks the log and ends the tasks
without an exception; only a bug in a task cancels the body.
"""

from __future__ import annotations

import os
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

from danube_trio._core.codec import get_codec
from danube_trio._core.disk import Disk, Lane, Lock
from danube_trio._core.log import Marks, Phase
from danube_trio._core.segment import LogNames
from danube_trio._directory import refuse_foreign
from danube_trio._disk import RealDisk
from danube_trio._engine import Engine, Work
from danube_trio._flusher import run_flusher
from danube_trio._janitor import Janitor
from danube_trio._recover import Recovered, recover
from danube_trio._tail import Tail
from danube_trio._wal import Wal
from danube_trio._writer import run_writer
from danube_trio.config import WalConfig
from danube_trio.errors import LogBrokenError

__all__ = ["open_wal"]

_open_engines: weakref.WeakSet[Engine] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    """The child has the parent's descriptors, but none of its tasks and threads."""
    for engine in _open_engines:
        engine.forked = True
        engine.log.phase = Phase.CLOSED


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def open_wal(
    config: WalConfig, *, disk: Disk | None = None, clock: Callable[[], float] = time.time
) -> AbstractAsyncContextManager[Wal]:
    """Open a log for appending and reading: ``async with open_wal(WalConfig(dir=...)) as wal:``.

    Makes the directory if it is missing, recovers the log in it, and holds its lock until the
    block is left. Leaving drains and syncs what was accepted.

    Args:
        config: the settings; ``WalConfig()`` is a log in memory.
        disk: the file system; for tests, see `danube_trio.testing`.
        clock: seconds since 1970, for append and publish times and for retention by age.

    Raises, on entering:
        LogLockedError: another process or block holds the log.
        CorruptDataError: damage, with the file, position and offset; nothing was changed.
        UnsupportedFormatError: the directory is Danube's own, or of a later version.
        OSError, ValueError: the directory cannot be used.

    Raises, on leaving:
        LogBrokenError: the disk failed, and accepted records were lost of which no caller was told.
    """
    return _OpenWal(config, disk, clock)


class _OpenWal(AbstractAsyncContextManager[Wal]):
    """The block: everything that must be undone on leaving."""

    def __init__(self, config: WalConfig, disk: Disk | None, clock: Callable[[], float]) -> None:
        self._config = config
        self._disk = disk
        self._clock = clock
        self._engine: Engine | None = None
        self._janitor: Janitor | None = None
        self._lane: Lane | None = None
        self._lock: Lock | None = None
        self._recovered: Recovered | None = None
        self._running = 0
        self._bugs: list[BaseException] = []
        self._drained = trio.Event()
        self._nursery = trio.open_nursery()

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
        await trio.lowlevel.checkpoint()
        config = self._config
        if config.dir is None:
            codec = get_codec(config.codec)
            self._engine = Engine(config, codec, Marks(), clock=self._clock)
            return Wal(self._engine, None)
        disk = self._disk if self._disk is not None else RealDisk()
        self._lane = lane = disk.open_lane()
        try:
            await lane.run(self._acquire, disk)
            assert self._recovered is not None
            engine = _engine_of(config, disk, self._recovered, self._clock)
            names, tail = self._recovered.directory.names, self._recovered.tail
            janitor = Janitor(engine, disk, names, lane, tail)
            wal = Wal(engine, janitor)
            nursery = await self._nursery.__aenter__()
        except BaseException:
            await lane.run(self._give_up)
            await lane.aclose()
            raise
        self._engine, self._janitor = engine, janitor
        _open_engines.add(engine)
        self._start(nursery, engine, janitor, lane, tail)
        return wal

    def _acquire(self, disk: Disk) -> None:
        """Lock and recover; runs in the lane."""
        config = self._config
        assert config.dir is not None
        names = LogNames.of(config.dir, config.file_name)
        disk.make_dir(config.dir)
        refuse_foreign(disk, names)  # before the lock file could be made
        holder = f"process {os.getpid()} on {socket.gethostname()}"
        self._lock = disk.lock(names.lock, holder)
        self._recovered = recover(disk, config, uuid.uuid4().hex)

    def _give_up(self) -> None:
        """Close what opening opened; runs in the lane."""
        if self._recovered is not None:
            self._recovered.tail.abandon()
        self._release()

    def _start(
        self, nursery: trio.Nursery, engine: Engine, janitor: Janitor, lane: Lane, tail: Tail
    ) -> None:
        send, receive = trio.open_memory_channel[Work](0)
        for name, task in (
            ("writer", lambda: run_writer(engine, send)),
            ("flusher", lambda: run_flusher(engine, receive, lane, tail)),
            ("janitor", janitor.run),
        ):
            self._running += 1
            nursery.start_soon(
                self._supervise, task, name=f"danube_trio {name} {engine.config.dir}"
            )

    # Ctrl-C is for the body, not for a task in the middle of a block: the log then drains.
    @enable_ki_protection
    async def _supervise(self, task: Callable[[], Awaitable[None]]) -> None:
        assert self._engine is not None
        try:
            with trio.CancelScope(shield=True):
                await task()
        except BaseException as bug:
            self._bugs.append(bug)
            self._engine.break_(bug)
            raise
        finally:
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
        interrupt: KeyboardInterrupt | None = None
        if self._lane is not None and self._janitor is not None:
            steps = (
                self._drained.wait,
                self._janitor.finish,
                partial(self._lane.run, self._release),
                self._lane.aclose,
            )
            with trio.CancelScope(shield=True):
                for step in steps:
                    interrupt = await _to_its_end(step) or interrupt
        engine.closed()
        if self._lane is not None:
            await self._leave_nursery(exc_type, exc, traceback)
        else:
            await trio.lowlevel.checkpoint()
        if engine.log.lost:
            error = self._lost(engine)
            if exc is None or isinstance(exc, trio.Cancelled):
                raise error
            exc.add_note(str(error))
        if interrupt is not None:
            raise interrupt

    async def _leave_nursery(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """The tasks are done. What the body raised goes out as it is, unless there was a bug."""
        if not self._bugs:
            await self._nursery.__aexit__(None, None, None)
            return
        try:
            await self._nursery.__aexit__(exc_type, exc, traceback)
        except BaseExceptionGroup:
            cause = None if isinstance(exc, trio.Cancelled) else exc
            raise self._bugs[0] from cause

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()

    def _lost(self, engine: Engine) -> LogBrokenError:
        error = LogBrokenError(
            f"{engine.log.lost} accepted records may be lost, and no caller was told: "
            f"{engine.log.failure}. Append what is missing again after reopening",
            lost=engine.log.lost,
        )
        error.__cause__ = engine.log.failure
        return error


def _engine_of(
    config: WalConfig, disk: Disk, recovered: Recovered, clock: Callable[[], float]
) -> Engine:
    directory = recovered.directory
    marks = Marks(directory.start_offset, recovered.segments.active_base, recovered.next_offset)
    return Engine(
        config,
        get_codec(directory.meta.codec),
        marks,
        clock=clock,
        disk=disk,
        names=directory.names,
        segments=recovered.segments,
        active=recovered.active,
        last_time=recovered.last_time,
        notes=recovered.notes,
    )


async def _to_its_end(step: Callable[[], Awaitable[object]]) -> KeyboardInterrupt | None:
    """Run a step of leaving, whatever happens; a KeyboardInterrupt is for afterwards.

    Trio raises it into the main task's waits, through shields. A wait is repeated; a call to the
    disk goes to its end before it raises.
    """
    interrupt: KeyboardInterrupt | None = None
    while True:
        try:
            await step()
        except KeyboardInterrupt as error:
            interrupt = error
        else:
            return interrupt
