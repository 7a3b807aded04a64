"""Appends on behalf of other threads: they cost no task of trio's.

A job enters the log's own queue (`append_queue`) in the step in which the thread takes it, so
appends of all doors stand in one queue, in the order of their calls. Accepted, it is told by the
mark that it waits for, in the order of the offsets. Only in the queue can it be withdrawn. That is
the door's part of exact cancellation: before acceptance `Withdrawn` and no record, after it the
real outcome.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial

from outcome import Error, Value

from danube_trio._core.frame import Records
from danube_trio._engine.log.encode import Appendable, parts_bytes
from danube_trio._engine.log.wal import Receipt, Wal, inside
from danube_trio._engine.thread.engine_thread import EngineThread
from danube_trio._engine.thread.jobs import Job, Withdrawn
from danube_trio.config import Durability

__all__ = ["AppendJob", "Appender", "appender_of"]


class AppendJob(Job):
    """One append, or one batch. Over when it is as durable as asked; its result is that of `Wal`.

    Args:
        appender: of the log.
        records, size_bytes: encoded in the caller's thread, at the moment of the call.
        batch: whether the result is a range.
        level: None is the log's own.
        expected_offset: None is any.
    """

    __slots__ = (
        "_appender",
        "_batch",
        "_engine_thread",
        "_level",
        "_offsets",
        "expected_offset",
        "records",
        "size_bytes",
    )
    acts_at_once = True

    def __init__(
        self,
        reply: Callable[[Job], None],
        appender: Appender,
        records: Records,
        size_bytes: int,
        batch: bool,
        level: Durability | None,
        expected_offset: int | None,
    ) -> None:
        super().__init__(reply)
        self._appender = appender
        self._batch = batch
        self._level: Durability = level or appender.level
        self.records = records
        self.size_bytes = size_bytes
        self.expected_offset = expected_offset

    def start(self, engine_thread: EngineThread) -> None:
        """Have it accepted, or stand in the queue."""
        self._engine_thread = engine_thread
        self._appender.acceptor.check(self._level)
        self._appender.acceptor.queue.enter(self)

    def cancel(self) -> None:
        """Leave the queue. Accepted, it goes on."""
        if self._appender.acceptor.queue.leave(self):
            self.finish(Error(Withdrawn()))

    def accepted(self, first: int) -> None:
        """See `Newcomer`."""
        self._offsets = range(first, first + len(self.records))
        self._appender.acceptor.wake_when(self._level, self._offsets, self._reached)

    def refused(self, error: BaseException) -> None:
        """See `Newcomer`."""
        self._appender.told(error, range(0))
        self.finish(Error(error))

    def _reached(self, error: BaseException | None) -> None:
        """It is as durable as its directory makes it, or will not be."""
        if error is not None:
            self._appender.told(error, self._offsets)
            self.finish(Error(error))
        elif self._level == "uploaded" and self._offsets:
            self._engine_thread.spawn(self, self._wait_uploaded)
        else:
            self.finish(Value(self._result()))

    async def _wait_uploaded(self) -> object:
        await self._appender.acceptor.wait_uploaded(self._offsets)
        return self._result()

    def _result(self) -> object:
        return self._offsets if self._batch else self._offsets.start


class Appender:
    """One log, to append to through a door. Any number of them may be of one log.

    Lives in the engine's thread, but for encoding: what is appended is what was there at the call.
    """

    def __init__(self, wal: Wal) -> None:
        self.wal = wal
        self._engine, self.acceptor, self._encoder = inside(wal)
        self.level: Durability = self._engine.config.durability

    # ---- in the caller's thread

    def job(
        self,
        reply: Callable[[Job], None],
        message: Appendable,
        *,
        attributes: Mapping[str, str] | None = None,
        routing_key: str | None = None,
        schema_id: int | None = None,
        schema_version: int | None = None,
        durability: Durability | None = None,
        expected_offset: int | None = None,
    ) -> AppendJob:
        """To append one message. Raises like `Wal.append` if it cannot be encoded."""
        dressed = self._encoder.dressed
        parts = dressed(message, attributes, routing_key, schema_id, schema_version)
        size = parts_bytes(parts)
        return AppendJob(reply, self, (parts,), size, False, durability, expected_offset)

    def batch_job(
        self,
        reply: Callable[[Job], None],
        messages: Iterable[Appendable],
        *,
        durability: Durability | None = None,
        expected_offset: int | None = None,
    ) -> AppendJob:
        """To append messages as one batch. Raises like `Wal.append_batch`."""
        records, size = self._encoder.batch(messages)
        return AppendJob(reply, self, records, size, True, durability, expected_offset)

    def accepting(
        self,
        message: Appendable,
        *,
        attributes: Mapping[str, str] | None = None,
        routing_key: str | None = None,
        schema_id: int | None = None,
        schema_version: int | None = None,
        expected_offset: int | None = None,
    ) -> Callable[[], Receipt]:
        """To be called in the engine's thread: accepts one message; see `Wal.append_nowait`."""
        dressed = self._encoder.dressed
        parts = dressed(message, attributes, routing_key, schema_id, schema_version)
        return partial(self._accept, (parts,), parts_bytes(parts), expected_offset)

    def accepting_batch(
        self, messages: Iterable[Appendable], *, expected_offset: int | None = None
    ) -> Callable[[], Receipt]:
        """The same for a batch; see `Wal.append_batch_nowait`."""
        records, size = self._encoder.batch(messages)
        if not len(records):
            raise ValueError("messages is empty: a receipt needs at least one record")
        return partial(self._accept, records, size, expected_offset)

    # ---- in the engine's thread

    def _accept(self, records: Records, size_bytes: int, expected_offset: int | None) -> Receipt:
        """Accept without waiting; whoever stands in the queue comes first."""
        first = self.acceptor.append_nowait(records, size_bytes, expected_offset)
        return Receipt(self._engine, range(first, first + len(records)))

    def told(self, error: BaseException, offsets: range) -> None:
        """That is delivered, whoever's step it is in which it came."""
        self._engine.log.told(error, offsets)


def appender_of(thing: object) -> Appender | None:
    """The appender of what was opened, if that is a log to append to. In the engine's thread."""
    return Appender(thing) if isinstance(thing, Wal) else None
