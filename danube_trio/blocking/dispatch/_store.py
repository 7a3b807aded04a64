"""A topic's messages without async."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any, cast

from danube_trio._core.stats import ReaderStatistics
from danube_trio._doors.surface import method_arguments_of
from danube_trio._engine.log.encode import as_it_is_now, listed
from danube_trio.blocking._read import Reader
from danube_trio.blocking._thread import ThreadDoor
from danube_trio.blocking._words import makes, waits
from danube_trio.dispatch import _store as _engine
from danube_trio.dispatch._log import Message
from danube_trio.message import StreamMessage


class TopicReader(Reader[StreamMessage]):
    """A plain iterator over a topic's messages; see `danube_trio.dispatch.TopicReader`.

    As long as it is neither closed nor forgotten, retention leaves alone what it has not read.
    """

    def __init__(self, inner: _engine.TopicReader, door: ThreadDoor) -> None:
        super().__init__(cast("Any", inner), door)

    def __repr__(self) -> str:
        return f"<TopicReader at {self.cursor}>"

    def statistics(self) -> ReaderStatistics:
        """Not of a topic's reader."""
        raise NotImplementedError("a topic's reader has no statistics: see the topic's log")

    def close(self) -> None:
        """Close it; idempotent."""
        self._close()
        inner: Any = self._inner
        self._door.call(inner.aclose)


class TopicStore:
    """The messages of one topic; see `danube_trio.dispatch.TopicStore`."""

    def __init__(self, inner: _engine.TopicStore, door: ThreadDoor, keep: object) -> None:
        self.topic: str = inner.topic
        self.inner: _engine.TopicStore = inner
        self.door: ThreadDoor = door
        self._keep = keep

    def __repr__(self) -> str:
        return f"<TopicStore of {self.topic}>"

    @method_arguments_of(_engine.TopicStore.store_message)
    def store_message(self, message: Message, **more: Any) -> int:
        """Store one message and return its offset; see `danube_trio.Wal.append`."""
        return self.door.call(partial(self.inner.store_message, as_it_is_now(message), **more))

    @method_arguments_of(_engine.TopicStore.store_batch)
    def store_batch(self, messages: Iterable[Message], **more: Any) -> range:
        """Store messages as one atomic batch; see `danube_trio.Wal.append_batch`."""
        now = [as_it_is_now(message) for message in listed(messages)]
        return self.door.call(partial(self.inner.store_batch, now, **more))

    create_reader = makes(
        _engine.TopicStore.create_reader, lambda self, made: TopicReader(made, self.door)
    )
    start_offset = waits(_engine.TopicStore.start_offset)
    current_offset = waits(_engine.TopicStore.current_offset)
