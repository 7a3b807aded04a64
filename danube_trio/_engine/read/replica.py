"""A replica: a log read straight from its object store, without its directory or its writer.

It shows what the newest catalog state names, which is every record that was ever acknowledged as
uploaded, and never goes back. Nobody announces news here, so whoever waits for records has it look
again every `poll_seconds`; each look is one or two listings.

Retention of the log's owner may remove an object between a look and the fetch from it. The fetch
fails, the replica looks again before the reader hears of it, and the reader finds its cursor below
the start.
"""

from __future__ import annotations

import logging
import time
import weakref
from contextlib import AbstractAsyncContextManager
from typing import Any

import attrs
import trio

from danube_trio._core.catalog import CatalogState
from danube_trio._core.codec import CODECS
from danube_trio._core.log import Marks
from danube_trio._core.stats import ReaderStatistics
from danube_trio._disk.threads import Threads
from danube_trio._engine.read.objects import CloudTier
from danube_trio._engine.read.poller import Poller
from danube_trio._engine.read.readable import Observed
from danube_trio._engine.read.reader import Reader
from danube_trio._engine.wait.pins import Pins
from danube_trio._engine.wait.running import require_trio
from danube_trio.catalog import Backoff, Catalog, Outage
from danube_trio.catalog._default import default_catalog, readable_state
from danube_trio.cloud import CloudStore
from danube_trio.config import CloudConfig, WalConfig

log = logging.getLogger("danube_trio.replica")

# Verifying what was fetched takes the processor, not a device: a few are enough. A guess.
_threads = Threads(4, "danube_replica")


@attrs.frozen
class ReplicaStatistics:
    """A replica at one moment. Offsets are exclusive ends; sizes in bytes.

    Attributes:
        start_offset, durable_end: what the newest state seen names.
        epoch: of the log's writer then.
        objects, object_bytes: in it.
        looks: how often the catalog was looked at.
        fetches, fetched_bytes, cached_bytes: reading from the store.
        readers: the open readers.
    """

    start_offset: int
    durable_end: int
    epoch: int
    objects: int
    object_bytes: int
    looks: int
    fetches: int
    fetched_bytes: int
    cached_bytes: int
    readers: tuple[ReaderStatistics, ...]


class _ReplicaSource:
    """The `ReaderSource` of a replica: it has the shelf of objects only."""

    memory = files = None

    def __init__(
        self,
        store: CloudStore,
        catalog: Catalog,
        config: WalConfig,
        state: CatalogState,
        poll_seconds: float,
    ) -> None:
        self.config = config
        self.clock = time.time
        self.codec = CODECS[state.codec]
        self.pins = Pins()
        self.readers: weakref.WeakSet[Reader[Any]] = weakref.WeakSet()
        self.looks = 0
        self._catalog = catalog
        outage = Outage(log, f"reading {catalog.url}", Backoff(limit_seconds=poll_seconds))
        self.tier = CloudTier.of(store, catalog, state, config.cloud, _threads.run, outage)
        self.poller = Poller(self._look, poll_seconds, "replica")
        self._apply(state)

    @property
    def visible_end(self) -> int:
        return self.tier.end

    async def _look(self) -> bool:
        state = await self._catalog.latest()
        if state is None or state.sequence <= self.tier.objects.state.sequence:
            return False
        self._apply(state)
        return True

    def _apply(self, state: CatalogState) -> None:
        """Record what was seen, in one step."""
        self.looks += 1
        self.tier.objects.state = state
        self.marks = Marks(state.start_offset, state.end, state.end, uploaded_end=state.end)

    async def wait_visible(self, end: int) -> None:
        """Wait until the record before `end` may be seen; raises LogClosedError on leaving."""
        await self.poller.wait(lambda: self.visible_end >= end)

    async def look_again(self) -> None:
        """See what the owner did."""
        await self.poller.look()

    def close(self) -> None:
        """Wake everybody who waits; they are told."""
        self.poller.close()
        self.tier.close()


class Replica(Observed):
    """A log seen through its object store, read-only. Made by `open_replica`."""

    def __init__(self, source: _ReplicaSource, url: str) -> None:
        super().__init__(source, source.poller, source.readers)
        self._source = source
        self._url = url

    def __repr__(self) -> str:
        state = "closed" if self._source.poller.closed else "open"
        return f"<Replica of {self._url} {state}, {self.start_offset} to {self.durable_end}>"

    def statistics(self) -> ReplicaStatistics:
        """Everything that can be counted, at this moment."""
        source, state = self._source, self._source.tier.objects.state
        reading = source.tier.statistics()
        return ReplicaStatistics(
            start_offset=self.start_offset,
            durable_end=self.durable_end,
            epoch=state.epoch,
            objects=len(state.segments),
            object_bytes=sum(d.size_bytes for d in state.segments),
            looks=source.looks,
            fetches=reading.fetches,
            fetched_bytes=reading.fetched_bytes,
            cached_bytes=reading.cached_bytes,
            readers=tuple(r.statistics() for r in source.readers if not r.closed),
        )


def open_replica(
    store: CloudStore,
    *,
    topic: str = "",
    prefix: str = "",
    catalog: Catalog | None = None,
    poll_seconds: float = 5.0,
    settings: CloudConfig | None = None,
) -> AbstractAsyncContextManager[Replica]:
    """Read a log from its object store: ``async with open_replica(store, topic=...) as replica:``.

    Changes nothing, and disturbs nobody. What the writer has not uploaded yet is not there; see
    ``CloudConfig.upload_interval``.

    Args:
        store: the log's object store; it stays the caller's.
        topic, prefix: where the log is in it, as in its `WalConfig`; or `catalog`, as for
            `open_wal`.
        poll_seconds: how often to look for new objects while somebody waits for them.
        settings: for reading: `block_bytes`, `cache_bytes`, `readahead`.

    Raises, on entering:
        FileNotFoundError: there is no log, or not yet, or it was deleted.
        StoreUnavailableError, AccessDeniedError: from the store.
        CorruptDataError, UnsupportedFormatError: the catalog is damaged, or of a later version.
    """
    if isinstance(poll_seconds, bool) or not 0 < poll_seconds <= 86_400:
        raise ValueError(f"poll_seconds={poll_seconds!r} must be above 0 and at most a day")
    if not hasattr(store, "list_objects"):
        raise TypeError(f"store={store!r} must be an object store, such as open_store(url) gives")
    settings = settings if settings is not None else CloudConfig()
    if prefix:
        settings = attrs.evolve(settings, prefix=prefix)
    config = WalConfig(topic_name=topic, cloud=settings)
    if catalog is None:
        catalog = default_catalog(config, store)
    return _OpenReplica(store, catalog, config, poll_seconds)


class _OpenReplica(AbstractAsyncContextManager[Replica]):
    """The block. Its only task fetches ahead for readers."""

    def __init__(
        self, store: CloudStore, catalog: Catalog, config: WalConfig, poll_seconds: float
    ) -> None:
        self._store = store
        self._catalog = catalog
        self._config = config
        self._poll_seconds = poll_seconds
        self._source: _ReplicaSource | None = None
        self._nursery: AbstractAsyncContextManager[trio.Nursery] | None = None

    async def __aenter__(self) -> Replica:
        if self._source is not None:
            raise RuntimeError("open_replica(...) can be entered once: call it again")
        require_trio("open_replica", "danube_trio.anyio")
        state = await readable_state(self._catalog)
        self._source = source = _ReplicaSource(
            self._store, self._catalog, self._config, state, self._poll_seconds
        )
        self._nursery = trio.open_nursery()
        nursery = await self._nursery.__aenter__()
        nursery.start_soon(source.tier.serve, name=f"danube_trio readahead {self._catalog.url}")
        return Replica(source, self._catalog.url)

    async def __aexit__(self, *_: object) -> None:
        assert self._source is not None
        assert self._nursery is not None
        self._source.close()
        # The task is done at once; what the body raised goes out as it is.
        await self._nursery.__aexit__(None, None, None)
