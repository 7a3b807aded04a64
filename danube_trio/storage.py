"""Storage by topic name, as Danube's dispatch sees it: `PersistentStorage`, and what implements it.

`WalStorage` is one log behind that interface, `Storage` many of them (see `open_storage`).

The names and the meaning are those of Danube's trait of the same name (2025-09 on), with half-open
offsets: `current_offset` is the next one to be given, `ack_checkpoint(topic, up_to)` speaks of
everything below `up_to`.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, Protocol, runtime_checkable

from trio.lowlevel import checkpoint

from danube_trio._core.codec import DEFAULT_CODEC, get_codec
from danube_trio._core.frame import Records
from danube_trio._core.log import check_expected
from danube_trio._core.stats import StorageStatistics
from danube_trio._engine.log.accept import check_level
from danube_trio._engine.log.encode import Appendable, Encoder, parts_bytes
from danube_trio._engine.log.wal import Wal, inside
from danube_trio._engine.read.readable import check_start, check_wanted
from danube_trio._engine.read.reader import Reader
from danube_trio._engine.read.source import StartPosition
from danube_trio._engine.topics.open import open_storage
from danube_trio._engine.topics.storage import Storage
from danube_trio._engine.wait.housekeeping import housekeeping as housekeeping  # for dispatch
from danube_trio.config import Durability, StorageConfig, WalConfig
from danube_trio.message import StreamMessage

__all__ = [
    "PersistentStorage",
    "Storage",
    "StorageConfig",
    "StorageStatistics",
    "WalStorage",
    "open_storage",
]


class Checks:
    """The checks that a log makes of what is handed in, for a storage that keeps messages itself.

    The very same code; each raises as `Wal` does, before anything is changed.
    """

    def __init__(self, topic: str, clock: Callable[[], float]) -> None:
        self._encoder = Encoder(WalConfig(topic_name=topic), get_codec(DEFAULT_CODEC), clock)

    def taken(
        self,
        messages: Sequence[Appendable],
        durability: Durability | None,
        expected_offset: int | None,
        next_offset: int,
    ) -> tuple[Records, int]:
        """Messages to append, as a log would encode them now, and their bytes at most."""
        if len(messages) == 1:  # the limit of a batch is not that of one message
            parts = self._encoder.one(messages[0])
            encoded: tuple[Records, int] = ((parts,), parts_bytes(parts))
        else:
            encoded = self._encoder.batch(messages)
        check_level(durability or "fsync", store=False)
        check_expected(expected_offset, next_offset)
        return encoded

    @staticmethod
    def start(start: StartPosition) -> None:
        """Where somebody is to begin."""
        check_start(start)

    def wanted(self, start: StartPosition, end: object, count: object) -> None:
        """What a reader is to read."""
        check_wanted(start, end, count)


# The topics that logs were dispatched as.
_CLAIMS: weakref.WeakKeyDictionary[Wal, str] = weakref.WeakKeyDictionary()


def _same(one: str, other: str) -> bool:
    return one.removeprefix("/") == other.removeprefix("/")


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

    async def flush(self, topic: str) -> None:
        """Wait until everything accepted so far is durable; see `Wal.flush`."""

    async def start_offset(self, topic: str) -> int:
        """The first offset that still exists."""
        ...

    async def current_offset(self, topic: str) -> int:
        """The offset that the next message will get."""
        ...


class WalStorage:
    """A `PersistentStorage` of one open log. Made by `from_wal`; the log stays its opener's.

    It answers to one topic name: the one that it was given, else the ``topic_name`` of the log's
    settings. If there is neither, it answers to any: Danube's own wiring has a log of its own for
    each topic.
    """

    def __init__(self, wal: Wal, topic: str | None) -> None:
        self._wal = wal
        self._topic = topic
        named = inside(wal)[0].config.topic_name
        if topic is None:
            self._topic = named or None
        elif named and not _same(topic, named):
            raise ValueError(f"topic={topic!r} is not that of the log: its topic_name is {named!r}")

    @classmethod
    def from_wal(cls, wal: Wal, topic: str | None = None) -> WalStorage:
        """Wrap an open log; with `topic`, every other name is a ValueError.

        Raises ValueError if the log's settings name another topic.
        """
        return cls(wal, topic)

    def __repr__(self) -> str:
        return f"<WalStorage of {self._wal!r}>"

    @property
    def wal(self) -> Wal:
        """The log."""
        return self._wal

    @property
    def topic(self) -> str | None:
        """The topic that it answers to; None: any."""
        return self._topic

    def check(self, topic: str) -> None:
        """Raise ValueError if it does not answer to this topic."""
        if self._topic is not None and not _same(topic, self._topic):
            raise ValueError(f"topic={topic!r} is not in this storage: it holds {self._topic!r}")

    def claim(self, topic: str) -> None:
        """The log is this topic's, as long as it is open: who dispatches it says so.

        Two topics over one log would get each other's messages. Raises ValueError that names both.
        """
        self.check(topic)
        claimed = _CLAIMS.setdefault(self._wal, topic)
        if not _same(topic, claimed):
            raise ValueError(
                f"topic={topic!r} is not in this storage: its log is that of {claimed!r}, which "
                f"was dispatched from it before. Open a log for each topic, or use open_storage"
            )

    async def append_message(
        self,
        topic: str,
        message: Appendable,
        *,
        durability: Durability | None = None,
        expected_offset: int | None = None,
    ) -> int:
        """See `PersistentStorage`."""
        self.check(topic)
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
        self.check(topic)
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
        self.check(topic)
        await checkpoint()
        return self._wal.reader(start, end=end, count=count)

    async def ack_checkpoint(self, topic: str, up_to: int) -> None:
        """Trims the log when that frees a whole segment, at a segment's boundary."""
        self.check(topic)
        await self._wal.trim(up_to, whole_segments=True)

    async def flush(self, topic: str) -> None:
        """See `PersistentStorage`."""
        self.check(topic)
        await self._wal.flush()

    async def start_offset(self, topic: str) -> int:
        """See `PersistentStorage`."""
        self.check(topic)
        await checkpoint()
        return self._wal.start_offset

    async def current_offset(self, topic: str) -> int:
        """See `PersistentStorage`."""
        self.check(topic)
        await checkpoint()
        return self._wal.next_offset
