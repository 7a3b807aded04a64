"""A durable metadata store in a directory of this machine: no server, one process.

The content is in memory; every change is in a journal on disk before anybody sees it
(`_journal` has the files, `_recovery` how they are opened, `docs/metadata-format.md` the bytes).

Concurrent writers share a sync: `_commit_queue` has how.

**Visibility.** Reads and watches show durable changes only. Nothing that somebody has seen is taken
back by a crash.

**Cancellation is exact.** A writer in the line can be cancelled: then nothing was done. From the
moment its transaction is decided it cannot, until the batch is durable: a wait that is bounded by
one batch. `Cancelled` is raised at the next checkpoint then, after the call has returned.

**Failing.** After a failed write or sync the store is broken: calls that write raise
StoreUnavailableError, with the cause chained, and so do watches; reads go on. What became of the
call that failed is not known, for the others nothing was done. Nothing is written a second time: a
later call, of whatever kind, opens the files anew, as opening the store does, and goes on
(`_commit_queue`).

**Times to live** run on trio's clock, not on the wall's: opening the store begins each of them
anew, in full, for nobody can tell how long the machine was off. The end of one is a change like any
other, in the journal before it is seen: what has ended stays ended. It happens when somebody looks:
before each write, before a read would show it, and when a watch waits for it.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import AsyncGenerator

import trio
from trio.lowlevel import checkpoint, enable_ki_protection

from danube_trio._core.disk import Disk, Lane, OpenDirectory, hold
from danube_trio._disk.locks import this_process
from danube_trio._disk.real import RealDisk
from danube_trio.errors import StoreUnavailableError
from danube_trio.metadata._commit_queue import Line
from danube_trio.metadata._history import HISTORY_BYTES, HISTORY_EVENTS, History
from danube_trio.metadata._journal import Journal, Names, log
from danube_trio.metadata._recovery import Content, recover
from danube_trio.metadata._rules import Transaction
from danube_trio.metadata._table import Decision, Table
from danube_trio.metadata._tabled import TabledMetadata

# A guess: read in some 50 ms when the store is opened, and written again once in 40,000 cursors.
JOURNAL_BYTES = 4 << 20


@contextlib.asynccontextmanager
async def open_metadata_directory(
    path: str | os.PathLike[str],
    *,
    disk: Disk | None = None,
    journal_bytes: int = JOURNAL_BYTES,
    history_events: int = HISTORY_EVENTS,
    history_bytes: int = HISTORY_BYTES,
) -> AsyncGenerator[EmbeddedMetadata]:
    """Open the metadata store in a directory, which is made if it is missing.

    Holds the directory's lock until the block is left. Opening again begins all times to live anew.

    Args:
        path: the directory; other files in it are left alone, those of a log too.
        disk: the file system; for tests, see `danube_trio.testing`.
        journal_bytes: the content is written anew when the journal is larger than this, and larger
            than the content.
        history_events: how many changes are kept for watches; one that falls behind them gets
            WatchLostError.
        history_bytes: how many bytes these may take.

    Raises:
        LogLockedError: somebody else has it open.
        CorruptDataError: damage, with the file and the position; nothing was changed.
        UnsupportedFormatError: a later version wrote it.
        OSError, ValueError: the directory, or a setting, cannot be used.

    Cancellation: none while files are read or written; opening ends first.
    """
    disk = disk if disk is not None else RealDisk()
    if journal_bytes < 1:
        raise ValueError(f"journal_bytes must be at least 1, got {journal_bytes!r}")
    History(0, max_events=history_events, max_bytes=history_bytes)  # checks them before the disk
    await checkpoint()
    directory = _Directory(disk, os.fspath(path))
    try:
        content = await directory.open()
        now = trio.current_time()
        history = History(
            content.snapshot.revision, max_events=history_events, max_bytes=history_bytes
        )
        store = EmbeddedMetadata(directory, _table_of(content, history, now), journal_bytes)
    except BaseException:
        await directory.aclose(None)
        raise
    try:
        yield store
    finally:
        await store.aclose()


def _table_of(content: Content, history: History, now: float) -> Table:
    table = Table(history, content.snapshot.revision)
    for put, revision in content.snapshot.entries:
        table.load(put, revision, now)
    for change in content.changes:
        table.apply(change, now)
    return table


class _Directory:
    """What is open on disk: the directory with its lock, the lane, the journal."""

    def __init__(self, disk: Disk, path: str) -> None:
        self.names = Names(os.path.abspath(path))
        self.lane: Lane = disk.open_lane()
        self.pid = os.getpid()
        self._disk = disk
        self._held: OpenDirectory | None = None
        self.journal: Journal | None = None

    async def open(self) -> Content:
        return await self.lane.run(self._open)

    def _open(self) -> Content:
        """Lock and recover; runs in the lane."""
        self._disk.make_dir(self.names.directory)
        self._held = hold(self._disk, self.names.lock, this_process())
        content = recover(self._held, self.names)
        self.journal = content.journal
        return content

    def reopen(self) -> Content:
        """Give up the journal, and recover again, under the same lock; runs in the lane."""
        journal, self.journal = self.journal, None
        if journal is not None:
            journal.abandon()
        assert self._held is not None
        if (what := self._held.strayed()) is not None:
            raise OSError(
                errno.ESTALE, f"the directory of the running store {what}", self.names.directory
            )
        content = recover(self._held, self.names, distrust=True)
        self.journal = content.journal
        return content

    async def aclose(self, cause: BaseException | None) -> None:
        """Close everything; what was acknowledged is durable already."""
        with trio.CancelScope(shield=True):
            try:
                if self.pid == os.getpid():  # a forked child owns none of this
                    await self.lane.run(self._close, cause)
            finally:
                await self.lane.aclose()

    def _close(self, cause: BaseException | None) -> None:
        try:
            if self.journal is not None and cause is None:
                self.journal.close()
            elif self.journal is not None:
                self.journal.abandon()
        except OSError as error:
            log.warning("%s: closing failed: %s", self.names.directory, error)
        finally:
            if self._held is not None:
                self._held.close()


class EmbeddedMetadata(TabledMetadata):
    """A `MetadataStore` in a directory. Made by `open_metadata_directory`.

    Unlike what the protocol allows, a write that raises Cancelled was not done, and never will be.
    """

    def __init__(self, directory: _Directory, table: Table, journal_bytes: int) -> None:
        assert directory.journal is not None
        super().__init__(table)
        self._directory = directory
        journal, reopen = directory.journal, directory.reopen
        self._line = Line(self.url, directory.lane, journal, table, journal_bytes, reopen)
        self._closed: trio.Event | None = None

    def __repr__(self) -> str:
        state = "open" if self._line.broken is None else "broken"
        state = state if self._closed is None else "closed"
        return (
            f"<EmbeddedMetadata {self._directory.names.directory!r}, {state}, "
            f"{len(self._table)} entries, revision {self.revision}>"
        )

    @property
    def url(self) -> str:
        """Where it is, for people."""
        return f"file://{self._directory.names.directory}"

    @enable_ki_protection
    async def aclose(self) -> None:
        """Refuse what stands in the line, end what is being written, close the files; idempotent.

        Cancellation: none.
        """
        if self._closed is not None:
            with trio.CancelScope(shield=True):
                await self._closed.wait()
            return
        self._closed = trio.Event()
        try:
            await self._line.finish()
            await self._directory.aclose(self._line.broken)
        finally:
            self._closed.set()

    # -- what watches ask

    def check_watchable(self) -> None:
        """Raise StoreUnavailableError if the store was closed, or is broken."""
        self._line.check_run()
        self._line.check_open()

    # -- the two steps

    async def _write(self, wanted: Transaction) -> Decision:
        return await self._line.write(wanted)

    async def _look(self) -> float:
        if self._closed is not None:  # a broken one shows what was durable
            self._line.check_open()
        return await self._expire()

    async def _expire(self) -> float:
        line = self._line
        if line.may_mend:  # opened anew, it tells what became of the write that failed
            with contextlib.suppress(StoreUnavailableError):
                await line.write(None)
        now = trio.current_time()  # what ends while others are written is for the next look
        while not line.closed and line.broken is None and self._table.is_due(now):
            await line.write(None)
        return now
