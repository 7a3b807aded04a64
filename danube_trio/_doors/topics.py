"""Many topics in hands outside of the engine's thread: what is the same for all doors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from danube_trio._doors.afar import FarDoor
from danube_trio._doors.borrow import FarBorrower
from danube_trio._doors.surface import at_once
from danube_trio._engine.thread.append_job import Appender
from danube_trio._engine.thread.loan import Loan
from danube_trio._engine.topics.storage import Storage, Use
from danube_trio.config import StorageConfig
from danube_trio.metadata import MetadataStore

Door = TypeVar("Door", bound=FarDoor)


class FarStorage(Generic[Door]):
    """A storage."""

    def __init__(self, inner: Storage, door: Door, keep: object) -> None:
        self.inner: Storage = inner
        self.door: Door = door
        self._keep: Any = keep

    def __repr__(self) -> str:
        return f"<Storage {self.config.dir}>"

    @property
    def config(self) -> StorageConfig:
        """The settings."""
        return self.inner.config

    @property
    def metadata(self) -> MetadataStore:
        """Where cursors of subscriptions are kept; for the engine only."""
        return self.inner.metadata

    retain_from = at_once(Storage.retain_from)
    statistics = at_once(Storage.statistics, late=True)
    open_topics = at_once(Storage.open_topics, late=True)
    topic_statistics = at_once(Storage.topic_statistics, late=True)


class FarTopic(FarBorrower[Door]):
    """The block in which a topic stays open. It borrows an appender to its log."""

    _what = "topic()"

    def __init__(self, use: Use, door: Door, keep: object) -> None:
        self._use = use
        self.door = door
        self._keep = keep

    def _loan(self) -> Loan[Appender]:
        use = self._use

        async def take() -> Appender:
            return Appender(await use.__aenter__())

        return Loan(take, lambda _: use.leave())

    def _answer(self, exc: BaseException | None) -> Callable[[], object]:
        return self._use.leave
