"""Reading from the object store: the CLOUD tier of a log, or of a replica.

The unit of reading is a *stretch*: the bytes between two entries of an object's index, which the
uploader put about `block_bytes` apart and at batch boundaries. So a stretch begins and ends with a
frame, can be fetched without knowing the one before, verified by itself, and shared by all readers
that come by. Verified stretches are kept in a cache with a bound in bytes; a reader that walks on
has the next few fetched ahead, across objects too.

One fetch a stretch is under way at a time: who wants it too waits for that one. If it fails, each
of them tries for itself and gets an error of its own; retrying is up to them. What is fetched ahead
and fails is not missed.

`StoredObjects` says which objects there are; the tier only asks it. A fetch that finds its object
gone leaves it to the caller to look again: by then retention has moved the start of the log, or the
object is really missing.
"""

from __future__ import annotations

import logging
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

import attrs
import trio

from danube_trio._core.catalog import CatalogState, Descriptor
from danube_trio._core.clocks import Run
from danube_trio._core.frame import Block, frame_time, scan
from danube_trio._core.segment import latest_times
from danube_trio._core.stored import StoredObjects
from danube_trio._engine.read.shelf import Piece
from danube_trio.catalog import Catalog, Outage, look_twice
from danube_trio.cloud import CloudStore
from danube_trio.config import CloudConfig
from danube_trio.errors import CorruptDataError, DanubeError, OffsetTrimmedError, StoreError

log = logging.getLogger("danube_trio.tier")

T = TypeVar("T")
# (object id, number of the stretch in it)
_Key = tuple[str, int]
# Where blocking work runs: `Disk.run`.
RunBlocking = Callable[..., Awaitable[Any]]

# Fetches ahead under way for all readers together. A guess: enough to hide the latency of a store
# behind a few readers, and few enough not to fill the threads with what nobody waits for.
MAX_AHEAD = 8
# Verifying so much takes less time than a hop to a thread and back.
INLINE_BYTES = 64 << 10


@attrs.frozen
class TierStatistics:
    """Reading from the object store so far.

    Attributes:
        fetches: ranged reads of stretches.
        fetched_bytes: by them.
        hits: stretches that were in memory already.
        cached_bytes: in memory now.
    """

    fetches: int
    fetched_bytes: int
    hits: int
    cached_bytes: int


class CloudTier:
    """The objects of one log, as its readers see them.

    Attributes:
        objects: which ones there are.
        outage: readers without an end ride one out; None: they are told.
    """

    def __init__(
        self,
        store: CloudStore,
        object_key: Callable[[str], str],
        objects: StoredObjects,
        *,
        run: RunBlocking,
        cache_bytes: int,
        readahead: int,
        outage: Outage | None = None,
    ) -> None:
        self.objects = objects
        self.outage = outage
        self._store = store
        self._object_key = object_key
        self._run = run
        self._limit = cache_bytes
        self._readahead = readahead
        self._cache: OrderedDict[_Key, Block] = OrderedDict()
        self._pending: dict[_Key, trio.Event] = {}
        self._ahead = 0
        self._scope = trio.CancelScope()
        self._nursery: trio.Nursery | None = None
        self._fetches = self._fetched_bytes = self._hits = self._cached_bytes = 0
        # The objects whose times were looked through last, and what was found.
        self._timed: tuple[Descriptor, ...] = ()
        self._latest: list[int] = []
        self._latest_time = 0

    @classmethod
    def of(
        cls,
        store: CloudStore,
        catalog: Catalog,
        state: CatalogState,
        settings: CloudConfig,
        run: RunBlocking,
        outage: Outage | None = None,
    ) -> CloudTier:
        """The tier of one log, with these settings."""
        return cls(
            store,
            catalog.object_key,
            StoredObjects(state),
            run=run,
            cache_bytes=settings.cache_bytes,
            readahead=settings.readahead,
            outage=outage,
        )

    async def serve(self) -> None:
        """Fetch ahead what readers will want, until `close`. A task of whoever owns the tier."""
        with self._scope:
            async with trio.open_nursery() as self._nursery:
                try:
                    await trio.sleep_forever()
                finally:
                    self._nursery = None  # before it closes: nothing can be started there any more

    def close(self) -> None:
        """Fetch nothing ahead any more."""
        self._scope.cancel()

    def statistics(self) -> TierStatistics:
        """Everything that can be counted, now."""
        return TierStatistics(self._fetches, self._fetched_bytes, self._hits, self._cached_bytes)

    def before_time(self, time: int) -> int | None:
        """The newest known offset that all before it is older than `time` (us); None: all is."""
        segments = self.objects.state.segments
        self._look_through_times()
        i = bisect_left(self._latest, time)
        return None if i == len(segments) else self.before_time_in(segments[i], time)

    def before_time_in(self, descriptor: Descriptor, time: int) -> int:
        """The same, in this object: its base, if all in it may be as late."""
        index = descriptor.index
        older = bisect_left(index, time, key=lambda entry: entry[2])
        known = older and index[older - 1][2]  # an index that has no times has zeros
        return index[older - 1][0] if known else descriptor.base

    @property
    def latest_time(self) -> int:
        """The latest time (us) of a record that is known, 0 if there is none."""
        self._look_through_times()
        return self._latest_time

    def _look_through_times(self) -> None:
        segments = self.objects.state.segments
        if self._timed is not segments:
            self._timed, self._latest = segments, latest_times(segments)
            self._latest_time = max((d.last_time for d in segments), default=0)

    @property
    def start(self) -> int:
        """The first offset that the catalog names."""
        return self.objects.state.start_offset

    @property
    def end(self) -> int:
        """Behind the last record that the catalog names."""
        return self.objects.state.end

    def runs(self) -> Iterator[Run]:
        """See `Shelf`."""
        for descriptor in self.objects:
            yield descriptor.base, descriptor.first_time, descriptor.last_time

    async def fetch(self, cursor: int, stop: int, time: int) -> Sequence[Piece]:
        """See `Shelf`, and `block`. All of an object may be seen."""
        return [await self.block(cursor)]

    async def block(self, offset: int) -> Block:
        """The verified stretch that holds `offset`. Always a checkpoint.

        Raises:
            OffsetTrimmedError: it was trimmed, says the catalog.
            LookupError: no object holds it.
            ObjectNotFoundError: the object is gone: look at the newest state.
            CorruptDataError: its bytes are not what was uploaded.
            StoreUnavailableError, AccessDeniedError: from the store.
        """
        descriptor = self.objects.find(offset)
        if descriptor is None:
            # A follower may learn of a trim from the catalog before it does from the directory.
            if offset < self.start:
                raise OffsetTrimmedError(offset, self.start)
            raise LookupError(offset)
        number = _stretch_of(descriptor, offset)
        key = (descriptor.object_id, number)
        block = self._cache.get(key)
        if block is not None:
            await trio.lowlevel.checkpoint()
        elif (under_way := self._pending.get(key)) is not None:
            await under_way.wait()
            block = self._cache.get(key)
        if block is not None:
            self._hits += 1
            if key in self._cache:
                self._cache.move_to_end(key)
        else:
            block = await self._load(descriptor, number)
        self._look_ahead(descriptor, number)
        return block

    def _look_ahead(self, descriptor: Descriptor, number: int) -> None:
        """Have the next stretches fetched that are not here, if there is room for them."""
        if self._nursery is None:
            return
        for following, i in self._following(descriptor, number):
            if self._ahead >= MAX_AHEAD:
                return
            key = (following.object_id, i)
            if key not in self._cache and key not in self._pending:
                self._ahead += 1
                # Listed before the task runs, so that nobody asks for it twice.
                self._pending[key] = trio.Event()
                self._nursery.start_soon(self._load_ahead, following, i)

    def _following(self, descriptor: Descriptor, number: int) -> Iterator[tuple[Descriptor, int]]:
        left, size = self._readahead, 0
        current: Descriptor | None = descriptor
        while current is not None:
            for i in range(number + 1, max(1, len(current.index))):
                begin, end = _range_of(current, i)
                size += end - begin
                # Ahead of what is cached nothing is fetched: it would push out what comes first.
                if not left or size > self._limit // 2:
                    return
                left -= 1
                yield current, i
            current, number = self.objects.find(current.end), -1

    async def _load_ahead(self, descriptor: Descriptor, number: int) -> None:
        try:
            await self._load(descriptor, number)
        except (DanubeError, StoreError) as error:
            log.debug("fetching ahead failed: %s", error)
        finally:
            self._ahead -= 1

    async def _load(self, descriptor: Descriptor, number: int) -> Block:
        key = (descriptor.object_id, number)
        event = self._pending.setdefault(key, trio.Event())
        try:
            block = await look_twice(partial(self._get, descriptor, number))
            self._keep(key, block)
            return block
        finally:
            event.set()
            if self._pending.get(key) is event:
                del self._pending[key]

    async def _get(self, descriptor: Descriptor, number: int) -> Block:
        """A stretch from the store, verified."""
        begin, end = _range_of(descriptor, number)
        path = self._object_key(descriptor.object_id)
        try:
            info, data = await self._store.get(path, begin, end)
        except ValueError as error:  # it does not reach as far as `begin`
            raise self._damage(descriptor, str(error), begin, descriptor.base) from error
        self._fetches += 1
        self._fetched_bytes += len(data)
        if info.size_bytes != descriptor.size_bytes or len(data) != end - begin:
            raise self._damage(
                descriptor,
                f"the object has {info.size_bytes} bytes, not {descriptor.size_bytes}",
                begin,
                descriptor.base,
            )
        if len(data) <= INLINE_BYTES:
            return self._verify(data, descriptor, number)
        block: Block = await self._run(self._verify, data, descriptor, number)
        return block

    def _verify(self, data: bytes, descriptor: Descriptor, number: int) -> Block:
        """All frames of a stretch, or CorruptDataError. Runs off the event loop."""
        first, stop = _offsets_of(descriptor, number)
        begin, _ = _range_of(descriptor, number)
        found = scan(data, 0, first, stop_offset=stop)
        if found.end_offset != stop or found.positions[-1] != len(data):
            reason = found.reason or "frames and index do not agree"
            raise self._damage(descriptor, reason, begin + found.positions[-1], found.end_offset)
        positions = found.positions
        times = frame_time(data, positions[1]), frame_time(data, positions[-1])
        return Block(first, stop, data, positions, *times)

    def _damage(
        self, descriptor: Descriptor, reason: str, position: int, offset: int
    ) -> CorruptDataError:
        return CorruptDataError(
            reason,
            path=f"{self._store.url}/{self._object_key(descriptor.object_id)}",
            position=position,
            offset=offset,
            advice="Restore the object from a copy or an older version of it",
        )

    def _keep(self, key: _Key, block: Block) -> None:
        before = self._cache.pop(key, None)
        if before is not None:
            self._cached_bytes -= len(before.data)
        self._cache[key] = block
        self._cached_bytes += len(block.data)
        while self._cached_bytes > self._limit and len(self._cache) > 1:
            _, gone = self._cache.popitem(last=False)
            self._cached_bytes -= len(gone.data)


def _stretch_of(descriptor: Descriptor, offset: int) -> int:
    return max(0, bisect_right(descriptor.index, offset, key=lambda entry: entry[0]) - 1)


def _range_of(descriptor: Descriptor, number: int) -> tuple[int, int]:
    """Its bytes `[begin, end)`. An object without an index is one stretch."""
    index = descriptor.index
    begin = index[number][1] if index else 0
    return begin, index[number + 1][1] if number + 1 < len(index) else descriptor.size_bytes


def _offsets_of(descriptor: Descriptor, number: int) -> tuple[int, int]:
    """Its records `[first, stop)`."""
    index = descriptor.index
    first = index[number][0] if index else descriptor.base
    return first, index[number + 1][0] if number + 1 < len(index) else descriptor.end
