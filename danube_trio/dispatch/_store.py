"""Where a topic's messages are: `TopicStore`, `TopicCache`, and segments in files.

`TopicStore` is what producers and readers of a topic use. The readers that it makes hold what they
have not read yet: see `_needs`.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import trio

from danube_trio import StartPosition, WalConfig, WalStorage, open_wal
from danube_trio.config import Durability
from danube_trio.dispatch._log import (
    CacheLimits,
    End,
    KnowsEnd,
    KnowsFinish,
    Message,
    MessageReader,
    PersistentLog,
    SegmentStorage,
    TopicLog,
)
from danube_trio.dispatch._needs import Needs
from danube_trio.dispatch._options import ReliableOptions, topic_parts
from danube_trio.errors import OffsetTrimmedError
from danube_trio.message import Gap, StreamMessage
from danube_trio.storage import Checks


class TopicReader:
    """An async iterator over a topic's messages, made by `TopicStore.create_reader`.

    As long as it is neither closed, at its end, nor forgotten, the retention of every dispatch of
    the topic in this program leaves alone what it has not handed out. (A reader of the log itself,
    as `danube_trio.Reader`, holds nothing, and gets OffsetTrimmedError when it is overtaken.) It
    waits for new messages unless it was given an end, and cancelling loses nothing.
    """

    def __init__(self, reader: MessageReader, forget: Callable[[TopicReader], None]) -> None:
        self._reader = reader
        self._forget = forget
        self._over = False

    def __repr__(self) -> str:
        return f"<TopicReader at {self.cursor}>"

    @property
    def cursor(self) -> int:
        """The offset of the next message that it will hand out."""
        return self._reader.cursor

    @property
    def finished(self) -> bool:
        """Whether it will hand out nothing more: it is closed, or at its end."""
        reader = self._reader
        return self._over or (isinstance(reader, KnowsFinish) and reader.finished)

    def __aiter__(self) -> TopicReader:
        return self

    async def __anext__(self) -> StreamMessage:
        try:
            return await self._reader.__anext__()
        except StopAsyncIteration:
            self._over = True
            raise

    async def next_batch(self) -> list[StreamMessage]:
        """The next messages, at least one; empty at the reader's end."""
        batch = await self._reader.next_batch()
        self._over = self._over or not batch
        return batch

    async def aclose(self) -> None:
        """Close it; idempotent."""
        self._over = True
        self._forget(self)
        await self._reader.aclose()

    async def __aenter__(self) -> TopicReader:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


class TopicStore:
    """The messages of one topic. Made by `ReliableDispatch`."""

    def __init__(self, topic: str, log: TopicLog) -> None:
        self.topic = topic
        self.log = log
        owner = log.owner if isinstance(log, PersistentLog) else log
        self.needs = Needs.of(owner, topic)
        self._seen_end = 0

    def __repr__(self) -> str:
        return f"<TopicStore of {self.topic}>"

    async def store_message(
        self,
        message: Message,
        *,
        durability: Durability | None = None,
        expected_offset: int | None = None,
    ) -> int:
        """Store one message; see `danube_trio.Wal.append` for what it promises and raises."""
        offsets = await self.log.append(
            [message], durability=durability, expected_offset=expected_offset
        )
        return offsets.start

    async def store_batch(
        self,
        messages: Iterable[Message],
        *,
        durability: Durability | None = None,
        expected_offset: int | None = None,
    ) -> range:
        """Store messages as one atomic batch; see `danube_trio.Wal.append_batch`."""
        return await self.log.append(
            list(messages), durability=durability, expected_offset=expected_offset
        )

    async def create_reader(
        self,
        start: StartPosition = StartPosition.earliest(),  # noqa: B008 (frozen)
        *,
        end: End = None,
        count: int | None = None,
    ) -> TopicReader:
        """A new reader; see `danube_trio.Wal.reader` for its arguments and errors."""
        Checks.start(start)
        if start.kind == "latest":  # retention never comes that far: nobody to wait for
            return self._registered(await self.log.reader(start, end=end, count=count))
        async with self.needs.guard:
            start = await self.not_freed(start)
            return self._registered(await self.log.reader(start, end=end, count=count))

    def _registered(self, reader: MessageReader) -> TopicReader:
        known = TopicReader(reader, self.needs.forget)
        self.needs.add_reader(known)
        return known

    async def not_freed(self, start: StartPosition) -> StartPosition:
        """A position that is not among messages which may yet go. To be called with the guard.

        Raises OffsetTrimmedError for an offset that is, TypeError for what is no position.
        """
        Checks.start(start)
        freed = self.needs.freed
        if start.kind == "offset" and start.value < freed:
            raise OffsetTrimmedError(start.value, freed)
        if start.kind == "earliest" and await self.log.start_offset() < freed:
            return StartPosition.offset(freed)
        return start

    async def start_offset(self) -> int:
        """The first offset that still exists."""
        return await self.log.start_offset()

    async def current_offset(self) -> int:
        """The offset that the next message will get."""
        self._seen_end = await self.log.current_offset()
        return self._seen_end

    def end_now(self) -> int:
        """The same without waiting. From a storage that cannot say it, its last answer."""
        end = self.log.end_now() if isinstance(self.log, KnowsEnd) else None
        if end is not None:
            self._seen_end = end
        return self._seen_end


@asynccontextmanager
async def reading(
    store: TopicStore, start: StartPosition, end: End, count: int | None = None
) -> AsyncGenerator[MessageReader]:
    """A reader of the log for a block, closed when that is left, cancelled or not."""
    reader = await store.log.reader(start, end=end, count=count)
    try:
        yield reader
    finally:
        with trio.CancelScope(shield=True):
            await reader.aclose()


async def first_offset(store: TopicStore, start: StartPosition) -> int:
    """Where the messages from a position on begin, a gap (of a log opened with "skip") as well."""
    end = await store.current_offset()  # before the reader: what comes meanwhile is not skipped
    async with reading(store, start, "current", 1) as reader:
        batch: Sequence[StreamMessage | Gap] = await reader.next_batch()
    if not batch:
        return end
    first = batch[0]
    return first.start if isinstance(first, Gap) else first.offset


class TopicCache:
    """A storage of segments, and how much of each topic is kept in memory in front of it.

    Args:
        storage: `InMemoryStorage` (which is its own cache) or `FileStorage`.
        max_messages, max_bytes: kept in memory for readers, for each topic.
    """

    def __init__(
        self, storage: SegmentStorage, *, max_messages: int = 65_536, max_bytes: int = 16 << 20
    ) -> None:
        for name, value in (("max_messages", max_messages), ("max_bytes", max_bytes)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}={value!r} must be a whole number, 1 or more")
        self.storage = storage
        self._limits = CacheLimits(max_messages, max_bytes)

    def __repr__(self) -> str:
        return f"<TopicCache over {self.storage!r}>"

    def open_topic(
        self, topic: str, options: ReliableOptions
    ) -> AbstractAsyncContextManager[TopicLog]:
        """The log of a topic, made if it is new."""
        return self.storage.open_topic(topic, options, self._limits)


class FileStorage:
    """A `SegmentStorage` of files: a directory for each topic, ``<dir>/<namespace>/<name>/``.

    Each is a log of its own with all that `danube_trio.open_wal` promises (a message is on disk
    when storing it returns, recovery is exact), and one process at a time. Its segments are the
    log's files, and the command line tool reads them.

    Args:
        dir: the directory above them all, made if missing.
        durability: what storing a message waits for unless told otherwise.
    """

    def __init__(self, dir: str | os.PathLike[str], *, durability: Durability = "fsync") -> None:
        self._dir: str = os.path.abspath(os.fspath(dir))
        self._durability: Durability = durability

    def __repr__(self) -> str:
        return f"<FileStorage {self._dir}>"

    def open_topic(
        self, topic: str, options: ReliableOptions, cache: CacheLimits
    ) -> AbstractAsyncContextManager[TopicLog]:
        """See `SegmentStorage`. Raises like `open_wal`."""
        config = WalConfig(
            dir=os.path.join(self._dir, *topic_parts(topic)),
            segment_bytes=options.segment_bytes,
            cache_capacity=cache.messages,
            cache_bytes=cache.bytes,
            durability=self._durability,
            topic_name=topic,
        )
        return _open_files(config, topic)


@asynccontextmanager
async def _open_files(config: WalConfig, topic: str) -> AsyncGenerator[TopicLog]:
    async with open_wal(config) as wal:
        yield PersistentLog(WalStorage.from_wal(wal, topic), topic)
