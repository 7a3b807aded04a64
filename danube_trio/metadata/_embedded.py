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
import socket
from collections.abc import AsyncGenerator, Iterable, Mapping

import trio
from trio.lowlevel import checkpoint, enable_ki_protection

from danube_trio._core.disk import Disk, Lane, OpenDirectory, hold
from danube_trio._disk.real import RealDisk
from danube_trio.errors import StoreUnavailableError
from danube_trio.metadata._commit_queue import Line
from danube_trio.metadata._history import HISTORY_BYTES, HISTORY_EVENTS, History, Watch
from danube_trio.metadata._journal import Journal, Names, log
from danube_trio.metadata._recovery import Content, recover
from danube_trio.metadata._rules import check_after, check_key, check_prefix, transaction
from danube_trio.metadata._store import Revised
from danube_trio.metadata._table import Table

__all__ = ["JOURNAL_BYTES", "EmbeddedMetadata", "open_metadata_directory"]

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
        holder = f"process {os.getpid()} on {socket.gethostname()}"
        self._held = hold(self._disk, self.names.lock, holder)
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


class EmbeddedMetadata:
    """A `MetadataStore` in a directory. Made by `open_metadata_directory`.

    Unlike what the protocol allows, a write that raises Cancelled was not done, and never will be.
    """

    def __init__(self, directory: _Directory, table: Table, journal_bytes: int) -> None:
        assert directory.journal is not None
        self._directory = directory
        self._table = table
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

    @property
    def revision(self) -> int:
        """The revision of the newest durable change; 1 in a new store."""
        return self._table.revision

    @property
    def history(self) -> History:
        """What watches read."""
        return self._table.history

    # -- the calls

    async def get(self, key: str) -> Revised | None:
        """See `MetadataStore.get`."""
        check_key(key)
        await checkpoint()
        now = await self._look()
        return self._table.revised(key, now)

    async def list_entries(self, prefix: str) -> list[Revised]:
        """See `MetadataStore.list_entries`."""
        check_prefix(prefix)
        await checkpoint()
        now = await self._look()
        return self._table.select(prefix, now)

    async def put(self, key: str, value: bytes, *, ttl: float | None = None) -> int:
        """See `MetadataStore.put`."""
        decision = await self._line.write(transaction({}, put={key: value}, ttl=ttl))
        assert decision.revision is not None
        return decision.revision

    async def delete(self, key: str) -> bool:
        """See `MetadataStore.delete`."""
        return (await self._line.write(transaction({}, delete=[key]))).deleted > 0

    async def transact(
        self,
        expect: Mapping[str, int],
        *,
        put: Mapping[str, bytes] | None = None,
        delete: Iterable[str] = (),
    ) -> int | None:
        """See `MetadataStore.transact`."""
        return (await self._line.write(transaction(expect, put=put, delete=delete))).revision

    def watch(self, prefix: str, *, after: int | None = None) -> Watch:
        """See `MetadataStore.watch`. After opening, `after` reaches back to the last snapshot."""
        check_prefix(prefix)
        check_after(after)
        return Watch(self, prefix, after, self._expire)

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

    def next_deadline(self) -> float | None:
        """When the next time to live ends, or None."""
        return self._table.next_deadline()

    def check_watchable(self) -> None:
        """Raise StoreUnavailableError if the store was closed, or is broken."""
        self._line.check_run()
        self._line.check_open()

    # -- times to live

    async def _look(self) -> float:
        """Let what has ended go, durably; returns the time for which that holds."""
        if self._closed is not None:
            self._line.check_open()
        await self._mend()
        now = trio.current_time()
        await self._end_times(now)
        return now

    async def _mend(self) -> None:
        """Have a broken store opened anew, if that is due: a read tells the outcome then."""
        if self._line.may_mend:
            with contextlib.suppress(StoreUnavailableError):
                await self._line.write(None)

    async def _expire(self) -> None:
        await self._mend()
        await self._end_times(trio.current_time())

    async def _end_times(self, now: float) -> None:
        line = self._line
        while not line.closed and line.broken is None and self._table.is_due(now):
            await self._line.write(None)
