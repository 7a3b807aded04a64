"""Reading without async: plain iterators."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Generic, Literal, TypeVar, cast, overload

import trio

from danube_trio._core.stats import ReaderStatistics
from danube_trio._engine.read import readable as _readable
from danube_trio._engine.read import reader as _reader
from danube_trio._engine.read.reader import reader_closed
from danube_trio._engine.read.source import StartPosition
from danube_trio.blocking._thread import ThreadDoor
from danube_trio.message import Gap, Record, StreamMessage

__all__ = ["BatchIterator", "Readable", "Reader"]

T_co = TypeVar("T_co", covariant=True)


class Reader(Generic[T_co]):
    """A plain iterator over a log; made by `wal.reader()`. See `danube_trio.Reader`.

    Waits for new records at the end of the log unless it was given an end; Ctrl-C in the main
    thread, `close` and closing the log from another thread end the wait. Only one thread may use
    it at a time (trio.BusyResourceError). An interrupt loses no record: what was on its way is
    handed out next.
    """

    def __init__(self, inner: _reader.Reader[T_co], door: ThreadDoor) -> None:
        self._inner = inner
        self._door = door
        self._items: list[T_co] = []
        self._next = 0
        self._cursor = inner.cursor
        self._fetched: list[T_co] | None = None  # put aside in the engine's thread
        self._busy: dict[str, object] = {}  # the call that is under way; see `_refill`
        self.closed = False

    def __del__(self) -> None:
        inner = [vars(self).pop("_inner", None)]
        if "_door" in vars(self):
            self._door.engine_thread.bury(inner)

    def __repr__(self) -> str:
        return f"<Reader at {self.cursor}, {'closed' if self.closed else 'open'}>"

    @property
    def cursor(self) -> int:
        """The offset of the next record that it will hand out."""
        items, i = self._items, self._next
        if i >= len(items):
            return self._cursor
        item = cast("Record | Gap", items[i])
        return item.start if isinstance(item, Gap) else item.offset

    @property
    def finished(self) -> bool:
        """Whether it will hand out nothing more: it is closed, or at its end."""
        waits = self._busy or self._fetched is not None
        at_hand = waits or self._next < len(self._items)
        return self.closed or (not at_hand and self._inner.finished)

    def statistics(self) -> ReaderStatistics:
        """Cursor, last tier and lag."""
        found = self._door.call_now(self._inner.statistics)
        return ReaderStatistics(self.cursor, found.tier, found.lag + found.cursor - self.cursor)

    def __iter__(self) -> Reader[T_co]:
        return self

    def __next__(self) -> T_co:
        items, i = self._items, self._next
        if i >= len(items):  # another thread may close this, and empty `_items`, at any moment
            items, i = self._refill(), 0
            if not items:
                raise StopIteration
        self._next = i + 1
        return items[i]

    def next_batch(self) -> list[T_co]:
        """The next records, as many as are at hand, at least one; empty at the reader's end."""
        items = self._items[self._next :] or self._refill()
        self._items, self._next = [], 0
        return items

    def batches(self) -> BatchIterator[T_co]:
        """The same records, as an iterator over lists."""
        return BatchIterator(self)

    def close(self) -> None:
        """Close it, from any thread, also while another one waits in it. Idempotent.

        It hands out nothing after this call: who waits in it, or asks later, gets LogClosedError.
        """
        self.closed = True
        self._items, self._next = [], 0
        self._door.call_now(self._inner.close_now)

    def __enter__(self) -> Reader[T_co]:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    async def _fetch(self) -> None:
        """In the engine's thread. What an interrupted call put aside comes first."""
        if self._fetched is None:
            self._fetched = await self._inner.next_batch()

    def _refill(self) -> list[T_co]:
        """Get the next items; none at the end.

        Python looks for signals at calls. So an interrupt can come right after a lock was taken,
        when nobody knows yet that it was; whose turn is ours can be seen at any moment.
        """
        turn, busy = object(), self._busy
        try:
            if busy.setdefault("turn", turn) is not turn:
                raise trio.BusyResourceError("another thread is reading from this reader")
            if self.closed:
                raise reader_closed()
            if self._fetched is None:
                self._door.call(self._fetch)
            batch = self._take_fetched()
            # Only now: `close` sets it before it empties `_items`, so one of us sees the other.
            if self.closed:
                self._items = []
                raise reader_closed()
            return batch
        finally:
            if "turn" in busy and busy["turn"] is turn:
                del busy["turn"]

    def _take_fetched(self) -> list[T_co]:
        """Hand over what was fetched, without a call in between."""
        batch = self._fetched
        assert batch is not None
        if batch:
            last: Any = batch[-1]
            cursor: int = last.end if isinstance(last, Gap) else last.offset + 1
            self._cursor = cursor
        self._fetched, self._items, self._next = None, batch, 0
        return batch


class BatchIterator(Generic[T_co]):
    """Iterates over a reader's records in lists."""

    def __init__(self, reader: Reader[T_co]) -> None:
        self._reader = reader

    def __iter__(self) -> BatchIterator[T_co]:
        return self

    def __next__(self) -> list[T_co]:
        batch = self._reader.next_batch()
        if not batch:
            raise StopIteration
        return batch

    def close(self) -> None:
        """Close the reader."""
        self._reader.close()


class Readable:
    """A log that can be read: `Wal`, `Follower` and `Replica` are.

    Args:
        keep: the block, which would warn and close the log if it were collected before this.
    """

    def __init__(self, inner: _readable.Readable, door: ThreadDoor, keep: object) -> None:
        self._readable = inner
        self._door = door
        self._keep = keep

    def __repr__(self) -> str:
        return repr(self._readable)

    @property
    def start_offset(self) -> int:
        """The first offset that still exists."""
        return self._readable.start_offset

    @property
    def durable_end(self) -> int:
        """The first offset that is not (known to be) durable: the high watermark."""
        return self._readable.durable_end

    @property
    def codec(self) -> str:
        """The name of the log's message layout."""
        return self._readable.codec

    @property
    def open_readers(self) -> int:
        """How many of its readers exist that may still ask for something."""
        return self._door.call_now(lambda: self._readable.open_readers)

    @overload
    def reader(
        self,
        start: StartPosition = ...,
        *,
        end: int | Literal["current"] | None = ...,
        count: int | None = ...,
        raw: Literal[False] = ...,
    ) -> Reader[StreamMessage]: ...
    @overload
    def reader(
        self,
        start: StartPosition = ...,
        *,
        end: int | Literal["current"] | None = ...,
        count: int | None = ...,
        raw: Literal[True],
    ) -> Reader[Record]: ...
    def reader(
        self,
        start: StartPosition = StartPosition.earliest(),  # noqa: B008 (frozen)
        *,
        end: int | Literal["current"] | None = None,
        count: int | None = None,
        raw: bool = False,
    ) -> Reader[StreamMessage] | Reader[Record]:
        """A new reader; see `danube_trio.Wal.reader`."""
        make: Any = self._readable.reader
        inner = self._door.call_now(lambda: make(start, end=end, count=count, raw=raw))
        return Reader(inner, self._door)
