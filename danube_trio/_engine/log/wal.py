"""`Wal`: the open log as its users see it. Made by `open_wal` only.

It only puts things together: `encode` makes records of what is handed in, `accept` takes them,
`engine` holds the state, `read.reader` reads. What each call promises stands in its docstring.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Mapping
from typing import TYPE_CHECKING

from trio.lowlevel import checkpoint, checkpoint_if_cancelled, enable_ki_protection

from danube_trio._core.frame import Records
from danube_trio._core.life import Phase
from danube_trio._core.stats import WalStatistics
from danube_trio._engine.log.accept import Acceptor
from danube_trio._engine.log.cloud_side import CloudSide
from danube_trio._engine.log.encode import Appendable, Encoder, parts_bytes
from danube_trio._engine.log.engine import Engine
from danube_trio._engine.read.readable import Readable
from danube_trio._engine.wait.waiters import OffsetWaiters
from danube_trio.config import Durability

if TYPE_CHECKING:
    from danube_trio._engine.log.janitor import Janitor


class Receipt:
    """Records that were accepted, and what became of them since.

    Each wait can be cancelled without effect on the records. After a failure each raises
    LogBrokenError: the outcome of the records is unknown until the log is opened again.

    Attributes:
        offsets: the offsets of the records, a `range`.
    """

    __slots__ = ("_engine", "offsets")

    def __init__(self, engine: Engine, offsets: range) -> None:
        self._engine = engine
        self.offsets = offsets

    def __repr__(self) -> str:
        return f"<Receipt for {self.offsets.start} to {self.offsets.stop}>"

    @property
    def offset(self) -> int:
        """The offset of the (first) record."""
        return self.offsets.start

    async def accepted(self) -> range:
        """The records are in memory, which they are since the receipt exists."""
        await checkpoint()
        return self.offsets

    async def written(self) -> range:
        """Wait until write returned: the records survive a crash of the process."""
        engine = self._engine
        return await self._wait(engine.marks.on_written, engine.marks.written_end)

    async def durable(self) -> range:
        """Wait until fdatasync returned. Asks for a sync now instead of at the next interval."""
        engine = self._engine
        engine.run.check()
        engine.log.want_durable(self.offsets.stop)
        engine.bells.writer.ring()
        return await self._wait(engine.marks.on_durable, engine.marks.durable_end)

    async def uploaded(self) -> range:
        """Wait until the records are in the object store: they survive the loss of the directory.

        Asks for an upload now instead of at the next interval. Raises FencedError when another
        writer took the log over before that, LogClosedError when the log was left, CorruptDataError
        when a segment is damaged that must be uploaded before, ValueError when the log has no
        object store.
        """
        wait = _check_store(self._engine).wait_uploaded
        return await self._tell(wait(self.offsets.stop))

    async def _wait(self, waiters: OffsetWaiters, mark: int) -> range:
        return await self._tell(self._wait_for(waiters, mark))

    async def _wait_for(self, waiters: OffsetWaiters, mark: int) -> None:
        engine = self._engine
        engine.run.check()
        if mark >= self.offsets.stop:
            await checkpoint()
        elif engine.log.phase in (Phase.BROKEN, Phase.CLOSED):
            await checkpoint()
            raise engine.log.refusal()
        else:
            await waiters.wait(self.offsets.stop)

    async def _tell(self, wait: Awaitable[None]) -> range:
        """Wait, and remember whether the caller was told of a failure."""
        with self._engine.telling(self.offsets):
            await wait
        return self.offsets


class Wal(Readable):
    """An open log. Made by `open_wal`; all methods belong to the trio run that opened it."""

    def __init__(self, engine: Engine, janitor: Janitor | None, log_id: str) -> None:
        super().__init__(engine, engine.readers)
        self._engine = engine
        self._janitor = janitor
        self._log_id = log_id
        self._acceptor = Acceptor(engine)
        self._encoder = Encoder(engine.config, engine.codec, engine.clock)
        self._level: Durability = engine.config.durability

    def __repr__(self) -> str:
        engine = self._engine
        where = engine.config.dir or "memory"
        return f"<Wal {where} {engine.log.phase.value}, next offset {engine.marks.next_offset}>"

    @property
    def phase(self) -> str:
        """``open``, ``sealed``, ``fenced``, ``closing``, ``closed`` or ``broken``."""
        return self._engine.log.phase.value

    @property
    def log_id(self) -> str:
        """What identifies the log, wherever it is: the same for copies of it, and for ever.

        "" for a log of an older version that was opened without its object store.
        """
        return self._log_id

    # ---- marks

    @property
    def next_offset(self) -> int:
        """The offset that the next record will get."""
        return self._engine.marks.next_offset

    @property
    def uploaded_end(self) -> int:
        """The first offset that is not in the object store; without one, `start_offset`."""
        return self._engine.marks.uploaded_end

    # ---- appending

    @enable_ki_protection
    async def append(
        self,
        message: Appendable,
        *,
        attributes: Mapping[str, str] | None = None,
        routing_key: str | None = None,
        schema_id: int | None = None,
        schema_version: int | None = None,
        durability: Durability | None = None,
        expected_offset: int | None = None,
    ) -> int:
        """Append one message and return its offset when it is as durable as asked.

        Args:
            message: a payload, or a whole `StreamMessage`.
            attributes, routing_key, schema_id, schema_version: go with a plain payload.
            durability: instead of the log's own (`WalConfig.durability`).
            expected_offset: accept only if this is the next offset.

        Raises:
            MessageTooLargeError, UnexpectedOffsetError, LogClosedError: it was not accepted.
            LogBrokenError: a write or sync failed; if it was accepted, its outcome is unknown.
            FencedError: another writer took the log over. If the record was accepted it is kept in
                this directory only, and is not part of the log.
            StoreUnavailableError: only with ``durability="uploaded"``: the record is durable here,
                and not in the store within ``upload_timeout``.
            CorruptDataError: only with ``durability="uploaded"``: the record is durable here, and
                cannot be uploaded, because a segment before it is damaged.
            TypeError, ValueError: the message cannot be encoded; names the field.

        Cancellation: if this raises Cancelled, the record was not accepted and will never appear.
        Once accepted, the wait for the disk is not interruptible.
        """
        parts = self._encoder.dressed(message, attributes, routing_key, schema_id, schema_version)
        return await self._acceptor.append(
            (parts,), parts_bytes(parts), durability or self._level, expected_offset
        )

    @enable_ki_protection
    async def append_batch(
        self,
        messages: Iterable[Appendable],
        *,
        durability: Durability | None = None,
        expected_offset: int | None = None,
    ) -> range:
        """Append messages as one atomic batch; return their offsets.

        After a crash all of the batch is there or none of it. An empty batch is accepted, or
        refused, like any other, and gets an empty range; there is nothing to wait for then. Raises
        and cancels like `append`; a batch whose encoding is larger than ``max_atomic_batch_bytes``
        is a MessageTooLargeError.
        """
        records, size = self._encoder.batch(messages)
        first = await self._acceptor.append(
            records, size, durability or self._level, expected_offset
        )
        return range(first, first + len(records))

    @enable_ki_protection
    def append_nowait(
        self,
        message: Appendable,
        *,
        attributes: Mapping[str, str] | None = None,
        routing_key: str | None = None,
        schema_id: int | None = None,
        schema_version: int | None = None,
        expected_offset: int | None = None,
    ) -> Receipt:
        """Accept one message now; the receipt tells what becomes of it.

        Raises trio.WouldBlock when there is no room (``max_pending_bytes``), RuntimeError in a
        thread other than that of the log's trio run, else like `append`.
        """
        parts = self._encoder.dressed(message, attributes, routing_key, schema_id, schema_version)
        return self._receipt((parts,), parts_bytes(parts), expected_offset)

    @enable_ki_protection
    def append_batch_nowait(
        self, messages: Iterable[Appendable], *, expected_offset: int | None = None
    ) -> Receipt:
        """Accept an atomic batch now. Raises like `append_nowait` and `append_batch`."""
        records, size = self._encoder.batch(messages)
        if not len(records):
            raise ValueError("messages is empty: a receipt needs at least one record")
        return self._receipt(records, size, expected_offset)

    def _receipt(self, records: Records, size_bytes: int, expected_offset: int | None) -> Receipt:
        first = self._acceptor.append_nowait(records, size_bytes, expected_offset)
        return Receipt(self._engine, range(first, first + len(records)))

    async def flush(self) -> None:
        """Wait until everything accepted so far is durable.

        Raises LogBrokenError if that failed. Can be cancelled, without effect on the records.
        """
        await self.wait_durable(self.next_offset)

    async def wait_durable(self, end: int) -> None:
        """Wait until everything below offset `end` is durable, now or in the future.

        Raises LogBrokenError or LogClosedError when that will not be. Can be cancelled.
        """
        if isinstance(end, bool) or not isinstance(end, int):
            raise TypeError(f"end={end!r} must be an offset")
        engine = self._engine
        engine.run.check()
        if engine.marks.durable_end >= end:
            await checkpoint()
            return
        engine.log.want_durable(min(end, engine.marks.next_offset))
        engine.bells.writer.ring()
        with engine.telling(range(end)):
            await checkpoint_if_cancelled()
            engine.refuse_to_wait(end)
            await engine.marks.on_durable.wait(end)

    async def wait_uploaded(self, end: int) -> None:
        """Wait until everything below offset `end` is in the object store.

        Can be cancelled. Raises FencedError, LogBrokenError or LogClosedError when that will not
        be, CorruptDataError when a segment is damaged that must be uploaded before (wait again
        when it is repaired), ValueError when the log has no object store.
        """
        if isinstance(end, bool) or not isinstance(end, int):
            raise TypeError(f"end={end!r} must be an offset")
        cloud = _check_store(self._engine)
        with self._engine.telling(range(end)):
            await cloud.wait_uploaded(end)

    async def seal(self) -> int:
        """Hand the log over: accept nothing more, upload everything, and say so in the catalog.

        Returns the end offset, where whoever opens it next goes on. Readers here go on too. Can
        be cancelled: the log stays sealed for appends, and a second call goes on waiting. Raises
        like `wait_uploaded`.
        """
        engine = self._engine
        cloud = _check_store(engine)
        engine.seal()
        end = engine.marks.next_offset
        await self.wait_durable(end)
        await self.wait_uploaded(end)
        await cloud.over.wait()
        with engine.telling():
            if not cloud.left_sealed:
                raise engine.log.refusal()
        return end

    # ---- trimming

    async def trim(self, before: int, *, whole_segments: bool = False) -> int:
        """Drop records below offset `before` from the front; returns the new `start_offset`.

        Only sealed segments are freed, so the start may stay lower than asked; inside them it is
        exactly `before`, also in the middle of a batch. With `whole_segments` it is the beginning
        of the segment that holds `before`, and nothing happens as long as no segment can go:
        cheap enough to be called after every acknowledgement. With an object store, what is not
        uploaded yet goes in whole segments only. Raises OSError when a file could not be written
        or removed (the log goes on, nothing is lost, and removing is tried again), LogBrokenError
        when the directory could not be synced or the log is broken (but one that broke for want of
        space can still be trimmed, to free some), LogClosedError when the log is being left,
        FencedError, StoreUnavailableError when the store did not answer: the trim may happen later.
        """
        if isinstance(before, bool) or not isinstance(before, int) or before < 0:
            raise ValueError(f"before={before!r} must be an offset, 0 or more")
        with self._engine.telling():
            return await self._trim(before, whole_segments)

    async def _trim(self, before: int, whole_segments: bool) -> int:
        engine = self._engine
        engine.run.check()
        if not engine.may_trim(before):
            await checkpoint()
            raise engine.log.refusal()
        if whole_segments:
            before = engine.segment_start(before)
            if before <= engine.marks.start_offset:
                await checkpoint()
                return engine.marks.start_offset
        if self._janitor is not None:
            return await self._janitor.trim(before)
        await checkpoint()
        if before > engine.marks.start_offset:
            engine.trimmed(min(before, engine.marks.durable_end))
        return engine.marks.start_offset

    def statistics(self) -> WalStatistics:
        """Everything that can be counted, at this moment."""
        return _statistics_of(self._engine)


def _check_store(engine: Engine) -> CloudSide:
    engine.run.check()
    if engine.cloud is None:
        raise ValueError("this needs an object store: open_wal(..., store=...)")
    return engine.cloud


def _statistics_of(engine: Engine) -> WalStatistics:
    """Look at everything."""
    marks, meters, files = engine.marks, engine.meters, engine.files
    return WalStatistics(
        phase=engine.log.phase.value,
        start_offset=marks.start_offset,
        uploaded_end=marks.uploaded_end,
        sealed_end=marks.sealed_end,
        durable_end=marks.durable_end,
        written_end=marks.written_end,
        next_offset=marks.next_offset,
        segments=len(files.segments) + 1 if files is not None else 0,
        size_bytes=files.size_bytes if files is not None else 0,
        pending_bytes=engine.intake.held_bytes,
        pending_peak_bytes=engine.intake.peak_bytes,
        pending_appends=len(meters.ages),
        durable_lag_seconds=meters.ages.oldest,
        cached_records=engine.memory.end - engine.memory.start,
        cached_bytes=engine.memory.size_bytes,
        appended_records=meters.appended_records,
        appended_bytes=meters.appended_bytes,
        writes=meters.writes,
        syncs=meters.syncs,
        rolls=meters.rolls,
        append_seconds=meters.ages.seconds.view(),
        batch_records=meters.batch_records.view(),
        batch_bytes=meters.batch_bytes.view(),
        write_seconds=meters.write_seconds.view(),
        sync_seconds=meters.sync_seconds.view(),
        disk_seconds=meters.disk_seconds.view(),
        readers=tuple(r.statistics() for r in engine.readers if not r.closed),
        waiting_appends=len(engine.queue),
        waiting_peak_appends=engine.queue.peak,
        janitor_failures=meters.janitor_failures,
        tasks=meters.tasks(),
        notes=files.notes if files is not None else (),
        cloud=engine.cloud.statistics(len(engine.pins)) if engine.cloud is not None else None,
    )


def inside(wal: Wal) -> tuple[Engine, Acceptor, Encoder]:
    """What an open log consists of, for who appends to it on behalf of many: see `thread.line`."""
    # A function of this module, not a method: users have no use for it.
    return wal._engine, wal._acceptor, wal._encoder  # pyright: ignore[reportPrivateUsage]
