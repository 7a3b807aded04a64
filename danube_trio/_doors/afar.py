"""The engine's logs and readers in hands outside of its thread: what is the same for all doors.

Marks are plain integers and names, which change in one step in the engine's thread: they are read
in whatever thread asks. Everything else is a hop. See `surface`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Generic, Protocol, TypeVar, cast

from danube_trio._core.stats import ReaderStatistics
from danube_trio._doors.surface import at_once
from danube_trio._engine.log.wal import Wal
from danube_trio._engine.read.readable import Readable
from danube_trio._engine.read.reader import Reader
from danube_trio._engine.thread.append_job import Appender
from danube_trio._engine.thread.engine_thread import EngineThread
from danube_trio._engine.thread.jobs import Job
from danube_trio.message import Gap, Record

Log = TypeVar("Log", bound=Readable)


T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class FarDoor(Protocol):
    """A way to the engine's thread: what is the same in all of them."""

    engine_thread: EngineThread

    def reply(self, job: Job) -> None:
        """A job of this door is over. Called in the engine's thread."""

    def call_now(self, fn: Callable[[], T], *, late: bool = True) -> T:
        """Run a function there, and block until it returned.

        Args:
            late: whether it may be called when there is no engine any more. Else LogClosedError.
        """
        ...


Door = TypeVar("Door", bound=FarDoor)


class FarLog(Generic[Log, Door]):
    """A log that can be read: a `Wal`, a `Follower` or a `Replica`.

    Args:
        keep: the block, which would warn and close the log if it were collected before this.

    Attributes:
        inner: the engine's own log, for its thread.
        door: the way to that thread.
    """

    def __init__(self, inner: Log, door: Door, keep: object) -> None:
        self.inner: Log = inner
        self.door: Door = door
        self._keep: Any = keep

    def __repr__(self) -> str:
        return repr(self.inner)

    @property
    def start_offset(self) -> int:
        """The first offset that still exists."""
        return self.inner.start_offset

    @property
    def durable_end(self) -> int:
        """The first offset that is not (known to be) durable: the high watermark."""
        return self.inner.durable_end

    @property
    def codec(self) -> str:
        """The name of the log's message layout."""
        return self.inner.codec

    @property
    def open_readers(self) -> int:
        """How many of its readers exist that may still ask for something."""
        return self.door.call_now(lambda: self.inner.open_readers)


class FarWal(FarLog[Wal, Door]):
    """An open log.

    What is appended is encoded where the caller is: it is what was there at the call.

    Args:
        appender: of the log.
    """

    def __init__(self, inner: Wal, door: Door, keep: object, appender: Appender) -> None:
        super().__init__(inner, door, keep)
        self._job = partial(appender.job, door.reply)
        self._batch_job = partial(appender.batch_job, door.reply)
        self._accepting = appender.accepting
        self._accepting_batch = appender.accepting_batch

    @property
    def phase(self) -> str:
        """``open``, ``sealed``, ``fenced``, ``closing``, ``closed`` or ``broken``."""
        return self.inner.phase

    @property
    def log_id(self) -> str:
        """What identifies the log, wherever it is: the same for copies of it, and for ever."""
        return self.inner.log_id

    @property
    def next_offset(self) -> int:
        """The offset that the next record will get."""
        return self.inner.next_offset

    @property
    def uploaded_end(self) -> int:
        """The first offset that is not in the object store; without one, `start_offset`."""
        return self.inner.uploaded_end

    statistics = at_once(Wal.statistics, late=True)


class FarReader(Generic[T_co, Door]):
    """A reader: a hop for each batch, none for a record.

    What the engine's reader gave is put aside in its thread (`_fetched`), so that nothing is lost
    when nobody waits for the hop's end any more: it is handed out next.
    """

    def __init__(self, inner: Reader[T_co], door: Door) -> None:
        self._inner = inner
        self._door = door
        self._items: list[Any] = []
        self._next = 0
        self._cursor = inner.cursor
        self._fetched: list[T_co] | None = None
        self._busy: Any = False  # whether somebody is fetching; each door knows in its own way
        self.closed: bool = False

    def __del__(self) -> None:
        inner = [vars(self).pop("_inner", None)]
        if "_door" in vars(self):
            self._door.engine_thread.bury(inner)

    def __repr__(self) -> str:
        return f"<Reader at {self.cursor}, {'closed' if self.closed else 'open'}>"

    @property
    def cursor(self) -> int:
        """The offset of the next record that it will hand out."""
        items, i = self._items, self._next  # another thread may close this, and empty them
        if i >= len(items):
            return self._cursor
        item = cast("Record | Gap", items[i])
        return item.start if isinstance(item, Gap) else item.offset

    @property
    def finished(self) -> bool:
        """Whether it will hand out nothing more: it is closed, or at its end."""
        at_hand = self._busy or self._fetched is not None or self._next < len(self._items)
        return self.closed or (not at_hand and self._inner.finished)

    def statistics(self) -> ReaderStatistics:
        """Cursor, last tier and lag."""
        found = self._door.call_now(self._inner.statistics)
        return ReaderStatistics(self.cursor, found.tier, found.lag + found.cursor - self.cursor)

    def _close(self) -> None:
        """Hand out nothing more. Closing the engine's reader is for the caller."""
        self.closed = True
        self._items, self._next = [], 0

    async def _fetch_batch(self) -> None:
        """In the engine's thread. What a call that was ended put aside comes first."""
        if self._fetched is None:
            self._fetched = await self._inner.next_batch()

    def _take_fetched(self) -> list[T_co]:
        """Hand over what was fetched, without a call in between: an interrupt could come in one."""
        batch = self._fetched
        assert batch is not None, "nobody takes what was not fetched"
        if batch:
            last: Any = batch[-1]
            cursor: int = last.end if isinstance(last, Gap) else last.offset + 1
            self._cursor = cursor
        self._fetched, self._items, self._next = None, batch, 0
        return batch
