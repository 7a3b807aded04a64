"""The line of those who write to a metadata directory: group commit without a task.

Writers stand in a line. The first one leads: it decides about all that stand in the line, in order,
writes their changes as one batch with one sync, makes them visible, answers, and hands the lead to
the next one in the line. Others line up while it waits for the disk: so a busy store syncs once for
many, and a quiet one at once.

The states of a job: *in the line* (a cancelled one leaves it: nothing was done), *taken* into a
batch (not to be cancelled any more; the wait is bounded by one batch), *settled*. A job that is
told to lead is still in the line, but cannot be cancelled: the others depend on it. There is a
leader, or one has been told to lead, exactly while `_led` is true; otherwise the line is empty.

**Failing.** After a failed write or sync the journal is never written to again. The changes of the
batch have an unknown outcome, nothing was done for those in the line, and both are told: the line
is *broken*. The first call that comes when the next try is due leads like any other, and *mends*
before it takes its batch: in the lane the files are opened anew, which decides what became of the
batch that failed; what is found above the table's revision is applied to the table, so that reads
and watches see it. The lock is held all the time, so nobody else has written. The first try is due
at once, each further one after a pause that doubles until a batch is committed.
"""

from __future__ import annotations

import logging
import os
from _thread import get_ident
from collections import deque
from collections.abc import Callable
from typing import cast

import trio
from trio.lowlevel import Abort, checkpoint, current_task, enable_ki_protection, reschedule

from danube_trio._core.disk import Lane
from danube_trio._core.pauses import Pauses
from danube_trio.errors import CorruptDataError, StoreUnavailableError, text_of
from danube_trio.metadata._journal import Journal
from danube_trio.metadata._recovery import Content
from danube_trio.metadata._rules import Transaction, transaction
from danube_trio.metadata._table import Change, Decision, Draft, Table

log = logging.getLogger("danube_trio.metadata")

# Bounds what one sync writes, and so what a crash may tear, and how long a cancelled call waits.
BATCH_BYTES = 2 << 20
_NOTHING = transaction({})
# Until the next try to mend, after one that failed (guesses).
PAUSES = Pauses(0.1, 5.0)


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


class Line:
    """Everything that changes a metadata directory goes through here.

    Attributes:
        broken: the error after which nothing was written yet, or None.
        closed: whether `finish` was called.
    """

    def __init__(
        self,
        url: str,
        lane: Lane,
        journal: Journal,
        table: Table,
        journal_bytes: int,
        reopen: Callable[[], Content],
    ) -> None:
        self._url = url
        self._lane = lane
        self._journal = journal
        self._table = table
        self._journal_bytes = journal_bytes
        self._retry_above = 0  # after a start-over that was not possible
        self._pid = os.getpid()
        self._thread = get_ident()
        self._line: deque[_Job] = deque()
        self._led = False
        self._idle = trio.Event()
        self._reopen = reopen  # to be called in the lane: it opens the files anew
        self._failures = 0  # since a batch was committed
        self._retry_at = 0.0
        self.broken: BaseException | None = None
        self.closed = False

    def check_run(self) -> None:
        """Raise RuntimeError in the trio run of another thread: nobody could be woken from it."""
        if get_ident() != self._thread:
            raise RuntimeError(
                f"the store {self._url} belongs to the trio run that opened it, and nothing was "
                f"changed: from another thread use trio.from_thread.run, or danube_trio.blocking"
            )

    def check_open(self, *, writing: bool = False) -> None:
        """Raise StoreUnavailableError if nothing can be written now, and no call can change that.

        Args:
            writing: the caller is one that can, when the next try is due.
        """
        if self.closed:
            raise StoreUnavailableError(f"the store {self._url} was closed; nothing was done")
        if self._pid != os.getpid():
            raise StoreUnavailableError(
                f"the store {self._url} was opened before fork: open it in the child, when the "
                f"parent has closed it"
            )
        if self.broken is not None and not (writing and self.may_mend):
            raise self._unavailable("nothing was done")

    @property
    def may_mend(self) -> bool:
        """Whether it is broken, and the next try to mend it is due."""
        return self.broken is not None and trio.current_time() >= self._retry_at

    def _unavailable(self, what: str) -> StoreUnavailableError:
        assert self.broken is not None
        error = StoreUnavailableError(
            f"the store {self._url} is broken since a write failed ({text_of(self.broken)}); "
            f"{what}. See to the disk: it is opened anew by a later call, in {PAUSES.limit:g} "
            f"seconds at the most"
        )
        error.__cause__ = self.broken
        return error

    async def finish(self) -> None:
        """Refuse what stands in the line, and wait for what is being written.

        Cancellation: none.
        """
        self.closed = True
        self._refuse_line()
        self._table.history.wake_all()
        with trio.CancelScope(shield=True):
            while self._led and self._pid == os.getpid():
                await self._idle.wait()

    @enable_ki_protection
    async def write(self, wanted: Transaction | None) -> Decision:
        """Do a transaction, durably; None only ends times to live.

        Raises StoreUnavailableError. Cancellation: what raises Cancelled was not done.
        """
        self.check_run()
        await checkpoint()
        # No checkpoint between this and the line: who is in it was not refused.
        self.check_open(writing=True)
        job = _Job(wanted)
        self._line.append(job)
        if self._led:
            await self._stand(job)
        else:
            self._led = job.leads = True
        if job.leads:
            await self._lead()
        if job.error is not None:
            raise job.error
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
        unknown = "nothing was done"
        batch: list[_Job] = []
        decisions: list[Decision] = []
        try:
            if self.broken is not None:
                await self._mend()
            batch = self._take()
            if self.broken is not None:
                return
            unknown = "whether this change is there is not known"
            draft = Draft(self._table, trio.current_time())
            decisions += [draft.decide(job.wanted or _NOTHING) for job in batch]
            if draft.changes:
                await self._commit(draft.changes)
        finally:
            self._settle(batch or self._take(), decisions, unknown)
            try:
                await self._tidy()
            finally:
                self._pass_on()

    def _settle(self, batch: list[_Job], decisions: list[Decision], unknown: str) -> None:
        assert len(decisions) in (0, len(batch)), "each has its own answer, or none has one"
        for place, job in enumerate(batch):
            if self.broken is not None:
                job.error = self._unavailable(unknown)
            elif not decisions:  # a bug, which is raised at the leader
                job.error = StoreUnavailableError("the decision failed; nothing was done")
            else:
                job.decision = decisions[place]
            if job.task is not None:
                reschedule(job.task)

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
            await self._lane.run(call)
        finally:
            if call.error is None:
                now = trio.current_time()
                for change in changes:
                    self._table.apply(change, now)
                self._can_write()
            else:
                self._break(call.error)

    async def _tidy(self) -> None:
        """Write the content anew when the journal has grown. The line waits meanwhile."""
        size = self._journal.size_bytes
        limit = max(self._journal_bytes, self._table.size_bytes, self._retry_above)
        if size <= limit or self.broken is not None:
            return
        call = _Call(self._journal.start_over, self._table.items())
        try:
            await self._lane.run(call)
        finally:
            if call.error is not None:
                self._break(call.error)
            self._retry_above = 0 if call.result else 2 * size

    def _pass_on(self) -> None:
        assert self._led  # or two would write
        if self.broken is not None:
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
        level = logging.DEBUG if self._failures else logging.ERROR  # one cause is told once
        log.log(level, "%s is broken, and is opened anew: %s", self._url, text_of(error))
        self.broken = error
        # The first try is due at once: most often a disk that refused one write takes the next.
        self._retry_at = trio.current_time() + PAUSES.after(self._failures)
        self._failures += 1
        self._table.history.wake_all()

    def _can_write(self) -> None:
        if self._failures:
            log.warning("%s can be written to again", self._url)
        self._failures = 0

    async def _mend(self) -> None:
        """Open the files anew, and take over what is found."""
        call = _Call(self._reopen)
        try:
            await self._lane.run(call)
        finally:
            try:
                if call.error is not None:
                    raise call.error
                self._take_over(cast("Content", call.result))
                self.broken = None
            except Exception as error:  # whatever it is: the next call tries it again
                self._break(error)

    def _take_over(self, found: Content) -> None:
        """Apply what recovery found beyond what the table has: the batch that failed, or nothing.

        Raises CorruptDataError if there is less: what was acknowledged.
        """
        table, journal = self._table, found.journal
        new = [change for change in found.changes if change.revision > table.revision]
        if journal.revision != table.revision + len(new):
            raise CorruptDataError(
                f"revision {table.revision} was acknowledged, and {journal.revision} is there",
                path=self._url,
                advice="Leave the store, and restore the directory from a copy",
            )
        now = trio.current_time()
        for change in new:
            table.apply(change, now)
        self._journal = journal
        log.debug("%s was opened anew, with %d changes more", self._url, len(new))

    def _refuse_line(self) -> None:
        """Nothing was done for those who stand in the line, but for one that leads already."""
        why = (
            StoreUnavailableError(f"the store {self._url} was closed; nothing was done")
            if self.broken is None
            else self._unavailable("nothing was done")
        )
        waiting = [job for job in self._line if not job.leads]
        self._line = deque(job for job in self._line if job.leads)
        for job in waiting:
            job.error = StoreUnavailableError(*why.args)
            job.error.__cause__ = self.broken
            assert job.task is not None
            reschedule(job.task)


def _size(job: _Job) -> int:
    return 0 if job.wanted is None else job.wanted.size_bytes
