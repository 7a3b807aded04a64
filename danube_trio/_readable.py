"""What every log can do for its readers, however it was opened."""

from __future__ import annotations

import weakref
from collections.abc import Awaitable, Callable
from typing import Any, Literal, overload

import trio

from danube_trio._decode import message_decoder, raw_decoder
from danube_trio._reader import Reader
from danube_trio._source import ReaderSource, StartPosition
from danube_trio.errors import LogClosedError
from danube_trio.message import Record, StreamMessage

__all__ = ["Poller", "Readable"]


class Readable:
    """A log that can be read: `Wal`, `Follower` and `Replica` are."""

    def __init__(self, source: ReaderSource, readers: weakref.WeakSet[Reader[Any]]) -> None:
        self.__source = source
        self.__readers = readers

    @property
    def start_offset(self) -> int:
        """The first offset that still exists."""
        return self.__source.marks.start_offset

    @property
    def durable_end(self) -> int:
        """The first offset that is not (known to be) durable: the high watermark."""
        return self.__source.marks.durable_end

    @property
    def codec(self) -> str:
        """The name of the log's message layout."""
        return self.__source.codec.name

    @property
    def open_readers(self) -> int:
        """How many of its readers exist that may still ask for something."""
        return sum(1 for reader in self.__readers if not reader.finished)

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
        """A new reader; see `Reader`.

        Args:
            start: where to begin.
            end: stop before this offset; ``"current"``: stop where the durable log ends now.
            count: stop after so many records.
            raw: give `Record` objects instead of messages.

        With ``on_corruption="skip"`` there may be `Gap` items between the others. Of a log that
        somebody else writes, "latest", "current" and the end are what the last look found.

        Raises:
            OffsetTrimmedError: the start is before `start_offset`.
            ValueError: it is beyond the end of the log, or `end` or `count` is negative.
            LogClosedError: a follower or replica was left.
        """
        return self._new_reader(start, end, count, raw)

    def _new_reader(
        self,
        start: StartPosition,
        end: int | Literal["current"] | None,
        count: int | None,
        raw: bool,
    ) -> Reader[Any]:
        self._check_readable()
        reader = _make_reader(self.__source, start, end, count, raw)
        self.__readers.add(reader)
        return reader

    def _check_readable(self) -> None:
        """Refuse, if nothing can be read any more. An open log's own readers are told later."""


def _make_reader(
    source: ReaderSource,
    start: StartPosition,
    end: int | Literal["current"] | None,
    count: int | None,
    raw: bool,
) -> Reader[Any]:
    """Check the arguments of `wal.reader`, and make the reader."""
    if not isinstance(start, StartPosition):
        raise TypeError(
            f"start={start!r} must be a StartPosition, such as StartPosition.earliest()"
        )
    if end == "current":
        end = source.visible_end
    for name, value in (("end", end), ("count", count)):
        if value is not None and (
            isinstance(value, bool) or not isinstance(value, int) or value < 0
        ):
            also = ', "current" or None' if name == "end" else ", or None"
            raise ValueError(f"{name}={value!r} must be 0 or more{also}")
    decode = raw_decoder if raw else message_decoder(source.codec)
    return Reader(source, start, end=end, count=count, decode=decode)


class Poller:
    """Waiting for what nobody announces: among all who wait one looks, and the others wait for it.

    When nobody waits, nothing is looked at.

    Args:
        look: looks once.
        seconds: pause between two looks.
        what: for the error of those who wait when it is closed.
    """

    def __init__(self, look: Callable[[], Awaitable[None]], seconds: float, what: str) -> None:
        self._look = look
        self._seconds = seconds
        self._what = what
        self._looking = trio.Lock()
        self._looked_at = float("-inf")
        self._polled: trio.Event | None = None
        self._scope = trio.CancelScope()
        self._nap = trio.CancelScope()
        self.closed = False

    async def look(self) -> None:
        """Look now."""
        async with self._looking:
            self._looked_at = trio.current_time()  # of a look that fails, too: no poll spins
            await self._look()
        self._nap.cancel()  # who polls need not wait for what was seen just now

    async def wait(self, reached: Callable[[], bool]) -> None:
        """Look until it is reached. Raises LogClosedError on leaving, and what looking raises."""
        while not self.closed and not reached():
            if self._polled is not None:
                await self._polled.wait()  # somebody polls: what they see is for all
                continue
            self._polled = polled = trio.Event()
            try:
                with trio.CancelScope() as self._scope:
                    with trio.CancelScope() as self._nap:
                        await trio.sleep_until(self._looked_at + self._seconds)
                    if not self._nap.cancelled_caught:
                        await self.look()
            finally:
                self._polled = None
                polled.set()
        self.check()

    def check(self) -> None:
        """Raise LogClosedError if it is closed."""
        if self.closed:
            raise LogClosedError(f"the {self._what} is closed: open another one to continue")

    def close(self) -> None:
        """Wake everybody who waits; they are told."""
        self.closed = True
        self._scope.cancel()
