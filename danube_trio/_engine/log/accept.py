"""Acceptance: the step after which a record is the log's.

With room at hand (``max_pending_bytes``) the offsets are taken and the records queued in one
synchronous step. Before it, `Cancelled` means that nothing was accepted. After it nothing is
interruptible: an append waits for its durability, which is bounded by the block in flight and its
own, or, for the level "uploaded", by ``upload_timeout``. Without room, appends queue strictly in
the order of their calls.
"""

from __future__ import annotations

import trio
from trio.lowlevel import (
    checkpoint,
    checkpoint_if_cancelled,
    current_trio_token,
    enable_ki_protection,
)

from danube_trio._core.frame import Records
from danube_trio._core.log import Phase
from danube_trio._engine.log.engine import Engine
from danube_trio.config import Durability
from danube_trio.errors import (
    LogBrokenError,
    LogClosedError,
    StoreUnavailableError,
    UnexpectedOffsetError,
)

__all__ = ["Acceptor"]

LEVELS = ("accepted", "written", "fsync", "uploaded")


class Acceptor:
    """Accepts records for one log."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._log = engine.log
        self._intake = engine.intake
        self._marks = engine.marks
        self._in_memory = engine.disk is None
        self._cloud = engine.cloud
        self._token = current_trio_token()
        # Held while an append waits for room; who comes then queues behind it.
        self._queue = trio.StrictFIFOLock()

    @enable_ki_protection
    async def append(
        self,
        records: Records,
        size_bytes: int,
        level: Durability,
        expected_offset: int | None,
    ) -> int:
        """Accept, and wait for the level. Returns the first offset."""
        if level not in LEVELS:
            raise ValueError(f"durability={level!r} must be one of {', '.join(LEVELS)}")
        if level == "uploaded" and self._cloud is None:
            raise ValueError("durability='uploaded' needs an object store: open_wal(store=...)")
        waits = not self._in_memory and level != "accepted"
        # No checkpoint may follow acceptance, so one that never waits has its checkpoint here.
        if waits:
            await checkpoint_if_cancelled()
        else:
            await checkpoint()
        if self._queue.locked() or not self._has_room(size_bytes):
            await self._wait_for_room(size_bytes)
        first = self._accept(records, size_bytes, expected_offset)
        if waits:
            end = first + len(records)
            try:
                if level == "written":
                    await self._engine.written.wait_shielded(end)
                else:
                    self._log.want_durable(end)
                    await self._engine.durable.wait_shielded(end)
                    if level == "uploaded":
                        await self._wait_uploaded(first, end)
            except LogBrokenError:
                self._log.told(range(first, first + len(records)))
                raise
        return first

    async def _wait_uploaded(self, first: int, end: int) -> None:
        """Wait for the store, not to be interrupted, but no longer than the settings say."""
        engine = self._engine
        cloud = engine.cloud
        assert cloud is not None
        if engine.marks.uploaded_end >= end:
            return
        cloud.want_uploaded(end)
        timeout = engine.config.cloud.upload_timeout
        why = f"has not got them after {timeout} s"
        try:
            if engine.log.phase in (Phase.FENCED, Phase.BROKEN, Phase.CLOSED):
                raise engine.refusal()
            with trio.move_on_after(timeout, shield=True):
                await engine.uploaded.wait(end)
                return
        except LogClosedError:
            why = "had not got them when the log was left"
        last = f": {cloud.uploads.error}" if cloud.uploads.error else ""
        raise StoreUnavailableError(
            f"records {first} to {end} are durable in {engine.config.dir}, and will be uploaded, "
            f"but the store {why}{last}"
        )

    def _has_room(self, size_bytes: int) -> bool:
        cloud = self._cloud
        return self._intake.has_room(size_bytes) and (cloud is None or not cloud.full)

    @enable_ki_protection
    def append_nowait(self, records: Records, size_bytes: int, expected_offset: int | None) -> int:
        """Accept now or raise trio.WouldBlock. Returns the first offset."""
        self._check_run()
        if self._queue.locked() or not self._has_room(size_bytes):
            if self._log.phase is not Phase.OPEN:
                raise self._engine.refusal()
            raise trio.WouldBlock
        return self._accept(records, size_bytes, expected_offset)

    def _check_run(self) -> None:
        """Before anything is accepted: from elsewhere the tasks could not be woken."""
        try:
            here = current_trio_token()
        except RuntimeError:
            here = None
        if here is not self._token:
            raise RuntimeError(
                "the log belongs to the trio run that opened it: from another thread use "
                "trio.from_thread.run(wal.append, ...)"
            )

    def _accept(self, records: Records, size_bytes: int, expected_offset: int | None) -> int:
        if self._log.phase is not Phase.OPEN:
            if self._log.broken:
                self._log.told(range(0))
            raise self._engine.refusal()
        if expected_offset is not None and (
            expected_offset.__class__ is not int or expected_offset != self._marks.next_offset
        ):
            raise UnexpectedOffsetError(expected_offset, self._marks.next_offset)
        return self._engine.accept(records, size_bytes)

    async def _wait_for_room(self, size_bytes: int) -> None:
        """Returns with room, in the same step in which the caller accepts."""
        engine = self._engine
        engine.meters.append_waits()
        try:
            async with self._queue:
                while self._log.phase is Phase.OPEN and not self._has_room(size_bytes):
                    await engine.room_bell.wait()
        finally:
            engine.meters.waiting_appends -= 1
