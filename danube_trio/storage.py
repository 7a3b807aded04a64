"""Storage by topic name, as Danube's dispatch sees it: `PersistentStorage`, and one log behind it.

The names and the meaning are those of Danube's trait of the same name (2025-09 on), with half-open
offsets: `current_offset` is the next one to be given, `ack_checkpoint(topic, up_to)` speaks of
everything below `up_to`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from typing import Literal, Protocol, runtime_checkable

from trio.lowlevel import checkpoint

from danube_trio._disk import RealDisk
from danube_trio._encode import Appendable
from danube_trio._reader import Reader
from danube_trio._source import StartPosition
from danube_trio._wal import Wal
from danube_trio.config import Durability
from danube_trio.message import StreamMessage
from danube_trio.metadata import EmbeddedMetadata, open_metadata_directory

__all__ = ["PersistentStorage", "WalStorage", "open_metadata"]


@runtime_checkable
class PersistentStorage(Protocol):
    """Logs by topic name (``/default/orders``). What each call promises is said at `Wal`."""

    async def append_message(
        self,
        topic: str,
        message: Appendable,
        *,
        durability: Durability | None = None,
        expected_offset: int | None = None,
    ) -> int:
        """Append one message; see `Wal.append`."""
        ...

    async def append_batch(
        self,
        topic: str,
        messages: Iterable[Appendable],
        *,
        durability: Durability | None = None,
        expected_offset: int | None = None,
    ) -> range:
        """Append messages as one atomic batch; see `Wal.append_batch`."""
        ...

    async def create_reader(
        self,
        topic: str,
        start: StartPosition,
        *,
        end: int | Literal["current"] | None = None,
        count: int | None = None,
    ) -> Reader[StreamMessage]:
        """A new reader; see `Wal.reader`."""
        ...

    async def ack_checkpoint(self, topic: str, up_to: int) -> None:
        """Everything below offset `up_to` may go. What goes, and when, is for the storage to say.

        Raises like `Wal.trim`.
        """
        ...

    async def flush(self, topic: str) -> None:
        """Wait until everything accepted so far is durable; see `Wal.flush`."""
        ...

    async def start_offset(self, topic: str) -> int:
        """The first offset that still exists."""
        ...

    async def current_offset(self, topic: str) -> int:
        """The offset that the next message will get."""
        ...


class WalStorage:
    """A `PersistentStorage` of one open log. Made by `from_wal`; the log stays its opener's.

    It answers to one topic name, or to any if it was given none: Danube's own wiring has a log of
    its own for each topic.
    """

    def __init__(self, wal: Wal, topic: str | None) -> None:
        self._wal = wal
        self._topic = topic

    @classmethod
    def from_wal(cls, wal: Wal, topic: str | None = None) -> WalStorage:
        """Wrap an open log; with `topic`, every other name is a ValueError."""
        return cls(wal, topic)

    def __repr__(self) -> str:
        return f"<WalStorage of {self._wal!r}>"

    @property
    def wal(self) -> Wal:
        """The log."""
        return self._wal

    def _check(self, topic: str) -> None:
        if self._topic is not None and topic != self._topic:
            raise ValueError(f"topic={topic!r} is not in this storage: it holds {self._topic!r}")

    async def append_message(
        self,
        topic: str,
        message: Appendable,
        *,
        durability: Durability | None = None,
        expected_offset: int | None = None,
    ) -> int:
        """See `PersistentStorage`."""
        self._check(topic)
        return await self._wal.append(
            message, durability=durability, expected_offset=expected_offset
        )

    async def append_batch(
        self,
        topic: str,
        messages: Iterable[Appendable],
        *,
        durability: Durability | None = None,
        expected_offset: int | None = None,
    ) -> range:
        """See `PersistentStorage`."""
        self._check(topic)
        return await self._wal.append_batch(
            messages, durability=durability, expected_offset=expected_offset
        )

    async def create_reader(
        self,
        topic: str,
        start: StartPosition,
        *,
        end: int | Literal["current"] | None = None,
        count: int | None = None,
    ) -> Reader[StreamMessage]:
        """See `PersistentStorage`."""
        self._check(topic)
        await checkpoint()
        return self._wal.reader(start, end=end, count=count)

    async def ack_checkpoint(self, topic: str, up_to: int) -> None:
        """Trims the log when that frees a whole segment, at a segment's boundary."""
        self._check(topic)
        await self._wal.trim(up_to, whole_segments=True)

    async def flush(self, topic: str) -> None:
        """See `PersistentStorage`."""
        self._check(topic)
        await self._wal.flush()

    async def start_offset(self, topic: str) -> int:
        """See `PersistentStorage`."""
        self._check(topic)
        await checkpoint()
        return self._wal.start_offset

    async def current_offset(self, topic: str) -> int:
        """See `PersistentStorage`."""
        self._check(topic)
        await checkpoint()
        return self._wal.next_offset


def open_metadata(
    dir: str | os.PathLike[str],
) -> AbstractAsyncContextManager[EmbeddedMetadata]:
    """Open a metadata store in a directory of this machine, for one ``async with`` block.

    See `danube_trio.metadata.open_metadata_directory` for what it promises and raises.
    """
    return open_metadata_directory(dir, disk=RealDisk())
