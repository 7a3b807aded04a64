"""A durable metadata store in a directory of this machine: no server, one process.

The content is in memory; every change is in a journal on disk before anybody sees it
(`_journal` has the files, `_recovery` how they are opened, `docs/metadata-format.md` the bytes).

**Group commit.** There is no task. Writers stand in a line. The first one leads: it decides about
all that stand in the line, in order, writes their changes as one batch with one sync, makes them
visible, answers, and hands the lead to the next one in the line. Others line up while it waits for
the disk: so a busy store syncs once for many, and a quiet one at once.

**Visibility.** Reads and watches show durable changes only. Nothing that somebody has seen is taken
back by a crash.

**Cancellation is exact.** A writer in the line can be cancelled: then nothing was done. From the
moment its transaction is decided it cannot, until the batch is durable: a wait that is bounded by
one batch. `Cancelled` is raised at the next checkpoint then, after the call has returned.

**Failing.** After a failed write or sync the store is broken: this call and all later writes raise
StoreUnavailableError, with the cause chained; reads go on. Nothing is retried. Open it again.

**Times to live** run on trio's clock, not on the wall's: opening the store begins each of them
anew, in full, for nobody can tell how long the machine was off. The end of one is a change like any
other, in the journal before it is seen: what has ended stays ended. It happens when somebody looks:
before each write, before a read would show it, and when a watch waits for it.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping

import trio
from trio.lowlevel import Abort, checkpoint, current_task, enable_ki_protection, reschedule

from danube_trio._core.disk import Disk, Lane, Lock
from danube_trio.errors import StoreUnavailableError
from danube_trio.metadata._history import HISTORY_BYTES, HISTORY_EVENTS, History, Watch
from danube_trio.metadata._journal import Journal, Names, log
from danube_trio.metadata._recovery import Content, recover
from danube_trio.metadata._rules import (
    Transaction,
    check_after,
    check_key,
    check_prefix,
    transaction,
)
from danube_trio.metadata._store import Revised
from danube_trio.metadata._table import Change, Decision, Draft, Table

__all__ = ["JOURNAL_BYTES", "EmbeddedMetadata", "open_metadata_directory"]

# A guess: read in some 50 ms when the store is opened, and written again once in 40,000 cursors.
JOURNAL_BYTES = 4 << 20
# Bounds what one sync writes, and so what a crash may tear, and how long a cancelled call waits.
BATCH_BYTES = 2 << 20


@contextlib.asynccontextmanager
async def open_metadata_directory(
    path: str | os.PathLike[str],
    *,
    disk: Disk,
    journal_bytes: int = JOURNAL_BYTES,
    history_events: int = HISTORY_EVENTS,
    history_bytes: int = HISTORY_BYTES,
) -> AsyncGenerator[EmbeddedMetadata]:
    """Open the metadata store in a directory, which is made if it is missing.

    Holds the directory's lock until the block is left. Opening again begins all times to live anew.

    Args:
        path: the directory; other files in it are left alone, those of a log too.
        disk: the file system.
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
    """What is open on disk: the lock, the lane, the journal."""

    def __init__(self, disk: Disk, path: str) -> None:
        self.names = Names(os.path.abspath(path))
        self.lane: Lane = disk.open_lane()
        self.pid = os.getpid()
        self._disk = disk
        self._lock: Lock | None = None
        self.journal: Journal | None = None

    async def open(self) -> Content:
        return await self.lane.run(self._open)

    def _open(self) -> Content:
        """Lock and recover; runs in the lane."""
        self._disk.make_dir(self.names.directory)
        holder = f"process {os.getpid()} on {socket.gethostname()}"
        self._lock = self._disk.lock(self.names.lock, holder)
        content = recover(self._disk, self.names)
        self.journal = content.journal
        return content

    async def aclose(self, cause: BaseException | None) -> None:
        """Close everything; what was acknowledged is durable already."""
        with trio.CancelScope(shield=True):
            if self.pid == os.getpid():  # a forked child owns none of this
                await self.lane.run(self._close, cause)
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
            if self._lock is not None:
                self._lock.release()


class _Job:
    """A transaction in the line, and what became of it. `wanted` None: only look at the times."""

    __slots__ = ("decision", "error", "leads", "taken", "task", "wanted")

    def __init__(self, wanted: Transaction | None) -> None:
        self.wanted = wanted
        self.decision: Decision | None = None
        self.error: StoreUnavailableError | None = None
        self.leads = False
        self.taken = False
        self.task: trio.lowlevel.Task | None = None  # waits in the line


class _Call:
    """A call in the lane that keeps its outcome, so that an interrupted wait does not lose it."""

    def __init__(self, fn: Callable[..., object], *args: object) -> None:
        self._fn = fn
        self._args = args
        self.error: BaseException | None = RuntimeError("the call was never made")
        self.result: object = None

    def __call__(self) -> None:
        try:
            self.result = self._fn(*self._args)
            self.error = None
        except BaseException as error:
            self.error = error  # all of them: none may be taken for success


class EmbeddedMetadata:
    """A `MetadataStore` in a directory. Made by `open_metadata_directory`.

    Unlike what the protocol allows, a write that raises Cancelled was not done, and never will be.
    """

    def __init__(self, directory: _Directory, table: Table, journal_bytes: int) -> None:
        assert directory.journal is not None
        self._directory = directory
        self._journal = directory.journal
        self._table = table
        self._journal_bytes = journal_bytes
        self._retry_above = 0  # after a start-over that was not possible
        self._line: deque[_Job] = deque()
        self._led = False  # somebody leads, or has been told to
        self._idle = trio.Event()
        self._broken: BaseException | None = None
        self._closed: trio.Event | None = None

    def __repr__(self) -> str:
        state = "open" if self._broken is None else "broken"
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
        decision = await self._write(transaction({}, put={key: value}, ttl=ttl))
        assert decision.revision is not None
        return decision.revision

    async def delete(self, key: str) -> bool:
        """See `MetadataStore.delete`."""
        return (await self._write(transaction({}, delete=[key]))).deleted > 0

    async def transact(
        self,
        expect: Mapping[str, int],
        *,
        put: Mapping[str, bytes] | None = None,
        delete: Iterable[str] = (),
    ) -> int | None:
        """See `MetadataStore.transact`."""
        return (await self._write(transaction(expect, put=put, delete=delete))).revision

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
        self._refuse_line()
        self._table.history.wake_all()
        with trio.CancelScope(shield=True):
            while self._led:
                await self._idle.wait()
            try:
                await self._directory.aclose(self._broken)
            finally:
                self._closed.set()

    # -- what watches ask

    def next_deadline(self) -> float | None:
        """When the next time to live ends, or None."""
        return self._table.next_deadline()

    def check_watchable(self) -> None:
        """Raise StoreUnavailableError if the store was closed, or is broken."""
        if self._closed is not None:
            raise StoreUnavailableError(f"the store {self.url} was closed; nothing was done")
        if self._directory.pid != os.getpid():
            raise StoreUnavailableError(f"the store {self.url} belongs to the parent process")
        if self._broken is not None:
            raise self._unavailable("nothing was done") from self._broken

    def _unavailable(self, what: str) -> StoreUnavailableError:
        return StoreUnavailableError(
            f"the store {self.url} is broken since a write failed ({self._broken}); {what}. "
            f"Leave its 'async with' block, see to the disk, and open it again"
        )

    # -- times to live

    async def _look(self) -> float:
        """Let what has ended go, durably; returns the time for which that holds."""
        if self._closed is not None:
            self.check_watchable()
        now = trio.current_time()
        await self._end_times(now)
        return now

    async def _expire(self) -> None:
        await self._end_times(trio.current_time())

    async def _end_times(self, now: float) -> None:
        while self._closed is None and self._broken is None and self._table.due(now):
            await self._write(None)

    # -- the line

    @enable_ki_protection
    async def _write(self, wanted: Transaction | None) -> Decision:
        await checkpoint()
        self.check_watchable()
        job = _Job(wanted)
        self._line.append(job)
        if self._led:
            await self._stand(job)
        else:
            self._led = job.leads = True
        if job.leads:
            await self._lead()
        if job.error is not None:
            raise job.error from self._broken
        assert job.decision is not None
        return job.decision

    async def _stand(self, job: _Job) -> None:
        """Wait until the job is settled, or leads. Cancelled: it was in the line, and has left."""

        def abort(_: object) -> Abort:
            if job.taken or job.leads or job.error is not None:
                return Abort.FAILED
            self._line.remove(job)
            return Abort.SUCCEEDED

        job.task = current_task()
        await trio.lowlevel.wait_task_rescheduled(abort)

    async def _lead(self) -> None:
        """Decide, write, and settle what stands in the line; then tell the next one to lead."""
        batch = self._take()
        try:
            draft = Draft(self._table)
            draft.expire(trio.current_time())
            for job in batch:
                job.decision = draft.decide(job.wanted or _NOTHING)
            if draft.changes:
                await self._commit(draft.changes)
        finally:
            for job in batch:
                if self._broken is not None:
                    job.error = self._unavailable("whether this change is there is not known")
                elif job.decision is None:  # a bug; it is raised here, at the leader
                    job.error = StoreUnavailableError("the decision failed; nothing was done")
                if job.task is not None:
                    reschedule(job.task)
            try:
                await self._tidy()
            finally:
                self._pass_on()

    def _take(self) -> list[_Job]:
        """The jobs of the next batch: the leader's, and others as long as they fit."""
        batch = [self._line.popleft()]
        room = BATCH_BYTES - _size(batch[0])
        while self._line and (room := room - _size(self._line[0])) >= 0:
            batch.append(self._line.popleft())
        batch[0].task = None  # this one is awake: it leads
        for job in batch:
            job.taken = True
        return batch

    async def _commit(self, changes: list[Change]) -> None:
        call = _Call(self._journal.commit, changes)
        try:
            await self._directory.lane.run(call)
        finally:
            if call.error is None:
                now = trio.current_time()
                for change in changes:
                    self._table.apply(change, now)
            else:
                self._break(call.error)

    async def _tidy(self) -> None:
        """Write the content anew when the journal has grown. The line waits meanwhile."""
        size = self._journal.size_bytes
        limit = max(self._journal_bytes, self._table.size_bytes, self._retry_above)
        if size <= limit or self._broken is not None:
            return
        call = _Call(self._journal.start_over, self._table.items())
        try:
            await self._directory.lane.run(call)
        finally:
            if call.error is not None:
                self._break(call.error)
            self._retry_above = 0 if call.result else 2 * size

    def _pass_on(self) -> None:
        if self._broken is not None:
            self._refuse_line()
        if self._line:
            job = self._line[0]
            job.leads = True
            assert job.task is not None
            reschedule(job.task)
        else:
            self._led = False
            self._idle.set()
            self._idle = trio.Event()

    def _break(self, error: BaseException) -> None:
        log.error("%s is broken: %s", self._directory.names.directory, error)
        self._broken = error
        self._table.history.wake_all()

    def _refuse_line(self) -> None:
        """Nothing was done for those who stand in the line, but for one that leads already."""
        why = (
            StoreUnavailableError(f"the store {self.url} was closed; nothing was done")
            if self._broken is None
            else self._unavailable("nothing was done")
        )
        waiting = [job for job in self._line if not job.leads]
        self._line = deque(job for job in self._line if job.leads)
        for job in waiting:
            job.error = StoreUnavailableError(*why.args)
            assert job.task is not None
            reschedule(job.task)


_NOTHING = transaction({})


def _size(job: _Job) -> int:
    return 0 if job.wanted is None else job.wanted.size_bytes
