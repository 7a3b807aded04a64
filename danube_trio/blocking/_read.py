"""Reading without async: plain iterators."""

from __future__ import annotations

from functools import partial
from typing import Any, Generic, Literal, TypeVar, overload

import trio

from danube_trio._doors.afar import FarLog, FarReader
from danube_trio._engine.read import readable as _readable
from danube_trio._engine.read import reader as _reader
from danube_trio._engine.read.reader import reader_closed
from danube_trio._engine.read.source import StartPosition
from danube_trio.blocking._thread import ThreadDoor
from danube_trio.message import Record, StreamMessage

T_co = TypeVar("T_co", covariant=True)
Log = TypeVar("Log", bound=_readable.Readable)


class Reader(FarReader[T_co, ThreadDoor]):
    """A plain iterator over a log; made by `wal.reader()`. See `danube_trio.Reader`.

    Waits for new records at the end of the log unless it was given an end; Ctrl-C in the main
    thread, `close` and closing the log from another thread end the wait. Only one thread may use
    it at a time (trio.BusyResourceError). An interrupt loses no record: what was on its way is
    handed out next.
    """

    def __init__(self, inner: _reader.Reader[T_co], door: ThreadDoor) -> None:
        super().__init__(inner, door)
        self._busy: dict[str, object] = {}  # the call that is under way; see `_refill`

    def __iter__(self) -> Reader[T_co]:
        return self

    def __next__(self) -> T_co:
        items: list[T_co] = self._items
        i = self._next
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
        self._close()
        self._door.call_now(self._inner.close_now)

    def __enter__(self) -> Reader[T_co]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

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
                self._door.call(self._fetch_batch)
            batch = self._take_fetched()
            # Only now: `close` sets it before it empties `_items`, so one of us sees the other.
            if self.closed:
                self._items = []
                raise reader_closed()
            return batch
        finally:
            if "turn" in busy and busy["turn"] is turn:
                del busy["turn"]


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


class Readable(FarLog[Log, ThreadDoor]):
    """A log that can be read: `Wal`, `Follower` and `Replica` are."""

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
        make: Any = self.inner.reader
        inner = self.door.call_now(partial(make, start, end=end, count=count, raw=raw))
        return Reader(inner, self.door)
