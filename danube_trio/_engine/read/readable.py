"""What every log can do for its readers, however it was opened."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, Literal, cast, overload

import trio

from danube_trio._core.codec import Codec
from danube_trio._core.frame import HEADER_BYTES, TRAILER_BYTES, Block, frame_time
from danube_trio._engine.read.poller import Poller
from danube_trio._engine.read.reader import Reader
from danube_trio._engine.read.source import ReaderSource, StartPosition
from danube_trio._engine.wait.running import OwnRun
from danube_trio.message import Record, StreamMessage


class Readable:
    """A log that can be read: `Wal`, `Follower` and `Replica` are."""

    def __init__(self, source: ReaderSource, readers: weakref.WeakSet[Reader[Any]]) -> None:
        self.__source = source
        self.__readers = readers
        self._run = OwnRun()

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
        self._run.check()
        self._check_readable()
        reader = _make_reader(self.__source, start, end, count, raw)
        self.__readers.add(reader)
        return reader

    def _check_readable(self) -> None:
        """Refuse, if nothing can be read any more. An open log's own readers are told later."""


class Observed(Readable):
    """A log that somebody else writes: it shows what the last look at it found.

    Readers that wait have it looked at again and again; anybody else may call `refresh`.
    """

    def __init__(
        self, source: ReaderSource, poller: Poller, readers: weakref.WeakSet[Reader[Any]]
    ) -> None:
        super().__init__(source, readers)
        self.__source = source
        self.__poller = poller

    async def refresh(self) -> None:
        """Look at the log now.

        Raises CorruptDataError if what is there contradicts itself, is another log now, or if
        records that were visible were taken back since (then open a new one); OSError or
        StoreUnavailableError if it cannot be read.
        """
        self._run.check()
        self._check_readable()
        await self.__poller.look()

    async def wait_durable(self, end: int) -> None:
        """Wait until everything below offset `end` is durable (of a replica: in the store).

        Now or in the future. Can be cancelled. Raises LogClosedError when this is left meanwhile,
        and as `refresh` does.
        """
        self._run.check()
        await trio.lowlevel.checkpoint()
        await self.__source.wait_visible(end)

    def _check_readable(self) -> None:
        self.__poller.check()


def _make_reader(
    source: ReaderSource,
    start: StartPosition,
    end: int | Literal["current"] | None,
    count: int | None,
    raw: bool,
) -> Reader[Any]:
    """Check the arguments of `wal.reader`, and make the reader."""
    check_wanted(start, end, count)
    if end == "current":
        end = source.visible_end
    decode = _raw_decoder if raw else _message_decoder(source.codec)
    return Reader(source, start, end=end, count=count, decode=decode)


def check_wanted(start: StartPosition, end: object, count: object) -> None:
    """Raise TypeError or ValueError for what no reader can be asked."""
    check_start(start)
    if end == "current":
        end = None
    for name, value in (("end", end), ("count", count)):
        if value is not None and (
            isinstance(value, bool) or not isinstance(value, int) or value < 0
        ):
            also = ', "current" or None' if name == "end" else ", or None"
            raise ValueError(f"{name}={value!r} must be 0 or more{also}")


def check_start(start: StartPosition) -> None:
    """Raise TypeError for what is no position."""
    if not isinstance(start, StartPosition):
        raise TypeError(
            f"start={start!r} must be a StartPosition, such as StartPosition.earliest()"
        )


def _message_decoder(codec: Codec) -> Callable[[Block, int, int], list[object]]:
    """Decode records of a block as messages."""

    def decode(block: Block, first: int, last: int) -> list[object]:
        messages: list[StreamMessage] = codec.decode_block(
            block.data, block.positions, block.start, first, last, TRAILER_BYTES
        )
        return cast("list[object]", messages)

    return decode


def _raw_decoder(block: Block, first: int, last: int) -> list[object]:
    """Take records of a block as they are."""
    data, positions, start = block.data, block.positions, block.start
    return [
        Record(
            start + i,
            data[positions[i] + HEADER_BYTES : positions[i + 1] - TRAILER_BYTES],
            frame_time(data, positions[i + 1]),
        )
        for i in range(first, last)
    ]
