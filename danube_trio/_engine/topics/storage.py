"""`Storage`: many topics in one process, each a log of its own, by Danube's names.

`opening` says what they are opened with, `hosts` opens and closes them; here is what can
be done with them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from typing import Literal

from trio.lowlevel import checkpoint, enable_ki_protection

from danube_trio._core.disk import Disk
from danube_trio._core.stats import StorageStatistics, WalStatistics
from danube_trio._core.topic_names import topic_name
from danube_trio._engine.log.encode import Appendable, as_it_is_now, listed
from danube_trio._engine.log.wal import Wal
from danube_trio._engine.read.reader import Reader
from danube_trio._engine.read.source import StartPosition
from danube_trio._engine.topics.delete import delete_topic
from danube_trio._engine.topics.hosts import TopicHosts
from danube_trio._engine.topics.listing import local_topics, topics_in_metadata, topics_in_store
from danube_trio._engine.topics.opening import Away, TopicOpener
from danube_trio._engine.topics.topic import Topic
from danube_trio.config import Durability, StorageConfig
from danube_trio.errors import LogClosedError
from danube_trio.message import StreamMessage
from danube_trio.metadata import MetadataStore


class Storage:
    """Many topics; a `PersistentStorage`. Made by `open_storage` only.

    A topic is opened by its first use, and closed when it was idle for a while. Its name is
    ``/namespace/topic``; a bad one is a ValueError. Every method raises what opening raises (see
    `open_wal`), and LogClosedError or FencedError for a topic that was given away (see `seal`).
    """

    def __init__(
        self,
        config: StorageConfig,
        door: TopicOpener,
        topics: TopicHosts,
        disk: Disk,
        metadata: MetadataStore,
    ) -> None:
        self._config = config
        self._door = door
        self._topics = topics
        self._disk = disk
        self._metadata = metadata

    def __repr__(self) -> str:
        found = self.statistics()
        return f"<Storage {self._config.dir}, open topics: {found.open_topics}>"

    @property
    def config(self) -> StorageConfig:
        """The settings."""
        return self._config

    @property
    def metadata(self) -> MetadataStore:
        """Where cursors of subscriptions are kept, and, if it was given, the catalogs."""
        return self._metadata

    # ---- one topic

    def topic(self, topic: str) -> AbstractAsyncContextManager[Wal]:
        """Use a topic's log: ``async with storage.topic(name) as wal:``. It stays open inside.

        (Unless it is sealed, deleted or taken over meanwhile: then it says so.)
        """
        return Use(self._topics, topic_name(topic))

    @enable_ki_protection
    async def append_message(
        self,
        topic: str,
        message: Appendable,
        *,
        durability: Durability | None = None,
        expected_offset: int | None = None,
    ) -> int:
        """Append one message; see `Wal.append`.

        Cancellation: if this raises Cancelled, the record was not accepted.
        """
        held = self._topics.pin_now(topic)
        if held is None:
            message = as_it_is_now(message)
            held = await self._topics.pin(topic_name(topic))
        try:
            return await held.log.append(
                message, durability=durability, expected_offset=expected_offset
            )
        finally:
            self._topics.unpin(held)

    @enable_ki_protection
    async def append_batch(
        self,
        topic: str,
        messages: Iterable[Appendable],
        *,
        durability: Durability | None = None,
        expected_offset: int | None = None,
    ) -> range:
        """Append messages as one atomic batch; see `Wal.append_batch`. Cancelled: none of it."""
        held = self._topics.pin_now(topic)
        if held is None:
            messages = [as_it_is_now(message) for message in listed(messages)]
            held = await self._topics.pin(topic_name(topic))
        try:
            return await held.log.append_batch(
                messages, durability=durability, expected_offset=expected_offset
            )
        finally:
            self._topics.unpin(held)

    async def create_reader(
        self,
        topic: str,
        start: StartPosition = StartPosition.earliest(),  # noqa: B008 (frozen)
        *,
        end: int | Literal["current"] | None = None,
        count: int | None = None,
    ) -> Reader[StreamMessage]:
        """A new reader; see `Wal.reader`.

        It keeps the topic open until it is closed, at its end, or garbage.
        """
        async with self.topic(topic) as wal:
            return wal.reader(start, end=end, count=count)

    async def ack_checkpoint(self, topic: str, up_to: int) -> None:
        """Everything below offset `up_to` may go: trims, when that frees a whole segment."""
        async with self.topic(topic) as wal:
            await wal.trim(up_to, whole_segments=True)

    async def flush(self, topic: str) -> None:
        """Wait until everything accepted so far is durable; see `Wal.flush`."""
        async with self.topic(topic) as wal:
            await wal.flush()

    async def start_offset(self, topic: str) -> int:
        """The first offset that still exists."""
        async with self.topic(topic) as wal:
            return wal.start_offset

    async def current_offset(self, topic: str) -> int:
        """The offset that the next message will get."""
        async with self.topic(topic) as wal:
            return wal.next_offset

    # ---- moving, deleting

    async def seal(self, topic: str) -> int:
        """Give a topic away, to be opened elsewhere; returns its end offset, where that goes on.

        Accepts nothing more, uploads everything, says so in the catalog, and closes the topic,
        whoever still uses it here: readers that wait get LogClosedError. A topic that was sealed
        here already gives the same answer. Needs an object store (ValueError).

        Cancellation: nothing more is accepted, and a second call goes on; so does `take_over`.
        """
        name = topic_name(topic)
        if self._door.store is None:
            raise ValueError("seal() needs an object store: open_storage(..., store=...)")
        while True:
            away = self._door.away.get(name)
            end = None if away is None else away.sealed_end
            if away is not None and end is not None and not await self._door.is_back(name, away):
                return end
            try:
                return await self._seal(name)
            except LogClosedError:
                if self._door.away.get(name) is away:
                    raise
                # Another call sealed it meanwhile: its answer is ours.

    async def _seal(self, name: str) -> int:
        async with Use(self._topics, name) as wal:
            end = await wal.seal()
            cloud = wal.statistics().cloud
            assert cloud is not None
            self._door.away[name] = Away(cloud.epoch, end)
        await self._topics.close(name)
        return end

    async def take_over(self, topic: str) -> None:
        """Open a topic here whoever has it: also if it was given away, is broken, or half sealed.

        Closes it first if it is open. Another owner is fenced: what it acknowledged and did not
        upload is not part of the log any more.
        """
        name = topic_name(topic)
        await self._topics.close(name)
        away = self._door.away.pop(name, None)
        try:
            held = await self._topics.pin(name)
        except BaseException:
            if away is not None:
                self._door.away.setdefault(name, away)
            raise
        self._topics.unpin(held)

    async def delete(self, topic: str, *, for_good: bool = False) -> bool:
        """Delete a topic: its local log, its objects, its catalog's entries. True if there was one.

        Its offsets are not given again: used once more, it is empty, and begins where it ended. For
        that a directory with a few small files stays.

        Args:
            for_good: leave no directory either, also of a topic that was deleted before. Only for
                a name that is never used again: its offsets would begin at 0 once more. (With an
                object store the catalog keeps their end: it has to, to fence other owners.)

        Raises:
            trio.BusyResourceError: it is in use here; nothing was done.
            LogLockedError: another process has the directory open; nothing was done.
            StoreUnavailableError, AccessDeniedError: a second call does what is left.
            OSError: the same; or, `for_good`, the directory has files that are not the log's
                (ENOTEMPTY), and nothing was done.

        Cancellation: as StoreUnavailableError.
        """
        name = topic_name(topic)
        place = await self._topics.close_idle(name)
        try:
            config = self._door.config_of(name)
            catalog = self._door.catalog_of(name)
            cloud = (self._door.store, catalog) if self._door.store and catalog else None
            done = await delete_topic(self._disk, config, cloud, for_good=for_good)
            self._door.away.pop(name, None)
        finally:
            self._topics.release(place)
        return done

    # ---- what retention keeps

    def retain_from(self, floor_of: Callable[[str], int | None] | None) -> None:
        """Keep what the program still needs: retention frees nothing from ``floor_of(topic)`` on.

        It binds ``retain_bytes`` and ``retain_age`` of every topic, from the first look that
        opening one takes, in the directory and in the object store. It does not bind what a program
        asks for (`ack_checkpoint`, `Wal.trim`, `delete`), nor which records of the store are kept
        in the directory too. Whole segments go, so some records below a floor stay with it.

        Args:
            floor_of: gets the name, ``/namespace/topic``, and returns an offset, or None: of this
                topic everything may go. Asked each time that retention looks, every few seconds
                for each open topic, in the engine's thread: it is quick, and never waits. If it
                raises, nothing of the topic goes, and the log says so. None ends it.

        Raises:
            RuntimeError: somebody has called it before: two could not both be asked.
        """
        if floor_of is not None and not callable(floor_of):
            raise TypeError(f"floor_of={floor_of!r} must be a function of a topic's name")
        if floor_of is not None and self._door.floor_of is not None:
            raise RuntimeError("retain_from() was called before: end that with retain_from(None)")
        self._door.floor_of = floor_of

    # ---- listing

    async def list_topics(self) -> list[str]:
        """The names of all topics, sorted: of the directory, and of the store or catalog.

        With manifests in the object store each topic costs about three requests; in a metadata
        store, all topics' entries are read.
        """
        config = self._config
        found = await self._disk.run(local_topics, self._disk, config.dir, config.wal.file_name)
        if self._door.store is None:
            return sorted(found)
        if self._door.catalogs is not None:
            there = await topics_in_metadata(self._door.catalogs, config.metadata_root)
        else:
            there = await topics_in_store(self._door.store, self._door.manifests_of)
        found.update(there)
        return sorted(name for name in found if there.get(name, True))

    # ---- counting

    def statistics(self) -> StorageStatistics:
        """Everything that can be counted, now. Of one topic: `topic_statistics`."""
        return self._topics.statistics(len(self._door.away))

    def open_topics(self) -> list[str]:
        """The names of the topics that are open now, those first that were opened first."""
        return self._topics.open_names()

    def topic_statistics(self, topic: str) -> WalStatistics | None:
        """Of a topic that is open now; None if it is not, and it is not opened for that."""
        wal = self._topics.open_log(topic_name(topic))
        return wal.statistics() if wal is not None else None


class Use(AbstractAsyncContextManager[Wal]):
    """The block in which a topic stays open."""

    def __init__(self, topics: TopicHosts, name: str) -> None:
        self._topics = topics
        self._name = name
        self._held: list[Topic] = []

    @enable_ki_protection
    async def __aenter__(self) -> Wal:
        held = self._topics.pin_now(self._name)
        if held is None:
            held = await self._topics.pin(self._name)
        else:
            try:
                await checkpoint()
            except BaseException:
                self._topics.unpin(held)
                raise
        self._held.append(held)
        return held.log

    @enable_ki_protection
    async def __aexit__(self, *_: object) -> None:
        self.leave()

    def leave(self) -> None:
        """Leave the block, in this step."""
        self._topics.unpin(self._held.pop())
