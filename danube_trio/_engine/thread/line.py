"""Appends on behalf of many: acceptance in one step, and one task that waits for a mark.

An append from another thread costs no task of trio's. Whoever comes while there is room is accepted
in the step in which the host takes its job; then it stands in a queue for its mark, in the order of
the offsets, and the queue's only task answers everybody whom a sync has reached.

Without room, appends stand in line in the order of their calls, and nobody overtakes: one task has
the log wait for room for the first. Only there can an append be withdrawn. That is the door's part
of exact cancellation: before acceptance `Withdrawn` and no record, after it the real outcome.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

import trio
from outcome import Error, Outcome, Value

from danube_trio._core.frame import Records
from danube_trio._engine.log.encode import Appendable, parts_bytes
from danube_trio._engine.log.wal import Receipt, Wal, inside
from danube_trio._engine.thread.host import Host
from danube_trio._engine.thread.jobs import Job, Withdrawn
from danube_trio._engine.wait.waiters import Doorbell
from danube_trio.config import Durability

__all__ = ["AppendJob", "AppendLine", "Dress", "line_of"]

# attributes, routing_key, schema_id, schema_version
Dress = tuple[Mapping[str, str] | None, str | None, int | None, int | None]


class AppendJob(Job):
    """One append, or one batch. Over when it is as durable as asked; its result is that of `Wal`.

    Args:
        line: of the log.
        records, size_bytes: encoded in the caller's thread, at the moment of the call.
        batch: whether the result is a range.
        level: None is the log's own.
        expected_offset: None is any.
    """

    __slots__ = ("batch", "expected_offset", "level", "line", "records", "scope", "size_bytes")

    def __init__(
        self,
        reply: Callable[[Job], None],
        line: AppendLine,
        records: Records,
        size_bytes: int,
        batch: bool,
        level: Durability | None,
        expected_offset: int | None,
    ) -> None:
        super().__init__(reply)
        self.line = line
        self.records = records
        self.size_bytes = size_bytes
        self.batch = batch
        self.level: Durability = level or line.level
        self.expected_offset = expected_offset
        self.scope: trio.CancelScope | None = None

    def start(self, host: Host) -> None:
        """Have it accepted, or stand in line."""
        self.line.take(self)

    def cancel(self) -> None:
        """Leave the line. Accepted, it goes on."""
        self.line.withdraw(self)

    def succeed(self, offsets: range) -> None:
        """It is as durable as asked."""
        self.finish(Value(offsets if self.batch else offsets.start))


class AppendLine:
    """All appends of one log that come through a door.

    Lives in the engine's thread, but for encoding: what is appended is what was there at the call.
    """

    def __init__(self, wal: Wal, host: Host) -> None:
        self.wal = wal
        self._host = host
        self._engine, self._acceptor, self._encoder = inside(wal)
        engine = self._engine
        self.level: Durability = engine.config.durability
        self._waiting: deque[AppendJob] = deque()
        self._written = _Queue(host, lambda: engine.marks.written_end, Receipt.written)
        self._durable = _Queue(host, lambda: engine.marks.durable_end, Receipt.durable)

    # ---- in the caller's thread

    def encode(self, message: Appendable, dress: Dress) -> tuple[Records, int]:
        """One message as records, and their size. Raises like `Wal.append`."""
        parts = self._encoder.dressed(message, *dress)
        return (parts,), parts_bytes(parts)

    def encode_batch(self, messages: Iterable[Appendable]) -> tuple[Records, int]:
        """Messages as records, and their size. Raises like `Wal.append_batch`."""
        return self._encoder.batch(messages)

    # ---- in the engine's thread

    def __call__(self) -> None:
        """The log was left: everything accepted has an outcome, and nothing more comes."""
        self._written.close()
        self._durable.close()

    def append_nowait(
        self, records: Records, size_bytes: int, expected_offset: int | None
    ) -> Receipt:
        """Accept without waiting; whoever stands in line comes first."""
        if self._waiting:
            raise trio.WouldBlock
        first = self._acceptor.append_nowait(records, size_bytes, expected_offset)
        return Receipt(self._engine, range(first, first + len(records)))

    def take(self, job: AppendJob) -> None:
        """Accept the job now, or put it in line."""
        if job.level not in ("accepted", "written", "fsync"):
            job.scope = trio.CancelScope()
            self._host.nursery.start_soon(self._one, job, job.scope)
        elif self._waiting:
            self._stand_in_line(job)
        else:
            try:
                receipt = self.append_nowait(job.records, job.size_bytes, job.expected_offset)
            except trio.WouldBlock:
                self._stand_in_line(job)
                self._host.nursery.start_soon(self._wait_for_room)
            except BaseException as error:
                job.finish(Error(error))  # all of them: they belong to the caller
            else:
                self._accepted(job, receipt)

    def withdraw(self, job: AppendJob) -> None:
        """Nothing if it was accepted."""
        if job.scope is not None:
            job.scope.cancel()
        elif job in self._waiting:
            self._waiting.remove(job)
            self._engine.meters.waiting_appends -= 1
            job.finish(Error(Withdrawn()))

    def _accepted(self, job: AppendJob, receipt: Receipt) -> None:
        if job.level == "accepted" or not receipt.offsets:
            job.succeed(receipt.offsets)
        elif job.level == "written":
            self._written.add(job, receipt)
        else:
            self._engine.log.want_durable(receipt.offsets.stop)
            self._durable.add(job, receipt)

    async def _wait_for_room(self) -> None:
        """Have the first in line accepted, until nobody is left. Ends when the log is left."""
        with trio.CancelScope(shield=True):
            while self._waiting:
                await self._accept_first()

    def _stand_in_line(self, job: AppendJob) -> None:
        self._waiting.append(job)
        self._engine.meters.append_waits()

    async def _accept_first(self) -> None:
        job = self._waiting[0]
        self._engine.meters.waiting_appends -= 1  # the log itself counts the first one
        first: int | None = None
        result: Outcome[Any] = Error(Withdrawn())
        try:
            with trio.CancelScope() as job.scope:
                first = await self._append(job, "accepted")
        except BaseException as error:
            result = Error(error)  # all of them: they belong to the caller
        job.scope = None
        self._waiting.popleft()
        if first is None:
            job.finish(result)
        else:
            self._accepted(job, Receipt(self._engine, range(first, first + len(job.records))))

    async def _one(self, job: AppendJob, scope: trio.CancelScope) -> None:
        """A level for which the log waits by rules of its own, or one that does not exist."""
        result: Outcome[Any] = Error(Withdrawn())
        with trio.CancelScope(shield=True):
            try:
                with scope:
                    first = await self._append(job, job.level)
                    offsets = range(first, first + len(job.records))
                    result = Value(offsets if job.batch else first)
            except BaseException as error:
                result = Error(error)  # all of them: they belong to the caller
        job.finish(result)

    async def _append(self, job: AppendJob, level: Durability) -> int:
        return await self._acceptor.append(job.records, job.size_bytes, level, job.expected_offset)


def line_of(host: Host, thing: object) -> AppendLine | None:
    """The line of what was opened, if that is a log to append to. In the engine's thread."""
    return AppendLine(thing, host) if isinstance(thing, Wal) else None


class _Queue:
    """Who waits for one mark, in the order of the offsets, and the task that answers them."""

    def __init__(
        self, host: Host, mark: Callable[[], int], wait: Callable[[Receipt], Awaitable[range]]
    ) -> None:
        self._host = host
        self._mark = mark
        self._wait = wait
        self._queue: deque[tuple[AppendJob, Receipt]] = deque()
        self._bell = Doorbell()
        self._serving = False
        self._closing = False

    def add(self, job: AppendJob, receipt: Receipt) -> None:
        """Answer the job when the mark has reached its end."""
        if self._mark() >= receipt.offsets.stop:
            job.succeed(receipt.offsets)  # a log in memory
            return
        self._queue.append((job, receipt))
        if not self._serving:
            self._serving = True
            self._host.nursery.start_soon(self._serve)
        elif len(self._queue) == 1:
            self._bell.ring()

    def close(self) -> None:
        """End when the queue is empty; whoever comes later is still answered."""
        self._closing = True
        self._bell.ring()

    async def _serve(self) -> None:
        """Answer, until it is closed and the queue is empty."""
        with trio.CancelScope(shield=True):
            while self._queue or not self._closing:
                if self._queue:
                    await self._answer()
                else:
                    await self._bell.wait()
        self._serving = False

    async def _answer(self) -> None:
        queue = self._queue
        job, receipt = queue[0]
        try:
            await self._wait(receipt)
        except BaseException as error:
            queue.popleft()
            job.finish(Error(error))  # all of them: they belong to the caller
            return
        end = self._mark()
        while queue and queue[0][1].offsets.stop <= end:
            job, receipt = queue.popleft()
            job.succeed(receipt.offsets)
