"""All streams: which path has which, and the steps in which one begins and ends.

The documents are in the metadata store, and all of them in memory; one process has them. Every
change is decided in memory, in one step, then written in one transaction, then answered:

::

    create   trash/<id> put --> first records durable --> streams/<path> put, trash/<id> removed
             (the first two only if it begins with records)
    delete   streams/<path> removed, trash/<id> put --> trash/<id> put again --> the topic deleted
             --> trash/<id> and the note removed
    hide     streams/<path> put again, marked as deleted (forks need its data)
    cascade  with the last fork of a hidden stream goes the stream, in the fork's transaction

A crash between any two steps leaves a topic named in the trash, which the next start removes, or a
stream that is whole. There is no step at which a path has two streams, or data has none and no
entry in the trash.

If the store does not answer, nobody knows what became of a transaction, or what yet will. Then the
path is *in doubt*: whoever uses it next asks the store first. And who deletes a topic puts its name
into the trash once more, with a new revision: a transaction that publishes it expects the old one,
so it can never come true afterwards.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import attrs
import trio

from danube_trio._core.documents import compact
from danube_trio.http._documents import commit, decoded
from danube_trio.http._entries import FORMAT, Entry
from danube_trio.http._names import id_of
from danube_trio.http._request import Refusal
from danube_trio.http._stream import Stream
from danube_trio.metadata import MetadataStore, Revised

# Documents in one transaction: a store takes 128 keys, and a document has some hundred bytes.
TOGETHER = 64


class Registry:
    """The streams of one storage.

    Args:
        metadata: where the documents are.
        root: what their keys begin with.
        max_streams: how many there may be.

    Attributes:
        trash: the topics to be deleted; the keeper empties it.
        thrown: set, and made anew, when something was thrown away.
        made: is told of each stream that is new, from `load` on.
        ended: is told of each stream that cannot be used any more; maybe twice.
    """

    def __init__(self, metadata: MetadataStore, root: str, max_streams: int) -> None:
        self.metadata = metadata
        self._root = f"{root}/http"
        self._max_streams = max_streams
        self._by_path: dict[str, Stream] = {}
        self._by_topic: dict[str, Stream] = {}
        self._making: dict[str, trio.Event] = {}
        self._in_doubt: dict[str, object] = {}
        self.trash: dict[str, None] = {}
        self.thrown = trio.Event()
        self.made: Callable[[Stream], object] = lambda _: None
        self.ended: Callable[[Stream], object] = lambda _: None

    def __len__(self) -> int:
        return len(self._by_path)

    # ---- keys

    def stream_key(self, path: str) -> str:
        """Of a stream's document."""
        return f"{self._root}/streams/{path}"

    def trash_key(self, topic: str) -> str:
        """Of a topic that is to be deleted."""
        return f"{self._root}/trash/{id_of(topic)}"

    def note_key(self, topic: str) -> str:
        """Of the note of a topic's writers."""
        return f"{self._root}/writers/{id_of(topic)}"

    # ---- opening

    async def load(self) -> None:
        """Read all documents. ValueError for one that cannot be read."""
        found = await self.metadata.list_entries(f"{self._root}/streams/")
        for revised in found:
            self._install(self._decoded(revised), revised.revision)
        for stream in self._by_topic.values():
            self._link(stream)
        for revised in await self.metadata.list_entries(f"{self._root}/trash/"):
            self.trash[decoded(self.metadata, revised, Trash, FORMAT).topic] = None

    def _decoded(self, revised: Revised) -> Entry:
        return decoded(self.metadata, revised, Entry, FORMAT)

    def _install(self, entry: Entry, revision: int) -> Stream:
        stream = Stream(entry, revision)
        self._by_path[entry.path] = stream
        self._by_topic[entry.topic] = stream
        self.made(stream)
        return stream

    def _link(self, stream: Stream) -> None:
        """Let a fork know what it was forked from."""
        if stream.entry.origin is not None:
            stream.source = self._by_topic[stream.entry.origin.topic]
            stream.source.forks += 1

    # ---- asking

    def all(self) -> list[Stream]:
        """Every stream, hidden ones too."""
        return [*self._by_path.values()]

    def at(self, path: str) -> Stream | None:
        """The stream that has this path, hidden or not."""
        return self._by_path.get(path)

    def of_topic(self, topic: str) -> Stream | None:
        """The stream whose own records are in this topic."""
        return self._by_topic.get(topic)

    def floor_of(self, topic: str) -> int | None:
        """From which offset on retention leaves a topic alone; None: it does not."""
        stream = self._by_topic.get(topic)
        if stream is None:
            return None
        return 0 if stream.forks else stream.noted

    async def settle(self, path: str) -> None:
        """If the path is in doubt, ask the store. Raises StoreUnavailableError."""
        doubt = self._in_doubt.get(path)
        if doubt is None:
            return
        revised = await self.metadata.get(self.stream_key(path))
        if self._in_doubt.get(path) is not doubt:
            return  # somebody else asked, and it has gone on since
        entry = self._decoded(revised) if revised is not None else None
        known = self._by_path.get(path)
        if known is not None and (entry is None or entry.topic != known.topic):
            self._forget(known)
            self.throw(known.topic)
            known = None
        if entry is not None and revised is not None:
            if known is None:
                self._link(self._install(entry, revised.revision))
            else:
                known.entry, known.revision = entry, revised.revision
                if not known.live:
                    self.ended(known)
        del self._in_doubt[path]

    # ---- changing

    @asynccontextmanager
    async def making(self, path: str) -> AsyncGenerator[None]:
        """The block in which a stream is made: nobody else makes one of this path.

        Raises:
            Refusal: 429 if there are too many streams.
        """
        while (other := self._making.get(path)) is not None:
            await other.wait()
        mine = self._making[path] = trio.Event()
        try:
            if path not in self._by_path and len(self._by_path) >= self._max_streams:
                raise Refusal(429, f"there are {self._max_streams} streams, and no more may be")
            yield
        finally:
            del self._making[path]
            mine.set()

    async def intend(self, topic: str) -> int:
        """Before a topic's first record: its name is in the trash until the stream is published.

        Returns the revision of that. Whoever does not publish it calls `throw`.
        """
        return await self.metadata.put(self.trash_key(topic), compact(Trash(topic)))

    async def publish(self, entry: Entry, source: Stream | None, intent: int) -> Stream:
        """The stream is there from here on. Its topic has its first records, and they are durable.

        Args:
            source: that it is a fork of; it is held by one more fork from the call on.
            intent: the revision of its topic's name in the trash; 0 if it is not there.
        """
        key, trash = self.stream_key(entry.path), self.trash_key(entry.topic)
        if source is not None:
            source.forks += 1
        try:
            revision = await self._write(
                {entry.path},
                {key: 0, trash: intent},
                put={key: compact(entry)},
                delete=[trash] if intent else [],
            )
        except BaseException:
            if source is not None:
                source.forks -= 1
            raise
        stream = self._install(entry, revision)
        stream.source = source
        return stream

    async def end(self, stream: Stream) -> None:
        """Delete a stream: it goes, or is hidden while there are forks. The records go later."""
        async with stream.lock:
            if not stream.live:
                return
            if stream.forks:
                await self._store({stream: attrs.evolve(stream.entry, deleted=True)})
                self.ended(stream)
            else:
                await self._remove(stream)
        stream.wake()

    async def renew(self, moments: Mapping[Stream, float]) -> None:
        """Write down when streams were used last (seconds since 1970), many in a transaction."""
        waiting = list(moments.items())
        for at in range(0, len(waiting), TOGETHER):
            group = waiting[at : at + TOGETHER]
            async with AsyncExitStack() as locks:
                for stream, _ in group:  # whoever else holds one of them waits for none
                    await locks.enter_async_context(stream.lock)
                entries = {
                    stream: attrs.evolve(stream.entry, renewed_at=moment)
                    for stream, moment in group
                    if stream.live
                }
                await self._store(entries)

    async def _store(self, entries: Mapping[Stream, Entry]) -> None:
        """New documents of streams whose locks are held."""
        if not entries:
            return
        keys = {stream: self.stream_key(stream.path) for stream in entries}
        revision = await self._write(
            {stream.path for stream in entries},
            {key: stream.revision for stream, key in keys.items()},
            put={keys[stream]: compact(entry) for stream, entry in entries.items()},
        )
        for stream, entry in entries.items():
            stream.entry, stream.revision = entry, revision

    async def _remove(self, stream: Stream) -> None:
        """With it go the hidden ones that it alone held."""
        going = [stream]
        while (source := going[-1].source) is not None and source.entry.deleted:
            if source.forks > 1:
                break
            going.append(source)
        for each in going:
            each.gone = True
        keys = {self.stream_key(each.path): each.revision for each in going}
        trash = {self.trash_key(each.topic): compact(Trash(each.topic)) for each in going}
        try:
            await self._write({each.path for each in going}, keys, put=trash, delete=list(keys))
        except BaseException:
            for each in going:
                each.gone = False
            raise
        for each in going:
            self._forget(each)
            self.throw(each.topic)
        last = going[-1].source
        if last is not None:
            await self.end_unheld(last)  # if its last forks went at the same time

    async def end_unheld(self, stream: Stream) -> None:
        """End a stream that is hidden, if no fork holds it any more."""
        if stream.entry.deleted and not (stream.forks or stream.gone):
            await self._remove(stream)

    async def empty(self, topic: str, delete: Callable[[str], Awaitable[object]]) -> None:
        """Delete a topic of the trash, unless it was published. Raises what deleting it raises."""
        key = self.trash_key(topic)
        found = await self.metadata.get(key)
        if found is not None and self.of_topic(topic) is None:
            revision = await self.metadata.transact({key: found.revision}, put={key: found.value})
            if revision is None:
                return  # it was published just now
            await delete(topic)
            await self.metadata.transact({}, delete=[key, self.note_key(topic)])
        self.trash.pop(topic, None)

    def _forget(self, stream: Stream) -> None:
        stream.gone = True
        if self._by_path.get(stream.path) is stream:
            del self._by_path[stream.path]
        self._by_topic.pop(stream.topic, None)
        if stream.source is not None:
            stream.source.forks -= 1
        self.ended(stream)
        stream.wake()

    def throw(self, topic: str) -> None:
        """Have a topic deleted that no stream needs."""
        self.trash[topic] = None
        thrown, self.thrown = self.thrown, trio.Event()
        thrown.set()

    async def _write(
        self,
        paths: set[str],
        expect: dict[str, int],
        *,
        put: dict[str, bytes],
        delete: Iterable[str] = (),
    ) -> int:
        """One transaction, whatever becomes of the caller. Returns its revision."""
        doubt = partial(self._doubt, paths)
        revision = await commit(self.metadata, expect, put=put, delete=delete, doubt=doubt)
        if revision is None:
            raise Refusal(503, "another process changed this stream", {"retry-after": "1"})
        return revision

    def _doubt(self, paths: set[str]) -> None:
        for path in paths:
            self._in_doubt[path] = object()


@attrs.frozen
class Trash:
    """The document of a topic that is to be deleted."""

    topic: str
    format: int = FORMAT
