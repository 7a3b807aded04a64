"""What every request uses: the storage, the streams, and what was written to the open ones."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from weakref import WeakKeyDictionary

import trio

from danube_trio import Storage, Wal
from danube_trio._core.clocks import SteadyClock
from danube_trio.errors import StoreUnavailableError
from danube_trio.http._config import HttpConfig
from danube_trio.http._registry import Registry
from danube_trio.http._request import Refusal, Request, Response
from danube_trio.http._stream import Stream, renewal_step
from danube_trio.http._writers import Note, Writers, read_writers

# Whose clock is doubted while it should be believed again. A guess.
AGAIN_SECONDS = "3"
# How long an append may take that is under way at the end. A sync takes a few milliseconds.
END_SECONDS = 5.0


async def nothing_here(_: Request) -> Response:
    """What the protocol's own paths answer as long as nobody has them."""
    raise Refusal(404, "there is no such thing")


async def nobody_cares(_: Stream, __: int) -> None:
    """What is done with the end of a log that was opened, as long as nobody wants to know it."""


class Service:
    """Of one storage. Everything here belongs to the trio run that the storage is in.

    Args:
        storage: that holds the streams.
        config: the settings.
        clock: seconds since 1970.

    Attributes:
        waiting: how many long-polls and SSE readers there are.
        stopping: nobody waits any more.
        renewed: the streams that were used, and whose documents do not say it yet, with the time.
        unnoted: the streams whose notes are old.
        appended: is told of each stream of which more is durable, or that was looked at first.
        looked: is told of each stream whose log was opened, and where it ends; nothing is written
            to it before that has returned.
        control: answers requests for the protocol's own paths.
    """

    def __init__(self, storage: Storage, config: HttpConfig, clock: Callable[[], float]) -> None:
        self.storage = storage
        self.config = config
        self.clock = clock
        root = storage.config.metadata_root
        self.registry = Registry(storage.metadata, root, config.max_streams)
        self.waiting = 0
        self.stopping = False
        self.renewed: dict[Stream, float] = {}
        self.unnoted: dict[Stream, None] = {}
        self.appended: Callable[[Stream], object] = lambda _: None
        self.looked: Callable[[Stream, int], Awaitable[object]] = nobody_cares
        self.control: Callable[[Request], Awaitable[Response]] = nothing_here
        self._closed = False
        self._in_use = 0
        self._unused = trio.Event()
        self._writers: WeakKeyDictionary[Wal, Writers] = WeakKeyDictionary()
        self._reading: WeakKeyDictionary[Wal, trio.Lock] = WeakKeyDictionary()
        self._steady: SteadyClock | None = None

    async def load(self) -> None:
        """Before anything else."""
        await self.registry.load()
        newest = max((s.entry.renewed_at for s in self.registry.all()), default=0.0)
        ahead = self.storage.config.wal.max_clock_ahead
        self._steady = SteadyClock(self.clock, trio.current_time, ahead, newest)

    def stop(self) -> None:
        """Nobody waits any more."""
        self.stopping = True
        for stream in self.registry.all():
            stream.wake()

    async def close(self) -> bool:
        """Nothing is written any more. Returns whether nothing is under way either."""
        self._closed = True
        if self._in_use:
            with trio.move_on_after(END_SECONDS):
                await self._unused.wait()
        return not self._in_use

    # ---- streams

    async def stream(self, path: str) -> Stream:
        """The stream of this path, to be used.

        Raises:
            Refusal: 404 if there is none, 410 if it is hidden.
        """
        found = await self.find(path)
        if found is None:
            raise Refusal(404, "there is no such stream")
        if not found.live:
            raise Refusal(410, "this stream was deleted")
        return found

    async def find(self, path: str) -> Stream | None:
        """The stream of this path, hidden or not. One whose time is over is ended by this."""
        await self.registry.settle(path)
        stream = self.registry.at(path)
        if stream is None or not self.over(stream):
            return stream
        if self.believed() is not None:
            await self.registry.end(stream)
            return self.registry.at(path)
        raise Refusal(404, "this stream has expired", {"retry-after": AGAIN_SECONDS})

    def over(self, stream: Stream) -> bool:
        """Whether its time is over, by a clock that may lie."""
        return stream.live and stream.over(trio.current_time(), self.clock())

    def believed(self) -> float | None:
        """Seconds since 1970, for what cannot be undone; None while the clock is in doubt."""
        assert self._steady is not None
        return self._steady.now()

    def use(self, stream: Stream) -> None:
        """It is read or written: its time to live begins anew."""
        if stream.entry.ttl is None:
            return
        stream.used(trio.current_time())
        now = self.clock()
        if abs(now - stream.entry.renewed_at) >= renewal_step(stream.entry.ttl):
            self.renewed[stream] = now

    # ---- logs

    @asynccontextmanager
    async def writing(self, stream: Stream) -> AsyncGenerator[tuple[Wal, Writers]]:
        """A stream's open log, and what was written to it."""
        if self._closed:
            raise Refusal(503, "the server has stopped", {"retry-after": "1"})
        self._in_use += 1
        try:
            async with self.storage.topic(stream.topic) as wal:
                writers = self._writers.get(wal)
                if writers is None:
                    writers = await self._read(stream, wal)
                yield wal, writers
        finally:
            self._in_use -= 1
            if self._closed and not self._in_use:
                self._unused.set()

    async def _read(self, stream: Stream, wal: Wal) -> Writers:
        async with self._reading.setdefault(wal, trio.Lock()):
            writers = self._writers.get(wal)
            if writers is not None:
                return writers
            key = self.registry.note_key(stream.topic)
            revised = await self.storage.metadata.get(key)
            note = Note.decode(revised.value) if revised is not None else None
            writers = await read_writers(wal, note)
            await self.looked(stream, self._end(stream, wal, writers))
            self._writers[wal] = writers
            stream.noted = writers.noted
            if writers.worth_a_note:
                self.unnoted[stream] = None
            return writers

    async def durable(self, stream: Stream, wal: Wal, writers: Writers, end: int) -> None:
        """Wait until everything below offset `end` is durable, as the storage's settings say it.

        Cancellation: not before it is durable here, and told to everybody who waits for it: records
        that were accepted are there, whether their writer still is or not.

        Raises what `Wal.append` raises.
        """
        with trio.CancelScope(shield=True):
            await wal.wait_durable(end)
            self.tell(stream, wal, writers)
        config = self.storage.config.wal
        if config.durability == "uploaded":
            with trio.move_on_after(config.cloud.upload_timeout) as scope:
                await wal.wait_uploaded(end)
            if scope.cancelled_caught:
                raise StoreUnavailableError(
                    f"records up to {end} are durable here, and not in the store after "
                    f"{config.cloud.upload_timeout} s"
                )

    def tell(self, stream: Stream, wal: Wal, writers: Writers) -> None:
        """Everybody who waits may have what is durable now."""
        closed = writers.closed and wal.durable_end >= writers.end
        if stream.moved(self._end(stream, wal, writers), closed):
            self.appended(stream)

    def _end(self, stream: Stream, wal: Wal, writers: Writers) -> int:
        """Where a stream's durable data ends."""
        return stream.entry.base + min(wal.durable_end, writers.data_end)

    async def seen(self, stream: Stream) -> tuple[int, bool]:
        """Where the durable data ends, and whether it is closed there."""
        if stream.seen is None:
            async with self.writing(stream) as (wal, writers):
                self.tell(stream, wal, writers)
        assert stream.seen is not None
        return stream.seen
